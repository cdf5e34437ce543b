"""A board whose numbers a test sets, and what the supervisor would say beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson

from engine._core import (
    COUNTER_NAMES,
    HISTOGRAM_BOUNDS_NS,
    SHARD_FIGURE_NAMES,
    SIZE_BOUNDS,
    STAGE_NAMES,
)
from engine.partition_map import PartitionMap, ShardState, WorkerState
from engine.sampling import Sampler

WORKERS, SHARDS = 2, 1
EXPIRES_UNIX_S = 1_900_000_000
FILES_FAILED = {"keys": 0, "jwks": 3, "callers": 0}
BOUNDS = (HISTOGRAM_BOUNDS_NS, SIZE_BOUNDS)


class FakeBoard:
    """Worker w has pid 100 + w."""

    def __init__(self) -> None:
        self.workers: dict[int, dict[str, int]] = {}
        self.stages: dict[tuple[int, str], tuple[list[int], int]] = {}
        self.figures: dict[int, dict[str, int]] = {}
        self.sizes: dict[tuple[int, str], tuple[list[int], int]] = {}
        for worker in range(WORKERS):
            self.begin(worker, 100 + worker)
        for shard in range(SHARDS):
            self.lead(shard)

    def begin(self, worker: int, pid: int) -> None:
        """As a process does that takes the slot."""
        load = {"connections": 0, "busy_ppm": 0, "commands_per_s": 0, "heartbeat_ns": 1, "state": 2}
        self.workers[worker] = dict.fromkeys(COUNTER_NAMES, 0) | load | {"worker": worker, "pid": pid}
        for stage in STAGE_NAMES:
            self.stages[worker, stage] = ([0] * (len(HISTOGRAM_BOUNDS_NS) + 1), 0)

    def lead(self, shard: int) -> None:
        faults = {f"fault_{code}": 0 for code in range(1, 17)}
        self.figures[shard] = dict.fromkeys(SHARD_FIGURE_NAMES, 0) | faults | {"worker": 0, "follower_sequence": 0}
        for unit in ("records", "bytes"):
            self.sizes[shard, unit] = ([0] * (len(SIZE_BOUNDS) + 1), 0)

    def slots(self) -> list[dict[str, int]]:
        return [dict(slot) for slot in self.workers.values()]

    def histograms(self) -> dict[tuple[int, str], tuple[list[int], int]]:
        return {key: (list(counts), added) for key, (counts, added) in self.stages.items()}

    def shards(self) -> dict[int, dict[str, int]]:
        return {shard: dict(figures) for shard, figures in self.figures.items()}

    def commit_sizes(self) -> dict[tuple[int, str], tuple[list[int], int]]:
        return {key: (list(counts), added) for key, (counts, added) in self.sizes.items()}


def said(pids: tuple[int, ...] = (100, 101), restarts: int = 0, since_ns: int = 1) -> dict[str, Any]:
    """As the supervisor says it, through JSON."""
    known = PartitionMap.of([["127.0.0.1:1"] for _ in range(WORKERS)], SHARDS, 1)
    for worker in range(WORKERS):
        known.worker_is(worker, WorkerState.SERVING)
    for shard in range(SHARDS):
        known.shard_is(shard, ShardState.SERVING, "00" * 16)
    followers = [{"pid": 200, "ready": True, "lag": 3}, None]
    # The second one has not said anything yet.
    guards = [{"files_failed": FILES_FAILED, "certificate_expires_unix_s": EXPIRES_UNIX_S}, {}]
    figures = {"since_ns": since_ns, "archived": {"0": 5}, "followers": followers, "guards": guards}
    workers = [{"pid": pid, "restarts": restarts} for pid in pids]
    made: dict[str, Any] = orjson.loads(orjson.dumps({"map": known, "workers": workers, "figures": figures}))
    return made


def sampler(board: FakeBoard, folder: Path, **more: Any) -> Sampler:
    return Sampler(board, BOUNDS, [], folder / "totals.json", said(**more))
