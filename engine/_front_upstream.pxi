# The relay's side towards the control server: one HTTP/2 connection over a unix socket, made when a stream needs it and
# again after it broke. What it reads and writes in one turn of the loop is bounded, so that it never starves a native
# call; what waits in a stream is bounded by the windows: nothing is given back to one before it was passed on.

cdef extern from "<sys/socket.h>" nogil:
    int unix_socket "socket"(int family, int type, int protocol) noexcept
    int unix_connect "connect"(int fd, const void* address, unsigned int size) noexcept
    int AF_UNIX, SOCK_STREAM, SOCK_NONBLOCK, SOCK_CLOEXEC

cdef extern from *:
    """
    #define CONTROL_LOST "The control server went away during the call."
    """
    const char* CONTROL_LOST

cdef enum:
    UPSTREAM_RETRY_NS = 50000000         # between two attempts to connect
    UPSTREAM_WINDOWS = 16                # the connection's window, in windows of a stream; it is given back at once
    UPSTREAM_WINDOW_MAX = 0x7FFFFFFF     # of HTTP/2
    QUEUE_BYTES_KEPT = 16384             # by a queue that ran empty

# Bytes that were received from one side and not yet handed to the other.
cdef struct RelayQueue:
    Buffer bytes
    size_t taken

cdef struct RelayList:
    RelayStream* first
    RelayStream* last

# One relayed stream. It is freed when both halves have ended.
cdef struct RelayStream:
    RelayStream* next
    RelayStream* previous
    RelayList* within                    # NULL: the upstream half has ended
    Stream* stream                       # the client's half; NULL: it has ended
    Upstream* upstream
    int32_t id                           # of the upstream half; 0: it waits to be opened, or has ended
    uint64_t began_ns
    Buffer block                         # the header block in work: the request's, the response's, the trailers
    RelayQueue request
    RelayQueue response
    bint request_ended, request_deferred      # deferred: its session asks for more only when told that there is some
    bint response_begun, response_ended, response_deferred

cdef struct Upstream:
    int kind                             # WATCH_UPSTREAM
    int fd
    Front* front
    Upstream* next                       # the one before it, for as long as it has streams
    uint32_t streams                     # that name it
    nghttp2_session* session             # NULL: not connected
    nghttp2_session_callbacks* callbacks
    nghttp2_option* options
    RelayList waiting                    # for a connection, in the order of their arrival
    RelayList opened
    uint64_t retry_at_ns
    uint64_t buffered                    # bytes in all queues
    Buffer input
    Buffer out
    size_t out_sent
    bint blocked                         # the socket takes no more until epoll says so
    Buffer fields                        # headers on their way into libnghttp2
    UnixAddress address


cdef void queue_put(Upstream* u, RelayQueue* queue, const uint8_t* data, size_t size) noexcept nogil:
    cdef Buffer* bytes = &queue.bytes
    # Moved only when a quarter is free, so that each byte is moved a bounded number of times.
    if bytes.capacity - bytes.size < size and queue.taken >= bytes.size // 4 and queue.taken:
        bytes.size -= queue.taken
        memmove(bytes.data, bytes.data + queue.taken, bytes.size)
        queue.taken = 0
    memcpy(buffer_reserve(bytes, size), data, size)
    bytes.size += size
    u.buffered += size


cdef inline size_t queue_size(const RelayQueue* queue) noexcept nogil:
    return queue.bytes.size - queue.taken


cdef size_t queue_take(Upstream* u, RelayQueue* queue, uint8_t* into, size_t room) noexcept nogil:
    cdef size_t size = queue_size(queue)
    if size > room:
        size = room
    if size:
        memcpy(into, queue.bytes.data + queue.taken, size)
        queue.taken += size
        u.buffered -= size
    if queue.taken == queue.bytes.size:
        queue.taken = queue.bytes.size = 0
        if queue.bytes.capacity > <size_t>QUEUE_BYTES_KEPT:
            buffer_free(&queue.bytes)
    return size


cdef void queue_free(Upstream* u, RelayQueue* queue) noexcept nogil:
    u.buffered -= queue_size(queue)
    buffer_free(&queue.bytes)
    queue.taken = 0


cdef void relay_link(RelayList* to, RelayStream* r) noexcept nogil:
    r.within = to
    r.next = NULL
    r.previous = to.last
    if to.last != NULL:
        to.last.next = r
    else:
        to.first = r
    to.last = r


cdef void relay_unlink(RelayStream* r) noexcept nogil:
    if r.previous != NULL:
        r.previous.next = r.next
    else:
        r.within.first = r.next
    if r.next != NULL:
        r.next.previous = r.previous
    else:
        r.within.last = r.previous
    r.within = NULL


cdef void relay_free(RelayStream* r) noexcept nogil:
    INVARIANT(r.within == NULL and r.stream == NULL, b"a relayed stream is freed when both halves have ended")
    buffer_free(&r.block)
    queue_free(r.upstream, &r.request)
    queue_free(r.upstream, &r.response)
    r.upstream.streams -= 1
    free(r)


# 0: the path is too long for a unix socket.
cdef int relay_address(UnixAddress* address, const char* path) noexcept nogil:
    cdef size_t size = strlen(path)
    memset(address, 0, sizeof(UnixAddress))
    if size == 0 or size >= sizeof(address.sun_path):
        return 0
    address.sun_family = <unsigned short>AF_UNIX
    memcpy(address.sun_path, path, size)
    return 1


# From now on what is not native is relayed to the control server there. Streams that the one before has not heard of
# go there too; the others end where they are.
cdef void relay_init(Front* f, const UnixAddress* address) noexcept nogil:
    cdef Upstream* u = <Upstream*>calloc(1, sizeof(Upstream))
    INVARIANT(u != NULL, b"memory for the relay")
    u.kind = WATCH_UPSTREAM
    u.fd = -1
    u.front = f
    u.address = address[0]
    INVARIANT(nghttp2_session_callbacks_new(&u.callbacks) == 0, b"memory for the relay's callbacks")
    nghttp2_session_callbacks_set_on_begin_headers_callback(u.callbacks, upstream_on_begin_headers)
    nghttp2_session_callbacks_set_on_header_callback(u.callbacks, upstream_on_header)
    nghttp2_session_callbacks_set_on_frame_recv_callback(u.callbacks, upstream_on_frame)
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(u.callbacks, upstream_on_data)
    nghttp2_session_callbacks_set_on_stream_close_callback(u.callbacks, upstream_on_stream_close)
    INVARIANT(nghttp2_option_new(&u.options) == 0, b"memory for the relay's options")
    nghttp2_option_set_no_auto_window_update(u.options, 1)
    # The calls of all clients go over one connection. No header of one may stay in its table: gRPC's core remembers
    # there that it could not read a value, and refuses whoever uses the same name next.
    nghttp2_option_set_max_deflate_dynamic_table_size(u.options, 0)
    u.next = f.upstream
    f.upstream = u
    while u.next != NULL and u.next.waiting.first != NULL:
        relay_move(u.next.waiting.first, u)


# A stream that was not opened yet.
cdef void relay_move(RelayStream* r, Upstream* to) noexcept nogil:
    cdef size_t size = queue_size(&r.request)
    r.upstream.buffered -= size
    r.upstream.streams -= 1
    to.buffered += size
    to.streams += 1
    r.upstream = to
    relay_unlink(r)
    relay_link(&to.waiting, r)


cdef void relay_destroy(Front* f) noexcept nogil:
    cdef Upstream* u
    while f.upstream != NULL:
        u = f.upstream
        upstream_disconnect(u)
        while u.waiting.first != NULL:
            relay_refuse(u.waiting.first, CODE_UNAVAILABLE, b"CONTROL_DOWN", b"The front is closing.")
        f.upstream = u.next
        upstream_free(u)


cdef void upstream_free(Upstream* u) noexcept nogil:
    INVARIANT(u.streams == 0, b"no stream names what is freed")
    nghttp2_session_callbacks_del(u.callbacks)
    nghttp2_option_del(u.options)
    buffer_free(&u.input)
    buffer_free(&u.out)
    buffer_free(&u.fields)
    free(u)


# A unix socket connects at once or not at all. Who listens may read later.
cdef void upstream_connect(Upstream* u) noexcept nogil:
    cdef nghttp2_settings_entry settings[3]
    cdef FrontSettings* bounds = &u.front.settings
    cdef uint64_t window = bounds.relay_buffer_bytes * UPSTREAM_WINDOWS
    u.retry_at_ns = u.front.now_ns + UPSTREAM_RETRY_NS
    u.fd = unix_socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)
    if u.fd < 0:
        return
    if unix_connect(u.fd, &u.address, sizeof(UnixAddress)) != 0 or not upstream_watch(u, EPOLL_CTL_ADD):
        posix_close(u.fd)
        u.fd = -1
        return
    INVARIANT(nghttp2_session_client_new2(&u.session, u.callbacks, u, u.options) == 0, b"memory for a session")
    settings[0].settings_id = NGHTTP2_SETTINGS_ENABLE_PUSH
    settings[0].value = 0
    settings[1].settings_id = NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE
    settings[1].value = <uint32_t>bounds.relay_buffer_bytes
    settings[2].settings_id = NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE
    settings[2].value = <uint32_t>bounds.header_list_bytes_max
    nghttp2_submit_settings(u.session, 0, settings, 3)
    if window > UPSTREAM_WINDOW_MAX:
        window = UPSTREAM_WINDOW_MAX
    nghttp2_session_set_local_window_size(u.session, 0, 0, <int32_t>window)
    tally(u.front, RELAY_CONNECTS, 1)


cdef bint upstream_watch(Upstream* u, int operation) noexcept nogil:
    cdef epoll_event event
    event.events = EPOLLIN | (EPOLLOUT if u.blocked else 0)
    event.data.ptr = u
    return epoll_ctl(u.front.epoll_fd, operation, u.fd, &event) == 0


cdef void upstream_set_blocked(Upstream* u, bint blocked) noexcept nogil:
    if u.blocked != blocked:
        u.blocked = blocked
        upstream_watch(u, EPOLL_CTL_MOD)


# Ends the connection, and with it every stream on it. Never called inside a callback of its session.
cdef void upstream_disconnect(Upstream* u) noexcept nogil:
    cdef RelayStream* r
    if u.session == NULL:
        return
    nghttp2_session_del(u.session)
    u.session = NULL
    posix_close(u.fd)
    u.fd = -1
    u.blocked = False
    u.out.size = u.out_sent = 0
    while u.opened.first != NULL:
        r = u.opened.first
        relay_upstream_ended(r)
        if r.stream == NULL:
            relay_free(r)
        elif not r.response_begun:
            relay_refuse(r, CODE_UNAVAILABLE, b"CONTROL_DOWN", CONTROL_LOST)
        elif not r.response_ended:
            relay_cut(r, CODE_UNAVAILABLE, CONTROL_LOST)


# No stream can be opened on this connection any more: the control server said that it goes, or the ids are used up.
cdef inline bint upstream_is_leaving(Upstream* u) noexcept nogil:
    return not nghttp2_session_check_request_allowed(u.session)


cdef void relay_event(Upstream* u, uint32_t events) noexcept nogil:
    if u.session == NULL:
        return
    if events & EPOLLOUT:
        upstream_set_blocked(u, False)
    if events & ~EPOLLOUT:
        upstream_read(u)


# Once: epoll tells again of what is left, in the next turn.
cdef void upstream_read(Upstream* u) noexcept nogil:
    cdef size_t room = u.front.settings.relay_bytes_per_turn
    cdef ssize_t size
    u.input.size = 0
    size = recv(u.fd, buffer_reserve(&u.input, room), room, MSG_DONTWAIT)
    if size < 0 and (errno == EAGAIN or errno == EINTR):
        return
    if size <= 0 or nghttp2_session_mem_recv(u.session, u.input.data, <size_t>size) != size:
        upstream_disconnect(u)


cdef void relay_turn(Front* f) noexcept nogil:
    cdef Upstream* u = f.upstream
    cdef Upstream* old
    while u != NULL:
        upstream_turn(u)
        old = u.next
        if old != NULL and old.opened.first == NULL:
            upstream_disconnect(old)
            if old.streams == 0:
                u.next = old.next
                upstream_free(old)
        u = u.next


cdef void upstream_turn(Upstream* u) noexcept nogil:
    if u.session != NULL and u.opened.first == NULL and upstream_is_leaving(u):
        upstream_disconnect(u)
    if u.waiting.first != NULL:
        if u.session == NULL and u.front.now_ns >= u.retry_at_ns:
            upstream_connect(u)
        if u.session != NULL and not upstream_is_leaving(u):
            open_waiting(u)
        else:
            expire_waiting(u)
    if u.session != NULL and not u.blocked:
        upstream_write(u)


# Whose caller is not known yet waits on; who is not let in any more since it waits is refused.
cdef void open_waiting(Upstream* u) noexcept nogil:
    cdef RelayStream* r = u.waiting.first
    cdef RelayStream* following
    cdef Stream* s
    while r != NULL:
        following = r.next
        s = r.stream
        recheck(s)
        if s.relay == r and not is_asking(s):
            relay_open(r)
        r = following


# A drain waits for every call, and the control server drains too: then nothing is waited for.
cdef void expire_waiting(Upstream* u) noexcept nogil:
    cdef uint64_t bound_ns = 0 if u.front.draining else u.front.settings.relay_connect_ms * 1000000
    while u.waiting.first != NULL and u.front.now_ns - u.waiting.first.began_ns >= bound_ns:
        relay_refuse(u.waiting.first, CODE_UNAVAILABLE, b"CONTROL_DOWN", b"The control server cannot be reached.")


# Whether there is work that no event will tell of: bytes beyond the bound of this turn, or windows to give back.
cdef bint relay_wants_turn(Front* f) noexcept nogil:
    cdef Upstream* u = f.upstream
    while u != NULL:
        if u.session != NULL and not u.blocked \
                and (u.out_sent < u.out.size or nghttp2_session_want_write(u.session) != 0):
            return True
        u = u.next
    return False


# At most the bound, and the frame that passes it.
cdef void upstream_write(Upstream* u) noexcept nogil:
    cdef const uint8_t* data = NULL
    cdef ssize_t size = 0
    if u.out_sent == u.out.size:
        u.out_sent = u.out.size = 0
        while u.out.size < u.front.settings.relay_bytes_per_turn:
            size = nghttp2_session_mem_send(u.session, &data)
            if size <= 0:
                break
            memcpy(buffer_reserve(&u.out, <size_t>size), data, <size_t>size)
            u.out.size += <size_t>size
    if size >= 0 and u.out.size > 0:
        size = send_fd(u.fd, u.out.data + u.out_sent, u.out.size - u.out_sent, MSG_NOSIGNAL | MSG_DONTWAIT)
        if size >= 0:
            u.out_sent += <size_t>size
        elif errno == EAGAIN or errno == EINTR:
            size = 0
    if size < 0:
        upstream_disconnect(u)
    else:
        upstream_set_blocked(u, u.out_sent < u.out.size)
