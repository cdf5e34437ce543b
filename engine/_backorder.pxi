# Orders that wait for stock: their queues, the rule of the head, and the matching when stock grows.

cdef inline size_t wait_links() noexcept nogil:
    cdef Wait wait
    return <size_t>(<uint8_t*>&wait.links - <uint8_t*>&wait)

cdef inline size_t queued_links() noexcept nogil:
    cdef Sku sku
    return <size_t>(<uint8_t*>&sku.queued - <uint8_t*>&sku)

cdef inline size_t match_links() noexcept nogil:
    cdef Sku sku
    return <size_t>(<uint8_t*>&sku.to_match - <uint8_t*>&sku)


# The first Wait of a queue: highest class, then sequence. Orders come in the order of their sequence.
cdef uint32_t queue_first(State* s, uint32_t queue_handle) noexcept nogil:
    cdef Queue* queue = queue_at(s, queue_handle)
    cdef int i
    if queue_handle:
        for i in range(PRIORITY_CLASSES - 1, -1, -1):
            if queue.classes[i].head:
                return queue.classes[i].head
    return 0


cdef uint32_t queue_next(State* s, uint32_t handle) noexcept nogil:
    cdef Wait* wait = wait_at(s, handle)
    cdef Queue* queue = queue_at(s, sku_at(s, wait.sku).queue)
    cdef int i
    if wait.links.next:
        return wait.links.next
    for i in range(order_at(s, wait.order).priority_class - 1, -1, -1):
        if queue.classes[i].head:
            return queue.classes[i].head
    return 0


cdef void enter_queues(State* s, uint32_t order_handle, const Need* needs, uint32_t count) noexcept nogil:
    cdef uint32_t i
    for i in range(count):
        add_wait(s, order_handle, needs[i].sku, needs[i].units, 0)
    for i in range(count):
        # A higher class makes a newcomer the head, before which nobody comes now.
        if (queue_at(s, sku_at(s, needs[i].sku).queue).length > 1
                and wait_at(s, queue_first(s, sku_at(s, needs[i].sku).queue)).order == order_handle):
            queue_match(s, needs[i].sku)


# Appended to its class, so the caller adds in the order of sequences. Lists of an order are in the order of its lines.
cdef uint32_t add_wait(
    State* s, uint32_t order_handle, uint32_t sku_handle, int64_t need, uint32_t passed
) noexcept nogil:
    cdef uint32_t handle = arena_new(&s.arena, sizeof(Wait))
    cdef Wait* wait = wait_at(s, handle)
    cdef Sku* sku = sku_at(s, sku_handle)
    cdef uint32_t* at = &order_more(s, order_handle).waits
    wait.order = order_handle
    wait.sku = sku_handle
    wait.need = need
    wait.passed = passed
    while at[0]:
        at = &wait_at(s, at[0]).next_of_order
    at[0] = handle
    if sku.queue == 0:
        sku.queue = arena_new(&s.arena, sizeof(Queue))
        list_append(&shop_at(s, sku.shop).queued, &s.arena, sku_handle, queued_links())
    list_append(&queue_at(s, sku.queue).classes[order_at(s, order_handle).priority_class], &s.arena, handle,
                wait_links())
    queue_at(s, sku.queue).length += 1
    sku.waiting += need
    count_in(s.whole, wait_digest(s, wait))
    return handle


# Out of every queue.
cdef void leave_queues(State* s, uint32_t order_handle) noexcept nogil:
    while order_more(s, order_handle).waits:
        leave_queue(s, order_more(s, order_handle).waits)
    s.waiting_orders -= (order_at(s, order_handle).flags & ORDER_WAITING) != 0
    order_at(s, order_handle).flags &= ~ORDER_WAITING


# Out of one queue. A SKU of which the order was the head is put on the list of SKUs to match.
cdef void leave_queue(State* s, uint32_t handle) noexcept nogil:
    cdef Wait* wait = wait_at(s, handle)
    cdef Sku* sku = sku_at(s, wait.sku)
    cdef bint head = queue_first(s, sku.queue) == handle
    cdef uint32_t* at = &order_more(s, wait.order).waits
    while at[0] != handle:
        at = &wait_at(s, at[0]).next_of_order
    at[0] = wait.next_of_order
    count_out(s.whole, wait_digest(s, wait))
    list_remove(&queue_at(s, sku.queue).classes[order_at(s, wait.order).priority_class], &s.arena, handle, wait_links())
    queue_at(s, sku.queue).length -= 1
    sku.waiting -= wait.need
    if queue_at(s, sku.queue).length == 0:
        arena_free(&s.arena, sku.queue, sizeof(Queue))
        sku.queue = 0
        list_remove(&shop_at(s, sku.shop).queued, &s.arena, wait.sku, queued_links())
    elif head:
        queue_match(s, wait.sku)
    arena_free(&s.arena, handle, sizeof(Wait))


# The list of SKUs whose queues are to be looked at.
cdef void queue_match(State* s, uint32_t sku_handle) noexcept nogil:
    cdef Sku* sku = sku_at(s, sku_handle)
    if sku.queue == 0:
        return
    s.queued_match = 1
    if not sku.on_match_list:
        set_on_match_list(s, sku, 1)
        list_append(&s.to_match, &s.arena, sku_handle, match_links())

cdef void set_on_match_list(State* s, Sku* sku, uint8_t value) noexcept nogil:
    count_out(s.whole, sku_digest(s, sku))
    sku.on_match_list = value
    count_in(s.whole, sku_digest(s, sku))

cdef void queue_match_shop(State* s, Shop* shop) noexcept nogil:
    cdef uint32_t sku = shop.queued.head
    while sku:
        queue_match(s, sku)
        sku = sku_at(s, sku).queued.next


# For every need what the order may take, in the face of the heads of the queues. 0: not all of it. order_handle 0: a
# new order.
cdef int may_take_all(State* s, uint32_t order_handle, Need* needs, uint32_t count) noexcept nogil:
    cdef uint32_t i, head
    cdef Sku* sku
    cdef int64_t sellable, excess
    cdef int all_of_it = 1
    for i in range(count):
        sku = sku_at(s, needs[i].sku)
        needs[i].passes = 0
        needs[i].may_take = INT64_MAX
        head = queue_first(s, sku.queue)
        if head == 0 or wait_at(s, head).order == order_handle:
            continue
        sellable = sku_sellable(s, sku)
        excess = sellable - wait_at(s, head).need
        if needs[i].units <= excess:
            continue
        if needs[i].units > sellable:
            needs[i].may_take = sellable
            all_of_it = 0
        elif wait_at(s, head).passed >= <uint32_t>BACKORDER_PASSES_MAX or fits(s, wait_at(s, head).order):
            needs[i].may_take = excess if excess > 0 else 0
            all_of_it = 0
        else:
            needs[i].passes = head
    return all_of_it


# Whether a waiting order has a plan, looking at stock alone.
cdef bint fits(State* s, uint32_t order_handle) noexcept nogil:
    cdef Demand demand
    demand_of(s, order_handle, &demand)
    s.steps += demand.count
    return plan_order(s, &demand)


# The open units of an order that holds no stock.
cdef void demand_of(State* s, uint32_t order_handle, Demand* demand) noexcept nogil:
    cdef Order* order = order_at(s, order_handle)
    cdef Line* lines = order_lines(order)
    cdef LineProgress* progress = more_lines(more_at(s, order.more)) if order.more else NULL
    cdef uint32_t i
    demand.shop = order.shop
    demand.count = order.line_count
    demand.region = order.region
    demand.strategy = order.strategy
    demand.split = (order.flags & ORDER_SPLIT) != 0
    for i in range(order.line_count):
        demand.skus[i] = lines[i].sku
        demand.units[i] = lines[i].quantity - (progress[i].cancelled if progress != NULL else 0)


# An order that did not wait its turn went past these heads.
cdef void count_passes(State* s, const Need* needs, uint32_t count) noexcept nogil:
    cdef uint32_t i
    cdef Wait* wait
    for i in range(count):
        if needs[i].passes:
            wait = wait_at(s, needs[i].passes)
            count_out(s.whole, wait_digest(s, wait))
            wait.passed += 1
            count_in(s.whole, wait_digest(s, wait))


# Works on the list from its front, within the steps of a command.
cdef void run_matches(State* s) noexcept nogil:
    cdef uint32_t sku_handle
    s.steps = 0
    while s.to_match.head:
        sku_handle = s.to_match.head
        if not match_sku(s, sku_handle):
            return
        list_remove(&s.to_match, &s.arena, sku_handle, match_links())
        set_on_match_list(s, sku_at(s, sku_handle), 0)


# 1 when the SKU's queue was looked at as far as it is to be; 0 when the steps ran out.
cdef int match_sku(State* s, uint32_t sku_handle) noexcept nogil:
    cdef uint32_t handle = queue_first(s, sku_at(s, sku_handle).queue), following
    cdef int looked = 0
    while handle and looked < BACKORDER_LOOKAHEAD_MAX:
        if s.steps >= STEPS_MAX:
            return 0
        following = queue_next(s, handle)
        looked += 1
        s.steps += order_at(s, wait_at(s, handle).order).line_count
        match_order(s, wait_at(s, handle).order)
        handle = following
    return 1


cdef void match_order(State* s, uint32_t handle) noexcept nogil:
    cdef Demand demand
    cdef Need needs[64]
    cdef uint32_t count
    demand_of(s, handle, &demand)
    count = sum_needs(s, &demand, needs)
    if not may_take_all(s, handle, needs, count) or not plan_order(s, &demand):
        return
    count_passes(s, needs, count)
    touch_order(s, handle)
    leave_queues(s, handle)
    take_plan(s, handle)
    if not order_at(s, handle).flags & ORDER_PAID:
        begin_hold(s, handle)
    s.steps += s.plan_count


# The plan at hand becomes the order's allocations.
cdef void take_plan(State* s, uint32_t handle) noexcept nogil:
    cdef Order* order = order_at(s, handle)
    cdef Plan* plan
    cdef uint32_t i
    if order.plan:
        plan = <Plan*>arena_at(&s.arena, order.plan)
        arena_free(&s.arena, order.plan, plan_bytes(plan.count))
    order.plan = arena_new(&s.arena, plan_bytes(s.plan_count))
    plan = <Plan*>arena_at(&s.arena, order.plan)
    plan.count = s.plan_count
    memcpy(<uint8_t*>plan + sizeof(Plan), s.plan, s.plan_count * sizeof(Allocation))
    for i in range(s.plan_count):
        reserve(s, s.plan[i].row, s.plan[i].quantity)


cdef inline size_t plan_bytes(uint32_t count) noexcept nogil:
    return sizeof(Plan) + count * (sizeof(Allocation) + sizeof(AllocationProgress))
