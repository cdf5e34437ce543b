# Answers: headers, messages, trailers. A stream's answers leave in the order of its calls, each once it is done.

cdef extern from *:
    """
    #define FRONT_NV(name, value) { (uint8_t*)(name), (uint8_t*)(value), sizeof(name) - 1, sizeof(value) - 1, \\
                                    NGHTTP2_NV_FLAG_NO_COPY_NAME | NGHTTP2_NV_FLAG_NO_COPY_VALUE }
    static nghttp2_nv front_headers[] = {
        FRONT_NV(":status", "200"), FRONT_NV("content-type", "application/grpc"),
        FRONT_NV("grpc-accept-encoding", "identity,gzip"),
    };
    static nghttp2_nv front_ok[] = { FRONT_NV("grpc-status", "0") };
    static nghttp2_nv front_415[] = { FRONT_NV(":status", "415"), FRONT_NV("content-length", "0") };
    static nghttp2_nv front_405[] = { FRONT_NV(":status", "405"), FRONT_NV("content-length", "0") };
    /* What encodings we take is said where a request fails; each header of an answer costs the search of a table. */
    enum { FRONT_HEADERS = 3, FRONT_HEADERS_OK = 2 };
    static const char* const OVERLOADED = "OVERLOADED";
    #define OVERLOADED_TEXT "Too much is in flight; retry later with the same id."
    """
    nghttp2_nv* front_headers
    nghttp2_nv* front_ok
    nghttp2_nv* front_415
    nghttp2_nv* front_405
    const int FRONT_HEADERS, FRONT_HEADERS_OK
    const char* OVERLOADED
    const char* OVERLOADED_TEXT

cdef enum:
    CODE_CANCELLED = 1
    CODE_UNKNOWN = 2
    CODE_DEADLINE_EXCEEDED = 4
    CODE_PERMISSION_DENIED = 7
    CODE_INTERNAL = 13
    CODE_UNAVAILABLE = 14
    CODE_UNAUTHENTICATED = 16

    FRONT_HEADERS_MAX = 8
    PUSHBACK_MS = 100
    MESSAGE_TEXT_BYTES_MAX = 1024        # of grpc-message, before it is encoded
    DETAILS_BYTES_MAX = 6144             # of a google.rpc.Status that still goes into a header


# A whole answer: headers, its message, trailers; or for a fault trailers alone. For streams, the next step of it.
cdef void reply_stream(Stream* s) noexcept nogil:
    cdef nghttp2_data_provider provider
    cdef Call* call = s.calls
    if s.closed or s.kind == STREAM_REFUSED:
        return
    mark_dirty(s.connection)
    if s.answering:
        if s.deferred:
            s.deferred = False
            nghttp2_session_resume_data(s.connection.session, s.id)
    elif call != NULL and call.done and call.job.code == CODE_OK:
        provider.source.ptr = s
        provider.read_callback = read_answer
        s.answering = True
        nghttp2_submit_response(s.connection.session, s.id, front_headers, FRONT_HEADERS_OK, &provider)
    elif (call != NULL and call.done) or (call == NULL and s.ending):
        end_with_trailers_alone(s)


# libnghttp2 asks for the next bytes of a stream's answer, as far as the peer's window goes.
cdef ssize_t read_answer(nghttp2_session* session, int32_t stream_id, uint8_t* into, size_t room, uint32_t* flags,
                         nghttp2_data_source* source, void* user) noexcept nogil:
    cdef Stream* s = <Stream*>source.ptr
    cdef Call* call = s.calls
    cdef size_t size = 0
    if call != NULL and call.done and call.job.code == CODE_OK:
        size = call.job.answer.size - s.sent
        if size > room:
            size = room
        memcpy(into, call.job.answer.data + s.sent, size)
        s.sent += size
        s.connection.progress_ns = s.connection.front.now_ns
        if s.sent == call.job.answer.size:
            s.sent = 0
            if UNLIKELY(call.job.times != NULL):
                finish_measure(s, call)
            call_leave(s, call)
            feed_backlog(s)
    if answer_is_over(s):
        flags[0] |= NGHTTP2_DATA_FLAG_EOF | NGHTTP2_DATA_FLAG_NO_END_STREAM
        submit_trailers(s, False)
    elif size == 0:
        s.deferred = True
        return NGHTTP2_ERR_DEFERRED
    return <ssize_t>size


# Nothing more follows what was sent: a unary call was answered, a stream of requests ended, or the call failed.
cdef bint answer_is_over(Stream* s) noexcept nogil:
    if s.calls != NULL:
        return s.calls.done and s.calls.job.code != CODE_OK
    if s.kind == STREAM_BATCHES:
        return s.ending or (s.end_received and s.backlog.size == 0)
    if s.kind == STREAM_HEALTH_WATCH:
        return s.ending
    return True


# A call that failed ends its stream with its own status.
cdef void take_status(Stream* s) noexcept nogil:
    cdef Call* call = s.calls
    if not s.ending and call != NULL and call.done and call.job.code != CODE_OK:
        s.status_code = call.job.code
        s.worth_repeating = call.job.code == <uint32_t>CODE_RESOURCE_EXHAUSTED
        buffer_free(&s.status)
        s.status = call.job.answer
        memset(&call.job.answer, 0, sizeof(Buffer))
        s.ending = True


cdef void end_with_trailers_alone(Stream* s) noexcept nogil:
    take_status(s)
    s.answering = True
    submit_trailers(s, True)


cdef void submit_trailers(Stream* s, bint alone) noexcept nogil:
    cdef nghttp2_nv headers[FRONT_HEADERS_MAX]
    cdef Buffer* text = &s.connection.front.scratch
    cdef size_t count_of = 0
    take_status(s)
    tally(s.connection.front, CALLS_ANSWERED, 1)
    if s.status_code == CODE_OK and not alone:
        nghttp2_submit_trailer(s.connection.session, s.id, front_ok, 1)
        return
    tally(s.connection.front, CALLS_FAILED, s.status_code != CODE_OK)
    if alone:
        memcpy(headers, front_headers, FRONT_HEADERS * sizeof(nghttp2_nv))
        count_of = FRONT_HEADERS
    count_of += status_headers(s, headers + count_of, text)
    if alone:
        nghttp2_submit_response(s.connection.session, s.id, headers, count_of, NULL)
    else:
        nghttp2_submit_trailer(s.connection.session, s.id, headers, count_of)


# The status as trailers, whose texts lie in `text` until they are submitted. Returns how many.
cdef size_t status_headers(Stream* s, nghttp2_nv* headers, Buffer* text) noexcept nogil:
    cdef uint32_t code = 0
    cdef Span message = span_empty()
    cdef size_t used = 1
    cdef uint8_t* at
    text.size = 0
    # One reservation for all: a later one could move what earlier headers point to.
    at = buffer_reserve(text, 64 + 3 * MESSAGE_TEXT_BYTES_MAX + 2 * DETAILS_BYTES_MAX)
    headers[0] = text_header(b"grpc-status", 11, at)
    at = end_header(&headers[0], put_decimal(at, s.status_code))
    if s.status.size and status_head(s.status.data, s.status.size, &code, &message):
        headers[used] = text_header(b"grpc-message", 12, at)
        at = end_header(&headers[used], put_percent_encoded(at, message))
        used += 1
        if s.status.size <= <size_t>DETAILS_BYTES_MAX:
            headers[used] = text_header(b"grpc-status-details-bin", 23, at)
            at = end_header(&headers[used], put_base64(at, s.status.data, s.status.size))
            used += 1
    if s.worth_repeating:
        headers[used] = text_header(b"grpc-retry-pushback-ms", 22, at)
        if s.pushback_ms < 0:
            at = put_chars(at, b"-1")
        else:
            at = put_decimal(at, <uint32_t>s.pushback_ms if s.pushback_ms else PUSHBACK_MS)
        end_header(&headers[used], at)
        used += 1
    return used


# Texts of errors are not put into the table of header compression: the next ones will differ.
cdef nghttp2_nv text_header(const char* name, size_t name_size, uint8_t* value) noexcept nogil:
    cdef nghttp2_nv header
    header.name = <uint8_t*>name
    header.namelen = name_size
    header.value = value
    header.valuelen = 0
    header.flags = <uint8_t>(NGHTTP2_NV_FLAG_NO_COPY_NAME | NGHTTP2_NV_FLAG_NO_INDEX)
    return header


cdef inline uint8_t* end_header(nghttp2_nv* header, uint8_t* end) noexcept nogil:
    header.valuelen = <size_t>(end - header.value)
    return end


# Printable ASCII but the percent sign stays as it is.
cdef uint8_t* put_percent_encoded(uint8_t* at, Span text) noexcept nogil:
    cdef const char* digits = b"0123456789ABCDEF"
    cdef uint32_t i, size = text.size
    cdef uint8_t byte
    if size > <uint32_t>MESSAGE_TEXT_BYTES_MAX:
        size = MESSAGE_TEXT_BYTES_MAX
    for i in range(size):
        byte = text.data[i]
        if 0x20 <= byte <= 0x7E and byte != 0x25:
            at[0] = byte
            at += 1
        else:
            at[0] = 0x25
            at[1] = <uint8_t>digits[byte >> 4]
            at[2] = <uint8_t>digits[byte & 15]
            at += 3
    return at


# RFC 4648, without padding, as gRPC sends binary metadata.
cdef uint8_t* put_base64(uint8_t* at, const uint8_t* data, size_t size) noexcept nogil:
    cdef const char* digits = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    cdef uint32_t three
    cdef size_t i = 0, left
    while i < size:
        left = size - i
        three = <uint32_t>data[i] << 16
        if left > 1:
            three |= <uint32_t>data[i + 1] << 8
        if left > 2:
            three |= data[i + 2]
        at[0] = <uint8_t>digits[three >> 18]
        at[1] = <uint8_t>digits[three >> 12 & 63]
        at += 2
        if left > 1:
            at[0] = <uint8_t>digits[three >> 6 & 63]
            at += 1
        if left > 2:
            at[0] = <uint8_t>digits[three & 63]
            at += 1
        i += 3
    return at


# Ends a stream with a status of the front's own, after the answers of the calls before.
cdef void refuse_stream(Stream* s, int code, const char* reason, const char* description) noexcept nogil:
    cdef Fault fault
    if s.ending or s.closed or s.kind == STREAM_REFUSED:
        return
    own_fault(&fault, code, reason, description)
    s.status_code = <uint32_t>code
    if reason == OVERLOADED:
        s.worth_repeating = True
    s.status.size = 0
    encode_status(&s.status, &fault)
    end_stream(s)


# Its status is set.
cdef void end_stream(Stream* s) noexcept nogil:
    s.ending = True
    drop_unstarted(s)
    reply_stream(s)


cdef void own_fault(Fault* fault, int code, const char* reason, const char* description) noexcept nogil:
    memset(fault, 0, sizeof(Fault))
    fault.code = code
    fault.reason = reason
    fault.description = description
    fault.index = -1
    fault.shop_id = fault.id = span_empty()


# An answer of HTTP's own, where the request is not gRPC.
cdef void refuse_http(Stream* s, nghttp2_nv* headers) noexcept nogil:
    tally(s.connection.front, CONTENT_TYPE_REFUSED, 1)
    s.kind = STREAM_REFUSED
    nghttp2_submit_response(s.connection.session, s.id, headers, 2, NULL)
    mark_dirty(s.connection)


cdef void reset_stream(Stream* s, uint32_t error_code) noexcept nogil:
    s.kind = STREAM_REFUSED if s.kind != STREAM_RELAYED else s.kind
    nghttp2_submit_rst_stream(s.connection.session, 0, s.id, error_code)
    mark_dirty(s.connection)
