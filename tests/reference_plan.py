"""Where the naive model takes an order's units from, and what the head of a queue leaves to others."""

from __future__ import annotations

from dataclasses import dataclass, field

from everopen.v1 import order_pb2
from tests.reference_state import Allocation, Location, Order, Row, Sku

ALLOCATIONS_MAX = 256
BACKORDER_PASSES_MAX = 8

PRIORITY = order_pb2.ALLOCATION_STRATEGY_PRIORITY
NEAREST = order_pb2.ALLOCATION_STRATEGY_NEAREST
MOST_STOCK = order_pb2.ALLOCATION_STRATEGY_MOST_STOCK
FEWEST_SHIPMENTS = order_pb2.ALLOCATION_STRATEGY_FEWEST_SHIPMENTS

# What a plan may still take, by (SKU, location_id).
Left = dict[tuple[Sku, str], int]
Plan = list[Allocation]


def plan_for(order: Order) -> Plan | None:
    """Serves all open units from the stock as it stands, without regard to queues; None: it does not fit."""
    need = order.need()
    left = {(sku, row.location.id): row.sellable for sku in need for row in sku.rows.values() if row.sellable > 0}
    locations = {location_id: order.shop.locations[location_id] for _, location_id in left}
    if any(sum(left.get((sku, name), 0) for name in locations) < units for sku, units in need.items()):
        return None
    if not order.allow_split:
        plan = _plan_one_location(order, need, left, list(locations.values()))
    elif order.strategy == FEWEST_SHIPMENTS:
        plan = _plan_fewest_shipments(order, left, list(locations.values()))
    else:
        plan = _plan_by_line(order, left, list(locations.values()))
    return plan if plan and len(plan) <= ALLOCATIONS_MAX else None


def _tie(order: Order, location: Location) -> tuple[int, int, bytes]:
    cost = order.shop.cost(order.region, location.settings.region)
    return cost, location.settings.priority, location.id.encode()


def _by_priority(order: Order, location: Location) -> tuple[int, int, bytes]:
    cost, priority, name = _tie(order, location)
    return priority, cost, name


def _row(order: Order, line_index: int, location: Location) -> Row:
    return order.lines[line_index].sku.rows[location.id]


def _plan_by_line(order: Order, left: Left, locations: list[Location]) -> Plan:
    plan = []
    for index, line in enumerate(order.lines):
        remaining = line.open
        units = {location: left.get((line.sku, location.id), 0) for location in locations}
        for location in sorted(locations, key=lambda place: _rank(order, place, units[place])):
            taken = min(remaining, units[location])
            if taken:
                plan.append(Allocation(index, _row(order, index, location), taken))
                left[line.sku, location.id] -= taken
                remaining -= taken
    return plan


def _rank(order: Order, location: Location, units: int) -> tuple[int, tuple[int, int, bytes]]:
    if order.strategy == PRIORITY:
        return 0, _by_priority(order, location)
    if order.strategy == NEAREST:
        return 0, _tie(order, location)
    return -units, _tie(order, location)


def _plan_fewest_shipments(order: Order, left: Left, locations: list[Location]) -> Plan:
    plan: Plan = []
    remaining = [line.open for line in order.lines]
    while any(remaining):
        offers = {location: _offer(order, remaining, left, location) for location in locations}
        best = min(locations, key=lambda place: (-sum(offers[place]), _tie(order, place)))
        for index, units in enumerate(offers[best]):
            if units:
                plan.append(Allocation(index, _row(order, index, best), units))
                left[order.lines[index].sku, best.id] -= units
                remaining[index] -= units
    return plan


def _offer(order: Order, remaining: list[int], left: Left, location: Location) -> list[int]:
    """What the location could give to each line."""
    here = {line.sku: left.get((line.sku, location.id), 0) for line in order.lines}
    offer = []
    for line, units in zip(order.lines, remaining, strict=True):
        given = min(units, here[line.sku])
        here[line.sku] -= given
        offer.append(given)
    return offer


def _plan_one_location(order: Order, need: dict[Sku, int], left: Left, locations: list[Location]) -> Plan | None:
    able = [place for place in locations if all(left.get((sku, place.id), 0) >= need[sku] for sku in need)]
    if not able:
        return None
    best = min(able, key=lambda place: _rank(order, place, sum(left[sku, place.id] for sku in need)))
    return [
        Allocation(index, _row(order, index, best), line.open) for index, line in enumerate(order.lines) if line.open
    ]


@dataclass(slots=True)
class Attempt:
    """What comes of trying to serve an order."""

    plan: Plan | None
    # SKUs of which the order needs more than it may take; all of its SKUs, where only a plan is wanting.
    short: list[Sku] = field(default_factory=list)
    # SKUs whose head is passed when the plan is carried out.
    passing: list[Sku] = field(default_factory=list)
    # Lines of the heads that had to be looked at for it.
    head_lines: int = 0


def attempt(order: Order) -> Attempt:
    need = order.need()
    passing = []
    short = []
    head_lines = 0
    for sku, units in need.items():
        may_take, passes = _may_take(order, sku, units)
        head_lines += _lines_of_head(order, sku, units)
        if units > may_take:
            short.append(sku)
        elif passes:
            passing.append(sku)
    if short:
        return Attempt(None, short, head_lines=head_lines)
    plan = plan_for(order)
    return Attempt(plan, [], passing, head_lines) if plan else Attempt(None, list(need), head_lines=head_lines)


def _lines_of_head(order: Order, sku: Sku, units: int) -> int:
    """Whether a head fits matters only where there is enough for the order, but not beside the head."""
    if not sku.queue or sku.queue[0] is order:
        return 0
    head = sku.queue[0]
    beside = sku.sellable - head.need()[sku]
    return len(head.lines) if beside < units <= sku.sellable and sku.passed[head] < BACKORDER_PASSES_MAX else 0


def _may_take(order: Order, sku: Sku, units: int) -> tuple[int, bool]:
    """Units that the order may take of the SKU, and whether it passes the head of the queue by taking them."""
    sellable = sku.sellable
    if not sku.queue or sku.queue[0] is order:
        return sellable, False
    head = sku.queue[0]
    excess = max(0, sellable - head.need()[sku])
    if units <= excess:
        return excess, False
    if sku.passed[head] >= BACKORDER_PASSES_MAX or plan_for(head):
        return excess, False
    return sellable, True
