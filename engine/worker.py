"""One worker: a native front in a thread of its own; on this one, what the supervisor says and the engines it hosts."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import structlog

from engine import errors
from engine._core import Engine, NativeFront
from engine.channel import Channel, Message
from engine.child import adopted, messages, run_to_the_end
from engine.exits import Exit, in_words
from engine.limits import DRAIN_S_MAX, LIMITS
from engine.logs import configure
from engine.partition_map import hosted_by

# Engines are asked this often whether the clock misbehaved.
NOTES_S = 1.0
# For what is no connection: logs, links, listeners, the relay.
DESCRIPTORS_RESERVED = 1_024

log = structlog.get_logger()


@dataclass(frozen=True)
class Start:
    """What the supervisor's `start` says."""

    worker: int
    workers: int
    shards: int
    # By shard.
    directories: list[Path]
    relay: str
    settings: dict[str, int]
    segment_bytes: int | None
    expect_orders: int
    board_fd: int
    shared_fds: list[int]
    direct_fds: list[int]

    @classmethod
    def of(cls, message: Message) -> Start:
        fields = dict(message.fields)
        shared = fields.pop("shared_listeners")
        board_fd, *listeners = message.fds
        return cls(
            directories=[Path(directory) for directory in fields.pop("directories")],
            board_fd=board_fd,
            shared_fds=listeners[:shared],
            direct_fds=listeners[shared:],
            **fields,
        )


class Worker:
    """Its state is what the supervisor has told it so far."""

    def __init__(self, channel: Channel, tasks: asyncio.TaskGroup, start: Start) -> None:
        self.start = start
        self._channel = channel
        self._tasks = tasks
        self._engines: dict[int, Engine] = {}
        self._alarms: dict[int, int] = {}
        self._draining = False
        self._closing = False
        self._front = NativeFront(
            worker=start.worker,
            workers=start.workers,
            shards=start.shards,
            board_fd=start.board_fd,
            settings=within_descriptors(start.settings),
        )
        self._loop_thread = threading.Thread(target=self._run_front, name="everopen-front", daemon=True)

    def begin(self) -> None:
        """Listens first, so that callers who come early hear that the log is being recovered."""
        self._front.relay_to(self.start.relay)
        for fd in self.start.shared_fds:
            self._front.listen(fd, True)
        for fd in self.start.direct_fds:
            self._front.listen(fd, False)
        self._loop_thread.start()
        self._channel.send("listening")
        for shard in hosted_by(self.start.worker, self.start.workers, self.start.shards):
            self._tasks.create_task(self._host(shard))
        self._tasks.create_task(self._note())

    def hear(self, message: Message) -> None:
        if self._closing:
            # It ends already, and there is no front any more: a new peer, a drain of all, or the same once again.
            for fd in message.fds:
                os.close(fd)
            return
        match message.kind:
            case "link":
                alive, ring_in, ring_out, wake_in, wake_out = message.fds
                self._front.link(message["worker"], alive, ring_in, ring_out, wake_in, wake_out)
                self._channel.send("linked", worker=message["worker"], serial=message["serial"])
            case "drain":
                # Once: nobody may wait for the front any more when it is closed.
                if not self._draining:
                    self._draining = True
                    self._tasks.create_task(self._drain())
            case "close":
                self._closing = True
                self._tasks.create_task(self._close())
            case _:
                raise AssertionError(f"the supervisor said {message.kind}")

    def leave(self) -> None:
        """SIGTERM to this process alone: the supervisor is asked to take it down as it does all of them."""
        log.info("signal", name=signal.SIGTERM.name)
        self._channel.send("leaving")

    def _run_front(self) -> None:
        # A loop that ends by an error leaves a worker that answers nobody, so the process ends with it.
        try:
            self._front.run()
        except BaseException:
            log.exception("the front failed")
            os._exit(Exit.WRONG)

    async def _host(self, shard: int) -> None:
        began = time.monotonic()
        try:
            engine = await asyncio.to_thread(self._open, self.start.directories[shard])
        except (errors.EveropenError, OSError) as error:
            self._fail(error)
            return
        if self._closing:
            return
        sequence = engine.sequence
        self._front.host(shard, engine)
        self._engines[shard] = engine
        self._alarms[shard] = 0
        seconds = time.monotonic() - began
        self._channel.send(
            "recovered", shard=shard, log_id=engine.log_id.hex(), sequence=sequence, seconds=round(seconds, 3)
        )

    def _open(self, directory: Path) -> Engine:
        sizes = {} if self.start.segment_bytes is None else {"segment_bytes": self.start.segment_bytes}
        engine = Engine(str(directory), **sizes)
        if self.start.expect_orders:
            engine.expect(self.start.expect_orders)
        return engine

    def _fail(self, error: Exception) -> None:
        """A start that would fail again. The supervisor decides what becomes of the others."""
        code = Exit.of(error)
        self._channel.send("failed", code=code, message=in_words(error))
        os._exit(code)

    async def _note(self) -> None:
        """What the engines saw that an operator should hear of."""
        while True:
            await asyncio.sleep(NOTES_S)
            for shard, engine in self._engines.items():
                alarms = engine.clock_alarms
                if alarms != self._alarms[shard]:
                    self._alarms[shard] = alarms
                    text = "the wall clock stepped by more than a second; logged time is slewed"
                    log.warning(text, shard=shard, alarms=alarms)

    async def _drain(self) -> None:
        self._front.drain()
        complete = await asyncio.to_thread(self._front.drained, float(DRAIN_S_MAX))
        if not complete:
            log.warning("calls are cut off", seconds=DRAIN_S_MAX)
        self._channel.send("drained")

    async def _close(self) -> None:
        self._front.stop()
        await asyncio.to_thread(self._loop_thread.join)
        self._front.close()
        for shard, engine in self._engines.items():
            await asyncio.to_thread(engine.close)
            log.info("stopped", shard=shard, sequence=engine.sequence)
        # Not the ordinary end, which would wait for a log that is still being opened in another thread.
        os._exit(Exit.OK)


def within_descriptors(settings: dict[str, int]) -> dict[str, int]:
    """The settings, with no more connections than this process may have descriptors."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard == resource.RLIM_INFINITY:
        return settings
    most = max(1, hard - DESCRIPTORS_RESERVED)
    return settings | {name: min(settings[name], most) for name in ("connections_max", "connections_per_peer_max")}


async def work(channel: Channel) -> None:
    """Never returns: what takes the worker down ends the process."""
    # Each shard opens in a thread of its own, and a drain may come while they do.
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(LIMITS["SHARDS_MAX"] + 4))
    heard = messages(channel)
    async with asyncio.TaskGroup() as tasks:
        worker = Worker(channel, tasks, Start.of(await anext(heard)))
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, worker.leave)
        worker.begin()
        async for message in heard:
            worker.hear(message)


def main() -> None:
    channel, name = adopted()
    configure(process=name)
    run_to_the_end(work(channel))


if __name__ == "__main__":
    main()
