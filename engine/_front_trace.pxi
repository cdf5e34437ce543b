# Which calls are measured and which are traced, what their callers say of that, and what becomes of their times. A call
# in `measured_every` is measured; a call is traced as its caller wants it, or by chance where it says nothing.

cdef enum:
    TRACEPARENT_BYTES = 55               # version, trace id, parent id, flags in lower-case hex, with dashes between
    TRACE_SAMPLED = 1                    # of the flags
    CODE_NOT_SAID = 0xFF                 # of a relayed call, until it is answered


# What a caller chooses is in no name: methods that the table does not have are all the same one.
def _method_names():
    native = [front_methods[i].path[1:front_methods[i].path_size].decode() for i in range(FRONT_METHODS)]
    relayed = [front_relayed[i].path.decode()[1:] for i in range(FRONT_RELAYED)]
    return tuple(native + [f"{path}_OTHER" if path.endswith("/") or not path else path for path in relayed])


FRONT_METHOD_NAMES = _method_names()
INVARIANT(FRONT_METHODS + FRONT_RELAYED < 256, b"a span's method has a byte")


# Ids need not be secret, only not the same.
cdef uint64_t front_random(Front* f) noexcept nogil:
    f.random += <uint64_t>SPLITMIX_STEP
    return mixed64(f.random)


# An id is not all zeros.
cdef void random_id(Front* f, uint8_t* into, size_t words) noexcept nogil:
    cdef uint64_t word
    cdef size_t i
    for i in range(words):
        word = front_random(f)
        if word == 0:
            word = 1
        memcpy(into + i * sizeof(uint64_t), &word, sizeof(uint64_t))


# Lower-case hex, not all zeros.
cdef bint parse_id(const uint8_t* text, uint8_t* into, size_t size) noexcept nogil:
    cdef uint8_t any_bit = 0
    cdef size_t i
    for i in range(size):
        if not parse_hex(text + 2 * i, &into[i]):
            return False
        any_bit |= into[i]
    return any_bit != 0


cdef inline bint parse_hex(const uint8_t* text, uint8_t* into) noexcept nogil:
    cdef int i
    into[0] = 0
    for i in range(2):
        if 0x30 <= text[i] <= 0x39:
            into[0] = <uint8_t>(into[0] << 4 | (text[i] - 0x30))
        elif 0x61 <= text[i] <= 0x66:
            into[0] = <uint8_t>(into[0] << 4 | (text[i] - 0x57))
        else:
            return False
    return True


# https://www.w3.org/TR/trace-context/, version 00 alone. What is malformed, or comes twice, was not said.
cdef void take_traceparent(Stream* s, const uint8_t* value, size_t size) noexcept nogil:
    cdef TraceParent* parent = &s.parent
    s.has_parent = (
        not s.parent_seen and size == TRACEPARENT_BYTES
        and memcmp(value, b"00-", 3) == 0 and value[35] == c"-" and value[52] == c"-"
        and parse_id(value + 3, parent.trace_id, 16) and parse_id(value + 36, parent.span_id, 8)
        and parse_hex(value + 53, &parent.flags)
    )
    s.parent_seen = True


# Its message is whole. Most calls pay for a counter and three comparisons.
cdef inline void measure_call(Stream* s, Call* call) noexcept nogil:
    cdef Front* f = s.connection.front
    if s.kind != STREAM_UNARY and s.kind != STREAM_BATCHES:
        return
    f.until_measured -= 1
    if UNLIKELY(f.until_measured == 0 or s.has_parent or f.settings.trace_ppm > 0):
        begin_measure(f, s, call)


# As its caller wants it, or by chance.
cdef bint is_traced(Stream* s) noexcept nogil:
    cdef Front* f = s.connection.front
    if s.has_parent:
        return s.parent.flags & TRACE_SAMPLED
    return f.settings.trace_ppm > 0 and front_random(f) % PPM < f.settings.trace_ppm


cdef void begin_measure(Front* f, Stream* s, Call* call) noexcept nogil:
    call.measured = f.until_measured == 0
    if call.measured:
        f.until_measured = f.settings.measured_every
    call.traced = is_traced(s)
    if call.measured or call.traced:
        memset(call.times, 0, sizeof(call.times))
        call.job.times = call.times
        note(&call.job, TIME_BEGUN)


# Its answer is handed to the connection. The time when it is sent is that of the write which follows.
cdef void finish_measure(Stream* s, Call* call) noexcept nogil:
    cdef Front* f = s.connection.front
    cdef Finished* done
    cdef SpanRecord* span
    if f.finished_count == FINISHED_MAX:
        flush_finished(f)
    done = &f.finished[f.finished_count]
    f.finished_count += 1
    done.measured = call.measured
    done.traced = call.traced
    span = &done.span
    memset(span, 0, sizeof(SpanRecord))
    memcpy(span.times_ns, call.times, sizeof(call.times))
    call.job.times = NULL
    if not done.traced:
        return
    span.code = call.job.code
    span.items = call.job.items if call.job.items else call.item_count
    span.worker = <uint32_t>f.worker
    span.method = <uint8_t>(s.method - front_methods + 1)
    span.shard = SPAN_SHARDS if call.part_count else call.job.shard
    span.outcome = call.job.outcome
    name_span(s, span)


cdef void name_span(Stream* s, SpanRecord* span) noexcept nogil:
    cdef Front* f = s.connection.front
    random_id(f, span.span_id, 1)
    if s.has_parent:
        memcpy(span.trace_id, s.parent.trace_id, sizeof(span.trace_id))
        memcpy(span.parent_id, s.parent.span_id, sizeof(span.parent_id))
    else:
        random_id(f, span.trace_id, 2)


# A time that a call has not, such as that of an execution which was refused, is the next one it has: what it waited for
# counts for where it waited. So the stages are together the whole, to the nanosecond.
cdef void complete_times(uint64_t* times) noexcept nogil:
    cdef int i
    for i in range(STAGE_TIMES - 2, 0, -1):
        if times[i] == 0 or times[i] > times[i + 1]:
            times[i] = times[i + 1]
    for i in range(1, STAGE_TIMES):
        if times[i] < times[i - 1]:
            times[i] = times[i - 1]


# What was measured is in the socket, or waits for its room.
cdef void flush_finished(Front* f) noexcept nogil:
    cdef uint64_t now_ns = journal_now_ns(CLOCK_MONOTONIC), wall_ns = journal_now_ns(CLOCK_REALTIME)
    cdef uint32_t i
    cdef Finished* done
    for i in range(f.finished_count):
        done = &f.finished[i]
        done.span.times_ns[<uint32_t>TIME_SENT] = now_ns
        complete_times(done.span.times_ns)
        if done.measured and f.stages != NULL:
            observe_stages(f.stages, done.span.times_ns)
        if done.traced:
            keep_span(f, &done.span, wall_ns - now_ns)
    f.finished_count = 0


# ahead_ns: what the time of day is ahead of the monotonic clock, modulo 2^64.
cdef void keep_span(Front* f, SpanRecord* span, uint64_t ahead_ns) noexcept nogil:
    span.begun_wall_ns = span.times_ns[0] + ahead_ns
    tally(f, SPANS_WRITTEN if span_put(f.spans, span) else SPANS_DROPPED, 1)


cdef void observe_stages(StagePage* page, const uint64_t* times) noexcept nogil:
    cdef int i
    for i in range(STAGE_TIMES - 1):
        histogram_observe(&page.stages[i], times[i + 1] - times[i])
    histogram_observe(&page.stages[STAGES - 1], times[STAGE_TIMES - 1] - times[0])


# The single jobs of a group that were executed are the last that wait; each has its share of the time.
cdef void share_times(Hosted* h, Job* before, uint64_t began_ns, uint64_t jobs) noexcept nogil:
    cdef uint64_t share_ns = (journal_now_ns(CLOCK_MONOTONIC) - began_ns) // jobs
    cdef Job* job = before.next if before != NULL else h.waiting_first
    while job != NULL:
        if job.times != NULL:
            job.times[<uint32_t>TIME_EXECUTING] = began_ns
            job.times[<uint32_t>TIME_EXECUTED] = began_ns + share_ns
        job = job.next


# Of a job that another worker did, what that has seen. Parts of a batch share one set of times.
cdef void take_times(Job* job, const uint64_t* times) noexcept nogil:
    cdef int i = <int>TIME_EXECUTING
    if job.times == NULL:
        return
    if job.times[i] == 0 or times[i] < job.times[i]:
        job.times[i] = times[i]
    for i in range(<int>TIME_EXECUTED, <int>TIME_SENT):
        if times[i] > job.times[i]:
            job.times[i] = times[i]


# ---- relayed calls: one span each, without stages


# Its headers are whole.
cdef void trace_relayed(Stream* s) noexcept nogil:
    cdef SpanRecord* span
    if LIKELY(not is_traced(s)):
        return
    span = <SpanRecord*>calloc(1, sizeof(SpanRecord))
    INVARIANT(span != NULL, b"memory for a span")
    span.times_ns[<int>TIME_BEGUN] = journal_now_ns(CLOCK_MONOTONIC)
    span.code = CODE_NOT_SAID
    span.worker = <uint32_t>s.connection.front.worker
    span.method = <uint8_t>(FRONT_METHODS + 1 + s.relayed_method)
    span.shard = SPAN_SHARDS
    name_span(s, span)
    s.span = span


# What the control server is told: the call's own span is the parent of what it does. One that is not traced keeps its
# caller's. Returns how many bytes; 0: there is nothing to tell.
cdef size_t put_traceparent(const Stream* s, uint8_t* into) noexcept nogil:
    cdef uint8_t* at
    cdef uint8_t flags = s.parent.flags if s.has_parent else TRACE_SAMPLED
    if not s.has_parent and s.span == NULL:
        return 0
    at = put_chars(into, b"00-")
    if s.span != NULL:
        at = put_hex(put_chars(put_hex(at, s.span.trace_id, 16), b"-"), s.span.span_id, 8)
    else:
        at = put_hex(put_chars(put_hex(at, s.parent.trace_id, 16), b"-"), s.parent.span_id, 8)
    return <size_t>(put_hex(put_chars(at, b"-"), &flags, 1) - into)


cdef uint8_t* put_hex(uint8_t* at, const uint8_t* data, size_t size) noexcept nogil:
    cdef const char* digits = b"0123456789abcdef"
    cdef size_t i
    for i in range(size):
        at[2 * i] = <uint8_t>digits[data[i] >> 4]
        at[2 * i + 1] = <uint8_t>digits[data[i] & 15]
    return at + 2 * size


# What the answer's grpc-status says.
cdef void note_status(Stream* s, const uint8_t* value, size_t size) noexcept nogil:
    cdef uint32_t code = 0 if size else CODE_UNKNOWN
    cdef size_t i
    if s.span == NULL:
        return
    for i in range(size):
        code = code * 10 + value[i] - 0x30 if 0x30 <= value[i] <= 0x39 and code < 100 else <uint32_t>CODE_UNKNOWN
    s.span.code = code


# The client's half has ended: as somebody has said, or else with a reset.
cdef void finish_relayed(Stream* s, uint32_t error_code) noexcept nogil:
    cdef SpanRecord* span = s.span
    cdef uint64_t now_ns
    if LIKELY(span == NULL):
        return
    now_ns = journal_now_ns(CLOCK_MONOTONIC)
    if s.ending:
        span.code = s.status_code
    elif span.code == <uint32_t>CODE_NOT_SAID:
        span.code = <uint32_t>(code_of_reset(error_code) if error_code != NGHTTP2_NO_ERROR else CODE_UNKNOWN)
    span.times_ns[<int>TIME_SENT] = now_ns
    keep_span(s.connection.front, span, journal_now_ns(CLOCK_REALTIME) - now_ns)
    free(span)
    s.span = NULL
