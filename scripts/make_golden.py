"""Makes a data directory as this release writes it, tests/golden/VERSION.tar.xz, and VERSION.json: what it replays to.

    python scripts/make_golden.py

Once a release is out, its two files are never made again: they are evidence, not a cache. Before that, a change of what
is logged means deleting them and running this again. The evening is told command by command with fixed times and no
randomness, so the same code gives the same records; only the segment headers name the hour at which they were made.
"""

from __future__ import annotations

import io
import json
import lzma
import sys
import tarfile
import tempfile
import time
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any

from google.protobuf.message import Message

from engine import _core, datadir
from engine._core import LIMITS, JournalWriter, Shard
from everopen.v1 import inventory_service_pb2 as inventory
from everopen.v1 import log_pb2
from everopen.v1 import order_service_pb2 as orders
from everopen.v1.inventory_pb2 import (
    AdjustKind,
    BackorderPolicy,
    EntityStatus,
    LocationKind,
    RegionCost,
    SafetyStock,
)
from everopen.v1.order_pb2 import AllocationStrategy
from everopen.v1.outcome_pb2 import Outcome

GOLDEN = Path(__file__).resolve().parent.parent / "tests/golden"
LOG_ID = bytes(range(1, 17))
BEGIN_MS = 1_795_366_800_000
WINDOW_MS = 600_000
SEGMENT_BYTES = 32 * 1024
# Commands in one commit, so that blocks hold several records and some of one.
COMMIT_COMMANDS = 7
ROUNDS = 150
MARKET, STALL = "night-market", "stall"
# The last kind of command that each level knows.
KINDS = {1: _core.ACTIVATE, 2: _core.RESTORE}


class Evening:
    """A shard with its log, and a clock that moves when it is told to."""

    def __init__(self, shard_directory: Path, level: int) -> None:
        self.directory = shard_directory
        self.shard = Shard(LOG_ID, WINDOW_MS, 100_000, level)
        self.now_ms = BEGIN_MS
        self.seen: Counter[tuple[int, int]] = Counter()
        self.snapshot: dict[str, Any] = {}
        self._commands = 0
        self._ids = 0
        self._open_log()
        self._log()

    def say(self, method: int, request: Message) -> Any:
        """Executes, logs what was decided, and gives the response; None for a fault."""
        code, answer, sequence = self.shard.execute(method, request.SerializeToString(), self.now_ms)
        if sequence:
            self._log()
        name = type(request).DESCRIPTOR.name.replace("Request", "Response")
        response = getattr(orders, name, None) or getattr(inventory, name, None)
        return response.FromString(answer) if response and not code else None

    def pass_time(self, milliseconds: int) -> None:
        """Moves the clock, and lets what is due by then end by ticks."""
        self.now_ms += milliseconds
        while 0 <= self.shard.next_due_ms() <= self.now_ms:
            self.shard.execute(_core.TICK, b"", self.now_ms)
            self._log()

    def restart(self) -> None:
        """A new leader: another epoch, another segment."""
        self._writer.close()
        self._open_log()

    def save(self) -> None:
        self._commit()
        path = datadir.snapshot_path(self.directory, self.shard.sequence)
        self.shard.save(str(path))
        self.snapshot = {"sequence": self.shard.sequence, "state_digest": self.shard.state_digest()}

    def close(self) -> None:
        self._commit()
        self._writer.close()

    def next_id(self) -> str:
        self._ids += 1
        return f"id-{self._ids}"

    def _open_log(self) -> None:
        self._writer = JournalWriter(str(self.directory), log_id=LOG_ID, segment_bytes=SEGMENT_BYTES)

    def _log(self) -> None:
        record = self.shard.record
        self.seen[record[4], record[5]] += 1
        # Segments as small as these fill faster than the next one is prepared.
        while not self._writer.has_room():
            time.sleep(0.001)
        self._writer.append(record)
        self._commands += 1
        if self._commands % COMMIT_COMMANDS == 0:
            self._commit()

    def _commit(self) -> None:
        self._writer.kick()
        if not self._writer.wait_durable(self._writer.next_sequence - 1, 60):
            raise RuntimeError("the log did not become durable")


def tell(evening: Evening) -> None:
    """A bit of everything: both shops, all commands, backorders, holds that end, refusals of every kind."""
    open_shops(evening)
    for number in range(ROUNDS):
        trade(evening, number)
        if number == ROUNDS // 3:
            evening.restart()
        if number == ROUNDS // 2:
            evening.save()
    refuse(evening)
    pay_late(evening)
    retire(evening)
    evening.pass_time(2 * WINDOW_MS)


def open_shops(evening: Evening) -> None:
    costs = [RegionCost(from_region="west", to_region="east", cost=7), RegionCost(from_region="east", to_region="west")]
    put_shop(evening, MARKET, strategy=AllocationStrategy.ALLOCATION_STRATEGY_NEAREST, region_costs=costs)
    put_shop(evening, STALL, currency="EUR", allow_split=False)
    put_location(evening, MARKET, "hangzhou", region="east", priority=1)
    put_location(evening, MARKET, "chengdu", region="west", priority=2)
    put_location(evening, MARKET, "store-7", region="east", kind=LocationKind.LOCATION_KIND_STORE)
    put_location(evening, STALL, "cart")
    allow = BackorderPolicy.BACKORDER_POLICY_ALLOW
    put_sku(evening, MARKET, "tea", price_minor=2_500, backorder_policy=allow, reserve_ttl_ms=60_000)
    put_sku(evening, MARKET, "cup", price_minor=990, buyer_limit_per_order=5, buyer_limit_per_window=8)
    kept = [SafetyStock(location_id="store-7", quantity=2)]
    put_sku(
        evening,
        MARKET,
        "kettle",
        price_minor=19_900,
        backorder_policy=allow,
        backorder_limit=30,
        safety_stock=1,
        safety_stock_overrides=kept,
        buyer_window_ms=300_000,
        reserve_ttl_ms=30_000,
    )
    put_sku(evening, STALL, "rice", price_minor=3)
    for sku_id, location_id, units in (
        ("tea", "hangzhou", 20),
        ("tea", "chengdu", 15),
        ("cup", "store-7", 60),
        ("cup", "chengdu", 30),
        ("kettle", "hangzhou", 12),
        ("kettle", "store-7", 6),
    ):
        adjust(evening, MARKET, sku_id, location_id, units)
    adjust(evening, STALL, "rice", "cart", 32_000)


def trade(evening: Evening, number: int) -> None:
    """One order, and what becomes of an earlier one."""
    skus = ("tea", "cup", "kettle")
    wanted = [(skus[number % 3], 1 + number % 4)]
    if number % 5 == 0:
        wanted += [(skus[(number + 1) % 3], 2), (skus[number % 3], 1)]
    fields: dict[str, Any] = {"region": ("east", "west", "")[number % 3], "priority_class": 9 * (number % 11 == 0)}
    if number % 4 == 0:
        fields["strategy"] = 1 + number // 4 % 4
    if number % 9 == 0:
        fields |= {"placed_at_ms": BEGIN_MS - number, "attributes": {"cart_id": f"cart-{number}", "channel": "live"}}
    place(evening, MARKET, f"order-{number}", wanted, buyer_id=f"buyer-{number % 17}", **fields)
    earlier = {"shop_id": MARKET, "order_id": f"order-{max(0, number - 3)}"}
    follow(evening, number % 6, earlier)
    if number % 10 == 3:
        adjust(evening, MARKET, skus[number // 10 % 3], "chengdu", 6 + number % 5)
    if number % 25 == 7:
        move = {"from_location_id": "chengdu", "to_location_id": "hangzhou", "quantity": 1}
        request = inventory.TransferStockRequest(transfer_id=evening.next_id(), shop_id=MARKET, sku_id="cup", **move)
        evening.say(_core.TRANSFER_STOCK, request)
    if number % 30 == 11:
        adjust(evening, MARKET, "cup", "store-7", -1)
        adjust(evening, MARKET, "tea", "store-7", 3, kind=AdjustKind.ADJUST_KIND_COUNT)
    if number % 20 == 4:
        place(evening, STALL, f"sack-{number}", [("rice", 1_500)], buyer_id="cook")
    evening.pass_time(1_700 + 130 * (number % 7))


def follow(evening: Evening, fate: int, earlier: dict[str, str]) -> None:
    order = evening.say(_core.GET_ORDER, orders.GetOrderRequest(**earlier))
    if order is None or fate == 5:
        return
    if fate == 4:
        lines = [orders.LineQuantity(line_index=0, quantity=1)]
        cancel = orders.CancelOrderRequest(**earlier, command_id=evening.next_id(), lines=lines, reason="too many")
        evening.say(_core.CANCEL_ORDER, cancel)
        return
    amount = order.order.amount_minor + (100 if fate == 3 else 0)
    evening.say(_core.PAY_ORDER, orders.PayOrderRequest(**earlier, payment_id=evening.next_id(), amount_minor=amount))
    evening.say(_core.SHIP_ORDER, orders.ShipOrderRequest(**earlier, command_id=evening.next_id()))
    if fate == 0:
        return
    evening.say(_core.DELIVER_ORDER, orders.DeliverOrderRequest(**earlier, command_id=evening.next_id()))
    if fate == 2:
        back = {"disposition": 1 + evening.shard.sequence % 2, "command_id": evening.next_id()}
        lines = [orders.LineQuantity(line_index=0, quantity=1)]
        evening.say(_core.RETURN_ORDER, orders.ReturnOrderRequest(**earlier, **back, lines=lines))
    if fate >= 2:
        evening.say(_core.SETTLE_REFUND, orders.SettleRefundRequest(**earlier, command_id=evening.next_id()))


def refuse(evening: Evening) -> None:
    """What the evening itself did not refuse yet."""
    place(evening, STALL, "old", [("rice", 1)], first_sent_at_ms=evening.now_ms - WINDOW_MS - 1)
    dear = [orders.PlaceOrderLine(sku_id="rice", quantity=1, expected_price_minor=4)]
    request = orders.PlaceOrderRequest(shop_id=STALL, order_id="dear", buyer_id="cook", lines=dear)
    evening.say(_core.PLACE_ORDER, request)
    place(evening, STALL, "too-many", [("rice", 50_000)])
    put_sku(evening, STALL, "rice", price_minor=3, status=EntityStatus.ENTITY_STATUS_PAUSED)
    place(evening, STALL, "paused", [("rice", 1)])
    adjust(evening, STALL, "rice", "cart", -100_000)


def pay_late(evening: Evening) -> None:
    """Payments after the hold ended: one that finds the stock still there, and one that does not."""
    put_sku(evening, STALL, "rice", price_minor=3, reserve_ttl_ms=1_000)
    for order_id in ("late", "too-late"):
        adjust(evening, STALL, "rice", "cart", 10, kind=AdjustKind.ADJUST_KIND_RESTOCK)
        place(evening, STALL, order_id, [("rice", 10)])
        evening.pass_time(1_000)
        if order_id == "too-late":
            stock = evening.say(_core.GET_STOCK, inventory.GetStockRequest(shop_id=STALL, sku_id="rice"))
            adjust(evening, STALL, "rice", "cart", stock.reserved, kind=AdjustKind.ADJUST_KIND_COUNT)
        paid = orders.PayOrderRequest(shop_id=STALL, order_id=order_id, payment_id="p-1", amount_minor=30)
        evening.say(_core.PAY_ORDER, paid)


def retire(evening: Evening) -> None:
    gone = EntityStatus.ENTITY_STATUS_RETIRED
    put_sku(evening, MARKET, "mug", price_minor=1)
    put_sku(evening, MARKET, "mug", status=gone)
    put_sku(evening, MARKET, "tea", status=gone)
    put_location(evening, MARKET, "annex")
    put_location(evening, MARKET, "annex", status=gone)
    put_location(evening, MARKET, "chengdu", region="west", status=EntityStatus.ENTITY_STATUS_PAUSED)
    put_shop(evening, "popup", status=EntityStatus.ENTITY_STATUS_PAUSED)
    put_shop(evening, "popup", status=gone)


def leave_and_come_back(evening: Evening) -> None:
    """Closed orders are evicted, and the last of them is asked for once more."""
    evening.pass_time(WINDOW_MS)
    adjust(evening, MARKET, "tea", "chengdu", 1)  # so that the hour is a logged one
    closed = evening.shard.closed(0, 2**32)
    for _ in range(2):
        evening.say(_core.EVICT, log_pb2.Evict(closed_sequence=closed[-1][0]))
    _, _, shop_id, order_id, item = closed[-1]
    evening.say(_core.RESTORE, log_pb2.Restore(shop_id=shop_id, item=item))
    paid = orders.PayOrderRequest(shop_id=shop_id, order_id=order_id, payment_id="later", amount_minor=1)
    evening.say(_core.PAY_ORDER, paid)


def put_shop(evening: Evening, shop_id: str, **fields: Any) -> None:
    evening.say(_core.PUT_SHOP, inventory.PutShopRequest(shop_id=shop_id, **fields))


def put_location(evening: Evening, shop_id: str, location_id: str, **fields: Any) -> None:
    request = inventory.PutLocationRequest(shop_id=shop_id, location_id=location_id, **fields)
    evening.say(_core.PUT_LOCATION, request)


def put_sku(evening: Evening, shop_id: str, sku_id: str, **fields: Any) -> None:
    evening.say(_core.PUT_SKU, inventory.PutSkuRequest(shop_id=shop_id, sku_id=sku_id, **fields))


def adjust(evening: Evening, shop_id: str, sku_id: str, location_id: str, delta: int, **fields: Any) -> None:
    request = inventory.AdjustStockRequest(
        adjustment_id=evening.next_id(), shop_id=shop_id, sku_id=sku_id, location_id=location_id, delta=delta, **fields
    )
    evening.say(_core.ADJUST_STOCK, request)


def place(evening: Evening, shop_id: str, order_id: str, wanted: list[tuple[str, int]], **fields: Any) -> None:
    lines = [orders.PlaceOrderLine(sku_id=sku_id, quantity=units) for sku_id, units in wanted]
    fields.setdefault("buyer_id", "mei")
    evening.say(_core.PLACE_ORDER, orders.PlaceOrderRequest(shop_id=shop_id, order_id=order_id, lines=lines, **fields))


def make(data_dir: Path, level: int = LIMITS["LEVEL_MAX"]) -> dict[str, Any]:
    """Fills an empty data directory; returns what it must replay to. Raises if it lacks a command or an outcome."""
    [shard_directory] = datadir.create_or_open(data_dir, 1)
    evening = Evening(shard_directory, level)
    tell(evening)
    if level >= 2:
        leave_and_come_back(evening)
    evening.close()
    violation = evening.shard.check()
    kinds = {kind for kind, _ in evening.seen}
    missing = [f"command {kind}" for kind in range(1, KINDS[level] + 1) if kind not in kinds]
    missing += [
        name for name, outcome in Outcome.items() if outcome and all(seen[1] != outcome for seen in evening.seen)
    ]
    if violation or missing:
        raise RuntimeError(f"no golden evening: {violation or missing}")
    return {
        "version": version("everopen"),
        "level": level,
        "log_id": LOG_ID.hex(),
        "records": evening.shard.sequence,
        "snapshot": evening.snapshot,
        "state_digest": evening.shard.state_digest(),
        "business_digest": evening.shard.business_digest(),
    }


def pack(data_dir: Path, archive: Path) -> None:
    """Names and contents only: neither owners nor hours, and no lock file, which names a process."""

    def bare(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
        member.mtime = member.uid = member.gid = 0
        member.uname = member.gname = ""
        return None if Path(member.name).name == "lock" else member

    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for path in sorted(data_dir.rglob("*")):
            if path.is_file():
                tar.add(path, str(path.relative_to(data_dir)), filter=bare)
    archive.write_bytes(lzma.compress(plain.getvalue(), preset=9))


def main() -> None:
    name = version("everopen")
    if (GOLDEN / f"{name}.json").exists():
        sys.exit(f"tests/golden/{name} is there already: what a release wrote is not written again")
    with tempfile.TemporaryDirectory() as folder:
        data_dir = Path(folder) / "data"
        expected = make(data_dir)
        GOLDEN.mkdir(exist_ok=True)
        pack(data_dir, GOLDEN / f"{name}.tar.xz")
    (GOLDEN / f"{name}.json").write_text(json.dumps(expected, indent=2) + "\n")
    print(f"{name}: {expected['records']} records, {(GOLDEN / f'{name}.tar.xz').stat().st_size} bytes")


if __name__ == "__main__":
    main()
