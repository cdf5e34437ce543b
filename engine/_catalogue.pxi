# Shops, locations, SKUs: found by id, put whole, retired, reclaimed.

cdef uint32_t find_shop(State* s, Span id) noexcept nogil:
    cdef Probe probe
    cdef uint32_t handle = s.recent_shop       # orders come in runs of one shop
    if handle and span_equal(id_of_shop(shop_at(s, handle)), id):
        return handle
    probe = index_probe(&s.shops, index_hash(s, 0, id))
    handle = probe_next(&s.arena, &probe)
    while handle and not span_equal(id_of_shop(shop_at(s, handle)), id):
        handle = probe_next(&s.arena, &probe)
    s.recent_shop = handle
    return handle


cdef uint32_t find_location(State* s, uint32_t shop, Span id) noexcept nogil:
    cdef Probe probe = index_probe(&s.locations, index_hash(s, shop, id))
    cdef uint32_t handle = probe_next(&s.arena, &probe)
    while handle and not (
            location_at(s, handle).shop == shop and span_equal(id_of_location(location_at(s, handle)), id)):
        handle = probe_next(&s.arena, &probe)
    return handle


cdef uint32_t find_sku(State* s, uint32_t shop, Span id) noexcept nogil:
    cdef Probe probe = index_probe(&s.skus, index_hash(s, shop, id))
    cdef uint32_t handle = probe_next(&s.arena, &probe)
    while handle and not (sku_at(s, handle).shop == shop and span_equal(id_of_sku(sku_at(s, handle)), id)):
        handle = probe_next(&s.arena, &probe)
    return handle


# Regions by number; 0: the shop never named it.
cdef uint16_t find_region(State* s, const Shop* shop, Span name) noexcept nogil:
    cdef uint32_t i
    if name.size:
        for i in range(shop.region_count):
            if span_equal(region_name(s, shop, <uint16_t>(i + 1)), name):
                return <uint16_t>(i + 1)
    return 0


cdef uint16_t add_region(State* s, Shop* shop, Span name) noexcept nogil:
    cdef uint16_t number = find_region(s, shop, name)
    cdef uint32_t handle
    cdef Region* region
    if number or name.size == 0:
        return number
    handle = arena_new(&s.arena, sizeof(Region) + name.size)
    region = <Region*>arena_at(&s.arena, handle)
    region.size = <uint8_t>name.size
    memcpy(<uint8_t*>region + sizeof(Region), name.data, name.size)
    if shop.region_count & (shop.region_count - 1) == 0:
        shop.regions = <uint32_t*>grown(shop.regions, (2 * shop.region_count + 1) * sizeof(uint32_t))
    shop.regions[shop.region_count] = handle
    shop.region_count += 1
    count_in(s.whole, region_digest(s, shop, name))
    return <uint16_t>shop.region_count


# What it costs to send from a region's locations to a buyer. Costs are sorted: a search by halves.
cdef int64_t region_cost(const Shop* shop, uint16_t buyer, uint16_t location) noexcept nogil:
    cdef uint64_t key = <uint64_t>buyer << 48 | <uint64_t>location << 32
    cdef uint32_t low = 0, high = shop.cost_count, middle
    if buyer and location:
        while low < high:
            middle = (low + high) >> 1
            if shop.costs[middle] < key:
                low = middle + 1
            else:
                high = middle
        if low < shop.cost_count and shop.costs[low] >> 32 == key >> 32:
            return <uint32_t>shop.costs[low]
        if buyer == location:
            return 0
    return REGION_COST_DEFAULT


# Distinct new names among the spans, each looked at against those before it.
cdef uint32_t count_new_regions(State* s, const Shop* shop, const PutShop* c) noexcept nogil:
    cdef uint32_t i, j, new = 0
    cdef Span name
    for i in range(2 * c.cost_count):
        name = c.costs[i >> 1].to_region if i & 1 else c.costs[i >> 1].from_region
        if name.size == 0 or (shop != NULL and find_region(s, shop, name)):
            continue
        for j in range(i):
            if span_equal(name, c.costs[j >> 1].to_region if j & 1 else c.costs[j >> 1].from_region):
                break
        else:
            new += 1
    return new


cdef void set_costs(State* s, Shop* shop, const PutShop* c) noexcept nogil:
    cdef uint32_t i, count = 0, at
    cdef uint64_t entry
    shop.costs = <uint64_t*>grown(shop.costs, (c.cost_count + 1) * sizeof(uint64_t))
    for i in range(c.cost_count):
        entry = (<uint64_t>add_region(s, shop, c.costs[i].from_region) << 48
                 | <uint64_t>add_region(s, shop, c.costs[i].to_region) << 32 | c.costs[i].cost)
        at = count
        while at > 0 and shop.costs[at - 1] >> 32 > entry >> 32:
            shop.costs[at] = shop.costs[at - 1]
            at -= 1
        if at > 0 and shop.costs[at - 1] >> 32 == entry >> 32:
            memmove(&shop.costs[at], &shop.costs[at + 1], (count - at) * sizeof(uint64_t))
            shop.costs[at - 1] = entry         # the last of equal pairs counts
        else:
            shop.costs[at] = entry
            count += 1
    shop.cost_count = count


cdef int put_shop(State* s, const PutShop* c, Reply* reply) noexcept nogil:
    cdef uint32_t handle = find_shop(s, c.head.shop_id)
    cdef Shop* shop = shop_at(s, handle) if handle else NULL
    if shop == NULL and c.status == STATUS_RETIRED:
        return not_found(s, RESOURCE_SHOP, c.head.shop_id, c.head.shop_id)
    if c.has_if_revision and c.if_revision != (shop.revision if shop != NULL else 0):
        return set_fault(s, CODE_ABORTED, b"REVISION_CONFLICT", b"The shop has another revision.")
    if shop == NULL and s.shops.count >= <uint64_t>SHOPS_MAX:
        return exhausted(s, b"SHOP_LIMIT", b"There are as many shops as there may be.")
    if (shop.region_count if shop != NULL else 0) + count_new_regions(s, shop, c) > <uint32_t>REGIONS_PER_SHOP_MAX:
        return exhausted(s, b"REGION_LIMIT", b"The shop named as many regions as it may.")
    reply.sequence = s.current
    if shop != NULL and (shop.status == STATUS_RETIRED or (c.status == STATUS_RETIRED and shop.live)
                         or memcmp(shop.currency, c.currency, CURRENCY_BYTES) != 0):
        reply.outcome = OUTCOME_ILLEGAL_STATE
        reply.revision = shop.revision
        return DECIDED
    if shop == NULL:
        handle = new_shop(s, c.head.shop_id)
        shop = shop_at(s, handle)
    else:
        count_out(s.whole, shop_digest(s, shop))
    memcpy(shop.currency, c.currency, CURRENCY_BYTES)
    shop.strategy = c.strategy
    shop.allow_split = c.allow_split
    shop.status = c.status
    shop.content = content_of(&c.head)
    shop.revision += 1
    set_costs(s, shop, c)
    count_in(s.whole, shop_digest(s, shop))
    reply.outcome = OUTCOME_APPLIED
    reply.revision = shop.revision
    reclaim_shop(s, handle)
    return DECIDED


cdef uint32_t new_shop(State* s, Span id) noexcept nogil:
    cdef uint32_t handle = arena_new(&s.arena, sizeof(Shop) + id.size)
    cdef Shop* shop = shop_at(s, handle)
    shop.id_size = <uint8_t>id.size
    memcpy(<uint8_t*>shop + sizeof(Shop), id.data, id.size)
    shop.key = key_of(s, c"S", id, id)
    index_insert(&s.shops, &s.arena, handle, index_hash(s, 0, id))
    return handle


cdef int put_location(State* s, const PutLocation* c, Reply* reply) noexcept nogil:
    cdef uint32_t shop_handle = find_shop(s, c.head.shop_id), handle
    cdef Shop* shop = shop_at(s, shop_handle)
    cdef Location* location = NULL
    cdef bint opens
    if shop_handle == 0:
        return not_found(s, RESOURCE_SHOP, c.head.shop_id, c.head.shop_id)
    handle = find_location(s, shop_handle, c.location_id)
    if handle:
        location = location_at(s, handle)
    elif c.status == STATUS_RETIRED:
        return not_found(s, RESOURCE_LOCATION, c.head.shop_id, c.location_id)
    if c.has_if_revision and c.if_revision != (location.revision if location != NULL else 0):
        return set_fault(s, CODE_ABORTED, b"REVISION_CONFLICT", b"The location has another revision.")
    if location == NULL and shop.location_count >= <uint32_t>LOCATIONS_PER_SHOP_MAX:
        return exhausted(s, b"LOCATION_LIMIT", b"The shop has as many locations as it may.")
    if (c.region.size and find_region(s, shop, c.region) == 0
            and shop.region_count >= <uint32_t>REGIONS_PER_SHOP_MAX):
        return exhausted(s, b"REGION_LIMIT", b"The shop named as many regions as it may.")
    reply.sequence = s.current
    if shop.status == STATUS_RETIRED or (location != NULL and (
            location.status == STATUS_RETIRED or (c.status == STATUS_RETIRED and location.stocked_rows))):
        reply.outcome = OUTCOME_ILLEGAL_STATE
        reply.revision = location.revision if location != NULL else 0
        return DECIDED
    if location == NULL:
        handle = new_location(s, shop_handle, c.location_id)
        location = location_at(s, handle)
    else:
        count_out(s.whole, location_digest(s, location))
    opens = location.revision > 0 and c.status == STATUS_ACTIVE and location.status != STATUS_ACTIVE
    location.kind = c.kind
    location.priority = c.priority
    location.region = add_region(s, shop, c.region)
    location.content = content_of(&c.head)
    location.revision += 1
    location.status = c.status
    count_in(s.whole, location_digest(s, location))
    if opens:
        queue_match_shop(s, shop)
    reply.outcome = OUTCOME_APPLIED
    reply.revision = location.revision
    if c.status == STATUS_RETIRED:
        shop.live -= 1
        reclaim_location(s, handle)
    return DECIDED


cdef uint32_t new_location(State* s, uint32_t shop_handle, Span id) noexcept nogil:
    cdef uint32_t handle = arena_new(&s.arena, sizeof(Location) + id.size)
    cdef Location* location = location_at(s, handle)
    cdef Shop* shop = shop_at(s, shop_handle)
    location.id_size = <uint8_t>id.size
    memcpy(<uint8_t*>location + sizeof(Location), id.data, id.size)
    location.shop = shop_handle
    location.key = key_of(s, c"L", id_of_shop(shop), id)
    index_insert(&s.locations, &s.arena, handle, index_hash(s, shop_handle, id))
    if shop.location_count & (shop.location_count - 1) == 0:
        shop.locations = <uint32_t*>grown(shop.locations, (2 * shop.location_count + 1) * sizeof(uint32_t))
    shop.locations[shop.location_count] = handle
    shop.location_count += 1
    shop.refs += 1
    shop.live += 1
    return handle


cdef int put_sku(State* s, const PutSku* c, Reply* reply) noexcept nogil:
    cdef uint32_t shop_handle = find_shop(s, c.head.shop_id), handle, i
    cdef Shop* shop = shop_at(s, shop_handle)
    cdef Sku* sku = NULL
    cdef int ttl_slot, window_slot
    if shop_handle == 0:
        return not_found(s, RESOURCE_SHOP, c.head.shop_id, c.head.shop_id)
    handle = find_sku(s, shop_handle, c.sku_id)
    if handle:
        sku = sku_at(s, handle)
    elif c.status == STATUS_RETIRED:
        return not_found(s, RESOURCE_SKU, c.head.shop_id, c.sku_id)
    for i in range(c.override_count):
        if find_location(s, shop_handle, c.overrides[i].location_id) == 0:
            return not_found(s, RESOURCE_LOCATION, c.head.shop_id, c.overrides[i].location_id)
    if c.has_if_revision and c.if_revision != (sku.revision if sku != NULL else 0):
        return set_fault(s, CODE_ABORTED, b"REVISION_CONFLICT", b"The SKU has another revision.")
    ttl_slot = find_duration(s.holds, c.reserve_ttl_ms)
    window_slot = find_duration(s.windows, c.buyer_window_ms)
    if (sku == NULL and s.skus.count >= <uint64_t>SKUS_MAX) or ttl_slot < 0 or window_slot < 0:
        return exhausted(s, b"SKU_LIMIT", b"There are as many SKUs, reserve TTLs or buyer windows as there may be.")
    reply.sequence = s.current
    if shop.status == STATUS_RETIRED or (sku != NULL and (
            sku.status == STATUS_RETIRED or (c.status == STATUS_RETIRED and (sku.stocked_rows or sku.queue)))):
        reply.outcome = OUTCOME_ILLEGAL_STATE
        reply.revision = sku.revision if sku != NULL else 0
        return DECIDED
    if sku == NULL:
        handle = new_sku(s, shop_handle, c.sku_id)
        sku = sku_at(s, handle)
    else:
        count_out(s.whole, sku_digest(s, sku))
        s.holds[sku.ttl_slot].users -= 1
        s.windows[sku.window_slot].users -= 1
    sku.ttl_slot = use_duration(s.holds, ttl_slot, c.reserve_ttl_ms)
    sku.window_slot = use_duration(s.windows, window_slot, c.buyer_window_ms)
    sku.price = c.price
    sku.buyer_limit_per_order = c.buyer_limit_per_order
    sku.buyer_limit_per_window = c.buyer_limit_per_window
    sku.backorder_allowed = c.backorder_allowed
    sku.backorder_limit = c.backorder_limit
    sku.status = c.status
    sku.content = content_of(&c.head)
    sku.revision += 1
    count_in(s.whole, sku_digest(s, sku))
    reply.outcome = OUTCOME_APPLIED
    reply.revision = sku.revision
    if c.status == STATUS_RETIRED:
        shop.live -= 1
        if s.level >= 2:
            leave_business(s, sku)
        reclaim_sku(s, handle)
    else:
        set_safety_stock(s, handle, c)
    return DECIDED


cdef uint32_t new_sku(State* s, uint32_t shop_handle, Span id) noexcept nogil:
    cdef uint32_t handle = arena_new(&s.arena, sizeof(Sku) + id.size)
    cdef Sku* sku = sku_at(s, handle)
    sku.id_size = <uint8_t>id.size
    memcpy(<uint8_t*>sku + sizeof(Sku), id.data, id.size)
    sku.shop = shop_handle
    sku.key = key_of(s, c"K", id_of_shop(shop_at(s, shop_handle)), id)
    index_insert(&s.skus, &s.arena, handle, index_hash(s, shop_handle, id))
    shop_at(s, shop_handle).refs += 1
    shop_at(s, shop_handle).live += 1
    return handle


# The slot of a duration: its own, else a free one, else -1.
cdef int find_duration(const Duration* durations, int64_t duration_ms) noexcept nogil:
    cdef int slot, spare = -1
    for slot in range(DURATIONS):
        if durations[slot].users == 0 and durations[slot].items.head == 0:
            if spare < 0:
                spare = slot
        elif durations[slot].duration_ms == duration_ms:
            return slot
    return spare

cdef uint8_t use_duration(Duration* durations, int slot, int64_t duration_ms) noexcept nogil:
    durations[slot].duration_ms = duration_ms
    durations[slot].users += 1
    return <uint8_t>slot


cdef void set_safety_stock(State* s, uint32_t handle, const PutSku* c) noexcept nogil:
    cdef Sku* sku = sku_at(s, handle)
    cdef uint32_t row, location, i
    cdef int64_t units
    cdef bint made, grew = False
    sku.safety_stock = c.safety_stock
    for i in range(c.override_count):
        location = find_location(s, sku.shop, c.overrides[i].location_id)
        made = find_row(s, sku, location) == 0
        row = row_for(s, handle, location)
        if made:
            row_at(s, row).safety_stock = 0    # so that coming to be does not look like growth
    row = sku.rows
    while row:
        units = c.safety_stock
        for i in range(c.override_count):
            if span_equal(c.overrides[i].location_id, id_of_location(location_at(s, row_at(s, row).location))):
                units = c.overrides[i].quantity
        if units != row_at(s, row).safety_stock:
            grew = grew or units < row_at(s, row).safety_stock
            touch_row(s, row)
            row_at(s, row).safety_stock = units
        row = row_at(s, row).next
    if grew:
        queue_match(s, handle)


# The stock of a SKU that has just been retired is none of the business digest's any more.
cdef void leave_business(State* s, const Sku* sku) noexcept nogil:
    cdef uint32_t row = sku.rows
    while row:
        INVARIANT(not row_at(s, row).touched, "a SKU is retired while its stock moves")
        if not row_at(s, row).ghost:
            count_out(s.business, row_at(s, row).digest)
        row = row_at(s, row).next


# A retired SKU goes with its rows once nothing in memory names it.
cdef void reclaim_sku(State* s, uint32_t handle) noexcept nogil:
    cdef Sku* sku = sku_at(s, handle)
    cdef uint32_t shop = sku.shop, row = sku.rows, following, location
    if sku.status != STATUS_RETIRED or sku.uses or sku.queue or sku.stocked_rows or sku.on_match_list:
        return
    while row:
        following = row_at(s, row).next
        location = row_at(s, row).location
        if not row_at(s, row).ghost:
            count_row_out(s, row_at(s, row))
        arena_free(&s.arena, row, sizeof(StockRow))
        location_at(s, location).rows -= 1
        reclaim_location(s, location)
        row = following
    if not sku.ghost:
        s.holds[sku.ttl_slot].users -= 1
        s.windows[sku.window_slot].users -= 1
    count_out(s.whole, sku_digest(s, sku))
    index_remove(&s.skus, &s.arena, handle, index_hash(s, shop, id_of_sku(sku)))
    arena_free(&s.arena, handle, sizeof(Sku) + sku.id_size)
    shop_at(s, shop).refs -= 1
    reclaim_shop(s, shop)


cdef void reclaim_location(State* s, uint32_t handle) noexcept nogil:
    cdef Location* location = location_at(s, handle)
    cdef uint32_t shop_handle = location.shop, i
    cdef Shop* shop = shop_at(s, shop_handle)
    if location.status != STATUS_RETIRED or location.rows:
        return
    count_out(s.whole, location_digest(s, location))
    index_remove(&s.locations, &s.arena, handle, index_hash(s, shop_handle, id_of_location(location)))
    for i in range(shop.location_count):
        if shop.locations[i] == handle:
            shop.location_count -= 1
            memmove(&shop.locations[i], &shop.locations[i + 1], (shop.location_count - i) * sizeof(uint32_t))
            break
    arena_free(&s.arena, handle, sizeof(Location) + location.id_size)
    shop.refs -= 1
    reclaim_shop(s, shop_handle)


cdef void reclaim_shop(State* s, uint32_t handle) noexcept nogil:
    cdef Shop* shop = shop_at(s, handle)
    cdef uint32_t i
    cdef Span name
    if shop.status != STATUS_RETIRED or shop.refs:
        return
    count_out(s.whole, shop_digest(s, shop))
    for i in range(shop.region_count):
        name = region_name(s, shop, <uint16_t>(i + 1))
        count_out(s.whole, region_digest(s, shop, name))
        arena_free(&s.arena, shop.regions[i], sizeof(Region) + name.size)
    index_remove(&s.shops, &s.arena, handle, index_hash(s, 0, id_of_shop(shop)))
    s.recent_shop = 0
    free(shop.costs)
    free(shop.regions)
    free(shop.locations)
    arena_free(&s.arena, handle, sizeof(Shop) + shop.id_size)
