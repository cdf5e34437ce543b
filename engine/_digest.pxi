# Digests: 128-bit sums over the objects of a shard, kept up to date on write. The layouts are those of
# docs/state_machine.md; a change there is a new level.

cdef extern from *:
    """
    #ifndef XXH_INLINE_ALL
    #define XXH_INLINE_ALL
    #endif
    #include <xxhash.h>

    static inline void sum_add(uint64_t sum[2], uint64_t low, uint64_t high) {
        sum[1] += high + __builtin_add_overflow(sum[0], low, &sum[0]);
    }
    static inline void sum_subtract(uint64_t sum[2], uint64_t low, uint64_t high) {
        sum[1] -= high + __builtin_sub_overflow(sum[0], low, &sum[0]);
    }
    """
    ctypedef struct XXH128_hash_t:
        uint64_t low64, high64
    XXH128_hash_t xxh3_128 "XXH3_128bits"(const void* data, size_t size) noexcept nogil
    uint64_t xxh3_64 "XXH3_64bits_withSeed"(const void* data, size_t size, uint64_t seed) noexcept nogil
    void sum_add(uint64_t* sum, uint64_t low, uint64_t high) noexcept nogil
    void sum_subtract(uint64_t* sum, uint64_t low, uint64_t high) noexcept nogil


cdef inline Hash128 hash128(const uint8_t* data, const uint8_t* end) noexcept nogil:
    cdef XXH128_hash_t digest = xxh3_128(data, <size_t>(end - data))
    cdef Hash128 result
    result.low = digest.low64
    result.high = digest.high64
    return result

# The hash of an id in an index. `owner`: the shop or SKU in which the id is unique.
cdef inline uint32_t index_hash(const State* s, uint32_t owner, Span id) noexcept nogil:
    return <uint32_t>xxh3_64(id.data, id.size, s.seed + owner * <uint64_t>0x9E3779B97F4A7C15)

cdef inline bint hash_equal(Hash128 a, Hash128 b) noexcept nogil:
    return a.low == b.low and a.high == b.high


# The canonical encoding, a value at a time.
cdef inline uint8_t* d8(uint8_t* at, uint8_t value) noexcept nogil:
    at[0] = value
    return at + 1

cdef inline uint8_t* d16(uint8_t* at, uint16_t value) noexcept nogil:
    memcpy(at, &value, 2)
    return at + 2

cdef inline uint8_t* d32(uint8_t* at, uint32_t value) noexcept nogil:
    memcpy(at, &value, 4)
    return at + 4

cdef inline uint8_t* d64(uint8_t* at, uint64_t value) noexcept nogil:
    memcpy(at, &value, 8)
    return at + 8

cdef inline uint8_t* dhash(uint8_t* at, Hash128 value) noexcept nogil:
    memcpy(at, &value, 16)
    return at + 16

cdef inline uint8_t* dstr(uint8_t* at, Span text) noexcept nogil:
    at[0] = <uint8_t>text.size
    return put_bytes(at + 1, text.data, text.size)


cdef Hash128 key_of(State* s, uint8_t kind, Span outer, Span inner) noexcept nogil:
    cdef uint8_t* at = d8(s.digest_scratch, kind)
    at = dstr(at, outer)
    if kind != c"S":
        at = dstr(at, inner)
    return hash128(s.digest_scratch, at)


cdef inline void count_in(uint64_t* sum, Hash128 digest) noexcept nogil:
    sum_add(sum, digest.low, digest.high)

cdef inline void count_out(uint64_t* sum, Hash128 digest) noexcept nogil:
    sum_subtract(sum, digest.low, digest.high)


cdef Hash128 stock_digest(State* s, const StockRow* row) noexcept nogil:
    cdef uint8_t* at = d8(s.digest_scratch, c"T")
    at = dhash(at, sku_at(s, row.sku).key)
    at = dhash(at, location_at(s, row.location).key)
    at = d64(at, row.on_hand)
    at = d64(at, row.reserved)
    at = d64(at, row.safety_stock)
    at = d64(at, row.received)
    at = d64(at, row.adjusted)
    at = d64(at, row.moved_in)
    at = d64(at, row.moved_out)
    at = d64(at, row.returned)
    at = d64(at, row.shipped)
    at = d64(at, row.written_off)
    return hash128(s.digest_scratch, at)


cdef Hash128 order_business_digest(State* s, const Order* order) noexcept nogil:
    cdef uint8_t* at = d8(s.digest_scratch, c"O")
    cdef OrderMore* more = more_at(s, order.more) if order.more else NULL
    cdef LineProgress* progress = more_lines(more) if order.more else NULL
    cdef Line* lines = order_lines(order)
    cdef Allocation* allocations
    cdef AllocationProgress* done
    cdef uint32_t count = order_allocations(s, order, &allocations, &done), i
    at = dhash(at, shop_at(s, order.shop).key)
    at = dstr(at, id_of_order(order))
    at = dstr(at, order_buyer(order))
    at = d8(at, order_state_of(order, progress))
    at = d8(at, payment_state_of(order, more))
    at = d64(at, more.received if more != NULL else 0)
    at = d64(at, more.refunded if more != NULL else 0)
    at = d8(at, order.line_count)
    at = d16(at, <uint16_t>count)
    for i in range(order.line_count):
        at = dhash(at, sku_at(s, lines[i].sku).key)
        at = d32(at, lines[i].quantity)
        at = d64(at, lines[i].amount)
        at = d32(at, progress[i].shipped if progress != NULL else 0)
        at = d32(at, lines[i].quantity if order.flags & ORDER_EXPIRED else
                 progress[i].cancelled if progress != NULL else 0)
        at = d32(at, progress[i].delivered if progress != NULL else 0)
        at = d32(at, progress[i].returned if progress != NULL else 0)
        at = d32(at, progress[i].written_off if progress != NULL else 0)
    for i in range(count):
        at = d8(at, <uint8_t>allocations[i].line)
        at = dhash(at, location_at(s, row_at(s, allocations[i].row).location).key)
        at = d32(at, allocations[i].quantity)
        at = d32(at, done[i].shipped if done != NULL else 0)
        at = d32(at, allocations[i].quantity if order.flags & ORDER_EXPIRED else
                 done[i].released if done != NULL else 0)
    return hash128(s.digest_scratch, at)


cdef Hash128 order_digest(State* s, const Order* order, Hash128 business) noexcept nogil:
    cdef uint8_t* at = d8(s.digest_scratch, c"o")
    cdef Allocation* first = order_first_allocations(order)
    cdef uint32_t i
    at = dhash(at, business)
    at = d64(at, order.sequence)
    at = d64(at, order.accepted_at_ms)
    at = d64(at, order.expires_at_ms)
    at = d64(at, order_placed_at(order)[0] if order.flags & ORDER_HAS_PLACED_AT else 0)
    at = dhash(at, order.content)
    at = d8(at, order.outcome)
    at = d8(at, order.strategy)
    at = d8(at, 1 if order.flags & ORDER_SPLIT else 0)
    at = d8(at, order.priority_class)
    at = d8(at, 1 if order.flags & ORDER_PAID else 0)
    at = dstr(at, region_name(s, shop_at(s, order.shop), order.region))
    at = d16(at, order.allocation_count)
    for i in range(order.allocation_count):
        at = d8(at, <uint8_t>first[i].line)
        at = dhash(at, location_at(s, row_at(s, first[i].row).location).key)
        at = d32(at, first[i].quantity)
    return hash128(s.digest_scratch, at)


cdef Hash128 command_digest(State* s, const Order* order, const Command* command) noexcept nogil:
    cdef uint8_t* at = d8(s.digest_scratch, c"C")
    at = dhash(at, shop_at(s, order.shop).key)
    at = dstr(at, id_of_order(order))
    at = d8(at, command.kind)
    at = dstr(at, id_of_command(command))
    at = dhash(at, command.content)
    at = d64(at, command.sequence)
    at = d8(at, command.outcome)
    return hash128(s.digest_scratch, at)


cdef Hash128 closed_digest(State* s, const Order* order) noexcept nogil:
    cdef uint8_t* at = d8(s.digest_scratch, c"E")
    at = dhash(at, shop_at(s, order.shop).key)
    at = dstr(at, id_of_order(order))
    at = d64(at, more_at(s, order.more).closed_sequence)
    at = d64(at, more_at(s, order.more).closed_at_ms)
    return hash128(s.digest_scratch, at)


cdef Hash128 remembered_digest(State* s, const Remembered* remembered) noexcept nogil:
    cdef uint8_t* at = d8(s.digest_scratch, c"D")
    at = dhash(at, shop_at(s, remembered.shop).key)
    at = d8(at, remembered.kind)
    at = dstr(at, remembered_id(remembered))
    at = dhash(at, remembered.content)
    at = d64(at, remembered.sequence)
    at = d8(at, remembered.outcome)
    at = d64(at, remembered.time_ms)
    at = d8(at, remembered.line)
    return hash128(s.digest_scratch, at)


cdef Hash128 wait_digest(State* s, const Wait* wait) noexcept nogil:
    cdef uint8_t* at = d8(s.digest_scratch, c"Q")
    at = dhash(at, sku_at(s, wait.sku).key)
    at = dstr(at, id_of_order(order_at(s, wait.order)))
    at = d32(at, wait.passed)
    return hash128(s.digest_scratch, at)


cdef Hash128 purchase_digest(State* s, const Purchase* purchase) noexcept nogil:
    cdef Usage* usage = usage_at(s, purchase.usage)
    cdef uint8_t* at = d8(s.digest_scratch, c"P")
    at = dhash(at, sku_at(s, usage.sku).key)
    at = dstr(at, usage_buyer(usage))
    at = dstr(at, id_of_order(order_at(s, purchase.order)))
    at = d32(at, purchase.quantity)
    at = d64(at, purchase.ends_at_ms)
    return hash128(s.digest_scratch, at)


cdef Hash128 entity_digest(
    State* s, uint8_t kind, Hash128 key, Hash128 content, uint64_t revision, uint8_t status
) noexcept nogil:
    cdef uint8_t* at = d8(s.digest_scratch, kind)
    at = dhash(at, key)
    at = dhash(at, content)
    at = d64(at, revision)
    at = d8(at, status)
    return hash128(s.digest_scratch, at)

cdef Hash128 shop_digest(State* s, const Shop* shop) noexcept nogil:
    return entity_digest(s, c"s", shop.key, shop.content, shop.revision, shop.status)

cdef Hash128 location_digest(State* s, const Location* location) noexcept nogil:
    return entity_digest(s, c"l", location.key, location.content, location.revision, location.status)

cdef Hash128 sku_digest(State* s, const Sku* sku) noexcept nogil:
    cdef uint8_t* at = d8(s.digest_scratch, c"k")
    at = dhash(at, sku.key)
    at = dhash(at, sku.content)
    at = d64(at, sku.revision)
    at = d8(at, sku.status)
    at = d8(at, sku.on_match_list)
    return hash128(s.digest_scratch, at)

cdef Hash128 region_digest(State* s, const Shop* shop, Span name) noexcept nogil:
    cdef uint8_t* at = d8(s.digest_scratch, c"R")
    at = dhash(at, shop.key)
    at = dstr(at, name)
    return hash128(s.digest_scratch, at)


# The sum and what belongs to the shard as a whole.
cdef Hash128 state_digest(State* s) noexcept nogil:
    cdef uint64_t total[2]
    cdef uint8_t* at = d8(s.digest_scratch, c"G")
    cdef Hash128 result
    at = d64(at, s.time_ms)
    at = d64(at, s.sequence)
    at = d32(at, s.level)
    at = d64(at, s.window_ms)
    at = d32(at, s.remembered_max)
    if s.level >= 2:
        at = d64(d64(at, s.evicted[0]), s.evicted[1])
        at = d64(at, s.evicted_orders)
    total[0] = s.whole[0]
    total[1] = s.whole[1]
    count_in(total, hash128(s.digest_scratch, at))
    result.low = total[0]
    result.high = total[1]
    return result
