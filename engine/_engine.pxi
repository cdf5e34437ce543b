# A shard with its log: recovered at construction, then one thread executes and the journal's own thread syncs.

import re as _re

SNAPSHOT_NAME = _re.compile("snapshot-([0-9]{20})[.]snap")


def _boot():
    """A number, not 0, of the time since this machine was started."""
    with open("/proc/sys/kernel/random/boot_id") as file:
        return int(file.read().replace("-", "")[:16], 16) | 1


cdef class Engine:
    """One shard, open for work. See the stub for what its methods promise."""
    cdef Shard shard
    cdef JournalWriter writer
    cdef Journal* journal
    cdef LoggedClock clock
    cdef Buffer batch
    cdef uint64_t stopping
    cdef object ahead

    def __init__(self, directory, *, uint64_t segment_bytes=SEGMENT_BYTES_DEFAULT,
                 int64_t idempotency_window_ms=IDEMPOTENCY_WINDOW_MS_DEFAULT,
                 uint32_t idempotency_entries_max=IDEMPOTENCY_ENTRIES_DEFAULT):
        path = _os.fspath(directory)
        if not 0 < idempotency_entries_max <= ORDERS_MAX:
            raise ValueError(f"idempotency_entries_max: must be 1 to {ORDERS_MAX:,}")
        writer = JournalWriter(path, segment_bytes=segment_bytes)
        try:
            last = writer.next_sequence - 1
            self._adopt(writer, begun_shard(path, writer.log_id, last))
            recover(self.shard, path, last)
            first_record(self.shard, self.journal, idempotency_window_ms, idempotency_entries_max)
        except BaseException:
            writer.close()
            self.close()
            raise

    cdef int _adopt(self, JournalWriter writer, Shard shard) except -1:
        self.writer = writer
        self.journal = &writer.journal
        self.shard = shard
        clock_keep(&self.clock, <KeptClock*>(self.journal.durable_map + DURABLE_CLOCK_AT), _boot(),
                   <int64_t>journal_now_ns(CLOCK_BOOTTIME))
        self.ahead = threading.Thread(target=self._stay_ahead, name="everopen-memory", daemon=True)
        self.ahead.start()
        return 0

    def __dealloc__(self):
        buffer_free(&self.batch)

    def _stay_ahead(self):
        cdef State* s = self.shard.state
        # Clearing pages is work for the time that nobody else needs.
        give_way(HELPER_NICE)
        with nogil:
            stay_ahead(s, &self.stopping)

    def execute(self, int method, bytes request not None):
        cdef const uint8_t* data = request
        cdef size_t size = len(request)
        cdef State* s = self.shard.state
        cdef int verdict
        with nogil:
            verdict = execute_logged(s, method, data, size, NULL, clock_now_ms(&self.clock), self.journal)
        return s.fault.code if verdict == FAULT else 0, _bytes(&s.response), s.sequence

    def execute_batch(self, int method, bytes request not None):
        cdef const uint8_t* data = request
        cdef size_t size = len(request)
        cdef State* s = self.shard.state
        cdef int code
        self.batch.size = 0
        with nogil:
            code = execute_batch(s, method, data, size, clock_now_ms(&self.clock), &self.batch, self.journal)
        return code, _bytes(&self.batch), s.sequence

    def expect(self, uint64_t orders):
        self.shard.expect(orders)

    def kick(self):
        journal_kick(self.journal)

    def tick(self):
        cdef int64_t wait_ms
        with nogil:
            wait_ms = tick_if_due(self.shard.state, self.journal, clock_now_ms(&self.clock))
        return wait_ms

    def raise_level(self):
        cdef State* s = self.shard.state
        if s.level >= LEVEL_NOW:
            return 0
        if not raise_level(s, self.journal, clock_now_ms(&self.clock)):
            raise JournalFull("the log has no room for the Activate; try again")
        journal_kick(self.journal)
        return s.sequence

    @property
    def level(self):
        return self.shard.state.level

    @property
    def passed_over(self):
        return self.shard.passed_over

    @property
    def durable(self):
        return journal_durable_sequence(self.journal)

    @property
    def sequence(self):
        return self.shard.state.sequence

    @property
    def eventfd(self):
        return self.writer.eventfd

    def wait_durable(self, uint64_t sequence, double timeout_s):
        return self.writer.wait_durable(sequence, timeout_s)

    @property
    def log_id(self):
        return self.writer.log_id

    @property
    def epoch(self):
        return self.writer.epoch

    def state_digest(self):
        return self.shard.state_digest()

    def business_digest(self):
        return self.shard.business_digest()

    def counts(self):
        return self.shard.counts()

    @property
    def clock_alarms(self):
        return self.clock.alarms

    def stats(self):
        cdef State* s = self.shard.state
        journal = {f"journal_{name}": value for name, value in self.writer.stats().items()}
        return {
            "outcomes": {name: s.outcomes[number] for number, name in OUTCOME_NAMES.items()},
            "duplicates": s.duplicates, "reads": s.reads,
            "faults": {code: s.faults[code] for code in range(FAULT_CODES) if s.faults[code]},
            "clock_alarms": self.clock.alarms, **journal,
        }

    def close(self):
        eo_store64(&self.stopping, 1)
        if self.ahead is not None:
            self.ahead.join()
        if self.writer is not None:
            self.writer.close()


# Logs a tick if one is due. Milliseconds, 1 to 1,000, until it is useful to ask again.
cdef int64_t tick_if_due(State* s, Journal* journal, int64_t now_ms) noexcept nogil:
    cdef int64_t due_ms = next_due_ms(s), wait_ms = 1000
    if due_ms >= 0 and (due_ms <= now_ms or due_ms <= s.time_ms):
        execute_logged(s, TICK, s.log_id, 0, NULL, now_ms, journal)
        journal_kick(journal)
        due_ms = next_due_ms(s)
    if due_ms >= 0:
        wait_ms = due_ms - now_ms
    return 1 if wait_ms < 1 else 1000 if wait_ms > 1000 else wait_ms


def begun_shard(str path, bytes log_id, uint64_t last, first=None, names=_os.listdir, load=Shard.load):
    """The shard as of the newest snapshot; empty where there is none. `first`, `last`: what the log has.

    Of a damaged snapshot, the one before it is taken, if the log goes on from there; `passed_over` says so. Only then
    `first` matters; None: it is looked up.
    """
    found = sorted(((int(match[1]), name) for name in names(path) if (match := SNAPSHOT_NAME.fullmatch(name))),
                   reverse=True)
    if found and found[0][0] > last:
        raise JournalDamaged(_os.path.join(path, found[0][1]), 0, last + 1,
                             "the log ends before the snapshot, which only ever covers what is durable")
    damages = {}
    for sequence, name in found:
        if damages:
            if first is None:
                first = journal_segments(path)[0]["first_sequence"]
            if sequence + 1 < first:
                break
        try:
            shard = _shard_of(_os.path.join(path, name), sequence, log_id, load)
        except SnapshotDamaged as error:
            damages[name] = error
        else:
            shard.passed_over = {passed: str(error) for passed, error in damages.items()}
            return shard
    if damages:
        raise next(iter(damages.values()))
    return Shard.empty(log_id)


cdef Shard _shard_of(str path, uint64_t sequence, bytes log_id, load):
    cdef Shard shard = load(path)
    if shard.sequence != sequence:
        raise SnapshotDamaged(path, "header", 0,
                              f"it holds the state at sequence {shard.sequence}: was it renamed?")
    if shard.log_id != log_id:
        raise JournalDamaged(path, 0, sequence, "the snapshot belongs to another log")
    return shard


cdef int first_record(Shard shard, Journal* journal, int64_t window_ms, uint32_t entries_max) except -1:
    """Logs the Activate with which every log begins, if it has no record yet."""
    cdef bytes record
    if shard.state.sequence == 0:
        shard._activate(window_ms, entries_max)
        record = shard.record
        INVARIANT(journal_append(journal, record, len(record)) == JOURNAL_OK, "a new log has room")
        journal_kick(journal)
    return 0


def recover(Shard shard, str path, uint64_t last):
    """Replays the log up to `last`, its end."""
    if shard.sequence < last:
        with JournalReader(path, shard.sequence + 1, last) as reader:
            shard.replay_from(reader)
    if shard.sequence != last:
        raise JournalDamaged(path, 0, shard.sequence + 1, "the log ends early")
