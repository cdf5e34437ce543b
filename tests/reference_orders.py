"""The part of the naive model that is about orders: acceptance, their life, money."""

from __future__ import annotations

from typing import Any

from google.protobuf.message import Message

from everopen.v1 import order_service_pb2 as orders
from everopen.v1 import outcome_pb2 as outcomes
from tests import reference_fields as fields
from tests.reference_fields import AMOUNT_MAX, RESPONSES, STOCK_MAX, content_of
from tests.reference_plan import attempt
from tests.reference_retention import Retention
from tests.reference_shard import INVALID_ARGUMENT, RESOURCE_EXHAUSTED, Fault
from tests.reference_state import ACTIVE, Allocation, Line, Location, Order, Remembered, Row, Shop, Sku

BACKORDER_ALLOW = 2
ORDER_COMMANDS_MAX = 1024
ORDER_PAYMENTS_KEPT = 256
WRITE_OFF = 2


class Orders(Retention):
    # Acceptance

    def place_order(self, shop: Shop, request: orders.PlaceOrderRequest) -> Message:
        known_order = shop.orders.get(request.order_id)
        if known_order:
            accepted = Remembered(
                fields.PLACE_ORDER, known_order.id, known_order.content, known_order.sequence, known_order.outcome
            )
            self.recall(accepted, fields.PLACE_ORDER, request)
            return self._answer_place(accepted, known_order, duplicate=True)
        refusal = self.recall(shop.ids.get((fields.PLACE_ORDER, request.order_id)), fields.PLACE_ORDER, request)
        if refusal:
            return self._answer_place(refusal, None, duplicate=True)
        order = self._order_of(shop, request)
        outcome, refused_line = self._refusal(order, request)
        if outcome:
            return self._refuse(shop, request, outcome, refused_line)
        trial = attempt(order)
        unserved = None if trial.plan else self._first_line_without_backorder(order, trial.short)
        if unserved is not None:
            return self._refuse(shop, request, outcomes.OUTCOME_INSUFFICIENT_STOCK, unserved)
        self.log()
        order.sequence, order.accepted_at_ms = self.sequence, self.now_ms
        shop.orders[order.id] = order
        for sku in order.need():
            sku.order_count += 1
        self.begin_purchases(order)
        if trial.plan:
            order.outcome = outcomes.OUTCOME_PLACED
            self.take(order, trial)
            order.allocations_at_acceptance = order.allocations
            self.begin_hold(order)
        else:
            order.outcome = outcomes.OUTCOME_BACKORDERED
            self.join_queues(order)
            for sku in order.need():
                if sku.queue[0] is order and len(sku.queue) > 1:
                    self.put_on_list(sku)
        self.changed_orders[order] = None
        accepted = Remembered(fields.PLACE_ORDER, order.id, order.content, order.sequence, order.outcome)
        return self._answer_place(accepted, order)

    def _order_of(self, shop: Shop, request: orders.PlaceOrderRequest) -> Order:
        skus = [self.sku_of(shop, line.sku_id) for line in request.lines]
        lines = []
        for sku, line in zip(skus, request.lines, strict=True):
            given = line.HasField("amount_minor")
            amount = line.amount_minor if given else line.quantity * sku.settings.price_minor
            lines.append(Line(sku, line.quantity, amount))
            if amount > AMOUNT_MAX:
                raise Fault(INVALID_ARGUMENT, "INVALID_FIELD", f"lines[{len(lines) - 1}].quantity")
        if sum(line.amount for line in lines) > AMOUNT_MAX:
            raise Fault(INVALID_ARGUMENT, "INVALID_FIELD", "lines")
        return Order(
            shop=shop,
            id=request.order_id,
            buyer_id=request.buyer_id,
            region=request.region if request.region in shop.regions else "",
            strategy=request.strategy or shop.settings.strategy,
            allow_split=request.allow_split if request.HasField("allow_split") else shop.settings.allow_split,
            priority_class=request.priority_class,
            placed_at_ms=request.placed_at_ms,
            content=content_of(request),
            lines=lines,
        )

    def _refusal(self, order: Order, request: orders.PlaceOrderRequest) -> tuple[int, int | None]:
        """The first refusal that applies before stock is looked at, and the first line that it is about."""
        if self.too_old(request.first_sent_at_ms):
            return outcomes.OUTCOME_RETRY_TOO_OLD, None
        if order.shop.settings.status != ACTIVE:
            return outcomes.OUTCOME_NOT_FOR_SALE, None
        for index, line in enumerate(order.lines):
            if line.sku.settings.status != ACTIVE:
                return outcomes.OUTCOME_NOT_FOR_SALE, index
        for index, asked in enumerate(request.lines):
            price = order.lines[index].sku.settings.price_minor
            if asked.HasField("expected_price_minor") and asked.expected_price_minor != price:
                return outcomes.OUTCOME_PRICE_CHANGED, index
        for index, line in enumerate(order.lines):
            limit = line.sku.settings.buyer_limit_per_order
            if (limit and order.need()[line.sku] > limit) or self._passes_window_limit(order, line.sku):
                return outcomes.OUTCOME_BUYER_LIMIT, index
        return 0, None

    def _passes_window_limit(self, order: Order, sku: Sku) -> bool:
        limit = sku.settings.buyer_limit_per_window
        return bool(limit) and sku.units_bought_by(order.buyer_id) + order.need()[sku] > limit

    def _first_line_without_backorder(self, order: Order, short: list[Sku]) -> int | None:
        for index, line in enumerate(order.lines):
            settings = line.sku.settings
            allowed = settings.backorder_policy == BACKORDER_ALLOW and (
                settings.backorder_limit == 0
                or order.need()[line.sku] + line.sku.backordered <= settings.backorder_limit
            )
            if line.sku in short and not allowed:
                return index
        return None

    def _refuse(self, shop: Shop, request: orders.PlaceOrderRequest, outcome: int, refused_line: int | None) -> Message:
        self.check_room_for_id()
        self.log()
        refusal = self.remember(shop, fields.PLACE_ORDER, request.order_id, request, outcome, refused_line)
        return self._answer_place(refusal, None)

    def _answer_place(self, known: Remembered, order: Order | None, duplicate: bool = False) -> Message:
        return orders.PlaceOrderResponse(
            outcome=known.outcome,
            order=order.view(as_at_acceptance=True) if order else None,
            sequence=known.sequence,
            duplicate=duplicate,
            log_id=self.log_id,
            refused_line_index=known.refused_line,
        )

    # The life of an order

    def order_command(self, kind: int, order: Order, request: Any) -> Message:
        name = request.payment_id if kind == fields.PAY_ORDER else request.command_id
        ids = order.payments if kind == fields.PAY_ORDER else order.commands
        known = self.recall(ids.get(name), kind, request)
        if known:
            return self._answer_command(kind, order, known, duplicate=True)
        self._check_names(order, request)
        if kind == fields.PAY_ORDER and order.received + request.amount_minor > AMOUNT_MAX:
            raise Fault(INVALID_ARGUMENT, "INVALID_FIELD", "amount_minor")
        kept_for_payments = 0 if kind == fields.PAY_ORDER else ORDER_PAYMENTS_KEPT
        if len(order.payments) + len(order.commands) + kept_for_payments >= ORDER_COMMANDS_MAX:
            raise Fault(RESOURCE_EXHAUSTED, "ORDER_COMMAND_LIMIT")
        handlers = {
            fields.PAY_ORDER: self._pay,
            fields.CANCEL_ORDER: self._cancel,
            fields.SHIP_ORDER: self._ship,
            fields.DELIVER_ORDER: self._deliver,
            fields.RETURN_ORDER: self._return,
            fields.SETTLE_REFUND: self._settle,
        }
        applied = handlers[kind](order, request)
        if not applied:
            self.log()
        outcome = outcomes.OUTCOME_APPLIED if applied else outcomes.OUTCOME_ILLEGAL_STATE
        ids[name] = Remembered(kind, name, content_of(request), self.sequence, outcome)
        if applied:
            self.changed_orders[order] = None
        self.review_closing(order)
        self.match_if_listed()
        return self._answer_command(kind, order, ids[name])

    def _answer_command(self, kind: int, order: Order, known: Remembered, duplicate: bool = False) -> Message:
        return RESPONSES[kind](
            outcome=known.outcome,
            order=order.view(),
            sequence=known.sequence,
            duplicate=duplicate,
            log_id=self.log_id,
        )

    def _check_names(self, order: Order, request: Any) -> None:
        lines = getattr(request, "lines", [])
        for name in (*(getattr(line, "location_id", "") for line in lines), getattr(request, "location_id", "")):
            if name:
                self.location_of(order.shop, name)
        for index, line in enumerate(lines):
            if line.line_index >= len(order.lines):
                raise Fault(INVALID_ARGUMENT, "INVALID_FIELD", f"lines[{index}].line_index")

    def _units(self, asked: Any, at_most: list[int]) -> list[int] | None:
        """Units by line that a command takes; None if there are none, or not as many."""
        units = [0] * len(at_most) if asked else at_most
        for line in asked:
            units[line.line_index] += line.quantity
        if not any(units) or any(unit > most for unit, most in zip(units, at_most, strict=True)):
            return None
        return units

    def _pay(self, order: Order, request: orders.PayOrderRequest) -> bool:
        self.log()
        order.received += request.amount_minor
        if order.expired:
            self._take_again(order)
        elif order.has_open and order.credit >= order.payable:
            self._become_paid(order)
        return True

    def _become_paid(self, order: Order) -> None:
        order.paid = True
        self.end_hold(order)

    def _take_again(self, order: Order) -> None:
        """A payment after expiry: the order lives again if its money and the stock suffice."""
        if order.credit < sum(line.payable for line in order.lines):
            return
        if any(self._passes_window_limit(order, sku) for sku in order.need()):
            return
        trial = attempt(order)
        if trial.plan:
            order.expired = False
            self.take(order, trial)
            self.begin_purchases(order)
            self._become_paid(order)

    def _cancel(self, order: Order, request: orders.CancelOrderRequest) -> bool:
        units = self._units(request.lines, [order.open(line) for line in order.lines])
        if units is None:
            return False
        self.log()
        need = order.need()
        for index, line in enumerate(order.lines):
            line.cancelled += units[index]
            self.shrink_purchase(order, line.sku, units[index])
            if units[index] and not order.waiting:
                self._release(order, index, units[index])
        if order.waiting:
            self._shrink_backorder(order, need)
        if not order.has_open:
            self.end_hold(order)
        elif order.received > 0 and order.credit >= order.payable:
            self._become_paid(order)
        return True

    def _release(self, order: Order, line_index: int, units: int) -> None:
        """Gives back a line's reserved units, those of its last allocation first."""
        for allocation in reversed(order.allocations):
            if allocation.line_index == line_index and units:
                released = min(units, allocation.reserved)
                if released:
                    allocation.released += released
                    allocation.row.reserved -= released
                    units -= released
                    self.changed_rows[allocation.row] = None
        self.put_on_list(order.lines[line_index].sku)

    def _shrink_backorder(self, order: Order, before: dict[Sku, int]) -> None:
        """It may now be served with what is left of it; where it was the head and left, others may."""
        after = order.need()
        order.waiting = bool(after)
        for sku in before:
            was_head = sku.queue[0] is order
            if sku not in after:
                self.leave_queue(order, sku)
            if sku in after or was_head:
                self.put_on_list(sku)

    def _ship(self, order: Order, request: orders.ShipOrderRequest) -> bool:
        units = self._parcel(order, request) if order.paid else None
        if units is None:
            return False
        self._check_counters([(item.row, {"shipped": units[item]}) for item in units])
        self.log()
        for item, shipped in units.items():
            item.shipped += shipped
            order.lines[item.line_index].shipped += shipped
            item.row.reserved -= shipped
            item.row.on_hand -= shipped
            item.row.shipped += shipped
            self.changed_rows[item.row] = None
        return True

    def _parcel(self, order: Order, request: orders.ShipOrderRequest) -> dict[Allocation, int] | None:
        """Units by allocation that a shipment takes; None if there are none, or not as many."""
        left = {item: item.reserved for item in order.allocations}
        for line in request.lines:
            units = line.quantity
            for item in order.allocations:
                if item.line_index == line.line_index and line.location_id in ("", item.row.location.id):
                    given = min(units, left[item])
                    left[item] -= given
                    units -= given
            if units:
                return None
        if not request.lines:
            left = dict.fromkeys(left, 0)
        return {item: item.reserved - left[item] for item in left if item.reserved > left[item]} or None

    def _deliver(self, order: Order, request: orders.DeliverOrderRequest) -> bool:
        units = self._units(request.lines, [line.shipped - line.delivered for line in order.lines])
        if units is None:
            return False
        self.log()
        for line, delivered in zip(order.lines, units, strict=True):
            line.delivered += delivered
        return True

    def _return(self, order: Order, request: orders.ReturnOrderRequest) -> bool:
        units = self._units(request.lines, [line.shipped - line.returned for line in order.lines])
        if units is None:
            return False
        write_off = request.disposition == WRITE_OFF
        arrivals = [
            (line, self._arrival(order, index, request.location_id), units[index])
            for index, line in enumerate(order.lines)
            if units[index]
        ]
        if not all(self.live(place) and (write_off or self.live(line.sku)) for line, place, _ in arrivals):
            return False
        growth = ("returned", "written_off" if write_off else "on_hand")
        self._check_counters(
            [
                (line.sku.rows[place.id], dict.fromkeys(growth, returned))
                for line, place, returned in arrivals
                if place.id in line.sku.rows
            ]
        )
        self.log()
        for line, place, returned in arrivals:
            row = self.row_for(line.sku, place)
            self.changed_rows[row] = None
            line.returned += returned
            row.returned += returned
            if write_off:
                line.written_off += returned
                row.written_off += returned
            else:
                row.on_hand += returned
                self.put_on_list(line.sku)
        return True

    def _arrival(self, order: Order, line_index: int, named: str) -> Location:
        if named:
            return order.shop.locations[named]
        return next(a.row.location for a in order.allocations if a.line_index == line_index and a.shipped)

    def _check_counters(self, growth: list[tuple[Row, dict[str, int]]]) -> None:
        total: dict[tuple[Row, str], int] = {}
        for row, counters in growth:
            for name, units in counters.items():
                total[row, name] = total.get((row, name), 0) + units
        if any(getattr(row, name) + units > STOCK_MAX for (row, name), units in total.items()):
            raise Fault(RESOURCE_EXHAUSTED, "STOCK_LIMIT")

    def _settle(self, order: Order, request: orders.SettleRefundRequest) -> bool:
        amount = request.amount_minor or order.refund_due
        if not 0 < amount <= order.refund_due:
            return False
        self.log()
        order.refunded += amount
        return True
