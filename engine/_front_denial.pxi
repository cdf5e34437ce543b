# What is asked of a shop that is not the caller's. It never reaches a shard, so that nothing in its answer depends on
# what that holds: reads, and commands on an order, are told that there is no such order (or shop) in the words of a
# shard; what would write otherwise is told that the shop is not the caller's. What is malformed is refused as ever.

cdef struct DenialRoom:
    PlaceOrder place_order
    OrderCommand order_command
    PutShop put_shop
    PutLocation put_location
    PutSku put_sku
    StockCommand stock_command
    GetRequest get_request
    Buffer scratch
    Buffer status
    Fault fault


cdef int refuse_missing(Fault* fault, const char* reason, int resource, Span shop, Span id) noexcept nogil:
    own_fault(fault, CODE_NOT_FOUND, reason, b"It does not exist.")
    fault.resource = resource
    fault.shop_id = shop
    fault.id = id
    return 0


cdef int refuse_shop(Fault* fault) noexcept nogil:
    own_fault(fault, CODE_PERMISSION_DENIED, b"SHOP_DENIED", b"The shop is not among those of the caller.")
    return 0


# Sets the fault of a request: the decoder's, or the denial. Never returns anything but 0, as a decoder that refuses.
cdef int deny(DenialRoom* room, int method, const uint8_t* data, size_t size) noexcept nogil:
    cdef Fault* fault = &room.fault
    cdef Buffer* scratch = &room.scratch
    scratch.size = 0
    memset(fault, 0, sizeof(Fault))
    if method == GET_ORDER or method == GET_STOCK:
        if not decode_get(method, data, size, &room.get_request, fault):
            return 0
        if method == GET_STOCK:
            return refuse_missing(fault, b"SHOP_NOT_FOUND", RESOURCE_SHOP, room.get_request.shop_id,
                                  room.get_request.shop_id)
        return refuse_missing(fault, b"ORDER_NOT_FOUND", RESOURCE_ORDER, room.get_request.shop_id,
                              room.get_request.id)
    if PAY_ORDER <= method <= SETTLE_REFUND:
        if not decode_order_command(method, data, size, &room.order_command, scratch, fault):
            return 0
        return refuse_missing(fault, b"ORDER_NOT_FOUND", RESOURCE_ORDER, room.order_command.head.shop_id,
                              room.order_command.order_id)
    if method == PLACE_ORDER:
        return decode_place_order(data, size, &room.place_order, scratch, fault) and refuse_shop(fault)
    if method == PUT_SHOP:
        return decode_put_shop(data, size, &room.put_shop, scratch, fault) and refuse_shop(fault)
    if method == PUT_LOCATION:
        return decode_put_location(data, size, &room.put_location, scratch, fault) and refuse_shop(fault)
    if method == PUT_SKU:
        return decode_put_sku(data, size, &room.put_sku, scratch, fault) and refuse_shop(fault)
    return decode_stock_command(method, data, size, &room.stock_command, scratch, fault) and refuse_shop(fault)


# A job whose turn has come. Returns what it costs of the budget.
cdef int64_t deny_job(Front* f, Job* job) noexcept nogil:
    cdef DenialRoom* room = f.identity.room
    cdef size_t offset = 0
    cdef Span item
    cdef Fault malformed
    cdef int64_t items = 0
    if not is_awaited(f, job):
        return 1
    buffer_begin_answer(&job.answer)
    if not job.is_batch:
        tally(f, CALLS_SHOP_DENIED, 1)
        deny(room, job.method, job.request.data, job.request.size)
        encode_status(&job.answer, &room.fault)
        job_fail_with(f, job, room.fault.code)
        return 1
    while batch_next(job.request.data, job.request.size, &offset, &item, &malformed) > 0:
        deny(room, job.method, item.data, item.size)
        room.status.size = 0
        encode_status(&room.status, &room.fault)
        encode_batch_item(&job.answer, False, span_of(room.status.data, <uint32_t>room.status.size))
        items += 1
    tally(f, CALLS_SHOP_DENIED, <uint64_t>items)
    job_done(f, job)
    return items if items else 1


# Whether the shop of a request is the caller's. Where none can be read it is not, and what is said is the decoder's.
cdef inline bint may_touch(const Stream* s, int method, Span request) noexcept nogil:
    cdef Span shop
    return route_shop(method, request.data, request.size, &shop) != 0 and owns_shop(s, shop)


# Of a batch that was routed: items that the caller may not touch go one past the last shard. Returns whether any did.
cdef bint deny_items(Call* call, int shards) noexcept nogil:
    cdef const Stream* s = call.stream
    cdef size_t offset = 0
    cdef uint32_t i
    cdef bint denied = False
    cdef Span item
    cdef Fault fault
    for i in range(call.item_count):
        batch_next(call.job.request.data, call.job.request.size, &offset, &item, &fault)
        if not may_touch(s, call.job.method, item):
            call.shard_of_item[i] = <uint8_t>shards
            denied = True
    return denied


cdef DenialRoom* denial_begin() noexcept nogil:
    cdef DenialRoom* room = <DenialRoom*>calloc(1, sizeof(DenialRoom))
    INVARIANT(room != NULL, b"memory for what is denied")
    return room


cdef void denial_free(DenialRoom* room) noexcept nogil:
    if room != NULL:
        buffer_free(&room.scratch)
        buffer_free(&room.status)
        free(room)
