# One command or read, from request bytes to answer, record and effects. What it does stands in the stages; here is
# their order.

cdef enum:
    RECORD_HEAD_BYTES = 24
    # What one record and its answer may take: an order touches at most its rows, a tick or match a bounded number of
    # steps.
    LEVEL_NOW = 2                              # LEVEL_MAX
    EXPECTED_ORDER_BYTES = 144

cdef int state_init(State* s, const uint8_t* log_id, uint64_t seed) noexcept nogil:
    if not arena_init(&s.arena):
        return 0
    if not (index_init(&s.shops, False) and index_init(&s.locations, False) and index_init(&s.skus, False)
            and index_init(&s.orders, True) and index_init(&s.remembered, False) and index_init(&s.usages, False)):
        return 0
    memcpy(s.log_id, log_id, LOG_ID_BYTES)
    s.seed = seed
    return 1


# Memory for so many more one-line orders with ids of ordinary length.
cdef void expect_orders(State* s, uint64_t count) noexcept nogil:
    populate(s.arena.base, s.arena.bump << 3, s.arena.reserved_bytes, count * EXPECTED_ORDER_BYTES)
    populate(<uint8_t*>s.orders.lines, s.orders.buckets * sizeof(IndexLine), INDEX_BYTES,
             count // INDEX_LINE_LOAD * sizeof(IndexLine))


cdef void state_destroy(State* s) noexcept nogil:
    cdef uint64_t cursor = 0
    cdef uint32_t handle
    cdef int i
    handle = index_each(&s.shops, &s.arena, &cursor) if s.shops.lines != NULL else 0
    while handle:
        free(shop_at(s, handle).costs)
        free(shop_at(s, handle).regions)
        free(shop_at(s, handle).locations)
        handle = index_each(&s.shops, &s.arena, &cursor)
    index_destroy(&s.shops)
    index_destroy(&s.locations)
    index_destroy(&s.skus)
    index_destroy(&s.orders)
    index_destroy(&s.remembered)
    index_destroy(&s.usages)
    free(s.touched_orders)
    free(s.touched_rows)
    buffer_free(&s.scratch)
    buffer_free(&s.body)
    buffer_free(&s.body2)
    buffer_free(&s.effects)
    buffer_free(&s.record)
    buffer_free(&s.response)
    for i in range(GROUP):
        buffer_free(&s.group_scratch[i])
    if s.aside != NULL:
        state_destroy(s.aside)
        free(s.aside)
    arena_destroy(&s.arena)


# FAULT: s.fault. DECIDED: s.record, and the answer in s.response. KNOWN: the answer alone; so for reads.
cdef int execute(State* s, int method, const uint8_t* data, size_t size, int64_t now_ms) noexcept nogil:
    cdef Reply reply
    cdef int verdict
    s.scratch.size = 0
    verdict = carry_out(s, method, data, size, NULL, now_ms, &reply)
    if verdict != FAULT:
        answer(s, method, verdict, &reply)
    return verdict


# Without the answer. `order`: the PlaceOrder, where it is decoded already.
cdef int carry_out(
    State* s, int method, const uint8_t* data, size_t size, PlaceOrder* order, int64_t now_ms, Reply* reply
) noexcept nogil:
    cdef Span command
    cdef int verdict
    memset(reply, 0, sizeof(Reply))
    reply.line = -1
    s.response.size = 0
    s.fault.code = CODE_OK
    s.queued_match = 0
    s.now_ms = now_ms if now_ms > s.time_ms else s.time_ms
    s.current = s.sequence + 1
    verdict = decide(s, method, data, size, order, reply, &command)
    if verdict == DECIDED:
        s.time_ms = s.now_ms
        s.sequence = s.current
        finish(s)
        write_record(s, method, reply.outcome, command)
    return verdict


cdef int decide(
    State* s, int method, const uint8_t* data, size_t size, PlaceOrder* order, Reply* reply, Span* command
) noexcept nogil:
    cdef int verdict = FAULT
    if method == PLACE_ORDER:
        if order == NULL and decode_place_order(data, size, &s.place_order, &s.scratch, &s.fault):
            order = &s.place_order
        if order != NULL:
            command[0] = order.head.canonical
            verdict = place_order(s, order, reply)
    elif PAY_ORDER <= method <= SETTLE_REFUND:
        if decode_order_command(method, data, size, &s.order_command, &s.scratch, &s.fault):
            command[0] = s.order_command.head.canonical
            verdict = handle_order_command(s, method, &s.order_command, reply)
    elif method == PUT_SHOP:
        if decode_put_shop(data, size, &s.put_shop, &s.scratch, &s.fault):
            command[0] = s.put_shop.head.canonical
            verdict = put_shop(s, &s.put_shop, reply)
    elif method == PUT_LOCATION:
        if decode_put_location(data, size, &s.put_location, &s.scratch, &s.fault):
            command[0] = s.put_location.head.canonical
            verdict = put_location(s, &s.put_location, reply)
            run_matches_if(s, verdict)
    elif method == PUT_SKU:
        if decode_put_sku(data, size, &s.put_sku, &s.scratch, &s.fault):
            command[0] = s.put_sku.head.canonical
            verdict = put_sku(s, &s.put_sku, reply)
            run_matches_if(s, verdict)
    elif method == ADJUST_STOCK or method == TRANSFER_STOCK:
        if decode_stock_command(method, data, size, &s.stock_command, &s.scratch, &s.fault):
            command[0] = s.stock_command.head.canonical
            verdict = (adjust_stock(s, &s.stock_command, reply) if method == ADJUST_STOCK
                       else transfer_stock(s, &s.stock_command, reply))
            run_matches_if(s, verdict)
    elif method == GET_ORDER or method == GET_STOCK:
        if decode_get(method, data, size, &s.get_request, &s.fault):
            verdict = find_for_read(s, method, &s.get_request, reply)
    elif method == TICK:
        command[0] = span_of(s.log_id, 0)
        reply.outcome = OUTCOME_APPLIED
        tick(s)
        verdict = DECIDED
    elif method == ACTIVATE:
        if decode_activate(data, size, &s.activate, &s.scratch, &s.fault):
            command[0] = s.activate.canonical
            verdict = activate(s, &s.activate, reply)
    elif method == EVICT and s.level >= 2:
        if decode_evict(data, size, &s.evict, &s.scratch, &s.fault):
            command[0] = s.evict.canonical
            verdict = evict(s, &s.evict, reply)
    elif method == RESTORE and s.level >= 2:
        if decode_restore(data, size, &s.restore, &s.scratch, &s.fault):
            command[0] = s.restore.canonical
            verdict = restore(s, &s.restore, reply)
    else:
        verdict = set_fault(s, CODE_UNIMPLEMENTED, b"UNKNOWN_METHOD", b"There is no such method.")
    return verdict


cdef int handle_order_command(State* s, int method, const OrderCommand* c, Reply* reply) noexcept nogil:
    cdef int verdict
    if method == PAY_ORDER:
        return pay_order(s, c, reply)
    if method == SHIP_ORDER:
        return ship_order(s, c, reply)
    if method == DELIVER_ORDER:
        return deliver_order(s, c, reply)
    if method == SETTLE_REFUND:
        return settle_refund(s, c, reply)
    verdict = cancel_order(s, c, reply) if method == CANCEL_ORDER else return_order(s, c, reply)
    run_matches_if(s, verdict)
    return verdict


# Stock grew only if something was put on the list; what a full table refused has changed nothing.
cdef inline void run_matches_if(State* s, int verdict) noexcept nogil:
    if verdict == DECIDED and s.queued_match:
        run_matches(s)


cdef int activate(State* s, const Activate* c, Reply* reply) noexcept nogil:
    if c.level <= s.level:
        return set_fault(s, CODE_ABORTED, b"LEVEL_NOT_RAISED", b"The level must rise.")
    if s.level == 1 and c.level >= 2:
        begin_retention(s)                     # before the level says that it was
    s.level = c.level
    s.window_ms = c.window_ms
    s.remembered_max = c.entries_max
    reply.outcome = OUTCOME_APPLIED
    reply.sequence = s.current
    return DECIDED


cdef int find_for_read(State* s, int method, const GetRequest* request, Reply* reply) noexcept nogil:
    cdef uint32_t shop = find_shop(s, request.shop_id)
    if shop == 0:
        return not_found(s, RESOURCE_SHOP, request.shop_id, request.shop_id)
    if method == GET_ORDER:
        reply.order = find_order(s, shop, request.id)
        if reply.order == 0:
            return not_found(s, RESOURCE_ORDER, request.shop_id, request.id)
    else:
        reply.row = find_sku(s, shop, request.id)
        if reply.row == 0:
            return not_found(s, RESOURCE_SKU, request.shop_id, request.id)
    return KNOWN


# The layout is that of docs/log_format.md.
cdef void write_record(State* s, int kind, int outcome, Span command) noexcept nogil:
    cdef size_t size = RECORD_HEAD_BYTES + command.size + s.effects.size
    cdef uint8_t* at
    INVARIANT(size <= <size_t>RECORD_BYTES_MAX, "a record passes its bound")
    s.record.size = 0
    at = buffer_reserve(&s.record, size)
    at = d32(at, <uint32_t>size)
    at = d8(at, <uint8_t>kind)
    at = d8(at, <uint8_t>outcome)
    at = d16(at, <uint16_t>s.level)
    at = d32(at, 0)
    at = d32(at, command.size)
    at = d64(at, s.time_ms)
    at = put_bytes(at, command.data, command.size)
    put_bytes(at, s.effects.data, s.effects.size)      # both may be NULL, which memcpy does not take
    s.record.size = size


cdef void answer(State* s, int method, int verdict, const Reply* reply) noexcept nogil:
    if method == PLACE_ORDER or PAY_ORDER <= method <= SETTLE_REFUND or method == GET_ORDER:
        answer_order(s, method, verdict, reply)
    elif method == ADJUST_STOCK or method == TRANSFER_STOCK:
        answer_stock(s, method, reply)
    elif PUT_SHOP <= method <= PUT_SKU:
        encode_put_response(&s.response, reply.outcome, reply.revision, reply.sequence, s.log_id)
    elif method == GET_STOCK:
        answer_get_stock(s, reply.row)


cdef void answer_order(State* s, int method, int verdict, const Reply* reply) noexcept nogil:
    cdef Span body = span_of(NULL, 0)
    if verdict == DECIDED and s.touched_last == reply.order and reply.order:
        body = span_of(s.body.data, s.body.size)     # what finish() told as its last effect on an order
    elif reply.order:
        view_order(s, order_at(s, reply.order), &s.order_view, method == PLACE_ORDER)
        s.body.size = 0
        encode_order(&s.body, &s.order_view)
        body = span_of(s.body.data, s.body.size)
    if method == GET_ORDER:
        encode_get_order_response(&s.response, body, s.sequence, s.log_id)
    else:
        encode_order_response(&s.response, reply.outcome, body, reply.sequence, reply.duplicate, s.log_id, reply.line)


cdef void answer_stock(State* s, int method, const Reply* reply) noexcept nogil:
    cdef const StockCommand* c = &s.stock_command
    s.body.size = s.body2.size = 0
    encode_level(s, &s.body, reply.row, c.head.shop_id, c.sku_id, c.location_id)
    if method == TRANSFER_STOCK:
        encode_level(s, &s.body2, reply.to_row, c.head.shop_id, c.sku_id, c.to_location_id)
    encode_stock_response(&s.response, method, reply.outcome, span_of(s.body.data, s.body.size),
                          span_of(s.body2.data, s.body2.size), reply.sequence, reply.duplicate, s.log_id)


# A row that does not exist is shown with zeros.
cdef void encode_level(State* s, Buffer* out, uint32_t row, Span shop, Span sku, Span location) noexcept nogil:
    cdef StockView view
    memset(&view, 0, sizeof(StockView))
    view.shop_id = shop
    view.sku_id = sku
    view.location_id = location
    if row:
        view_stock(s, row_at(s, row), &view)
    encode_stock(out, &view)


cdef void answer_get_stock(State* s, uint32_t sku_handle) noexcept nogil:
    cdef Sku* sku = sku_at(s, sku_handle)
    cdef Span bodies[256]
    cdef size_t ends[257]
    cdef StockTotals totals
    cdef StockView view
    cdef uint32_t row = sku.rows, count = 0, i
    memset(&totals, 0, sizeof(StockTotals))
    totals.backordered = sku.waiting
    s.body.size = 0
    ends[0] = 0
    while row:
        view_stock(s, row_at(s, row), &view)
        totals.on_hand += view.on_hand
        totals.reserved += view.reserved
        totals.available += view.available
        totals.sellable += view.sellable
        encode_stock(&s.body, &view)
        count += 1
        ends[count] = s.body.size
        row = row_at(s, row).next
    for i in range(count):
        bodies[i] = span_of(s.body.data + ends[i], ends[i + 1] - ends[i])
    encode_get_stock_response(&s.response, &totals, bodies, count, s.sequence, s.log_id)


# Replays a record: 1 if outcome, time and effects are those in it.
# `order`: its PlaceOrder, where it is decoded already.
cdef int replay(State* s, const uint8_t* record, size_t size, PlaceOrder* order, const char** reason) noexcept nogil:
    cdef Reply reply
    cdef uint32_t command_size
    cdef int64_t time_ms
    cdef uint16_t level
    if size < RECORD_HEAD_BYTES:
        reason[0] = b"the record is shorter than its head"
        return 0
    memcpy(&level, record + 6, 2)
    memcpy(&command_size, record + 12, 4)
    memcpy(&time_ms, record + 16, 8)
    if level > LEVEL_NOW:
        reason[0] = b"the record is of a newer level than this program knows"
        return 0
    if command_size > size - RECORD_HEAD_BYTES:
        reason[0] = b"the command is longer than its record"
        return 0
    s.scratch.size = 0
    if time_ms < s.time_ms:
        reason[0] = b"the logged time falls"
        return 0
    if (record[4] >= COMMAND_KINDS or record[4] == 0 or carry_out(
            s, record[4], record + RECORD_HEAD_BYTES, command_size, order, time_ms, &reply) != DECIDED):
        reason[0] = b"the command is not decided now, though it was"
        return 0
    if s.record.size != size or memcmp(s.record.data, record, size) != 0:
        reason[0] = b"outcome or effects are not those that were logged"
        return 0
    return 1
