# Orders of a batch are made ready together: decoded, and what they will look up asked for ahead, so that their cache
# misses overlap instead of following each other. Nothing is decided here, and nothing that is found is kept: an order
# that is carried out in between may change it.

cdef extern from *:
    """
    #define PREFETCH(address) __builtin_prefetch((address), 1, 3)
    """
    void PREFETCH(const void* address) noexcept nogil


# orders[i] is the decoded item, or NULL where it has a fault: then the item is decoded again in its turn, and answered.
cdef void make_ready(State* s, const Span* items, int count, PlaceOrder** orders) noexcept nogil:
    cdef int i
    for i in range(count):
        s.group_scratch[i].size = 0
        if decode_place_order(items[i].data, items[i].size, &s.group[i], &s.group_scratch[i], &s.fault):
            orders[i] = &s.group[i]
    look_ahead(s, orders, count)


cdef void look_ahead(State* s, PlaceOrder** orders, int count) noexcept nogil:
    cdef int i
    cdef uint32_t shops[GROUP]
    cdef uint32_t skus[GROUP]
    cdef uint32_t hash
    for i in range(count):
        shops[i] = find_shop(s, orders[i].head.shop_id) if orders[i] != NULL else 0
        if shops[i]:
            hash = index_hash(s, shops[i], orders[i].order_id)
            expect_in(&s.orders, hash)
            expect_in(&s.remembered, hash)
            expect_in(&s.skus, index_hash(s, shops[i], orders[i].lines[0].sku_id))
    for i in range(count):
        if shops[i]:
            skus[i] = expect_sku(s, shops[i], orders[i].lines[0].sku_id)
    for i in range(count):
        if shops[i] and skus[i]:
            expect_row(s, skus[i])


cdef inline void expect_in(const HashIndex* index, uint32_t hash) noexcept nogil:
    PREFETCH(&index.lines[bucket_of(index, hash)])


# By its hash alone: the id is compared when the order is carried out.
cdef inline uint32_t expect_sku(State* s, uint32_t shop, Span id) noexcept nogil:
    cdef Probe probe = index_probe(&s.skus, index_hash(s, shop, id))
    cdef uint32_t handle = probe_next(&s.arena, &probe)
    cdef size_t at
    if handle:
        for at in range(0, sizeof(Sku) + 64, 64):
            PREFETCH(<uint8_t*>arena_at(&s.arena, handle) + at)
    return handle


cdef inline void expect_row(State* s, uint32_t sku) noexcept nogil:
    cdef uint32_t handle = sku_at(s, sku).rows
    if handle:
        PREFETCH(row_at(s, handle))
        PREFETCH(<uint8_t*>row_at(s, handle) + 64)
        PREFETCH(<uint8_t*>row_at(s, handle) + 128)
