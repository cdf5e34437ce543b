"""Backup, restore and audit where orders have left memory: what the archive must have, and who says so if not."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from engine import _core, archive_tools, datadir, rebuild
from engine._core import Engine, Shard
from engine.archive_store import FILE, ArchiveReader, ArchiveStore
from engine.errors import ArchiveDamaged
from everopen.v1 import log_pb2
from everopen.v1 import order_service_pb2 as orders
from tests.serving import SEGMENT_BYTES, order
from tests.test_shards import HELD, Message, adjustment, audited, inventory, run

pytestmark = pytest.mark.native

PATIENCE_S = 30
# Over as soon as the logged time has gone on.
WINDOW_MS = 1
ABORTED = 10


class Shop:
    """One engine of one shard, with a shop in it; a follower and an archive that are told when to work."""

    def __init__(self, data_dir: Path) -> None:
        (self.directory,) = datadir.create_or_open(data_dir, 1)
        self.engine = Engine(str(self.directory), segment_bytes=SEGMENT_BYTES, idempotency_window_ms=WINDOW_MS)
        self.archived_through = 0

    def open(self) -> Shop:
        self.say(_core.PUT_SHOP, inventory.PutShopRequest(shop_id="shop"))
        self.say(_core.PUT_LOCATION, inventory.PutLocationRequest(shop_id="shop", location_id="near", region="east"))
        self.say(_core.PUT_SKU, inventory.PutSkuRequest(shop_id="shop", sku_id="sku", price_minor=250))
        self.say(_core.ADJUST_STOCK, adjustment("in", 1_000))
        return self

    def try_to(self, method: int, request: Message) -> int:
        code, _, sequence = self.engine.execute(method, request.SerializeToString())
        self.engine.kick()
        assert self.engine.wait_durable(sequence, PATIENCE_S)
        return code

    def say(self, method: int, request: Message) -> int:
        assert self.try_to(method, request) == 0
        return self.engine.sequence

    def trade(self, name: str, last: int = _core.DELIVER_ORDER) -> None:
        """An order up to the command `last`: placed, paid, shipped, delivered."""
        of = {"shop_id": "shop", "order_id": name}
        for method, request in (
            (_core.PLACE_ORDER, order(name, 1)),
            (_core.PAY_ORDER, orders.PayOrderRequest(**of, payment_id="p", amount_minor=250)),
            (_core.SHIP_ORDER, orders.ShipOrderRequest(**of, command_id="s")),
            (_core.DELIVER_ORDER, orders.DeliverOrderRequest(**of, command_id="d")),
        ):
            self.say(method, request)
            if method == last:
                return

    def give_back(self, name: str, command_id: str) -> None:
        """Goods and money, so that it is closed once more."""
        of = {"shop_id": "shop", "order_id": name}
        back = orders.ReturnOrderRequest(**of, command_id=command_id, disposition=orders.RETURN_DISPOSITION_TO_STOCK)
        self.say(_core.RETURN_ORDER, back)
        self.say(_core.SETTLE_REFUND, orders.SettleRefundRequest(**of, command_id=f"{command_id}-money"))

    def state(self) -> Shard:
        return state_of(self.directory)

    def archive(self) -> None:
        """What a follower does: all that is closed and whose window is over, and at least something is."""
        rows: list[tuple[int, int, str, str, bytes]] = []
        while not rows:
            # Time must go on, and only a record makes it.
            self.say(_core.ADJUST_STOCK, adjustment(f"tick-{self.engine.sequence}", 1))
            rows = self.state().closed(self.archived_through, 1_000)
        with ArchiveStore(self.directory, self.engine.log_id) as store:
            self.archived_through = store.put_many(rows, rows[-1][0])

    def evict(self) -> None:
        evicted = 0
        while self.try_to(_core.EVICT, log_pb2.Evict(closed_sequence=self.archived_through)) != ABORTED:
            evicted += 1
        assert evicted

    def bring_back(self, name: str) -> None:
        with ArchiveReader(self.directory, self.engine.log_id) as archive:
            item = archive.find("shop", name, self.engine.counts()["evicted_through"])
        assert item
        self.say(_core.RESTORE, log_pb2.Restore(shop_id="shop", item=item))


def state_of(directory: Path, until: int | None = None) -> Shard:
    log = rebuild.extent(directory)
    state = rebuild.newest_state(log, until or log.last_sequence)
    rebuild.replay(state, log, until or log.last_sequence)
    return state


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def shop(data_dir: Path) -> Shop:
    return Shop(data_dir).open()


def a_life(shop: Shop) -> list[int]:
    """Orders that leave memory, stay, come back, change, leave again, and ids used twice. Sequences of turns."""
    turns = []
    for n in range(6):
        shop.trade(f"a{n}")
    shop.trade("open", _core.PAY_ORDER)
    shop.archive()
    shop.evict()
    turns.append(shop.engine.sequence)
    # Back, changed, and gone once more.
    shop.bring_back("a1")
    shop.give_back("a1", "r1")
    turns.append(shop.engine.sequence)
    # Back and still here.
    shop.bring_back("a2")
    # Archived, and changed before it could leave.
    shop.trade("b")
    shop.archive()
    shop.give_back("b", "r2")
    # The same id as an order that has left.
    shop.trade("a3")
    shop.trade("a4", _core.PAY_ORDER)
    turns.append(shop.engine.sequence)
    shop.archive()
    shop.evict()
    turns.append(shop.engine.sequence)
    shop.bring_back("a2")
    shop.trade("closed")
    shop.archive()
    turns.append(shop.engine.sequence)
    return turns


def proven(directory: Path) -> int:
    return archive_tools.prove(state_of(directory), rebuild.extent(directory))


def spoil(path: Path, statement: str, *parameters: object) -> None:
    with sqlite3.connect(path) as other:
        assert other.execute(statement, parameters).rowcount == 1
    other.close()


def test_archive_holds_at_every_turn_of_a_life(shop: Shop, data_dir: Path) -> None:
    counts: list[int] = []
    for story in (lambda: shop.trade("first"), shop.archive, shop.evict, lambda: shop.bring_back("first")):
        story()
        counts.append(proven(shop.directory))
    assert counts == [0, 0, 1, 0]
    a_life(shop)
    assert proven(shop.directory) == shop.engine.counts()["evicted_orders"] > 5
    shop.engine.close()
    audited(data_dir)


def test_archive_that_goes_on_meanwhile_is_proven_at_an_earlier_sequence(shop: Shop) -> None:
    a_life(shop)
    log = rebuild.extent(shop.directory)
    state = rebuild.first_state(log)
    seen = set()
    for sequence, record in rebuild.records(log, 1, log.last_sequence):
        state.apply(record)
        if sequence >= 20:
            seen.add(archive_tools.prove(state, log))
    assert len(seen) >= 5


def test_backup_of_a_running_engine_restores_with_its_archive(shop: Shop, data_dir: Path, tmp_path: Path) -> None:
    a_life(shop)
    made = run("backup", tmp_path / "backup", "--data-dir", data_dir)
    assert made.exit_code == 0, made.stderr
    # What is archived after that is no part of it.
    shop.trade("later")
    shop.archive()
    shop.engine.close()
    restored = run("restore", tmp_path / "backup", "--data-dir", tmp_path / "restored")
    assert restored.exit_code == 0, restored.stderr
    before, after = HELD.search(made.stdout), HELD.search(restored.stdout)
    assert before
    assert after
    assert (before[2], before[5]) == (after[2], after[5])
    audited(tmp_path / "restored")
    again = Shop(tmp_path / "restored")
    assert again.engine.log_id.hex() == after[3] != before[3]
    # Orders in the archive can be asked for, and the life goes on.
    again.archived_through = ArchiveReader(again.directory, again.engine.log_id).archived_through
    again.bring_back("a0")
    again.trade("new")
    again.archive()
    again.evict()
    again.engine.close()
    audited(tmp_path / "restored")


def test_restore_to_any_turn_has_each_order_as_it_was_then(shop: Shop, data_dir: Path, tmp_path: Path) -> None:
    turns = a_life(shop)
    shop.engine.close()
    assert run("backup", tmp_path / "backup", "--data-dir", data_dir).exit_code == 0
    for turn in (5, *turns[1:4]):
        restored = tmp_path / f"until-{turn}"
        done = run("restore", tmp_path / "backup", "--data-dir", restored, "--until", str(turn))
        assert done.exit_code == 0, done.stderr
        audited(restored)
        (directory,) = datadir.shard_directories(restored)
        state = state_of(directory)
        assert (directory / FILE).exists() == (state.counts()["evicted_orders"] > 0)
        if (directory / FILE).exists():
            with ArchiveReader(directory, state.log_id) as archive:
                assert archive.archived_through <= turn
                assert max(row.closed_sequence for row in archive.iterate(2**62)) <= turn


@pytest.mark.parametrize(
    ("harm", "complaint"),
    [
        (lambda path: path.unlink(), r"archive\.sqlite: is missing, and \d orders have left memory"),
        (
            lambda path: spoil(path, "DELETE FROM orders WHERE order_id = 'a5'"),
            r"has \d of the \d orders that have left memory; shop shop, order a5, placed at sequence \d+, is missing",
        ),
        (
            lambda path: spoil(path, "UPDATE orders SET item = zeroblob(9) WHERE order_id = 'a5'"),
            r"the row of shop shop, order a5, closed at sequence \d+ is damaged",
        ),
        (
            lambda path: spoil(path, "UPDATE orders SET order_id = 'a6' WHERE order_id = 'a5'"),
            r"the row of shop shop, order a6, closed at sequence \d+ is damaged",
        ),
        (
            lambda path: spoil(path, "UPDATE meta SET value = 9 WHERE name = 'archived_through'"),
            "archived_through is 9, and its checksum does not fit",
        ),
        (lambda path: spoil(path, "UPDATE meta SET value = zeroblob(16) WHERE name = 'log_id'"), "another log"),
        (lambda path: path.write_bytes(path.read_bytes()[:5000]), "malformed"),
    ],
    ids=["no file", "row gone", "item", "key", "promise", "another log", "cut short"],
)
def test_audit_says_what_is_wrong_with_the_archive(
    shop: Shop, data_dir: Path, tmp_path: Path, harm: Callable[[Path], object], complaint: str
) -> None:
    a_life(shop)
    shop.engine.close()
    harm(shop.directory / FILE)
    failed = run("audit", "--data-dir", data_dir)
    assert failed.exit_code == 4
    assert "audit: fails: " in failed.stderr
    with pytest.raises(ArchiveDamaged, match=complaint):
        proven(shop.directory)
    # What does not hold is no backup either.
    assert run("backup", tmp_path / "backup", "--data-dir", data_dir).exit_code == 4
    assert not (tmp_path / "backup" / "backup.json").exists()


def test_archive_with_an_older_version_of_an_order_is_found_out(shop: Shop, data_dir: Path) -> None:
    a_life(shop)
    shop.engine.close()
    spoil(
        shop.directory / FILE,
        "DELETE FROM orders WHERE order_id = 'a1' AND closed_sequence ="
        " (SELECT max(closed_sequence) FROM orders WHERE order_id = 'a1')",
    )
    with pytest.raises(ArchiveDamaged, match="other orders than those that have left memory"):
        proven(shop.directory)


def test_row_of_an_order_that_is_in_memory_is_read_all_the_same(shop: Shop) -> None:
    shop.trade("first")
    shop.archive()
    shop.engine.close()
    assert proven(shop.directory) == 0
    spoil(shop.directory / FILE, "UPDATE orders SET crc = crc + 1")
    with pytest.raises(ArchiveDamaged, match="order first"):
        proven(shop.directory)


def test_log_shows_what_left_and_what_came_back(shop: Shop, data_dir: Path) -> None:
    a_life(shop)
    shop.engine.close()
    dumped = run("journal", "dump", "--data-dir", data_dir)
    assert dumped.exit_code == 0, dumped.stderr
    assert " Evict " in dumped.stdout
    assert " Restore " in dumped.stdout
