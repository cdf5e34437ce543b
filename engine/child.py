"""A child of the supervisor, seen from both sides: how it is started and watched, and how it outlives a supervisor."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import ExitStack, suppress
from typing import Any, NoReturn

import structlog

from engine import dumps
from engine.channel import Channel, ChannelError, Message
from engine.exits import Exit
from engine.limits import BEAT_S, ORPHAN_RETRY_S, RESTART_RESET_S, RESTART_S_MAX, RESTART_S_MIN

log = structlog.get_logger()

HANGUP = {signal.SIGHUP}


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
    """One process, from its start or its adoption to its end. What becomes of it then is for its owner to say.

    `heard` gets its messages, `ended` its exit code, negative for a signal and None if nobody can know it; its last
    messages come first.
    """

    def __init__(
        self, name: str, heard: Callable[[Any, Message], None], ended: Callable[[Any, int | None], None]
    ) -> None:
        self.name = name
        # 0: there is no process, or no more.
        self.pid = 0
        # It was told something that it takes in before it is told more.
        self.busy = False
        self._heard = heard
        self._ended = ended
        # Kept as long as the process: what is forgotten is reaped by subprocess itself, and its exit code is lost.
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: Channel | None = None
        self._pidfd = -1

    @property
    def alive(self) -> bool:
        return self.pid != 0

    def start(self, module: str, inherited: Sequence[int] = ()) -> None:
        """`python -m MODULE`; `inherited` are descriptors that stay open in it, whatever it knows of them.

        Without memory, descriptors or processes for it, it is as if it had died at once.
        """
        try:
            self._start(module, inherited)
        except OSError as error:
            log.error(f"{self.name} cannot be started", error=str(error))
            asyncio.get_running_loop().call_soon(self._ended, self, None)

    def _start(self, module: str, inherited: Sequence[int]) -> None:
        channel, other = Channel.pair()
        fds = (other.fileno(), *inherited)
        command = [sys.executable, "-m", module, "--channel", str(fds[0]), "--name", self.name]
        # Standard output is the supervisor's alone: programs wait for its line, and for its end.
        with other, ExitStack() as stack:
            stack.callback(channel.close)
            # A terminal that goes away is no reason for a child to end, so it is born deaf to that.
            signal.pthread_sigmask(signal.SIG_BLOCK, HANGUP)
            try:
                process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, pass_fds=fds)
            finally:
                signal.pthread_sigmask(signal.SIG_UNBLOCK, HANGUP)
            stack.callback(process.wait)
            stack.callback(process.kill)
            pidfd = os.pidfd_open(process.pid)
            stack.pop_all()
        self._process = process
        self._watch(process.pid, pidfd, channel)

    def adopt(self, pid: int, pidfd: int, channel: Channel) -> None:
        """A process that a former supervisor left, or this one before it replaced its own program."""
        self._watch(pid, pidfd, channel)

    def _watch(self, pid: int, pidfd: int, channel: Channel) -> None:
        self.pid, self._pidfd, self._channel = pid, pidfd, channel
        loop = asyncio.get_running_loop()
        loop.add_reader(channel.fileno(), self._read)
        loop.add_reader(pidfd, self._reap)

    def send(self, kind: str, fds: Sequence[int] = (), /, **fields: Any) -> None:
        """A child that cannot be told anything is broken, and is killed. One that has ended is not told."""
        if self._channel is None:
            return
        try:
            self._channel.send(kind, fds, **fields)
        except ChannelError:
            self.signal(signal.SIGKILL)

    def signal(self, number: int) -> None:
        if self.alive:
            # Who was adopted is reaped by init, perhaps before its end is seen here.
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

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
            self._heard(self, message)

    def _reap(self) -> None:
        assert self._channel is not None
        self._read()
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._channel.fileno())
        loop.remove_reader(self._pidfd)
        self._channel.close()
        code = exit_code(self._pidfd)
        os.close(self._pidfd)
        if self._process is not None:
            self._process.returncode = code
        self.pid = 0
        self._process = self._channel = None
        self._ended(self, code)


def exit_code(pidfd: int) -> int | None:
    """Of a process that has ended, as subprocess gives it; None if it is no child of this one."""
    try:
        found = os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
    except ChildProcessError:
        return None
    assert found is not None
    return found.si_status if found.si_code == os.CLD_EXITED else -found.si_status


def ended_by(code: int | None) -> str:
    """An exit code in words."""
    if code is None:
        return "exit code not known"
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


# The child's side.


def adopted() -> tuple[Channel, str]:
    """The channel to the supervisor, and the name it gave."""
    # The terminal's Ctrl-C reaches every process of the group; the supervisor says what follows from it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    dumps.withhold()
    arguments = argparse.ArgumentParser(description="Started by everopen serve, not by hand.")
    arguments.add_argument("--channel", type=int, required=True)
    arguments.add_argument("--name", required=True)
    given = arguments.parse_args()
    channel = Channel.inherited(given.channel)
    channel.name = given.name
    return channel, given.name


# What a hello tells: all that a supervisor knows of this process, and the descriptors that are the supervisor's.
State = tuple[dict[str, Any], list[int]]


async def messages(channel: Channel, state: Callable[[], State] = lambda: ({}, [])) -> AsyncIterator[Message]:
    """What the supervisor says, and the one after it when it dies.

    SIGTERM to this process alone it is told as `leaving`; without a supervisor `drain` and `close` follow from it here.
    The first message tells where supervisors listen. Who was told nothing of that ends with the channel.
    """
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    terminated = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, terminated.set)
    leaving = loop.create_task(_leave(channel, terminated))
    home: dict[str, str] | None = None
    loop.add_reader(channel.fileno(), readable.set)
    while True:
        try:
            message = channel.receive()
        except BlockingIOError:
            readable.clear()
            await readable.wait()
            continue
        if message is not None:
            home = message.fields.pop("home", home)
            yield message
            continue
        if home is None:
            os._exit(Exit.WRONG)
        loop.remove_reader(channel.fileno())
        channel.orphaned = True
        log.warning("the supervisor is gone: this process goes on, and looks for the next one")
        while channel.orphaned:
            # Also before the first time: a supervisor that does not want this process is about to say so with a signal.
            with suppress(TimeoutError):
                await asyncio.wait_for(terminated.wait(), ORPHAN_RETRY_S)
                leaving.cancel()
                yield Message("drain", {}, [])
                yield Message("close", {}, [])
                # Nothing is to be heard any more.
                await asyncio.Event().wait()
            _come_back(channel, home, state)
        loop.add_reader(channel.fileno(), readable.set)


async def beats(channel: Channel) -> None:
    """Says for ever that this process, or its loop, does not stand still."""
    while True:
        channel.say("beat")
        await asyncio.sleep(BEAT_S)


async def _leave(channel: Channel, terminated: asyncio.Event) -> None:
    await terminated.wait()
    log.info("signal", name=signal.SIGTERM.name)
    channel.say("leaving")


def _come_back(channel: Channel, home: dict[str, str], state: Callable[[], State]) -> None:
    """Says hello, if there is a supervisor. Nothing can change between the state and the hello."""
    fields, fds = state()
    hello = {"name": channel.name, "fingerprint": home["fingerprint"]} | fields
    channel.come_back(home["path"], hello, fds)


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
