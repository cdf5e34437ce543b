"""The workers of `everopen serve` without their supervisor: a test starts, links, kills and drains them as it likes."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from engine import _core, datadir, front_settings
from engine.channel import Channel, Message
from engine.partition_map import hosted_by, linked_pairs

# Nothing is decided by it: what hangs fails.
PATIENCE_S = 60.0
ROOT = Path(__file__).resolve().parent.parent.parent


class Process:
    """One worker, and what it has said."""

    def __init__(self, number: int, log: Path) -> None:
        self.number = number
        self.heard: list[Message] = []
        self._channel, other = Channel.pair()
        command = [sys.executable, "-m", "engine.worker", "--name", f"worker {number}"]
        with other, log.open("ab") as stderr:
            self.process = subprocess.Popen(
                [*command, "--channel", str(other.fileno())],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                pass_fds=[other.fileno()],
            )

    def send(self, kind: str, fds: Sequence[int] = (), /, **fields: object) -> None:
        self._channel.send(kind, fds, **fields)

    def wait_for(self, kind: str, count: int = 1) -> None:
        """Until it has said so as often."""
        while sum(message.kind == kind for message in self.heard) < count:
            readable, _, _ = select.select([self._channel], [], [], PATIENCE_S)
            message = self._channel.receive() if readable else None
            if message is None:
                raise AssertionError(f"worker {self.number} did not say {kind}: {self.heard}")
            self.heard.append(message)

    def end(self) -> int:
        # Not before it has ended: a worker that nobody speaks to any more is gone at once.
        code = self.process.wait(PATIENCE_S)
        self._channel.close()
        return code


class Workers:
    """All of them, with a direct address each. `log` takes what they say on standard error."""

    def __init__(self, data_dir: Path, workers: int, shards: int, relay: Path, **settings: int) -> None:
        self.directories = datadir.create_or_open(data_dir, shards)
        self.log = data_dir.parent / "workers.stderr"
        self._relay = relay
        self._settings = front_settings.defaults() | settings
        broken = front_settings.broken_relations(self._settings)
        assert not broken, broken
        self._board = _core.board_create(workers)
        self._listeners = [socket.create_server(("127.0.0.1", 0), backlog=512) for _ in range(workers)]
        for listener in self._listeners:
            listener.setblocking(False)
        self.addresses = [f"127.0.0.1:{listener.getsockname()[1]}" for listener in self._listeners]
        self.shards, self.count = shards, workers
        self.running: dict[int, Process] = {}
        for number in range(workers):
            self.start(number)

    def start(self, number: int) -> None:
        """Returns once it has recovered its shards; and is linked to the others that run."""
        started = Process(number, self.log)
        self.running[number] = started
        started.send(
            "start",
            [self._board, self._listeners[number].fileno()],
            worker=number,
            workers=self.count,
            shards=self.shards,
            directories=list(map(str, self.directories)),
            relay=str(self._relay),
            settings=self._settings,
            segment_bytes=1024 * 1024,
            expect_orders=0,
            identity={"data_dir": str(self.log.parent)},
            relay_secret="00" * 32,
            shared_listeners=0,
        )
        for pair in linked_pairs(self.count, self.shards):
            if number in pair and all(end in self.running for end in pair):
                self.link(*pair)
        started.wait_for("recovered", len(list(hosted_by(number, self.count, self.shards))))

    def link(self, first: int, second: int) -> None:
        """A link, or a new one in place of the one before."""
        with ExitStack() as stack:
            alive = [stack.enter_context(end) for end in socket.socketpair()]
            rings = [_core.ring_create(), _core.ring_create()]
            wakes = [os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK) for _ in range(2)]
            for fd in (*rings, *wakes):
                stack.callback(os.close, fd)
            for end, (worker, peer) in enumerate([(first, second), (second, first)]):
                fds = [alive[end].fileno(), rings[end], rings[1 - end], wakes[end], wakes[1 - end]]
                self.running[worker].send("link", fds, worker=peer, serial=1)

    def kill(self, number: int) -> None:
        process = self.running.pop(number)
        process.process.send_signal(signal.SIGKILL)
        assert process.end() == -signal.SIGKILL

    def drain(self, number: int) -> None:
        """Both phases, to its end in good order."""
        process = self.running.pop(number)
        process.send("drain")
        process.wait_for("drained")
        process.send("close")
        assert process.end() == 0, self.said()

    def said(self) -> str:
        return self.log.read_text(errors="replace")[-20_000:]

    def gauges(self, name: str) -> list[int]:
        """One value for each worker that runs."""
        slots = _core.Board(self._board, self.count).slots()
        return [slot[name] for slot in slots if slot["worker"] in self.running]

    def close(self) -> None:
        for number in list(self.running):
            process = self.running.pop(number)
            process.process.kill()
            process.end()
        for listener in self._listeners:
            listener.close()
        os.close(self._board)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
