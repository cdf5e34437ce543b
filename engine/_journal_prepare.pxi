# Preparing the next segment ahead of need, in a thread of its own, so that no commit waits for an allocation.

cdef enum:
    PREPARE_NICE = 5
    PREPARE_RETRY_MS = 100
    PREPARE_CHUNK_BYTES = 1048576        # small enough not to stand in a commit's way for long


# Allocates and writes zeros, synced: later writes change no metadata. 0 or errno.
cdef int segment_fill(Disk* disk, int fd, uint64_t bytes, const uint64_t* stopping) noexcept nogil:
    cdef uint64_t at = 0
    cdef size_t size
    cdef ssize_t written
    cdef int error = disk.allocate(disk, fd, bytes)
    if error:
        return error
    cdef void* zeros = mmap(NULL, PREPARE_CHUNK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
    if zeros == MAP_FAILED:
        return errno
    while at < bytes and error == 0:
        size = PREPARE_CHUNK_BYTES
        if size > bytes - at:
            size = bytes - at
        written = disk.write(disk, fd, zeros, size, at)
        if written > 0:
            at += <uint64_t>written
        elif written == 0 or errno != EINTR:
            error = errno if written else EIO
        if error == 0 and stopping != NULL and eo_load64(stopping):
            error = ECANCELED            # nobody waits for it any more, but for this thread
    munmap(zeros, PREPARE_CHUNK_BYTES)
    if error == 0 and disk.sync(disk, fd) != 0:
        error = errno
    return error


# Makes a file of zeros that is to become a segment, whatever had the name. 0 or errno; then there is no file.
cdef int segment_make(Disk* disk, const char* name, uint64_t bytes, const uint64_t* stopping, int* fd) noexcept nogil:
    cdef int error
    disk.remove(disk, name)
    fd[0] = disk.open(disk, name, O_RDWR | O_CREAT | O_EXCL | O_DIRECT)
    if fd[0] < 0:
        return errno
    error = segment_fill(disk, fd[0], bytes, stopping)
    if error:
        disk.close(disk, fd[0])
        fd[0] = -1
        disk.remove(disk, name)
    return error


cdef int journal_prepare(Journal* j, uint64_t segment, int* fd) noexcept nogil:
    """Makes the file of a later segment under a temporary name. 0 or errno; then there is no file."""
    cdef char name[SEGMENT_NAME_BYTES]
    segment_temporary_name(name, segment)
    return segment_make(j.disk, name, j.segment_bytes, &j.stopping, fd)


# A segment made ahead of an opening, so that a takeover waits for no disk. Its first 4 KiB are written before anything
# else is, and its name is synced before a block is: zeros at its beginning mean zeros throughout.
cdef int spare_make(Disk* disk, uint64_t bytes, const uint64_t* stopping) noexcept nogil:
    cdef int fd = open_zeros(disk, b"spare.tmp", bytes)
    cdef int error
    if fd >= 0:
        disk.close(disk, fd)
        return 0
    error = segment_make(disk, b"spare-unready.tmp", bytes, stopping, &fd)
    if error:
        return error
    disk.close(disk, fd)
    return 0 if disk.rename(disk, b"spare-unready.tmp", b"spare.tmp", True) == 0 else errno


# A descriptor of a segment that nothing was written to yet; -1: there is none.
cdef int open_zeros(Disk* disk, const char* name, uint64_t bytes) noexcept nogil:
    cdef uint8_t head[SEGMENT_HEADER_BYTES + BLOCK_UNIT_BYTES]
    cdef uint8_t* aligned = <uint8_t*>((<size_t>head + BLOCK_UNIT_BYTES - 1) & ~<size_t>(BLOCK_UNIT_BYTES - 1))
    cdef int fd = disk.open(disk, name, O_RDWR | O_DIRECT)
    if fd >= 0 and (disk.size(disk, fd) != <int64_t>bytes
                    or disk.read(disk, fd, aligned, SEGMENT_HEADER_BYTES, 0) != SEGMENT_HEADER_BYTES
                    or not log_is_zero(aligned, SEGMENT_HEADER_BYTES)):
        disk.close(disk, fd)
        fd = -1
    return fd


# The spare segment under the temporary name of the current one. 0: there is none.
cdef bint journal_take_spare(Journal* j, const char* name) noexcept nogil:
    # Its name first: another process may be about to replace what it stands for.
    if j.disk.rename(j.disk, b"spare.tmp", name, True) != 0:
        return False
    j.fd = open_zeros(j.disk, name, j.segment_bytes)
    return j.fd >= 0


cdef void journal_prepare_end(Journal* j, int error, int fd) noexcept nogil:
    """Books the result; a full disk is said once, other errors end the process. The lock is held."""
    cdef char name[SEGMENT_NAME_BYTES]
    if error == 0:
        if j.prepare_failed:
            journal_say(j.disk, "preallocation works again", j.directory, j.segment + 1, 0)
        j.prepare_failed = False
        j.prepared_fd = fd
        j.prepared = True
    elif error == ECANCELED:
        pass
    elif error == ENOSPC or error == EDQUOT or error == EFBIG:
        if not j.prepare_failed:
            journal_say(j.disk, "preallocation failed; going on while there is room", j.directory, j.segment + 1,
                        error)
        j.prepare_failed = True
        j.stats.prepare_failures += 1
    else:
        segment_temporary_name(name, j.segment + 1)
        journal_die(j, "preallocation", name, 0, error)


cdef void journal_remove_temporary(void* into, const char* name) noexcept nogil:
    cdef Journal* j = <Journal*>into
    if number_in_name(name, b"segment-", b".tmp") or strcmp(name, b"spare-unready.tmp") == 0:
        j.disk.remove(j.disk, name)


cdef void journal_prepare_loop(Journal* j) noexcept nogil:
    cdef uint64_t retry_at_ns = 0
    cdef int error, fd = -1
    # What former leaders had prepared. Not sooner: to give back the space of a segment takes its time.
    j.disk.list(j.disk, journal_remove_temporary, j)
    pthread_mutex_lock(&j.lock)
    while not eo_load64(&j.stopping):
        if j.prepared or (j.prepare_failed and not j.prepare_wanted):
            pthread_cond_wait(&j.prepare, &j.lock)
        elif j.prepare_failed and journal_now_ns(CLOCK_MONOTONIC) < retry_at_ns:
            journal_wait_until(&j.prepare, &j.lock, retry_at_ns)
        else:
            j.prepare_wanted = False
            pthread_mutex_unlock(&j.lock)
            error = journal_prepare(j, j.segment + 1, &fd)   # the number stays while nothing is prepared
            retry_at_ns = journal_now_ns(CLOCK_MONOTONIC) + PREPARE_RETRY_MS * <uint64_t>1000000
            pthread_mutex_lock(&j.lock)
            journal_prepare_end(j, error, fd)
    pthread_mutex_unlock(&j.lock)


cdef int journal_begin(Journal* j, uint64_t previous_bytes) noexcept nogil:
    """The first segment of an epoch, which seals what was before; then the log is open. 0 or errno."""
    cdef char name[SEGMENT_NAME_BYTES]
    cdef int error = 0
    segment_temporary_name(name, j.segment)
    if j.takes_over and log_load_u64(j.durable_map + DURABLE_INTENT_AT) >> 32 < j.segment:
        # What the dead leader had prepared. It was alive a moment ago, so no power failed in the middle of a write; nor
        # had it begun to write there, which may leave zeros at the beginning only if the write failed.
        j.fd = open_zeros(j.disk, name, j.segment_bytes)
    if j.fd < 0 and not journal_take_spare(j, name):
        error = journal_prepare(j, j.segment, &j.fd)
    if error:
        return error
    journal_header_lay(j, previous_bytes)
    journal_write_all(j, j.fd, j.block, SEGMENT_HEADER_BYTES, 0, name)
    journal_sync(j, j.fd, 0, name)
    journal_segment_name_it(j)
    j.offset = SEGMENT_HEADER_BYTES
    j.plan_offset = SEGMENT_HEADER_BYTES
    j.sealed = True                      # the header names what is durable
    journal_publish(j)
    return 0


cdef int journal_init(Journal* j, Disk* disk, uint64_t segment_bytes, size_t staged_bytes_max) noexcept nogil:
    """Memory, locks and bounds; the rest of the fields is the caller's. 0 or errno."""
    cdef pthread_condattr_t monotonic
    cdef int kind = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE
    memset(j, 0, sizeof(Journal))
    j.disk = disk
    j.fd = j.event_fd = j.prepared_fd = -1
    j.segment_bytes = segment_bytes
    j.staged_bytes_max = staged_bytes_max
    j.block_payload_bytes_max = block_payload_max(segment_block_bytes_max(segment_bytes))
    j.record_bytes_max = segment_record_bytes_max(segment_bytes)
    j.block_room = SEGMENT_HEADER_BYTES + segment_block_bytes_max(segment_bytes)
    pthread_mutex_init(&j.lock, NULL)
    pthread_condattr_init(&monotonic)
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC)
    pthread_cond_init(&j.work, &monotonic)
    pthread_cond_init(&j.prepare, &monotonic)
    pthread_cond_init(&j.synced, &monotonic)
    j.staged = <uint8_t*>mmap(NULL, staged_bytes_max, PROT_READ | PROT_WRITE, kind, -1, 0)
    j.draining = <uint8_t*>mmap(NULL, staged_bytes_max, PROT_READ | PROT_WRITE, kind, -1, 0)
    j.block = <uint8_t*>mmap(NULL, j.block_room, PROT_READ | PROT_WRITE, kind, -1, 0)
    j.event_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)
    if <void*>j.staged == MAP_FAILED or <void*>j.draining == MAP_FAILED or <void*>j.block == MAP_FAILED:
        return ENOMEM
    if j.event_fd < 0:
        return errno
    return 0


cdef void journal_unmap(void* at, size_t size) noexcept nogil:
    if at != NULL and at != MAP_FAILED:
        munmap(at, size)


cdef void journal_close_files(Journal* j) noexcept nogil:
    """After both threads ended: the prepared segment goes, since the next writer makes its own."""
    cdef char name[SEGMENT_NAME_BYTES]
    if j.prepared_fd >= 0 and j.prepared:
        j.disk.close(j.disk, j.prepared_fd)
        segment_temporary_name(name, j.segment + 1)
        j.disk.remove(j.disk, name)
    if j.fd >= 0:
        j.disk.close(j.disk, j.fd)
    j.prepared = False
    j.fd = j.prepared_fd = -1


cdef void journal_free(Journal* j) noexcept nogil:
    journal_close_files(j)
    if j.event_fd >= 0:
        posix_close(j.event_fd)
    journal_unmap(j.staged, j.staged_bytes_max)
    journal_unmap(j.draining, j.staged_bytes_max)
    journal_unmap(j.block, j.block_room)
    if j.durable_map != NULL:
        j.disk.unmap(j.disk, j.durable_map, DURABLE_FILE_BYTES)
    pthread_cond_destroy(&j.work)
    pthread_cond_destroy(&j.prepare)
    pthread_cond_destroy(&j.synced)
    pthread_mutex_destroy(&j.lock)
