"""The journal alone: append, sync, and learn that it is durable.

Load: records of 200 bytes from one thread into a log of its own. Excluded: the state machine, which makes the records;
opening and closing. `one at a time` waits for each record, so its latency is one sync and the way to the sync thread
and back; `groups` waits for 1,024 records at once; `piped` waits only when 1 MiB is ahead of the disk.
Checks: the log that is read back has every record, in order.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.conftest import TINY, Figures
from engine._core import JournalReader, JournalWriter
from engine.latency import Latencies

RECORD_BYTES = 200
ROUNDS = 1 if TINY else 3
PATIENCE_S = 30.0


class Log:
    """A log being written, and how many records it should have."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.writer = JournalWriter(str(path))
        self.first = self.writer.next_sequence
        self.appended = 0

    def append(self) -> int:
        self.appended += 1
        return self.writer.append(record_of(self.first + self.appended - 1))

    def wait(self, sequence: int) -> None:
        assert self.writer.wait_durable(sequence, PATIENCE_S), "the disk did not take it in time"

    def check(self) -> None:
        self.writer.close()
        with JournalReader(str(self.path)) as reader:
            found = [sequence for sequence, record in reader if record == record_of(sequence)]
        assert found == list(range(self.first, self.first + self.appended))


def record_of(sequence: int) -> bytes:
    """A record begins with its length; the rest is the state machine's, and here the sequence again and again."""
    length = RECORD_BYTES.to_bytes(8, "little")
    return length + sequence.to_bytes(8, "little") * (RECORD_BYTES // 8 - 1)


@pytest.fixture
def log(data_dir: Path, request: pytest.FixtureRequest) -> Iterator[Log]:
    log = Log(data_dir / request.node.name)
    yield log
    log.writer.close()


def measure(log: Log, benchmark: BenchmarkFixture, figures: Figures, name: str, count: int, group: int) -> None:
    """Appends `count` records a round and waits for each group of them."""
    latencies = Latencies()
    seconds = 0.0

    def round_of() -> None:
        nonlocal seconds
        began_s = time.perf_counter()
        for _ in range(count // group):
            group_began_s = time.perf_counter()
            for _ in range(group):
                sequence = log.append()
            log.writer.kick()
            log.wait(sequence)
            latencies.add(time.perf_counter() - group_began_s)
        seconds += time.perf_counter() - began_s

    benchmark.pedantic(  # type: ignore[no-untyped-call]
        round_of, rounds=ROUNDS
    )
    log.check()
    figures.add(name, count * ROUNDS, "records", seconds, latencies)


def test_one_record_at_a_time(log: Log, benchmark: BenchmarkFixture, figures: Figures) -> None:
    measure(log, benchmark, figures, "journal, one at a time", 16 if TINY else 5_000, 1)


def test_groups_of_records(log: Log, benchmark: BenchmarkFixture, figures: Figures) -> None:
    measure(log, benchmark, figures, "journal, groups of 1,024", 2_048 if TINY else 200 * 1_024, 1_024)


def test_piped_records(log: Log, benchmark: BenchmarkFixture, figures: Figures) -> None:
    count = 2_048 if TINY else 400_000
    ahead = 1024 * 1024 // RECORD_BYTES
    seconds = 0.0

    def round_of() -> None:
        nonlocal seconds
        began_s = time.perf_counter()
        for number in range(count):
            sequence = log.append()
            if number % 64 == 0:
                log.writer.kick()
                log.wait(max(log.first, sequence - ahead))
        log.writer.kick()
        log.wait(sequence)
        seconds += time.perf_counter() - began_s

    benchmark.pedantic(  # type: ignore[no-untyped-call]
        round_of, rounds=ROUNDS
    )
    log.check()
    figures.add("journal, piped", count * ROUNDS, "records", seconds)
