# Memory ahead of need: a thread touches what the arena and the index of orders will take next, so that the thread that
# executes pays no page faults. It reads two counters that only grow, and is never waited for.

cdef enum:
    HELPER_NICE = 10
    AHEAD_BYTES = 16 << 20                     # a tenth of a second at a million orders a second
    AHEAD_PAUSE_NS = 10000000


# `populated`: up to where memory is there already.
cdef uint64_t populate_ahead(uint8_t* base, uint64_t used, uint64_t reserved, uint64_t populated) noexcept nogil:
    if populated < used:
        populated = used
    if populated - used >= AHEAD_BYTES // 2 or populated >= reserved:
        return populated
    populate(base, populated, reserved, AHEAD_BYTES)
    return populated + AHEAD_BYTES


cdef void stay_ahead(State* s, const uint64_t* stop) noexcept nogil:
    cdef uint64_t arena_populated = 0, index_populated = 0
    while eo_load64(stop) == 0:
        arena_populated = populate_ahead(s.arena.base, eo_load64(&s.arena.bump) << 3, s.arena.reserved_bytes,
                                         arena_populated)
        index_populated = populate_ahead(<uint8_t*>s.orders.lines, eo_load64(&s.orders.buckets) * sizeof(IndexLine),
                                         s.orders.reserved_bytes, index_populated)
        pause_ns(AHEAD_PAUSE_NS)
