"""The asyncio client."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from random import Random
from types import TracebackType
from typing import Any, TypeVar, Unpack, cast

import grpc
from google.protobuf.message import Message

from everopen import methods
from everopen.channels import CHANNEL_OPTIONS, CLUSTER, Secret, plain_options, signed, stubs_of, wall_clock_ms
from everopen.errors import EveropenError, error_of_code, error_of_rpc
from everopen.fields import (
    AdjustStockFields,
    CancelOrderFields,
    DeliverOrderFields,
    GetOrderFields,
    GetStockFields,
    PayOrderFields,
    PlaceOrderFields,
    PutLocationFields,
    PutShopFields,
    PutSkuFields,
    ReturnOrderFields,
    SettleRefundFields,
    ShipOrderFields,
    TransferStockFields,
)
from everopen.methods import BatchMethod, Method
from everopen.order_streams import ORDERS_WAITING_MAX, OrderStreams
from everopen.retry import Attempts, RetryPolicy
from everopen.v1.inventory_service_pb2 import (
    AdjustStockRequest,
    AdjustStockResponse,
    GetStockRequest,
    GetStockResponse,
    PutLocationRequest,
    PutLocationResponse,
    PutShopRequest,
    PutShopResponse,
    PutSkuRequest,
    PutSkuResponse,
    TransferStockRequest,
    TransferStockResponse,
)
from everopen.v1.order_service_pb2 import (
    CancelOrderRequest,
    CancelOrderResponse,
    DeliverOrderRequest,
    DeliverOrderResponse,
    GetOrderRequest,
    GetOrderResponse,
    PayOrderRequest,
    PayOrderResponse,
    PlaceOrderRequest,
    PlaceOrderResponse,
    ReturnOrderRequest,
    ReturnOrderResponse,
    SettleRefundRequest,
    SettleRefundResponse,
    ShipOrderRequest,
    ShipOrderResponse,
)
from everopen.watching import AsyncRoutes

Req = TypeVar("Req", bound=Message)
Resp = TypeVar("Resp", bound=Message)


class AsyncClient:
    """A connection to an order engine for one event loop; make it where that loop runs.

    As Client, with `await`. place_order calls that run at the same time share batches of one PlaceOrders stream for
    each worker, see order_stream.py; `batch_orders=False` sends each as a call of its own. `batches_in_flight` above 1
    trades the fairness of small batches for throughput, which bulk senders want. At most `orders_waiting_max` orders
    wait for answers; beyond that place_order waits for room. `on_batch` is told the size of each answered batch and its
    seconds. A `token` that is a function is called on the loop: it should give what it has, and fetch a new one
    elsewhere.
    """

    def __init__(
        self,
        target: str,
        *,
        credentials: grpc.ChannelCredentials | None = None,
        token: Secret | None = None,
        api_key: Secret | None = None,
        policy: RetryPolicy | None = None,
        route: bool = True,
        batch_orders: bool = True,
        batches_in_flight: int = 1,
        orders_waiting_max: int = ORDERS_WAITING_MAX,
        on_batch: Callable[[int, float], None] | None = None,
        random: Random | None = None,
        now_s: Callable[[], float] = time.monotonic,
        wall_ms: Callable[[], int] = wall_clock_ms,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        if credentials is None:
            self._channel = grpc.aio.insecure_channel(target, plain_options(target))
        else:
            self._channel = grpc.aio.secure_channel(target, credentials, CHANNEL_OPTIONS)
        self._stubs = stubs_of(signed(self._channel, target, credentials is not None, token, api_key))
        # Direct addresses speak plaintext, and are not where the secret was said to go.
        route = route and credentials is None and token is None and api_key is None
        self._routes = AsyncRoutes(target, now_s, self._stubs[CLUSTER], enabled=route)
        self._policy = policy or RetryPolicy()
        self._random = random or Random()  # noqa: S311 - spaces retries; nothing here is a secret
        self._now_s = now_s
        self._wall_ms = wall_ms
        self._sleep = sleep
        self._batch_orders = batch_orders
        self._orders = OrderStreams(
            self._routes,
            self._stubs,
            policy=self._policy,
            random=self._random,
            now_s=now_s,
            sleep=sleep,
            batches_in_flight=batches_in_flight,
            orders_waiting_max=orders_waiting_max,
            on_batch=on_batch,
        )

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Orders that still wait for an answer fail with Unavailable."""
        await self._orders.close()
        await self._routes.close()
        await self._channel.close()

    async def wait_for_server(self, timeout_s: float) -> None:
        """Returns once a connection stands; raises TimeoutError when none did in time."""
        await asyncio.wait_for(self._channel.channel_ready(), timeout_s)

    async def place_order(
        self,
        request: PlaceOrderRequest | str | None = None,
        /,
        *,
        timeout_s: float | None = None,
        **fields: Unpack[PlaceOrderFields],
    ) -> PlaceOrderResponse:
        """Places an order, all lines or none."""
        if not self._batch_orders:
            return await self._call(methods.PLACE_ORDER, request, fields, timeout_s)
        order = methods.make_request(PlaceOrderRequest, request, fields, self._wall_ms())
        timeout_s = self._policy.timeout_s if timeout_s is None else timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                return await (await self._orders.enqueue(order, self._now_s() + timeout_s))
        except TimeoutError as late:
            raise error_of_code(
                grpc.StatusCode.DEADLINE_EXCEEDED, f"no answer in {timeout_s:g} s; its result is unknown"
            ) from late

    async def enqueue_order(
        self, request: PlaceOrderRequest, *, timeout_s: float | None = None
    ) -> asyncio.Future[PlaceOrderResponse]:
        """For bulk senders: waits for room alone, and returns the future of the answer.

        The message now belongs to the client. Orders go in the order in which they were enqueued. After timeout_s an
        order is not tried again, but unlike place_order no timer ends a try that the server leaves open.
        """
        methods.stamp(request, self._wall_ms())
        timeout_s = self._policy.timeout_s if timeout_s is None else timeout_s
        return await self._orders.enqueue(request, self._now_s() + timeout_s)

    async def place_orders(
        self, orders: Iterable[PlaceOrderRequest], *, timeout_s: float | None = None
    ) -> list[PlaceOrderResponse | EveropenError]:
        """Places many orders: an answer or an error for each, in their order."""
        futures = [
            await self.enqueue_order(order, timeout_s=timeout_s) for order in methods.stamped(orders, self._wall_ms())
        ]
        results = await asyncio.gather(*futures, return_exceptions=True)
        return [answer_or_error(result) for result in results]

    async def pay_order(
        self,
        request: PayOrderRequest | str | None = None,
        /,
        *,
        timeout_s: float | None = None,
        **fields: Unpack[PayOrderFields],
    ) -> PayOrderResponse:
        """Records a payment; what cannot be used becomes refund due."""
        return await self._call(methods.PAY_ORDER, request, fields, timeout_s)

    async def cancel_order(
        self,
        request: CancelOrderRequest | str | None = None,
        /,
        *,
        timeout_s: float | None = None,
        **fields: Unpack[CancelOrderFields],
    ) -> CancelOrderResponse:
        """Cancels open units: those of `lines`, or all."""
        return await self._call(methods.CANCEL_ORDER, request, fields, timeout_s)

    async def ship_order(
        self,
        request: ShipOrderRequest | str | None = None,
        /,
        *,
        timeout_s: float | None = None,
        **fields: Unpack[ShipOrderFields],
    ) -> ShipOrderResponse:
        """Ships reserved units of a paid order: those of `lines`, or all."""
        return await self._call(methods.SHIP_ORDER, request, fields, timeout_s)

    async def deliver_order(
        self,
        request: DeliverOrderRequest | str | None = None,
        /,
        *,
        timeout_s: float | None = None,
        **fields: Unpack[DeliverOrderFields],
    ) -> DeliverOrderResponse:
        """Marks shipped units as delivered: those of `lines`, or all."""
        return await self._call(methods.DELIVER_ORDER, request, fields, timeout_s)

    async def return_order(
        self,
        request: ReturnOrderRequest | str | None = None,
        /,
        *,
        timeout_s: float | None = None,
        **fields: Unpack[ReturnOrderFields],
    ) -> ReturnOrderResponse:
        """Takes shipped units back: those of `lines`, or all."""
        return await self._call(methods.RETURN_ORDER, request, fields, timeout_s)

    async def settle_refund(
        self,
        request: SettleRefundRequest | str | None = None,
        /,
        *,
        timeout_s: float | None = None,
        **fields: Unpack[SettleRefundFields],
    ) -> SettleRefundResponse:
        """Records that refund due was paid out: amount_minor of it, or all."""
        return await self._call(methods.SETTLE_REFUND, request, fields, timeout_s)

    async def get_order(
        self,
        request: GetOrderRequest | str | None = None,
        /,
        *,
        timeout_s: float | None = None,
        **fields: Unpack[GetOrderFields],
    ) -> GetOrderResponse:
        """The order as of the newest durable sequence."""
        return await self._call(methods.GET_ORDER, request, fields, timeout_s)

    async def put_shop(
        self,
        request: PutShopRequest | str | None = None,
        /,
        *,
        timeout_s: float | None = None,
        **fields: Unpack[PutShopFields],
    ) -> PutShopResponse:
        """Makes a shop, or replaces its settings."""
        return await self._call(methods.PUT_SHOP, request, fields, timeout_s)

    async def put_location(
        self,
        request: PutLocationRequest | str | None = None,
        /,
        *,
        timeout_s: float | None = None,
        **fields: Unpack[PutLocationFields],
    ) -> PutLocationResponse:
        """Makes a location, or replaces its settings."""
        return await self._call(methods.PUT_LOCATION, request, fields, timeout_s)

    async def put_sku(
        self,
        request: PutSkuRequest | str | None = None,
        /,
        *,
        timeout_s: float | None = None,
        **fields: Unpack[PutSkuFields],
    ) -> PutSkuResponse:
        """Makes a SKU, or replaces its settings."""
        return await self._call(methods.PUT_SKU, request, fields, timeout_s)

    async def adjust_stock(
        self,
        request: AdjustStockRequest | str | None = None,
        /,
        *,
        timeout_s: float | None = None,
        **fields: Unpack[AdjustStockFields],
    ) -> AdjustStockResponse:
        """Restocks, corrects or counts a SKU at a location."""
        return await self._call(methods.ADJUST_STOCK, request, fields, timeout_s)

    async def transfer_stock(
        self,
        request: TransferStockRequest | str | None = None,
        /,
        *,
        timeout_s: float | None = None,
        **fields: Unpack[TransferStockFields],
    ) -> TransferStockResponse:
        """Moves available stock between two locations, atomically."""
        return await self._call(methods.TRANSFER_STOCK, request, fields, timeout_s)

    async def get_stock(
        self,
        request: GetStockRequest | str | None = None,
        /,
        *,
        timeout_s: float | None = None,
        **fields: Unpack[GetStockFields],
    ) -> GetStockResponse:
        """Stock of a SKU, in total and per location, as of the newest durable sequence."""
        return await self._call(methods.GET_STOCK, request, fields, timeout_s)

    async def batch_put_shops(
        self, requests: Iterable[PutShopRequest], *, timeout_s: float | None = None
    ) -> list[PutShopResponse | EveropenError]:
        return await self._call_batch(methods.BATCH_PUT_SHOPS, requests, timeout_s)

    async def batch_put_locations(
        self, requests: Iterable[PutLocationRequest], *, timeout_s: float | None = None
    ) -> list[PutLocationResponse | EveropenError]:
        return await self._call_batch(methods.BATCH_PUT_LOCATIONS, requests, timeout_s)

    async def batch_put_skus(
        self, requests: Iterable[PutSkuRequest], *, timeout_s: float | None = None
    ) -> list[PutSkuResponse | EveropenError]:
        return await self._call_batch(methods.BATCH_PUT_SKUS, requests, timeout_s)

    async def batch_adjust_stock(
        self, requests: Iterable[AdjustStockRequest], *, timeout_s: float | None = None
    ) -> list[AdjustStockResponse | EveropenError]:
        return await self._call_batch(methods.BATCH_ADJUST_STOCK, requests, timeout_s)

    async def batch_transfer_stock(
        self, requests: Iterable[TransferStockRequest], *, timeout_s: float | None = None
    ) -> list[TransferStockResponse | EveropenError]:
        return await self._call_batch(methods.BATCH_TRANSFER_STOCK, requests, timeout_s)

    async def batch_get_stock(
        self, requests: Iterable[GetStockRequest], *, timeout_s: float | None = None
    ) -> list[GetStockResponse | EveropenError]:
        return await self._call_batch(methods.BATCH_GET_STOCK, requests, timeout_s)

    async def _call(
        self,
        method: Method[Req, Resp],
        given: Req | str | None,
        fields: Mapping[str, Any],
        timeout_s: float | None,
    ) -> Resp:
        request = methods.make_request(method.request, given, fields, self._wall_ms())
        return cast(Resp, await self._send(method.service, method.name, request, timeout_s))

    async def _call_batch(
        self, method: BatchMethod[Req, Resp], requests: Iterable[Req], timeout_s: float | None
    ) -> list[Resp | EveropenError]:
        """Items that fail come as errors; where a whole message fails, each of its items does."""
        results: list[Resp | EveropenError] = []
        for batch in methods.split(methods.stamped(requests, self._wall_ms())):
            message = method.request(requests=batch)
            try:
                answer = await self._send(method.service, method.name, message, timeout_s)
                results += methods.unpack(answer.results, len(batch))
            except EveropenError as error:
                results += [error] * len(batch)
        return results

    async def _send(self, service: str, name: str, request: Message, timeout_s: float | None) -> Any:
        self._routes.begin()
        attempts = Attempts(self._policy, self._now_s, self._random, timeout_s)
        repeatable = methods.is_repeatable(request)
        while True:
            # What could not be repeated at the main address goes there in the first place.
            direct = self._routes.take(self._routes.home_of(request)) if repeatable else None
            stubs = direct.stubs if direct is not None else self._stubs
            try:
                return await getattr(stubs[service], name)(request, timeout=attempts.remaining_s())
            except grpc.RpcError as rpc_error:
                error = error_of_rpc(rpc_error)
                if direct is not None and self._routes.failed(direct, error):
                    continue
                wait_s = attempts.wait_s(error, repeatable)
                if wait_s is None:
                    raise error from rpc_error
            finally:
                if direct is not None:
                    self._routes.release(direct)
            await self._sleep(wait_s)


def answer_or_error(result: PlaceOrderResponse | BaseException) -> PlaceOrderResponse | EveropenError:
    if isinstance(result, PlaceOrderResponse | EveropenError):
        return result
    raise result
