# The layout of the log on disk, shared by its writer and its reader. docs/log_format.md is the specification.

cdef enum:
    JOURNAL_FORMAT_VERSION = 1
    SEGMENT_MAGIC = 0x47534F45           # "EOSG"
    BLOCK_MAGIC = 0x4B424F45             # "EOBK"
    BLOCK_RECORDS = 1
    BLOCK_SEAL = 2

    SECTOR_BYTES = 512
    STAMP_BYTES = 8
    SECTOR_CONTENT_BYTES = 504           # SECTOR_BYTES - STAMP_BYTES
    BLOCK_UNIT_BYTES = 4096
    BLOCK_UNIT_CONTENT_BYTES = 4032      # 8 sectors
    BLOCK_HEADER_BYTES = 64
    BLOCK_HEADER_CRC_AT = 56
    BLOCK_CRC_AT = 60
    SEGMENT_HEADER_BYTES = 4096
    SEGMENT_HEADER_CRC_AT = 4092
    SEAL_PAYLOAD_BYTES = 8

    RECORD_BYTES_MIN = 5                 # its length and one byte more
    BLOCK_BYTES_MAX = 9437184            # holds two of the largest records
    SEGMENT_BYTES_MIN = 16384
    SEGMENT_BYTES_DEFAULT = 67108864
    JOURNAL_STAGED_BYTES_MAX = 67108864
    SEGMENT_NAME_BYTES = 48

    DURABLE_FILE_BYTES = 4096
    DURABLE_SLOT_BYTES = 64
    DURABLE_SLOT_SPACING = 2048          # apart, so that one broken sector does not take both
    DURABLE_SLOT_CRC_AT = 60
    DURABLE_CLOCK_AT = 1040              # KeptClock: for who leads next on this machine, as long as it runs
    DURABLE_INTENT_AT = 1024             # segment << 32 | where the block on its way ends, in units of 4 KiB

cdef enum:
    SEGMENT_BYTES_MAX = 1 << 30          # offsets inside a segment fit 32 bits with room to spare

cdef packed struct SegmentHeader:
    uint32_t magic
    uint8_t format_version
    uint8_t zero[3]
    uint8_t log_id[16]
    uint64_t segment
    uint64_t epoch
    uint64_t first_sequence
    uint64_t segment_bytes
    uint64_t previous_bytes
    int64_t created_ms
    uint32_t previous_crc

cdef packed struct BlockHeader:
    uint32_t magic
    uint8_t format_version
    uint8_t type
    uint16_t zero
    uint64_t log_digest
    uint64_t epoch
    uint64_t first_sequence
    uint32_t segment
    uint32_t block_index
    uint32_t record_count
    uint32_t payload_bytes
    uint32_t block_bytes
    uint32_t previous_crc
    uint32_t header_crc
    uint32_t block_crc

cdef packed struct DurableSlot:
    uint64_t count
    uint64_t log_digest
    uint64_t epoch
    uint64_t sequence
    uint64_t segment
    uint64_t offset
    uint64_t zero
    uint32_t zero_too
    uint32_t crc


cdef inline uint64_t journal_mix(uint64_t x) noexcept nogil:
    """The finalizer of splitmix64."""
    x = (x ^ (x >> 30)) * <uint64_t>0xBF58476D1CE4E5B9
    x = (x ^ (x >> 27)) * <uint64_t>0x94D049BB133111EB
    return x ^ (x >> 31)


cdef inline uint32_t log_load_u32(const uint8_t* at) noexcept nogil:
    cdef uint32_t value
    memcpy(&value, at, 4)
    return value


cdef inline uint64_t log_load_u64(const uint8_t* at) noexcept nogil:
    cdef uint64_t value
    memcpy(&value, at, 8)
    return value


cdef inline void log_store_u32(uint8_t* at, uint32_t value) noexcept nogil:
    memcpy(at, &value, 4)


cdef inline void log_store_u64(uint8_t* at, uint64_t value) noexcept nogil:
    memcpy(at, &value, 8)


cdef uint64_t log_digest_of(const uint8_t* log_id) noexcept nogil:
    return journal_mix(journal_mix(log_load_u64(log_id)) ^ log_load_u64(log_id + 8)) | 1


cdef inline uint64_t stamp_key(uint64_t log_digest, uint64_t epoch, uint64_t first_sequence,
                               uint64_t segment, uint64_t block_index) noexcept nogil:
    """What the stamps of one block start from: all of it is known before the block is read."""
    return journal_mix(journal_mix(journal_mix(log_digest ^ epoch) ^ first_sequence) ^ (segment << 32 | block_index))


cdef inline uint64_t sector_stamp(uint64_t key, uint64_t sector) noexcept nogil:
    return journal_mix(key + sector) | 1


cdef inline bint log_is_zero(const uint8_t* at, size_t size) noexcept nogil:
    """At least 8 bytes. Compares the range with itself, shifted: the C library does that with wide registers."""
    return log_load_u64(at) == 0 and memcmp(at, at + 8, size - 8) == 0


cdef inline uint64_t block_bytes_for(uint64_t payload_bytes) noexcept nogil:
    cdef uint64_t content_bytes = BLOCK_HEADER_BYTES + payload_bytes
    return (content_bytes + BLOCK_UNIT_CONTENT_BYTES - 1) // BLOCK_UNIT_CONTENT_BYTES * BLOCK_UNIT_BYTES


cdef inline uint64_t block_payload_max(uint64_t block_bytes) noexcept nogil:
    return block_bytes // BLOCK_UNIT_BYTES * BLOCK_UNIT_CONTENT_BYTES - BLOCK_HEADER_BYTES


cdef uint64_t segment_block_bytes_max(uint64_t segment_bytes) noexcept nogil:
    """The largest block of records: what a segment holds beside its header and the 4 KiB kept for a seal."""
    cdef uint64_t room = segment_bytes - SEGMENT_HEADER_BYTES - BLOCK_UNIT_BYTES
    return room if room < <uint64_t>BLOCK_BYTES_MAX else <uint64_t>BLOCK_BYTES_MAX


cdef uint64_t segment_record_bytes_max(uint64_t segment_bytes) noexcept nogil:
    """A record alone takes at most half of the largest block, so that a cut into blocks wastes less than half."""
    cdef uint64_t half_units = segment_block_bytes_max(segment_bytes) // BLOCK_UNIT_BYTES // 2
    cdef uint64_t half = block_payload_max(half_units * BLOCK_UNIT_BYTES)
    return half if half < <uint64_t>RECORD_BYTES_MAX else <uint64_t>RECORD_BYTES_MAX


cdef void block_content_write(uint8_t* block, size_t at, const uint8_t* data, size_t size) noexcept nogil:
    """Puts data at content position `at` of a block, around the stamps."""
    cdef size_t sector = at // SECTOR_CONTENT_BYTES
    cdef size_t inside = at % SECTOR_CONTENT_BYTES
    cdef size_t piece
    while size:
        piece = SECTOR_CONTENT_BYTES - inside
        if piece > size:
            piece = size
        memcpy(block + sector * SECTOR_BYTES + inside, data, piece)
        data += piece
        size -= piece
        sector += 1
        inside = 0


cdef void block_content_read(const uint8_t* block, size_t at, uint8_t* into, size_t size) noexcept nogil:
    cdef size_t sector = at // SECTOR_CONTENT_BYTES
    cdef size_t inside = at % SECTOR_CONTENT_BYTES
    cdef size_t piece
    while size:
        piece = SECTOR_CONTENT_BYTES - inside
        if piece > size:
            piece = size
        memcpy(into, block + sector * SECTOR_BYTES + inside, piece)
        into += piece
        size -= piece
        sector += 1
        inside = 0


cdef uint32_t block_crc_of(const uint8_t* block, size_t block_bytes, uint32_t previous_crc) noexcept nogil:
    """Everything but the field itself."""
    cdef uint32_t crc = crc32c_of(block, BLOCK_CRC_AT, previous_crc)
    return crc32c_of(block + BLOCK_HEADER_BYTES, block_bytes - BLOCK_HEADER_BYTES, crc)


cdef void segment_name(char* into, uint64_t segment) noexcept nogil:
    snprintf(into, SEGMENT_NAME_BYTES, "%020llu.log", <unsigned long long>segment)


cdef void segment_temporary_name(char* into, uint64_t segment) noexcept nogil:
    snprintf(into, SEGMENT_NAME_BYTES, "segment-%020llu.tmp", <unsigned long long>segment)


# The number in "<20 digits>.log" or in "segment-<20 digits>.tmp"; 0: the name is another one.
cdef uint64_t number_in_name(const char* name, const char* before, const char* after) noexcept nogil:
    cdef size_t head = strlen(before), i
    cdef uint64_t number = 0
    if strlen(name) != head + 20 + strlen(after) or memcmp(name, before, head) != 0:
        return 0
    for i in range(20):
        if not c"0" <= name[head + i] <= c"9":
            return 0
        number = number * 10 + <uint64_t>(name[head + i] - c"0")
    return number if strcmp(name + head + 20, after) == 0 else 0


cdef void durable_slot_write(uint8_t* mapped, DurableSlot* slot) noexcept nogil:
    """Into the slot that the count does not point to; a reader that meets it half written takes the other."""
    cdef uint8_t* at = mapped + (slot.count & 1) * DURABLE_SLOT_SPACING
    slot.zero = 0
    slot.zero_too = 0
    slot.crc = crc32c_of(<uint8_t*>slot, DURABLE_SLOT_CRC_AT, 0)
    memcpy(at, slot, DURABLE_SLOT_CRC_AT)
    eo_fence()
    log_store_u32(at + DURABLE_SLOT_CRC_AT, slot.crc)


cdef bint durable_slot_read(const uint8_t* bytes, DurableSlot* slot) noexcept nogil:
    """The newer of the valid slots of a `durable` file's bytes. False: there is none."""
    cdef DurableSlot candidate
    cdef bint found = False
    cdef int index
    memset(slot, 0, sizeof(DurableSlot))
    for index in range(2):
        memcpy(&candidate, bytes + index * DURABLE_SLOT_SPACING, DURABLE_SLOT_BYTES)
        if candidate.count == 0 or candidate.crc != crc32c_of(<uint8_t*>&candidate, DURABLE_SLOT_CRC_AT, 0):
            continue
        if not found or candidate.count > slot.count:
            slot[0] = candidate
            found = True
    return found
