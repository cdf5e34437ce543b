# What a peer may not do to us: floods of frames, resets and pings, header blocks without end, half a message, silence,
# and more connections than its share. The bounds are settings. A check of frames, resets or pings that fails has
# counted why and asked for the end of the connection.

cdef enum:
    MS_NS = 1000000
    HEADER_OVERHEAD_BYTES = 32           # that a header counts for besides its text: RFC 9113, section 6.5.2
    ANSWERED_MS = 100                    # for the end of a request that was refused before it was read
    AGE_JITTER_PARTS = 10                # the age of connections differs by a tenth, so that they do not end together


# libnghttp2 has bounds of its own, which say nothing to the peer; they stand behind ours.
cdef void guard_options(const FrontSettings* settings, nghttp2_option* options) noexcept nogil:
    nghttp2_option_set_stream_reset_rate_limit(options, 2 * settings.resets_max, 2 * settings.resets_per_s)
    nghttp2_option_set_max_continuations(options, settings.continuations_max + 1)


cdef inline uint64_t spread_bits(uint64_t x) noexcept nogil:
    x = (x ^ (x >> 32)) * <uint64_t>0x9E3779B97F4A7C15
    return x ^ (x >> 29)


# A new connection: its buckets are full, and its age is set.
cdef void guard_begin(Connection* c) noexcept nogil:
    cdef Front* f = c.front
    cdef uint64_t age_ns = f.settings.connection_age_ms * <uint64_t>MS_NS
    cdef uint64_t jitter_ns = age_ns // <uint64_t>AGE_JITTER_PARTS
    memset(&c.guard, 0, sizeof(Guard))
    bucket_begin(&c.guard.control, f.now_ns, f.settings.control_frames_max)
    bucket_begin(&c.guard.resets, f.now_ns, f.settings.resets_max)
    bucket_begin(&c.guard.bad_credentials, f.now_ns, f.settings.bad_credentials_max)
    c.age_ns = 0
    if age_ns > 0:
        c.age_ns = f.now_ns + age_ns - jitter_ns + spread_bits(f.now_ns + <uint64_t>c.fd) % (2 * jitter_ns + 1)


# The peer is told, with the reason in words, and the connection ends once that is sent. Whoever closed it first counts.
cdef void guard_close(Connection* c, FrontCounter counter, const char* debug) noexcept nogil:
    if c.closing or c.dead:
        return
    tally(c.front, counter, 1)
    nghttp2_submit_goaway(c.session, <uint8_t>NGHTTP2_FLAG_NONE, nghttp2_session_get_last_proc_stream_id(c.session),
                          <uint32_t>NGHTTP2_ENHANCE_YOUR_CALM, <const uint8_t*>debug, strlen(debug))
    c.closing = True
    mark_dirty(c)


# Called with the head of each frame, before libnghttp2 has looked at what it carries.
cdef bint guard_frame(Connection* c, const nghttp2_frame_hd* head) noexcept nogil:
    cdef Front* f = c.front
    if c.closing or c.dead:
        return False
    if head.type == NGHTTP2_CONTINUATION:
        c.guard.continuations += 1
        if c.guard.continuations > f.settings.continuations_max:
            guard_close(c, CONTINUATION_EXCESS, b"too_many_continuations")
            return False
        return True
    c.guard.continuations = 0
    c.guard.headers_began_ns = f.now_ns if head.type == NGHTTP2_HEADERS else 0
    if head.type == NGHTTP2_HEADERS or head.type == NGHTTP2_RST_STREAM:
        return True                      # bounded by the number of streams; guard_reset
    if head.type == NGHTTP2_DATA and (head.length > 0 or head.flags & NGHTTP2_FLAG_END_STREAM):
        return True
    if bucket_take(&c.guard.control, f.now_ns, f.settings.control_frames_max, f.settings.control_frames_per_s):
        return True
    if head.type == NGHTTP2_PING:
        guard_close(c, PINGS_EXCESS, b"too_many_pings")
    elif head.type == NGHTTP2_SETTINGS:
        guard_close(c, SETTINGS_EXCESS, b"too_many_settings")
    else:
        guard_close(c, FRAMES_EXCESS, b"too_many_frames")
    return False


# A whole header block is here, or was refused.
cdef inline void guard_headers_ended(Connection* c) noexcept nogil:
    c.guard.headers_began_ns = 0


# The peer reset a stream, or made us reset one by a frame that breaks the protocol, which is as cheap. Streams that are
# refused because of our load do not come here.
cdef bint guard_reset(Connection* c) noexcept nogil:
    cdef Front* f = c.front
    if not bucket_take(&c.guard.resets, f.now_ns, f.settings.resets_max, f.settings.resets_per_s):
        guard_close(c, RESETS_EXCESS, b"too_many_resets")
    return not c.closing


# A call was UNAUTHENTICATED. Who tries out credentials is to begin anew for each few.
cdef void guard_bad_credential(Connection* c) noexcept nogil:
    cdef Front* f = c.front
    if not bucket_take(&c.guard.bad_credentials, f.now_ns, f.settings.bad_credentials_max,
                       f.settings.bad_credentials_per_s):
        guard_close(c, CREDENTIALS_EXCESS, b"too_many_bad_credentials")


# A PING that is not an answer to ours.
cdef bint guard_ping(Connection* c) noexcept nogil:
    cdef Front* f = c.front
    if not ping_is_allowed(&c.guard, f.now_ns, f.settings.ping_interval_ms * <uint64_t>MS_NS,
                           f.settings.ping_strikes_max):
        guard_close(c, PINGS_EXCESS, b"too_many_pings")
    return not c.closing


# A frame of an answer goes out.
cdef inline void guard_data_sent(Connection* c) noexcept nogil:
    guard_earn(&c.guard, c.front.settings.control_frames_max)


# Counts a header of the request; False: its list is longer than it may be.
cdef inline bint guard_header(Stream* s, size_t name_size, size_t value_size) noexcept nogil:
    s.header_bytes += <uint32_t>(name_size + value_size + <size_t>HEADER_OVERHEAD_BYTES)
    return s.header_bytes <= s.connection.front.settings.header_list_bytes_max


cdef inline Peer** peer_chain(Front* f, const uint8_t* address) noexcept nogil:
    cdef uint64_t high, low
    memcpy(&high, address, 8)
    memcpy(&low, address + 8, 8)
    return &f.peers[spread_bits(high ^ spread_bits(low)) >> 56]


# Counts a connection for its address, an IPv4 one in 16 bytes as IPv6 writes it. All zero: it has none and is not
# counted. False: the address has all that it may have.
cdef bint guard_peer_enters(Front* f, Connection* c, const uint8_t* address) noexcept nogil:
    cdef uint8_t none[16]
    cdef Peer** chain = peer_chain(f, address)
    cdef Peer* peer = chain[0]
    c.peer = NULL
    memset(none, 0, sizeof(none))
    if memcmp(address, none, sizeof(none)) == 0:
        return True
    while peer != NULL and memcmp(peer.address, address, sizeof(peer.address)) != 0:
        peer = peer.next
    if peer == NULL:
        peer = <Peer*>calloc(1, sizeof(Peer))
        INVARIANT(peer != NULL, b"there is memory for the address of a peer")
        memcpy(peer.address, address, sizeof(peer.address))
        peer.next = chain[0]
        chain[0] = peer
    if peer.connections >= f.settings.connections_per_peer_max:
        return False
    peer.connections += 1
    c.peer = peer
    return True


cdef void guard_peer_leaves(Front* f, Connection* c) noexcept nogil:
    cdef Peer* peer = c.peer
    if peer == NULL:
        return
    c.peer = NULL
    peer.connections -= 1
    forget_peer(f, peer)


# Once nothing is open of it. Questions outlast their connection, so that a new one brings no new share.
cdef void forget_peer(Front* f, Peer* peer) noexcept nogil:
    cdef Peer** at
    if peer.connections > 0 or peer.share.questions > 0:
        return
    at = peer_chain(f, peer.address)
    while at[0] != peer:
        at = &at[0].next
    at[0] = peer.next
    free(peer)


# Every SWEEP_MS for each connection: what takes too long.
cdef void guard_sweep(Connection* c) noexcept nogil:
    if not c.dead and c.closing:
        sweep_closing(c)
    if not c.dead:
        sweep_handshake(c)
    if not c.dead and not c.closing:
        sweep_messages(c)
    if not c.dead:
        sweep_silence(c)
    if not c.dead:
        sweep_age(c)


cdef inline bint has_passed(Front* f, uint64_t since_ns, uint64_t ms) noexcept nogil:
    return f.now_ns >= since_ns + ms * <uint64_t>MS_NS


# Nobody is waited for that was told to go.
cdef void sweep_closing(Connection* c) noexcept nogil:
    if c.guard.closing_since_ns == 0:
        c.guard.closing_since_ns = c.front.now_ns
    elif has_passed(c.front, c.guard.closing_since_ns, c.front.settings.keepalive_timeout_ms):
        connection_close(c)


cdef void sweep_handshake(Connection* c) noexcept nogil:
    if not c.preface_seen and has_passed(c.front, c.accepted_ns, c.front.settings.handshake_ms):
        tally(c.front, HANDSHAKES_TIMED_OUT, 1)
        connection_close(c)


# A message, once begun, and a unary call as a whole must come in time. While we do not read, the time stands.
cdef void sweep_messages(Connection* c) noexcept nogil:
    cdef Front* f = c.front
    cdef Stream* s = c.streams
    cdef Stream* after
    if c.paused:
        c.guard.headers_began_ns = 0
    if headers_are_slow(&c.guard, c.received_ns, f.now_ns, f.settings.message_ms * <uint64_t>MS_NS):
        guard_close(c, SLOW_SENDERS_RESET, b"headers_too_slow")
        return
    while s != NULL:
        after = s.next
        if s.answered:
            if has_passed(f, s.message_began_ns, ANSWERED_MS):
                s.answered = False
                reset_stream(s, <uint32_t>NGHTTP2_NO_ERROR)
        elif stream_is_owed_bytes(s):
            if s.message_began_ns == 0 or c.paused or s.backlog.size > 0:
                s.message_began_ns = f.now_ns
            elif has_passed(f, s.message_began_ns, f.settings.message_ms):
                s.message_began_ns = 0
                tally(f, SLOW_SENDERS_RESET, 1)
                reset_stream(s, <uint32_t>NGHTTP2_ENHANCE_YOUR_CALM)
        s = after


# Between its messages a stream of batches may rest for as long as it likes.
cdef inline bint stream_is_owed_bytes(const Stream* s) noexcept nogil:
    if not s.begun or s.end_received or s.ending or s.closed:
        return False
    return s.kind == STREAM_UNARY or s.kind == STREAM_HEALTH_CHECK or s.message_began_ns != 0


# A peer that says nothing is asked; one that does not answer, or does not take what it asked for, is given up.
cdef void sweep_silence(Connection* c) noexcept nogil:
    cdef Front* f = c.front
    cdef uint64_t patience_ns = 2 * f.settings.keepalive_timeout_ms * <uint64_t>MS_NS
    if c.paused:
        c.received_ns = f.now_ns
    if c.ping_sent_ns != 0 and c.received_ns > c.ping_sent_ns:
        c.ping_sent_ns = 0
    if (sending_is_stuck(&c.guard, answer_waits(c), c.progress_ns + c.out_sent, f.now_ns, patience_ns)
            or (c.ping_sent_ns != 0 and has_passed(f, c.ping_sent_ns, f.settings.keepalive_timeout_ms))):
        tally(f, SILENT_PEERS_CLOSED, 1)
        connection_close(c)
    elif c.ping_sent_ns == 0 and not c.closing and has_passed(f, c.received_ns, f.settings.keepalive_ms):
        nghttp2_submit_ping(c.session, <uint8_t>NGHTTP2_FLAG_NONE, NULL)
        c.ping_sent_ns = f.now_ns
        mark_dirty(c)


# Something is ready that the peer's socket or its flow control does not take.
cdef inline bint answer_waits(const Connection* c) noexcept nogil:
    cdef const Stream* s = c.streams
    if c.out_sent < c.out.size:
        return True
    while s != NULL:
        if s.answering and not s.deferred and not s.closed and s.kind != STREAM_RELAYED:
            return True
        s = s.next
    return False


# An old connection is asked to leave, so that its calls find their way anew; after its grace it is closed.
cdef void sweep_age(Connection* c) noexcept nogil:
    cdef Front* f = c.front
    if c.age_ns == 0 or f.now_ns < c.age_ns:
        return
    if has_passed(f, c.age_ns, f.settings.age_grace_ms):
        connection_close(c)
    elif not c.notice_sent:
        tally(f, CONNECTIONS_AGED_OUT, 1)
        connection_drain(c)
