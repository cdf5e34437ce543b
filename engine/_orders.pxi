# PlaceOrder: one order against the inventory, all of it or nothing.

cdef uint32_t find_order(State* s, uint32_t shop, Span id) noexcept nogil:
    return find_order_by(s, shop, id, index_hash(s, shop, id))


cdef uint32_t find_order_by(State* s, uint32_t shop, Span id, uint32_t hash) noexcept nogil:
    cdef Probe probe = index_probe(&s.orders, hash)
    cdef uint32_t handle = probe_next(&s.arena, &probe)
    while handle and not (order_at(s, handle).shop == shop and span_equal(id_of_order(order_at(s, handle)), id)):
        handle = probe_next(&s.arena, &probe)
    return handle


cdef int place_order(State* s, const PlaceOrder* c, Reply* reply) noexcept nogil:
    cdef uint32_t shop = find_shop(s, c.head.shop_id)
    cdef Demand demand
    cdef Need needs[64]
    cdef int64_t amounts[64]
    cdef uint32_t count, hash
    cdef int verdict
    if shop == 0:
        return not_found(s, RESOURCE_SHOP, c.head.shop_id, c.head.shop_id)
    hash = index_hash(s, shop, c.order_id)
    reply.order = find_order_by(s, shop, c.order_id, hash)
    if reply.order:
        return repeat_order(s, c, reply)
    verdict = recall(s, shop, PLACE_ORDER, c.order_id, hash, &c.head, reply)
    if verdict:
        return verdict
    if not resolve_lines(s, c, shop, &demand) or not price_lines(s, c, &demand, amounts):
        return FAULT
    if s.orders.count >= <uint64_t>ORDERS_MAX:
        return exhausted(s, b"ORDER_LIMIT", b"There are as many orders in memory as there may be.")
    count = sum_needs(s, &demand, needs)
    reply.sequence = s.current
    reply.outcome = first_refusal(s, c, &demand, needs, count, &reply.line)
    if reply.outcome == 0:
        reply.outcome = allocate(s, &demand, needs, count, &reply.line)
    if reply.outcome == OUTCOME_PLACED or reply.outcome == OUTCOME_BACKORDERED:
        reply.order = accept(s, c, hash, &demand, needs, count, amounts, reply.outcome)
        return DECIDED
    if remembered_full(s):
        return exhausted(s, b"IDEMPOTENCY_TABLE_FULL", b"The table of remembered ids is full; retry later.")
    remember(s, shop, PLACE_ORDER, c.order_id, &c.head, reply)
    return DECIDED


cdef int repeat_order(State* s, const PlaceOrder* c, Reply* reply) noexcept nogil:
    cdef Order* order = order_at(s, reply.order)
    if not hash_equal(order.content, content_of(&c.head)):
        return conflict(s, c.head.shop_id, c.order_id)
    reply.outcome = order.outcome
    reply.sequence = order.sequence
    reply.duplicate = True
    return KNOWN


cdef int resolve_lines(State* s, const PlaceOrder* c, uint32_t shop_handle, Demand* demand) noexcept nogil:
    cdef Shop* shop = shop_at(s, shop_handle)
    cdef uint32_t i
    demand.shop = shop_handle
    demand.count = c.line_count
    demand.region = find_region(s, shop, c.region)
    demand.strategy = c.strategy if c.strategy else shop.strategy
    demand.split = c.allow_split if c.allow_split >= 0 else shop.allow_split
    for i in range(c.line_count):
        demand.skus[i] = find_sku(s, shop_handle, c.lines[i].sku_id)
        demand.units[i] = c.lines[i].quantity
        if demand.skus[i] == 0:
            not_found(s, RESOURCE_SKU, c.head.shop_id, c.lines[i].sku_id)
            return 0
    return 1


cdef int price_lines(State* s, const PlaceOrder* c, const Demand* demand, int64_t* amounts) noexcept nogil:
    cdef int64_t total = 0, price
    cdef uint32_t i
    for i in range(c.line_count):
        price = sku_at(s, demand.skus[i]).price
        if c.lines[i].has_amount:
            amounts[i] = c.lines[i].amount
        elif price > AMOUNT_MINOR_MAX // c.lines[i].quantity:
            invalid(s, b"lines", i, b"quantity", b"Price x quantity passes the greatest amount.")
            return 0
        else:
            amounts[i] = price * c.lines[i].quantity
        total += amounts[i]
    if total > AMOUNT_MINOR_MAX:
        invalid(s, b"lines", -1, NULL, b"The lines' amounts pass the greatest amount.")
        return 0
    return 1


# The refusals that come before stock is looked at, in the order of their precedence; 0: none.
cdef int first_refusal(
    State* s, const PlaceOrder* c, const Demand* demand, const Need* needs, uint32_t count, int* line
) noexcept nogil:
    cdef uint32_t i
    cdef Sku* sku
    if too_old(s, c.first_sent_at_ms):
        return OUTCOME_RETRY_TOO_OLD
    if shop_at(s, demand.shop).status != STATUS_ACTIVE:
        return OUTCOME_NOT_FOR_SALE
    for i in range(demand.count):
        if sku_at(s, demand.skus[i]).status != STATUS_ACTIVE:
            line[0] = i
            return OUTCOME_NOT_FOR_SALE
    for i in range(demand.count):
        if c.lines[i].has_expected_price and c.lines[i].expected_price != sku_at(s, demand.skus[i]).price:
            line[0] = i
            return OUTCOME_PRICE_CHANGED
    for i in range(count):
        sku = sku_at(s, needs[i].sku)
        if sku.buyer_limit_per_order and needs[i].units > sku.buyer_limit_per_order:
            line[0] = needs[i].first_line
            return OUTCOME_BUYER_LIMIT
        if passes_window(s, needs[i].sku, c.buyer_id, needs[i].units):
            line[0] = needs[i].first_line
            return OUTCOME_BUYER_LIMIT
    return 0


# PLACED with s.plan, BACKORDERED, or INSUFFICIENT_STOCK.
cdef int allocate(State* s, const Demand* demand, Need* needs, uint32_t count, int* line) noexcept nogil:
    cdef uint32_t i, short_count = 0
    cdef Sku* sku
    cdef bint short
    if may_take_all(s, 0, needs, count) and plan_order(s, demand):
        count_passes(s, needs, count)
        return OUTCOME_PLACED
    for i in range(count):
        if needs[i].units > needs[i].may_take or needs[i].units > sku_sellable(s, sku_at(s, needs[i].sku)):
            short_count += 1
    for i in range(count):
        sku = sku_at(s, needs[i].sku)
        short = (short_count == 0 or needs[i].units > needs[i].may_take or needs[i].units > sku_sellable(s, sku))
        if short and (not sku.backorder_allowed or (
                sku.backorder_limit and sku.waiting + needs[i].units > sku.backorder_limit)):
            line[0] = needs[i].first_line
            return OUTCOME_INSUFFICIENT_STOCK
    return OUTCOME_BACKORDERED


cdef uint32_t accept(
    State* s, const PlaceOrder* c, uint32_t hash, const Demand* demand, const Need* needs, uint32_t count,
    const int64_t* amounts, int outcome
) noexcept nogil:
    cdef uint32_t planned = s.plan_count if outcome == OUTCOME_PLACED else 0, handle, i
    cdef Order* order
    cdef Line* lines
    handle = arena_new(&s.arena, order_bytes(c.line_count, c.placed_at_ms != 0, planned, c.order_id.size,
                                             c.buyer_id.size))
    order = order_at(s, handle)
    order.content = content_of(&c.head)
    order.sequence = s.current
    order.accepted_at_ms = s.now_ms
    order.shop = demand.shop
    order.region = demand.region
    order.allocation_count = <uint16_t>planned
    order.line_count = <uint8_t>c.line_count
    order.id_size = <uint8_t>c.order_id.size
    order.buyer_size = <uint8_t>c.buyer_id.size
    order.flags = ((ORDER_SPLIT if demand.split else 0) | (ORDER_HAS_PLACED_AT if c.placed_at_ms else 0)
                   | (ORDER_WAITING if outcome == OUTCOME_BACKORDERED else 0))
    order.outcome = <uint8_t>outcome
    order.strategy = demand.strategy
    order.priority_class = c.priority_class
    lines = order_lines(order)
    for i in range(c.line_count):
        lines[i].sku = demand.skus[i]
        lines[i].quantity = c.lines[i].quantity
        lines[i].amount = amounts[i]
        sku_at(s, demand.skus[i]).uses += 1
    if c.placed_at_ms:
        order_placed_at(order)[0] = c.placed_at_ms
    memcpy(order_first_allocations(order), s.plan, planned * sizeof(Allocation))
    memcpy(<uint8_t*>id_of_order(order).data, c.order_id.data, c.order_id.size)
    memcpy(<uint8_t*>order_buyer(order).data, c.buyer_id.data, c.buyer_id.size)
    index_insert(&s.orders, &s.arena, handle, hash)
    shop_at(s, demand.shop).refs += 1
    list_touched_order(s, handle)
    for i in range(planned):
        reserve(s, s.plan[i].row, s.plan[i].quantity)
    count_purchases(s, handle, needs, count)
    if outcome == OUTCOME_PLACED:
        begin_hold(s, handle)
    else:
        s.waiting_orders += 1
        enter_queues(s, handle, needs, count)
    return handle
