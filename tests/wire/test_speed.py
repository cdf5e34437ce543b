"""What decoding and answering an order cost natively: one thread, the same request again and again, hot caches, no I/O.

The ordinary run does few rounds, so that the loops cannot rot. To measure, on a quiet machine and an optimised build of
the probe: EVEROPEN_WIRE_ROUNDS=200000 pytest -s tests/wire/test_speed.py. The best of seven counts.
"""

import os
from collections.abc import Callable

import pytest

from everopen.v1 import order_service_pb2
from tests.probes import wire_probe
from tests.wire.requests import KINDS

pytestmark = pytest.mark.native

ROUNDS = int(os.environ.get("EVEROPEN_WIRE_ROUNDS", "20"))


def best(measure: Callable[[], float]) -> float:
    return min(measure() for _ in range(7))


def request(lines: int, **fields: object) -> bytes:
    message = order_service_pb2.PlaceOrderRequest(
        order_id="ord-20261122-000123", shop_id="shop-0042", buyer_id="buyer-000777", region="cn-east", **fields
    )
    for index in range(lines):
        message.lines.add(sku_id=f"sku-{index:06}", quantity=index + 1)
    return bytes(message.SerializeToString(deterministic=True))


@pytest.mark.parametrize("lines", [1, 3, 64])
def test_place_order_is_decoded_in_nanoseconds(lines: int) -> None:
    data = request(lines)
    stray = data + b"\xa0\x06\x01"  # an unknown field: the canonical bytes must be written anew
    kind = KINDS["PlaceOrder"]
    plain = best(lambda: wire_probe.time_decode(kind, data, ROUNDS, False))
    hashed = best(lambda: wire_probe.time_decode(kind, data, ROUNDS, True))
    anew = best(lambda: wire_probe.time_decode(kind, stray, ROUNDS, False))
    print(f"\n{lines} lines, {len(data)} bytes: {plain:.0f} ns, with hash {hashed:.0f} ns, not canonical {anew:.0f} ns")


@pytest.mark.parametrize("lines", [1, 3, 64])
def test_order_is_answered_in_nanoseconds(lines: int) -> None:
    counters = dict.fromkeys(("shipped", "cancelled", "delivered", "returned", "written_off", "released"), 0)
    line = {"sku_id": b"sku-000001", "amount_minor": 9900, "quantity": 2, "open": 2, **counters}
    allocation = {"location_id": b"wh-east-1", "line_index": 0, "quantity": 2, **counters}
    order = {
        "order_id": b"ord-20261122-000123",
        "shop_id": b"shop-0042",
        "buyer_id": b"buyer-000777",
        "state": 3,
        "payment_state": 1,
        "amount_minor": 129900,
        "received_minor": 0,
        "refunded_minor": 0,
        "refund_due_minor": 0,
        "accepted_at_ms": 1700000000000,
        "expires_at_ms": 1700000900000,
        "placed_at_ms": 0,
        "sequence": 1234567,
        "lines": [line] * lines,
        "allocations": [allocation] * lines,
    }
    taken = best(lambda: wire_probe.time_answer(order, ROUNDS))
    print(f"\n{lines} lines: {taken:.0f} ns for the Order and the PlaceOrderResponse around it")
