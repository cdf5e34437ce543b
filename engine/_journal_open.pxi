# Opening a log: what is there, where it ends, and the first segment of the next epoch. docs/log_format.md has the
# ritual. A follower that takes over does the same from where it stands.

cdef struct Survey:
    LogReader* reader                    # for its disk, and for faults
    uint64_t* numbers                    # of the segments, ascending
    SegmentHeader* headers               # checked; fewer than numbers if some were dropped meanwhile
    size_t count, numbered, capacity

cdef extern from "<stdlib.h>" nogil:
    void sort_numbers "qsort"(void* base, size_t count, size_t size,
                              int (*compare)(const void*, const void*) noexcept nogil)


cdef int compare_numbers(const void* left, const void* right) noexcept nogil:
    cdef uint64_t a = (<const uint64_t*>left)[0], b = (<const uint64_t*>right)[0]
    return -1 if a < b else a > b


cdef void survey_name(void* into, const char* name) noexcept nogil:
    cdef Survey* survey = <Survey*>into
    cdef uint64_t number = number_in_name(name, b"", b".log")
    cdef void* larger
    if number == 0:
        return
    if survey.numbered == survey.capacity:
        survey.capacity = survey.capacity * 2 + 64
        larger = realloc(survey.numbers, survey.capacity * sizeof(uint64_t))
        INVARIANT(larger != NULL, "out of memory")
        survey.numbers = <uint64_t*>larger
    survey.numbers[survey.numbered] = number
    survey.numbered += 1


cdef void survey_free(Survey* survey) noexcept nogil:
    free(survey.numbers)
    free(survey.headers)
    memset(survey, 0, sizeof(Survey))


# The numbers of all segments. LOG_RECORD, or LOG_DAMAGED if one is missing between two.
cdef int survey_names(Survey* survey, LogReader* r) noexcept nogil:
    cdef size_t i
    memset(survey, 0, sizeof(Survey))
    survey.reader = r
    if r.disk.list(r.disk, survey_name, survey) != 0:
        return log_fault(r, LOG_FAILED, 0, 0, "the directory cannot be read")
    if survey.numbered:
        sort_numbers(survey.numbers, survey.numbered, sizeof(uint64_t), compare_numbers)
    for i in range(1, survey.numbered):
        if survey.numbers[i] != survey.numbers[i - 1] + 1:
            return log_fault(r, LOG_DAMAGED, survey.numbers[i - 1] + 1, 0, "the segment is missing")
    return LOG_RECORD


# And their headers, each checked by itself and against the one before.
cdef int survey_log(Survey* survey, LogReader* r) noexcept nogil:
    cdef SegmentHeader* header
    cdef uint32_t crc
    cdef size_t i
    cdef int fd, code = survey_names(survey, r)
    if code != LOG_RECORD:
        return code
    survey.headers = <SegmentHeader*>calloc(survey.numbered + 1, sizeof(SegmentHeader))
    INVARIANT(survey.headers != NULL, "out of memory")
    for i in range(survey.numbered):
        header = &survey.headers[survey.count]
        code = log_header_read(r, survey.numbers[i], header, &crc, &fd)
        if code == LOG_END:
            continue                     # dropped since it was listed
        if code != LOG_RECORD:
            return code
        r.disk.close(r.disk, fd)
        if survey.count == 0:
            r.log_digest = log_digest_of(header.log_id)
        elif header.epoch < (header - 1).epoch or header.first_sequence < (header - 1).first_sequence:
            r.sequence = (header - 1).first_sequence
            return log_fault(r, LOG_DAMAGED, header.segment, 0, "epoch or sequence falls")
        survey.count += 1
    return LOG_RECORD


# Removes the segments whose records a snapshot at `sequence` covers, but for the last. Oldest first, and the directory
# synced after each, so that a crash leaves no gap.
cdef int log_drop(LogReader* r, uint64_t sequence, uint64_t* dropped) noexcept nogil:
    cdef char name[SEGMENT_NAME_BYTES]
    cdef Survey survey
    cdef int code = survey_log(&survey, r)
    cdef size_t i = 0
    while code == LOG_RECORD and i + 1 < survey.count and survey.headers[i + 1].first_sequence <= sequence + 1:
        segment_name(name, survey.headers[i].segment)
        if r.disk.remove(r.disk, name) != 0 or r.disk.sync_names(r.disk) != 0:
            code = log_fault(r, LOG_FAILED, survey.headers[i].segment, 0, "remove")
        else:
            dropped[0] += 1
        i += 1
    survey_free(&survey)
    return code


# What `durable` says. False: there is no such file, or nothing valid in it.
cdef bint durable_read(Disk* disk, DurableSlot* slot) noexcept nogil:
    cdef uint8_t bytes[DURABLE_FILE_BYTES]
    cdef int fd = disk.open(disk, b"durable", O_RDONLY)
    cdef ssize_t got
    memset(slot, 0, sizeof(DurableSlot))
    if fd < 0:
        return False
    got = disk.read(disk, fd, bytes, DURABLE_FILE_BYTES, 0)
    disk.close(disk, fd)
    return got == DURABLE_FILE_BYTES and durable_slot_read(bytes, slot)


# Opens the reader at the segment that holds `from_sequence`; at the first one for 0. The survey stays the caller's.
cdef int log_begin(LogReader* r, Survey* survey, uint64_t from_sequence) noexcept nogil:
    cdef DurableSlot slot
    cdef uint64_t segment = 0
    cdef size_t i
    # Before the segments are looked at: what is published later may lie in a segment that comes later.
    cdef bint published = durable_read(r.disk, &slot)
    cdef int code = survey_log(survey, r)
    if code != LOG_RECORD:
        return code
    r.sequence = from_sequence
    if survey.count == 0:
        return log_fault(r, LOG_DAMAGED, 0, 0, "there is no segment")
    r.from_sequence = from_sequence if from_sequence else survey.headers[0].first_sequence
    for i in range(survey.count):
        if survey.headers[i].first_sequence <= r.from_sequence and (from_sequence or i == 0):
            segment = survey.headers[i].segment
    if segment == 0:
        return log_fault(r, LOG_DAMAGED, 0, 0, "the log begins later: a snapshot must cover what is before")
    if published:
        if slot.log_digest != r.log_digest:
            return log_fault(r, LOG_DAMAGED, 0, 0, "`durable` belongs to another log")
        r.known_durable = slot.sequence
    return log_start(r, segment)


# Lets the reader go on up to what the leader has published, and returns that sequence (0: nothing yet).
cdef uint64_t log_follow(LogReader* r) noexcept nogil:
    cdef DurableSlot slot
    if not durable_read(r.disk, &slot):
        r.until_sequence = 0
        return 0
    r.until_sequence = r.known_durable = slot.sequence
    r.visible_segment = slot.segment
    r.visible_bytes = slot.offset
    return slot.sequence


# What a leader said last that it would write, for a reader that takes over from it.
cdef uint64_t durable_intent(Disk* disk) noexcept nogil:
    cdef uint64_t intent = 0
    cdef int fd = disk.open(disk, b"durable", O_RDONLY)
    if fd >= 0:
        if disk.read(disk, fd, &intent, sizeof(intent), DURABLE_INTENT_AT) != sizeof(intent):
            intent = 0
        disk.close(disk, fd)
    return intent


# Makes sure that what is in the segments from `segment` on is on the disk, and that it is read from there: what an
# earlier, failed sync left in the page cache must not pass for durable.
cdef int log_settle(LogReader* r, uint64_t segment) noexcept nogil:
    cdef char name[SEGMENT_NAME_BYTES]
    cdef int fd
    while True:
        segment_name(name, segment)
        fd = r.disk.open(r.disk, name, O_RDONLY)
        if fd < 0:
            return LOG_RECORD if errno == ENOENT else log_fault(r, LOG_FAILED, segment, 0, "open")
        if r.disk.sync(r.disk, fd) != 0:
            log_fault(r, LOG_FAILED, segment, 0, "sync")
            r.disk.close(r.disk, fd)
            return LOG_FAILED
        r.disk.forget(r.disk, fd)
        r.disk.close(r.disk, fd)
        segment += 1


# Opens the log for writing. LOG_RECORD; else the reader has the fault. `end` is left where the log ended, unless it is
# new. A log that is new gets `log_id` and begins at `first_sequence`; `exact`: one that is there must have that log_id.
cdef int journal_open(
    Journal* j, LogReader* end, const uint8_t* log_id, bint exact, uint64_t first_sequence
) noexcept nogil:
    cdef Survey survey
    cdef DurableSlot slot
    cdef size_t begin
    cdef int code
    durable_read(j.disk, &slot)
    code = survey_log(&survey, end)
    if code == LOG_RECORD and survey.count == 0:
        survey_free(&survey)
        if slot.sequence:
            end.sequence = slot.sequence
            return log_fault(end, LOG_DAMAGED, 0, 0, "all segments are missing")
        return journal_found(j, end, log_id, first_sequence)
    if code == LOG_RECORD:
        # The last segment that surely has records, and those behind it: a leader that died early leaves empty ones.
        begin = survey.count - 1
        while begin > 0 and survey.headers[begin].first_sequence == survey.headers[survey.count - 1].first_sequence:
            begin -= 1
        first_sequence = survey.headers[begin].first_sequence
        code = log_settle(end, survey.headers[begin].segment)
    survey_free(&survey)
    if code == LOG_RECORD:
        code = log_begin(end, &survey, first_sequence)
        survey_free(&survey)
    if code == LOG_RECORD:
        code = log_end(end)
    if code != LOG_END:
        return code
    if exact and memcmp(end.header.log_id, log_id, 16) != 0:
        return log_fault(end, LOG_DAMAGED, 0, 0, "it belongs to another log (log_id)")
    return journal_go_on(j, end)


cdef int journal_found(Journal* j, LogReader* end, const uint8_t* log_id, uint64_t first_sequence) noexcept nogil:
    cdef DurableSlot slot
    durable_read(j.disk, &slot)          # zeros where there is none
    memcpy(j.log_id, log_id, 16)
    # Above the epoch of a leader that left no segment: two leaders never share one.
    j.epoch = slot.epoch + 1
    j.durable_count = slot.count
    j.segment = 1
    j.block_sequence = first_sequence
    return journal_begin_at(j, end, 0)


# The next epoch, from where `end` stands: at the end of the log, its tail decided.
cdef int journal_go_on(Journal* j, LogReader* end) noexcept nogil:
    cdef DurableSlot slot
    durable_read(j.disk, &slot)
    memcpy(j.log_id, end.header.log_id, 16)
    # Also above an epoch of which only `durable` is left: two leaders never share one.
    j.epoch = end.header.epoch if end.header.epoch > slot.epoch else slot.epoch
    j.epoch += 1 if SAFE(SAFETY_EPOCH) else 0
    j.segment = end.header.segment + 1
    j.chain = end.chain
    j.block_sequence = end.sequence
    j.durable_count = slot.count
    return journal_begin_at(j, end, end.offset)


cdef int journal_begin_at(Journal* j, LogReader* end, uint64_t previous_bytes) noexcept nogil:
    cdef int error
    j.log_digest = log_digest_of(j.log_id)
    j.next_sequence = j.block_sequence
    j.durable_map = <uint8_t*>j.disk.map(j.disk, b"durable", DURABLE_FILE_BYTES)
    if j.durable_map == NULL:
        return log_fault(end, LOG_FAILED, 0, 0, "`durable` cannot be mapped")
    error = journal_begin(j, previous_bytes)
    if error:
        errno_is(error)
        return log_fault(end, LOG_FAILED, 0, 0, "a segment cannot be preallocated")
    return LOG_RECORD
