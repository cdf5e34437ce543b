# A shard behind its leader: it applies what the leader has published as durable, compares at marks, and can take over.

# Applies at most `most` records. LOG_RECORD: there may be more at once. LOG_END: not before the leader publishes more.
# Else a fault of the reader; or `reason` is set, and the record after the first `done` ones differs.
cdef int follow_some(
    State* s, LogReader* r, const MarkPage* marks, uint64_t most, uint64_t* done, const char** reason
) noexcept nogil:
    cdef uint64_t wanted
    cdef Mark mark
    cdef Hash128 digest
    cdef int code
    log_follow(r)
    code = LOG_RECORD
    while done[0] < most and code == LOG_RECORD:
        wanted = most - done[0]
        if marks != NULL and mark_next(marks, s.sequence, &mark) and mark.sequence - s.sequence < wanted:
            wanted = mark.sequence - s.sequence
        else:
            mark.sequence = 0
        code = replay_group(s, r, wanted, done, reason)
        if reason[0] == NULL and mark.sequence and mark.sequence == s.sequence \
                and mark_next(marks, s.sequence - 1, &mark) and mark.sequence == s.sequence:
            digest = state_digest(s)
            if digest.low != mark.low or digest.high != mark.high:
                reason[0] = b"the state digest is not that of the leader, though every record was the same"
                done[0] -= 1
                return LOG_END
    return code


# The leader has ended, and its lock is held: what is on the disk is read to its end and applied, from where the
# follower stands. The leader had at most one block on its way, so nothing further than that is looked at.
cdef int follow_to_end(State* s, LogReader* r, uint64_t* done, const char** reason) noexcept nogil:
    cdef DurableSlot slot
    cdef int code
    if durable_read(r.disk, &slot):
        r.known_durable = slot.sequence
    r.until_sequence = UINT64_MAX
    r.visible_segment = 0
    r.intent = durable_intent(r.disk)
    code = log_settle(r, r.header.segment)
    r.chunk_bytes = 0
    while code == LOG_RECORD:
        code = replay_group(s, r, UINT64_MAX, done, reason)
    return code


cdef class Follower:
    """See the stub for what its methods promise."""
    cdef readonly Shard shard
    cdef readonly str path
    cdef Disk disk
    cdef LogReader reader
    cdef BoardMap board
    cdef const MarkPage* marks
    cdef ShardPage* figures
    cdef uint64_t segment_bytes
    cdef uint64_t stopping

    def __cinit__(self):
        self.disk = REAL_DISK
        log_init(&self.reader, &self.disk)

    def __init__(self, directory, *, uint64_t segment_bytes=SEGMENT_BYTES_DEFAULT, int board_fd=-1, int workers=0,
                 uint32_t shard=0):
        cdef Survey survey
        cdef int code
        self.path = _os.fspath(directory)
        self.segment_bytes = segment_bytes
        headers = journal_segments(self.path)
        durable = journal_durable(self.path)
        if not headers or durable is None:
            raise JournalDamaged(self.path, 0, 0, "there is no log to follow")
        if board_fd >= 0:
            if not board_map(&self.board, board_fd, workers):
                raise ValueError("board_fd: not a board of so many workers")
            self.marks = board_marks(&self.board, shard)
            self.figures = board_shard(&self.board, shard)
        self.shard = begun_shard(self.path, headers[0]["log_id"], durable["sequence"])
        self.disk = real_disk(self.path)
        code = log_begin(&self.reader, &survey, self.shard.sequence + 1)
        survey_free(&survey)
        if code != LOG_RECORD:
            _raise_log_fault(&self.reader, self.path)

    def follow(self, uint64_t records_max=65536):
        cdef State* s = self._state()
        cdef const char* reason = NULL
        cdef uint64_t done = 0, before = s.sequence
        cdef int code
        with nogil:
            code = follow_some(s, &self.reader, self.marks, records_max, &done, &reason)
        self._say_applied(s.sequence)
        self._judge(code, reason, before + done + 1)
        return done

    cdef void _say_applied(self, uint64_t sequence) noexcept:
        if self.figures != NULL:
            eo_store64(&self.figures.follower_sequence, sequence)

    cdef State* _state(self) except NULL:
        if self.shard is None:
            raise ValueError("the follower has taken over, or is closed")
        return self.shard.state

    cdef int _judge(self, int code, const char* reason, uint64_t sequence) except -1:
        if reason != NULL:
            raise ReplayMismatch(sequence, f"{self.path}: {reason.decode()}")
        if code != LOG_RECORD and code != LOG_END:
            _raise_log_fault(&self.reader, self.path)
        return 0

    @property
    def sequence(self):
        return self._state().sequence

    @property
    def lag(self):
        cdef uint64_t sequence = self._state().sequence
        durable = journal_durable(self.path)
        return 0 if durable is None or durable["sequence"] <= sequence else durable["sequence"] - sequence

    def prepare(self):
        cdef Disk disk = real_disk(self.path)
        cdef int error
        with nogil:
            error = spare_make(&disk, self.segment_bytes, &self.stopping)
        close_disk(&disk)
        if error:
            raise OSError(error, f"a segment cannot be prepared: {_os.strerror(error)}", self.path)

    def promote(self):
        cdef State* s = self._state()
        cdef const char* reason = NULL
        cdef uint64_t done = 0, before = s.sequence
        cdef int code
        cdef JournalWriter writer = JournalWriter.__new__(JournalWriter)
        cdef Engine engine = Engine.__new__(Engine)
        eo_store64(&self.stopping, 1)
        writer._begin(self.path, self.segment_bytes, JOURNAL_STAGED_BYTES_MAX)
        try:
            with nogil:
                code = follow_to_end(s, &self.reader, &done, &reason)
            self._judge(code, reason, before + done + 1)
            writer._take_over(&self.reader)
            writer._start()
        except BaseException:
            writer._release()
            raise
        engine._adopt(writer, self.shard)
        # A leader may end before its first record is durable.
        first_record(engine.shard, engine.journal, IDEMPOTENCY_WINDOW_MS_DEFAULT, IDEMPOTENCY_ENTRIES_DEFAULT)
        self.close()
        return engine

    def close(self):
        eo_store64(&self.stopping, 1)
        self._say_applied(0)
        self.shard = None
        log_free(&self.reader)
        close_disk(&self.disk)
        self.marks = NULL
        self.figures = NULL
        board_unmap(&self.board)

    def __dealloc__(self):
        log_free(&self.reader)
        close_disk(&self.disk)
        board_unmap(&self.board)
