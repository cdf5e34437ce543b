"""The largest that bounds allow: what a command does stays bounded, and its record within RECORD_BYTES_MAX."""

from __future__ import annotations

import os
from typing import Any

import pytest

from engine._core import LIMITS, Shard
from tests import reference_fields as fields
from tests.desk import Desk
from tests.till import SHOP, Till

pytestmark = pytest.mark.native

STEPS_MAX = LIMITS["STEPS_MAX"]
RECORD_BYTES_MAX = LIMITS["RECORD_BYTES_MAX"]
ORDER_STEPS_MAX = LIMITS["LINES_MAX"] + LIMITS["ALLOCATIONS_MAX"]
LARGE_AMOUNT = LIMITS["AMOUNT_MINOR_MAX"] - 1
# A variant of the core is slower.
HOLDS = 50_000 if "EVEROPEN_VARIANT" in os.environ else 1_000_000
INTAKE_EVERY_TICKS = 8


def wide(kind: str, number: int) -> str:
    """An id of 64 bytes."""
    return f"{kind}{number:0{64 - len(kind)}}"


def counted(till: Till, method: int, **values: Any) -> int:
    """Executes and returns the bytes of the record."""
    till.do(method, **values)
    return len(till.shard.record)


@pytest.mark.parametrize("strategy", [1, 2, 3, 4])
def test_largest_order_is_placed_paid_shipped_and_returned(strategy: int, tmp_path: Any) -> None:
    # 64 lines x 4 locations each: 256 allocations, each of another row, every id 64 bytes.
    till = Till()
    shop = wide("shop", 0)
    till.do(fields.PUT_SHOP, shop_id=shop)
    for place in range(256):
        till.do(fields.PUT_LOCATION, shop_id=shop, location_id=wide("location", place), priority=256 - place)
    for sku in range(64):
        till.do(fields.PUT_SKU, shop_id=shop, sku_id=wide("sku", sku), price_minor=1, backorder_policy=2)
        for part in range(4):
            where = {"sku_id": wide("sku", sku), "location_id": wide("location", sku + 64 * part)}
            till.do(fields.ADJUST_STOCK, shop_id=shop, adjustment_id=wide("a", 4 * sku + part), delta=1, **where)
    lines = [(wide("sku", sku), 4) for sku in range(64)]
    head = {"shop_id": shop, "buyer_id": wide("buyer", 0), "strategy": strategy}
    placed = till.place(wide("order", 0), lines, placed_at_ms=LIMITS["TIME_MS_MAX"], **head)
    assert (placed.outcome, len(placed.order.allocations)) == (1, 256)
    order = {"shop_id": shop, "order_id": wide("order", 0)}
    sizes = [len(till.shard.record)]
    sizes.append(counted(till, fields.PAY_ORDER, payment_id=wide("p", 0), amount_minor=LARGE_AMOUNT, **order))
    sizes.append(counted(till, fields.SHIP_ORDER, command_id=wide("s", 0), **order))
    sizes.append(counted(till, fields.DELIVER_ORDER, command_id=wide("d", 0), **order))
    sizes.append(counted(till, fields.RETURN_ORDER, command_id=wide("r", 0), **order))
    assert max(sizes) < RECORD_BYTES_MAX // 16
    till.shard.save(str(tmp_path / "snap"))
    assert Shard.load(str(tmp_path / "snap")).state_digest() == till.shard.state_digest()
    assert till.shard.check() == ""


def test_order_that_needs_a_257th_allocation_waits() -> None:
    till = Till()
    till.do(fields.PUT_SHOP)
    for place in range(256):
        till.do(fields.PUT_LOCATION, location_id=f"l{place}")
    for sku in ("tea", "cup"):
        till.do(fields.PUT_SKU, sku_id=sku, price_minor=1, backorder_policy=2)
    for place in range(256):
        till.restock("tea", f"l{place}", 1)
    till.restock("cup", "l0", 1)
    for strategy in (1, 2, 3, 4):
        order = till.place(f"order{strategy}", [("tea", 256), ("cup", 1)], strategy=strategy)
        assert (order.outcome, len(order.order.allocations)) == (2, 0)
        till.do(fields.CANCEL_ORDER, order_id=f"order{strategy}", command_id="c")
    assert till.place("fits", [("tea", 256)]).outcome == 1
    assert till.shard.check() == ""


def test_fewest_shipments_of_many_rounds_is_the_models(desk: Desk) -> None:
    # Each location is good for one line only, so that every allocation takes a round of its own.
    skus, places = 6, 24
    desk.put_shop()
    for place in range(places):
        desk.put_location(f"l{place}", priority=place % 3)
    for sku in range(skus):
        desk.put_sku(f"sku{sku}", backorder_policy=2)
        for place in range(places):
            desk.adjust(f"sku{sku}", f"l{place}", 1 + place % 4 if place % skus == sku else 0, kind=3)
    lines = " ".join(f"sku{number % skus}*{3 + number % 2}" for number in range(2 * skus))
    for number in range(3):
        desk.place(f"order{number}", lines, strategy=4)


def test_ticks_at_their_steps_stay_within_a_record_and_leave_the_rest() -> None:
    """Holds that end, and backorders that match what they held, in one tick: as many effects as there can be."""
    till = Till(entries_max=1_000_000)
    shop = wide("shop", 0)
    till.do(fields.PUT_SHOP, shop_id=shop)
    till.do(fields.PUT_LOCATION, shop_id=shop, location_id=wide("location", 0))
    count = STEPS_MAX // 2 + 300
    values = {"shop_id": shop, "buyer_id": wide("buyer", 0), "placed_at_ms": LIMITS["TIME_MS_MAX"]}
    line = {"quantity": 100_000_000, "amount_minor": LARGE_AMOUNT}
    for number in range(count):
        sku = wide("sku", number)
        till.do(fields.PUT_SKU, shop_id=shop, sku_id=sku, price_minor=1, backorder_policy=2)
        where = {"sku_id": sku, "location_id": wide("location", 0)}
        delta = LIMITS["QUANTITY_MAX"]
        till.do(fields.ADJUST_STOCK, shop_id=shop, adjustment_id=wide("a", number), delta=delta, **where)
        for kind, outcome in (("held", 1), ("waits", 2)):
            wanted = {"order_id": wide(kind, number), "lines": [{"sku_id": sku, **line}]}
            assert till.do(fields.PLACE_ORDER, **values, **wanted).outcome == outcome
    till.now_ms += 900_000
    sizes, touched = [], 0
    while not sizes or till.shard.next_due_ms() == 0 or till.shard.next_due_ms() <= till.now_ms:
        effects = till.tick()
        sizes.append(len(till.shard.record))
        touched += len(effects.orders)
        # A step for the line and one for the allocation, for each kind of work.
        assert 2 * len(effects.orders) <= 2 * (STEPS_MAX + ORDER_STEPS_MAX)
        assert till.shard.check() == ""
        assert len(sizes) < 20
    assert touched == 2 * count
    assert RECORD_BYTES_MAX // 4 < max(sizes) < RECORD_BYTES_MAX


def test_million_holds_that_end_together_let_intake_go_on() -> None:
    till = Till(entries_max=1_000)
    till.do(fields.PUT_SHOP)
    till.do(fields.PUT_LOCATION, location_id="north")
    till.do(fields.PUT_SKU, sku_id="tea", price_minor=1)
    till.restock("tea", "north", 2 * HOLDS)
    batch = 1_000
    request = fields.REQUESTS[fields.PLACE_ORDER]
    for first in range(0, HOLDS, batch):
        items = b""
        for number in range(first, first + batch):
            order = request(shop_id=SHOP, order_id=f"o{number}", buyer_id="b", lines=[{"sku_id": "tea", "quantity": 1}])
            data = order.SerializeToString()
            items += b"\x0a" + bytes([len(data)]) + data
        assert till.shard.execute_batch(fields.PLACE_ORDER, items, till.now_ms)[0] == 0
    till.now_ms += 900_000
    ticks = placed = 0
    while 0 <= till.shard.next_due_ms() <= till.now_ms:
        before = till.shard.sequence
        code, _, sequence = till.shard.execute(fields.TICK, b"", till.now_ms)
        assert (code, sequence) == (0, before + 1)
        assert len(till.shard.record) < RECORD_BYTES_MAX
        ticks += 1
        if ticks % INTAKE_EVERY_TICKS == 0:
            assert till.place(f"new{ticks}", [("tea", 1)]).outcome == 1
            placed += 1
    assert HOLDS * 2 // (STEPS_MAX + ORDER_STEPS_MAX) <= ticks <= HOLDS * 2 // STEPS_MAX + 1
    stock = till.do(fields.GET_STOCK, sku_id="tea")
    assert (stock.on_hand, stock.reserved) == (2 * HOLDS, placed)
