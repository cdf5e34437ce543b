# What an answer says, and how it counts.

# A value below 128 has its index of its own; above, each power of two is divided in 128 steps.
cdef inline uint32_t histogram_slot(uint64_t value) noexcept nogil:
    cdef uint32_t shift
    if value < 1 << HISTOGRAM_BITS:
        return <uint32_t>value
    shift = <uint32_t>(63 - HISTOGRAM_BITS - __builtin_clzll(value))
    return min((shift << HISTOGRAM_BITS) + <uint32_t>(value >> shift), <uint32_t>HISTOGRAM_SLOTS - 1)


# The greatest value of a slot.
cdef inline uint64_t histogram_value(uint32_t slot) noexcept nogil:
    cdef uint32_t shift = slot >> HISTOGRAM_BITS
    if shift <= 1:
        return slot
    shift -= 1
    return (<uint64_t>(slot - (shift << HISTOGRAM_BITS)) + 1 << shift) - 1


cdef inline void histogram_add(Histogram* histogram, uint64_t value) noexcept nogil:
    histogram.count += 1
    histogram.max_ns = max(histogram.max_ns, value)
    histogram.slots[histogram_slot(value)] += 1


cdef inline Counts* counts_of(Load* l, uint64_t intended_ns) noexcept nogil:
    return &l.counts[intended_ns >= l.measure_ns]


# Reads a varint; NULL if there is none.
cdef inline const uint8_t* scan_varint(const uint8_t* at, const uint8_t* end, uint64_t* into) noexcept nogil:
    cdef uint32_t shift = 0
    into[0] = 0
    while at < end and shift < 64:
        into[0] |= <uint64_t>(at[0] & 0x7f) << shift
        shift += 7
        if not at[0] & 0x80:
            return at + 1
        at += 1
    return NULL


# One field: its number and type, and its value: a varint, or the size of what follows. NULL if it is not whole.
cdef inline const uint8_t* scan_field(const uint8_t* at, const uint8_t* end, uint64_t* tag,
                                      uint64_t* value) noexcept nogil:
    at = scan_varint(at, end, tag)
    if at == NULL:
        return NULL
    if tag[0] & 7 == <uint64_t>WIRE_FIXED64:
        value[0] = 0
        return at + 8 if end - at >= 8 else NULL
    if tag[0] & 7 == <uint64_t>WIRE_FIXED32:
        value[0] = 0
        return at + 4 if end - at >= 4 else NULL
    if tag[0] & 7 != <uint64_t>WIRE_VARINT and tag[0] & 7 != <uint64_t>WIRE_SIZED:
        return NULL
    at = scan_varint(at, end, value)
    if at != NULL and tag[0] & 7 == <uint64_t>WIRE_SIZED and value[0] > <uint64_t>(end - at):
        return NULL
    return at


# Whether a message has the expected number in field 1, or a message there that is not empty. All of it is read. Field 4
# of what answers a command says that an earlier try was decided.
cdef int judge(Load* l, uint32_t method, const uint8_t* at, size_t size, bint* duplicate) noexcept nogil:
    cdef const uint8_t* end = at + size
    cdef bint wants_message = l.expect == EXPECT_MESSAGE
    cdef uint64_t tag, value, found = 0
    duplicate[0] = False
    while at < end:
        at = scan_field(at, end, &tag, &value)
        if at == NULL:
            return ANSWER_MALFORMED
        if tag == (1 << 3 | <uint64_t>(WIRE_SIZED if wants_message else WIRE_VARINT)):
            found = value
        elif tag == (4 << 3 | <uint64_t>WIRE_VARINT):
            duplicate[0] = value != 0
        if tag & 7 == <uint64_t>WIRE_SIZED:
            at += value
    if wants_message:
        return ANSWER_EXPECTED if found > 0 else ANSWER_OTHER
    if found == l.methods[method].expected:
        return ANSWER_EXPECTED
    return ANSWER_SOLD_OUT if found == l.sold_out and found != 0 else ANSWER_OTHER


cdef inline void count_status(Counts* counts, uint64_t status, uint64_t requests) noexcept nogil:
    counts.statuses[status if status < <uint64_t>STATUS_NONE else STATUS_NONE] += requests


cdef inline void widen(Gap* gap, uint64_t began_ns, uint64_t now) noexcept nogil:
    if now - began_ns > gap.longest_ns:
        gap.longest_ns = now - began_ns
        gap.began_ns = began_ns


cdef inline void count_gap(Load* l, uint64_t now) noexcept nogil:
    if now < l.measure_ns or now == l.acknowledged_ns:
        return
    if l.acknowledged_ns != 0:
        widen(&l.gap, l.acknowledged_ns, now)
        widen(&l.phases[__atomic_load_n(&l.phase_count, __ATOMIC_ACQUIRE) - 1].gap, l.acknowledged_ns, now)
    l.acknowledged_ns = now


# How long a request took that was due while it counts.
cdef inline void count_latency(Load* l, uint64_t intended_ns, uint64_t now) noexcept nogil:
    cdef uint32_t i = __atomic_load_n(&l.phase_count, __ATOMIC_ACQUIRE) - 1
    while i > 0 and intended_ns < l.phases[i].began_ns:
        i -= 1
    histogram_add(&l.histogram, now - intended_ns)
    histogram_add(&l.phases[i].histogram, now - intended_ns)


cdef void set_bit(Bits* bits, uint64_t index) noexcept nogil:
    cdef size_t size = bits.size
    if UNLIKELY(index // 8 >= size):
        bits.size = max(2 * size, <size_t>(index // 8 + 4096))
        bits.data = <uint8_t*>realloc(bits.data, bits.size)
        INVARIANT(bits.data != NULL, b"memory for what was acknowledged")
        memset(bits.data + size, 0, bits.size - size)
    bits.data[index // 8] |= <uint8_t>(1 << index % 8)


# It was answered as expected: an order is open, or closed.
cdef inline void note_success(Load* l, Counts* counts, uint32_t method, uint64_t number) noexcept nogil:
    if l.keeps_acks:
        set_bit(&l.methods[method].acknowledged, number)
    if method != 0:
        counts.cancelled += 1
        return
    counts.placed += 1
    if l.open_max != 0:
        INVARIANT(l.open_count <= l.open_mask, b"more orders are open than calls had room for")
        l.open_numbers[(l.open_first + l.open_count) & l.open_mask] = number
        l.open_count += 1


# What a request came to whose answer has status OK; `index` in its batch. True if the answer is one.
cdef inline bint count_ok(Load* l, Counts* counts, const Request* request, uint32_t index, int answer, bint duplicate,
                          uint64_t now) noexcept nogil:
    if answer == ANSWER_NONE or answer == ANSWER_MALFORMED:
        counts.malformed += 1
        return False
    counts.acknowledged += 1
    counts.duplicates += duplicate
    if LIKELY(answer == ANSWER_EXPECTED):
        note_success(l, counts, request.method, request.number + index)
        counts.good += now - request.intended_ns <= l.good_ns
    elif answer == ANSWER_SOLD_OUT:
        counts.sold_out += 1
    else:
        counts.wrong += 1
    l.rate_acknowledged += l.measure_ns <= now < l.end_ns
    count_gap(l, now)
    return True


# A PlaceOrdersResponse: a result for each order of the oldest batch.
cdef void count_results(Load* l, Counts* counts, const Request* request, const uint8_t* at, size_t size,
                        uint64_t now) noexcept nogil:
    cdef const uint8_t* end = at + size
    cdef const uint8_t* item_end
    cdef uint64_t tag, value, status
    cdef uint32_t seen = 0
    cdef bint duplicate
    cdef int answer
    while at < end:
        at = scan_field(at, end, &tag, &value)
        if at == NULL or tag != (1 << 3 | <uint64_t>WIRE_SIZED) or seen == l.batch:
            break
        item_end = at + value
        seen += 1
        status = 0
        duplicate = False
        answer = ANSWER_MALFORMED
        while at != NULL and at < item_end:
            at = scan_field(at, item_end, &tag, &value)
            if at == NULL or tag & 7 != <uint64_t>WIRE_SIZED:
                break
            if tag >> 3 == 1:
                answer = judge(l, request.method, at, value, &duplicate)
            elif tag >> 3 == 2:
                status = status_code(at, value)
            at += value
        count_status(counts, status, 1)
        if status == 0:
            count_ok(l, counts, request, seen - 1, answer, duplicate, now)
        else:
            counts.refused += 1
        at = item_end
    counts.answered += l.batch
    counts.malformed += l.batch - seen


# google.rpc.Status: its code; what is none, or 0, is no status of a refusal.
cdef uint64_t status_code(const uint8_t* at, size_t size) noexcept nogil:
    cdef const uint8_t* end = at + size
    cdef uint64_t tag, value, code = STATUS_NONE
    while at < end:
        at = scan_field(at, end, &tag, &value)
        if at == NULL:
            return STATUS_NONE
        if tag == 1 << 3 and value != 0:
            code = value
        if tag & 7 == <uint64_t>WIRE_SIZED:
            at += value
    return code


# How long to wait before a batch is sent again of which an item was refused for load or for an outage; 0: none was.
cdef uint64_t wait_of_batch(const uint8_t* at, size_t size) noexcept nogil:
    cdef const uint8_t* end = at + size
    cdef const uint8_t* item_end
    cdef uint64_t tag, value, status, wait_ns = 0
    while at < end:
        at = scan_field(at, end, &tag, &value)
        if at == NULL or tag != (1 << 3 | <uint64_t>WIRE_SIZED):
            return 0
        item_end = at + value
        at = scan_field(at, item_end, &tag, &value)
        if at != NULL and tag == (2 << 3 | <uint64_t>WIRE_SIZED):
            status = status_code(at, value)
            if status == STATUS_UNAVAILABLE:
                wait_ns = max(wait_ns, <uint64_t>RETRY_NS)
            elif status == STATUS_EXHAUSTED:
                wait_ns = PUSHBACK_NS
        at = item_end
    return wait_ns


# A whole message came. `now` is when its bytes were read.
cdef void take_message(Load* l, Call* call, const uint8_t* data, size_t size, uint64_t now) noexcept nogil:
    cdef Request* request
    cdef uint64_t wait_ns
    cdef Counts* counts
    if not l.is_stream:
        if call.answer != ANSWER_NONE:
            call.answer = ANSWER_MALFORMED
        elif l.expect == EXPECT_ANYTHING:
            call.answer = ANSWER_EXPECTED
        else:
            call.answer = <uint8_t>judge(l, call.requests[0].method, data, size, &call.duplicate)
        return
    if call.waiting == 0:
        l.counts[1].malformed += 1
        return
    request = &call.requests[call.first]
    call.first = (call.first + 1) % l.window
    call.waiting -= 1
    l.in_flight -= 1
    wait_ns = wait_of_batch(data, size) if l.does_retry else 0
    if wait_ns != 0:
        send_again(l, request, now, wait_ns)
        return
    counts = counts_of(l, request.intended_ns)
    if counts == &l.counts[1]:
        count_latency(l, request.intended_ns, now)
    count_results(l, counts, request, data, size, now)


# Whole messages; returns the bytes that belong to one that is not whole.
cdef size_t take_messages(Load* l, Call* call, const uint8_t* data, size_t size, uint64_t now) noexcept nogil:
    cdef size_t message_size
    while size >= PREFIX_BYTES:
        message_size = get_u32(data + 1)
        if size - PREFIX_BYTES < message_size:
            break
        if data[0] == 0:
            take_message(l, call, data + PREFIX_BYTES, message_size, now)
        else:
            call.answer = ANSWER_MALFORMED
        data += PREFIX_BYTES + message_size
        size -= PREFIX_BYTES + message_size
    return size


cdef inline void take_data(Load* l, Call* call, const uint8_t* data, size_t size, uint64_t now) noexcept nogil:
    cdef Buffer* received = &call.received
    cdef size_t left
    if LIKELY(received.size == 0):
        left = take_messages(l, call, data, size, now)
        if LIKELY(left == 0):
            return
        memcpy(buffer_reserve(received, left), data + size - left, left)
        received.size = left
        return
    memcpy(buffer_reserve(received, size), data, size)
    received.size += size
    if received.size >= PREFIX_BYTES and received.size - PREFIX_BYTES >= get_u32(received.data + 1):
        left = take_messages(l, call, received.data, received.size, now)
        memmove(received.data, received.data + received.size - left, left)
        received.size = left


# Gives the slot back. What it was still to send is dropped; what it waited for has been counted by the caller.
cdef void close_call(Load* l, Connection* c, Call* call) noexcept nogil:
    l.in_flight -= call.waiting
    call.waiting = 0
    c.blocked -= <uint32_t>call.blocked
    call.blocked = False
    call.message.size = call.message_sent = call.received.size = 0
    call.id = 0
    call.requests[0].intended_ns = <uint64_t>INT64_MAX
    c.open_calls -= 1


# Into the heap. Of what may go at once the oldest is first.
cdef void send_again(Load* l, Request* request, uint64_t now, uint64_t wait_ns) noexcept nogil:
    cdef Counts* counts = counts_of(l, request.intended_ns)
    cdef uint64_t ready_ns = request.intended_ns
    cdef uint64_t at = l.retry_count
    request.tries += 1
    if request.tries > 1 or wait_ns != 0:
        ready_ns = now + max(wait_ns, <uint64_t>RETRY_NS)
    counts.retried += l.batch
    counts.sent -= l.batch
    if l.retry_count == l.retry_capacity:
        l.retry_capacity = 2 * l.retry_capacity + 64
        l.retries = <Retry*>realloc(l.retries, l.retry_capacity * sizeof(Retry))
        INVARIANT(l.retries != NULL, b"memory for what is sent again")
    l.retry_count += 1
    while at > 0 and ready_ns < l.retries[(at - 1) // 2].ready_ns:
        l.retries[at] = l.retries[(at - 1) // 2]
        at = (at - 1) // 2
    l.retries[at].ready_ns = ready_ns
    l.retries[at].request = request[0]


# Out of the heap: the first.
cdef void drop_retry(Load* l) noexcept nogil:
    cdef uint64_t at = 0, child = 1
    cdef Retry* last
    l.retry_count -= 1
    last = &l.retries[l.retry_count]
    while child < l.retry_count:
        if child + 1 < l.retry_count and l.retries[child + 1].ready_ns < l.retries[child].ready_ns:
            child += 1
        if last.ready_ns <= l.retries[child].ready_ns:
            break
        l.retries[at] = l.retries[child]
        at = child
        child = 2 * at + 1
    l.retries[at] = last[0]


# The call ends, and what it waits for is sent again with the same ids.
cdef void give_back(Load* l, Connection* c, Call* call, uint64_t now, uint64_t wait_ns) noexcept nogil:
    cdef uint32_t i
    for i in range(call.waiting):
        send_again(l, &call.requests[(call.first + i) % l.window], now, wait_ns)
    close_call(l, c, call)


# Whether a repeat can help: never was it decided, or not now.
cdef inline bint is_retryable(Load* l, const Call* call) noexcept nogil:
    return l.does_retry and (call.status == STATUS_UNAVAILABLE
                             or (call.status == STATUS_EXHAUSTED and call.pushback_ms >= 0))


# The trailers came.
cdef void end_call(Load* l, Connection* c, Call* call, uint64_t now) noexcept nogil:
    cdef Request* request
    cdef Counts* counts
    cdef uint32_t i
    cdef bint is_ok = call.status == 0 and call.http == 200 and call.received.size == 0
    cdef bint again = is_retryable(l, call)
    for i in range(call.waiting):
        request = &call.requests[(call.first + i) % l.window]
        counts = counts_of(l, request.intended_ns)
        count_status(counts, call.status, l.batch)
        if again:
            continue
        counts.answered += l.batch
        if LIKELY(is_ok and not l.is_stream):
            if count_ok(l, counts, request, 0, call.answer, call.duplicate, now) and counts == &l.counts[1]:
                count_latency(l, request.intended_ns, now)
        elif call.status == 0 or call.status == STATUS_NONE:
            counts.malformed += l.batch
        else:
            counts.refused += l.batch
    if not call.half_closed:
        put_number_frame(c, NGHTTP2_RST_STREAM, call.id, <uint32_t>NGHTTP2_CANCEL)
    if again:
        give_back(l, c, call, now, <uint64_t>max(call.pushback_ms, 0) * 1000000)
    else:
        close_call(l, c, call)
