"""What the tests with real faults share: an engine under concurrent callers, blows to it, the reckoning at the end."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import everopen
from engine import _core, audit, datadir, journal_tools
from everopen.v1 import order_service_pb2 as orders
from everopen.v1 import outcome_pb2 as outcome
from tests.faults.history import PATIENCE_S, History, Load, seed
from tests.serving import SEGMENT_BYTES, Server, freeze

LOOKUPS = 100


def until(condition: Callable[[], object], what: str, patience_s: float = PATIENCE_S) -> None:
    end = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < end, f"not within {patience_s:g} s: {what}"
        time.sleep(0.01)


def free_address() -> str:
    """Named beforehand, so that an engine that comes after a dead one has the same arguments."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"127.0.0.1:{listener.getsockname()[1]}"


def process_state(pid: int) -> str:
    """As in /proc: T stands still, Z has ended and nobody took note; empty once it is gone."""
    return (_stat(pid) or [""])[0]


def start_time(pid: int) -> str:
    """Tells it from a later one of the same number."""
    return (_stat(pid) or [""] * 20)[19]


def _stat(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


class Scene:
    """An engine that is served at one address over its deaths, and callers who want something all the time.

    Leaving it in peace stops callers and engine, and settles what both say happened.
    """

    def __init__(
        self,
        data_dir: Path,
        *arguments: str,
        load_seed: int = 1,
        segment_bytes: int = SEGMENT_BYTES,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.data_dir = data_dir
        self.listen = free_address()
        self._arguments = arguments
        self._segment_bytes = segment_bytes
        self._environment = environment
        self._load_seed = load_seed
        # Whatever was seen running: pid and start time.
        self._seen: set[tuple[int, str]] = set()

    def __enter__(self) -> Self:
        self.serve()
        try:
            seed(self.listen)
        except BaseException:
            self._end()
            raise
        self.load = Load(self.listen, self._load_seed)
        self.load.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self.load.stop()
                find_orders(self.listen, self.history)
                assert self.server.stop() == 0, self.server.stderr
        finally:
            self._end()
            self.load.abort()
        if error is None:
            self.history.check()
            assert_nothing_lost(self.data_dir, self.history)

    @property
    def history(self) -> History:
        return self.load.history

    def progress(self, answers: int = 100) -> None:
        """Waits until so many more calls were answered."""
        self.history.wait_for(answers)

    def serve(self) -> None:
        """Starts the engine; what is left of one whose supervisor died is adopted or replaced."""
        self.server = Server(
            self.data_dir,
            *self._arguments,
            listen=self.listen,
            segment_bytes=self._segment_bytes,
            environment=self._environment,
        )

    def pid(self, name: str) -> int:
        return self.server.process.pid if name == "supervisor" else self.server.children[name]

    def kill(self, name: str) -> None:
        """SIGKILL to one process, and waits until another has its place; the supervisor's is taken by `serve`."""
        pid = self.pid(name)
        self._see()
        os.kill(pid, signal.SIGKILL)
        if name == "supervisor":
            assert self.server.wait() == -signal.SIGKILL
            self.serve()
        else:
            self.replaced(name, pid)

    def crash(self) -> None:
        """SIGKILL to all of it, as when the machine goes."""
        self._end()

    def replaced(self, name: str, pid: int) -> None:
        """Waits until another than `pid` has the name, and a line told of the end."""
        until(lambda: self.server.children.get(name, pid) != pid, f"another {name} in the place of {pid}")
        until(lambda: f"{name} died" in self.server.stderr, f"a line about the end of {name}")

    def freeze(self, name: str) -> int:
        """SIGSTOP; the pid that stands still."""
        pid = self.pid(name)
        self._see()
        freeze(pid)
        return pid

    def _see(self) -> None:
        self._seen |= {(pid, start_time(pid)) for pid in (self.server.process.pid, *self.server.children.values())}

    def _end(self) -> None:
        """Nothing that was started here stays, whatever state it is in and whoever started it."""
        self._see()
        left = {pid for pid, since in self._seen if since and start_time(pid) == since}
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.server.kill()
        until(lambda: not any(process_state(pid) not in ("", "Z") for pid in left), "all processes are gone")


def find_orders(listen: str, history: History) -> None:
    """The engine has what it accepted, the oldest of it too, which may be in no log any more."""
    accepted = [name for name, (said, _) in history.orders.items() if said == outcome.OUTCOME_PLACED]
    with everopen.connect(listen) as client:
        for order_id in accepted[:: len(accepted) // LOOKUPS + 1]:
            assert client.get_order("shop", order_id=order_id).order.order_id == order_id


def assert_nothing_lost(data_dir: Path, history: History) -> None:
    """After an engine has ended: the audit holds, logged time never falls, and each order is in the log as answered.

    Sequences are compared too, so a log that grew twice from one point cannot pass. What lies behind a snapshot may
    have gone with its segment.
    """
    assert list(audit.audit(data_dir))
    logged: Counter[str] = Counter()
    differ: list[str] = []
    first: dict[int, int] = {}
    time_ms: Counter[int] = Counter()
    for shard, record in journal_tools.dump(data_dir):
        first.setdefault(shard, record.sequence)
        assert record.time_ms >= time_ms[shard]
        time_ms[shard] = record.time_ms
        if record.kind == _core.PLACE_ORDER:
            order_id = orders.PlaceOrderRequest.FromString(record.command).order_id
            logged[order_id] += 1
            said = history.orders.get(order_id)
            if said not in (None, (record.outcome, record.sequence)):
                differ.append(order_id)
    begin = first[datadir.shard_of(_core.partition_of("shop"), len(datadir.shard_directories(data_dir)))]
    lost = [name for name, (_, sequence) in history.orders.items() if sequence >= begin and name not in logged]
    assert not lost, f"acknowledged and lost: {lost[:5]}"
    assert max(logged.values()) == 1, "logged twice"
    assert not differ, "answered otherwise than logged"
