# Shards that live here: jobs are executed, logged, and let go once they are durable.

cdef enum:
    SLICE = 64                           # items of a batch between two looks at the budget
    HELD_MAX = 64                        # commands that may wait for company before their commit begins
    HELD_ITEMS = 8                       # items of a batch that count as one command: its answer needs all of them
    HELD_NS_MAX = 250000


# One round: each source may have a bounded number of commands carried out, then it is the next one's turn.
cdef void serve(Front* f) noexcept nogil:
    cdef JobQueue* last = f.runnable_last
    cdef JobQueue* source = NULL
    cdef Job* group[GROUP]
    cdef int grouped = 0
    f.stalled = f.outrun = False
    while f.runnable != NULL and source != last:
        source = f.runnable
        f.runnable = source.next
        if f.runnable == NULL:
            f.runnable_last = NULL
        source.listed = False
        serve_source(f, source, group, &grouped)
        if source.first != NULL:
            queue_list(f, source)
    execute_group(f, group, &grouped)


cdef void serve_source(Front* f, JobQueue* source, Job** group, int* grouped) noexcept nogil:
    # Enough for a batch that was begun, before the shards are given away.
    cdef int64_t budget = BATCH_ITEMS_MAX if f.handing_over else <int64_t>f.settings.commands_per_turn_max
    cdef Job* job
    while source.first != NULL and budget > 0:
        if UNLIKELY(source.first.denied):
            budget -= deny_job(f, queue_pop(source))
            continue
        if UNLIKELY(f.handing_over) and source.first.items == 0:
            if not pass_on(f, source):
                f.stalled = True
                return
            budget -= 1
            continue
        if ((source.first.is_batch or grouped[0] == 0) and log_must_catch_up(f, source.first)) \
                or order_must_wait(f, source.first):
            f.stalled = True
            return
        job = queue_pop(source)
        if job.is_batch:
            execute_group(f, group, grouped)
            budget -= serve_batch(f, source, job, budget)
            continue
        budget -= 1
        if is_wanted(f, job):
            if grouped[0] and group[0].shard != job.shard:
                execute_group(f, group, grouped)
            group[grouped[0]] = job
            grouped[0] += 1
            if grouped[0] == GROUP:
                execute_group(f, group, grouped)


# The next segment is not ready yet, or too much waits for the disk: jobs stay where they are, and their senders are not
# read. A disk that is full is another matter, and refused.
cdef inline bint log_must_catch_up(Front* f, Job* job) noexcept nogil:
    return f.hosted[job.shard] != NULL and log_is_behind(f.hosted[job.shard])


# What pays, ships or cancels an order leads to its leaving, and goes on.
cdef inline bint order_must_wait(Front* f, Job* job) noexcept nogil:
    cdef Hosted* h = f.hosted[job.shard]
    return job.method == PLACE_ORDER and h != NULL and archive_must_catch_up(h)


cdef inline bint log_is_behind(Hosted* h) noexcept nogil:
    # A record of any size, and besides it what a slice of ordinary ones takes.
    return journal_room(h.journal, h.journal.record_bytes_max + h.journal.segment_bytes // 16) == JOURNAL_FULL


cdef bint is_wanted(Front* f, Job* job) noexcept nogil:
    if not is_awaited(f, job):
        return False
    if f.hosted[job.shard].jobs_in_flight >= f.settings.shard_jobs_max:
        tally(f, CALLS_REFUSED_OVERLOAD, 1)
        job_fail(f, job, CODE_RESOURCE_EXHAUSTED, OVERLOADED, OVERLOADED_TEXT)
        return False
    return True


# A job that nobody waits for, or that is too late, is done without being looked at.
cdef bint is_awaited(Front* f, Job* job) noexcept nogil:
    if (job.call != NULL and job.call.stream == NULL) or (job.call == NULL and job.link.dead):
        job_fail(f, job, CODE_CANCELLED, b"CANCELLED", b"The caller went away.")
        return False
    if job.deadline_ns and job.deadline_ns <= f.now_ns:
        tally(f, CALLS_EXPIRED, 1)
        job_fail(f, job, CODE_DEADLINE_EXCEEDED, b"DEADLINE_EXCEEDED",
                 b"The deadline passed before the call was executed.")
        return False
    return True


cdef inline int64_t logged_now_ms(Hosted* h) noexcept nogil:
    if h.now_ms == 0:
        h.now_ms = clock_now_ms(h.clock)
    return h.now_ms


# Single commands of one shard. Orders are made ready together, so that their cache misses overlap.
cdef void execute_group(Front* f, Job** group, int* grouped) noexcept nogil:
    cdef Hosted* h
    cdef Span items[GROUP]
    cdef PlaceOrder* orders[GROUP]
    cdef Job* before
    cdef uint64_t began_ns = 0
    cdef int i, placing = 0, count_of = grouped[0]
    grouped[0] = 0
    if count_of == 0:
        return
    h = f.hosted[group[0].shard]
    before = h.waiting_last if h.waiting_first != NULL else NULL
    for i in range(count_of):
        orders[i] = NULL
        if UNLIKELY(group[i].times != NULL and began_ns == 0):
            began_ns = journal_now_ns(CLOCK_MONOTONIC)
        # Nothing of another method decodes as an order by chance: it is given no bytes.
        items[i] = group[i].request if group[i].method == PLACE_ORDER else span_empty()
        placing += group[i].method == PLACE_ORDER
    h.places_left -= placing
    if placing > 1:
        make_ready(h.state, items, count_of, orders)
    for i in range(count_of):
        execute_job(h, group[i], orders[i])
    if UNLIKELY(began_ns > 0):
        share_times(h, before, began_ns, <uint64_t>count_of)
    tally(f, COMMANDS_EXECUTED, <uint64_t>count_of)


cdef void execute_job(Hosted* h, Job* job, PlaceOrder* order) noexcept nogil:
    cdef State* s = h.state
    cdef int verdict = execute_logged(s, job.method, job.request.data, job.request.size, order, logged_now_ms(h),
                                      h.journal)
    if UNLIKELY(is_perhaps_archived(s, verdict)):
        park(h, job)
    else:
        answer_job(h, job, verdict)


# With what the shard said last.
cdef void answer_job(Hosted* h, Job* job, int verdict) noexcept nogil:
    cdef State* s = h.state
    cdef uint8_t* at
    buffer_begin_answer(&job.answer)
    at = buffer_reserve(&job.answer, s.response.size)
    memcpy(at, s.response.data, s.response.size)
    job.answer.size += s.response.size
    job.code = <uint32_t>s.fault.code if verdict == FAULT else <uint32_t>CODE_OK
    if UNLIKELY(job.times != NULL and verdict == DECIDED):
        job.outcome = s.record.data[5]
    wait_until_durable(h, job)


# A slice of a batch. What is left of it stays first in its source. Returns what it costs of the budget.
cdef int64_t serve_batch(Front* f, JobQueue* source, Job* job, int64_t budget) noexcept nogil:
    cdef int64_t items = 1
    # A batch that was begun is carried out to its end, so that it is whole or not at all.
    if (job.items > 0 and f.hosted[job.shard] != NULL) or is_wanted(f, job):
        items = execute_slice(f, job, budget)
        if job.state == JOB_READY:
            job.next = source.first
            if source.first == NULL:
                source.last = job
            source.first = job
    return items if items else 1


# The next items of a batch, as many as the budget allows. Returns how many.
cdef int64_t execute_slice(Front* f, Job* job, int64_t budget) noexcept nogil:
    cdef Hosted* h = f.hosted[job.shard]
    cdef State* s = h.state
    cdef int most = <int>(budget if budget < SLICE else SLICE)
    cdef int items
    if job.offset == 0 and job.items == 0:
        buffer_begin_answer(&job.answer)
        if UNLIKELY(job.times != NULL and job.times[<uint32_t>TIME_EXECUTING] == 0):
            note(job, TIME_EXECUTING)
        tally(f, BATCHES_EXECUTED, 1)
    items = execute_some(s, job.method, job.request.data, job.request.size, &job.offset, most, logged_now_ms(h),
                         &job.answer, h.journal)
    job.items += <uint32_t>items
    if job.method == PLACE_ORDER:
        h.places_left -= items
    tally(f, COMMANDS_EXECUTED, <uint64_t>items)
    if items < most or job.offset >= job.request.size:
        note(job, TIME_EXECUTED)
        wait_until_durable(h, job)
    hold_commit(h, <uint64_t>items // HELD_ITEMS)
    return items


cdef void wait_until_durable(Hosted* h, Job* job) noexcept nogil:
    job.state = JOB_WAITING
    job.sequence = h.state.sequence
    job.next = NULL
    if h.waiting_first == NULL:
        h.waiting_first = job
    else:
        h.waiting_last.next = job
    h.waiting_last = job
    h.jobs_in_flight += 1
    hold_commit(h, 1)


# A commit costs two system calls and as many switches of threads, however much is in it. So while there is more to be
# read, what was executed is held for a little company; a loop that is about to sleep wakes the sync thread at once.
cdef void kick_journals(Front* f, bint all_of_it) noexcept nogil:
    cdef int shard
    cdef Hosted* h
    for shard in range(f.shards):
        h = f.hosted[shard]
        if h == NULL:
            continue
        h.now_ms = 0
        if h.held and (all_of_it or h.held >= HELD_MAX or f.now_ns - h.held_since_ns >= HELD_NS_MAX):
            h.held = 0
            if h.state.sequence > journal_durable_sequence(h.journal):
                journal_kick(h.journal)


cdef bint journals_are_held(Front* f) noexcept nogil:
    cdef int shard
    for shard in range(f.shards):
        if f.hosted[shard] != NULL and f.hosted[shard].held:
            return True
    return False


cdef inline void hold_commit(Hosted* h, uint64_t commands) noexcept nogil:
    if h.held == 0:
        h.held_since_ns = h.front.now_ns
    h.held += commands


# A digest mark for followers, now and then, while no group is half carried out.
cdef void mark_shards(Front* f) noexcept nogil:
    cdef int shard
    cdef Hosted* h
    cdef Hash128 digest
    for shard in range(f.shards):
        h = f.hosted[shard]
        if h != NULL and h.state.sequence - h.marked >= <uint64_t>MARK_EVERY:
            digest = state_digest(h.state)
            mark_put(h.marks, h.state.sequence, digest.low, digest.high)
            h.marked = h.state.sequence


cdef void let_go(Front* f, Hosted* h) noexcept nogil:
    cdef uint64_t durable = journal_durable_sequence(h.journal)
    cdef Job* job = h.waiting_first
    while job != NULL and job.sequence <= durable:
        h.waiting_first = job.next
        h.jobs_in_flight -= 1
        job.next = NULL
        job_done(f, job)
        job = h.waiting_first


# From now on the shard is served here.
cdef void shard_begin(Front* f, int shard, Hosted* h) noexcept nogil:
    if f.handing_over:
        free(h)
        return
    h.marks = board_marks(&f.board, <uint32_t>shard)
    marks_clear(h.marks)
    h.marked = h.state.sequence
    h.expired_before = h.state.expired_orders
    f.hosted[shard] = h
    watch_fd(f, h.journal.event_fd, h)


# Milliseconds until a shard's next tick, at most 1,000.
cdef uint64_t tick_shards(Front* f) noexcept nogil:
    cdef uint64_t wait_ns, least_ns = 1000000000
    cdef Hosted* h
    cdef int shard
    for shard in range(f.shards):
        h = f.hosted[shard]
        if h == NULL or f.handing_over:
            continue
        if h.tick_at_ns <= f.now_ns:
            h.tick_at_ns = f.now_ns + <uint64_t>tick_if_due(h.state, h.journal, clock_now_ms(h.clock)) * 1000000
        wait_ns = h.tick_at_ns - f.now_ns
        if wait_ns < least_ns:
            least_ns = wait_ns
    return least_ns
