"""What the bench of reliability needs: an engine that is served at one address over its deaths, and the reckoning.

The log is kept whole for the reckoning, also where the engine lets segments go: each has a second name in a folder
beside the data directory, on the same file system.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self

import orjson

import everopen
from bench.front import GENERATOR_CORE, SERVER_CORE, anonymous_bytes, pinned
from engine import datadir, loadgen, runtime
from engine._core import CANCEL_ORDER, PLACE_ORDER, Engine, JournalReader
from engine.load_request import places_of
from engine.loadgen import Background, Options, Result
from engine.local import LocalEngine, audit

DAY_MS = 86_400_000
DAY_S = DAY_MS // 1_000
PATIENCE_S = 300.0
LINK_S = 0.05
PAUSE_S = 0.002


def until(holds: Callable[[], object], what: str, patience_s: float = PATIENCE_S, pause_s: float = PAUSE_S) -> None:
    """Looks now and then: what is awaited here is measured by somebody else, whom it must not disturb."""
    end = time.monotonic() + patience_s
    while not holds():
        if time.monotonic() > end:
            raise TimeoutError(f"not within {patience_s:g} s: {what}")
        time.sleep(pause_s)


def progress(running: Background, answers: int, what: str = "", patience_s: float = PATIENCE_S) -> None:
    """Waits until the load has got so many more answers, or has ended."""
    enough = running.load.acknowledged + answers
    until(lambda: not running.running or running.load.acknowledged >= enough, f"answers {what}", patience_s)


def free_address() -> str:
    """Named beforehand, so that an engine that comes after a dead one has the same arguments."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"127.0.0.1:{listener.getsockname()[1]}"


class KeptLog:
    """Every segment of a shard's log under a second name, which stays when the engine drops it."""

    def __init__(self, directory: Path, folder: Path) -> None:
        self.folder = folder
        self._directory = directory
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="kept log")
        folder.mkdir(parents=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._over.wait(LINK_S):
            self._link()

    def _link(self) -> None:
        for segment in self._directory.glob("*.log"):
            with suppress(FileExistsError, FileNotFoundError):
                os.link(segment, self.folder / segment.name)

    def close(self) -> None:
        self._over.set()
        self._thread.join()
        self._link()


@dataclass(frozen=True, slots=True)
class Reckoning:
    """What callers were told, against what the log says."""

    acknowledged: int
    lost: int
    doubled: int
    oversold: int

    def __str__(self) -> str:
        return f"{self.acknowledged:,} acknowledged, {self.lost} lost, {self.doubled} doubled, {self.oversold} oversold"

    @property
    def holds(self) -> bool:
        return not (self.lost or self.doubled or self.oversold)


class Upheld:
    """An engine that is to be killed. What is done to it by `load` or `during` is reckoned up by `check`."""

    def __init__(
        self, data_dir: Path, *arguments: str, core: int | None = SERVER_CORE, window_ms: int | None = None
    ) -> None:
        self.data_dir = data_dir
        self.listen = free_address()
        self.results: list[Result] = []
        self._arguments = arguments
        self._core = core
        self._seeded = False
        shards = datadir.create_or_open(data_dir)
        for shard in shards if window_ms is not None else []:
            assert window_ms is not None
            Engine(str(shard), idempotency_window_ms=window_ms).close()
        self._kept = [KeptLog(shard, data_dir.with_name(f"{data_dir.name}.{shard.name}")) for shard in shards]
        self.serve()

    def serve(self) -> float:
        """Starts it, also over children that a dead supervisor left. Returns the seconds until it served."""
        began = time.monotonic()
        with pinned(self._core):
            self.engine = LocalEngine(self.data_dir, listen=self.listen, arguments=self._arguments)
        return time.monotonic() - began

    # What is there.

    @property
    def children(self) -> dict[str, int]:
        """Pids by name, of those that live, also while there is no supervisor."""
        named = runtime.named(self.data_dir)
        return {child.name: child.pid for child in named if runtime.start_time(child.pid) == child.start_time}

    def said(self, event: str) -> int:
        """How often the log lines have it."""
        lines = self.engine.log_path.read_bytes().splitlines()
        return sum(orjson.loads(line).get("event") == event for line in lines if line.startswith(b"{"))

    def snapshot_begins(self) -> bool:
        return any(self.data_dir.glob("shard-*/snapshot-*.tmp"))

    def resident_bytes(self) -> dict[str, int]:
        """Anonymous and shared memory of each child."""
        sizes = {}
        for name, pid in self.children.items():
            with suppress(OSError, KeyError):
                sizes[name] = anonymous_bytes(pid)
        return sizes

    # What is done to it.

    def load(self, options: Options) -> Result:
        """To its end, from the generator's core."""
        with self.during(options) as running:
            return running.result()

    @contextmanager
    def during(self, options: Options) -> Iterator[Background]:
        """A load that goes on until the caller is through, and is reckoned up."""
        options = replace(options, target=self.listen, retry=True, acks=True)
        if not self._seeded:
            loadgen.seed(options)
            self._seeded = True
        # The thread's own core, whatever that of its maker is.
        with Background(options, lambda: os.sched_setaffinity(0, {GENERATOR_CORE})) as running:
            yield running
            if options.seconds >= DAY_S and not options.requests:
                running.load.stop()
            self.results.append(running.result())

    def fill(self, orders: int) -> None:
        """Opens so many orders, which stay open."""
        options = Options(method="stream", connections=2, streams=2, requests=orders, seconds=DAY_S, warmup_s=0)
        batch = min(options.batch, orders)
        result = self.load(replace(options, batch=batch, reserve_ttl_ms=DAY_MS, spin=True))
        assert result.counts["placed"] >= orders, result.as_dict()

    def kill(self, name: str) -> bool:
        """SIGKILL. False: there is none of that name now."""
        if name == "supervisor":
            self.engine.kill_supervisor()
            return True
        pid = self.children.get(name)
        if pid is None:
            return False
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        return True

    def crash(self) -> None:
        """All of it at once."""
        self.engine.kill()
        for pid in self.children.values():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        until(lambda: not self.children, "the end of all children")

    # The end.

    def check(self) -> Reckoning:
        """Stops it. The audit must hold, and the log have what was acknowledged, once."""
        self.engine.stop()
        verdict = audit(self.data_dir)
        assert verdict.holds, verdict.text
        for log in self._kept:
            log.close()
        return reckon([log.folder for log in self._kept], self.results)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.crash()
        for log in self._kept:
            log.close()
            shutil.rmtree(log.folder, ignore_errors=True)
        shutil.rmtree(self.data_dir, ignore_errors=True)


# The generator's ids: ten digits of the run, a hyphen, twelve digits of the number. docs/log_format.md says where a
# record has its command. A PlaceOrder begins with the id, a CancelOrder with the shop and then the id.
ID_BYTES = 23
RUN_BYTES = 10
PLACE_AT = 24
CANCEL_AT = 24 + 2 + len("shop-0000")


def reckon(folders: list[Path], results: list[Result]) -> Reckoning:
    """Reads every record of whole logs. Counts each order that is not there as often as it must be, and each sale of a
    unit that was not there."""
    placed = {result.options.run_id.encode(): bytearray(result.numbers) for result in results}
    cancelled = {run: bytearray(len(numbers)) for run, numbers in placed.items()}
    options = {result.options.run_id.encode(): result.options for result in results}
    places = {run: places_of(replace(of, zipf=False)) for run, of in options.items() if not of.zipf}
    units = min(result.options.units for result in results)
    sold: Counter[bytes] = Counter()
    oversold = 0
    heads = {
        bytes([PLACE_ORDER, everopen.PLACED]): (PLACE_AT, placed, 1),
        bytes([CANCEL_ORDER, everopen.APPLIED]): (CANCEL_AT, cancelled, -1),
    }
    for folder in folders:
        with JournalReader(str(folder)) as reader:
            for _, record in reader:
                known = heads.get(record[4:6])
                if known is None:
                    continue
                at, counts, change = known
                id_ = record[at + 2 : at + 2 + ID_BYTES]
                run = id_[:RUN_BYTES]
                if run not in counts:
                    continue
                number = int(id_[RUN_BYTES + 1 :], 16)
                # What was sent while the load was being stopped may be beyond what it counted.
                counts[run].extend(bytes(max(0, number + 1 - len(counts[run]))))
                counts[run][number] = min(255, counts[run][number] + 1)
                if run in places:
                    place = places[run][number * 10 % len(places[run]) :][:10]
                    sold[place] += change
                    oversold += sold[place] > units
    acknowledged = lost = doubled = 0
    for result in results:
        run = result.options.run_id.encode()
        for acks, logged in zip(result.acks, (placed[run], cancelled[run]), strict=True):
            acknowledged += sum(byte.bit_count() for byte in acks)
            doubled += sum(count > 1 for count in logged)
            for index, byte in enumerate(acks):
                if byte:
                    lost += sum(byte >> bit & 1 and not logged[8 * index + bit] for bit in range(8))
    return Reckoning(acknowledged, lost, doubled, oversold)
