# Writing a snapshot: all objects in their order, each told with string ids.

cdef struct SnapshotWriter:
    State* s
    Sorted sorted
    size_t at                                  # in sorted.items
    Buffer out
    uint64_t business[2]
    uint64_t whole[2]


cdef inline void w8(SnapshotWriter* w, uint8_t value) noexcept nogil:
    buffer_end(&w.out, d8(buffer_reserve(&w.out, 1), value))

cdef inline void w16(SnapshotWriter* w, uint16_t value) noexcept nogil:
    buffer_end(&w.out, d16(buffer_reserve(&w.out, 2), value))

cdef inline void w32(SnapshotWriter* w, uint32_t value) noexcept nogil:
    buffer_end(&w.out, d32(buffer_reserve(&w.out, 4), value))

cdef inline void w64(SnapshotWriter* w, uint64_t value) noexcept nogil:
    buffer_end(&w.out, d64(buffer_reserve(&w.out, 8), value))

cdef inline void whash(SnapshotWriter* w, Hash128 value) noexcept nogil:
    buffer_end(&w.out, dhash(buffer_reserve(&w.out, 16), value))

cdef inline void wstr(SnapshotWriter* w, Span text) noexcept nogil:
    buffer_end(&w.out, dstr(buffer_reserve(&w.out, 1 + text.size), text))


cdef void write_shop(SnapshotWriter* w, const Shop* shop) noexcept nogil:
    cdef uint32_t i
    wstr(w, id_of_shop(shop))
    whash(w, shop.content)
    w64(w, shop.revision)
    w8(w, shop.status)
    w8(w, shop.strategy)
    w8(w, shop.allow_split)
    for i in range(<uint32_t>CURRENCY_BYTES):
        w8(w, shop.currency[i])
    w32(w, shop.region_count)
    for i in range(shop.region_count):
        wstr(w, region_name(w.s, shop, <uint16_t>(i + 1)))
        count_in(w.whole, region_digest(w.s, shop, region_name(w.s, shop, <uint16_t>(i + 1))))
    w32(w, shop.cost_count)
    for i in range(shop.cost_count):
        w64(w, shop.costs[i])
    count_in(w.whole, shop_digest(w.s, shop))


cdef void write_location(SnapshotWriter* w, const Location* location) noexcept nogil:
    wstr(w, id_of_location(location))
    whash(w, location.content)
    w64(w, location.revision)
    w8(w, location.status)
    w8(w, location.kind)
    w32(w, location.priority)
    w16(w, location.region)
    count_in(w.whole, location_digest(w.s, location))


cdef void write_sku(SnapshotWriter* w, uint32_t handle) noexcept nogil:
    cdef Sku* sku = sku_at(w.s, handle)
    cdef uint32_t row = sku.rows
    wstr(w, id_of_sku(sku))
    whash(w, sku.content)
    w64(w, sku.revision)
    w8(w, sku.status)
    w8(w, sku.backorder_allowed)
    w64(w, sku.price)
    w32(w, sku.buyer_limit_per_order)
    w32(w, sku.buyer_limit_per_window)
    w32(w, sku.backorder_limit)
    w32(w, sku.safety_stock)
    w64(w, 0 if sku.ghost else w.s.holds[sku.ttl_slot].duration_ms)
    w64(w, 0 if sku.ghost else w.s.windows[sku.window_slot].duration_ms)
    w32(w, keyed_find(&w.sorted.queued, handle))
    w32(w, keyed_find(&w.sorted.to_match, handle))
    w32(w, sku.row_count)
    while row:
        write_row(w, row_at(w.s, row))
        row = row_at(w.s, row).next
    count_in(w.whole, sku_digest(w.s, sku))


cdef void write_row(SnapshotWriter* w, const StockRow* row) noexcept nogil:
    wstr(w, id_of_location(location_at(w.s, row.location)))
    w64(w, row.on_hand)
    w64(w, row.reserved)
    w64(w, row.safety_stock)
    w64(w, row.received)
    w64(w, row.adjusted)
    w64(w, row.moved_in)
    w64(w, row.moved_out)
    w64(w, row.returned)
    w64(w, row.shipped)
    w64(w, row.written_off)
    if w.s.level >= 2:
        w8(w, row.ghost)
    if not row.ghost:
        count_in(w.whole, row.digest)
        if is_business(w.s, row):
            count_in(w.business, row.digest)


cdef void write_allocations(SnapshotWriter* w, const Allocation* allocations, uint32_t count) noexcept nogil:
    cdef uint32_t i
    w16(w, <uint16_t>count)
    for i in range(count):
        w8(w, <uint8_t>allocations[i].line)
        wstr(w, id_of_location(location_at(w.s, row_at(w.s, allocations[i].row).location)))
        w32(w, allocations[i].quantity)


cdef void write_order(SnapshotWriter* w, uint32_t handle) noexcept nogil:
    cdef State* s = w.s
    cdef Order* order = order_at(s, handle)
    cdef Line* lines = order_lines(order)
    cdef Hash128 business = order_business_digest(s, order)
    cdef int i
    count_in(w.business, business)
    count_in(w.whole, order_digest(s, order, business))
    wstr(w, id_of_order(order))
    wstr(w, order_buyer(order))
    whash(w, order.content)
    w64(w, order.sequence)
    w64(w, order.accepted_at_ms)
    w64(w, order.expires_at_ms)
    w64(w, order_placed_at(order)[0] if order.flags & ORDER_HAS_PLACED_AT else 0)
    w16(w, order.region)
    w8(w, order.flags)
    w8(w, order.outcome)
    w8(w, order.strategy)
    w8(w, order.priority_class)
    w64(w, s.holds[order.ttl_slot].duration_ms if order.flags & ORDER_HELD else 0)
    w32(w, keyed_find(&w.sorted.held, handle))
    w8(w, order.line_count)
    for i in range(order.line_count):
        wstr(w, id_of_sku(sku_at(s, lines[i].sku)))
        w32(w, lines[i].quantity)
        w64(w, lines[i].amount)
    write_allocations(w, order_first_allocations(order), order.allocation_count)
    w8(w, order.more != 0)
    if order.more:
        write_more(w, order)


cdef void write_more(SnapshotWriter* w, const Order* order) noexcept nogil:
    cdef State* s = w.s
    cdef OrderMore* more = more_at(s, order.more)
    cdef LineProgress* progress = more_lines(more)
    cdef Allocation* allocations
    cdef AllocationProgress* done
    cdef uint32_t count = order_allocations(s, order, &allocations, &done), i, handle
    w64(w, more.received)
    w64(w, more.refunded)
    if order.flags & ORDER_CLOSED:
        w64(w, more.closed_sequence)
        w64(w, more.closed_at_ms)
        count_in(w.whole, closed_digest(s, order))
    for i in range(order.line_count):
        w32(w, progress[i].shipped)
        w32(w, progress[i].cancelled)
        w32(w, progress[i].delivered)
        w32(w, progress[i].returned)
        w32(w, progress[i].written_off)
    w8(w, order.plan != 0)
    if order.plan:
        write_allocations(w, allocations, count)
    for i in range(count):
        w32(w, done[i].shipped)
        w32(w, done[i].released)
    w32(w, more.command_count)
    handle = more.commands
    while handle:
        write_command(w, order, <Command*>arena_at(&s.arena, handle))
        handle = (<Command*>arena_at(&s.arena, handle)).next
    handle = more.waits
    while handle:
        w8(w, 1)
        wstr(w, id_of_sku(sku_at(s, wait_at(s, handle).sku)))
        w64(w, wait_at(s, handle).need)
        w32(w, wait_at(s, handle).passed)
        count_in(w.whole, wait_digest(s, wait_at(s, handle)))
        handle = wait_at(s, handle).next_of_order
    w8(w, 0)
    handle = more.purchases
    while handle:
        w8(w, 1)
        wstr(w, id_of_sku(sku_at(s, usage_at(s, purchase_at(s, handle).usage).sku)))
        w32(w, purchase_at(s, handle).quantity)
        w64(w, purchase_at(s, handle).ends_at_ms)
        w64(w, s.windows[purchase_at(s, handle).slot].duration_ms)
        w32(w, keyed_find(&w.sorted.purchased, handle))
        count_in(w.whole, purchase_digest(s, purchase_at(s, handle)))
        handle = purchase_at(s, handle).next_of_order
    w8(w, 0)


cdef void write_command(SnapshotWriter* w, const Order* order, const Command* command) noexcept nogil:
    w8(w, command.kind)
    w8(w, command.outcome)
    wstr(w, id_of_command(command))
    whash(w, command.content)
    w64(w, command.sequence)
    count_in(w.whole, command_digest(w.s, order, command))


cdef void write_remembered(SnapshotWriter* w, uint32_t handle) noexcept nogil:
    cdef Remembered* remembered = <Remembered*>arena_at(&w.s.arena, handle)
    w8(w, remembered.kind)
    w8(w, remembered.outcome)
    w8(w, remembered.line)
    wstr(w, remembered_id(remembered))
    whash(w, remembered.content)
    w64(w, remembered.sequence)
    w64(w, remembered.time_ms)
    w32(w, keyed_find(&w.sorted.remembered, handle))
    count_in(w.whole, remembered_digest(w.s, remembered))


# The next partition that has something goes into the file, its header last: only then its length and CRC are known. 0:
# there is none, or the file has failed.
cdef int write_section(SnapshotWriter* w, SnapshotFile* file) noexcept nogil:
    cdef SectionHeader header
    cdef const KeyedList* all = &w.sorted.items
    cdef uint32_t handle
    cdef int item
    cdef uint64_t begin = file.at
    if w.at == all.count or file.error:
        return 0
    memset(&header, 0, sizeof(header))
    memset(w.business, 0, sizeof(w.business))
    memset(w.whole, 0, sizeof(w.whole))
    header.partition = all.items[w.at].number
    file.at += sizeof(header)
    w.out.size = 0
    while w.at < all.count and all.items[w.at].number == header.partition:
        item = item_of(&all.items[w.at])
        handle = all.items[w.at].handle
        w8(w, <uint8_t>item)
        if item == ITEM_SHOP:
            write_shop(w, shop_at(w.s, handle))
        elif item == ITEM_LOCATION:
            write_location(w, location_at(w.s, handle))
        elif item == ITEM_SKU:
            write_sku(w, handle)
        elif item == ITEM_ORDER:
            write_order(w, handle)
        else:
            write_remembered(w, handle)
        header.items += 1
        w.at += 1
        give_way_after(w.at, PIECE_IN_MEMORY)
        if w.out.size >= SNAPSHOT_PIECE_BYTES:
            write_payload(w, file, &header)
    write_payload(w, file, &header)
    memcpy(header.business, w.business, 16)
    memcpy(header.whole, w.whole, 16)
    header.crc = crc32c_of(<uint8_t*>&header, sizeof(header) - 4, 0)
    file_write(file, <uint8_t*>&header, sizeof(header), begin)
    return file.error == 0


cdef void write_payload(SnapshotWriter* w, SnapshotFile* file, SectionHeader* header) noexcept nogil:
    header.payload_crc = crc32c_of(w.out.data, w.out.size, header.payload_crc)
    header.size += w.out.size
    file_append(file, w.out.data, w.out.size)
    w.out.size = 0


cdef uint32_t count_sections(const SnapshotWriter* w) noexcept nogil:
    cdef const KeyedList* all = &w.sorted.items
    cdef uint32_t sections = 0
    cdef size_t i
    for i in range(all.count):
        sections += i == 0 or all.items[i].number != all.items[i - 1].number
    return sections


cdef void leave_out_remembered(State* s, uint64_t* sum) noexcept nogil:
    cdef uint32_t handle = s.remembered_head
    while handle:
        count_out(sum, remembered_digest(s, <Remembered*>arena_at(&s.arena, handle)))
        handle = (<Remembered*>arena_at(&s.arena, handle)).next


cdef void write_snapshot_header(const SnapshotWriter* w, SnapshotFile* file) noexcept nogil:
    cdef SnapshotHeader header
    cdef SnapshotRetention retention
    cdef State* s = w.s
    memset(&header, 0, sizeof(header))
    memset(&retention, 0, sizeof(retention))
    header.magic = SNAPSHOT_MAGIC
    header.format_version = SNAPSHOT_VERSION if s.level >= 2 else 1
    header.level = s.level
    memcpy(header.log_id, s.log_id, LOG_ID_BYTES)
    header.sequence = s.sequence
    header.time_ms = s.time_ms
    header.window_ms = s.window_ms
    header.remembered_max = s.remembered_max
    header.sections = count_sections(w)
    memcpy(header.business, s.business, 16)
    memcpy(header.whole, s.whole, 16)
    if not SAFE(SAFETY_DEDUPE_IN_SNAPSHOT):
        leave_out_remembered(s, header.whole)
    header.crc = crc32c_of(<uint8_t*>&header, sizeof(header) - 4, 0)
    file_append(file, <uint8_t*>&header, sizeof(header))
    if s.level >= 2:
        memcpy(retention.evicted, s.evicted, 16)
        retention.evicted_orders = s.evicted_orders
        retention.evicted_through = s.evicted_through
        retention.crc = crc32c_of(<uint8_t*>&retention, sizeof(retention) - 4, header.crc)
        file_append(file, <uint8_t*>&retention, sizeof(retention))


# The whole state, as it is now, into an empty file.
cdef void write_state(State* s, SnapshotFile* file, uint64_t bytes_per_s) noexcept nogil:
    cdef SnapshotWriter w
    memset(&w, 0, sizeof(w))
    w.s = s
    sort_state(s, &w.sorted)
    file.pace = pace_of(bytes_per_s)           # sorting takes its time, for which writing does not hurry
    write_snapshot_header(&w, file)
    while write_section(&w, file):
        pass
    forget_sorted(&w.sorted)
    buffer_free(&w.out)
