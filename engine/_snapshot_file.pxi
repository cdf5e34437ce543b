# The file of a snapshot: written, and read back, in pieces at a bounded rate, so that the log does not wait for it.

cdef enum:
    SNAPSHOT_PIECE_BYTES = 256 << 10           # what may be on its way to the disk at a time
    SNAPSHOT_NAME_BYTES = 64

cdef struct Pace:
    uint64_t bytes_per_s                       # 0: as fast as it goes
    uint64_t began_ns

cdef struct SnapshotFile:
    Disk* disk
    int fd
    int error                                  # errno; nothing is written after it
    uint64_t at
    Pace pace


cdef Pace pace_of(uint64_t bytes_per_s) noexcept nogil:
    cdef Pace pace
    pace.bytes_per_s = bytes_per_s
    pace.began_ns = journal_now_ns(CLOCK_MONOTONIC)
    return pace


# Sleeps until so many bytes since the begin are due.
cdef void keep_pace(const Pace* pace, uint64_t bytes) noexcept nogil:
    cdef timespec pause
    cdef uint64_t due_ns, passed_ns
    if pace.bytes_per_s == 0:
        return
    due_ns = bytes // (pace.bytes_per_s // 1000 + 1) * 1000000
    passed_ns = journal_now_ns(CLOCK_MONOTONIC) - pace.began_ns
    if due_ns > passed_ns:
        pause.tv_sec = <long>((due_ns - passed_ns) // 1000000000)
        pause.tv_nsec = <long>((due_ns - passed_ns) % 1000000000)
        nanosleep(&pause, NULL)


cdef void file_write(SnapshotFile* file, const uint8_t* data, size_t size, uint64_t at) noexcept nogil:
    cdef ssize_t written
    while size and file.error == 0:
        written = file.disk.write(file.disk, file.fd, data, size, at)
        if written > 0:
            data += written
            at += <uint64_t>written
            size -= <size_t>written
        elif written == 0 or errno != EINTR:
            file.error = errno if written else EIO


# It does not stay in the page cache, which others need more, and is not synced yet: the log's own flush would have to
# wait for that of each piece.
cdef void file_append(SnapshotFile* file, const uint8_t* data, size_t size) noexcept nogil:
    file_write(file, data, size, file.at)
    file.at += size
    if file.error == 0:
        file.disk.forget(file.disk, file.fd)
        keep_pace(&file.pace, file.at)
