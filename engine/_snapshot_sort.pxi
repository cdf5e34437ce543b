# What a snapshot tells, in its order: by partition, shop, kind and id; and the places that objects have in lists.

cdef enum:
    SORT_AHEAD = 16                            # objects that are asked for before their ids are read
    CACHE_LINE_BYTES = 64

cdef struct Sorted:
    KeyedList items                            # key: shop and kind, see item_of; number: the partition
    KeyedList held, purchased, remembered, to_match, queued    # key: handle; number: the place in its list, from 1
    KeyedList shops                            # key: handle; number: the place among all shops
    uint32_t shop, shop_number, partition      # of the item that was listed last


cdef inline int item_of(const Keyed* listed) noexcept nogil:
    return <int>(listed.key & 255)


cdef uint32_t partition_number(Span shop) noexcept nogil:
    return crc32c_of(shop.data, shop.size, 0) % <uint32_t>PARTITIONS


cdef Span id_of_item(State* s, int item, uint32_t handle) noexcept nogil:
    if item == ITEM_SHOP:
        return id_of_shop(shop_at(s, handle))
    if item == ITEM_LOCATION:
        return id_of_location(location_at(s, handle))
    if item == ITEM_SKU:
        return id_of_sku(sku_at(s, handle))
    if item == ITEM_ORDER:
        return id_of_order(order_at(s, handle))
    return remembered_id(<Remembered*>arena_at(&s.arena, handle))


# Up to 8 bytes of an id from `at` on, as a number that sorts as they do: no id has a byte 0.
cdef inline uint64_t key_of_id(Span id, size_t at) noexcept nogil:
    cdef uint64_t key = 0
    cdef size_t i
    for i in range(min(id.size - at, <size_t>8) if id.size > at else 0):
        key |= <uint64_t>id.data[at + i] << (56 - 8 * i)
    return key


# Those of one kind, by their ids from byte `at` on; before it they agree.
cdef void sort_by_id(State* s, int item, Keyed* items, Keyed* spare, size_t count, size_t at) noexcept nogil:
    cdef size_t i, begin = 0
    if count < 2 or at >= ID_BYTES_MAX:
        return
    for i in range(count):
        if i + SORT_AHEAD < count:
            PREFETCH(arena_at(&s.arena, items[i + SORT_AHEAD].handle))
            PREFETCH(<uint8_t*>arena_at(&s.arena, items[i + SORT_AHEAD].handle) + CACHE_LINE_BYTES)
        items[i].key = key_of_id(id_of_item(s, item, items[i].handle), at)
        give_way_after(i, PIECE_IN_MEMORY)
    keyed_sort(items, spare, count)
    for i in range(1, count + 1):
        if i == count or items[i].key != items[begin].key:
            sort_by_id(s, item, items + begin, spare, i - begin, at + 8)
            begin = i


# By their keys, and where these agree by their ids; the keys are as before. `item`: their kind, 0: as the key says.
cdef void sort_items(State* s, KeyedList* list, Keyed* spare, int item) noexcept nogil:
    cdef size_t i, begin = 0
    cdef uint64_t key
    keyed_sort(list.items, spare, list.count)
    for i in range(1, list.count + 1):
        key = list.items[begin].key
        if i < list.count and list.items[i].key == key:
            continue
        sort_by_id(s, item if item else item_of(&list.items[begin]), list.items + begin, spare, i - begin, 0)
        while begin < i:
            list.items[begin].key = key
            begin += 1


cdef Keyed* room_beside(const KeyedList* list) noexcept nogil:
    return <Keyed*>grown(NULL, (list.count + 1) * sizeof(Keyed))


cdef void rank_item(KeyedList* list, uint32_t handle) noexcept nogil:
    keyed_add(list, handle, handle, <uint32_t>(list.count + 1))
    give_way_after(list.count, PIECE_IN_MEMORY)


cdef void rank_list(KeyedList* list, State* s, uint32_t handle, size_t links) noexcept nogil:
    while handle:
        rank_item(list, handle)
        handle = links_at(&s.arena, handle, links).next


cdef void sort_ranks(KeyedList* list) noexcept nogil:
    cdef Keyed* spare = room_beside(list)
    keyed_sort(list.items, spare, list.count)
    free(spare)


cdef void number_shops(State* s, Sorted* sorted) noexcept nogil:
    cdef KeyedList* shops = &sorted.shops
    cdef uint64_t cursor = 0
    cdef uint32_t handle = index_each(&s.shops, &s.arena, &cursor)
    cdef size_t i
    cdef Keyed* spare
    while handle:
        keyed_add(shops, partition_number(id_of_shop(shop_at(s, handle))), handle, 0)
        handle = index_each(&s.shops, &s.arena, &cursor)
    spare = room_beside(shops)
    sort_items(s, shops, spare, ITEM_SHOP)
    for i in range(shops.count):
        shops.items[i].key = shops.items[i].handle
        shops.items[i].number = <uint32_t>i
    keyed_sort(shops.items, spare, shops.count)
    free(spare)


cdef void list_item(State* s, Sorted* sorted, int item, uint32_t shop, uint32_t handle) noexcept nogil:
    if shop != sorted.shop:
        sorted.shop = shop
        sorted.shop_number = keyed_find(&sorted.shops, shop)
        sorted.partition = partition_number(id_of_shop(shop_at(s, shop)))
    keyed_add(&sorted.items, <uint64_t>sorted.shop_number << 8 | <uint64_t>item, handle, sorted.partition)
    give_way_after(sorted.items.count, PIECE_IN_MEMORY)


cdef void list_everything(State* s, Sorted* sorted) noexcept nogil:
    cdef uint64_t cursor = 0
    cdef uint32_t handle = index_each(&s.shops, &s.arena, &cursor)
    while handle:
        list_item(s, sorted, ITEM_SHOP, handle, handle)
        rank_list(&sorted.queued, s, shop_at(s, handle).queued.head, queued_links())
        handle = index_each(&s.shops, &s.arena, &cursor)
    cursor = 0
    handle = index_each(&s.locations, &s.arena, &cursor)
    while handle:
        list_item(s, sorted, ITEM_LOCATION, location_at(s, handle).shop, handle)
        handle = index_each(&s.locations, &s.arena, &cursor)
    cursor = 0
    handle = index_each(&s.skus, &s.arena, &cursor)
    while handle:
        list_item(s, sorted, ITEM_SKU, sku_at(s, handle).shop, handle)
        handle = index_each(&s.skus, &s.arena, &cursor)
    cursor = 0
    handle = index_each(&s.orders, &s.arena, &cursor)
    while handle:
        list_item(s, sorted, ITEM_ORDER, order_at(s, handle).shop, handle)
        handle = index_each(&s.orders, &s.arena, &cursor)
    handle = s.remembered_head if SAFE(SAFETY_DEDUPE_IN_SNAPSHOT) else 0
    while handle:
        list_item(s, sorted, ITEM_REMEMBERED, (<Remembered*>arena_at(&s.arena, handle)).shop, handle)
        rank_item(&sorted.remembered, handle)
        handle = (<Remembered*>arena_at(&s.arena, handle)).next


cdef void rank_lists(State* s, Sorted* sorted) noexcept nogil:
    cdef int slot
    for slot in range(DURATIONS):
        rank_list(&sorted.held, s, s.holds[slot].items.head, hold_links())
        rank_list(&sorted.purchased, s, s.windows[slot].items.head, purchase_links())
    rank_list(&sorted.held, s, s.closed.head, hold_links())    # an order is in one of these lists at most
    rank_list(&sorted.to_match, s, s.to_match.head, match_links())
    sort_ranks(&sorted.held)
    sort_ranks(&sorted.purchased)
    sort_ranks(&sorted.remembered)
    sort_ranks(&sorted.to_match)
    sort_ranks(&sorted.queued)


# Of a state that stands still; `sorted` is zeroed.
cdef void sort_state(State* s, Sorted* sorted) noexcept nogil:
    cdef Keyed* spare
    number_shops(s, sorted)
    list_everything(s, sorted)
    spare = room_beside(&sorted.items)
    sort_items(s, &sorted.items, spare, 0)
    free(spare)
    rank_lists(s, sorted)


cdef void forget_sorted(Sorted* sorted) noexcept nogil:
    free(sorted.items.items)
    free(sorted.held.items)
    free(sorted.purchased.items)
    free(sorted.remembered.items)
    free(sorted.to_match.items)
    free(sorted.queued.items)
    free(sorted.shops.items)
