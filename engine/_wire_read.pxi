# Protobuf bytes, read: fields, unknown ones, UTF-8. What is accepted here is what google.protobuf (upb) accepts, to the
# byte; what a field may hold is the business of _wire_decode.
#
# A message is read into slots by field number, so that the last of repeated scalars wins without a branch. While
# reading, the reader notes whether the bytes are canonical already: what clients send nearly always is, and then
# nothing needs to be encoded anew.

cdef extern from *:
    """
    /* Types of fields. F_STRING and what follows it is length-delimited on the wire, what precedes it a varint. */
    enum { F_NONE = 0, F_UINT32, F_UINT64, F_INT64, F_ENUM, F_BOOL, F_STRING, F_ITEM, F_ENTRY };
    enum { WIRE_VARINT = 0, WIRE_FIXED64 = 1, WIRE_SIZED = 2, WIRE_GROUP = 3, WIRE_GROUP_END = 4, WIRE_FIXED32 = 5 };
    enum { SLOTS = 16, GROUP_DEPTH_MAX = 100 };   /* groups that may nest in a message; its own depth counts */

    /* The fields of a message, by number. A message has at most one field of items (repeated messages). */
    typedef struct Shape {
        uint8_t type[SLOTS];
        uint16_t optional;             /* bits of the fields whose presence is told apart from a default value */
        const struct Shape* item;
        uint32_t items_max;
        const char* items_name;
    } Shape;

    typedef union { uint64_t number; Span text; } Slot;
    typedef struct { uint32_t present; Slot slots[SLOTS]; } Fields;
    typedef struct { const uint8_t* at; const uint8_t* end; uint32_t last, depth, canonical, unknown; } Reader;
    """
    const int F_NONE, F_UINT32, F_UINT64, F_INT64, F_ENUM, F_BOOL, F_STRING, F_ITEM, F_ENTRY
    const int WIRE_VARINT, WIRE_FIXED64, WIRE_SIZED, WIRE_GROUP, WIRE_GROUP_END, WIRE_FIXED32
    const int SLOTS, GROUP_DEPTH_MAX

    ctypedef struct Shape:
        uint8_t* type
        uint16_t optional
        const Shape* item
        uint32_t items_max
        const char* items_name

    ctypedef union Slot:
        uint64_t number
        Span text

    ctypedef struct Fields:
        uint32_t present
        Slot* slots

    ctypedef struct Reader:
        const uint8_t* at
        const uint8_t* end
        uint32_t last, depth, canonical, unknown


cdef inline Span span_of(const uint8_t* data, size_t size) noexcept nogil:
    cdef Span span
    span.data = data
    span.size = <uint32_t>size
    return span


# Absent text: never NULL, so that memcpy and memcmp may be called with it.
cdef inline Span span_empty() noexcept nogil:
    return span_of(<const uint8_t*>b"", 0)


cdef inline uint64_t load_u64(const uint8_t* data) noexcept nogil:
    cdef uint64_t value
    memcpy(&value, data, 8)
    return value


cdef inline uint32_t load_u32(const uint8_t* data) noexcept nogil:
    cdef uint32_t value
    memcpy(&value, data, 4)
    return value


# All bytes below 0x80. The last word overlaps the one before it, which saves a loop over the rest.
cdef inline bint is_ascii(const uint8_t* data, size_t size) noexcept nogil:
    cdef uint64_t seen
    cdef size_t i = 0
    if size >= 8:
        seen = load_u64(data + size - 8)
        while i + 8 < size:
            seen |= load_u64(data + i)
            i += 8
        return (seen & 0x8080808080808080ULL) == 0
    if size >= 4:
        return ((load_u32(data) | load_u32(data + size - 4)) & 0x80808080U) == 0
    return size == 0 or ((data[0] | data[size >> 1] | data[size - 1]) & 0x80) == 0


# The size of the UTF-8 sequence that begins at data; 0: it is none, for overlong forms, surrogates and what is beyond
# U+10FFFF do not count.
cdef size_t utf8_sequence(const uint8_t* data, size_t size) noexcept nogil:
    cdef uint32_t lead = data[0], low = 0x80, high = 0xBF
    cdef size_t need, i
    if lead < 0x80:
        return 1
    if 0xC2 <= lead <= 0xDF:
        need = 2
    elif 0xE0 <= lead <= 0xEF:
        need = 3
        low = 0xA0 if lead == 0xE0 else 0x80
        high = 0x9F if lead == 0xED else 0xBF
    elif 0xF0 <= lead <= 0xF4:
        need = 4
        low = 0x90 if lead == 0xF0 else 0x80
        high = 0x8F if lead == 0xF4 else 0xBF
    else:
        return 0
    if size < need or data[1] < low or data[1] > high:
        return 0
    for i in range(2, need):
        if (data[i] & 0xC0) != 0x80:
            return 0
    return need


cdef bint is_utf8_slow(const uint8_t* data, size_t size) noexcept nogil:
    cdef size_t i = 0, step
    while i < size:
        step = utf8_sequence(data + i, size - i)
        if step == 0:
            return False
        i += step
    return True


cdef inline bint is_utf8(const uint8_t* data, size_t size) noexcept nogil:
    return is_ascii(data, size) or is_utf8_slow(data, size)


# A varint of at most bytes_max bytes; bits beyond 64 are dropped, as upb does. 0: it is cut off or too long.
cdef int read_long_varint(Reader* reader, int bytes_max, uint64_t* value) noexcept nogil:
    cdef uint64_t result = 0, byte
    cdef int i
    for i in range(bytes_max):
        if reader.at == reader.end:
            return 0
        byte = reader.at[0]
        reader.at += 1
        result |= (byte & 0x7F) << (7 * i)
        if byte < 0x80:
            # A last byte of 0 could be left out; a tenth byte has one bit that counts.
            if (byte == 0 and i > 0) or (i == 9 and byte > 1):
                reader.canonical = 0
            value[0] = result
            return 1
    return 0


cdef inline int read_varint(Reader* reader, uint64_t* value) noexcept nogil:
    if LIKELY(reader.at < reader.end and reader.at[0] < 0x80):
        value[0] = reader.at[0]
        reader.at += 1
        return 1
    return read_long_varint(reader, 10, value)


# A length-delimited body. upb reads at most five bytes of a size.
cdef inline int read_sized(Reader* reader, Span* body) noexcept nogil:
    cdef uint64_t size
    if LIKELY(reader.at < reader.end and reader.at[0] < 0x80):
        size = reader.at[0]
        reader.at += 1
    elif not read_long_varint(reader, 5, &size):
        return 0
    if UNLIKELY(size > <uint64_t>(reader.end - reader.at)):
        return 0
    body[0] = span_of(reader.at, <size_t>size)
    reader.at += size
    return 1


cdef inline int read_tag(Reader* reader, uint32_t* tag) noexcept nogil:
    cdef uint64_t value
    if LIKELY(reader.at[0] < 0x80):
        tag[0] = reader.at[0]
        reader.at += 1
        return 1
    if not read_long_varint(reader, 5, &value) or value > UINT32_MAX:
        return 0
    tag[0] = <uint32_t>value
    return 1


cdef inline int skip_bytes(Reader* reader, size_t size) noexcept nogil:
    if <size_t>(reader.end - reader.at) < size:
        return 0
    reader.at += size
    return 1


# The value of a field that is not a group.
cdef int skip_value(Reader* reader, uint32_t wire) noexcept nogil:
    cdef uint64_t number
    cdef Span body
    if wire == <uint32_t>WIRE_VARINT:
        return read_varint(reader, &number)
    if wire == <uint32_t>WIRE_SIZED:
        return read_sized(reader, &body)
    if wire == <uint32_t>WIRE_FIXED64:
        return skip_bytes(reader, 8)
    if wire == <uint32_t>WIRE_FIXED32:
        return skip_bytes(reader, 4)
    return 0


# The rest of a group whose first tag was read. Groups nest in an array here and not in calls, so that no input can
# exhaust a stack. upb does not look at field numbers inside; a group must end with its own number.
cdef int skip_group(Reader* reader, uint32_t tag) noexcept nogil:
    cdef uint32_t[100] open_tags
    cdef uint32_t depth = 0
    while True:
        if (tag & 7) == <uint32_t>WIRE_GROUP:
            if depth == reader.depth:
                return 0
            open_tags[depth] = tag
            depth += 1
        elif (tag & 7) == <uint32_t>WIRE_GROUP_END:
            if open_tags[depth - 1] + 1 != tag:
                return 0
            depth -= 1
            if depth == 0:
                return 1
        elif not skip_value(reader, tag & 7):
            return 0
        if reader.at == reader.end or not read_tag(reader, &tag):
            return 0


cdef int skip_field(Reader* reader, uint32_t tag) noexcept nogil:
    reader.canonical = 0
    reader.unknown = 1
    if tag >> 3 == 0:
        return 0
    if (tag & 7) == <uint32_t>WIRE_GROUP:
        return skip_group(reader, tag)
    return skip_value(reader, tag & 7)


# What a varint means in a field of the type. Whatever it loses, the canonical form does not have.
cdef inline uint64_t narrowed(Reader* reader, uint32_t type, uint64_t value) noexcept nogil:
    cdef uint64_t number = value
    if type == <uint32_t>F_UINT32:
        number = <uint32_t>value
    elif type == <uint32_t>F_ENUM:
        number = <uint64_t><int64_t><int32_t><uint32_t>value
    elif type == <uint32_t>F_BOOL:
        number = value != 0
    if number != value:
        reader.canonical = 0
    return number


# Reads one field into its slot; the reader is not at its end. The number of the field when it is an item or an entry,
# whose body is then in the slot, 0 for any other, -1 when the message is malformed.
cdef inline int next_field(Reader* reader, const Shape* shape, Fields* fields) noexcept nogil:
    cdef uint32_t tag, number, type = F_NONE
    cdef uint64_t value
    cdef Slot* slot
    if UNLIKELY(not read_tag(reader, &tag)):
        return -1
    number = tag >> 3
    if LIKELY(number < <uint32_t>SLOTS):
        type = shape.type[number]
    if UNLIKELY(type == <uint32_t>F_NONE
                or (tag & 7) != <uint32_t>(WIRE_SIZED if type >= <uint32_t>F_STRING else WIRE_VARINT)):
        return 0 if skip_field(reader, tag) else -1
    if UNLIKELY(number <= reader.last):
        if number < reader.last or type < <uint32_t>F_ITEM:
            reader.canonical = 0
    reader.last = number
    fields.present |= <uint32_t>1 << number
    slot = &fields.slots[number]
    if type < <uint32_t>F_STRING:
        if UNLIKELY(not read_varint(reader, &value)):
            return -1
        slot.number = narrowed(reader, type, value)
        if UNLIKELY(slot.number == 0) and not (shape.optional >> number) & 1:
            reader.canonical = 0
        return 0
    if UNLIKELY(not read_sized(reader, &slot.text)):
        return -1
    if type != <uint32_t>F_STRING:
        return <int>number
    if UNLIKELY(not is_utf8(slot.text.data, slot.text.size)):
        return -1
    if UNLIKELY(slot.text.size == 0) and not (shape.optional >> number) & 1:
        reader.canonical = 0
    return 0


cdef inline Reader reader_of(const uint8_t* data, size_t size, uint32_t depth) noexcept nogil:
    cdef Reader reader
    reader.at = data
    reader.end = data + size
    reader.last = 0
    reader.depth = depth
    reader.canonical = 1
    reader.unknown = 0
    return reader


# Reads the body of an item or an entry, which holds no items itself. 0: malformed; 1: read; 2: read, but it had unknown
# fields.
cdef inline int read_item(Reader* outer, Span body, const Shape* shape, Fields* fields) noexcept nogil:
    cdef Reader reader = reader_of(body.data, body.size, outer.depth - 1)
    fields.present = 0
    while reader.at < reader.end:
        if UNLIKELY(next_field(&reader, shape, fields) < 0):
            return 0
    outer.canonical &= reader.canonical
    return 2 if UNLIKELY(reader.unknown) else 1


cdef inline bint has(const Fields* fields, uint32_t number) noexcept nogil:
    return (fields.present >> number) & 1


cdef inline uint64_t number_in(const Fields* fields, uint32_t number) noexcept nogil:
    return fields.slots[number].number if has(fields, number) else 0


cdef inline Span text_in(const Fields* fields, uint32_t number) noexcept nogil:
    return fields.slots[number].text if has(fields, number) else span_empty()
