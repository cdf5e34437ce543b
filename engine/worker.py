"""One worker: a native front in a thread of its own; on this one, what the supervisor says and the engines it hosts.

A process of this program either leads at once (`start`), or stands by (`follow`, engine/follower.py) until it is told
to lead (`promote`).
"""

from __future__ import annotations

import asyncio
import os
import resource
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import structlog

from engine import errors
from engine._core import Engine, NativeFront
from engine.channel import Channel, Message
from engine.child import State, adopted, messages, run_to_the_end
from engine.credentials import Credentials
from engine.exits import Exit, in_words
from engine.identity import Authenticator, IdentitySettings
from engine.limits import DRAIN_S_MAX, LIMITS
from engine.listen import is_unix
from engine.logs import configure
from engine.lookups import Lookups
from engine.partition_map import hosted_by
from engine.tls import Certificates, TlsError, TlsFiles

# Engines are asked this often whether the clock misbehaved.
NOTES_S = 1.0
# A takeover that takes longer is one that callers should hear of.
TAKEOVER_S = 0.25
DRAIN_ALONE_S_MAX = 1
# Orders in memory with which a level may be raised while they are served: some hundred milliseconds.
RAISE_ORDERS_MAX = 1_000_000
# For what is no connection: logs, links, listeners, the relay.
DESCRIPTORS_RESERVED = 1_024

log = structlog.get_logger()


@dataclass(frozen=True)
class Start:
    """What the supervisor's `start` says, and its `follow`."""

    worker: int
    workers: int
    shards: int
    # By shard.
    directories: list[Path]
    relay: str
    # In hex.
    relay_secret: str
    # Of IdentitySettings.
    identity: dict[str, Any]
    settings: dict[str, int]
    segment_bytes: int | None
    expect_orders: int
    board_fd: int
    shared_fds: list[int]
    direct_fds: list[int]
    # What is for who stands by.
    follow: dict[str, Any] = field(default_factory=dict)
    # Of TCP listeners: the fields of TlsFiles.
    tls: dict[str, Any] | None = None
    # Whether it stands by only until it has written a snapshot.
    once: bool = False
    # Whether logs of an older level may be raised before anything is served.
    raise_level: bool = False

    @classmethod
    def of(cls, message: Message) -> Start:
        fields = dict(message.fields)
        shared = fields.pop("shared_listeners")
        if message.kind != "start":
            fields["once"] = message.kind == "replay"
            fields["follow"] = {name: fields.pop(name) for name in ("snapshot_bytes", "snapshot_s", "archive")}
        board_fd, *listeners = message.fds
        return cls(
            directories=[Path(directory) for directory in fields.pop("directories")],
            board_fd=board_fd,
            shared_fds=listeners[:shared],
            direct_fds=listeners[shared:],
            **fields,
        )

    @property
    def hosted(self) -> list[int]:
        return hosted_by(self.worker, self.workers, self.shards)

    @cached_property
    def authenticator(self) -> Authenticator:
        """Who stands by makes it beforehand: what it needs takes longer to load than a takeover may."""
        return Authenticator(IdentitySettings(**self.identity))

    def certificates(self) -> Certificates | None:
        """None: all is plaintext. Raises TlsError."""
        return None if self.tls is None else Certificates(TlsFiles(**self.tls))

    @property
    def sizes(self) -> dict[str, int]:
        return {} if self.segment_bytes is None else {"segment_bytes": self.segment_bytes}

    @property
    def fds(self) -> list[int]:
        """What is the supervisor's, as in the message."""
        return [self.board_fd, *self.shared_fds, *self.direct_fds]

    def as_state(self) -> dict[str, Any]:
        return {"worker": self.worker, "shared_listeners": len(self.shared_fds)}


class Worker:
    """Its state is what the supervisor has told it so far."""

    def __init__(
        self,
        channel: Channel,
        tasks: asyncio.TaskGroup,
        start: Start,
        open_engine: Callable[[int], Awaitable[Engine]] | None = None,
        relay: str = "",
        certificates: Certificates | None = None,
    ) -> None:
        """open_engine: of a shard, if not from its log. relay: if the control server is not where it was any more.
        certificates: those that who stood by has read already.
        """
        self.start = start
        self._channel = channel
        self._tasks = tasks
        self._takes_over = open_engine is not None
        self._open_engine = open_engine or self._recover
        self._relay = relay or start.relay
        self._certificates = certificates
        self._engines: dict[int, Engine] = {}
        self._recovered: dict[int, dict[str, Any]] = {}
        self._alarms: dict[int, int] = {}
        # By shard: what was closed up to there is in the archive.
        self._archived: dict[int, int] = {}
        # The serial of the newest link to each peer.
        self._links: dict[int, int] = {}
        self._listening = False
        self._handing_over = False
        self._released = False
        self._draining = False
        self._drained = asyncio.Event()
        self._closing = False
        self._front = NativeFront(
            worker=start.worker,
            workers=start.workers,
            shards=start.shards,
            board_fd=start.board_fd,
            settings=within_descriptors(start.settings),
        )
        # Who stood by may have been told another one since.
        self.relay_secret = start.relay_secret
        self._credentials = Credentials(self._front, start.authenticator)
        self._lookups = Lookups(self._front, start.directories, self._evicted_through)
        self._loop_thread = threading.Thread(target=self._run_front, name="everopen-front", daemon=True)

    def begin(self) -> None:
        try:
            # Who stood by has them, and watches them already.
            if self._certificates is None and (read := self.start.certificates()) is not None:
                self._certificates = read
                self._tasks.create_task(read.watch())
        except TlsError as error:
            self._fail(error)
        if self._certificates is not None:
            self._certificates.attach(self._front)
        self._front.relay_to(self._relay)
        self._tell_relay_secret()
        self._credentials.begin()
        self._lookups.begin()
        hosting = [self._tasks.create_task(self._host(shard)) for shard in self.start.hosted]
        self._tasks.create_task(self._note())
        if self._takes_over:
            self._tasks.create_task(self._listen_after(hosting))
        else:
            self._listen()

    def _tell_relay_secret(self) -> None:
        self._front.relay_secret(bytes.fromhex(self.relay_secret))

    async def _listen_after(self, hosting: list[asyncio.Task[None]]) -> None:
        """A takeover is over in no time: whoever comes meanwhile waits, also over links, and is not refused."""
        if hosting:
            await asyncio.wait(hosting, timeout=TAKEOVER_S)
        # Nor if it was told meanwhile to drain, and listens for that.
        if not self._closing and not self._listening:
            self._listen()

    def _listen(self) -> None:
        """Also before logs are open: callers who come early hear that they are being recovered."""
        for fd in (*self.start.shared_fds, *self.start.direct_fds):
            tls = self._certificates is not None and not is_unix(fd)
            self._front.listen(fd, fd in self.start.shared_fds, tls)
        self._loop_thread.start()
        self._listening = True
        self._channel.say("listening")

    def hear(self, message: Message) -> Worker:
        if self._closing:
            # It ends already, and there is no front any more: a new peer, a drain of all, or the same once again.
            for fd in message.fds:
                os.close(fd)
            return self
        match message.kind:
            case "link":
                alive, ring_in, ring_out, wake_in, wake_out = message.fds
                self._front.link(message["worker"], alive, ring_in, ring_out, wake_in, wake_out)
                self._links[message["worker"]] = message["serial"]
                self._channel.say("linked", worker=message["worker"], serial=message["serial"])
            case "relay":
                self._relay = message["path"]
                self.relay_secret = message["secret"]
                self._tell_relay_secret()
                self._front.relay_to(self._relay)
            case "archived":
                self._archived[message["shard"]] = message["sequence"]
                self._evict(message["shard"])
            case "raise_level":
                self._raise_levels()
            case "reload":
                self._credentials.reload()
                if self._certificates is not None:
                    self._certificates.look(again=True)
            case "hand_over":
                if not self._handing_over:
                    self._handing_over = True
                    self._tasks.create_task(self._hand_over())
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
        return self

    def state(self) -> State:
        """For a supervisor that does not know this process yet."""
        return self.start.as_state() | {
            "role": "leader",
            "listening": self._listening,
            "recovered": list(self._recovered.values()),
            "links": {str(peer): serial for peer, serial in self._links.items()},
            "relay": self._relay,
            "relay_secret": self.relay_secret,
            "handing_over": self._handing_over,
            "released": self._released,
            "leaving": self._draining,
            "drained": self._drained.is_set(),
        }, self.start.fds

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
            engine = await self._open_engine(shard)
        except (errors.EveropenError, OSError) as error:
            self._fail(error)
            return
        if self._closing:
            return
        sequence = engine.sequence
        for damage in engine.passed_over.values():
            log.critical("a snapshot is damaged: an older one was taken", shard=shard, error=damage)
        self._front.host(shard, engine)
        self._engines[shard] = engine
        self._alarms[shard] = 0
        self._recovered[shard] = {
            "shard": shard,
            "log_id": engine.log_id.hex(),
            "sequence": sequence,
            "seconds": round(time.monotonic() - began, 3),
            "level_now": engine.level,
            "level_max": LIMITS["LEVEL_MAX"],
        }
        self._channel.say("recovered", **self._recovered[shard])
        self._evict(shard)

    def _raise_levels(self) -> None:
        if self._handing_over:
            # Who gives its shards away logs nothing more: the next one is told too.
            return
        for shard, engine in self._engines.items():
            if engine.counts()["orders"] <= RAISE_ORDERS_MAX:
                self._front.raise_level(shard)
            else:
                # All of them are looked at in one go.
                log.warning("too many orders to raise the level while serving; a restart does it", shard=shard)

    def _evict(self, shard: int) -> None:
        """Lets go of what the archive has, as soon as both are known. One ahead of the log is of another."""
        if shard in self._engines and shard in self._archived and not self._handing_over:
            if self._archived[shard] > self._engines[shard].sequence:
                return
            self._front.evict(shard, self._archived[shard])

    def _evicted_through(self, shard: int) -> int:
        return int(self._engines[shard].counts()["evicted_through"])

    async def _recover(self, shard: int) -> Engine:
        return await asyncio.to_thread(self._open, self.start.directories[shard])

    def _open(self, directory: Path) -> Engine:
        engine = Engine(str(directory), **self.start.sizes)
        if self.start.raise_level:
            engine.raise_level()
        if self.start.expect_orders:
            engine.expect(self.start.expect_orders)
        return engine

    def _fail(self, error: Exception) -> None:
        """A start that would fail again. The supervisor decides what becomes of the others."""
        code = Exit.of(error)
        log.error("this cannot be served", error=in_words(error))
        # A takeover that fails is not the last word: a worker that begins with the files may do better, or says this.
        if not self._takes_over:
            self._channel.say("failed", code=code, message=in_words(error))
        os._exit(code)

    async def _note(self) -> None:
        """What the engines saw that an operator should hear of."""
        while True:
            await asyncio.sleep(NOTES_S)
            self._say_guard()
            for shard, engine in self._engines.items():
                alarms = engine.clock_alarms
                if alarms != self._alarms[shard]:
                    self._alarms[shard] = alarms
                    text = "the wall clock stepped by more than a second; logged time is slewed"
                    log.warning(text, shard=shard, alarms=alarms)

    def _say_guard(self) -> None:
        """Each time, so that a supervisor that comes later knows it too."""
        expires_unix_s = 0 if self._certificates is None else self._certificates.expires_unix_s
        files_failed = self._credentials.files_failed
        self._channel.say("guard", files_failed=files_failed, certificate_expires_unix_s=expires_unix_s)

    async def _hand_over(self) -> None:
        """Another process stands by. From here on this one answers what it has, over a link to that one."""
        self._front.hand_over()
        while not await asyncio.to_thread(self._front.handed_over, float(DRAIN_S_MAX)):
            log.warning("shards are not given away yet")
        await asyncio.to_thread(self._seal)
        self._released = True
        self._channel.say("released")

    def _seal(self) -> None:
        for shard, engine in self._engines.items():
            engine.close()
            log.info("stopped", shard=shard, sequence=engine.sequence)
        self._engines.clear()

    async def _drain(self) -> None:
        if not self._listening:
            # Told to end in the middle of a takeover.
            self._listen()
        self._front.drain()
        # If all are to end in the middle of a handover, nobody comes who could answer what waits for a successor.
        alone = self._handing_over and self.start.worker not in self._links
        seconds = DRAIN_ALONE_S_MAX if alone else DRAIN_S_MAX
        complete = await asyncio.to_thread(self._front.drained, float(seconds))
        if not complete:
            log.warning("calls are cut off", seconds=seconds)
        self._drained.set()
        self._channel.say("drained")

    async def _close(self) -> None:
        if self._draining:
            # Who has no supervisor is told both at once.
            await self._drained.wait()
        self._lookups.close()
        await asyncio.to_thread(self._credentials.close)
        if self._listening:
            self._front.stop()
            await asyncio.to_thread(self._loop_thread.join)
        self._front.close()
        await asyncio.to_thread(self._seal)
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
    # Who this is now: it changes when one that stands by is told to lead.
    now: list[Any] = []
    heard = messages(channel, lambda: now[0].state())
    async with asyncio.TaskGroup() as tasks:
        first = await anext(heard)
        if first.kind == "start":
            now.append(Worker(channel, tasks, Start.of(first)))
        else:
            # Not needed by who leads.
            from engine.follower import StandingBy

            now.append(StandingBy(channel, tasks, Start.of(first)))
        now[0].begin()
        async for message in heard:
            now[0] = now[0].hear(message)


def main() -> None:
    channel, name = adopted()
    configure(process=name)
    run_to_the_end(work(channel))


if __name__ == "__main__":
    main()
