# What a shard remembers: its objects, and how they refer to each other. All references are arena handles; 0 is none.
# Objects end with their ids, so that each takes what it needs.

cdef enum:
    GROUP = 8                                  # orders of a batch that are made ready together

    STATUS_ACTIVE = 1
    STATUS_PAUSED = 2
    STATUS_RETIRED = 3

    STRATEGY_PRIORITY = 1
    STRATEGY_NEAREST = 2
    STRATEGY_MOST_STOCK = 3
    STRATEGY_FEWEST_SHIPMENTS = 4

    PRIORITY_CLASSES = 10
    DURATIONS = 256                            # DURATIONS_MAX
    REMEMBERED_LINE_NONE = 255

    ORDER_EXPIRED = 1                          # flags of an order
    ORDER_PAID = 2
    ORDER_SPLIT = 4
    ORDER_HAS_PLACED_AT = 8
    ORDER_WAITING = 16
    ORDER_TOUCHED = 32
    ORDER_HELD = 64                            # in a list of holds
    ORDER_CLOSED = 128                         # in the list of closed orders, by the same links

cdef enum:
    FAULT_CODES = 17                           # google.rpc.Code

cdef struct Hash128:
    uint64_t low, high

cdef struct Shop:
    uint32_t refs                              # SKUs, locations, orders, remembered ids
    uint32_t live                              # SKUs and locations that are not retired
    Hash128 key, content
    uint64_t revision
    List queued                                # SKUs whose queue is not empty, oldest first
    uint64_t* costs                            # from << 48 | to << 32 | cost, ascending by (from, to)
    uint32_t* regions                          # handles of Region; a region's number is its place, from 1
    uint32_t* locations
    uint32_t cost_count, region_count, location_count
    uint8_t status, strategy, allow_split, id_size
    uint8_t currency[4]

cdef struct Region:
    uint8_t size

cdef struct Location:
    uint32_t shop, priority
    uint32_t rows, stocked_rows                # stock rows that name it; those with units on hand
    Hash128 key, content
    uint64_t revision
    int64_t gain                               # scratch of the planner, 0 at rest
    uint16_t region
    uint16_t fits                              # likewise
    uint8_t status, kind, id_size

cdef struct Sku:
    uint32_t shop, rows, row_count, stocked_rows
    uint32_t uses                              # lines of orders and purchases in memory
    uint32_t queue                             # Queue, while a backorder waits
    Links queued, to_match                     # in Shop.queued; in State.to_match
    int64_t price, waiting                     # waiting: units in backorders
    Hash128 key, content
    uint64_t revision
    uint32_t buyer_limit_per_order, buyer_limit_per_window, backorder_limit, safety_stock
    uint8_t ttl_slot, window_slot, status, backorder_allowed, on_match_list, id_size
    uint8_t mark                               # scratch: place in a list of needs + 1, 0 at rest
    uint8_t ghost                              # made by Restore: retired, and without durations

# Rows of a SKU are listed by location_id bytewise.
cdef struct StockRow:
    uint32_t sku, location, next
    uint8_t touched
    uint8_t ghost                              # made by Restore, and in no digest until it is touched
    int64_t on_hand, reserved, safety_stock
    int64_t received, adjusted, moved_in, moved_out, returned, shipped, written_off
    int64_t taken                              # scratch of the planner, 0 at rest
    Hash128 digest

# 72 bytes; then lines, placed_at_ms if given, allocations at acceptance, order_id, buyer_id.
cdef struct Order:
    Hash128 content
    uint64_t sequence
    int64_t accepted_at_ms, expires_at_ms
    Links hold
    uint32_t shop
    uint32_t more                              # OrderMore, once there is more to tell
    uint32_t plan                              # Plan: allocations that came later, instead of those at acceptance
    uint16_t region, allocation_count
    uint8_t line_count, id_size, buyer_size, flags, outcome, strategy, priority_class, ttl_slot

cdef struct Line:
    uint32_t sku, quantity
    int64_t amount

cdef struct Allocation:
    uint32_t row, quantity, line

cdef struct LineProgress:
    uint32_t shipped, cancelled, delivered, returned, written_off

cdef struct AllocationProgress:
    uint32_t shipped, released

# Then a LineProgress for each line and an AllocationProgress for each allocation at acceptance.
cdef struct OrderMore:
    int64_t received, refunded
    uint64_t closed_sequence                   # while the order is closed: of the record that closed it
    int64_t closed_at_ms
    uint32_t commands, command_count           # Command
    uint32_t waits                             # Wait, while backordered
    uint32_t purchases

# Then `count` times Allocation, `count` times AllocationProgress.
cdef struct Plan:
    uint32_t count

cdef struct Command:
    Hash128 content
    uint64_t sequence
    uint32_t next
    uint8_t kind, outcome, id_size

# One order in the queue of one SKU.
cdef struct Wait:
    uint32_t order, sku, next_of_order, passed
    Links links
    int64_t need

cdef struct Queue:
    uint32_t length
    List classes[PRIORITY_CLASSES]             # by priority class

# What one order counts against one buyer's limit for one SKU.
cdef struct Purchase:
    uint32_t usage, order, next_of_order, quantity
    Links links                                # in Duration.items
    int64_t ends_at_ms
    uint8_t slot

cdef struct Usage:
    uint32_t sku, purchases
    int64_t units
    uint8_t buyer_size

# An id that is used up without an order: a refusal, an adjustment, a transfer.
cdef struct Remembered:
    Hash128 content
    uint64_t sequence
    int64_t time_ms
    uint32_t shop, next
    uint8_t kind, outcome, line, id_size

# All holds of one reserve TTL, or purchases of one window. Logged time never falls, so that appending keeps them in
# order of their ends: a heap without a heap.
cdef struct Duration:
    int64_t duration_ms
    uint32_t users                             # SKUs that have it
    List items

# Units that an order needs of one SKU.
cdef struct Need:
    int64_t units
    uint32_t sku, first_line
    int64_t may_take
    uint32_t passes                            # Wait of the head that would be passed

cdef struct NamedAllocation:
    Span location_id
    uint32_t line, quantity

# An order as the archive has it, looked into. Spans point into its item.
cdef struct ArchivedOrder:
    Order head                                 # without handles; its lines follow, as they do in memory
    Line lines[64]
    OrderMore more                             # likewise, and what became of the lines
    LineProgress progress[64]
    Span shop_id, order_id, buyer_id, region
    uint8_t currency[4]
    int64_t placed_at_ms
    Span skus[64]
    NamedAllocation first[256]                 # at acceptance
    NamedAllocation later[256]                 # in place of those, if there are any
    uint32_t later_count, command_count
    AllocationProgress done[256]               # of those that count
    const uint8_t* commands

cdef struct State:
    Arena arena
    HashIndex shops, locations, skus, orders, remembered, usages
    uint32_t recent_shop                       # found last; 0: none
    uint64_t seed                              # of the indexes only; never seen in a digest
    uint8_t log_id[16]

    uint64_t sequence                          # of the last record
    int64_t time_ms                            # of the last record
    uint32_t level, remembered_max
    int64_t window_ms

    int64_t now_ms                             # of the command in work, and its sequence
    uint64_t current
    Duration holds[DURATIONS]
    Duration windows[DURATIONS]
    uint32_t remembered_head, remembered_tail  # oldest first
    List to_match
    List closed                                # in the order of closing
    uint64_t closed_orders
    uint32_t closed_cursor                     # what was listed last: not part of the state
    bint queued_match                          # the command at hand has work for it
    int64_t steps                              # spent by the kind of work at hand

    uint64_t outcomes[16]                      # counters since the start: not part of the state
    uint64_t faults[17]
    uint64_t duplicates, reads
    uint64_t expired_orders                    # likewise; also those of records that were read
    uint64_t held_orders, waiting_orders       # how many there are: they follow from the orders

    uint64_t business[2]                       # 128-bit sums, low word first
    uint64_t whole[2]
    uint64_t evicted[2]                        # what evicted orders add to the business digest, and how many they are
    uint64_t evicted_orders
    uint64_t evicted_through                   # closing sequence of the last one: the archive reaches as far at least
    uint32_t* touched_orders
    uint32_t* touched_rows
    uint32_t touched_last                      # the order whose body is in `body`, 0: none
    uint32_t touched_order_count, touched_order_capacity, touched_row_count, touched_row_capacity

    Allocation plan[256]                       # the plan at hand
    uint32_t plan_count
    Fault fault
    OrderView order_view
    PlaceOrder place_order
    PlaceOrder group[GROUP]
    Buffer group_scratch[GROUP]
    OrderCommand order_command
    PutShop put_shop
    PutLocation put_location
    PutSku put_sku
    StockCommand stock_command
    GetRequest get_request
    Activate activate
    Evict evict
    Restore restore
    ArchivedOrder archived
    State* aside                               # an empty shard in which archived orders are looked at, once needed
    Buffer scratch, body, body2, effects, record, response
    uint8_t digest_scratch[32768]

# What a handler decided.
cdef enum Verdict:
    FAULT = 1                                  # state.fault says why; nothing changed
    DECIDED = 2                                # to be logged
    KNOWN = 3                                  # a duplicate

cdef struct Reply:
    int outcome, line
    uint32_t order, row, to_row
    uint64_t sequence, revision
    bint duplicate


cdef inline Shop* shop_at(State* s, uint32_t handle) noexcept nogil:
    return <Shop*>arena_at(&s.arena, handle)

cdef inline Location* location_at(State* s, uint32_t handle) noexcept nogil:
    return <Location*>arena_at(&s.arena, handle)

cdef inline Sku* sku_at(State* s, uint32_t handle) noexcept nogil:
    return <Sku*>arena_at(&s.arena, handle)

cdef inline StockRow* row_at(State* s, uint32_t handle) noexcept nogil:
    return <StockRow*>arena_at(&s.arena, handle)

cdef inline Order* order_at(State* s, uint32_t handle) noexcept nogil:
    return <Order*>arena_at(&s.arena, handle)

cdef inline OrderMore* more_at(State* s, uint32_t handle) noexcept nogil:
    return <OrderMore*>arena_at(&s.arena, handle)

cdef inline Wait* wait_at(State* s, uint32_t handle) noexcept nogil:
    return <Wait*>arena_at(&s.arena, handle)

cdef inline Queue* queue_at(State* s, uint32_t handle) noexcept nogil:
    return <Queue*>arena_at(&s.arena, handle)

cdef inline Purchase* purchase_at(State* s, uint32_t handle) noexcept nogil:
    return <Purchase*>arena_at(&s.arena, handle)

cdef inline Usage* usage_at(State* s, uint32_t handle) noexcept nogil:
    return <Usage*>arena_at(&s.arena, handle)


cdef inline bint span_equal(Span a, Span b) noexcept nogil:
    return a.size == b.size and (a.size == 0 or memcmp(a.data, b.data, a.size) == 0)

# The ids at the end of the objects.
cdef inline Span id_of_shop(const Shop* shop) noexcept nogil:
    return span_of(<const uint8_t*>shop + sizeof(Shop), shop.id_size)

cdef inline Span id_of_location(const Location* location) noexcept nogil:
    return span_of(<const uint8_t*>location + sizeof(Location), location.id_size)

cdef inline Span id_of_sku(const Sku* sku) noexcept nogil:
    return span_of(<const uint8_t*>sku + sizeof(Sku), sku.id_size)

cdef inline Span id_of_command(const Command* command) noexcept nogil:
    return span_of(<const uint8_t*>command + sizeof(Command), command.id_size)

cdef inline Span remembered_id(const Remembered* remembered) noexcept nogil:
    return span_of(<const uint8_t*>remembered + sizeof(Remembered), remembered.id_size)

cdef inline Span usage_buyer(const Usage* usage) noexcept nogil:
    return span_of(<const uint8_t*>usage + sizeof(Usage), usage.buyer_size)

cdef inline Span region_name(State* s, const Shop* shop, uint16_t number) noexcept nogil:
    cdef Region* region
    if number == 0:
        return span_of(NULL, 0)
    region = <Region*>arena_at(&s.arena, shop.regions[number - 1])
    return span_of(<uint8_t*>region + sizeof(Region), region.size)


# The parts of an order, in the order in which they stand.
cdef inline size_t order_bytes(
    int lines, bint has_placed_at, int allocations, int id_size, int buyer_size
) noexcept nogil:
    return (sizeof(Order) + lines * sizeof(Line) + (8 if has_placed_at else 0) + allocations * sizeof(Allocation)
            + id_size + buyer_size)

cdef inline Line* order_lines(const Order* order) noexcept nogil:
    return <Line*>(<uint8_t*>order + sizeof(Order))

cdef inline int64_t* order_placed_at(const Order* order) noexcept nogil:
    return <int64_t*>(order_lines(order) + order.line_count)

cdef inline Allocation* order_first_allocations(const Order* order) noexcept nogil:
    return <Allocation*>(order_placed_at(order) + (1 if order.flags & ORDER_HAS_PLACED_AT else 0))

cdef inline Span id_of_order(const Order* order) noexcept nogil:
    return span_of(<uint8_t*>(order_first_allocations(order) + order.allocation_count), order.id_size)

cdef inline Span order_buyer(const Order* order) noexcept nogil:
    return span_of(<uint8_t*>(order_first_allocations(order) + order.allocation_count) + order.id_size,
                   order.buyer_size)


cdef inline size_t more_bytes(const Order* order) noexcept nogil:
    return (sizeof(OrderMore) + order.line_count * sizeof(LineProgress)
            + order.allocation_count * sizeof(AllocationProgress))

cdef inline LineProgress* more_lines(OrderMore* more) noexcept nogil:
    return <LineProgress*>(<uint8_t*>more + sizeof(OrderMore))

# The allocations that count, and how far each is; `progress` NULL: untouched.
cdef inline uint32_t order_allocations(
    State* s, const Order* order, Allocation** allocations, AllocationProgress** progress
) noexcept nogil:
    cdef Plan* plan
    cdef OrderMore* more
    progress[0] = NULL
    if order.plan:
        plan = <Plan*>arena_at(&s.arena, order.plan)
        allocations[0] = <Allocation*>(<uint8_t*>plan + sizeof(Plan))
        progress[0] = <AllocationProgress*>(allocations[0] + plan.count)
        return plan.count
    allocations[0] = order_first_allocations(order)
    if order.more:
        more = more_at(s, order.more)
        progress[0] = <AllocationProgress*>(more_lines(more) + order.line_count)
    return order.allocation_count


cdef OrderMore* order_more(State* s, uint32_t handle) noexcept nogil:
    cdef Order* order = order_at(s, handle)
    if order.more == 0:
        order.more = arena_new(&s.arena, more_bytes(order))
    return more_at(s, order.more)

