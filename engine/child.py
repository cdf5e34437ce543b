"""A child of the supervisor, seen from both sides: how it is started and watched, and how it knows whose it is."""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any, NoReturn

import structlog

from engine.channel import Channel, ChannelError, Message
from engine.exits import Exit
from engine.limits import RESTART_RESET_S, RESTART_S_MAX, RESTART_S_MIN

# From <linux/prctl.h>.
PR_SET_PDEATHSIG = 1

log = structlog.get_logger()


class Backoff:
    """How long to wait before a child is started again. Times are seconds of any clock that does not go back."""

    def __init__(self) -> None:
        self._next_s = RESTART_S_MIN
        self._began: float | None = None

    def began(self, now: float) -> None:
        self._began = now

    def ended(self, now: float) -> float:
        """The wait, now that it has died."""
        if self._began is not None and now - self._began >= RESTART_RESET_S:
            self._next_s = RESTART_S_MIN
        wait_s = self._next_s
        self._next_s = min(2 * wait_s, RESTART_S_MAX)
        return wait_s


class Child:
    """A process of `python -m MODULE`: started again and again, each time with a new channel.

    `heard` gets its messages, `ended` its exit code, negative for a signal; its last messages come first.
    """

    def __init__(
        self,
        name: str,
        module: str,
        inherited: Sequence[int],
        heard: Callable[[Message], None],
        ended: Callable[[int], None],
    ) -> None:
        """inherited: descriptors that stay open in it, whatever it knows of them."""
        self.name = name
        self.backoff = Backoff()
        self.starts = 0
        self._module = module
        self._inherited = tuple(inherited)
        self._heard = heard
        self._ended = ended
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: Channel | None = None
        self._pidfd = -1

    @property
    def alive(self) -> bool:
        return self._process is not None

    @property
    def pid(self) -> int:
        """0: there is no process."""
        return self._process.pid if self._process else 0

    def start(self) -> None:
        """Must be called on the main thread: the child ends with the thread that started it."""
        channel, other = Channel.pair()
        fds = (other.fileno(), *self._inherited)
        command = [sys.executable, "-m", self._module, "--channel", str(fds[0]), "--parent", str(os.getpid())]
        # Standard output is the supervisor's alone: programs wait for its line, and for its end.
        with other:
            self._process = subprocess.Popen(
                [*command, "--name", self.name], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, pass_fds=fds
            )
        self._channel = channel
        self._pidfd = os.pidfd_open(self._process.pid)
        self.starts += 1
        loop = asyncio.get_running_loop()
        self.backoff.began(loop.time())
        loop.add_reader(channel.fileno(), self._read)
        loop.add_reader(self._pidfd, self._reap)

    def send(self, kind: str, fds: Sequence[int] = (), /, **fields: Any) -> None:
        """A child that cannot be told anything is broken, and is killed. One that has ended is not told."""
        if self._channel is None:
            return
        try:
            self._channel.send(kind, fds, **fields)
        except ChannelError:
            self.signal(signal.SIGKILL)

    def signal(self, number: int) -> None:
        if self._process is not None:
            self._process.send_signal(number)

    def _read(self) -> None:
        """Everything that has come."""
        while self._channel is not None:
            try:
                message = self._channel.receive()
            except BlockingIOError:
                return
            if message is None:
                # It has closed its end, so it is ending; the exit is what counts.
                asyncio.get_running_loop().remove_reader(self._channel.fileno())
                return
            self._heard(message)

    def _reap(self) -> None:
        assert self._process is not None
        assert self._channel is not None
        self._read()
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._channel.fileno())
        loop.remove_reader(self._pidfd)
        self._channel.close()
        os.close(self._pidfd)
        code = self._process.wait()
        self._process = self._channel = None
        self._ended(code)


def ended_by(code: int) -> str:
    """An exit code as subprocess gives it."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


# The child's side.


def adopted() -> tuple[Channel, str]:
    """The channel to the supervisor, and the name it gave. From here on this process ends when the supervisor does."""
    # The terminal's Ctrl-C reaches every process of the group; the supervisor says what follows from it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    arguments = argparse.ArgumentParser(description="Started by everopen serve, not by hand.")
    arguments.add_argument("--channel", type=int, required=True)
    arguments.add_argument("--parent", type=int, required=True)
    arguments.add_argument("--name", required=True)
    given = arguments.parse_args()
    end_with_parent(given.parent)
    return Channel.inherited(given.channel), given.name


def end_with_parent(parent: int) -> None:
    """SIGKILL, since the log is made for that, and a drain without the supervisor could hang."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    # It may have died before that.
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


async def messages(channel: Channel) -> AsyncIterator[Message]:
    """What the supervisor says. If it says no more it is gone, and this process ends like one that is killed."""
    readable = asyncio.Event()
    asyncio.get_running_loop().add_reader(channel.fileno(), readable.set)
    while True:
        try:
            message = channel.receive()
        except BlockingIOError:
            readable.clear()
            await readable.wait()
            continue
        if message is None:
            os._exit(Exit.WRONG)
        yield message


def run_to_the_end(work: Coroutine[Any, Any, None], run: Callable[..., None] = asyncio.run) -> NoReturn:
    """Runs `work`, and ends the process with it, also if threads have not finished."""

    async def watched() -> None:
        try:
            await work
        except BaseException:
            log.exception("failed")
            os._exit(Exit.WRONG)
        os._exit(Exit.OK)

    run(watched())
    raise AssertionError("the process has ended")
