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


# Whether a message has the expected number in field 1, or a message there that is not empty. All of it is read.
cdef int judge(const uint8_t* at, size_t size, bint wants_message, uint64_t expected) noexcept nogil:
    cdef const uint8_t* end = at + size
    cdef uint64_t tag, value, found = 0
    while at < end:
        at = scan_field(at, end, &tag, &value)
        if at == NULL:
            return ANSWER_MALFORMED
        if tag == (1 << 3 | <uint64_t>(WIRE_SIZED if wants_message else WIRE_VARINT)):
            found = value
        if tag & 7 == <uint64_t>WIRE_SIZED:
            at += value
    if wants_message:
        return ANSWER_EXPECTED if found > 0 else ANSWER_OTHER
    return ANSWER_EXPECTED if found == expected else ANSWER_OTHER


cdef inline void count_status(Counts* counts, uint64_t status, uint64_t requests) noexcept nogil:
    counts.statuses[status if status < <uint64_t>STATUS_NONE else STATUS_NONE] += requests


# What a request came to whose answer has status OK. True if the answer is one.
cdef inline bint count_ok(Load* l, Counts* counts, int answer, bint is_good, bint is_timely) noexcept nogil:
    if answer == ANSWER_NONE or answer == ANSWER_MALFORMED:
        counts.malformed += 1
        return False
    counts.acknowledged += 1
    counts.placed += answer == ANSWER_EXPECTED
    counts.wrong += answer != ANSWER_EXPECTED
    counts.good += is_good and answer == ANSWER_EXPECTED
    l.rate_acknowledged += is_timely
    return True


cdef inline bint is_within(Load* l, uint64_t now) noexcept nogil:
    return l.measure_ns <= now < l.end_ns


# A PlaceOrdersResponse: a result for each order of the oldest batch.
cdef void count_results(Load* l, Counts* counts, const uint8_t* at, size_t size, bint is_good,
                        bint is_timely) noexcept nogil:
    cdef const uint8_t* end = at + size
    cdef const uint8_t* item_end
    cdef uint64_t tag, value, status
    cdef uint32_t seen = 0
    cdef int answer
    while at < end:
        at = scan_field(at, end, &tag, &value)
        if at == NULL or tag != (1 << 3 | <uint64_t>WIRE_SIZED) or seen == l.batch:
            break
        item_end = at + value
        seen += 1
        status = 0
        answer = ANSWER_MALFORMED
        while at != NULL and at < item_end:
            at = scan_field(at, item_end, &tag, &value)
            if at == NULL or tag & 7 != <uint64_t>WIRE_SIZED:
                break
            if tag >> 3 == 1:
                answer = judge(at, value, False, l.expected)
            elif tag >> 3 == 2:
                status = status_code(at, value)
            at += value
        count_status(counts, status, 1)
        if status == 0:
            count_ok(l, counts, answer, is_good, is_timely)
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


# A whole message came. `now` is when its bytes were read.
cdef void take_message(Load* l, Call* call, const uint8_t* data, size_t size, uint64_t now) noexcept nogil:
    cdef uint64_t intended_ns
    cdef Counts* counts
    if not l.is_stream:
        if call.answer != ANSWER_NONE:
            call.answer = ANSWER_MALFORMED
        elif l.expect == EXPECT_ANYTHING:
            call.answer = ANSWER_EXPECTED
        else:
            call.answer = <uint8_t>judge(data, size, l.expect == EXPECT_MESSAGE, l.expected)
        return
    if call.waiting == 0:
        l.counts[1].malformed += 1
        return
    intended_ns = call.intended_ns[call.first]
    call.first = (call.first + 1) % l.window
    call.waiting -= 1
    counts = counts_of(l, intended_ns)
    if counts == &l.counts[1]:
        histogram_add(&l.histogram, now - intended_ns)
    count_results(l, counts, data, size, now - intended_ns <= l.good_ns, is_within(l, now))


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
cdef void close_call(Connection* c, Call* call) noexcept nogil:
    c.blocked -= <uint32_t>call.blocked
    call.blocked = False
    call.message.size = call.message_sent = call.received.size = 0
    call.id = 0
    call.intended_ns[0] = <uint64_t>INT64_MAX
    c.open_calls -= 1


# The trailers came.
cdef void end_call(Load* l, Connection* c, Call* call, uint64_t now) noexcept nogil:
    cdef uint64_t intended_ns
    cdef Counts* counts
    cdef uint32_t i
    cdef bint is_ok = call.status == 0 and call.http == 200 and call.received.size == 0
    for i in range(call.waiting):
        intended_ns = call.intended_ns[(call.first + i) % l.window]
        counts = counts_of(l, intended_ns)
        counts.answered += l.batch
        count_status(counts, call.status, l.batch)
        if LIKELY(is_ok and not l.is_stream):
            if (count_ok(l, counts, call.answer, now - intended_ns <= l.good_ns, is_within(l, now))
                    and counts == &l.counts[1]):
                histogram_add(&l.histogram, now - intended_ns)
        elif call.status == 0 or call.status == STATUS_NONE:
            counts.malformed += l.batch
        else:
            counts.refused += l.batch
    if not call.half_closed:
        put_number_frame(c, NGHTTP2_RST_STREAM, call.id, <uint32_t>NGHTTP2_CANCEL)
    close_call(c, call)
