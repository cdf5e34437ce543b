# Engine and follower on a disk and a clock that a test makes up: the same journal, recovery, takeover and state
# machine, turn by turn on one thread.

cdef enum:
    SIMULATED_STAGED_BYTES = 262144

# What one turn of a process works on.
cdef struct Turn:
    Journal* journal
    LogReader* reader
    State* state
    const uint8_t* log_id
    const char* name
    uint64_t number                      # of bytes, records, or the sequence that a snapshot covers
    uint64_t done
    const char* failure
    int code


cdef void turn_open(void* of) noexcept nogil:
    cdef Turn* job = <Turn*>of
    job.code = journal_open(job.journal, job.reader, job.log_id, False, 1)


cdef void turn_begin(void* of) noexcept nogil:
    cdef Turn* job = <Turn*>of
    cdef Survey survey
    job.code = log_begin(job.reader, &survey, job.number)
    survey_free(&survey)


cdef void turn_replay(void* of) noexcept nogil:
    cdef Turn* job = <Turn*>of
    job.code = LOG_RECORD
    while job.code == LOG_RECORD:
        job.code = replay_group(job.state, job.reader, UINT64_MAX, &job.done, &job.failure)


cdef void turn_drain(void* of) noexcept nogil:
    journal_drain((<Turn*>of).journal, (<Turn*>of).number)


cdef void turn_seal(void* of) noexcept nogil:
    journal_seal((<Turn*>of).journal)


cdef void turn_prepare(void* of) noexcept nogil:
    cdef Journal* j = (<Turn*>of).journal
    cdef int fd = -1
    cdef int error
    j.prepare_wanted = False
    error = journal_prepare(j, j.segment + 1, &fd)
    pthread_mutex_lock(&j.lock)
    journal_prepare_end(j, error, fd)
    pthread_mutex_unlock(&j.lock)


cdef void turn_close(void* of) noexcept nogil:
    journal_close_files((<Turn*>of).journal)


cdef void turn_follow(void* of) noexcept nogil:
    cdef Turn* job = <Turn*>of
    job.code = follow_some(job.state, job.reader, NULL, job.number, &job.done, &job.failure)


cdef void turn_spare(void* of) noexcept nogil:
    cdef Turn* job = <Turn*>of
    job.code = spare_make(job.reader.disk, job.number, NULL)


cdef void turn_save(void* of) noexcept nogil:
    cdef Turn* job = <Turn*>of
    job.failure = save_state(job.state, job.reader.disk, job.name, 0)


cdef void turn_drop(void* of) noexcept nogil:
    cdef Turn* job = <Turn*>of
    job.code = log_drop(job.reader, job.number, &job.done)


cdef void turn_take_over(void* of) noexcept nogil:
    cdef Turn* job = <Turn*>of
    job.code = follow_to_end(job.state, job.reader, &job.done, &job.failure)
    if job.code == LOG_END and job.failure == NULL:
        job.code = journal_go_on(job.journal, job.reader)


cdef int judge(LogReader* r, const Turn* job) except -1:
    if job.failure != NULL:
        raise ReplayMismatch(job.state.sequence + 1, job.failure.decode())
    if job.code != LOG_RECORD and job.code != LOG_END:
        _raise_log_fault(r, "")
    return 0


cdef Shard simulated_shard(disk, bytes log_id, uint64_t last):
    """As of the newest snapshot."""
    return begun_shard("", log_id, last, 1, names=lambda _: list(disk.names),
                       load=lambda name: loaded_snapshot(name, disk.content(name), None))


# Closing needs what it holds.
@cython.no_gc_clear
cdef class SimulatedEngine:
    """A shard with its log, as Engine: opened, then driven turn by turn. A method raises ProcessDied, or what the disk
    raised, if that ended the process; then nothing but `durable` can be asked any more."""
    cdef SimulatedProcess process
    cdef Journal journal
    cdef LogReader end_of_log
    cdef Shard shard
    cdef LoggedClock clock
    cdef size_t taken
    cdef readonly int64_t now_ms

    def __init__(self, disk, bytes log_id not None, *, uint64_t segment_bytes, int64_t idempotency_window_ms,
                 uint32_t idempotency_entries_max):
        cdef Turn job
        cdef uint64_t last
        self._begin(SimulatedProcess(disk), segment_bytes)
        self._turn(&job, turn_open, log_id)
        try:
            judge(&self.end_of_log, &job)
            last = self.journal.next_sequence - 1
            self.shard = simulated_shard(disk, log_id, last)
            self._replay(last)
        except BaseException:
            self.process.ended = True
            raise
        first_record(self.shard, &self.journal, idempotency_window_ms, idempotency_entries_max)

    @property
    def passed_over(self):
        return self.shard.passed_over

    cdef int _begin(self, SimulatedProcess process, uint64_t segment_bytes) except -1:
        cdef int error
        self.process = process
        log_init(&self.end_of_log, &self.process.own.disk)
        error = journal_init(&self.journal, &self.process.own.disk, segment_bytes, SIMULATED_STAGED_BYTES)
        if error:
            raise OSError(error, _os.strerror(error))
        return 0

    cdef int _turn(self, Turn* job, SimulatedTurn* what, bytes log_id=None) except -1:
        memset(job, 0, sizeof(Turn))
        job.journal = &self.journal
        job.reader = &self.end_of_log
        job.number = self.taken
        if log_id is not None:
            job.log_id = log_id
        return self.process.run(what, job)

    cdef int _replay(self, uint64_t last) except -1:
        cdef LogReader reader
        cdef Turn job
        log_init(&reader, &self.process.own.disk)
        reader.until_sequence = last
        memset(&job, 0, sizeof(job))
        job.reader = &reader
        job.state = self.shard.state
        job.number = self.shard.sequence + 1
        try:
            if self.shard.sequence < last:
                self.process.run(turn_begin, &job)
                judge(&reader, &job)
                self.process.run(turn_replay, &job)
                judge(&reader, &job)
            if self.shard.sequence != last:
                raise JournalDamaged("", 0, self.shard.sequence + 1, "the log ends early")
        finally:
            log_free(&reader)
        return 0

    def __dealloc__(self):
        if self.journal.disk != NULL:
            self.process.ended = True
            log_free(&self.end_of_log)
            journal_free(&self.journal)

    def execute(self, int method, bytes request not None, int64_t real_ns, int64_t boot_ns):
        """As Engine.execute, at the time of these clocks."""
        cdef State* s = self.shard.state
        cdef int verdict
        self.now_ms = clock_read_ms(&self.clock, real_ns, boot_ns)
        verdict = execute_logged(s, method, request, len(request), NULL, self.now_ms, &self.journal)
        return s.fault.code if verdict == FAULT else 0, _bytes(&s.response), s.sequence

    def tick(self, int64_t real_ns, int64_t boot_ns):
        self.now_ms = clock_read_ms(&self.clock, real_ns, boot_ns)
        tick_if_due(self.shard.state, &self.journal, self.now_ms)

    def take(self):
        """The sync thread wakes, and takes what is staged."""
        pthread_mutex_lock(&self.journal.lock)
        if self.taken == 0 and self.journal.staged_bytes:
            self.taken = journal_take(&self.journal)
        pthread_mutex_unlock(&self.journal.lock)

    def commit(self):
        """It commits what it took, or else takes what is staged now."""
        cdef Turn job
        self.take()
        if self.taken:
            self._turn(&job, turn_drain)
            self.taken = 0

    def seal(self):
        """It had nothing to do for a while."""
        cdef Turn job
        if self.taken == 0 and self.journal.staged_bytes == 0 and not self.journal.sealed:
            self.journal.plan_offset += BLOCK_UNIT_BYTES
            self._turn(&job, turn_seal)

    def prepare(self):
        """The preparing thread wakes."""
        cdef Turn job
        if not self.journal.prepared and (self.journal.prepare_wanted or not self.journal.prepare_failed):
            self._turn(&job, turn_prepare)

    def close(self):
        """All is committed and sealed, and the process ends as it should."""
        cdef Turn job
        self.commit()
        self.commit()
        self.seal()
        self._turn(&job, turn_close)
        self.process.ended = True

    def end(self):
        """The process is killed."""
        self.process.ended = True

    @property
    def durable(self):
        return journal_durable_sequence(&self.journal)

    @property
    def epoch(self):
        return self.journal.epoch

    @property
    def sequence(self):
        return self.shard.sequence

    def state_digest(self):
        return self.shard.state_digest()

    def check(self):
        return self.shard.check()


# Closing needs what it holds.
@cython.no_gc_clear
cdef class SimulatedFollower:
    """A follower, as Follower, with what the process around it does: snapshots, and dropping what they cover."""
    cdef SimulatedProcess process
    cdef LogReader reader
    cdef Shard shard
    cdef uint64_t segment_bytes

    def __init__(self, disk, bytes log_id not None, *, uint64_t segment_bytes):
        cdef Turn job
        cdef DurableSlot durable
        self.segment_bytes = segment_bytes
        self.process = SimulatedProcess(disk)
        log_init(&self.reader, &self.process.own.disk)
        durable_slot_read(disk.content("durable"), &durable)
        self.shard = simulated_shard(disk, log_id, durable.sequence)
        self._turn(&job, turn_begin, self.shard.sequence + 1)
        judge(&self.reader, &job)

    @property
    def passed_over(self):
        return self.shard.passed_over

    cdef int _turn(self, Turn* job, SimulatedTurn* what, uint64_t number) except -1:
        memset(job, 0, sizeof(Turn))
        job.reader = &self.reader
        job.state = self.shard.state
        job.number = number
        return self.process.run(what, job)

    def __dealloc__(self):
        if self.process is not None:
            self.process.ended = True
            log_free(&self.reader)

    def follow(self, uint64_t records_max):
        """Applies what the leader has published, at most so many records, and returns how many."""
        cdef Turn job
        self._turn(&job, turn_follow, records_max)
        judge(&self.reader, &job)
        return job.done

    def prepare(self):
        """The segment with which a takeover would begin."""
        cdef Turn job
        self._turn(&job, turn_spare, self.segment_bytes)
        if job.code:
            raise OSError(job.code, "a segment cannot be prepared")

    def snapshot(self):
        """Of what was applied."""
        cdef Turn job
        cdef bytes name = b"snapshot-%020d.snap" % self.shard.sequence
        memset(&job, 0, sizeof(job))
        job.reader = &self.reader
        job.state = self.shard.state
        job.name = name
        self.process.run(turn_save, &job)
        if job.failure != NULL:
            raise OSError(errno, job.failure.decode())

    def drop_segments(self):
        """Two snapshots are kept, and the log from the older one on. Returns how many segments went."""
        cdef Turn job
        cdef Simulated* own = &self.process.own
        covered = sorted(name for name in self.process.disk.names if SNAPSHOT_NAME.fullmatch(name))
        if len(covered) < 2:
            return 0
        kept = covered.pop(), covered.pop()
        self._turn(&job, turn_drop, int(SNAPSHOT_NAME.fullmatch(kept[1])[1]))
        judge(&self.reader, &job)
        for name in covered:
            simulated_remove(&own.disk, name.encode())
        if self.process.failure is not None:
            raise self.process.failure
        return job.done

    def promote(self, int64_t window_ms, uint32_t entries_max):
        """Takes over from a leader that has ended: an engine in the same process. Raises as opening does."""
        cdef Turn job
        cdef SimulatedEngine engine = SimulatedEngine.__new__(SimulatedEngine)
        engine._begin(self.process, self.segment_bytes)
        memset(&job, 0, sizeof(job))
        job.journal = &engine.journal
        job.reader = &self.reader
        job.state = self.shard.state
        engine.journal.takes_over = True
        self.process.run(turn_take_over, &job)
        judge(&self.reader, &job)
        engine.shard = self.shard
        first_record(engine.shard, &engine.journal, window_ms, entries_max)
        log_free(&self.reader)
        self.process = None
        return engine

    def end(self):
        """The process is killed."""
        self.process.ended = True

    @property
    def sequence(self):
        return self.shard.sequence

    def state_digest(self):
        return self.shard.state_digest()

    def check(self):
        return self.shard.check()
