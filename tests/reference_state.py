"""What the naive model remembers: shops, locations, SKUs, stock rows and orders, and how each looks from outside.

Nothing here decides anything; the rules stand in reference.py and reference_plan.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from everopen.v1 import inventory_pb2, inventory_service_pb2, order_pb2

ACTIVE, PAUSED, RETIRED = 1, 2, 3
REGION_COST_DEFAULT = 1_000_000


@dataclass(slots=True)
class Remembered:
    """A decided command that a retry is compared with."""

    kind: int
    id: str
    content: int
    sequence: int
    outcome: int
    time_ms: int = 0
    refused_line: int | None = None


@dataclass(slots=True, eq=False)
class Shop:
    id: str
    settings: inventory_service_pb2.PutShopRequest
    content: int = 0
    revision: int = 0
    costs: dict[tuple[str, str], int] = field(default_factory=dict)
    regions: set[str] = field(default_factory=set)
    locations: dict[str, Location] = field(default_factory=dict)
    skus: dict[str, Sku] = field(default_factory=dict)
    orders: dict[str, Order] = field(default_factory=dict)
    ids: dict[tuple[int, str], Remembered] = field(default_factory=dict)
    # SKUs with a queue, in the order in which their queues came to be non-empty.
    queued: list[Sku] = field(default_factory=list)

    def cost(self, buyer_region: str, location_region: str) -> int:
        near = 0 if buyer_region and buyer_region == location_region else REGION_COST_DEFAULT
        return self.costs.get((buyer_region, location_region), near)


@dataclass(slots=True, eq=False)
class Location:
    shop: Shop
    id: str
    settings: inventory_service_pb2.PutLocationRequest
    content: int = 0
    revision: int = 0


@dataclass(slots=True, eq=False)
class Sku:
    shop: Shop
    id: str
    settings: inventory_service_pb2.PutSkuRequest
    content: int = 0
    revision: int = 0
    rows: dict[str, Row] = field(default_factory=dict)
    # Orders that wait, by (highest class, sequence), and how often each was passed here.
    queue: list[Order] = field(default_factory=list)
    passed: dict[Order, int] = field(default_factory=dict)
    purchases: dict[Order, Purchase] = field(default_factory=dict)
    order_count: int = 0
    # Of rows that come to be. A PutSku that retires leaves it as it was.
    safety_stock: int = 0
    # Made by a Restore, for as long as an order names it.
    ghost: bool = False

    @property
    def sellable(self) -> int:
        return sum(row.sellable for row in self.rows.values())

    @property
    def backordered(self) -> int:
        return sum(order.need().get(self, 0) for order in self.queue)

    def units_bought_by(self, buyer_id: str) -> int:
        return sum(purchase.units for order, purchase in self.purchases.items() if order.buyer_id == buyer_id)


@dataclass(slots=True, eq=False)
class Row:
    """Stock of one SKU at one location."""

    sku: Sku
    location: Location
    safety_stock: int
    on_hand: int = 0
    reserved: int = 0
    received: int = 0
    adjusted: int = 0
    moved_in: int = 0
    moved_out: int = 0
    returned: int = 0
    shipped: int = 0
    written_off: int = 0
    # Made by a Restore, and not there for the digests until a command needs it.
    ghost: bool = False

    @property
    def available(self) -> int:
        return self.on_hand - self.reserved

    @property
    def sellable(self) -> int:
        if self.location.settings.status != ACTIVE:
            return 0
        return max(0, self.available - self.safety_stock)

    def view(self) -> inventory_pb2.StockLevel:
        return inventory_pb2.StockLevel(
            shop_id=self.sku.shop.id,
            sku_id=self.sku.id,
            location_id=self.location.id,
            on_hand=self.on_hand,
            reserved=self.reserved,
            available=self.available,
            sellable=self.sellable,
            safety_stock=self.safety_stock,
            received=self.received,
            adjusted=self.adjusted,
            moved_in=self.moved_in,
            moved_out=self.moved_out,
            returned=self.returned,
            shipped=self.shipped,
            written_off=self.written_off,
        )


@dataclass(slots=True, eq=False)
class Purchase:
    """Units of an order that count against a buyer's window limit."""

    sku: Sku
    order: Order
    units: int
    ends_at_ms: int
    window_ms: int
    begin: int


@dataclass(slots=True, eq=False)
class Line:
    sku: Sku
    quantity: int
    amount: int
    shipped: int = 0
    cancelled: int = 0
    delivered: int = 0
    returned: int = 0
    written_off: int = 0

    @property
    def open(self) -> int:
        return self.quantity - self.shipped - self.cancelled

    @property
    def payable(self) -> int:
        return self.amount - self.amount * (self.cancelled + self.returned) // self.quantity


@dataclass(slots=True, eq=False)
class Allocation:
    line_index: int
    row: Row
    quantity: int
    shipped: int = 0
    released: int = 0

    @property
    def reserved(self) -> int:
        return self.quantity - self.shipped - self.released


@dataclass(slots=True, eq=False)
class Order:
    shop: Shop
    id: str
    buyer_id: str
    region: str
    strategy: int
    allow_split: bool
    priority_class: int
    placed_at_ms: int
    content: int
    lines: list[Line]
    outcome: int = 0
    sequence: int = 0
    accepted_at_ms: int = 0
    received: int = 0
    refunded: int = 0
    waiting: bool = False
    expired: bool = False
    paid: bool = False
    # The hold: when it ends (0: never, or there is none), its length, and its place among holds that end together.
    expires_at_ms: int = 0
    hold_ttl_ms: int = 0
    hold_begin: int = 0
    allocations: list[Allocation] = field(default_factory=list)
    allocations_at_acceptance: list[Allocation] = field(default_factory=list)
    payments: dict[str, Remembered] = field(default_factory=dict)
    commands: dict[str, Remembered] = field(default_factory=dict)

    def need(self) -> dict[Sku, int]:
        """Open units by SKU, in the order of the lines."""
        units: dict[Sku, int] = {}
        for line in self.lines:
            open_units = line.quantity - line.shipped - line.cancelled
            if open_units:
                units[line.sku] = units.get(line.sku, 0) + open_units
        return units

    def open(self, line: Line) -> int:
        return 0 if self.expired else line.open

    def cancelled(self, line: Line) -> int:
        return line.cancelled + (line.open if self.expired else 0)

    @property
    def has_open(self) -> bool:
        return any(self.open(line) for line in self.lines)

    @property
    def credit(self) -> int:
        return self.received - self.refunded

    @property
    def payable(self) -> int:
        return 0 if self.expired else sum(line.payable for line in self.lines)

    @property
    def refund_due(self) -> int:
        return max(0, self.credit - self.payable)

    @property
    def state(self) -> int:
        """The first row of OrderState's table that applies."""
        shipped = sum(line.shipped for line in self.lines)
        returned = sum(line.returned for line in self.lines)
        delivered = sum(line.delivered for line in self.lines)
        rows = [
            (self.waiting, order_pb2.ORDER_STATE_BACKORDERED),
            (self.expired, order_pb2.ORDER_STATE_EXPIRED),
            (all(line.cancelled == line.quantity for line in self.lines), order_pb2.ORDER_STATE_CANCELLED),
            (shipped == 0, order_pb2.ORDER_STATE_PLACED),
            (self.has_open, order_pb2.ORDER_STATE_PARTIALLY_SHIPPED),
            (returned == shipped, order_pb2.ORDER_STATE_RETURNED),
            (returned > 0, order_pb2.ORDER_STATE_PARTIALLY_RETURNED),
            (delivered == shipped, order_pb2.ORDER_STATE_DELIVERED),
            (delivered > 0, order_pb2.ORDER_STATE_PARTIALLY_DELIVERED),
            (True, order_pb2.ORDER_STATE_SHIPPED),
        ]
        return next(state for applies, state in rows if applies)

    @property
    def payment_state(self) -> int:
        if self.refund_due:
            return order_pb2.PAYMENT_STATE_REFUND_DUE
        if self.paid and (self.payable or not self.refunded):
            return order_pb2.PAYMENT_STATE_PAID
        if self.refunded:
            return order_pb2.PAYMENT_STATE_REFUNDED
        return order_pb2.PAYMENT_STATE_UNPAID

    @property
    def later_allocations(self) -> list[Allocation]:
        """Those that took the place of the ones at acceptance."""
        return self.allocations if self.allocations is not self.allocations_at_acceptance else []

    @property
    def closed(self) -> bool:
        """Nothing is open, under way or to be paid back, and nothing of it counts against a buyer."""
        under_way = any(line.shipped > line.delivered + line.returned for line in self.lines)
        counts = any(self in line.sku.purchases for line in self.lines)
        return not (self.has_open or under_way or self.refund_due or counts)

    def released(self, allocation: Allocation) -> int:
        return allocation.released + (allocation.reserved if self.expired else 0)

    def view(self, as_at_acceptance: bool = False) -> order_pb2.Order:
        view = order_pb2.Order(
            order_id=self.id,
            shop_id=self.shop.id,
            buyer_id=self.buyer_id,
            state=self.state,
            payment_state=self.payment_state,
            amount_minor=sum(line.amount for line in self.lines),
            received_minor=self.received,
            refunded_minor=self.refunded,
            refund_due_minor=self.refund_due,
            accepted_at_ms=self.accepted_at_ms,
            expires_at_ms=self.expires_at_ms,
            placed_at_ms=self.placed_at_ms,
            currency=self.shop.settings.currency,
            sequence=self.sequence,
        )
        for line in self.lines:
            view.lines.add(
                sku_id=line.sku.id,
                quantity=line.quantity,
                amount_minor=line.amount,
                open=self.open(line),
                shipped=line.shipped,
                cancelled=self.cancelled(line),
                delivered=line.delivered,
                returned=line.returned,
                written_off=line.written_off,
            )
        for allocation in self.allocations_at_acceptance if as_at_acceptance else self.allocations:
            view.allocations.add(
                line_index=allocation.line_index,
                location_id=allocation.row.location.id,
                quantity=allocation.quantity,
                shipped=0 if as_at_acceptance else allocation.shipped,
                released=0 if as_at_acceptance else self.released(allocation),
            )
        return view
