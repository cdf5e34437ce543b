# What is received: frames, and what they do to a connection and its calls.

cdef inline Call* find_call(Load* l, Connection* c, uint32_t id) noexcept nogil:
    cdef Call* call = &c.calls[id >> 1 & l.mask]
    return call if call.id == id and id != 0 else NULL


cdef enum Fate:
    FATE_RESET = 1
    FATE_TIMED_OUT
    FATE_LOST
    FATE_UNANSWERED


# The call ends without an answer.
cdef void drop_call(Load* l, Connection* c, Call* call, Fate fate, uint32_t code) noexcept nogil:
    cdef Counts* counts
    cdef uint32_t i
    for i in range(call.waiting):
        counts = counts_of(l, call.requests[(call.first + i) % l.window].intended_ns)
        if fate == FATE_RESET:
            counts.reset += l.batch
            counts.resets[min(code, <uint32_t>RESETS - 1)] += l.batch
        elif fate == FATE_TIMED_OUT:
            counts.timed_out += l.batch
        elif fate == FATE_LOST:
            counts.lost += l.batch
        else:
            counts.unanswered += l.batch
    close_call(l, c, call)


# The call ends, and nobody knows what became of its requests: with retry they are sent again.
cdef void lose_call(Load* l, Connection* c, Call* call, Fate fate, uint32_t code, uint64_t now) noexcept nogil:
    if l.does_retry:
        give_back(l, c, call, now, 0)
    else:
        drop_call(l, c, call, fate, code)


# When the next attempt is due. With retry at once, after one that was of no use in a while.
cdef uint64_t reconnect_ns(Load* l, Connection* c, uint64_t now) noexcept nogil:
    c.failures += 1
    if not l.does_retry:
        return now + RECONNECT_NS
    return now if c.failures == 1 else now + RECONNECT_SOON_NS


cdef void close_connection(Load* l, Connection* c, uint64_t now, uint64_t retry_ns) noexcept nogil:
    cdef uint32_t i
    if c.phase == CONNECTION_CLOSED:
        return
    for i in range(l.mask + 1):
        if c.calls[i].id != 0:
            lose_call(l, c, &c.calls[i], FATE_LOST, 0, now)
    SSL_free(c.tls)
    c.tls = NULL
    posix_close(c.fd)
    nghttp2_hd_inflate_del(c.inflater)
    l.ready -= c.phase == CONNECTION_READY
    c.inflater = NULL
    c.fd = -1
    c.phase = CONNECTION_CLOSED
    c.retry_ns = retry_ns
    c.is_dirty = False


cdef void leave(Load* l, Connection* c, uint32_t last_id, uint64_t now) noexcept nogil:
    cdef uint32_t i
    l.ready -= c.phase == CONNECTION_READY
    c.phase = CONNECTION_LEAVING
    for i in range(l.mask + 1):
        if c.calls[i].id > last_id:
            give_back(l, c, &c.calls[i], now, 0)
    end_idle_streams(l, c)


# -1 for what is no number of at most nine digits, which asks not to come again.
cdef int64_t milliseconds_of(const uint8_t* text, size_t size) noexcept nogil:
    cdef int64_t number = 0
    cdef size_t i
    if size == 0 or size > 9:
        return -1
    for i in range(size):
        if not c"0" <= text[i] <= c"9":
            return -1
        number = 10 * number + text[i] - c"0"
    return number


cdef void note_field(Call* call, const nghttp2_nv* field) noexcept nogil:
    cdef uint32_t number = 0
    cdef size_t i
    cdef bint is_status = field.namelen == 11 and memcmp(field.name, b"grpc-status", 11) == 0
    if field.namelen == 22 and memcmp(field.name, b"grpc-retry-pushback-ms", 22) == 0:
        call.pushback_ms = milliseconds_of(field.value, field.valuelen)
    if not is_status and not (field.namelen == 7 and memcmp(field.name, b":status", 7) == 0):
        return
    for i in range(min(field.valuelen, <size_t>4)):
        number = number * 10 + field.value[i] - c"0"
    if not is_status:
        call.http = <uint16_t>number
    elif field.valuelen == 0 or number >= <uint32_t>STATUS_NONE:
        call.status = STATUS_NONE
    else:
        call.status = <uint8_t>number


# A header block. It is decoded also if nobody waits for it any more, because it may change the table.
cdef bint read_block(Connection* c, Call* call, const uint8_t* data, size_t size) noexcept nogil:
    cdef nghttp2_nv field
    cdef ssize_t used
    cdef int flags = 0
    while not flags & NGHTTP2_HD_INFLATE_FINAL:
        flags = 0
        used = nghttp2_hd_inflate_hd2(c.inflater, &field, &flags, data, size, 1)
        if used < 0:
            return False
        data += used
        size -= <size_t>used
        if flags & NGHTTP2_HD_INFLATE_EMIT and call != NULL:
            note_field(call, &field)
    nghttp2_hd_inflate_end_headers(c.inflater)
    return True


cdef bint on_block(Load* l, Connection* c, uint32_t id, const uint8_t* data, size_t size, bint ends_call,
                   uint64_t now) noexcept nogil:
    cdef Call* call = find_call(l, c, id)
    if not read_block(c, call, data, size):
        return False
    if ends_call and call != NULL:
        end_call(l, c, call, now)
    return True


# Padding and priority, where flags announce them, are taken off. False if they are longer than the frame.
cdef inline bint strip(int kind, int flags, const uint8_t** body, size_t* size) noexcept nogil:
    cdef size_t head = 0, tail = 0
    if flags & NGHTTP2_FLAG_PADDED:
        if size[0] == 0:
            return False
        tail = body[0][0]
        head = 1
    if kind == NGHTTP2_HEADERS and flags & NGHTTP2_FLAG_PRIORITY:
        head += 5
    if head + tail > size[0]:
        return False
    body[0] += head
    size[0] -= head + tail
    return True


cdef bint on_headers(Load* l, Connection* c, int kind, int flags, uint32_t id, const uint8_t* body, size_t size,
                     uint64_t now) noexcept nogil:
    if kind == NGHTTP2_HEADERS:
        if not strip(kind, flags, &body, &size):
            return False
        if LIKELY(flags & NGHTTP2_FLAG_END_HEADERS):
            return on_block(l, c, id, body, size, flags & NGHTTP2_FLAG_END_STREAM, now)
        c.block.size = 0
        c.block_is_open = True
        c.block_id = id
        c.block_ends_call = flags & NGHTTP2_FLAG_END_STREAM
    elif not c.block_is_open or id != c.block_id or c.block.size + size > HEADER_BLOCK_BYTES_MAX:
        return False
    memcpy(buffer_reserve(&c.block, size), body, size)
    c.block.size += size
    if not flags & NGHTTP2_FLAG_END_HEADERS:
        return True
    c.block_is_open = False
    return on_block(l, c, id, c.block.data, c.block.size, c.block_ends_call, now)


cdef bint on_data(Load* l, Connection* c, int flags, uint32_t id, const uint8_t* body, size_t size,
                  uint64_t now) noexcept nogil:
    cdef Call* call = find_call(l, c, id)
    cdef int64_t whole = <int64_t>size
    if UNLIKELY(flags & NGHTTP2_FLAG_PADDED) and not strip(NGHTTP2_DATA, flags, &body, &size):
        return False
    c.taken += whole
    if c.taken >= CONNECTION_WINDOW_BYTES // 2:
        put_number_frame(c, NGHTTP2_WINDOW_UPDATE, 0, <uint32_t>c.taken)
        c.taken = 0
    if call == NULL:
        return True
    call.taken += whole
    if call.taken >= CALL_WINDOW_BYTES // 2 and not flags & NGHTTP2_FLAG_END_STREAM:
        put_number_frame(c, NGHTTP2_WINDOW_UPDATE, id, <uint32_t>call.taken)
        call.taken = 0
    c.failures = 0
    take_data(l, call, body, size, now)
    if flags & NGHTTP2_FLAG_END_STREAM:
        # Without trailers there is no status, so this is counted as malformed.
        end_call(l, c, call, now)
    return True


cdef bint on_settings(Load* l, Connection* c, int flags, const uint8_t* body, size_t size) noexcept nogil:
    cdef size_t at
    cdef uint32_t key, value, i
    if flags & NGHTTP2_FLAG_ACK:
        return True
    if size % 6 != 0:
        return False
    for at in range(0, size, 6):
        key = <uint32_t>body[at] << 8 | body[at + 1]
        value = get_u32(body + at + 2)
        if key == <uint32_t>NGHTTP2_SETTINGS_HEADER_TABLE_SIZE and value < 4096 and not c.headers_plain:
            # The next block says that the table is not used any more.
            c.headers_plain = True
            c.headers_known = False
        elif key == <uint32_t>NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS:
            c.streams_max = value
        elif key == <uint32_t>NGHTTP2_SETTINGS_MAX_FRAME_SIZE:
            c.frame_bytes_max = value
        elif key == <uint32_t>NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE:
            if value > <uint32_t>WINDOW_BYTES_MAX:
                return False
            for i in range(l.mask + 1):
                c.calls[i].window += <int64_t>value - c.window_initial
            c.window_initial = value
    put_frame(c, NGHTTP2_SETTINGS, NGHTTP2_FLAG_ACK, 0, b"", 0)
    if c.phase == CONNECTION_OPENING:
        c.phase = CONNECTION_READY
        l.ready += 1
        l.handshakes += 1
    pump_blocked(l, c)
    return True


cdef bint on_window(Load* l, Connection* c, uint32_t id, uint32_t more) noexcept nogil:
    cdef Call* call = find_call(l, c, id)
    if id == 0:
        c.window += more
        pump_blocked(l, c)
        return c.window <= WINDOW_BYTES_MAX
    if call != NULL:
        call.window += more
        if call.blocked:
            pump(l, c, call)
    return True


# One frame. False: the peer breaks the protocol, and nothing further it says can be relied on.
cdef bint on_frame(Load* l, Connection* c, int kind, int flags, uint32_t id, const uint8_t* body, size_t size,
                   uint64_t now) noexcept nogil:
    cdef Call* call
    if UNLIKELY(c.block_is_open) and kind != NGHTTP2_CONTINUATION:
        return False
    if kind == NGHTTP2_DATA:
        return on_data(l, c, flags, id, body, size, now)
    if kind == NGHTTP2_HEADERS or kind == NGHTTP2_CONTINUATION:
        return on_headers(l, c, kind, flags, id, body, size, now)
    if kind == NGHTTP2_WINDOW_UPDATE:
        return size == 4 and on_window(l, c, id, get_u32(body) & 0x7fffffff)
    if kind == NGHTTP2_SETTINGS:
        return on_settings(l, c, flags, body, size)
    if kind == NGHTTP2_PING:
        if not flags & NGHTTP2_FLAG_ACK:
            put_frame(c, NGHTTP2_PING, NGHTTP2_FLAG_ACK, 0, body, size)
        return size == 8
    if kind == NGHTTP2_RST_STREAM:
        call = find_call(l, c, id)
        if call != NULL and size == 4 and get_u32(body) == <uint32_t>NGHTTP2_REFUSED_STREAM:
            give_back(l, c, call, now, 0)
        elif call != NULL and size == 4:
            lose_call(l, c, call, FATE_RESET, get_u32(body), now)
        return size == 4
    if kind == NGHTTP2_GOAWAY:
        if size >= 8:
            leave(l, c, get_u32(body) & 0x7fffffff, now)
        return size >= 8
    # We do not take pushes; frames of other kinds have no meaning for us.
    return kind != NGHTTP2_PUSH_PROMISE


# Reads once, so that each connection has its turn; of TLS all that was decrypted, of which no event would tell. False:
# the connection is at its end.
cdef bint read_connection(Load* l, Connection* c) noexcept nogil:
    cdef bint lives = read_some(l, c)
    while lives and c.tls != NULL and SSL_pending(c.tls) > 0:
        lives = read_some(l, c)
    return lives


cdef bint read_some(Load* l, Connection* c) noexcept nogil:
    cdef ssize_t got = receive(c, c.received + c.received_size, RECEIVE_BYTES - c.received_size)
    cdef const uint8_t* at = c.received
    cdef const uint8_t* end
    cdef size_t size
    cdef uint64_t now
    if got <= 0:
        return got < 0 and (errno == EAGAIN or errno == EINTR)
    now = now_ns()
    end = at + c.received_size + got
    while end - at >= FRAME_HEAD_BYTES:
        size = get_u32(at) >> 8
        if size > FRAME_BYTES_MAX:
            return False
        if <size_t>(end - at) < FRAME_HEAD_BYTES + size:
            break
        if not on_frame(l, c, at[3], at[4], get_u32(at + 5) & 0x7fffffff, at + FRAME_HEAD_BYTES, size, now):
            return False
        at += FRAME_HEAD_BYTES + size
    c.received_size = <size_t>(end - at)
    memmove(c.received, at, c.received_size)
    return True


cdef void watch(Load* l, Connection* c, bint is_new, bint wants_write) noexcept nogil:
    cdef epoll_event event
    if not is_new and c.wants_write == wants_write:
        return
    event.events = <uint32_t>(EPOLLIN | (EPOLLOUT if wants_write else 0))
    event.data.u32 = c.index
    INVARIANT(epoll_ctl(l.epoll, EPOLL_CTL_ADD if is_new else EPOLL_CTL_MOD, c.fd, &event) == 0, b"epoll_ctl")
    c.wants_write = wants_write


# Writes what there is. False: the connection is at its end.
cdef bint write_connection(Load* l, Connection* c) noexcept nogil:
    cdef ssize_t done
    c.is_dirty = False
    if c.out.size > c.out_sent:
        done = transmit(c, c.out.data + c.out_sent, c.out.size - c.out_sent)
        if done < 0 and errno != EAGAIN and errno != EINTR and errno != ENOTCONN:
            return False
        c.out_sent += <size_t>max(done, 0)
    if c.out_sent == c.out.size:
        c.out.size = c.out_sent = 0
    elif c.out_sent >= UNSENT_BYTES_MAX:
        memmove(c.out.data, c.out.data + c.out_sent, c.out.size - c.out_sent)
        c.out.size -= c.out_sent
        c.out_sent = 0
    watch(l, c, False, c.out.size > 0)
    return True


# Takes a socket that is connected or about to be.
cdef bint open_connection(Load* l, Connection* c, int fd) noexcept nogil:
    if nghttp2_hd_inflate_new(&c.inflater) != 0:
        return False
    if l.tls_context != NULL:
        c.tls = client_begin(l.tls_context, fd, <const char*>l.host.data)
        if c.tls == NULL:
            nghttp2_hd_inflate_del(c.inflater)
            return False
    c.fd = fd
    c.phase = CONNECTION_OPENING
    c.next_id = 1
    c.streams_max = UINT32_MAX
    c.frame_bytes_max = FRAME_BYTES_MAX
    c.window = c.window_initial = WINDOW_BYTES_DEFAULT
    c.taken = 0
    c.headers_known = c.headers_plain = c.block_is_open = False
    c.received_size = c.out.size = c.out_sent = 0
    put_greeting(c)
    watch(l, c, True, True)
    return True
