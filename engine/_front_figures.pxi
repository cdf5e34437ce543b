# What a front leaves on the board ten times a second: the gauges of its slot, and the figures of the shards it hosts.


cdef void publish_figures(Front* f) noexcept nogil:
    cdef uint64_t waiting = 0, away = 0
    cdef Link* link = f.live_links
    cdef int shard
    while link != NULL:
        waiting += link.outgoing.tail - eo_load64(&link.outgoing.header.head)
        away += link.away_count
        link = link.next_live
    board_set(f.slot, LINK_BYTES_WAITING, waiting)
    board_set(f.slot, LINK_JOBS_AWAY, away)
    board_set(f.slot, MAX_CONCURRENT_STREAMS, f.streams_limit)
    board_set(f.slot, BYTES_IN_FLIGHT, f.bytes_in_flight)
    board_set(f.slot, CALLS_IN_FLIGHT, f.calls_in_flight)
    for shard in range(f.shards):
        if f.hosted[shard] != NULL and board_shard(&f.board, <uint32_t>shard) != NULL:
            publish_shard(f.hosted[shard], board_shard(&f.board, <uint32_t>shard), <uint64_t>f.worker)


cdef void publish_shard(Hosted* h, ShardPage* page, uint64_t worker) noexcept nogil:
    cdef State* s = h.state
    cdef const JournalStats* log = &h.journal.stats
    eo_store64(&page.worker, worker)
    figure_set(page, SHARD_SEQUENCE, s.sequence)
    figure_set(page, SHARD_DURABLE_SEQUENCE, journal_durable_sequence(h.journal))
    figure_set(page, SHARD_JOBS_IN_FLIGHT, h.jobs_in_flight)
    figure_set(page, SHARD_OPEN_ORDERS, s.orders.count - s.closed_orders)
    figure_set(page, SHARD_OPEN_HOLDS, s.held_orders)
    figure_set(page, SHARD_OPEN_BACKORDERS, s.waiting_orders)
    figure_set(page, SHARD_EVICTED_ORDERS, s.evicted_orders)
    figure_set(page, SHARD_EXPIRIES, s.expired_orders - h.expired_before)
    figure_set(page, SHARD_DUPLICATES, s.duplicates)
    figure_set(page, SHARD_READS, s.reads)
    figure_set(page, SHARD_COMMITS, log.commits)
    figure_set(page, SHARD_COMMITTED_RECORDS, log.records)
    figure_set(page, SHARD_COMMITTED_BYTES, log.record_bytes)
    figure_set(page, SHARD_DISK_BYTES, log.disk_bytes)
    figure_set(page, SHARD_SYNC_NS, log.sync_ns_sum)
    figure_set(page, SHARD_REFUSED_FULL, log.refused_full)
    figure_set(page, SHARD_REFUSED_NO_SPACE, log.refused_no_space)
    figure_set(page, SHARD_CLOCK_ALARMS, h.clock.alarms)
    words_store(&page.figures[<uint32_t>SHARD_OUTCOME_PLACED], s.outcomes + OUTCOME_PLACED, OUTCOMES - OUTCOME_PLACED)
    words_store(page.faults, s.faults, FAULTS_ROOM)
    words_store(<uint64_t*>&page.commit_records, <const uint64_t*>&h.journal.commit_records, SIZE_COUNTS + 1)
    words_store(<uint64_t*>&page.commit_bytes, <const uint64_t*>&h.journal.commit_bytes, SIZE_COUNTS + 1)
    eo_store64(&page.format_version, FIGURES_FORMAT_VERSION)
