# The journal as Python sees it, and the one border where its codes become exceptions.

import fcntl
import os
import re
import threading

from engine.errors import JournalDamaged, JournalFormatError, JournalFull, JournalLocked, JournalNoSpace


cdef object _raise_log_fault(LogReader* r, str directory):
    """The one border where a code of the reader becomes an exception."""
    path = os.path.join(directory, f"{r.fault_segment:020d}.log")
    reason = r.fault_reason.decode()
    if r.fault_code == LOG_FAILED:
        raise OSError(r.fault_errno, f"{reason}: {os.strerror(r.fault_errno)}", path)
    if r.fault_code == LOG_FORMAT:
        raise JournalFormatError(path, r.fault_offset, JOURNAL_FORMAT_VERSION)
    raise JournalDamaged(path, r.fault_offset, r.sequence, reason)


def journal_segment_numbers(path):
    """The numbers of the segments in a directory, ascending. Raises JournalDamaged if one is missing between two."""
    numbers = sorted(int(name[:20]) for name in os.listdir(path) if re.fullmatch("[0-9]{20}[.]log", name))
    for number, following in zip(numbers, numbers[1:]):
        if following != number + 1:
            raise JournalDamaged(os.path.join(path, f"{number + 1:020d}.log"), 0, 0, "the segment is missing")
    return numbers


def journal_segments(path):
    """The checked headers of all segments as dicts (the names are those of docs/log_format.md), ascending."""
    cdef LogReader r
    cdef SegmentHeader header
    cdef uint32_t crc
    cdef int fd, code
    cdef uint64_t epoch = 0, sequence = 0
    headers = []
    directory = os.fspath(path)
    dir_fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for number in journal_segment_numbers(directory):
            log_init(&r, dir_fd)
            if headers:
                r.log_digest = log_digest_of(headers[0]["log_id"])
            code = log_header_read(&r, number, &header, &crc, &fd)
            if code == LOG_RECORD:
                posix_close(fd)
                if header.epoch < epoch or header.first_sequence < sequence:
                    code = log_fault(&r, LOG_DAMAGED, number, 0, "epoch or sequence falls")
            if code == LOG_END:
                continue                 # dropped since it was listed
            if code != LOG_RECORD:
                r.sequence = sequence
                _raise_log_fault(&r, directory)
            epoch, sequence = header.epoch, header.first_sequence
            headers.append(dict(header, log_id=bytes(header.log_id[:16])))
    finally:
        os.close(dir_fd)
    return headers


def journal_durable(path):
    """What `durable` names, as a dict: epoch, sequence, segment, offset, log_digest. None if there is no valid slot."""
    cdef DurableSlot slot
    try:
        with open(os.path.join(path, "durable"), "rb") as file:
            data = file.read(DURABLE_FILE_BYTES)
    except FileNotFoundError:
        return None
    if len(data) < DURABLE_FILE_BYTES or not durable_slot_read(data, &slot):
        return None
    return dict(slot)


def drop_segments_before(path, uint64_t sequence):
    """Removes the segments whose records are all covered by the snapshot at `sequence`, and returns how many.

    The snapshot and the directory it lies in must be synced. Oldest first and the directory synced after each, so that
    a crash leaves no gap. The last segment stays, so it can be called while a leader writes.
    """
    headers = journal_segments(path)
    dropped = 0
    for header, following in zip(headers, headers[1:]):
        if following["first_sequence"] > sequence + 1:
            break
        os.unlink(os.path.join(path, f"{header['segment']:020d}.log"))
        _sync_path(path)
        dropped += 1
    return dropped


cdef class JournalReader:
    """Records of a shard's log in order, from `from_sequence` on, up to and with `until_sequence` (None: to the end).

    `from_sequence` None means all that is there, with the first segments even if they hold no records.

    Iterates over (sequence, record). Raises JournalDamaged, JournalFormatError or OSError; nothing is repaired or
    skipped. While a leader writes, give `until_sequence` or use follow(): the block it is writing would look torn.
    """
    cdef LogReader reader
    cdef bint at_segment_end
    cdef readonly str path

    def __cinit__(self):
        log_init(&self.reader, -1)

    def __init__(self, path, from_sequence=1, until_sequence=None):
        cdef uint64_t segment = 0
        cdef int code
        self.path = os.fspath(path)
        durable = journal_durable(self.path)
        headers = journal_segments(self.path)
        if not headers:
            raise JournalDamaged(self.path, 0, from_sequence or 0, "there is no segment")
        if from_sequence is None:
            segment = headers[0]["segment"]
            from_sequence = headers[0]["first_sequence"]
        else:
            for header in headers:
                if header["first_sequence"] <= from_sequence:
                    segment = header["segment"]
        if segment == 0:
            begins = headers[0]["first_sequence"]
            raise JournalDamaged(self.path, 0, from_sequence,
                                 f"the log begins at sequence {begins}: a snapshot must cover what is before")
        self.reader.dir_fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        self.reader.from_sequence = from_sequence
        if until_sequence is not None:
            self.reader.until_sequence = until_sequence
        if durable is not None:
            if durable["log_digest"] != log_digest_of(headers[0]["log_id"]):
                raise JournalDamaged(os.path.join(self.path, "durable"), 0, from_sequence, "it belongs to another log")
            self.reader.known_durable = durable["sequence"]
        code = log_start(&self.reader, segment)
        if code != LOG_RECORD:
            _raise_log_fault(&self.reader, self.path)

    def __dealloc__(self):
        self.close()

    def close(self):
        """Gives back files and memory; the reader cannot be used any more."""
        log_free(&self.reader)
        if self.reader.dir_fd >= 0:
            posix_close(self.reader.dir_fd)
            self.reader.dir_fd = -1

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
        if self.reader.dir_fd < 0:
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
        if self.reader.dir_fd < 0:
            raise ValueError("the reader is closed")
        with nogil:
            code = log_end(&self.reader)
        if code != LOG_END:
            _raise_log_fault(&self.reader, self.path)
        return self.reader.sequence - 1

    def scan_segment(self):
        """Proves one segment; `position` tells about it. True: another one follows. Not to be mixed with iteration."""
        cdef int code
        if self.reader.dir_fd < 0:
            raise ValueError("the reader is closed")
        with nogil:
            code = log_segment_end(&self.reader, self.at_segment_end)
        self.at_segment_end = code == LOG_RECORD
        if code != LOG_RECORD and code != LOG_END:
            _raise_log_fault(&self.reader, self.path)
        return self.at_segment_end

    def follow(self):
        """Lets the reader go on up to what the leader has published, and returns that sequence (0: nothing yet)."""
        durable = journal_durable(self.path)
        if durable is None:
            self.reader.until_sequence = 0
            return 0
        self.reader.until_sequence = self.reader.known_durable = durable["sequence"]
        self.reader.visible_segment = durable["segment"]
        self.reader.visible_bytes = durable["offset"]
        return durable["sequence"]

    @property
    def position(self):
        """Where it stands: log_id, epoch, segment, offset of the next block, crc (chained so far), sequence of the next
        record, blocks and seals read, and the tail: unread, limit, clean, sealed or torn."""
        return {
            "log_id": bytes(self.reader.header.log_id[:16]), "epoch": self.reader.header.epoch,
            "segment": self.reader.header.segment, "segment_bytes": self.reader.header.segment_bytes,
            "segment_first_sequence": self.reader.header.first_sequence,
            "offset": self.reader.offset, "crc": self.reader.chain, "sequence": self.reader.sequence,
            "blocks": self.reader.blocks, "seals": self.reader.seals,
            "tail": (None, "unread", "limit", "clean", "sealed", "torn")[self.reader.tail],
        }


def _synced_directory(path):
    """An open descriptor of the directory, made (and its name synced) if it was not there."""
    if not os.path.isdir(path):
        os.makedirs(path, mode=0o750)
        _sync_path(os.path.dirname(os.path.abspath(path)))
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY)


def _sync_path(path):
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _locked_file(path):
    """An open descriptor that holds the lock, or JournalLocked."""
    fd = os.open(os.path.join(path, "lock"), os.O_RDWR | os.O_CREAT, 0o640)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(fd, 20, 0).strip()
        os.close(fd)
        raise JournalLocked(path, int(holder) if holder.isdigit() else None) from None
    os.ftruncate(fd, 0)
    os.pwrite(fd, b"%d\n" % os.getpid(), 0)
    return fd


def _settled_end(path, headers):
    """The position at which the log ends. Syncs and reads in full every segment that can hold its last records.

    They are synced and dropped from the page cache first: what an earlier, failed sync left there must not pass for
    durable.
    """
    last = max(header["first_sequence"] for header in headers)
    earlier = [header for header in headers if header["first_sequence"] < last]
    begin = max(earlier or headers, key=lambda header: header["segment"])
    for header in headers[headers.index(begin):]:
        fd = os.open(os.path.join(path, f"{header['segment']:020d}.log"), os.O_RDONLY)
        try:
            os.fsync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(fd)
    with JournalReader(path, begin["first_sequence"]) as reader:
        reader.scan()
        return reader.position


cdef class JournalWriter:
    """The log of one shard, open for writing: locked, its tail decided, in a new epoch and a new segment.

    `log_id` (16 bytes): of a new log, random if None; of an existing one, what it must be. `first_sequence` is for a
    new log. Raises JournalLocked, JournalDamaged, JournalFormatError, OSError. After that a failed write or sync ends
    the process with status 70.
    """
    cdef Journal journal
    cdef readonly str path
    cdef readonly dict recovered         # the position at which the log ended when it was opened; None: it is new
    cdef int lock_fd
    cdef bint made
    cdef list threads

    def __cinit__(self):
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
        self.path = os.fspath(path)
        error = journal_init(&self.journal, segment_bytes, staged_bytes_max)
        self.made = True
        if error:
            raise OSError(error, os.strerror(error))
        encoded = os.fsencode(self.path)[:sizeof(self.journal.directory) - 1]
        memcpy(self.journal.directory, <const char*>encoded, len(encoded))
        self.journal.dir_fd = _synced_directory(self.path)
        self.lock_fd = _locked_file(self.path)
        try:
            self._open(log_id, first_sequence)
        except BaseException:
            self._release()
            raise
        for loop, name in ((self._sync, "everopen-journal-sync"), (self._prepare, "everopen-journal-prepare")):
            thread = threading.Thread(target=loop, name=name, daemon=True)
            thread.start()
            self.threads.append(thread)

    def _open(self, log_id, first_sequence):
        """The ritual of docs/log_format.md, from the temporary files to the new segment."""
        cdef int error
        cdef uint64_t previous_bytes = 0
        for name in os.listdir(self.path):
            if re.fullmatch("segment-[0-9]{20}[.]tmp", name):
                os.unlink(os.path.join(self.path, name))
        durable = journal_durable(self.path)
        headers = journal_segments(self.path)
        if headers:
            self.recovered = end = _settled_end(self.path, headers)
            if log_id is not None and log_id != end["log_id"]:
                raise JournalDamaged(self.path, 0, end["sequence"], "it belongs to another log (log_id)")
            log_id, first_sequence, previous_bytes = end["log_id"], end["sequence"], end["offset"]
            self.journal.chain = end["crc"]
            # Also above an epoch of which only `durable` is left: two leaders never share one.
            self.journal.epoch = max(end["epoch"], durable["epoch"] if durable else 0) + 1
            self.journal.segment = end["segment"] + 1
        elif durable is not None and durable["sequence"]:
            raise JournalDamaged(self.path, 0, durable["sequence"], "all segments are missing")
        else:
            self.journal.epoch = 1
            self.journal.segment = 1
            log_id = log_id or os.urandom(16)
        memcpy(self.journal.log_id, <const char*>log_id, 16)
        self.journal.log_digest = log_digest_of(self.journal.log_id)
        self.journal.block_sequence = self.journal.next_sequence = first_sequence
        self.journal.durable_count = durable["count"] if durable else 0
        self._map_durable()
        with nogil:
            error = journal_begin(&self.journal, previous_bytes)
        if error:
            raise OSError(error, f"a segment cannot be preallocated: {os.strerror(error)}", self.path)

    def _map_durable(self):
        cdef void* mapped
        cdef int fd = os.open(os.path.join(self.path, "durable"), os.O_RDWR | os.O_CREAT, 0o640)
        try:
            os.posix_fallocate(fd, 0, DURABLE_FILE_BYTES)
            mapped = mmap(NULL, DURABLE_FILE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)
            if mapped == MAP_FAILED:
                raise OSError(errno, "mmap", self.path)
            self.journal.durable_map = <uint8_t*>mapped
        finally:
            os.close(fd)

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
        self.journal.stopping = True
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
