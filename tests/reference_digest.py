"""Both digests of the naive model, from scratch, by the layout in docs/state_machine.md."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING

import xxhash

from tests.reference_state import RETIRED, Allocation, Order, Purchase, Remembered, Row, Shop, Sku

if TYPE_CHECKING:
    from tests.reference import Model


def digest(data: bytes) -> int:
    return xxhash.xxh3_128_intdigest(data)


def hash16(number: int) -> bytes:
    return number.to_bytes(16, "little")


def text(value: str) -> bytes:
    data = value.encode()
    return bytes([len(data)]) + data


@cache
def shop_key(shop_id: str) -> bytes:
    return hash16(digest(b"S" + text(shop_id)))


@cache
def sku_key(shop_id: str, sku_id: str) -> bytes:
    return hash16(digest(b"K" + text(shop_id) + text(sku_id)))


@cache
def location_key(shop_id: str, location_id: str) -> bytes:
    return hash16(digest(b"L" + text(shop_id) + text(location_id)))


def key_of_sku(sku: Sku) -> bytes:
    return sku_key(sku.shop.id, sku.id)


def key_of_place(order: Order, allocation: Allocation) -> bytes:
    return location_key(order.shop.id, allocation.row.location.id)


def order_business(order: Order) -> int:
    parts = [
        b"O",
        shop_key(order.shop.id),
        text(order.id),
        text(order.buyer_id),
        struct.pack("<BBqq", order.state, order.payment_state, order.received, order.refunded),
        struct.pack("<BH", len(order.lines), len(order.allocations)),
    ]
    for line in order.lines:
        counters = (order.cancelled(line), line.delivered, line.returned, line.written_off)
        parts.append(key_of_sku(line.sku))
        parts.append(struct.pack("<IqIIIII", line.quantity, line.amount, line.shipped, *counters))
    for allocation in order.allocations:
        units = (allocation.quantity, allocation.shipped, order.released(allocation))
        parts.append(bytes([allocation.line_index]) + key_of_place(order, allocation) + struct.pack("<III", *units))
    return digest(b"".join(parts))


def stock(row: Row) -> int:
    arrived = (row.received, row.adjusted, row.moved_in, row.moved_out, row.returned)
    counters = (row.on_hand, row.reserved, row.safety_stock, *arrived, row.shipped, row.written_off)
    place = location_key(row.sku.shop.id, row.location.id)
    return digest(b"T" + key_of_sku(row.sku) + place + struct.pack("<10q", *counters))


def order_whole(order: Order) -> int:
    times = (order.accepted_at_ms, order.expires_at_ms, order.placed_at_ms)
    flags = (order.outcome, order.strategy, order.allow_split, order.priority_class, order.paid)
    parts = [
        b"o",
        hash16(order_business(order)),
        struct.pack("<Qqqq", order.sequence, *times),
        hash16(order.content),
        struct.pack("<5B", *flags),
        text(order.region),
        struct.pack("<H", len(order.allocations_at_acceptance)),
    ]
    for allocation in order.allocations_at_acceptance:
        place = key_of_place(order, allocation)
        parts.append(bytes([allocation.line_index]) + place + struct.pack("<I", allocation.quantity))
    return digest(b"".join(parts))


def order_command(order: Order, known: Remembered) -> int:
    head = b"C" + shop_key(order.shop.id) + text(order.id) + bytes([known.kind]) + text(known.id)
    return digest(head + hash16(known.content) + struct.pack("<QB", known.sequence, known.outcome))


def remembered_id(shop: Shop, known: Remembered) -> int:
    refused_line = 255 if known.refused_line is None else known.refused_line
    head = b"D" + shop_key(shop.id) + bytes([known.kind]) + text(known.id) + hash16(known.content)
    return digest(head + struct.pack("<QBqB", known.sequence, known.outcome, known.time_ms, refused_line))


def purchase(item: Purchase) -> int:
    names = text(item.order.buyer_id) + text(item.order.id)
    return digest(b"P" + key_of_sku(item.sku) + names + struct.pack("<Iq", item.units, item.ends_at_ms))


def _objects_of_sku(sku: Sku, listed: bool) -> Iterator[int]:
    settings = struct.pack("<QBB", sku.revision, sku.settings.status, listed)
    yield digest(b"k" + key_of_sku(sku) + hash16(sku.content) + settings)
    for order, times in sku.passed.items():
        yield digest(b"Q" + key_of_sku(sku) + text(order.id) + struct.pack("<I", times))
    yield from map(purchase, sku.purchases.values())


def _objects_of_shop(shop: Shop, to_match: list[Sku]) -> Iterator[int]:
    settings = struct.pack("<QB", shop.revision, shop.settings.status)
    yield digest(b"s" + shop_key(shop.id) + hash16(shop.content) + settings)
    for region in shop.regions:
        yield digest(b"R" + shop_key(shop.id) + text(region))
    for location in shop.locations.values():
        settings = struct.pack("<QB", location.revision, location.settings.status)
        yield digest(b"l" + location_key(shop.id, location.id) + hash16(location.content) + settings)
    for sku in shop.skus.values():
        yield from _objects_of_sku(sku, sku in to_match)
        yield from (stock(row) for row in sku.rows.values() if not row.ghost)
    for known in shop.ids.values():
        yield remembered_id(shop, known)
    for order in shop.orders.values():
        yield order_whole(order)
        for known in (*order.payments.values(), *order.commands.values()):
            yield order_command(order, known)


def state_digest(model: Model) -> str:
    shard = struct.pack("<qQI", model.time_ms, model.sequence, model.level)
    shard += struct.pack("<qI", model.idempotency_window_ms, model.idempotency_entries_max)
    if model.level >= 2:
        shard += hash16(model.evicted) + struct.pack("<Q", model.evicted_orders)
    total = digest(b"G" + shard)
    for order, (sequence, time_ms) in model.closed.items():
        total += digest(b"E" + shop_key(order.shop.id) + text(order.id) + struct.pack("<Qq", sequence, time_ms))
    for shop in model.shops.values():
        total += sum(_objects_of_shop(shop, model.to_match))
    return f"{total % 2**128:032x}"


def business_digest(model: Model) -> str:
    total = model.evicted
    for shop in model.shops.values():
        total += sum(order_business(order) for order in shop.orders.values())
        # What becomes of a retired SKU's stock is no business any more, from level 2 on.
        skus = [sku for sku in shop.skus.values() if model.level < 2 or sku.settings.status != RETIRED]
        total += sum(stock(row) for sku in skus for row in sku.rows.values() if not row.ghost)
    return f"{total % 2**128:032x}"
