"""Snapshots: what is saved goes on as if nothing had happened, and what is damaged is refused in words."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import pytest

from engine import _core
from engine._core import PLACE_ORDER, PUT_LOCATION, PUT_SHOP, PUT_SKU, Engine, JournalReader, Shard, crc32c
from engine.errors import EveropenError, JournalFormatError, SnapshotDamaged
from tests import reference_fields as fields
from tests.generate import Generator
from tests.machines import Pair
from tests.profiles import PROFILES
from tests.reference_fields import REQUESTS
from tests.till import SHOP, Till

pytestmark = pytest.mark.native

HEADER_BYTES = 104
RETENTION_BYTES = 40
SECTION_HEADER_BYTES = 56
FLIPS = 3_000


@pytest.mark.parametrize("seed", range(len(PROFILES)))
def test_state_saved_and_loaded_often_goes_on_as_the_model(seed: int, tmp_path: Path) -> None:
    generator = Generator(seed)
    pair = Pair(generator.profile.window_ms, generator.profile.entries_max)
    commands = 100 if generator.profile.restock_rarely else 500
    for index in range(commands):
        step = generator.next(pair.model)
        pair.execute(step.method, step.request, step.now_ms)
        if index % 25 == 24:
            pair.core.save(str(tmp_path / "snap"))
            pair.core = Shard.load(str(tmp_path / "snap"))
            pair.compare_digests()


def test_sku_that_is_to_be_matched_but_has_no_queue_left_is_saved_and_loaded(tmp_path: Path) -> None:
    # More backorders than one command looks at, so that SKUs stay on the list; then the queue of one of them empties.
    till = Till()
    till.do(PUT_SHOP)
    till.do(PUT_LOCATION, location_id="north", status=2)
    for number in range(100):
        till.do(PUT_SKU, sku_id=f"sku{number}", price_minor=1, backorder_policy=2)
        till.place(f"order{number}", [(f"sku{number}", 1)] * 64)
    till.do(PUT_LOCATION, location_id="north", status=1)
    assert till.shard.next_due_ms() == 0
    till.do(fields.CANCEL_ORDER, order_id="order99", command_id="cancel")
    till.shard.save(str(tmp_path / "snap"))
    loaded = Shard.load(str(tmp_path / "snap"))
    assert loaded.state_digest() == till.shard.state_digest()
    for shard in (loaded, till.shard):
        while shard.next_due_ms() == 0:
            shard.execute(fields.TICK, b"", till.now_ms)
    assert loaded.state_digest() == till.shard.state_digest()
    assert loaded.check() == ""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A small snapshot of three shops: a hold, a backorder, a shipment, a purchase, a refusal."""
    till = Till()
    for shop in ("shop", "second", "third"):
        till.do(PUT_SHOP, shop_id=shop, region_costs=[{"from_region": "a", "to_region": "b", "cost": 3}])
        till.do(PUT_LOCATION, shop_id=shop, location_id="north", region="b")
        till.do(PUT_SKU, shop_id=shop, sku_id="tea", price_minor=5, backorder_policy=2, buyer_limit_per_window=90)
    till.restock("tea", "north", 20)
    till.place("held", [("tea", 3)])
    till.place("paid", [("tea", 4)])
    till.do(fields.PAY_ORDER, order_id="paid", payment_id="p", amount_minor=20)
    till.do(fields.SHIP_ORDER, order_id="paid", command_id="s", lines=[{"quantity": 2}])
    till.place("waits", [("tea", 30)])
    till.place("refused", [("tea", 99)])
    path = tmp_path_factory.mktemp("whole") / "snap"
    till.shard.save(str(path))
    return path.read_bytes()


def refuse(folder: Path, data: bytes) -> SnapshotDamaged | JournalFormatError:
    path = folder / "damaged.snap"
    path.write_bytes(data)
    with pytest.raises((SnapshotDamaged, JournalFormatError)) as refused:
        Shard.load(str(path))
    error = refused.value
    assert isinstance(error, (SnapshotDamaged, JournalFormatError))
    assert error.file == str(path)
    if isinstance(error, SnapshotDamaged):
        assert error.section
        assert error.reason
        assert 0 <= error.offset <= len(data)
    return error


def sections_of(data: bytes) -> list[bytes]:
    parts, at = [], HEADER_BYTES + RETENTION_BYTES
    while at < len(data):
        (size,) = struct.unpack_from("<Q", data, at + 8)
        end = at + SECTION_HEADER_BYTES + size
        parts.append(data[at:end])
        at = end
    return parts


def with_header(data: bytes, offset: int, value: int) -> bytes:
    """The snapshot with another 32-bit number in its header, and a header CRC that is right."""
    head = bytearray(data[:HEADER_BYTES])
    struct.pack_into("<I", head, offset, value)
    struct.pack_into("<I", head, HEADER_BYTES - 4, crc32c(bytes(head[:-4])))
    return bytes(head) + data[HEADER_BYTES:]


def header_of(data: bytes) -> bytes:
    return data[: HEADER_BYTES + RETENTION_BYTES]


def test_layout_of_the_test_is_that_of_the_snapshot(whole: bytes) -> None:
    assert with_header(whole, 8, 2) == whole
    assert len(sections_of(whole)) == 3


def test_bit_flip_anywhere_is_refused(whole: bytes, tmp_path: Path) -> None:
    source = random.Random(1)
    bits = range(len(whole) * 8)
    for bit in source.sample(bits, min(FLIPS, len(bits))):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        refuse(tmp_path, bytes(damaged))


def test_truncation_anywhere_is_refused(whole: bytes, tmp_path: Path) -> None:
    for size in range(len(whole)):
        refuse(tmp_path, whole[:size])


def test_bytes_after_the_end_are_refused(whole: bytes, tmp_path: Path) -> None:
    error = refuse(tmp_path, whole + b"\0")
    assert (error.section, error.offset) == ("end", len(whole))


@pytest.mark.parametrize("order", [(1, 0, 2), (0, 2, 1), (0, 0, 2), (0, 1, 1), (0, 1), (1, 2), (0, 2), (0, 1, 2, 2)])
def test_sections_swapped_doubled_or_dropped_are_refused(order: tuple[int, ...], whole: bytes, tmp_path: Path) -> None:
    parts = sections_of(whole)
    damaged = header_of(whole) + b"".join(parts[place] for place in order)
    refuse(tmp_path, damaged)
    if len(order) != 3:
        refuse(tmp_path, with_header(damaged, 60, len(order)))


def test_newer_format_is_refused_by_its_version(whole: bytes, tmp_path: Path) -> None:
    error = refuse(tmp_path, with_header(whole, 8, 3))
    assert isinstance(error, JournalFormatError)
    assert error.found == 3


def test_newer_level_is_refused_by_name(whole: bytes, tmp_path: Path) -> None:
    error = refuse(tmp_path, with_header(whole, 12, 99))
    assert "level 99" in str(error)


def engine_with_snapshot(folder: Path) -> Path:
    """A closed engine's directory; the snapshot is of its last sequence but one."""
    engine = Engine(str(folder))
    for number in range(4):
        engine.execute(PUT_SHOP, REQUESTS[PUT_SHOP](shop_id=f"shop{number}").SerializeToString())
    engine.close()
    shard = Shard.empty(engine.log_id)
    with JournalReader(str(folder), 1) as reader:
        shard.replay_from(reader, 4)
    path = folder / f"snapshot-{4:020}.snap"
    shard.save(str(path))
    return path


def test_engine_with_a_snapshot_of_its_log_starts(tmp_path: Path) -> None:
    engine_with_snapshot(tmp_path)
    engine = Engine(str(tmp_path))
    assert (engine.sequence, engine.counts()["shops"]) == (5, 4)
    engine.close()


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def test_older_snapshot_is_taken_for_a_damaged_one_if_the_log_goes_on_from_it(tmp_path: Path) -> None:
    older = engine_with_snapshot(tmp_path)
    whole = Engine(str(tmp_path))
    digest, log_id = whole.state_digest(), whole.log_id
    whole.close()
    shard = Shard.load(str(older))
    with JournalReader(str(tmp_path), 5) as reader:
        shard.replay_from(reader)
    newer = tmp_path / f"snapshot-{5:020}.snap"
    shard.save(str(newer))
    damage(newer)
    engine = Engine(str(tmp_path))
    assert engine.state_digest() == digest
    [(name, said)] = engine.passed_over.items()
    assert name == newer.name
    assert newer.name in said
    engine.close()
    with pytest.raises(SnapshotDamaged, match=newer.name):
        # The log begins behind the older one.
        _core.begun_shard(str(tmp_path), log_id, 5, 6)
    damage(older)
    with pytest.raises(SnapshotDamaged, match=newer.name):
        Engine(str(tmp_path))


def test_engine_with_a_renamed_snapshot_is_refused(tmp_path: Path) -> None:
    path = engine_with_snapshot(tmp_path)
    path.rename(tmp_path / f"snapshot-{5:020}.snap")
    with pytest.raises(SnapshotDamaged, match="renamed"):
        Engine(str(tmp_path))


def test_engine_with_a_snapshot_of_another_log_is_refused(tmp_path: Path) -> None:
    path = engine_with_snapshot(tmp_path / "one")
    other = engine_with_snapshot(tmp_path / "two")
    other.write_bytes(path.read_bytes())
    with pytest.raises(EveropenError, match="another log"):
        Engine(str(tmp_path / "two"))


def test_snapshot_of_a_place_that_cannot_be_written_changes_nothing(tmp_path: Path) -> None:
    till = Till()
    till.do(PUT_SHOP)
    with pytest.raises(OSError, match="snap"):
        till.shard.save(str(tmp_path / "missing" / "snap"))
    assert till.shard.check() == ""
    assert till.ask(PLACE_ORDER, order_id="o", buyer_id="b", lines=[{"sku_id": SHOP, "quantity": 1}])[0] == 5
