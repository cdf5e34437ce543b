# Where the units of an order come from: a plan of allocations over stock rows. Planning changes nothing but scratch
# fields, which are zero again at its end.

cdef struct Candidate:
    int64_t rank, cost, priority               # lowest first; then location_id, the order in which rows are listed
    int64_t units                              # 0: it gave them
    uint32_t row

# What is to be planned.
cdef struct Demand:
    uint32_t shop, count
    uint16_t region
    uint8_t strategy
    bint split
    uint32_t skus[64]                          # by line
    int64_t units[64]                          # 0: the line needs nothing


# 1 and s.plan, or 0.
cdef int plan_order(State* s, const Demand* demand) noexcept nogil:
    cdef int complete
    cdef uint32_t i
    s.plan_count = 0
    if not demand.split:
        complete = plan_one_location(s, demand)
    elif demand.strategy == STRATEGY_FEWEST_SHIPMENTS:
        complete = plan_fewest_shipments(s, demand)
    else:
        complete = plan_by_line(s, demand)
    for i in range(s.plan_count):
        row_at(s, s.plan[i].row).taken = 0
    return complete


cdef int take(State* s, uint32_t row, uint32_t line, int64_t units) noexcept nogil:
    if s.plan_count == <uint32_t>ALLOCATIONS_MAX:
        return 0
    row_at(s, row).taken += units
    s.plan[s.plan_count].row = row
    s.plan[s.plan_count].line = line
    s.plan[s.plan_count].quantity = <uint32_t>units
    s.plan_count += 1
    return 1


# PRIORITY, NEAREST, MOST_STOCK: line by line.
cdef int plan_by_line(State* s, const Demand* demand) noexcept nogil:
    cdef Candidate candidates[256]
    cdef Candidate* best
    cdef uint32_t line, count
    cdef int64_t remaining, units
    for line in range(demand.count):
        remaining = demand.units[line]
        count = gather(s, demand, sku_at(s, demand.skus[line]), candidates) if remaining else 0
        while remaining:
            best = first_candidate(candidates, count)
            if best == NULL:
                return 0
            units = best.units if best.units < remaining else remaining
            if not take(s, best.row, line, units):
                return 0
            best.units = 0
            remaining -= units
    return 1


# The rows that can give something, as they are listed.
cdef uint32_t gather(State* s, const Demand* demand, const Sku* sku, Candidate* candidates) noexcept nogil:
    cdef uint32_t row = sku.rows, count = 0
    cdef int64_t units
    while row:
        units = row_sellable(s, row_at(s, row))
        if units > 0:
            candidates[count].row = row
            candidates[count].units = units
            if sku.row_count > 1:
                rank_location(s, demand, row_at(s, row).location, units, &candidates[count])
            count += 1
        row = row_at(s, row).next
    return count


# By the order of the strategy, among those not taken yet. They are looked at anew for each, not sorted: a plan has few
# allocations, so that this is bounded by them, while a sort of all rows is paid for every line.
cdef Candidate* first_candidate(Candidate* candidates, uint32_t count) noexcept nogil:
    cdef Candidate* best = NULL
    cdef uint32_t i
    for i in range(count):
        if candidates[i].units and (best == NULL or comes_before(&candidates[i], best)):
            best = &candidates[i]
    return best


cdef inline bint comes_before(const Candidate* a, const Candidate* b) noexcept nogil:
    if a.rank != b.rank:
        return a.rank < b.rank
    if a.cost != b.cost:
        return a.cost < b.cost
    return a.priority < b.priority


cdef void rank_location(
    State* s, const Demand* demand, uint32_t location_handle, int64_t units, Candidate* candidate
) noexcept nogil:
    cdef Location* location = location_at(s, location_handle)
    candidate.cost = region_cost(shop_at(s, demand.shop), demand.region, location.region)
    candidate.priority = location.priority
    candidate.rank = 0
    if demand.strategy == STRATEGY_PRIORITY:
        candidate.rank = location.priority
    elif demand.strategy != STRATEGY_NEAREST:
        candidate.rank = -units


# A location that can give something of what is wanted.
cdef struct Source:
    int64_t cost, priority, gain               # gain: what it could give over all lines as they now stand
    uint32_t location

# What one source has of one SKU.
cdef struct Offer:
    int64_t units
    uint32_t row

# Round by round the location that could give most, until nothing remains. The gains are kept up to date, so that a
# round costs what it changes: 256 locations, each good for one line, would otherwise be added up 256 times.
cdef int plan_fewest_shipments(State* s, const Demand* demand) noexcept nogil:
    cdef Source sources[256]
    cdef Offer offers[64 * 256]                # by need and source
    cdef Need needs[64]
    cdef int64_t remaining[64]
    cdef uint32_t count = sum_needs(s, demand, needs), source_count = list_sources(s, demand, needs, count, sources)
    cdef uint32_t line, best
    cdef int64_t left = 0
    fill_offers(s, needs, count, sources, source_count, offers)
    for line in range(demand.count):
        remaining[line] = demand.units[line]
        left += remaining[line]
    while left:
        best = best_source(sources, source_count)
        if best == source_count:
            return 0
        left -= sources[best].gain
        for line in range(demand.count):
            if remaining[line] and not draw(s, demand, line, needs, &remaining[line], sources, source_count, offers,
                                            best):
                return 0
    return 1


# What the source can give to the line. 0: the plan is full.
cdef int draw(
    State* s, const Demand* demand, uint32_t line, Need* needs, int64_t* remaining, Source* sources,
    uint32_t source_count, Offer* offers, uint32_t source
) noexcept nogil:
    cdef uint32_t i = 0
    cdef int64_t units
    while needs[i].sku != demand.skus[line]:
        i += 1
    offers += i * source_count
    units = offers[source].units if offers[source].units < remaining[0] else remaining[0]
    if units == 0:
        return 1
    if not take(s, offers[source].row, line, units):
        return 0
    add_gains(sources, source_count, offers, needs[i].units, -1)
    offers[source].units -= units
    needs[i].units -= units
    remaining[0] -= units
    add_gains(sources, source_count, offers, needs[i].units, 1)
    return 1


# The locations of all rows that can give something to the needs, by cost, priority, location_id. Location.fits becomes
# the place in the list, from 1.
cdef uint32_t list_sources(
    State* s, const Demand* demand, const Need* needs, uint32_t count, Source* sources
) noexcept nogil:
    cdef uint32_t i, row, found = 0
    cdef Source source
    cdef Candidate candidate
    for i in range(count):
        row = sku_at(s, needs[i].sku).rows
        while row:
            source.location = row_at(s, row).location
            if location_at(s, source.location).fits == 0 and row_sellable(s, row_at(s, row)):
                location_at(s, source.location).fits = 1
                rank_location(s, demand, source.location, 0, &candidate)
                source.cost = candidate.cost
                source.priority = candidate.priority
                source.gain = 0
                insert_source(s, sources, found, &source)
                found += 1
            row = row_at(s, row).next
    for i in range(found):
        location_at(s, sources[i].location).fits = <uint16_t>(i + 1)
    return found


# By halves, since there may be 256.
cdef void insert_source(State* s, Source* sources, uint32_t count, const Source* source) noexcept nogil:
    cdef uint32_t low = 0, high = count, middle
    while low < high:
        middle = (low + high) >> 1
        if source_before(s, &sources[middle], source):
            low = middle + 1
        else:
            high = middle
    memmove(&sources[low + 1], &sources[low], (count - low) * sizeof(Source))
    sources[low] = source[0]


cdef bint source_before(State* s, const Source* a, const Source* b) noexcept nogil:
    if a.cost != b.cost:
        return a.cost < b.cost
    if a.priority != b.priority:
        return a.priority < b.priority
    return compare_ids(id_of_location(location_at(s, a.location)), id_of_location(location_at(s, b.location))) < 0


# What is there, and with it the gains; Location.fits is zero again.
cdef void fill_offers(
    State* s, const Need* needs, uint32_t count, Source* sources, uint32_t source_count, Offer* offers
) noexcept nogil:
    cdef uint32_t i, row
    cdef Offer* offer
    memset(offers, 0, count * source_count * sizeof(Offer))
    for i in range(count):
        row = sku_at(s, needs[i].sku).rows
        while row:
            if row_sellable(s, row_at(s, row)):
                offer = &offers[i * source_count + location_at(s, row_at(s, row).location).fits - 1]
                offer.units = row_sellable(s, row_at(s, row))
                offer.row = row
            row = row_at(s, row).next
        add_gains(sources, source_count, &offers[i * source_count], needs[i].units, 1)
    for i in range(source_count):
        location_at(s, sources[i].location).fits = 0


# What each source could give of one SKU, over all lines that want it, comes into its gain (+1) or goes (-1).
cdef void add_gains(
    Source* sources, uint32_t count, const Offer* offers, int64_t wanted, int sign
) noexcept nogil:
    cdef uint32_t i
    for i in range(count):
        sources[i].gain += sign * (offers[i].units if offers[i].units < wanted else wanted)


# The first with the greatest gain; `count` if none can give anything.
cdef uint32_t best_source(const Source* sources, uint32_t count) noexcept nogil:
    cdef uint32_t i, best = count
    cdef int64_t gain = 0
    for i in range(count):
        if sources[i].gain > gain:
            gain = sources[i].gain
            best = i
    return best


# Without splitting: the best of the locations that can serve every line.
cdef int plan_one_location(State* s, const Demand* demand) noexcept nogil:
    cdef Need needs[64]
    cdef uint32_t count = sum_needs(s, demand, needs), i, row, best = 0, best_row = 0
    cdef Candidate candidate, leader
    cdef Location* location
    for i in range(count):
        row = sku_at(s, needs[i].sku).rows
        while row:
            location = location_at(s, row_at(s, row).location)
            if row_sellable(s, row_at(s, row)) >= needs[i].units:
                location.fits += 1
            location.gain += row_sellable(s, row_at(s, row))
            row = row_at(s, row).next
    # A location that serves every line has a row of the first; rows are listed by location_id, which breaks ties.
    row = sku_at(s, needs[0].sku).rows
    while row:
        location = location_at(s, row_at(s, row).location)
        if location.fits == count:
            rank_location(s, demand, row_at(s, row).location, location.gain, &candidate)
            if best_row == 0 or comes_before(&candidate, &leader):
                best_row = row
                leader = candidate
        row = row_at(s, row).next
    for i in range(count):
        row = sku_at(s, needs[i].sku).rows
        while row:
            location = location_at(s, row_at(s, row).location)
            location.fits = 0
            location.gain = 0
            row = row_at(s, row).next
    if best_row == 0:
        return 0
    best = row_at(s, best_row).location
    for i in range(demand.count):
        if demand.units[i]:
            take(s, find_row(s, sku_at(s, demand.skus[i]), best), i, demand.units[i])
    return 1


# Units by distinct SKU, in the order of their first lines.
cdef uint32_t sum_needs(State* s, const Demand* demand, Need* needs) noexcept nogil:
    cdef uint32_t line, count = 0, i
    cdef Sku* sku
    for line in range(demand.count):
        if demand.units[line] == 0:
            continue
        sku = sku_at(s, demand.skus[line])
        if sku.mark == 0:
            needs[count].sku = demand.skus[line]
            needs[count].units = 0
            needs[count].first_line = line
            count += 1
            sku.mark = <uint8_t>count
        needs[sku.mark - 1].units += demand.units[line]
    for i in range(count):
        sku_at(s, needs[i].sku).mark = 0
    return count
