"""`everopen serve`: owns the listening sockets, starts the workers and the control server, watches and replaces them.

It is not on the way of an order, and imports no grpc. Everything happens on one thread, in callbacks of the loop: a
child has said something, a child has ended, a signal came, a time is over. Each changes what is known and then calls
`_go_on`, which looks whether the next phase is due.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from enum import IntEnum
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from engine import datadir, runtime
from engine._core import board_create, ring_create
from engine.channel import Message
from engine.child import Child, ended_by
from engine.exits import Exit
from engine.limits import CLOSE_S_MAX, DRAIN_S_MAX
from engine.listen import Address, Listeners, UnixAddress
from engine.partition_map import PartitionMap, ShardState, WorkerState, hosted_by, linked_pairs

log = structlog.get_logger()


@dataclass(frozen=True)
class Settings:
    data_dir: Path
    listen: tuple[Address | UnixAddress, ...]
    workers: int
    # None: as many as the data directory has.
    shards: int | None
    # Every setting of the native front.
    front: dict[str, int]
    segment_bytes: int | None = None
    # One-line orders of each shard whose memory is asked for at the start, so that the peak pays no page faults.
    expect_orders: int = 0


class Phase(IntEnum):
    STARTING = 1
    SERVING = 2
    # Calls that were taken are answered, also over the links.
    DRAINING = 3
    # Nobody waits for anybody any more: logs are sealed.
    CLOSING = 4
    # Only the control server is left.
    ENDING = 5


@dataclass(frozen=True)
class Recovered:
    """A shard, as it was when its worker had opened it."""

    log_id: str
    sequence: int
    seconds: float


def serve(settings: Settings) -> int:
    """Serves until a signal; returns the exit code. Raises EveropenError for what keeps it from starting."""
    with ExitStack() as stack:
        directories = datadir.create_or_open(settings.data_dir, settings.shards)
        children_lock = stack.enter_context(runtime.exclusive(settings.data_dir))
        datadir.refuse_if_locked(directories)
        listeners = Listeners()
        stack.callback(listeners.close)
        listeners.open(settings.listen, settings.workers)
        for address in settings.listen:
            if not address.is_loopback:
                log.warning("serving in plaintext to other machines", address=str(address))
        control = stack.enter_context(runtime.control_socket(settings.data_dir))
        board = board_create(settings.workers)
        stack.callback(os.close, board)
        # A terminal that goes away is no reason to stop. Children inherit that.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        return asyncio.run(Supervisor(settings, directories, listeners, board, control, children_lock).run())


class Supervisor:
    """What is known of all children, and what follows from it."""

    def __init__(
        self,
        settings: Settings,
        directories: list[Path],
        listeners: Listeners,
        board: int,
        control_path: str,
        children_lock: int,
    ) -> None:
        self._settings = settings
        self._directories = directories
        self._listeners = listeners
        self._board = board
        self._control_path = control_path
        self._phase = Phase.STARTING
        self._code: int = Exit.OK
        self._done: asyncio.Future[int]
        count, shards = settings.workers, len(directories)
        self._map = PartitionMap.of(listeners.direct_addresses, shards, time.time_ns() // 1_000_000)
        self._told_version = 0
        # It is told one thing at a time, so that its channel never fills.
        self._control_listens = False
        self._pairs = linked_pairs(count, shards)
        self._workers = [
            Child(
                f"worker {number}",
                "engine.worker",
                [children_lock],
                partial(self._worker_said, number),
                partial(self._worker_ended, number),
            )
            for number in range(count)
        ]
        self._control = Child(
            "control server", "engine.control", [children_lock], self._control_said, self._control_ended
        )
        self._listening: set[Child] = set()
        self._drained: set[int] = set()
        self._recovered: dict[int, Recovered] = {}
        # Pairs whose link has not been taken by both ends, with the serial of the newest one and the ends that took it.
        self._serial = 0
        self._links: dict[tuple[int, int], tuple[int, set[int]]] = {}
        # For those who wait for a child's end.
        self._ended = asyncio.Event()

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        self._done = loop.create_future()
        loop.set_exception_handler(self._failed)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled, number)
        try:
            for worker in range(len(self._workers)):
                self._start_worker(worker)
            self._start_control()
            return await self._done
        finally:
            await self._kill_all()

    # Starting.

    def _start_worker(self, number: int) -> None:
        if self._phase > Phase.SERVING:
            return
        child = self._workers[number]
        child.start()
        self._drained.discard(number)
        self._map.worker_is(number, WorkerState.STARTING)
        for shard in hosted_by(number, len(self._workers), len(self._directories)):
            self._map.shard_is(shard, ShardState.RECOVERING)
        shared, direct = self._listeners.shared, self._listeners.direct[number]
        child.send(
            "start",
            [self._board, *(listener.fileno() for listener in (*shared, *direct))],
            worker=number,
            workers=len(self._workers),
            shards=len(self._directories),
            directories=[str(directory) for directory in self._directories],
            relay=self._control_path,
            settings=self._settings.front,
            segment_bytes=self._settings.segment_bytes,
            expect_orders=self._settings.expect_orders,
            shared_listeners=len(shared),
        )
        try:
            for pair in self._pairs:
                if number in pair and all(self._workers[end].alive for end in pair):
                    self._link(*pair)
        except OSError as error:
            # No descriptors or no memory, perhaps for a while only.
            log.error(f"{child.name} cannot be linked", error=str(error))
            child.signal(signal.SIGKILL)
        self._go_on()

    def _link(self, first: int, second: int) -> None:
        """A new link. The ends are the workers' alone: when one dies, the other sees it at once."""
        self._serial += 1
        self._links[first, second] = (self._serial, set())
        with ExitStack() as stack:
            alive = [stack.enter_context(end) for end in socket.socketpair()]
            to_first, to_second = ring_create(), ring_create()
            wake_first, wake_second = (os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK) for _ in range(2))
            for fd in (to_first, to_second, wake_first, wake_second):
                stack.callback(os.close, fd)
            fds = [alive[0].fileno(), to_first, to_second, wake_first, wake_second]
            self._workers[first].send("link", fds, worker=second, serial=self._serial)
            fds = [alive[1].fileno(), to_second, to_first, wake_second, wake_first]
            self._workers[second].send("link", fds, worker=first, serial=self._serial)

    def _start_control(self) -> None:
        if self._phase > Phase.SERVING:
            return
        self._control.start()
        self._control.send("start", [self._board], path=self._control_path, **self._cluster())
        self._told_version = self._map.version

    # What the children say.

    def _worker_said(self, number: int, message: Message) -> None:
        child = self._workers[number]
        match message.kind:
            case "listening":
                self._listening.add(child)
                self._map.worker_is(number, WorkerState.SERVING)
            case "linked":
                pair = (min(number, message["worker"]), max(number, message["worker"]))
                serial, ends = self._links.get(pair, (0, set()))
                if serial == message["serial"]:
                    ends.add(number)
                    if len(ends) == 2:
                        del self._links[pair]
            case "recovered":
                shard = message["shard"]
                self._recovered[shard] = Recovered(message["log_id"], message["sequence"], message["seconds"])
                self._map.shard_is(shard, ShardState.SERVING, message["log_id"])
                log.info("recovered", **message.fields)
            case "leaving":
                if self._phase <= Phase.SERVING:
                    self._drain_worker(number)
            case "drained":
                self._drained.add(number)
                if self._phase <= Phase.SERVING:
                    child.send("close")
            case "failed":
                self._give_up(message["code"], message["message"])
            case _:
                raise AssertionError(f"{child.name} said {message.kind}")
        self._go_on()

    def _control_said(self, message: Message) -> None:
        if message.kind == "leaving":
            if self._phase <= Phase.SERVING:
                self._control.send("drain")
                self._control.send("close")
        else:
            # `listening`, `seen`: it has taken in what it was told last.
            self._listening.add(self._control)
            self._control_listens = True
        self._go_on()

    # Children that ended.

    def _worker_ended(self, number: int, code: int) -> None:
        self._listening.discard(self._workers[number])
        self._map.worker_is(number, WorkerState.DOWN)
        for shard in hosted_by(number, len(self._workers), len(self._directories)):
            self._map.shard_is(shard, ShardState.DOWN)
            self._recovered.pop(shard, None)
        for pair in [pair for pair in self._links if number in pair]:
            del self._links[pair]
        self._replace(self._workers[number], code, partial(self._start_worker, number))

    def _control_ended(self, code: int) -> None:
        self._listening.discard(self._control)
        self._control_listens = False
        self._replace(self._control, code, self._start_control)

    def _replace(self, child: Child, code: int, start: Callable[[], None]) -> None:
        """Starts it again, unless all are to end or there is no hope."""
        self._ended.set()
        if self._phase > Phase.SERVING:
            if code != Exit.OK:
                log.error(f"{child.name} died", how=ended_by(code))
        elif self._phase == Phase.STARTING and code == Exit.WRONG:
            # An error that nobody foresaw; before anything was served, somebody is watching the start.
            self._give_up(Exit.UNUSABLE, f"{child.name} cannot start; its log lines say why")
        else:
            loop = asyncio.get_running_loop()
            wait_s = child.backoff.ended(loop.time())
            if code == Exit.SYNC_FAILED:
                log.critical("a write or sync of the log failed: look after the disk", child=child.name)
            log.error(f"{child.name} died", how=ended_by(code), started_again_in_s=wait_s)
            loop.call_later(wait_s, start)
        self._go_on()

    def _failed(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """An error of the supervisor's own: what it knows may be wrong, so all of it ends."""
        if not self._done.done():
            self._done.set_exception(context.get("exception") or RuntimeError(context["message"]))

    # Going down.

    def _signalled(self, number: signal.Signals) -> None:
        log.info("signal", name=number.name)
        if self._phase == Phase.SERVING:
            self._drain()
        elif not self._done.done():
            # The second one; or the first, while there is nothing yet to drain.
            self._done.set_result(128 + number)

    def _give_up(self, code: int, message: str) -> None:
        if self._code == Exit.OK:
            self._code = code
            print(f"everopen: {message}", file=sys.stderr, flush=True)
            if code == Exit.DAMAGED:
                verify = f"everopen journal verify --data-dir {self._settings.data_dir}"
                print(f"everopen: look closer with: {verify}", file=sys.stderr, flush=True)
        if self._phase <= Phase.SERVING:
            self._drain()

    def _drain(self) -> None:
        self._phase = Phase.DRAINING
        log.info("draining")
        for number in range(len(self._workers)):
            self._drain_worker(number)
        # After the newest map, so that whoever watches it sees why it ends.
        self._tell_control()
        self._control.send("drain")
        asyncio.get_running_loop().call_later(DRAIN_S_MAX + CLOSE_S_MAX, self._too_late)
        self._go_on()

    def _drain_worker(self, number: int) -> None:
        if self._workers[number].alive:
            self._map.worker_is(number, WorkerState.DRAINING)
            self._workers[number].send("drain")

    def _too_late(self) -> None:
        for child in (*self._workers, self._control):
            if child.alive:
                log.error(f"{child.name} does not end and is killed")
                child.signal(signal.SIGKILL)

    async def _kill_all(self) -> None:
        """What is left when `run` ends, mostly nothing. Returns once they are gone, so that their locks are free."""
        children = [child for child in (*self._workers, self._control) if child.alive]
        self._phase = Phase.ENDING
        for child in children:
            child.signal(signal.SIGKILL)
        while any(child.alive for child in children):
            self._ended.clear()
            await self._ended.wait()

    # What follows.

    def _go_on(self) -> None:
        """The next phase, if what it waits for has come about."""
        self._tell_control()
        if self._phase == Phase.STARTING and self._is_ready():
            self._phase = Phase.SERVING
            self._tell_ready()
        if self._phase == Phase.DRAINING and all(self._is_drained(number) for number in range(len(self._workers))):
            self._phase = Phase.CLOSING
            # Nobody accepts any more; whoever still waits for it hears now.
            self._listeners.close()
            for child in self._workers:
                child.send("close")
        if self._phase == Phase.CLOSING and not any(child.alive for child in self._workers):
            self._phase = Phase.ENDING
            self._control.send("close")
        if self._phase == Phase.ENDING and not self._control.alive and not self._done.done():
            log.info("stopped")
            self._done.set_result(self._code)

    def _is_ready(self) -> bool:
        everybody = {*self._workers, self._control}
        return self._listening == everybody and len(self._recovered) == len(self._directories) and not self._links

    def _is_drained(self, number: int) -> bool:
        return number in self._drained or not self._workers[number].alive

    def _tell_control(self) -> None:
        if self._control_listens and self._map.version != self._told_version:
            self._told_version = self._map.version
            self._control_listens = False
            self._control.send("cluster", **self._cluster())

    def _cluster(self) -> dict[str, Any]:
        workers = [{"pid": child.pid, "restarts": max(0, child.starts - 1)} for child in self._workers]
        return {"map": asdict(self._map), "workers": workers}

    def _tell_ready(self) -> None:
        """What programs wait for: one line with all of it for one shard, else a line for each, and then one for all."""
        shards = [
            f"shard {shard}, log {found.log_id}, sequence {found.sequence}, recovered in {found.seconds:.3f} s"
            for shard, found in sorted(self._recovered.items())
        ]
        addresses = ", ".join(self._listeners.addresses)
        if len(shards) == 1:
            lines = [f"serving on {addresses}, {shards[0]}"]
        else:
            lines = [*shards, f"serving on {addresses}, {len(shards)} shards, {len(self._workers)} workers"]
        for line in lines:
            print(f"everopen: {line}", flush=True)
        log.info("serving", addresses=self._listeners.addresses, workers=len(self._workers), shards=len(shards))
