"""The methods of both services as values, and how requests are made for them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import grpc
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from everopen.errors import EveropenError, error_of_code, error_of_status
from everopen.v1 import inventory_service_pb2 as inventory
from everopen.v1 import order_service_pb2 as order

Req = TypeVar("Req", bound=Message)
Resp = TypeVar("Resp", bound=Message)
Item = TypeVar("Item", bound=Message)

BATCH_ITEMS_MAX = 1024
# The server takes messages of 4 MiB; smaller ones keep the wait of one batch's callers short.
BATCH_BYTES_MAX = 1024 * 1024
# Tag and length of an item inside its batch.
ITEM_OVERHEAD_BYTES = 6


@dataclass(frozen=True, slots=True)
class Method(Generic[Req, Resp]):
    """One unary method."""

    service: str
    name: str
    request: type[Req]
    response: type[Resp]


@dataclass(frozen=True, slots=True)
class BatchMethod(Generic[Req, Resp]):
    """The batch form of a method: a message of requests gets a message of `oneof {result, status}`."""

    service: str
    name: str
    request: type[Message]
    item: type[Req]
    answer: type[Resp]


ORDERS, INVENTORY = "OrderService", "InventoryService"

PLACE_ORDER = Method(ORDERS, "PlaceOrder", order.PlaceOrderRequest, order.PlaceOrderResponse)
PAY_ORDER = Method(ORDERS, "PayOrder", order.PayOrderRequest, order.PayOrderResponse)
CANCEL_ORDER = Method(ORDERS, "CancelOrder", order.CancelOrderRequest, order.CancelOrderResponse)
SHIP_ORDER = Method(ORDERS, "ShipOrder", order.ShipOrderRequest, order.ShipOrderResponse)
DELIVER_ORDER = Method(ORDERS, "DeliverOrder", order.DeliverOrderRequest, order.DeliverOrderResponse)
RETURN_ORDER = Method(ORDERS, "ReturnOrder", order.ReturnOrderRequest, order.ReturnOrderResponse)
SETTLE_REFUND = Method(ORDERS, "SettleRefund", order.SettleRefundRequest, order.SettleRefundResponse)
GET_ORDER = Method(ORDERS, "GetOrder", order.GetOrderRequest, order.GetOrderResponse)

PUT_SHOP = Method(INVENTORY, "PutShop", inventory.PutShopRequest, inventory.PutShopResponse)
PUT_LOCATION = Method(INVENTORY, "PutLocation", inventory.PutLocationRequest, inventory.PutLocationResponse)
PUT_SKU = Method(INVENTORY, "PutSku", inventory.PutSkuRequest, inventory.PutSkuResponse)
ADJUST_STOCK = Method(INVENTORY, "AdjustStock", inventory.AdjustStockRequest, inventory.AdjustStockResponse)
TRANSFER_STOCK = Method(INVENTORY, "TransferStock", inventory.TransferStockRequest, inventory.TransferStockResponse)
GET_STOCK = Method(INVENTORY, "GetStock", inventory.GetStockRequest, inventory.GetStockResponse)

BATCH_PUT_SHOPS = BatchMethod(
    INVENTORY, "BatchPutShops", inventory.BatchPutShopsRequest, inventory.PutShopRequest, inventory.PutShopResponse
)
BATCH_PUT_LOCATIONS = BatchMethod(
    INVENTORY,
    "BatchPutLocations",
    inventory.BatchPutLocationsRequest,
    inventory.PutLocationRequest,
    inventory.PutLocationResponse,
)
BATCH_PUT_SKUS = BatchMethod(
    INVENTORY, "BatchPutSkus", inventory.BatchPutSkusRequest, inventory.PutSkuRequest, inventory.PutSkuResponse
)
BATCH_ADJUST_STOCK = BatchMethod(
    INVENTORY,
    "BatchAdjustStock",
    inventory.BatchAdjustStockRequest,
    inventory.AdjustStockRequest,
    inventory.AdjustStockResponse,
)
BATCH_TRANSFER_STOCK = BatchMethod(
    INVENTORY,
    "BatchTransferStock",
    inventory.BatchTransferStockRequest,
    inventory.TransferStockRequest,
    inventory.TransferStockResponse,
)
BATCH_GET_STOCK = BatchMethod(
    INVENTORY, "BatchGetStock", inventory.BatchGetStockRequest, inventory.GetStockRequest, inventory.GetStockResponse
)


def make_request(kind: type[Req], given: Req | str | None, fields: Mapping[str, Any], wall_ms: int) -> Req:
    """A request of one's own from what the caller gave: a message (copied), or a shop's id and fields, or fields alone.

    Items of repeated fields may be tuples in the order of the item's fields: lines=[("tea", 2)].
    """
    request = kind()
    if isinstance(given, Message):
        if fields:
            raise TypeError(f"give a {kind.__name__} or its fields, not both")
        request.CopyFrom(given)
    else:
        for name, value in ({"shop_id": given, **fields} if given is not None else fields).items():
            set_field(request, name, value)
    stamp(request, wall_ms)
    return request


def set_field(request: Message, name: str, value: Any) -> None:
    field = request.DESCRIPTOR.fields_by_name.get(name)
    if field is None:
        raise TypeError(f"{request.DESCRIPTOR.name} has no field {name}")
    if value is None:
        return
    if field.is_repeated and not isinstance(value, Mapping):
        assert field.message_type is not None  # all lists of this API are lists of messages
        kind = GetMessageClass(field.message_type)  # type: ignore[arg-type]
        names = [item.name for item in field.message_type.fields]
        getattr(request, name).extend(
            kind(**dict(zip(names, item, strict=False))) if isinstance(item, tuple) else item for item in value
        )
    elif field.is_repeated:
        getattr(request, name).update(value)
    else:
        # Enums may come by name, which only the constructor of a message understands.
        request.MergeFrom(type(request)(**{name: value}))


def stamp(request: Message, wall_ms: int) -> None:
    """Says when the first try was sent, unless the caller did. Retries send the same message and so the same time."""
    if getattr(request, "first_sent_at_ms", None) == 0:
        request.first_sent_at_ms = wall_ms  # type: ignore[attr-defined]


def stamped(requests: Iterable[Item], wall_ms: int) -> Iterator[Item]:
    """The requests as they are sent; what has to be stamped is copied, because messages belong to their caller."""
    for request in requests:
        if getattr(request, "first_sent_at_ms", None) == 0:
            copy = type(request)()
            copy.CopyFrom(request)
            stamp(copy, wall_ms)
            yield copy
        else:
            yield request


def is_repeatable(request: Message) -> bool:
    """Whether the request may be carried out twice without harm; see retry.py."""
    if "requests" in request.DESCRIPTOR.fields_by_name:
        return all(is_repeatable(item) for item in request.requests)  # type: ignore[attr-defined]
    return "if_revision" not in request.DESCRIPTOR.fields_by_name or not request.HasField("if_revision")


def split(requests: Iterable[Item]) -> Iterator[list[Item]]:
    """Batches that the server takes, in order."""
    batch: list[Item] = []
    size_bytes = 0
    for request in requests:
        item_bytes = request.ByteSize() + ITEM_OVERHEAD_BYTES
        if batch and (len(batch) == BATCH_ITEMS_MAX or size_bytes + item_bytes > BATCH_BYTES_MAX):
            yield batch
            batch, size_bytes = [], 0
        batch.append(request)
        size_bytes += item_bytes
    if batch:
        yield batch


def unpack(results: Iterable[Any], count: int) -> list[Any]:
    """Items of `oneof {result, status}` as answers and errors."""
    answers = [item.result if item.HasField("result") else error_of_item(item) for item in results]
    if len(answers) != count:
        raise error_of_code(grpc.StatusCode.INTERNAL, f"the server answered {len(answers)} items of {count}")
    return answers


def error_of_item(item: Any) -> EveropenError:
    if item.HasField("status"):
        return error_of_status(item.status)
    return error_of_code(grpc.StatusCode.INTERNAL, "the server gave neither a result nor a status")
