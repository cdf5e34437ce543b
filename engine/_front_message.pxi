# gRPC framing of requests: a flag, a size, a message; cut and joined over DATA frames as the sender likes. A message
# takes memory as it arrives, never as it is announced.

cdef extern from "<zlib.h>" nogil:
    ctypedef struct z_stream:
        const uint8_t* next_in
        unsigned int avail_in
        uint8_t* next_out
        unsigned int avail_out
        void* zalloc
        void* zfree
        void* opaque
    int inflateInit2(z_stream* z, int window_bits) noexcept
    int inflate(z_stream* z, int flush) noexcept
    int inflateEnd(z_stream* z) noexcept
    int Z_OK, Z_STREAM_END, Z_NO_FLUSH

cdef enum:
    GZIP_WINDOW_BITS = 31                # the greatest window, behind a gzip header
    INFLATE_BYTES = 65536                # at a time
    BYTES_MORE_PARTS = 4                 # see memory_is_full


cdef inline uint32_t load_big_u32(const uint8_t* at) noexcept nogil:
    return <uint32_t>at[0] << 24 | <uint32_t>at[1] << 16 | <uint32_t>at[2] << 8 | at[3]


cdef inline void store_big_u32(uint8_t* at, uint32_t value) noexcept nogil:
    at[0] = <uint8_t>(value >> 24)
    at[1] = <uint8_t>(value >> 16)
    at[2] = <uint8_t>(value >> 8)
    at[3] = <uint8_t>value


# What comes of a stream's DATA. A stream that has enough batches in work, or whose caller is not known yet, keeps the
# rest as it is; its window ends then.
cdef void feed(Stream* s, const uint8_t* data, size_t size) noexcept nogil:
    cdef size_t used
    while size and not stream_is_over(s):
        if UNLIKELY(is_asking(s)) and memory_is_full(s.connection.front):
            refuse_overloaded(s)
            return
        if UNLIKELY(is_asking(s)) or (
                s.kind == STREAM_BATCHES and s.call_count >= s.connection.front.settings.batches_per_stream_max):
            memcpy(buffer_reserve(&s.backlog, size), data, size)
            s.backlog.size += size
            charge(s.connection, <int64_t>size)
            return
        used = feed_prefix(s, data, size) if s.filling == NULL else feed_message(s, data, size)
        data += used
        size -= used


cdef inline bint stream_is_over(Stream* s) noexcept nogil:
    return s.ending or s.closed or s.kind == STREAM_REFUSED


cdef size_t feed_prefix(Stream* s, const uint8_t* data, size_t size) noexcept nogil:
    cdef size_t used = <size_t>(GRPC_PREFIX_BYTES - s.prefix_size)
    if used > size:
        used = size
    if s.prefix_size == 0:
        s.message_began_ns = s.connection.front.now_ns
    memcpy(s.prefix + s.prefix_size, data, used)
    s.prefix_size += <uint8_t>used
    if s.prefix_size == GRPC_PREFIX_BYTES:
        begin_message_of(s)
    return used


cdef void begin_message_of(Stream* s) noexcept nogil:
    cdef Front* f = s.connection.front
    s.message_size = load_big_u32(s.prefix + 1)
    if s.prefix[0] > 1:
        refuse_stream(s, CODE_INTERNAL, b"MALFORMED", b"The compressed flag of a message must be 0 or 1.")
    elif s.prefix[0] == 1 and s.encoding != ENCODING_GZIP:
        refuse_stream(s, CODE_INTERNAL, b"MALFORMED", b"A message is compressed, and grpc-encoding does not say how.")
    elif s.message_size > <uint32_t>MESSAGE_BYTES_MAX:
        tally(f, REQUESTS_TOO_LARGE, 1)
        refuse_stream(s, CODE_RESOURCE_EXHAUSTED, b"MESSAGE_TOO_LARGE", b"A message has at most 4 MiB.")
    elif s.kind != STREAM_BATCHES and s.calls != NULL:
        refuse_stream(s, CODE_INTERNAL, b"MALFORMED", b"The method takes one request message.")
    elif f.bytes_in_flight > f.settings.bytes_max or f.calls_in_flight >= f.settings.calls_max \
            or answers_pile_up(s.connection):
        refuse_overloaded(s)
    else:
        s.filling = call_begin(s)
        if s.message_size == 0:
            message_is_whole(s)


# All that was asked for is done, and the peer does not take it.
cdef inline bint answers_pile_up(const Connection* c) noexcept nogil:
    return (c.calls_in_flight > 0 and c.calls_at_work == 0
            and c.bytes_in_flight > c.front.settings.connection_bytes_max)


cdef void refuse_overloaded(Stream* s) noexcept nogil:
    tally(s.connection.front, CALLS_REFUSED_OVERLOAD, 1)
    refuse_stream(s, CODE_RESOURCE_EXHAUSTED, OVERLOADED, OVERLOADED_TEXT)


# Messages that were begun in time may pass the bound by a part: connections that can be made to wait do so before. What
# is beyond is given up, since together they could otherwise take any amount of memory.
cdef inline bint memory_is_full(const Front* f) noexcept nogil:
    return f.bytes_in_flight > f.settings.bytes_max + f.settings.bytes_max // BYTES_MORE_PARTS


cdef size_t feed_message(Stream* s, const uint8_t* data, size_t size) noexcept nogil:
    cdef Buffer* request = &s.filling.request
    cdef size_t left = s.message_size - request.size
    if size > left:
        size = left
    if memory_is_full(s.connection.front):
        refuse_overloaded(s)
        return size
    memcpy(buffer_reserve(request, size), data, size)
    request.size += size
    call_charge(s.filling, size)
    if request.size == s.message_size:
        message_is_whole(s)
    return size


# Appends it to the stream's calls. A batch goes its way at once; other methods wait for the end of the request, since
# what follows a message would make it an error.
cdef void message_is_whole(Stream* s) noexcept nogil:
    cdef Call* call = s.filling
    measure_call(s, call)
    # A message that is refused goes with what is being received; among the calls it would wait for an answer for ever.
    if s.prefix[0] == 1 and not expand(s, call):
        return
    s.filling = NULL
    s.prefix_size = 0
    s.message_began_ns = 0
    call_append(s, call)
    if s.kind == STREAM_BATCHES:
        dispatch(s, call)


cdef bint expand(Stream* s, Call* call) noexcept nogil:
    cdef Front* f = s.connection.front
    cdef Buffer plain
    cdef int code
    memset(&plain, 0, sizeof(Buffer))
    tally(f, REQUESTS_COMPRESSED, 1)
    code = gunzip(&call.request, &plain)
    buffer_free(&call.request)
    call.request = plain
    call_charge(call, plain.size)
    if code == CODE_RESOURCE_EXHAUSTED:
        tally(f, REQUESTS_TOO_LARGE, 1)
        refuse_stream(s, code, b"MESSAGE_TOO_LARGE", b"A message has at most 4 MiB, also when it is expanded.")
    elif code != CODE_OK:
        refuse_stream(s, code, b"MALFORMED", b"A message is not what gzip makes.")
    return code == CODE_OK


# Stops as soon as the bound is passed: a bomb costs no more than a message.
cdef int gunzip(const Buffer* packed, Buffer* into) noexcept nogil:
    cdef z_stream z
    cdef int status = Z_OK
    cdef unsigned int room
    memset(&z, 0, sizeof(z_stream))
    if inflateInit2(&z, GZIP_WINDOW_BITS) != Z_OK:
        return CODE_RESOURCE_EXHAUSTED
    z.next_in = packed.data
    z.avail_in = <unsigned int>packed.size
    while status == Z_OK and into.size <= <size_t>MESSAGE_BYTES_MAX:
        z.next_out = buffer_reserve(into, INFLATE_BYTES)
        room = z.avail_out = INFLATE_BYTES
        status = inflate(&z, Z_NO_FLUSH)
        into.size += room - z.avail_out
    inflateEnd(&z)
    if into.size > <size_t>MESSAGE_BYTES_MAX:
        return CODE_RESOURCE_EXHAUSTED
    return CODE_OK if status == Z_STREAM_END and z.avail_in == 0 else CODE_INTERNAL
