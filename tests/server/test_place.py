"""What follows when a process of a worker's place says something or ends: the failure table, without processes."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

import pytest

from engine.channel import Message
from engine.exits import Exit
from engine.limits import (
    FOLLOWER_QUIET_S_MAX,
    FOLLOWER_SILENT_S_MAX,
    HAND_OVER_S_MAX,
    LEAVING_S,
    PROMOTION_S_MAX,
    RESTART_S_MIN,
)
from engine.partition_map import PartitionMap, ShardState, WorkerState
from engine.place import Member, Place, Pulse

SHARDS = [0, 2]
LOOK_S = 0.1


class FakeMember(Member):
    """A process that hears, and does, what the test says."""

    def __init__(self, name: str, pid: int) -> None:
        super().__init__(name, lambda *_: None, lambda *_: None)
        self.pid = pid
        self.told: list[str] = []
        self.signals: list[int] = []

    def send(self, kind: str, fds: Any = (), /, **fields: Any) -> None:
        self.told.append(kind)

    def signal(self, number: int) -> None:
        self.signals.append(number)


class FakeCluster:
    def __init__(self, *, starting: bool = False) -> None:
        self.map = PartitionMap.of([["a"], ["b"]], 3, 1)
        self.starting = starting
        self.fresh = starting
        self.ending = False
        self.now_s = 100.0
        self.spawned: list[FakeMember] = []
        self.links = 0
        self.successors: list[tuple[Member, Member]] = []
        self.due: list[tuple[float, Callable[[], None]]] = []
        self.gave_up: list[tuple[int, str]] = []

    def spawn(self, place: Place, name: str) -> Member:
        self.spawned.append(FakeMember(name, 1_000 + len(self.spawned)))
        return self.spawned[-1]

    def begin(self, place: Place, member: Member, kind: str) -> None:
        member.send(kind)

    def link(self, number: int) -> None:
        self.links += 1

    def link_successor(self, number: int, old: Member, new: Member) -> None:
        self.successors.append((old, new))

    def later(self, seconds: float, then: Callable[[], None]) -> None:
        self.due.append((self.now_s + seconds, then))

    def give_up(self, code: int, message: str) -> None:
        self.gave_up.append((code, message))

    def members_changed(self) -> None:
        pass

    # Of the test.

    def pass_s(self, seconds: float) -> None:
        self.now_s += seconds
        for entry in [entry for entry in self.due if entry[0] <= self.now_s]:
            self.due.remove(entry)
            entry[1]()


class Scene:
    """A place with a worker that serves, and a follower that could take over unless told otherwise."""

    def __init__(self, *, followed: bool = True, ready: bool = True, starting: bool = False) -> None:
        self.cluster = FakeCluster(starting=starting)
        self.place = Place(self.cluster, 0, SHARDS, followed=followed)
        self.place.start()
        self.leader = self.cluster.spawned[0]
        if starting:
            return
        self.serves(self.leader)
        if followed:
            self.settle()
            self.follower = self.cluster.spawned[1]
            self.says(self.follower, "beat", lag=0)
            if ready:
                self.follows(self.follower)

    def says(self, member: FakeMember, kind: str, **fields: Any) -> None:
        self.place.heard(member, Message(kind, fields, []))
        self.settle()
        if kind == "leaving":
            self.cluster.pass_s(LEAVING_S)

    def serves(self, member: FakeMember) -> None:
        self.says(member, "listening")
        for shard in SHARDS:
            levels = {"level_now": 1, "level_max": 1}
            self.says(member, "recovered", shard=shard, log_id="ab" * 16, sequence=7, seconds=0.1, **levels)

    def follows(self, member: FakeMember) -> None:
        for shard in SHARDS:
            self.says(member, "following", shard=shard, sequence=7, level_now=1, level_max=1)

    def ends(self, member: FakeMember, code: int | None) -> None:
        member.pid = 0
        self.place.ended(member, code)
        self.settle()

    def settle(self) -> None:
        self.place.settle()
        self.cluster.pass_s(0)

    def state(self, shard: int = 2) -> ShardState:
        return self.cluster.map.shards[shard].state


@pytest.mark.parametrize("code", [-signal.SIGKILL, Exit.SYNC_FAILED, Exit.WRONG, None])
def test_leader_that_dies_is_taken_over_at_once_and_its_follower_replaced(code: int | None) -> None:
    scene = Scene()
    scene.ends(scene.leader, code)
    assert scene.place.leader is scene.follower
    assert scene.follower.told == ["follow", "promote"]
    assert scene.follower.name == "worker 0"
    assert scene.state() == ShardState.RECOVERING
    assert len(scene.cluster.spawned) == 2, "no new follower before the leader serves"
    scene.serves(scene.follower)
    assert scene.state() == ShardState.SERVING
    assert scene.cluster.spawned[2].told == ["follow"]
    assert scene.cluster.spawned[2].name == "follower 0"


def test_leader_without_a_follower_that_is_ready_is_started_with_back_off() -> None:
    scene = Scene(followed=False)
    scene.ends(scene.leader, -signal.SIGKILL)
    assert scene.place.leader is None
    assert scene.state() == ShardState.DOWN
    scene.cluster.pass_s(RESTART_S_MIN / 2)
    assert len(scene.cluster.spawned) == 1
    scene.cluster.pass_s(RESTART_S_MIN)
    assert scene.cluster.spawned[1].told == ["start"]
    assert scene.state() == ShardState.RECOVERING


def test_follower_that_becomes_ready_during_the_back_off_takes_over() -> None:
    scene = Scene(ready=False)
    scene.ends(scene.leader, -signal.SIGKILL)
    scene.follows(scene.follower)
    assert scene.place.leader is scene.follower
    scene.cluster.pass_s(60)
    assert len(scene.cluster.spawned) == 2


def test_promoted_follower_that_dies_is_replaced_as_ever() -> None:
    scene = Scene()
    scene.ends(scene.leader, -signal.SIGKILL)
    scene.ends(scene.follower, Exit.DAMAGED)
    scene.cluster.pass_s(60)
    assert scene.cluster.spawned[2].told == ["start"]
    assert not scene.cluster.gave_up


def test_follower_that_dies_is_replaced_and_the_leader_notices_nothing() -> None:
    scene = Scene()
    before = scene.cluster.map.version
    scene.ends(scene.follower, -signal.SIGKILL)
    assert len(scene.cluster.spawned) == 2, "not at once"
    scene.cluster.pass_s(RESTART_S_MIN)
    assert scene.cluster.spawned[2].told == ["follow"]
    assert scene.leader.told == ["start"]
    assert scene.cluster.map.version == before


def test_follower_that_diverged_is_not_replaced_and_the_leader_goes_on() -> None:
    scene = Scene()
    scene.says(scene.follower, "diverged", shard=2, message="record 7")
    scene.ends(scene.follower, Exit.DAMAGED)
    scene.cluster.pass_s(600)
    scene.settle()
    assert len(scene.cluster.spawned) == 2
    assert scene.place.leader is scene.leader
    assert scene.place.serves


def test_log_that_cannot_be_served_ends_all() -> None:
    scene = Scene(followed=False)
    scene.says(scene.leader, "failed", code=Exit.DAMAGED, message="DATA_LOSS")
    assert scene.cluster.gave_up == [(Exit.DAMAGED, "DATA_LOSS")]


@pytest.mark.parametrize("code", [Exit.UNUSABLE, Exit.IN_USE])
def test_log_that_cannot_be_used_for_now_is_tried_again_once_anything_is_served(code: Exit) -> None:
    scene = Scene(followed=False)
    scene.says(scene.leader, "failed", code=code, message="no descriptors")
    scene.ends(scene.leader, code)
    assert scene.cluster.gave_up == []
    scene.cluster.pass_s(RESTART_S_MIN)
    again = scene.cluster.spawned[1]
    assert again.told == ["start"]
    scene.cluster.fresh = True
    scene.says(again, "failed", code=code, message="no descriptors")
    assert scene.cluster.gave_up == [(code, "no descriptors")]


def test_worker_that_cannot_begin_beside_adopted_ones_ends_nobody() -> None:
    scene = Scene(followed=False, starting=True)
    scene.cluster.fresh = False
    scene.says(scene.leader, "failed", code=Exit.UNUSABLE, message="--tls-cert: no certificate in PEM")
    scene.ends(scene.leader, Exit.UNUSABLE)
    assert scene.cluster.gave_up == []
    scene.cluster.pass_s(RESTART_S_MIN)
    assert scene.cluster.spawned[1].told == ["start"]
    scene.ends(scene.cluster.spawned[1], Exit.WRONG)
    assert scene.cluster.gave_up == []
    scene.says(scene.cluster.spawned[1], "failed", code=Exit.DAMAGED, message="DATA_LOSS")
    assert scene.cluster.gave_up == [(Exit.DAMAGED, "DATA_LOSS")]


def test_unforeseen_error_before_anything_is_served_ends_all() -> None:
    scene = Scene(starting=True)
    scene.ends(scene.leader, Exit.WRONG)
    assert [code for code, _ in scene.cluster.gave_up] == [Exit.UNUSABLE]


def test_nobody_is_started_while_all_end() -> None:
    scene = Scene()
    scene.cluster.ending = True
    scene.ends(scene.leader, -signal.SIGKILL)
    scene.ends(scene.follower, Exit.OK)
    scene.cluster.pass_s(600)
    assert len(scene.cluster.spawned) == 2


def test_frozen_leader_is_killed_once_its_heartbeat_stands_still_for_long_enough() -> None:
    scene = Scene()
    for beat in range(30):
        scene.place.watch({scene.leader.pid: beat}, LOOK_S, LOOK_S, 1.0)
    assert scene.leader.signals == []
    for _ in range(9):
        scene.place.watch({scene.leader.pid: 29}, LOOK_S, LOOK_S, 1.0)
    assert scene.leader.signals == []
    for _ in range(2):
        scene.place.watch({scene.leader.pid: 29}, LOOK_S, LOOK_S, 1.0)
    assert scene.leader.signals == [signal.SIGKILL]
    assert scene.place.leader is scene.leader, "takeover begins only at its exit"


def test_leader_that_does_not_listen_yet_is_not_watched() -> None:
    scene = Scene(starting=True)
    for _ in range(100):
        scene.place.watch({scene.leader.pid: 1}, LOOK_S, LOOK_S, 1.0)
    assert scene.leader.signals == []


def test_leader_that_listens_is_watched_also_while_it_recovers() -> None:
    scene = Scene(starting=True)
    scene.says(scene.leader, "listening")
    for _ in range(12):
        scene.place.watch({scene.leader.pid: 1}, LOOK_S, LOOK_S, 1.0)
    assert scene.leader.signals == [signal.SIGKILL]


@pytest.mark.parametrize("listens", [False, True])
def test_frozen_follower_that_is_promoted_is_killed(listens: bool) -> None:
    scene = Scene()
    scene.ends(scene.leader, -signal.SIGKILL)
    if listens:
        scene.serves(scene.follower)
    scene.cluster.pass_s(PROMOTION_S_MAX)
    assert scene.follower.signals == ([] if listens else [signal.SIGKILL])


def test_follower_that_is_quiet_when_its_leader_dies_is_killed_and_a_worker_started() -> None:
    scene = Scene()
    scene.follower.silent_s = FOLLOWER_QUIET_S_MAX + LOOK_S
    assert not scene.place.is_followed
    scene.ends(scene.leader, -signal.SIGKILL)
    assert scene.follower.signals == [signal.SIGKILL]
    scene.ends(scene.follower, -signal.SIGKILL)
    scene.cluster.pass_s(RESTART_S_MIN)
    assert scene.cluster.spawned[2].told == ["start"]


def test_leader_that_hands_over_is_not_killed_for_its_heartbeat() -> None:
    scene = Scene()
    scene.says(scene.leader, "leaving")
    for _ in range(12):
        scene.place.watch({scene.leader.pid: 1}, LOOK_S, LOOK_S, 1.0)
    assert scene.leader.signals == []


def test_machine_that_stood_still_kills_nobody() -> None:
    pulse = Pulse()
    pulse.looked(1, LOOK_S, 2 * LOOK_S)
    assert pulse.looked(1, 3_600.0, 2 * LOOK_S) == pytest.approx(2 * LOOK_S)


def test_follower_that_says_nothing_is_killed() -> None:
    scene = Scene()
    beats = {scene.leader.pid: 0}
    for look in range(int(FOLLOWER_SILENT_S_MAX / LOOK_S) + 2):
        beats[scene.leader.pid] = look
        scene.place.watch(beats, LOOK_S, LOOK_S, 1.0)
    assert scene.follower.signals == [signal.SIGKILL]
    assert scene.leader.signals == []


def test_worker_that_is_terminated_alone_hands_over_and_is_drained_once_the_follower_serves() -> None:
    scene = Scene()
    scene.says(scene.leader, "leaving")
    assert scene.leader.told == ["start", "hand_over"]
    assert scene.follower.told == ["follow"]
    scene.says(scene.leader, "released")
    assert scene.follower.told == ["follow", "promote"]
    assert scene.cluster.successors == [(scene.leader, scene.follower)]
    assert scene.state() == ShardState.SERVING, "calls wait, so nobody needs to know"
    assert "drain" not in scene.leader.told
    scene.serves(scene.follower)
    assert scene.leader.told[-1] == "drain"
    scene.says(scene.leader, "drained")
    assert scene.leader.told[-1] == "close"
    scene.ends(scene.leader, Exit.OK)
    assert scene.place.leader is scene.follower
    assert scene.place.retired == []
    assert scene.cluster.map.workers[0].state == WorkerState.SERVING


def test_signal_to_all_processes_begins_no_handover() -> None:
    scene = Scene()
    scene.place.heard(scene.leader, Message("leaving", {}, []))
    scene.cluster.ending = True
    scene.cluster.pass_s(LEAVING_S)
    assert scene.leader.told == ["start"]


def test_follower_that_is_terminated_alone_ends_and_is_replaced() -> None:
    scene = Scene()
    scene.says(scene.follower, "leaving")
    assert scene.follower.told == ["follow", "close"]
    scene.ends(scene.follower, Exit.OK)
    assert scene.cluster.spawned[2].told == ["follow"]
    assert scene.leader.told == ["start"]


def test_worker_that_is_terminated_alone_without_follower_drains_and_is_started_again() -> None:
    scene = Scene(followed=False)
    scene.says(scene.leader, "leaving")
    assert scene.leader.told == ["start", "drain"]
    scene.says(scene.leader, "drained")
    scene.ends(scene.leader, Exit.OK)
    scene.cluster.pass_s(RESTART_S_MIN)
    assert scene.cluster.spawned[1].told == ["start"]


def test_follower_that_dies_during_the_handover_leaves_a_start_as_ever() -> None:
    scene = Scene()
    scene.says(scene.leader, "leaving")
    scene.ends(scene.follower, -signal.SIGKILL)
    scene.says(scene.leader, "released")
    assert scene.cluster.spawned[2].told == ["start"]
    scene.serves(scene.cluster.spawned[2])
    assert scene.leader.told[-1] == "drain"


def test_leader_that_dies_during_the_handover_is_taken_over() -> None:
    scene = Scene()
    scene.says(scene.leader, "leaving")
    scene.ends(scene.leader, -signal.SIGKILL)
    assert scene.place.leader is scene.follower


def test_leader_that_does_not_give_its_shards_away_is_killed() -> None:
    scene = Scene()
    scene.says(scene.leader, "leaving")
    scene.cluster.pass_s(HAND_OVER_S_MAX)
    assert scene.leader.signals == [signal.SIGKILL]


def test_level_is_raised_once_every_process_knows_the_next_and_only_once() -> None:
    scene = Scene()
    assert not scene.place.level_due()
    scene.leader.level_max = 2
    assert not scene.place.level_due(), "the follower does not know it"
    scene.follower.level_max = 2
    assert scene.place.level_due()
    scene.place.raise_level()
    assert scene.leader.told[-1] == "raise_level"
    assert not scene.place.level_due()


def test_what_a_follower_has_archived_is_told_to_the_leader() -> None:
    scene = Scene()
    scene.says(scene.follower, "archived", shard=2, sequence=5)
    assert scene.leader.told[-1] == "archived"


def adopted(role: str, **state: Any) -> dict[str, Any]:
    levels = {"level_now": 1, "level_max": 1}
    if role == "follower":
        return {"role": role, "following": [{"shard": shard, "sequence": 7, **levels} for shard in SHARDS]}
    recovered = [{"shard": s, "log_id": "ab" * 16, "sequence": 7, "seconds": 0.1, **levels} for s in SHARDS]
    flags = {"listening": True, "released": False, "leaving": False, "drained": False}
    return {"role": role, "recovered": recovered, **flags, **state}


def test_adopted_leader_and_follower_serve_on() -> None:
    cluster = FakeCluster(starting=True)
    place = Place(cluster, 0, SHARDS, followed=True)
    leader, follower = FakeMember("worker 0", 1), FakeMember("follower 0", 2)
    place.adopt(follower, adopted("follower"))
    place.adopt(leader, adopted("leader"))
    place.start()
    place.settle()
    assert place.serves
    assert place.is_followed
    assert cluster.spawned == []
    assert cluster.map.shards[2].state == ShardState.SERVING


def test_follower_whose_leader_died_without_a_supervisor_is_promoted_by_the_next() -> None:
    cluster = FakeCluster(starting=True)
    place = Place(cluster, 0, SHARDS, followed=True)
    follower = FakeMember("follower 0", 2)
    place.adopt(follower, adopted("follower"))
    place.start()
    assert place.leader is follower
    assert follower.told == ["promote"]


def test_handover_that_a_dead_supervisor_began_is_finished_by_the_next() -> None:
    cluster = FakeCluster(starting=True)
    place = Place(cluster, 0, SHARDS, followed=True)
    old, follower = FakeMember("worker 0", 1), FakeMember("follower 0", 2)
    place.adopt(old, adopted("leader", released=True))
    place.adopt(follower, adopted("follower"))
    place.start()
    assert place.leader is follower
    assert place.retired == [old]
    assert cluster.successors == [(old, follower)]


def test_leader_that_was_told_by_a_dead_supervisor_to_hand_over_has_a_time_limit() -> None:
    cluster = FakeCluster(starting=True)
    place = Place(cluster, 0, SHARDS, followed=True)
    leader = FakeMember("worker 0", 1)
    place.adopt(leader, adopted("leader", handing_over=True))
    assert leader.handing_over
    cluster.pass_s(HAND_OVER_S_MAX)
    assert leader.signals == [signal.SIGKILL]


def test_of_two_followers_and_two_leaders_one_each_is_kept() -> None:
    cluster = FakeCluster(starting=True)
    place = Place(cluster, 0, SHARDS, followed=True)
    leaders = FakeMember("worker 0", 1), FakeMember("worker 0", 2)
    followers = FakeMember("follower 0", 3), FakeMember("follower 0", 4)
    for member in leaders:
        place.adopt(member, adopted("leader"))
    for member in followers:
        place.adopt(member, adopted("follower"))
    assert (place.leader, place.follower) == (leaders[0], followers[1])
    assert [member.signals for member in (*leaders, *followers)] == [[], [signal.SIGKILL], [signal.SIGKILL], []]
    leaders[1].pid = followers[0].pid = 0
    place.ended(leaders[1], None)
    place.ended(followers[0], None)
    assert place.members == [leaders[0], followers[1]]
