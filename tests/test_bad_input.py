"""Bad input changes nothing: both digests, the sequence and the time are what they were."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest

from tests import reference_fields as fields
from tests.desk import Desk
from tests.reference_fields import REQUESTS

pytestmark = pytest.mark.native

METHODS = list(REQUESTS)
MUTATIONS = 4_000
UINT32_MAX = 2**32 - 1
INT64_MAX = 2**63 - 1

GOOD: dict[int, dict[str, Any]] = {
    fields.PLACE_ORDER: {"order_id": "new", "buyer_id": "b", "lines": [{"sku_id": "tea", "quantity": 1}]},
    fields.PAY_ORDER: {"order_id": "order", "payment_id": "p", "amount_minor": 100},
    fields.CANCEL_ORDER: {"order_id": "order", "command_id": "cancel", "lines": [{"quantity": 1}]},
    fields.SHIP_ORDER: {"order_id": "order", "command_id": "ship", "lines": [{"quantity": 1, "location_id": "north"}]},
    fields.DELIVER_ORDER: {"order_id": "order", "command_id": "deliver", "lines": [{"quantity": 1}]},
    fields.RETURN_ORDER: {"order_id": "order", "command_id": "return", "lines": [{"quantity": 1}]},
    fields.SETTLE_REFUND: {"order_id": "order", "command_id": "settle", "amount_minor": 1},
    fields.PUT_SHOP: {"region_costs": [{"from_region": "a", "to_region": "b", "cost": 1}]},
    fields.PUT_LOCATION: {"location_id": "north", "region": "a"},
    fields.PUT_SKU: {"sku_id": "tea", "safety_stock_overrides": [{"location_id": "north", "quantity": 1}]},
    fields.ADJUST_STOCK: {"adjustment_id": "a", "sku_id": "tea", "location_id": "north", "delta": 1},
    fields.TRANSFER_STOCK: {
        "transfer_id": "t",
        "sku_id": "tea",
        "from_location_id": "north",
        "to_location_id": "south",
        "quantity": 1,
    },
    fields.GET_ORDER: {"order_id": "order"},
    fields.GET_STOCK: {"sku_id": "tea"},
}


@pytest.fixture
def busy(desk: Desk) -> Desk:
    """A shop in the middle of its work: an order partly shipped, one that waits, a refusal."""
    desk.open("tea@north=9 tea@south=2", backorder_policy=2)
    desk.place("order", "tea*5")
    desk.pay("order", 600)
    desk.ship("order", "0*3")
    desk.deliver("order", "0*2")
    desk.place("waits", "tea*50")
    desk.put_sku("cup")
    desk.place("refused", "cup*1")
    return desk


def traces(desk: Desk) -> tuple[object, ...]:
    return (desk.core.state_digest(), desk.core.business_digest(), desk.core.sequence, desk.core.time_ms)


def refused(desk: Desk, method: int, data: bytes) -> None:
    """The request must be a fault, in core and model alike, that leaves no trace."""
    before = traces(desk)
    # A later time must not count either.
    assert desk.execute(method, data, desk.now_ms + 1_000_000).code != 0, (method, data)
    assert traces(desk) == before


def good(method: int, **changes: Any) -> bytes:
    return REQUESTS[method](**{"shop_id": "shop", **GOOD[method], **changes}).SerializeToString()


def test_good_request_of_each_method_is_answered(busy: Desk) -> None:
    for method in METHODS:
        assert busy.execute(method, good(method), busy.now_ms).code == 0


@pytest.mark.parametrize("method", METHODS)
def test_empty_request_changes_nothing(busy: Desk, method: int) -> None:
    refused(busy, method, b"")


def texts_of(method: int) -> list[str]:
    return [
        field.name
        for field in REQUESTS[method].DESCRIPTOR.fields
        if field.type == field.TYPE_STRING and field.name not in ("currency", "reason", "region", "location_id")
    ]


@pytest.mark.parametrize("method", METHODS)
def test_id_that_is_empty_oversized_or_unprintable_changes_nothing(busy: Desk, method: int) -> None:
    for name in texts_of(method):
        for value in ("", "x" * 65, "a b", "a\n", "\x7f", "é", "订单"):
            refused(busy, method, good(method, **{name: value}))


@pytest.mark.parametrize("method", METHODS)
def test_unknown_id_changes_nothing(busy: Desk, method: int) -> None:
    free = {"order_id"} if method == fields.PLACE_ORDER else set()
    free |= {"adjustment_id", "transfer_id", "payment_id", "command_id", "buyer_id"}
    if method in (fields.PUT_SHOP, fields.PUT_LOCATION, fields.PUT_SKU):
        free |= {"shop_id"} if method == fields.PUT_SHOP else {"location_id", "sku_id"}
    for name in set(texts_of(method)) - free:
        refused(busy, method, good(method, **{name: "unknown"}))


def line(**changes: Any) -> list[dict[str, Any]]:
    return [{"quantity": 1, **changes}]


OUT_OF_BOUNDS: list[tuple[int, dict[str, Any]]] = [
    (fields.PLACE_ORDER, {"lines": []}),
    (fields.PLACE_ORDER, {"lines": line(sku_id="tea") * 65}),
    (fields.PLACE_ORDER, {"lines": line(sku_id="tea", quantity=0)}),
    (fields.PLACE_ORDER, {"lines": line(sku_id="tea", quantity=100_000_001)}),
    (fields.PLACE_ORDER, {"lines": line(sku_id="tea", quantity=UINT32_MAX)}),
    (fields.PLACE_ORDER, {"lines": line(sku_id="tea", amount_minor=INT64_MAX)}),
    (fields.PLACE_ORDER, {"lines": line(sku_id="tea", amount_minor=10**15) * 2}),
    (fields.PLACE_ORDER, {"lines": line(sku_id="tea", expected_price_minor=-1)}),
    (fields.PLACE_ORDER, {"priority_class": 10}),
    (fields.PLACE_ORDER, {"strategy": 5}),
    (fields.PLACE_ORDER, {"placed_at_ms": -1}),
    (fields.PLACE_ORDER, {"first_sent_at_ms": INT64_MAX}),
    (fields.PLACE_ORDER, {"region": "x" * 65}),
    (fields.PLACE_ORDER, {"attributes": {f"k{number}": "" for number in range(17)}}),
    (fields.PLACE_ORDER, {"attributes": {"k": "v" * 256}}),
    (fields.PAY_ORDER, {"amount_minor": -1}),
    (fields.PAY_ORDER, {"amount_minor": 10**15}),
    (fields.PAY_ORDER, {"amount_minor": INT64_MAX}),
    (fields.CANCEL_ORDER, {"lines": line() * 65}),
    (fields.CANCEL_ORDER, {"lines": line(quantity=0)}),
    (fields.CANCEL_ORDER, {"lines": line(line_index=1)}),
    (fields.CANCEL_ORDER, {"lines": line(line_index=UINT32_MAX)}),
    (fields.CANCEL_ORDER, {"reason": "x" * 129}),
    (fields.SHIP_ORDER, {"lines": line() * 257}),
    (fields.SHIP_ORDER, {"lines": line(location_id="unknown")}),
    (fields.SHIP_ORDER, {"lines": line(line_index=64)}),
    (fields.DELIVER_ORDER, {"lines": line(line_index=1)}),
    (fields.RETURN_ORDER, {"disposition": 3}),
    (fields.RETURN_ORDER, {"location_id": "unknown"}),
    (fields.SETTLE_REFUND, {"amount_minor": -1}),
    (fields.PUT_SHOP, {"currency": "usd"}),
    (fields.PUT_SHOP, {"currency": "EURO"}),
    (fields.PUT_SHOP, {"status": 4}),
    (fields.PUT_SHOP, {"if_revision": 7}),
    (fields.PUT_SHOP, {"region_costs": [{"from_region": "a"}]}),
    (fields.PUT_SHOP, {"region_costs": [{"from_region": "a", "to_region": "b"}] * 1025}),
    (fields.PUT_LOCATION, {"kind": 3}),
    (fields.PUT_LOCATION, {"location_id": "never", "status": 3}),
    (fields.PUT_SKU, {"price_minor": 10**12 + 1}),
    (fields.PUT_SKU, {"price_minor": -1}),
    (fields.PUT_SKU, {"buyer_window_ms": 90 * 86_400_000 + 1}),
    (fields.PUT_SKU, {"reserve_ttl_ms": 30 * 86_400_000 + 1}),
    (fields.PUT_SKU, {"reserve_ttl_ms": -1}),
    (fields.PUT_SKU, {"backorder_policy": 3}),
    (fields.PUT_SKU, {"safety_stock_overrides": [{"location_id": "unknown"}]}),
    (fields.PUT_SKU, {"safety_stock_overrides": [{"location_id": "north"}] * 257}),
    (fields.ADJUST_STOCK, {"delta": 0}),
    (fields.ADJUST_STOCK, {"delta": -1, "kind": 1}),
    (fields.ADJUST_STOCK, {"delta": -1, "kind": 3}),
    (fields.ADJUST_STOCK, {"delta": 10**12}),
    (fields.ADJUST_STOCK, {"delta": -INT64_MAX - 1}),
    (fields.ADJUST_STOCK, {"delta": INT64_MAX, "kind": 3}),
    (fields.ADJUST_STOCK, {"kind": 4}),
    (fields.TRANSFER_STOCK, {"quantity": 0}),
    (fields.TRANSFER_STOCK, {"quantity": 10**12 + 1}),
    (fields.TRANSFER_STOCK, {"quantity": -1}),
    (fields.TRANSFER_STOCK, {"to_location_id": "north"}),
]


@pytest.mark.parametrize(("method", "changes"), OUT_OF_BOUNDS, ids=lambda value: str(value)[:60])
def test_value_out_of_bounds_changes_nothing(busy: Desk, method: int, changes: dict[str, Any]) -> None:
    refused(busy, method, good(method, **changes))


def test_units_that_do_not_fit_32_bits_together_are_no_more_than_there_are(busy: Desk) -> None:
    # Their sum is 1 modulo 2^32, which is there; the sum itself is not.
    lines = [{"quantity": UINT32_MAX}, {"quantity": 2}]
    for method in (fields.CANCEL_ORDER, fields.SHIP_ORDER, fields.DELIVER_ORDER, fields.RETURN_ORDER):
        before = busy.core.business_digest()
        response = busy.done(method, order_id="order", command_id=f"c{method}", lines=lines)
        assert response.outcome == 9
        assert busy.core.business_digest() == before


def truncated() -> Iterator[tuple[int, bytes]]:
    for method in METHODS:
        data = good(method)
        for size in range(len(data)):
            yield method, data[:size]


def test_truncated_request_leaves_no_trace_unless_it_is_decided(busy: Desk) -> None:
    for method, data in truncated():
        before = traces(busy)
        result = busy.execute(method, data, busy.now_ms)
        assert (traces(busy) == before) == (result.sequence == 0), (method, data)


def test_oversized_request_changes_nothing(busy: Desk) -> None:
    # An unknown field of 5 MiB, and known ones that come to more than 64 KiB.
    refused(busy, fields.PLACE_ORDER, good(fields.PLACE_ORDER) + b"\xa2\x06\x80\x80\xc0\x02" + bytes(5 * 2**20))
    costs = [{"from_region": f"{number:064}", "to_region": "x" * 64, "cost": 1} for number in range(1_000)]
    refused(busy, fields.PUT_SHOP, good(fields.PUT_SHOP, region_costs=costs))


def test_unknown_method_changes_nothing(busy: Desk) -> None:
    for method in (0, 15, 31, 34, -1, 2**31 - 1):
        before = traces(busy)
        code, _, sequence = busy.core.execute(method, b"", busy.now_ms)
        assert (code != 0, sequence) == (True, 0)
        assert traces(busy) == before


def mutated(source: random.Random, data: bytes) -> bytes:
    damaged = bytearray(data)
    for _ in range(source.randint(1, 4)):
        place = source.randrange(len(damaged) + 1)
        kind = source.randrange(4)
        if kind == 0 and place < len(damaged):
            damaged[place] ^= 1 << source.randrange(8)
        elif kind == 1 and place < len(damaged):
            del damaged[place]
        elif kind == 2:
            damaged.insert(place, source.randrange(256))
        else:
            damaged[place:place] = source.randbytes(source.randrange(6))
    return bytes(damaged)


def test_random_and_damaged_bytes_leave_no_trace_unless_they_are_decided(busy: Desk) -> None:
    source = random.Random(7)
    for _ in range(MUTATIONS):
        method = source.choice(METHODS)
        data = source.randbytes(source.randrange(40)) if source.random() < 0.2 else mutated(source, good(method))
        before = traces(busy)
        result = busy.execute(method, data, busy.now_ms)
        assert (traces(busy) == before) == (result.sequence == 0), (method, data)
