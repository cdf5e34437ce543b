# Who calls: from the credential of a stream to a caller; what the table does not have is asked of Python once, while
# the streams wait. Then the scope of the method. docs/security.md says what is answered when.

cdef enum:
    CREDENTIAL_SLOT_BITS = 16
    REFUSED_NS = 1000000000              # so long it is remembered that a credential is none
    QUESTIONS_AT_ONCE = 32               # that Python is told, so that one which is urgent waits for no more

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
        [5] = { 14, "IDENTITY_BUSY", "Too many calls wait until it is known who makes them; retry with the same id." },
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
    cdef uint32_t i, slots = question_slots(f)
    identity.seed = seed
    identity.nowhere.connections = 1     # it is never forgotten
    identity.buckets = <Credential**>calloc(CREDENTIAL_BUCKETS, sizeof(Credential*))
    identity.asked = <Credential**>calloc(slots, sizeof(Credential*))
    identity.free_slots = <uint32_t*>malloc(slots * sizeof(uint32_t))
    if identity.buckets == NULL or identity.asked == NULL or identity.free_slots == NULL:
        return 0
    for i in range(slots):
        identity.free_slots[i] = i
    identity.free_count = slots
    return quotas_init(&f.quotas, f.quotas_fd, board_bytes(f.board.workers), <uint32_t>f.worker, f.board.workers)


# Those of strangers, and besides them everybody whom the table knows.
cdef inline uint32_t question_slots(const Front* f) noexcept nogil:
    return <uint32_t>f.settings.identity_calls_max + <uint32_t>CREDENTIALS_MAX


cdef void identity_destroy(Front* f) noexcept nogil:
    cdef Answered* answer = f.pending_identity.answers
    cdef Answered* following
    cdef uint32_t i
    for i in range(question_slots(f) if f.identity.asked != NULL else 0):
        if f.identity.asked[i] != NULL:
            question_ends(f, f.identity.asked[i])
            credential_release(f.identity.asked[i])
    while f.identity.oldest != NULL:
        table_remove(f, f.identity.oldest)
    while answer != NULL:
        following = answer.next
        free(answer)
        answer = following
    buffer_free(&f.pending_identity.questions)
    buffer_free(&f.pending_identity.urgent)
    buffer_free(&f.pending_identity.taken)
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
    if s.credential.state != CREDENTIAL_KNOWN and not is_familiar(s.credential):
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
    # What has expired does not become good by others being asked about.
    if admission == REFUSED_BUSY and k.state == CREDENTIAL_KNOWN and has_expired(k):
        admission = REFUSED_CREDENTIAL
    if admission != REFUSED_BUSY:
        go_on(s, admission)


# `fresh`: Python has just said so; what has expired by now is not asked again.
cdef int admit(Stream* s, bint fresh) noexcept nogil:
    cdef Front* f = s.connection.front
    cdef Credential* k = s.credential
    if k.epoch == f.identity.epoch and k.state == CREDENTIAL_KNOWN and not has_expired(k):
        if not k.scopes & s.scope:
            return REFUSED_SCOPE
        if not connection_pays(s.connection, k):
            return REFUSED_CONNECTIONS
        if UNLIKELY(not s.connection.window_opened):
            open_connection_window(s.connection)
        return ADMITTED
    if fresh or (k.epoch == f.identity.epoch and k.state == CREDENTIAL_REFUSED and f.now_ns < k.until_ns):
        return REFUSED_CREDENTIAL
    if f.draining:
        return REFUSED_DRAINING
    if not may_ask(s, k):
        return REFUSED_BUSY
    s.asking_from = &k.waiting
    s.next_asking = k.waiting
    if k.waiting != NULL:
        k.waiting.asking_from = &s.next_asking
    k.waiting = s
    return ADMIT_LATER


# Who was known until the keys changed is asked for in any case, and first. All others share what may be open at once:
# of the worker, of their address, and of their connection.
cdef bint may_ask(Stream* s, Credential* k) noexcept nogil:
    cdef Connection* c = s.connection
    cdef Front* f = c.front
    cdef const FrontSettings* bounds = &f.settings
    cdef Peer* peer = peer_of(c)
    cdef bint is_question = k.state != CREDENTIAL_ASKED
    if is_familiar(k):
        return not is_question or ask_python(f, k, NULL)
    if not (is_left(&f.identity.share, is_question, bounds.identity_calls_max, bounds.identity_calls_max)
            and is_left(&peer.share, is_question, bounds.identity_calls_per_peer_max,
                        bounds.identity_calls_per_peer_max)
            and is_left(&c.share, is_question, bounds.identity_calls_per_connection_max,
                        bounds.identity_questions_per_connection_max)):
        return False
    if is_question and not ask_python(f, k, peer):
        return False
    s.is_stranger = True
    s.has_asked = is_question
    f.identity.share.calls += 1
    peer.share.calls += 1
    c.share.calls += 1
    c.share.questions += is_question
    return True


cdef inline Peer* peer_of(Connection* c) noexcept nogil:
    return c.peer if c.peer != NULL else &c.front.identity.nowhere


cdef inline bint is_left(const Share* share, bint is_question, uint64_t calls, uint64_t questions) noexcept nogil:
    return share.calls < calls and (not is_question or share.questions < questions)


cdef inline bint is_familiar(const Credential* k) noexcept nogil:
    return k.caller != NULL and k.caller.is_caller and not has_expired(k)


# Before the first caller of a connection is known, what it sends is bounded by the window that HTTP/2 begins with.
cdef void open_connection_window(Connection* c) noexcept nogil:
    c.window_opened = True
    nghttp2_session_set_local_window_size(c.session, 0, 0, CONNECTION_WINDOW_BYTES)
    mark_dirty(c)


# Likewise of a stream; not before it needs it, since mostly all of it has come already.
cdef void open_window(Stream* s) noexcept nogil:
    s.wide = True
    nghttp2_session_set_local_window_size(s.connection.session, 0, s.id, STREAM_WINDOW_BYTES)
    mark_dirty(s.connection)


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
    tally(f, CALLS_REFUSED_UNAVAILABLE, admission == REFUSED_DRAINING)
    tally(f, CALLS_IDENTITY_REFUSED, admission == REFUSED_BUSY)
    if admission == REFUSED_BUSY and not stream_is_over(s):
        s.worth_repeating = True
    if s.relay != NULL:
        relay_give_up(s, refusal.code, refusal.reason, refusal.text)
    else:
        refuse_stream(s, refusal.code, refusal.reason, refusal.text)
    if admission == REFUSED_CREDENTIAL:
        guard_bad_credential(s.connection)
    return False


cdef void forget_asking(Stream* s) noexcept nogil:
    cdef Connection* c = s.connection
    if s.asking_from == NULL:
        return
    if s.is_stranger:
        c.front.identity.share.calls -= 1
        peer_of(c).share.calls -= 1
        c.share.calls -= 1
        c.share.questions -= s.has_asked
        s.is_stranger = s.has_asked = False
    if s.held and not c.dead:
        nghttp2_session_consume_connection(c.session, s.held)
        mark_dirty(c)
    s.held = 0
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


# `asker`: NULL if it counts in no share.
cdef bint ask_python(Front* f, Credential* k, Peer* asker) noexcept nogil:
    cdef Identity* identity = &f.identity
    if identity.free_count == 0:
        return False
    identity.free_count -= 1
    k.refs += 1
    k.asker = asker
    if asker != NULL:
        asker.share.questions += 1
        identity.share.questions += 1
    put_question(f, k, identity.free_slots[identity.free_count])
    return True


cdef void question_ends(Front* f, Credential* k) noexcept nogil:
    if k.asker != NULL:
        k.asker.share.questions -= 1
        f.identity.share.questions -= 1
        forget_peer(f, k.asker)
        k.asker = NULL


cdef void put_question(Front* f, Credential* k, uint32_t slot) noexcept nogil:
    cdef Question question
    cdef Buffer* into = &f.pending_identity.urgent if is_familiar(k) else &f.pending_identity.questions
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


# At most `count` of those from `at` on.
cdef list tell_questions(const Buffer* of, size_t* at, size_t count):
    cdef Question question
    questions = []
    while at[0] < of.size and <size_t>len(questions) < count:
        memcpy(&question, of.data + at[0], sizeof(Question))
        at[0] += sizeof(Question)
        questions.append((question.token, question.kind, <bytes>(of.data + at[0])[:question.size]))
        at[0] += question.size
    return questions


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
        k = f.identity.asked[slot] if slot < question_slots(f) else NULL
        if k == NULL or k.token != answer.token:
            free(answer)
        else:
            f.identity.asked[slot] = NULL
            f.identity.free_slots[f.identity.free_count] = <uint32_t>slot
            f.identity.free_count += 1
            question_ends(f, k)
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
    for i in range(question_slots(f)):
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
    if stream_is_over(s) or not go_on(s, admit(s, True)) or s.kind == STREAM_RELAYED:
        return
    if s.kind == STREAM_UNARY and s.calls != NULL:
        dispatch(s, s.calls)             # it was whole when the keys changed
        return
    if s.kind == STREAM_BATCHES and not s.wide and not s.end_received:
        open_window(s)
    call = s.calls
    # One that is refused ends the stream, and the calls behind it are gone.
    while call != NULL and not stream_is_over(s):
        following = call.next
        if call.pending == 0 and not call.done:
            dispatch(s, call)
        call = following
    feed_backlog(s)
    if s.end_received:
        end_request(s)


# A drain waits for nobody's answer.
cdef void refuse_asking(Front* f) noexcept nogil:
    cdef Credential* k
    cdef Stream* s
    cdef uint32_t i
    for i in range(question_slots(f)):
        k = f.identity.asked[i]
        while k != NULL and k.waiting != NULL:
            s = k.waiting
            forget_asking(s)
            if not stream_is_over(s):
                go_on(s, REFUSED_DRAINING)
