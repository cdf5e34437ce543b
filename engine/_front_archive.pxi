# Calls on orders that are not in memory and may be in the archive: they are parked, the order is looked up off the
# loop, and then they are executed again. A command finds the order restored; GetOrder is answered from what the archive
# has. And what keeps memory bounded: orders are evicted, a slice a turn, and none come faster than they leave.

cdef enum:
    PARKED_SLOT_BITS = 16
    PLACES_MAX = 16384                   # orders that may come at once, however few have left memory
    PLACES_OWED_MAX = 128                # more than the slice of a batch and a group, which are placed as a whole
    CATCH_UP_SHARE = 8                   # of so many orders that leave, all but one are made up for by new ones

# A question, as Python takes it.
cdef struct Lookup:
    uint64_t token
    uint32_t shard
    uint8_t shop_size, order_size
    uint8_t ids[128]                     # shop_id, then order_id

# An answer on its way to the loop; the item follows.
cdef struct Found:
    Found* next
    uint64_t token
    size_t size                          # 0: the archive does not have it
    bint failed


cdef int archive_init(Front* f) noexcept nogil:
    cdef uint64_t i
    f.parked = <Parked*>calloc(f.settings.archive_calls_max, sizeof(Parked))
    if f.parked == NULL:
        return 0
    for i in range(f.settings.archive_calls_max):
        f.parked[i].next = f.free_parked
        f.free_parked = &f.parked[i]
    return 1


cdef inline bint is_perhaps_archived(State* s, int verdict) noexcept nogil:
    return (verdict == FAULT and s.fault.code == CODE_NOT_FOUND and s.fault.resource == RESOURCE_ORDER
            and s.evicted_orders > 0)


# The order that the shard has just not found is looked up.
cdef void park(Hosted* h, Job* job) noexcept nogil:
    cdef Front* f = h.front
    cdef const Fault* fault = &h.state.fault
    cdef Parked* p = f.free_parked
    if p == NULL:
        tally(f, CALLS_REFUSED_OVERLOAD, 1)
        job_fail(f, job, CODE_RESOURCE_EXHAUSTED, OVERLOADED, OVERLOADED_TEXT)
        return
    INVARIANT(fault.shop_id.size <= <uint32_t>ID_BYTES_MAX and fault.id.size <= <uint32_t>ID_BYTES_MAX,
              b"an id keeps its bound")
    f.free_parked = p.next
    f.parked_count += 1
    p.job = job
    p.shop_size = <uint8_t>fault.shop_id.size
    p.order_size = <uint8_t>fault.id.size
    memcpy(p.ids, fault.shop_id.data, p.shop_size)
    memcpy(p.ids + p.shop_size, fault.id.data, p.order_size)
    job.state = JOB_PARKED
    ask_archive(f, p)


cdef void ask_archive(Front* f, Parked* p) noexcept nogil:
    cdef Lookup lookup
    f.parked_serial += 1
    p.token = f.parked_serial << PARKED_SLOT_BITS | <uint64_t>(p - f.parked)
    p.answered = p.changed = False
    lookup.token = p.token
    lookup.shard = p.job.shard
    lookup.shop_size, lookup.order_size = p.shop_size, p.order_size
    memcpy(lookup.ids, p.ids, sizeof(lookup.ids))
    pthread_mutex_lock(&f.lock)
    memcpy(buffer_reserve(&f.lookups, sizeof(Lookup)), &lookup, sizeof(Lookup))
    f.lookups.size += sizeof(Lookup)
    pthread_mutex_unlock(&f.lock)
    eventfd_write(f.lookup_fd, 1)
    tally(f, ARCHIVE_LOOKUPS, 1)


# Its job is somebody else's from now on.
cdef Job* unpark(Front* f, Parked* p) noexcept nogil:
    cdef Job* job = p.job
    buffer_free(&p.item)
    p.job = NULL
    p.next = f.free_parked
    f.free_parked = p
    f.parked_count -= 1
    return job


# What other threads have found, the newest first. Those whose call has ended meanwhile are dropped.
cdef void take_found(Front* f, Found* found) noexcept nogil:
    cdef Found* following
    cdef Parked* p
    cdef uint64_t slot
    while found != NULL:
        following = found.next
        slot = found.token & ((1 << PARKED_SLOT_BITS) - 1)
        p = &f.parked[slot] if slot < f.settings.archive_calls_max else NULL
        if p != NULL and p.job != NULL and p.token == found.token and not p.answered:
            p.answered = True
            p.failed = found.failed
            p.item.size = 0
            memcpy(buffer_reserve(&p.item, found.size + 1), found + 1, found.size)
            p.item.size = found.size
            p.next = f.answered
            f.answered = p
        free(found)
        found = following


# Whether an item, as far as it says whose it is, is the order that was asked for.
cdef bint is_asked_for(const Parked* p) noexcept nogil:
    cdef Span shop, order
    return (not item_names(span_of(p.item.data, <uint32_t>p.item.size), &shop, &order)
            or (span_equal(shop, span_of(p.ids, p.shop_size))
                and span_equal(order, span_of(p.ids + p.shop_size, p.order_size))))


cdef void archive_turn(Front* f) noexcept nogil:
    cdef int64_t budget = <int64_t>f.settings.commands_per_turn_max
    cdef Parked* p
    while f.answered != NULL and budget > 0:
        p = f.answered
        if log_must_catch_up(f, p.job):
            f.stalled = True
            return
        f.answered = p.next
        budget -= 1
        execute_again(f, p)


cdef void execute_again(Front* f, Parked* p) noexcept nogil:
    cdef Job* job = p.job
    cdef Hosted* h = f.hosted[job.shard]
    cdef int verdict
    if not is_wanted(f, job):
        unpark(f, p)
        return
    tally(f, COMMANDS_EXECUTED, 1)
    note(job, TIME_EXECUTING)
    verdict = execute_request(h, job)
    note(job, TIME_EXECUTED)
    if not is_perhaps_archived(h.state, verdict):
        answer_job(h, unpark(f, p), verdict)
    elif p.failed:
        tally(f, ARCHIVE_FAILED, 1)
        job_fail(f, unpark(f, p), CODE_UNAVAILABLE, b"ARCHIVE_UNAVAILABLE",
                 b"The archive cannot be asked now; retry with the same id.")
    elif p.changed:
        ask_archive(f, p)
    elif p.item.size == 0:
        answer_job(h, unpark(f, p), verdict)
    elif not is_asked_for(p):
        job_fail(f, unpark(f, p), CODE_DATA_LOSS, b"ARCHIVE_DAMAGED", b"The archive gave another order.")
    else:
        tally(f, ARCHIVE_HITS, 1)
        verdict = read_archived(h, p) if job.method == GET_ORDER else restore_first(f, h, p)
        answer_job(h, unpark(f, p), verdict)


cdef inline int execute_request(Hosted* h, Job* job) noexcept nogil:
    return execute_logged(h.state, job.method, job.request.data, job.request.size, NULL, logged_now_ms(h), h.journal)


cdef int read_archived(Hosted* h, Parked* p) noexcept nogil:
    cdef State* s = h.state
    s.response.size = 0
    if answer_archived(s, span_of(p.ids, p.shop_size), span_of(p.item.data, <uint32_t>p.item.size), &s.response):
        return KNOWN
    s.response.size = 0
    encode_status(&s.response, &s.fault)
    return FAULT


# The whole order into the log, so that a replay needs no archive, and the command behind it.
cdef int restore_first(Front* f, Hosted* h, Parked* p) noexcept nogil:
    cdef Span item = span_of(p.item.data, <uint32_t>p.item.size)
    cdef uint8_t* at
    cdef int verdict
    f.scratch.size = 0
    at = buffer_reserve(&f.scratch, <size_t>item.size + p.shop_size + 16)
    at = put_body(put_id(at, 1, span_of(p.ids, p.shop_size)), 2, item)
    buffer_end(&f.scratch, at)
    verdict = execute_logged(h.state, RESTORE, f.scratch.data, f.scratch.size, NULL, logged_now_ms(h), h.journal)
    if verdict != DECIDED:
        return verdict
    tally(f, ORDERS_RESTORED, 1)
    note_restored(f, p)
    return execute_request(h, p.job)


# What others are about to be told of the order may be older than what becomes of it from now on: should it be evicted
# again before they are executed, they ask again.
cdef void note_restored(Front* f, const Parked* restored) noexcept nogil:
    cdef uint64_t i
    cdef Parked* p
    for i in range(f.settings.archive_calls_max):
        p = &f.parked[i]
        if p.job != NULL and p.job.shard == restored.job.shard and p.shop_size == restored.shop_size \
                and p.order_size == restored.order_size \
                and memcmp(p.ids, restored.ids, p.shop_size + p.order_size) == 0:
            p.changed = True


# Each sweep: of calls that are too late, or that nobody waits for, the slot is needed.
cdef void expire_parked(Front* f) noexcept nogil:
    cdef uint64_t i
    cdef Job* job
    for i in range(f.settings.archive_calls_max if f.parked_count else 0):
        job = f.parked[i].job
        if job != NULL and not f.parked[i].answered and not is_awaited(f, job):
            unpark(f, &f.parked[i])


# The successor decides, and asks the archive anew.
cdef void give_parked_away(Front* f) noexcept nogil:
    cdef uint64_t i
    cdef Job* job
    f.answered = NULL
    for i in range(f.settings.archive_calls_max if f.parked_count else 0):
        if f.parked[i].job == NULL:
            continue
        job = unpark(f, &f.parked[i])
        if is_awaited(f, job):
            queue_add(f, &job.link.ready[job.caller] if job.call == NULL else &job.call.stream.connection.ready, job)


cdef void archive_destroy(Front* f) noexcept nogil:
    cdef uint64_t i
    cdef Found* found
    for i in range(f.settings.archive_calls_max if f.parked_count else 0):
        if f.parked[i].job != NULL:
            job_fail(f, unpark(f, &f.parked[i]), CODE_UNAVAILABLE, b"ARCHIVE_UNAVAILABLE", b"The front is closing.")
    while f.found != NULL:
        found = f.found
        f.found = found.next
        free(found)
    free(f.parked)
    buffer_free(&f.lookups)


# ---- eviction


# What other threads asked for.
cdef void take_retention(Front* f) noexcept nogil:
    cdef int shard
    for shard in range(f.shards):
        if f.hosted[shard] != NULL:
            if f.pending_evicts[shard] > f.hosted[shard].evict_through:
                f.hosted[shard].evict_through = f.pending_evicts[shard]
                f.hosted[shard].evicting = True
            f.hosted[shard].raise_wanted = f.hosted[shard].raise_wanted or f.pending_raises[shard]
        f.pending_evicts[shard] = 0
        f.pending_raises[shard] = False


# One slice of each shard that has something to evict. It goes on in the next turn, and what is not due yet in a sweep.
cdef void retention_turn(Front* f) noexcept nogil:
    cdef int shard
    cdef Hosted* h
    f.evicting = False
    for shard in range(f.shards):
        h = f.hosted[shard]
        if h == NULL or f.handing_over:
            continue
        pace_orders(h)
        if not (h.evicting or h.raise_wanted):
            continue
        if log_is_behind(h):
            f.stalled = True
            continue
        if h.raise_wanted:
            h.raise_wanted = False
            hold_commit(h, raise_level(h.state, h.journal, logged_now_ms(h)) != 0)
        if h.evicting:
            evict_slice(f, h)
        f.evicting = f.evicting or h.evicting


cdef void evict_slice(Front* f, Hosted* h) noexcept nogil:
    cdef uint64_t before = h.state.sequence, evicted = h.state.evicted_orders
    h.evicting = evict_some(h.state, h.evict_through, logged_now_ms(h), h.journal) != 0
    if h.state.sequence == before:
        h.evicting = False               # refused, as by a log without room: the next sweep tries again
        return
    evicted = h.state.evicted_orders - evicted
    # Who came while nobody was kept waiting is not made up for by others.
    if h.places_left < -<int64_t>PLACES_OWED_MAX:
        h.places_left = -<int64_t>PLACES_OWED_MAX
    h.places_left += <int64_t>(evicted - evicted // <uint64_t>CATCH_UP_SHARE)
    h.evicted_ns = f.now_ns
    tally(f, EVICTIONS, 1)
    hold_commit(h, 1)


# An archive that is behind is not outrun: while the oldest order should have left memory long ago, as many are placed
# as leave. One that takes nothing at all keeps nobody waiting.
cdef void pace_orders(Hosted* h) noexcept nogil:
    cdef State* s = h.state
    cdef int64_t lag_ms = <int64_t>h.front.settings.archive_lag_ms
    h.paced = s.closed.head != 0 and window_is_over(s, s.closed.head, s.time_ms - lag_ms)
    if not h.paced or h.places_left > <int64_t>PLACES_MAX:
        h.places_left = PLACES_MAX


cdef inline bint archive_must_catch_up(Hosted* h) noexcept nogil:
    cdef Front* f = h.front
    if (not h.paced or h.places_left > 0 or f.handing_over
            or f.now_ns >= h.evicted_ns + f.settings.archive_wait_ms * 1000000):
        return False
    tally(f, ARCHIVE_WAITS, 1)
    f.outrun = True
    return True


cdef void retention_sweep(Front* f) noexcept nogil:
    cdef int shard
    for shard in range(f.shards):
        if f.hosted[shard] != NULL and f.hosted[shard].evict_through:
            f.hosted[shard].evicting = True
