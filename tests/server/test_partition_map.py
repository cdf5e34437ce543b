"""Which shard has which partitions, which worker has which shard, and when the version of that grows."""

from __future__ import annotations

import orjson
import pytest

from engine.datadir import shard_of
from engine.partition_map import (
    PARTITIONS,
    PartitionMap,
    ShardState,
    WorkerState,
    first_partition,
    host_of,
    hosted_by,
    linked_pairs,
)
from everopen.v1 import cluster_pb2


@pytest.mark.parametrize("shards", [1, 2, 3, 5, 7, 63, 64])
def test_map_gives_each_partition_to_the_shard_that_serves_it(shards: int) -> None:
    made = PartitionMap.of([["here"]], shards, 1)
    held = [
        (partition, entry.shard)
        for entry in made.shards
        for partition in range(entry.first_partition, entry.last_partition + 1)
    ]
    assert held == [(partition, shard_of(partition, shards)) for partition in range(PARTITIONS)]
    assert first_partition(shards, shards) == PARTITIONS


def test_hosts_of_shards_agree_from_both_sides() -> None:
    for workers in range(1, 6):
        for shards in range(1, 12):
            hosted = {worker: hosted_by(worker, workers, shards) for worker in range(workers)}
            assert {shard: worker for worker, mine in hosted.items() for shard in mine} == {
                shard: host_of(shard, workers) for shard in range(shards)
            }


@pytest.mark.parametrize(
    ("workers", "shards", "pairs"),
    [
        (1, 4, []),
        (2, 1, [(0, 1)]),
        (3, 1, [(0, 1), (0, 2)]),
        (3, 2, [(0, 1), (0, 2), (1, 2)]),
        (3, 9, [(0, 1), (0, 2), (1, 2)]),
        (4, 2, [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3)]),
    ],
)
def test_workers_are_linked_if_one_of_them_hosts(workers: int, shards: int, pairs: list[tuple[int, int]]) -> None:
    assert linked_pairs(workers, shards) == pairs


def test_version_grows_with_each_change_and_with_nothing_else() -> None:
    made = PartitionMap.of([["a"], ["b"]], 2, 100)
    versions = [made.version]
    for change in (
        lambda: made.worker_is(0, WorkerState.STARTING),
        lambda: made.worker_is(0, WorkerState.SERVING),
        lambda: made.shard_is(1, ShardState.RECOVERING),
        lambda: made.shard_is(1, ShardState.SERVING, "ab" * 16),
        lambda: made.shard_is(1, ShardState.SERVING),
        lambda: made.shard_is(1, ShardState.DOWN),
        lambda: made.shard_is(1, ShardState.DOWN, "cd" * 16),
    ):
        change()
        versions.append(made.version)
    assert versions == [100, 100, 101, 101, 102, 102, 103, 104]
    assert made.shards[1].log_id == "cd" * 16


def test_map_survives_its_way_through_a_channel() -> None:
    made = PartitionMap.of([["127.0.0.1:1", "unix:x"], ["[::1]:2", "unix:y"]], 3, 7)
    made.shard_is(2, ShardState.SERVING, "ab" * 16)
    assert PartitionMap.from_json(orjson.loads(orjson.dumps(made))) == made


def test_states_are_those_of_the_proto() -> None:
    for own, proto, prefix in (
        (ShardState, cluster_pb2.ShardState, "SHARD_STATE_"),
        (WorkerState, cluster_pb2.WorkerState, "WORKER_STATE_"),
    ):
        named = {f"{prefix}{state.name}": state.value for state in own}
        assert named | {f"{prefix}UNSPECIFIED": 0} == dict(proto.items())
