# The file of a snapshot: written in chunks at a bounded rate, so that the log's syncs do not wait behind it.

cdef enum:
    SNAPSHOT_CHUNK_BYTES = 1 << 20
    SNAPSHOT_SYNC_BYTES = 4 << 20              # what may be on its way to the disk at a time
    SNAPSHOT_NAME_BYTES = 64

cdef struct SnapshotFile:
    Disk* disk
    int fd
    int error                                  # errno; nothing is written after it
    uint64_t at, unsynced
    uint64_t bytes_per_s                       # 0: as fast as it goes
    uint64_t began_ns


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


cdef void file_append(SnapshotFile* file, const uint8_t* data, size_t size) noexcept nogil:
    file_write(file, data, size, file.at)
    file.at += size
    file.unsynced += size
    if file.unsynced >= SNAPSHOT_SYNC_BYTES and file.error == 0:
        file_settle(file)
        file_pace(file)


# What is written is on the disk, and out of the page cache, which others need more.
cdef void file_settle(SnapshotFile* file) noexcept nogil:
    if file.error == 0 and file.disk.sync(file.disk, file.fd) != 0:
        file.error = errno
    file.disk.forget(file.disk, file.fd)
    file.unsynced = 0


cdef void file_pace(SnapshotFile* file) noexcept nogil:
    cdef timespec pause
    cdef uint64_t due_ns, passed_ns
    if file.bytes_per_s == 0:
        return
    due_ns = file.at // (file.bytes_per_s // 1000 + 1) * 1000000
    passed_ns = journal_now_ns(CLOCK_MONOTONIC) - file.began_ns
    if due_ns > passed_ns:
        pause.tv_sec = <long>((due_ns - passed_ns) // 1000000000)
        pause.tv_nsec = <long>((due_ns - passed_ns) % 1000000000)
        nanosleep(&pause, NULL)
