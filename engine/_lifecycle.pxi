# What happens to an order after its acceptance. Which command is legal in which state: tests/lifecycle_table.txt.

# What all commands on an order begin with: the order, a known command id, room for another. DECIDED: go on.
cdef int begin_order_command(State* s, int kind, const OrderCommand* c, Reply* reply) noexcept nogil:
    cdef uint32_t shop = find_shop(s, c.head.shop_id), handle, i
    cdef Command* command
    cdef OrderMore* more
    if shop == 0:
        return not_found(s, RESOURCE_SHOP, c.head.shop_id, c.head.shop_id)
    reply.order = find_order(s, shop, c.order_id)
    if reply.order == 0:
        return not_found(s, RESOURCE_ORDER, c.head.shop_id, c.order_id)
    handle = more_at(s, order_at(s, reply.order).more).commands if order_at(s, reply.order).more else 0
    while handle:
        command = <Command*>arena_at(&s.arena, handle)
        if (command.kind == PAY_ORDER) == (kind == PAY_ORDER) and span_equal(id_of_command(command), c.command_id):
            if command.kind != kind or not hash_equal(command.content, content_of(&c.head)):
                return conflict(s, c.head.shop_id, c.command_id)
            reply.outcome = command.outcome
            reply.sequence = command.sequence
            reply.duplicate = True
            return KNOWN
        handle = command.next
    if not has_locations(s, shop, c):
        return FAULT
    for i in range(c.line_count):
        if c.lines[i].line_index >= order_at(s, reply.order).line_count:
            return invalid(s, b"lines", i, b"line_index", b"The order has no such line.")
    if order_at(s, reply.order).more:
        more = more_at(s, order_at(s, reply.order).more)
        if kind == PAY_ORDER and more.received + c.amount > AMOUNT_MINOR_MAX:
            return invalid(s, b"amount_minor", -1, NULL, b"The order's payments pass the greatest amount.")
        if more.command_count + (0 if kind == PAY_ORDER else ORDER_PAYMENTS_KEPT) >= <uint32_t>ORDER_COMMANDS_MAX:
            return exhausted(s, b"ORDER_COMMAND_LIMIT", b"The order remembers as many commands as it may.")
    reply.outcome = OUTCOME_APPLIED
    reply.sequence = s.current
    return DECIDED


# Whether the shop has every location that the command names; if not, the fault is set.
cdef bint has_locations(State* s, uint32_t shop, const OrderCommand* c) noexcept nogil:
    cdef uint32_t i
    for i in range(c.line_count):
        if c.lines[i].location_id.size and find_location(s, shop, c.lines[i].location_id) == 0:
            not_found(s, RESOURCE_LOCATION, c.head.shop_id, c.lines[i].location_id)
            return False
    if c.location_id.size and find_location(s, shop, c.location_id) == 0:
        not_found(s, RESOURCE_LOCATION, c.head.shop_id, c.location_id)
        return False
    return True


cdef void end_order_command(State* s, int kind, const OrderCommand* c, const Reply* reply) noexcept nogil:
    add_command(s, reply.order, kind, c.command_id, content_of(&c.head), reply.sequence, reply.outcome)
    review_closing(s, reply.order)


cdef void add_command(
    State* s, uint32_t order_handle, int kind, Span id, Hash128 content, uint64_t sequence, int outcome
) noexcept nogil:
    cdef uint32_t handle = arena_new(&s.arena, sizeof(Command) + id.size)
    cdef Command* command = <Command*>arena_at(&s.arena, handle)
    cdef OrderMore* more = order_more(s, order_handle)
    command.content = content
    command.sequence = sequence
    command.kind = <uint8_t>kind
    command.outcome = <uint8_t>outcome
    command.id_size = <uint8_t>id.size
    memcpy(<uint8_t*>command + sizeof(Command), id.data, id.size)
    command.next = more.commands
    more.commands = handle
    more.command_count += 1
    count_in(s.whole, command_digest(s, order_at(s, order_handle), command))


# Units by line: those named, or all that there are. 0: more than there is, or nothing at all.
cdef int choose_units(const OrderCommand* c, int line_count, const int64_t* there, int64_t* chosen) noexcept nogil:
    cdef int i
    cdef int64_t total = 0
    for i in range(line_count):
        chosen[i] = 0 if c.line_count else there[i]
        total += chosen[i]
    for i in range(<int>c.line_count):
        chosen[c.lines[i].line_index] += c.lines[i].quantity
        total += c.lines[i].quantity
        if chosen[c.lines[i].line_index] > there[c.lines[i].line_index]:
            return 0
    return total > 0


cdef int open_units(const Order* order, LineProgress* progress, int64_t* units) noexcept nogil:
    cdef int i
    cdef int64_t total = 0
    for i in range(order.line_count):
        units[i] = order_lines(order)[i].quantity
        if progress != NULL:
            units[i] -= <int64_t>progress[i].shipped + progress[i].cancelled
        if order.flags & ORDER_EXPIRED:
            units[i] = 0
        total += units[i]
    return total > 0


# From here on the order is paid and holds its stock without end.
cdef void become_paid(State* s, uint32_t handle) noexcept nogil:
    end_hold(s, handle)
    order_at(s, handle).flags |= ORDER_PAID


cdef int pay_order(State* s, const OrderCommand* c, Reply* reply) noexcept nogil:
    cdef OrderMore* more
    cdef Order* order
    cdef int64_t open[64]
    cdef int verdict = begin_order_command(s, PAY_ORDER, c, reply)
    if verdict != DECIDED:
        return verdict
    order = order_at(s, reply.order)
    touch_order(s, reply.order)
    more = order_more(s, reply.order)
    more.received += c.amount
    if order.flags & ORDER_EXPIRED:
        if credit(more) >= payable_if_held(order, more_lines(more)):
            take_again(s, reply.order)
    elif (not order.flags & ORDER_PAID and open_units(order, more_lines(more), open)
            and credit(more) >= payable(order, more)):
        become_paid(s, reply.order)
    end_order_command(s, PAY_ORDER, c, reply)
    return DECIDED


# Payment after expiry: the stock is taken again under the rules of a new order, or the payment is refund due.
cdef void take_again(State* s, uint32_t handle) noexcept nogil:
    cdef Order* order = order_at(s, handle)
    cdef Demand demand
    cdef Need needs[64]
    cdef uint32_t count, i
    demand_of(s, handle, &demand)
    count = sum_needs(s, &demand, needs)
    for i in range(count):
        if passes_window(s, needs[i].sku, order_buyer(order), needs[i].units):
            return
    if not may_take_all(s, 0, needs, count) or not plan_order(s, &demand):
        return
    count_passes(s, needs, count)
    order.flags &= ~ORDER_EXPIRED
    take_plan(s, handle)
    count_purchases(s, handle, needs, count)
    become_paid(s, handle)


cdef int cancel_order(State* s, const OrderCommand* c, Reply* reply) noexcept nogil:
    cdef Order* order
    cdef OrderMore* more
    cdef LineProgress* progress
    cdef int64_t open[64]
    cdef int64_t chosen[64]
    cdef int i, verdict = begin_order_command(s, CANCEL_ORDER, c, reply)
    if verdict != DECIDED:
        return verdict
    order = order_at(s, reply.order)
    open_units(order, more_lines(more_at(s, order.more)) if order.more else NULL, open)
    if not choose_units(c, order.line_count, open, chosen):
        reply.outcome = OUTCOME_ILLEGAL_STATE
    else:
        touch_order(s, reply.order)
        more = order_more(s, reply.order)
        progress = more_lines(more)
        for i in range(order.line_count):
            progress[i].cancelled += <uint32_t>chosen[i]
            if not order.flags & ORDER_WAITING:
                release_units(s, order, i, chosen[i])
        give_back_purchases(s, order, chosen)
        settle_after_cancel(s, reply.order, chosen)
    end_order_command(s, CANCEL_ORDER, c, reply)
    return DECIDED


# What a cancellation means for the queues, the hold, the payment.
cdef void settle_after_cancel(State* s, uint32_t handle, const int64_t* chosen) noexcept nogil:
    cdef Order* order = order_at(s, handle)
    cdef OrderMore* more = order_more(s, handle)
    cdef int64_t open[64]
    cdef bint some_open = open_units(order, more_lines(more), open)
    if order.flags & ORDER_WAITING:
        if some_open:
            shrink_waits(s, handle, chosen)
        else:
            leave_queues(s, handle)
    if not some_open:
        end_hold(s, handle)
    elif not order.flags & ORDER_PAID and more.received > 0 and credit(more) >= payable(order, more):
        become_paid(s, handle)


# Allocations of a line give back units, the last made first.
cdef void release_units(State* s, Order* order, int line, int64_t units) noexcept nogil:
    cdef Allocation* allocations
    cdef AllocationProgress* progress
    cdef int i = <int>order_allocations(s, order, &allocations, &progress) - 1
    cdef int64_t part
    if units == 0:
        return
    while units:
        INVARIANT(i >= 0, "allocations hold fewer units than are open")
        if allocations[i].line == <uint32_t>line:
            part = <int64_t>allocations[i].quantity - progress[i].shipped - progress[i].released
            part = part if part < units else units
            if part:
                progress[i].released += <uint32_t>part
                reserve(s, allocations[i].row, -part)
                units -= part
        i -= 1
    queue_match(s, order_lines(order)[line].sku)


# Of a backorder less is to be served, which may now succeed, so that all its queues are looked at again. It leaves
# those in which it needs nothing any more.
cdef void shrink_waits(State* s, uint32_t order_handle, const int64_t* chosen) noexcept nogil:
    cdef Order* order = order_at(s, order_handle)
    cdef uint32_t handle = more_at(s, order.more).waits, following
    cdef Wait* wait
    cdef int64_t units
    while handle:
        wait = wait_at(s, handle)
        following = wait.next_of_order
        units = units_of_sku(order, wait.sku, chosen)
        wait.need -= units
        sku_at(s, wait.sku).waiting -= units
        if wait.need:
            queue_match(s, wait.sku)
        else:
            leave_queue(s, handle)
        handle = following


cdef int64_t units_of_sku(const Order* order, uint32_t sku, const int64_t* chosen) noexcept nogil:
    cdef int64_t units = 0
    cdef int i
    for i in range(order.line_count):
        if order_lines(order)[i].sku == sku:
            units += chosen[i]
    return units


cdef void give_back_purchases(State* s, const Order* order, const int64_t* chosen) noexcept nogil:
    cdef uint32_t handle = more_at(s, order.more).purchases, following
    cdef int64_t units
    while handle:
        following = purchase_at(s, handle).next_of_order
        units = units_of_sku(order, usage_at(s, purchase_at(s, handle).usage).sku, chosen)
        if units:
            reduce_purchase(s, handle, <uint32_t>units)
        handle = following


cdef int ship_order(State* s, const OrderCommand* c, Reply* reply) noexcept nogil:
    cdef uint32_t locations[256]
    cdef uint32_t plan[256]
    cdef Order* order
    cdef uint32_t i
    cdef int verdict = begin_order_command(s, SHIP_ORDER, c, reply)
    if verdict != DECIDED:
        return verdict
    order = order_at(s, reply.order)
    for i in range(c.line_count):
        locations[i] = 0
        if c.lines[i].location_id.size:
            locations[i] = find_location(s, order.shop, c.lines[i].location_id)
    if (not order.flags & ORDER_PAID or order.flags & ORDER_WAITING
            or not choose_shipment(s, order, c, locations, plan)):
        reply.outcome = OUTCOME_ILLEGAL_STATE
    elif not apply_shipment(s, reply.order, plan):
        return exhausted(s, b"STOCK_LIMIT", b"A stock counter would pass its bound.")
    end_order_command(s, SHIP_ORDER, c, reply)
    return DECIDED


# Units by allocation. 0: more than is reserved, or nothing at all.
cdef int choose_shipment(
    State* s, Order* order, const OrderCommand* c, const uint32_t* locations, uint32_t* plan
) noexcept nogil:
    cdef Allocation* allocations
    cdef AllocationProgress* progress
    cdef uint32_t count = order_allocations(s, order, &allocations, &progress), i, k
    cdef int64_t units, part, total = 0
    for i in range(count):
        plan[i] = 0
        if c.line_count == 0:
            plan[i] = allocations[i].quantity - progress[i].shipped - progress[i].released
        total += plan[i]
    for k in range(c.line_count):
        units = c.lines[k].quantity
        for i in range(count):
            if allocations[i].line != c.lines[k].line_index or (
                    locations[k] and row_at(s, allocations[i].row).location != locations[k]):
                continue
            part = <int64_t>allocations[i].quantity - progress[i].shipped - progress[i].released - plan[i]
            part = part if part < units else units
            plan[i] += <uint32_t>part
            units -= part
            total += part
        if units:
            return 0
    return total > 0


# Whether one order could move a counter past its bound; else there is no need to add up.
cdef inline bint near_bound(int64_t counter) noexcept nogil:
    return counter > STOCK_MAX - LINES_MAX * QUANTITY_MAX


cdef int apply_shipment(State* s, uint32_t handle, const uint32_t* plan) noexcept nogil:
    cdef Order* order = order_at(s, handle)
    cdef Allocation* allocations
    cdef AllocationProgress* progress
    cdef uint32_t count = order_allocations(s, order, &allocations, &progress), i, k
    cdef StockRow* row
    cdef int64_t units
    for i in range(count):
        if near_bound(row_at(s, allocations[i].row).shipped):
            units = 0
            for k in range(i + 1):
                units += plan[k] if allocations[k].row == allocations[i].row else 0
            if row_at(s, allocations[i].row).shipped + units > STOCK_MAX:
                return 0
    touch_order(s, handle)
    for i in range(count):
        if plan[i]:
            row = row_at(s, allocations[i].row)
            reserve(s, allocations[i].row, -<int64_t>plan[i])
            set_on_hand(s, row, row.on_hand - plan[i])
            row.shipped += plan[i]
            progress[i].shipped += plan[i]
            more_lines(more_at(s, order.more))[allocations[i].line].shipped += plan[i]
    return 1


cdef int deliver_order(State* s, const OrderCommand* c, Reply* reply) noexcept nogil:
    cdef Order* order
    cdef LineProgress* progress
    cdef int64_t there[64]
    cdef int64_t chosen[64]
    cdef int i, verdict = begin_order_command(s, DELIVER_ORDER, c, reply)
    if verdict != DECIDED:
        return verdict
    order = order_at(s, reply.order)
    progress = more_lines(order_more(s, reply.order))
    for i in range(order.line_count):
        there[i] = <int64_t>progress[i].shipped - progress[i].delivered
    if not choose_units(c, order.line_count, there, chosen):
        reply.outcome = OUTCOME_ILLEGAL_STATE
    else:
        touch_order(s, reply.order)
        for i in range(order.line_count):
            progress[i].delivered += <uint32_t>chosen[i]
    end_order_command(s, DELIVER_ORDER, c, reply)
    return DECIDED


cdef int return_order(State* s, const OrderCommand* c, Reply* reply) noexcept nogil:
    cdef Order* order
    cdef LineProgress* progress
    cdef int64_t there[64]
    cdef int64_t chosen[64]
    cdef uint32_t location = 0
    cdef int i, verdict = begin_order_command(s, RETURN_ORDER, c, reply)
    if verdict != DECIDED:
        return verdict
    order = order_at(s, reply.order)
    if c.location_id.size:
        location = find_location(s, order.shop, c.location_id)
    progress = more_lines(order_more(s, reply.order))
    for i in range(order.line_count):
        there[i] = <int64_t>progress[i].shipped - progress[i].returned
    if not choose_units(c, order.line_count, there, chosen) or not may_come_back(s, order, c, chosen, location):
        reply.outcome = OUTCOME_ILLEGAL_STATE
    elif not take_back(s, reply.order, c.disposition == 1, chosen, location, False):
        return exhausted(s, b"STOCK_LIMIT", b"A stock counter would pass its bound.")
    else:
        touch_order(s, reply.order)
        for i in range(order.line_count):
            progress[i].returned += <uint32_t>chosen[i]
            if c.disposition != 1:
                progress[i].written_off += <uint32_t>chosen[i]
        take_back(s, reply.order, c.disposition == 1, chosen, location, True)
    end_order_command(s, RETURN_ORDER, c, reply)
    return DECIDED


# Where a line's goods come back to: the named location, else that of the line's first allocation that shipped.
cdef uint32_t return_location(State* s, const Order* order, int line, uint32_t named) noexcept nogil:
    cdef Allocation* allocations
    cdef AllocationProgress* progress
    cdef uint32_t count = order_allocations(s, order, &allocations, &progress), i
    if named:
        return named
    for i in range(count):
        if allocations[i].line == <uint32_t>line and progress[i].shipped:
            return row_at(s, allocations[i].row).location
    INVARIANT(False, "a shipped line without a shipped allocation")
    return 0


cdef bint may_come_back(
    State* s, const Order* order, const OrderCommand* c, const int64_t* chosen, uint32_t named
) noexcept nogil:
    cdef int i
    for i in range(order.line_count):
        if chosen[i] and (
                location_at(s, return_location(s, order, i, named)).status == STATUS_RETIRED
                or (c.disposition == 1 and sku_at(s, order_lines(order)[i].sku).status == STATUS_RETIRED)):
            return False
    return True


# Checks the counters' bounds, or, with `apply`, moves them.
cdef int take_back(
    State* s, uint32_t handle, bint to_stock, const int64_t* chosen, uint32_t named, bint apply
) noexcept nogil:
    cdef Order* order = order_at(s, handle)
    cdef Line* lines = order_lines(order)
    cdef uint32_t location, row_handle
    cdef StockRow* row
    cdef int64_t units
    cdef int i
    for i in range(order.line_count):
        if chosen[i] == 0:
            continue
        location = return_location(s, order, i, named)
        if not apply:
            row_handle = find_row(s, sku_at(s, lines[i].sku), location)
            row = row_at(s, row_handle)
            if row_handle and (near_bound(row.returned) or near_bound(row.on_hand)):
                units = units_that_arrive(s, order, i, chosen, named)
                if row.returned + units > STOCK_MAX or (to_stock and row.on_hand + units > STOCK_MAX):
                    return 0
            continue
        row = row_at(s, row_for(s, lines[i].sku, location))
        row.returned += chosen[i]
        if to_stock:
            set_on_hand(s, row, row.on_hand + chosen[i])
            queue_match(s, lines[i].sku)
        else:
            row.written_off += chosen[i]
    return 1


# Of the lines up to `line` those units that come to the same row as its own.
cdef int64_t units_that_arrive(
    State* s, const Order* order, int line, const int64_t* chosen, uint32_t named
) noexcept nogil:
    cdef uint32_t location = return_location(s, order, line, named)
    cdef int64_t units = 0
    cdef int i
    for i in range(line + 1):
        if (chosen[i] and order_lines(order)[i].sku == order_lines(order)[line].sku
                and return_location(s, order, i, named) == location):
            units += chosen[i]
    return units


cdef int settle_refund(State* s, const OrderCommand* c, Reply* reply) noexcept nogil:
    cdef Order* order
    cdef int64_t due, amount
    cdef int verdict = begin_order_command(s, SETTLE_REFUND, c, reply)
    if verdict != DECIDED:
        return verdict
    order = order_at(s, reply.order)
    due = refund_due_of(order, more_at(s, order.more) if order.more else NULL)
    amount = c.amount if c.amount else due
    if due == 0 or amount > due:
        reply.outcome = OUTCOME_ILLEGAL_STATE
    else:
        touch_order(s, reply.order)
        more_at(s, order.more).refunded += amount
    end_order_command(s, SETTLE_REFUND, c, reply)
    return DECIDED
