# Requests -> fixed-width commands, with every bound checked that needs no state.
#
# Each decoder gives 1, or 0 with the fault filled. Which fault: one that keeps the message from parsing, then the field
# with the lowest number (its count before its items, of these the lowest index), at last the length of the whole.
# Text in a command points into the request; head.canonical points there too, or into scratch, where it lasts until the
# next request is decoded with it.

cdef extern from *:
    """
    #define SAYS_ID "must be 1 to 64 printable ASCII characters without space"
    #define SAYS_ID_OR_NONE "must be empty or 1 to 64 printable ASCII characters without space"
    #define SAYS_ENUM "is not a value that this server knows"
    #define SAYS_AMOUNT "must be 0 to 1,000,000,000,000,000"
    #define SAYS_PRICE "must be 0 to 1,000,000,000,000"
    #define SAYS_TIME "must be 0 to 253,402,300,799,999 ms"
    """
    const char* SAYS_ID
    const char* SAYS_ID_OR_NONE
    const char* SAYS_ENUM
    const char* SAYS_AMOUNT
    const char* SAYS_PRICE
    const char* SAYS_TIME


# 0x80 in each byte that is not in 0x21..0x7E; what a carry out of such a byte does to the next one no longer matters.
cdef inline uint64_t not_printable(uint64_t word) noexcept nogil:
    return (word | (word + 0x0101010101010101ULL) | ~(word + 0x5F5F5F5F5F5F5F5FULL)) & 0x8080808080808080ULL


cdef inline bint is_printable(const uint8_t* data, size_t size) noexcept nogil:
    cdef uint64_t bad
    cdef size_t i = 0
    if LIKELY(size >= 8):
        bad = not_printable(load_u64(data + size - 8))
        while i + 8 < size:
            bad |= not_printable(load_u64(data + i))
            i += 8
        return bad == 0
    for i in range(size):
        if data[i] < 0x21 or data[i] > 0x7E:
            return False
    return True


cdef inline int take_id(
    const Fields* fields, uint32_t number, const char* name, Span* out, Fault* fault
) noexcept nogil:
    out[0] = text_in(fields, number)
    if LIKELY(0 < out.size <= <uint32_t>ID_BYTES_MAX and is_printable(out.data, out.size)):
        return 1
    return refuse(fault, name, SAYS_ID)


cdef inline int take_id_or_none(
    const Fields* fields, uint32_t number, const char* name, Span* out, Fault* fault
) noexcept nogil:
    out[0] = text_in(fields, number)
    if LIKELY(out.size <= <uint32_t>ID_BYTES_MAX and is_printable(out.data, out.size)):
        return 1
    return refuse(fault, name, SAYS_ID_OR_NONE)


cdef inline int take_number(
    const Fields* fields, uint32_t number, const char* name, int64_t low, int64_t high, const char* says, int64_t* out,
    Fault* fault
) noexcept nogil:
    out[0] = <int64_t>number_in(fields, number)
    if LIKELY(low <= out[0] <= high):
        return 1
    return refuse(fault, name, says)


# The values of an enum are 0 to last; 0 means the fallback.
cdef inline int take_enum(
    const Fields* fields, uint32_t number, const char* name, uint8_t last, uint8_t fallback, uint8_t* out, Fault* fault
) noexcept nogil:
    cdef uint64_t value = number_in(fields, number)
    out[0] = <uint8_t>value if value != 0 else fallback
    if LIKELY(value <= last):
        return 1
    return refuse(fault, name, SAYS_ENUM)


# The number of items, then what was wrong with one of them while they were read.
cdef inline int take_items(
    Request* request, uint32_t least, const char* says, uint32_t* count, Fault* fault
) noexcept nogil:
    count[0] = request.item_count
    if UNLIKELY(not (least <= request.item_count <= request.shape.items_max)):
        return refuse(fault, request.shape.items_name, says)
    if LIKELY(request.item_fault.code == CODE_OK):
        return 1
    fault[0] = request.item_fault
    fault.subfield = fault.field
    fault.field = request.shape.items_name
    return 0


cdef void take_place_line(const Fields* item, uint32_t index, void* command, Fault* fault) noexcept nogil:
    cdef PlaceLine* line = &(<PlaceOrder*>command).lines[index]
    cdef int64_t quantity = 0
    line.has_amount = has(item, 3)
    line.has_expected_price = has(item, 4)
    if (
        take_id(item, 1, b"sku_id", &line.sku_id, fault)
        and take_number(item, 2, b"quantity", 1, QUANTITY_MAX, b"must be 1 to 100,000,000", &quantity, fault)
        and take_number(item, 3, b"amount_minor", 0, AMOUNT_MINOR_MAX, SAYS_AMOUNT, &line.amount, fault)
    ):
        take_number(item, 4, b"expected_price_minor", 0, PRICE_MINOR_MAX, SAYS_PRICE, &line.expected_price, fault)
    line.quantity = <uint32_t>quantity


# 64 lines of the greatest amount fit 64 bits, so that the sum may be looked at afterwards.
cdef int take_line_amounts(const PlaceOrder* order, Fault* fault) noexcept nogil:
    cdef int64_t total = 0
    cdef uint32_t i
    for i in range(order.line_count):
        total += order.lines[i].amount
    if LIKELY(total <= AMOUNT_MINOR_MAX):
        return 1
    return refuse(fault, b"lines", b"must have amounts of 1,000,000,000,000,000 at most in all")


cdef int take_attributes(const Request* request, Fault* fault) noexcept nogil:
    cdef uint64_t total = 0
    cdef uint32_t i
    if UNLIKELY(request.entry_count > <uint32_t>ATTRIBUTES_MAX):
        return refuse(fault, b"attributes", b"must be at most 16 pairs")
    for i in range(request.entry_count):
        total += request.keys[i].size + <uint64_t>request.values[i].size
    if LIKELY(total <= <uint64_t>ATTRIBUTES_BYTES_MAX):
        return 1
    return refuse(fault, b"attributes", b"must have at most 256 bytes of keys and values in all")


cdef int decode_place_order(
    const uint8_t* data, size_t size, PlaceOrder* out, Buffer* scratch, Fault* fault
) noexcept nogil:
    cdef Request request
    cdef const Fields* fields = &request.fields
    cdef int64_t priority_class = 0
    if not read_request(&request, PLACE_ORDER, data, size, take_place_line, out, fault):
        return 0
    out.allow_split = <int8_t>number_in(fields, 7) if has(fields, 7) else -1
    if not (
        take_id(fields, 1, b"order_id", &out.order_id, fault)
        and take_id(fields, 2, b"shop_id", &out.head.shop_id, fault)
        and take_id(fields, 3, b"buyer_id", &out.buyer_id, fault)
        and take_items(&request, 1, b"must have 1 to 64 entries", &out.line_count, fault)
        and take_line_amounts(out, fault)
        and take_id_or_none(fields, 5, b"region", &out.region, fault)
        and take_enum(fields, 6, b"strategy", 4, 0, &out.strategy, fault)
        and take_number(fields, 8, b"priority_class", 0, PRIORITY_CLASS_MAX, b"must be 0 to 9", &priority_class, fault)
        and take_number(fields, 9, b"placed_at_ms", 0, TIME_MS_MAX, SAYS_TIME, &out.placed_at_ms, fault)
        and take_attributes(&request, fault)
        and take_number(fields, 15, b"first_sent_at_ms", 0, TIME_MS_MAX, SAYS_TIME, &out.first_sent_at_ms, fault)
    ):
        return 0
    out.priority_class = <uint8_t>priority_class
    return finish_request(&request, &out.head, scratch, fault)


# LineQuantity and ShipLine; the former has no field 3. Of line_index only the bound is known here, not the order.
cdef void take_line_quantity(const Fields* item, uint32_t index, void* command, Fault* fault) noexcept nogil:
    cdef LineQuantity* line = &(<OrderCommand*>command).lines[index]
    cdef int64_t line_index = 0, quantity = 0
    if (
        take_number(item, 1, b"line_index", 0, LINES_MAX - 1, b"must be 0 to 63", &line_index, fault)
        and take_number(item, 2, b"quantity", 1, UINT32_MAX, b"must be at least 1", &quantity, fault)
    ):
        take_id_or_none(item, 3, b"location_id", &line.location_id, fault)
    line.line_index = <uint32_t>line_index
    line.quantity = <uint32_t>quantity


# The fields from number 4 on, which differ by kind.
cdef int take_order_command(int kind, Request* request, OrderCommand* out, Fault* fault) noexcept nogil:
    cdef const Fields* fields = &request.fields
    if kind == PAY_ORDER or kind == SETTLE_REFUND:
        return take_number(fields, 4, b"amount_minor", 0, AMOUNT_MINOR_MAX, SAYS_AMOUNT, &out.amount, fault)
    if kind == SHIP_ORDER:
        return take_items(request, 0, b"must have at most 256 entries", &out.line_count, fault)
    if not take_items(request, 0, b"must have at most 64 entries", &out.line_count, fault):
        return 0
    if kind == CANCEL_ORDER and text_in(fields, 5).size > <uint32_t>REASON_BYTES_MAX:
        return refuse(fault, b"reason", b"must be at most 128 bytes")
    if kind == RETURN_ORDER:
        return (
            take_enum(fields, 5, b"disposition", 2, 1, &out.disposition, fault)
            and take_id_or_none(fields, 6, b"location_id", &out.location_id, fault)
        )
    return 1


cdef int decode_order_command(
    int kind, const uint8_t* data, size_t size, OrderCommand* out, Buffer* scratch, Fault* fault
) noexcept nogil:
    cdef Request request
    cdef const Fields* fields = &request.fields
    if not read_request(&request, kind, data, size, take_line_quantity, out, fault):
        return 0
    out.amount = 0
    out.disposition = 0
    out.location_id = span_empty()
    out.line_count = 0
    return (
        take_id(fields, 1, b"shop_id", &out.head.shop_id, fault)
        and take_id(fields, 2, b"order_id", &out.order_id, fault)
        and take_id(fields, 3, b"payment_id" if kind == PAY_ORDER else b"command_id", &out.command_id, fault)
        and take_order_command(kind, &request, out, fault)
        and finish_request(&request, &out.head, scratch, fault)
    )


cdef void take_region_cost(const Fields* item, uint32_t index, void* command, Fault* fault) noexcept nogil:
    cdef RegionCost* cost = &(<PutShop*>command).costs[index]
    if take_id(item, 1, b"from_region", &cost.from_region, fault):
        take_id(item, 2, b"to_region", &cost.to_region, fault)
    cost.cost = <uint32_t>number_in(item, 3)


cdef int take_currency(const Fields* fields, uint32_t number, uint8_t* out, Fault* fault) noexcept nogil:
    cdef Span given = text_in(fields, number)
    cdef uint32_t i
    if given.size == 0:
        memcpy(out, b"CNY", CURRENCY_BYTES)
        return 1
    if given.size != <uint32_t>CURRENCY_BYTES:
        return refuse(fault, b"currency", b"must be empty or three letters A to Z")
    for i in range(given.size):
        if not 0x41 <= given.data[i] <= 0x5A:
            return refuse(fault, b"currency", b"must be empty or three letters A to Z")
    memcpy(out, given.data, CURRENCY_BYTES)
    return 1


cdef int decode_put_shop(const uint8_t* data, size_t size, PutShop* out, Buffer* scratch, Fault* fault) noexcept nogil:
    cdef Request request
    cdef const Fields* fields = &request.fields
    if not read_request(&request, PUT_SHOP, data, size, take_region_cost, out, fault):
        return 0
    out.allow_split = <uint8_t>number_in(fields, 4) if has(fields, 4) else 1
    out.has_if_revision = has(fields, 15)
    out.if_revision = number_in(fields, 15)
    return (
        take_id(fields, 1, b"shop_id", &out.head.shop_id, fault)
        and take_currency(fields, 2, out.currency, fault)
        and take_enum(fields, 3, b"strategy", 4, 1, &out.strategy, fault)
        and take_items(&request, 0, b"must have at most 1,024 entries", &out.cost_count, fault)
        and take_enum(fields, 6, b"status", 3, 1, &out.status, fault)
        and finish_request(&request, &out.head, scratch, fault)
    )


cdef int decode_put_location(
    const uint8_t* data, size_t size, PutLocation* out, Buffer* scratch, Fault* fault
) noexcept nogil:
    cdef Request request
    cdef const Fields* fields = &request.fields
    if not read_request(&request, PUT_LOCATION, data, size, NULL, out, fault):
        return 0
    out.priority = <uint32_t>number_in(fields, 5)
    out.has_if_revision = has(fields, 15)
    out.if_revision = number_in(fields, 15)
    return (
        take_id(fields, 1, b"shop_id", &out.head.shop_id, fault)
        and take_id(fields, 2, b"location_id", &out.location_id, fault)
        and take_enum(fields, 3, b"kind", 2, 1, &out.kind, fault)
        and take_id_or_none(fields, 4, b"region", &out.region, fault)
        and take_enum(fields, 6, b"status", 3, 1, &out.status, fault)
        and finish_request(&request, &out.head, scratch, fault)
    )


cdef void take_safety_stock(const Fields* item, uint32_t index, void* command, Fault* fault) noexcept nogil:
    cdef SafetyStock* row = &(<PutSku*>command).overrides[index]
    take_id(item, 1, b"location_id", &row.location_id, fault)
    row.quantity = <uint32_t>number_in(item, 2)


cdef int take_sku_settings(Request* request, PutSku* out, Fault* fault) noexcept nogil:
    cdef const Fields* fields = &request.fields
    cdef uint8_t policy = 0
    if not (
        take_number(fields, 3, b"price_minor", 0, PRICE_MINOR_MAX, SAYS_PRICE, &out.price, fault)
        and take_enum(fields, 4, b"status", 3, 1, &out.status, fault)
        and take_number(fields, 7, b"buyer_window_ms", 0, BUYER_WINDOW_MS_MAX, b"must be 0 to 7,776,000,000 ms",
                        &out.buyer_window_ms, fault)
        and take_enum(fields, 8, b"backorder_policy", 2, 1, &policy, fault)
        and take_items(request, 0, b"must have at most 256 entries", &out.override_count, fault)
        and take_number(fields, 12, b"reserve_ttl_ms", 0, RESERVE_TTL_MS_MAX, b"must be 0 to 2,592,000,000 ms",
                        &out.reserve_ttl_ms, fault)
    ):
        return 0
    out.backorder_allowed = policy == 2
    if out.buyer_window_ms == 0:
        out.buyer_window_ms = BUYER_WINDOW_MS_DEFAULT
    if out.reserve_ttl_ms == 0:
        out.reserve_ttl_ms = RESERVE_TTL_MS_DEFAULT
    return 1


cdef int decode_put_sku(const uint8_t* data, size_t size, PutSku* out, Buffer* scratch, Fault* fault) noexcept nogil:
    cdef Request request
    cdef const Fields* fields = &request.fields
    if not read_request(&request, PUT_SKU, data, size, take_safety_stock, out, fault):
        return 0
    out.buyer_limit_per_order = <uint32_t>number_in(fields, 5)
    out.buyer_limit_per_window = <uint32_t>number_in(fields, 6)
    out.backorder_limit = <uint32_t>number_in(fields, 9)
    out.safety_stock = <uint32_t>number_in(fields, 10)
    out.has_if_revision = has(fields, 15)
    out.if_revision = number_in(fields, 15)
    return (
        take_id(fields, 1, b"shop_id", &out.head.shop_id, fault)
        and take_id(fields, 2, b"sku_id", &out.sku_id, fault)
        and take_sku_settings(&request, out, fault)
        and finish_request(&request, &out.head, scratch, fault)
    )


# What a delta must be depends on the kind. It is looked at under the delta's number, so before the kind itself; of an
# unknown kind only the range counts. kind: as given, and resolved where none was.
cdef int take_delta(int64_t delta, uint64_t given, uint8_t* kind, Fault* fault) noexcept nogil:
    if not -STOCK_MAX <= delta <= STOCK_MAX:
        return refuse(fault, b"delta", b"must be -1,000,000,000,000 to 1,000,000,000,000")
    kind[0] = <uint8_t>(given if given != 0 else 1 if delta > 0 else 2)
    if delta == 0 and (given == 0 or given == 2):
        return refuse(fault, b"delta", b"must not be 0")
    if delta <= 0 and given == 1:
        return refuse(fault, b"delta", b"must be positive for RESTOCK")
    if delta < 0 and given == 3:
        return refuse(fault, b"delta", b"must not be negative for COUNT")
    return 1


cdef int take_adjustment(const Fields* fields, StockCommand* out, Fault* fault) noexcept nogil:
    cdef uint64_t kind = number_in(fields, 6)
    out.quantity = <int64_t>number_in(fields, 5)
    out.to_location_id = span_empty()
    return (
        take_id(fields, 1, b"adjustment_id", &out.id, fault)
        and take_id(fields, 2, b"shop_id", &out.head.shop_id, fault)
        and take_id(fields, 3, b"sku_id", &out.sku_id, fault)
        and take_id(fields, 4, b"location_id", &out.location_id, fault)
        and take_delta(out.quantity, kind, &out.kind, fault)
        and (kind <= 3 or refuse(fault, b"kind", SAYS_ENUM))
    )


cdef inline bint same_text(Span a, Span b) noexcept nogil:
    return a.size == b.size and memcmp(a.data, b.data, a.size) == 0


cdef int take_transfer(const Fields* fields, StockCommand* out, Fault* fault) noexcept nogil:
    out.kind = 0
    if not (
        take_id(fields, 1, b"transfer_id", &out.id, fault)
        and take_id(fields, 2, b"shop_id", &out.head.shop_id, fault)
        and take_id(fields, 3, b"sku_id", &out.sku_id, fault)
        and take_id(fields, 4, b"from_location_id", &out.location_id, fault)
        and take_id(fields, 5, b"to_location_id", &out.to_location_id, fault)
    ):
        return 0
    if same_text(out.location_id, out.to_location_id):
        return refuse(fault, b"to_location_id", b"must differ from from_location_id")
    return take_number(fields, 6, b"quantity", 1, STOCK_MAX, b"must be 1 to 1,000,000,000,000", &out.quantity, fault)


cdef int decode_stock_command(
    int kind, const uint8_t* data, size_t size, StockCommand* out, Buffer* scratch, Fault* fault
) noexcept nogil:
    cdef Request request
    cdef const Fields* fields = &request.fields
    if not read_request(&request, kind, data, size, NULL, out, fault):
        return 0
    if not (take_adjustment(fields, out, fault) if kind == ADJUST_STOCK else take_transfer(fields, out, fault)):
        return 0
    return (
        take_number(fields, 15, b"first_sent_at_ms", 0, TIME_MS_MAX, SAYS_TIME, &out.first_sent_at_ms, fault)
        and finish_request(&request, &out.head, scratch, fault)
    )


cdef int decode_activate(const uint8_t* data, size_t size, Activate* out, Buffer* scratch, Fault* fault) noexcept nogil:
    cdef Request request
    cdef const Fields* fields = &request.fields
    cdef CommandHead head
    cdef int64_t level = 0, entries_max = 0
    if not (
        read_request(&request, ACTIVATE, data, size, NULL, out, fault)
        and take_number(fields, 1, b"level", 1, LEVEL_MAX, b"is not a level that this server knows", &level, fault)
        and take_number(fields, 2, b"idempotency_window_ms", 1, TIME_MS_MAX, b"must be 1 to 253,402,300,799,999 ms",
                        &out.window_ms, fault)
        and take_number(fields, 3, b"idempotency_entries_max", 1, UINT32_MAX, b"must be at least 1", &entries_max,
                        fault)
        and finish_request(&request, &head, scratch, fault)
    ):
        return 0
    out.level = <uint32_t>level
    out.entries_max = <uint32_t>entries_max
    out.canonical = head.canonical
    return 1


cdef int decode_evict(const uint8_t* data, size_t size, Evict* out, Buffer* scratch, Fault* fault) noexcept nogil:
    cdef Request request
    cdef CommandHead head
    cdef int64_t sequence = 0
    if not (
        read_request(&request, EVICT, data, size, NULL, out, fault)
        and take_number(&request.fields, 1, b"closed_sequence", 1, INT64_MAX, b"must be at least 1", &sequence, fault)
        and finish_request(&request, &head, scratch, fault)
    ):
        return 0
    out.closed_sequence = <uint64_t>sequence
    out.canonical = head.canonical
    return 1


# The item is larger than other commands may be, and is looked into by whoever restores it. Of several, the last counts.
cdef int decode_restore(const uint8_t* data, size_t size, Restore* out, Buffer* scratch, Fault* fault) noexcept nogil:
    cdef Fields fields
    cdef Reader reader
    cdef uint8_t* at
    if size > <size_t>RECORD_BYTES_MAX:
        return refuse(fault, NULL, b"The message must be at most 4 MiB.")
    fields.present = 0
    reader = reader_of(data if size else <const uint8_t*>b"", size, GROUP_DEPTH_MAX)
    while reader.at < reader.end:
        if next_field(&reader, SHAPES[RESTORE], &fields) < 0:
            return refuse_malformed(fault)
    if not take_id(&fields, 1, b"shop_id", &out.shop_id, fault):
        return 0
    out.item = text_in(&fields, 2)
    if not 0 < out.item.size <= <uint32_t>ARCHIVED_ORDER_BYTES_MAX:
        return refuse(fault, b"item", b"must have 1 to 196,608 bytes")
    scratch.size = 0
    at = buffer_reserve(scratch, <size_t>out.shop_id.size + out.item.size + 16)
    at = put_body(put_body(at, 1, out.shop_id), 2, out.item)
    buffer_end(scratch, at)
    out.canonical = span_of(scratch.data, scratch.size)
    return 1


cdef int decode_get(int kind, const uint8_t* data, size_t size, GetRequest* out, Fault* fault) noexcept nogil:
    cdef Request request
    cdef const Fields* fields = &request.fields
    return (
        read_request(&request, kind, data, size, NULL, out, fault)
        and take_id(fields, 1, b"shop_id", &out.shop_id, fault)
        and take_id(fields, 2, b"order_id" if kind == GET_ORDER else b"sku_id", &out.id, fault)
    )


# The next item of a batch (field 1 of it), from offset on. 1: item is set; 0: there is none; -1: malformed. Items are
# looked into by the decoder of their kind, so that a bad one is answered in its place.
cdef int batch_next(const uint8_t* data, size_t size, size_t* offset, Span* item, Fault* fault) noexcept nogil:
    cdef Reader reader
    cdef Fields fields
    cdef int number
    if offset[0] >= size:
        return 0
    reader = reader_of(data + offset[0], size - offset[0], GROUP_DEPTH_MAX)
    fields.present = 0
    while reader.at < reader.end:
        number = next_field(&reader, &SHAPE_BATCH, &fields)
        offset[0] = <size_t>(reader.at - data)
        if number < 0:
            refuse_malformed(fault)
            return -1
        if number == 1:
            item[0] = fields.slots[1].text
            return 1
    return 0


# How many items a batch of the kind has, -1 with the fault when it is malformed or has too many. To be asked before the
# first item is carried out, so that batch_next finds nothing malformed later.
cdef int batch_count(int kind, const uint8_t* data, size_t size, Fault* fault) noexcept nogil:
    cdef size_t offset = 0
    cdef Span item
    cdef int count = 0, more = 1
    while more == 1 and count <= BATCH_ITEMS_MAX:
        more = batch_next(data, size, &offset, &item, fault)
        count += more == 1
    if more < 0:
        return -1
    if count > BATCH_ITEMS_MAX:
        refuse(fault, b"orders" if kind == PLACE_ORDER else b"requests", b"must have at most 1,024 entries")
        return -1
    return count
