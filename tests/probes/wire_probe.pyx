"""The wire stage, leaf by leaf, for tests: requests in, dicts or faults out; views in as tuples, bytes out."""

include "_platform.pxi"
include "_limits.pxi"
include "_types.pxi"
include "_wire_read.pxi"
include "_wire_write.pxi"
include "_wire_request.pxi"
include "_wire_decode.pxi"
include "_wire_encode.pxi"
include "_wire_status.pxi"

cdef extern from "<time.h>" nogil:
    cdef struct timespec:
        long tv_sec, tv_nsec
    const int CLOCK_MONOTONIC
    int clock_gettime(int clock, timespec* now)

KINDS = {
    "PlaceOrder": PLACE_ORDER, "PayOrder": PAY_ORDER, "CancelOrder": CANCEL_ORDER, "ShipOrder": SHIP_ORDER,
    "DeliverOrder": DELIVER_ORDER, "ReturnOrder": RETURN_ORDER, "SettleRefund": SETTLE_REFUND, "PutShop": PUT_SHOP,
    "PutLocation": PUT_LOCATION, "PutSku": PUT_SKU, "AdjustStock": ADJUST_STOCK, "TransferStock": TRANSFER_STOCK,
    "Activate": ACTIVATE, "GetOrder": GET_ORDER, "GetStock": GET_STOCK,
}
LIMITS = {
    "BATCH_ITEMS_MAX": BATCH_ITEMS_MAX, "RECORD_COMMAND_BYTES_MAX": RECORD_COMMAND_BYTES_MAX, "LINES_MAX": LINES_MAX,
    "ALLOCATIONS_MAX": ALLOCATIONS_MAX, "AMOUNT_MINOR_MAX": AMOUNT_MINOR_MAX, "PRICE_MINOR_MAX": PRICE_MINOR_MAX,
    "QUANTITY_MAX": QUANTITY_MAX, "STOCK_MAX": STOCK_MAX, "TIME_MS_MAX": TIME_MS_MAX,
    "BUYER_WINDOW_MS_MAX": BUYER_WINDOW_MS_MAX, "RESERVE_TTL_MS_MAX": RESERVE_TTL_MS_MAX,
    "BUYER_WINDOW_MS_DEFAULT": BUYER_WINDOW_MS_DEFAULT, "RESERVE_TTL_MS_DEFAULT": RESERVE_TTL_MS_DEFAULT,
    "REGION_COSTS_MAX": REGION_COSTS_MAX, "SAFETY_OVERRIDES_MAX": SAFETY_OVERRIDES_MAX, "LEVEL_MAX": LEVEL_MAX,
    "ATTRIBUTES_MAX": ATTRIBUTES_MAX, "ATTRIBUTES_BYTES_MAX": ATTRIBUTES_BYTES_MAX,
    "REASON_BYTES_MAX": REASON_BYTES_MAX, "ID_BYTES_MAX": ID_BYTES_MAX,
}
TYPES = {
    F_UINT32: "uint32", F_UINT64: "uint64", F_INT64: "int64", F_ENUM: "enum", F_BOOL: "bool", F_STRING: "string",
    F_ITEM: "item", F_ENTRY: "entry",
}


# All commands in one place, as they are large; the tests are single-threaded.
cdef union Command:
    PlaceOrder place
    OrderCommand order
    PutShop shop
    PutLocation location
    PutSku sku
    StockCommand stock
    Activate activate
    GetRequest get

cdef Command command
cdef Buffer scratch
cdef Fault fault


# The request in memory of exactly its size, so that the sanitizers see a read beyond it.
cdef class Exact:
    cdef uint8_t* data
    cdef size_t size

    def __cinit__(self, bytes data):
        self.size = len(data)
        self.data = <uint8_t*>malloc(self.size)
        memcpy(self.data, <const uint8_t*>data, self.size)

    def __dealloc__(self):
        free(self.data)


cdef int decode_any(int kind, const uint8_t* data, size_t size) noexcept nogil:
    if kind == PLACE_ORDER:
        return decode_place_order(data, size, &command.place, &scratch, &fault)
    if kind <= SETTLE_REFUND:
        return decode_order_command(kind, data, size, &command.order, &scratch, &fault)
    if kind == PUT_SHOP:
        return decode_put_shop(data, size, &command.shop, &scratch, &fault)
    if kind == PUT_LOCATION:
        return decode_put_location(data, size, &command.location, &scratch, &fault)
    if kind == PUT_SKU:
        return decode_put_sku(data, size, &command.sku, &scratch, &fault)
    if kind == ADJUST_STOCK or kind == TRANSFER_STOCK:
        return decode_stock_command(kind, data, size, &command.stock, &scratch, &fault)
    if kind == ACTIVATE:
        return decode_activate(data, size, &command.activate, &scratch, &fault)
    return decode_get(kind, data, size, &command.get, &fault)


cdef bytes raw(Span span):
    return (<const char*>span.data)[:span.size]


cdef str text(Span span):
    return raw(span).decode()


cdef str string_or_none(const char* chars):
    return None if chars == NULL else chars.decode()


class Refused(Exception):
    """A fault: code, reason, field, index (None: no index), subfield, description, and the Status that it becomes."""

    def __init__(self, code, reason, field, index, subfield, description, status):
        super().__init__(code, reason, field, index, subfield, description)
        self.code, self.reason, self.field, self.index = code, reason, field, index
        self.subfield, self.description, self.status = subfield, description, status

    @property
    def path(self):
        if self.index is None:
            return self.field or ""
        return f"{self.field}[{self.index}]" + (f".{self.subfield}" if self.subfield else "")


cdef bytes taken(Buffer* buffer):
    cdef bytes result = (<char*>buffer.data)[:buffer.size]
    buffer_free(buffer)
    return result


cdef object refused():
    cdef Buffer out
    memset(&out, 0, sizeof(out))
    encode_status(&out, &fault)
    return Refused(
        fault.code, string_or_none(fault.reason), string_or_none(fault.field), None if fault.index < 0 else fault.index,
        string_or_none(fault.subfield), string_or_none(fault.description), taken(&out),
    )


cdef dict place_order_fields():
    cdef PlaceOrder* order = &command.place
    return {
        "order_id": text(order.order_id), "buyer_id": text(order.buyer_id), "region": text(order.region),
        "strategy": order.strategy, "allow_split": order.allow_split, "priority_class": order.priority_class,
        "placed_at_ms": order.placed_at_ms, "first_sent_at_ms": order.first_sent_at_ms,
        "lines": [
            (text(line.sku_id), line.quantity, line.amount if line.has_amount else None,
             line.expected_price if line.has_expected_price else None)
            for line in order.lines[:order.line_count]
        ],
    }


cdef dict order_command_fields(int kind):
    cdef OrderCommand* order = &command.order
    return {
        "order_id": text(order.order_id), "command_id": text(order.command_id), "amount": order.amount,
        "disposition": order.disposition, "location_id": text(order.location_id),
        "lines": [
            (line.line_index, line.quantity, text(line.location_id)) for line in order.lines[:order.line_count]
        ],
    }


cdef dict put_shop_fields():
    cdef PutShop* shop = &command.shop
    return {
        "currency": (<const char*>shop.currency)[:CURRENCY_BYTES].decode(), "strategy": shop.strategy,
        "allow_split": shop.allow_split, "status": shop.status,
        "if_revision": shop.if_revision if shop.has_if_revision else None,
        "costs": [(text(cost.from_region), text(cost.to_region), cost.cost) for cost in shop.costs[:shop.cost_count]],
    }


cdef dict put_location_fields():
    cdef PutLocation* location = &command.location
    return {
        "location_id": text(location.location_id), "region": text(location.region), "kind": location.kind,
        "status": location.status, "priority": location.priority,
        "if_revision": location.if_revision if location.has_if_revision else None,
    }


cdef dict put_sku_fields():
    cdef PutSku* sku = &command.sku
    return {
        "sku_id": text(sku.sku_id), "price": sku.price, "buyer_window_ms": sku.buyer_window_ms,
        "reserve_ttl_ms": sku.reserve_ttl_ms, "buyer_limit_per_order": sku.buyer_limit_per_order,
        "buyer_limit_per_window": sku.buyer_limit_per_window, "backorder_limit": sku.backorder_limit,
        "safety_stock": sku.safety_stock, "status": sku.status, "backorder_allowed": sku.backorder_allowed,
        "if_revision": sku.if_revision if sku.has_if_revision else None,
        "overrides": [(text(row.location_id), row.quantity) for row in sku.overrides[:sku.override_count]],
    }


cdef dict stock_command_fields():
    cdef StockCommand* stock = &command.stock
    return {
        "id": text(stock.id), "sku_id": text(stock.sku_id), "location_id": text(stock.location_id),
        "to_location_id": text(stock.to_location_id), "quantity": stock.quantity, "kind": stock.kind,
        "first_sent_at_ms": stock.first_sent_at_ms,
    }


cdef dict command_fields(int kind):
    if kind == PLACE_ORDER:
        return place_order_fields()
    if kind <= SETTLE_REFUND:
        return order_command_fields(kind)
    if kind == PUT_SHOP:
        return put_shop_fields()
    if kind == PUT_LOCATION:
        return put_location_fields()
    if kind == PUT_SKU:
        return put_sku_fields()
    if kind == ADJUST_STOCK or kind == TRANSFER_STOCK:
        return stock_command_fields()
    if kind == ACTIVATE:
        return {
            "level": command.activate.level, "window_ms": command.activate.window_ms,
            "entries_max": command.activate.entries_max, "canonical": raw(command.activate.canonical),
        }
    return {"shop_id": text(command.get.shop_id), "id": text(command.get.id)}


def decode(int kind, bytes data):
    """The fields of the command, with "canonical", "content" and "hash" where it has them; raises Refused."""
    cdef Exact exact = Exact(data)
    cdef uint64_t[2] digest
    cdef CommandHead* head = <CommandHead*>&command
    cdef dict fields
    # Whatever a decoder forgets to set must not look right by chance.
    memset(&command, 0xA5, sizeof(command))
    memset(&fault, 0xA5, sizeof(fault))
    if not decode_any(kind, exact.data, exact.size):
        raise refused()
    fields = command_fields(kind)
    if kind < TICK:
        content_hash(head, digest)
        fields["shop_id"] = text(head.shop_id)
        fields["canonical"] = raw(head.canonical)
        fields["content"] = fields["canonical"][:head.content_size]
        fields["hash"] = int(digest[1]) << 64 | int(digest[0])
        fields["in_place"] = head.canonical.data == exact.data
    return fields


def batch(int kind, bytes data):
    """The items of a batch as bytes, first counted, then walked; raises Refused."""
    cdef Exact exact = Exact(data)
    cdef size_t offset = 0
    cdef Span item
    cdef int count, more
    cdef list items = []
    memset(&fault, 0xA5, sizeof(fault))
    count = batch_count(kind, exact.data, exact.size, &fault)
    if count < 0:
        raise refused()
    while True:
        more = batch_next(exact.data, exact.size, &offset, &item, &fault)
        if more <= 0:
            break
        items.append(raw(item))
    assert more == 0 and count == len(items)
    return items


cdef dict fields_of(const Shape* table):
    return {
        number: (TYPES[table.type[number]], bool(table.optional >> number & 1))
        for number in range(SLOTS) if table.type[number] != F_NONE
    }


def shape(int kind):
    """The table of a request message: {number: (type, optional)}, the same of its items, their bound and name."""
    cdef const Shape* table = SHAPES[kind]
    return (
        fields_of(table), None if table.item == NULL else fields_of(table.item), table.items_max,
        string_or_none(table.items_name),
    )


# Spans into bytes objects that the caller keeps alive; None: NULL.
cdef Span span_in(bytes data):
    cdef Span span
    span.data = NULL
    span.size = 0
    return span if data is None else span_of(<const uint8_t*>data, len(data))


cdef const uint8_t* pointer_to(bytes data):
    return span_in(data).data


def order(dict fields):
    """The body of an Order. Texts are bytes; lines and allocations are dicts."""
    cdef OrderView view
    cdef Buffer out
    cdef bytes currency = fields["currency"]
    memset(&out, 0, sizeof(out))
    fill_order(&view, fields)
    memcpy(view.currency, <const uint8_t*>currency, CURRENCY_BYTES)
    encode_order(&out, &view)
    return taken(&out)


cdef int fill_order(OrderView* view, dict fields) except -1:
    view.order_id = span_in(fields["order_id"])
    view.shop_id = span_in(fields["shop_id"])
    view.buyer_id = span_in(fields["buyer_id"])
    view.state, view.payment_state = fields["state"], fields["payment_state"]
    view.amount, view.received = fields["amount_minor"], fields["received_minor"]
    view.refunded, view.refund_due = fields["refunded_minor"], fields["refund_due_minor"]
    view.accepted_at_ms, view.expires_at_ms = fields["accepted_at_ms"], fields["expires_at_ms"]
    view.placed_at_ms, view.sequence = fields["placed_at_ms"], fields["sequence"]
    view.line_count, view.allocation_count = len(fields["lines"]), len(fields["allocations"])
    for i, line in enumerate(fields["lines"]):
        view.lines[i].sku_id = span_in(line["sku_id"])
        view.lines[i].amount, view.lines[i].quantity = line["amount_minor"], line["quantity"]
        view.lines[i].open, view.lines[i].shipped = line["open"], line["shipped"]
        view.lines[i].cancelled, view.lines[i].delivered = line["cancelled"], line["delivered"]
        view.lines[i].returned, view.lines[i].written_off = line["returned"], line["written_off"]
    for i, allocation in enumerate(fields["allocations"]):
        view.allocations[i].location_id = span_in(allocation["location_id"])
        view.allocations[i].line_index, view.allocations[i].quantity = allocation["line_index"], allocation["quantity"]
        view.allocations[i].shipped, view.allocations[i].released = allocation["shipped"], allocation["released"]
    return 0


def stock(dict fields):
    """The body of a StockLevel."""
    cdef StockView view
    cdef Buffer out
    memset(&out, 0, sizeof(out))
    view.shop_id, view.sku_id = span_in(fields["shop_id"]), span_in(fields["sku_id"])
    view.location_id = span_in(fields["location_id"])
    view.on_hand, view.reserved, view.available = fields["on_hand"], fields["reserved"], fields["available"]
    view.sellable, view.safety_stock, view.received = fields["sellable"], fields["safety_stock"], fields["received"]
    view.adjusted, view.moved_in, view.moved_out = fields["adjusted"], fields["moved_in"], fields["moved_out"]
    view.returned, view.shipped, view.written_off = fields["returned"], fields["shipped"], fields["written_off"]
    encode_stock(&out, &view)
    return taken(&out)


def order_response(int outcome, bytes body, uint64_t sequence, bint duplicate, bytes log_id, int refused_line):
    cdef Buffer out
    memset(&out, 0, sizeof(out))
    encode_order_response(&out, outcome, span_in(body), sequence, duplicate, pointer_to(log_id), refused_line)
    return taken(&out)


def stock_response(int kind, int outcome, bytes body, bytes to_body, uint64_t sequence, bint duplicate, bytes log_id):
    cdef Buffer out
    memset(&out, 0, sizeof(out))
    encode_stock_response(
        &out, kind, outcome, span_in(body), span_in(to_body), sequence, duplicate, pointer_to(log_id)
    )
    return taken(&out)


def put_response(int outcome, uint64_t revision, uint64_t sequence, bytes log_id):
    cdef Buffer out
    memset(&out, 0, sizeof(out))
    encode_put_response(&out, outcome, revision, sequence, pointer_to(log_id))
    return taken(&out)


def get_order_response(bytes body, uint64_t sequence, bytes log_id):
    cdef Buffer out
    memset(&out, 0, sizeof(out))
    encode_get_order_response(&out, span_in(body), sequence, pointer_to(log_id))
    return taken(&out)


def get_stock_response(dict totals, list bodies, uint64_t sequence, bytes log_id):
    cdef Buffer out
    cdef StockTotals sums = totals
    cdef Span* spans = <Span*>malloc(sizeof(Span) * (len(bodies) + 1))
    memset(&out, 0, sizeof(out))
    for i, body in enumerate(bodies):
        spans[i] = span_in(body)
    encode_get_stock_response(&out, &sums, spans, len(bodies), sequence, pointer_to(log_id))
    free(spans)
    return taken(&out)


def batch_answer(list items):
    """(is_result, body) each."""
    cdef Buffer out
    memset(&out, 0, sizeof(out))
    for is_result, body in items:
        encode_batch_item(&out, is_result, span_in(body))
    return taken(&out)


def effects(list orders, list stocks):
    cdef Buffer out
    memset(&out, 0, sizeof(out))
    for body in orders:
        encode_effect_order(&out, span_in(body))
    for body in stocks:
        encode_effect_stock(&out, span_in(body))
    return taken(&out)


def status(
    int code, bytes reason, bytes description, int resource, bytes shop_id, bytes id, bytes field=None, int index=-1,
    bytes subfield=None,
):
    cdef Fault made
    cdef Buffer out
    memset(&out, 0, sizeof(out))
    made.code, made.index, made.resource = code, index, resource
    made.reason, made.description = <const char*>reason, <const char*>description
    made.field, made.subfield = <const char*>pointer_to(field), <const char*>pointer_to(subfield)
    made.shop_id, made.id = span_in(shop_id), span_in(id)
    encode_status(&out, &made)
    return taken(&out)


cdef uint64_t now_ns() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <uint64_t>now.tv_sec * 1000000000 + <uint64_t>now.tv_nsec


def storm(int kind, bytes sample, uint64_t seed, int rounds):
    """Decodes damaged copies of a sample and gives how many passed; what the sanitizers and a fuzzer drive."""
    cdef Exact exact = Exact(sample)
    cdef uint8_t* copy
    cdef uint64_t random = seed | 1
    cdef size_t size
    cdef int _i, passed = 0
    cdef uint64_t k
    cdef Buffer out
    memset(&out, 0, sizeof(out))
    with nogil:
        for _i in range(rounds):
            random ^= random << 13
            random ^= random >> 7
            random ^= random << 17
            size = exact.size - (random >> 8) % (exact.size + 1) if random & 3 == 0 else exact.size
            copy = <uint8_t*>malloc(size)
            memcpy(copy, exact.data, size)
            for k in range((random >> 40) & 3):
                if size > 0:
                    copy[(random >> (12 * k)) % size] = <uint8_t>(random >> (8 * k + 16))
            if decode_any(kind, copy, size):
                passed += 1
            else:
                out.size = 0
                encode_status(&out, &fault)
            free(copy)
    buffer_free(&out)
    return passed


def time_decode(int kind, bytes data, int rounds, bint hashed):
    """Nanoseconds of one decode, and of its content hash too."""
    cdef Exact exact = Exact(data)
    cdef uint64_t[2] digest
    cdef uint64_t begin
    cdef int _i, passed = 0
    with nogil:
        begin = now_ns()
        for _i in range(rounds):
            passed += decode_any(kind, exact.data, exact.size)
            if hashed:
                content_hash(<CommandHead*>&command, digest)
        begin = now_ns() - begin
    if passed != rounds:
        raise refused()
    return begin / rounds


def time_answer(dict fields, int rounds):
    """Nanoseconds of an Order's body and the PlaceOrderResponse around it."""
    cdef OrderView view
    cdef Buffer body, out
    cdef uint64_t begin
    cdef int _i
    cdef uint8_t[16] log_id
    memset(&body, 0, sizeof(body))
    memset(&out, 0, sizeof(out))
    memset(log_id, 7, 16)
    fill_order(&view, fields)
    memcpy(view.currency, b"CNY", 3)
    with nogil:
        begin = now_ns()
        for _i in range(rounds):
            body.size = out.size = 0
            encode_order(&body, &view)
            encode_order_response(&out, 1, span_of(body.data, body.size), view.sequence, False, log_id, -1)
        begin = now_ns() - begin
    buffer_free(&body)
    buffer_free(&out)
    return begin / rounds
