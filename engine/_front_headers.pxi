# Request headers, as "gRPC over HTTP/2" (grpc/doc/PROTOCOL-HTTP2.md) has them: which method, until when, encoded how.

INVARIANT(<int>STREAM_UNARY == 1 and <int>STREAM_BATCHES == 2 and <int>STREAM_HEALTH_CHECK == 3
          and <int>STREAM_HEALTH_WATCH == 4, b"the table of methods names the kinds by their numbers")

cdef enum:
    TIMEOUT_DIGITS_MAX = 8
    TIMEOUT_NS_MAX = 1000000000000000000       # what is longer never ends

# How a record of `Connection.headers` begins: sizes of name and value, flags; then both.
cdef packed struct HeaderRecord:
    uint32_t name_size
    uint32_t value_size
    uint8_t flags


cdef inline bint text_is(const uint8_t* data, size_t size, const char* text, size_t text_size) noexcept nogil:
    return size == text_size and memcmp(data, text, size) == 0


# Nanoseconds; 0 for what is no timeout. A timeout of zero is one nanosecond, which has passed.
cdef uint64_t parse_timeout_ns(const uint8_t* value, size_t size) noexcept nogil:
    cdef uint64_t number = 0, unit = 0
    cdef size_t i
    if size < 2 or size > TIMEOUT_DIGITS_MAX + 1:
        return 0
    for i in range(size - 1):
        if not 0x30 <= value[i] <= 0x39:
            return 0
        number = number * 10 + (value[i] - 0x30)
    if value[size - 1] == c"H":
        unit = 3600000000000
    elif value[size - 1] == c"M":
        unit = 60000000000
    elif value[size - 1] == c"S":
        unit = 1000000000
    elif value[size - 1] == c"m":
        unit = 1000000
    elif value[size - 1] == c"u":
        unit = 1000
    elif value[size - 1] == c"n":
        unit = 1
    else:
        return 0
    if number > TIMEOUT_NS_MAX // unit:
        return TIMEOUT_NS_MAX
    return number * unit if number else 1


# application/grpc, alone or with +proto, and parameters behind a semicolon.
cdef bint is_grpc_content(const uint8_t* value, size_t size) noexcept nogil:
    if size < 16 or memcmp(value, b"application/grpc", 16) != 0:
        return False
    value += 16
    size -= 16
    if size >= 6 and memcmp(value, b"+proto", 6) == 0:
        value += 6
        size -= 6
    return size == 0 or value[0] == c";"


cdef void keep_header(Buffer* into, const uint8_t* name, size_t name_size, const uint8_t* value, size_t value_size,
                      uint8_t flags) noexcept nogil:
    cdef HeaderRecord head
    cdef uint8_t* at = buffer_reserve(into, sizeof(HeaderRecord) + name_size + value_size)
    head.name_size = <uint32_t>name_size
    head.value_size = <uint32_t>value_size
    head.flags = flags
    memcpy(at, &head, sizeof(HeaderRecord))
    at += sizeof(HeaderRecord)
    memcpy(at, name, name_size)
    memcpy(at + name_size, value, value_size)
    buffer_end(into, at + name_size + value_size)


cdef void set_path(Stream* s, const uint8_t* path, size_t size) noexcept nogil:
    s.method = method_of(path, size)
    s.kind = <uint8_t>s.method.kind if s.method != NULL else <uint8_t>STREAM_RELAYED
    if s.method == NULL:
        s.relayed_method = <uint8_t>relayed_method(path, size)
    s.scope = <uint8_t>(s.method.scope if s.method != NULL else front_relayed[s.relayed_method].scope)


# False: it ends here, and is not for the control server as it is.
cdef bint take_header(Stream* s, const uint8_t* name, size_t name_size, const uint8_t* value,
                      size_t value_size) noexcept nogil:
    cdef uint64_t timeout_ns
    if name_size == 5 and memcmp(name, b":path", 5) == 0:
        set_path(s, value, value_size)
    elif name_size == 7 and memcmp(name, b":method", 7) == 0:
        s.is_post = text_is(value, value_size, b"POST", 4)
    elif name_size == 12 and memcmp(name, b"content-type", 12) == 0:
        s.has_grpc_content = is_grpc_content(value, value_size)
    elif name_size == 12 and memcmp(name, b"grpc-timeout", 12) == 0:
        timeout_ns = parse_timeout_ns(value, value_size)
        s.bad_timeout = timeout_ns == 0
        s.deadline_ns = s.connection.front.now_ns + timeout_ns
    elif name_size == 11 and memcmp(name, b"traceparent", 11) == 0:
        take_traceparent(s, value, value_size)
        return False
    elif name_size == 13 and memcmp(name, b"grpc-encoding", 13) == 0:
        if text_is(value, value_size, b"identity", 8):
            s.encoding = ENCODING_IDENTITY
        else:
            s.encoding = ENCODING_GZIP if text_is(value, value_size, b"gzip", 4) else ENCODING_OTHER
    elif UNLIKELY(s.connection.front.identity.required) and is_credential(name, name_size):
        take_credential(s.connection, name_size, value, value_size)
        return False
    return True
