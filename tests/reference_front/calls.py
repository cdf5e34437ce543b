"""The way of one call: wire, match, log, ack. Requests and answers pass through as bytes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import grpc

from engine import _core
from everopen.v1 import inventory_service_pb2, order_service_pb2
from tests.reference_front.acknowledger import Acknowledger, Log
from tests.reference_front.faults import DRAINING, TOO_LATE, refusal, refuse

UnaryHandler = Callable[[bytes, Any], Awaitable[bytes]]

ORDER_SERVICE = order_service_pb2.DESCRIPTOR.services_by_name["OrderService"].full_name
INVENTORY_SERVICE = inventory_service_pb2.DESCRIPTOR.services_by_name["InventoryService"].full_name
ORDER_METHODS = {
    "PlaceOrder": _core.PLACE_ORDER,
    "PayOrder": _core.PAY_ORDER,
    "CancelOrder": _core.CANCEL_ORDER,
    "ShipOrder": _core.SHIP_ORDER,
    "DeliverOrder": _core.DELIVER_ORDER,
    "ReturnOrder": _core.RETURN_ORDER,
    "SettleRefund": _core.SETTLE_REFUND,
    "GetOrder": _core.GET_ORDER,
}
INVENTORY_METHODS = {
    "PutShop": _core.PUT_SHOP,
    "PutLocation": _core.PUT_LOCATION,
    "PutSku": _core.PUT_SKU,
    "AdjustStock": _core.ADJUST_STOCK,
    "TransferStock": _core.TRANSFER_STOCK,
    "GetStock": _core.GET_STOCK,
}
INVENTORY_BATCHES = {
    "BatchPutShops": _core.PUT_SHOP,
    "BatchPutLocations": _core.PUT_LOCATION,
    "BatchPutSkus": _core.PUT_SKU,
    "BatchAdjustStock": _core.ADJUST_STOCK,
    "BatchTransferStock": _core.TRANSFER_STOCK,
    "BatchGetStock": _core.GET_STOCK,
}


class Executor(Log, Protocol):
    """What calls need of an engine."""

    def execute(self, method: int, request: bytes) -> tuple[int, bytes, int]: ...
    def execute_batch(self, method: int, request: bytes) -> tuple[int, bytes, int]: ...


class Calls:
    """All calls of the process: those in flight are counted, so that a drain can wait for them."""

    def __init__(self, engine: Executor, acknowledger: Acknowledger) -> None:
        self._engine = engine
        self._acknowledger = acknowledger
        self.in_flight = 0
        self._draining = asyncio.Event()
        self._none_in_flight = asyncio.Event()
        self._none_in_flight.set()

    async def drain(self) -> None:
        """Refuses from now on, and waits until what was taken is answered."""
        self._draining.set()
        await self._none_in_flight.wait()

    def unary(self, method: int, *, batch: bool = False) -> UnaryHandler:
        """The handler of one method: one request, one answer."""

        async def call(request: bytes, context: Any) -> bytes:
            await self._enter(context)
            return await self._answer(method, request, context, batch=batch)

        return call

    async def place_orders(self, _: Any, context: Any) -> None:
        """The stream: each batch is answered before the next is read."""
        await self._enter(context)
        while True:
            request = await self._next(context)
            if request is grpc.aio.EOF:
                return
            await context.write(await self._answer(_core.PLACE_ORDER, request, context, batch=True))

    async def _next(self, context: Any) -> Any:
        """The next message of a stream, unless the drain comes first."""
        reading = asyncio.ensure_future(context.read())
        draining = asyncio.ensure_future(self._draining.wait())
        try:
            await asyncio.wait({reading, draining}, return_when=asyncio.FIRST_COMPLETED)
            if reading.done():
                return reading.result()
            return await refuse(context, DRAINING)
        finally:
            reading.cancel()
            draining.cancel()

    async def _enter(self, context: Any) -> None:
        if self._draining.is_set():
            await refuse(context, DRAINING)
        self.in_flight += 1
        self._none_in_flight.clear()
        # In flight until the answer is sent.
        context.add_done_callback(lambda _: self._leave())

    def _leave(self) -> None:
        self.in_flight -= 1
        if self.in_flight == 0:
            self._none_in_flight.set()

    async def _answer(self, method: int, request: bytes, context: Any, *, batch: bool) -> bytes:
        remaining_s = context.time_remaining()
        if remaining_s is not None and remaining_s <= 0:
            await refuse(context, TOO_LATE)
        run = self._engine.execute_batch if batch else self._engine.execute
        code, answer, sequence = run(method, request)
        await self._acknowledger.durable(sequence)
        if code:
            await refuse(context, refusal(answer))
        return answer


def handlers(calls: Calls) -> list[grpc.GenericRpcHandler]:
    """Handlers that take and give bytes."""
    unary = grpc.unary_unary_rpc_method_handler
    orders: dict[str, Any] = {name: unary(calls.unary(method)) for name, method in ORDER_METHODS.items()}
    orders["PlaceOrders"] = grpc.stream_stream_rpc_method_handler(calls.place_orders)
    inventory: dict[str, Any] = {name: unary(calls.unary(method)) for name, method in INVENTORY_METHODS.items()}
    inventory |= {name: unary(calls.unary(method, batch=True)) for name, method in INVENTORY_BATCHES.items()}
    return [
        grpc.method_handlers_generic_handler(ORDER_SERVICE, orders),
        grpc.method_handlers_generic_handler(INVENTORY_SERVICE, inventory),
    ]
