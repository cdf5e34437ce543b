"""One worker's place: who serves there, who stands by, and who is on the way out.

Here it is decided what follows when one of them says something or ends. Processes, clocks and the map are the
supervisor's, so that a test can decide alone what happens, and see what follows.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import structlog

from engine.channel import Message
from engine.child import Backoff, Child, ended_by
from engine.exits import Exit
from engine.limits import (
    CLOSE_S_MAX,
    DRAIN_S_MAX,
    FOLLOWER_QUIET_S_MAX,
    FOLLOWER_SILENT_S_MAX,
    HAND_OVER_S_MAX,
    LEAVING_S,
    LISTEN_S_MAX,
    PROMOTION_S_MAX,
)
from engine.partition_map import PartitionMap, ShardState, WorkerState

log = structlog.get_logger()


@dataclass(frozen=True)
class Recovered:
    """A shard, as it was when its worker had opened it."""

    log_id: str
    sequence: int
    seconds: float


class Member(Child):
    """A process of a place, and what it has said of itself since."""

    def __init__(
        self, name: str, heard: Callable[[Any, Message], None], ended: Callable[[Any, int | None], None]
    ) -> None:
        super().__init__(name, heard, ended)
        self.listening = False
        self.recovered: dict[int, Recovered] = {}
        # Shards of which it has read all there was.
        self.following: set[int] = set()
        # Records that were published and that it has not applied, of all its shards, when it said so last.
        self.lag = 0
        # It runs, as far as it has said anything.
        self.standing = False
        self.silent_s = 0.0
        # The newest level that its program knows, and that of each log it has open.
        self.level_max = 0
        self.levels: dict[int, int] = {}
        self.handing_over = self.released = self.leaving = self.drained = False
        # Of its certificate, and of the files that say who may call, as it said last.
        self.guard: dict[str, Any] = {}
        # For standing still: it takes its time to end if it waits for a disk.
        self.killed = False
        self.pulse = Pulse()


class Pulse:
    """How long a heartbeat has not moved, as far as somebody looked: who slept himself has seen nothing stand still."""

    def __init__(self) -> None:
        self._last = 0
        self._still_s = 0.0

    def looked(self, heartbeat: int, since_last_look_s: float, look_s_max: float) -> float:
        """Seconds that it stands still now."""
        if heartbeat != self._last:
            self._last, self._still_s = heartbeat, 0.0
        else:
            self._still_s += min(since_last_look_s, look_s_max)
        return self._still_s


class Cluster(Protocol):
    """What a place needs of the supervisor."""

    map: PartitionMap

    @property
    def starting(self) -> bool:
        """Not everything has been served yet."""

    @property
    def fresh(self) -> bool:
        """Nothing has, not even by those whom a former supervisor left."""

    @property
    def ending(self) -> bool:
        """All are to end."""

    @property
    def now_s(self) -> float: ...
    def spawn(self, place: Place, name: str) -> Member: ...
    def begin(self, place: Place, member: Member, kind: str) -> None:
        """Tells it everything it needs to lead (`start`) or to stand by (`follow`, `replay`)."""

    def link(self, number: int) -> None:
        """Makes new links between a worker and all that it has to do with."""

    def link_successor(self, number: int, old: Member, new: Member) -> None: ...
    def later(self, seconds: float, then: Callable[[], None]) -> None: ...
    def give_up(self, code: int, message: str) -> None: ...
    def members_changed(self) -> None:
        """There is another process, or one has another name now."""


class Place:
    """`number`: that of the worker. `shards`: those it hosts."""

    def __init__(self, cluster: Cluster, number: int, shards: list[int], *, followed: bool) -> None:
        self.number = number
        self.shards = shards
        # Whether somebody is to stand by.
        self.followed = followed
        self.leader: Member | None = None
        self.follower: Member | None = None
        # Those that have given their shards away, and answer what is left.
        self.retired: list[Member] = []
        self.leads = 0
        # A follower of this log ended because it found leader and log, or log and state, to differ.
        self.refused = False
        # By shard: what was closed up to there is in the archive.
        self.archived: dict[int, int] = {}
        self._cluster = cluster
        self._backoff = Backoff()
        self._follower_backoff = Backoff()
        # Somebody is to be started soon.
        self._start_due = False
        self._follow_due = False

    @property
    def members(self) -> list[Member]:
        return [member for member in (self.leader, self.follower, *self.retired) if member is not None]

    @property
    def serves(self) -> bool:
        leader = self.leader
        return leader is not None and leader.listening and len(leader.recovered) == len(self.shards)

    @property
    def is_followed(self) -> bool:
        """Somebody could take over now."""
        follower = self.follower
        if follower is None or not follower.standing or follower.silent_s > FOLLOWER_QUIET_S_MAX:
            return False
        return len(follower.following) == len(self.shards)

    # Starting.

    def start(self) -> None:
        self._start_due = False
        if self._cluster.ending or self.leader is not None:
            return
        if self.is_followed:
            self.promote()
            return
        leader = self._cluster.spawn(self, f"worker {self.number}")
        self._leads(leader)
        self._listens_within(LISTEN_S_MAX, leader)
        self._cluster.begin(self, leader, "start")
        self._tell_archived(leader)
        self._cluster.link(self.number)

    def stand_by(self) -> None:
        self._follow_due = False
        if self.wants_follower:
            self._follow("follower", "follow")

    def replay(self) -> None:
        """Somebody who stands by for as long as it takes to write a snapshot."""
        if self.follower is None and not self.refused:
            self._follow("replayer", "replay")

    def _follow(self, name: str, kind: str) -> None:
        self.follower = self._cluster.spawn(self, f"{name} {self.number}")
        self._follower_backoff.began(self._cluster.now_s)
        self._cluster.members_changed()
        self._cluster.begin(self, self.follower, kind)

    @property
    def wants_follower(self) -> bool:
        return self.followed and not self.refused and self.follower is None and not self._cluster.ending

    def promote(self) -> None:
        """The follower leads from now on. The one before has ended, or has given everything away."""
        new = self.follower
        assert new is not None
        self.follower = None
        new.name = f"worker {self.number}"
        log.info(f"{new.name} is taken over by its follower", pid=new.pid, lag=new.lag)
        new.send("promote")
        self._tell_archived(new)
        self._leads(new)
        self._listens_within(PROMOTION_S_MAX, new)
        for old in self.retired:
            if self.shards and not old.leaving:
                self._cluster.link_successor(self.number, old, new)
        self._cluster.link(self.number)

    def _tell_archived(self, leader: Member) -> None:
        for shard, sequence in self.archived.items():
            leader.send("archived", shard=shard, sequence=sequence)

    def _listens_within(self, seconds: float, leader: Member) -> None:
        """From when it listens on, its heartbeat is watched."""

        def kill() -> None:
            if leader.alive and leader is self.leader and not leader.listening and not self._cluster.ending:
                log.error(f"{leader.name} does not begin to listen and is killed", pid=leader.pid, seconds=seconds)
                leader.signal(signal.SIGKILL)

        self._cluster.later(seconds, kill)

    def _leads(self, member: Member) -> None:
        self.leader = member
        self.leads += 1
        self._backoff.began(self._cluster.now_s)
        # Who gave its shards away still answers for them what was asked before.
        if not any(old.released and not old.leaving for old in self.retired):
            self._cluster.map.worker_is(self.number, WorkerState.STARTING)
            for shard in self.shards:
                self._cluster.map.shard_is(shard, ShardState.RECOVERING)
        self._cluster.members_changed()

    def adopt(self, member: Member, state: dict[str, Any]) -> None:
        """A process that a former supervisor left. Its name says what it was called, its state what it is."""
        if state["role"] == "follower":
            self._one_too_many(self.follower)
            self.follower = member
            member.standing = True
            for shard in state["following"]:
                member.following.add(shard["shard"])
                self._knows_level(member, shard)
            return
        member.listening = state["listening"]
        member.released, member.leaving, member.drained = (state[name] for name in ("released", "leaving", "drained"))
        for shard in state["recovered"]:
            member.recovered[shard["shard"]] = Recovered(shard["log_id"], shard["sequence"], shard["seconds"])
            self._knows_level(member, shard)
        if member.released:
            self.retired.append(member)
        elif self.leader is not None and self.leader.recovered:
            self._one_too_many(member)
        else:
            self._one_too_many(self.leader)
            self._leads(member)
            if state.get("handing_over", False):
                # What this one was told by the former supervisor.
                self._gives_away(member)
            if member.listening:
                self._cluster.map.worker_is(self.number, WorkerState.SERVING)
            for shard, recovered in member.recovered.items():
                self._cluster.map.shard_is(shard, ShardState.SERVING, recovered.log_id)

    def _one_too_many(self, member: Member | None) -> None:
        """What a supervisor leaves that dies in the middle of an upgrade."""
        if member is not None:
            log.error(f"there is another {member.name}, so this one is killed", pid=member.pid)
            member.leaving = True
            self.retired.append(member)
            member.signal(signal.SIGKILL)

    def adopted(self) -> None:
        """All are adopted: what the former supervisor was about to say is said."""
        for member in self.members:
            if member.drained:
                member.send("close")

    def settle(self) -> None:
        """After anything has happened: what is due, if everything is as it should be."""
        if self._cluster.ending:
            return
        if self.leader is None and self.leads and self.is_followed:
            # It was not ready when the leader ended, or there was no supervisor.
            self.promote()
        if not self.serves:
            return
        for old in self.retired:
            if not old.leaving:
                self._drain(old)
        if self.wants_follower and not self._follow_due and not self._cluster.starting:
            self._follow_due = True
            self._cluster.later(0, self.stand_by)

    # What they say.

    def heard(self, member: Member, message: Message) -> None:
        member.silent_s = 0.0
        match message.kind:
            case "listening":
                member.listening = True
                if member is self.leader:
                    self._cluster.map.worker_is(self.number, WorkerState.SERVING)
            case "recovered":
                shard = message["shard"]
                member.recovered[shard] = Recovered(message["log_id"], message["sequence"], message["seconds"])
                self._knows_level(member, message.fields)
                if member is self.leader:
                    self._cluster.map.shard_is(shard, ShardState.SERVING, message["log_id"])
                log.info("recovered", **message.fields)
            case "following":
                member.following.add(message["shard"])
                self._knows_level(member, message.fields)
                log.info("following", **message.fields)
            case "beat":
                member.standing = True
                member.lag = message["lag"]
            case "guard":
                member.guard = message.fields
            case "snapshot":
                log.info("snapshot", **message.fields)
            case "snapshot_failed":
                log.error("a snapshot failed; nothing is dropped, and it is tried again when due", **message.fields)
            case "archived":
                self.archived[message["shard"]] = message["sequence"]
                if self.leader is not None:
                    self.leader.send("archived", **message.fields)
            case "diverged":
                self.refused = True
                text = "a follower ends, and none is started for this log again: somebody has to look at it"
                log.critical(text, **message.fields)
            case "released":
                member.released = True
                self._released(member)
            case "leaving":
                # A signal to all processes reaches the supervisor too, perhaps a moment later.
                self._cluster.later(LEAVING_S, lambda: self.leave(member))
            case "drained":
                member.drained = True
                if not self._cluster.ending:
                    member.send("close")
            case "failed":
                # No descriptors, no memory, a disk that comes back: later it may do better, and others serve on.
                if self._cluster.fresh or message["code"] == Exit.DAMAGED:
                    self._cluster.give_up(message["code"], message["message"])
            case _:
                raise AssertionError(f"{member.name} said {message.kind}")

    @staticmethod
    def _knows_level(member: Member, said: dict[str, Any]) -> None:
        member.level_max = said["level_max"]
        member.levels[said["shard"]] = said["level_now"]

    def level_due(self) -> bool:
        """Every process that reads these logs knows a newer level than theirs, and the leader has not been told yet."""
        leader = self.leader
        if leader is None or not self.serves or self.retired or (self.followed and not self.is_followed):
            return False
        known = min(member.level_max for member in self.members)
        return any(level < known for level in leader.levels.values())

    def raise_level(self) -> None:
        leader = self.leader
        assert leader is not None
        known = min(member.level_max for member in self.members)
        leader.levels = dict.fromkeys(leader.levels, known)
        leader.send("raise_level")

    # Going, one by one.

    def leave(self, member: Member) -> None:
        """SIGTERM came to it alone."""
        if self._cluster.ending or member.leaving or not member.alive:
            return
        if member is self.follower:
            # It has nothing to answer.
            member.leaving = True
            member.send("close")
        elif member is self.leader and self.serves and self.is_followed:
            self.hand_over()
        else:
            if member is self.leader:
                self._cluster.map.worker_is(self.number, WorkerState.DRAINING)
            self._drain(member)

    def hand_over(self) -> None:
        """From the leader to the follower, and nobody notices."""
        old = self.leader
        assert old is not None
        log.info(f"{old.name} hands over", pid=old.pid)
        old.send("hand_over")
        self._gives_away(old)

    def _gives_away(self, old: Member) -> None:
        old.handing_over = True

        def kill() -> None:
            if old.alive and not old.released:
                log.error(f"{old.name} does not give its shards away and is killed")
                old.signal(signal.SIGKILL)

        self._cluster.later(HAND_OVER_S_MAX, kill)

    def _released(self, old: Member) -> None:
        if old is not self.leader:
            return
        self.leader = None
        old.name = f"{old.name} (leaving)"
        self.retired.append(old)
        self.start()

    def _drain(self, member: Member) -> None:
        member.leaving = True
        member.send("drain")

        def kill() -> None:
            if member.alive and not self._cluster.ending:
                log.error(f"{member.name} does not end and is killed")
                member.signal(signal.SIGKILL)

        self._cluster.later(DRAIN_S_MAX + CLOSE_S_MAX, kill)

    # Ends.

    def ended(self, member: Member, code: int | None) -> None:
        self._cluster.members_changed()
        if member in self.retired:
            self.retired.remove(member)
            self._say(member, code)
        elif member is self.follower:
            self.follower = None
            self._follower_ended(member, code)
        else:
            self.leader = None
            self._cluster.map.worker_is(self.number, WorkerState.DOWN)
            for shard in self.shards:
                self._cluster.map.shard_is(shard, ShardState.DOWN)
            self._leader_ended(member, code)

    def _leader_ended(self, member: Member, code: int | None) -> None:
        if self._cluster.ending:
            self._say(member, code)
            return
        if self._cluster.fresh and code == Exit.WRONG:
            # An error that nobody foresaw; before anything was served, somebody is watching the start.
            self._cluster.give_up(Exit.UNUSABLE, f"{member.name} cannot start; its log lines say why")
            return
        if code == Exit.SYNC_FAILED:
            log.critical("a write or sync of the log failed: look after the disk", child=member.name)
        wait_s = self._backoff.ended(self._cluster.now_s)
        if self.is_followed:
            log.error(f"{member.name} died", how=ended_by(code))
            self.promote()
        elif not self._start_due:
            log.error(f"{member.name} died", how=ended_by(code), started_again_in_s=wait_s)
            self._start_due = True
            self._cluster.later(wait_s, self.start)
            follower = self.follower
            if follower is not None and follower.silent_s > FOLLOWER_QUIET_S_MAX:
                log.error(f"{follower.name} is quiet when it should take over, and is killed", pid=follower.pid)
                follower.signal(signal.SIGKILL)

    def _follower_ended(self, member: Member, code: int | None) -> None:
        if self._cluster.ending or member.leaving or self.refused or not self.followed:
            self._say(member, code)
        else:
            wait_s = self._follower_backoff.ended(self._cluster.now_s)
            log.error(f"{member.name} died", how=ended_by(code), started_again_in_s=wait_s)
            self._follow_due = True
            self._cluster.later(wait_s, self.stand_by)

    @staticmethod
    def _say(member: Member, code: int | None) -> None:
        if code not in (Exit.OK, None):
            log.error(f"{member.name} died", how=ended_by(code))

    # Who does not move.

    def watch(
        self, heartbeats: dict[int, int], since_last_look_s: float, look_s_max: float, still_s_max: float
    ) -> None:
        """heartbeats: what the board shows, by pid."""
        leader = self.leader
        # Its loop runs also while its logs are recovered. Handing over has a time limit of its own.
        if leader is not None and leader.listening and not leader.handing_over and leader.pid in heartbeats:
            still_s = leader.pulse.looked(heartbeats[leader.pid], since_last_look_s, look_s_max)
            if still_s >= still_s_max and not leader.killed:
                leader.killed = True
                text = f"{leader.name} shows no heartbeat and is killed"
                log.error(text, pid=leader.pid, seconds=round(still_s, 3))
                leader.signal(signal.SIGKILL)
        follower = self.follower
        if follower is not None:
            follower.silent_s += min(since_last_look_s, look_s_max)
            if follower.silent_s > FOLLOWER_SILENT_S_MAX and not follower.killed:
                follower.killed = True
                log.error(f"{follower.name} says nothing and is killed", pid=follower.pid)
                follower.signal(signal.SIGKILL)
