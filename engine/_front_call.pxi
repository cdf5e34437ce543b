# From a whole request message to jobs, and from done jobs to an answer.

cdef enum:
    KEPT_STREAMS_MAX = 16384             # of each worker, for use again
    KEPT_CALLS_MAX = 16384
    KEPT_BUFFER_BYTES_MAX = 1024         # what a kept stream or call may hold; more is given back


cdef Stream* stream_begin(Connection* c, int32_t id) noexcept nogil:
    cdef Front* f = c.front
    cdef Stream* s = f.free_streams
    cdef Call own
    if s != NULL:
        f.free_streams = s.next
        f.free_stream_count -= 1
        own = s.own
        memset(s, 0, sizeof(Stream))
        s.own.request = own.request
        s.own.job.answer = own.job.answer
        s.own.request.size = s.own.job.answer.size = 0
    else:
        s = <Stream*>calloc(1, sizeof(Stream))
        INVARIANT(s != NULL, b"memory for a stream")
    s.connection = c
    s.id = id
    s.encoding = ENCODING_IDENTITY
    s.own.home = s
    s.wide = not c.small_windows
    s.next = c.streams
    if c.streams != NULL:
        c.streams.previous = s
    c.streams = s
    c.stream_count += 1
    return s


# No client waits any more. What of it is with a shard goes on, and its answer is thrown away.
cdef void stream_end(Stream* s) noexcept nogil:
    cdef Connection* c = s.connection
    cdef Call* call
    s.closed = True
    if c.recent == s:
        c.recent = NULL
    if s.previous != NULL:
        s.previous.next = s.next
    else:
        c.streams = s.next
    if s.next != NULL:
        s.next.previous = s.previous
    c.stream_count -= 1
    forget_watcher(s)
    forget_credential(s)
    while s.calls != NULL:
        call_leave(s, s.calls)
    drop_filling(s)
    charge(c, -<int64_t>s.backlog.size)
    buffer_free(&s.backlog)
    buffer_free(&s.status)
    if s.own.pending == 0:
        stream_free(c.front, s)


cdef void stream_free(Front* f, Stream* s) noexcept nogil:
    if f.free_stream_count < KEPT_STREAMS_MAX:
        keep_small(&s.own.request)
        keep_small(&s.own.job.answer)
        s.next = f.free_streams
        f.free_streams = s
        f.free_stream_count += 1
    else:
        buffer_free(&s.own.request)
        buffer_free(&s.own.job.answer)
        free(s)


cdef inline void keep_small(Buffer* buffer) noexcept nogil:
    if buffer.capacity > <size_t>KEPT_BUFFER_BYTES_MAX:
        buffer_free(buffer)


# Bytes in flight, of the connection and of the worker.
cdef inline void charge(Connection* c, int64_t bytes) noexcept nogil:
    c.bytes_in_flight += <size_t>bytes
    c.front.bytes_in_flight += <uint64_t>bytes


cdef Call* call_begin(Stream* s) noexcept nogil:
    cdef Front* f = s.connection.front
    cdef Call* call = &s.own
    cdef Buffer answer
    if s.own.stream != NULL or s.own.pending:
        call = f.free_calls
        if call != NULL:
            f.free_calls = call.next
            f.free_call_count -= 1
        else:
            call = <Call*>calloc(1, sizeof(Call))
            INVARIANT(call != NULL, b"memory for a call")
    call.stream = s
    call.next = NULL
    call.done = call.measured = call.traced = False
    call.charged_bytes = 0
    call.payer = 0
    call.item_count = 0
    call.request.size = 0
    answer = call.job.answer
    answer.size = 0
    memset(&call.job, 0, sizeof(Job))
    call.job.answer = answer
    call.job.call = call
    call_charge(call, sizeof(Call))
    return call


cdef inline void call_charge(Call* call, size_t bytes) noexcept nogil:
    call.charged_bytes += bytes
    charge(call.stream.connection, <int64_t>bytes)
    if UNLIKELY(call.payer):
        quota_use(&call.stream.connection.front.quotas, call.payer - 1, <int64_t>bytes, 0)


cdef void call_free(Front* f, Call* call) noexcept nogil:
    call.stream = NULL
    free_parts(call)
    if call.home != NULL:
        call.request.size = 0
        if call.home.closed:
            stream_free(f, call.home)
        return
    if f.free_call_count < KEPT_CALLS_MAX:
        keep_small(&call.request)
        keep_small(&call.job.answer)
        call.next = f.free_calls
        f.free_calls = call
        f.free_call_count += 1
    else:
        buffer_free(&call.request)
        buffer_free(&call.job.answer)
        free(call)


cdef void free_parts(Call* call) noexcept nogil:
    cdef uint32_t i
    for i in range(call.part_count):
        free(<void*>call.parts[i].request.data)
        buffer_free(&call.parts[i].answer)
    free(call.parts)
    free(call.shard_of_item)
    call.parts = NULL
    call.shard_of_item = NULL
    call.part_count = 0


cdef void call_append(Stream* s, Call* call) noexcept nogil:
    if s.calls == NULL:
        s.calls = call
    else:
        s.calls_last.next = call
    s.calls_last = call
    s.call_count += 1
    s.connection.calls_in_flight += 1
    s.connection.front.calls_in_flight += 1


# The first call of a stream is answered, or nobody waits for it any more.
cdef void call_leave(Stream* s, Call* call) noexcept nogil:
    cdef Connection* c = s.connection
    s.calls = call.next
    if s.calls == NULL:
        s.calls_last = NULL
    s.call_count -= 1
    charge(c, -<int64_t>call.charged_bytes)
    if UNLIKELY(call.payer):
        quota_use(&c.front.quotas, call.payer - 1, -<int64_t>call.charged_bytes, 0)
    c.calls_in_flight -= 1
    c.front.calls_in_flight -= 1
    c.calls_at_work -= call.pending != 0
    call.stream = NULL
    if call.pending == 0:
        # The stream's own call is free again, and the stream is not to be freed with it: it is still in use.
        if call.home == NULL:
            call_free(c.front, call)
        else:
            free_parts(call)


# Those that no shard has heard of. Behind others that are in work they are done without an answer.
cdef void drop_unstarted(Stream* s) noexcept nogil:
    cdef Call* call
    while s.calls != NULL and s.calls.pending == 0 and not s.calls.done:
        call_leave(s, s.calls)
    call = s.calls
    while call != NULL:
        if call.pending == 0 and not call.done:
            call.job.code = CODE_CANCELLED
            call.done = True
        call = call.next
    drop_filling(s)


cdef void drop_filling(Stream* s) noexcept nogil:
    cdef Call* call = s.filling
    s.filling = NULL
    if call == NULL:
        return
    charge(s.connection, -<int64_t>call.charged_bytes)
    call.stream = NULL
    if call.home == NULL:
        call_free(s.connection.front, call)


# Goes on with what was left lying while enough batches were in work.
cdef void feed_backlog(Stream* s) noexcept nogil:
    cdef Buffer waiting = s.backlog
    if waiting.size == 0 or is_asking(s) or s.call_count >= s.connection.front.settings.batches_per_stream_max:
        return
    memset(&s.backlog, 0, sizeof(Buffer))
    charge(s.connection, -<int64_t>waiting.size)
    feed(s, waiting.data, waiting.size)
    buffer_free(&waiting)
    if s.backlog.size == 0:
        consume_stream(s, 0)
        refuse_if_cut(s)


# Whether the request ends in the middle of a message; not known before its backlog is read.
cdef bint refuse_if_cut(Stream* s) noexcept nogil:
    if not s.end_received or s.backlog.size or (s.filling == NULL and s.prefix_size == 0):
        return False
    refuse_stream(s, CODE_INTERNAL, b"MALFORMED", b"The request ends in the middle of a message.")
    return True


# The end of a request. A unary call goes its way now.
cdef void end_request(Stream* s) noexcept nogil:
    s.end_received = True
    if s.kind == STREAM_RELAYED:
        relay_end(s)
    elif stream_is_over(s) or is_asking(s) or refuse_if_cut(s):
        return
    elif s.kind == STREAM_BATCHES:
        reply_at_end(s)
    elif s.calls == NULL:
        refuse_stream(s, CODE_INTERNAL, b"MALFORMED", b"The method takes one request message; there was none.")
    elif s.kind == STREAM_UNARY:
        dispatch(s, s.calls)
    else:
        answer_health(s, s.calls)


# A stream of batches that ends with nothing in work: its trailers can go.
cdef void reply_at_end(Stream* s) noexcept nogil:
    if s.calls == NULL and s.backlog.size == 0 and not is_asking(s):
        if not s.answering:
            s.ending = True              # with OK and without any message
        reply_stream(s)


# The jobs of a call: one for each shard that it concerns.
cdef void dispatch(Stream* s, Call* call) noexcept nogil:
    cdef Front* f = s.connection.front
    cdef Job* job = &call.job
    cdef Fault fault
    cdef Span shop
    cdef int shard = 0
    cdef bint limited
    if UNLIKELY(f.identity.required) and not may_begin(s, call):
        return
    limited = UNLIKELY(has_few_shops(s))
    tally(f, CALLS_NATIVE, 1)
    job.method = <uint8_t>s.method.number
    job.is_batch = s.method.is_batch
    job.request = span_of(call.request.data if call.request.data != NULL else <const uint8_t*>b"", call.request.size)
    job.deadline_ns = s.deadline_ns
    call.pending = 1
    s.connection.calls_at_work += 1
    if job.is_batch and s.broken:
        job_fail(f, job, CODE_CANCELLED, b"CANCELLED", b"A batch before it ended the stream.")
        return
    if job.is_batch and f.shards == 1 and not limited \
            and batch_count(job.method, job.request.data, job.request.size, &fault) < 0:
        refuse_batch(f, call, &fault)
        return
    if job.is_batch and (f.shards > 1 or limited):
        shard = split_call(f, call, &fault)
        if shard < 0:
            return
    elif limited and not may_touch(s, job.method, job.request):
        shard = f.shards
    elif f.shards > 1:
        shard = any_shard(f)
        if route_shop(job.method, job.request.data, job.request.size, &shop):
            shard = shard_of_partition(partition_of_shop(shop), <uint32_t>f.shards)
    job_begin(f, &s.connection.ready, job, shard)


# What is malformed is refused by whichever shard reads it.
cdef inline int any_shard(Front* f) noexcept nogil:
    cdef int shard
    for shard in range(f.shards):
        if f.hosted[shard] != NULL:
            return shard
    return 0


# Malformed, or too many items. Known before its stream is read further, so that the order of batches is kept.
cdef void refuse_batch(Front* f, Call* call, const Fault* fault) noexcept nogil:
    call.stream.broken = True
    buffer_begin_answer(&call.job.answer)
    encode_status(&call.job.answer, fault)
    job_fail_with(f, &call.job, fault.code)


# The shard that the whole batch concerns; -1: it was cut into parts that are on their way, or refused.
cdef int split_call(Front* f, Call* call, Fault* fault) noexcept nogil:
    cdef Job* job = &call.job
    cdef uint32_t i
    cdef int shard, first = -1, shards = f.shards
    cdef bint several = False
    cdef uint64_t concerned = 0
    call.shard_of_item = <uint8_t*>malloc(BATCH_ITEMS_MAX)
    INVARIANT(call.shard_of_item != NULL, b"memory for a batch")
    if route_batch(job.method, job.request.data, job.request.size, <uint32_t>f.shards, call.shard_of_item,
                   &call.item_count, fault) < 0:
        refuse_batch(f, call, fault)
        return -1
    if UNLIKELY(has_few_shops(call.stream)):
        shards += deny_items(call, f.shards)
    for i in range(call.item_count):
        if call.shard_of_item[i] < f.shards:
            concerned |= <uint64_t>1 << call.shard_of_item[i]
        if first < 0:
            first = call.shard_of_item[i]
        several = several or call.shard_of_item[i] != first
    if not several:
        return first if first >= 0 else any_shard(f)
    call.parts = <Job*>calloc(shards, sizeof(Job))
    INVARIANT(call.parts != NULL, b"memory for a batch")
    call.pending = call.part_count = <uint32_t>shards
    # All are counted before the first can be done.
    for shard in range(shards):
        begin_part(f, call, shard, shard == f.shards or (concerned >> shard) & 1)
    return -1


cdef void begin_part(Front* f, Call* call, int shard, bint concerned) noexcept nogil:
    cdef Job* part = &call.parts[shard]
    cdef Buffer request
    memset(&request, 0, sizeof(Buffer))
    part.call = call
    part.method = call.job.method
    part.is_batch = True
    part.deadline_ns = call.job.deadline_ns
    part.times = call.job.times
    if not concerned:
        buffer_begin_answer(&part.answer)
        job_done(f, part)
        return
    split_batch(call.request.data, call.request.size, call.shard_of_item, shard, &request)
    part.request = span_of(request.data, request.size)
    job_begin(f, &call.stream.connection.ready, part, shard)


# To the shard, here or elsewhere. One past the last: what the caller may not touch, which is answered in its turn.
cdef void job_begin(Front* f, JobQueue* source, Job* job, int shard) noexcept nogil:
    cdef Link* link
    job.shard = <uint8_t>shard
    note(job, TIME_QUEUED)
    job.denied = shard == f.shards
    if job.denied or f.hosted[shard] != NULL or is_given_away(f, shard):
        queue_add(f, source, job)
        return
    link = f.links[shard % f.workers]
    if shard % f.workers == f.worker:
        job_fail(f, job, CODE_UNAVAILABLE, b"RECOVERING", b"The log is being recovered; retry with the same id.")
    elif link == NULL:
        job_fail(f, job, CODE_UNAVAILABLE, b"SHARD_DOWN", b"The shard's worker is down; retry with the same id.")
    elif link.away_count >= f.settings.link_jobs_max:
        tally(f, CALLS_REFUSED_OVERLOAD, 1)
        job_fail(f, job, CODE_RESOURCE_EXHAUSTED, OVERLOADED, OVERLOADED_TEXT)
    else:
        link_send(f, link, job)


# Before or instead of its execution.
cdef void job_fail(Front* f, Job* job, int code, const char* reason, const char* description) noexcept nogil:
    cdef Fault fault
    own_fault(&fault, code, reason, description)
    buffer_begin_answer(&job.answer)
    encode_status(&job.answer, &fault)
    tally(f, CALLS_REFUSED_UNAVAILABLE, code == CODE_UNAVAILABLE)
    job_fail_with(f, job, code)


cdef void job_fail_with(Front* f, Job* job, int code) noexcept nogil:
    job.code = <uint32_t>code
    job_done(f, job)


cdef inline void buffer_begin_answer(Buffer* answer) noexcept nogil:
    answer.size = 0
    buffer_reserve(answer, GRPC_PREFIX_BYTES)
    answer.size = GRPC_PREFIX_BYTES


# What a job says is now durable, or was refused: it goes to whoever asked.
cdef void job_done(Front* f, Job* job) noexcept nogil:
    cdef Call* call = job.call
    # Of a job that was away, the other worker has said when; unless it is gone, or of a program that does not.
    if UNLIKELY(job.times != NULL) and (job.state != JOB_AWAY or job.times[<uint32_t>TIME_DURABLE] == 0):
        note(job, TIME_DURABLE)
    job.state = JOB_DONE
    if call == NULL:
        link_answer(f, job)
        return
    call.pending -= 1
    if call.pending:
        return
    if call.stream == NULL:
        call_free(f, call)
        return
    call.stream.connection.calls_at_work -= 1
    # What the call weighs for the balance between workers.
    call.stream.connection.commands += 1 + call.job.items + call.item_count
    if call.part_count:
        merge(call)
    seal_answer(&call.job)
    call_charge(call, call.job.answer.size)
    call.done = True
    reply_stream(call.stream)


# The gRPC prefix of an answer; a Status is kept bare.
cdef void seal_answer(Job* job) noexcept nogil:
    cdef Buffer* answer = &job.answer
    if job.code == CODE_OK:
        answer.data[0] = 0
        store_big_u32(answer.data + 1, <uint32_t>(answer.size - GRPC_PREFIX_BYTES))
    else:
        answer.size -= GRPC_PREFIX_BYTES
        memmove(answer.data, answer.data + GRPC_PREFIX_BYTES, answer.size)


# Parts of a batch, back in the order of its items. A part that failed as a whole fails the call: its result is unknown.
cdef void merge(Call* call) noexcept nogil:
    cdef Span answers[SHARDS_MAX_AND_DENIED]
    cdef Fault fault
    cdef Job* part
    cdef uint32_t i
    buffer_begin_answer(&call.job.answer)
    for i in range(call.part_count):
        part = &call.parts[i]
        answers[i] = span_of(part.answer.data + GRPC_PREFIX_BYTES, part.answer.size - GRPC_PREFIX_BYTES)
        if part.code != CODE_OK and call.job.code == CODE_OK:
            call.job.code = part.code
            memcpy(buffer_reserve(&call.job.answer, answers[i].size), answers[i].data, answers[i].size)
            call.job.answer.size += answers[i].size
    if call.job.code == CODE_OK and not merge_answers(call.shard_of_item, call.item_count, answers, call.part_count,
                                                      &call.job.answer):
        own_fault(&fault, CODE_INTERNAL, b"BAD_ANSWER", b"A shard answered another number of items than it was sent.")
        encode_status(&call.job.answer, &fault)
        call.job.code = CODE_INTERNAL


cdef void queue_add(Front* f, JobQueue* source, Job* job) noexcept nogil:
    job.state = JOB_READY
    job.next = NULL
    if source.first == NULL:
        source.first = job
    else:
        source.last.next = job
    source.last = job
    if not source.listed:
        queue_list(f, source)


cdef void queue_list(Front* f, JobQueue* source) noexcept nogil:
    source.listed = True
    source.next = NULL
    if f.runnable == NULL:
        f.runnable = source
    else:
        f.runnable_last.next = source
    f.runnable_last = source


cdef inline Job* queue_pop(JobQueue* source) noexcept nogil:
    cdef Job* job = source.first
    source.first = job.next
    job.next = NULL
    return job
