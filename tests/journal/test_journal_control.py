"""The control plane: what verify says, and which segments may go."""

from pathlib import Path

import pytest

from engine.errors import JournalDamaged
from engine.journal import verify
from tests.journal.logs import (
    LOG_ID,
    SMALL,
    TINY,
    JournalWriter,
    append,
    commit,
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


def test_verify_whole_log_tells_each_segment(tmp_path: Path) -> None:
    make_log(tmp_path / "log", [])
    make_log(tmp_path / "log", [[record(sequence, 2000)] for sequence in range(1, 21)])
    make_log(tmp_path / "log", [[record(21)], [record(22), record(23)]])
    verdict = verify(tmp_path / "log")
    assert (verdict.first_sequence, verdict.last_sequence, verdict.durable) == (1, 23, 23)
    assert (verdict.log_id, verdict.tail) == (LOG_ID, "sealed")
    assert [(each.number, each.epoch) for each in verdict.segments] == [(1, 1), (2, 2), (3, 2), (4, 3)]
    assert sum(each.records for each in verdict.segments) == 23
    assert verdict.segments[0].records == verdict.segments[0].blocks == 0
    assert verdict.segments[3].blocks == verdict.segments[3].seals + 2
    assert not any(each.behind for each in verdict.segments)
    assert "sequences 21 to 23" in str(verdict.segments[3])
    assert str(verdict).startswith("journal: holds, 4 segments, sequences 1 to 23, tail sealed")


def test_verify_torn_tail_names_what_lies_behind(tmp_path: Path) -> None:
    path = make_log(tmp_path / "log", [[record(1)], [record(2)]], sealed=False)
    (path / "durable").unlink()
    block = record_blocks(last_segment(path))[-1]
    write_at(last_segment(path), block.offset + 512, bytes(512))
    verdict = verify(path)
    assert (verdict.last_sequence, verdict.tail, verdict.durable) == (1, "torn", None)
    assert "7 written sectors" in verdict.segments[0].behind
    make_log(path, [[record(2)]])
    verdict = verify(path)
    assert (verdict.last_sequence, verdict.tail) == (2, "sealed")
    assert "7 written sectors" in str(verdict.segments[0])


def test_verify_damage_is_raised_with_its_place(tmp_path: Path) -> None:
    path = make_log(tmp_path / "log", [[record(sequence, 2000)] for sequence in range(1, 41)])
    block = record_blocks(segment(path, 2))[2]
    flip(segment(path, 2), block.offset + 99)
    with pytest.raises(JournalDamaged) as damaged:
        verify(path)
    found = damaged.value
    assert (found.file, found.offset) == (str(segment(path, 2)), block.offset)
    assert found.sequence == block.first_sequence


def test_verify_while_a_leader_writes_stops_at_what_is_durable(tmp_path: Path) -> None:
    with JournalWriter(tmp_path / "log", segment_bytes=TINY) as writer:
        commit(writer, [record(sequence, 1000) for sequence in range(1, 6)])
        append(writer, record(6))
        verdict = verify(tmp_path / "log", until_sequence=writer.durable)
        assert verdict.last_sequence == 5


def test_drop_segments_behind_a_snapshot_keeps_what_it_does_not_cover(tmp_path: Path) -> None:
    path = make_log(tmp_path / "log", [[record(sequence, 2000)] for sequence in range(1, 41)])
    firsts = [header["first_sequence"] for header in native.journal_segments(path)]
    assert len(firsts) >= 3
    assert native.drop_segments_before(path, 0) == 0
    assert native.drop_segments_before(path, firsts[1] - 2) == 0
    assert native.drop_segments_before(path, firsts[1] - 1) == 1
    assert [sequence for sequence, _ in read(path, firsts[1])] == list(range(firsts[1], 41))
    assert native.drop_segments_before(path, 40) == len(firsts) - 2
    assert len(native.journal_segments(path)) == 1
    with JournalWriter(path, log_id=LOG_ID, segment_bytes=SMALL) as writer:
        assert commit(writer, [record(41)]) == 41
        assert native.drop_segments_before(path, 41) == 1
        assert commit(writer, [record(42)]) == 42
    assert read(path, 41) == [(41, record(41)), (42, record(42))]
