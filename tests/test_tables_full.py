"""Tables at their bounds: RESOURCE_EXHAUSTED, nothing changed, and room again once something ended."""

from __future__ import annotations

import pytest

from engine._core import LIMITS
from tests import reference_fields as fields
from tests.till import Till

pytestmark = pytest.mark.native

ENTRIES = 50
WINDOW_MS = 10_000
ADJUSTMENT = {"sku_id": "tea", "location_id": "north", "delta": 1}


def open_till(entries_max: int = 10_000_000) -> Till:
    till = Till(WINDOW_MS, entries_max)
    till.do(fields.PUT_SHOP)
    till.do(fields.PUT_LOCATION, location_id="north")
    till.do(fields.PUT_SKU, sku_id="tea", price_minor=1)
    return till


def test_idempotency_table_full_refuses_stock_commands_and_refusals_alone() -> None:
    till = open_till(ENTRIES)
    for _ in range(ENTRIES):
        till.restock("tea", "north", 2)
    assert till.refused(fields.ADJUST_STOCK, adjustment_id="late", **ADJUSTMENT) == "IDEMPOTENCY_TABLE_FULL"
    too_much = {"order_id": "too-much", "buyer_id": "b", "lines": [{"sku_id": "tea", "quantity": 1_000}]}
    assert till.refused(fields.PLACE_ORDER, **too_much) == "IDEMPOTENCY_TABLE_FULL"
    # What needs no entry goes on, and what is remembered still answers.
    assert till.place("fits", [("tea", 1)]).outcome == 1
    assert till.do(fields.ADJUST_STOCK, adjustment_id="1", **{**ADJUSTMENT, "delta": 2}).duplicate


def test_idempotency_table_full_has_room_again_only_by_a_tick_after_the_window() -> None:
    till = open_till(ENTRIES)
    for _ in range(ENTRIES):
        till.restock("tea", "north", 1)
    till.now_ms += WINDOW_MS - 1
    till.tick()
    assert till.refused(fields.ADJUST_STOCK, adjustment_id="late", **ADJUSTMENT) == "IDEMPOTENCY_TABLE_FULL"
    till.now_ms += 1
    assert till.refused(fields.ADJUST_STOCK, adjustment_id="late", **ADJUSTMENT) == "IDEMPOTENCY_TABLE_FULL"
    till.tick()
    assert till.shard.counts()["remembered_ids"] == 0
    assert not till.do(fields.ADJUST_STOCK, adjustment_id="late", **ADJUSTMENT).duplicate
    assert till.shard.check() == ""


@pytest.mark.parametrize("name", ["reserve_ttl_ms", "buyer_window_ms"])
def test_durations_at_their_bound_refuse_another_and_take_a_known_one(name: str) -> None:
    till = open_till()
    for number in range(1, LIMITS["DURATIONS_MAX"]):
        till.do(fields.PUT_SKU, sku_id=f"sku{number}", price_minor=1, **{name: number})
    assert till.refused(fields.PUT_SKU, sku_id="more", price_minor=1, **{name: 999}) == "SKU_LIMIT"
    till.do(fields.PUT_SKU, sku_id="more", price_minor=1, **{name: 7})
    # The last SKU of one leaves it, and its place is free.
    till.do(fields.PUT_SKU, sku_id="sku1", price_minor=1, **{name: 2})
    till.do(fields.PUT_SKU, sku_id="sku2", price_minor=1, **{name: 999})
    assert till.shard.check() == ""


def test_reserve_ttl_that_a_hold_still_has_keeps_its_place() -> None:
    till = open_till()
    till.do(fields.PUT_SKU, sku_id="tea", price_minor=1, reserve_ttl_ms=777)
    till.restock("tea", "north", 1)
    till.place("held", [("tea", 1)])
    till.do(fields.PUT_SKU, sku_id="tea", price_minor=1)
    for number in range(1, LIMITS["DURATIONS_MAX"] - 1):
        till.do(fields.PUT_SKU, sku_id=f"sku{number}", price_minor=1, reserve_ttl_ms=number)
    assert till.refused(fields.PUT_SKU, sku_id="more", price_minor=1, reserve_ttl_ms=999) == "SKU_LIMIT"
    till.now_ms += 777
    till.tick()
    till.do(fields.PUT_SKU, sku_id="more", price_minor=1, reserve_ttl_ms=999)


def test_regions_at_their_bound_refuse_another() -> None:
    till = open_till()
    limit = LIMITS["REGIONS_PER_SHOP_MAX"]
    costs = [{"from_region": f"r{2 * i}", "to_region": f"r{2 * i + 1}", "cost": i} for i in range(limit // 2)]
    till.do(fields.PUT_SHOP, region_costs=costs)
    assert till.refused(fields.PUT_LOCATION, location_id="south", region="new") == "REGION_LIMIT"
    assert till.refused(fields.PUT_SHOP, region_costs=[{"from_region": "r0", "to_region": "new"}]) == "REGION_LIMIT"
    till.do(fields.PUT_LOCATION, location_id="south", region=f"r{limit - 1}")
    assert till.shard.check() == ""


def test_locations_at_their_bound_refuse_another_until_one_is_retired() -> None:
    till = open_till()
    for number in range(1, LIMITS["LOCATIONS_PER_SHOP_MAX"]):
        till.do(fields.PUT_LOCATION, location_id=f"l{number}")
    assert till.refused(fields.PUT_LOCATION, location_id="more") == "LOCATION_LIMIT"
    till.do(fields.PUT_LOCATION, location_id="l7", status=3)
    till.do(fields.PUT_LOCATION, location_id="more")
    assert till.shard.check() == ""


def test_order_with_as_many_commands_as_it_remembers_refuses_another() -> None:
    till = open_till()
    till.restock("tea", "north", 1)
    till.place("order", [("tea", 1)])
    for number in range(LIMITS["ORDER_COMMANDS_MAX"]):
        code, _, _ = till.ask(fields.SHIP_ORDER, order_id="order", command_id=f"c{number}")
        if code:
            break
    assert till.refused(fields.SHIP_ORDER, order_id="order", command_id="more") == "ORDER_COMMAND_LIMIT"
    assert till.refused(fields.CANCEL_ORDER, order_id="order", command_id="more") == "ORDER_COMMAND_LIMIT"
    assert till.do(fields.SHIP_ORDER, order_id="order", command_id="c0").duplicate
    till.now_ms += 1_000_000
    till.tick()
    assert till.do(fields.GET_ORDER, order_id="order").order.expires_at_ms == 0
    assert till.shard.check() == ""
