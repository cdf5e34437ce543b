# A connection and its HTTP/2 session: what libnghttp2 calls, and what goes over the socket.

cdef extern from "<sys/socket.h>" nogil:
    ssize_t recv(int fd, void* into, size_t size, int flags) noexcept
    ssize_t send_fd "send"(int fd, const void* data, size_t size, int flags) noexcept
    int shutdown_fd "shutdown"(int fd, int how) noexcept
    int MSG_NOSIGNAL, MSG_DONTWAIT, SHUT_WR

cdef extern from "<sys/epoll.h>" nogil:
    ctypedef union epoll_data_t:
        void* ptr
        uint64_t u64
    cdef struct epoll_event:
        uint32_t events
        epoll_data_t data
    int epoll_create1(int flags) noexcept
    int epoll_ctl(int epoll_fd, int operation, int fd, epoll_event* event) noexcept
    int epoll_wait(int epoll_fd, epoll_event* events, int size, int timeout_ms) noexcept
    int EPOLL_CLOEXEC, EPOLL_CTL_ADD, EPOLL_CTL_MOD, EPOLL_CTL_DEL
    uint32_t EPOLLIN, EPOLLOUT, EPOLLHUP, EPOLLERR

cdef extern from "<errno.h>" nogil:
    int EAGAIN, ECONNABORTED, EPIPE

cdef enum:
    INPUT_BYTES = 65536                  # of one connection in one turn
    OUTPUT_BYTES = 262144
    STREAM_WINDOW_BYTES = 1048576
    SMALL_WINDOW_BYTES = 65535           # that HTTP/2 begins with
    CONNECTION_WINDOW_BYTES = 16777216
    FRAME_BYTES_MAX = 65536
    DRAIN_NOTICE_NS = 1000000000         # what is on its way when a peer hears of the drain may take so long
    DRAIN_RELAYED_NS = 2000000000        # and a relayed stream, such as a watch, goes on for so long
    LINGER_NS = 1000000000


# The stream of a frame, NULL if it is none of ours (any more).
cdef inline Stream* stream_of(Connection* c, int32_t id) noexcept nogil:
    if c.recent == NULL or c.recent.id != id:
        c.recent = <Stream*>nghttp2_session_get_stream_user_data(c.session, id)
    return c.recent


cdef int on_begin_frame(nghttp2_session* session, const nghttp2_frame_hd* head, void* user) noexcept nogil:
    cdef Connection* c = <Connection*>user
    guard_frame(c, head)
    return 0


cdef int on_begin_headers(nghttp2_session* session, const nghttp2_frame* frame, void* user) noexcept nogil:
    cdef Connection* c = <Connection*>user
    if frame.headers.cat == NGHTTP2_HCAT_REQUEST:
        tally(c.front, STREAMS_OPENED, 1)
        c.headers.size = c.credential.size = 0
        c.credential_kind = 0
        c.recent = stream_begin(c, frame.hd.stream_id)
        nghttp2_session_set_stream_user_data(session, frame.hd.stream_id, c.recent)
    return 0


cdef int on_header(
    nghttp2_session* session, const nghttp2_frame* frame, const uint8_t* name, size_t name_size,
    const uint8_t* value, size_t value_size, uint8_t flags, void* user
) noexcept nogil:
    cdef Stream* s = stream_of(<Connection*>user, frame.hd.stream_id)
    # What follows the request's first headers are trailers, which gRPC requests do not have.
    if s == NULL or s.begun or s.kind == STREAM_REFUSED:
        return 0
    if not guard_header(s, name_size, value_size):
        tally(s.connection.front, HEADERS_TOO_LARGE, 1)
        refuse_stream(s, CODE_RESOURCE_EXHAUSTED, b"HEADERS_TOO_LARGE", b"The request's metadata is too large.")
        s.kind = STREAM_REFUSED
        return 0
    if take_header(s, name, name_size, value, value_size) and s.method == NULL:
        keep_header(&s.connection.headers, name, name_size, value, value_size, flags)
    return 0


cdef int on_frame_recv(nghttp2_session* session, const nghttp2_frame* frame, void* user) noexcept nogil:
    cdef Connection* c = <Connection*>user
    cdef int type = frame.hd.type
    cdef Stream* s
    if type == NGHTTP2_DATA or type == NGHTTP2_HEADERS:
        s = stream_of(c, frame.hd.stream_id)
        if s == NULL:
            return 0
        if type == NGHTTP2_HEADERS:
            guard_headers_ended(c)
        if type == NGHTTP2_HEADERS and not s.begun:
            s.begun = True
            begin_request(s)
        if frame.hd.flags & NGHTTP2_FLAG_END_STREAM:
            end_request(s)
    elif type == NGHTTP2_SETTINGS:
        c.preface_seen = True
    elif type == NGHTTP2_RST_STREAM:
        tally(c.front, STREAMS_RESET_BY_PEER, 1)
        guard_reset(c)
    elif type == NGHTTP2_PING:
        if frame.hd.flags & NGHTTP2_FLAG_ACK:
            if c.notice_sent:
                send_goaway(c)
        else:
            guard_ping(c)
    return 0


# Who has its whole answer need not send the rest of its request; not before, since a reset would overtake the answer.
# Who does not speak gRPC gets a moment to end by itself: some clients (curl before 8) take the reset for a failure.
cdef int on_frame_send(nghttp2_session* session, const nghttp2_frame* frame, void* user) noexcept nogil:
    cdef Stream* s
    if frame.hd.type != NGHTTP2_DATA and frame.hd.type != NGHTTP2_HEADERS:
        return 0
    guard_data_sent(<Connection*>user)
    if frame.hd.flags & NGHTTP2_FLAG_END_STREAM:
        s = <Stream*>nghttp2_session_get_stream_user_data(session, frame.hd.stream_id)
        if s != NULL and s.calls != NULL and s.calls.done and s.calls.job.times != NULL:
            finish_measure(s, s.calls)   # it failed, so its trailers were its answer
        if s == NULL or s.end_received:
            return 0
        if s.kind == STREAM_REFUSED:
            s.answered = True
            s.message_began_ns = s.connection.front.now_ns
        else:
            nghttp2_submit_rst_stream(session, 0, s.id, NGHTTP2_NO_ERROR)
    return 0


# Its headers are whole: is it a call at all, and whose?
cdef void begin_request(Stream* s) noexcept nogil:
    cdef Front* f = s.connection.front
    if s.kind == STREAM_REFUSED:
        return
    if not s.is_post:
        refuse_http(s, front_405)
    elif not s.has_grpc_content:
        refuse_http(s, front_415)
    elif UNLIKELY(f.identity.required) and not identify(s):
        return
    elif s.kind == STREAM_RELAYED:
        tally(f, CALLS_RELAYED, 1)
        trace_relayed(s)
        relay_begin(s)
    elif s.bad_timeout:
        refuse_stream(s, CODE_INTERNAL, b"MALFORMED", b"grpc-timeout is not a timeout.")
    elif s.encoding == ENCODING_OTHER:
        refuse_stream(s, CODE_UNIMPLEMENTED, b"ENCODING_UNKNOWN", b"grpc-encoding must be identity or gzip.")
    elif f.calls_in_flight >= f.settings.calls_max:
        tally(f, CALLS_REFUSED_OVERLOAD, 1)
        refuse_stream(s, CODE_RESOURCE_EXHAUSTED, OVERLOADED, OVERLOADED_TEXT)
    elif s.kind == STREAM_BATCHES:
        s.long_lived = True
        s.connection.native_streams += 1
        if not s.wide and not is_asking(s):
            open_window(s)
        if f.draining:
            end_batches(s)


cdef int on_data_chunk(
    nghttp2_session* session, uint8_t flags, int32_t stream_id, const uint8_t* data, size_t size, void* user
) noexcept nogil:
    cdef Connection* c = <Connection*>user
    cdef Stream* s = stream_of(c, stream_id)
    if s != NULL and UNLIKELY(is_asking(s)):
        s.held += size                   # the connection's window stays closed by as much
    else:
        c.unconsumed += size
    if s == NULL:
        return 0
    if s.kind == STREAM_RELAYED:
        if not s.wide and not is_asking(s) and not flags & NGHTTP2_FLAG_END_STREAM:
            open_window(s)
        relay_data(s, data, size)
        return 0
    feed(s, data, size)
    consume_stream(s, size)
    return 0


# Opens a stream's window again, in steps; not while it holds more than it may have in work, or is not known.
cdef void consume_stream(Stream* s, size_t size) noexcept nogil:
    s.unconsumed += size
    if s.unconsumed >= <size_t>(STREAM_WINDOW_BYTES if s.wide else SMALL_WINDOW_BYTES) // 4 \
            and s.backlog.size == 0 and not (s.closed or is_asking(s)):
        if not s.wide:
            open_window(s)
        nghttp2_session_consume_stream(s.connection.session, s.id, s.unconsumed)
        s.unconsumed = 0
        mark_dirty(s.connection)


cdef int on_stream_close(
    nghttp2_session* session, int32_t stream_id, uint32_t error_code, void* user
) noexcept nogil:
    cdef Stream* s = <Stream*>nghttp2_session_get_stream_user_data(session, stream_id)
    if s == NULL:
        return 0
    nghttp2_session_set_stream_user_data(session, stream_id, NULL)
    leave_stream(s, error_code)
    return 0


cdef void leave_stream(Stream* s, uint32_t error_code) noexcept nogil:
    if s.kind == STREAM_RELAYED:
        relay_reset(s, error_code)
        finish_relayed(s, error_code)
    s.connection.native_streams -= s.long_lived
    stream_end(s)


cdef int on_invalid_frame(
    nghttp2_session* session, const nghttp2_frame* frame, int error, void* user
) noexcept nogil:
    cdef Connection* c = <Connection*>user
    if error == NGHTTP2_ERR_REFUSED_STREAM:
        # Sent before it heard of a lower bound, which is our doing and not its.
        tally(c.front, STREAMS_REFUSED, 1)
        return 0
    tally(c.front, HTTP2_ERRORS, 1)
    # What makes us reset a stream costs a peer as little as a reset of its own.
    guard_reset(c)
    return 0


cdef int session_init(Front* f) noexcept nogil:
    if nghttp2_session_callbacks_new(&f.callbacks) != 0 or nghttp2_option_new(&f.options) != 0:
        return 0
    nghttp2_session_callbacks_set_on_begin_frame_callback(f.callbacks, on_begin_frame)
    nghttp2_session_callbacks_set_on_begin_headers_callback(f.callbacks, on_begin_headers)
    nghttp2_session_callbacks_set_on_header_callback(f.callbacks, on_header)
    nghttp2_session_callbacks_set_on_frame_recv_callback(f.callbacks, on_frame_recv)
    nghttp2_session_callbacks_set_on_frame_send_callback(f.callbacks, on_frame_send)
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(f.callbacks, on_data_chunk)
    nghttp2_session_callbacks_set_on_stream_close_callback(f.callbacks, on_stream_close)
    nghttp2_session_callbacks_set_on_invalid_frame_recv_callback(f.callbacks, on_invalid_frame)
    nghttp2_option_set_no_auto_window_update(f.options, 1)
    nghttp2_option_set_no_closed_streams(f.options, 1)
    guard_options(&f.settings, f.options)
    return 1


cdef int session_begin(Connection* c) noexcept nogil:
    cdef nghttp2_settings_entry settings[4]
    cdef Front* f = c.front
    cdef nghttp2_mem memory
    c.small_windows = f.identity.required
    memory.mem_user_data = &f.pieces
    memory.malloc = piece_take
    memory.free = piece_give
    memory.calloc = piece_take_clear
    memory.realloc = piece_resize
    if nghttp2_session_server_new3(&c.session, f.callbacks, c, f.options, &memory) != 0:
        return 0
    c.streams_limit = f.streams_limit
    settings[0].settings_id = NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS
    settings[0].value = f.streams_limit
    settings[1].settings_id = NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE
    settings[1].value = SMALL_WINDOW_BYTES if c.small_windows else STREAM_WINDOW_BYTES
    settings[2].settings_id = NGHTTP2_SETTINGS_MAX_FRAME_SIZE
    settings[2].value = FRAME_BYTES_MAX
    settings[3].settings_id = NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE
    settings[3].value = <uint32_t>f.settings.header_list_bytes_max
    nghttp2_submit_settings(c.session, 0, settings, 4)
    if not c.small_windows:
        open_connection_window(c)
    mark_dirty(c)
    return 1


# One read, as far as it goes.
cdef void connection_read(Connection* c) noexcept nogil:
    cdef Front* f = c.front
    cdef ssize_t size = tls_read(c) if c.tls != NULL and not c.lingering \
        else recv(c.fd, f.input, INPUT_BYTES, MSG_DONTWAIT)
    cdef ssize_t used
    if size == 0 or (size < 0 and errno != EAGAIN and errno != EINTR):
        connection_close(c)
        return
    # Who was told to go is not heard any more: nothing would bound what it asks for.
    if size < 0 or c.lingering or c.closing:
        return
    tally(f, BYTES_RECEIVED, <uint64_t>size)
    c.received_ns = f.now_ns
    c.ping_sent_ns = 0
    used = nghttp2_session_mem_recv(c.session, f.input, <size_t>size)
    mark_dirty(c)
    if used < 0:
        # libnghttp2 has a GOAWAY ready where the peer is to hear of it; what is no HTTP/2 at all gets nothing.
        tally(f, HTTP2_ERRORS, 1)
        c.closing = True
        return
    if c.unconsumed:
        nghttp2_session_consume_connection(c.session, c.unconsumed)
        c.unconsumed = 0
    pause_if_full(c)


# A connection that sends faster than it can be served is not read for a while. Never when only the peer can help: with
# its windows, with the end of a request.
cdef void pause_if_full(Connection* c) noexcept nogil:
    cdef Front* f = c.front
    if c.calls_at_work and (c.bytes_in_flight > f.settings.connection_bytes_max
                            or f.bytes_in_flight > f.settings.bytes_max):
        c.paused = True
        tally(f, READS_PAUSED, 1)
        connection_watch(c, EPOLL_CTL_MOD)


cdef void resume_if_room(Connection* c) noexcept nogil:
    cdef Front* f = c.front
    if c.paused and (not c.calls_at_work or (c.bytes_in_flight <= f.settings.connection_bytes_max // 2
                                             and f.bytes_in_flight <= f.settings.bytes_max)):
        c.paused = False
        connection_watch(c, EPOLL_CTL_MOD)
        # Neither has epoll an event for its end, if that came together with what was read before.
        if c.tls != NULL and (c.tls_broken or c.tls_full or SSL_has_pending(c.tls)):
            mark_unread(c)


cdef void connection_watch(Connection* c, int operation) noexcept nogil:
    cdef epoll_event event
    event.events = 0 if c.paused or c.tls_full else EPOLLIN
    if (c.writing and not c.tls_starved) or (c.tls_full and not c.paused):
        event.events |= EPOLLOUT
    event.data.ptr = c
    epoll_ctl(c.front.epoll_fd, operation, c.fd, &event)


# All that the session has to say, as far as the socket takes it.
cdef void connection_write(Connection* c) noexcept nogil:
    cdef Front* f = c.front
    cdef const uint8_t* data
    cdef size_t used = 0
    cdef ssize_t size = 1
    if c.dead or c.lingering or c.handshaking or not write_rest(c):
        return
    while size > 0 and not c.out.size:
        used = 0
        size = nghttp2_session_mem_send(c.session, &data)
        while size > 0:
            memcpy(f.output + used, data, <size_t>size)
            used += <size_t>size
            if used > OUTPUT_BYTES - FRAME_BYTES_MAX:
                break
            size = nghttp2_session_mem_send(c.session, &data)
        if size < 0 or (used and not write_out(c, f.output, used)):
            connection_close(c)
            return
    resume_if_room(c)
    if not c.out.size:
        close_if_over(c)


# What the socket did not take before. False: it is still full, or broken.
cdef bint write_rest(Connection* c) noexcept nogil:
    cdef Buffer rest = c.out
    cdef size_t sent = c.out_sent
    if not rest.size:
        return True
    memset(&c.out, 0, sizeof(Buffer))
    c.out_sent = 0
    if not write_out(c, rest.data + sent, rest.size - sent):
        connection_close(c)
    buffer_free(&rest)
    return not c.dead and not c.out.size


# False: the connection is broken. What the socket does not take now is kept.
cdef bint write_out(Connection* c, const uint8_t* data, size_t size) noexcept nogil:
    cdef ssize_t sent = tls_write(c, data, size) if c.tls != NULL \
        else send_fd(c.fd, data, size, MSG_NOSIGNAL | MSG_DONTWAIT)
    if sent < 0:
        if errno != EAGAIN and errno != EINTR:
            return False
        sent = 0
    if sent:
        c.progress_ns = c.front.now_ns
        tally(c.front, BYTES_SENT, <uint64_t>sent)
    if <size_t>sent < size:
        memcpy(buffer_reserve(&c.out, size - <size_t>sent), data + sent, size - <size_t>sent)
        c.out.size = size - <size_t>sent
    if c.writing != (c.out.size > 0):
        c.writing = c.out.size > 0
        connection_watch(c, EPOLL_CTL_MOD)
    return True


cdef void close_if_over(Connection* c) noexcept nogil:
    if c.closing or not (nghttp2_session_want_read(c.session) or nghttp2_session_want_write(c.session)) \
            or (c.goaway_sent and c.stream_count == 0 and not nghttp2_session_want_write(c.session)):
        connection_linger(c)


# After the last word: our side is shut, and the peer's is awaited, or the kernel would reset what it has not read yet.
cdef void connection_linger(Connection* c) noexcept nogil:
    tls_farewell(c)
    c.lingering = True
    c.drain_began_ns = c.front.now_ns
    shutdown_fd(c.fd, SHUT_WR)


# Two steps, so that no call is lost on the way: first the peer hears that it should go elsewhere; what it sent until it
# heard is still served, then the last stream is named.
cdef void connection_drain(Connection* c) noexcept nogil:
    cdef uint8_t opaque[8]
    if c.notice_sent or c.closing or c.dead:
        return
    memset(opaque, 0, 8)
    c.notice_sent = True
    c.drain_began_ns = c.front.now_ns
    nghttp2_submit_shutdown_notice(c.session)
    nghttp2_submit_ping(c.session, 0, opaque)
    mark_dirty(c)


cdef void send_goaway(Connection* c) noexcept nogil:
    if c.goaway_sent or c.dead or c.lingering:
        return
    c.goaway_sent = True
    nghttp2_submit_goaway(c.session, 0, nghttp2_session_get_last_proc_stream_id(c.session), NGHTTP2_NO_ERROR, NULL, 0)
    mark_dirty(c)


cdef void connection_close(Connection* c) noexcept nogil:
    cdef Front* f = c.front
    if c.dead:
        return
    c.dead = True
    if c.previous != NULL:
        c.previous.next = c.next
    else:
        f.connections = c.next
    if c.next != NULL:
        c.next.previous = c.previous
    f.connection_count -= 1
    c.next = f.graves
    f.graves = c


# At the end of a turn, when no event and no list names it any more but the one of sources.
cdef void connection_free(Connection* c) noexcept nogil:
    cdef Front* f = c.front
    while c.streams != NULL:
        leave_stream(c.streams, NGHTTP2_CANCEL)
    while c.ready.first != NULL:
        job_fail(f, queue_pop(&c.ready), CODE_CANCELLED, b"CANCELLED", b"The caller went away.")
    queue_forget(f, &c.ready)
    guard_peer_leaves(f, c)
    connection_counts_no_more(c)
    nghttp2_session_del(c.session)
    tls_end(c)
    # Also where a process that is being started has a copy of the descriptor, which would keep the events coming.
    epoll_ctl(f.epoll_fd, EPOLL_CTL_DEL, c.fd, NULL)
    posix_close(c.fd)
    buffer_free(&c.out)
    buffer_free(&c.headers)
    buffer_free(&c.credential)
    buffer_free(&c.certificate)
    tally(f, CONNECTIONS_CLOSED, 1)
    free(c)


cdef void queue_forget(Front* f, JobQueue* source) noexcept nogil:
    cdef JobQueue* before = NULL
    cdef JobQueue* at = f.runnable
    while at != NULL and at != source:
        before = at
        at = at.next
    if at == NULL:
        return
    if before == NULL:
        f.runnable = source.next
    else:
        before.next = source.next
    if f.runnable_last == source:
        f.runnable_last = before


# No further batch is read; those that are in work are answered, then the stream ends.
cdef void end_batches(Stream* s) noexcept nogil:
    refuse_stream(s, CODE_UNAVAILABLE, b"DRAINING", b"The server is going down; retry elsewhere with the same id.")
