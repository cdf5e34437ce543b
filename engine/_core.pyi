"""The native core, as Python sees it. See docs/state_machine.md for what commands do."""

from collections.abc import Iterator, Sequence
from typing import Any, Final, Self

# Methods; the commands among them (1 to 16) are also the kinds of log records.
PLACE_ORDER: Final[int]
PAY_ORDER: Final[int]
CANCEL_ORDER: Final[int]
SHIP_ORDER: Final[int]
DELIVER_ORDER: Final[int]
RETURN_ORDER: Final[int]
SETTLE_REFUND: Final[int]
PUT_SHOP: Final[int]
PUT_LOCATION: Final[int]
PUT_SKU: Final[int]
ADJUST_STOCK: Final[int]
TRANSFER_STOCK: Final[int]
TICK: Final[int]
ACTIVATE: Final[int]
EVICT: Final[int]
RESTORE: Final[int]
GET_ORDER: Final[int]
GET_STOCK: Final[int]

# Every bound of engine/_limits.pxi by name.
LIMITS: Final[dict[str, int]]

# The counters of a slot of the board, in their order.
COUNTER_NAMES: Final[tuple[str, ...]]

# The figures of a shard's page, in their order.
SHARD_FIGURE_NAMES: Final[tuple[str, ...]]

# The stages of a call in their order, and last the whole of it; what ends a bucket, and still is in it.
STAGE_NAMES: Final[tuple[str, ...]]
HISTOGRAM_BOUNDS_NS: Final[tuple[int, ...]]
SIZE_BOUNDS: Final[tuple[int, ...]]

# What an outcome is called, by its number.
OUTCOME_NAMES: Final[dict[int, str]]

# By the number of a method in a span, less one: its full name.
FRONT_METHOD_NAMES: Final[tuple[str, ...]]

def memory_create(name: str, size: int) -> int:
    """Shared memory of `size` zero bytes behind a new descriptor; its size cannot change any more."""

def board_create(workers: int) -> int:
    """The descriptor of a new board: slots, histograms and spans by worker; marks and figures by shard."""

class Board:
    """The board as a reader sees it; it keeps its own mapping, so the descriptor may be closed."""

    def __init__(self, fd: int, workers: int) -> None: ...
    def slots(self) -> list[dict[str, int]]:
        """Each slot that a worker of this format has begun, by worker: its fields and its counters by name."""
    def follower_slots(self) -> list[dict[str, int]]:
        """The same of the followers; `worker` is whose follower it is."""
    def histograms(self) -> dict[tuple[int, str], tuple[list[int], int]]:
        """By worker and stage the counts of its buckets, of which the last has no bound, and the sum in nanoseconds."""
    def shards(self) -> dict[int, dict[str, int]]:
        """The figures by name of each shard that somebody has led, by its number."""
    def commit_sizes(self) -> dict[tuple[int, str], tuple[list[int], int]]:
        """By shard, and "records" or "bytes", as histograms() has it; the bounds are SIZE_BOUNDS."""
    def take_spans(self, limit: int) -> list[dict[str, Any]]:
        """At most so many spans, of each worker in the order of their ends. One reader only, of all processes."""

def board_mark_next(board: Board, shard: int, after_sequence: int) -> tuple[int, str] | None:
    """The mark of a shard with the least sequence beyond `after_sequence`, as sequence and state digest; or None."""

def ring_create(capacity: int = ...) -> int:
    """The descriptor of a new ring of `capacity` bytes, a power of two of 4,096 to RING_BYTES."""

def begun_shard(path: str, log_id: bytes, last: int, first: int | None = ...) -> Shard:
    """The shard as of the newest snapshot that is whole and goes with a log of the sequences `first` to `last`."""

def crc32c(data: bytes, seed: int = 0) -> int: ...
def partition_of(shop_id: str) -> int: ...

class SpanEncoder:
    """Makes the requests of OTLP of what is in the rings of a board.

    resource: attributes of all spans. methods: full names by number, from 1 on. outcomes: names by number. ValueError:
    one of these is too long, or has a number that no record can have.
    """

    def __init__(self, resource: dict[str, str], methods: Sequence[str], outcomes: dict[int, str]) -> None: ...
    def encode_spans(self, board: Board, limit: int) -> tuple[bytes, int, int]:
        """At most so many calls, as Board.take_spans(): the request, how many they are, and how many spans."""

class Shard:
    """The state machine without log or clock: for tests, replay, audit and snapshots."""

    def __init__(
        self,
        log_id: bytes = ...,
        idempotency_window_ms: int = ...,
        idempotency_entries_max: int = ...,
        level: int = ...,
    ) -> None:
        """log_id: 16 bytes. Begins with the Activate record (sequence 1, time 0), at the newest level."""
    @staticmethod
    def empty(log_id: bytes) -> Shard:
        """Without the Activate record, at sequence 0: for replay from the first record."""
    def execute(self, method: int, request: bytes, now_ms: int) -> tuple[int, bytes, int]:
        """One command or read: (google.rpc code, response or google.rpc.Status bytes, sequence of the record or 0)."""
    def execute_batch(self, method: int, request: bytes, now_ms: int) -> tuple[int, bytes, int]:
        """As execute, item by item; the code is not OK only if the batch itself is malformed."""
    @property
    def record(self) -> bytes:
        """The log record of the last command that was decided."""
    def apply(self, record: bytes) -> None:
        """Replays a record; raises ReplayMismatch if outcome or effects differ from those in it."""
    def replay_from(self, reader: JournalReader, records_max: int = ...) -> int:
        """Applies records of a reader until its end, at most `records_max`, and returns how many; raises as apply."""
    passed_over: dict[str, str]
    @property
    def sequence(self) -> int: ...
    @property
    def time_ms(self) -> int: ...
    @property
    def log_id(self) -> bytes: ...
    def next_due_ms(self) -> int:
        """When a tick has work to do; 0: now, -1: never."""
    def state_digest(self) -> str:
        """32 hexadecimal digits, kept up to date, read in constant time."""
    def business_digest(self) -> str: ...
    def check(self) -> str:
        """Recomputes everything from scratch: every invariant, both digests. Empty, or the first violation in words."""
    def expect(self, orders: int) -> None:
        """Asks the kernel for the memory of so many more one-line orders now, so that a peak pays no page faults."""
    def counts(self) -> dict[str, int]:
        """Objects in memory by kind, and arena bytes."""
    @property
    def level(self) -> int: ...
    def raise_level(self, now_ms: int) -> int:
        """As Engine.raise_level, without a log."""
    def evict(self, closed_sequence: int, now_ms: int) -> bool:
        """One Evict, if one is due; whether another one is due then."""
    def closed(self, after_sequence: int, orders_max: int) -> list[tuple[int, int, str, str, bytes]]:
        """(closed_sequence, order's sequence, shop_id, order_id, item) of closed orders whose window is over, in the
        order of their closing, from the first that was closed after `after_sequence`. Orders that were closed by one
        record come together, so there may be more than `orders_max`."""
    def business_digest_of(self, item: bytes) -> str:
        """What an archived order adds to the business digest. ValueError: the item is damaged."""
    def evicted_digest(self) -> str:
        """What evicted orders add to the business digest; counts() has `evicted_orders` and `evicted_through`, the
        closing sequence of the last one."""
    def order_sequence(self, shop_id: str, order_id: str) -> int:
        """Of the record that accepted the order of that id that is in memory; 0: there is none."""
    def order_response(self, shop_id: str, item: bytes) -> bytes:
        """The GetOrderResponse for an archived order, as of now. ValueError: damaged, or of another shop."""
    def shop_ids(self) -> list[str]:
        """Every shop, in no order."""
    def save_in_child(self, path: str, bytes_per_s: int = 0) -> int:
        """Saves this moment's state in a forked child, at most so fast (0: as it goes), and returns its pid.

        Exit code 0: the file is there, synced, read back and proved. The child ends with this thread.
        """

    def check_in_child(self) -> int:
        """Checks every invariant of this moment in a forked child: its pid. Exit code 0: they hold."""

    def save(self, path: str) -> None:
        """Writes a snapshot to `path` (temporary name, fsync, rename, directory fsync)."""
    @staticmethod
    def load(path: str, log_id: bytes | None = None) -> Shard:
        """Reads a snapshot, as one of another log if log_id is given; raises SnapshotDamaged."""

class Engine:
    """A shard with its journal: recovers at construction, then executes, logs and tells what is durable.

    Not thread-safe: one thread executes; the journal's own thread syncs.
    """

    def __init__(
        self,
        directory: str,
        *,
        segment_bytes: int = ...,
        idempotency_window_ms: int = ...,
        idempotency_entries_max: int = ...,
    ) -> None:
        """Opens or makes a shard's directory. Raises JournalLocked, JournalDamaged, SnapshotDamaged, ReplayMismatch."""
    def execute(self, method: int, request: bytes) -> tuple[int, bytes, int]:
        """As Shard.execute at the logged clock. The third value is the sequence that must be durable before the answer
        may leave; 0: it may leave at once."""
    def execute_batch(self, method: int, request: bytes) -> tuple[int, bytes, int]: ...
    def expect(self, orders: int) -> None:
        """As Shard.expect."""
    def kick(self) -> None:
        """Wakes the sync thread for what was executed since; call it once per turn of the loop."""
    def tick(self) -> int:
        """Logs a tick if one is due. Returns ms until the next call is useful (at most 1,000)."""
    @property
    def level(self) -> int: ...
    def raise_level(self) -> int:
        """Logs the rise to the newest level, where the log is of an older one: only once every program that reads the
        log knows it. The sequence of the record, 0 if there is nothing to raise. Raises JournalFull."""
    @property
    def passed_over(self) -> dict[str, str]:
        """By name, what was wrong with newer snapshots than the one that it was recovered from."""
    @property
    def durable(self) -> int: ...
    @property
    def sequence(self) -> int: ...
    @property
    def eventfd(self) -> int:
        """Becomes readable when `durable` grew."""
    def wait_durable(self, sequence: int, timeout_s: float) -> bool: ...
    @property
    def log_id(self) -> bytes: ...
    @property
    def epoch(self) -> int: ...
    @property
    def clock_alarms(self) -> int:
        """How often the wall clock stepped by more than a second against the time since boot."""
    def state_digest(self) -> str: ...
    def business_digest(self) -> str: ...
    def counts(self) -> dict[str, int]: ...
    def stats(self) -> dict[str, Any]:
        """Counters: commands by kind, outcomes, faults by code, commits, synced bytes, clock alarms; ns sums."""
    def close(self) -> None:
        """Syncs, seals and unlocks."""

class JournalReader:
    """Records of a shard's log in order, both ends included; see docs/log_format.md."""

    def __init__(self, path: str, from_sequence: int | None = 1, until_sequence: int | None = None) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, *unused: object) -> None: ...
    def __iter__(self) -> Iterator[tuple[int, bytes]]: ...
    def __next__(self) -> tuple[int, bytes]: ...
    def close(self) -> None: ...
    def scan(self) -> int: ...
    def scan_segment(self) -> bool: ...
    def follow(self) -> int: ...
    @property
    def position(self) -> dict[str, Any]: ...

class JournalWriter:
    """The log of one shard, open for writing."""

    def __init__(
        self,
        path: str,
        *,
        log_id: bytes | None = None,
        segment_bytes: int = ...,
        first_sequence: int = 1,
        staged_bytes_max: int = ...,
    ) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, *unused: object) -> None: ...
    def close(self) -> None: ...
    def append(self, record: bytes) -> int: ...
    def kick(self) -> None: ...
    def wait_durable(self, sequence: int, timeout_s: float) -> bool: ...
    def stats(self) -> dict[str, Any]: ...
    @property
    def path(self) -> str: ...
    @property
    def recovered(self) -> dict[str, Any] | None: ...
    @property
    def next_sequence(self) -> int: ...
    @property
    def durable(self) -> int: ...
    @property
    def eventfd(self) -> int: ...
    @property
    def epoch(self) -> int: ...
    @property
    def segment(self) -> int: ...
    @property
    def log_id(self) -> bytes: ...
    @property
    def record_bytes_max(self) -> int: ...

def journal_segment_numbers(path: str) -> list[int]: ...
def journal_segments(path: str) -> list[dict[str, Any]]:
    """The checked headers of all segments, ascending; the names are those of docs/log_format.md."""

def journal_durable(path: str) -> dict[str, int] | None:
    """What the leader last published as durable: epoch, sequence, segment, offset, log_digest."""

def drop_segments_before(path: str, sequence: int) -> int:
    """Removes the segments whose records the synced snapshot at `sequence` covers; returns how many."""

SETTING_NAMES: tuple[str, ...]
SCOPE_NAMES: Final[dict[str, int]]

def method_scopes() -> dict[str, str]:
    """The scope that each method of the front's table asks for, by its path; empty for none."""

class Follower:
    """A shard behind its leader, from the newest snapshot on. Used by one thread at a time, but for prepare().

    `board_fd`, `workers`: the board in which the leader leaves digest marks; it may be closed afterwards. Raises
    JournalDamaged, SnapshotDamaged, JournalFormatError, OSError.
    """

    shard: Shard
    path: str
    def __init__(
        self, directory: str, *, segment_bytes: int = ..., board_fd: int = -1, workers: int = 0, shard: int = 0
    ) -> None: ...
    def follow(self, records_max: int = 65_536) -> int:
        """Applies what the leader has published, and returns how many records. Releases the GIL.

        Raises ReplayMismatch for the first record whose effects, or the first mark whose digest, are not the leader's;
        JournalDamaged for what cannot be read.
        """

    @property
    def sequence(self) -> int: ...
    @property
    def lag(self) -> int:
        """Records that the leader has published and that are not applied."""

    def prepare(self) -> None:
        """Makes a segment ahead of the takeover, unless there is one. Slow, on any thread; promote() ends it."""

    def promote(self) -> Engine:
        """Takes the lock, syncs and applies the rest, and goes on as the leader of the next epoch.

        The follower is used up then. Raises JournalLocked while the leader has not ended, and what follow() raises.
        """

    def close(self) -> None: ...

class NativeFront:
    """The native front of a worker, see docs/front.md. run() is the loop; what it uses is its own until it returns."""

    def __init__(self, *, worker: int, workers: int, shards: int, board_fd: int, settings: dict[str, int]) -> None:
        """settings: all of SETTING_NAMES. Raises ValueError. The board's descriptor stays the caller's."""
    def listen(self, fd: int, shared: bool, tls: bool = False) -> None:
        """A listening, non-blocking socket, which stays the caller's. Before run(), and after the first tls()."""
    def tls(self, certificate: bytes, key: bytes, client_ca: bytes | None, client_required: bool) -> None:
        """Any thread, also again: PEM for new handshakes; connections go on. ValueError: which is wrong, and how.

        With client_ca, certificates of clients are asked for, and those that are shown must hold.
        """
    def tls_kept(self) -> None:
        """Any thread: counts that what was to be given to tls() again could not be used."""
    def relay_to(self, path: str) -> None:
        """Any thread: the control server's unix socket. Streams at the one before end there. ValueError if too long."""
    def host(self, shard: int, engine: Engine) -> None:
        """Any thread: from now on the loop alone executes on the engine."""
    def link(self, worker: int, alive_fd: int, ring_in: int, ring_out: int, wake_in: int, wake_out: int) -> None:
        """Any thread: a peer, or a peer anew. Takes all descriptors over; ValueError leaves them to the caller.

        The link before goes on until nobody waits for anything over it. A link to the own number: to the successor if
        hand_over() was called before, otherwise to the predecessor, whose calls come over it.
        """
    def run(self) -> None:
        """Serves until stop(). Releases the GIL."""
    def hand_over(self) -> None:
        """Any thread: decides nothing more, makes durable and answers what was decided, and gives up all shards."""
    def handed_over(self, timeout_s: float) -> bool:
        """Any thread: waits until no engine is used any more; they may be closed then. False if that takes longer."""
    @property
    def lookup_fd(self) -> int:
        """Readable when there are questions to the archive."""
    def take_lookups(self) -> list[tuple[int, int, str, str]]:
        """Any thread: (token, shard, shop_id, order_id) of each question since the last call."""
    def answer_lookup(self, token: int, item: bytes | None, failed: bool = False) -> None:
        """Any thread: what the archive has of it, None for nothing; or that it cannot say."""
    def authenticate(self, required: bool, epoch: int) -> None:
        """Any thread: whether anonymous calls are refused. A new epoch forgets who was known; False asks of nobody."""
    def relay_secret(self, secret: bytes) -> None:
        """Any thread: what proves to the control server that a call comes from a front. From then on it is told who."""
    @property
    def credential_fd(self) -> int:
        """Readable when there are questions who a caller is."""
    def take_credentials(self) -> list[tuple[int, int, bytes]]:
        """Any thread: (token, kind, credential), the next ones. Kinds: 1 bearer, 2 key, 3 certificate."""
    def answer_credential(self, token: int, caller: object) -> None:
        """Any thread: a Caller of engine/identity.py, None for nobody. ValueError says what is wrong with it."""
    def evict(self, shard: int, closed_sequence: int) -> None:
        """Any thread: the archive has what was closed up to there; it leaves memory once it may, some each turn."""
    def raise_level(self, shard: int) -> None:
        """Any thread: every process that reads the log knows the newest level. Logs its Activate, if it is lower."""
    def drain(self) -> None:
        """Any thread: no new connection, GOAWAY to all, what was taken is answered. Links are still served."""
    def drained(self, timeout_s: float) -> bool:
        """Any thread: waits until no call is left; False if that takes longer than `timeout_s`."""
    def stop(self) -> None:
        """Any thread: run() returns."""
    def counters(self) -> dict[str, int]:
        """By the names of COUNTER_NAMES, since the start."""
    def close(self) -> None:
        """After run() has returned and before the engines are closed: gives everything back."""

def check_tls(certificate: bytes, key: bytes, client_ca: bytes | None, client_required: bool) -> None:
    """Whether NativeFront.tls() would take these. Raises ValueError: which of them is wrong, and how."""

def give_way(nice: int) -> None:
    """Lets the calling thread, and those it starts, stand behind others: by its weight, and by slices of 0.1 ms."""

SAFETY_BY_NAME: Final[dict[str, int]]

def simulate_without(safety: str) -> None:
    """Tests only: takes one of SAFETY_BY_NAME away from all engines of this process; empty: all hold again."""

class SimulatedEngine:
    """Tests only: an engine on a disk that is a Python object (tests/faults/disk.py), driven turn by turn. A method
    raises ProcessDied, or what the disk raised, if that ended the process."""

    def __init__(
        self,
        disk: object,
        log_id: bytes,
        *,
        segment_bytes: int,
        idempotency_window_ms: int,
        idempotency_entries_max: int,
    ) -> None: ...
    @property
    def passed_over(self) -> dict[str, str]:
        """As Engine.passed_over."""
    def execute(self, method: int, request: bytes, real_ns: int, boot_ns: int) -> tuple[int, bytes, int]:
        """As Engine.execute, at the time of these clocks."""
    def tick(self, real_ns: int, boot_ns: int) -> None: ...
    def take(self) -> None:
        """The sync thread wakes, and takes what is staged."""
    def commit(self) -> None:
        """It commits what it took, or else takes what is staged now."""
    def seal(self) -> None: ...
    def prepare(self) -> None:
        """The preparing thread wakes."""
    def close(self) -> None: ...
    def end(self) -> None:
        """The process is killed."""
    @property
    def now_ms(self) -> int:
        """The time that the last command was given."""
    @property
    def durable(self) -> int: ...
    @property
    def epoch(self) -> int: ...
    @property
    def sequence(self) -> int: ...
    def state_digest(self) -> str: ...
    def check(self) -> str: ...

class SimulatedFollower:
    """Tests only: a follower on such a disk, with its snapshots, and dropping what they cover."""

    def __init__(self, disk: object, log_id: bytes, *, segment_bytes: int) -> None: ...
    @property
    def passed_over(self) -> dict[str, str]:
        """As Engine.passed_over."""
    def follow(self, records_max: int) -> int: ...
    def prepare(self) -> None: ...
    def snapshot(self) -> None: ...
    def drop_segments(self) -> int: ...
    def promote(self, window_ms: int, entries_max: int) -> SimulatedEngine:
        """Takes over from a leader that has ended: an engine in the same process."""
    def end(self) -> None: ...
    @property
    def sequence(self) -> int: ...
    def state_digest(self) -> str: ...
    def check(self) -> str: ...
