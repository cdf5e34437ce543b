"""Which partition belongs to which shard, which shard to which worker, and the version of that.

A plain value on both sides of the supervisor's channel; proto/everopen/v1/cluster.proto says what it means.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Self

from engine.limits import LIMITS

PARTITIONS = LIMITS["PARTITIONS"]


class ShardState(IntEnum):
    """As in the proto."""

    SERVING = 1
    RECOVERING = 2
    DOWN = 3


class WorkerState(IntEnum):
    """As in the proto."""

    STARTING = 1
    SERVING = 2
    DRAINING = 3
    DOWN = 4


def host_of(shard: int, workers: int) -> int:
    """The worker that hosts a shard."""
    return shard % workers


def hosted_by(worker: int, workers: int, shards: int) -> list[int]:
    return list(range(worker, shards, workers))


def linked_pairs(workers: int, shards: int) -> list[tuple[int, int]]:
    """Pairs of workers, the lower first, that have anything to say to each other: one of the two hosts a shard."""
    hosts = min(workers, shards)
    return [(first, second) for first in range(hosts) for second in range(first + 1, workers)]


def first_partition(shard: int, shards: int) -> int:
    """The lowest p with p * shards // PARTITIONS = shard."""
    return -(-shard * PARTITIONS // shards)


@dataclass
class ShardEntry:
    shard: int
    first_partition: int
    last_partition: int
    worker: int
    # In hexadecimal; empty until it is known.
    log_id: str = ""
    state: ShardState = ShardState.RECOVERING


@dataclass
class WorkerEntry:
    worker: int
    addresses: list[str]
    state: WorkerState = WorkerState.STARTING


@dataclass
class PartitionMap:
    """Every change of what it says raises the version."""

    version: int
    shards: list[ShardEntry] = field(default_factory=list)
    workers: list[WorkerEntry] = field(default_factory=list)

    @classmethod
    def of(cls, addresses: Sequence[list[str]], shards: int, version: int) -> Self:
        """The map of an engine that starts; `addresses` are the direct ones of each worker."""
        entries = [
            ShardEntry(
                shard,
                first_partition(shard, shards),
                first_partition(shard + 1, shards) - 1,
                host_of(shard, len(addresses)),
            )
            for shard in range(shards)
        ]
        return cls(version, entries, [WorkerEntry(worker, list(own)) for worker, own in enumerate(addresses)])

    def shard_is(self, shard: int, state: ShardState, log_id: str | None = None) -> None:
        entry = self.shards[shard]
        before = (entry.state, entry.log_id)
        entry.state = state
        if log_id is not None:
            entry.log_id = log_id
        self.version += (entry.state, entry.log_id) != before

    def worker_is(self, worker: int, state: WorkerState) -> None:
        entry = self.workers[worker]
        self.version += entry.state != state
        entry.state = state

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Self:
        """From what orjson makes of one."""
        return cls(
            fields["version"],
            [ShardEntry(**entry) for entry in fields["shards"]],
            [WorkerEntry(**entry) for entry in fields["workers"]],
        )
