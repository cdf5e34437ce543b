# Jobs to and from other workers. A message is a head and what it carries; docs/front.md has the layout.

cdef enum LinkMessage:
    LINK_REQUEST = 1
    LINK_BATCH = 2
    LINK_ANSWER = 3
    LINK_BYE = 4                         # nothing more is asked over this link, and nothing waited for
    LINK_TIMED_ANSWER = 5                # the same, behind the job's times; only to who asked for them

cdef enum:
    LINK_MESSAGES_MAX = 4096             # of one link in one turn
    LINK_SLOT_BITS = 16
    LINK_TIMED = 1                       # a request's code: the answer is to have its times

cdef struct LinkHead:
    uint8_t type                         # LinkMessage; of a bye the rest is zero
    uint8_t method                       # answer: the outcome, if it was timed and is known
    uint8_t shard
    uint8_t caller                       # request: whose it is, for fairness between callers
    uint32_t code                        # answer: gRPC's; request: LINK_TIMED or 0
    uint64_t token                       # chosen by who asks, returned as it is
    uint64_t deadline_ns                 # request: CLOCK_MONOTONIC, 0: none

cdef struct TimedHead:
    LinkHead head
    uint64_t times[STAGE_TIMES]          # zeros but of what the answering worker has seen


cdef inline Link* link_of_alive(int* alive_kind) noexcept nogil:
    return <Link*>(<uint8_t*>alive_kind - sizeof(int))


# Of a list whose newest is the first.
cdef void links_begin(Front* f, Link* newest) noexcept nogil:
    if newest != NULL:
        links_begin(f, newest.next)
        link_begin(f, newest)


# From now on the peer is asked over this link. The one before serves until it has nothing left, or its peer ends: what
# was asked over it is answered over it. One to the own number is asked only for what was given away.
cdef void link_begin(Front* f, Link* link) noexcept nogil:
    cdef uint32_t i, slots = <uint32_t>f.settings.link_jobs_max
    cdef Link** newest = &f.links[link.worker]
    cdef Link* predecessor = NULL
    if link.worker == f.worker:
        newest = &f.successor if f.handing_over else &predecessor
    if newest[0] != NULL:
        newest[0].replaced = True
    newest[0] = link
    link.next = NULL
    link.next_live = f.live_links
    f.live_links = link
    link.front = f
    link.away = <Job**>calloc(slots, sizeof(Job*))
    link.free_slots = <uint32_t*>malloc(slots * sizeof(uint32_t))
    INVARIANT(link.away != NULL and link.free_slots != NULL, b"memory for a link")
    for i in range(slots):
        link.free_slots[i] = i
    link.free_count = slots
    watch_fd(f, link.wake_in_fd, link)
    watch_fd(f, link.alive_fd, &link.alive_kind)


# A job for a shard of the peer: of a connection here, or one that another worker asked for and that is passed on.
cdef void link_send(Front* f, Link* link, Job* job) noexcept nogil:
    cdef uint32_t slot
    if job.call == NULL:
        job.asker = job.link
        job.asker_token = job.token
    link.free_count -= 1
    slot = link.free_slots[link.free_count]
    link.away[slot] = job
    link.away_count += 1
    link.serial += 1
    job.token = link.serial << LINK_SLOT_BITS | slot
    job.link = link
    job.state = JOB_AWAY
    tally(f, JOBS_SENT, 1)
    link_queue(link, job)


# It was away, and is done: whose it is is again who asked.
cdef inline void link_returned(Job* job) noexcept nogil:
    if job.call == NULL:
        job.link = job.asker
        job.token = job.asker_token


cdef void link_queue(Link* link, Job* job) noexcept nogil:
    link.front.links_unsent = True
    job.next = NULL
    if link.unsent_first == NULL:
        link.unsent_first = job
    else:
        link.unsent_last.next = job
    link.unsent_last = job


# A job of the peer is done: its answer goes back, or nowhere if the peer is gone.
cdef void link_answer(Front* f, Job* job) noexcept nogil:
    if job.link.dead:
        link_job_free(job)
    else:
        link_queue(job.link, job)


cdef void link_job_free(Job* job) noexcept nogil:
    job.link.jobs -= 1
    buffer_free(&job.answer)
    free(job)


# What waits goes into the ring, as far as there is room.
cdef void link_push(Link* link) noexcept nogil:
    cdef Job* job
    cdef LinkHead head
    cdef TimedHead timed
    cdef Span body
    cdef int pushed = 1
    while link.unsent_first != NULL:
        job = link.unsent_first
        memset(&head, 0, sizeof(LinkHead))
        head.token = job.token
        head.shard = job.shard
        if job.state == JOB_AWAY:
            head.type = LINK_BATCH if job.is_batch else LINK_REQUEST
            head.method = job.method
            head.caller = caller_of(job)
            head.deadline_ns = job.deadline_ns
            head.code = LINK_TIMED if job.times != NULL else 0
            body = job.request
        else:
            head.type = LINK_ANSWER if job.times == NULL else LINK_TIMED_ANSWER
            head.code = job.code
            head.method = job.outcome
            body = span_of(job.answer.data + GRPC_PREFIX_BYTES, job.answer.size - GRPC_PREFIX_BYTES)
        timed.head = head
        if UNLIKELY(head.type == LINK_TIMED_ANSWER):
            memcpy(timed.times, job.times, sizeof(timed.times))
        pushed = ring_push(&link.outgoing, <const uint8_t*>&timed,
                           sizeof(TimedHead) if head.type == LINK_TIMED_ANSWER else sizeof(LinkHead), body.data,
                           body.size, &link.unsent_progress)
        if pushed != 1:
            break
        link.unsent_progress = 0
        link.unsent_first = job.next
        job.next = NULL
        if job.state == JOB_DONE:
            link_job_free(job)
    if link.replaced and pushed == 1 and link.away_count == 0 and not link.bye_sent:
        memset(&head, 0, sizeof(LinkHead))
        head.type = LINK_BYE
        # It is one fragment: all of it goes, or nothing.
        pushed = ring_push(&link.outgoing, <const uint8_t*>&head, sizeof(LinkHead), NULL, 0, &link.unsent_progress)
        link.bye_sent = pushed == 1
        link.unsent_progress = 0
    if pushed < 0:
        link_died(link.front, link)


# Connections are callers until there are identities. An orphan's place does not matter.
cdef inline uint8_t caller_of(Job* job) noexcept nogil:
    if job.call == NULL:
        return job.caller
    if job.call.stream == NULL:
        return 0
    return <uint8_t>((<size_t>job.call.stream.connection >> 6) % LINK_CALLERS)


cdef void links_turn(Front* f) noexcept nogil:
    cdef Link* link = f.live_links
    cdef Link* following
    while link != NULL:
        following = link.next_live
        link_receive(f, link)
        if link.bye_sent and link.bye_received and link.jobs == 0 and link.unsent_first == NULL:
            link_died(f, link)           # neither end waits for the other any more
        link = following


# Returns how many messages there were.
cdef int link_receive(Front* f, Link* link) noexcept nogil:
    cdef const uint8_t* data
    cdef size_t size
    cdef LinkHead head
    cdef int received = 0, code = 1
    while received < LINK_MESSAGES_MAX and code == 1:
        code = ring_next(&link.incoming, &data, &size)
        if code == 1:
            received += 1
            if size < sizeof(LinkHead):
                code = -1
                break
            memcpy(&head, data, sizeof(LinkHead))
            code = link_take(f, link, &head, data + sizeof(LinkHead), size - sizeof(LinkHead))
    if code < 0:
        link_died(f, link)
    else:
        ring_release(&link.incoming)
    return received


# The peer has ended. What it answered before it did still counts.
cdef void link_ended(Front* f, Link* link) noexcept nogil:
    while not link.dead and link_receive(f, link) > 0:
        pass
    link_died(f, link)


# 1, or -1 for what no sane peer says.
cdef int link_take(Front* f, Link* link, const LinkHead* head, const uint8_t* body, size_t size) noexcept nogil:
    cdef Job* job
    cdef uint64_t times[STAGE_TIMES]
    cdef uint32_t slot = <uint32_t>(head.token & ((1 << LINK_SLOT_BITS) - 1))
    if head.type == LINK_ANSWER or head.type == LINK_TIMED_ANSWER:
        job = link.away[slot] if slot < f.settings.link_jobs_max else NULL
        if job == NULL or job.token != head.token:
            return -1
        if head.type == LINK_TIMED_ANSWER:
            if size < sizeof(times):
                return -1
            memcpy(times, body, sizeof(times))
            take_times(job, times)
            body += sizeof(times)
            size -= sizeof(times)
            job.outcome = head.method
        link_slot_free(link, slot)
        link_returned(job)
        buffer_begin_answer(&job.answer)
        memcpy(buffer_reserve(&job.answer, size), body, size)
        job.answer.size += size
        job.code = head.code
        job_done(f, job)
        return 1
    if head.type == LINK_BYE:
        link.bye_received = True
        return 1
    if (head.type != LINK_REQUEST and head.type != LINK_BATCH) or head.shard >= <uint32_t>f.shards \
            or head.caller >= LINK_CALLERS:
        return -1
    job = <Job*>malloc(sizeof(Job) + sizeof(times) + size)
    INVARIANT(job != NULL, b"memory for a job")
    memset(job, 0, sizeof(Job) + sizeof(times))
    memcpy(<uint8_t*>(job + 1) + sizeof(times), body, size)
    if head.code == LINK_TIMED:
        job.times = <uint64_t*>(job + 1)
    job.link = link
    job.token = head.token
    job.method = head.method
    job.is_batch = head.type == LINK_BATCH
    job.shard = head.shard
    job.caller = head.caller
    job.deadline_ns = head.deadline_ns
    job.request = span_of(<const uint8_t*>(job + 1) + sizeof(times), size)
    link.jobs += 1
    tally(f, JOBS_RECEIVED, 1)
    if f.hosted[job.shard] != NULL or is_given_away(f, job.shard):
        queue_add(f, &link.ready[head.caller], job)
    else:
        job_fail(f, job, CODE_UNAVAILABLE, b"RECOVERING", b"The log is being recovered; retry with the same id.")
    return 1


cdef inline void link_slot_free(Link* link, uint32_t slot) noexcept nogil:
    link.away[slot] = NULL
    link.free_slots[link.free_count] = slot
    link.free_count += 1
    link.away_count -= 1


cdef void links_publish(Front* f) noexcept nogil:
    cdef Link* link = f.live_links
    cdef Link* following
    f.links_unsent = False
    while link != NULL:
        following = link.next_live
        link_push(link)
        if not link.dead:
            ring_publish(&link.outgoing)
        link = following


# Before the loop sleeps: False if a ring has something after all.
cdef bint links_may_sleep(Front* f) noexcept nogil:
    cdef Link* link = f.live_links
    cdef bint may = True
    while link != NULL:
        may = ring_sleep(&link.incoming) and may
        link = link.next_live
    return may


cdef void links_awake(Front* f) noexcept nogil:
    cdef Link* link = f.live_links
    while link != NULL:
        ring_awake(&link.incoming)
        link = link.next_live


# The peer is gone, or talks nonsense. Everybody who waits for it hears so now; what it asked for and is not carried out
# yet is dropped.
cdef void link_died(Front* f, Link* link) noexcept nogil:
    cdef uint32_t slot
    cdef int caller
    cdef Job* job
    if link.dead:
        return
    link.dead = True
    link_leave(f, link)
    epoll_ctl(f.epoll_fd, EPOLL_CTL_DEL, link.wake_in_fd, NULL)
    epoll_ctl(f.epoll_fd, EPOLL_CTL_DEL, link.alive_fd, NULL)
    while link.unsent_first != NULL:
        job = link.unsent_first
        link.unsent_first = job.next
        job.next = NULL
        if job.state == JOB_DONE:
            link_job_free(job)
    for caller in range(LINK_CALLERS):
        while link.ready[caller].first != NULL:
            link_job_free(queue_pop(&link.ready[caller]))
        queue_forget(f, &link.ready[caller])
    for slot in range(<uint32_t>f.settings.link_jobs_max):
        job = link.away[slot]
        if job != NULL:
            link.away[slot] = NULL
            link_returned(job)
            tally(f, JOBS_LOST, 1)
            job_fail(f, job, CODE_UNAVAILABLE, b"SHARD_DOWN",
                     b"The shard's worker died; the result is unknown, retry with the same id.")
    link.next = f.link_graves
    f.link_graves = link
    watch_health(f)


cdef void link_leave(Front* f, Link* link) noexcept nogil:
    cdef Link** at = &f.live_links
    while at[0] != link:
        at = &at[0].next_live
    at[0] = link.next_live
    if f.links[link.worker] == link:
        f.links[link.worker] = NULL
    if f.successor == link:
        f.successor = NULL
        f.successor_until_ns = f.now_ns  # no other is waited for


# A link that died is kept until the last job of its peer is done.
cdef void links_bury(Front* f) noexcept nogil:
    cdef Link** at = &f.link_graves
    cdef Link* link
    while at[0] != NULL:
        link = at[0]
        if link.jobs:
            at = &link.next
        else:
            at[0] = link.next
            link_free(link)


cdef void link_free(Link* link) noexcept nogil:
    ring_unmap(&link.incoming)
    ring_unmap(&link.outgoing)
    posix_close(link.alive_fd)
    posix_close(link.wake_in_fd)
    posix_close(link.wake_out_fd)
    free(link.away)
    free(link.free_slots)
    free(link)
