# Closed orders: listed in the order of their closing, evicted once the archive has them and their window is over, and
# restored when somebody needs them again. All of it from level 2 on.

# Nothing is open, under way or to be paid back, and nothing of it counts against a buyer. What is closed has an
# OrderMore.
cdef bint is_closed(const Order* order, OrderMore* more) noexcept nogil:
    cdef Line* lines = order_lines(order)
    cdef LineProgress* progress
    cdef int i
    if order.flags & (ORDER_HELD | ORDER_WAITING) or more == NULL or more.waits or more.purchases:
        return False
    progress = more_lines(more)
    for i in range(order.line_count):
        if (not order.flags & ORDER_EXPIRED
                and <int64_t>progress[i].shipped + progress[i].cancelled < lines[i].quantity):
            return False
        if <int64_t>progress[i].delivered + progress[i].returned < progress[i].shipped:
            return False
    return refund_due_of(order, more) == 0


# After whatever may have closed an order, opened it again, or left it closed but changed: that is a new closing, since
# the archive may have the order as it was.
cdef void review_closing(State* s, uint32_t handle) noexcept nogil:
    if s.level >= 2:
        review_closing_at(s, handle, s.current)

cdef void review_closing_at(State* s, uint32_t handle, uint64_t sequence) noexcept nogil:
    cdef Order* order = order_at(s, handle)
    if order.flags & ORDER_CLOSED:
        leave_closed(s, handle)
    if order.flags & ORDER_EXPIRED:
        order_more(s, handle)                  # an order that nobody paid has none yet
    if is_closed(order, more_at(s, order.more) if order.more else NULL):
        enter_closed(s, handle, sequence)


cdef void enter_closed(State* s, uint32_t handle, uint64_t sequence) noexcept nogil:
    cdef Order* order = order_at(s, handle)
    order.flags |= ORDER_CLOSED
    more_at(s, order.more).closed_sequence = sequence
    more_at(s, order.more).closed_at_ms = s.now_ms
    count_in(s.whole, closed_digest(s, order))
    list_closed(s, handle)

cdef void list_closed(State* s, uint32_t handle) noexcept nogil:
    list_append(&s.closed, &s.arena, handle, hold_links())
    s.closed_orders += 1

cdef void leave_closed(State* s, uint32_t handle) noexcept nogil:
    cdef Order* order = order_at(s, handle)
    count_out(s.whole, closed_digest(s, order))
    if s.closed_cursor == handle:
        s.closed_cursor = order.hold.prev
    list_remove(&s.closed, &s.arena, handle, hold_links())
    s.closed_orders -= 1
    order.flags &= ~ORDER_CLOSED
    more_at(s, order.more).closed_sequence = 0
    more_at(s, order.more).closed_at_ms = 0


cdef struct Numbered:
    uint64_t sequence
    uint32_t handle

cdef int by_sequence(const void* left, const void* right) noexcept nogil:
    cdef uint64_t a = (<const Numbered*>left).sequence, b = (<const Numbered*>right).sequence
    return -1 if a < b else a > b

# When a log of level 1 is raised: what is closed is listed by the sequence of its acceptance, which stands for that of
# its closing, and stock of retired SKUs leaves the business digest.
cdef void begin_retention(State* s) noexcept nogil:
    cdef Numbered* found = <Numbered*>grown(NULL, (s.orders.count + 1) * sizeof(Numbered))
    cdef uint64_t cursor = 0
    cdef size_t count = 0, i
    cdef uint32_t handle = index_each(&s.orders, &s.arena, &cursor)
    while handle:
        found[count].handle = handle
        found[count].sequence = order_at(s, handle).sequence
        count += 1
        handle = index_each(&s.orders, &s.arena, &cursor)
    sort(found, count, sizeof(Numbered), by_sequence)
    for i in range(count):
        review_closing_at(s, found[i].handle, found[i].sequence)
    free(found)
    cursor = 0
    handle = index_each(&s.skus, &s.arena, &cursor)
    while handle:
        if sku_at(s, handle).status == STATUS_RETIRED:
            leave_business(s, sku_at(s, handle))
        handle = index_each(&s.skus, &s.arena, &cursor)


cdef inline bint window_is_over(State* s, uint32_t handle, int64_t now_ms) noexcept nogil:
    return more_at(s, order_at(s, handle).more).closed_at_ms + s.window_ms <= now_ms

# Whether the head of the list was closed at or before `closed_sequence`, and may go.
cdef bint evict_due(State* s, uint64_t closed_sequence, int64_t now_ms) noexcept nogil:
    cdef uint32_t handle = s.closed.head
    return (handle != 0 and more_at(s, order_at(s, handle).more).closed_sequence <= closed_sequence
            and window_is_over(s, handle, now_ms if now_ms > s.time_ms else s.time_ms))


cdef int evict(State* s, const Evict* c, Reply* reply) noexcept nogil:
    cdef Order* order
    if not evict_due(s, c.closed_sequence, s.now_ms):
        return set_fault(s, CODE_ABORTED, b"NOTHING_TO_EVICT", b"No order was closed by then, and long enough ago.")
    s.steps = 0
    while s.steps < EVICT_STEPS_MAX and evict_due(s, c.closed_sequence, s.now_ms):
        order = order_at(s, s.closed.head)
        s.steps += order.line_count + order.allocation_count + more_at(s, order.more).command_count
        if order.plan:
            s.steps += (<Plan*>arena_at(&s.arena, order.plan)).count
        s.evicted_through = more_at(s, order.more).closed_sequence
        count_in(s.evicted, forget_order(s, s.closed.head))
        s.evicted_orders += 1
    reply.outcome = OUTCOME_APPLIED
    reply.sequence = s.current
    return DECIDED


# Out of memory with all that only it needed. Returns its business digest, which stays in that of the shard.
cdef Hash128 forget_order(State* s, uint32_t handle) noexcept nogil:
    cdef Order* order = order_at(s, handle)
    cdef OrderMore* more = more_at(s, order.more)
    cdef uint32_t shop = order.shop, item = more.commands, following
    cdef Hash128 business = order_business_digest(s, order)
    cdef Command* command
    cdef int i
    count_out(s.whole, order_digest(s, order, business))
    while item:
        command = <Command*>arena_at(&s.arena, item)
        following = command.next
        count_out(s.whole, command_digest(s, order, command))
        arena_free(&s.arena, item, sizeof(Command) + command.id_size)
        item = following
    leave_closed(s, handle)
    index_remove(&s.orders, &s.arena, handle, index_hash(s, shop, id_of_order(order)))
    for i in range(order.line_count):
        sku_at(s, order_lines(order)[i].sku).uses -= 1
        reclaim_sku(s, order_lines(order)[i].sku)
    if order.plan:
        arena_free(&s.arena, order.plan, plan_bytes((<Plan*>arena_at(&s.arena, order.plan)).count))
    arena_free(&s.arena, order.more, more_bytes(order))
    arena_free(&s.arena, handle, order_bytes(
        order.line_count, order.flags & ORDER_HAS_PLACED_AT, order.allocation_count, order.id_size, order.buyer_size))
    shop_at(s, shop).refs -= 1
    reclaim_shop(s, shop)
    return business


cdef int restore(State* s, const Restore* c, Reply* reply) noexcept nogil:
    cdef uint32_t shop = find_shop(s, c.shop_id)
    cdef ArchivedOrder* a = &s.archived
    cdef Hash128 business
    if not read_item_into(c.item, a) or not span_equal(a.shop_id, c.shop_id):
        return set_fault(s, CODE_DATA_LOSS, b"ARCHIVE_DAMAGED", b"The archive gave what is no order of this shop.")
    if shop == 0:
        return not_found(s, RESOURCE_SHOP, c.shop_id, c.shop_id)
    if memcmp(shop_at(s, shop).currency, a.currency, CURRENCY_BYTES) != 0:
        return not_found(s, RESOURCE_ORDER, c.shop_id, a.order_id)    # of an earlier shop of this name
    if find_order(s, shop, a.order_id) or s.evicted_orders == 0:
        return set_fault(s, CODE_ABORTED, b"ORDER_IN_MEMORY", b"The order is in memory, or none was ever evicted.")
    if s.orders.count >= <uint64_t>ORDERS_MAX:
        return exhausted(s, b"ORDER_LIMIT", b"There are as many orders in memory as there may be.")
    if s.skus.count + a.head.line_count > <uint64_t>SKUS_MAX:
        return exhausted(s, b"SKU_LIMIT", b"There are as many SKUs as there may be.")
    if shop_at(s, shop).location_count + count_new_locations(s, shop, a) > <uint32_t>LOCATIONS_PER_SHOP_MAX:
        return exhausted(s, b"LOCATION_LIMIT", b"The shop has as many locations as it may.")
    reply.order = put_back(s, shop, a)
    business = order_business_digest(s, order_at(s, reply.order))
    count_out(s.evicted, business)
    s.evicted_orders -= 1
    count_out(s.business, business)            # finish() counts it in again, with the rest of the order
    list_touched_order(s, reply.order)
    reply.outcome = OUTCOME_APPLIED
    reply.sequence = s.current
    return DECIDED


# Distinct locations of the order that the shop does not have any more.
cdef uint32_t count_new_locations(State* s, uint32_t shop, const ArchivedOrder* a) noexcept nogil:
    cdef Span seen[512]
    cdef uint32_t count = 0, i, k, first = a.head.allocation_count
    for i in range(first + a.later_count):
        seen[count] = a.first[i].location_id if i < first else a.later[i - first].location_id
        if find_location(s, shop, seen[count]):
            continue
        for k in range(count):
            if span_equal(seen[k], seen[count]):
                break
        else:
            count += 1
    return count


# Into memory as it was, at the end of the list of closed orders. The caller made sure that there is room.
cdef uint32_t put_back(State* s, uint32_t shop, const ArchivedOrder* a) noexcept nogil:
    cdef uint32_t handle = arena_new(&s.arena, order_bytes(
        a.head.line_count, a.head.flags & ORDER_HAS_PLACED_AT, a.head.allocation_count, a.order_id.size,
        a.buyer_id.size))
    cdef Order* order = order_at(s, handle)
    cdef Line* lines = order_lines(order)
    cdef OrderMore* more
    cdef Allocation* allocations
    cdef AllocationProgress* done
    cdef Plan* plan
    cdef uint32_t count, i
    memcpy(order, &a.head, sizeof(Order))
    order.shop = shop
    if find_region(s, shop_at(s, shop), a.region) or shop_at(s, shop).region_count < <uint32_t>REGIONS_PER_SHOP_MAX:
        order.region = add_region(s, shop_at(s, shop), a.region)
    memcpy(lines, a.lines, order.line_count * sizeof(Line))
    for i in range(order.line_count):
        lines[i].sku = sku_or_ghost(s, shop, a.skus[i])
        sku_at(s, lines[i].sku).uses += 1
    if order.flags & ORDER_HAS_PLACED_AT:
        order_placed_at(order)[0] = a.placed_at_ms
    place_allocations(s, order, a.first, order.allocation_count, order_first_allocations(order))
    memcpy(<uint8_t*>id_of_order(order).data, a.order_id.data, a.order_id.size)
    memcpy(<uint8_t*>order_buyer(order).data, a.buyer_id.data, a.buyer_id.size)
    index_insert(&s.orders, &s.arena, handle, index_hash(s, shop, a.order_id))
    shop_at(s, shop).refs += 1
    more = order_more(s, handle)
    more.received = a.more.received
    more.refunded = a.more.refunded
    memcpy(more_lines(more), a.progress, order.line_count * sizeof(LineProgress))
    if a.later_count:
        order.plan = arena_new(&s.arena, plan_bytes(a.later_count))
        plan = <Plan*>arena_at(&s.arena, order.plan)
        plan.count = a.later_count
        place_allocations(s, order, a.later, a.later_count, <Allocation*>(<uint8_t*>plan + sizeof(Plan)))
    count = order_allocations(s, order, &allocations, &done)
    memcpy(done, a.done, count * sizeof(AllocationProgress))
    put_back_commands(s, handle, a)
    enter_closed(s, handle, s.current)
    return handle


cdef void put_back_commands(State* s, uint32_t handle, const ArchivedOrder* a) noexcept nogil:
    cdef ItemReader r
    cdef uint32_t i
    cdef int kind, outcome
    cdef Span id
    cdef Hash128 content
    r.at = a.commands
    r.end = a.commands + ARCHIVED_ORDER_BYTES_MAX        # they were read once, and lie within their item
    r.cut = False
    for i in range(a.command_count):
        kind = <int>item_number(&r, 1)
        outcome = <int>item_number(&r, 1)
        id = item_text(&r, 1)
        content = item_hash(&r)
        add_command(s, handle, kind, id, content, item_number(&r, 8), outcome)


cdef void place_allocations(
    State* s, const Order* order, const NamedAllocation* named, uint32_t count, Allocation* into
) noexcept nogil:
    cdef uint32_t i, sku, location
    for i in range(count):
        sku = order_lines(order)[named[i].line].sku
        location = location_or_ghost(s, order.shop, named[i].location_id)
        into[i].line = named[i].line
        into[i].quantity = named[i].quantity
        into[i].row = find_row(s, sku_at(s, sku), location)
        if into[i].row == 0:
            into[i].row = new_row(s, sku, location)
            row_at(s, into[i].row).ghost = 1


# What an order names and is gone comes back as retired, without settings, for as long as an order names it.
cdef uint32_t sku_or_ghost(State* s, uint32_t shop, Span id) noexcept nogil:
    cdef uint32_t handle = find_sku(s, shop, id)
    if handle == 0:
        handle = new_sku(s, shop, id)
        sku_at(s, handle).status = STATUS_RETIRED
        sku_at(s, handle).ghost = 1
        shop_at(s, shop).live -= 1
        count_in(s.whole, sku_digest(s, sku_at(s, handle)))
    return handle

cdef uint32_t location_or_ghost(State* s, uint32_t shop, Span id) noexcept nogil:
    cdef uint32_t handle = find_location(s, shop, id)
    if handle == 0:
        handle = new_location(s, shop, id)
        location_at(s, handle).status = STATUS_RETIRED
        location_at(s, handle).kind = 1
        shop_at(s, shop).live -= 1
        count_in(s.whole, location_digest(s, location_at(s, handle)))
    return handle


# An archived order as it would be in memory, for a look at it, in a shard beside `s` that is empty before and after.
# NULL: s.fault.
cdef State* unpack_aside(State* s, Span item, uint32_t* handle) noexcept nogil:
    cdef State* aside = s.aside
    cdef ArchivedOrder* a = &s.archived
    cdef uint32_t shop
    if not read_item_into(item, a):
        set_fault(s, CODE_DATA_LOSS, b"ARCHIVE_DAMAGED", b"The archive gave what is no order.")
        return NULL
    if aside == NULL:
        aside = <State*>calloc(1, sizeof(State))
        INVARIANT(aside != NULL and state_init(aside, s.log_id, s.seed), "memory for a look at archived orders")
        aside.level = LEVEL_NOW
        s.aside = aside
    shop = new_shop(aside, a.shop_id)
    memcpy(shop_at(aside, shop).currency, a.currency, CURRENCY_BYTES)
    shop_at(aside, shop).status = STATUS_RETIRED         # so that it goes with its order
    handle[0] = put_back(aside, shop, a)
    return aside


# The GetOrderResponse for an archived order of this shop; 0: s.fault. Changes nothing of the state.
cdef int answer_archived(State* s, Span shop, Span item, Buffer* response) noexcept nogil:
    cdef uint32_t handle = 0
    cdef State* aside = unpack_aside(s, item, &handle)
    cdef bint matches
    if aside == NULL:
        return 0
    matches = span_equal(id_of_shop(shop_at(aside, order_at(aside, handle).shop)), shop)
    if matches:
        view_order(aside, order_at(aside, handle), &aside.order_view, False)
        aside.body.size = 0
        encode_order(&aside.body, &aside.order_view)
        encode_get_order_response(response, span_of(aside.body.data, aside.body.size), s.sequence, s.log_id)
    else:
        set_fault(s, CODE_DATA_LOSS, b"ARCHIVE_DAMAGED", b"The archive gave an order of another shop.")
    forget_order(aside, handle)
    return matches


# Of the closed orders whose window is over those closed after `after`: the next one's handle, 0: none. Begins where the
# last look ended, so that what is archived and not yet evicted is not walked again and again.
cdef uint32_t next_closed(State* s, uint64_t after) noexcept nogil:
    cdef uint32_t handle = s.closed_cursor
    if handle == 0 or more_at(s, order_at(s, handle).more).closed_sequence > after:
        handle = s.closed.head
    while handle and more_at(s, order_at(s, handle).more).closed_sequence <= after:
        s.closed_cursor = handle
        handle = order_at(s, handle).hold.next
    return handle if handle and window_is_over(s, handle, s.time_ms) else 0
