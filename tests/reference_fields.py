"""The bounds that need no state, field by field as proto/everopen/v1 states them, and the content of a request."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from google.protobuf.message import Message

from everopen.v1 import inventory_service_pb2 as inventory
from everopen.v1 import log_pb2
from everopen.v1 import order_service_pb2 as orders
from tests.reference_digest import digest

(PLACE_ORDER, PAY_ORDER, CANCEL_ORDER, SHIP_ORDER, DELIVER_ORDER, RETURN_ORDER, SETTLE_REFUND) = range(1, 8)
(PUT_SHOP, PUT_LOCATION, PUT_SKU, ADJUST_STOCK, TRANSFER_STOCK, TICK, ACTIVATE, EVICT, RESTORE) = range(8, 17)
GET_ORDER, GET_STOCK = 32, 33

REQUESTS: dict[int, type[Message]] = {
    PLACE_ORDER: orders.PlaceOrderRequest,
    PAY_ORDER: orders.PayOrderRequest,
    CANCEL_ORDER: orders.CancelOrderRequest,
    SHIP_ORDER: orders.ShipOrderRequest,
    DELIVER_ORDER: orders.DeliverOrderRequest,
    RETURN_ORDER: orders.ReturnOrderRequest,
    SETTLE_REFUND: orders.SettleRefundRequest,
    PUT_SHOP: inventory.PutShopRequest,
    PUT_LOCATION: inventory.PutLocationRequest,
    PUT_SKU: inventory.PutSkuRequest,
    ADJUST_STOCK: inventory.AdjustStockRequest,
    TRANSFER_STOCK: inventory.TransferStockRequest,
    GET_ORDER: orders.GetOrderRequest,
    GET_STOCK: inventory.GetStockRequest,
}
# What no caller sends. They are answered with nothing.
INTERNAL: dict[int, type[Message]] = {EVICT: log_pb2.Evict, RESTORE: log_pb2.Restore}
RESPONSES: dict[int, type[Message]] = {
    method: getattr(orders if hasattr(orders, name) else inventory, name)
    for method, name in ((m, r.DESCRIPTOR.name.replace("Request", "Response")) for m, r in REQUESTS.items())
}

RESTOCK, ADJUST, COUNT = 1, 2, 3
QUANTITY_MAX = 100_000_000
STOCK_MAX = 1_000_000_000_000
PRICE_MAX = 1_000_000_000_000
AMOUNT_MAX = 1_000_000_000_000_000
TIME_MAX = 253_402_300_799_999
DAY_MS = 86_400_000
CONTENT_BYTES_MAX = 64 * 1024
ITEM_BYTES_MAX = 192 * 1024

Checks = Iterator[tuple[bool, str]]
_ID = re.compile(r"[!-~]{1,64}")


def _id(value: str) -> bool:
    return _ID.fullmatch(value) is not None


def _id_or_none(value: str) -> bool:
    return not value or _id(value)


def _place_order(request: orders.PlaceOrderRequest) -> Checks:
    yield _id(request.order_id), "order_id"
    yield _id(request.shop_id), "shop_id"
    yield _id(request.buyer_id), "buyer_id"
    yield 1 <= len(request.lines) <= 64, "lines"
    for index, line in enumerate(request.lines):
        yield _id(line.sku_id), f"lines[{index}].sku_id"
        yield 1 <= line.quantity <= QUANTITY_MAX, f"lines[{index}].quantity"
        yield 0 <= line.amount_minor <= AMOUNT_MAX, f"lines[{index}].amount_minor"
        yield 0 <= line.expected_price_minor <= PRICE_MAX, f"lines[{index}].expected_price_minor"
    yield sum(line.amount_minor for line in request.lines) <= AMOUNT_MAX, "lines"
    yield _id_or_none(request.region), "region"
    yield 0 <= request.strategy <= 4, "strategy"
    yield request.priority_class <= 9, "priority_class"
    yield 0 <= request.placed_at_ms <= TIME_MAX, "placed_at_ms"
    attributes = request.attributes
    size = sum(len(key.encode()) + len(value.encode()) for key, value in attributes.items())
    yield len(attributes) <= 16 and size <= 256, "attributes"
    yield 0 <= request.first_sent_at_ms <= TIME_MAX, "first_sent_at_ms"


def _pay(request: orders.PayOrderRequest) -> Checks:
    yield _id(request.shop_id), "shop_id"
    yield _id(request.order_id), "order_id"
    yield _id(request.payment_id), "payment_id"
    yield 0 <= request.amount_minor <= AMOUNT_MAX, "amount_minor"


def _order_command(request: Any) -> Checks:
    yield _id(request.shop_id), "shop_id"
    yield _id(request.order_id), "order_id"
    yield _id(request.command_id), "command_id"


def _settle(request: orders.SettleRefundRequest) -> Checks:
    yield from _order_command(request)
    yield 0 <= request.amount_minor <= AMOUNT_MAX, "amount_minor"


def _lines(request: Any, lines_max: int) -> Checks:
    yield from _order_command(request)
    yield len(request.lines) <= lines_max, "lines"
    for index, line in enumerate(request.lines):
        yield line.line_index < 64, f"lines[{index}].line_index"
        yield line.quantity >= 1, f"lines[{index}].quantity"
        if isinstance(line, orders.ShipLine):
            yield _id_or_none(line.location_id), f"lines[{index}].location_id"


def _cancel(request: orders.CancelOrderRequest) -> Checks:
    yield from _lines(request, 64)
    yield len(request.reason.encode()) <= 128, "reason"


def _return(request: orders.ReturnOrderRequest) -> Checks:
    yield from _lines(request, 64)
    yield 0 <= request.disposition <= 2, "disposition"
    yield _id_or_none(request.location_id), "location_id"


def _put_shop(request: inventory.PutShopRequest) -> Checks:
    yield _id(request.shop_id), "shop_id"
    yield not request.currency or re.fullmatch("[A-Z]{3}", request.currency) is not None, "currency"
    yield 0 <= request.strategy <= 4, "strategy"
    yield len(request.region_costs) <= 1024, "region_costs"
    for index, cost in enumerate(request.region_costs):
        yield _id(cost.from_region), f"region_costs[{index}].from_region"
        yield _id(cost.to_region), f"region_costs[{index}].to_region"
    yield 0 <= request.status <= 3, "status"


def _put_location(request: inventory.PutLocationRequest) -> Checks:
    yield _id(request.shop_id), "shop_id"
    yield _id(request.location_id), "location_id"
    yield 0 <= request.kind <= 2, "kind"
    yield _id_or_none(request.region), "region"
    yield 0 <= request.status <= 3, "status"


def _put_sku(request: inventory.PutSkuRequest) -> Checks:
    yield _id(request.shop_id), "shop_id"
    yield _id(request.sku_id), "sku_id"
    yield 0 <= request.price_minor <= PRICE_MAX, "price_minor"
    yield 0 <= request.status <= 3, "status"
    yield 0 <= request.buyer_window_ms <= 90 * DAY_MS, "buyer_window_ms"
    yield 0 <= request.backorder_policy <= 2, "backorder_policy"
    yield len(request.safety_stock_overrides) <= 256, "safety_stock_overrides"
    for index, override in enumerate(request.safety_stock_overrides):
        yield _id(override.location_id), f"safety_stock_overrides[{index}].location_id"
    yield 0 <= request.reserve_ttl_ms <= 30 * DAY_MS, "reserve_ttl_ms"


def _adjust(request: inventory.AdjustStockRequest) -> Checks:
    delta, kind = request.delta, request.kind
    wrong = (delta == 0 and kind in (0, ADJUST)) or (delta <= 0 and kind == RESTOCK) or (delta < 0 and kind == COUNT)
    yield _id(request.adjustment_id), "adjustment_id"
    yield _id(request.shop_id), "shop_id"
    yield _id(request.sku_id), "sku_id"
    yield _id(request.location_id), "location_id"
    yield -STOCK_MAX <= delta <= STOCK_MAX and not wrong, "delta"
    yield 0 <= kind <= 3, "kind"
    yield 0 <= request.first_sent_at_ms <= TIME_MAX, "first_sent_at_ms"


def _transfer(request: inventory.TransferStockRequest) -> Checks:
    yield _id(request.transfer_id), "transfer_id"
    yield _id(request.shop_id), "shop_id"
    yield _id(request.sku_id), "sku_id"
    yield _id(request.from_location_id), "from_location_id"
    yield _id(request.to_location_id) and request.to_location_id != request.from_location_id, "to_location_id"
    yield 1 <= request.quantity <= STOCK_MAX, "quantity"
    yield 0 <= request.first_sent_at_ms <= TIME_MAX, "first_sent_at_ms"


def _get_order(request: orders.GetOrderRequest) -> Checks:
    yield _id(request.shop_id), "shop_id"
    yield _id(request.order_id), "order_id"


def _get_stock(request: inventory.GetStockRequest) -> Checks:
    yield _id(request.shop_id), "shop_id"
    yield _id(request.sku_id), "sku_id"


def _evict(request: log_pb2.Evict) -> Checks:
    yield 1 <= request.closed_sequence < 2**63, "closed_sequence"


def _restore(request: log_pb2.Restore) -> Checks:
    yield _id(request.shop_id), "shop_id"
    yield 1 <= len(request.item) <= ITEM_BYTES_MAX, "item"


# What each message must be like, in the order of its fields.
_CHECKS: dict[int, Callable[[Any], Checks]] = {
    PLACE_ORDER: _place_order,
    PAY_ORDER: _pay,
    CANCEL_ORDER: _cancel,
    SHIP_ORDER: lambda request: _lines(request, 256),
    DELIVER_ORDER: lambda request: _lines(request, 64),
    RETURN_ORDER: _return,
    SETTLE_REFUND: _settle,
    PUT_SHOP: _put_shop,
    PUT_LOCATION: _put_location,
    PUT_SKU: _put_sku,
    ADJUST_STOCK: _adjust,
    TRANSFER_STOCK: _transfer,
    GET_ORDER: _get_order,
    GET_STOCK: _get_stock,
    EVICT: _evict,
    RESTORE: _restore,
}


def first_bad_field(method: int, request: Message) -> str | None:
    """The path of the first field out of bounds; "" for the message as a whole; None when all is well."""
    bad = next((path for ok, path in _CHECKS[method](request) if not ok), None)
    if bad is None and method != RESTORE and request.ByteSize() > CONTENT_BYTES_MAX:
        return ""
    return bad


def content_of(request: Message) -> int:
    """The hash of the business fields: all but field 15."""
    names = [field.name for field, _ in request.ListFields() if field.number == 15]
    if names:
        request = type(request).FromString(request.SerializeToString())
        request.ClearField(names[0])
    return digest(request.SerializeToString(deterministic=True))
