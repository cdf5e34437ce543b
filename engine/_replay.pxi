# Replay: the records of a log are applied in groups, like the commands that they hold. A follower reads what it
# applies; where there is much to apply, another thread reads, proves and decodes ahead.

cdef enum:
    GROUPS_AHEAD = 128
    REPLAY_PAUSE_NS = 20000

# Records that lie in the reader's block, or in a copy.
cdef struct Group:
    Span records[GROUP]
    PlaceOrder* orders[GROUP]                  # NULL: to be decoded in its turn
    int count

cdef struct GroupAhead:
    Group group
    Buffer bytes
    PlaceOrder decoded[GROUP]
    Buffer scratch[GROUP]

# Two threads share it: one counts what it has read, the other one what it has applied.
cdef struct ReadAhead:
    LogReader* reader
    uint64_t next_sequence, left
    Fault fault
    GroupAhead* groups
    uint64_t read                              # groups
    uint64_t ended                             # `code` and `reason` are there, and no group follows
    int code
    const char* reason
    uint8_t apart[64]                          # from what the other thread writes
    uint64_t applied
    uint64_t stop


# The next records, as many as are made ready together and at most `most`. LOG_RECORD: there may be more. Otherwise the
# reader's code, or `reason` is set.
cdef int gather_records(
    Group* g, LogReader* reader, uint64_t next_sequence, uint64_t most, const char** reason
) noexcept nogil:
    cdef uint64_t sequence = 0
    cdef size_t size = 0
    cdef int code = LOG_RECORD
    g.count = 0
    # Records of one block stay where they are until the next block is read.
    while g.count < GROUP and <uint64_t>g.count < most and (g.count == 0 or reader.records_left):
        code = log_next(reader, &g.records[g.count].data, &size, &sequence)
        if code != LOG_RECORD:
            break
        if sequence != next_sequence + g.count:
            reason[0] = b"the sequence of the record is not the next one"
            break
        g.records[g.count].size = <uint32_t>size
        g.orders[g.count] = NULL
        g.count += 1
    return LOG_END if reason[0] != NULL else code


# The command of a record that places an order; of any other nothing, which is no order and is not waited for.
cdef inline Span command_to_expect(Span record) noexcept nogil:
    cdef uint32_t size = 0
    if record.size >= RECORD_HEAD_BYTES and record.data[4] == PLACE_ORDER:
        memcpy(&size, record.data + 12, 4)
        if size > record.size - RECORD_HEAD_BYTES:
            size = 0
    return span_of(record.data + RECORD_HEAD_BYTES if size else record.data, size)


cdef int apply_group(State* s, const Group* g, uint64_t* done, const char** reason) noexcept nogil:
    cdef int i
    for i in range(g.count):
        if not replay(s, g.records[i].data, g.records[i].size, <PlaceOrder*>g.orders[i], reason):
            return 0
        done[0] += 1
    return 1


# Applies the next records of a reader, at most `most`; `done` of them are. Returns as gather_records().
cdef int replay_group(
    State* s, LogReader* reader, uint64_t most, uint64_t* done, const char** reason
) noexcept nogil:
    cdef Group g
    cdef Span commands[GROUP]
    cdef const char* gap = NULL
    cdef int code = gather_records(&g, reader, s.sequence + 1, most, &gap), i
    for i in range(g.count):
        commands[i] = command_to_expect(g.records[i])
    make_ready(s, commands, g.count, g.orders)
    if not apply_group(s, &g, done, reason):
        return LOG_END
    reason[0] = gap
    return code


cdef ReadAhead* read_ahead_new(LogReader* reader, uint64_t next_sequence, uint64_t records_max) noexcept nogil:
    cdef ReadAhead* a = <ReadAhead*>calloc(1, sizeof(ReadAhead))
    if a == NULL:
        return NULL
    a.reader = reader
    a.next_sequence = next_sequence
    a.left = records_max
    a.groups = <GroupAhead*>calloc(GROUPS_AHEAD, sizeof(GroupAhead))
    if a.groups == NULL:
        free(a)
        return NULL
    return a


cdef void read_ahead_free(ReadAhead* a) noexcept nogil:
    cdef int at, i
    for at in range(GROUPS_AHEAD):
        buffer_free(&a.groups[at].bytes)
        for i in range(GROUP):
            buffer_free(&a.groups[at].scratch[i])
    free(a.groups)
    free(a)


# The thread that reads: until the end of the records, or of the need for them.
cdef void read_ahead(ReadAhead* a) noexcept nogil:
    cdef GroupAhead* ahead
    a.code = LOG_RECORD
    while a.code == LOG_RECORD and a.left > 0 and eo_load64(&a.stop) == 0:
        if a.read - eo_load64(&a.applied) >= <uint64_t>GROUPS_AHEAD:
            pause_ns(REPLAY_PAUSE_NS)
            continue
        ahead = &a.groups[a.read % <uint64_t>GROUPS_AHEAD]
        a.code = gather_records(&ahead.group, a.reader, a.next_sequence, a.left, &a.reason)
        if ahead.group.count:
            decode_ahead(a, ahead)
            a.next_sequence += <uint64_t>ahead.group.count
            a.left -= <uint64_t>ahead.group.count
            eo_store64(&a.read, a.read + 1)
    eo_store64(&a.ended, 1)


# Copies the records, since the reader's block does not stay, and decodes what is an order.
cdef void decode_ahead(ReadAhead* a, GroupAhead* ahead) noexcept nogil:
    cdef Group* g = &ahead.group
    cdef Span command
    cdef size_t size = 0
    cdef uint8_t* at
    cdef int i
    for i in range(g.count):
        size += g.records[i].size
    ahead.bytes.size = 0
    at = buffer_reserve(&ahead.bytes, size)
    for i in range(g.count):
        memcpy(at, g.records[i].data, g.records[i].size)
        g.records[i].data = at
        at += g.records[i].size
        command = command_to_expect(g.records[i])
        ahead.scratch[i].size = 0
        if command.size and decode_place_order(
                command.data, command.size, &ahead.decoded[i], &ahead.scratch[i], &a.fault):
            g.orders[i] = &ahead.decoded[i]


# A group that was read, by its number; NULL: there is none, or, unless it is to be waited for, none yet.
cdef Group* group_ahead(ReadAhead* a, uint64_t number, bint wait) noexcept nogil:
    cdef bint ended
    while eo_load64(&a.read) <= number:
        ended = eo_load64(&a.ended) != 0
        if eo_load64(&a.read) > number:
            break
        if ended or not wait:
            return NULL
        pause_ns(REPLAY_PAUSE_NS)
    return &a.groups[number % <uint64_t>GROUPS_AHEAD].group


# The thread that applies. What a group needs is asked of memory while the one before it is applied.
cdef int replay_ahead(State* s, ReadAhead* a, uint64_t* done, const char** reason) noexcept nogil:
    cdef Group* g = NULL
    cdef Group* following = NULL
    while True:
        g = following if following != NULL else group_ahead(a, a.applied, True)
        if g == NULL:
            reason[0] = a.reason
            return a.code
        following = group_ahead(a, a.applied + 1, False)
        if following != NULL:
            look_ahead(s, following.orders, following.count)
        if not apply_group(s, g, done, reason):
            eo_store64(&a.stop, 1)
            return LOG_END
        eo_store64(&a.applied, a.applied + 1)
