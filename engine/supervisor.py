"""`everopen serve`: owns the listening sockets, starts the processes, watches and replaces them.

It is not on the way of an order, and imports no grpc. Everything happens on one thread, in callbacks of the loop: a
child has said something, a child has ended, a signal came, a time is over. Each changes what is known and then calls
`_go_on`, which looks whether the next phase is due. What follows for one worker is decided in engine/place.py.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import structlog

from engine import logs, runtime
from engine._core import Board
from engine.adoption import Orphan
from engine.channel import Message
from engine.child import Child
from engine.exits import Exit
from engine.figures import FIGURES_S, figures, ready_lines
from engine.limits import CLOSE_S_MAX, DRAIN_S_MAX, RELAY_SECRET_BYTES
from engine.links import Links
from engine.listen import Listeners
from engine.partition_map import PartitionMap, WorkerState, hosted_by
from engine.phase import Phase
from engine.place import Member, Place
from engine.post import Post
from engine.settings import Settings
from engine.upgrade import Caller, Upgrade, replace_program
from engine.watch import Watch

log = structlog.get_logger()

# What run() returns when the program is to be replaced: no exit code.
EXEC = -1

STOPPING = (signal.SIGTERM, signal.SIGINT)


class Supervisor:
    """What is known of all children, and what follows from it."""

    def __init__(
        self,
        settings: Settings,
        directories: list[Path],
        listeners: Listeners,
        board: int,
        folder: Path,
        meeting: socket.socket,
        children: runtime.Children,
    ) -> None:
        self.settings = settings
        self._directories = directories
        self._listeners = listeners
        self._board = board
        self._folder = folder
        self._meeting = meeting
        self._children = children
        self._phase = Phase.STARTING
        self._code: int = Exit.OK
        self._done: asyncio.Future[int]
        count, shards = settings.workers, len(directories)
        self.map = PartitionMap.of(listeners.direct_addresses, shards, time.time_ns() // 1_000_000)
        self._told_version = 0
        # What proves to the control server that a call comes from one of our fronts: 256 random bits, in hex.
        self._relay_secret = secrets.token_hex(RELAY_SECRET_BYTES)
        self._since_ns = time.time_ns()
        self._links = Links(count, shards)
        self.places: list[Place] = []
        for number in range(count):
            hosted = hosted_by(number, count, shards)
            self.places.append(Place(self, number, hosted, followed=bool(hosted) and settings.followers > 0))
        paths = [str(folder / name) for name in runtime.CONTROL_SOCKETS]
        self.control = Post(self, "control server", "engine.control", paths, self._begin_control, self._control_said)
        self.archive = Post(
            self,
            "archive",
            "engine.archive",
            [str(folder / runtime.ARCHIVE_SOCKET)],
            self._begin_archive,
            self._archive_said,
        )
        # In the order in which an upgrade replaces them.
        self.posts = [self.control, self.archive]
        self.upgrade: Upgrade | None = None
        # Some were serving before this one began.
        self.adopted = False
        self._watch = Watch(self, Board(board, settings.workers), directories)
        # For those who wait for anything to happen.
        self._changed = asyncio.Event()

    # What the places and posts ask for.

    @property
    def starting(self) -> bool:
        return self._phase == Phase.STARTING

    @property
    def serving(self) -> bool:
        return self._phase == Phase.SERVING

    @property
    def fresh(self) -> bool:
        return self.starting and not self.adopted

    @property
    def ending(self) -> bool:
        return self._phase > Phase.SERVING

    @property
    def now_s(self) -> float:
        return asyncio.get_running_loop().time()

    def spawn(self, place: Place, name: str) -> Member:
        member = self._member_of(place, name)
        member.start("engine.worker", [self._children.fd])
        return member

    def _member_of(self, place: Place, name: str) -> Member:
        def heard(member: Member, message: Message) -> None:
            if message.kind == "linked":
                if member is place.leader:
                    self._links.taken(place.number, message["worker"], message["serial"])
            else:
                place.heard(member, message)
            if message.kind == "snapshot":
                self._watch.taken(message["shard"], message["sequence"])
            self.go_on()

        def ended(member: Member, code: int | None) -> None:
            if member is place.leader:
                self._links.forget(place.number)
            place.ended(member, code)
            self.go_on()

        return Member(name, heard, ended)

    def begin(self, place: Place, member: Member, kind: str) -> None:
        shared, direct = self._listeners.shared, self._listeners.direct[place.number]
        fields: dict[str, Any] = {}
        if kind == "start":
            # Nobody else reads these logs, so nobody need know their level beforehand.
            fields = {"raise_level": place.follower is None}
        else:
            fields = {"snapshot_bytes": self.settings.snapshot_bytes, "snapshot_s": self.settings.snapshot_s}
            fields["archive"] = self.archive.path
            # Nobody else needs it to be there.
            self.archive.start()
        member.send(
            kind,
            [self._board, *(listener.fileno() for listener in (*shared, *direct))],
            worker=place.number,
            workers=len(self.places),
            shards=len(self._directories),
            directories=[str(directory) for directory in self._directories],
            relay=self.control.path,
            settings=self.settings.front,
            tls=None if self.settings.tls is None else asdict(self.settings.tls),
            segment_bytes=self.settings.segment_bytes,
            expect_orders=self.settings.expect_orders,
            shared_listeners=len(shared),
            home=self.home,
            relay_secret=self._relay_secret,
            identity=asdict(self.settings.identity),
            **fields,
        )
        self.go_on()

    @property
    def home(self) -> dict[str, str]:
        """Where children find the next supervisor, and by what it knows them."""
        return {"path": str(self._folder / runtime.SUPERVISOR_SOCKET), "fingerprint": self.settings.fingerprint}

    def link(self, number: int) -> None:
        for pair in self._links.pairs:
            if number in pair:
                self._link(*pair)

    def _link(self, first: int, second: int) -> None:
        ends = [(number, self.places[number].leader) for number in (first, second)]
        [(_, one), (_, other)] = ends
        if one is None or other is None:
            return
        try:
            self._links.make((first, one), (second, other))
        except OSError as error:
            # No descriptors or no memory, perhaps for a while only.
            log.error(f"{one.name} and {other.name} cannot be linked", error=str(error))
            other.signal(signal.SIGKILL)

    def link_successor(self, number: int, old: Member, new: Member) -> None:
        try:
            self._links.make((number, old), (number, new))
        except OSError as error:
            log.error(f"{old.name} and its successor cannot be linked", error=str(error))
            old.signal(signal.SIGKILL)

    def later(self, seconds: float, then: Callable[[], None]) -> None:
        asyncio.get_running_loop().call_later(seconds, then)

    def members_changed(self) -> None:
        """Written before a new child is told anything: one that was never told where supervisors listen ends alone."""
        alive = [child for child in self._everybody() if child.alive]
        try:
            self._children.name(
                runtime.Process(child.pid, runtime.start_time(child.pid), child.name) for child in alive
            )
        except OSError as error:
            # A disk that fails is no reason to end: the next supervisor waits for those that it cannot adopt.
            log.error("the children cannot be named", error=str(error))

    def inherited(self) -> Sequence[int]:
        return [self._children.fd]

    def _everybody(self) -> list[Child]:
        members: list[Child] = [member for place in self.places for member in place.members]
        return members + [child for post in self.posts for child in (post.child, post.former) if child is not None]

    # Running.

    async def run(self, orphans: list[Orphan]) -> int:
        loop = asyncio.get_running_loop()
        self._done = loop.create_future()
        loop.set_exception_handler(self._failed)
        for number in STOPPING:
            loop.add_signal_handler(number, self._signalled, number)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        if self.settings.until_stdin_ends:
            loop.add_reader(sys.stdin.fileno(), self._stdin_ended)
        loop.add_reader(self._meeting.fileno(), self._called)
        code, left = None, False
        try:
            self._adopt(orphans)
            for place in self.places:
                place.start()
            self.control.start()
            self._watch.begin()
            self._tell_control_again()
            self.go_on()
            code = await self._done
            return code
        except Exception:
            # What is known here may be wrong, but those who serve know what they do: the next supervisor adopts them.
            left = not (self.fresh or self.ending)
            raise
        finally:
            if code != EXEC and not left:
                await self._kill_all()

    def _adopt(self, orphans: list[Orphan]) -> None:
        taken: dict[int, dict[int, int]] = {}
        self.adopted = bool(orphans)
        # The control server's first: it goes on to ask for what it was given.
        held = {orphan.name: orphan.state["relay_secret"] for orphan in orphans if "relay_secret" in orphan.state}
        self._relay_secret = next((held[name] for name in sorted(held)), self._relay_secret)
        # The later one of two is the one that was to stay.
        for orphan in sorted(orphans, key=lambda orphan: runtime.start_time(orphan.pid)):
            state = orphan.state
            if "worker" in state and state["worker"] < len(self.places):
                place = self.places[state["worker"]]
                member = self._member_of(place, orphan.name)
                member.adopt(orphan.pid, orphan.pidfd, orphan.channel)
                place.adopt(member, state)
                if member is place.leader:
                    taken[place.number] = {int(peer): serial for peer, serial in state["links"].items()}
                child: Child = member
            else:
                [post] = [post for post in self.posts if post.name == orphan.name]
                child = post.adopt(state["path"])
                child.adopt(orphan.pid, orphan.pidfd, orphan.channel)
            orphan.close_fds()
            log.info("adopted", child=child.name, pid=child.pid)
        self.members_changed()
        for place in self.places:
            place.adopted()
        self.moved(self.control)
        for post in self.posts:
            post.dismiss()
        for pair in self._links.remember(taken):
            self._link(*pair)

    def moved(self, post: Post) -> None:
        """It listens somewhere else now."""
        if post is self.control:
            for place in self.places:
                for member in place.members:
                    member.send("relay", path=post.path, secret=self._relay_secret)

    def _begin_control(self, child: Child) -> None:
        # It is told one thing at a time, so that its channel never fills.
        child.busy = True
        known = {"home": self.home, **self.settings.observing, **self._cluster()}
        known["directories"] = [str(directory) for directory in self._directories]
        known |= {"relay_secret": self._relay_secret, "data_dir": str(self.settings.data_dir)}
        child.send("start", [self._board, *self._listeners.for_control], path=self.control.path, **known)
        self._told_version = self.map.version

    def _control_said(self, child: Child, message: Message) -> None:
        if message.kind == "leaving":
            if not self.ending:
                child.send("drain")
                child.send("close")
        else:
            # `listening`, `seen`: it has taken in what it was told last.
            child.busy = False
            self.control.listening |= child is self.control.child

    def _begin_archive(self, child: Child) -> None:
        child.send(
            "start", directories=[str(path) for path in self._directories], path=self.archive.path, home=self.home
        )

    def _archive_said(self, child: Child, message: Message) -> None:
        if message.kind == "leaving":
            child.send("close")
        else:
            self.archive.listening |= child is self.archive.child

    def _failed(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """An error of the supervisor's own: what it knows may be wrong, so it ends."""
        if not self._done.done():
            self._done.set_exception(context.get("exception") or RuntimeError(context["message"]))

    # Those who call: everopen upgrade.

    def _called(self) -> None:
        Caller.accept(self._meeting, self._asked)

    def _asked(self, caller: Caller, kind: str) -> None:
        """`restart`: the supervisor's own program. `replace`: all others."""
        if self.starting and kind == "replace":
            caller.say("busy")
        elif self._phase != Phase.SERVING or self.upgrade is not None:
            caller.done("the engine is starting, ending or being upgraded: try again later")
        elif kind == "restart":
            replace_program(caller, self.settings, lambda: self._done.set_result(EXEC))
        else:
            self.upgrade = Upgrade(self, caller)
            self.upgrade.begin()

    def upgraded(self) -> None:
        self.upgrade = None
        # Who was told meanwhile may not be the one who is there now.
        self._told_version = 0
        self.go_on()

    async def until(self, holds: Callable[[], bool], seconds: float) -> bool:
        """Waits until something is so; False if it takes longer."""
        end_s = self.now_s + seconds
        while not holds():
            left_s = end_s - self.now_s
            if left_s <= 0:
                return False
            self._changed.clear()
            try:
                await asyncio.wait_for(self._changed.wait(), left_s)
            except TimeoutError:
                continue
        return True

    # Going down.

    def _stdin_ended(self) -> None:
        # Whatever is written there is nobody's business.
        if not os.read(sys.stdin.fileno(), 4_096):
            asyncio.get_running_loop().remove_reader(sys.stdin.fileno())
            self._signalled(signal.SIGTERM)

    def _reload(self) -> None:
        log.info("signal", name=signal.SIGHUP.name)
        for place in self.places:
            for member in place.members:
                member.send("reload")

    def _signalled(self, number: signal.Signals) -> None:
        log.info("signal", name=number.name)
        if not (self.fresh or self.ending):
            self._drain()
        elif not self._done.done():
            # The second one; or the first, while there is nothing yet to drain.
            self._done.set_result(128 + number)

    def give_up(self, code: int, message: str) -> None:
        if self._code == Exit.OK:
            self._code = code
            logs.say(f"everopen: {message}", sys.stderr)
            if code == Exit.DAMAGED:
                verify = f"everopen journal verify --data-dir {self.settings.data_dir}"
                logs.say(f"everopen: look closer with: {verify}", sys.stderr)
        if not self.ending:
            self._drain()

    def _drain(self) -> None:
        self._phase = Phase.DRAINING
        log.info("draining")
        for place in self.places:
            if place.follower is not None:
                place.follower.send("close")
            if place.leader is not None:
                self.map.worker_is(place.number, WorkerState.DRAINING)
                place.leader.send("drain")
            for old in place.retired:
                old.send("drain")
        # After the newest map, so that whoever watches it sees why it ends.
        self._tell_control()
        self.control.send("drain")
        self.later(DRAIN_S_MAX + CLOSE_S_MAX, self._too_late)
        self.go_on()

    def _too_late(self) -> None:
        for child in self._everybody():
            if child.alive:
                log.error(f"{child.name} does not end and is killed")
                child.signal(signal.SIGKILL)

    async def _kill_all(self) -> None:
        """What is left when `run` ends, mostly nothing. Returns once they are gone, so that their locks are free."""
        children = [child for child in self._everybody() if child.alive]
        self._phase = Phase.ENDING
        for child in children:
            child.signal(signal.SIGKILL)
        while any(child.alive for child in children):
            self._changed.clear()
            await self._changed.wait()

    # What follows.

    def go_on(self) -> None:
        """The next phase, if what it waits for has come about."""
        for place in self.places:
            place.settle()
            if self._phase == Phase.SERVING and place.level_due():
                place.raise_level()
        self._tell_control()
        if self._phase == Phase.STARTING and self._is_ready():
            self._phase = Phase.SERVING
            self._tell_ready()
            for place in self.places:
                place.settle()
        if self._phase == Phase.DRAINING and all(member.drained for member in self._serving()):
            self._phase = Phase.CLOSING
            # Nobody accepts any more; whoever still waits for it hears now.
            self._listeners.close()
            for member in self._serving():
                member.send("close")
        if self._phase == Phase.CLOSING and not any(place.members for place in self.places):
            self._phase = Phase.ENDING
            for post in self.posts:
                post.send("close")
        if self._phase == Phase.ENDING and not self._everybody() and not self._done.done():
            log.info("stopped")
            self._done.set_result(self._code)
        self._changed.set()

    def _serving(self) -> list[Member]:
        """All but those who stand by."""
        return [member for place in self.places for member in place.members if member is not place.follower]

    def _is_ready(self) -> bool:
        ready = all(place.serves for place in self.places) and self.control.listening
        return ready and self._links.complete

    def _tell_control(self) -> None:
        child = self.control.child
        if child is not None and not child.busy and self.map.version != self._told_version:
            self._told_version = self.map.version
            child.busy = True
            child.send("cluster", **self._cluster())

    def _tell_control_again(self) -> None:
        """Also what changes without the map, such as how far a follower is."""
        self.later(FIGURES_S, self._tell_control_again)
        self._told_version = 0
        self._tell_control()

    def _cluster(self) -> dict[str, Any]:
        workers = [
            {"pid": place.leader.pid if place.leader else 0, "restarts": max(0, place.leads - 1)}
            for place in self.places
        ]
        return {"map": asdict(self.map), "workers": workers, "figures": figures(self._since_ns, self.places)}

    def _tell_ready(self) -> None:
        """What programs wait for."""
        for line in ready_lines(self._listeners.addresses, self.places):
            logs.say(f"everopen: {line}", sys.stdout)
        shards = sum(len(place.shards) for place in self.places)
        log.info("serving", addresses=self._listeners.addresses, workers=len(self.places), shards=shards)
