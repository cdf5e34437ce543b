# Reading the log: block by block, each one proved before a record of it is handed out. docs/log_format.md has the rules
# by which an end is told from a torn write and a torn write from damage.

cdef enum LogCode:
    LOG_RECORD = 1
    LOG_END = 2
    LOG_DAMAGED = 3
    LOG_FORMAT = 4
    LOG_FAILED = 5                    # a system call; see fault_errno

cdef enum LogTail:
    LOG_TAIL_UNREAD = 1
    LOG_TAIL_LIMIT = 2                       # stopped at until_sequence
    LOG_TAIL_CLEAN = 3                       # nothing but zeros after the last block
    LOG_TAIL_SEALED = 4                      # and the last block is a seal
    LOG_TAIL_TORN = 5                        # a write that never finished lies behind the end

cdef enum:
    LOG_CHUNK_BYTES = 1048576
    LOG_AHEAD_BYTES = 8388608

cdef struct LogReader:
    Disk* disk
    int fd
    int successor_fd
    SegmentHeader header
    SegmentHeader successor
    uint32_t successor_crc
    uint64_t log_digest
    uint64_t sealed_bytes                # where the successor seals this segment; 0 while there is none
    uint64_t offset                      # of the next block
    uint32_t chain
    uint64_t sequence                    # of the next record
    uint64_t from_sequence
    uint64_t until_sequence
    uint64_t known_durable               # the log must not end before it
    uint64_t visible_segment             # while following: read no further than what the leader published
    uint64_t visible_bytes
    uint64_t intent                      # what a leader that ended a moment ago was writing; 0: it is not known
    uint8_t* chunk
    uint64_t chunk_at
    size_t chunk_bytes
    size_t chunk_room
    uint8_t* payload
    size_t payload_room
    size_t payload_bytes
    size_t payload_at
    uint32_t records_left
    bint last_is_seal
    bint one_segment                     # stop where the successor seals this one
    int tail
    uint64_t blocks
    uint64_t seals
    int fault_code                       # 0 while there is none
    uint64_t fault_segment
    uint64_t fault_offset                # LOG_FORMAT: the version instead
    int fault_errno
    const char* fault_reason


cdef int log_fault(LogReader* r, int code, uint64_t segment, uint64_t offset, const char* reason) noexcept nogil:
    r.fault_code = code
    r.fault_errno = errno if code == LOG_FAILED else 0
    r.fault_segment = segment
    r.fault_offset = offset
    r.fault_reason = reason
    return code


cdef int log_damage(LogReader* r, const char* reason) noexcept nogil:
    return log_fault(r, LOG_DAMAGED, r.header.segment, r.offset, reason)


cdef int log_header_check(LogReader* r, const uint8_t* bytes, uint64_t segment, SegmentHeader* into) noexcept nogil:
    """The CRC first: only then is another version another version, and not a flip."""
    memcpy(into, bytes, sizeof(SegmentHeader))
    if log_load_u32(bytes + SEGMENT_HEADER_CRC_AT) != crc32c_of(bytes, SEGMENT_HEADER_CRC_AT, 0):
        return log_fault(r, LOG_DAMAGED, segment, 0, "the segment header's CRC is wrong")
    if into.magic != SEGMENT_MAGIC:
        return log_fault(r, LOG_DAMAGED, segment, 0, "this is not a segment of a log")
    if into.format_version != JOURNAL_FORMAT_VERSION:
        return log_fault(r, LOG_FORMAT, segment, into.format_version, "the segment has another format version")
    if into.segment != segment:
        return log_fault(r, LOG_DAMAGED, segment, 0, "the header names another segment number: swapped or renamed")
    if (into.segment_bytes < SEGMENT_BYTES_MIN or into.segment_bytes > SEGMENT_BYTES_MAX or into.epoch == 0
            or into.segment_bytes % BLOCK_UNIT_BYTES or into.first_sequence == 0):
        return log_fault(r, LOG_DAMAGED, segment, 0, "the segment header holds impossible values")
    if r.log_digest and log_digest_of(into.log_id) != r.log_digest:
        return log_fault(r, LOG_DAMAGED, segment, 0, "the segment belongs to another log (log_id)")
    return LOG_RECORD


cdef int log_header_read(LogReader* r, uint64_t segment, SegmentHeader* into, uint32_t* crc, int* fd) noexcept nogil:
    """LOG_RECORD and an open file, or LOG_END if there is no such segment."""
    cdef char name[SEGMENT_NAME_BYTES]
    cdef uint8_t bytes[SEGMENT_HEADER_BYTES]
    cdef ssize_t got
    cdef int code
    segment_name(name, segment)
    fd[0] = r.disk.open(r.disk, name, O_RDONLY)
    if fd[0] < 0:
        return LOG_END if errno == ENOENT else log_fault(r, LOG_FAILED, segment, 0, "open")
    got = r.disk.read(r.disk, fd[0], bytes, SEGMENT_HEADER_BYTES, 0)
    if got < 0:
        code = log_fault(r, LOG_FAILED, segment, 0, "read")
    elif got < SEGMENT_HEADER_BYTES:
        code = log_fault(r, LOG_DAMAGED, segment, 0, "the file is shorter than a segment header")
    else:
        code = log_header_check(r, bytes, segment, into)
    if code != LOG_RECORD:
        r.disk.close(r.disk, fd[0])
        fd[0] = -1
        return code
    crc[0] = log_load_u32(bytes + SEGMENT_HEADER_CRC_AT)
    return LOG_RECORD


cdef int log_successor_find(LogReader* r) noexcept nogil:
    """LOG_RECORD: there is a next segment, and it says where this one ends. LOG_END: this is the last."""
    cdef int code
    if r.sealed_bytes:
        return LOG_RECORD
    code = log_header_read(r, r.header.segment + 1, &r.successor, &r.successor_crc, &r.successor_fd)
    if code != LOG_RECORD:
        return code
    r.sealed_bytes = r.successor.previous_bytes
    if (r.sealed_bytes < r.offset or r.sealed_bytes > r.header.segment_bytes or r.sealed_bytes % BLOCK_UNIT_BYTES):
        return log_fault(r, LOG_DAMAGED, r.successor.segment, 0,
                            "the sealed length does not fit the segment before")
    if r.successor.epoch < r.header.epoch and SAFE(SAFETY_EPOCH):
        return log_fault(r, LOG_DAMAGED, r.successor.segment, 0, "the epoch falls")
    return LOG_RECORD


cdef int log_segment_enter(LogReader* r, uint32_t header_crc) noexcept nogil:
    """`header` and `fd` are those of the segment; its blocks chain from its header's CRC."""
    cdef int code
    r.offset = SEGMENT_HEADER_BYTES
    r.sequence = r.header.first_sequence
    r.chain = header_crc
    r.chunk_bytes = 0
    r.sealed_bytes = 0
    r.last_is_seal = False
    code = log_successor_find(r)
    return LOG_RECORD if code == LOG_END else code


cdef int log_segment_advance(LogReader* r) noexcept nogil:
    if r.successor.previous_crc != r.chain and SAFE(SAFETY_CHAIN):
        return log_fault(r, LOG_DAMAGED, r.successor.segment, 0,
                            "the sealed CRC is not that of the segment before")
    if r.successor.first_sequence != r.sequence:
        return log_fault(r, LOG_DAMAGED, r.successor.segment, 0,
                            "the sequence does not go on from the segment before")
    r.disk.close(r.disk, r.fd)
    r.fd = r.successor_fd
    r.successor_fd = -1
    r.header = r.successor
    return log_segment_enter(r, r.successor_crc)


cdef const uint8_t* log_view(LogReader* r, uint64_t at, size_t size, uint64_t end) noexcept nogil:
    """`size` bytes of the current segment from `at`, read ahead up to `end`. NULL: the fault is set."""
    cdef size_t wanted = LOG_CHUNK_BYTES
    cdef ssize_t got
    cdef uint8_t* larger
    if r.chunk_bytes and at >= r.chunk_at and at + size <= r.chunk_at + r.chunk_bytes:
        return r.chunk + (at - r.chunk_at)
    if r.visible_segment == r.header.segment and r.visible_bytes < end:
        end = r.visible_bytes
    if at + wanted > end:
        wanted = end - at if end > at else 0
    if wanted < size:
        wanted = size
    if wanted > r.chunk_room:
        larger = <uint8_t*>realloc(r.chunk, wanted)
        if larger == NULL:
            log_fault(r, LOG_FAILED, r.header.segment, at, "out of memory")
            return NULL
        r.chunk = larger
        r.chunk_room = wanted
    r.chunk_at = at
    r.chunk_bytes = 0
    while r.chunk_bytes < size:
        got = r.disk.read(r.disk, r.fd, r.chunk + r.chunk_bytes, wanted - r.chunk_bytes, at + r.chunk_bytes)
        if got < 0 and errno == EINTR:
            continue
        if got <= 0:
            r.chunk_bytes = 0
            log_fault(r, LOG_FAILED if got < 0 else LOG_DAMAGED, r.header.segment, at,
                         "read" if got < 0 else "the file ends before its segment does")
            return NULL
        r.chunk_bytes += got
    if end > at + r.chunk_bytes and r.disk.expect != NULL:
        r.disk.expect(r.disk, r.fd, at + r.chunk_bytes, LOG_AHEAD_BYTES)
    return r.chunk


cdef const char* block_header_fault(LogReader* r, const uint8_t* bytes, BlockHeader* h, uint64_t end) noexcept nogil:
    """Why these 64 bytes cannot be the next block's header, or NULL."""
    if h.header_crc != crc32c_of(bytes, BLOCK_HEADER_CRC_AT, 0) and SAFE(SAFETY_CRC):
        return "the block header's CRC is wrong"
    if h.magic != BLOCK_MAGIC or h.format_version != JOURNAL_FORMAT_VERSION or h.zero:
        return "this is not a block of this format"
    if h.type != BLOCK_RECORDS and h.type != BLOCK_SEAL:
        return "the block has an unknown type"
    if h.log_digest != r.log_digest:
        return "the block belongs to another log"
    if h.epoch != r.header.epoch and SAFE(SAFETY_EPOCH):
        return "the block was written in another epoch than its segment"
    if h.segment != r.header.segment or <uint64_t>h.block_index * BLOCK_UNIT_BYTES != r.offset:
        return "the block belongs to another place"
    if h.first_sequence != r.sequence:
        return "the sequence does not go on from the block before"
    if h.previous_crc != r.chain and SAFE(SAFETY_CHAIN):
        return "the block does not follow the one before it (chained CRC)"
    if h.block_bytes != block_bytes_for(h.payload_bytes) or h.block_bytes > BLOCK_BYTES_MAX:
        return "the block's length does not fit its payload"
    if r.offset + h.block_bytes > end:
        return "the block is longer than what is left of its segment"
    if ((h.record_count != 0) != (h.type == BLOCK_RECORDS)
            or (h.type == BLOCK_SEAL and h.payload_bytes != SEAL_PAYLOAD_BYTES)):
        return "the block's counts do not fit its type"
    return NULL


cdef inline uint64_t log_stamp_key(LogReader* r) noexcept nogil:
    """Of the block that belongs at `offset`."""
    return stamp_key(r.log_digest, r.header.epoch, r.sequence, r.header.segment, r.offset // BLOCK_UNIT_BYTES)


cdef int log_block_prove(LogReader* r, BlockHeader* h, const uint8_t** block, uint64_t end) noexcept nogil:
    """LOG_RECORD: a whole block is at `offset`. LOG_END: some of its sectors were never written, maybe all."""
    cdef uint64_t key = log_stamp_key(r)
    cdef const uint8_t* at = log_view(r, r.offset, BLOCK_UNIT_BYTES, end)
    cdef const char* reason
    cdef uint64_t sector
    cdef bint unwritten = False
    if at == NULL:
        return r.fault_code
    if log_is_zero(at, SECTOR_BYTES):
        return LOG_END
    memcpy(h, at, BLOCK_HEADER_BYTES)
    reason = block_header_fault(r, at, h, end)
    if reason != NULL:
        return log_damage(r, reason)
    at = log_view(r, r.offset, h.block_bytes, end)
    if at == NULL:
        return r.fault_code
    for sector in range(h.block_bytes // SECTOR_BYTES):
        if log_load_u64(at + sector * SECTOR_BYTES + SECTOR_CONTENT_BYTES) != sector_stamp(key, sector):
            if not log_is_zero(at + sector * SECTOR_BYTES, SECTOR_BYTES):
                return log_damage(r, "a sector of the block is damaged: its stamp is wrong")
            unwritten = True
    if unwritten:
        return LOG_END
    if block_crc_of(at, h.block_bytes, h.previous_crc) != h.block_crc and SAFE(SAFETY_CRC):
        return log_damage(r, "the block was written as a whole and its CRC is wrong")
    block[0] = at
    return LOG_RECORD


cdef int log_block_take(LogReader* r, const BlockHeader* h, const uint8_t* block) noexcept nogil:
    cdef uint8_t* larger
    cdef uint64_t sealed_sequence
    r.payload_bytes = 0
    r.payload_at = 0
    r.last_is_seal = h.type == BLOCK_SEAL
    if r.last_is_seal:
        block_content_read(block, BLOCK_HEADER_BYTES, <uint8_t*>&sealed_sequence, SEAL_PAYLOAD_BYTES)
        if sealed_sequence + 1 != r.sequence:
            return log_damage(r, "the seal names another sequence than the one before it")
        r.seals += 1
    elif r.sequence + h.record_count <= r.from_sequence:
        r.sequence += h.record_count
    else:
        if h.payload_bytes > r.payload_room:
            larger = <uint8_t*>realloc(r.payload, h.payload_bytes)
            if larger == NULL:
                return log_fault(r, LOG_FAILED, r.header.segment, r.offset, "out of memory")
            r.payload = larger
            r.payload_room = h.payload_bytes
        block_content_read(block, BLOCK_HEADER_BYTES, r.payload, h.payload_bytes)
        r.payload_bytes = h.payload_bytes
        r.records_left = h.record_count
    r.blocks += 1
    r.chain = h.block_crc
    r.offset += h.block_bytes
    return LOG_RECORD


cdef int log_tail_unit(LogReader* r, uint64_t at, uint64_t key) noexcept nogil:
    """LOG_TAIL_CLEAN: 4 KiB of zeros; LOG_TAIL_TORN: some sectors are of the torn block at `offset`; else a fault."""
    cdef const uint8_t* unit = log_view(r, at, BLOCK_UNIT_BYTES, r.header.segment_bytes)
    cdef const uint8_t* sector
    cdef int index
    if unit == NULL:
        return r.fault_code
    if log_is_zero(unit, BLOCK_UNIT_BYTES):
        return LOG_TAIL_CLEAN
    for index in range(BLOCK_UNIT_BYTES // SECTOR_BYTES):
        sector = unit + index * SECTOR_BYTES
        if not log_is_zero(sector, SECTOR_BYTES) and (at - r.offset >= BLOCK_BYTES_MAX or
                log_load_u64(sector + SECTOR_CONTENT_BYTES)
                != sector_stamp(key, (at - r.offset) // SECTOR_BYTES + index)):
            return log_fault(r, LOG_DAMAGED, r.header.segment, at + index * SECTOR_BYTES,
                             "something follows where the log seems to end: a block before it is lost or damaged")
    return LOG_TAIL_TORN


# Nothing was written from there on: a leader says in `durable` where a block will end before it writes it, and writes
# one at a time. Where it had gone on to the next segment, one unit is looked at.
cdef uint64_t log_intent_end(LogReader* r) noexcept nogil:
    cdef uint64_t end = (r.intent & UINT32_MAX) * BLOCK_UNIT_BYTES
    if r.intent >> 32 < r.header.segment:
        return r.header.segment_bytes
    if r.intent >> 32 > r.header.segment or end <= r.offset:
        end = r.offset + BLOCK_UNIT_BYTES
    return end if end < r.header.segment_bytes else r.header.segment_bytes


cdef int log_tail_decide(LogReader* r) noexcept nogil:
    """No whole block at `offset`, no next segment: the end, if each sector from here is zero or of one torn block."""
    cdef uint64_t key = log_stamp_key(r)
    cdef uint64_t at = r.offset
    cdef uint64_t end = r.header.segment_bytes
    cdef int unit
    cdef int tail = LOG_TAIL_SEALED if r.last_is_seal else LOG_TAIL_CLEAN
    r.chunk_bytes = 0                    # a leader may have written since it was read
    if r.intent:
        end = log_intent_end(r)
    while at < end:
        unit = log_tail_unit(r, at, key)
        if r.fault_code:
            return r.fault_code
        if unit == LOG_TAIL_TORN:
            tail = LOG_TAIL_TORN
        at += BLOCK_UNIT_BYTES
    r.chunk_bytes = 0
    r.tail = tail
    if r.sequence <= r.known_durable:
        return log_damage(r, "the log ends before the sequence that was published as durable")
    if r.sequence < r.from_sequence:
        return log_damage(r, "the log ends before the sequence that was asked for")
    return LOG_END


cdef int log_next_block(LogReader* r) noexcept nogil:
    """Brings the next block of records. LOG_RECORD, LOG_END or a fault; after LOG_END it can be called again."""
    cdef BlockHeader h
    cdef const uint8_t* block = NULL
    cdef int code
    while r.payload_bytes == 0:
        if r.sequence > r.until_sequence:
            r.tail = LOG_TAIL_LIMIT
            return LOG_END
        if r.sealed_bytes and r.offset == r.sealed_bytes:
            if r.one_segment:
                return LOG_END
            code = log_segment_advance(r)
        elif r.sealed_bytes:
            code = log_block_prove(r, &h, &block, r.sealed_bytes)
            if code == LOG_END:
                code = log_damage(r, "a block before the sealed length was not written as a whole")
        elif r.offset < r.header.segment_bytes:
            code = log_block_prove(r, &h, &block, r.header.segment_bytes)
        else:
            code = LOG_END
        if code == LOG_END:
            code = log_successor_find(r)
            if code == LOG_END:
                return log_tail_decide(r)
        elif code == LOG_RECORD and block != NULL:
            code = log_block_take(r, &h, block)
            block = NULL
        if code != LOG_RECORD:
            return code
    return LOG_RECORD


cdef int log_next(LogReader* r, const uint8_t** record, size_t* size, uint64_t* sequence) noexcept nogil:
    """LOG_RECORD: a record, whose bytes stay until the next block is read. LOG_END, or a fault that stays."""
    cdef uint32_t length
    cdef int code
    if r.fault_code:
        return r.fault_code
    while True:
        if r.payload_bytes == 0:
            code = log_next_block(r)
            if code != LOG_RECORD:
                return code
        if r.sequence > r.until_sequence:
            r.tail = LOG_TAIL_LIMIT
            return LOG_END
        length = log_load_u32(r.payload + r.payload_at) if r.payload_bytes - r.payload_at >= RECORD_BYTES_MIN else 0
        if length < RECORD_BYTES_MIN or length > r.payload_bytes - r.payload_at:
            return log_damage(r, "a record's length does not fit its block")
        record[0] = r.payload + r.payload_at
        size[0] = length
        sequence[0] = r.sequence
        r.payload_at += length
        r.sequence += 1
        r.records_left -= 1
        if r.records_left == 0:
            if r.payload_at != r.payload_bytes:
                return log_damage(r, "the block holds more than its records")
            r.payload_bytes = 0
        if sequence[0] >= r.from_sequence:
            return LOG_RECORD


cdef void log_init(LogReader* r, Disk* disk) noexcept nogil:
    memset(r, 0, sizeof(LogReader))
    r.disk = disk
    r.fd = -1
    r.successor_fd = -1
    r.until_sequence = UINT64_MAX
    r.tail = LOG_TAIL_UNREAD


cdef void log_free(LogReader* r) noexcept nogil:
    if r.fd >= 0:
        r.disk.close(r.disk, r.fd)
    if r.successor_fd >= 0:
        r.disk.close(r.disk, r.successor_fd)
    r.fd = -1
    r.successor_fd = -1
    free(r.chunk)
    free(r.payload)
    r.chunk = NULL
    r.payload = NULL
    r.chunk_bytes = 0
    r.payload_bytes = 0


cdef int log_start(LogReader* r, uint64_t segment) noexcept nogil:
    """Opens the first segment to read."""
    cdef uint32_t crc
    cdef int code = log_header_read(r, segment, &r.header, &crc, &r.fd)
    if code != LOG_RECORD:
        return code
    r.log_digest = log_digest_of(r.header.log_id)
    return log_segment_enter(r, crc)


cdef int log_end(LogReader* r) noexcept nogil:
    """Reads on to the end without handing out records."""
    cdef const uint8_t* record
    cdef size_t size
    cdef uint64_t sequence
    cdef int code = LOG_RECORD
    while code == LOG_RECORD:
        code = log_next(r, &record, &size, &sequence)
    return code


cdef int log_segment_end(LogReader* r, bint advance) noexcept nogil:
    """Proves the segment it stands in, or the next one. LOG_RECORD: it stands at its sealed end; else as log_next."""
    cdef int code = log_segment_advance(r) if advance else LOG_RECORD
    if code != LOG_RECORD:
        return code
    r.one_segment = True
    code = log_end(r)
    r.one_segment = False
    if (code == LOG_END and r.sequence <= r.until_sequence and r.payload_bytes == 0
            and r.sealed_bytes and r.offset == r.sealed_bytes):
        return LOG_RECORD
    return code
