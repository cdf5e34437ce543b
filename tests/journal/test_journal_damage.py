"""Each way of breaking a log that docs/log_format.md decides, but for torn writes."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.errors import EveropenError, JournalDamaged, JournalFormatError
from tests.journal.logs import (
    LOG_ID,
    SMALL,
    TINY,
    UNIT,
    JournalReader,
    JournalWriter,
    blocks,
    commit,
    copy,
    expected,
    flip,
    last_segment,
    make_log,
    native,
    read,
    record,
    record_blocks,
    segment,
    write_at,
)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """One segment: records 1; 2 and 3; 4; a seal."""
    return make_log(tmp_path / "log", [[record(1)], [record(2), record(3)], [record(4)]])


@pytest.fixture
def long_log(tmp_path: Path) -> Path:
    """Records 1 to 30 in three segments, the last one by a second leader."""
    path = make_log(tmp_path / "log", [[record(sequence, 2000)] for sequence in range(1, 21)])
    assert len(list(path.glob("*.log"))) == 2
    return make_log(path, [[record(sequence, 2000)] for sequence in range(21, 31)])


def refused(path: Path, match: str | None = None) -> JournalDamaged:
    """Reader and writer refuse alike, with the same words, and the writer leaves nothing behind."""
    before = sorted(os.listdir(path))
    with pytest.raises(JournalDamaged, match=match) as by_reader:
        read(path)
    with pytest.raises(JournalDamaged):
        JournalWriter(path, segment_bytes=SMALL)
    assert sorted(os.listdir(path)) == before
    assert "everopen journal verify" in str(by_reader.value)
    return by_reader.value


def test_flip_in_a_middle_block_is_refused_with_file_offset_and_sequence(log: Path) -> None:
    block = record_blocks(last_segment(log))[1]
    flip(last_segment(log), block.offset + 150)
    error = refused(log, "CRC is wrong")
    assert (error.file, error.offset, error.sequence) == (str(last_segment(log)), block.offset, 2)


@pytest.mark.parametrize("sealed", [True, False])
def test_flip_in_the_last_acknowledged_block_is_refused(tmp_path: Path, sealed: bool) -> None:
    path = make_log(tmp_path / "log", [[record(1)], [record(2)]], sealed=sealed)
    (path / "durable").unlink()
    block = record_blocks(last_segment(path))[-1]
    flip(last_segment(path), block.offset + 200)
    assert refused(path, "CRC is wrong").sequence == 2


@pytest.mark.parametrize("field", [40, 44, 48, 50])
def test_flip_in_a_length_field_is_refused(log: Path, field: int) -> None:
    flip(last_segment(log), record_blocks(last_segment(log))[2].offset + field, 7)
    refused(log, "header's CRC")


def test_flip_in_a_stamp_is_refused(tmp_path: Path) -> None:
    path = make_log(tmp_path / "log", [[record(1, 3000)]], sealed=False)
    (path / "durable").unlink()
    flip(last_segment(path), UNIT + 512 * 3 + 505)
    refused(path, "stamp")


def test_flip_in_the_zeros_after_the_end_is_refused(tmp_path: Path) -> None:
    path = make_log(tmp_path / "log", [[record(1)]], sealed=False)
    flip(last_segment(path), SMALL - 1)
    assert refused(path, "something follows").offset == SMALL - 512


@pytest.mark.parametrize("offset", [0, 4, 9, 30, 50, 1000, 4092])
def test_flip_in_a_segment_header_is_refused(long_log: Path, offset: int) -> None:
    for number in (1, 2, 3):
        path = copy(long_log, long_log.parent / str(number))
        flip(segment(path, number), offset)
        assert refused(path).file == str(segment(path, number))


@pytest.mark.parametrize("sealed", [True, False])
def test_flip_of_any_bit_of_a_small_log_is_refused(tmp_path: Path, sealed: bool) -> None:
    path = make_log(tmp_path / "log", [[record(1), record(2)], [record(3)]], TINY, sealed)
    (path / "durable").unlink()
    assert read(path) == expected(3)
    data = last_segment(path).read_bytes()
    fd = os.open(last_segment(path), os.O_RDWR)
    try:
        for at in range(len(data)):
            for bit in range(8):
                os.pwrite(fd, bytes([data[at] ^ 1 << bit]), at)
                with pytest.raises(EveropenError), JournalReader(path) as reader:
                    reader.scan()
            os.pwrite(fd, data[at : at + 1], at)
    finally:
        os.close(fd)
    assert read(path) == expected(3)


def test_flip_of_any_bit_of_durable_is_harmless(log: Path) -> None:
    for at in [*range(64), *range(2048, 2112)]:
        for bit in range(8):
            flip(log / "durable", at, bit)
            assert len(read(log)) == 4
            flip(log / "durable", at, bit)


def test_segment_missing_in_the_middle_is_refused(long_log: Path) -> None:
    segment(long_log, 2).unlink()
    assert refused(long_log, "missing").file == str(segment(long_log, 2))


def test_segment_missing_at_the_end_is_refused_by_what_was_published(long_log: Path) -> None:
    segment(long_log, 3).unlink()
    assert refused(long_log, "published as durable").sequence == 21


def test_segment_missing_at_the_beginning_needs_a_snapshot(long_log: Path) -> None:
    segment(long_log, 1).unlink()
    second = read(long_log)[0][0]
    with pytest.raises(JournalDamaged, match="snapshot"):
        read(long_log, second - 1)
    assert [sequence for sequence, _ in read(long_log, second)] == list(range(second, 31))


def test_segments_all_missing_never_begins_an_empty_log(log: Path) -> None:
    last_segment(log).unlink()
    refused(log)


def test_segments_swapped_is_refused(long_log: Path) -> None:
    shutil.move(segment(long_log, 1), long_log / "other")
    shutil.move(segment(long_log, 2), segment(long_log, 1))
    shutil.move(long_log / "other", segment(long_log, 2))
    refused(long_log, "another segment number")


def test_segment_of_another_log_is_refused(long_log: Path) -> None:
    other = long_log.parent / "other"
    with JournalWriter(other, segment_bytes=SMALL) as writer:
        for sequence in range(1, 21):
            commit(writer, [record(sequence, 2000)])
    shutil.copy(segment(other, 2), segment(long_log, 2))
    assert "another log" in str(refused(long_log))


def test_segment_of_the_same_log_that_was_written_otherwise_is_refused(long_log: Path) -> None:
    other = make_log(long_log.parent / "other", [[record(sequence, 1999)] for sequence in range(1, 21)])
    shutil.copy(segment(other, 1), segment(long_log, 1))
    # The writer looks at the last segments only; it is replay that reads the first.
    with pytest.raises(JournalDamaged, match="sealed"):
        read(long_log)


def test_open_with_another_log_id_is_refused(log: Path) -> None:
    with pytest.raises(JournalDamaged, match="another log"):
        JournalWriter(log, log_id=bytes(16), segment_bytes=SMALL)
    assert read(log) == expected(4)


def test_durable_of_another_log_is_refused(log: Path) -> None:
    other = log.parent / "other"
    with JournalWriter(other, segment_bytes=SMALL) as writer:
        commit(writer, [record(1)])
    shutil.copy(other / "durable", log / "durable")
    refused(log, "another log")


def test_durable_missing_or_broken_is_ignored(log: Path) -> None:
    for change in (Path.unlink, lambda file: file.write_bytes(b""), lambda file: file.write_bytes(os.urandom(UNIT))):
        change(log / "durable")
        assert read(log) == expected(4)


def test_newer_format_version_is_named_and_not_called_damage(log: Path) -> None:
    header = bytearray(last_segment(log).read_bytes()[:UNIT])
    header[4] = 2
    header[4092:] = native.crc32c(bytes(header[:4092])).to_bytes(4, "little")
    write_at(last_segment(log), 0, bytes(header))
    with pytest.raises(JournalFormatError, match="format version 2"):
        read(log)


def block_of_the_first_epoch(log: Path) -> bytes:
    """What a fenced leader may still write; a second leader has the log now."""
    block = record_blocks(last_segment(log))[-1]
    data = last_segment(log).read_bytes()[block.offset :][: block.size]
    make_log(log, [])
    return data


def test_stale_block_of_an_older_epoch_behind_the_seal_is_discarded(log: Path) -> None:
    end = blocks(last_segment(log))[-1]
    stale = block_of_the_first_epoch(log)
    make_log(log, [[record(5)]])
    write_at(segment(log, 1), end.offset + end.size, stale)
    assert read(log) == expected(5)
    make_log(log, [[record(6)]])
    assert read(log) == expected(6)


def test_stale_block_of_an_older_epoch_in_a_newer_segment_is_refused(log: Path) -> None:
    stale = block_of_the_first_epoch(log)
    write_at(last_segment(log), UNIT, stale)
    refused(log)


def test_zero_filled_tail_with_a_seal_behind_it_is_refused(log: Path) -> None:
    block = record_blocks(last_segment(log))[-1]
    (log / "durable").unlink()
    write_at(last_segment(log), block.offset, bytes(block.size))
    assert refused(log, "something follows").sequence == 4


def test_zero_filled_tail_is_refused_by_what_was_published(log: Path) -> None:
    block = record_blocks(last_segment(log))[-1]
    write_at(last_segment(log), block.offset, bytes(SMALL - block.offset))
    assert refused(log, "published as durable").sequence == 4


def test_zero_filled_tail_without_any_witness_reads_as_a_shorter_log(log: Path) -> None:
    block = record_blocks(last_segment(log))[-1]
    (log / "durable").unlink()
    write_at(last_segment(log), block.offset, bytes(SMALL - block.offset))
    assert read(log) == expected(3)


def test_zero_filled_sector_before_a_sealed_length_is_refused(long_log: Path) -> None:
    block = record_blocks(segment(long_log, 1))[-1]
    write_at(segment(long_log, 1), block.offset + 512, bytes(512))
    refused_at = pytest.raises(JournalDamaged, match="not written as a whole")
    with refused_at as error:
        read(long_log)
    assert error.value.offset == block.offset


@pytest.mark.parametrize("keep", [0, 1, 100, UNIT, 2 * UNIT, SMALL - 1])
def test_file_cut_short_is_refused(log: Path, keep: int) -> None:
    os.truncate(last_segment(log), keep)
    refused(log)


def test_file_of_garbage_after_the_header_is_refused(log: Path) -> None:
    write_at(last_segment(log), UNIT, os.urandom(SMALL - UNIT))
    refused(log)


def test_crash_between_new_segment_and_first_block_loses_nothing(log: Path) -> None:
    for _ in range(3):
        make_log(log, [])
        # What a crash right after the rename leaves: no seal, nothing published.
        write_at(last_segment(log), UNIT, bytes(SMALL - UNIT))
        (log / "durable").unlink()
    assert read(log) == expected(4)
    make_log(log, [[record(5)]])
    assert read(log) == expected(5)


@pytest.mark.parametrize("change", [lambda data: data, lambda data: data[: SMALL // 2], lambda _: b""])
def test_crash_while_preparing_a_segment_loses_nothing(log: Path, change: Callable[[bytes], bytes]) -> None:
    (log / f"segment-{2:020d}.tmp").write_bytes(change(bytes(SMALL)))
    assert read(log) == expected(4)
    make_log(log, [[record(5)]])
    assert read(log) == expected(5)


def test_epoch_of_which_only_durable_is_left_is_not_used_again(log: Path) -> None:
    make_log(log, [])
    last_segment(log).unlink()
    with JournalWriter(log, log_id=LOG_ID, segment_bytes=SMALL) as writer:
        assert writer.epoch == 3
