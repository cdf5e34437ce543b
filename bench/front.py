"""What the bench of the front needs: cores, an audited engine, echo servers, and the machine's own synced write."""

from __future__ import annotations

import mmap
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import orjson

import everopen
from bench.conftest import ROOT, TINY
from engine import loadgen
from engine._core import PLACE_ORDER, JournalReader
from engine.datadir import shard_directories
from engine.loadgen import Options, Result
from engine.local import LocalEngine, audit, everopen_command

CORES = sorted(os.sched_getaffinity(0))
SERVER_CORE, GENERATOR_CORE = CORES[0], CORES[-1]

# The set-up that the bars are about; beside it stands what `everopen serve` does unasked.
MAIN = tuple(os.environ.get("EVEROPEN_BENCH_SERVE", "--workers 1 --followers 0").split())

BLOCK_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Spread:
    """A figure over rounds: its median and quartiles."""

    values: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def __str__(self) -> str:
        if len(self.values) == 1:
            return f"{self.median:,.2f}"
        low, _, high = statistics.quantiles(self.values, n=4, method="inclusive")
        return f"{self.median:,.2f} [{low:,.2f}, {high:,.2f}]"


@contextmanager
def pinned(core: int | None) -> Iterator[None]:
    """This thread, and the processes that it starts meanwhile, on one core. None: on any."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, before if core is None else {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class Served:
    """An engine with a catalogue, and what was done to it."""

    def __init__(self, data_dir: Path, core: int | None = SERVER_CORE, arguments: tuple[str, ...] = MAIN) -> None:
        self.data_dir = data_dir
        with pinned(core):
            self.engine = LocalEngine(data_dir, arguments=arguments)
        self.placed = self.uncertain = 0
        self._seeded: set[tuple[str, int, int]] = set()

    def load(self, options: Options, spin: bool = True) -> Result:
        """Runs the load from the generator's core, and keeps account of what the log must have."""
        options = replace(options, target=self.engine.address, spin=spin)
        key = (options.method, options.shops, options.skus)
        if key not in self._seeded:
            self.placed += loadgen.seed(options)
            self._seeded.add(key)
        result = run_pinned(options)
        if options.method in ("place", "stream"):
            self.placed += result.placed
            self.uncertain += result.uncertain
        return result

    def check(self) -> None:
        """Ends the engine. The audit must hold, and the log have what was acknowledged and nothing nobody asked for."""
        self.engine.stop()
        verdict = audit(self.data_dir)
        assert verdict.holds, verdict.text
        logged = placed_in_log(self.data_dir)
        assert self.placed <= logged <= self.placed + self.uncertain

    def rss_bytes(self) -> int:
        """Of the engine's processes, without their shared libraries: what is anonymous or shared memory."""
        return sum(anonymous_bytes(pid) for pid in family(self.engine.pid))


@contextmanager
def served(
    data_dir: Path, core: int | None = SERVER_CORE, arguments: tuple[str, ...] = MAIN, checked: bool = True
) -> Iterator[Served]:
    """An engine for the while; its directory goes when the audit held."""
    engine = Served(data_dir, core, arguments)
    try:
        yield engine
    except BaseException:
        engine.engine.kill()
        raise
    if checked:
        engine.check()
    engine.engine.stop()
    shutil.rmtree(data_dir)


def run_pinned(options: Options) -> Result:
    with pinned(GENERATOR_CORE):
        result = loadgen.run(options)
    assert result.holds, result.as_dict()
    return result


def placed_in_log(data_dir: Path) -> int:
    """Kind and outcome stand at fixed places of a record (docs/log_format.md), so millions are counted in seconds."""
    head = bytes([PLACE_ORDER, everopen.PLACED])
    placed = 0
    for shard in shard_directories(data_dir):
        with JournalReader(str(shard)) as reader:
            placed += sum(record[4:6] == head for _, record in reader)
    return placed


def family(pid: int) -> list[int]:
    """The process and all that descend from it."""
    found = [pid]
    for parent in found:
        for children in Path(f"/proc/{parent}/task").glob("*/children"):
            found += map(int, children.read_text().split())
    return found


def anonymous_bytes(pid: int) -> int:
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return sum(int(status[name].split()[0]) * 1024 for name in ("RssAnon", "RssShmem"))


class Program:
    """A server that is compared with: it says `echo: serving on ADDRESS` and runs until it is ended."""

    def __init__(self, *command: str, core: int | None = SERVER_CORE) -> None:
        with pinned(core):
            self._process = subprocess.Popen(
                command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
            )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line.startswith("echo: serving on "), line
        self.address = line.split()[-1]

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


def echo_in_python() -> Program:
    return Program(sys.executable, "-m", "bench.echo_aio")


def echo_in_cpp(folder: Path) -> Program | None:
    """Compiled if that was not done before. None: this machine has no gRPC for C++."""
    source, program = ROOT / "bench/echo_async.cc", folder / "echo_async"
    if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
        flags = subprocess.run(
            ["pkg-config", "--cflags", "--libs", "grpc++"], capture_output=True, text=True, check=False
        )
        if flags.returncode != 0 or shutil.which("g++") is None:
            return None
        command = ["g++", "-O2", "-std=c++17", str(source), "-o", str(program), *flags.stdout.split()]
        subprocess.run(command, check=True)
    return Program(str(program))


@contextmanager
def hammer(target: str, path: str, seconds: float) -> Iterator[Callable[[], float]]:
    """A second generator that calls one method without a pause. Yields what waits for it and tells its rate."""
    command = [*everopen_command(), "bench", "--target", target, "--method", "echo", "--path", path, "--json"]
    command += ["--connections", "2", "--streams", "8", "--seconds", str(seconds), "--warmup-s", "0"]
    with pinned(GENERATOR_CORE):
        process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)

    def ended() -> float:
        said = process.communicate()[0]
        assert process.returncode == 0, said
        return float(orjson.loads(said)["rate"])

    try:
        yield ended
    finally:
        process.kill()
        process.wait()


class SyncedWrites:
    """4 KiB at a time, as the journal does it: O_DIRECT into blocks that were written before, then fdatasync."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._blocks = 64 if TINY else 4_096
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o640)
        os.posix_fallocate(fd, 0, self._blocks * BLOCK_BYTES)
        os.pwrite(fd, bytes(self._blocks * BLOCK_BYTES), 0)
        os.fsync(fd)
        os.close(fd)

    def measure(self, count: int) -> list[int]:
        """Nanoseconds of each, in order of length. From the server's core, where the journal's sync thread runs."""
        with pinned(SERVER_CORE), mmap.mmap(-1, BLOCK_BYTES) as block:
            block.write(os.urandom(BLOCK_BYTES))
            fd = os.open(self._path, os.O_RDWR | os.O_DIRECT)
            took = []
            for number in range(count):
                began = time.perf_counter_ns()
                os.pwrite(fd, block, number % self._blocks * BLOCK_BYTES)
                os.fdatasync(fd)
                took.append(time.perf_counter_ns() - began)
            os.close(fd)
        return sorted(took)
