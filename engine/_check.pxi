# The invariants of a shard, recomputed from scratch over all that is in memory. The first violation is told in words.

cdef struct Finding:
    char* text
    size_t size


cdef int broken(Finding* finding, const char* what, Span shop, Span id) noexcept nogil:
    snprintf(finding.text, finding.size, b"%s (shop %.*s, %.*s)", what, <int>shop.size, <const char*>shop.data,
             <int>id.size, <const char*>id.data)
    return 0


cdef int broken_order(State* s, Finding* finding, const char* what, const Order* order) noexcept nogil:
    return broken(finding, what, id_of_shop(shop_at(s, order.shop)), id_of_order(order))


# 1: every invariant holds.
cdef int check_state(State* s, char* text, size_t size) noexcept nogil:
    cdef Finding finding
    cdef int holds
    finding.text = text
    finding.size = size
    text[0] = 0
    holds = check_orders(s, &finding)          # adds up what is reserved in StockRow.taken
    if not check_stock(s, &finding, holds):    # and sets it back
        holds = 0
    return (holds and check_closed(s, &finding) and check_queues(s, &finding) and check_holds(s, &finding)
            and check_purchases(s, &finding) and check_remembered(s, &finding) and check_digests(s, &finding))


cdef int check_orders(State* s, Finding* finding) noexcept nogil:
    cdef uint64_t cursor = 0
    cdef uint32_t handle = index_each(&s.orders, &s.arena, &cursor)
    cdef uint64_t held = 0, waiting = 0
    cdef int holds = 1
    while handle:
        if not check_order(s, finding, order_at(s, handle)):
            holds = 0
        held += (order_at(s, handle).flags & ORDER_HELD) != 0
        waiting += (order_at(s, handle).flags & ORDER_WAITING) != 0
        handle = index_each(&s.orders, &s.arena, &cursor)
    if held != s.held_orders or waiting != s.waiting_orders:
        holds = broken(finding, b"holds or waiting orders are not as many as counted", span_empty(), span_empty())
    return holds


cdef int check_order(State* s, Finding* finding, const Order* order) noexcept nogil:
    cdef OrderMore* more = more_at(s, order.more) if order.more else NULL
    cdef LineProgress* progress = more_lines(more) if more != NULL else NULL
    cdef Allocation* allocations
    cdef AllocationProgress* done
    cdef uint32_t count = order_allocations(s, order, &allocations, &done), i
    cdef int64_t reserved[64]
    cdef int64_t shipped[64]
    cdef int64_t open[64]
    cdef bint holds_stock = not order.flags & (ORDER_WAITING | ORDER_EXPIRED)
    memset(reserved, 0, sizeof(reserved))
    memset(shipped, 0, sizeof(shipped))
    for i in range(count if holds_stock else 0):
        reserved[allocations[i].line] += allocations[i].quantity
        if done != NULL:
            if <int64_t>done[i].shipped + done[i].released > allocations[i].quantity:
                return broken_order(s, finding, b"an allocation shipped and released more than it has", order)
            reserved[allocations[i].line] -= <int64_t>done[i].shipped + done[i].released
            shipped[allocations[i].line] += done[i].shipped
        row_at(s, allocations[i].row).taken += allocations[i].quantity
        if done != NULL:
            row_at(s, allocations[i].row).taken -= <int64_t>done[i].shipped + done[i].released
        if row_at(s, allocations[i].row).sku != order_lines(order)[allocations[i].line].sku:
            return broken_order(s, finding, b"an allocation is of another SKU than its line", order)
    for i in range(order.line_count):
        if progress != NULL and (
                <int64_t>progress[i].shipped + progress[i].cancelled > order_lines(order)[i].quantity
                or progress[i].delivered > progress[i].shipped or progress[i].returned > progress[i].shipped
                or progress[i].written_off > progress[i].returned):
            return broken_order(s, finding, b"the counters of a line contradict each other", order)
    open_units(order, progress, open)
    for i in range(order.line_count if holds_stock else 0):
        if reserved[i] != open[i] or shipped[i] != (progress[i].shipped if progress != NULL else 0):
            return broken_order(s, finding, b"open or shipped units are not those of the allocations", order)
    return check_order_ends(s, finding, order, more, holds_stock and open_units(order, progress, open))


# Every hold ends: paid, cancelled or expired.
cdef int check_order_ends(
    State* s, Finding* finding, const Order* order, const OrderMore* more, bint holds_open_units
) noexcept nogil:
    if (order.flags & ORDER_HELD != 0) != (holds_open_units and not order.flags & ORDER_PAID):
        return broken_order(s, finding, b"an unpaid order holds stock without end, or another one has an end", order)
    if (order.expires_at_ms != 0) != (order.flags & ORDER_HELD != 0):
        return broken_order(s, finding, b"the end of a hold is not that of the order", order)
    if (order.flags & ORDER_WAITING != 0) != (more != NULL and more.waits != 0):
        return broken_order(s, finding, b"an order waits in no queue, or one in a queue does not wait", order)
    if more != NULL and (more.received < 0 or more.refunded < 0 or more.refunded > more.received):
        return broken_order(s, finding, b"more was refunded than received", order)
    if (order.flags & ORDER_CLOSED != 0) != (s.level >= 2 and is_closed(order, <OrderMore*>more)):
        return broken_order(s, finding, b"a closed order is not listed as one, or an open one is", order)
    return 1


cdef int check_closed(State* s, Finding* finding) noexcept nogil:
    cdef uint32_t handle = s.closed.head
    cdef uint64_t count = 0, sequence = 0
    cdef int64_t before = 0
    cdef OrderMore* more
    while handle:
        more = more_at(s, order_at(s, handle).more)
        if (not order_at(s, handle).flags & ORDER_CLOSED or more.closed_sequence < sequence
                or more.closed_at_ms < before):
            return broken_order(s, finding, b"closed orders are not in the order of their closing", order_at(s, handle))
        sequence = more.closed_sequence
        before = more.closed_at_ms
        count += 1
        handle = order_at(s, handle).hold.next
    if count != s.closed_orders or (s.closed_cursor and not order_at(s, s.closed_cursor).flags & ORDER_CLOSED):
        return broken(finding, b"closed orders are lost", span_of(s.log_id, 0), span_of(s.log_id, 0))
    return 1


cdef int check_stock(State* s, Finding* finding, int holds) noexcept nogil:
    cdef uint64_t cursor = 0
    cdef uint32_t handle = index_each(&s.skus, &s.arena, &cursor), row
    while handle:
        row = sku_at(s, handle).rows
        while row:
            if not check_row(s, finding, row_at(s, row), holds):
                holds = 0
            row_at(s, row).taken = 0
            row = row_at(s, row).next
        handle = index_each(&s.skus, &s.arena, &cursor)
    return holds


cdef int check_row(State* s, Finding* finding, const StockRow* row, int holds) noexcept nogil:
    cdef Sku* sku = sku_at(s, row.sku)
    cdef Span shop = id_of_shop(shop_at(s, sku.shop))
    if not holds:
        return 0
    if (row.received + row.adjusted + row.moved_in - row.moved_out + row.returned
            != row.on_hand + row.shipped + row.written_off):
        return broken(finding, b"the stock identity does not hold", shop, id_of_sku(sku))
    if (row.on_hand < 0 or row.reserved < 0 or row.reserved > row.on_hand or row.received < 0 or row.moved_in < 0
            or row.moved_out < 0 or row.returned < 0 or row.shipped < 0 or row.written_off < 0):
        return broken(finding, b"a stock counter is negative, or more is reserved than is there", shop, id_of_sku(sku))
    if row.taken != row.reserved:
        return broken(finding, b"reserved units are not those of the orders", shop, id_of_sku(sku))
    return 1


cdef int check_queues(State* s, Finding* finding) noexcept nogil:
    cdef uint64_t cursor = 0
    cdef uint32_t handle = index_each(&s.skus, &s.arena, &cursor), wait, length
    cdef int64_t units
    cdef Sku* sku
    cdef Demand demand
    while handle:
        sku = sku_at(s, handle)
        units = length = 0
        wait = queue_first(s, sku.queue)
        while wait:
            demand_of(s, wait_at(s, wait).order, &demand)
            if (wait_at(s, wait).need != units_of_sku(order_at(s, wait_at(s, wait).order), handle, demand.units)
                    or wait_at(s, wait).passed > <uint32_t>BACKORDER_PASSES_MAX):
                return broken_order(s, finding, b"a backorder waits for other units than it needs, or too long",
                                    order_at(s, wait_at(s, wait).order))
            units += wait_at(s, wait).need
            length += 1
            wait = queue_next(s, wait)
        if units != sku.waiting or length != (queue_at(s, sku.queue).length if sku.queue else 0):
            return broken(finding, b"waiting units are not those of the queue", id_of_shop(shop_at(s, sku.shop)),
                          id_of_sku(sku))
        handle = index_each(&s.skus, &s.arena, &cursor)
    return 1


cdef int check_holds(State* s, Finding* finding) noexcept nogil:
    cdef int slot
    cdef uint32_t handle
    cdef int64_t before
    for slot in range(DURATIONS):
        before = 0
        handle = s.holds[slot].items.head
        while handle:
            if order_at(s, handle).expires_at_ms < before or not order_at(s, handle).flags & ORDER_HELD:
                return broken_order(s, finding, b"holds are not in the order of their ends", order_at(s, handle))
            before = order_at(s, handle).expires_at_ms
            handle = order_at(s, handle).hold.next
    return 1


cdef int check_purchases(State* s, Finding* finding) noexcept nogil:
    cdef int slot
    cdef uint32_t handle
    cdef int64_t before, units = 0
    cdef uint64_t cursor = 0
    for slot in range(DURATIONS):
        before = 0
        handle = s.windows[slot].items.head
        while handle:
            if purchase_at(s, handle).ends_at_ms < before:
                return broken_order(s, finding, b"purchases are not in the order of their ends",
                                    order_at(s, purchase_at(s, handle).order))
            before = purchase_at(s, handle).ends_at_ms
            units += purchase_at(s, handle).quantity
            handle = purchase_at(s, handle).links.next
    handle = index_each(&s.usages, &s.arena, &cursor)
    while handle:
        units -= usage_at(s, handle).units
        handle = index_each(&s.usages, &s.arena, &cursor)
    if units != 0:
        return broken(finding, b"units that count against buyer limits are not those of the purchases",
                      span_of(s.log_id, 0), span_of(s.log_id, 0))
    return 1


cdef int check_remembered(State* s, Finding* finding) noexcept nogil:
    cdef uint32_t handle = s.remembered_head
    cdef uint64_t count = 0
    cdef int64_t before = 0
    cdef Remembered* remembered
    while handle:
        remembered = <Remembered*>arena_at(&s.arena, handle)
        if remembered.time_ms < before:
            return broken(finding, b"remembered ids are not in the order of their times",
                          id_of_shop(shop_at(s, remembered.shop)), remembered_id(remembered))
        before = remembered.time_ms
        count += 1
        handle = remembered.next
    if count != s.remembered.count:
        return broken(finding, b"remembered ids are lost", span_of(s.log_id, 0), span_of(s.log_id, 0))
    return 1


cdef int check_digests(State* s, Finding* finding) noexcept nogil:
    cdef uint64_t business[2]
    cdef uint64_t whole[2]
    memcpy(business, s.evicted, sizeof(business))
    memset(whole, 0, sizeof(whole))
    sum_orders(s, business, whole)
    sum_catalogue(s, business, whole)
    sum_lists(s, whole)
    if business[0] != s.business[0] or business[1] != s.business[1]:
        return broken(finding, b"the business digest is not that of the objects", span_of(s.log_id, 0),
                      span_of(s.log_id, 0))
    if whole[0] != s.whole[0] or whole[1] != s.whole[1]:
        return broken(finding, b"the state digest is not that of the objects", span_of(s.log_id, 0),
                      span_of(s.log_id, 0))
    return 1


cdef void sum_orders(State* s, uint64_t* business, uint64_t* whole) noexcept nogil:
    cdef uint64_t cursor = 0
    cdef uint32_t handle = index_each(&s.orders, &s.arena, &cursor), item
    cdef Order* order
    cdef Hash128 digest
    while handle:
        order = order_at(s, handle)
        digest = order_business_digest(s, order)
        count_in(business, digest)
        count_in(whole, order_digest(s, order, digest))
        if order.flags & ORDER_CLOSED:
            count_in(whole, closed_digest(s, order))
        if order.more:
            item = more_at(s, order.more).commands
            while item:
                count_in(whole, command_digest(s, order, <Command*>arena_at(&s.arena, item)))
                item = (<Command*>arena_at(&s.arena, item)).next
            item = more_at(s, order.more).waits
            while item:
                count_in(whole, wait_digest(s, wait_at(s, item)))
                item = wait_at(s, item).next_of_order
            item = more_at(s, order.more).purchases
            while item:
                count_in(whole, purchase_digest(s, purchase_at(s, item)))
                item = purchase_at(s, item).next_of_order
        handle = index_each(&s.orders, &s.arena, &cursor)


cdef void sum_catalogue(State* s, uint64_t* business, uint64_t* whole) noexcept nogil:
    cdef uint64_t cursor = 0
    cdef uint32_t handle = index_each(&s.skus, &s.arena, &cursor), item
    cdef Shop* shop
    while handle:
        count_in(whole, sku_digest(s, sku_at(s, handle)))
        item = sku_at(s, handle).rows
        while item:
            if not row_at(s, item).ghost:
                count_in(whole, stock_digest(s, row_at(s, item)))
                if is_business(s, row_at(s, item)):
                    count_in(business, stock_digest(s, row_at(s, item)))
            item = row_at(s, item).next
        handle = index_each(&s.skus, &s.arena, &cursor)
    cursor = 0
    handle = index_each(&s.locations, &s.arena, &cursor)
    while handle:
        count_in(whole, location_digest(s, location_at(s, handle)))
        handle = index_each(&s.locations, &s.arena, &cursor)
    cursor = 0
    handle = index_each(&s.shops, &s.arena, &cursor)
    while handle:
        count_in(whole, shop_digest(s, shop_at(s, handle)))
        shop = shop_at(s, handle)
        for item in range(shop.region_count):
            count_in(whole, region_digest(s, shop, region_name(s, shop, <uint16_t>(item + 1))))
        handle = index_each(&s.shops, &s.arena, &cursor)


cdef void sum_lists(State* s, uint64_t* whole) noexcept nogil:
    cdef uint32_t handle = s.remembered_head
    while handle:
        count_in(whole, remembered_digest(s, <Remembered*>arena_at(&s.arena, handle)))
        handle = (<Remembered*>arena_at(&s.arena, handle)).next
