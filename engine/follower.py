"""A process that stands by: it follows the logs of one worker's shards, writes their snapshots, and may take over.

Each shard has a thread, which stands behind the others of the machine. The native core does the work without the GIL;
here are the schedule, what becomes of snapshots and segments, and the way to the archive.

Segments go once they lie behind the older of two snapshots. They need not wait for the archive: what a snapshot holds
is every order that was not evicted before it, and an Evict is logged only after the archive has said that it has those
orders. Nor does the archive need the log: it is fed from the state, which begins with what the snapshot holds.
"""

from __future__ import annotations

import asyncio
import math
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import structlog

from engine import datadir, logs
from engine._core import LIMITS, Engine, Follower, give_way, journal_durable
from engine.channel import Channel, Message
from engine.child import State, ended_by
from engine.errors import JournalDamaged, JournalFormatError, ReplayMismatch, SnapshotDamaged
from engine.exits import Exit, in_words
from engine.feeding import Feeding
from engine.limits import BEAT_S, SNAPSHOT_BYTES_PER_S
from engine.schedule import Schedule, position_of, schedule_of, segment_bytes_of
from engine.snapshots import drop_behind
from engine.tls import Certificates, TlsError
from engine.worker import Start, Worker

# Behind the workers, so that orders come first; before what has all the time, since it must keep up.
NICE = 5
# One call of the core: some milliseconds, after which a promotion is noticed.
RECORDS_MAX = 8_192
# Between two looks into the log while something comes, and while nothing does.
PAUSE_S_MIN = 0.001
PAUSE_S_MAX = 0.01
# Whether a snapshot is due, and whether a segment for the takeover is there.
LOOK_S = 1.0
# Until an audit that could not begin is tried again.
AUDIT_PAUSE_S = 60.0

log = structlog.get_logger()

# Forked children of one process, one at a time: each of them may copy what the process writes meanwhile.
_forking = threading.Lock()


class Tail:
    """One shard. run() is its thread; stop() may be called by any."""

    def __init__(self, channel: Channel, shard: int, start: Start) -> None:
        self.shard = shard
        self.follower: Follower | None = None
        self.caught_up = False
        self.lag = 0
        # Grows while the thread does.
        self.turns = 0
        self._channel = channel
        self._start = start
        self._directory = start.directories[shard]
        self._segment_bytes = 0
        self._schedule: Schedule
        # When it is tried; never again once it has begun.
        self._audit_s = 0.0
        self._saves = 0
        self._fed = False
        self._stop = threading.Event()
        # Its snapshot is there, or will not be.
        self.finished = threading.Event()
        self._child: Child | None = None
        self._feeding = Feeding(channel, shard, start.follow["archive"])
        self._thread = threading.Thread(target=self._run, name=f"everopen-follow-{shard}", daemon=True)

    def begin(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """It goes no further than where it is; what a child of it writes is not finished."""
        self._stop.set()

    def take_over(self) -> Engine:
        """On a thread of the caller, since that of the tail stands behind all others for ever. After stop()."""
        self._thread.join()
        if self.follower is None:
            raise JournalDamaged(str(self._directory), 0, 0, "the follower had not begun")
        return self.follower.promote()

    def _run(self) -> None:
        give_way(NICE)
        try:
            self._open()
            self._follow()
        except (ReplayMismatch, JournalDamaged, JournalFormatError, SnapshotDamaged) as error:
            self._diverged(in_words(error))
        except BaseException:
            log.exception("the follower failed", shard=self.shard)
            os._exit(Exit.WRONG)
        finally:
            self._feeding.stop()
            if self._child is not None:
                self._child.kill()

    def _open(self) -> None:
        follow = self._start.follow
        self.follower = Follower(
            str(self._directory),
            board_fd=self._start.board_fd,
            workers=self._start.workers,
            shard=self.shard,
            **self._start.sizes,
        )
        for damage in self.follower.shard.passed_over.values():
            log.critical("a snapshot is damaged: an older one was taken", shard=self.shard, error=damage)
        if self._start.expect_orders:
            self.follower.shard.expect(self._start.expect_orders)
        self._segment_bytes = segment_bytes_of(self._directory)
        self._schedule = schedule_of(self._directory, follow["snapshot_bytes"], follow["snapshot_s"], time.monotonic())

    def _follow(self) -> None:
        assert self.follower is not None
        pause_s = PAUSE_S_MIN
        look_s = 0.0
        while not self._stop.is_set():
            applied = self.follower.follow(RECORDS_MAX)
            self.turns += 1
            if applied:
                pause_s = PAUSE_S_MIN
            elif not self.caught_up:
                self._catches_up(self.follower)
            now_s = time.monotonic()
            self._fed = self.caught_up and self._feeding.go_on(self.follower.shard, now_s, self._end)
            if now_s >= look_s:
                look_s = now_s + LOOK_S
                self.lag = self.follower.lag
                self._look(self.follower)
            if applied < RECORDS_MAX:
                self._stop.wait(pause_s)
                pause_s = min(2 * pause_s, PAUSE_S_MAX)

    def _end(self) -> int | None:
        """Where the log ends for whoever leads; after a crash of the machine it is unknown until somebody does."""
        durable = journal_durable(str(self._directory)) if datadir.is_locked(self._directory) else None
        return None if durable is None else durable["sequence"]

    def _catches_up(self, follower: Follower) -> None:
        self.caught_up = True
        self.lag = follower.lag
        self._channel.say("following", **self.following)
        if self._start.once:
            return
        threading.Thread(target=self._prepare, name=f"everopen-spare-{self.shard}", daemon=True).start()

    @property
    def following(self) -> dict[str, Any]:
        assert self.follower is not None
        return {
            "shard": self.shard,
            "sequence": self.follower.sequence,
            "level_now": self.follower.shard.level,
            "level_max": LIMITS["LEVEL_MAX"],
        }

    def _prepare(self) -> None:
        """Zeros to a file, synced: what makes the takeover quick is done long before."""
        assert self.follower is not None
        while not self._stop.is_set():
            try:
                self.follower.prepare()
            except OSError as error:
                if self._stop.is_set():
                    # It was told to leave off.
                    return
                text = "no segment can be prepared; a takeover would take longer"
                log.warning(text, shard=self.shard, error=str(error))
            self._stop.wait(10 * LOOK_S)

    def _look(self, follower: Follower) -> None:
        child = self._child
        if child is not None:
            code = child.code()
            if code is None:
                return
            self._child = None
            _forking.release()
            if child.what == "audit":
                self._audited(code)
            else:
                self._saved(child, code)
        if self._start.once:
            self._once(follower)
            return
        now_s = time.monotonic()
        if self.caught_up and now_s >= self._audit_s and _forking.acquire(blocking=False):
            self._audit(follower, now_s)
            return
        position = position_of(self._directory, self._segment_bytes)
        if self._schedule.due(position, follower.sequence, now_s) and _forking.acquire(blocking=False):
            self._schedule.tried(position, now_s)
            self._save(follower)

    def _audit(self, follower: Follower, now_s: float) -> None:
        """Once: what it begins with came from a file and a log; from then on each record is compared."""
        self._audit_s = math.inf
        try:
            pid = follower.shard.check_in_child()
        except OSError as error:
            _forking.release()
            self._audit_s = now_s + AUDIT_PAUSE_S
            log.warning("the audit cannot begin; it is tried again", shard=self.shard, error=str(error))
            return
        self._child = Child("audit", pid)

    def _once(self, follower: Follower) -> None:
        if self._fed and not self._saves and _forking.acquire(blocking=False):
            self._save(follower)
        if self._saves and self._child is None:
            self.finished.set()

    def _save(self, follower: Follower) -> None:
        self._saves += 1
        # Of one that was killed in the middle.
        for left in self._directory.glob("snapshot-*.snap.tmp"):
            left.unlink(missing_ok=True)
        path = datadir.snapshot_path(self._directory, follower.sequence)
        try:
            pid = follower.shard.save_in_child(str(path), SNAPSHOT_BYTES_PER_S)
        except OSError as error:
            _forking.release()
            self._channel.say("snapshot_failed", shard=self.shard, how=str(error))
            return
        self._child = Child("snapshot", pid, follower.sequence, path)

    def _saved(self, child: Child, code: int) -> None:
        if code != 0:
            self._channel.say("snapshot_failed", shard=self.shard, how=ended_by(code))
            return
        self._schedule.taken(child.sequence)
        if self._start.once:
            self._drop(child)
        else:
            # Each segment takes its time, for which a takeover shall not wait.
            threading.Thread(target=self._drop, args=(child,), name=f"everopen-drop-{self.shard}", daemon=True).start()

    def _drop(self, child: Child) -> None:
        """Whoever leads meanwhile is not disturbed: the newest segments stay."""
        size = child.path.stat().st_size if child.path.exists() else 0
        assert self.follower is not None
        dropped = drop_behind(self._directory, child.sequence, self.follower.shard.passed_over)
        self._channel.say(
            "snapshot",
            shard=self.shard,
            sequence=child.sequence,
            bytes=size,
            seconds=round(time.monotonic() - child.began_s, 3),
            segments_dropped=dropped,
        )

    def _audited(self, code: int) -> None:
        if code == 1:
            self._diverged("the audit fails: an invariant does not hold; stderr has it")
        elif code != 0:
            log.error("the audit did not end", shard=self.shard, how=ended_by(code))
        else:
            log.info("the audit holds", shard=self.shard)

    def _diverged(self, message: str) -> None:
        log.critical("this follower cannot follow: look after the log", shard=self.shard, error=message)
        self._channel.say("diverged", shard=self.shard, message=message)
        os._exit(Exit.DAMAGED)


class Child:
    """A forked child: `what` it does, and of which snapshot."""

    def __init__(self, what: str, pid: int, sequence: int = 0, path: Path = Path()) -> None:
        self.what = what
        self.sequence = sequence
        self.path = path
        self.began_s = time.monotonic()
        self._pid = pid

    def code(self) -> int | None:
        """None: it is not finished."""
        found, status = os.waitpid(self._pid, os.WNOHANG)
        return os.waitstatus_to_exitcode(status) if found else None

    def kill(self) -> None:
        """Does not wait: giving back the memory of a large one takes longer than a takeover may."""
        os.kill(self._pid, signal.SIGKILL)
        threading.Thread(target=os.waitpid, args=(self._pid, 0), name="everopen-reap", daemon=True).start()


class StandingBy:
    """What this process is until it is promoted."""

    def __init__(self, channel: Channel, tasks: asyncio.TaskGroup, start: Start) -> None:
        self.start = start
        self._channel = channel
        self._tasks = tasks
        self._tails = {shard: Tail(channel, shard, start) for shard in start.hosted}
        self._relay = start.relay
        self._relay_secret = start.relay_secret
        self._certificates: Certificates | None = None
        self._beats: asyncio.Task[None] | None = None
        self._promotion = False

    def begin(self) -> None:
        # Read beforehand: files that are broken when it takes over keep nobody from being served.
        try:
            self._certificates = self.start.certificates()
        except TlsError as error:
            log.error("certificates cannot be read; a takeover tries again", error=str(error))
        if self._certificates is not None:
            self._tasks.create_task(self._certificates.watch())
        for tail in self._tails.values():
            tail.begin()
        self._beats = self._tasks.create_task(self._beat())
        if not self.start.once:
            # Loaded by now: a takeover has no time for that.
            _ = self.start.authenticator
        else:
            threading.Thread(target=self._end_when_finished, daemon=True).start()

    def hear(self, message: Message) -> StandingBy | Worker:
        match message.kind:
            case "promote":
                return self._promoted()
            case "relay":
                self._relay, self._relay_secret = message["path"], message["secret"]
            case "reload":
                if self._certificates is not None:
                    self._certificates.look(again=True)
            case "drain":
                pass
            case "close":
                # Nothing of it is anybody's: children that write end with the threads that made them.
                os._exit(Exit.OK)
            case _:
                raise AssertionError(f"the supervisor said {message.kind}")
        return self

    def state(self) -> State:
        following = [tail.following for tail in self._tails.values() if tail.caught_up]
        state = {"role": "follower", "following": following, "relay_secret": self._relay_secret}
        return self.start.as_state() | state, self.start.fds

    def _end_when_finished(self) -> None:
        for tail in self._tails.values():
            tail.finished.wait()
        if not self._promotion:
            os._exit(Exit.OK)

    async def _beat(self) -> None:
        """Says that all of it lives: a thread that has begun to follow must have gone on since the last time."""
        before: dict[int, int] = {}
        while True:
            turns = {shard: tail.turns for shard, tail in self._tails.items() if tail.turns}
            if all(turns[shard] != count for shard, count in before.items()):
                self._channel.say("beat", lag=sum(tail.lag for tail in self._tails.values()))
            before = turns
            await asyncio.sleep(BEAT_S)

    def _promoted(self) -> Worker:
        self._promotion = True
        for tail in self._tails.values():
            tail.stop()
        if self._beats is not None:
            self._beats.cancel()
        self._channel.name = f"worker {self.start.worker}"
        logs.name(process=self._channel.name)
        engines = {
            shard: asyncio.get_running_loop().run_in_executor(None, tail.take_over)
            for shard, tail in self._tails.items()
        }

        async def engine_of(shard: int) -> Engine:
            return await engines[shard]

        worker = Worker(self._channel, self._tasks, self.start, engine_of, self._relay, self._certificates)
        worker.relay_secret = self._relay_secret
        worker.begin()
        return worker
