# A snapshot from state to name: written under a temporary name, synced, read back and proved, and only then named. It
# either is there whole, or is not there. Also from a forked child, which sees one moment while the parent goes on.

cdef extern from *:
    """
    #include <signal.h>
    #include <sys/prctl.h>
    #include <unistd.h>

    static void child_words(const char *text) {
        if (write(2, "everopen: ", 10) && write(2, text, strlen(text)) && write(2, "\\n", 1)) {}
    }
    /* In the child after a fork of one thread among several: nothing that may wait for a lock of the others. */
    static void child_begins(int nice_value) {
        prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
        eo_give_way(nice_value, 100000);
        syscall(SYS_ioprio_set, 1, 0, 3 << 13);    /* ioprio_set(2): this process, idle class, where it counts */
    }
    """
    void child_words(const char* text) noexcept nogil
    void child_begins(int nice_value) noexcept nogil
    int fork() noexcept nogil
    void _exit(int code) noexcept nogil

cdef enum:
    SNAPSHOT_CHILD_NICE = 19


# NULL: `name` is there, whole and proved, and its directory is synced. Else what failed, with errno; then it is not.
cdef const char* save_state(State* s, Disk* disk, const char* name, uint64_t bytes_per_s) noexcept nogil:
    cdef char temporary[SNAPSHOT_NAME_BYTES]
    cdef const char* failure
    cdef int error
    snprintf(temporary, SNAPSHOT_NAME_BYTES, b"%s.tmp", name)
    failure = write_file(s, disk, temporary, bytes_per_s)
    if failure == NULL:
        failure = prove_file(disk, temporary, bytes_per_s)
    if failure == NULL and disk.rename(disk, temporary, name, True) != 0:
        failure = b"rename"
    if failure == NULL and SAFE(SAFETY_NAMES_SYNC) and disk.sync_names(disk) != 0:
        return b"sync of the directory"
    if failure != NULL:
        error = errno
        disk.remove(disk, temporary)
        errno_is(error)
    return failure


cdef const char* write_file(State* s, Disk* disk, const char* name, uint64_t bytes_per_s) noexcept nogil:
    cdef SnapshotFile file
    disk.remove(disk, name)
    memset(&file, 0, sizeof(file))
    file.disk = disk
    file.fd = disk.open(disk, name, O_RDWR | O_CREAT | O_EXCL)
    if file.fd < 0:
        return b"open"
    write_state(s, &file, bytes_per_s)
    if file.error == 0 and disk.sync(disk, file.fd) != 0:
        file.error = errno
    disk.forget(disk, file.fd)
    disk.close(disk, file.fd)
    if file.error:
        errno_is(file.error)
        return b"write or sync"
    return NULL


# Reads it back from the disk: every CRC, and that the digests of the sections, made anew from the objects, add up to
# those that the state has kept all along.
cdef const char* prove_file(Disk* disk, const char* name, uint64_t bytes_per_s) noexcept nogil:
    cdef SnapshotHeader header
    cdef uint64_t sums[4]
    cdef uint64_t at = sizeof(SnapshotHeader)
    cdef Pace pace = pace_of(bytes_per_s)
    cdef uint8_t* piece = <uint8_t*>malloc(SNAPSHOT_PIECE_BYTES)
    cdef int fd = disk.open(disk, name, O_RDONLY)
    cdef const char* failure = NULL
    cdef uint32_t i
    INVARIANT(piece != NULL, "out of memory")
    memset(sums, 0, sizeof(sums))
    errno_is(EIO)
    if fd < 0 or not read_whole(disk, fd, <uint8_t*>&header, sizeof(header), 0):
        failure = b"reading it back"
    elif header.crc != crc32c_of(<uint8_t*>&header, sizeof(header) - 4, 0):
        failure = b"proving its header"
    elif header.format_version > 1:
        failure = prove_retention(disk, fd, &at, header.crc, sums)
    i = 0
    while failure == NULL and i < header.sections:
        failure = prove_section(disk, fd, &at, &pace, piece, sums)
        i += 1
    if failure == NULL and (memcmp(sums, header.business, 16) or memcmp(sums + 2, header.whole, 16)):
        failure = b"proving its digests"
    if failure == NULL and disk.size(disk, fd) != <int64_t>at:
        failure = b"proving its length"
    if fd >= 0:
        disk.forget(disk, fd)
        disk.close(disk, fd)
    free(piece)
    return failure


# Evicted orders are in the business digest without being in a section.
cdef const char* prove_retention(Disk* disk, int fd, uint64_t* at, uint32_t crc, uint64_t* sums) noexcept nogil:
    cdef SnapshotRetention retention
    if not read_whole(disk, fd, <uint8_t*>&retention, sizeof(retention), at[0]):
        return b"reading it back"
    if retention.crc != crc32c_of(<uint8_t*>&retention, sizeof(retention) - 4, crc):
        return b"proving what it says of evicted orders"
    at[0] += sizeof(retention)
    sum_add(sums, retention.evicted[0], retention.evicted[1])
    return NULL


cdef const char* prove_section(
    Disk* disk, int fd, uint64_t* at, const Pace* pace, uint8_t* piece, uint64_t* sums
) noexcept nogil:
    cdef SectionHeader header
    cdef uint64_t left
    cdef size_t size
    cdef uint32_t crc = 0
    if not read_whole(disk, fd, <uint8_t*>&header, sizeof(header), at[0]):
        return b"reading it back"
    if header.crc != crc32c_of(<uint8_t*>&header, sizeof(header) - 4, 0):
        return b"proving the header of a section"
    at[0] += sizeof(header)
    left = header.size
    while left:
        size = <size_t>left if left < SNAPSHOT_PIECE_BYTES else <size_t>SNAPSHOT_PIECE_BYTES
        if not read_whole(disk, fd, piece, size, at[0]):
            return b"reading it back"
        crc = crc32c_of(piece, size, crc)
        at[0] += size
        left -= size
        keep_pace(pace, at[0])
    sum_add(sums, header.business[0], header.business[1])
    sum_add(sums + 2, header.whole[0], header.whole[1])
    if crc != header.payload_crc:
        return b"proving a section"
    return NULL


cdef bint read_whole(Disk* disk, int fd, uint8_t* into, size_t size, uint64_t at) noexcept nogil:
    cdef ssize_t got
    while size:
        got = disk.read(disk, fd, into, size, at)
        if got < 0 and errno == EINTR:
            continue
        if got <= 0:
            return False
        into += got
        at += <uint64_t>got
        size -= <size_t>got
    return True


cdef object save_snapshot(State* s, str path):
    cdef Disk disk = real_disk(_os.path.dirname(path) or ".")
    cdef bytes name = _snapshot_name(path)
    cdef const char* text = name
    cdef const char* failure
    cdef int error
    with nogil:
        failure = save_state(s, &disk, text, 0)
        error = errno
    close_disk(&disk)
    if failure != NULL:
        raise OSError(error, f"snapshot: {failure.decode()}: {_os.strerror(error)}", path)


# In a child: its pid. Exit code 0: the snapshot is there, as save_state promises.
cdef int save_in_child(State* s, str path, uint64_t bytes_per_s) except -1:
    cdef Disk disk = real_disk(_os.path.dirname(path) or ".")
    cdef bytes name = _snapshot_name(path)
    cdef const char* text = name
    cdef const char* failure
    cdef int pid
    with nogil:
        pid = fork()
        if pid == 0:
            child_begins(SNAPSHOT_CHILD_NICE)
            failure = save_state(s, &disk, text, bytes_per_s)
            if failure != NULL:
                child_words(b"a snapshot failed:")
                child_words(failure)
            _exit(1 if failure != NULL else 0)
    close_disk(&disk)
    if pid < 0:
        raise OSError(errno, "fork")
    return pid


cdef bytes _snapshot_name(str path):
    name = _os.fsencode(_os.path.basename(path))
    if not 0 < len(name) < SNAPSHOT_NAME_BYTES - 4:
        raise ValueError(f"{path}: the name is empty or too long")
    return name


# Exit code 0: every invariant of this moment holds. 1: one does not, and it is said.
cdef int check_in_child(State* s) except -1:
    cdef char text[512]
    cdef int pid, holds
    with nogil:
        pid = fork()
        if pid == 0:
            child_begins(SNAPSHOT_CHILD_NICE)
            holds = check_state(s, text, sizeof(text))
            if not holds:
                child_words(text)
            _exit(0 if holds else 1)
    if pid < 0:
        raise OSError(errno, "fork")
    return pid
