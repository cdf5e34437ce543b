# Quotas of callers, in memory that all workers of an engine share: behind the board, so that whoever has the board has
# them. The bucket of orders is one word for each caller (GCRA, ITU-T I.371): the time at which it would be full again.
# What is in flight each worker publishes in a row of its own, so that a worker that dies leaves nothing that lasts.

cdef extern from *:
    """
    #define eo_exchange64(at, expected, wanted) \\
        __atomic_compare_exchange_n((at), (expected), (wanted), 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)
    """
    bint eo_exchange64(uint64_t* at, uint64_t* expected, uint64_t wanted) noexcept nogil

cdef enum:
    QUOTA_SLOTS = 1024                   # callers with a bound
    QUOTA_PROBES_MAX = 64                # beyond that the table counts as full
    QUOTA_SECOND_NS = 1000000000

cdef struct QuotaSlot:
    uint64_t name_hash                   # 0: nobody's
    uint64_t full_at_ns                  # CLOCK_MONOTONIC, which all processes of a machine share

cdef struct QuotaUse:
    uint64_t bytes, connections

# `uses` are this worker's own counts, by slot; what it publishes of them the others add up. Slots from QUOTA_SLOTS on
# are this worker's alone: for those who found the table full. Of these several callers may share one.
cdef struct Quotas:
    QuotaSlot* slots
    QuotaUse* rows                       # of all workers
    QuotaUse* row                        # NULL: nothing is published
    QuotaUse* uses
    QuotaSlot* own_slots
    uint8_t* mapping
    size_t mapping_bytes
    uint32_t worker, workers


cdef inline size_t quota_bytes(uint32_t workers) noexcept nogil:
    return <size_t>QUOTA_SLOTS * (sizeof(QuotaSlot) + workers * sizeof(QuotaUse))


# 0: no memory. A board of an older program has no room for quotas: then they are this worker's alone.
cdef int quotas_init(Quotas* q, int fd, size_t offset, uint32_t worker, uint32_t workers) noexcept nogil:
    q.worker, q.workers = worker, workers
    q.uses = <QuotaUse*>calloc(2 * QUOTA_SLOTS, sizeof(QuotaUse))
    q.own_slots = <QuotaSlot*>calloc(QUOTA_SLOTS, sizeof(QuotaSlot))
    if q.uses == NULL or q.own_slots == NULL:
        return 0
    q.mapping_bytes = offset + quota_bytes(workers)
    q.mapping = <uint8_t*>memory_map(fd, q.mapping_bytes)
    if q.mapping == NULL:
        return 1
    q.slots = <QuotaSlot*>(q.mapping + offset)
    q.rows = <QuotaUse*>(q.slots + QUOTA_SLOTS)
    q.row = q.rows + <size_t>worker * QUOTA_SLOTS
    memset(q.row, 0, QUOTA_SLOTS * sizeof(QuotaUse))
    return 1


cdef void quotas_destroy(Quotas* q) noexcept nogil:
    if q.row != NULL:
        memset(q.row, 0, QUOTA_SLOTS * sizeof(QuotaUse))
    if q.mapping != NULL:
        munmap(q.mapping, q.mapping_bytes)
    free(q.uses)
    free(q.own_slots)


# The slot of a caller, claimed if nobody has claimed it yet.
cdef uint32_t quota_slot_of(Quotas* q, uint64_t name_hash) noexcept nogil:
    cdef uint32_t i, number
    cdef uint64_t found
    name_hash += name_hash == 0
    for i in range(QUOTA_PROBES_MAX if q.slots != NULL else 0):
        number = <uint32_t>((name_hash + i) % <uint64_t>QUOTA_SLOTS)
        found = eo_load64(&q.slots[number].name_hash)
        if found == 0 and eo_exchange64(&q.slots[number].name_hash, &found, name_hash):
            return number
        if found == name_hash:
            return number
    return <uint32_t>QUOTA_SLOTS + <uint32_t>(name_hash % <uint64_t>QUOTA_SLOTS)


# Takes `count` from a bucket that holds `burst` and is filled with `per_s`. 0: taken; otherwise the nanoseconds until
# it would fit, UINT64_MAX for what never does.
cdef uint64_t quota_take(Quotas* q, uint32_t number, uint64_t now_ns, uint64_t count, uint64_t per_s,
                         uint64_t burst) noexcept nogil:
    cdef QuotaSlot* slot = &q.slots[number] if number < QUOTA_SLOTS else &q.own_slots[number - QUOTA_SLOTS]
    cdef uint64_t before, full_at_ns
    cdef uint64_t depth_ns = burst * <uint64_t>QUOTA_SECOND_NS // per_s
    cdef uint64_t cost_ns = (count * <uint64_t>QUOTA_SECOND_NS + per_s - 1) // per_s
    if count > burst:
        return UINT64_MAX
    if depth_ns < cost_ns:
        depth_ns = cost_ns               # rounding
    before = eo_load64(&slot.full_at_ns)
    while True:
        full_at_ns = (before if before > now_ns else now_ns) + cost_ns
        if full_at_ns - now_ns > depth_ns:
            return full_at_ns - now_ns - depth_ns
        if eo_exchange64(&slot.full_at_ns, &before, full_at_ns):
            return 0


# Of all workers together.
cdef QuotaUse quota_in_use(const Quotas* q, uint32_t number) noexcept nogil:
    cdef QuotaUse total = q.uses[number]
    cdef const QuotaUse* use
    cdef uint32_t worker
    for worker in range(q.workers if number < QUOTA_SLOTS else 0):
        if worker != q.worker:
            use = &q.rows[<size_t>worker * QUOTA_SLOTS + number]
            total.bytes += eo_load64(&use.bytes)
            total.connections += eo_load64(&use.connections)
    return total


cdef void quota_use(Quotas* q, uint32_t number, int64_t bytes, int64_t connections) noexcept nogil:
    cdef QuotaUse* use = &q.uses[number]
    use.bytes += <uint64_t>bytes
    use.connections += <uint64_t>connections
    if q.row != NULL and number < QUOTA_SLOTS:
        eo_store64(&q.row[number].bytes, use.bytes)
        eo_store64(&q.row[number].connections, use.connections)
