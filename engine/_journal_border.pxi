# The journal as Python sees it, and the one border where its codes become exceptions.

import fcntl
import os
import threading
import time

from engine.errors import JournalDamaged, JournalFormatError, JournalFull, JournalLocked, JournalNoSpace

# Seconds for which a lock that is held may be one that a tool only tries.
LOCK_S_MAX = 0.1


cdef object _raise_log_fault(LogReader* r, str directory):
    """The one border where a code of the reader becomes an exception."""
    path = os.path.join(directory, f"{r.fault_segment:020d}.log") if r.fault_segment else directory
    reason = r.fault_reason.decode()
    if r.fault_code == LOG_FAILED:
        raise OSError(r.fault_errno, f"{reason}: {os.strerror(r.fault_errno)}", path)
    if r.fault_code == LOG_FORMAT:
        raise JournalFormatError(path, r.fault_offset, JOURNAL_FORMAT_VERSION)
    raise JournalDamaged(path, r.fault_offset, r.sequence, reason)


cdef Disk real_disk(str directory) except *:
    """The disk of a directory that is there; to be given back by close_disk."""
    cdef Disk disk = REAL_DISK
    disk.dir_fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    return disk


cdef void close_disk(Disk* disk) noexcept:
    if disk.dir_fd >= 0:
        posix_close(disk.dir_fd)
    disk.dir_fd = -1


def journal_segment_numbers(path):
    """The numbers of the segments in a directory, ascending. Raises JournalDamaged if one is missing between two."""
    return [number for number, _ in _surveyed(os.fspath(path), False)]


def journal_segments(path):
    """The checked headers of all segments as dicts (the names are those of docs/log_format.md), ascending."""
    return [header for _, header in _surveyed(os.fspath(path), True)]


def _surveyed(str directory, bint with_headers):
    cdef Disk disk = real_disk(directory)
    cdef LogReader r
    cdef Survey survey
    cdef size_t i
    cdef int code
    log_init(&r, &disk)
    try:
        code = survey_log(&survey, &r) if with_headers else survey_names(&survey, &r)
        if code != LOG_RECORD:
            _raise_log_fault(&r, directory)
        if not with_headers:
            return [(survey.numbers[i], None) for i in range(survey.numbered)]
        return [(survey.headers[i].segment, dict(survey.headers[i], log_id=bytes(survey.headers[i].log_id[:16])))
                for i in range(survey.count)]
    finally:
        survey_free(&survey)
        close_disk(&disk)


def journal_durable(path):
    """What `durable` names, as a dict: epoch, sequence, segment, offset, log_digest. None if there is no valid slot."""
    cdef Disk disk = real_disk(os.fspath(path))
    cdef DurableSlot slot
    try:
        return dict(slot) if durable_read(&disk, &slot) else None
    finally:
        close_disk(&disk)


def drop_segments_before(path, uint64_t sequence):
    """Removes the segments whose records are all covered by the snapshot at `sequence`, and returns how many.

    The snapshot and the directory it lies in must be synced. Oldest first and the directory synced after each, so that
    a crash leaves no gap. The last segment stays, so it can be called while a leader writes.
    """
    cdef Disk disk = real_disk(os.fspath(path))
    cdef LogReader r
    cdef uint64_t dropped = 0
    log_init(&r, &disk)
    try:
        if log_drop(&r, sequence, &dropped) != LOG_RECORD:
            _raise_log_fault(&r, os.fspath(path))
    finally:
        close_disk(&disk)
    return dropped


cdef class JournalReader:
    """Records of a shard's log in order, from `from_sequence` on, up to and with `until_sequence` (None: to the end).

    `from_sequence` None means all that is there, with the first segments even if they hold no records.

    Iterates over (sequence, record). Raises JournalDamaged, JournalFormatError or OSError; nothing is repaired or
    skipped. While a leader writes, give `until_sequence` or use follow(): the block it is writing would look torn.
    """
    cdef Disk disk
    cdef LogReader reader
    cdef bint at_segment_end
    cdef readonly str path

    def __cinit__(self):
        self.disk = REAL_DISK
        log_init(&self.reader, &self.disk)

    def __init__(self, path, from_sequence=1, until_sequence=None):
        cdef Survey survey
        cdef int code
        self.path = os.fspath(path)
        self.disk = real_disk(self.path)
        if until_sequence is not None:
            self.reader.until_sequence = until_sequence
        code = log_begin(&self.reader, &survey, from_sequence or 0)
        begins = survey.headers[0].first_sequence if survey.count else 0
        survey_free(&survey)
        if code != LOG_RECORD and begins > (from_sequence or begins):
            raise JournalDamaged(self.path, 0, from_sequence,
                                 f"the log begins at sequence {begins}: a snapshot must cover what is before")
        if code != LOG_RECORD:
            _raise_log_fault(&self.reader, self.path)

    def __dealloc__(self):
        self.close()

    def close(self):
        """Gives back files and memory; the reader cannot be used any more."""
        log_free(&self.reader)
        close_disk(&self.disk)

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.close()

    def __iter__(self):
        return self

    def __next__(self):
        cdef const uint8_t* record
        cdef size_t size
        cdef uint64_t sequence
        cdef int code
        if self.disk.dir_fd < 0:
            raise ValueError("the reader is closed")
        with nogil:
            code = log_next(&self.reader, &record, &size, &sequence)
        if code == LOG_RECORD:
            return sequence, record[:size]
        if code == LOG_END:
            raise StopIteration
        _raise_log_fault(&self.reader, self.path)

    def scan(self):
        """Proves everything up to the end and returns the sequence of the last record."""
        cdef int code
        if self.disk.dir_fd < 0:
            raise ValueError("the reader is closed")
        with nogil:
            code = log_end(&self.reader)
        if code != LOG_END:
            _raise_log_fault(&self.reader, self.path)
        return self.reader.sequence - 1

    def scan_segment(self):
        """Proves one segment; `position` tells about it. True: another one follows. Not to be mixed with iteration."""
        cdef int code
        if self.disk.dir_fd < 0:
            raise ValueError("the reader is closed")
        with nogil:
            code = log_segment_end(&self.reader, self.at_segment_end)
        self.at_segment_end = code == LOG_RECORD
        if code != LOG_RECORD and code != LOG_END:
            _raise_log_fault(&self.reader, self.path)
        return self.at_segment_end

    def follow(self):
        """Lets the reader go on up to what the leader has published, and returns that sequence (0: nothing yet)."""
        return log_follow(&self.reader)

    @property
    def position(self):
        """Where it stands: log_id, epoch, segment, offset of the next block, crc (chained so far), sequence of the next
        record, blocks and seals read, and the tail: unread, limit, clean, sealed or torn."""
        return _position(&self.reader)


def _make_directory(path):
    """Makes the directory, and syncs its name, if it was not there."""
    if not os.path.isdir(path):
        os.makedirs(path, mode=0o750)
        _sync_path(os.path.dirname(os.path.abspath(path)))


def _sync_path(path):
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _locks(fd):
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _locked_file(path):
    """An open descriptor that holds the lock, or JournalLocked."""
    fd = os.open(os.path.join(path, "lock"), os.O_RDWR | os.O_CREAT, 0o640)
    # Tools try the lock for a moment, to see whether an engine runs.
    until = time.monotonic() + LOCK_S_MAX
    while not _locks(fd) and time.monotonic() < until:
        time.sleep(LOCK_S_MAX / 50)
    if not _locks(fd):
        holder = os.pread(fd, 20, 0).strip()
        os.close(fd)
        raise JournalLocked(path, int(holder) if holder.isdigit() else None) from None
    os.ftruncate(fd, 0)
    os.pwrite(fd, b"%d\n" % os.getpid(), 0)
    return fd


cdef dict _position(const LogReader* r):
    return {
        "log_id": bytes(r.header.log_id[:16]), "epoch": r.header.epoch, "segment": r.header.segment,
        "segment_bytes": r.header.segment_bytes, "segment_first_sequence": r.header.first_sequence,
        "offset": r.offset, "crc": r.chain, "sequence": r.sequence, "blocks": r.blocks, "seals": r.seals,
        "tail": (None, "unread", "limit", "clean", "sealed", "torn")[r.tail],
    }


cdef class JournalWriter:
    """The log of one shard, open for writing: locked, its tail decided, in a new epoch and a new segment.

    `log_id` (16 bytes): of a new log, random if None; of an existing one, what it must be. `first_sequence` is for a
    new log. Raises JournalLocked, JournalDamaged, JournalFormatError, OSError. After that a failed write or sync ends
    the process with status 70.
    """
    cdef Disk disk
    cdef Journal journal
    cdef readonly str path
    cdef readonly dict recovered         # the position at which the log ended when it was opened; None: it is new
    cdef int lock_fd
    cdef bint made
    cdef list threads

    def __cinit__(self):
        self.disk = REAL_DISK
        self.lock_fd = -1
        self.threads = []

    def __init__(self, path, *, log_id=None, uint64_t segment_bytes=SEGMENT_BYTES_DEFAULT, uint64_t first_sequence=1,
                 size_t staged_bytes_max=JOURNAL_STAGED_BYTES_MAX):
        cdef int error
        if self.made:
            raise ValueError("a writer is opened once")
        if not SEGMENT_BYTES_MIN <= segment_bytes <= SEGMENT_BYTES_MAX or segment_bytes % BLOCK_UNIT_BYTES:
            raise ValueError(f"segment_bytes: a multiple of 4096 from {SEGMENT_BYTES_MIN} to {SEGMENT_BYTES_MAX}")
        if log_id is not None and len(log_id) != 16:
            raise ValueError("log_id: 16 bytes")
        if first_sequence == 0 or not BLOCK_UNIT_BYTES <= staged_bytes_max <= JOURNAL_STAGED_BYTES_MAX:
            raise ValueError("first_sequence: from 1; staged_bytes_max: from 4096 to 64 MiB")
        self._begin(os.fspath(path), segment_bytes, staged_bytes_max)
        try:
            self._open(log_id, first_sequence)
        except BaseException:
            self._release()
            raise
        self._start()

    cdef int _begin(self, str path, uint64_t segment_bytes, size_t staged_bytes_max) except -1:
        """Memory, directory and lock; nothing of the log is looked at yet."""
        cdef int error = journal_init(&self.journal, &self.disk, segment_bytes, staged_bytes_max)
        self.path = path
        self.made = True
        if error:
            raise OSError(error, os.strerror(error))
        encoded = os.fsencode(path)[:sizeof(self.journal.directory) - 1]
        memcpy(self.journal.directory, <const char*>encoded, len(encoded))
        _make_directory(path)
        self.disk = real_disk(path)
        self.lock_fd = _locked_file(path)
        return 0

    def _open(self, log_id, first_sequence):
        cdef LogReader end
        cdef uint64_t first = first_sequence
        cdef bint exact = log_id is not None
        cdef bytes id_of_log = log_id or os.urandom(16)
        cdef const uint8_t* id_bytes = id_of_log
        cdef int code
        log_init(&end, &self.disk)
        try:
            with nogil:
                code = journal_open(&self.journal, &end, id_bytes, exact, first)
            if code != LOG_RECORD:
                _raise_log_fault(&end, self.path)
            if end.fd >= 0:
                self.recovered = _position(&end)
        finally:
            log_free(&end)

    cdef int _take_over(self, LogReader* end) except -1:
        """Goes on where a follower stands, at the end of the log."""
        cdef int code
        self.journal.takes_over = True
        with nogil:
            code = journal_go_on(&self.journal, end)
        if code != LOG_RECORD:
            _raise_log_fault(end, self.path)
        self.recovered = _position(end)
        return 0

    cdef int _start(self) except -1:
        for loop, name in ((self._sync, "everopen-journal-sync"), (self._prepare, "everopen-journal-prepare")):
            thread = threading.Thread(target=loop, name=name, daemon=True)
            thread.start()
            self.threads.append(thread)
        return 0

    def _sync(self):
        with nogil:
            journal_sync_loop(&self.journal)

    def _prepare(self):
        # Ahead of need, so it may wait for who is in need.
        give_way(PREPARE_NICE)
        with nogil:
            journal_prepare_loop(&self.journal)

    def _release(self):
        journal_close_files(&self.journal)
        close_disk(&self.disk)
        if self.lock_fd >= 0:
            os.close(self.lock_fd)
            self.lock_fd = -1

    def __dealloc__(self):
        if self.made:
            journal_free(&self.journal)
        if self.lock_fd >= 0:
            posix_close(self.lock_fd)

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.close()

    def close(self):
        """Commits what is staged, seals, ends both threads, unlocks. Later appends are refused."""
        if self.lock_fd < 0:
            return
        pthread_mutex_lock(&self.journal.lock)
        eo_store64(&self.journal.stopping, 1)
        pthread_cond_broadcast(&self.journal.work)
        pthread_cond_broadcast(&self.journal.prepare)
        pthread_mutex_unlock(&self.journal.lock)
        for thread in self.threads:
            thread.join()
        self._release()

    def append(self, bytes record not None):
        """Stages a whole record, length field included, and returns its sequence. kick() sets it on its way.

        Raises JournalFull, JournalNoSpace; ValueError for a record that is not one, or on a closed journal.
        """
        cdef uint64_t sequence = journal_next_sequence(&self.journal)
        cdef int code = journal_append(&self.journal, record, len(record))
        if code == JOURNAL_FULL:
            raise JournalFull("too much is staged; try again")
        if code == JOURNAL_NO_SPACE:
            raise JournalNoSpace("no room is preallocated and the disk is full")
        if code != JOURNAL_OK:
            raise ValueError("not a record: its length field or its size is wrong" if self.lock_fd >= 0 else "closed")
        return sequence

    def has_room(self):
        """Whether the next append will be taken, whatever its size."""
        return journal_has_room(&self.journal)

    def kick(self):
        """Wakes the sync thread: once after a batch of appends, so that they become one block."""
        journal_kick(&self.journal)

    def wait_durable(self, uint64_t sequence, double timeout_s):
        """Waits until `sequence` is durable; False if it is not after `timeout_s`. Releases the GIL."""
        cdef uint64_t until_ns = journal_now_ns(CLOCK_MONOTONIC) + <uint64_t>(max(0.0, min(timeout_s, 1e9)) * 1e9)
        cdef bint reached
        with nogil:
            reached = journal_wait_durable(&self.journal, sequence, until_ns)
        return reached

    @property
    def next_sequence(self):
        return journal_next_sequence(&self.journal)

    @property
    def durable(self):
        """The last sequence that is durable; one less than the first if there is none."""
        return journal_durable_sequence(&self.journal)

    @property
    def eventfd(self):
        """Readable after each sync, until it is read."""
        return self.journal.event_fd

    @property
    def epoch(self):
        return self.journal.epoch

    @property
    def segment(self):
        return self.journal.segment

    @property
    def log_id(self):
        return <bytes>(<char*>self.journal.log_id)[:16]

    @property
    def record_bytes_max(self):
        return self.journal.record_bytes_max

    def stats(self):
        """Counters since opening. In sync_ns_buckets, 4 * p + q counts the syncs from 2**p * (1 + q / 4) ns on."""
        return dict(self.journal.stats, sync_ns_buckets=[self.journal.sync_buckets[i] for i in range(SYNC_BUCKETS)])
