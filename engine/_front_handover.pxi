# A front that gives its shards away to a successor of the same number, and goes on as a front. What was decided is made
# durable and answered; then nothing of the shards is touched any more. Jobs for them wait where they are, and go to the
# successor once there is a link to it, also those that other workers sent here.


cdef inline bint is_given_away(const Front* f, int shard) noexcept nogil:
    return f.handing_over and shard % f.workers == f.worker


cdef void begin_handover(Front* f) noexcept nogil:
    f.handing_over = True
    f.successor_until_ns = f.now_ns + f.settings.handover_ms * MS_NS
    arm_listeners(f, False)
    give_parked_away(f)
    tally(f, HANDOVERS, 1)


# A batch that was begun is carried out here, so that it is whole; it is the first of its source.
cdef bint a_batch_is_begun(const Front* f) noexcept nogil:
    cdef const JobQueue* source = f.runnable
    while source != NULL:
        if source.first != NULL and source.first.items > 0:
            return True
        source = source.next
    return False


# In each turn, after everything that may still use a shard.
cdef void handover_turn(Front* f) noexcept nogil:
    cdef bint settled = True
    cdef int shard
    if not f.handing_over or f.released:
        return
    for shard in range(f.shards):
        if f.hosted[shard] != NULL:
            settled = is_settled(f.hosted[shard]) and settled
    if settled and not a_batch_is_begun(f):
        release_shards(f)


# Whether all that was decided, also by a tick, is durable and answered.
cdef bint is_settled(Hosted* h) noexcept nogil:
    if h.state.sequence > journal_durable_sequence(h.journal):
        h.held = 0
        journal_kick(h.journal)
        return False
    return h.waiting_first == NULL


cdef void release_shards(Front* f) noexcept nogil:
    cdef int shard
    for shard in range(f.shards):
        if f.hosted[shard] != NULL:
            epoll_ctl(f.epoll_fd, EPOLL_CTL_DEL, journal_event_fd(f.hosted[shard]), NULL)
            free(f.hosted[shard])
            f.hosted[shard] = NULL
    # The slot is the successor's from now on; until it begins, nobody leaves a connection to this worker.
    memcpy(&f.own_slot, f.slot, sizeof(BoardSlot))
    eo_store64(&f.slot.state, BOARD_STARTING)
    f.slot = &f.own_slot
    f.stages = NULL
    f.spans = NULL
    f.quotas.row = NULL
    f.released = True
    pthread_mutex_lock(&f.lock)
    f.handed_over = True
    pthread_cond_broadcast(&f.changed)
    pthread_mutex_unlock(&f.lock)


# The first job of a source goes to the successor, or is refused if there is none in time. False: it waits.
cdef bint pass_on(Front* f, JobQueue* source) noexcept nogil:
    cdef Job* job
    if not f.released or (f.successor == NULL and f.now_ns < f.successor_until_ns) \
            or (f.successor != NULL and f.successor.away_count >= f.settings.link_jobs_max):
        return False
    job = queue_pop(source)
    if not is_awaited(f, job):
        return True
    if f.successor == NULL:
        job_fail(f, job, CODE_UNAVAILABLE, b"SHARD_DOWN", b"The shard's worker is down; retry with the same id.")
    else:
        link_send(f, f.successor, job)
    return True


# Whether other workers may still wait for this front: one that has a newer link says so once it waits no more. One that
# has none is not waited for without end.
cdef bint links_are_drained(Front* f) noexcept nogil:
    cdef Link* link = f.live_links
    cdef bint patient = f.now_ns < f.drain_began_ns + f.settings.handover_ms * MS_NS
    while link != NULL and f.released:
        if link != f.successor and (link.jobs > 0 or link.unsent_first != NULL or (patient and not link.bye_received)):
            return False
        link = link.next_live
    return True
