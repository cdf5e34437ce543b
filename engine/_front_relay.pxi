# Relayed streams: all that is not native goes to the control server and back, stream by stream, as it is: headers,
# DATA, trailers and resets in both directions. A stream has two halves, the client's and the one upstream; each window
# is given back as the other side takes the bytes, so that who is slow holds up only its own stream.


# The request's headers are complete. It is opened in this turn's relay_turn, or once there is a connection.
cdef void relay_begin(Stream* s) noexcept nogil:
    cdef Upstream* u = s.connection.front.upstream
    cdef RelayStream* r
    if u == NULL:
        tally(s.connection.front, METHODS_UNKNOWN, 1)
        refuse_stream(s, CODE_UNIMPLEMENTED, b"METHOD_UNKNOWN", b"There is no such method.")
        return
    r = <RelayStream*>calloc(1, sizeof(RelayStream))
    INVARIANT(r != NULL, b"memory for a relayed stream")
    r.stream = s
    r.upstream = u
    u.streams += 1
    r.began_ns = u.front.now_ns
    if s.bad_timeout:
        s.deadline_ns = 0                # what it means is for the control server to say
    memcpy(buffer_reserve(&r.block, s.connection.headers.size), s.connection.headers.data, s.connection.headers.size)
    r.block.size = s.connection.headers.size
    relay_link(&u.waiting, r)
    s.relay = r


cdef void relay_data(Stream* s, const uint8_t* data, size_t size) noexcept nogil:
    cdef RelayStream* r = s.relay
    if r == NULL or r.within == NULL:
        give_back(s, size)               # nobody is there to take it
        return
    if queues_are_full(r.upstream, size):
        give_back(s, size)
        relay_give_up(s, CODE_RESOURCE_EXHAUSTED, OVERLOADED, OVERLOADED_TEXT)
        return
    tally(s.connection.front, RELAY_BYTES_IN, size)
    queue_put(r.upstream, &r.request, data, size)
    relay_resume_request(r)


cdef void relay_end(Stream* s) noexcept nogil:
    cdef RelayStream* r = s.relay
    if r != NULL and r.within != NULL:
        r.request_ended = True
        relay_resume_request(r)


# The client's half has ended, in whichever way.
cdef void relay_reset(Stream* s, uint32_t error_code) noexcept nogil:
    cdef RelayStream* r = s.relay
    if r == NULL:
        return
    s.relay = NULL
    r.stream = NULL
    if r.id != 0:
        nghttp2_submit_rst_stream(r.upstream.session, 0, r.id, NGHTTP2_CANCEL)
        queue_free(r.upstream, &r.request)
        queue_free(r.upstream, &r.response)
        return
    if r.within != NULL:
        relay_unlink(r)
    relay_free(r)


# Bytes of the client's request are gone from here: it may send as many again.
cdef void give_back(Stream* s, size_t size) noexcept nogil:
    if size:
        nghttp2_session_consume_stream(s.connection.session, s.id, size)
        mark_dirty(s.connection)


cdef void relay_resume_request(RelayStream* r) noexcept nogil:
    if r.request_deferred:
        r.request_deferred = False
        nghttp2_session_resume_data(r.upstream.session, r.id)


cdef void relay_resume_response(RelayStream* r) noexcept nogil:
    if r.response_deferred:
        r.response_deferred = False
        nghttp2_session_resume_data(r.stream.connection.session, r.stream.id)
    mark_dirty(r.stream.connection)


# Upstream takes nothing more and sends nothing more. Who calls this decides what the client is told.
cdef void relay_upstream_ended(RelayStream* r) noexcept nogil:
    relay_unlink(r)
    r.id = 0
    r.request_deferred = False
    if r.stream != NULL:
        give_back(r.stream, queue_size(&r.request))
    queue_free(r.upstream, &r.request)


# Answers a stream whose response has not begun, and lets go of it.
cdef void relay_refuse(RelayStream* r, int code, const char* reason, const char* description) noexcept nogil:
    cdef Stream* s = r.stream
    if r.within != NULL:
        relay_upstream_ended(r)
    r.stream = NULL
    s.relay = NULL
    relay_free(r)
    refuse_stream(s, code, reason, description)


# Ends a stream from here, whatever it still holds; if that was done already, its client does not take it: a reset.
cdef void relay_give_up(Stream* s, int code, const char* reason, const char* description) noexcept nogil:
    cdef RelayStream* r = s.relay
    if r == NULL or not r.response_begun:
        relay_reset(s, NGHTTP2_CANCEL)
        refuse_stream(s, code, reason, description)
    elif r.response_ended:
        reset_stream(s, NGHTTP2_CANCEL)
    else:
        if r.id != 0:
            nghttp2_submit_rst_stream(r.upstream.session, 0, r.id, NGHTTP2_CANCEL)
        queue_free(r.upstream, &r.response)
        relay_cut(r, code, description)


# The streams together hold what they may, though each keeps its window.
cdef bint queues_are_full(Upstream* u, size_t more) noexcept nogil:
    if u.buffered + more <= u.front.settings.relay_bytes_max:
        return False
    tally(u.front, CALLS_REFUSED_OVERLOAD, 1)
    return True


# Ends a response that has begun: what was received of it is delivered first.
cdef void relay_cut(RelayStream* r, int code, const char* description) noexcept nogil:
    cdef uint8_t digits[16]
    cdef size_t size = <size_t>(put_decimal(digits, <uint32_t>code) - digits)
    r.block.size = 0
    note_status(r.stream, digits, size)
    keep_header(&r.block, <const uint8_t*>b"grpc-status", 11, digits, size, 0)
    keep_header(&r.block, <const uint8_t*>b"grpc-message", 12, <const uint8_t*>description, strlen(description), 0)
    r.response_ended = True
    relay_resume_response(r)


# What gRPC makes of a stream that was reset before it was answered ("gRPC over HTTP/2", Errors).
cdef int code_of_reset(uint32_t error_code) noexcept nogil:
    if error_code == <uint32_t>NGHTTP2_REFUSED_STREAM:
        return CODE_UNAVAILABLE
    if error_code == <uint32_t>NGHTTP2_CANCEL:
        return CODE_CANCELLED
    return CODE_RESOURCE_EXHAUSTED if error_code == <uint32_t>NGHTTP2_ENHANCE_YOUR_CALM else CODE_INTERNAL


# ---- headers


cdef bint begins_with(const uint8_t* data, size_t size, const char* text, size_t text_size) noexcept nogil:
    return size >= text_size and memcmp(data, text, text_size) == 0


# What is said anew for each hop, and what only the front may say. Other headers of a connection never come this far:
# libnghttp2 takes them for malformed.
cdef bint is_dropped(const uint8_t* name, size_t size) noexcept nogil:
    return (
        text_is(name, size, b":scheme", 7) or text_is(name, size, b":authority", 10) or text_is(name, size, b"host", 4)
        or begins_with(name, size, b"everopen-", 9)
    )


cdef void add_field(Buffer* fields, const uint8_t* name, size_t name_size, const uint8_t* value, size_t value_size,
                    uint8_t flags) noexcept nogil:
    cdef nghttp2_nv* field = <nghttp2_nv*>buffer_reserve(fields, sizeof(nghttp2_nv))
    field.name = <uint8_t*>name
    field.namelen = name_size
    field.value = <uint8_t*>value
    field.valuelen = value_size
    field.flags = <uint8_t>(flags & NGHTTP2_NV_FLAG_NO_INDEX)
    fields.size += sizeof(nghttp2_nv)


# Who calls, and that it is the front that says so: nobody but the engine's own processes knows the secret.
cdef void add_caller(Buffer* fields, const Stream* s) noexcept nogil:
    cdef const Identity* identity = &s.connection.front.identity
    cdef Buffer* caller = &s.connection.front.scratch
    if identity.relay_secret_size == 0:
        return
    caller.size = 0
    put_caller(caller, s)
    add_field(fields, <const uint8_t*>b"everopen-caller-bin", 19, caller.data, caller.size, NGHTTP2_NV_FLAG_NO_INDEX)
    add_field(fields, <const uint8_t*>b"everopen-relay-bin", 18, identity.relay_secret, identity.relay_secret_size,
              NGHTTP2_NV_FLAG_NO_INDEX)


# The records of a block behind what `fields` has already. They point into the block; libnghttp2 copies them.
cdef void add_block(Buffer* fields, const Buffer* block, bint is_request) noexcept nogil:
    cdef const uint8_t* at = block.data
    cdef const uint8_t* end = block.data + block.size
    cdef HeaderRecord head
    while at < end:
        memcpy(&head, at, sizeof(HeaderRecord))
        at += sizeof(HeaderRecord)
        if not (is_request and is_dropped(at, head.name_size)):
            add_field(fields, at, head.name_size, at + head.name_size, head.value_size, head.flags)
        at += head.name_size + head.value_size


cdef inline size_t fields_count(const Buffer* fields) noexcept nogil:
    return fields.size // sizeof(nghttp2_nv)


# ---- towards the control server


cdef void relay_open(RelayStream* r) noexcept nogil:
    cdef Upstream* u = r.upstream
    cdef nghttp2_data_provider provider
    cdef int32_t stream_id
    cdef uint8_t traceparent[TRACEPARENT_BYTES]
    cdef size_t traceparent_size = put_traceparent(r.stream, traceparent)
    u.fields.size = 0
    add_field(&u.fields, <const uint8_t*>b":scheme", 7, <const uint8_t*>b"http", 4, 0)
    add_field(&u.fields, <const uint8_t*>b":authority", 10, <const uint8_t*>b"localhost", 9, 0)
    add_block(&u.fields, &r.block, True)
    add_caller(&u.fields, r.stream)
    if traceparent_size:
        add_field(&u.fields, <const uint8_t*>b"traceparent", 11, traceparent, traceparent_size, 0)
    provider.source.ptr = r
    provider.read_callback = relay_read_request
    stream_id = nghttp2_submit_request(u.session, NULL, <nghttp2_nv*>u.fields.data,
                                       fields_count(&u.fields), &provider, r)
    if stream_id <= 0:
        relay_refuse(r, CODE_INTERNAL, b"RELAY_FAILED", b"The call could not be passed on.")
        return
    buffer_free(&r.block)
    relay_unlink(r)
    relay_link(&u.opened, r)
    r.id = stream_id


cdef ssize_t relay_read_request(nghttp2_session* session, int32_t stream_id, uint8_t* into, size_t room,
                                uint32_t* flags, nghttp2_data_source* source, void* user) noexcept nogil:
    cdef RelayStream* r = <RelayStream*>source.ptr
    cdef size_t size = queue_take(r.upstream, &r.request, into, room)
    if r.stream != NULL:
        give_back(r.stream, size)
    if r.request_ended and queue_size(&r.request) == 0:
        flags[0] |= <uint32_t>NGHTTP2_DATA_FLAG_EOF
    elif size == 0:
        r.request_deferred = True
        return NGHTTP2_ERR_DEFERRED
    return <ssize_t>size


# ---- towards the client


# NULL: the stream is none of ours, or what it says is not waited for any more.
cdef inline RelayStream* answered(nghttp2_session* session, int32_t stream_id) noexcept nogil:
    cdef RelayStream* r = <RelayStream*>nghttp2_session_get_stream_user_data(session, stream_id)
    return r if r != NULL and r.stream != NULL and not r.response_ended else NULL


cdef int upstream_on_begin_headers(nghttp2_session* session, const nghttp2_frame* frame, void* user) noexcept nogil:
    cdef RelayStream* r = answered(session, frame.hd.stream_id)
    if r != NULL:
        r.block.size = 0
    return 0


cdef int upstream_on_header(nghttp2_session* session, const nghttp2_frame* frame, const uint8_t* name,
                            size_t name_size, const uint8_t* value, size_t value_size, uint8_t flags,
                            void* user) noexcept nogil:
    cdef RelayStream* r = answered(session, frame.hd.stream_id)
    if r == NULL:
        return 0
    if r.block.size + name_size + value_size > r.upstream.front.settings.header_list_bytes_max:
        return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE
    if text_is(name, name_size, b"grpc-status", 11):
        note_status(r.stream, value, value_size)
    keep_header(&r.block, name, name_size, value, value_size, flags)
    return 0


cdef int upstream_on_frame(nghttp2_session* session, const nghttp2_frame* frame, void* user) noexcept nogil:
    cdef RelayStream* r
    if frame.hd.type != NGHTTP2_HEADERS and frame.hd.type != NGHTTP2_DATA:
        return 0
    r = answered(session, frame.hd.stream_id)
    if r == NULL:
        return 0
    r.response_ended = frame.hd.flags & NGHTTP2_FLAG_END_STREAM != 0
    if frame.hd.type == NGHTTP2_HEADERS and not r.response_begun:
        relay_respond(r)
    elif r.response_ended:
        relay_resume_response(r)
    return 0


# The response's headers; with the end of the stream they are all of it.
cdef void relay_respond(RelayStream* r) noexcept nogil:
    cdef Stream* s = r.stream
    cdef Buffer* fields = &r.upstream.fields
    cdef nghttp2_data_provider provider
    fields.size = 0
    add_block(fields, &r.block, False)
    if fields.size == 0 or (<nghttp2_nv*>fields.data).value[0] == c"1":
        return                           # provisional: the response itself is still to come
    provider.source.ptr = r
    provider.read_callback = relay_read_response
    r.response_begun = True
    r.block.size = 0
    nghttp2_submit_response(s.connection.session, s.id, <nghttp2_nv*>fields.data, fields_count(fields),
                            NULL if r.response_ended else &provider)
    mark_dirty(s.connection)


# The window of the connection is given back at once, so that one slow client holds up no other stream; that of the
# stream when its client takes the bytes.
cdef int upstream_on_data(nghttp2_session* session, uint8_t flags, int32_t stream_id, const uint8_t* data,
                          size_t size, void* user) noexcept nogil:
    cdef RelayStream* r = answered(session, stream_id)
    nghttp2_session_consume_connection(session, size)
    if r == NULL:
        return 0
    if queues_are_full(r.upstream, size):
        relay_give_up(r.stream, CODE_RESOURCE_EXHAUSTED, OVERLOADED, OVERLOADED_TEXT)
    else:
        queue_put(r.upstream, &r.response, data, size)
        relay_resume_response(r)
    return 0


cdef ssize_t relay_read_response(nghttp2_session* session, int32_t stream_id, uint8_t* into, size_t room,
                                 uint32_t* flags, nghttp2_data_source* source, void* user) noexcept nogil:
    cdef RelayStream* r = <RelayStream*>source.ptr
    cdef size_t size = queue_take(r.upstream, &r.response, into, room)
    if size:
        tally(r.upstream.front, RELAY_BYTES_OUT, size)
        if r.id != 0:
            nghttp2_session_consume_stream(r.upstream.session, r.id, size)
    if r.response_ended and queue_size(&r.response) == 0:
        flags[0] |= <uint32_t>NGHTTP2_DATA_FLAG_EOF
        relay_trail(r, flags)
    elif size == 0:
        r.response_deferred = True
        return NGHTTP2_ERR_DEFERRED
    return <ssize_t>size


cdef void relay_trail(RelayStream* r, uint32_t* flags) noexcept nogil:
    cdef Buffer* fields = &r.upstream.fields
    if r.block.size == 0:
        return
    fields.size = 0
    add_block(fields, &r.block, False)
    flags[0] |= <uint32_t>NGHTTP2_DATA_FLAG_NO_END_STREAM
    nghttp2_submit_trailer(r.stream.connection.session, r.stream.id, <nghttp2_nv*>fields.data, fields_count(fields))


cdef int upstream_on_stream_close(nghttp2_session* session, int32_t stream_id, uint32_t error_code,
                                  void* user) noexcept nogil:
    cdef RelayStream* r = <RelayStream*>nghttp2_session_get_stream_user_data(session, stream_id)
    if r == NULL:
        return 0
    relay_upstream_ended(r)
    if r.stream == NULL:
        relay_free(r)
    elif r.response_ended:
        pass                             # the client takes the rest
    elif r.stream.deadline_ns and r.stream.deadline_ns <= r.upstream.front.now_ns:
        relay_give_up(r.stream, CODE_DEADLINE_EXCEEDED, b"DEADLINE_EXCEEDED", b"The deadline passed.")
    elif not r.response_begun:
        relay_refuse(r, code_of_reset(error_code), b"CONTROL_RESET", b"The control server gave the call up.")
    else:
        reset_stream(r.stream, NGHTTP2_CANCEL if error_code == <uint32_t>NGHTTP2_CANCEL else NGHTTP2_INTERNAL_ERROR)
    return 0
