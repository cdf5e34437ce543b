# What follows from an order's counters: its state, its money, how it looks from outside.

cdef enum:
    STATE_BACKORDERED = 2                      # everopen.v1.OrderState
    STATE_PLACED = 3
    STATE_PARTIALLY_SHIPPED = 4
    STATE_SHIPPED = 5
    STATE_PARTIALLY_DELIVERED = 6
    STATE_DELIVERED = 7
    STATE_PARTIALLY_RETURNED = 8
    STATE_RETURNED = 9
    STATE_CANCELLED = 10
    STATE_EXPIRED = 11
    PAYMENT_UNPAID = 1                         # everopen.v1.PaymentState
    PAYMENT_PAID = 2
    PAYMENT_REFUND_DUE = 3
    PAYMENT_REFUNDED = 4


# The precedence is the one that order.proto states. `progress` NULL: nothing happened to the lines.
cdef uint8_t order_state_of(const Order* order, const LineProgress* progress) noexcept nogil:
    cdef int64_t ordered = 0, shipped = 0, cancelled = 0, delivered = 0, returned = 0
    cdef int i
    if order.flags & ORDER_WAITING:
        return STATE_BACKORDERED
    if order.flags & ORDER_EXPIRED:
        return STATE_EXPIRED
    if progress == NULL:
        return STATE_PLACED
    for i in range(order.line_count):
        ordered += order_lines(order)[i].quantity
        shipped += progress[i].shipped
        cancelled += progress[i].cancelled
        delivered += progress[i].delivered
        returned += progress[i].returned
    if cancelled == ordered:
        return STATE_CANCELLED
    if shipped == 0:
        return STATE_PLACED
    if shipped + cancelled < ordered:
        return STATE_PARTIALLY_SHIPPED
    if returned:
        return STATE_RETURNED if returned == shipped else STATE_PARTIALLY_RETURNED
    if delivered:
        return STATE_DELIVERED if delivered == shipped else STATE_PARTIALLY_DELIVERED
    return STATE_SHIPPED


# What is to be paid for as long as the order is not expired.
cdef int64_t payable_if_held(const Order* order, const LineProgress* progress) noexcept nogil:
    cdef Line* lines = order_lines(order)
    cdef int64_t total = 0
    cdef int i
    for i in range(order.line_count):
        total += lines[i].amount
        if progress != NULL:
            total -= share(lines[i].amount, progress[i].cancelled + progress[i].returned, lines[i].quantity)
    return total


cdef extern from *:
    """
    /* floor(amount * units / quantity); the product needs 128 bits. */
    static inline int64_t share(int64_t amount, uint32_t units, uint32_t quantity) {
        return units ? (int64_t)((unsigned __int128)amount * units / quantity) : 0;
    }
    """
    int64_t share(int64_t amount, uint32_t units, uint32_t quantity) noexcept nogil


cdef inline int64_t payable(const Order* order, OrderMore* more) noexcept nogil:
    if order.flags & ORDER_EXPIRED:
        return 0
    return payable_if_held(order, more_lines(more) if more != NULL else NULL)

cdef inline int64_t credit(const OrderMore* more) noexcept nogil:
    return more.received - more.refunded

cdef int64_t refund_due_of(const Order* order, OrderMore* more) noexcept nogil:
    cdef int64_t due = credit(more) - payable(order, more) if more != NULL else 0
    return due if due > 0 else 0


cdef uint8_t payment_state_of(const Order* order, OrderMore* more) noexcept nogil:
    if more == NULL:
        return PAYMENT_UNPAID
    if refund_due_of(order, more) > 0:
        return PAYMENT_REFUND_DUE
    if order.flags & ORDER_PAID and (more.refunded == 0 or payable(order, more) > 0):
        return PAYMENT_PAID
    return PAYMENT_REFUNDED if more.refunded > 0 else PAYMENT_UNPAID


# `first`: as a repeat of PlaceOrder shows it, with the allocations made at acceptance.
cdef void view_order(State* s, const Order* order, OrderView* view, bint first) noexcept nogil:
    cdef OrderMore* more = more_at(s, order.more) if order.more else NULL
    cdef Shop* shop = shop_at(s, order.shop)
    view.order_id = id_of_order(order)
    view.shop_id = id_of_shop(shop)
    view.buyer_id = order_buyer(order)
    view.state = order_state_of(order, more_lines(more) if more != NULL else NULL)
    view.payment_state = payment_state_of(order, more)
    memcpy(view.currency, shop.currency, CURRENCY_BYTES)
    view.received = more.received if more != NULL else 0
    view.refunded = more.refunded if more != NULL else 0
    view.refund_due = refund_due_of(order, more)
    view.accepted_at_ms = order.accepted_at_ms
    view.expires_at_ms = order.expires_at_ms
    view.placed_at_ms = order_placed_at(order)[0] if order.flags & ORDER_HAS_PLACED_AT else 0
    view.sequence = order.sequence
    view_lines(s, order, more, view)
    view_allocations(s, order, view, first)


cdef void view_lines(State* s, const Order* order, OrderMore* more, OrderView* view) noexcept nogil:
    cdef Line* lines = order_lines(order)
    cdef LineProgress* progress
    cdef LineView* line
    cdef uint32_t i
    view.amount = 0
    view.line_count = order.line_count
    for i in range(order.line_count):
        line = &view.lines[i]
        line.sku_id = id_of_sku(sku_at(s, lines[i].sku))
        line.quantity = lines[i].quantity
        line.amount = lines[i].amount
        line.shipped = line.cancelled = line.delivered = line.returned = line.written_off = 0
        view.amount += lines[i].amount
        if more != NULL:
            progress = &more_lines(more)[i]
            line.shipped = progress.shipped
            line.cancelled = progress.cancelled
            line.delivered = progress.delivered
            line.returned = progress.returned
            line.written_off = progress.written_off
        if order.flags & ORDER_EXPIRED:
            line.cancelled = line.quantity
        line.open = line.quantity - line.shipped - line.cancelled


cdef void view_allocations(State* s, const Order* order, OrderView* view, bint first) noexcept nogil:
    cdef Allocation* allocations
    cdef AllocationProgress* progress
    cdef uint32_t count = order_allocations(s, order, &allocations, &progress), i
    if first:
        allocations = order_first_allocations(order)
        progress = NULL
        count = order.allocation_count
    view.allocation_count = count
    for i in range(count):
        view.allocations[i].location_id = id_of_location(location_at(s, row_at(s, allocations[i].row).location))
        view.allocations[i].line_index = allocations[i].line
        view.allocations[i].quantity = allocations[i].quantity
        view.allocations[i].shipped = progress[i].shipped if progress != NULL else 0
        view.allocations[i].released = progress[i].released if progress != NULL else 0
        if order.flags & ORDER_EXPIRED and not first:
            view.allocations[i].released = allocations[i].quantity
