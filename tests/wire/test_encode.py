"""Encoders and statuses against google.protobuf, byte for byte."""

import random
from typing import Any

import pytest
from google.rpc import error_details_pb2, status_pb2
from hypothesis import given
from hypothesis import strategies as st

from everopen.v1 import inventory_pb2, inventory_service_pb2, log_pb2, order_pb2, order_service_pb2
from tests.probes import wire_probe
from tests.wire import generate
from tests.wire.requests import KINDS

pytestmark = pytest.mark.native

# Seeds, since a source that hypothesis drives itself takes seconds for an order of many lines.
RNG = st.integers(0, 2**32 - 1).map(random.Random)
LOG_ID = bytes(range(16))


def serialized(message: Any) -> bytes:
    return bytes(message.SerializeToString(deterministic=True))


def wild(rng: random.Random, message: Any) -> Any:
    """Any values, but for texts and states, of which a view holds only what passed validation."""
    for field in message.DESCRIPTOR.fields:
        if field.message_type is None and rng.random() < 0.7:
            as_id = field.type == field.TYPE_STRING
            setattr(message, field.name, generate.make_id(rng) if as_id else generate.wild_value(rng, field))
    return message


def make_order(rng: random.Random, lines: int, allocations: int) -> Any:
    order = wild(rng, order_pb2.Order())
    order.state, order.payment_state = rng.randrange(12), rng.randrange(5)
    order.currency = rng.choice(["CNY", "USD"])
    for _ in range(lines):
        wild(rng, order.lines.add())
    for _ in range(allocations):
        wild(rng, order.allocations.add())
    return order


def plain(message: Any) -> dict[str, Any]:
    """A message as the probe takes it: every field there, texts as bytes."""
    fields = {}
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        if field.is_repeated:
            value = [plain(item) for item in value]
        fields[field.name] = value.encode() if isinstance(value, str) else value
    return fields


@given(rng=RNG, lines=st.integers(0, 64), allocations=st.integers(0, 256))
def test_order_of_any_view_is_protobufs(rng: random.Random, lines: int, allocations: int) -> None:
    order = make_order(rng, lines, allocations)
    assert wire_probe.order(plain(order)) == serialized(order)


def test_order_of_the_greatest_size_is_protobufs() -> None:
    counters = ("quantity", "open", "shipped", "cancelled", "delivered", "returned", "written_off")
    most = dict.fromkeys(counters, 2**32 - 1)
    line = order_pb2.OrderLine(sku_id="k" * 64, amount_minor=-1, **most)
    allocation = order_pb2.Allocation(
        line_index=2**32 - 1, location_id="l" * 64, quantity=2**32 - 1, shipped=2**32 - 1, released=2**32 - 1
    )
    order = order_pb2.Order(
        order_id="o" * 64,
        shop_id="s" * 64,
        buyer_id="b" * 64,
        currency="CNY",
        lines=[line] * 64,
        allocations=[allocation] * 256,
        sequence=2**64 - 1,
        state=255,
        payment_state=255,
        **{field.name: -1 for field in order_pb2.Order.DESCRIPTOR.fields if field.type == field.TYPE_INT64},
    )
    assert wire_probe.order(plain(order)) == serialized(order)


@given(rng=RNG)
def test_stock_of_any_view_is_protobufs(rng: random.Random) -> None:
    stock = wild(rng, inventory_pb2.StockLevel())
    assert wire_probe.stock(plain(stock)) == serialized(stock)


@given(rng=RNG, bare=st.booleans(), refused=st.integers(-1, 63))
def test_order_response_is_protobufs(rng: random.Random, bare: bool, refused: int) -> None:
    response = order_service_pb2.PlaceOrderResponse(
        outcome=rng.randrange(10), sequence=rng.choice([0, 1, 300, 2**64 - 1]), duplicate=rng.random() < 0.5
    )
    body = None
    if not bare:
        response.order.CopyFrom(make_order(rng, rng.randrange(4), rng.randrange(4)))
        body = serialized(response.order)
    if refused >= 0:
        response.refused_line_index = refused
    response.log_id = rng.choice([b"", LOG_ID])
    got = wire_probe.order_response(
        response.outcome, body, response.sequence, response.duplicate, response.log_id or None, refused
    )
    assert got == serialized(response)


@pytest.mark.parametrize("name", ["Pay", "Cancel", "Ship", "Deliver", "Return"])
def test_order_response_without_refused_line_is_that_of_the_commands(name: str) -> None:
    order = order_pb2.Order(order_id="o", currency="CNY")
    message = getattr(order_service_pb2, f"{name}OrderResponse")
    response = message(outcome=3, order=order, sequence=7, duplicate=True, log_id=LOG_ID)
    assert wire_probe.order_response(3, serialized(order), 7, True, LOG_ID, -1) == serialized(response)


def test_order_response_with_an_empty_order_keeps_it() -> None:
    response = order_service_pb2.PlaceOrderResponse(order=order_pb2.Order())
    assert wire_probe.order_response(0, b"", 0, False, None, -1) == serialized(response)


@given(rng=RNG, bare=st.booleans())
def test_stock_responses_are_protobufs(rng: random.Random, bare: bool) -> None:
    first, second = (wild(rng, inventory_pb2.StockLevel()) for _ in range(2))
    common = {"outcome": rng.randrange(10), "sequence": 9, "duplicate": True, "log_id": LOG_ID}
    adjusted = inventory_service_pb2.AdjustStockResponse(stock=None if bare else first, **common)
    moved = inventory_service_pb2.TransferStockResponse(
        from_stock=None if bare else first, to_stock=None if bare else second, **common
    )
    bodies = (None, None) if bare else (serialized(first), serialized(second))
    for kind, response in (("AdjustStock", adjusted), ("TransferStock", moved)):
        got = wire_probe.stock_response(KINDS[kind], common["outcome"], *bodies, 9, True, LOG_ID)
        assert got == serialized(response)


@pytest.mark.parametrize("name", ["Shop", "Location", "Sku"])
@pytest.mark.parametrize("revision", [0, 1, 2**64 - 1])
def test_put_response_is_protobufs(name: str, revision: int) -> None:
    message = getattr(inventory_service_pb2, f"Put{name}Response")
    response = message(outcome=3, revision=revision, sequence=5, log_id=LOG_ID)
    assert wire_probe.put_response(3, revision, 5, LOG_ID) == serialized(response)


@given(rng=RNG, rows=st.integers(0, 20))
def test_read_responses_are_protobufs(rng: random.Random, rows: int) -> None:
    order = make_order(rng, 1, 1)
    read = order_service_pb2.GetOrderResponse(order=order, sequence=4, log_id=LOG_ID)
    assert wire_probe.get_order_response(serialized(order), 4, LOG_ID) == serialized(read)
    stocks = wild(rng, inventory_service_pb2.GetStockResponse())
    stocks.log_id = LOG_ID
    for _ in range(rows):
        wild(rng, stocks.locations.add())
    names = ("on_hand", "reserved", "available", "sellable", "backordered")
    totals = {name: getattr(stocks, name) for name in names}
    bodies = [serialized(stock) for stock in stocks.locations]
    assert wire_probe.get_stock_response(totals, bodies, stocks.sequence, LOG_ID) == serialized(stocks)


@given(rng=RNG, items=st.integers(0, 20))
def test_batch_answer_is_protobufs(rng: random.Random, items: int) -> None:
    response = order_service_pb2.PlaceOrdersResponse()
    bodies = []
    for _ in range(items):
        result = response.results.add()
        if rng.random() < 0.5:
            result.result.order.CopyFrom(make_order(rng, rng.randrange(3), 0))
            bodies.append((True, serialized(result.result)))
        else:
            result.status.code = rng.randrange(3)
            bodies.append((False, serialized(result.status)))
    assert wire_probe.batch_answer(bodies) == serialized(response)


def test_effects_are_protobufs() -> None:
    rng = random.Random(3)
    orders = [make_order(rng, n, n) for n in range(4)]
    stocks = [wild(rng, inventory_pb2.StockLevel()) for _ in range(4)]
    expected = serialized(log_pb2.Effects(orders=orders, stocks=stocks))
    assert wire_probe.effects([*map(serialized, orders)], [*map(serialized, stocks)]) == expected


def details(data: bytes) -> tuple[Any, list[Any]]:
    status = status_pb2.Status.FromString(data)
    assert serialized(status) == data, "the bytes are those that protobuf writes"
    unpacked = []
    for detail in status.details:
        message = getattr(error_details_pb2, detail.type_url.removeprefix("type.googleapis.com/google.rpc."))()
        assert detail.Unpack(message)
        assert serialized(message) == detail.value
        unpacked.append(message)
    return status, unpacked


@pytest.mark.parametrize(
    ("field", "index", "subfield", "path"),
    [
        (b"order_id", -1, None, "order_id"),
        (b"lines", 0, None, "lines[0]"),
        (b"lines", 9, b"quantity", "lines[9].quantity"),
        (b"region_costs", 1023, b"from_region", "region_costs[1023].from_region"),
        (b"lines", -1, b"quantity", "lines"),
        (None, -1, None, ""),
        (b"f" * 200, 2**31 - 1, b"s" * 200, "f" * 200 + "[2147483647]." + "s" * 200),
    ],
)
def test_status_of_a_bad_field_names_its_path(field: bytes, index: int, subfield: bytes, path: str) -> None:
    data = wire_probe.status(3, b"INVALID_FIELD", b"must be so", 0, b"", b"", field, index, subfield)
    status, (info, bad_request) = details(data)
    assert (status.code, status.message) == (3, f"{path} must be so".strip())
    assert (info.reason, info.domain) == ("INVALID_FIELD", "everopen.v1")
    (only,) = bad_request.field_violations
    assert (only.field, only.description) == (path, "must be so")


@pytest.mark.parametrize("code", [5, 6])
@pytest.mark.parametrize(
    ("resource", "kind", "name"),
    [
        (1, "Shop", "shops/S"),
        (2, "Location", "shops/S/locations/X"),
        (3, "Sku", "shops/S/skus/X"),
        (4, "Order", "shops/S/orders/X"),
    ],
)
def test_status_of_a_resource_names_it(code: int, resource: int, kind: str, name: str) -> None:
    status, (info, named) = details(wire_probe.status(code, b"WHY", b"It is so.", resource, b"S", b"X"))
    assert (status.code, status.message, info.reason) == (code, "It is so.", "WHY")
    assert (named.resource_type, named.resource_name, named.description) == (f"everopen.v1.{kind}", name, "It is so.")


def test_status_of_long_ids_and_texts_fits() -> None:
    data = wire_probe.status(5, b"R" * 300, b"d" * 3000, 4, b"s" * 64, b"o" * 64)
    _, (_, named) = details(data)
    assert named.resource_name == "shops/" + "s" * 64 + "/orders/" + "o" * 64


@pytest.mark.parametrize("code", [8, 10, 12])
def test_status_of_another_code_has_its_reason_alone(code: int) -> None:
    status, (info,) = details(wire_probe.status(code, b"QUEUE_FULL", b"Full.", 0, b"", b""))
    assert (status.code, info.reason) == (code, "QUEUE_FULL")
