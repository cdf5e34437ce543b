"""Which method of the API goes to which command of the core, and the services that every gRPC server should have."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from engine import _core
from engine.pipeline import Pipeline
from engine.streams import PlaceOrdersHandler

# Imported for what it registers: reflection answers from the default descriptor pool.
from everopen.v1 import inventory_service_pb2, order_service_pb2

ORDER_SERVICE: Final[str] = order_service_pb2.DESCRIPTOR.services_by_name["OrderService"].full_name
INVENTORY_SERVICE: Final[str] = inventory_service_pb2.DESCRIPTOR.services_by_name["InventoryService"].full_name

ORDER_METHODS: Final = {
    "PlaceOrder": _core.PLACE_ORDER,
    "PayOrder": _core.PAY_ORDER,
    "CancelOrder": _core.CANCEL_ORDER,
    "ShipOrder": _core.SHIP_ORDER,
    "DeliverOrder": _core.DELIVER_ORDER,
    "ReturnOrder": _core.RETURN_ORDER,
    "SettleRefund": _core.SETTLE_REFUND,
    "GetOrder": _core.GET_ORDER,
}
INVENTORY_METHODS: Final = {
    "PutShop": _core.PUT_SHOP,
    "PutLocation": _core.PUT_LOCATION,
    "PutSku": _core.PUT_SKU,
    "AdjustStock": _core.ADJUST_STOCK,
    "TransferStock": _core.TRANSFER_STOCK,
    "GetStock": _core.GET_STOCK,
}
INVENTORY_BATCHES: Final = {
    "BatchPutShops": _core.PUT_SHOP,
    "BatchPutLocations": _core.PUT_LOCATION,
    "BatchPutSkus": _core.PUT_SKU,
    "BatchAdjustStock": _core.ADJUST_STOCK,
    "BatchTransferStock": _core.TRANSFER_STOCK,
    "BatchGetStock": _core.GET_STOCK,
}


def handlers(pipeline: Pipeline, place_orders: PlaceOrdersHandler) -> list[grpc.GenericRpcHandler]:
    """Handlers that take and give bytes: no protobuf object is made for a call."""
    unary = grpc.unary_unary_rpc_method_handler
    orders: dict[str, Any] = {name: unary(pipeline.unary(method)) for name, method in ORDER_METHODS.items()}
    orders["PlaceOrders"] = grpc.stream_stream_rpc_method_handler(place_orders.call)
    inventory: dict[str, Any] = {name: unary(pipeline.unary(method)) for name, method in INVENTORY_METHODS.items()}
    inventory |= {name: unary(pipeline.unary(method, batch=True)) for name, method in INVENTORY_BATCHES.items()}
    return [
        grpc.method_handlers_generic_handler(ORDER_SERVICE, orders),
        grpc.method_handlers_generic_handler(INVENTORY_SERVICE, inventory),
    ]


class Health(health.aio.HealthServicer):
    """SERVING between recovery and drain. A watcher sees NOT_SERVING, then the end: it must not hold up the drain."""

    def __init__(self) -> None:
        super().__init__()
        self._ending = asyncio.Event()

    async def tell(self, serving: bool) -> None:
        status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        for service in ("", ORDER_SERVICE, INVENTORY_SERVICE):
            await self.set(service, status)

    def end_watches(self) -> None:
        self._ending.set()

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Any) -> None:  # noqa: N802
        watching = asyncio.ensure_future(super().Watch(request, context))
        ending = asyncio.ensure_future(self._ending.wait())
        try:
            await asyncio.wait({watching, ending}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ending.cancel()
            watching.cancel()


def add_standard_services(server: grpc.aio.Server, servicer: Health) -> None:
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    names = [ORDER_SERVICE, INVENTORY_SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME]
    reflection.enable_server_reflection(names, server)
