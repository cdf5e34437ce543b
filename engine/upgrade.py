"""`everopen upgrade`: every process of a running engine is replaced by one of the program as it is on the disk now.

The command speaks to the supervisor over its socket, which nobody else may reach. `restart`: the supervisor replaces
its own program, and is adopted by its children. `replace`: it replaces these one after another, each only once the new
one stands. Answers are `progress` {text}, and `done` {failure}, which is empty if there was none.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from select import select
from typing import TYPE_CHECKING

import structlog

from engine import run_dir, runtime
from engine.audit_trail import recorded
from engine.channel import Channel, ChannelError, Message
from engine.errors import EveropenError
from engine.limits import CLOSE_S_MAX, DRAIN_S_MAX, SUCCESSOR_S_MAX, UPGRADE_START_S_MAX
from engine.peers import admits
from engine.run_dir import RunDir

if TYPE_CHECKING:
    from engine.place import Member, Place
    from engine.post import Post
    from engine.settings import Settings
    from engine.supervisor import Supervisor

log = structlog.get_logger()

# What the supervisor starts: if one of these cannot even be imported, nothing is touched.
MODULES = (
    "engine.supervisor",
    "engine.worker",
    "engine.follower",
    "engine.control",
    "engine.archive",
    # Imported by some engines only, and then late.
    "engine.tokens",
    "engine.certificates",
    "engine.traces",
)
POLL_S = 0.05
UNTOUCHED = "nothing was touched, since processes that begin now could not use their files: "


class UpgradeError(EveropenError):
    """A new process did not come up; what runs goes on."""


# The supervisor's side.


def replace_program(caller: Caller, settings: Settings, replace: Callable[[], None]) -> None:
    """Unless what comes then could not begin."""
    if broken := settings.broken_files():
        caller.done(UNTOUCHED + "; ".join(broken))
    else:
        replace()


class Caller:
    """Somebody at the other end of a connection to the supervisor's socket, on the loop."""

    def __init__(self, channel: Channel, asked: Callable[[Caller, str], None]) -> None:
        self._channel: Channel | None = channel
        self._asked = asked
        asyncio.get_running_loop().add_reader(channel.fileno(), self._read)

    @classmethod
    def accept(cls, meeting: socket.socket, asked: Callable[[Caller, str], None]) -> Caller | None:
        try:
            caller, _ = meeting.accept()
        except OSError:
            return None
        if not admits(caller, "supervisor"):
            caller.close()
            return None
        caller.setblocking(False)
        return cls(Channel(caller), asked)

    def say(self, kind: str, **fields: str) -> None:
        """Who does not listen any more is told nothing."""
        if self._channel is not None:
            try:
                self._channel.send(kind, **fields)
            except ChannelError:
                self.close()

    def done(self, failure: str = "") -> None:
        self.say("done", failure=failure)
        self.close()

    def close(self) -> None:
        if self._channel is not None:
            asyncio.get_running_loop().remove_reader(self._channel.fileno())
            self._channel.close()
            self._channel = None

    def _read(self) -> None:
        assert self._channel is not None
        try:
            message = self._channel.receive()
        except BlockingIOError:
            return
        except ChannelError:
            message = None
        if message is not None and message.kind in ("restart", "replace"):
            self._asked(self, message.kind)
            return
        # Gone, or a child that is not of this engine any more.
        for fd in message.fds if message is not None else []:
            os.close(fd)
        self.close()


class Upgrade:
    """The replacement of all that the supervisor has started, one after another."""

    def __init__(self, supervisor: Supervisor, caller: Caller) -> None:
        self._supervisor = supervisor
        self._caller = caller
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        failure = ""
        try:
            for post in self._supervisor.posts:
                await self._replace_post(post)
            for place in self._supervisor.places:
                await self._replace_worker(place)
        except UpgradeError as error:
            failure = str(error)
            log.error("the upgrade stops", error=failure)
        self._caller.done(failure)
        self._supervisor.upgraded()

    def _progress(self, text: str) -> None:
        log.info("upgrade", text=text)
        self._caller.say("progress", text=text)

    async def _until(self, holds: Callable[[], bool], seconds: float) -> bool:
        """False also if the engine is to end."""
        supervisor = self._supervisor
        return await supervisor.until(lambda: holds() or supervisor.ending, seconds) and not supervisor.ending

    async def _replace_post(self, post: Post) -> None:
        """The new one is there before the old one goes, at a place of its own."""
        old_path = post.path
        if not post.begin_anew():
            return
        new = post.child
        await self._until(lambda: post.listening or post.child is not new, UPGRADE_START_S_MAX)
        if not post.listening or post.child is not new:
            post.stay(old_path)
            raise UpgradeError(f"the new {post.name} does not start; its log lines say why")
        self._supervisor.moved(post)
        post.dismiss()
        await self._until(lambda: post.former is None, DRAIN_S_MAX)
        self._progress(f"{post.name} replaced")

    async def _replace_worker(self, place: Place) -> None:
        """A follower of the new program stands by before the old worker gives anything away."""
        followed, place.followed = place.followed, True
        try:
            new = await self._new_follower(place)
            old = place.leader
            if old is not new:
                # They were whole when this began, but a log may take minutes to replay.
                if broken := self._supervisor.settings.broken_files():
                    raise UpgradeError(f"worker {place.number} stays: {'; '.join(broken)}")
                place.hand_over()
                await self._until(
                    lambda: not new.alive or (place.leader is new and place.serves), DRAIN_S_MAX + SUCCESSOR_S_MAX
                )
            if place.leader is not new or not place.serves:
                raise UpgradeError(f"the new worker {place.number} did not take over; its log lines say why")
        finally:
            place.followed = followed
            if not followed and place.follower is not None:
                # One that did not take over; nobody asked for it.
                place.follower.leaving = True
                place.follower.send("close")
        await self._until(lambda: not place.retired, DRAIN_S_MAX + CLOSE_S_MAX + POLL_S)
        self._progress(f"worker {place.number} replaced")

    async def _new_follower(self, place: Place) -> Member:
        former = place.follower
        if former is not None:
            former.leaving = True
            former.send("close")
            if not await self._until(lambda: place.follower is not former, UPGRADE_START_S_MAX):
                former.signal(signal.SIGKILL)
        if place.refused:
            raise UpgradeError(f"worker {place.number} has no follower: its log has to be looked at first")
        place.settle()
        await self._until(lambda: place.follower is not None and place.follower is not former, UPGRADE_START_S_MAX)
        new = place.follower
        if new is None:
            raise UpgradeError(f"no follower of worker {place.number} can be started")
        # However long its log is: it says that it lives, or is killed.
        await self._until(lambda: not new.alive or place.leader is new or place.is_followed, SUCCESSOR_S_MAX)
        if not new.alive or not (place.is_followed or place.leader is new):
            raise UpgradeError(f"the new follower of worker {place.number} does not stand by; its log lines say why")
        return new


# The command's side.


def run(data_dir: Path) -> Iterator[str]:
    """Lines of progress. Raises UpgradeError."""
    check_program()
    try:
        found = run_dir.find(data_dir)
        channel = _connected(found)
    except run_dir.NotRunning:
        channel = None
    if channel is None:
        raise UpgradeError(f"{data_dir}: no engine is running there")
    pid, _ = channel.peer
    with recorded(data_dir, "upgrade", supervisor=pid):
        channel.send("restart")
        # It answers only if it does not do it.
        for message in _heard(channel):
            if message.kind == "done":
                raise UpgradeError(message["failure"])
        channel, first = _come_back(found)
        yield f"supervisor replaced, process {pid}"
        yield from _lines(first, channel)


def _connected(found: RunDir) -> Channel | None:
    channel = Channel.to(found.socket(runtime.SUPERVISOR_SOCKET))
    if channel is not None:
        found.check(channel.peer)
    return channel


def _come_back(found: RunDir) -> tuple[Channel, Message]:
    """The connection to the new supervisor, once it serves, and the first that it says of the others."""
    until = time.monotonic() + UPGRADE_START_S_MAX
    while time.monotonic() < until:
        channel = _connected(found)
        if channel is not None and (first := _asked_to_replace(channel)) is not None:
            return channel, first
        time.sleep(POLL_S)
    raise UpgradeError("the supervisor did not come back. Its children serve on: see its log lines, and start it again")


def check_program() -> None:
    """Raises UpgradeError if the program cannot even be loaded."""
    program = "; ".join(f"import {module}" for module in MODULES)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = (done.stderr.strip() or "nothing").splitlines()[-1]
        raise UpgradeError(f"the program cannot be loaded, nothing was touched: {said}")


def _asked_to_replace(channel: Channel) -> Message | None:
    """What it says first; None if it is not ready for that."""
    try:
        channel.send("replace")
    except ChannelError:
        return None
    first = next(_heard(channel), None)
    if first is None or first.kind == "busy":
        channel.close()
        return None
    return first


def _lines(first: Message, channel: Channel) -> Iterator[str]:
    message: Message | None = first
    heard = _heard(channel)
    while message is not None:
        if message.kind == "done":
            if message["failure"]:
                raise UpgradeError(message["failure"])
            return
        yield message["text"]
        message = next(heard, None)
    raise UpgradeError("the supervisor ended meanwhile: see its log lines")


def _heard(channel: Channel) -> Iterator[Message]:
    while True:
        select([channel], [], [])
        message = channel.receive()
        if message is None:
            return
        yield message
