# A section of a snapshot, read whole, and the lists, filled when every section is there.

# One section, its CRC checked already.
cdef int read_section(SnapshotReader* r, const SectionHeader* header, const uint8_t* payload) noexcept nogil:
    cdef uint32_t i
    cdef int item, good = 1
    cdef uint64_t before[4]
    r.at = payload
    r.end = payload + header.size
    r.shop = 0
    memcpy(before, r.s.business, 16)
    memcpy(before + 2, r.s.whole, 16)
    for i in range(header.items):
        item = r8(r)
        if item != ITEM_SHOP and r.shop == 0:
            return damaged(r, b"an item before its shop")
        if item == ITEM_SHOP:
            r.last_order.size = 0
            good = read_shop(r)
        elif item == ITEM_LOCATION:
            good = read_location(r)
        elif item == ITEM_SKU:
            good = read_sku(r)
        elif item == ITEM_ORDER:
            good = read_order(r)
        elif item == ITEM_REMEMBERED:
            good = read_remembered(r)
        else:
            good = damaged(r, b"an item of unknown kind")
        if not good or r.failure != NULL:
            return 0
    index_now(r)
    settle_rows(r.s)
    add_difference(r, header.partition, before)
    return 1 if r.at == r.end else damaged(r, b"bytes after the last item")


# Rows were touched while they were filled; their digests go in, and nothing is an effect.
cdef void settle_rows(State* s) noexcept nogil:
    cdef uint32_t i
    cdef StockRow* row
    for i in range(s.touched_row_count):
        row = row_at(s, s.touched_rows[i])
        row.touched = 0
        if not row.ghost:
            count_row_in(s, row)
    s.touched_row_count = 0


# What the sums grew by since `before` belongs to a partition.
cdef void add_difference(SnapshotReader* r, uint32_t partition, const uint64_t* before) noexcept nogil:
    cdef uint64_t grown_by[4]
    memcpy(grown_by, r.s.business, 16)
    memcpy(grown_by + 2, r.s.whole, 16)
    sum_subtract(grown_by, before[0], before[1])
    sum_subtract(grown_by + 2, before[2], before[3])
    sum_add(r.sums[partition], grown_by[0], grown_by[1])
    sum_add(r.sums[partition] + 2, grown_by[2], grown_by[3])


# The lists, each in the order that it had.
cdef void read_lists(SnapshotReader* r) noexcept nogil:
    cdef State* s = r.s
    cdef size_t i
    cdef int slot
    cdef uint64_t before[4]
    cdef uint32_t shop
    for slot in range(DURATIONS):
        if s.holds[slot].items.tail == UINT32_MAX:
            s.holds[slot].items.tail = 0
            s.holds[slot].users -= 1
        if s.windows[slot].items.tail == UINT32_MAX:
            s.windows[slot].items.tail = 0
            s.windows[slot].users -= 1
    sort(r.listings, r.count, sizeof(Listing), by_rank)
    for i in range(r.count):
        memcpy(before, s.business, 16)
        memcpy(before + 2, s.whole, 16)
        shop = join_list(s, &r.listings[i])
        add_difference(r, partition_number(id_of_shop(shop_at(s, shop))), before)


# Returns the shop.
cdef uint32_t join_list(State* s, const Listing* listing) noexcept nogil:
    cdef uint32_t shop
    cdef List* items
    if listing.later == LATER_REMEMBERED:
        append_remembered(s, listing.handle)
        return (<Remembered*>arena_at(&s.arena, listing.handle)).shop
    if listing.later == LATER_QUEUED:
        shop = sku_at(s, listing.handle).shop
        if sku_at(s, listing.handle).queue:
            items = &shop_at(s, shop).queued
            list_remove(items, &s.arena, listing.handle, queued_links())
            list_append(items, &s.arena, listing.handle, queued_links())
        return shop
    if listing.later == LATER_MATCH:
        # Not by queue_match(): a SKU stays on the list when the last order of its queue is cancelled.
        set_on_match_list(s, sku_at(s, listing.handle), 1)
        list_append(&s.to_match, &s.arena, listing.handle, match_links())
        return sku_at(s, listing.handle).shop
    shop = order_at(s, listing.handle).shop
    if listing.later == LATER_HOLD:
        items = &s.holds[order_at(s, listing.handle).ttl_slot].items
        list_append(items, &s.arena, listing.handle, hold_links())
    elif listing.later == LATER_CLOSED:
        list_closed(s, listing.handle)
    elif listing.later == LATER_PURCHASE:
        add_purchase(s, listing.handle, listing.sku, listing.slot, listing.ends_at_ms, <uint32_t>listing.need)
    else:
        add_wait(s, listing.handle, listing.sku, listing.need, listing.passed)
    return shop
