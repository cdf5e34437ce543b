# Where the units of an order come from: a plan of allocations over stock rows. Planning changes nothing but scratch
# fields, which are zero again at its end.

cdef struct Candidate:
    int64_t rank, cost, priority               # lowest first; then location_id, the order in which rows are listed
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
    cdef uint32_t line, count, i
    cdef int64_t remaining, units
    for line in range(demand.count):
        remaining = demand.units[line]
        if remaining == 0:
            continue
        count = gather(s, demand, sku_at(s, demand.skus[line]), candidates)
        for i in range(count):
            units = row_sellable(s, row_at(s, candidates[i].row))
            if units > remaining:
                units = remaining
            if not take(s, candidates[i].row, line, units):
                return 0
            remaining -= units
            if remaining == 0:
                break
        if remaining:
            return 0
    return 1


# The rows that can give something, in the order of the strategy.
cdef uint32_t gather(State* s, const Demand* demand, const Sku* sku, Candidate* candidates) noexcept nogil:
    cdef uint32_t row = sku.rows, count = 0, at
    cdef int64_t units
    cdef Candidate candidate
    while row:
        units = row_sellable(s, row_at(s, row))
        if units > 0:
            candidate.row = row
            if sku.row_count > 1:
                rank_location(s, demand, row_at(s, row).location, units, &candidate)
            at = count
            while at > 0 and comes_before(&candidate, &candidates[at - 1]):
                candidates[at] = candidates[at - 1]
                at -= 1
            candidates[at] = candidate
            count += 1
        row = row_at(s, row).next
    return count


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


# Round by round the location that could give most, until nothing remains.
cdef int plan_fewest_shipments(State* s, const Demand* demand) noexcept nogil:
    cdef int64_t remaining[64]
    cdef uint32_t line, row, best
    cdef int64_t units, left = 0
    for line in range(demand.count):
        remaining[line] = demand.units[line]
        left += remaining[line]
    while left:
        best = best_location(s, demand, remaining)
        if best == 0:
            return 0
        for line in range(demand.count):
            if remaining[line] == 0:
                continue
            row = find_row(s, sku_at(s, demand.skus[line]), best)
            if row == 0:
                continue
            units = row_sellable(s, row_at(s, row))
            if units > remaining[line]:
                units = remaining[line]
            if units == 0:
                continue
            if not take(s, row, line, units):
                return 0
            remaining[line] -= units
            left -= units
    return 1


cdef uint32_t best_location(State* s, const Demand* demand, const int64_t* remaining) noexcept nogil:
    cdef uint32_t line, row, best = 0, location
    cdef Candidate candidate, leader
    # First what each could give; `taken` holds it, so that lines of one SKU share a row.
    for line in range(demand.count):
        row = sku_at(s, demand.skus[line]).rows if remaining[line] else 0
        while row:
            try_row(s, row, remaining[line])
            row = row_at(s, row).next
    for line in range(demand.count):
        row = sku_at(s, demand.skus[line]).rows if remaining[line] else 0
        while row:
            location = row_at(s, row).location
            if location_at(s, location).gain > 0:
                rank_location(s, demand, location, location_at(s, location).gain, &candidate)
                if best == 0 or comes_before(&candidate, &leader) or (
                        not comes_before(&leader, &candidate) and location != best
                        and compare_ids(id_of_location(location_at(s, location)),
                                        id_of_location(location_at(s, best))) < 0):
                    best = location
                    leader = candidate
            row = row_at(s, row).next
    untry_rows(s, demand, remaining)
    return best


cdef void try_row(State* s, uint32_t handle, int64_t remaining) noexcept nogil:
    cdef StockRow* row = row_at(s, handle)
    cdef int64_t units = row_sellable(s, row)
    if units > remaining:
        units = remaining
    row.taken += units
    location_at(s, row.location).gain += units


# Takes back what the probes took: the plan so far is what counts.
cdef void untry_rows(State* s, const Demand* demand, const int64_t* remaining) noexcept nogil:
    cdef uint32_t line, row, i
    for line in range(demand.count):
        row = sku_at(s, demand.skus[line]).rows if remaining[line] else 0
        while row:
            row_at(s, row).taken = 0
            location_at(s, row_at(s, row).location).gain = 0
            row = row_at(s, row).next
    for i in range(s.plan_count):
        row_at(s, s.plan[i].row).taken = 0
    for i in range(s.plan_count):
        row_at(s, s.plan[i].row).taken += s.plan[i].quantity


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
