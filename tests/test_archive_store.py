"""The store of closed orders: what it has, what it promises, and what it refuses to be."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine import archive_store
from engine.archive_store import FILE, ArchiveReader, ArchiveStore, Closed
from engine.errors import ArchiveDamaged, ArchiveUnavailable

LOG_ID = bytes(range(16))


def closed(closed_sequence: int, order_id: str, order_sequence: int = 1, item: bytes = b"") -> Closed:
    return Closed(closed_sequence, order_sequence, "shop", order_id, item or f"{order_id}@{closed_sequence}".encode())


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ArchiveStore]:
    with ArchiveStore(tmp_path, LOG_ID) as made:
        yield made


@pytest.fixture
def reader(store: ArchiveStore, tmp_path: Path) -> Iterator[ArchiveReader]:
    with ArchiveReader(tmp_path, LOG_ID) as made:
        yield made


@pytest.fixture
def alone(tmp_path: Path) -> Path:
    """The file of a store that nobody has open, with many pages."""
    with ArchiveStore(tmp_path, LOG_ID) as made:
        made.put_many([closed(n, f"order-{n:04d}", item=bytes(200)) for n in range(1, 1001)], 1000)
    assert [path.name for path in tmp_path.iterdir()] == [FILE]
    return tmp_path / FILE


def test_order_is_found_as_soon_as_the_call_returns_also_by_another_process(
    store: ArchiveStore, tmp_path: Path
) -> None:
    assert store.put_many([closed(7, "a")], 7) == 7
    program = (
        "import sys; from pathlib import Path; from engine.archive_store import ArchiveReader;"
        "reader = ArchiveReader(Path(sys.argv[1]), bytes(range(16)));"
        "sys.stdout.buffer.write(reader.find('shop', 'a', 7))"
    )
    found = subprocess.run([sys.executable, "-c", program, tmp_path], capture_output=True, check=True)
    assert found.stdout == b"a@7"


def test_newest_order_of_an_id_is_found_and_the_newest_version_of_it(
    store: ArchiveStore, reader: ArchiveReader
) -> None:
    store.put_many([closed(30, "a", order_sequence=1), closed(20, "b", order_sequence=2)])
    store.put_many([closed(10, "a", order_sequence=1), closed(15, "b", order_sequence=12)])
    assert reader.find("shop", "a") == b"a@30"
    assert reader.find("shop", "b") == b"b@15"
    assert reader.find("shop", "c") is None
    assert reader.find("other shop", "a") is None


def test_ids_of_any_characters_are_told_apart(store: ArchiveStore, reader: ArchiveReader) -> None:
    ids = ["a", "A", "a ", "ä", "a\u0308", "\U0001f4e6" * 16, "a\x00b", "a\x00", "1", "01", "'; DROP TABLE orders; --"]
    store.put_many([closed(n, order_id, item=b"%d" % n) for n, order_id in enumerate(ids, 1)])
    assert [reader.find("shop", order_id) for order_id in ids] == [b"%d" % n for n in range(1, len(ids) + 1)]


def test_same_orders_put_again_are_there_once(store: ArchiveStore, reader: ArchiveReader) -> None:
    rows = [closed(n, f"order-{n}") for n in range(1, 101)]
    assert store.put_many(rows[:60], 60) == 60
    assert store.put_many(rows, 100) == 100
    assert store.put_many(rows[:60], 60) == 100, "what was promised is never taken back"
    assert reader.count() == 100
    assert sorted(reader.iterate(100)) == rows


def test_promise_moves_only_with_the_last_of_the_orders(store: ArchiveStore) -> None:
    assert store.put_many([closed(5, "a")]) == 0
    assert store.put_many([closed(5, "b")], 5) == 5
    assert store.put_many([]) == store.archived_through == 5


def test_batch_that_fails_leaves_nothing(store: ArchiveStore, reader: ArchiveReader) -> None:
    store.put_many([closed(1, "a")], 1)
    with pytest.raises(ArchiveUnavailable, match=r"datatype mismatch|cannot store"):
        store.put_many([closed(2, "b"), ("none", 3, "shop", "c", b"")], 3)  # type: ignore[list-item]
    assert (store.archived_through, reader.count()) == (1, 1)
    assert store.put_many([closed(2, "b")], 2) == 2


def test_iteration_gives_each_order_as_it_was_at_a_sequence(store: ArchiveStore, reader: ArchiveReader) -> None:
    versions = [closed(10, "a"), closed(40, "a"), closed(20, "b"), closed(30, "b", order_sequence=25), closed(50, "c")]
    store.put_many(versions, 50)
    assert [row[0] for row in reader.iterate(9)] == []
    assert [row[0] for row in reader.iterate(30)] == [10, 20, 30]
    assert list(reader.iterate(50)) == [versions[1], versions[2], versions[3], versions[4]]


def test_cut_store_has_what_was_closed_before_and_belongs_to_the_new_log(store: ArchiveStore, tmp_path: Path) -> None:
    store.put_many([closed(10, "a"), closed(40, "a"), closed(20, "b"), closed(50, "c")], 50)
    store.remove_after(30, b"n" * 16)
    assert (store.archived_through, store.put_many([])) == (30, 30)
    with ArchiveReader(tmp_path, b"n" * 16) as reader:
        assert [reader.find("shop", name) for name in "abc"] == [b"a@10", b"b@20", None]
    with pytest.raises(ArchiveDamaged, match="another log"):
        ArchiveReader(tmp_path, LOG_ID)


def test_store_that_lacks_what_left_memory_is_refused(store: ArchiveStore, reader: ArchiveReader) -> None:
    store.put_many([closed(10, "a")], 10)
    assert store.put_many([], 0, evicted_through=10) == 10
    assert reader.find("shop", "b", evicted_through=10) is None
    with pytest.raises(ArchiveDamaged, match=r"up to sequence 10, .* up to 11 was here"):
        reader.find("shop", "a", evicted_through=11)
    with pytest.raises(ArchiveDamaged, match="left memory"):
        store.put_many([closed(12, "b")], 12, evicted_through=11)
    assert (store.archived_through, reader.count()) == (10, 1)


def test_reader_of_no_file_says_so_and_makes_none(tmp_path: Path) -> None:
    with pytest.raises(ArchiveUnavailable, match=r"archive\.sqlite: is missing"):
        ArchiveReader(tmp_path, LOG_ID)
    assert not list(tmp_path.iterdir())


def test_start_that_died_before_the_tables_begins_anew(tmp_path: Path) -> None:
    (tmp_path / FILE).touch()
    with pytest.raises(ArchiveDamaged, match="no such table"):
        ArchiveReader(tmp_path, LOG_ID)
    with ArchiveStore(tmp_path, LOG_ID) as store:
        assert store.put_many([]) == 0


def test_copy_of_a_store_in_use_is_one_moment_and_stands_alone(store: ArchiveStore, tmp_path: Path) -> None:
    store.put_many([closed(1, "a")], 1)
    (tmp_path / "copy").mkdir()
    with ArchiveReader(tmp_path, LOG_ID) as reader:
        reader.copy(tmp_path / "copy")
    store.put_many([closed(2, "b")], 2)
    assert [path.name for path in (tmp_path / "copy").iterdir()] == [FILE]
    with ArchiveReader(tmp_path / "copy", LOG_ID) as copied:
        assert (copied.archived_through, copied.count()) == (1, 1)


def test_writes_of_one_that_was_killed_are_read_from_its_log(store: ArchiveStore, tmp_path: Path) -> None:
    store.put_many([closed(1, "a")], 1)
    # The files as a kill would leave them, but for the shared memory, which a reboot takes.
    (tmp_path / "left").mkdir()
    for name in (FILE, f"{FILE}-wal"):
        shutil.copy(tmp_path / name, tmp_path / "left" / name)
    with ArchiveReader(tmp_path / "left", LOG_ID) as reader:
        assert reader.find("shop", "a", 1) == b"a@1"


def test_reader_and_writer_notice_another_file_of_that_name(
    store: ArchiveStore, reader: ArchiveReader, tmp_path: Path
) -> None:
    store.put_many([closed(1, "a")], 1)
    (tmp_path / FILE).rename(tmp_path / "lost")
    with pytest.raises(ArchiveUnavailable, match="is missing"):
        reader.find("shop", "a")
    (tmp_path / FILE).touch()
    for call in (lambda: reader.find("shop", "a"), lambda: store.put_many([closed(2, "b")], 2)):
        with pytest.raises(ArchiveUnavailable, match="another file"):
            call()


def test_locked_file_is_unavailable(alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive_store, "BUSY_S", 0.01)
    with sqlite3.connect(alone) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("DELETE FROM orders WHERE order_id = 'order-0001'")
        for kind in (ArchiveReader, ArchiveStore):
            with pytest.raises(ArchiveUnavailable, match="locked"):
                kind(alone.parent, LOG_ID)
    other.close()


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("format_version", 2, "format version 2; this program knows 1"),
        ("format_version", None, "format version None"),
        ("log_id", bytes(16), "another log than 000102"),
        ("archived_through", "1000", "archived_through is '1000'"),
        ("archived_through", -1, "archived_through is -1"),
        ("archived_through", None, "archived_through is None"),
        ("archived_through", 1001, "archived_through is 1001, and its checksum does not fit"),
        ("archived_through", 999, "archived_through is 999, and its checksum does not fit"),
        ("through_crc", 0, "archived_through is 1000, and its checksum does not fit"),
        ("through_crc", None, "its checksum does not fit"),
    ],
)
def test_meta_that_does_not_fit_is_refused(alone: Path, name: str, value: object, complaint: str) -> None:
    with sqlite3.connect(alone) as other:
        other.execute("UPDATE meta SET value = ? WHERE name = ?", (value, name))
    other.close()
    for kind in (ArchiveReader, ArchiveStore):
        with pytest.raises(ArchiveDamaged, match=complaint):
            kind(alone.parent, LOG_ID)


@pytest.mark.parametrize("damage", ["head", "shorter", "schema", "text"])
def test_damaged_file_is_refused_by_readers_and_writers(alone: Path, damage: str) -> None:
    data = bytearray(alone.read_bytes())
    match damage:
        case "head":
            data[0] ^= 1
        case "shorter":
            del data[4096 * 3 :]
        case "schema":
            data[100] ^= 0xFF
        case "text":
            data[:] = b"no database" * 100
    alone.write_bytes(data)
    with pytest.raises(ArchiveDamaged), ArchiveReader(alone.parent, LOG_ID) as reader:
        list(reader.iterate(1000))
    again = [closed(n, f"order-{n:04d}") for n in range(1, 1001)]
    with pytest.raises(ArchiveDamaged), ArchiveStore(alone.parent, LOG_ID) as store:
        store.put_many(again, 1000)


def test_damaged_page_in_the_middle_is_told_by_whoever_reads_it(alone: Path) -> None:
    data = bytearray(alone.read_bytes())
    page = 4096 * (len(data) // 4096 // 2)
    data[page : page + 4096] = bytes(4096)
    alone.write_bytes(data)
    with ArchiveReader(alone.parent, LOG_ID) as reader:
        with pytest.raises(ArchiveDamaged, match="malformed"):
            list(reader.iterate(1000))
        answers = []
        for n in range(1, 1001):
            try:
                answers.append(reader.find("shop", f"order-{n:04d}", 1000))
            except ArchiveDamaged:
                continue
        assert 900 < len(answers) < 1000
        assert set(answers) == {bytes(200)}, "an order that cannot be read is never called unknown"


def test_order_is_never_unknown_nor_another_one_for_a_flipped_bit(tmp_path: Path) -> None:
    rows = [closed(n, f"order-{n:03d}", item=b"%03d" % n * 40) for n in range(1, 201)]
    with ArchiveStore(tmp_path, LOG_ID) as store:
        store.put_many(rows, 200)
    whole = (tmp_path / FILE).read_bytes()
    noticed = 0
    for flip in range(0, 8 * len(whole), 8 * 797 + 1):
        data = bytearray(whole)
        data[flip // 8] ^= 1 << flip % 8
        (tmp_path / FILE).write_bytes(data)
        try:
            with ArchiveReader(tmp_path, LOG_ID) as reader:
                for row in rows:
                    try:
                        assert reader.find("shop", row.order_id, 200) == row.item, f"bit {flip}"
                    except ArchiveDamaged:
                        noticed += 1
        except ArchiveDamaged:
            noticed += 1
    assert noticed > 50


def test_audit_of_rows_names_the_one_that_is_damaged(alone: Path) -> None:
    data = bytearray(alone.read_bytes())
    # An order's bytes are zero here, and lie behind its id.
    data[data.index(b"order-0500") + 50] ^= 1
    alone.write_bytes(data)
    with ArchiveReader(alone.parent, LOG_ID) as reader:
        with pytest.raises(
            ArchiveDamaged, match="row of shop shop, order order-0500, closed at sequence 500 is damaged"
        ):
            list(reader.iterate(1000))
        with pytest.raises(ArchiveDamaged, match="order-0500"):
            reader.find("shop", "order-0500")
        assert reader.find("shop", "order-0502") == bytes(200)
