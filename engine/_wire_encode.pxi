# Views -> messages, as google.protobuf would write them: fields ascending, defaults left out.
#
# Each function appends to a buffer. A span that is given must not lie in that buffer, which may move as it grows.
# A body is a message without tag and size.

cdef extern from *:
    """
    enum {
        /* Upper bounds of what a part of a message takes: an id 66 bytes, a 32-bit number 6, a 64-bit one 11 or 12. */
        LINE_BYTES = 66 + 11 + 7 * 6,
        ALLOCATION_BYTES = 66 + 4 * 6,
        ORDER_HEAD_BYTES = 3 * 66 + 2 * 6 + 9 * 12 + 5,
        STOCK_BYTES = 3 * 66 + 12 * 11,
        RESPONSE_HEAD_BYTES = 128,
    };
    /* Both have a size of one byte, which lets them be written in place. */
    _Static_assert(LINE_BYTES < 128 && ALLOCATION_BYTES < 128, "a line or an allocation has a size of one byte");

    /* Of one SKU over its locations. */
    typedef struct { int64_t on_hand, reserved, available, sellable, backordered; } StockTotals;
    """
    const int LINE_BYTES, ALLOCATION_BYTES, ORDER_HEAD_BYTES, STOCK_BYTES, RESPONSE_HEAD_BYTES

    ctypedef struct StockTotals:
        int64_t on_hand, reserved, available, sellable, backordered


cdef inline uint8_t* put_line(uint8_t* at, const LineView* line) noexcept nogil:
    cdef uint8_t* body = begin_message(at, 10)
    at = put_id(body, 1, line.sku_id)
    at = put_number(at, 2, line.quantity)
    at = put_number(at, 3, <uint64_t>line.amount)
    at = put_number(at, 4, line.open)
    at = put_number(at, 5, line.shipped)
    at = put_number(at, 6, line.cancelled)
    at = put_number(at, 7, line.delivered)
    at = put_number(at, 8, line.returned)
    at = put_number(at, 9, line.written_off)
    return end_message(body, at)


cdef inline uint8_t* put_allocation(uint8_t* at, const AllocationView* allocation) noexcept nogil:
    cdef uint8_t* body = begin_message(at, 11)
    at = put_number(body, 1, allocation.line_index)
    at = put_id(at, 2, allocation.location_id)
    at = put_number(at, 3, allocation.quantity)
    at = put_number(at, 4, allocation.shipped)
    at = put_number(at, 5, allocation.released)
    return end_message(body, at)


# The body of an Order.
cdef void encode_order(Buffer* out, const OrderView* order) noexcept nogil:
    cdef uint32_t i
    cdef uint8_t* at = buffer_reserve(
        out,
        ORDER_HEAD_BYTES + <size_t>order.line_count * (2 + LINE_BYTES)
        + <size_t>order.allocation_count * (2 + ALLOCATION_BYTES)
    )
    at = put_id(at, 1, order.order_id)
    at = put_id(at, 2, order.shop_id)
    at = put_id(at, 3, order.buyer_id)
    at = put_number(at, 4, order.state)
    at = put_number(at, 5, order.payment_state)
    at = put_number(at, 6, <uint64_t>order.amount)
    at = put_number(at, 7, <uint64_t>order.received)
    at = put_number(at, 8, <uint64_t>order.refunded)
    at = put_number(at, 9, <uint64_t>order.refund_due)
    for i in range(order.line_count):
        at = put_line(at, &order.lines[i])
    for i in range(order.allocation_count):
        at = put_allocation(at, &order.allocations[i])
    at = put_number(at, 12, <uint64_t>order.accepted_at_ms)
    at = put_number(at, 13, <uint64_t>order.expires_at_ms)
    at = put_number(at, 14, <uint64_t>order.placed_at_ms)
    at = put_body(at, 15, span_of(order.currency, CURRENCY_BYTES))
    if order.sequence != 0:
        at[0] = 0x80  # field 16, a varint: the first tag of two bytes
        at[1] = 0x01
        at = put_varint(at + 2, order.sequence)
    buffer_end(out, at)


# The body of a StockLevel.
cdef void encode_stock(Buffer* out, const StockView* stock) noexcept nogil:
    cdef uint8_t* at = buffer_reserve(out, STOCK_BYTES)
    at = put_id(at, 1, stock.shop_id)
    at = put_id(at, 2, stock.sku_id)
    at = put_id(at, 3, stock.location_id)
    at = put_number(at, 4, <uint64_t>stock.on_hand)
    at = put_number(at, 5, <uint64_t>stock.reserved)
    at = put_number(at, 6, <uint64_t>stock.available)
    at = put_number(at, 7, <uint64_t>stock.sellable)
    at = put_number(at, 8, <uint64_t>stock.safety_stock)
    at = put_number(at, 9, <uint64_t>stock.received)
    at = put_number(at, 10, <uint64_t>stock.adjusted)
    at = put_number(at, 11, <uint64_t>stock.moved_in)
    at = put_number(at, 12, <uint64_t>stock.moved_out)
    at = put_number(at, 13, <uint64_t>stock.returned)
    at = put_number(at, 14, <uint64_t>stock.shipped)
    at = put_number(at, 15, <uint64_t>stock.written_off)
    buffer_end(out, at)


# Fields 1 to 5 of every answer to an order or stock command; a body whose data is NULL is left out, and so is a log_id
# that is NULL.
cdef inline uint8_t* put_answer(
    uint8_t* at, int outcome, Span body, uint64_t sequence, bint duplicate, const uint8_t* log_id
) noexcept nogil:
    at = put_number(at, 1, <uint64_t>outcome)
    if body.data != NULL:
        at = put_body(at, 2, body)
    at = put_number(at, 3, sequence)
    at = put_number(at, 4, duplicate)
    return put_log_id(at, 5, log_id)


# PlaceOrderResponse and the answers to the six commands on an order. refused_line -1: absent, as in the latter always.
cdef void encode_order_response(
    Buffer* out, int outcome, Span order_body, uint64_t sequence, bint duplicate, const uint8_t* log_id,
    int refused_line
) noexcept nogil:
    cdef uint8_t* at = buffer_reserve(out, RESPONSE_HEAD_BYTES + <size_t>order_body.size)
    at = put_answer(at, outcome, order_body, sequence, duplicate, log_id)
    if refused_line >= 0:
        at = put_number_always(at, 6, <uint64_t>refused_line)
    buffer_end(out, at)


# AdjustStockResponse, and TransferStockResponse with the second body.
cdef void encode_stock_response(
    Buffer* out, int kind, int outcome, Span stock_body, Span to_stock_body, uint64_t sequence, bint duplicate,
    const uint8_t* log_id
) noexcept nogil:
    cdef uint8_t* at = buffer_reserve(out, RESPONSE_HEAD_BYTES + <size_t>stock_body.size + to_stock_body.size)
    at = put_answer(at, outcome, stock_body, sequence, duplicate, log_id)
    if kind == TRANSFER_STOCK and to_stock_body.data != NULL:
        at = put_body(at, 6, to_stock_body)
    buffer_end(out, at)


# The three answers to a Put.
cdef void encode_put_response(
    Buffer* out, int outcome, uint64_t revision, uint64_t sequence, const uint8_t* log_id
) noexcept nogil:
    cdef uint8_t* at = buffer_reserve(out, RESPONSE_HEAD_BYTES)
    at = put_number(at, 1, <uint64_t>outcome)
    at = put_number(at, 2, revision)
    at = put_number(at, 3, sequence)
    at = put_log_id(at, 5, log_id)
    buffer_end(out, at)


cdef void encode_get_order_response(
    Buffer* out, Span order_body, uint64_t sequence, const uint8_t* log_id
) noexcept nogil:
    cdef uint8_t* at = buffer_reserve(out, RESPONSE_HEAD_BYTES + <size_t>order_body.size)
    if order_body.data != NULL:
        at = put_body(at, 1, order_body)
    at = put_number(at, 2, sequence)
    at = put_log_id(at, 3, log_id)
    buffer_end(out, at)


# bodies: StockLevels in the order of their location_id.
cdef void encode_get_stock_response(
    Buffer* out, const StockTotals* totals, const Span* bodies, uint32_t count, uint64_t sequence, const uint8_t* log_id
) noexcept nogil:
    cdef size_t need = RESPONSE_HEAD_BYTES
    cdef uint8_t* at
    cdef uint32_t i
    for i in range(count):
        need += 8 + <size_t>bodies[i].size
    at = buffer_reserve(out, need)
    at = put_number(at, 1, <uint64_t>totals.on_hand)
    at = put_number(at, 2, <uint64_t>totals.reserved)
    at = put_number(at, 3, <uint64_t>totals.available)
    at = put_number(at, 4, <uint64_t>totals.sellable)
    at = put_number(at, 5, <uint64_t>totals.backordered)
    for i in range(count):
        at = put_body(at, 6, bodies[i])
    at = put_number(at, 7, sequence)
    at = put_log_id(at, 8, log_id)
    buffer_end(out, at)


# One of `repeated results = 1` of a batch's answer: the response, or the Status that took its place.
cdef void encode_batch_item(Buffer* out, bint is_result, Span body) noexcept nogil:
    cdef uint8_t* at = buffer_reserve(out, 16 + <size_t>body.size)
    at = put_sized_head(at, 1, 1 + varint_size(body.size) + <size_t>body.size)
    at = put_body(at, 1 if is_result else 2, body)
    buffer_end(out, at)


# Effects, piece by piece; its canonical form has all orders before the first stock row.
cdef void encode_effect_order(Buffer* out, Span body) noexcept nogil:
    cdef uint8_t* at = buffer_reserve(out, 8 + <size_t>body.size)
    buffer_end(out, put_body(at, 1, body))


cdef void encode_effect_stock(Buffer* out, Span body) noexcept nogil:
    cdef uint8_t* at = buffer_reserve(out, 8 + <size_t>body.size)
    buffer_end(out, put_body(at, 2, body))
