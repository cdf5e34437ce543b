# Reading a snapshot. Sections are checked by CRC before they are looked into, and by their digests after all of it is
# there.

# What can be put into its list only when everything is read, so that every list keeps its order.
cdef enum Later:
    LATER_HOLD = 1
    LATER_PURCHASE = 2
    LATER_REMEMBERED = 3
    LATER_WAIT = 4
    LATER_QUEUED = 5
    LATER_MATCH = 6
    LATER_CLOSED = 7

cdef struct Listing:
    uint64_t rank
    int later
    uint32_t handle, sku, passed
    uint8_t slot
    int64_t need, ends_at_ms

cdef struct SnapshotReader:
    State* s
    const uint8_t* at
    const uint8_t* end
    const char* failure                        # NULL as long as all is well
    uint32_t shop
    Span last_order                            # of this shop; orders stand in the order of their ids
    uint32_t unindexed[16]                     # orders that are to be put into the index
    uint32_t unindexed_hashes[16]
    uint32_t unindexed_count
    Listing* listings
    size_t count, capacity
    uint64_t sums[1024][4]                     # business and whole, by partition


cdef const uint8_t* r_bytes(SnapshotReader* r, size_t size) noexcept nogil:
    cdef const uint8_t* at = r.at
    if <size_t>(r.end - r.at) < size:
        r.failure = b"the section ends inside of an item"
        r.at = r.end
        return NULL
    r.at += size
    return at

cdef uint64_t r_number(SnapshotReader* r, size_t size) noexcept nogil:
    cdef uint64_t value = 0
    cdef const uint8_t* at = r_bytes(r, size)
    if at != NULL:
        memcpy(&value, at, size)
    return value

cdef inline uint8_t r8(SnapshotReader* r) noexcept nogil:
    return <uint8_t>r_number(r, 1)

cdef inline uint16_t r16(SnapshotReader* r) noexcept nogil:
    return <uint16_t>r_number(r, 2)

cdef inline uint32_t r32(SnapshotReader* r) noexcept nogil:
    return <uint32_t>r_number(r, 4)

cdef inline uint64_t r64(SnapshotReader* r) noexcept nogil:
    return r_number(r, 8)

cdef Hash128 rhash(SnapshotReader* r) noexcept nogil:
    cdef Hash128 value
    value.low = r64(r)
    value.high = r64(r)
    return value

cdef Span rstr(SnapshotReader* r) noexcept nogil:
    cdef uint32_t size = r8(r)
    cdef const uint8_t* at = r_bytes(r, size)
    # Beyond the end an empty text, which may be copied and compared like any other.
    return span_of(at, size) if at != NULL else span_of(<const uint8_t*><const char*>b"", 0)


cdef int damaged(SnapshotReader* r, const char* reason) noexcept nogil:
    if r.failure == NULL:
        r.failure = reason
    return 0


cdef Listing* list_later(SnapshotReader* r, int later, uint64_t rank, uint32_t handle) noexcept nogil:
    cdef Listing* listing
    if r.count == r.capacity:
        r.capacity = r.capacity * 2 + 64
        r.listings = <Listing*>grown(r.listings, r.capacity * sizeof(Listing))
    listing = &r.listings[r.count]
    memset(listing, 0, sizeof(Listing))
    listing.later = later
    listing.rank = rank
    listing.handle = handle
    r.count += 1
    return listing


cdef int by_rank(const void* left, const void* right) noexcept nogil:
    cdef const Listing* a = <const Listing*>left
    cdef const Listing* b = <const Listing*>right
    if a.later != b.later:
        return a.later - b.later
    return -1 if a.rank < b.rank else a.rank > b.rank


cdef int read_shop(SnapshotReader* r) noexcept nogil:
    cdef State* s = r.s
    cdef Span id = rstr(r), region
    cdef Shop* shop
    cdef uint32_t count, i
    if id.size == 0 or find_shop(s, id):
        return damaged(r, b"a shop without id, or twice")
    r.shop = new_shop(s, id)
    shop = shop_at(s, r.shop)
    shop.content = rhash(r)
    shop.revision = r64(r)
    shop.status = r8(r)
    shop.strategy = r8(r)
    shop.allow_split = r8(r)
    for i in range(<uint32_t>CURRENCY_BYTES):
        shop.currency[i] = r8(r)
    count = r32(r)
    if count > <uint32_t>REGIONS_PER_SHOP_MAX:
        return damaged(r, b"more regions than a shop may have")
    for i in range(count):
        region = rstr(r)
        if region.size == 0 or add_region(s, shop, region) != i + 1:
            return damaged(r, b"a region without name, or twice")
    count = r32(r)
    if count > <uint32_t>REGION_COSTS_MAX:
        return damaged(r, b"more region costs than a shop may have")
    shop.costs = <uint64_t*>grown(shop.costs, (count + 1) * sizeof(uint64_t))
    shop.cost_count = count
    for i in range(count):
        shop.costs[i] = r64(r)
    count_in(s.whole, shop_digest(s, shop))
    return 1


cdef int read_location(SnapshotReader* r) noexcept nogil:
    cdef State* s = r.s
    cdef Span id = rstr(r)
    cdef Location* location
    if id.size == 0 or find_location(s, r.shop, id):
        return damaged(r, b"a location without id, or twice")
    location = location_at(s, new_location(s, r.shop, id))
    location.content = rhash(r)
    location.revision = r64(r)
    location.status = r8(r)
    location.kind = r8(r)
    location.priority = r32(r)
    location.region = r16(r)
    if location.region > shop_at(s, r.shop).region_count:
        return damaged(r, b"a location in a region that the shop does not name")
    if location.status == STATUS_RETIRED:
        shop_at(s, r.shop).live -= 1
    count_in(s.whole, location_digest(s, location))
    return 1


cdef int read_sku(SnapshotReader* r) noexcept nogil:
    cdef State* s = r.s
    cdef Span id = rstr(r)
    cdef uint32_t handle, queued, to_match, rows, i
    cdef int64_t ttl_ms, window_ms
    cdef Sku* sku
    if id.size == 0 or find_sku(s, r.shop, id):
        return damaged(r, b"a SKU without id, or twice")
    handle = new_sku(s, r.shop, id)
    sku = sku_at(s, handle)
    sku.content = rhash(r)
    sku.revision = r64(r)
    sku.status = r8(r)
    sku.backorder_allowed = r8(r)
    sku.price = r64(r)
    sku.buyer_limit_per_order = r32(r)
    sku.buyer_limit_per_window = r32(r)
    sku.backorder_limit = r32(r)
    sku.safety_stock = r32(r)
    ttl_ms = r64(r)
    window_ms = r64(r)
    queued = r32(r)
    to_match = r32(r)
    rows = r32(r)
    if ttl_ms == 0 and sku.status == STATUS_RETIRED:
        sku.ghost = 1
    elif find_duration(s.holds, ttl_ms) < 0 or find_duration(s.windows, window_ms) < 0:
        return damaged(r, b"more reserve TTLs or buyer windows than there may be")
    else:
        sku.ttl_slot = use_duration(s.holds, find_duration(s.holds, ttl_ms), ttl_ms)
        sku.window_slot = use_duration(s.windows, find_duration(s.windows, window_ms), window_ms)
    if sku.status == STATUS_RETIRED:
        shop_at(s, r.shop).live -= 1
    if queued:
        list_later(r, LATER_QUEUED, queued, handle)
    if to_match:
        list_later(r, LATER_MATCH, to_match, handle)
    count_in(s.whole, sku_digest(s, sku))
    for i in range(rows):
        if not read_row(r, handle):
            return 0
    return 1


cdef int read_row(SnapshotReader* r, uint32_t sku) noexcept nogil:
    cdef State* s = r.s
    cdef uint32_t location = find_location(s, r.shop, rstr(r))
    cdef StockRow* row
    cdef int64_t on_hand
    if location == 0 or find_row(s, sku_at(s, sku), location):
        return damaged(r, b"stock at a location that the shop does not have, or twice")
    row = row_at(s, row_for(s, sku, location))
    on_hand = r64(r)
    row.reserved = r64(r)
    row.safety_stock = r64(r)
    row.received = r64(r)
    row.adjusted = r64(r)
    row.moved_in = r64(r)
    row.moved_out = r64(r)
    row.returned = r64(r)
    row.shipped = r64(r)
    row.written_off = r64(r)
    if row.reserved < 0 or on_hand < row.reserved:
        return damaged(r, b"more stock is reserved than is there")
    set_on_hand(s, row, on_hand)
    if s.level >= 2:
        row.ghost = r8(r)
    return 1


# The row of an allocation: of the SKU of its line, at the named location. 0: the section is damaged.
cdef int read_allocations(SnapshotReader* r, const Line* lines, int line_count, Allocation* into) noexcept nogil:
    cdef uint32_t count = r16(r), i, location
    if count > <uint32_t>ALLOCATIONS_MAX:
        damaged(r, b"more allocations than an order may have")
        return -1
    for i in range(count):
        into[i].line = r8(r)
        location = find_location(r.s, r.shop, rstr(r))
        into[i].quantity = r32(r)
        into[i].row = 0
        if into[i].line < <uint32_t>line_count and location:
            into[i].row = find_row(r.s, sku_at(r.s, lines[into[i].line].sku), location)
        if into[i].row == 0:
            damaged(r, b"an allocation from stock that does not exist")
            return -1
    return <int>count


# An id behind the one before it cannot have been there; another one is looked for.
cdef bint order_is_known(SnapshotReader* r, Span id) noexcept nogil:
    if r.last_order.size == 0 or compare_ids(r.last_order, id) < 0:
        r.last_order = id
        return False
    index_now(r)
    return find_order(r.s, r.shop, id) != 0


# Into the index a few orders later, when its line has come from memory.
cdef void index_soon(SnapshotReader* r, uint32_t handle, uint32_t hash) noexcept nogil:
    cdef uint32_t at = r.unindexed_count % 16
    if r.unindexed_count >= 16:
        index_insert(&r.s.orders, &r.s.arena, r.unindexed[at], r.unindexed_hashes[at])
    r.unindexed[at] = handle
    r.unindexed_hashes[at] = hash
    r.unindexed_count += 1
    expect_in(&r.s.orders, hash)


cdef void index_now(SnapshotReader* r) noexcept nogil:
    cdef uint32_t left = r.unindexed_count if r.unindexed_count < 16 else 16, i
    for i in range(r.unindexed_count - left, r.unindexed_count):
        index_insert(&r.s.orders, &r.s.arena, r.unindexed[i % 16], r.unindexed_hashes[i % 16])
    r.unindexed_count = 0


cdef int read_order(SnapshotReader* r) noexcept nogil:
    cdef State* s = r.s
    cdef Line lines[64]
    cdef Order head
    cdef Span id = rstr(r), buyer = rstr(r)
    cdef int64_t placed_at_ms, hold_ms
    cdef uint32_t rank, handle, i
    cdef int count
    cdef Order* order
    memset(&head, 0, sizeof(head))
    head.content = rhash(r)
    head.sequence = r64(r)
    head.accepted_at_ms = r64(r)
    head.expires_at_ms = r64(r)
    placed_at_ms = r64(r)
    head.region = r16(r)
    head.flags = r8(r) & ~ORDER_TOUCHED
    head.outcome = r8(r)
    head.strategy = r8(r)
    head.priority_class = r8(r)
    hold_ms = r64(r)
    rank = r32(r)
    head.line_count = r8(r)
    if (id.size == 0 or buyer.size == 0 or order_is_known(r, id) or not 0 < head.line_count <= LINES_MAX
            or head.region > shop_at(s, r.shop).region_count or head.priority_class > PRIORITY_CLASS_MAX):
        return damaged(r, b"an order without ids or lines, or twice")
    for i in range(head.line_count):
        lines[i].sku = find_sku(s, r.shop, rstr(r))
        lines[i].quantity = r32(r)
        lines[i].amount = r64(r)
        if lines[i].sku == 0 or lines[i].quantity == 0:
            return damaged(r, b"a line without units, or of a SKU that the shop does not have")
    count = read_allocations(r, lines, head.line_count, s.plan)
    if count < 0 or r.failure != NULL:
        return 0
    head.allocation_count = <uint16_t>count
    head.shop = r.shop
    head.id_size = <uint8_t>id.size
    head.buyer_size = <uint8_t>buyer.size
    handle = arena_new(&s.arena, order_bytes(head.line_count, head.flags & ORDER_HAS_PLACED_AT, count, id.size,
                                             buyer.size))
    order = order_at(s, handle)
    memcpy(order, &head, sizeof(Order))
    memcpy(order_lines(order), lines, head.line_count * sizeof(Line))
    if order.flags & ORDER_HAS_PLACED_AT:
        order_placed_at(order)[0] = placed_at_ms
    memcpy(order_first_allocations(order), s.plan, count * sizeof(Allocation))
    memcpy(<uint8_t*>id_of_order(order).data, id.data, id.size)
    memcpy(<uint8_t*>order_buyer(order).data, buyer.data, buyer.size)
    return join_order(r, handle, lines, hold_ms, rank)


# Into the index, the counters, and what follows the head.
cdef int join_order(
    SnapshotReader* r, uint32_t handle, const Line* lines, int64_t hold_ms, uint32_t rank
) noexcept nogil:
    cdef State* s = r.s
    cdef Order* order = order_at(s, handle)
    cdef Hash128 business
    cdef int i, slot
    index_soon(r, handle, index_hash(s, r.shop, id_of_order(order)))
    shop_at(s, r.shop).refs += 1
    for i in range(order.line_count):
        sku_at(s, lines[i].sku).uses += 1
    if (order.flags & (ORDER_HELD | ORDER_CLOSED) != 0) != (rank != 0) or (
            order.flags & ORDER_HELD and order.flags & ORDER_CLOSED):
        return damaged(r, b"a hold or a closed order without its place, or both")
    s.held_orders += (order.flags & ORDER_HELD) != 0
    s.waiting_orders += (order.flags & ORDER_WAITING) != 0
    if order.flags & ORDER_CLOSED:
        list_later(r, LATER_CLOSED, rank, handle)
    elif rank:
        slot = find_duration(s.holds, hold_ms)
        if slot < 0:
            return damaged(r, b"more reserve TTLs than there may be")
        order.ttl_slot = <uint8_t>slot
        if s.holds[slot].users == 0:
            s.holds[slot].users = 1            # until its list is filled; see read_lists
            s.holds[slot].duration_ms = hold_ms
            s.holds[slot].items.tail = UINT32_MAX
        list_later(r, LATER_HOLD, rank, handle)
    if r8(r) and not read_more(r, handle, lines):
        return 0
    order = order_at(s, handle)
    if order.flags & ORDER_CLOSED:
        if s.level < 2 or not order.more:
            return damaged(r, b"a closed order without the time of its closing")
        count_in(s.whole, closed_digest(s, order))
    business = order_business_digest(s, order)
    count_in(s.business, business)
    count_in(s.whole, order_digest(s, order, business))
    return r.failure == NULL


cdef int read_more(SnapshotReader* r, uint32_t handle, const Line* lines) noexcept nogil:
    cdef State* s = r.s
    cdef Order* order = order_at(s, handle)
    cdef OrderMore* more = order_more(s, handle)
    cdef LineProgress* progress = more_lines(more)
    cdef Allocation* allocations
    cdef AllocationProgress* done
    cdef uint32_t count, i
    cdef int planned
    more.received = r64(r)
    more.refunded = r64(r)
    if order.flags & ORDER_CLOSED:
        more.closed_sequence = r64(r)
        more.closed_at_ms = r64(r)
    for i in range(order.line_count):
        progress[i].shipped = r32(r)
        progress[i].cancelled = r32(r)
        progress[i].delivered = r32(r)
        progress[i].returned = r32(r)
        progress[i].written_off = r32(r)
    if r8(r):
        planned = read_allocations(r, lines, order.line_count, s.plan)
        if planned < 0:
            return 0
        order.plan = arena_new(&s.arena, plan_bytes(planned))
        (<Plan*>arena_at(&s.arena, order.plan)).count = planned
        memcpy(<uint8_t*>arena_at(&s.arena, order.plan) + sizeof(Plan), s.plan, planned * sizeof(Allocation))
    count = order_allocations(s, order, &allocations, &done)
    for i in range(count):
        done[i].shipped = r32(r)
        done[i].released = r32(r)
    return read_commands(r, handle) and read_waits(r, handle) and read_purchases(r, handle)


cdef int read_commands(SnapshotReader* r, uint32_t handle) noexcept nogil:
    cdef uint32_t count = r32(r), i
    cdef int kind, outcome
    cdef Span id
    cdef Hash128 content
    if count > <uint32_t>ORDER_COMMANDS_MAX:
        return damaged(r, b"more commands than an order may have")
    for i in range(count):
        kind = r8(r)
        outcome = r8(r)
        id = rstr(r)
        content = rhash(r)
        add_command(r.s, handle, kind, id, content, r64(r), outcome)
    turn_commands_round(r.s, more_at(r.s, order_at(r.s, handle).more))
    return r.failure == NULL


# They were listed one by one at the front, and so stand the other way round than in the file.
cdef void turn_commands_round(State* s, OrderMore* more) noexcept nogil:
    cdef uint32_t handle = more.commands, before = 0, following
    while handle:
        following = (<Command*>arena_at(&s.arena, handle)).next
        (<Command*>arena_at(&s.arena, handle)).next = before
        before = handle
        handle = following
    more.commands = before


cdef int read_waits(SnapshotReader* r, uint32_t handle) noexcept nogil:
    cdef Listing* listing
    cdef uint32_t sku
    cdef int place = 0
    while r8(r):
        sku = find_sku(r.s, r.shop, rstr(r))
        if sku == 0 or place == LINES_MAX:
            return damaged(r, b"a backorder of a SKU that the shop does not have")
        listing = list_later(r, LATER_WAIT, order_at(r.s, handle).sequence * LINES_MAX + place, handle)
        listing.sku = sku
        listing.need = r64(r)
        listing.passed = r32(r)
        place += 1
    return r.failure == NULL


cdef int read_purchases(SnapshotReader* r, uint32_t handle) noexcept nogil:
    cdef Listing* listing
    cdef uint32_t sku, units
    cdef int64_t ends_at_ms, window_ms
    cdef int slot
    while r8(r):
        sku = find_sku(r.s, r.shop, rstr(r))
        units = r32(r)
        ends_at_ms = r64(r)
        window_ms = r64(r)
        slot = find_duration(r.s.windows, window_ms)
        if sku == 0 or units == 0 or slot < 0:
            return damaged(r, b"a purchase of a SKU that the shop does not have")
        if r.s.windows[slot].users == 0:
            r.s.windows[slot].users = 1
            r.s.windows[slot].duration_ms = window_ms
            r.s.windows[slot].items.tail = UINT32_MAX
        listing = list_later(r, LATER_PURCHASE, r32(r), handle)
        listing.sku = sku
        listing.need = units
        listing.ends_at_ms = ends_at_ms
        listing.slot = <uint8_t>slot
    return r.failure == NULL


cdef int read_remembered(SnapshotReader* r) noexcept nogil:
    cdef int kind = r8(r), outcome = r8(r)
    cdef uint8_t line = r8(r)
    cdef Span id = rstr(r)
    cdef Hash128 content = rhash(r)
    cdef uint64_t sequence = r64(r)
    cdef int64_t time_ms = r64(r)
    cdef uint32_t handle
    if r.failure != NULL or id.size == 0 or find_remembered(r.s, r.shop, kind, id, index_hash(r.s, r.shop, id)):
        return damaged(r, b"a remembered id that is empty, or twice")
    handle = new_remembered(r.s, r.shop, kind, id, content, sequence, outcome, time_ms, line)
    list_later(r, LATER_REMEMBERED, r32(r), handle)
    return r.failure == NULL
