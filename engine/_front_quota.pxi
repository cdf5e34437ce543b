# Who pays for a call and a connection, and what is said to a caller that has used up what it may; _quota has the words.

cdef enum:
    PUSHBACK_MS_MAX = 3600000            # then it is worth asking anew, whatever the quota says
    PAYERS_WORDS = 2 * QUOTA_SLOTS // 64


# A connection counts, from then on until its end, for each caller with a bound that was served on it: were it only for
# the newest, a caller with two credentials could take it back. False: the caller has as many as it may.
cdef bint connection_pays(Connection* c, const Credential* k) noexcept nogil:
    cdef Front* f = c.front
    cdef uint32_t number = k.payer - 1
    if k.payer == 0 or k.caller.connections == 0:
        return True
    if c.payers != NULL and c.payers[number // 64] >> number % 64 & 1:
        return True
    if quota_in_use(&f.quotas, number).connections >= k.caller.connections:
        return False
    if c.payers == NULL:
        c.payers = <uint64_t*>calloc(PAYERS_WORDS, sizeof(uint64_t))
        INVARIANT(c.payers != NULL, b"memory for the callers of a connection")
    c.payers[number // 64] |= <uint64_t>1 << number % 64
    quota_use(&f.quotas, number, 0, 1)
    return True


cdef void connection_counts_no_more(Connection* c) noexcept nogil:
    cdef uint32_t number
    for number in range(2 * QUOTA_SLOTS if c.payers != NULL else 0):
        if c.payers[number // 64] >> number % 64 & 1:
            quota_use(&c.front.quotas, number, 0, -1)
    free(c.payers)
    c.payers = NULL


# A call that is about to begin. False: its caller has used up what it may, and its stream was refused.
cdef bint pay(Stream* s, Call* call) noexcept nogil:
    cdef Front* f = s.connection.front
    cdef const Credential* k = s.credential
    cdef const Answered* caller = k.caller
    cdef uint64_t wait_ns, wait_ms, count_of = 1
    cdef Fault fault
    cdef int counted
    if k.payer == 0:
        return True
    if caller.bytes_in_flight:
        if quota_in_use(&f.quotas, k.payer - 1).bytes + call.charged_bytes > caller.bytes_in_flight:
            refuse_quota(s, b"Too many bytes of this caller are in flight.", 0)
            return False
    if caller.orders_per_s and s.method.number == PLACE_ORDER:
        if s.method.is_batch:
            counted = batch_count(PLACE_ORDER, call.request.data, call.request.size, &fault)
            count_of = <uint64_t>counted if counted > 0 else 0
        wait_ns = quota_take(&f.quotas, k.payer - 1, f.now_ns, count_of, caller.orders_per_s, caller.burst)
        if wait_ns == UINT64_MAX:
            refuse_quota(s, b"A batch has more orders than the quota of orders lets through at once.", -1)
            return False
        if wait_ns:
            wait_ms = wait_ns // 1000000 + 1
            refuse_quota(s, b"The quota of orders is used up.",
                         <int32_t>(wait_ms if wait_ms < PUSHBACK_MS_MAX else PUSHBACK_MS_MAX))
            return False
    if caller.bytes_in_flight:
        call.payer = k.payer
        quota_use(&f.quotas, k.payer - 1, <int64_t>call.charged_bytes, 0)
    return True


cdef uint8_t* put_quota_failure(uint8_t* at, const Fault* fault) noexcept nogil:
    cdef uint8_t* violation = begin_message(at, 1)
    at = put_text(violation, 1, fault.id)
    return end_message(violation, put_text(at, 2, span_of_text(fault.description)))


# `pushback_ms`: as in the stream.
cdef void refuse_quota(Stream* s, const char* description, int32_t pushback_ms) noexcept nogil:
    cdef const Answered* caller = s.credential.caller
    cdef Fault fault
    cdef uint8_t* at
    tally(s.connection.front, CALLS_QUOTA_REFUSED, 1)
    if s.relay != NULL and s.relay.response_begun:
        relay_give_up(s, CODE_RESOURCE_EXHAUSTED, b"QUOTA", description)
        return
    if s.relay != NULL:
        relay_reset(s, NGHTTP2_CANCEL)
    if s.ending or s.closed or s.kind == STREAM_REFUSED:
        return
    own_fault(&fault, CODE_RESOURCE_EXHAUSTED, b"QUOTA", description)
    fault.id = span_of(name_of(caller), caller.name_size)
    s.status_code = <uint32_t>CODE_RESOURCE_EXHAUSTED
    s.worth_repeating = True
    s.pushback_ms = pushback_ms
    s.status.size = 0
    encode_status(&s.status, &fault)
    at = buffer_reserve(&s.status, STATUS_BYTES + CALLER_NAME_BYTES_MAX)
    buffer_end(&s.status, put_detail(at, b"type.googleapis.com/google.rpc.QuotaFailure", put_quota_failure, &fault))
    end_stream(s)
