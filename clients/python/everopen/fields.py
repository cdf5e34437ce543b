"""What the methods take as keyword arguments: the fields of the requests, by the names that the proto files give them.

Nothing is required here, because a request may also come as a message; the server names what is missing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeAlias, TypedDict

from everopen.v1.inventory_pb2 import AdjustKind, BackorderPolicy, EntityStatus, LocationKind, RegionCost, SafetyStock
from everopen.v1.order_pb2 import AllocationStrategy
from everopen.v1.order_service_pb2 import LineQuantity, PlaceOrderLine, ReturnDisposition, ShipLine

# A tuple holds the message's fields in their order, as many as are given.
OrderLineLike: TypeAlias = PlaceOrderLine | tuple[str, int] | tuple[str, int, int] | tuple[str, int, int, int]
LineQuantityLike: TypeAlias = LineQuantity | tuple[int, int]
ShipLineLike: TypeAlias = ShipLine | tuple[int, int] | tuple[int, int, str]
RegionCostLike: TypeAlias = RegionCost | tuple[str, str, int]
SafetyStockLike: TypeAlias = SafetyStock | tuple[str, int]


class PlaceOrderFields(TypedDict, total=False):
    order_id: str
    shop_id: str
    buyer_id: str
    lines: Iterable[OrderLineLike]
    region: str
    strategy: AllocationStrategy | str
    allow_split: bool
    priority_class: int
    placed_at_ms: int
    attributes: Mapping[str, str]
    first_sent_at_ms: int


class PayOrderFields(TypedDict, total=False):
    shop_id: str
    order_id: str
    payment_id: str
    amount_minor: int


class CancelOrderFields(TypedDict, total=False):
    shop_id: str
    order_id: str
    command_id: str
    lines: Iterable[LineQuantityLike]
    reason: str


class ShipOrderFields(TypedDict, total=False):
    shop_id: str
    order_id: str
    command_id: str
    lines: Iterable[ShipLineLike]


class DeliverOrderFields(TypedDict, total=False):
    shop_id: str
    order_id: str
    command_id: str
    lines: Iterable[LineQuantityLike]


class ReturnOrderFields(TypedDict, total=False):
    shop_id: str
    order_id: str
    command_id: str
    lines: Iterable[LineQuantityLike]
    disposition: ReturnDisposition | str
    location_id: str


class SettleRefundFields(TypedDict, total=False):
    shop_id: str
    order_id: str
    command_id: str
    amount_minor: int


class GetOrderFields(TypedDict, total=False):
    shop_id: str
    order_id: str


class PutShopFields(TypedDict, total=False):
    shop_id: str
    currency: str
    strategy: AllocationStrategy | str
    allow_split: bool
    region_costs: Iterable[RegionCostLike]
    status: EntityStatus | str
    if_revision: int


class PutLocationFields(TypedDict, total=False):
    shop_id: str
    location_id: str
    kind: LocationKind | str
    region: str
    priority: int
    status: EntityStatus | str
    if_revision: int


class PutSkuFields(TypedDict, total=False):
    shop_id: str
    sku_id: str
    price_minor: int
    status: EntityStatus | str
    buyer_limit_per_order: int
    buyer_limit_per_window: int
    buyer_window_ms: int
    backorder_policy: BackorderPolicy | str
    backorder_limit: int
    safety_stock: int
    safety_stock_overrides: Iterable[SafetyStockLike]
    reserve_ttl_ms: int
    if_revision: int


class AdjustStockFields(TypedDict, total=False):
    adjustment_id: str
    shop_id: str
    sku_id: str
    location_id: str
    delta: int
    kind: AdjustKind | str
    first_sent_at_ms: int


class TransferStockFields(TypedDict, total=False):
    transfer_id: str
    shop_id: str
    sku_id: str
    from_location_id: str
    to_location_id: str
    quantity: int
    first_sent_at_ms: int


class GetStockFields(TypedDict, total=False):
    shop_id: str
    sku_id: str
