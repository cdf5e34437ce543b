# A closed order as bytes that stand alone: names instead of handles, and a CRC at the end. The archive keeps them, a
# Restore carries them. The layout stands in docs/snapshot_format.md.

cdef enum:
    ITEM_VERSION = 1
    ITEM_FLAGS = ORDER_EXPIRED | ORDER_PAID | ORDER_SPLIT | ORDER_HAS_PLACED_AT

cdef struct ItemReader:
    const uint8_t* at
    const uint8_t* end
    bint cut                                   # something would have passed the end


# Appends the item of a closed order.
cdef void write_item(State* s, uint32_t handle, Buffer* out) noexcept nogil:
    cdef Order* order = order_at(s, handle)
    cdef OrderMore* more = more_at(s, order.more)
    cdef size_t begin = out.size
    cdef uint8_t* at = buffer_reserve(out, ARCHIVED_ORDER_BYTES_MAX)
    at = d8(at, ITEM_VERSION)
    at = dstr(at, id_of_shop(shop_at(s, order.shop)))
    at = put_bytes(at, shop_at(s, order.shop).currency, CURRENCY_BYTES)
    at = dstr(at, id_of_order(order))
    at = dstr(at, order_buyer(order))
    at = dhash(at, order.content)
    at = d64(at, order.sequence)
    at = d64(at, order.accepted_at_ms)
    at = d64(at, order_placed_at(order)[0] if order.flags & ORDER_HAS_PLACED_AT else 0)
    at = dstr(at, region_name(s, shop_at(s, order.shop), order.region))
    at = d8(at, order.flags & ITEM_FLAGS)
    at = d8(at, order.outcome)
    at = d8(at, order.strategy)
    at = d8(at, order.priority_class)
    at = d64(at, more.closed_sequence)
    at = d64(at, more.closed_at_ms)
    at = d64(at, more.received)
    at = d64(at, more.refunded)
    at = put_item_lines(s, order, more, at)
    at = put_item_commands(s, more, at)
    at = d32(at, crc32c_of(out.data + begin, <size_t>(at - out.data) - begin, 0))
    buffer_end(out, at)


cdef uint8_t* put_item_lines(State* s, const Order* order, OrderMore* more, uint8_t* at) noexcept nogil:
    cdef Line* lines = order_lines(order)
    cdef LineProgress* progress = more_lines(more)
    cdef Allocation* allocations
    cdef AllocationProgress* done
    cdef uint32_t count = order_allocations(s, order, &allocations, &done), i
    at = d8(at, order.line_count)
    for i in range(order.line_count):
        at = dstr(at, id_of_sku(sku_at(s, lines[i].sku)))
        at = d32(at, lines[i].quantity)
        at = d64(at, lines[i].amount)
        at = d32(at, progress[i].shipped)
        at = d32(at, progress[i].cancelled)
        at = d32(at, progress[i].delivered)
        at = d32(at, progress[i].returned)
        at = d32(at, progress[i].written_off)
    at = put_item_allocations(s, order_first_allocations(order), order.allocation_count, at)
    at = put_item_allocations(s, allocations, count if order.plan else 0, at)
    for i in range(count):
        at = d32(at, done[i].shipped)
        at = d32(at, done[i].released)
    return at


cdef uint8_t* put_item_allocations(
    State* s, const Allocation* allocations, uint32_t count, uint8_t* at
) noexcept nogil:
    cdef uint32_t i
    at = d16(at, <uint16_t>count)
    for i in range(count):
        at = d8(at, <uint8_t>allocations[i].line)
        at = dstr(at, id_of_location(location_at(s, row_at(s, allocations[i].row).location)))
        at = d32(at, allocations[i].quantity)
    return at


# Oldest first, which is the other way round than they are listed.
cdef uint8_t* put_item_commands(State* s, const OrderMore* more, uint8_t* at) noexcept nogil:
    cdef uint32_t handles[1024]
    cdef uint32_t handle = more.commands, count = 0, i
    cdef Command* command
    INVARIANT(more.command_count <= <uint32_t>ORDER_COMMANDS_MAX, "an order has more commands than it may have")
    while handle:
        handles[count] = handle
        count += 1
        handle = (<Command*>arena_at(&s.arena, handle)).next
    at = d32(at, count)
    for i in range(count):
        command = <Command*>arena_at(&s.arena, handles[count - 1 - i])
        at = d8(at, command.kind)
        at = d8(at, command.outcome)
        at = dstr(at, id_of_command(command))
        at = dhash(at, command.content)
        at = d64(at, command.sequence)
    return at


cdef const uint8_t* item_bytes(ItemReader* r, size_t size) noexcept nogil:
    cdef const uint8_t* at = r.at
    if <size_t>(r.end - r.at) < size:
        r.cut = True
        r.at = r.end
        return NULL
    r.at += size
    return at

cdef uint64_t item_number(ItemReader* r, size_t size) noexcept nogil:
    cdef uint64_t value = 0
    cdef const uint8_t* at = item_bytes(r, size)
    if at != NULL:
        memcpy(&value, at, size)
    return value

cdef Hash128 item_hash(ItemReader* r) noexcept nogil:
    cdef Hash128 value
    value.low = item_number(r, 8)
    value.high = item_number(r, 8)
    return value

cdef Span item_text(ItemReader* r, uint32_t least) noexcept nogil:
    cdef uint32_t size = <uint32_t>item_number(r, 1)
    cdef const uint8_t* at = item_bytes(r, size)
    if size < least or size > <uint32_t>ID_BYTES_MAX:
        r.cut = True
    return span_of(at, size) if at != NULL else span_empty()


# Whose order an item is, without a look at the rest. 0: that cannot be read.
cdef int item_names(Span item, Span* shop, Span* order) noexcept nogil:
    cdef ItemReader r
    r.at = item.data
    r.end = item.data + item.size
    r.cut = False
    item_number(&r, 1)
    shop[0] = item_text(&r, 1)
    item_bytes(&r, CURRENCY_BYTES)
    order[0] = item_text(&r, 1)
    return not r.cut


# 0: the item is not what was written. Nothing is looked up.
cdef int read_item_into(Span item, ArchivedOrder* a) noexcept nogil:
    cdef ItemReader r
    cdef uint32_t crc
    cdef const uint8_t* currency
    cdef int i
    if item.size < 4:
        return 0
    memcpy(&crc, item.data + item.size - 4, 4)
    if crc != crc32c_of(item.data, item.size - 4, 0) or item.data[0] != ITEM_VERSION:
        return 0
    memset(a, 0, sizeof(ArchivedOrder))
    r.at = item.data + 1
    r.end = item.data + item.size - 4
    r.cut = False
    a.shop_id = item_text(&r, 1)
    currency = item_bytes(&r, CURRENCY_BYTES)
    if currency != NULL:
        memcpy(a.currency, currency, CURRENCY_BYTES)
    a.order_id = item_text(&r, 1)
    a.buyer_id = item_text(&r, 1)
    a.head.content = item_hash(&r)
    a.head.sequence = item_number(&r, 8)
    a.head.accepted_at_ms = item_number(&r, 8)
    a.placed_at_ms = item_number(&r, 8)
    a.region = item_text(&r, 0)
    a.head.flags = <uint8_t>item_number(&r, 1)
    a.head.outcome = <uint8_t>item_number(&r, 1)
    a.head.strategy = <uint8_t>item_number(&r, 1)
    a.head.priority_class = <uint8_t>item_number(&r, 1)
    a.more.closed_sequence = item_number(&r, 8)
    a.more.closed_at_ms = item_number(&r, 8)
    a.more.received = item_number(&r, 8)
    a.more.refunded = item_number(&r, 8)
    a.head.id_size = <uint8_t>a.order_id.size
    a.head.buyer_size = <uint8_t>a.buyer_id.size
    if (r.cut or a.head.flags & ~ITEM_FLAGS or a.head.outcome == 0 or a.head.priority_class > PRIORITY_CLASS_MAX
            or not 0 <= a.more.refunded <= a.more.received <= AMOUNT_MINOR_MAX):
        return 0
    return (read_item_lines(&r, a) and read_item_allocations(&r, a, a.first, &i)
            and set_first_count(a, i) and read_item_allocations(&r, a, a.later, &i) and set_later_count(a, i)
            and read_item_progress(&r, a) and read_item_commands(&r, a)
            and r.at == r.end and is_closed(&a.head, &a.more))


cdef inline int set_first_count(ArchivedOrder* a, int count) noexcept nogil:
    a.head.allocation_count = <uint16_t>count
    return 1

cdef inline int set_later_count(ArchivedOrder* a, int count) noexcept nogil:
    a.later_count = count
    return 1


cdef int read_item_lines(ItemReader* r, ArchivedOrder* a) noexcept nogil:
    cdef LineProgress* done
    cdef int i, count = <int>item_number(r, 1)
    if not 0 < count <= LINES_MAX:
        return 0
    a.head.line_count = <uint8_t>count
    for i in range(count):
        done = &a.progress[i]
        a.skus[i] = item_text(r, 1)
        a.lines[i].quantity = <uint32_t>item_number(r, 4)
        a.lines[i].amount = item_number(r, 8)
        done.shipped = <uint32_t>item_number(r, 4)
        done.cancelled = <uint32_t>item_number(r, 4)
        done.delivered = <uint32_t>item_number(r, 4)
        done.returned = <uint32_t>item_number(r, 4)
        done.written_off = <uint32_t>item_number(r, 4)
        if (r.cut or not 0 < a.lines[i].quantity <= QUANTITY_MAX or not 0 <= a.lines[i].amount <= AMOUNT_MINOR_MAX
                or <int64_t>done.shipped + done.cancelled > a.lines[i].quantity or done.delivered > done.shipped
                or done.returned > done.shipped or done.written_off > done.returned):
            return 0
    return 1


cdef int read_item_allocations(
    ItemReader* r, const ArchivedOrder* a, NamedAllocation* into, int* count
) noexcept nogil:
    cdef int i
    count[0] = <int>item_number(r, 2)
    if count[0] > ALLOCATIONS_MAX:
        return 0
    for i in range(count[0]):
        into[i].line = <uint32_t>item_number(r, 1)
        into[i].location_id = item_text(r, 1)
        into[i].quantity = <uint32_t>item_number(r, 4)
        if r.cut or into[i].line >= a.head.line_count or into[i].quantity == 0:
            return 0
    return 1


cdef int read_item_progress(ItemReader* r, ArchivedOrder* a) noexcept nogil:
    cdef uint32_t count = a.later_count if a.later_count else a.head.allocation_count, i
    cdef NamedAllocation* allocations = &a.later[0] if a.later_count else &a.first[0]
    for i in range(count):
        a.done[i].shipped = <uint32_t>item_number(r, 4)
        a.done[i].released = <uint32_t>item_number(r, 4)
        if <int64_t>a.done[i].shipped + a.done[i].released > allocations[i].quantity:
            return 0
    return not r.cut


# They stay where they are: an order may have many.
cdef int read_item_commands(ItemReader* r, ArchivedOrder* a) noexcept nogil:
    cdef uint32_t i
    cdef uint64_t kind
    a.command_count = <uint32_t>item_number(r, 4)
    a.commands = r.at
    if a.command_count > <uint32_t>ORDER_COMMANDS_MAX:
        return 0
    for i in range(a.command_count):
        kind = item_number(r, 1)
        if not <uint64_t>PAY_ORDER <= kind <= <uint64_t>SETTLE_REFUND or item_number(r, 1) == 0:
            return 0
        item_text(r, 1)
        item_bytes(r, sizeof(Hash128) + 8)
        if r.cut:
            return 0
    return 1
