"""What is retired goes, with all that it took: its ids are free and its memory is there again."""

from __future__ import annotations

from typing import Any

import pytest

from tests import reference_fields as fields
from tests.till import Till

pytestmark = pytest.mark.native

WINDOW_MS = 1_000
RETIRED = 3


def put(till: Till, **values: Any) -> None:
    """A shop of three SKUs at three locations, with regions, costs and stock rows."""
    costs = [{"from_region": f"r{i}", "to_region": f"r{i + 1}", "cost": i} for i in range(40)]
    till.do(fields.PUT_SHOP, region_costs=costs, **values)
    for place in ("north", "south", "west"):
        till.do(fields.PUT_LOCATION, location_id=place, region="r1", **values)
    for sku in ("tea", "cup", "pot"):
        safety = [{"location_id": "west", "quantity": 5}]
        till.do(fields.PUT_SKU, sku_id=sku, price_minor=1, safety_stock_overrides=safety, **values)
        where = {"sku_id": sku, "location_id": "north", **values}
        till.do(fields.ADJUST_STOCK, adjustment_id=till.next_id(), delta=9, **where)
        till.do(fields.ADJUST_STOCK, adjustment_id=till.next_id(), kind=2, delta=-9, **where)


def retire(till: Till, **values: Any) -> None:
    for sku in ("tea", "cup", "pot"):
        assert till.do(fields.PUT_SKU, sku_id=sku, status=RETIRED, **values).outcome == 3
    for place in ("north", "south", "west"):
        assert till.do(fields.PUT_LOCATION, location_id=place, status=RETIRED, **values).outcome == 3
    assert till.do(fields.PUT_SHOP, status=RETIRED, **values).outcome == 3


def forget(till: Till) -> None:
    till.now_ms += WINDOW_MS + 1
    till.tick()


def test_shop_retired_with_all_it_had_leaves_no_byte() -> None:
    till = Till(WINDOW_MS)
    before = till.shard.counts()
    for round_number in range(30):
        put(till)
        assert till.shard.counts()["locations"] == 3
        retire(till)
        assert till.shard.counts()["shops"] == 1, "remembered ids still name the shop"
        forget(till)
        counts = till.shard.counts()
        assert {**counts, "address_bytes": 0} == {**before, "address_bytes": 0}, round_number
        assert till.shard.check() == ""
    # What was freed was taken again: one round's worth of addresses served all.
    assert till.shard.counts()["address_bytes"] < 100_000


def test_shops_retired_in_any_order_leave_no_byte_of_the_indexes() -> None:
    till = Till(WINDOW_MS)
    before = till.shard.counts()["arena_bytes"]
    for number in range(300):
        put(till, shop_id=f"shop{number}")
    for number in [*range(0, 300, 3), *range(2, 300, 3), *range(1, 300, 3)]:
        retire(till, shop_id=f"shop{number}")
    forget(till)
    while till.shard.next_due_ms() >= 0:
        forget(till)
    assert till.shard.counts()["shops"] == 0
    assert till.shard.counts()["arena_bytes"] == before
    assert till.shard.check() == ""


def test_sku_retired_without_orders_is_reclaimed_and_its_id_is_free() -> None:
    till = Till(WINDOW_MS)
    put(till)
    before = till.shard.counts()
    till.do(fields.PUT_SKU, sku_id="new", price_minor=1, reserve_ttl_ms=5)
    till.do(fields.PUT_SKU, sku_id="new", status=RETIRED)
    assert till.shard.counts() == {**before, "address_bytes": till.shard.counts()["address_bytes"]}
    assert till.ask(fields.GET_STOCK, sku_id="new")[0] == 5
    assert till.do(fields.PUT_SKU, sku_id="new", price_minor=2).revision == 1


def test_sku_that_an_order_names_is_retired_but_stays() -> None:
    till = Till(WINDOW_MS)
    put(till)
    till.restock("tea", "north", 1)
    till.place("order", [("tea", 1)])
    assert till.do(fields.PUT_SKU, sku_id="tea", status=RETIRED).outcome == 9
    till.do(fields.PAY_ORDER, order_id="order", payment_id="p", amount_minor=1)
    till.do(fields.SHIP_ORDER, order_id="order", command_id="s")
    assert till.do(fields.PUT_SKU, sku_id="tea", status=RETIRED).outcome == 3
    assert till.do(fields.PUT_SKU, sku_id="tea", price_minor=1).outcome == 9
    # Its goods cannot come back to stock, only be written off.
    assert till.do(fields.RETURN_ORDER, order_id="order", command_id="r").outcome == 9
    assert till.do(fields.RETURN_ORDER, order_id="order", command_id="w", disposition=2).outcome == 3
    assert till.do(fields.GET_ORDER, order_id="order").order.lines[0].sku_id == "tea"
    assert till.shard.check() == ""


def test_location_retired_while_rows_name_it_goes_with_the_last_row() -> None:
    till = Till(WINDOW_MS)
    put(till)
    assert till.do(fields.PUT_LOCATION, location_id="north", status=RETIRED).outcome == 3
    assert till.shard.counts()["locations"] == 3
    for sku in ("tea", "cup", "pot"):
        till.do(fields.PUT_SKU, sku_id=sku, status=RETIRED)
    assert till.shard.counts()["locations"] == 2
    assert till.do(fields.PUT_LOCATION, location_id="north").revision == 1
