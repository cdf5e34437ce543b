"""A short way to say commands in tests: core and model get them both and must agree on each answer.

Lines are texts: "tea*2 cup*1" of SKUs and units where an order is placed, "0*2 1*1" of line indexes and units
afterwards, "0*2@north" where a location is named.
"""

from __future__ import annotations

from typing import Any

from google.protobuf.message import Message

from everopen.v1 import inventory_pb2, order_pb2
from everopen.v1 import outcome_pb2 as outcomes
from tests import reference_fields as fields
from tests.machines import Pair, Result
from tests.reference_fields import REQUESTS

START_MS = 1_700_000_000_000
SHOP = "shop"


class Desk(Pair):
    def __init__(
        self, idempotency_window_ms: int = 3_600_000, idempotency_entries_max: int = 10_000, level: int = 2
    ) -> None:
        super().__init__(idempotency_window_ms, idempotency_entries_max, level)
        self.now_ms = START_MS
        self.ids = 0

    def say(self, method: int, **values: Any) -> Result:
        return self.send(method, REQUESTS[method](**{"shop_id": SHOP, **values}))

    def send(self, method: int, request: Message | bytes) -> Result:
        return self.execute(method, request, self.now_ms)

    def done(self, method: int, **values: Any) -> Any:
        """The response of a command that must not be a fault."""
        result = self.say(method, **values)
        assert result.code == 0, result
        return result.response

    def next_id(self) -> str:
        self.ids += 1
        return f"id{self.ids}"

    def pass_time(self, milliseconds: int) -> None:
        self.now_ms += milliseconds
        self.tick(self.now_ms)

    # Catalogue and stock

    def put_shop(self, **values: Any) -> Any:
        return self.done(fields.PUT_SHOP, **values)

    def put_location(self, location_id: str, **values: Any) -> Any:
        return self.done(fields.PUT_LOCATION, location_id=location_id, **values)

    def put_sku(self, sku_id: str, **values: Any) -> Any:
        return self.done(fields.PUT_SKU, sku_id=sku_id, **{"price_minor": 100, **values})

    def open(self, stock: str, **sku_values: Any) -> None:
        """A shop with stock: "tea@north=5 cup@south=2"."""
        self.put_shop()
        for entry in stock.split():
            place, units = entry.split("=")
            sku_id, location_id = place.split("@")
            shop = self.model.shops[SHOP]
            if location_id not in shop.locations:
                self.put_location(location_id)
            if sku_id not in shop.skus:
                self.put_sku(sku_id, **sku_values)
            if int(units):
                self.adjust(sku_id, location_id, int(units))

    def adjust(self, sku_id: str, location_id: str, delta: int, **values: Any) -> Any:
        values = {"adjustment_id": self.next_id(), **values}
        return self.done(fields.ADJUST_STOCK, sku_id=sku_id, location_id=location_id, delta=delta, **values)

    def transfer(self, sku_id: str, source: str, target: str, units: int) -> Any:
        places = {"from_location_id": source, "to_location_id": target}
        return self.done(fields.TRANSFER_STOCK, transfer_id=self.next_id(), sku_id=sku_id, quantity=units, **places)

    def stock(self, sku_id: str) -> Any:
        return self.done(fields.GET_STOCK, sku_id=sku_id)

    def level(self, sku_id: str, location_id: str) -> inventory_pb2.StockLevel:
        return next(row for row in self.stock(sku_id).locations if row.location_id == location_id)

    # Orders

    def place(self, order_id: str, lines: str, **values: Any) -> Any:
        return self.done(fields.PLACE_ORDER, **self.order_fields(order_id, lines, **values))

    def order_fields(self, order_id: str, lines: str, **values: Any) -> dict[str, Any]:
        wanted = [entry.split("*") for entry in lines.split()]
        return {
            "order_id": order_id,
            "buyer_id": "buyer",
            "lines": [{"sku_id": sku_id, "quantity": int(units)} for sku_id, units in wanted],
            **values,
        }

    def pay(self, order_id: str, amount: int, **values: Any) -> Any:
        values = {"payment_id": self.next_id(), **values}
        return self.done(fields.PAY_ORDER, order_id=order_id, amount_minor=amount, **values)

    def command(self, method: int, order_id: str, lines: str = "", **values: Any) -> Any:
        if lines:
            values["lines"] = [self._line(entry) for entry in lines.split()]
        return self.done(method, order_id=order_id, **{"command_id": self.next_id(), **values})

    def _line(self, entry: str) -> dict[str, Any]:
        what, _, location_id = entry.partition("@")
        index, units = what.split("*")
        line: dict[str, Any] = {"line_index": int(index), "quantity": int(units)}
        return {**line, "location_id": location_id} if location_id else line

    def cancel(self, order_id: str, lines: str = "", **values: Any) -> Any:
        return self.command(fields.CANCEL_ORDER, order_id, lines, **values)

    def ship(self, order_id: str, lines: str = "", **values: Any) -> Any:
        return self.command(fields.SHIP_ORDER, order_id, lines, **values)

    def deliver(self, order_id: str, lines: str = "", **values: Any) -> Any:
        return self.command(fields.DELIVER_ORDER, order_id, lines, **values)

    def take_back(self, order_id: str, lines: str = "", **values: Any) -> Any:
        return self.command(fields.RETURN_ORDER, order_id, lines, **values)

    def settle(self, order_id: str, amount: int = 0, **values: Any) -> Any:
        return self.command(fields.SETTLE_REFUND, order_id, amount_minor=amount, **values)

    def order(self, order_id: str) -> order_pb2.Order:
        order: order_pb2.Order = self.done(fields.GET_ORDER, order_id=order_id).order
        return order

    def state(self, order_id: str) -> str:
        return order_pb2.OrderState.Name(self.order(order_id).state).removeprefix("ORDER_STATE_")

    def payment_state(self, order_id: str) -> str:
        return order_pb2.PaymentState.Name(self.order(order_id).payment_state).removeprefix("PAYMENT_STATE_")


def outcome_of(response: Any) -> str:
    return outcomes.Outcome.Name(response.outcome).removeprefix("OUTCOME_")


def told(result: Result) -> str:
    """A fault's reason and field, or an outcome, in one word or two."""
    if result.code:
        return f"{result.reason} {result.field}".strip()
    return outcome_of(result.response)


def allocations_of(order: order_pb2.Order) -> str:
    """As "0:2@north 1:1@south"; what was released or shipped is left out."""
    held = [(item, item.quantity - item.released - item.shipped) for item in order.allocations]
    return " ".join(f"{item.line_index}:{units}@{item.location_id}" for item, units in held if units)


def table_rows(table: str) -> list[dict[str, str]]:
    """Rows of an aligned text table with | between its columns and its heads in the first line."""
    lines = [[cell.strip() for cell in line.split("|")] for line in table.strip().splitlines()]
    return [dict(zip(lines[0], row, strict=True)) for row in lines[1:]]
