# Who calls: from the credential of a stream to a caller; what the table does not have is asked of Python once, while
# the streams wait. Then the scope of the method. docs/security.md says what is answered when.

cdef enum:
    CREDENTIAL_SLOT_BITS = 16
    REFUSED_NS = 1000000000              # so long it is remembered that a credential is none

# What a stream is told. Each has a row in `refusals`.
cdef enum Admission:
    ADMITTED = 1
    ADMIT_LATER = 2                      # it waits for an answer
    REFUSED_CREDENTIAL = 3
    REFUSED_SCOPE = 4
    REFUSED_BUSY = 5
    REFUSED_DRAINING = 6
    REFUSED_CONNECTIONS = 7

# A question, as Python takes it; the bytes follow.
cdef struct Question:
    uint64_t token
    uint32_t kind, size

cdef extern from *:
    """
    typedef struct { int code; const char* reason; const char* text; } FrontRefusal;
    static const FrontRefusal refusals[] = {
        [3] = { 16, "CREDENTIALS", "The call needs valid credentials." },
        [4] = { 7, "SCOPE_DENIED", "The caller has no scope for this method." },
        [5] = { 14, "IDENTITY_BUSY", "It cannot be told now who calls; retry with the same id." },
        [6] = { 14, "DRAINING", "The server is going down; retry elsewhere with the same id." },
    };
    """
    ctypedef struct FrontRefusal:
        int code
        const char* reason
        const char* text
    const FrontRefusal* refusals


cdef int identity_init(Front* f, uint64_t seed) noexcept nogil:
    cdef Identity* identity = &f.identity
    cdef uint32_t i, slots = <uint32_t>f.settings.identity_calls_max
    identity.seed = seed
    identity.buckets = <Credential**>calloc(CREDENTIAL_BUCKETS, sizeof(Credential*))
    identity.asked = <Credential**>calloc(slots, sizeof(Credential*))
    identity.free_slots = <uint32_t*>malloc(slots * sizeof(uint32_t))
    if identity.buckets == NULL or identity.asked == NULL or identity.free_slots == NULL:
        return 0
    for i in range(slots):
        identity.free_slots[i] = i
    identity.free_count = slots
    return quotas_init(&f.quotas, f.quotas_fd, board_bytes(f.board.workers), <uint32_t>f.worker, f.board.workers)


cdef void identity_destroy(Front* f) noexcept nogil:
    cdef Answered* answer = f.pending_identity.answers
    cdef Answered* following
    cdef uint32_t i
    for i in range(f.settings.identity_calls_max if f.identity.asked != NULL else 0):
        if f.identity.asked[i] != NULL:
            credential_release(f.identity.asked[i])
    while f.identity.oldest != NULL:
        table_remove(f, f.identity.oldest)
    while answer != NULL:
        following = answer.next
        free(answer)
        answer = following
    buffer_free(&f.pending_identity.questions)
    denial_free(f.identity.room)
    free(f.identity.buckets)
    free(f.identity.asked)
    free(f.identity.free_slots)
    quotas_destroy(&f.quotas)


# ---- what a stream is told


# The headers are whole. False: it was refused.
cdef bint identify(Stream* s) noexcept nogil:
    cdef Connection* c = s.connection
    cdef Span secret = span_of(c.credential.data, <uint32_t>c.credential.size)
    cdef uint8_t kind = c.credential_kind
    cdef int admission
    if s.scope == <uint8_t>SCOPE_ANYONE:
        return True
    if kind == 0:
        kind = CREDENTIAL_CERTIFICATE
        secret = span_of(c.certificate.data, <uint32_t>c.certificate.size)
    if kind == CREDENTIAL_BAD or secret.size == 0:
        return go_on(s, REFUSED_CREDENTIAL)
    s.credential = find_credential(c.front, kind, secret.data, secret.size)
    s.credential.refs += 1
    admission = admit(s, False)
    # Until it is known to be good, it drives out nobody.
    if s.credential.state != CREDENTIAL_KNOWN:
        put_last(c.front, s.credential)
    return go_on(s, admission)


# A message of a stream is whole. False: its stream waits, or was refused, and the call with it.
cdef bint may_begin(Stream* s, Call* call) noexcept nogil:
    cdef int admission
    if s.credential == NULL:
        return go_on(s, REFUSED_CREDENTIAL)      # it began before anybody was asked
    if is_asking(s):
        return False
    admission = admit(s, False)
    return go_on(s, admission) and admission == ADMITTED and pay(s, call)


cdef inline bint is_asking(const Stream* s) noexcept nogil:
    return s.asking_from != NULL


# Each sweep: a relayed stream, such as a watch, lasts no longer than what its caller may.
cdef void recheck(Stream* s) noexcept nogil:
    cdef const Identity* identity = &s.connection.front.identity
    cdef const Credential* k = s.credential
    cdef int admission
    if not identity.required or s.scope == <uint8_t>SCOPE_ANYONE or is_asking(s):
        return
    if (k != NULL and k.state == CREDENTIAL_KNOWN and k.epoch == identity.epoch and k.scopes & s.scope
            and not has_expired(k)):
        return
    admission = admit(s, False) if k != NULL else REFUSED_CREDENTIAL
    if admission != REFUSED_BUSY:
        go_on(s, admission)


# `fresh`: Python has just said so; what has expired by now is not asked again.
cdef int admit(Stream* s, bint fresh) noexcept nogil:
    cdef Front* f = s.connection.front
    cdef Credential* k = s.credential
    if k.epoch == f.identity.epoch and k.state == CREDENTIAL_KNOWN and not has_expired(k):
        if not k.scopes & s.scope:
            return REFUSED_SCOPE
        return ADMITTED if connection_pays(s.connection, k) else REFUSED_CONNECTIONS
    if fresh or (k.epoch == f.identity.epoch and k.state == CREDENTIAL_REFUSED and f.now_ns < k.until_ns):
        return REFUSED_CREDENTIAL
    if f.draining:
        return REFUSED_DRAINING
    if f.identity.waiting >= f.settings.identity_calls_max or (k.state != CREDENTIAL_ASKED and not ask_python(f, k)):
        return REFUSED_BUSY
    f.identity.waiting += 1
    s.asking_from = &k.waiting
    s.next_asking = k.waiting
    if k.waiting != NULL:
        k.waiting.asking_from = &s.next_asking
    k.waiting = s
    return ADMIT_LATER


cdef inline bint has_expired(const Credential* k) noexcept nogil:
    return k.expires_ms != 0 and journal_now_ns(CLOCK_REALTIME) // 1000000 >= k.expires_ms


# False: it was refused, and is told so.
cdef bint go_on(Stream* s, int admission) noexcept nogil:
    cdef Front* f = s.connection.front
    cdef const FrontRefusal* refusal = &refusals[admission]
    if admission == ADMITTED or admission == ADMIT_LATER:
        return True
    if admission == REFUSED_CONNECTIONS:
        refuse_quota(s, b"Too many connections of this caller are open.", 0)
        return False
    tally(f, CALLS_UNAUTHENTICATED, admission == REFUSED_CREDENTIAL)
    tally(f, CALLS_SCOPE_DENIED, admission == REFUSED_SCOPE)
    tally(f, CALLS_REFUSED_UNAVAILABLE, admission == REFUSED_BUSY or admission == REFUSED_DRAINING)
    if s.relay != NULL:
        relay_give_up(s, refusal.code, refusal.reason, refusal.text)
    else:
        refuse_stream(s, refusal.code, refusal.reason, refusal.text)
    return False


cdef void forget_asking(Stream* s) noexcept nogil:
    if s.asking_from == NULL:
        return
    s.connection.front.identity.waiting -= 1
    s.asking_from[0] = s.next_asking
    if s.next_asking != NULL:
        s.next_asking.asking_from = s.asking_from
    s.next_asking = NULL
    s.asking_from = NULL


cdef void forget_credential(Stream* s) noexcept nogil:
    forget_asking(s)
    if s.credential != NULL:
        credential_release(s.credential)
        s.credential = NULL


# ---- questions and answers


cdef bint ask_python(Front* f, Credential* k) noexcept nogil:
    cdef Identity* identity = &f.identity
    if identity.free_count == 0:
        return False
    identity.free_count -= 1
    k.refs += 1
    put_question(f, k, identity.free_slots[identity.free_count])
    return True


cdef void put_question(Front* f, Credential* k, uint32_t slot) noexcept nogil:
    cdef Question question
    cdef Buffer* into = &f.pending_identity.questions
    f.identity.serial += 1
    f.identity.asked[slot] = k
    k.state = CREDENTIAL_ASKED
    k.token = question.token = f.identity.serial << CREDENTIAL_SLOT_BITS | slot
    question.kind = k.kind
    question.size = <uint32_t>k.secret.size
    pthread_mutex_lock(&f.lock)
    memcpy(buffer_reserve(into, sizeof(Question) + k.secret.size), &question, sizeof(Question))
    memcpy(into.data + into.size + sizeof(Question), k.secret.data, k.secret.size)
    into.size += sizeof(Question) + k.secret.size
    pthread_mutex_unlock(&f.lock)
    eventfd_write(f.credential_fd, 1)
    tally(f, CREDENTIALS_ASKED, 1)


# What other threads handed in; the lock is held. What was asked under an older epoch is asked anew, outside of it.
cdef Answered* take_identity(Front* f) noexcept nogil:
    cdef PendingIdentity* pending = &f.pending_identity
    cdef Answered* answers = pending.answers
    pending.answers = NULL
    f.identity.relay_secret_size = pending.relay_secret_size
    memcpy(f.identity.relay_secret, pending.relay_secret, sizeof(pending.relay_secret))
    return answers


cdef void take_answers(Front* f, Answered* answer) noexcept nogil:
    cdef Answered* following
    cdef Credential* k
    cdef uint64_t slot
    take_policy(f)
    while answer != NULL:
        following = answer.next
        slot = answer.token & ((1 << CREDENTIAL_SLOT_BITS) - 1)
        k = f.identity.asked[slot] if slot < f.settings.identity_calls_max else NULL
        if k == NULL or k.token != answer.token:
            free(answer)
        else:
            f.identity.asked[slot] = NULL
            f.identity.free_slots[f.identity.free_count] = <uint32_t>slot
            f.identity.free_count += 1
            take_answer(f, k, answer)
        answer = following


# A new epoch: nobody is known any more, which each finds out when it is used next. Answers to questions of the old one
# would be those of keys that may be gone.
cdef void take_policy(Front* f) noexcept nogil:
    cdef PendingIdentity* pending = &f.pending_identity
    cdef bint wanted
    cdef uint64_t epoch
    cdef uint32_t i
    pthread_mutex_lock(&f.lock)
    wanted = pending.wanted
    epoch = pending.epoch
    pending.wanted = False
    if wanted:
        f.identity.required = pending.required
    pthread_mutex_unlock(&f.lock)
    if not wanted:
        return
    if f.identity.required and f.identity.room == NULL:
        f.identity.room = denial_begin()
    if epoch == f.identity.epoch:
        return
    f.identity.epoch = epoch
    for i in range(<uint32_t>f.settings.identity_calls_max):
        if f.identity.asked[i] != NULL:
            put_question(f, f.identity.asked[i], i)


# Also lets go of the question's hold on it.
cdef void take_answer(Front* f, Credential* k, Answered* answer) noexcept nogil:
    free(k.caller)
    k.caller = answer
    k.epoch = f.identity.epoch
    k.state = CREDENTIAL_KNOWN if answer.is_caller else CREDENTIAL_REFUSED
    k.until_ns = f.now_ns + REFUSED_NS
    if k.state == CREDENTIAL_REFUSED:
        put_last(f, k)
    elif k.listed:
        unlink_use(f, k)
        link_use(f, k)
    k.expires_ms = answer.expires_ms
    k.scopes = answer.scopes
    k.payer = 0
    if answer.orders_per_s or answer.bytes_in_flight or answer.connections:
        k.payer = quota_slot_of(&f.quotas, xxh3_64(name_of(answer), answer.name_size, 0)) + 1
        tally(f, QUOTA_TABLE_FULL, k.payer > <uint32_t>QUOTA_SLOTS)
    while k.waiting != NULL:
        stream_identified(k.waiting)
    credential_release(k)


# Goes on with what was left lying while it waited.
cdef void stream_identified(Stream* s) noexcept nogil:
    cdef Call* call
    cdef Call* following
    forget_asking(s)
    if stream_is_over(s) or not go_on(s, admit(s, True)):
        return
    if s.kind == STREAM_BATCHES:
        call = s.calls
        # One that is refused ends the stream, and the calls behind it are gone.
        while call != NULL and not stream_is_over(s):
            following = call.next
            if call.pending == 0 and not call.done:
                dispatch(s, call)
            call = following
        if s.end_received and s.calls == NULL and not stream_is_over(s):
            reply_at_end(s)
    elif s.kind == STREAM_UNARY and s.end_received and s.calls != NULL:
        dispatch(s, s.calls)


# A drain waits for nobody's answer.
cdef void refuse_asking(Front* f) noexcept nogil:
    cdef Credential* k
    cdef Stream* s
    cdef uint32_t i
    for i in range(<uint32_t>f.settings.identity_calls_max if f.identity.waiting else 0):
        k = f.identity.asked[i]
        while k != NULL and k.waiting != NULL:
            s = k.waiting
            forget_asking(s)
            if not stream_is_over(s):
                go_on(s, REFUSED_DRAINING)
