# What ends by itself: holds of unpaid orders, purchases that count against a buyer's window. Both end only by a logged
# tick.

cdef inline size_t hold_links() noexcept nogil:
    cdef Order order
    return <size_t>(<uint8_t*>&order.hold - <uint8_t*>&order)

cdef inline size_t purchase_links() noexcept nogil:
    cdef Purchase purchase
    return <size_t>(<uint8_t*>&purchase.links - <uint8_t*>&purchase)


# The least reserve TTL among the order's SKUs, from now on.
cdef void begin_hold(State* s, uint32_t handle) noexcept nogil:
    cdef Order* order = order_at(s, handle)
    cdef Line* lines = order_lines(order)
    cdef uint8_t slot = sku_at(s, lines[0].sku).ttl_slot, other
    cdef int i
    for i in range(1, order.line_count):
        other = sku_at(s, lines[i].sku).ttl_slot
        if s.holds[other].duration_ms < s.holds[slot].duration_ms:
            slot = other
    order.ttl_slot = slot
    order.expires_at_ms = s.now_ms + s.holds[slot].duration_ms
    order.flags |= ORDER_HELD
    s.held_orders += 1
    list_append(&s.holds[slot].items, &s.arena, handle, hold_links())


cdef void end_hold(State* s, uint32_t handle) noexcept nogil:
    cdef Order* order = order_at(s, handle)
    if order.flags & ORDER_HELD:
        list_remove(&s.holds[order.ttl_slot].items, &s.arena, handle, hold_links())
        order.flags &= ~ORDER_HELD
        s.held_orders -= 1
        order.expires_at_ms = 0


# The slot whose first item ends first; of equal ends the one of the least duration. -1: none.
cdef int first_hold(State* s) noexcept nogil:
    cdef int slot, best = -1
    cdef int64_t ends, best_ends = 0
    for slot in range(DURATIONS):
        if s.holds[slot].items.head:
            ends = order_at(s, s.holds[slot].items.head).expires_at_ms
            if best < 0 or ends < best_ends or (
                    ends == best_ends and s.holds[slot].duration_ms < s.holds[best].duration_ms):
                best = slot
                best_ends = ends
    return best


cdef int first_purchase(State* s) noexcept nogil:
    cdef int slot, best = -1
    cdef int64_t ends, best_ends = 0
    for slot in range(DURATIONS):
        if s.windows[slot].items.head:
            ends = purchase_at(s, s.windows[slot].items.head).ends_at_ms
            if best < 0 or ends < best_ends or (
                    ends == best_ends and s.windows[slot].duration_ms < s.windows[best].duration_ms):
                best = slot
                best_ends = ends
    return best


cdef void expire_order(State* s, uint32_t handle) noexcept nogil:
    cdef Order* order = order_at(s, handle)
    cdef Allocation* allocations
    cdef AllocationProgress* progress
    cdef Line* lines = order_lines(order)
    cdef uint32_t count = order_allocations(s, order, &allocations, &progress), i
    touch_order(s, handle)
    end_hold(s, handle)
    for i in range(count):
        reserve(s, allocations[i].row,
                -<int64_t>(allocations[i].quantity - (progress[i].released if progress != NULL else 0)))
    order.flags |= ORDER_EXPIRED
    s.expired_orders += 1
    drop_purchases(s, handle)
    for i in range(order.line_count):
        queue_match(s, lines[i].sku)
    review_closing(s, handle)
    s.steps += order.line_count + count


# Buyer limits.
cdef uint32_t find_usage(State* s, uint32_t sku, Span buyer) noexcept nogil:
    cdef Probe probe = index_probe(&s.usages, index_hash(s, sku, buyer))
    cdef uint32_t handle = probe_next(&s.arena, &probe)
    while handle and not (usage_at(s, handle).sku == sku and span_equal(usage_buyer(usage_at(s, handle)), buyer)):
        handle = probe_next(&s.arena, &probe)
    return handle


cdef bint passes_window(State* s, uint32_t sku, Span buyer, int64_t units) noexcept nogil:
    cdef uint32_t limit = sku_at(s, sku).buyer_limit_per_window, usage
    if limit == 0:
        return False
    usage = find_usage(s, sku, buyer)
    return (usage_at(s, usage).units if usage else 0) + units > limit


cdef void count_purchases(State* s, uint32_t order_handle, const Need* needs, uint32_t count) noexcept nogil:
    cdef uint32_t i
    for i in range(count):
        if sku_at(s, needs[i].sku).buyer_limit_per_window:
            add_purchase(s, order_handle, needs[i].sku, sku_at(s, needs[i].sku).window_slot,
                         s.now_ms + s.windows[sku_at(s, needs[i].sku).window_slot].duration_ms,
                         <uint32_t>needs[i].units)


cdef void add_purchase(
    State* s, uint32_t order_handle, uint32_t sku, uint8_t slot, int64_t ends_at_ms, uint32_t units
) noexcept nogil:
    cdef Span buyer = order_buyer(order_at(s, order_handle))
    cdef uint32_t handle = find_usage(s, sku, buyer), purchase_handle
    cdef Usage* usage
    cdef Purchase* purchase
    cdef OrderMore* more = order_more(s, order_handle)
    if handle == 0:
        handle = arena_new(&s.arena, sizeof(Usage) + buyer.size)
        usage = usage_at(s, handle)
        usage.sku = sku
        usage.buyer_size = <uint8_t>buyer.size
        memcpy(<uint8_t*>usage + sizeof(Usage), buyer.data, buyer.size)
        index_insert(&s.usages, &s.arena, handle, index_hash(s, sku, buyer))
    usage = usage_at(s, handle)
    usage.units += units
    usage.purchases += 1
    sku_at(s, sku).uses += 1
    purchase_handle = arena_new(&s.arena, sizeof(Purchase))
    purchase = purchase_at(s, purchase_handle)
    purchase.usage = handle
    purchase.order = order_handle
    purchase.quantity = units
    purchase.ends_at_ms = ends_at_ms
    purchase.slot = slot
    purchase.next_of_order = more.purchases
    more.purchases = purchase_handle
    list_append(&s.windows[slot].items, &s.arena, purchase_handle, purchase_links())
    count_in(s.whole, purchase_digest(s, purchase))


# Gives back `units` of a purchase; at 0 it goes, and the buyer's id with its last use.
cdef void reduce_purchase(State* s, uint32_t handle, uint32_t units) noexcept nogil:
    cdef Purchase* purchase = purchase_at(s, handle)
    cdef Usage* usage = usage_at(s, purchase.usage)
    cdef uint32_t* at = &order_more(s, purchase.order).purchases
    cdef uint32_t sku = usage.sku
    count_out(s.whole, purchase_digest(s, purchase))
    purchase.quantity -= units
    usage.units -= units
    if purchase.quantity:
        count_in(s.whole, purchase_digest(s, purchase))
        return
    while at[0] != handle:
        at = &purchase_at(s, at[0]).next_of_order
    at[0] = purchase.next_of_order
    list_remove(&s.windows[purchase.slot].items, &s.arena, handle, purchase_links())
    usage.purchases -= 1
    if usage.purchases == 0:
        index_remove(&s.usages, &s.arena, purchase.usage, index_hash(s, sku, usage_buyer(usage)))
        arena_free(&s.arena, purchase.usage, sizeof(Usage) + usage.buyer_size)
    arena_free(&s.arena, handle, sizeof(Purchase))
    sku_at(s, sku).uses -= 1
    reclaim_sku(s, sku)


cdef void drop_purchases(State* s, uint32_t order_handle) noexcept nogil:
    cdef Order* order = order_at(s, order_handle)
    while order.more and more_at(s, order.more).purchases:
        reduce_purchase(s, more_at(s, order.more).purchases,
                        purchase_at(s, more_at(s, order.more).purchases).quantity)


# What a tick does, each kind of work within its steps.
cdef void tick(State* s) noexcept nogil:
    cdef int slot
    cdef uint32_t handle, order
    s.steps = 0
    slot = first_hold(s)
    while slot >= 0 and s.steps < STEPS_MAX:
        handle = s.holds[slot].items.head
        if order_at(s, handle).expires_at_ms > s.now_ms:
            break
        expire_order(s, handle)
        slot = first_hold(s)
    s.steps = 0
    slot = first_purchase(s)
    while slot >= 0 and s.steps < STEPS_MAX:
        handle = s.windows[slot].items.head
        if purchase_at(s, handle).ends_at_ms > s.now_ms:
            break
        order = purchase_at(s, handle).order
        reduce_purchase(s, handle, purchase_at(s, handle).quantity)
        review_closing(s, order)
        s.steps += 1
        slot = first_purchase(s)
    s.steps = 0
    while s.remembered_head and s.steps < STEPS_MAX and oldest_remembered_ends_ms(s) <= s.now_ms:
        forget_oldest(s)
        s.steps += 1
    run_matches(s)


# When a tick has work to do: 0 at once, -1 never.
cdef int64_t next_due_ms(State* s) noexcept nogil:
    cdef int64_t due = INT64_MAX, ends
    cdef int slot = first_hold(s)
    if s.to_match.head:
        return 0
    if slot >= 0:
        due = order_at(s, s.holds[slot].items.head).expires_at_ms
    slot = first_purchase(s)
    if slot >= 0:
        ends = purchase_at(s, s.windows[slot].items.head).ends_at_ms
        due = ends if ends < due else due
    if s.remembered_head:
        ends = oldest_remembered_ends_ms(s)
        due = ends if ends < due else due
    return -1 if due == INT64_MAX else due
