"""How the children of a supervisor that died come back to the next one."""

from __future__ import annotations

import os
import select
import signal
import socket
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import structlog

from engine.channel import Channel, ChannelError, Message
from engine.child import exit_code
from engine.errors import JournalLocked
from engine.limits import HELLO_BUSY_S_MAX, HELLO_S_MAX, PREDECESSOR_S_MAX
from engine.listen import Inherited
from engine.runtime import Children, Process, process_state

# Between two looks at those who have not come.
POLL_S = 0.05
# As in /proc/PID/stat: stopped, traced, waiting for a disk.
STOPPED = frozenset("TtD")

log = structlog.get_logger()


@dataclass
class Orphan:
    """A child that said hello and fits."""

    name: str
    pid: int
    pidfd: int
    channel: Channel
    # What it said of itself, and the descriptors that are the supervisor's: docs/front.md.
    state: dict[str, Any]
    fds: list[int]

    def close_fds(self) -> None:
        for fd in self.fds:
            os.close(fd)
        self.fds.clear()


def board(orphans: Iterable[Orphan]) -> int | None:
    """The descriptor of their board, the caller's from now on; None if nobody has one."""
    for orphan in orphans:
        if "worker" in orphan.state:
            return orphan.fds.pop(0) if orphan.fds else None
    return None


def listening(orphans: Iterable[Orphan]) -> Inherited:
    """The sockets of the engine that they belong to; those in it are no more among their descriptors."""
    found = Inherited()
    for orphan in orphans:
        if not orphan.fds:
            continue
        if "worker" not in orphan.state:
            # The control server's.
            if found.metrics is None:
                found.metrics = socket.socket(fileno=orphan.fds.pop(0))
            continue
        count = orphan.state["shared_listeners"]
        shared, direct = orphan.fds[1 : 1 + count], orphan.fds[1 + count :]
        del orphan.fds[1:]
        if not found.shared:
            found.shared = [socket.socket(fileno=fd) for fd in shared]
            shared = []
        if orphan.state["worker"] not in found.direct:
            found.direct[orphan.state["worker"]] = [socket.socket(fileno=fd) for fd in direct]
            direct = []
        orphan.fds += shared + direct
    return found


def gather(
    children: Children, meeting: socket.socket, fingerprint: str, unusable: Exception | None = None
) -> list[Orphan]:
    """Those who said hello in time, and whose engine was started with the same arguments.

    All others of the list are gone when this returns. Raises JournalLocked if one does not end.
    unusable: why nobody could be started. Raised if there is no worker to adopt, and then nobody is ended.
    """
    waiting: dict[int, tuple[Process, int]] = {}
    for process in children.living():
        with suppress(ProcessLookupError):
            waiting[process.pid] = (process, os.pidfd_open(process.pid))
    # One that was named, but died before its pidfd was open, may have left its pid to a stranger.
    still = {process.pid for process in children.living()}
    for pid in [pid for pid in waiting if pid not in still]:
        os.close(waiting.pop(pid)[1])
    found = _hear_hellos(waiting, meeting, fingerprint) if waiting else []
    if not any("worker" in orphan.state for orphan in found):
        # Nobody has the board and the sockets any more, so the rest is of no use.
        for orphan in found:
            orphan.close_fds()
            orphan.channel.close()
            waiting[orphan.pid] = (Process(orphan.pid, 0, orphan.name), orphan.pidfd)
        found.clear()
        if unusable is not None:
            for _, pidfd in waiting.values():
                os.close(pidfd)
            raise unusable
    for process, pidfd in waiting.values():
        log.warning(f"{process.name} is killed: it said no hello, or was started otherwise", pid=process.pid)
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    _wait_for_ends(waiting.values())
    # They may have come back in vain before they ended, and what is not read keeps the sockets that came with it open.
    with suppress(BlockingIOError):
        while True:
            _accept(meeting).close()
    return found


def _hear_hellos(waiting: dict[int, tuple[Process, int]], meeting: socket.socket, fingerprint: str) -> list[Orphan]:
    """Takes those that are heard, fitting or ended, out of `waiting`."""
    found: list[Orphan] = []
    # Connected, and not heard yet.
    callers: dict[int, tuple[int, Channel]] = {}
    expected = set(waiting)
    poll = select.poll()
    poll.register(meeting, select.POLLIN)
    for _, pidfd in waiting.values():
        poll.register(pidfd, select.POLLIN)
    began = time.monotonic()
    while expected and _may_come(expected, time.monotonic() - began):
        for fd, _ in poll.poll(1_000 * POLL_S):
            if fd == meeting.fileno():
                channel = Channel(_accept(meeting))
                pid, uid = channel.peer
                if pid in expected and uid == os.getuid():
                    callers[channel.fileno()] = (pid, channel)
                    poll.register(channel.fileno(), select.POLLIN)
                else:
                    channel.close()
            elif fd in callers:
                pid, channel = callers.pop(fd)
                poll.unregister(fd)
                message = _heard(channel)
                if message is None:
                    channel.close()
                    continue
                if pid not in waiting:
                    # Its end was seen before its hello, in one and the same look.
                    for passed in message.fds:
                        os.close(passed)
                    channel.close()
                    continue
                expected.discard(pid)
                orphan = Orphan(message["name"], pid, waiting[pid][1], channel, message.fields, message.fds)
                if message["fingerprint"] == fingerprint:
                    poll.unregister(waiting.pop(pid)[1])
                    found.append(orphan)
                else:
                    orphan.close_fds()
                    channel.close()
            else:
                pid = next((pid for pid, (_, pidfd) in waiting.items() if pidfd == fd), 0)
                if pid == 0:
                    # Its hello came first, in the same look: whoever adopts it sees its end.
                    continue
                poll.unregister(fd)
                expected.discard(pid)
                del waiting[pid]
                exit_code(fd)
                os.close(fd)
    for _, channel in callers.values():
        channel.close()
    return found


def _may_come(pids: Iterable[int], waited_s: float) -> bool:
    """Whether it is too early to give all of them up. A machine may be too busy to let them speak at once."""
    if waited_s < HELLO_S_MAX:
        return True
    return waited_s < HELLO_BUSY_S_MAX and any(process_state(pid) not in STOPPED for pid in pids)


def _accept(meeting: socket.socket) -> socket.socket:
    caller, _ = meeting.accept()
    caller.setblocking(False)
    return caller


def _heard(channel: Channel) -> Message | None:
    """Its hello; None for who says something else, or has gone again."""
    try:
        message = channel.receive()
    except (BlockingIOError, ChannelError):
        return None
    if message is not None and message.kind != "hello":
        for fd in message.fds:
            os.close(fd)
        return None
    return message


def _wait_for_ends(processes: Iterable[tuple[Process, int]]) -> None:
    until = time.monotonic() + PREDECESSOR_S_MAX
    for process, pidfd in processes:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        if not poll.poll(max(0, 1_000 * (until - time.monotonic()))):
            raise JournalLocked(process.name, process.pid)
        # After an exec it may be a child of this very process, and is to be taken off the list of the kernel.
        exit_code(pidfd)
        os.close(pidfd)
