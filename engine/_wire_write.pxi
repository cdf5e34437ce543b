# Protobuf bytes, written. A message is written through a bare pointer after room for all of it was reserved: a store of
# bytes may alias any struct, so that a Buffer would be reloaded after each.


# The one place that allocates. Once a buffer was as large as its largest message, it never does again.
cdef void buffer_grow(Buffer* buffer, size_t more) noexcept nogil:
    cdef size_t capacity = buffer.capacity if buffer.capacity > 256 else 256
    while capacity - buffer.size < more:
        capacity *= 2
    buffer.data = <uint8_t*>realloc(buffer.data, capacity)
    INVARIANT(buffer.data != NULL, b"memory for a buffer")
    buffer.capacity = capacity


# Where the next bytes go; room for `more` of them is there.
cdef inline uint8_t* buffer_reserve(Buffer* buffer, size_t more) noexcept nogil:
    if UNLIKELY(buffer.capacity - buffer.size < more):
        buffer_grow(buffer, more)
    return buffer.data + buffer.size


cdef inline void buffer_end(Buffer* buffer, const uint8_t* at) noexcept nogil:
    buffer.size = <size_t>(at - buffer.data)
    INVARIANT(buffer.size <= buffer.capacity, b"a message fits what was reserved for it")


cdef void buffer_free(Buffer* buffer) noexcept nogil:
    free(buffer.data)
    memset(buffer, 0, sizeof(Buffer))


cdef inline uint32_t varint_size(uint64_t value) noexcept nogil:
    cdef uint32_t size = 1
    while value >= 0x80:
        value >>= 7
        size += 1
    return size


cdef inline uint8_t* put_varint(uint8_t* at, uint64_t value) noexcept nogil:
    while value >= 0x80:
        at[0] = <uint8_t>(value | 0x80)
        value >>= 7
        at += 1
    at[0] = <uint8_t>value
    return at + 1


# Ids are short: two overlapping copies of a fixed size cost less than a call. Nothing past the source is read.
cdef inline uint8_t* put_bytes(uint8_t* at, const uint8_t* data, size_t size) noexcept nogil:
    cdef uint64_t first, last
    if LIKELY(8 <= size <= 16):
        first = load_u64(data)
        last = load_u64(data + size - 8)
        memcpy(at, &first, 8)
        memcpy(at + size - 8, &last, 8)
    elif size > 16:
        memcpy(at, data, size)
    else:
        copy_few(at, data, size)
    return at + size


# Fewer than 8 bytes.
cdef inline void copy_few(uint8_t* at, const uint8_t* data, size_t size) noexcept nogil:
    cdef uint32_t first, last
    if size >= 4:
        first = load_u32(data)
        last = load_u32(data + size - 4)
        memcpy(at, &first, 4)
        memcpy(at + size - 4, &last, 4)
    elif size > 0:
        at[0] = data[0]
        at[size >> 1] = data[size >> 1]
        at[size - 1] = data[size - 1]


# The tag of a field up to 15 is one byte.
cdef inline uint8_t tag_varint(uint32_t number) noexcept nogil:
    return <uint8_t>(number << 3)


cdef inline uint8_t tag_sized(uint32_t number) noexcept nogil:
    return <uint8_t>(number << 3 | 2)


cdef inline uint8_t* put_number_always(uint8_t* at, uint32_t number, uint64_t value) noexcept nogil:
    at[0] = tag_varint(number)
    return put_varint(at + 1, value)


# Defaults are left out, here and in put_text.
cdef inline uint8_t* put_number(uint8_t* at, uint32_t number, uint64_t value) noexcept nogil:
    return put_number_always(at, number, value) if value != 0 else at


cdef inline uint8_t* put_sized_head(uint8_t* at, uint32_t number, size_t size) noexcept nogil:
    at[0] = tag_sized(number)
    return put_varint(at + 1, size)


# A message that is there though it may be empty.
cdef inline uint8_t* put_body(uint8_t* at, uint32_t number, Span body) noexcept nogil:
    at = put_sized_head(at, number, body.size)
    return put_bytes(at, body.data, body.size)


cdef inline uint8_t* put_text(uint8_t* at, uint32_t number, Span text) noexcept nogil:
    return put_body(at, number, text) if text.size != 0 else at


# Ids, regions and currencies: their bound is what the reserved sizes are made of.
cdef inline uint8_t* put_id(uint8_t* at, uint32_t number, Span text) noexcept nogil:
    INVARIANT(text.size <= <uint32_t>ID_BYTES_MAX, b"an id keeps its bound")
    return put_text(at, number, text)


cdef inline uint8_t* put_log_id(uint8_t* at, uint32_t number, const uint8_t* log_id) noexcept nogil:
    return put_body(at, number, span_of(log_id, LOG_ID_BYTES)) if log_id != NULL else at


# Begins a message whose size is not known yet: the size gets one byte at `at - 1` of what is returned.
cdef inline uint8_t* begin_message(uint8_t* at, uint32_t number) noexcept nogil:
    at[0] = tag_sized(number)
    return at + 2


# Ends it; a size of more than one byte moves the body along. The caller reserves for that.
cdef inline uint8_t* end_message(uint8_t* body, uint8_t* at) noexcept nogil:
    cdef size_t size = <size_t>(at - body)
    cdef uint32_t more
    if LIKELY(size < 0x80):
        (body - 1)[0] = <uint8_t>size
        return at
    more = varint_size(size) - 1
    memmove(body + more, body, size)
    put_varint(body - 1, size)
    return at + more
