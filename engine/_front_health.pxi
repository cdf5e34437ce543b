# grpc.health.v1: SERVING while every shard can be reached from here and nothing is being drained.

cdef enum:
    HEALTH_UNKNOWN_SERVICE = 3
    HEALTH_SERVING = 1
    HEALTH_NOT_SERVING = 2


cdef int health_now(Front* f) noexcept nogil:
    cdef int shard
    if f.draining:
        return HEALTH_NOT_SERVING
    for shard in range(f.shards):
        if not is_reachable(f, shard):
            return HEALTH_NOT_SERVING
    return HEALTH_SERVING


cdef inline bint is_reachable(const Front* f, int shard) noexcept nogil:
    if is_given_away(f, shard):
        return f.successor != NULL or f.now_ns < f.successor_until_ns
    return f.hosted[shard] != NULL or f.links[shard % f.workers] != NULL


# HealthCheckRequest.service, field 1; the last one counts. 0: the bytes are no message.
cdef bint health_service(const uint8_t* data, size_t size, Span* service) noexcept nogil:
    cdef Reader reader = reader_of(data, size, GROUP_DEPTH_MAX)
    cdef Fields fields
    fields.present = 0
    while reader.at < reader.end:
        if next_field(&reader, &SHAPE_HEALTH, &fields) < 0:
            return False
    service[0] = text_in(&fields, 1)
    return True


cdef bint health_knows(Span service) noexcept nogil:
    return (service.size == 0 or text_is(service.data, service.size, b"everopen.v1.OrderService", 24)
            or text_is(service.data, service.size, b"everopen.v1.InventoryService", 28)
            or text_is(service.data, service.size, b"everopen.v1.ClusterService", 26))


# Check and the beginning of Watch: `call` is the request, and becomes the first answer.
cdef void answer_health(Stream* s, Call* call) noexcept nogil:
    cdef Front* f = s.connection.front
    cdef Span service
    cdef bint known
    tally(f, CALLS_NATIVE, 1)
    if not health_service(call.request.data if call.request.size else <const uint8_t*>b"", call.request.size, &service):
        refuse_stream(s, CODE_INVALID_ARGUMENT, b"MALFORMED", b"The request is not a HealthCheckRequest.")
        return
    known = health_knows(service)
    if s.kind == STREAM_HEALTH_CHECK and not known:
        refuse_stream(s, CODE_NOT_FOUND, b"UNKNOWN_SERVICE", b"The service is not known here.")
        return
    health_answer(&call.job, f.health if known else HEALTH_UNKNOWN_SERVICE)
    call.done = True
    if s.kind == STREAM_HEALTH_WATCH:
        s.told = f.health
        s.watched = known
        remember_watcher(s)
        s.long_lived = True
        s.connection.native_streams += 1
        if f.draining:
            s.ending = True
    reply_stream(s)


cdef void health_answer(Job* job, int status) noexcept nogil:
    buffer_begin_answer(&job.answer)
    job.answer.data[GRPC_PREFIX_BYTES] = 0x08
    job.answer.data[GRPC_PREFIX_BYTES + 1] = <uint8_t>status
    job.answer.size += 2
    seal_answer(job)


# Watchers may be very many, so that one is found and forgotten without a look at the others.
cdef void remember_watcher(Stream* s) noexcept nogil:
    cdef Front* f = s.connection.front
    s.next_watcher = f.watchers
    s.watched_from = &f.watchers
    if f.watchers != NULL:
        f.watchers.watched_from = &s.next_watcher
    f.watchers = s


cdef void forget_watcher(Stream* s) noexcept nogil:
    if s.watched_from == NULL:
        return
    s.watched_from[0] = s.next_watcher
    if s.next_watcher != NULL:
        s.next_watcher.watched_from = s.watched_from
    s.watched_from = NULL


# Tells watchers of a change; at a drain they hear it and are let go.
cdef void watch_health(Front* f) noexcept nogil:
    cdef Stream* s = f.watchers
    cdef Call* call
    f.health = health_now(f)
    while s != NULL:
        # A watcher that has not taken the last answer yet hears of the newest state afterwards.
        if s.watched and s.told != f.health and s.calls == NULL:
            s.told = f.health
            call = call_begin(s)
            health_answer(&call.job, f.health)
            call.done = True
            call_append(s, call)
            s.ending = s.ending or f.draining
            reply_stream(s)
        elif f.draining and not s.ending:
            s.ending = True
            reply_stream(s)
        s = s.next_watcher
