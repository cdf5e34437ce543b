"""The naive model: docs/state_machine.md in plain Python, to be believed by reading it.

Takes request messages and a time, gives response messages or faults. It knows no cleverness: what can be worked out
from orders and rows is worked out each time. The core is held to it by test_differential.py and test_stateful.py.

Read reference_state.py first (what is remembered), then reference_plan.py (where units come from), reference_shard.py
(time, queues, matching), reference_orders.py, and this file (the catalogue, stock, and which command goes where).
"""

from __future__ import annotations

from typing import Any

from google.protobuf.message import Message

from everopen.v1 import inventory_service_pb2 as inventory
from everopen.v1 import order_service_pb2 as orders
from everopen.v1 import outcome_pb2 as outcomes
from everopen.v1.inventory_pb2 import StockLevel
from tests import reference_digest
from tests import reference_fields as fields
from tests.reference_fields import RESPONSES, STOCK_MAX, content_of, first_bad_field
from tests.reference_orders import Orders
from tests.reference_shard import (
    ABORTED,
    INVALID_ARGUMENT,
    NOT_FOUND,
    RESOURCE_EXHAUSTED,
    UNIMPLEMENTED,
    Answer,
    Fault,
)
from tests.reference_state import ACTIVE, RETIRED, Location, Remembered, Row, Shop, Sku

RESERVE_TTL_MS_DEFAULT = 900_000
LOCATIONS_PER_SHOP_MAX = 256
REGIONS_PER_SHOP_MAX = 1024
# Distinct reserve TTLs, and distinct buyer windows, that are in use at one time.
DURATIONS_MAX = 256


class Model(Orders):
    def __init__(
        self,
        log_id: bytes = bytes(16),
        idempotency_window_ms: int = 3_600_000,
        idempotency_entries_max: int = 10_000_000,
        level: int = 2,
    ) -> None:
        super().__init__(log_id, idempotency_window_ms, idempotency_entries_max, level)

    def execute(self, method: int, request: Message | None, now_ms: int) -> Answer:
        self.begin(now_ms)
        before = self.sequence
        try:
            response = self._carry_out(method, request)
        except Fault as fault:
            return Answer(fault.code, fault.reason, fault.field)
        for row in self.changed_rows:
            row.ghost = False
        return Answer(response=response, sequence=self.sequence if self.sequence > before else 0)

    def _carry_out(self, method: int, request: Any) -> Message | None:
        if method == fields.TICK:
            self.tick()
            return None
        if method in fields.INTERNAL and self.level < 2:
            raise Fault(UNIMPLEMENTED, "UNKNOWN_METHOD")
        field = first_bad_field(method, request)
        if field is not None:
            raise Fault(INVALID_ARGUMENT, "INVALID_FIELD", field)
        if method == fields.EVICT:
            self.evict(request.closed_sequence)
            return None
        if method == fields.RESTORE:
            self.restore(request)
            return None
        if method == fields.PUT_SHOP:
            return self._put_shop(request)
        shop = self.shops.get(request.shop_id)
        if shop is None:
            raise Fault(NOT_FOUND, "SHOP_NOT_FOUND")
        if method == fields.PLACE_ORDER:
            return self.place_order(shop, request)
        if method == fields.PUT_LOCATION:
            return self._put_location(shop, request)
        if method == fields.PUT_SKU:
            return self._put_sku(shop, request)
        if method == fields.ADJUST_STOCK:
            return self._adjust_stock(shop, request)
        if method == fields.TRANSFER_STOCK:
            return self._transfer_stock(shop, request)
        if method == fields.GET_STOCK:
            return self._get_stock(self.sku_of(shop, request.sku_id))
        order = shop.orders.get(request.order_id)
        if order is None:
            raise Fault(NOT_FOUND, "ORDER_NOT_FOUND")
        if method == fields.GET_ORDER:
            return orders.GetOrderResponse(order=order.view(), sequence=self.sequence, log_id=self.log_id)
        return self.order_command(method, order, request)

    # Catalogue

    def _put_shop(self, request: inventory.PutShopRequest) -> Message:
        shop = self.shops.get(request.shop_id)
        if shop is None and request.status == RETIRED:
            raise Fault(NOT_FOUND, "SHOP_NOT_FOUND")
        self._check_revision(shop, request)
        regions = {name for cost in request.region_costs for name in (cost.from_region, cost.to_region)}
        self._check_regions(shop, regions)
        self.log()
        if shop and (
            shop.settings.status == RETIRED
            or (request.status == RETIRED and any(self.live(entity) for entity in self._entities(shop)))
            or shop.settings.currency != (request.currency or "CNY")
        ):
            return self._answer_put(fields.PUT_SHOP, outcomes.OUTCOME_ILLEGAL_STATE, shop)
        if shop is None:
            shop = self.shops[request.shop_id] = Shop(request.shop_id, request)
        shop.regions |= regions
        shop.costs = {(cost.from_region, cost.to_region): cost.cost for cost in request.region_costs}
        self._accept_put(shop, request)
        shop.settings.currency = request.currency or "CNY"
        shop.settings.strategy = request.strategy or 1
        shop.settings.allow_split = request.allow_split if request.HasField("allow_split") else True
        self.reclaim(shop)
        return self._answer_put(fields.PUT_SHOP, outcomes.OUTCOME_APPLIED, shop)

    def _put_location(self, shop: Shop, request: inventory.PutLocationRequest) -> Message:
        location = shop.locations.get(request.location_id)
        if location is None and request.status == RETIRED:
            raise Fault(NOT_FOUND, "LOCATION_NOT_FOUND")
        self._check_revision(location, request)
        if location is None and len(shop.locations) >= LOCATIONS_PER_SHOP_MAX:
            raise Fault(RESOURCE_EXHAUSTED, "LOCATION_LIMIT")
        regions = {request.region} - {""}
        self._check_regions(shop, regions)
        self.log()
        stocked = any(row.on_hand for row in self.rows_at(location))
        if shop.settings.status == RETIRED or (
            location and (location.settings.status == RETIRED or (request.status == RETIRED and stocked))
        ):
            return self._answer_put(fields.PUT_LOCATION, outcomes.OUTCOME_ILLEGAL_STATE, location)
        if location is None:
            location = shop.locations[request.location_id] = Location(shop, request.location_id, request)
        shop.regions |= regions
        opens = location.revision > 0 and location.settings.status != ACTIVE
        self._accept_put(location, request)
        if opens and location.settings.status == ACTIVE:
            for sku in shop.queued:
                self.put_on_list(sku)
        self.match_if_listed()
        self.reclaim(shop)
        return self._answer_put(fields.PUT_LOCATION, outcomes.OUTCOME_APPLIED, location)

    def _put_sku(self, shop: Shop, request: inventory.PutSkuRequest) -> Message:
        sku = shop.skus.get(request.sku_id)
        if sku is None and request.status == RETIRED:
            raise Fault(NOT_FOUND, "SKU_NOT_FOUND")
        safety_stock = {item.location_id: item.quantity for item in request.safety_stock_overrides}
        for location_id in safety_stock:
            self.location_of(shop, location_id)
        self._check_revision(sku, request)
        self._check_durations(request)
        self.log()
        in_use = sku and (any(row.on_hand for row in sku.rows.values()) or sku.queue)
        if shop.settings.status == RETIRED or (
            sku and (sku.settings.status == RETIRED or (request.status == RETIRED and in_use))
        ):
            return self._answer_put(fields.PUT_SKU, outcomes.OUTCOME_ILLEGAL_STATE, sku)
        if sku is None:
            sku = shop.skus[request.sku_id] = Sku(shop, request.sku_id, request)
        self._accept_put(sku, request)
        sku.settings.buyer_window_ms = request.buyer_window_ms or fields.DAY_MS
        sku.settings.reserve_ttl_ms = request.reserve_ttl_ms or RESERVE_TTL_MS_DEFAULT
        if request.status != RETIRED:
            self._set_safety_stock(sku, safety_stock)
        self.match_if_listed()
        self.reclaim(shop)
        return self._answer_put(fields.PUT_SKU, outcomes.OUTCOME_APPLIED, sku)

    def _set_safety_stock(self, sku: Sku, overrides: dict[str, int]) -> None:
        before = {row: row.safety_stock for row in sku.rows.values()}
        sku.safety_stock = sku.settings.safety_stock
        for location_id in overrides:
            self.row_for(sku, sku.shop.locations[location_id])
        for row in sku.rows.values():
            row.safety_stock = overrides.get(row.location.id, sku.settings.safety_stock)
            if row.location.id in overrides or row.safety_stock != before[row]:
                self.changed_rows[row] = None
        if any(row.safety_stock < before[row] for row in before):
            self.put_on_list(sku)

    def _check_revision(self, entity: Shop | Location | Sku | None, request: Any) -> None:
        if request.HasField("if_revision") and request.if_revision != (entity.revision if entity else 0):
            raise Fault(ABORTED, "REVISION_CONFLICT")

    def _check_regions(self, shop: Shop | None, regions: set[str]) -> None:
        if len(regions | (shop.regions if shop else set())) > REGIONS_PER_SHOP_MAX:
            raise Fault(RESOURCE_EXHAUSTED, "REGION_LIMIT")

    def _check_durations(self, request: inventory.PutSkuRequest) -> None:
        skus = [sku for shop in self.shops.values() for sku in shop.skus.values() if not sku.ghost]
        ttls = {sku.settings.reserve_ttl_ms for sku in skus} | {order.hold_ttl_ms for order in self.held}
        windows = {sku.settings.buyer_window_ms for sku in skus} | {item.window_ms for item in self.purchases}
        ttls.add(request.reserve_ttl_ms or RESERVE_TTL_MS_DEFAULT)
        windows.add(request.buyer_window_ms or fields.DAY_MS)
        if max(len(ttls), len(windows)) > DURATIONS_MAX:
            raise Fault(RESOURCE_EXHAUSTED, "SKU_LIMIT")

    def _accept_put(self, entity: Shop | Location | Sku, request: Any) -> None:
        entity.settings = type(request).FromString(request.SerializeToString())
        entity.settings.status = request.status or ACTIVE
        entity.content = content_of(request)
        entity.revision += 1

    def _answer_put(self, method: int, outcome: int, entity: Shop | Location | Sku | None) -> Message:
        revision = entity.revision if entity else 0
        return RESPONSES[method](outcome=outcome, revision=revision, sequence=self.sequence, log_id=self.log_id)

    def _entities(self, shop: Shop) -> list[Location | Sku]:
        return [*shop.locations.values(), *shop.skus.values()]

    # Stock

    def _adjust_stock(self, shop: Shop, request: inventory.AdjustStockRequest) -> Message:
        known = self.recall(shop.ids.get((fields.ADJUST_STOCK, request.adjustment_id)), fields.ADJUST_STOCK, request)
        if known:
            return self._answer_adjust(shop, request, known, duplicate=True)
        sku, location = self.sku_of(shop, request.sku_id), self.location_of(shop, request.location_id)
        self.check_room_for_id()
        kind = request.kind or (fields.RESTOCK if request.delta > 0 else fields.ADJUST)
        row = sku.rows.get(location.id) or Row(sku, location, 0)
        delta = request.delta - row.on_hand if kind == fields.COUNT else request.delta
        counter = row.received if kind == fields.RESTOCK else row.adjusted
        if row.on_hand + delta > STOCK_MAX or abs(counter + delta) > STOCK_MAX:
            raise Fault(RESOURCE_EXHAUSTED, "STOCK_LIMIT")
        outcome = outcomes.OUTCOME_APPLIED
        if self.too_old(request.first_sent_at_ms):
            outcome = outcomes.OUTCOME_RETRY_TOO_OLD
        elif not (self.live(sku) and self.live(location)):
            outcome = outcomes.OUTCOME_ILLEGAL_STATE
        elif row.on_hand + delta < row.reserved:
            outcome = outcomes.OUTCOME_INSUFFICIENT_STOCK
        self.log()
        known = self.remember(shop, fields.ADJUST_STOCK, request.adjustment_id, request, outcome)
        if outcome == outcomes.OUTCOME_APPLIED:
            row = self.row_for(sku, location)
            row.on_hand += delta
            if kind == fields.RESTOCK:
                row.received += delta
            else:
                row.adjusted += delta
            self.changed_rows[row] = None
            if delta > 0:
                self.put_on_list(sku)
            self.match_if_listed()
        return self._answer_adjust(shop, request, known)

    def _answer_adjust(
        self, shop: Shop, request: inventory.AdjustStockRequest, known: Remembered, duplicate: bool = False
    ) -> Message:
        return inventory.AdjustStockResponse(
            outcome=known.outcome,
            stock=self._view_row(shop, request.sku_id, request.location_id),
            sequence=known.sequence,
            duplicate=duplicate,
            log_id=self.log_id,
        )

    def _view_row(self, shop: Shop, sku_id: str, location_id: str) -> Any:
        sku = shop.skus.get(sku_id)
        row = sku.rows.get(location_id) if sku else None
        # A row that is not there has nothing.
        return row.view() if row else StockLevel(shop_id=shop.id, sku_id=sku_id, location_id=location_id)

    def _transfer_stock(self, shop: Shop, request: inventory.TransferStockRequest) -> Message:
        known = self.recall(shop.ids.get((fields.TRANSFER_STOCK, request.transfer_id)), fields.TRANSFER_STOCK, request)
        if known:
            return self._answer_transfer(shop, request, known, duplicate=True)
        sku = self.sku_of(shop, request.sku_id)
        source, target = (
            self.location_of(shop, request.from_location_id),
            self.location_of(shop, request.to_location_id),
        )
        self.check_room_for_id()
        from_row = sku.rows.get(source.id) or Row(sku, source, 0)
        to_row = sku.rows.get(target.id) or Row(sku, target, 0)
        units = request.quantity
        if max(from_row.moved_out, to_row.moved_in, to_row.on_hand) + units > STOCK_MAX:
            raise Fault(RESOURCE_EXHAUSTED, "STOCK_LIMIT")
        outcome = outcomes.OUTCOME_APPLIED
        if self.too_old(request.first_sent_at_ms):
            outcome = outcomes.OUTCOME_RETRY_TOO_OLD
        elif not (self.live(sku) and self.live(source) and self.live(target)):
            outcome = outcomes.OUTCOME_ILLEGAL_STATE
        elif units > from_row.available:
            outcome = outcomes.OUTCOME_INSUFFICIENT_STOCK
        self.log()
        known = self.remember(shop, fields.TRANSFER_STOCK, request.transfer_id, request, outcome)
        if outcome == outcomes.OUTCOME_APPLIED:
            to_row = self.row_for(sku, target)
            from_row.on_hand -= units
            from_row.moved_out += units
            to_row.on_hand += units
            to_row.moved_in += units
            self.changed_rows.update({from_row: None, to_row: None})
            self.put_on_list(sku)
            self.match_if_listed()
        return self._answer_transfer(shop, request, known)

    def _answer_transfer(
        self, shop: Shop, request: inventory.TransferStockRequest, known: Remembered, duplicate: bool = False
    ) -> Message:
        return inventory.TransferStockResponse(
            outcome=known.outcome,
            from_stock=self._view_row(shop, request.sku_id, request.from_location_id),
            to_stock=self._view_row(shop, request.sku_id, request.to_location_id),
            sequence=known.sequence,
            duplicate=duplicate,
            log_id=self.log_id,
        )

    def _get_stock(self, sku: Sku) -> Message:
        rows = [sku.rows[name].view() for name in sorted(sku.rows, key=str.encode)]
        return inventory.GetStockResponse(
            on_hand=sum(row.on_hand for row in rows),
            reserved=sum(row.reserved for row in rows),
            available=sum(row.available for row in rows),
            sellable=sum(row.sellable for row in rows),
            backordered=sku.backordered,
            locations=rows,
            sequence=self.sequence,
            log_id=self.log_id,
        )

    def state_digest(self) -> str:
        return reference_digest.state_digest(self)

    def business_digest(self) -> str:
        return reference_digest.business_digest(self)
