import os
import random
import select
import struct
from pathlib import Path

import pytest

from engine.errors import JournalDamaged, JournalFull, JournalLocked
from tests.journal.logs import (
    LOG_ID,
    SMALL,
    TINY,
    JournalReader,
    JournalWriter,
    append,
    commit,
    expected,
    last_segment,
    make_log,
    native,
    read,
    record,
    record_blocks,
)


def test_append_any_sizes_reads_back_the_same(tmp_path: Path) -> None:
    sizes = [5, 24, 100, 439, 440, 441, 503, 504, 505, 1000, 3967, 3968, 3969, 4032, 20_000]
    records = [record(sequence, size) for sequence, size in enumerate(sizes, 1)]
    with JournalWriter(tmp_path / "log", segment_bytes=SMALL) as writer:
        for each in records:
            commit(writer, [each])
    assert read(tmp_path / "log") == list(enumerate(records, 1))


def test_append_largest_record_reads_back_the_same(tmp_path: Path) -> None:
    with JournalWriter(tmp_path / "log") as writer:
        largest = record(1, writer.record_bytes_max)
        assert len(largest) == 4 * 1024 * 1024
        commit(writer, [largest, record(2), largest])
    assert [each for _, each in read(tmp_path / "log")] == [largest, record(2), largest]


def test_append_what_is_no_record_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    with JournalWriter(tmp_path / "log", segment_bytes=SMALL) as writer:
        for wrong in (b"", b"\x04\0\0\0", record(1)[:-1], record(1) + b"x", record(1, writer.record_bytes_max + 1)):
            with pytest.raises(ValueError, match="not a record"):
                writer.append(wrong)
        assert writer.next_sequence == 1


def test_append_batch_before_one_kick_becomes_one_block(tmp_path: Path) -> None:
    make_log(tmp_path / "log", [[record(1)], [record(sequence) for sequence in range(2, 12)]])
    counts = [block.records for block in record_blocks(last_segment(tmp_path / "log"))]
    # The sync thread looks by itself 50 ms after a sync, so on a very slow machine the batch may be cut in two.
    assert counts[0] == 1
    assert sum(counts) == 11
    assert len(counts) <= 3


def test_append_more_than_a_block_holds_is_cut_between_records(tmp_path: Path) -> None:
    with JournalWriter(tmp_path / "log", segment_bytes=TINY) as writer:
        for sequence in range(1, 200):
            append(writer, record(sequence, 1000))
    assert read(tmp_path / "log") == expected(199, 1000)
    assert len(list((tmp_path / "log").glob("*.log"))) > 10


def test_append_beyond_the_staging_bound_is_full_and_changes_nothing(tmp_path: Path) -> None:
    with JournalWriter(tmp_path / "log", segment_bytes=SMALL, staged_bytes_max=4096) as writer:
        refused = 0
        for _ in range(2000):
            try:
                writer.append(record(writer.next_sequence, 1000))
            except JournalFull:
                refused += 1
        last = writer.next_sequence - 1
        stats = writer.stats()
    assert refused
    assert stats["refused_full"] == refused
    assert read(tmp_path / "log") == expected(last, 1000)


@pytest.mark.parametrize("segment_bytes", [TINY, 2 * TINY, SMALL])
def test_append_after_a_promise_of_room_is_never_refused(tmp_path: Path, segment_bytes: int) -> None:
    pick = random.Random(segment_bytes)
    with JournalWriter(tmp_path / "log", segment_bytes=segment_bytes) as writer:
        sizes = [5, 100, writer.record_bytes_max // 2, writer.record_bytes_max]
        appended = []
        while len(appended) < 600:
            if writer.has_room():
                appended.append(record(len(appended) + 1, pick.choice(sizes)))
                assert writer.append(appended[-1]) == len(appended)
            if pick.random() < 0.4:
                writer.kick()
    assert read(tmp_path / "log") == list(enumerate(appended, 1))


def test_append_after_close_is_refused(tmp_path: Path) -> None:
    writer = JournalWriter(tmp_path / "log", segment_bytes=SMALL)
    writer.append(record(1))
    writer.close()
    writer.close()
    with pytest.raises(ValueError, match="closed"):
        writer.append(record(2))
    assert read(tmp_path / "log") == expected(1)


def test_durable_grows_and_wakes_the_eventfd(tmp_path: Path) -> None:
    with JournalWriter(tmp_path / "log", segment_bytes=SMALL) as writer:
        os.read(writer.eventfd, 8)
        assert writer.durable == 0
        writer.append(record(1))
        writer.kick()
        assert select.select([writer.eventfd], [], [], 30)[0]
        assert writer.durable == 1
        assert native.journal_durable(tmp_path / "log")["sequence"] == 1


def test_wait_durable_for_what_was_never_appended_gives_up(tmp_path: Path) -> None:
    with JournalWriter(tmp_path / "log", segment_bytes=SMALL) as writer:
        assert writer.wait_durable(0, 0)
        assert not writer.wait_durable(1, 0.01)


def test_stats_count_what_was_done(tmp_path: Path) -> None:
    with JournalWriter(tmp_path / "log", segment_bytes=SMALL) as writer:
        for sequence in range(1, 21):
            commit(writer, [record(sequence, 4100)])
        stats = writer.stats()
    assert stats["commits"] == stats["records"] == 20
    assert stats["record_bytes"] == 20 * 4100
    assert stats["rollovers"] >= 2
    assert sum(stats["sync_ns_buckets"]) == stats["commits"] + stats["seals"]
    assert 0 < stats["sync_ns_max"] <= stats["sync_ns_sum"]


def test_open_second_writer_is_refused_with_directory_and_pid(tmp_path: Path) -> None:
    with JournalWriter(tmp_path / "log", log_id=LOG_ID, segment_bytes=SMALL) as writer:
        with pytest.raises(JournalLocked) as refused:
            JournalWriter(tmp_path / "log", segment_bytes=SMALL)
        assert refused.value.pid == os.getpid()
        assert str(tmp_path / "log") in str(refused.value)
        commit(writer, [record(1)])
    make_log(tmp_path / "log", [[record(2)]])
    assert read(tmp_path / "log") == expected(2)


def test_open_again_raises_the_epoch_and_begins_a_segment(tmp_path: Path) -> None:
    for epoch in range(1, 5):
        with JournalWriter(tmp_path / "log", segment_bytes=SMALL) as writer:
            assert (writer.epoch, writer.segment, writer.next_sequence) == (epoch, epoch, epoch)
            commit(writer, [record(epoch)])
    assert read(tmp_path / "log") == expected(4)


def test_open_again_without_records_keeps_the_sequence(tmp_path: Path) -> None:
    for _ in range(3):
        make_log(tmp_path / "log", [])
    make_log(tmp_path / "log", [[record(1)]])
    for _ in range(3):
        make_log(tmp_path / "log", [])
    make_log(tmp_path / "log", [[record(2)]])
    assert read(tmp_path / "log") == expected(2)


def test_open_new_log_begins_at_the_sequence_that_is_asked_for(tmp_path: Path) -> None:
    with JournalWriter(tmp_path / "log", log_id=LOG_ID, segment_bytes=SMALL, first_sequence=1000) as writer:
        assert writer.append(record(1000)) == 1000
        assert writer.log_id == LOG_ID
        assert writer.durable == 999
    assert read(tmp_path / "log", 1000) == [(1000, record(1000))]
    with pytest.raises(JournalDamaged, match="begins at sequence 1000"):
        read(tmp_path / "log", 999)


def test_open_left_over_temporary_segment_is_removed(tmp_path: Path) -> None:
    make_log(tmp_path / "log", [[record(1)]])
    left_over = tmp_path / "log" / f"segment-{2:020d}.tmp"
    left_over.write_bytes(b"half")
    make_log(tmp_path / "log", [[record(2)]])
    assert not left_over.exists()
    assert read(tmp_path / "log") == expected(2)


@pytest.mark.parametrize("from_sequence", [1, 2, 15, 16, 17, 30, 31])
def test_read_from_a_sequence_gives_it_and_what_follows(tmp_path: Path, from_sequence: int) -> None:
    for first in (1, 11, 21):
        make_log(
            tmp_path / "log", [[record(first + at) for at in range(5)], [record(first + 5 + at) for at in range(5)]]
        )
    assert read(tmp_path / "log", from_sequence) == expected(30)[from_sequence - 1 :]


def test_read_from_beyond_the_end_is_refused(tmp_path: Path) -> None:
    make_log(tmp_path / "log", [[record(1)]])
    with pytest.raises(JournalDamaged, match="asked for"):
        read(tmp_path / "log", 3)


def test_read_until_a_sequence_stops_there(tmp_path: Path) -> None:
    make_log(tmp_path / "log", [[record(1), record(2), record(3)], [record(4)]])
    for until in range(5):
        with JournalReader(tmp_path / "log", 1, until) as reader:
            assert list(reader) == expected(until)


def test_follow_gives_each_record_once_it_is_durable(tmp_path: Path) -> None:
    with JournalWriter(tmp_path / "log", segment_bytes=TINY) as writer, JournalReader(tmp_path / "log") as reader:
        for sequence in range(1, 60):
            commit(writer, [record(sequence, 1000)])
            assert reader.follow() == sequence
            assert list(reader) == [(sequence, record(sequence, 1000))]
            assert list(reader) == []


def test_header_states_what_the_document_says(tmp_path: Path) -> None:
    make_log(tmp_path / "log", [[record(1)]])
    make_log(tmp_path / "log", [[record(2)]])
    data = last_segment(tmp_path / "log").read_bytes()
    assert data[:5] == b"EOSG\x01"
    assert data[8:24] == LOG_ID
    number, epoch, first, size, previous = struct.unpack_from("<QQQQQ", data, 24)
    assert (number, epoch, first, size, previous) == (2, 2, 2, SMALL, 3 * 4096)
    assert struct.unpack_from("<I", data, 4092)[0] == native.crc32c(data[:4092])
