"""The synchronous client."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Iterable, Mapping
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
from everopen.retry import Attempts, RetryPolicy, may_repeat
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
    PlaceOrdersRequest,
    ReturnOrderRequest,
    ReturnOrderResponse,
    SettleRefundRequest,
    SettleRefundResponse,
    ShipOrderRequest,
    ShipOrderResponse,
)
from everopen.watching import BlockingRoutes

Req = TypeVar("Req", bound=Message)
Resp = TypeVar("Resp", bound=Message)


class Client:
    """A connection to an order engine, safe to share between threads.

    Every method takes a request message, or its fields by name; a lone first string is the shop's id. It answers with
    the response message, and raises an EveropenError where nothing was decided. `timeout_s` is the deadline of the call
    with all its retries; the default is the policy's.

    Where the engine has several workers, calls go straight to the one that hosts their shop, see routing.py;
    `route=False` sends all of them to `target`, as do `credentials`: direct addresses speak plaintext.

    `token` (a JWT) or `api_key` is shown with each call, and sends all to `target` too. A function is asked for it each
    time, so that it may be exchanged; it is called in the thread of the call, and should not wait. Without
    `credentials` they are for this machine alone: nothing secret goes over a network in plaintext.

    The clocks, `sleep` and `random` are arguments so that tests can hold them.
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
        random: Random | None = None,
        now_s: Callable[[], float] = time.monotonic,
        wall_ms: Callable[[], int] = wall_clock_ms,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if credentials is None:
            self._channel = grpc.insecure_channel(target, plain_options(target))
        else:
            self._channel = grpc.secure_channel(target, credentials, CHANNEL_OPTIONS)
        self._stubs = stubs_of(signed(self._channel, target, credentials is not None, token, api_key))
        # Direct addresses speak plaintext, and are not where the secret was said to go.
        route = route and credentials is None and token is None and api_key is None
        self._routes = BlockingRoutes(target, now_s, self._stubs[CLUSTER], enabled=route)
        # A client that nobody closes must not leave its thread behind.
        self._end_routes = weakref.finalize(self, self._routes.close)
        self._policy = policy or RetryPolicy()
        self._random = random or Random()  # noqa: S311 - spaces retries; nothing here is a secret
        self._now_s = now_s
        self._wall_ms = wall_ms
        self._sleep = sleep

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._end_routes()
        self._channel.close()

    def wait_for_server(self, timeout_s: float) -> None:
        """Returns once a connection stands; raises grpc.FutureTimeoutError when none did in time."""
        grpc.channel_ready_future(self._channel).result(timeout_s)

    def place_order(
        self,
        request: PlaceOrderRequest | str | None = None,
        /,
        *,
        timeout_s: float | None = None,
        **fields: Unpack[PlaceOrderFields],
    ) -> PlaceOrderResponse:
        """Places an order, all lines or none."""
        return self._call(methods.PLACE_ORDER, request, fields, timeout_s)

    def pay_order(
        self,
        request: PayOrderRequest | str | None = None,
        /,
        *,
        timeout_s: float | None = None,
        **fields: Unpack[PayOrderFields],
    ) -> PayOrderResponse:
        """Records a payment; what cannot be used becomes refund due."""
        return self._call(methods.PAY_ORDER, request, fields, timeout_s)

    def cancel_order(
        self,
        request: CancelOrderRequest | str | None = None,
        /,
        *,
        timeout_s: float | None = None,
        **fields: Unpack[CancelOrderFields],
    ) -> CancelOrderResponse:
        """Cancels open units: those of `lines`, or all."""
        return self._call(methods.CANCEL_ORDER, request, fields, timeout_s)

    def ship_order(
        self,
        request: ShipOrderRequest | str | None = None,
        /,
        *,
        timeout_s: float | None = None,
        **fields: Unpack[ShipOrderFields],
    ) -> ShipOrderResponse:
        """Ships reserved units of a paid order: those of `lines`, or all."""
        return self._call(methods.SHIP_ORDER, request, fields, timeout_s)

    def deliver_order(
        self,
        request: DeliverOrderRequest | str | None = None,
        /,
        *,
        timeout_s: float | None = None,
        **fields: Unpack[DeliverOrderFields],
    ) -> DeliverOrderResponse:
        """Marks shipped units as delivered: those of `lines`, or all."""
        return self._call(methods.DELIVER_ORDER, request, fields, timeout_s)

    def return_order(
        self,
        request: ReturnOrderRequest | str | None = None,
        /,
        *,
        timeout_s: float | None = None,
        **fields: Unpack[ReturnOrderFields],
    ) -> ReturnOrderResponse:
        """Takes shipped units back: those of `lines`, or all."""
        return self._call(methods.RETURN_ORDER, request, fields, timeout_s)

    def settle_refund(
        self,
        request: SettleRefundRequest | str | None = None,
        /,
        *,
        timeout_s: float | None = None,
        **fields: Unpack[SettleRefundFields],
    ) -> SettleRefundResponse:
        """Records that refund due was paid out: amount_minor of it, or all."""
        return self._call(methods.SETTLE_REFUND, request, fields, timeout_s)

    def get_order(
        self,
        request: GetOrderRequest | str | None = None,
        /,
        *,
        timeout_s: float | None = None,
        **fields: Unpack[GetOrderFields],
    ) -> GetOrderResponse:
        """The order as of the newest durable sequence."""
        return self._call(methods.GET_ORDER, request, fields, timeout_s)

    def put_shop(
        self,
        request: PutShopRequest | str | None = None,
        /,
        *,
        timeout_s: float | None = None,
        **fields: Unpack[PutShopFields],
    ) -> PutShopResponse:
        """Makes a shop, or replaces its settings."""
        return self._call(methods.PUT_SHOP, request, fields, timeout_s)

    def put_location(
        self,
        request: PutLocationRequest | str | None = None,
        /,
        *,
        timeout_s: float | None = None,
        **fields: Unpack[PutLocationFields],
    ) -> PutLocationResponse:
        """Makes a location, or replaces its settings."""
        return self._call(methods.PUT_LOCATION, request, fields, timeout_s)

    def put_sku(
        self,
        request: PutSkuRequest | str | None = None,
        /,
        *,
        timeout_s: float | None = None,
        **fields: Unpack[PutSkuFields],
    ) -> PutSkuResponse:
        """Makes a SKU, or replaces its settings."""
        return self._call(methods.PUT_SKU, request, fields, timeout_s)

    def adjust_stock(
        self,
        request: AdjustStockRequest | str | None = None,
        /,
        *,
        timeout_s: float | None = None,
        **fields: Unpack[AdjustStockFields],
    ) -> AdjustStockResponse:
        """Restocks, corrects or counts a SKU at a location."""
        return self._call(methods.ADJUST_STOCK, request, fields, timeout_s)

    def transfer_stock(
        self,
        request: TransferStockRequest | str | None = None,
        /,
        *,
        timeout_s: float | None = None,
        **fields: Unpack[TransferStockFields],
    ) -> TransferStockResponse:
        """Moves available stock between two locations, atomically."""
        return self._call(methods.TRANSFER_STOCK, request, fields, timeout_s)

    def get_stock(
        self,
        request: GetStockRequest | str | None = None,
        /,
        *,
        timeout_s: float | None = None,
        **fields: Unpack[GetStockFields],
    ) -> GetStockResponse:
        """Stock of a SKU, in total and per location, as of the newest durable sequence."""
        return self._call(methods.GET_STOCK, request, fields, timeout_s)

    def batch_put_shops(
        self, requests: Iterable[PutShopRequest], *, timeout_s: float | None = None
    ) -> list[PutShopResponse | EveropenError]:
        return self._call_batch(methods.BATCH_PUT_SHOPS, requests, timeout_s)

    def batch_put_locations(
        self, requests: Iterable[PutLocationRequest], *, timeout_s: float | None = None
    ) -> list[PutLocationResponse | EveropenError]:
        return self._call_batch(methods.BATCH_PUT_LOCATIONS, requests, timeout_s)

    def batch_put_skus(
        self, requests: Iterable[PutSkuRequest], *, timeout_s: float | None = None
    ) -> list[PutSkuResponse | EveropenError]:
        return self._call_batch(methods.BATCH_PUT_SKUS, requests, timeout_s)

    def batch_adjust_stock(
        self, requests: Iterable[AdjustStockRequest], *, timeout_s: float | None = None
    ) -> list[AdjustStockResponse | EveropenError]:
        return self._call_batch(methods.BATCH_ADJUST_STOCK, requests, timeout_s)

    def batch_transfer_stock(
        self, requests: Iterable[TransferStockRequest], *, timeout_s: float | None = None
    ) -> list[TransferStockResponse | EveropenError]:
        return self._call_batch(methods.BATCH_TRANSFER_STOCK, requests, timeout_s)

    def batch_get_stock(
        self, requests: Iterable[GetStockRequest], *, timeout_s: float | None = None
    ) -> list[GetStockResponse | EveropenError]:
        return self._call_batch(methods.BATCH_GET_STOCK, requests, timeout_s)

    def place_orders(
        self, orders: Iterable[PlaceOrderRequest], *, timeout_s: float | None = None
    ) -> list[PlaceOrderResponse | EveropenError]:
        """Places many orders over one stream: an answer or an error for each, in their order.

        What was not decided is tried again; `timeout_s` is for all of them together.
        """
        requests = list(methods.stamped(orders, self._wall_ms()))
        attempts = Attempts(self._policy, self._now_s, self._random, timeout_s)
        answers: dict[int, PlaceOrderResponse | EveropenError] = {}
        waiting = list(range(len(requests)))
        while waiting:
            at_main = self._try_orders(requests, waiting, attempts.remaining_s(), answers)
            failed = {index: error for index in waiting if isinstance(error := answers[index], EveropenError)}
            waiting = [index for index, error in failed.items() if index in at_main or may_repeat(error, True)]
            # The server's longest wish is the one that counts, because all go again together.
            errors = [failed[index] for index in waiting if index not in at_main]
            slowest = max(errors, key=lambda error: error.retry_after_s or 0.0, default=None)
            if slowest is None:
                continue
            wait_s = attempts.wait_s(slowest, True)
            if wait_s is not None:
                self._sleep(wait_s)
            else:
                waiting = [index for index in waiting if index in at_main]
        return [answers[index] for index in range(len(requests))]

    def _try_orders(
        self,
        requests: list[PlaceOrderRequest],
        waiting: list[int],
        timeout_s: float,
        answers: dict[int, PlaceOrderResponse | EveropenError],
    ) -> set[int]:
        """Sends those that wait over one stream for each worker. Returns which have their turn at the main address.

        All streams are over when it returns, so orders of one shop are never under way on two.
        """
        at_main: set[int] = set()
        streams = []
        for direct, places in self._routes.split([requests[index].shop_id for index in waiting]):
            indexes = [waiting[place] for place in places]
            batches = list(methods.split(requests[index] for index in indexes))
            stubs = direct.stubs if direct is not None else self._stubs
            messages = (PlaceOrdersRequest(orders=batch) for batch in batches)
            streams.append((direct, indexes, batches, stubs[methods.ORDERS].PlaceOrders(messages, timeout=timeout_s)))
        try:
            for direct, indexes, batches, call in streams:
                answered, failure = read_answers(call, batches)
                answers.update(zip(indexes, answered, strict=False))
                unanswered = indexes[len(answered) :]
                answers.update(dict.fromkeys(unanswered, failure))
                if direct is not None and unanswered and self._routes.failed(direct, failure):
                    at_main.update(unanswered)
        finally:
            for direct, _, _, call in streams:
                call.cancel()  # Only matters where something else ended the reading.
                if direct is not None:
                    self._routes.release(direct)
        return at_main

    def _call(
        self,
        method: Method[Req, Resp],
        given: Req | str | None,
        fields: Mapping[str, Any],
        timeout_s: float | None,
    ) -> Resp:
        request = methods.make_request(method.request, given, fields, self._wall_ms())
        return cast(Resp, self._send(method.service, method.name, request, timeout_s))

    def _call_batch(
        self, method: BatchMethod[Req, Resp], requests: Iterable[Req], timeout_s: float | None
    ) -> list[Resp | EveropenError]:
        """Items that fail come as errors; where a whole message fails, each of its items does."""
        results: list[Resp | EveropenError] = []
        for batch in methods.split(methods.stamped(requests, self._wall_ms())):
            message = method.request(requests=batch)
            try:
                answer = self._send(method.service, method.name, message, timeout_s)
                results += methods.unpack(answer.results, len(batch))
            except EveropenError as error:
                results += [error] * len(batch)
        return results

    def _send(self, service: str, name: str, request: Message, timeout_s: float | None) -> Any:
        attempts = Attempts(self._policy, self._now_s, self._random, timeout_s)
        repeatable = methods.is_repeatable(request)
        while True:
            # What could not be repeated at the main address goes there in the first place.
            direct = self._routes.take_for(request) if repeatable else None
            stubs = direct.stubs if direct is not None else self._stubs
            try:
                return getattr(stubs[service], name)(request, timeout=attempts.remaining_s())
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
            self._sleep(wait_s)


def read_answers(
    call: Any, batches: list[list[PlaceOrderRequest]]
) -> tuple[list[PlaceOrderResponse | EveropenError], EveropenError]:
    """What a stream answers, and the error of all that it left unanswered."""
    answers: list[PlaceOrderResponse | EveropenError] = []
    failure = error_of_code(grpc.StatusCode.UNAVAILABLE, "the server ended the stream before it answered")
    try:
        for response, batch in zip(call, batches, strict=False):
            answers += methods.unpack(response.results, len(batch))
    except grpc.RpcError as rpc_error:
        failure = error_of_rpc(rpc_error)
    except EveropenError as error:
        call.cancel()
        failure = error
    return answers, failure
