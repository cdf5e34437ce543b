"""What the tests of the wire stage hold it against: google.protobuf for the bytes, and the bounds that the comments in
proto/ state, written down a second time in plain Python."""

import re
from collections.abc import Callable, Iterator
from typing import Any

from google.protobuf.message import Message

from everopen.v1 import inventory_pb2, inventory_service_pb2, log_pb2, order_pb2, order_service_pb2
from tests.probes import wire_probe

KINDS: dict[str, int] = wire_probe.KINDS
LIMITS: dict[str, int] = wire_probe.LIMITS
CLASSES: dict[str, Any] = {
    name: next(
        getattr(module, message)
        for module in (order_service_pb2, inventory_service_pb2, log_pb2)
        for message in (f"{name}Request", name)
        if hasattr(module, message)
    )
    for name in KINDS
}
ORDER_COMMANDS = ("PayOrder", "CancelOrder", "ShipOrder", "DeliverOrder", "ReturnOrder", "SettleRefund")
NAMED = re.compile(r"[!-~]{1,64}")

Broken = Iterator[str]


def is_id(text: str) -> bool:
    return NAMED.fullmatch(text) is not None


def within(value: int, low: int, high: str) -> bool:
    return low <= value <= LIMITS[high]


def in_enum(value: int, enum: Any) -> bool:
    return value in enum.values()


def broken_place_order(order: Any) -> Broken:
    for name in ("order_id", "shop_id", "buyer_id"):
        if not is_id(getattr(order, name)):
            yield name
    if not within(len(order.lines), 1, "LINES_MAX"):
        yield "lines"
    for index, line in enumerate(order.lines):
        if not is_id(line.sku_id):
            yield f"lines[{index}].sku_id"
        if not within(line.quantity, 1, "QUANTITY_MAX"):
            yield f"lines[{index}].quantity"
        if not within(line.amount_minor, 0, "AMOUNT_MINOR_MAX"):
            yield f"lines[{index}].amount_minor"
        if not within(line.expected_price_minor, 0, "PRICE_MINOR_MAX"):
            yield f"lines[{index}].expected_price_minor"
    if sum(line.amount_minor for line in order.lines) > LIMITS["AMOUNT_MINOR_MAX"]:
        yield "lines"
    if order.region and not is_id(order.region):
        yield "region"
    if not in_enum(order.strategy, order_pb2.AllocationStrategy):
        yield "strategy"
    if order.priority_class > 9:
        yield "priority_class"
    if not within(order.placed_at_ms, 0, "TIME_MS_MAX"):
        yield "placed_at_ms"
    pairs = order.attributes.items()
    size = sum(len(key.encode()) + len(value.encode()) for key, value in pairs)
    if len(pairs) > LIMITS["ATTRIBUTES_MAX"] or size > LIMITS["ATTRIBUTES_BYTES_MAX"]:
        yield "attributes"
    if not within(order.first_sent_at_ms, 0, "TIME_MS_MAX"):
        yield "first_sent_at_ms"


def broken_order_command(command: Any) -> Broken:
    kind = type(command).__name__.removesuffix("Request")
    for name in ("shop_id", "order_id", "payment_id" if kind == "PayOrder" else "command_id"):
        if not is_id(getattr(command, name)):
            yield name
    if kind in ("PayOrder", "SettleRefund"):
        if not within(command.amount_minor, 0, "AMOUNT_MINOR_MAX"):
            yield "amount_minor"
        return
    if not within(len(command.lines), 0, "ALLOCATIONS_MAX" if kind == "ShipOrder" else "LINES_MAX"):
        yield "lines"
    for index, line in enumerate(command.lines):
        if line.line_index >= LIMITS["LINES_MAX"]:
            yield f"lines[{index}].line_index"
        if line.quantity == 0:
            yield f"lines[{index}].quantity"
        if kind == "ShipOrder" and line.location_id and not is_id(line.location_id):
            yield f"lines[{index}].location_id"
    if kind == "CancelOrder" and len(command.reason.encode()) > LIMITS["REASON_BYTES_MAX"]:
        yield "reason"
    if kind == "ReturnOrder":
        if not in_enum(command.disposition, order_service_pb2.ReturnDisposition):
            yield "disposition"
        if command.location_id and not is_id(command.location_id):
            yield "location_id"


def broken_put_shop(shop: Any) -> Broken:
    if not is_id(shop.shop_id):
        yield "shop_id"
    if shop.currency and not re.fullmatch("[A-Z]{3}", shop.currency):
        yield "currency"
    if not in_enum(shop.strategy, order_pb2.AllocationStrategy):
        yield "strategy"
    if len(shop.region_costs) > LIMITS["REGION_COSTS_MAX"]:
        yield "region_costs"
    for index, cost in enumerate(shop.region_costs):
        for name in ("from_region", "to_region"):
            if not is_id(getattr(cost, name)):
                yield f"region_costs[{index}].{name}"
    if not in_enum(shop.status, inventory_pb2.EntityStatus):
        yield "status"


def broken_put_location(location: Any) -> Broken:
    for name in ("shop_id", "location_id"):
        if not is_id(getattr(location, name)):
            yield name
    if not in_enum(location.kind, inventory_pb2.LocationKind):
        yield "kind"
    if location.region and not is_id(location.region):
        yield "region"
    if not in_enum(location.status, inventory_pb2.EntityStatus):
        yield "status"


def broken_put_sku(sku: Any) -> Broken:
    for name in ("shop_id", "sku_id"):
        if not is_id(getattr(sku, name)):
            yield name
    if not within(sku.price_minor, 0, "PRICE_MINOR_MAX"):
        yield "price_minor"
    if not in_enum(sku.status, inventory_pb2.EntityStatus):
        yield "status"
    if not within(sku.buyer_window_ms, 0, "BUYER_WINDOW_MS_MAX"):
        yield "buyer_window_ms"
    if not in_enum(sku.backorder_policy, inventory_pb2.BackorderPolicy):
        yield "backorder_policy"
    if len(sku.safety_stock_overrides) > LIMITS["SAFETY_OVERRIDES_MAX"]:
        yield "safety_stock_overrides"
    for index, row in enumerate(sku.safety_stock_overrides):
        if not is_id(row.location_id):
            yield f"safety_stock_overrides[{index}].location_id"
    if not within(sku.reserve_ttl_ms, 0, "RESERVE_TTL_MS_MAX"):
        yield "reserve_ttl_ms"


def delta_fits(kind: int, delta: int) -> bool:
    if not within(abs(delta), 0, "STOCK_MAX"):
        return False
    return {0: delta != 0, 1: delta > 0, 2: delta != 0, 3: delta >= 0}.get(kind, True)


def broken_adjust_stock(adjustment: Any) -> Broken:
    for name in ("adjustment_id", "shop_id", "sku_id", "location_id"):
        if not is_id(getattr(adjustment, name)):
            yield name
    if not delta_fits(adjustment.kind, adjustment.delta):
        yield "delta"
    if not in_enum(adjustment.kind, inventory_pb2.AdjustKind):
        yield "kind"
    if not within(adjustment.first_sent_at_ms, 0, "TIME_MS_MAX"):
        yield "first_sent_at_ms"


def broken_transfer_stock(transfer: Any) -> Broken:
    for name in ("transfer_id", "shop_id", "sku_id", "from_location_id", "to_location_id"):
        if not is_id(getattr(transfer, name)):
            yield name
    if transfer.from_location_id == transfer.to_location_id:
        yield "to_location_id"
    if not within(transfer.quantity, 1, "STOCK_MAX"):
        yield "quantity"
    if not within(transfer.first_sent_at_ms, 0, "TIME_MS_MAX"):
        yield "first_sent_at_ms"


def broken_activate(activate: Any) -> Broken:
    if not within(activate.level, 1, "LEVEL_MAX"):
        yield "level"
    if not within(activate.idempotency_window_ms, 1, "TIME_MS_MAX"):
        yield "idempotency_window_ms"
    if activate.idempotency_entries_max == 0:
        yield "idempotency_entries_max"


def broken_get(request: Any) -> Broken:
    for field in request.DESCRIPTOR.fields:
        if not is_id(getattr(request, field.name)):
            yield field.name


BROKEN: dict[str, Callable[[Any], Broken]] = {
    "PlaceOrder": broken_place_order,
    **dict.fromkeys(ORDER_COMMANDS, broken_order_command),
    "PutShop": broken_put_shop,
    "PutLocation": broken_put_location,
    "PutSku": broken_put_sku,
    "AdjustStock": broken_adjust_stock,
    "TransferStock": broken_transfer_stock,
    "Activate": broken_activate,
    "GetOrder": broken_get,
    "GetStock": broken_get,
}


def canonical_bytes(message: Message) -> bytes:
    known = type(message)()
    known.CopyFrom(message)
    known.DiscardUnknownFields()
    return known.SerializeToString(deterministic=True)


def first_broken(kind: str, message: Message) -> str | None:
    """The path that the fault must name: "" for the message as a whole, None when all is well."""
    for path in BROKEN[kind](message):
        return path
    bounded = not kind.startswith("Get")
    return "" if bounded and len(canonical_bytes(message)) > LIMITS["RECORD_COMMAND_BYTES_MAX"] else None


def given(message: Any, name: str) -> Any:
    return getattr(message, name) if message.HasField(name) else None


def expected_place_order(order: Any) -> dict[str, Any]:
    return {
        **{name: getattr(order, name) for name in ("order_id", "shop_id", "buyer_id", "region", "strategy")},
        **{name: getattr(order, name) for name in ("priority_class", "placed_at_ms", "first_sent_at_ms")},
        "allow_split": order.allow_split if order.HasField("allow_split") else -1,
        "lines": [
            (line.sku_id, line.quantity, given(line, "amount_minor"), given(line, "expected_price_minor"))
            for line in order.lines
        ],
    }


def expected_order_command(command: Any) -> dict[str, Any]:
    returns = isinstance(command, order_service_pb2.ReturnOrderRequest)
    return {
        "shop_id": command.shop_id,
        "order_id": command.order_id,
        "command_id": getattr(command, "payment_id", "") or command.command_id,
        "amount": getattr(command, "amount_minor", 0),
        "disposition": (command.disposition or 1) if returns else 0,
        "location_id": getattr(command, "location_id", ""),
        "lines": [
            (line.line_index, line.quantity, getattr(line, "location_id", "")) for line in getattr(command, "lines", [])
        ],
    }


def expected_put_shop(shop: Any) -> dict[str, Any]:
    return {
        "shop_id": shop.shop_id,
        "currency": shop.currency or "CNY",
        "strategy": shop.strategy or 1,
        "allow_split": shop.allow_split if shop.HasField("allow_split") else 1,
        "status": shop.status or 1,
        "if_revision": given(shop, "if_revision"),
        "costs": [(cost.from_region, cost.to_region, cost.cost) for cost in shop.region_costs],
    }


def expected_put_location(location: Any) -> dict[str, Any]:
    return {
        **{name: getattr(location, name) for name in ("shop_id", "location_id", "region", "priority")},
        "kind": location.kind or 1,
        "status": location.status or 1,
        "if_revision": given(location, "if_revision"),
    }


def expected_put_sku(sku: Any) -> dict[str, Any]:
    same = ("shop_id", "sku_id", "buyer_limit_per_order", "buyer_limit_per_window", "backorder_limit", "safety_stock")
    return {
        **{name: getattr(sku, name) for name in same},
        "price": sku.price_minor,
        "buyer_window_ms": sku.buyer_window_ms or LIMITS["BUYER_WINDOW_MS_DEFAULT"],
        "reserve_ttl_ms": sku.reserve_ttl_ms or LIMITS["RESERVE_TTL_MS_DEFAULT"],
        "status": sku.status or 1,
        "backorder_allowed": int(sku.backorder_policy == inventory_pb2.BACKORDER_POLICY_ALLOW),
        "if_revision": given(sku, "if_revision"),
        "overrides": [(row.location_id, row.quantity) for row in sku.safety_stock_overrides],
    }


def expected_adjust_stock(adjustment: Any) -> dict[str, Any]:
    return {
        **{name: getattr(adjustment, name) for name in ("shop_id", "sku_id", "location_id", "first_sent_at_ms")},
        "id": adjustment.adjustment_id,
        "to_location_id": "",
        "quantity": adjustment.delta,
        "kind": adjustment.kind or (1 if adjustment.delta > 0 else 2),
    }


def expected_transfer_stock(transfer: Any) -> dict[str, Any]:
    return {
        **{name: getattr(transfer, name) for name in ("shop_id", "sku_id", "to_location_id", "first_sent_at_ms")},
        "id": transfer.transfer_id,
        "location_id": transfer.from_location_id,
        "quantity": transfer.quantity,
        "kind": 0,
    }


def expected_activate(activate: Any) -> dict[str, Any]:
    return {
        "level": activate.level,
        "window_ms": activate.idempotency_window_ms,
        "entries_max": activate.idempotency_entries_max,
        "canonical": canonical_bytes(activate),
    }


def expected_get(request: Any) -> dict[str, Any]:
    return {"shop_id": request.shop_id, "id": getattr(request, "order_id", "") or request.sku_id}


EXPECTED: dict[str, Callable[[Any], dict[str, Any]]] = {
    "PlaceOrder": expected_place_order,
    **dict.fromkeys(ORDER_COMMANDS, expected_order_command),
    "PutShop": expected_put_shop,
    "PutLocation": expected_put_location,
    "PutSku": expected_put_sku,
    "AdjustStock": expected_adjust_stock,
    "TransferStock": expected_transfer_stock,
    "Activate": expected_activate,
    "GetOrder": expected_get,
    "GetStock": expected_get,
}
