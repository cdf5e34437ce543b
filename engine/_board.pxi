# The board: one page of shared memory for each worker, which only that worker writes and everybody reads. Each field is
# a word stored and loaded whole, so a reader may see fields of two moments but never half a field. Behind the workers'
# slots lie those of their followers, behind these the pages of _marks, those of _board_figures by shard, and by worker
# the histograms of its stages and its ring of spans.

import fcntl as _fcntl
import os as _files

cdef extern from "<sys/types.h>" nogil:
    ctypedef struct file_status "struct stat":
        off_t st_size

cdef extern from "<sys/stat.h>" nogil:
    int file_status_of "fstat"(int fd, file_status* into) noexcept

cdef enum:
    BOARD_FORMAT_VERSION = 1
    COUNTERS_ROOM = 128

cdef enum BoardState:
    BOARD_STARTING = 1
    BOARD_SERVING = 2
    BOARD_DRAINING = 3

# Where each counter stands in its slot, and by its name in small letters what it is called everywhere else. New ones go
# to the end. Gauges, which also fall, are said to be such.
cpdef enum FrontCounter:
    CONNECTIONS_ACCEPTED = 1
    CONNECTIONS_CLOSED
    CONNECTIONS_REFUSED_PER_PEER
    CONNECTIONS_REFUSED_TOTAL
    ACCEPTS_LEFT_TO_OTHERS
    CONNECTIONS_SHED
    CONNECTIONS_AGED_OUT
    STREAMS_OPENED
    STREAMS_RESET_BY_PEER
    STREAMS_REFUSED
    CALLS_NATIVE
    CALLS_RELAYED
    CALLS_ANSWERED
    CALLS_FAILED                      # answered with another code than OK
    CALLS_EXPIRED                     # their deadline passed before they were executed
    CALLS_REFUSED_OVERLOAD
    CALLS_REFUSED_UNAVAILABLE
    COMMANDS_EXECUTED
    BATCHES_EXECUTED
    JOBS_SENT
    JOBS_RECEIVED
    JOBS_LOST                         # their link died
    REQUESTS_COMPRESSED
    REQUESTS_TOO_LARGE
    HEADERS_TOO_LARGE
    PINGS_EXCESS
    SETTINGS_EXCESS
    RESETS_EXCESS
    FRAMES_EXCESS
    CONTINUATION_EXCESS
    SLOW_SENDERS_RESET
    SILENT_PEERS_CLOSED
    HANDSHAKES_TIMED_OUT
    RELAY_BYTES_IN
    RELAY_BYTES_OUT
    RELAY_CONNECTS
    BYTES_RECEIVED
    BYTES_SENT
    TURNS
    READS_PAUSED
    CONCURRENCY_LOWERED
    MAX_CONCURRENT_STREAMS            # gauge
    BYTES_IN_FLIGHT                   # gauge
    CALLS_IN_FLIGHT                   # gauge
    HTTP2_ERRORS
    CONTENT_TYPE_REFUSED
    METHODS_UNKNOWN
    HANDOVERS
    ARCHIVE_LOOKUPS                   # calls that waited for the archive
    ARCHIVE_HITS                      # it had the order
    ARCHIVE_FAILED                    # it could not say
    ORDERS_RESTORED
    EVICTIONS                         # commands; each takes some orders out of memory
    SPANS_WRITTEN
    SPANS_DROPPED                     # nobody took those before in time
    LINK_BYTES_WAITING                # gauge: in the rings to other workers, and not read yet
    LINK_JOBS_AWAY                    # gauge: asked of other workers, and not answered yet
    CALLS_UNAUTHENTICATED
    CALLS_SCOPE_DENIED
    CALLS_SHOP_DENIED                 # items of batches each
    CALLS_QUOTA_REFUSED
    CREDENTIALS_ASKED                 # questions to Python
    CREDENTIALS_KNOWN                 # gauge: what the table holds
    QUOTA_TABLE_FULL                  # callers whose quota counts for one worker alone
    TLS_HANDSHAKES                    # that succeeded
    TLS_HANDSHAKES_FAILED
    TLS_RESUMED                       # of those that succeeded
    TLS_RELOADS                       # of certificates, while serving
    TLS_RELOADS_FAILED                # what was there before goes on
    ARCHIVE_WAITS                     # turns in which orders waited for the archive to catch up
    CALLS_IDENTITY_REFUSED            # it could not be told who makes them: too many waited for that
    CREDENTIALS_EXCESS
    COUNTERS_END

INVARIANT(<int>COUNTERS_END <= <int>COUNTERS_ROOM, b"a slot has room for every counter")
COUNTER_NAMES = tuple(name.lower() for name in globals()["FrontCounter"].__members__ if name != "COUNTERS_END")

# The last word to be written is format_version: a slot without it was never begun.
cdef struct BoardSlot:
    uint64_t format_version
    uint64_t worker
    uint64_t pid
    uint64_t state                    # BoardState
    uint64_t heartbeat_ns             # CLOCK_MONOTONIC
    uint64_t connections
    uint64_t busy_ppm                 # share of the last intervals that was not spent waiting in epoll
    uint64_t commands_per_s
    uint64_t[COUNTERS_ROOM] counters  # by FrontCounter

cdef struct BoardMap:
    uint8_t* pages
    uint32_t workers
    bint has_figures                  # False: an upgrade goes on with the board of a program that had none


# A shared mapping of a file of at least `size` bytes, whose end cannot be cut off under the mapping if it was made by
# memory_create. NULL: the file is too small or cannot be mapped.
cdef void* memory_map(int fd, size_t size) noexcept nogil:
    cdef file_status status
    cdef void* at
    if file_status_of(fd, &status) != 0 or status.st_size < <off_t>size:
        return NULL
    at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)
    return at if at != MAP_FAILED else NULL


cdef inline size_t board_slots_bytes(uint32_t workers) noexcept nogil:
    return <size_t>2 * workers * BOARD_SLOT_BYTES


cdef inline size_t board_marks_end(uint32_t workers) noexcept nogil:
    return board_slots_bytes(workers) + <size_t>SHARDS_MAX * MARK_PAGE_BYTES


cdef inline size_t board_stages_at(uint32_t workers) noexcept nogil:
    return board_marks_end(workers) + <size_t>SHARDS_MAX * SHARD_PAGE_BYTES


cdef inline size_t board_spans_at(uint32_t workers) noexcept nogil:
    return board_stages_at(workers) + <size_t>workers * STAGES_BYTES


cdef inline size_t board_bytes(uint32_t workers) noexcept nogil:
    return board_spans_at(workers) + <size_t>workers * sizeof(SpanRing)


# 1: the board is mapped; 0: there is no board of so many workers behind the descriptor, which stays the caller's.
cdef int board_map(BoardMap* board, int fd, int workers) noexcept nogil:
    cdef file_status status
    memset(board, 0, sizeof(BoardMap))
    if not 0 < workers <= WORKERS_MAX:
        return 0
    board.workers = <uint32_t>workers
    board.pages = <uint8_t*>memory_map(fd, board_bytes(board.workers))
    board.has_figures = board.pages != NULL
    if not board.has_figures and file_status_of(fd, &status) == 0 \
            and status.st_size == <off_t>board_marks_end(board.workers):
        board.pages = <uint8_t*>memory_map(fd, board_marks_end(board.workers))
    return board.pages != NULL


cdef void board_unmap(BoardMap* board) noexcept nogil:
    if board.pages != NULL:
        munmap(board.pages, board_bytes(board.workers) if board.has_figures else board_marks_end(board.workers))
    memset(board, 0, sizeof(BoardMap))


# Of a worker; `board.workers` further, of its follower.
cdef inline BoardSlot* board_slot(const BoardMap* board, uint32_t number) noexcept nogil:
    INVARIANT(number < 2 * board.workers, b"a worker has a slot, and so has its follower")
    return <BoardSlot*>(board.pages + <size_t>number * BOARD_SLOT_BYTES)


# NULL: the board has no room for it; likewise of the next two.
cdef inline ShardPage* board_shard(const BoardMap* board, uint32_t shard) noexcept nogil:
    INVARIANT(shard < <uint32_t>SHARDS_MAX, b"a shard has a page of figures")
    if not board.has_figures:
        return NULL
    return <ShardPage*>(board.pages + board_marks_end(board.workers) + <size_t>shard * SHARD_PAGE_BYTES)


cdef inline StagePage* board_stages(const BoardMap* board, uint32_t worker) noexcept nogil:
    INVARIANT(worker < board.workers, b"a worker has histograms")
    if not board.has_figures:
        return NULL
    return <StagePage*>(board.pages + board_stages_at(board.workers) + <size_t>worker * STAGES_BYTES)


cdef inline SpanRing* board_spans(const BoardMap* board, uint32_t worker) noexcept nogil:
    INVARIANT(worker < board.workers, b"a worker has a ring of spans")
    if not board.has_figures:
        return NULL
    return <SpanRing*>(board.pages + board_spans_at(board.workers) + <size_t>worker * sizeof(SpanRing))


# Those of a new process begin at 0.
cdef void stages_clear(StagePage* page) noexcept nogil:
    cdef uint32_t i
    if page != NULL:
        for i in range(<uint32_t>(sizeof(StagePage) // sizeof(uint64_t))):
            eo_store64(&(<uint64_t*>page)[i], 0)


# Takes a slot over, also from a worker that died: its load and its gauges are gone, and counters begin at 0 as those of
# every new process do.
cdef void board_begin(BoardSlot* slot, uint32_t worker, uint64_t pid, uint64_t now_ns) noexcept nogil:
    cdef int i
    eo_store64(&slot.format_version, 0)
    for i in range(COUNTERS_ROOM):
        eo_store64(&slot.counters[i], 0)
    eo_store64(&slot.worker, worker)
    eo_store64(&slot.pid, pid)
    eo_store64(&slot.state, BOARD_STARTING)
    eo_store64(&slot.heartbeat_ns, now_ns)
    eo_store64(&slot.connections, 0)
    eo_store64(&slot.busy_ppm, 0)
    eo_store64(&slot.commands_per_s, 0)
    eo_store64(&slot.format_version, BOARD_FORMAT_VERSION)


# Only the owner of the slot stores, so that adding needs no locked instruction.
cdef inline void board_add(BoardSlot* slot, FrontCounter counter, uint64_t more) noexcept nogil:
    eo_store64(&slot.counters[<uint32_t>counter], slot.counters[<uint32_t>counter] + more)


cdef inline void board_set(BoardSlot* slot, FrontCounter gauge, uint64_t value) noexcept nogil:
    eo_store64(&slot.counters[<uint32_t>gauge], value)


cdef inline uint64_t board_count(const BoardSlot* slot, FrontCounter counter) noexcept nogil:
    return eo_load64(&slot.counters[<uint32_t>counter])


def memory_create(str name not None, size_t size):
    """Shared memory of `size` zero bytes behind a new descriptor; its size cannot change any more."""
    fd = _files.memfd_create(name, _files.MFD_CLOEXEC | _files.MFD_ALLOW_SEALING)
    try:
        _files.ftruncate(fd, size)
        _fcntl.fcntl(fd, _fcntl.F_ADD_SEALS, _fcntl.F_SEAL_SHRINK | _fcntl.F_SEAL_GROW | _fcntl.F_SEAL_SEAL)
    except BaseException:
        _files.close(fd)
        raise
    return fd


def board_create(int workers):
    """The descriptor of a new board: slots, histograms and spans by worker; marks and figures by shard."""
    if not 0 < workers <= WORKERS_MAX:
        raise ValueError(f"a board has 1 to {WORKERS_MAX} workers, not {workers}")
    return memory_create("everopen-board", board_bytes(workers) + quota_bytes(workers))


cdef class Board:
    """The board as a reader sees it; it keeps its own mapping, so the descriptor may be closed."""

    cdef BoardMap board

    def __cinit__(self, int fd, int workers):
        if not board_map(&self.board, fd, workers):
            raise ValueError(f"descriptor {fd} is not a board of {workers} workers")

    def __dealloc__(self):
        board_unmap(&self.board)

    def slots(self):
        """Each slot that a worker of this format has begun, by worker: its fields and its counters by name."""
        return self._slots(0)

    def follower_slots(self):
        """The same of the followers; `worker` is whose follower it is."""
        return self._slots(self.board.workers)

    def histograms(self):
        """By worker and stage the counts of its buckets, of which the last has no bound, and the sum in nanoseconds."""
        cdef uint32_t worker, stage
        cdef const StagePage* page
        found = {}
        for worker in range(self.board.workers if self.board.has_figures else 0):
            page = board_stages(&self.board, worker)
            if eo_load64(&board_slot(&self.board, worker).format_version) == <uint64_t>BOARD_FORMAT_VERSION:
                for stage in range(STAGES):
                    found[worker, STAGE_NAMES[stage]] = histogram_as_tuple(
                        page.stages[stage].counts, HISTOGRAM_COUNTS, &page.stages[stage].sum)
        return found

    cdef list _led(self):
        cdef int shard
        return [
            shard for shard in range(SHARDS_MAX if self.board.has_figures else 0)
            if eo_load64(&board_shard(&self.board, shard).format_version) == <uint64_t>FIGURES_FORMAT_VERSION
        ]

    def shards(self):
        """The figures by name of each shard that somebody has led, by its number."""
        cdef uint32_t shard
        return {shard: figures_as_dict(board_shard(&self.board, shard)) for shard in self._led()}

    def commit_sizes(self):
        """By shard, and "records" or "bytes", as histograms() has it; the bounds are SIZE_BOUNDS."""
        cdef const ShardPage* page
        found = {}
        for shard in self._led():
            page = board_shard(&self.board, shard)
            found[shard, "records"] = histogram_as_tuple(
                page.commit_records.counts, SIZE_COUNTS, &page.commit_records.sum)
            found[shard, "bytes"] = histogram_as_tuple(page.commit_bytes.counts, SIZE_COUNTS, &page.commit_bytes.sum)
        return found

    def take_spans(self, size_t limit):
        """At most so many spans, of each worker in the order of their ends. One reader only, of all processes."""
        cdef uint32_t worker
        cdef SpanRecord span
        taken = []
        for worker in range(self.board.workers if self.board.has_figures else 0):
            while len(taken) < limit and span_take(board_spans(&self.board, worker), &span):
                taken.append(span_as_dict(&span))
        return taken

    cdef list _slots(self, uint32_t first):
        cdef uint32_t number
        return [
            _slot_as_dict(board_slot(&self.board, number)) for number in range(first, first + self.board.workers)
            if eo_load64(&board_slot(&self.board, number).format_version) == <uint64_t>BOARD_FORMAT_VERSION
        ]


cdef dict _slot_as_dict(const BoardSlot* slot):
    return {
        "format_version": eo_load64(&slot.format_version), "worker": eo_load64(&slot.worker),
        "pid": eo_load64(&slot.pid), "state": eo_load64(&slot.state),
        "heartbeat_ns": eo_load64(&slot.heartbeat_ns), "connections": eo_load64(&slot.connections),
        "busy_ppm": eo_load64(&slot.busy_ppm), "commands_per_s": eo_load64(&slot.commands_per_s),
    } | {name: eo_load64(&slot.counters[number]) for number, name in enumerate(COUNTER_NAMES, 1)}
