"""Where several outcomes or faults apply, the earlier of the page is answered: each adjacent pair, both applying."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests import reference_fields as fields
from tests.desk import Desk, told
from tests.machines import Result

pytestmark = pytest.mark.native

IDS_MAX = 6
Fields = dict[str, Any]
# Makes one reason apply: changes the world, or the request.
Reason = Callable[[Desk, Fields], None]


def world() -> Desk:
    """Two places, teas, cups that nobody may wait for, a paid and shipped order, and a small table of ids."""
    desk = Desk(idempotency_window_ms=5_000, idempotency_entries_max=IDS_MAX)
    desk.open("tea@north=6 tea@south=0")
    desk.open("cup@north=1")
    # A row without stock keeps the place in memory when it is retired.
    desk.adjust("tea", "south", 0, kind=fields.COUNT)
    desk.place("order", "tea*2 tea*2")
    desk.pay("order", 400)
    desk.ship("order", "0*2")
    return desk


def use_up_ids(desk: Desk, values: Fields) -> None:
    desk.open(" ".join(["tea@north=1"] * (IDS_MAX - len(desk.model.remembered))))


def set_field(name: str, value: object) -> Reason:
    def apply(desk: Desk, values: Fields) -> None:
        values[name] = value

    return apply


def set_line(index: int, **changes: object) -> Reason:
    def apply(desk: Desk, values: Fields) -> None:
        values["lines"][index].update(changes)

    return apply


def used_before(method: int) -> Reason:
    """The id is known with other content."""

    def apply(desk: Desk, values: Fields) -> None:
        if method == fields.PLACE_ORDER:
            values["order_id"] = "order"
        elif method == fields.CANCEL_ORDER:
            desk.deliver("order", "0*1", command_id=values["command_id"])
        elif method == fields.PAY_ORDER:
            desk.pay("order", 0, payment_id=values["payment_id"])
        else:
            name = "adjustment_id" if method == fields.ADJUST_STOCK else "transfer_id"
            desk.adjust("cup", "north", 1, adjustment_id=values[name])
            if method == fields.TRANSFER_STOCK:
                values[name] = "moved"
                places = {"from_location_id": "north", "to_location_id": "south", "quantity": 1}
                desk.done(method, transfer_id="moved", sku_id="tea", **places)

    return apply


def fill_commands(desk: Desk, values: Fields) -> None:
    order = desk.model.shops["shop"].orders["order"]
    while len(order.payments) + len(order.commands) < 1_024:
        desk.pay("order", 0)


def sent_long_ago(desk: Desk, values: Fields) -> None:
    values["first_sent_at_ms"] = desk.now_ms - 5_001


def pause_tea(desk: Desk, values: Fields) -> None:
    desk.put_sku("tea", status=2)


def limit_tea(desk: Desk, values: Fields) -> None:
    status = desk.model.shops["shop"].skus["tea"].settings.status
    desk.put_sku("tea", status=status, buyer_limit_per_order=1)


def retire_south(desk: Desk, values: Fields) -> None:
    desk.put_location("south", status=3)
    if "location_id" in values:
        values["location_id"] = "south"


def stock_to_the_brim(desk: Desk, values: Fields) -> None:
    desk.put_sku("jar")
    desk.put_location("east")
    desk.adjust("jar", "east", fields.STOCK_MAX)
    values.update(sku_id="jar", location_id="east", delta=1)


# A request that would be carried out, and the reasons against it in the order of the page. Neighbours in a list must be
# able to apply together.
PLACE = {
    "order_id": "new",
    "buyer_id": "b",
    "lines": [{"sku_id": "tea", "quantity": 1}, {"sku_id": "cup", "quantity": 1}],
}
PLACE_REASONS: list[tuple[str, Reason]] = [
    ("INVALID_FIELD order_id", set_field("order_id", "")),
    ("INVALID_FIELD buyer_id", set_field("buyer_id", "")),
    ("INVALID_FIELD lines[0].quantity", set_line(0, quantity=0)),
    ("INVALID_FIELD lines[1].sku_id", set_line(1, sku_id="")),
    ("INVALID_FIELD region", set_field("region", "a b")),
    ("INVALID_FIELD strategy", set_field("strategy", 5)),
    ("INVALID_FIELD first_sent_at_ms", set_field("first_sent_at_ms", -1)),
    ("SHOP_NOT_FOUND", set_field("shop_id", "nowhere")),
    ("ID_CONFLICT", used_before(fields.PLACE_ORDER)),
    ("SKU_NOT_FOUND", set_line(1, sku_id="nothing")),
    ("INVALID_FIELD lines", set_line(0, amount_minor=fields.AMOUNT_MAX)),
]
# Only what is refused needs room.
FULL_REASONS: list[tuple[str, Reason]] = [
    ("IDEMPOTENCY_TABLE_FULL", use_up_ids),
    ("INSUFFICIENT_STOCK", set_line(0, quantity=50)),
]
PLACE_OUTCOMES: list[tuple[str, Reason]] = [
    ("RETRY_TOO_OLD", sent_long_ago),
    ("NOT_FOR_SALE", pause_tea),
    ("PRICE_CHANGED", set_line(1, expected_price_minor=7)),
    ("BUYER_LIMIT", limit_tea),
    ("INSUFFICIENT_STOCK", set_line(0, quantity=50)),
]
ADJUST = {"adjustment_id": "new", "sku_id": "tea", "location_id": "north", "delta": 1}
ADJUST_REASONS: list[tuple[str, Reason]] = [
    ("INVALID_FIELD adjustment_id", set_field("adjustment_id", "a b")),
    ("INVALID_FIELD delta", set_field("delta", fields.STOCK_MAX + 1)),
    ("INVALID_FIELD kind", set_field("kind", 4)),
    ("SHOP_NOT_FOUND", set_field("shop_id", "nowhere")),
    ("ID_CONFLICT", used_before(fields.ADJUST_STOCK)),
    ("SKU_NOT_FOUND", set_field("sku_id", "nothing")),
    ("LOCATION_NOT_FOUND", set_field("location_id", "nowhere")),
    ("IDEMPOTENCY_TABLE_FULL", use_up_ids),
]
BRIM_REASONS: list[tuple[str, Reason]] = [
    ("STOCK_LIMIT", stock_to_the_brim),
    ("RETRY_TOO_OLD", sent_long_ago),
]
ADJUST_OUTCOMES: list[tuple[str, Reason]] = [
    ("RETRY_TOO_OLD", sent_long_ago),
    ("ILLEGAL_STATE", retire_south),
    ("INSUFFICIENT_STOCK", set_field("delta", -3)),
]
TRANSFER = {
    "transfer_id": "new",
    "sku_id": "tea",
    "from_location_id": "north",
    "to_location_id": "south",
    "quantity": 1,
}
TRANSFER_REASONS: list[tuple[str, Reason]] = [
    ("INVALID_FIELD transfer_id", set_field("transfer_id", "")),
    ("INVALID_FIELD quantity", set_field("quantity", 0)),
    ("SHOP_NOT_FOUND", set_field("shop_id", "nowhere")),
    ("ID_CONFLICT", used_before(fields.TRANSFER_STOCK)),
    ("SKU_NOT_FOUND", set_field("sku_id", "nothing")),
    ("LOCATION_NOT_FOUND", set_field("to_location_id", "nowhere")),
]
TRANSFER_OUTCOMES: list[tuple[str, Reason]] = [
    ("RETRY_TOO_OLD", sent_long_ago),
    ("ILLEGAL_STATE", retire_south),
    ("INSUFFICIENT_STOCK", set_field("quantity", 50)),
]
PAY = {"order_id": "order", "payment_id": "new", "amount_minor": 1}
PAY_REASONS: list[tuple[str, Reason]] = [
    ("INVALID_FIELD payment_id", set_field("payment_id", "")),
    ("INVALID_FIELD amount_minor", set_field("amount_minor", -1)),
    ("SHOP_NOT_FOUND", set_field("shop_id", "nowhere")),
    ("ORDER_NOT_FOUND", set_field("order_id", "nothing")),
    ("ID_CONFLICT", used_before(fields.PAY_ORDER)),
    ("INVALID_FIELD amount_minor", set_field("amount_minor", fields.AMOUNT_MAX)),
    ("ORDER_COMMAND_LIMIT", fill_commands),
]
SHIP = {
    "order_id": "order",
    "command_id": "new",
    "lines": [{"line_index": 1, "quantity": 1}, {"line_index": 1, "quantity": 1}],
}
SHIP_REASONS: list[tuple[str, Reason]] = [
    ("INVALID_FIELD command_id", set_field("command_id", "")),
    ("INVALID_FIELD lines[0].line_index", set_line(0, line_index=64)),
    ("INVALID_FIELD lines[1].quantity", set_line(1, quantity=0)),
    ("SHOP_NOT_FOUND", set_field("shop_id", "nowhere")),
    ("ORDER_NOT_FOUND", set_field("order_id", "nothing")),
    ("ID_CONFLICT", used_before(fields.CANCEL_ORDER)),
    ("LOCATION_NOT_FOUND", set_line(1, location_id="nowhere")),
    ("INVALID_FIELD lines[0].line_index", set_line(0, line_index=2)),
    ("ORDER_COMMAND_LIMIT", fill_commands),
    ("ILLEGAL_STATE", set_line(0, quantity=9)),
]
PUT_SKU = {"sku_id": "tea", "price_minor": 1, "safety_stock_overrides": [{"location_id": "north", "quantity": 0}]}
PUT_SKU_REASONS: list[tuple[str, Reason]] = [
    ("INVALID_FIELD price_minor", set_field("price_minor", -1)),
    ("INVALID_FIELD status", set_field("status", 9)),
    ("SHOP_NOT_FOUND", set_field("shop_id", "nowhere")),
    ("LOCATION_NOT_FOUND", set_field("safety_stock_overrides", [{"location_id": "nowhere", "quantity": 1}])),
    ("REVISION_CONFLICT", set_field("if_revision", 99)),
    ("ILLEGAL_STATE", set_field("status", 3)),
]

CASES = [
    (fields.PLACE_ORDER, PLACE, PLACE_REASONS),
    (fields.PLACE_ORDER, PLACE, PLACE_OUTCOMES),
    (fields.PLACE_ORDER, PLACE, FULL_REASONS),
    (fields.ADJUST_STOCK, ADJUST, ADJUST_REASONS),
    (fields.ADJUST_STOCK, ADJUST, BRIM_REASONS),
    (fields.ADJUST_STOCK, ADJUST, ADJUST_OUTCOMES),
    (fields.TRANSFER_STOCK, TRANSFER, TRANSFER_REASONS),
    (fields.TRANSFER_STOCK, TRANSFER, TRANSFER_OUTCOMES),
    (fields.PAY_ORDER, PAY, PAY_REASONS),
    (fields.SHIP_ORDER, SHIP, SHIP_REASONS),
    (fields.PUT_SKU, PUT_SKU, PUT_SKU_REASONS),
]
EXPECTED_FIRST = [
    (method, base, reasons[index : index + 2]) for method, base, reasons in CASES for index in range(len(reasons))
]


def copy_of(base: Fields) -> Fields:
    return {name: [dict(line) for line in value] if name == "lines" else value for name, value in base.items()}


def answer(desk: Desk, method: int, base: Fields, reasons: list[tuple[str, Reason]]) -> Result:
    values = copy_of(base)
    # The later first: what it does to the world must not be kept from it by the earlier.
    for _, apply in reversed(reasons):
        apply(desk, values)
    return desk.say(method, **values)


def name_of(case: object) -> str:
    if isinstance(case, list):
        return " before ".join(reason for reason, _ in case)
    return str(case) if isinstance(case, int) else "request"


@pytest.mark.parametrize(("method", "base", "reasons"), EXPECTED_FIRST, ids=name_of)
def test_earlier_of_two_reasons_that_both_apply_is_answered(
    method: int, base: Fields, reasons: list[tuple[str, Reason]]
) -> None:
    desk = world()
    assert told(answer(desk, method, base, reasons)) == reasons[0][0]
    desk.compare_digests()


@pytest.mark.parametrize(("method", "base"), [(method, base) for method, base, _ in CASES], ids=name_of)
def test_request_without_a_reason_against_it_is_carried_out(method: int, base: Fields) -> None:
    assert told(answer(world(), method, base, [])) in ("PLACED", "APPLIED")
