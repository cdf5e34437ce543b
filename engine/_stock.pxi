# Stock rows, and the list of what a command touched. An object is touched before its first change: its old digest
# leaves the sums. finish() adds the new ones, once each, and tells them as effects.

# From level 2 on stock of a retired SKU is no business any more, so that it does not matter when it is reclaimed.
cdef inline bint is_business(State* s, const StockRow* row) noexcept nogil:
    return s.level < 2 or sku_at(s, row.sku).status != STATUS_RETIRED

cdef inline void count_row_in(State* s, StockRow* row) noexcept nogil:
    row.digest = stock_digest(s, row)
    count_in(s.whole, row.digest)
    if is_business(s, row):
        count_in(s.business, row.digest)

cdef inline void count_row_out(State* s, const StockRow* row) noexcept nogil:
    count_out(s.whole, row.digest)
    if is_business(s, row):
        count_out(s.business, row.digest)


cdef void touch_row(State* s, uint32_t handle) noexcept nogil:
    cdef StockRow* row = row_at(s, handle)
    if row.touched:
        return
    row.touched = 1
    if row.ghost:
        row.ghost = 0                          # from now on it is there
    else:
        count_row_out(s, row)
    if s.touched_row_count == s.touched_row_capacity:
        s.touched_row_capacity = s.touched_row_capacity * 2 + 64
        s.touched_rows = <uint32_t*>grown(s.touched_rows, s.touched_row_capacity * sizeof(uint32_t))
    s.touched_rows[s.touched_row_count] = handle
    s.touched_row_count += 1


cdef void list_touched_order(State* s, uint32_t handle) noexcept nogil:
    order_at(s, handle).flags |= ORDER_TOUCHED
    if s.touched_order_count == s.touched_order_capacity:
        s.touched_order_capacity = s.touched_order_capacity * 2 + 64
        s.touched_orders = <uint32_t*>grown(s.touched_orders, s.touched_order_capacity * sizeof(uint32_t))
    s.touched_orders[s.touched_order_count] = handle
    s.touched_order_count += 1


cdef void touch_order(State* s, uint32_t handle) noexcept nogil:
    cdef Order* order = order_at(s, handle)
    cdef Hash128 business
    if order.flags & ORDER_TOUCHED:
        return
    business = order_business_digest(s, order)
    count_out(s.business, business)
    count_out(s.whole, order_digest(s, order, business))
    list_touched_order(s, handle)


# Ends a command: new digests into the sums, effects into s.effects.
cdef void finish(State* s) noexcept nogil:
    cdef uint32_t i
    cdef Order* order
    cdef StockRow* row
    cdef Hash128 business
    cdef StockView view
    s.effects.size = 0
    s.touched_last = 0
    for i in range(s.touched_order_count):
        s.touched_last = s.touched_orders[i]
        order = order_at(s, s.touched_orders[i])
        order.flags &= ~ORDER_TOUCHED
        business = order_business_digest(s, order)
        count_in(s.business, business)
        count_in(s.whole, order_digest(s, order, business))
        view_order(s, order, &s.order_view, False)
        s.body.size = 0
        encode_order(&s.body, &s.order_view)
        encode_effect_order(&s.effects, span_of(s.body.data, s.body.size))
    for i in range(s.touched_row_count):
        row = row_at(s, s.touched_rows[i])
        row.touched = 0
        count_row_in(s, row)
        view_stock(s, row, &view)
        s.body2.size = 0
        encode_stock(&s.body2, &view)
        encode_effect_stock(&s.effects, span_of(s.body2.data, s.body2.size))
    s.touched_order_count = s.touched_row_count = 0


cdef void view_stock(State* s, const StockRow* row, StockView* view) noexcept nogil:
    cdef Sku* sku = sku_at(s, row.sku)
    view.shop_id = id_of_shop(shop_at(s, sku.shop))
    view.sku_id = id_of_sku(sku)
    view.location_id = id_of_location(location_at(s, row.location))
    view.on_hand = row.on_hand
    view.reserved = row.reserved
    view.available = row.on_hand - row.reserved
    view.sellable = row_sellable(s, row)
    view.safety_stock = row.safety_stock
    view.received = row.received
    view.adjusted = row.adjusted
    view.moved_in = row.moved_in
    view.moved_out = row.moved_out
    view.returned = row.returned
    view.shipped = row.shipped
    view.written_off = row.written_off


# What orders may take, less what the plan at hand takes already.
cdef inline int64_t row_sellable(State* s, const StockRow* row) noexcept nogil:
    cdef int64_t units = row.on_hand - row.reserved - row.safety_stock - row.taken
    if units <= 0 or location_at(s, row.location).status != STATUS_ACTIVE:
        return 0
    return units


cdef int64_t sku_sellable(State* s, const Sku* sku) noexcept nogil:
    cdef int64_t units = 0
    cdef uint32_t handle = sku.rows
    while handle:
        units += row_sellable(s, row_at(s, handle))
        handle = row_at(s, handle).next
    return units


cdef uint32_t find_row(State* s, const Sku* sku, uint32_t location) noexcept nogil:
    cdef uint32_t handle = sku.rows
    while handle and row_at(s, handle).location != location:
        handle = row_at(s, handle).next
    return handle


cdef int compare_ids(Span a, Span b) noexcept nogil:
    cdef int order = memcmp(a.data, b.data, a.size if a.size < b.size else b.size)
    return order if order != 0 else <int>a.size - <int>b.size


# The row of a SKU at a location, made if there is none; already touched.
cdef uint32_t row_for(State* s, uint32_t sku_handle, uint32_t location_handle) noexcept nogil:
    cdef Sku* sku = sku_at(s, sku_handle)
    cdef uint32_t handle = find_row(s, sku, location_handle)
    if handle == 0:
        handle = new_row(s, sku_handle, location_handle)
        count_row_in(s, row_at(s, handle))
    touch_row(s, handle)
    return handle


# In its place among the rows of its SKU, but not yet in a digest.
cdef uint32_t new_row(State* s, uint32_t sku_handle, uint32_t location_handle) noexcept nogil:
    cdef uint32_t handle = arena_new(&s.arena, sizeof(StockRow))
    cdef Sku* sku = sku_at(s, sku_handle)
    cdef StockRow* row = row_at(s, handle)
    cdef uint32_t* at = &sku.rows
    row.sku = sku_handle
    row.location = location_handle
    row.safety_stock = sku.safety_stock
    while at[0] and compare_ids(id_of_location(location_at(s, row_at(s, at[0]).location)),
                                id_of_location(location_at(s, location_handle))) < 0:
        at = &row_at(s, at[0]).next
    row.next = at[0]
    at[0] = handle
    sku.row_count += 1
    location_at(s, location_handle).rows += 1
    return handle


# The one place where units on hand change: it keeps the counts by which retirement is decided.
cdef void set_on_hand(State* s, StockRow* row, int64_t units) noexcept nogil:
    cdef int change = (1 if units > 0 else 0) - (1 if row.on_hand > 0 else 0)
    INVARIANT(row.touched and units >= row.reserved, "on_hand below reserved, or an untouched row")
    row.on_hand = units
    sku_at(s, row.sku).stocked_rows += change
    location_at(s, row.location).stocked_rows += change


cdef void reserve(State* s, uint32_t handle, int64_t units) noexcept nogil:
    cdef StockRow* row = row_at(s, handle)
    touch_row(s, handle)
    row.reserved += units
    INVARIANT(0 <= row.reserved <= row.on_hand, "reserved outside of on_hand")


# AdjustStock. Growth of what may be sold is matched to backorders by the caller.
cdef int adjust_stock(State* s, const StockCommand* c, Reply* reply) noexcept nogil:
    cdef uint32_t shop, sku, location
    cdef int64_t delta, on_hand = 0, reserved = 0
    cdef StockRow* row = NULL
    cdef int verdict = begin_stock_command(s, ADJUST_STOCK, c, &shop, &sku, reply)
    if verdict != DECIDED:
        return verdict
    location = find_location(s, shop, c.location_id)
    if location == 0:
        return not_found(s, RESOURCE_LOCATION, c.head.shop_id, c.location_id)
    if remembered_full(s):
        return exhausted(s, b"IDEMPOTENCY_TABLE_FULL", b"The table of remembered ids is full; retry later.")
    reply.row = find_row(s, sku_at(s, sku), location)
    if reply.row:
        row = row_at(s, reply.row)
        on_hand, reserved = row.on_hand, row.reserved
    delta = c.quantity - on_hand if c.kind == 3 else c.quantity
    if (on_hand + delta > STOCK_MAX or (row != NULL and c.kind == 1 and row.received + delta > STOCK_MAX)
            or (row != NULL and c.kind != 1 and not -STOCK_MAX <= row.adjusted + delta <= STOCK_MAX)):
        return exhausted(s, b"STOCK_LIMIT", b"A stock counter would pass its bound.")
    if too_old(s, c.first_sent_at_ms):
        reply.outcome = OUTCOME_RETRY_TOO_OLD
    elif sku_at(s, sku).status == STATUS_RETIRED or location_at(s, location).status == STATUS_RETIRED:
        reply.outcome = OUTCOME_ILLEGAL_STATE
    elif on_hand + delta < reserved:
        reply.outcome = OUTCOME_INSUFFICIENT_STOCK
    else:
        reply.row = row_for(s, sku, location)
        row = row_at(s, reply.row)
        if c.kind == 1:
            row.received += delta
        else:
            row.adjusted += delta
        set_on_hand(s, row, on_hand + delta)
        if delta > 0:
            queue_match(s, sku)
    remember(s, shop, ADJUST_STOCK, c.id, &c.head, reply)
    return DECIDED


cdef int transfer_stock(State* s, const StockCommand* c, Reply* reply) noexcept nogil:
    cdef uint32_t shop, sku, source, target
    cdef StockRow* row
    cdef StockRow* to_row
    cdef int verdict = begin_stock_command(s, TRANSFER_STOCK, c, &shop, &sku, reply)
    if verdict != DECIDED:
        return verdict
    source = find_location(s, shop, c.location_id)
    if source == 0:
        return not_found(s, RESOURCE_LOCATION, c.head.shop_id, c.location_id)
    target = find_location(s, shop, c.to_location_id)
    if target == 0:
        return not_found(s, RESOURCE_LOCATION, c.head.shop_id, c.to_location_id)
    if remembered_full(s):
        return exhausted(s, b"IDEMPOTENCY_TABLE_FULL", b"The table of remembered ids is full; retry later.")
    reply.row = find_row(s, sku_at(s, sku), source)
    reply.to_row = find_row(s, sku_at(s, sku), target)
    row = row_at(s, reply.row)
    to_row = row_at(s, reply.to_row)
    if ((reply.row and row.moved_out + c.quantity > STOCK_MAX) or (reply.to_row and (
            to_row.moved_in + c.quantity > STOCK_MAX or to_row.on_hand + c.quantity > STOCK_MAX))):
        return exhausted(s, b"STOCK_LIMIT", b"A stock counter would pass its bound.")
    if too_old(s, c.first_sent_at_ms):
        reply.outcome = OUTCOME_RETRY_TOO_OLD
    elif (sku_at(s, sku).status == STATUS_RETIRED or location_at(s, source).status == STATUS_RETIRED
            or location_at(s, target).status == STATUS_RETIRED):
        reply.outcome = OUTCOME_ILLEGAL_STATE
    elif reply.row == 0 or row.on_hand - row.reserved < c.quantity:
        reply.outcome = OUTCOME_INSUFFICIENT_STOCK
    else:
        touch_row(s, reply.row)
        row.moved_out += c.quantity
        set_on_hand(s, row, row.on_hand - c.quantity)
        reply.to_row = row_for(s, sku, target)
        to_row = row_at(s, reply.to_row)
        to_row.moved_in += c.quantity
        set_on_hand(s, to_row, to_row.on_hand + c.quantity)
        queue_match(s, sku)
    remember(s, shop, TRANSFER_STOCK, c.id, &c.head, reply)
    return DECIDED


# What both begin with: the shop, a known id, the SKU. DECIDED: go on.
cdef int begin_stock_command(
    State* s, int kind, const StockCommand* c, uint32_t* shop, uint32_t* sku, Reply* reply
) noexcept nogil:
    cdef int verdict
    shop[0] = find_shop(s, c.head.shop_id)
    if shop[0] == 0:
        return not_found(s, RESOURCE_SHOP, c.head.shop_id, c.head.shop_id)
    sku[0] = find_sku(s, shop[0], c.sku_id)
    verdict = recall(s, shop[0], kind, c.id, index_hash(s, shop[0], c.id), &c.head, reply)
    if verdict == KNOWN and sku[0]:
        reply.row = find_row(s, sku_at(s, sku[0]), find_location(s, shop[0], c.location_id))
        if kind == TRANSFER_STOCK:
            reply.to_row = find_row(s, sku_at(s, sku[0]), find_location(s, shop[0], c.to_location_id))
    if verdict:
        return verdict
    if sku[0] == 0:
        return not_found(s, RESOURCE_SKU, c.head.shop_id, c.sku_id)
    reply.outcome = OUTCOME_APPLIED
    reply.sequence = s.current
    return DECIDED
