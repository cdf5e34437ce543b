"""A write that a power loss cut: any subset of its sectors arrived. The log then ends right before it."""

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import JournalDamaged
from tests.journal.logs import (
    SECTOR,
    UNIT,
    JournalReader,
    copy,
    expected,
    last_segment,
    make_log,
    read,
    record,
    record_blocks,
    write_at,
)


class Torn:
    """A log whose last block is on its way: put() persists some sectors of it and leaves the others as they were."""

    def __init__(self, directory: Path, last_commit: list[bytes]) -> None:
        acknowledged = make_log(directory / "before", [[record(1)], [record(2), record(3)]], sealed=False)
        whole = make_log(directory / "after", [[record(1)], [record(2), record(3)], last_commit], sealed=False)
        self.acknowledged = read(acknowledged)
        self.all = read(whole)
        block = record_blocks(last_segment(whole))[-1]
        self.offset = block.offset
        self.sectors = block.size // SECTOR
        data = last_segment(whole).read_bytes()
        self.content = [data[block.offset + at * SECTOR :][:SECTOR] for at in range(self.sectors)]
        # Header and earlier blocks are those of the log that went on: it was made at another time.
        self.path = copy(whole, directory / "torn")
        (self.path / "durable").write_bytes((acknowledged / "durable").read_bytes())

    def put(self, persisted: set[int]) -> None:
        sectors = (self.content[at] if at in persisted else bytes(SECTOR) for at in range(self.sectors))
        write_at(last_segment(self.path), self.offset, b"".join(sectors))

    def check(self, persisted: set[int]) -> None:
        self.put(persisted)
        with JournalReader(self.path) as reader:
            records = list(reader)
            tail = reader.position["tail"]
        if len(persisted) == self.sectors:
            assert (records, tail) == (self.all, "clean")
        else:
            assert (records, tail) == (self.acknowledged, "torn" if persisted else "clean")


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Torn:
    return Torn(tmp_path_factory.mktemp("short"), [record(4), record(5)])


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Torn:
    return Torn(tmp_path_factory.mktemp("long"), [record(sequence, 1500) for sequence in range(4, 14)])


def test_torn_block_every_subset_of_its_sectors_ends_the_log_before_it(short: Torn) -> None:
    assert short.sectors == 8
    for subset in range(256):
        short.check({at for at in range(8) if subset >> at & 1})


def test_torn_block_of_several_units_ends_the_log_before_it(long: Torn) -> None:
    assert long.sectors == 32
    for missing in range(32):
        long.check({at for at in range(32) if at != missing})
        long.check({missing})
        long.check(set(range(missing)))
        long.check(set(range(missing, 32)))


@given(st.sets(st.integers(0, 31)))
def test_torn_block_any_subset_ends_the_log_before_it(long: Torn, persisted: set[int]) -> None:
    long.check(persisted)


def test_torn_header_is_the_end_though_all_else_was_written(short: Torn) -> None:
    short.check(set(range(1, 8)))


def test_torn_payload_is_the_end_though_the_header_was_written(short: Torn) -> None:
    short.check({0})


def test_torn_block_with_a_flip_in_what_was_written_is_refused(long: Torn) -> None:
    for sector in (0, 1, 9):
        long.put({0, 1, 9})
        data = bytearray(long.content[sector])
        data[505 if sector else 45] ^= 4
        write_at(last_segment(long.path), long.offset + sector * SECTOR, bytes(data))
        with pytest.raises(JournalDamaged):
            read(long.path)


def test_torn_block_with_something_after_it_is_refused(long: Torn) -> None:
    long.put({0, 1, 9})
    after = long.offset + long.sectors * SECTOR
    write_at(last_segment(long.path), after + UNIT, long.content[1])
    with pytest.raises(JournalDamaged, match="something follows"):
        read(long.path)
    write_at(last_segment(long.path), after + UNIT, bytes(SECTOR))
    long.check({0, 1, 9})


def test_torn_block_that_was_published_as_durable_is_refused(tmp_path: Path) -> None:
    path = make_log(tmp_path / "log", [[record(1)], [record(2)]], sealed=False)
    write_at(last_segment(path), record_blocks(last_segment(path))[-1].offset + SECTOR, bytes(SECTOR))
    with pytest.raises(JournalDamaged, match="published as durable"):
        read(path)


def test_torn_block_then_new_leader_goes_on_after_what_was_acknowledged(tmp_path: Path) -> None:
    torn = Torn(tmp_path, [record(4), record(5)])
    pick = random.Random(5)
    for turn in range(5):
        path = copy(torn.path, tmp_path / f"turn-{turn}")
        kept = set(pick.sample(range(8), pick.randint(1, 7)))
        sectors = (torn.content[at] if at in kept else bytes(SECTOR) for at in range(8))
        write_at(last_segment(path), torn.offset, b"".join(sectors))
        make_log(path, [[record(4)], [record(5)]])
        assert read(path) == expected(5)
        make_log(path, [[record(6)]])
        assert read(path) == expected(6)
