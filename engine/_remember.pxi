# Ids that are used up without an order: refused orders, adjustments, transfers. They are remembered for the idempotency
# window in logged time, in a table with a bound; a full table refuses new work rather than forget early.

# `hash`: of the id in its shop.
cdef uint32_t find_remembered(State* s, uint32_t shop, int kind, Span id, uint32_t hash) noexcept nogil:
    cdef Probe probe = index_probe(&s.remembered, hash)
    cdef uint32_t handle = probe_next(&s.arena, &probe)
    cdef Remembered* remembered
    while handle:
        remembered = <Remembered*>arena_at(&s.arena, handle)
        if remembered.shop == shop and remembered.kind == kind and span_equal(remembered_id(remembered), id):
            break
        handle = probe_next(&s.arena, &probe)
    return handle


# A known id: KNOWN with the original answer, or FAULT for other content. 0: not known.
cdef int recall(
    State* s, uint32_t shop, int kind, Span id, uint32_t hash, const CommandHead* head, Reply* reply
) noexcept nogil:
    cdef uint32_t handle = find_remembered(s, shop, kind, id, hash)
    cdef Remembered* remembered
    if handle == 0:
        return 0
    remembered = <Remembered*>arena_at(&s.arena, handle)
    if not hash_equal(remembered.content, content_of(head)):
        return conflict(s, head.shop_id, id)
    reply.duplicate = True
    reply.outcome = remembered.outcome
    reply.sequence = remembered.sequence
    reply.line = -1 if remembered.line == REMEMBERED_LINE_NONE else remembered.line
    return KNOWN


cdef inline bint remembered_full(const State* s) noexcept nogil:
    return s.remembered.count >= s.remembered_max

cdef inline bint too_old(const State* s, int64_t first_sent_at_ms) noexcept nogil:
    return first_sent_at_ms > 0 and s.now_ms - first_sent_at_ms > s.window_ms


cdef Hash128 content_of(const CommandHead* head) noexcept nogil:
    cdef uint64_t words[2]
    cdef Hash128 content
    content_hash(head, words)
    content.low = words[0]
    content.high = words[1]
    return content


cdef void remember(
    State* s, uint32_t shop, int kind, Span id, const CommandHead* head, const Reply* reply
) noexcept nogil:
    add_remembered(s, shop, kind, id, content_of(head), reply.sequence, reply.outcome, s.now_ms,
                   REMEMBERED_LINE_NONE if reply.line < 0 else <uint8_t>reply.line)


cdef void add_remembered(
    State* s, uint32_t shop, int kind, Span id, Hash128 content, uint64_t sequence, int outcome, int64_t time_ms,
    uint8_t line
) noexcept nogil:
    append_remembered(s, new_remembered(s, shop, kind, id, content, sequence, outcome, time_ms, line))


# Indexed and counted, but not yet in the list of what is oldest.
cdef uint32_t new_remembered(
    State* s, uint32_t shop, int kind, Span id, Hash128 content, uint64_t sequence, int outcome, int64_t time_ms,
    uint8_t line
) noexcept nogil:
    cdef uint32_t handle = arena_new(&s.arena, sizeof(Remembered) + id.size)
    cdef Remembered* remembered = <Remembered*>arena_at(&s.arena, handle)
    remembered.content = content
    remembered.sequence = sequence
    remembered.time_ms = time_ms
    remembered.shop = shop
    remembered.kind = <uint8_t>kind
    remembered.outcome = <uint8_t>outcome
    remembered.line = line
    remembered.id_size = <uint8_t>id.size
    memcpy(<uint8_t*>remembered + sizeof(Remembered), id.data, id.size)
    shop_at(s, shop).refs += 1
    index_insert(&s.remembered, &s.arena, handle, index_hash(s, shop, id))
    count_in(s.whole, remembered_digest(s, remembered))
    return handle


cdef void append_remembered(State* s, uint32_t handle) noexcept nogil:
    if s.remembered_tail:
        (<Remembered*>arena_at(&s.arena, s.remembered_tail)).next = handle
    else:
        s.remembered_head = handle
    s.remembered_tail = handle


cdef void forget_oldest(State* s) noexcept nogil:
    cdef uint32_t handle = s.remembered_head
    cdef Remembered* remembered = <Remembered*>arena_at(&s.arena, handle)
    cdef uint32_t shop = remembered.shop
    count_out(s.whole, remembered_digest(s, remembered))
    index_remove(&s.remembered, &s.arena, handle, index_hash(s, shop, remembered_id(remembered)))
    s.remembered_head = remembered.next
    if s.remembered_head == 0:
        s.remembered_tail = 0
    arena_free(&s.arena, handle, sizeof(Remembered) + remembered.id_size)
    shop_at(s, shop).refs -= 1
    reclaim_shop(s, shop)


cdef inline int64_t oldest_remembered_ends_ms(State* s) noexcept nogil:
    return (<Remembered*>arena_at(&s.arena, s.remembered_head)).time_ms + s.window_ms


# Faults. Each returns FAULT, so that a handler can end with it.
cdef int set_fault(State* s, int code, const char* reason, const char* description) noexcept nogil:
    memset(&s.fault, 0, sizeof(Fault))
    s.fault.code = code
    s.fault.reason = reason
    s.fault.description = description
    s.fault.index = -1
    return FAULT

cdef int invalid(State* s, const char* field, int index, const char* subfield, const char* text) noexcept nogil:
    set_fault(s, CODE_INVALID_ARGUMENT, b"INVALID_FIELD", text)
    s.fault.field = field
    s.fault.index = index
    s.fault.subfield = subfield
    return FAULT

cdef int exhausted(State* s, const char* reason, const char* description) noexcept nogil:
    return set_fault(s, CODE_RESOURCE_EXHAUSTED, reason, description)

cdef int not_found(State* s, int resource, Span shop, Span id) noexcept nogil:
    cdef const char* reason = b"ORDER_NOT_FOUND"
    if resource == RESOURCE_SHOP:
        reason = b"SHOP_NOT_FOUND"
    elif resource == RESOURCE_LOCATION:
        reason = b"LOCATION_NOT_FOUND"
    elif resource == RESOURCE_SKU:
        reason = b"SKU_NOT_FOUND"
    set_fault(s, CODE_NOT_FOUND, reason, b"It does not exist.")
    s.fault.resource = resource
    s.fault.shop_id = shop
    s.fault.id = id
    return FAULT

cdef int conflict(State* s, Span shop, Span id) noexcept nogil:
    set_fault(s, CODE_ALREADY_EXISTS, b"ID_CONFLICT", b"The id was used with other content.")
    s.fault.resource = RESOURCE_ORDER
    s.fault.shop_id = shop
    s.fault.id = id
    return FAULT
