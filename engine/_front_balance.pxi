# Keeps the load of the workers alike: by who accepts a connection, and by asking one at a time to come anew.

cdef enum:
    HEARTBEAT_NS_MAX = 1000000000        # older: its worker is frozen, and must not keep the others from accepting


# Publishes what this worker does, each `balance_ms`. The loop does it before it looks at balance_shed. Half of what was
# stays in the figure, since a machine that others use too makes single measures jump.
cdef void balance_measure(Front* f) noexcept nogil:
    cdef uint64_t elapsed_ns = f.now_ns - f.balance.measured_ns
    cdef uint64_t busy_ns = f.busy_ns - f.balance.busy_before_ns
    cdef uint64_t executed = board_count(f.slot, COMMANDS_EXECUTED)
    cdef uint64_t busy_ppm
    if busy_ns > elapsed_ns:
        busy_ns = elapsed_ns
    eo_store64(&f.slot.connections, f.connection_count)
    if f.balance.measured_ns != 0 and elapsed_ns > 0:
        busy_ppm = (eo_load64(&f.slot.busy_ppm) + <uint64_t>PPM * busy_ns // elapsed_ns) // 2
        eo_store64(&f.slot.busy_ppm, busy_ppm)
        eo_store64(&f.slot.commands_per_s,
                   <uint64_t>1000000000 * (executed - f.balance.executed_before) // elapsed_ns)
    f.balance.measured_ns = f.now_ns
    f.balance.busy_before_ns = f.busy_ns
    f.balance.executed = executed - f.balance.executed_before
    f.balance.executed_before = executed


cdef void read_loads(Front* f, WorkerLoad* loads) noexcept nogil:
    cdef const BoardSlot* slot
    cdef uint64_t beat_ns
    cdef int i
    for i in range(f.workers):
        slot = board_slot(&f.board, <uint32_t>i)
        loads[i].busy_ppm = eo_load64(&slot.busy_ppm)
        loads[i].connections = eo_load64(&slot.connections)
        beat_ns = eo_load64(&slot.heartbeat_ns)
        loads[i].live = (eo_load64(&slot.format_version) == <uint64_t>BOARD_FORMAT_VERSION
                         and eo_load64(&slot.state) == <uint64_t>BOARD_SERVING
                         and beat_ns + <uint64_t>HEARTBEAT_NS_MAX > f.now_ns)


# Whether the next connection of the shared listener is taken here. Asked before each accept, so that others see at once
# how many this worker has.
cdef bint may_accept(Front* f) noexcept nogil:
    cdef WorkerLoad loads[WORKERS_MAX]
    eo_store64(&f.slot.connections, f.connection_count)
    if f.workers == 1:
        return True
    read_loads(f, loads)
    return takes_connection(loads, f.workers, f.worker, f.settings.accept_lead_ppm)


# Each `balance_ms`: asks at most one connection to come anew, so that a less busy worker takes it. What a connection
# makes this worker busy is its part of the commands: of those that were asked for here, or carried out here for others.
cdef void balance_shed(Front* f) noexcept nogil:
    cdef WorkerLoad loads[WORKERS_MAX]
    cdef ShedChoice choice
    cdef Connection* c = f.connections
    cdef uint64_t commands = 0, leaving = 0
    cdef uint64_t busy_ppm, leaving_ppm, at_most_ppm, turn
    if f.workers == 1 or f.draining or f.handing_over:
        return
    while c != NULL:
        commands += c.commands - c.commands_before
        leaving += c.commands - c.commands_before if c.notice_sent or c.closing else 0
        c = c.next
    if f.balance.executed > commands:
        commands = f.balance.executed
    read_loads(f, loads)
    busy_ppm = loads[f.worker].busy_ppm
    leaving_ppm = busy_ppm * leaving // commands if commands > 0 else 0
    turn = f.now_ns // (<uint64_t>TURN_MEASURES * f.settings.balance_ms * <uint64_t>MS_NS)
    at_most_ppm = shed_at_most(&f.balance.shed, loads, f.workers, f.worker, leaving_ppm, f.settings.accept_lead_ppm,
                               f.settings.shed_lead_ppm, turn)
    memset(&choice, 0, sizeof(choice))
    choice.commands_max = commands * at_most_ppm // busy_ppm if busy_ppm > 0 else 0
    c = f.connections
    while c != NULL:
        if at_most_ppm > 0 and c.shared and not (c.notice_sent or c.closing or c.dead):
            shed_consider(&choice, c, c.commands - c.commands_before, c.native_streams > 0)
        c.commands_before = c.commands
        c = c.next
    c = <Connection*>shed_chosen(&f.balance.shed, &choice)
    if c != NULL:
        tally(f, CONNECTIONS_SHED, 1)
        connection_drain(c)
