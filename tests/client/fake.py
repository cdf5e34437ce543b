"""A server that does what a test tells it, call by call, and a clock that moves only when somebody sleeps."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from everopen import methods
from everopen.v1 import cluster_service_pb2
from everopen.v1.cluster_pb2 import PartitionMap
from everopen.v1.order_service_pb2 import (
    PlaceOrderRequest,
    PlaceOrderResponse,
    PlaceOrderResult,
    PlaceOrdersRequest,
    PlaceOrdersResponse,
)
from everopen.v1.outcome_pb2 import Outcome

# Long enough never to matter, short enough that a broken test ends.
PATIENCE_S = 20


class Clock:
    """Seconds that pass only in sleep()."""

    def __init__(self) -> None:
        self.seconds = 1_000.0
        self.slept: list[float] = []

    def now_s(self) -> float:
        return self.seconds

    def wall_ms(self) -> int:
        return int(self.seconds * 1000)

    def sleep_now(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.seconds += seconds

    async def sleep(self, seconds: float) -> None:
        self.sleep_now(seconds)
        await asyncio.sleep(0)


class Upper:
    """Draws the upper end, so that a wait is what the policy allows at most."""

    def uniform(self, low: float, high: float) -> float:
        return high


class Abort:
    """Ends a call with a status."""

    def __init__(
        self, code: grpc.StatusCode, message: str = "", *details: Message, trailing: dict[str, str] | None = None
    ) -> None:
        self.status = make_status(code, message, *details)
        self.code = code
        self.trailing = trailing or {}

    async def carry_out(self, context: Any) -> None:
        metadata: list[tuple[str, str | bytes]] = [*self.trailing.items()]
        if self.status.details:
            metadata.append(("grpc-status-details-bin", self.status.SerializeToString()))
        await context.abort(self.code, self.status.message, tuple(metadata))


def make_status(code: grpc.StatusCode, message: str = "", *details: Message) -> status_pb2.Status:
    status = status_pb2.Status(code=code.value[0], message=message)
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    return status


def shed(retry_after_s: int) -> status_pb2.Status:
    """The status of an item that the server had no room for."""
    delay = error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(seconds=retry_after_s))
    return make_status(grpc.StatusCode.RESOURCE_EXHAUSTED, "full", delay)


class End:
    """Ends a stream with OK, before everything is answered."""


class Received:
    """A message that arrived, and the test's decision about it."""

    def __init__(self, request: Any) -> None:
        self.request = request
        self.reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    @property
    def ids(self) -> list[str]:
        return [order.order_id for order in self.request.orders]

    def answer(self, *, instead: dict[str, status_pb2.Status] | None = None) -> None:
        """Places every order of a batch; `instead` gives the status that some get in place of that."""
        instead = instead or {}
        self.reply.set_result(
            PlaceOrdersResponse(
                results=[
                    PlaceOrderResult(status=instead[order.order_id])
                    if order.order_id in instead
                    else PlaceOrderResult(result=placed(order))
                    for order in self.request.orders
                ]
            )
        )

    def reply_with(self, reply: Message | Abort | End) -> None:
        self.reply.set_result(reply)


def placed(order: PlaceOrderRequest) -> PlaceOrderResponse:
    response = PlaceOrderResponse(outcome=Outcome.OUTCOME_PLACED, sequence=1)
    response.order.order_id = order.order_id
    return response


class Known:
    """A partition map, for the servers that share it. `map` is None: they have no such service."""

    def __init__(self) -> None:
        self.map: PartitionMap | None = None
        self.watches = 0
        self.checks = 0
        self._changed = asyncio.Event()

    def publish(self, published: PartitionMap | None) -> None:
        self.map = published
        self.break_watches()

    def break_watches(self) -> None:
        """Those that watch get the map, if it is another than before, or UNAVAILABLE."""
        self._changed.set()
        self._changed = asyncio.Event()

    def handler(self, peers: set[str]) -> grpc.GenericRpcHandler:
        async def get(_: Any, context: Any) -> Any:
            peers.add(context.peer())
            self.checks += 1
            return cluster_service_pb2.GetPartitionMapResponse(map=self.map)

        async def watch(_: Any, context: Any) -> Any:
            peers.add(context.peer())
            self.watches += 1
            said: PartitionMap | None = None
            while self.map is not said:
                said, changed = self.map, self._changed
                if said is None:
                    break
                yield cluster_service_pb2.WatchPartitionMapResponse(map=said)
                await changed.wait()
            code = grpc.StatusCode.UNIMPLEMENTED if self.map is None else grpc.StatusCode.UNAVAILABLE
            await context.abort(code, "no map here")

        return grpc.method_handlers_generic_handler(
            "everopen.v1.ClusterService",
            {
                "GetPartitionMap": grpc.unary_unary_rpc_method_handler(
                    get,
                    cluster_service_pb2.GetPartitionMapRequest.FromString,
                    cluster_service_pb2.GetPartitionMapResponse.SerializeToString,
                ),
                "WatchPartitionMap": grpc.unary_stream_rpc_method_handler(
                    watch,
                    cluster_service_pb2.WatchPartitionMapRequest.FromString,
                    cluster_service_pb2.WatchPartitionMapResponse.SerializeToString,
                ),
            },
        )


class FakeServer:
    """Every message waits in `arrived` until the test takes and answers it. `known` makes it serve a partition map."""

    def __init__(self, known: Known | None = None) -> None:
        self.arrived: asyncio.Queue[Received] = asyncio.Queue()
        self.streams = 0
        # Who connected: one for each connection on which anything was called.
        self.peers: set[str] = set()
        self.address = ""
        self._known = known
        self._server: grpc.aio.Server | None = None

    async def start(self, options: Sequence[tuple[str, int]] = ()) -> None:
        self._server = grpc.aio.server(options=options)
        for service in (methods.ORDERS, methods.INVENTORY):
            handlers: dict[str, Any] = {
                method.name: grpc.unary_unary_rpc_method_handler(
                    self._unary, method.request.FromString, lambda message: message.SerializeToString()
                )
                for method in vars(methods).values()
                if isinstance(method, methods.Method | methods.BatchMethod) and method.service == service
            }
            if service == methods.ORDERS:
                handlers["PlaceOrders"] = grpc.stream_stream_rpc_method_handler(
                    self._place_orders, PlaceOrdersRequest.FromString, PlaceOrdersResponse.SerializeToString
                )
            self._server.add_generic_rpc_handlers(
                (grpc.method_handlers_generic_handler(f"everopen.v1.{service}", handlers),)
            )
        if self._known is not None:
            self._server.add_generic_rpc_handlers((self._known.handler(self.peers),))
        port = self._server.add_insecure_port("127.0.0.1:0")
        self.address = f"127.0.0.1:{port}"
        await self._server.start()

    async def stop(self) -> None:
        assert self._server is not None
        await self._server.stop(None)

    async def take(self) -> Received:
        async with asyncio.timeout(PATIENCE_S):
            return await self.arrived.get()

    async def _decided(self, request: Any, context: Any) -> Any:
        self.peers.add(context.peer())
        received = Received(request)
        self.arrived.put_nowait(received)
        reply = await received.reply
        if isinstance(reply, Abort):
            await reply.carry_out(context)
        return reply

    async def _unary(self, request: Any, context: Any) -> Any:
        return await self._decided(request, context)

    async def _place_orders(self, requests: Any, context: Any) -> Any:
        self.streams += 1
        async for request in requests:
            reply = await self._decided(request, context)
            if isinstance(reply, End):
                return
            yield reply


async def until(condition: Callable[[], bool]) -> None:
    """Lets the loop turn until the condition holds."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - the condition is the client's own state, which tells nobody
            await asyncio.sleep(0)
