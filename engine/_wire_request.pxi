# Requests: the shapes of all of them, one way to read them, their canonical bytes, and the hash over these.
#
# Canonical bytes are what google.protobuf (upb) writes deterministically once unknown fields are discarded: fields
# ascending, shortest varints, no default without presence, map entries with both fields and sorted by key. Of two keys
# of which one begins the other, the longer comes first; that is upb's order, and part of what is hashed and logged.

cdef extern from *:
    """
    #define XXH_INLINE_ALL
    #include <xxhash.h>

    #define BIT(number) (1u << (number))

    /* What proto/everopen/v1 says; tests/wire holds these tables against the descriptors. */
    static const Shape SHAPE_PLACE_LINE = {
        .type = {[1] = F_STRING, [2] = F_UINT32, [3] = F_INT64, [4] = F_INT64}, .optional = BIT(3) | BIT(4)};
    static const Shape SHAPE_LINE_QUANTITY = {.type = {[1] = F_UINT32, [2] = F_UINT32}};
    static const Shape SHAPE_SHIP_LINE = {.type = {[1] = F_UINT32, [2] = F_UINT32, [3] = F_STRING}};
    static const Shape SHAPE_REGION_COST = {.type = {[1] = F_STRING, [2] = F_STRING, [3] = F_UINT32}};
    static const Shape SHAPE_SAFETY_STOCK = {.type = {[1] = F_STRING, [2] = F_UINT32}};
    /* An entry is written with both fields, so that neither has a default that is left out. */
    static const Shape SHAPE_ENTRY = {.type = {[1] = F_STRING, [2] = F_STRING}, .optional = BIT(1) | BIT(2)};

    static const Shape SHAPE_PLACE_ORDER = {
        .type = {[1] = F_STRING, [2] = F_STRING, [3] = F_STRING, [4] = F_ITEM, [5] = F_STRING, [6] = F_ENUM,
                 [7] = F_BOOL, [8] = F_UINT32, [9] = F_INT64, [10] = F_ENTRY, [15] = F_INT64},
        .optional = BIT(7), .item = &SHAPE_PLACE_LINE, .items_max = LINES_MAX, .items_name = "lines"};
    static const Shape SHAPE_PAY_ORDER = {.type = {[1] = F_STRING, [2] = F_STRING, [3] = F_STRING, [4] = F_INT64}};
    static const Shape SHAPE_CANCEL_ORDER = {
        .type = {[1] = F_STRING, [2] = F_STRING, [3] = F_STRING, [4] = F_ITEM, [5] = F_STRING},
        .item = &SHAPE_LINE_QUANTITY, .items_max = LINES_MAX, .items_name = "lines"};
    static const Shape SHAPE_SHIP_ORDER = {
        .type = {[1] = F_STRING, [2] = F_STRING, [3] = F_STRING, [4] = F_ITEM},
        .item = &SHAPE_SHIP_LINE, .items_max = ALLOCATIONS_MAX, .items_name = "lines"};
    static const Shape SHAPE_DELIVER_ORDER = {
        .type = {[1] = F_STRING, [2] = F_STRING, [3] = F_STRING, [4] = F_ITEM},
        .item = &SHAPE_LINE_QUANTITY, .items_max = LINES_MAX, .items_name = "lines"};
    static const Shape SHAPE_RETURN_ORDER = {
        .type = {[1] = F_STRING, [2] = F_STRING, [3] = F_STRING, [4] = F_ITEM, [5] = F_ENUM, [6] = F_STRING},
        .item = &SHAPE_LINE_QUANTITY, .items_max = LINES_MAX, .items_name = "lines"};
    static const Shape SHAPE_PUT_SHOP = {
        .type = {[1] = F_STRING, [2] = F_STRING, [3] = F_ENUM, [4] = F_BOOL, [5] = F_ITEM, [6] = F_ENUM,
                 [15] = F_UINT64},
        .optional = BIT(4) | BIT(15),
        .item = &SHAPE_REGION_COST, .items_max = REGION_COSTS_MAX, .items_name = "region_costs"};
    static const Shape SHAPE_PUT_LOCATION = {
        .type = {[1] = F_STRING, [2] = F_STRING, [3] = F_ENUM, [4] = F_STRING, [5] = F_UINT32, [6] = F_ENUM,
                 [15] = F_UINT64},
        .optional = BIT(15)};
    static const Shape SHAPE_PUT_SKU = {
        .type = {[1] = F_STRING, [2] = F_STRING, [3] = F_INT64, [4] = F_ENUM, [5] = F_UINT32, [6] = F_UINT32,
                 [7] = F_INT64, [8] = F_ENUM, [9] = F_UINT32, [10] = F_UINT32, [11] = F_ITEM,
                 [12] = F_INT64, [15] = F_UINT64},
        .optional = BIT(15),
        .item = &SHAPE_SAFETY_STOCK, .items_max = SAFETY_OVERRIDES_MAX, .items_name = "safety_stock_overrides"};
    static const Shape SHAPE_ADJUST_STOCK = {
        .type = {[1] = F_STRING, [2] = F_STRING, [3] = F_STRING, [4] = F_STRING, [5] = F_INT64, [6] = F_ENUM,
                 [15] = F_INT64}};
    static const Shape SHAPE_TRANSFER_STOCK = {
        .type = {[1] = F_STRING, [2] = F_STRING, [3] = F_STRING, [4] = F_STRING, [5] = F_STRING, [6] = F_INT64,
                 [15] = F_INT64}};
    static const Shape SHAPE_ACTIVATE = {.type = {[1] = F_UINT32, [2] = F_INT64, [3] = F_UINT32}};
    static const Shape SHAPE_EVICT = {.type = {[1] = F_UINT64}};
    /* The item is no text: it is taken as a body that nobody looks into. See decode_restore. */
    static const Shape SHAPE_RESTORE = {.type = {[1] = F_STRING, [2] = F_ENTRY}};
    static const Shape SHAPE_GET = {.type = {[1] = F_STRING, [2] = F_STRING}};
    /* Not read as a request but item by item; see batch_next. */
    static const Shape SHAPE_BATCH = {.type = {[1] = F_ITEM}};
    static const Shape SHAPE_HEALTH = {.type = {[1] = F_STRING}};
    static const Shape SHAPE_TICK = {.type = {0}};

    static const Shape* const SHAPES[] = {
        [PLACE_ORDER] = &SHAPE_PLACE_ORDER, [PAY_ORDER] = &SHAPE_PAY_ORDER, [CANCEL_ORDER] = &SHAPE_CANCEL_ORDER,
        [SHIP_ORDER] = &SHAPE_SHIP_ORDER, [DELIVER_ORDER] = &SHAPE_DELIVER_ORDER, [RETURN_ORDER] = &SHAPE_RETURN_ORDER,
        [SETTLE_REFUND] = &SHAPE_PAY_ORDER, [PUT_SHOP] = &SHAPE_PUT_SHOP, [PUT_LOCATION] = &SHAPE_PUT_LOCATION,
        [PUT_SKU] = &SHAPE_PUT_SKU, [ADJUST_STOCK] = &SHAPE_ADJUST_STOCK, [TRANSFER_STOCK] = &SHAPE_TRANSFER_STOCK,
        [TICK] = &SHAPE_TICK, [ACTIVATE] = &SHAPE_ACTIVATE, [EVICT] = &SHAPE_EVICT,
        [RESTORE] = &SHAPE_RESTORE, [GET_ORDER] = &SHAPE_GET, [GET_STOCK] = &SHAPE_GET,
    };

    typedef struct {
        const Shape* shape;
        const uint8_t* data;
        size_t size;
        uint32_t canonical;
        Fields fields;
        uint32_t item_count;
        Fault item_fault;            /* of the first bad item; `field` is the name inside the item */
        uint32_t entry_count;        /* distinct keys; ATTRIBUTES_MAX + 1: too many */
        Span keys[ATTRIBUTES_MAX], values[ATTRIBUTES_MAX];
    } Request;
    """
    const Shape* const* SHAPES
    const Shape SHAPE_ENTRY, SHAPE_BATCH, SHAPE_HEALTH

    ctypedef struct Request:
        const Shape* shape
        const uint8_t* data
        size_t size
        uint32_t canonical
        Fields fields
        uint32_t item_count
        Fault item_fault
        uint32_t entry_count
        Span* keys
        Span* values

    ctypedef struct XXH128_hash_t:
        uint64_t low64, high64

    XXH128_hash_t XXH3_128bits(const void* data, size_t size) noexcept nogil


# Puts one item where the command keeps it. What is wrong with it goes to fault; the index is added by the caller.
ctypedef void (*ItemSink)(const Fields* item, uint32_t index, void* command, Fault* fault) noexcept nogil


# INVALID_ARGUMENT for a field, or for the message as a whole when the name is NULL. Always 0, to be returned.
cdef int refuse(Fault* fault, const char* name, const char* description) noexcept nogil:
    fault.code = CODE_INVALID_ARGUMENT
    fault.reason = b"INVALID_FIELD"
    fault.field = name
    fault.index = -1
    fault.subfield = NULL
    fault.description = description
    fault.resource = 0
    fault.shop_id = span_empty()
    fault.id = span_empty()
    return 0


cdef int refuse_malformed(Fault* fault) noexcept nogil:
    refuse(fault, NULL, b"The bytes are no protobuf message of this type.")
    fault.reason = b"MALFORMED_MESSAGE"
    return 0


# The order of entries: bytewise, and of two keys of which one begins the other, the longer first.
cdef int compare_keys(Span a, Span b) noexcept nogil:
    cdef int order = memcmp(a.data, b.data, a.size if a.size < b.size else b.size)
    if order != 0:
        return order
    return <int>(b.size > a.size) - <int>(b.size < a.size)


# Takes an entry; the last of equal keys wins. Beyond the bound only the fact is kept, so that no input makes this slow.
cdef void add_entry(Request* request, Span key, Span value) noexcept nogil:
    cdef uint32_t i, count = request.entry_count
    cdef int order = -1
    if count > <uint32_t>ATTRIBUTES_MAX:
        return
    for i in range(count):
        order = compare_keys(request.keys[i], key)
        if order == 0:
            request.values[i] = value
            request.canonical = 0
            return
    if order > 0:
        request.canonical = 0
    if count < <uint32_t>ATTRIBUTES_MAX:
        request.keys[count] = key
        request.values[count] = value
    request.entry_count = count + 1


# upb takes an entry that has unknown fields for an unknown field as a whole, and so it is none here either.
cdef int read_entry(Request* request, Reader* reader, Span body) noexcept nogil:
    cdef Fields entry
    cdef int found = read_item(reader, body, &SHAPE_ENTRY, &entry)
    if found != 1:
        return found != 0
    if not (has(&entry, 1) and has(&entry, 2)):
        reader.canonical = 0
    add_entry(request, text_in(&entry, 1), text_in(&entry, 2))
    return 1


cdef inline int read_command_item(
    Request* request, Reader* reader, Span body, ItemSink sink, void* command
) noexcept nogil:
    cdef Fields item
    if not read_item(reader, body, request.shape.item, &item):
        return 0
    if request.item_count < request.shape.items_max and request.item_fault.code == CODE_OK:
        sink(&item, request.item_count, command, &request.item_fault)
        if UNLIKELY(request.item_fault.code != CODE_OK):
            request.item_fault.index = <int>request.item_count
    request.item_count += 1
    return 1


# Reads all of a request, for what is malformed outweighs what is merely out of bounds. 0: fault is filled. Inline, so
# that the sink becomes a direct call; that is a tenth of the time of a short order.
cdef inline int read_request(
    Request* request, int kind, const uint8_t* data, size_t size, ItemSink sink, void* command, Fault* fault
) noexcept nogil:
    cdef Reader reader
    cdef int number = 0, ok = 1
    request.shape = SHAPES[kind]
    request.data = data if size != 0 else <const uint8_t*>b""
    request.size = size
    request.canonical = 1
    request.fields.present = 0
    request.item_count = 0
    request.item_fault.code = CODE_OK
    request.entry_count = 0
    if UNLIKELY(size > <size_t>MESSAGE_BYTES_MAX):
        return refuse(fault, NULL, b"The message must be at most 4 MiB.")
    reader = reader_of(request.data, size, GROUP_DEPTH_MAX)
    while reader.at < reader.end:
        number = next_field(&reader, request.shape, &request.fields)
        if number > 0:
            if request.shape.type[number] == <uint8_t>F_ITEM:
                ok = read_command_item(request, &reader, request.fields.slots[number].text, sink, command)
            else:
                ok = read_entry(request, &reader, request.fields.slots[number].text)
        if UNLIKELY(number < 0 or not ok):
            return refuse_malformed(fault)
    request.canonical &= reader.canonical
    return 1


cdef uint8_t* put_scalar(uint8_t* at, const Shape* shape, const Fields* fields, uint32_t number) noexcept nogil:
    cdef bint default_too = (shape.optional >> number) & 1
    if not has(fields, number):
        return at
    if shape.type[number] == <uint8_t>F_STRING:
        return put_text(at, number, fields.slots[number].text)
    if default_too:
        return put_number_always(at, number, fields.slots[number].number)
    return put_number(at, number, fields.slots[number].number)


# Items are read again, as what the command keeps of them is not their bytes.
cdef uint8_t* put_items(uint8_t* at, const Request* request, uint32_t number) noexcept nogil:
    cdef Reader reader = reader_of(request.data, request.size, GROUP_DEPTH_MAX)
    cdef Fields outer, item
    cdef uint32_t i
    cdef uint8_t* body
    outer.present = 0
    while reader.at < reader.end:
        if next_field(&reader, request.shape, &outer) != <int>number:
            continue
        read_item(&reader, outer.slots[number].text, request.shape.item, &item)
        body = begin_message(at, number)
        at = body
        for i in range(1, <uint32_t>SLOTS):
            at = put_scalar(at, request.shape.item, &item, i)
        at = end_message(body, at)
    return at


cdef void sort_entries(Request* request) noexcept nogil:
    cdef uint32_t i, k
    cdef Span key, value
    for i in range(1, request.entry_count):
        key = request.keys[i]
        value = request.values[i]
        k = i
        while k > 0 and compare_keys(request.keys[k - 1], key) > 0:
            request.keys[k] = request.keys[k - 1]
            request.values[k] = request.values[k - 1]
            k -= 1
        request.keys[k] = key
        request.values[k] = value


cdef uint8_t* put_entries(uint8_t* at, Request* request, uint32_t number) noexcept nogil:
    cdef uint32_t i
    cdef uint8_t* body
    sort_entries(request)
    for i in range(request.entry_count):
        body = begin_message(at, number)
        at = put_body(body, 1, request.keys[i])
        at = put_body(at, 2, request.values[i])
        at = end_message(body, at)
    return at


# Canonical bytes of a request that passed every check, in place of what scratch held. They are never longer than the
# request, but for the fields that an entry may lack.
cdef void write_canonical(Request* request, Buffer* scratch, CommandHead* head) noexcept nogil:
    cdef uint8_t* at
    cdef uint32_t number
    scratch.size = 0
    at = buffer_reserve(scratch, request.size + 8 * <size_t>ATTRIBUTES_MAX)
    for number in range(1, <uint32_t>SLOTS):
        if number == 15:
            head.content_size = <uint32_t>(at - scratch.data)
        if request.shape.type[number] == <uint8_t>F_ITEM:
            at = put_items(at, request, number)
        elif request.shape.type[number] == <uint8_t>F_ENTRY:
            at = put_entries(at, request, number)
        else:
            at = put_scalar(at, request.shape, &request.fields, number)
    buffer_end(scratch, at)
    head.canonical = span_of(scratch.data, scratch.size)


# The last step of every decoder: canonical bytes and their bound.
cdef int finish_request(Request* request, CommandHead* head, Buffer* scratch, Fault* fault) noexcept nogil:
    if LIKELY(request.canonical):
        head.canonical = span_of(request.data, request.size)
        head.content_size = head.canonical.size
        if has(&request.fields, 15):
            head.content_size -= 1 + varint_size(request.fields.slots[15].number)
    else:
        write_canonical(request, scratch, head)
    if UNLIKELY(head.canonical.size > <uint32_t>RECORD_COMMAND_BYTES_MAX):
        return refuse(fault, NULL, b"The message must be at most 64 KiB.")
    return 1


# What tells a retry from a conflict: 128 bits over the content.
cdef void content_hash(const CommandHead* head, uint64_t* out) noexcept nogil:
    cdef XXH128_hash_t hashed = XXH3_128bits(head.canonical.data, head.content_size)
    out[0] = hashed.low64
    out[1] = hashed.high64
