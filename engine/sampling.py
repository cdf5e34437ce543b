"""What is counted and known of a running engine at one moment: the board, what the supervisor said last, the logs.

Metrics and status are both made of it. Nobody is asked and nothing waits: the board is memory, and files that a
stuck disk would keep from being read are looked at by somebody else, whose last answer counts.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

import orjson

from engine import datadir
from engine._core import COUNTER_NAMES
from engine.identity import FILES
from engine.partition_map import PartitionMap, ShardEntry, ShardState, WorkerState

# Of the counters in a slot, those that also fall. _board.pxi says so of each.
GAUGES: Final = frozenset(
    {
        "max_concurrent_streams",
        "bytes_in_flight",
        "calls_in_flight",
        "link_bytes_waiting",
        "link_jobs_away",
        "credentials_known",
    }
)
COUNTERS: Final = tuple(name for name in COUNTER_NAMES if name not in GAUGES)
# Beside these, what workers say themselves: looks at a file of callers that failed, by its kind.
FILES_FAILED: Final = "identity_reloads_failed_"
# Of the figures of a shard, the same; _board_figures.pxi.
SHARD_GAUGES: Final = frozenset(
    {
        "sequence",
        "durable_sequence",
        "jobs_in_flight",
        "open_orders",
        "open_holds",
        "open_backorders",
        "evicted_orders",
        "follower_sequence",
    }
)
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


# Counts of buckets, and the sum of what was counted.
Buckets = tuple[list[int], int]


class Countable(Protocol):
    """The board, as far as it is read here."""

    def slots(self) -> list[dict[str, int]]: ...
    def histograms(self) -> dict[tuple[int, str], Buckets]: ...
    def shards(self) -> dict[int, dict[str, int]]: ...
    def commit_sizes(self) -> dict[tuple[int, str], Buckets]: ...


@dataclass(frozen=True)
class Histogram:
    # Of each bucket alone, the overflow last.
    counts: list[int]
    sum: int


@dataclass(frozen=True)
class Follower:
    # 0: it is being started.
    pid: int
    # It has read the whole log, and would take over.
    ready: bool
    # Records that are durable and that it has not applied, of all shards of its worker.
    lag: int


@dataclass(frozen=True)
class Worker:
    worker: int
    state: str
    pid: int
    restarts: int
    connections: int
    busy_ppm: int
    # None: nobody runs there.
    heartbeat_age_ns: int | None
    resident_bytes: int
    # Since the engine began, by name.
    counters: dict[str, int]
    gauges: dict[str, int]
    # None: nobody is to stand by.
    follower: Follower | None
    # By stage.
    stages: dict[str, Histogram]
    # Of the certificate that it shows. 0: it shows none, or has not said yet.
    certificate_expires_unix_s: int = 0


@dataclass(frozen=True)
class Shard:
    shard: int
    worker: int
    state: str
    # By name; empty while nobody has led it yet.
    gauges: dict[str, int]
    # Since the engine began, by name.
    counters: dict[str, int]
    # "records" and "bytes" of each commit.
    commits: dict[str, Histogram]
    # Records that are durable and that the follower has not applied; None: there is no follower.
    lag: int | None
    # The newest snapshot covers the log up to there; 0: there is none.
    snapshot_sequence: int = 0
    snapshot_unix_s: int = 0
    # What was closed up to there is in the archive.
    archived_sequence: int = 0


@dataclass(frozen=True)
class Sample:
    monotonic_ns: int
    # Of the buckets, the last of which has none.
    bounds_ns: Sequence[int]
    size_bounds: Sequence[int]
    workers: list[Worker]
    shards: list[Shard]
    # Spans that were given to a collector, and those that none took.
    spans: dict[str, int] = field(default_factory=dict)
    # Lines of the audit trail that the control server could not write.
    audit_lines_failed: int = 0

    @property
    def is_serving(self) -> bool:
        return all(shard.state == ShardState.SERVING.name for shard in self.shards)


class Totals:
    """Adds to what a process counts what those before it counted in the same place, so that no counter goes back.

    All of it is kept in a file too, for the control process that comes after this one. What a process counted after
    the last look at it is lost with it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        # By place: whose counts these are, what those before counted, and the sum that was given out last.
        self._places: dict[str, dict[str, Any]] = {}
        with contextlib.suppress(OSError, ValueError):
            self._places = dict(orjson.loads(path.read_bytes()))
        self._kept = b""

    def add(self, place: str, epoch: int, counts: Mapping[str, int]) -> dict[str, int]:
        """epoch: of a process; another one counts from zero. 0: not known, so what has fallen began anew."""
        of = self._places.setdefault(place, {"epoch": epoch, "before": {}, "total": {}, "last": {}})
        before, total, last = of["before"], of["total"], of["last"]
        if of["epoch"] != epoch:
            of["epoch"] = epoch
            before.update(total)
        for name, count in counts.items():
            if epoch == 0 and count < last.get(name, 0):
                before[name] = total[name]
            last[name] = count
            total[name] = max(total.get(name, 0), before.get(name, 0) + count)
        return {name: total[name] for name in counts}

    def seen(self, place: str, names: Iterable[str]) -> dict[str, int]:
        """As of the last time."""
        total = self._places.get(place, {}).get("total", {})
        return {name: total.get(name, 0) for name in names}

    def keep(self) -> None:
        """A disk that is full is no reason to count no more."""
        text = orjson.dumps(self._places)
        if text == self._kept:
            return
        with contextlib.suppress(OSError):
            beside = self._path.with_suffix(f".{os.getpid()}")
            beside.write_bytes(text)
            beside.replace(self._path)
            self._kept = text


class Sampler:
    def __init__(
        self,
        board: Countable,
        bounds: tuple[Sequence[int], Sequence[int]],
        directories: Sequence[Path],
        path: Path,
        said: dict[str, Any],
        audit_lines_failed: Callable[[], int] = lambda: 0,
    ) -> None:
        """bounds: of the buckets of times and of sizes. path: of the file in which totals outlive this process.

        said: as of update(). audit_lines_failed: of this process so far.
        """
        self._board = board
        self._bounds = bounds
        self._directories = directories
        self._totals = Totals(path)
        # Of whom each worker's histograms were when they were last looked at.
        self._pids: dict[int, int] = {}
        # By shard, as of the last look at the disk.
        self._snapshots: dict[int, dict[str, int]] = {}
        self._exported: dict[str, int] = {}
        self._audit_lines_failed = audit_lines_failed
        self.update(said)

    def update(self, said: dict[str, Any]) -> None:
        """What the supervisor says: the map, the processes, and what it knows of them."""
        self._map = PartitionMap.from_json(said["map"])
        self._workers: list[dict[str, int]] = said["workers"]
        self._figures: dict[str, Any] = said.get("figures", {})

    def exported(self, counts: dict[str, int]) -> None:
        """What became of the spans that this process exported."""
        self._exported = counts

    def look_at_disk(self) -> None:
        for shard, path in enumerate(self._directories):
            # Between the listing and the look, a snapshot may have been dropped.
            with contextlib.suppress(OSError):
                saved = max(datadir.snapshots(path), default=None)
                if saved is not None:
                    taken_s = int(saved[1].stat().st_mtime)
                    self._snapshots[shard] = {"snapshot_sequence": saved[0], "snapshot_unix_s": taken_s}

    def sample(self) -> Sample:
        """Used by one thread at a time."""
        now_ns = time.monotonic_ns()
        slots = {slot["worker"]: slot for slot in self._board.slots()}
        histograms = self._board.histograms()
        workers = [self._worker(number, slots.get(number), histograms, now_ns) for number in range(len(self._workers))]
        figures, commits = self._board.shards(), self._board.commit_sizes()
        shards = [self._shard(entry, figures.get(entry.shard, {}), commits) for entry in self._map.shards]
        spans = self._totals.add("spans", os.getpid(), self._exported)
        audit = self._totals.add("audit", os.getpid(), {"lines_failed": self._audit_lines_failed()})
        self._totals.keep()
        return Sample(now_ns, *self._bounds, workers, shards, spans, audit["lines_failed"])

    def _worker(
        self, number: int, slot: dict[str, int] | None, histograms: Mapping[tuple[int, str], Buckets], now_ns: int
    ) -> Worker:
        known = self._workers[number]
        # What a dead one left on the board is not the state of the next.
        live = slot if slot is not None and slot["pid"] == known["pid"] else None
        epoch = 0 if slot is None else slot["pid"]
        # Those of a new process are cleared a moment after it has begun its slot, so they are looked at the next time.
        settled = self._pids.get(number, epoch) == epoch
        self._pids[number] = epoch
        place = f"worker {number}"
        counters = {} if slot is None else self._totals.add(place, epoch, {name: slot[name] for name in COUNTERS})
        guard = self._guard(number)
        failed = {f"{FILES_FAILED}{kind}": guard.get("files_failed", {}).get(kind, 0) for kind in FILES}
        counters |= self._totals.add(f"guard {number}", known["pid"], failed)
        stages = {
            stage: self._histogram(f"{place} {stage}", epoch, buckets, settled)
            for (worker, stage), buckets in histograms.items()
            if worker == number
        }
        # A new supervisor, or one that has replaced its program, counts from zero.
        restarts = self._totals.add(f"place {number}", self._since_ns, {"restarts": known["restarts"]})["restarts"]
        return Worker(
            number,
            WorkerState(self._map.workers[number].state).name,
            known["pid"],
            restarts,
            live["connections"] if live else 0,
            live["busy_ppm"] if live else 0,
            max(0, now_ns - live["heartbeat_ns"]) if live else None,
            resident_bytes(known["pid"]),
            counters,
            {name: live.get(name, 0) if live else 0 for name in sorted(GAUGES)},
            self._follower(number),
            stages,
            guard.get("certificate_expires_unix_s", 0),
        )

    @property
    def _since_ns(self) -> int:
        return int(self._figures.get("since_ns", 0))

    def _follower(self, number: int) -> Follower | None:
        followers = self._figures.get("followers", [])
        found = followers[number] if number < len(followers) else None
        return None if found is None else Follower(**found)

    def _guard(self, number: int) -> dict[str, Any]:
        """What the worker says of its certificate, and of the files that say who may call."""
        guards = self._figures.get("guards", [])
        return dict(guards[number]) if number < len(guards) else {}

    def _shard(self, entry: ShardEntry, figures: dict[str, int], commits: Mapping[tuple[int, str], Buckets]) -> Shard:
        place = f"shard {entry.shard}"
        counts = {name: count for name, count in figures.items() if name not in SHARD_GAUGES and name != "worker"}
        gauges = {name: figures[name] for name in sorted(SHARD_GAUGES) if name in figures}
        follower = self._follower(entry.worker)
        followed = gauges.get("follower_sequence", 0) > 0 and follower is not None and follower.pid > 0
        return Shard(
            entry.shard,
            entry.worker,
            ShardState(entry.state).name,
            gauges,
            self._totals.add(place, 0, counts),
            {
                unit: self._histogram(f"{place} {unit}", 0, buckets)
                for (shard, unit), buckets in commits.items()
                if shard == entry.shard
            },
            max(0, gauges["durable_sequence"] - gauges["follower_sequence"]) if followed else None,
            archived_sequence=self._figures.get("archived", {}).get(str(entry.shard), 0),
            **self._snapshots.get(entry.shard, {}),
        )

    def _histogram(self, place: str, epoch: int, buckets: Buckets, settled: bool = True) -> Histogram:
        """settled: no others' counts are among them. Else it is as of the last time."""
        counts, added = buckets
        named = {str(number): count for number, count in enumerate([*counts, added])}
        total = self._totals.add(place, epoch, named) if settled else self._totals.seen(place, named)
        *counts, added = total.values()
        return Histogram(counts, added)


def resident_bytes(pid: int) -> int:
    """0: there is no such process."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_BYTES
    except (OSError, IndexError):
        return 0
