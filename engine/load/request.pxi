# What is sent. Frames are written by hand: a load generator that does what a library does would be slower than servers.

cdef inline void put_u32(uint8_t* at, uint32_t value) noexcept nogil:
    at[0] = <uint8_t>(value >> 24)
    at[1] = <uint8_t>(value >> 16)
    at[2] = <uint8_t>(value >> 8)
    at[3] = <uint8_t>value


cdef inline uint32_t get_u32(const uint8_t* at) noexcept nogil:
    return <uint32_t>at[0] << 24 | <uint32_t>at[1] << 16 | <uint32_t>at[2] << 8 | at[3]


cdef inline uint8_t* put_frame_head(uint8_t* at, size_t size, int kind, int flags, uint32_t id) noexcept nogil:
    put_u32(at, <uint32_t>size << 8 | <uint32_t>kind)
    at[4] = <uint8_t>flags
    put_u32(at + 5, id)
    return at + FRAME_HEAD_BYTES


cdef void put_frame(Connection* c, int kind, int flags, uint32_t id, const uint8_t* body, size_t size) noexcept nogil:
    cdef uint8_t* at = buffer_reserve(&c.out, FRAME_HEAD_BYTES + size)
    at = put_frame_head(at, size, kind, flags, id)
    memcpy(at, body, size)
    buffer_end(&c.out, at + size)
    c.is_dirty = True


cdef void put_number_frame(Connection* c, int kind, uint32_t id, uint32_t value) noexcept nogil:
    cdef uint8_t[4] body
    put_u32(body, value)
    put_frame(c, kind, NGHTTP2_FLAG_NONE, id, body, 4)


# The preface, our settings (no push, a wide window for each call), and a wide window for the connection.
cdef void put_greeting(Connection* c) noexcept nogil:
    cdef const char* preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    cdef uint8_t[12] settings
    cdef uint8_t* at = buffer_reserve(&c.out, 24)
    memcpy(at, preface, 24)
    buffer_end(&c.out, at + 24)
    memset(settings, 0, 12)
    settings[1] = <uint8_t>NGHTTP2_SETTINGS_ENABLE_PUSH
    settings[7] = <uint8_t>NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE
    put_u32(settings + 8, CALL_WINDOW_BYTES)
    put_frame(c, NGHTTP2_SETTINGS, NGHTTP2_FLAG_NONE, 0, settings, 12)
    put_number_frame(c, NGHTTP2_WINDOW_UPDATE, 0, CONNECTION_WINDOW_BYTES - WINDOW_BYTES_DEFAULT)


cdef inline void put_hex(uint8_t* at, int width, uint64_t number) noexcept nogil:
    cdef const char* digits = b"0123456789abcdef"
    cdef int i
    for i in range(width - 1, -1, -1):
        at[i] = <uint8_t>digits[number & 15]
        number >>= 4


# grpc-timeout: what is left of the deadline, as a client sends it. Microseconds, or milliseconds if it is long.
cdef void put_timeout(uint8_t* at, uint64_t left_ns) noexcept nogil:
    cdef bint is_long = left_ns >= <uint64_t>90000000000
    cdef uint64_t left = left_ns // 1000000 if is_long else left_ns // 1000
    cdef int i
    for i in range(TIMEOUT_BYTES - 2, -1, -1):
        at[i] = <uint8_t>(c"0" + left % 10)
        left //= 10
    at[TIMEOUT_BYTES - 1] = c"m" if is_long else c"u"


# The digits that make a request one of its own.
cdef inline void patch_request(Load* l, const Method* m, uint64_t number, uint8_t* request) noexcept nogil:
    cdef const uint8_t* place
    if l.names != 0:
        number %= l.names
    if m.order_at != 0:
        put_hex(request + m.order_at, 12, number)
    if m.buyer_at != 0:
        put_hex(request + m.buyer_at, 4, number)
    if m.shop_at != 0:
        place = l.places.data + number % l.place_count * 10
        memcpy(request + m.shop_at, place, 4)
        if m.sku_at != 0:
            memcpy(request + m.sku_at, place + 4, 6)


# One gRPC message: a request, or a batch of them as PlaceOrdersRequest.
cdef void put_message(Load* l, const Request* request, Buffer* into) noexcept nogil:
    cdef const Method* m = &l.methods[request.method]
    cdef size_t item_size = 1 + varint_size(m.request.size) + m.request.size if l.is_stream else m.request.size
    cdef size_t size = item_size * l.batch
    cdef uint8_t* at = buffer_reserve(into, PREFIX_BYTES + size)
    cdef uint32_t i
    at[0] = 0
    put_u32(at + 1, <uint32_t>size)
    at += PREFIX_BYTES
    for i in range(l.batch):
        if l.is_stream:
            at = put_sized_head(at, 1, m.request.size)
        memcpy(at, m.request.data, m.request.size)
        patch_request(l, m, request.number + i, at)
        at += m.request.size
    buffer_end(into, at)


# Sends as much of the call's message as both windows let go. A unary message ends the call's sending.
cdef void pump(Load* l, Connection* c, Call* call) noexcept nogil:
    cdef size_t left = call.message.size - call.message_sent
    cdef size_t size
    cdef int flags
    while left > 0 and c.window > 0 and call.window > 0:
        size = min(left, min(<size_t>min(c.window, call.window), <size_t>c.frame_bytes_max))
        flags = NGHTTP2_FLAG_NONE if l.is_stream or size < left else NGHTTP2_FLAG_END_STREAM
        put_frame(c, NGHTTP2_DATA, flags, call.id, call.message.data + call.message_sent, size)
        call.half_closed = flags != NGHTTP2_FLAG_NONE
        call.message_sent += size
        call.window -= <int64_t>size
        c.window -= <int64_t>size
        left -= size
    if left == 0:
        call.message.size = call.message_sent = 0
    c.blocked += (left > 0) - <int>call.blocked
    call.blocked = left > 0


cdef void pump_blocked(Load* l, Connection* c) noexcept nogil:
    cdef uint32_t i
    if c.blocked == 0:
        return
    for i in range(l.mask + 1):
        if c.calls[i].id != 0 and c.calls[i].blocked:
            pump(l, c, &c.calls[i])


# A free slot and a stream id that belongs to it. Ids whose slot is taken by an older call are left out.
cdef Call* open_call(Load* l, Connection* c) noexcept nogil:
    cdef Call* call
    while True:
        call = &c.calls[c.next_id >> 1 & l.mask]
        if LIKELY(call.id == 0):
            break
        c.next_id += 2
    call.id = c.next_id
    call.first = call.waiting = 0
    call.window = c.window_initial
    call.taken = 0
    call.http = 0
    call.status = STATUS_NONE
    call.answer = ANSWER_NONE
    call.duplicate = False
    call.pushback_ms = -1
    call.half_closed = False
    c.next_id += 2
    c.open_calls += 1
    return call


cdef void put_headers(Load* l, Connection* c, const Method* m, uint32_t id, uint64_t left_ns) noexcept nogil:
    cdef const Text* block = &m.headers_next if c.headers_known else &m.headers_first
    cdef uint8_t no_table = 0x20
    cdef uint8_t* at
    cdef size_t extra = 0
    if c.headers_plain:
        block = &m.headers_plain
        extra = <size_t>(not c.headers_known)
    at = buffer_reserve(&c.out, FRAME_HEAD_BYTES + 1 + block.size)
    at = put_frame_head(at, block.size + extra, NGHTTP2_HEADERS, NGHTTP2_FLAG_END_HEADERS, id)
    memcpy(at, &no_table, extra)
    memcpy(at + extra, block.data, block.size)
    at += extra + block.size
    if l.deadline_ns != 0 and not l.is_stream:
        put_timeout(at - TIMEOUT_BYTES, left_ns)
    buffer_end(&c.out, at)
    c.headers_known = True
    c.is_dirty = True


# A unary request whose headers the peer knows and whose message the windows take: a copy, patched.
cdef inline void put_unary(Load* l, Connection* c, Call* call, const Request* request, uint64_t left_ns) noexcept nogil:
    cdef const Method* m = &l.methods[request.method]
    cdef uint8_t* at = buffer_reserve(&c.out, m.unary.size)
    cdef int64_t size = <int64_t>(m.unary.size - m.unary_data_at - FRAME_HEAD_BYTES)
    memcpy(at, m.unary.data, m.unary.size)
    put_u32(at + 5, call.id)
    put_u32(at + m.unary_data_at + 5, call.id)
    if l.deadline_ns != 0:
        put_timeout(at + m.unary_data_at - TIMEOUT_BYTES, left_ns)
    patch_request(l, m, request.number, at + m.unary_data_at + FRAME_HEAD_BYTES + PREFIX_BYTES)
    buffer_end(&c.out, at + m.unary.size)
    call.half_closed = True
    call.window -= size
    c.window -= size
    c.is_dirty = True


cdef void make_unary(Method* m) noexcept nogil:
    cdef size_t size = PREFIX_BYTES + m.request.size
    cdef uint8_t* at
    buffer_free(&m.unary)
    at = buffer_reserve(&m.unary, 2 * FRAME_HEAD_BYTES + m.headers_next.size + size)
    at = put_frame_head(at, m.headers_next.size, NGHTTP2_HEADERS, NGHTTP2_FLAG_END_HEADERS, 0)
    memcpy(at, m.headers_next.data, m.headers_next.size)
    at += m.headers_next.size
    m.unary_data_at = <size_t>(at - m.unary.data)
    at = put_frame_head(at, size, NGHTTP2_DATA, NGHTTP2_FLAG_END_STREAM, 0)
    at[0] = 0
    put_u32(at + 1, <uint32_t>m.request.size)
    memcpy(at + PREFIX_BYTES, m.request.data, m.request.size)
    buffer_end(&m.unary, at + size)


cdef inline bint has_room(Load* l, Connection* c) noexcept nogil:
    return (c.phase == CONNECTION_READY and c.open_calls < min(l.streams, c.streams_max)
            and c.out.size - c.out_sent < <size_t>UNSENT_BYTES_MAX)


# Sends a request whose time has come, or says that this connection has no room for it.
cdef bint offer_unary(Load* l, Connection* c, const Request* request, uint64_t now) noexcept nogil:
    cdef const Method* m = &l.methods[request.method]
    cdef int64_t size = <int64_t>(PREFIX_BYTES + m.request.size)
    cdef uint64_t spent_ns = now - request.intended_ns
    cdef uint64_t left_ns = l.deadline_ns - spent_ns if spent_ns < l.deadline_ns else 1000
    cdef Call* call
    if not has_room(l, c) or c.window <= 0:
        return False
    call = open_call(l, c)
    call.requests[0] = request[0]
    call.waiting = 1
    if LIKELY(c.headers_known and not c.headers_plain and size <= FRAME_BYTES_MAX and size <= c.window
              and size <= call.window):
        put_unary(l, c, call, request, left_ns)
    else:
        put_headers(l, c, m, call.id, left_ns)
        put_message(l, request, &call.message)
        pump(l, c, call)
    return True


# The same for a batch, on the stream that has had none for the longest time.
cdef bint offer_batch(Load* l, Connection* c, const Request* request) noexcept nogil:
    cdef Call* call
    cdef uint32_t i
    if c.phase != CONNECTION_READY or c.out.size - c.out_sent >= <size_t>UNSENT_BYTES_MAX:
        return False
    while has_room(l, c):
        call = open_call(l, c)
        put_headers(l, c, &l.methods[0], call.id, 0)
    for i in range(l.mask + 1):
        call = &c.calls[(c.look + i) & l.mask]
        if call.id != 0 and not call.half_closed and call.waiting < l.window:
            c.look = (c.look + i + 1) & l.mask
            call.requests[(call.first + call.waiting) % l.window] = request[0]
            call.waiting += 1
            put_message(l, request, &call.message)
            pump(l, c, call)
            return True
    return False


# No batch will follow: the streams that wait for no answer end.
cdef void end_idle_streams(Load* l, Connection* c) noexcept nogil:
    cdef Call* call
    cdef uint32_t i
    if not l.is_stream:
        return
    for i in range(l.mask + 1):
        call = &c.calls[i]
        if call.id != 0 and call.waiting == 0 and not call.half_closed and call.message.size == 0:
            put_frame(c, NGHTTP2_DATA, NGHTTP2_FLAG_END_STREAM, call.id, b"", 0)
            call.half_closed = True
