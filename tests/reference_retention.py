"""The part of the naive model that is about orders that leave memory, and come back."""

from __future__ import annotations

import struct

from engine._core import crc32c
from everopen.v1 import inventory_service_pb2 as inventory
from everopen.v1 import log_pb2
from tests.reference_digest import hash16, order_business, text
from tests.reference_shard import ABORTED, DATA_LOSS, NOT_FOUND, RESOURCE_EXHAUSTED, Fault, Shard
from tests.reference_state import RETIRED, Allocation, Location, Order, Row, Shop, Sku

EVICT_STEPS_MAX = 1024
LOCATIONS_PER_SHOP_MAX = 256
REGIONS_PER_SHOP_MAX = 1024
EXPIRED, PAID, SPLIT, HAS_PLACED_AT = 1, 2, 4, 8


def item_of(order: Order, closed_sequence: int, closed_at_ms: int) -> bytes:
    """What the archive keeps of a closed order."""
    flags = order.expired * EXPIRED | order.paid * PAID | order.allow_split * SPLIT
    flags |= HAS_PLACED_AT if order.placed_at_ms else 0
    parts = [
        bytes([1]),
        text(order.shop.id),
        order.shop.settings.currency.encode(),
        text(order.id),
        text(order.buyer_id),
        hash16(order.content),
        struct.pack("<Qqq", order.sequence, order.accepted_at_ms, order.placed_at_ms),
        text(order.region),
        bytes([flags, order.outcome, order.strategy, order.priority_class]),
        struct.pack("<Qqqq", closed_sequence, closed_at_ms, order.received, order.refunded),
        bytes([len(order.lines)]),
    ]
    for line in order.lines:
        counters = (line.shipped, line.cancelled, line.delivered, line.returned, line.written_off)
        parts.append(text(line.sku.id) + struct.pack("<Iq5I", line.quantity, line.amount, *counters))
    for allocations in (order.allocations_at_acceptance, order.later_allocations):
        parts.append(struct.pack("<H", len(allocations)))
        parts += [
            bytes([item.line_index]) + text(item.row.location.id) + struct.pack("<I", item.quantity)
            for item in allocations
        ]
    parts += [struct.pack("<II", item.shipped, item.released) for item in order.allocations]
    commands = sorted((*order.payments.values(), *order.commands.values()), key=lambda known: known.sequence)
    parts.append(struct.pack("<I", len(commands)))
    for known in commands:
        parts.append(bytes([known.kind, known.outcome]) + text(known.id) + hash16(known.content))
        parts.append(struct.pack("<Q", known.sequence))
    data = b"".join(parts)
    return data + struct.pack("<I", crc32c(data))


class Retention(Shard):
    def raise_level(self, now_ms: int) -> None:
        self.begin(now_ms)
        self.log()
        self.level = 2
        found = [order for shop in self.shops.values() for order in shop.orders.values() if order.closed]
        for order in sorted(found, key=lambda order: order.sequence):
            self.closed[order] = (order.sequence, self.now_ms)

    def evict_due(self, closed_sequence: int) -> bool:
        if not self.closed:
            return False
        sequence, time_ms = next(iter(self.closed.values()))
        return sequence <= closed_sequence and time_ms + self.idempotency_window_ms <= self.now_ms

    def evict(self, closed_sequence: int) -> None:
        if not self.evict_due(closed_sequence):
            raise Fault(ABORTED, "NOTHING_TO_EVICT")
        self.log()
        steps = 0
        while steps < EVICT_STEPS_MAX and self.evict_due(closed_sequence):
            order = next(iter(self.closed))
            steps += len(order.lines) + len(order.payments) + len(order.commands)
            steps += len(order.allocations_at_acceptance) + len(order.later_allocations)
            self.archive[item_of(order, *self.closed.pop(order))] = order
            self.evicted = (self.evicted + order_business(order)) % 2**128
            self.evicted_orders += 1
            del order.shop.orders[order.id]
            for sku in {line.sku for line in order.lines}:
                sku.order_count -= 1
            self.reclaim(order.shop)

    def restore(self, request: log_pb2.Restore) -> None:
        order = self.archive.get(request.item)
        if order is None or order.shop.id != request.shop_id:
            raise Fault(DATA_LOSS, "ARCHIVE_DAMAGED")
        shop = self.shops.get(request.shop_id)
        if shop is None:
            raise Fault(NOT_FOUND, "SHOP_NOT_FOUND")
        if shop.settings.currency != order.shop.settings.currency:
            raise Fault(NOT_FOUND, "ORDER_NOT_FOUND")
        if order.id in shop.orders:
            raise Fault(ABORTED, "ORDER_IN_MEMORY")
        named = [*order.allocations_at_acceptance, *order.later_allocations]
        if len(shop.locations.keys() | {item.row.location.id for item in named}) > LOCATIONS_PER_SHOP_MAX:
            raise Fault(RESOURCE_EXHAUSTED, "LOCATION_LIMIT")
        self.log()
        del self.archive[request.item]
        self.evicted = (self.evicted - order_business(order)) % 2**128
        self.evicted_orders -= 1
        self._bring_back(shop, order, named)
        self.closed[order] = (self.sequence, self.now_ms)
        self.changed_orders[order] = None

    def _bring_back(self, shop: Shop, order: Order, named: list[Allocation]) -> None:
        """Names what it named, which may be new by now, or has to be made anew."""
        order.shop = shop
        shop.orders[order.id] = order
        if order.region not in shop.regions and len(shop.regions) >= REGIONS_PER_SHOP_MAX:
            order.region = ""
        shop.regions |= {order.region} - {""}
        for line in order.lines:
            line.sku = self._sku_or_ghost(shop, line.sku.id)
        for sku in {line.sku for line in order.lines}:
            sku.order_count += 1
        for item in named:
            sku, location = order.lines[item.line_index].sku, self._location_or_ghost(shop, item.row.location.id)
            item.row = sku.rows.setdefault(location.id, Row(sku, location, sku.safety_stock, ghost=True))

    def _sku_or_ghost(self, shop: Shop, sku_id: str) -> Sku:
        settings = inventory.PutSkuRequest(shop_id=shop.id, sku_id=sku_id, status=RETIRED)
        return shop.skus.setdefault(sku_id, Sku(shop, sku_id, settings, ghost=True))

    def _location_or_ghost(self, shop: Shop, location_id: str) -> Location:
        settings = inventory.PutLocationRequest(shop_id=shop.id, location_id=location_id, status=RETIRED)
        return shop.locations.setdefault(location_id, Location(shop, location_id, settings))
