# Writing the log: records are staged under a short lock by one thread and committed, a block at a time, by another that
# holds no GIL; a third prepares the next segment ahead of need. docs/log_format.md has the rules.

cdef extern from *:
    """
    #include <stdio.h>
    #include <string.h>
    #include <unistd.h>
    #include <errno.h>

    static void journal_words(Disk *disk, const char *what, const char *directory, const char *name, uint64_t offset,
                              int error) {
        char text[4608];
        snprintf(text, sizeof text, "everopen: %s failed: %s/%s at offset %llu: %s (errno %d); stopping\\n",
                 what, directory, name, (unsigned long long)offset, strerror(error), error);
        disk->say(disk, text);
    }
    static void journal_say(Disk *disk, const char *what, const char *directory, uint64_t segment, int error) {
        char text[4608];
        snprintf(text, sizeof text, "everopen: %s: %s, segment %llu: %s\\n", what, directory,
                 (unsigned long long)segment, error ? strerror(error) : "done");
        disk->say(disk, text);
    }
    """
    void journal_words(Disk* disk, const char* what, const char* directory, const char* name, uint64_t at,
                       int error) noexcept nogil
    void journal_say(Disk* disk, const char* what, const char* directory, uint64_t segment, int error) noexcept nogil

cdef enum JournalCode:
    JOURNAL_OK = 0                       # what a caller checks against; the codes that refuse are not zero
    JOURNAL_FULL = 1                     # too much is staged, or the next segment is not ready: try again
    JOURNAL_NO_SPACE = 2                 # the next segment could not be preallocated
    JOURNAL_BAD_RECORD = 3               # its length field or its size is wrong: the caller's bug
    JOURNAL_CLOSED = 4

cdef enum JournalWork:
    WORK_COMMIT = 1
    WORK_SEAL = 2
    WORK_END = 3

cdef enum:
    SEAL_AFTER_MS = 50
    DRAINED_KEEP_BYTES = 4194304         # memory beyond this is given back after a burst
    SYNC_BUCKETS = 256                   # of nanoseconds, four to each power of two

cdef struct JournalStats:
    uint64_t commits
    uint64_t records
    uint64_t record_bytes
    uint64_t disk_bytes
    uint64_t seals
    uint64_t rollovers
    uint64_t prepare_failures
    uint64_t refused_full
    uint64_t refused_no_space
    uint64_t sync_ns_sum
    uint64_t sync_ns_max

cdef struct Journal:
    Disk* disk
    pthread_mutex_t lock
    pthread_cond_t work                  # the sync thread sleeps on it
    pthread_cond_t prepare               # the preparing thread
    pthread_cond_t synced                # whoever waits for durability
    # Under the lock.
    uint8_t* staged
    uint8_t* draining
    size_t staged_bytes
    size_t draining_bytes
    size_t staged_bytes_max
    bint kicked                          # since the last take: a batch that is still being appended is left alone
    bint plan_in_next                    # what is being drained may end in the prepared segment
    uint64_t plan_offset                 # where it ends at the latest
    bint prepared
    bint prepare_failed
    bint prepare_wanted
    int prepared_fd
    # Atomic.
    uint64_t next_sequence
    uint64_t durable
    uint64_t stopping                    # changes under the lock
    bint takes_over                      # from a leader that ended a moment ago
    uint64_t sync_began_ns               # of the commit that is on its way to the disk, CLOCK_MONOTONIC; 0: none
    # The sync thread's, once it runs; the segment number changes under the lock.
    int fd
    int event_fd
    uint8_t log_id[16]
    uint64_t log_digest
    uint64_t epoch
    uint64_t segment
    uint64_t segment_bytes
    uint64_t block_payload_bytes_max
    uint64_t record_bytes_max
    uint64_t offset
    uint64_t block_sequence              # first sequence of the next block
    uint32_t chain
    bint sealed
    uint8_t* block                       # room for a segment header, then for a block
    size_t block_room
    uint8_t* durable_map
    uint64_t durable_count
    char directory[4096]
    JournalStats stats
    uint64_t sync_buckets[SYNC_BUCKETS]
    SizeHistogram commit_records, commit_bytes    # bytes of the disk, padding and all


cdef uint64_t journal_now_ns(int clock) noexcept nogil:
    cdef timespec now
    clock_gettime(clock, &now)
    return <uint64_t>now.tv_sec * 1000000000 + <uint64_t>now.tv_nsec


cdef int journal_wait_until(pthread_cond_t* condition, pthread_mutex_t* lock, uint64_t until_ns) noexcept nogil:
    cdef timespec until
    until.tv_sec = <long>(until_ns // 1000000000)
    until.tv_nsec = <long>(until_ns % 1000000000)
    return pthread_cond_timedwait(condition, lock, &until)


cdef inline uint64_t journal_next_sequence(Journal* j) noexcept nogil:
    return eo_load64(&j.next_sequence)


cdef inline uint64_t journal_durable_sequence(Journal* j) noexcept nogil:
    return eo_load64(&j.durable)


cdef void journal_die(Journal* j, const char* what, const char* name, uint64_t at, int error) noexcept nogil:
    journal_words(j.disk, what, j.directory, name, at, error)
    j.disk.die(j.disk)


# Staging: the caller's side.

cdef uint64_t journal_disk_bytes(Journal* j, uint64_t payload_bytes) noexcept nogil:
    """The most that staged records take on disk: a block is at least half full, a record at most half a block."""
    if payload_bytes <= j.block_payload_bytes_max:
        return block_bytes_for(payload_bytes)
    cdef uint64_t blocks = payload_bytes // (j.block_payload_bytes_max // 2) + 1
    return (payload_bytes // BLOCK_UNIT_CONTENT_BYTES + 1 + 2 * blocks) * BLOCK_UNIT_BYTES


cdef inline uint64_t journal_records_end(Journal* j) noexcept nogil:
    """The last 4 KiB of a segment are kept for a seal."""
    return j.segment_bytes - BLOCK_UNIT_BYTES


cdef bint journal_has_place(Journal* j, uint64_t needed) noexcept nogil:
    """Whether so many bytes have a preallocated place behind what is being drained. The lock is held."""
    if j.plan_offset + needed <= journal_records_end(j):
        return True
    return j.prepared and not j.plan_in_next and SEGMENT_HEADER_BYTES + needed <= journal_records_end(j)


cdef void journal_kick_locked(Journal* j) noexcept nogil:
    if not j.kicked:
        j.kicked = True
        pthread_cond_signal(&j.work)


cdef void journal_kick(Journal* j) noexcept nogil:
    """Wakes the sync thread. Once after a batch of appends, so that they become one block."""
    pthread_mutex_lock(&j.lock)
    journal_kick_locked(j)
    pthread_mutex_unlock(&j.lock)


cdef int journal_no_place(Journal* j) noexcept nogil:
    """Asks for another try at preallocation. The lock is held."""
    j.prepare_wanted = True
    pthread_cond_signal(&j.prepare)
    return JOURNAL_NO_SPACE if j.prepare_failed else JOURNAL_FULL


cdef void journal_refused(Journal* j, int code) noexcept nogil:
    """The lock is held."""
    journal_kick_locked(j)
    j.stats.refused_full += code == JOURNAL_FULL
    j.stats.refused_no_space += code == JOURNAL_NO_SPACE


cdef int journal_append(Journal* j, const uint8_t* record, size_t size) noexcept nogil:
    """Stages a record as the next sequence, or refuses and changes nothing. Wakes nobody unless it refuses."""
    cdef int code = JOURNAL_OK
    if size < RECORD_BYTES_MIN or size > j.record_bytes_max or log_load_u32(record) != size:
        return JOURNAL_BAD_RECORD
    pthread_mutex_lock(&j.lock)
    if j.stopping:
        code = JOURNAL_CLOSED
    elif j.staged_bytes + j.draining_bytes + size > j.staged_bytes_max:
        code = JOURNAL_FULL
    elif not journal_has_place(j, journal_disk_bytes(j, j.staged_bytes + size)):
        code = journal_no_place(j)
    if code == JOURNAL_OK:
        memcpy(j.staged + j.staged_bytes, record, size)
        j.staged_bytes += size
        eo_store64(&j.next_sequence, j.next_sequence + 1)
    else:
        journal_refused(j, code)
    pthread_mutex_unlock(&j.lock)
    return code


cdef int journal_room(Journal* j, uint64_t bytes) noexcept nogil:
    """JOURNAL_OK: appends of the same thread of so many bytes in all will not be refused. Ask before changing state.

    Meanwhile the sync thread may take what is staged, so that the record gets a block of its own, and write a seal.
    """
    cdef uint64_t needed, apart
    cdef int code = JOURNAL_OK
    pthread_mutex_lock(&j.lock)
    needed = journal_disk_bytes(j, j.staged_bytes + bytes)
    apart = journal_disk_bytes(j, bytes)
    if j.staged_bytes:
        apart += journal_disk_bytes(j, j.staged_bytes)
    if apart > needed:
        needed = apart
    if j.stopping:
        code = JOURNAL_CLOSED
    elif j.staged_bytes + j.draining_bytes + bytes > j.staged_bytes_max:
        code = JOURNAL_FULL
    elif not journal_has_place(j, needed + BLOCK_UNIT_BYTES):
        code = journal_no_place(j)
    if code != JOURNAL_OK:
        journal_refused(j, code)
    pthread_mutex_unlock(&j.lock)
    return code


cdef inline bint journal_has_room(Journal* j) noexcept nogil:
    return journal_room(j, j.record_bytes_max) == JOURNAL_OK


cdef bint journal_wait_durable(Journal* j, uint64_t sequence, uint64_t until_ns) noexcept nogil:
    cdef int late = 0
    pthread_mutex_lock(&j.lock)
    while j.durable < sequence and late == 0:
        late = journal_wait_until(&j.synced, &j.lock, until_ns)
    pthread_mutex_unlock(&j.lock)
    return eo_load64(&j.durable) >= sequence


# Committing: the sync thread's side.

cdef void journal_write_all(Journal* j, int fd, const uint8_t* data, size_t size, uint64_t at,
                            const char* name) noexcept nogil:
    """A short write is continued; an error ends the process."""
    cdef ssize_t written
    while size:
        written = j.disk.write(j.disk, fd, data, size, at)
        if written < 0 and errno == EINTR:
            continue
        if written <= 0:
            journal_die(j, "write", name, at, errno if written < 0 else EIO)
        data += written
        at += <uint64_t>written
        size -= <size_t>written


# A failed sync is never tried again: the pages count as clean after it, and the second one would lie.
cdef void journal_sync(Journal* j, int fd, uint64_t at, const char* name) noexcept nogil:
    if not SAFE(SAFETY_SYNC):
        return
    if j.disk.sync(j.disk, fd) != 0 and (SAFE(SAFETY_SYNC_ONCE) or j.disk.sync(j.disk, fd) != 0):
        journal_die(j, "sync", name, at, errno)


cdef void journal_publish(Journal* j) noexcept nogil:
    """All before block_sequence is durable: into the file before anybody can act on it, then memory, then wake."""
    cdef DurableSlot slot
    cdef uint64_t one = 1
    j.durable_count += 1
    slot.count = j.durable_count
    slot.log_digest = j.log_digest
    slot.epoch = j.epoch
    slot.sequence = j.block_sequence - 1
    slot.segment = j.segment
    slot.offset = j.offset
    durable_slot_write(j.durable_map, &slot)
    pthread_mutex_lock(&j.lock)
    eo_store64(&j.durable, slot.sequence)
    pthread_cond_broadcast(&j.synced)
    pthread_mutex_unlock(&j.lock)
    if write_fd(j.event_fd, &one, 8) < 0:
        pass                             # a full counter is readable already


cdef void journal_header_lay(Journal* j, uint64_t previous_bytes) noexcept nogil:
    """The header of the current segment, into the room before the block; the chain goes on from its CRC."""
    cdef SegmentHeader header
    memset(&header, 0, sizeof(header))
    memset(j.block, 0, SEGMENT_HEADER_BYTES)
    header.magic = SEGMENT_MAGIC
    header.format_version = JOURNAL_FORMAT_VERSION
    memcpy(header.log_id, j.log_id, 16)
    header.segment = j.segment
    header.epoch = j.epoch
    header.first_sequence = j.block_sequence
    header.segment_bytes = j.segment_bytes
    header.previous_bytes = previous_bytes
    header.created_ms = <int64_t>(journal_now_ns(CLOCK_REALTIME) // 1000000)
    header.previous_crc = j.chain
    memcpy(j.block, &header, sizeof(header))
    j.chain = crc32c_of(j.block, SEGMENT_HEADER_CRC_AT, 0)
    log_store_u32(j.block + SEGMENT_HEADER_CRC_AT, j.chain)


cdef void journal_segment_name_it(Journal* j) noexcept nogil:
    """Header and content are synced: now the segment may have its name."""
    cdef char temporary[SEGMENT_NAME_BYTES]
    cdef char name[SEGMENT_NAME_BYTES]
    segment_temporary_name(temporary, j.segment)
    segment_name(name, j.segment)
    # Never over an existing file: if there is one, a newer leader made it.
    if j.disk.rename(j.disk, temporary, name, False) != 0:
        journal_die(j, "rename", name, 0, errno)
    if SAFE(SAFETY_NAMES_SYNC) and j.disk.sync_names(j.disk) != 0:
        journal_die(j, "sync of the directory", name, 0, errno)


cdef void journal_roll(Journal* j) noexcept nogil:
    """Goes over to the prepared segment; its header is laid before the block and written with it."""
    cdef uint64_t previous_bytes = j.offset
    cdef int previous_fd = j.fd
    pthread_mutex_lock(&j.lock)
    INVARIANT(j.prepared, "a commit has its place preallocated")
    j.fd = j.prepared_fd
    j.segment += 1
    j.prepared = False
    j.plan_in_next = False
    pthread_cond_signal(&j.prepare)
    pthread_mutex_unlock(&j.lock)
    j.disk.close(j.disk, previous_fd)
    journal_header_lay(j, previous_bytes)
    j.offset = SEGMENT_HEADER_BYTES
    j.stats.rollovers += 1


cdef void journal_block_lay(Journal* j, int type, const uint8_t* payload, size_t size, uint32_t records,
                            size_t block_bytes) noexcept nogil:
    """Header, payload, padding, stamps and CRCs of the next block."""
    cdef uint8_t* block = j.block + SEGMENT_HEADER_BYTES
    cdef uint64_t block_index = j.offset // BLOCK_UNIT_BYTES
    cdef uint64_t key = stamp_key(j.log_digest, j.epoch, j.block_sequence, j.segment, block_index)
    cdef size_t sector
    cdef BlockHeader h
    memset(block + block_bytes - BLOCK_UNIT_BYTES, 0, BLOCK_UNIT_BYTES)    # padding is less than a unit
    h.magic = BLOCK_MAGIC
    h.format_version = JOURNAL_FORMAT_VERSION
    h.type = type
    h.zero = 0
    h.log_digest = j.log_digest
    h.epoch = j.epoch
    h.first_sequence = j.block_sequence
    h.segment = <uint32_t>j.segment
    h.block_index = <uint32_t>block_index
    h.record_count = records
    h.payload_bytes = <uint32_t>size
    h.block_bytes = <uint32_t>block_bytes
    h.previous_crc = j.chain
    h.header_crc = crc32c_of(<uint8_t*>&h, BLOCK_HEADER_CRC_AT, 0)
    h.block_crc = 0
    memcpy(block, &h, BLOCK_HEADER_BYTES)
    block_content_write(block, BLOCK_HEADER_BYTES, payload, size)
    for sector in range(block_bytes // SECTOR_BYTES):
        log_store_u64(block + sector * SECTOR_BYTES + SECTOR_CONTENT_BYTES, sector_stamp(key, sector))
    h.block_crc = block_crc_of(block, block_bytes, j.chain)
    log_store_u32(block + BLOCK_CRC_AT, h.block_crc)
    j.chain = h.block_crc


cdef void journal_count_sync(Journal* j, uint64_t ns) noexcept nogil:
    cdef int power = 63 - __builtin_clzll(ns | 4)
    j.sync_buckets[4 * power + ((ns >> (power - 2)) & 3)] += 1
    j.stats.sync_ns_sum += ns
    if ns > j.stats.sync_ns_max:
        j.stats.sync_ns_max = ns


cdef void journal_commit(Journal* j, int type, const uint8_t* payload, size_t size, uint32_t records) noexcept nogil:
    """One block: one write, one sync, then it is said."""
    cdef char name[SEGMENT_NAME_BYTES]
    cdef size_t block_bytes = block_bytes_for(size)
    cdef bint rolled = type == BLOCK_RECORDS and j.offset + block_bytes > journal_records_end(j)
    cdef size_t before
    cdef uint64_t began
    if rolled:
        journal_roll(j)
    before = SEGMENT_HEADER_BYTES if rolled else 0
    journal_block_lay(j, type, payload, size, records, block_bytes)
    segment_name(name, j.segment)
    began = journal_now_ns(CLOCK_MONOTONIC)
    eo_store64(&j.sync_began_ns, began)
    eo_store64(<uint64_t*>(j.durable_map + DURABLE_INTENT_AT),
               j.segment << 32 | (j.offset + block_bytes) // BLOCK_UNIT_BYTES)
    j.block_sequence += records
    if not SAFE(SAFETY_ACK_AFTER_SYNC):
        journal_publish(j)
    journal_write_all(j, j.fd, j.block + SEGMENT_HEADER_BYTES - before, block_bytes + before, j.offset - before, name)
    journal_sync(j, j.fd, j.offset, name)
    if rolled:
        journal_segment_name_it(j)
    journal_count_sync(j, journal_now_ns(CLOCK_MONOTONIC) - began)
    eo_store64(&j.sync_began_ns, 0)
    j.offset += block_bytes
    j.sealed = type == BLOCK_SEAL
    j.stats.commits += not j.sealed
    if records:
        size_observe(&j.commit_records, records)
        size_observe(&j.commit_bytes, block_bytes)
    j.stats.seals += j.sealed
    j.stats.records += records
    j.stats.record_bytes += size if records else 0
    j.stats.disk_bytes += block_bytes + before
    journal_publish(j)


cdef void journal_drain(Journal* j, size_t bytes) noexcept nogil:
    """Cuts what was staged into blocks; mostly it is one."""
    cdef size_t at = 0, end, length
    cdef uint32_t records
    while at < bytes:
        end = at
        records = 0
        while end < bytes:
            length = log_load_u32(j.draining + end)
            if end + length - at > j.block_payload_bytes_max:
                break
            end += length
            records += 1
        journal_commit(j, BLOCK_RECORDS, j.draining + at, end - at, records)
        at = end
    if bytes > DRAINED_KEEP_BYTES:
        madvise(j.draining + DRAINED_KEEP_BYTES, j.staged_bytes_max - DRAINED_KEEP_BYTES, MADV_DONTNEED)
    pthread_mutex_lock(&j.lock)
    j.draining_bytes = 0
    j.plan_offset = j.offset
    j.plan_in_next = False
    pthread_mutex_unlock(&j.lock)


cdef void journal_seal(Journal* j) noexcept nogil:
    cdef uint64_t durable = j.block_sequence - 1
    if j.offset + BLOCK_UNIT_BYTES <= j.segment_bytes:
        journal_commit(j, BLOCK_SEAL, <uint8_t*>&durable, SEAL_PAYLOAD_BYTES, 0)
    j.sealed = True                      # also without room: the next segment's header will do it


cdef size_t journal_take(Journal* j) noexcept nogil:
    """What is staged becomes what is drained. The lock is held."""
    cdef uint8_t* empty = j.draining
    cdef uint64_t needed = journal_disk_bytes(j, j.staged_bytes)
    if j.plan_offset + needed <= journal_records_end(j):
        j.plan_offset += needed
    else:
        j.plan_in_next = True
        j.plan_offset = SEGMENT_HEADER_BYTES + needed
    j.draining = j.staged
    j.draining_bytes = j.staged_bytes
    j.staged = empty
    j.staged_bytes = 0
    j.kicked = False
    return j.draining_bytes


cdef int journal_wait_work(Journal* j, size_t* bytes) noexcept nogil:
    """Sleeps until there is something to commit, or nothing came for a while and a seal is due, or the end."""
    cdef uint64_t seal_at_ns = journal_now_ns(CLOCK_MONOTONIC) + SEAL_AFTER_MS * <uint64_t>1000000
    cdef int late = 0
    cdef int work = 0
    pthread_mutex_lock(&j.lock)
    while work == 0:
        if j.staged_bytes and (j.kicked or late or j.stopping):
            bytes[0] = journal_take(j)
            work = WORK_COMMIT
        elif not j.sealed and (late or j.stopping):
            j.plan_offset += BLOCK_UNIT_BYTES
            work = WORK_SEAL
        elif j.stopping:
            work = WORK_END
        else:
            j.kicked = False
            if j.sealed:
                pthread_cond_wait(&j.work, &j.lock)
            else:
                late = journal_wait_until(&j.work, &j.lock, seal_at_ns)
    pthread_mutex_unlock(&j.lock)
    return work


cdef void journal_sync_loop(Journal* j) noexcept nogil:
    cdef size_t bytes = 0
    cdef int work = WORK_COMMIT
    while work != WORK_END:
        work = journal_wait_work(j, &bytes)
        if work == WORK_COMMIT:
            journal_drain(j, bytes)
        elif work == WORK_SEAL:
            journal_seal(j)
