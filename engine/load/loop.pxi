# The schedule, and the loop that keeps to it.

cdef inline uint64_t next_random(Load* l) noexcept nogil:
    l.random ^= l.random << 13
    l.random ^= l.random >> 7
    l.random ^= l.random << 17
    return l.random


# When the request after the one that was taken is due. Without chance it is reckoned from the start, so that no
# rounding adds up.
cdef void schedule_next(Load* l) noexcept nogil:
    cdef double share
    l.taken += 1
    if l.is_poisson:
        share = <double>((next_random(l) >> 11) + 1) / 9007199254740993.0
        l.next_ns += <uint64_t>(-log(share) * l.gap_ns)
    else:
        l.next_ns = l.begin_ns + <uint64_t>(<double>l.taken * l.gap_ns)


# Whether as many requests were begun as there may be.
cdef inline bint has_all(Load* l) noexcept nogil:
    return l.requests_max != 0 and l.offered >= l.requests_max


cdef inline bint has_due(Load* l, uint64_t now) noexcept nogil:
    return l.is_open and l.next_ns <= now and l.next_ns < l.end_ns and not has_all(l)


cdef inline bint offer(Load* l, Connection* c, const Request* request, uint64_t now) noexcept nogil:
    if not (offer_batch(l, c, request) if l.is_stream else offer_unary(l, c, request, now)):
        return False
    counts_of(l, request.intended_ns).sent += l.batch
    l.in_flight += 1
    return True


# Connections take turns. False: none has room.
cdef bint offer_any(Load* l, const Request* request, uint64_t now) noexcept nogil:
    cdef uint32_t i
    for i in range(l.connection_count):
        l.turn = l.turn + 1 if l.turn + 1 < l.connection_count else 0
        if offer(l, &l.connections[l.turn], request, now):
            return True
    return False


cdef inline bint is_late(Load* l, uint64_t intended_ns, uint64_t now) noexcept nogil:
    return l.deadline_ns != 0 and now > intended_ns + l.deadline_ns


# What came back goes first. False: there is no room for all of it.
cdef bint offer_again(Load* l, uint64_t now) noexcept nogil:
    cdef const Request* request
    while l.retry_count > 0 and l.retries[0].ready_ns <= now:
        request = &l.retries[0].request
        if is_late(l, request.intended_ns, now):
            count_given_up(l, request, FATE_TIMED_OUT)
        elif not offer_any(l, request, now):
            return False
        drop_retry(l)
    return True


# It is not sent again. Without retry only what nobody processed came back.
cdef void count_given_up(Load* l, const Request* request, Fate fate) noexcept nogil:
    cdef Counts* counts = counts_of(l, request.intended_ns)
    if l.does_retry:
        counts.sent += l.batch
        counts.timed_out += l.batch if fate == FATE_TIMED_OUT else 0
        counts.unanswered += l.batch if fate == FATE_UNANSWERED else 0
    elif fate == FATE_TIMED_OUT:
        counts.expired += l.batch
    else:
        counts.unsent += l.batch


# Whether a new request may be sent. What waits to be sent again holds its call's place, so that it stays bounded.
cdef inline bint may_begin(Load* l) noexcept nogil:
    return not has_all(l) and (not l.does_retry or l.in_flight + l.retry_count < l.capacity)


# A new order, or the end of the oldest once there are enough of them.
cdef inline Request next_request(Load* l, uint64_t intended_ns) noexcept nogil:
    cdef Request request
    request.intended_ns = intended_ns
    request.tries = 0
    request.method = <uint32_t>(l.open_max != 0 and l.open_count >= l.open_max)
    request.number = l.open_numbers[l.open_first & l.open_mask] if request.method else l.named
    return request


# It is under way: the next one is another.
cdef inline void begin_request(Load* l, const Request* request, uint64_t now) noexcept nogil:
    if request.method == 0:
        l.named += l.batch
    else:
        l.open_first += 1
        l.open_count -= 1
    l.offered += l.batch
    if has_all(l) and now < l.end_ns:
        l.drained_ns -= l.end_ns - now
        l.end_ns = now


# Sends what is due, oldest first; what is past its deadline is dropped and counted, as a client's own deadline does.
cdef void offer_due(Load* l, uint64_t now) noexcept nogil:
    cdef Counts* counts
    cdef Request request
    while has_due(l, now) and may_begin(l):
        counts = counts_of(l, l.next_ns)
        if is_late(l, l.next_ns, now):
            counts.expired += l.batch
        else:
            request = next_request(l, l.next_ns)
            if not offer_any(l, &request, now):
                return
            begin_request(l, &request, now)
        counts.offered += l.batch
        schedule_next(l)


cdef void offer_closed(Load* l, uint64_t now) noexcept nogil:
    cdef Request request
    cdef uint32_t i
    for i in range(l.connection_count):
        while may_begin(l):
            request = next_request(l, now)
            if not offer(l, &l.connections[i], &request, now):
                break
            begin_request(l, &request, now)
            counts_of(l, now).offered += l.batch


# Every few milliseconds: unary calls past their deadline are given up, as a client does it.
cdef void sweep(Load* l, uint64_t now) noexcept nogil:
    cdef Connection* c
    cdef Call* call
    cdef uint32_t i, j
    for i in range(l.connection_count):
        c = &l.connections[i]
        if now >= l.end_ns:
            end_idle_streams(l, c)
        if l.deadline_ns == 0 or l.is_stream:
            continue
        # The times lie side by side, and a free slot's never comes: calls in time are not looked at.
        for j in range(l.mask + 1):
            if not is_late(l, c.requests[j].intended_ns, now):
                continue
            call = &c.calls[j]
            if call.id != 0:
                put_number_frame(c, NGHTTP2_RST_STREAM, call.id, <uint32_t>NGHTTP2_CANCEL)
                drop_call(l, c, call, FATE_TIMED_OUT, 0)


# Writes each connection that has something to say, and closes what has nothing more to do or cannot.
cdef void write_all(Load* l, uint64_t now) noexcept nogil:
    cdef Connection* c
    cdef uint32_t i
    for i in range(l.connection_count):
        c = &l.connections[i]
        if c.phase != CONNECTION_CLOSED and c.is_dirty and not write_connection(l, c):
            close_connection(l, c, now, reconnect_ns(l, c, now))
        if UNLIKELY(c.next_id > <uint32_t>STREAM_IDS_MAX) and c.phase == CONNECTION_READY:
            leave(l, c, UINT32_MAX, now)
        if c.phase == CONNECTION_LEAVING and c.open_calls == 0:
            close_connection(l, c, now, now)


cdef bint is_done(Load* l, uint64_t now) noexcept nogil:
    cdef uint32_t i
    if now < l.end_ns:
        return False
    if now >= l.drained_ns:
        return True
    if has_due(l, now) or l.retry_count > 0:
        return False
    for i in range(l.connection_count):
        if l.connections[i].open_calls > 0:
            return False
    return True


cdef bint wants_connection(Load* l, uint64_t now) noexcept nogil:
    cdef uint32_t i
    for i in range(l.connection_count):
        if l.connections[i].phase == CONNECTION_CLOSED and now >= l.connections[i].retry_ns:
            return True
    return False


# Waits for events: until the next request is due if there was room for the last one, until the sweep otherwise.
cdef int wait(Load* l, epoll_event* events, int count, uint64_t now) noexcept nogil:
    cdef timespec timeout
    cdef uint64_t until_ns = l.sweep_ns
    cdef uint64_t left_ns
    if l.is_open and l.next_ns > now and l.next_ns < until_ns:
        until_ns = l.next_ns
    if l.retry_count > 0 and now < l.retries[0].ready_ns < until_ns:
        until_ns = l.retries[0].ready_ns
    left_ns = 0 if l.does_spin or until_ns < now else until_ns - now
    timeout.tv_sec = <long>(left_ns // 1000000000)
    timeout.tv_nsec = <long>(left_ns % 1000000000)
    return epoll_pwait2(l.epoll, events, count, &timeout, NULL)


# One turn: read, offer, write.
cdef void take_turn(Load* l, uint64_t now) noexcept nogil:
    cdef epoll_event[64] events
    cdef Connection* c
    cdef int i, count = wait(l, events, 64, now)
    for i in range(count):
        c = &l.connections[events[i].data.u32]
        if events[i].events & <uint32_t>EPOLLOUT:
            c.is_dirty = True
        if events[i].events & <uint32_t>(EPOLLIN | EPOLLHUP | EPOLLERR) and not read_connection(l, c):
            close_connection(l, c, now, reconnect_ns(l, c, now))
    now = now_ns()
    if now >= l.sweep_ns:
        sweep(l, now)
        l.sweep_ns = now + SWEEP_NS
    if now >= l.begin_ns and offer_again(l, now):
        if l.is_open:
            offer_due(l, now)
        elif now < l.end_ns:
            offer_closed(l, now)
    write_all(l, now)


# Turns until `until_ns`, until a connection is wanted, or until all is done.
cdef int run_slice(Load* l, uint64_t until_ns) noexcept nogil:
    cdef uint64_t now = now_ns()
    while now < until_ns:
        if is_done(l, now):
            return LOAD_DONE
        if wants_connection(l, now):
            return SLICE_WANTS_CONNECTION
        take_turn(l, now)
        now = now_ns()
    return SLICE_OVER


# What is left when time is up: requests that were due and not sent, and calls that have no answer.
cdef void settle(Load* l) noexcept nogil:
    cdef Connection* c
    cdef uint32_t i, j
    for i in range(l.retry_count):
        count_given_up(l, &l.retries[i].request, FATE_UNANSWERED)
    l.retry_count = 0
    while has_due(l, l.end_ns):
        counts_of(l, l.next_ns).offered += l.batch
        counts_of(l, l.next_ns).unsent += l.batch
        schedule_next(l)
    for i in range(l.connection_count):
        c = &l.connections[i]
        for j in range(l.mask + 1):
            if c.calls[j].id != 0:
                drop_call(l, c, &c.calls[j], FATE_UNANSWERED, 0)
