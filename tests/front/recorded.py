"""Request bytes for two fronts that must answer alike, from a seed: every method, valid, invalid and odd."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from engine import _core, datadir
from engine._core import LIMITS, JournalWriter, Shard
from everopen.v1 import inventory_service_pb2 as inventory
from everopen.v1 import order_service_pb2 as orders
from tests import reference_fields as fields
from tests.generate import Generator, Step
from tests.machines import ask_model
from tests.reference import Model
from tests.wire.generate import hostile, varint

# Logged time never falls, so a log that has seen the year 2096 stays there: what runs on a copy of it answers with the
# same times, whenever it runs.
FROZEN_MS = 4_000_000_000_000
WINDOW_MS = 3_600_000
ENTRIES_MAX = 10_000
SHOPS = tuple(f"side-{number}" for number in range(6))
HEALTH_CHECK = "/grpc.health.v1.Health/Check"
PLACE_ORDERS = "/everopen.v1.OrderService/PlaceOrders"

NAMES = {
    method: request.DESCRIPTOR.full_name.removesuffix("Request").replace("v1.", f"v1.{service}/")
    for service, module in (("OrderService", orders), ("InventoryService", inventory))
    for method, request in fields.REQUESTS.items()
    if request.DESCRIPTOR.file is module.DESCRIPTOR
}
PATHS = {method: f"/{name}" for method, name in NAMES.items()}
BATCH_PATHS = {
    fields.PLACE_ORDER: PLACE_ORDERS,
    **{
        method: f"/everopen.v1.InventoryService/Batch{name}"
        for method, name in (
            (fields.PUT_SHOP, "PutShops"),
            (fields.PUT_LOCATION, "PutLocations"),
            (fields.PUT_SKU, "PutSkus"),
            (fields.ADJUST_STOCK, "AdjustStock"),
            (fields.TRANSFER_STOCK, "TransferStock"),
            (fields.GET_STOCK, "GetStock"),
        )
    },
}


class Call(NamedTuple):
    """One call, its messages as bytes. PlaceOrders is the only one that may have several or none."""

    path: str
    messages: tuple[bytes, ...]
    # Whether the refusal is in the engine's words; otherwise only its code is told.
    in_words: bool = True


def frozen_data_dir(path: Path, shards: int = 1) -> Path:
    """A data directory whose logs have seen FROZEN_MS, each under an id that follows from its shard."""
    for number, directory in enumerate(datadir.create_or_open(path, shards)):
        log_id = bytes([number + 1]) * 16
        shard = Shard(log_id, WINDOW_MS, ENTRIES_MAX)
        with JournalWriter(str(directory), log_id=log_id, segment_bytes=1024 * 1024) as writer:
            writer.append(shard.record)
            for shop_id in SHOPS:
                if datadir.shard_of(_core.partition_of(shop_id), shards) == number:
                    request = inventory.PutShopRequest(shop_id=shop_id)
                    shard.execute(_core.PUT_SHOP, request.SerializeToString(), FROZEN_MS)
                    writer.append(shard.record)
            assert shard.time_ms == FROZEN_MS, "a shop for each shard"
            writer.kick()
            assert writer.wait_durable(shard.sequence, 30)
    return path


def record(seed: int, count: int) -> list[Call]:
    """`count` requests of a generated day, some with a spoiled one before or in company, and then odd ones."""
    rng = random.Random(seed)
    calls = [unary(method, request.SerializeToString()) for method, request in side_shops()]
    calls.extend(call for step in steps(seed, count) for call in varied(rng, step))
    return [*calls, *odd_calls(rng)]


def steps(seed: int, count: int) -> Iterator[Step]:
    """A generated day on which no time passes. The model runs along, so that orders are paid and shipped."""
    generator, model = Generator(seed), Model(bytes(16), WINDOW_MS, ENTRIES_MAX)
    while count:
        generator.now_ms = FROZEN_MS
        step = generator.next(model)
        if step.method == fields.PLACE_ORDER:
            # One of a higher class leaves work for a tick, and when that comes differs from front to front.
            order = orders.PlaceOrderRequest.FromString(step.request)
            order.priority_class = 0
            step = step._replace(request=order.SerializeToString())
        if step.method in fields.REQUESTS:
            ask_model(model, step.method, step.request, FROZEN_MS)
            yield step
            count -= 1


def unary(method: int, request: bytes, *, in_words: bool = True) -> Call:
    return Call(PATHS[method], (request,), in_words)


def batch_of(items: Iterable[bytes]) -> bytes:
    """The items are field 1 of every batch."""
    return b"".join(b"\x0a" + varint(len(item)) + item for item in items)


def varied(rng: random.Random, step: Step) -> Iterator[Call]:
    chance = rng.random()
    if chance < 0.3:
        yield unary(step.method, hostile(rng, step.request))
    elif chance < 0.5 and step.method in BATCH_PATHS:
        yield in_company(rng, step)
    yield unary(step.method, step.request)


def in_company(rng: random.Random, step: Step) -> Call:
    """The request among others of its kind: itself again, spoiled ones, and those of shops on other shards."""
    messages = []
    for _ in range(rng.choice((1, 2, 5)) if step.method == fields.PLACE_ORDER else 1):
        items = [step.request]
        for _ in range(rng.randrange(12)):
            strange = hostile(rng, step.request)
            items.append(rng.choice((step.request, strange, side_request(rng, step.method))))
        rng.shuffle(items)
        batch = batch_of(items)
        messages.append(hostile(rng, batch) if rng.random() < 0.1 else batch)
    return Call(BATCH_PATHS[step.method], tuple(messages))


def side_shops() -> Iterator[tuple[int, object]]:
    for shop_id in SHOPS:
        yield fields.PUT_SHOP, inventory.PutShopRequest(shop_id=shop_id)
        for location_id in ("near", "far"):
            yield fields.PUT_LOCATION, inventory.PutLocationRequest(shop_id=shop_id, location_id=location_id)
        yield fields.PUT_SKU, inventory.PutSkuRequest(shop_id=shop_id, sku_id="sku", price_minor=7)


def side_request(rng: random.Random, method: int) -> bytes:
    shop_id, number = rng.choice(SHOPS), rng.randrange(10**9)
    place = {"shop_id": shop_id, "sku_id": "sku"}
    made = {
        fields.PLACE_ORDER: lambda: orders.PlaceOrderRequest(
            order_id=f"side-{number}",
            shop_id=shop_id,
            buyer_id="b",
            lines=[orders.PlaceOrderLine(sku_id="sku", quantity=1)],
        ),
        fields.PUT_SHOP: lambda: inventory.PutShopRequest(shop_id=shop_id),
        fields.PUT_LOCATION: lambda: inventory.PutLocationRequest(shop_id=shop_id, location_id="near", priority=2),
        fields.PUT_SKU: lambda: inventory.PutSkuRequest(**place, price_minor=rng.randrange(20)),
        fields.ADJUST_STOCK: lambda: inventory.AdjustStockRequest(
            **place, adjustment_id=f"{number}", location_id="near", delta=rng.randrange(1, 9)
        ),
        fields.TRANSFER_STOCK: lambda: inventory.TransferStockRequest(
            **place, transfer_id=f"{number}", from_location_id="near", to_location_id="far", quantity=1
        ),
        fields.GET_STOCK: lambda: inventory.GetStockRequest(**place),
    }
    return made[method]().SerializeToString()


def odd_calls(rng: random.Random) -> Iterator[Call]:
    order = side_request(rng, fields.PLACE_ORDER)
    for method in fields.REQUESTS:
        yield unary(method, b"")
        yield unary(method, b"\xff" * 5)
        # Text that is no UTF-8, an id that is too long, a number where text belongs.
        yield unary(method, b"\x0a\x02\xc3\x28\x12\x02\xc3\x28")
        yield unary(method, b"\x0a\x41" + b"x" * 65 + b"\x12\x41" + b"x" * 65)
        yield unary(method, b"\x08\x01\x10\x01")
        # An unknown field alone.
        yield unary(method, b"\xa2\x06\x03abc")
    for method, path in BATCH_PATHS.items():
        item = side_request(rng, method)
        items_max = LIMITS["BATCH_ITEMS_MAX"]
        for count in (0, 1, items_max, items_max + 1):
            yield Call(path, (batch_of([item] * count),))
        yield Call(path, (batch_of([side_request(rng, method) for _ in range(200)]),))
        yield Call(path, (batch_of([b"", item, b"\xff", item]) + b"\xa2\x06\x03abc",))
        yield Call(path, (b"\x0a\x7fshort",))
    # A repeat, and the same id with other content.
    for request in (order, order, order + b"\x40\x01"):
        yield unary(fields.PLACE_ORDER, request)
    several = [batch_of([side_request(rng, fields.PLACE_ORDER) for _ in range(3)]) for _ in range(8)]
    yield Call(PLACE_ORDERS, tuple(several))
    yield Call(PLACE_ORDERS, ())
    yield Call(PLACE_ORDERS, (several[0], b"\xff", several[1]))
    # Unknown fields fill the message to its limit, and beyond it.
    for size, in_words in ((4 * 1024 * 1024, True), (4 * 1024 * 1024 + 1, False)):
        head = order + b"\xa2\x06"
        padding = size - len(head) - 4
        yield unary(fields.PLACE_ORDER, head + varint(padding) + bytes(padding), in_words=in_words)
    yield unary(fields.GET_ORDER, orders.GetOrderRequest(shop_id="none", order_id="o").SerializeToString())
    yield unary(fields.GET_STOCK, inventory.GetStockRequest(shop_id=SHOPS[0], sku_id="none").SerializeToString())
    for service in (b"", b"everopen.v1.OrderService", b"everopen.v1.InventoryService"):
        yield Call(HEALTH_CHECK, (b"\x0a" + varint(len(service)) + service if service else b"",))
    yield Call(HEALTH_CHECK, (b"\x0a\x07nothing",), in_words=False)
    for path in ("/everopen.v1.OrderService/Nothing", "/everopen.v1.NothingService/PlaceOrder", "/nothing"):
        yield Call(path, (b"",), in_words=False)
