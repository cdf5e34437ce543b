"""One OrderStream for each worker, and which shop's orders go through which.

The orders of one shop are never under way on two streams, because nothing would keep their order. When the map gives a
shop another home, its later orders are held until those before them are answered; other shops notice nothing.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Any

import grpc

from everopen import methods
from everopen.errors import EveropenError, error_of_code
from everopen.order_stream import OrderStream, PlaceOrdersCall, Waiting
from everopen.retry import RetryPolicy
from everopen.routing import Direct
from everopen.v1.order_service_pb2 import PlaceOrderRequest, PlaceOrderResponse
from everopen.watching import AsyncRoutes

ORDERS_WAITING_MAX = 8192


class WorkerWay:
    """The streams to one worker: to its direct address while that can be used, and else to the main one."""

    def __init__(self, routes: AsyncRoutes, address: str, main: dict[str, Any]) -> None:
        self._routes = routes
        self._address = address
        self._main = main
        self._direct: Direct | None = None

    def open(self) -> PlaceOrdersCall:
        self._direct = self._routes.take(self._address)
        stubs = self._direct.stubs if self._direct is not None else self._main
        call: PlaceOrdersCall = stubs[methods.ORDERS].PlaceOrders()
        return call

    def is_outdated(self) -> bool:
        return self._routes.direct(self._address) is not self._direct

    def leave(self, error: EveropenError | None) -> bool:
        direct, self._direct = self._direct, None
        if direct is None:
            return False
        elsewhere = error is not None and self._routes.failed(direct, error)
        self._routes.release(direct)
        return elsewhere


@dataclass(slots=True)
class Shop:
    """A shop with orders that have no answer yet."""

    # Names the stream that they are on.
    address: str
    unanswered: int = 0
    # Those that wait for the unanswered ones, to go another way.
    held: deque[Waiting] = field(default_factory=deque)


class OrderStreams:
    """All streams of a client; belongs to one event loop."""

    def __init__(
        self,
        routes: AsyncRoutes,
        main: dict[str, Any],
        *,
        policy: RetryPolicy,
        random: Random,
        now_s: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]],
        batches_in_flight: int,
        orders_waiting_max: int,
        on_batch: Callable[[int, float], None] | None,
    ) -> None:
        """main: the stubs of the main address."""
        self._routes = routes
        self._main = main
        self._make_stream = partial(
            OrderStream,
            settled=self._settled,
            policy=policy,
            random=random,
            now_s=now_s,
            sleep=sleep,
            batches_in_flight=batches_in_flight,
            on_batch=on_batch,
        )
        # By the address of the worker.
        self._streams: dict[str, OrderStream] = {}
        self._shops: dict[str, Shop] = {}
        # Room for orders, from the moment a caller brings one until it is answered.
        self._room = asyncio.Semaphore(orders_waiting_max)
        routes.on_change = self._routes_changed

    async def enqueue(self, request: PlaceOrderRequest, deadline_s: float) -> asyncio.Future[PlaceOrderResponse]:
        """Waits for room, then returns the future of the answer; see OrderStream.put."""
        self._routes.begin()
        await self._room.acquire()
        future: asyncio.Future[PlaceOrderResponse] = asyncio.get_running_loop().create_future()
        future.add_done_callback(self._release)
        waiting = Waiting(request, request.ByteSize() + methods.ITEM_OVERHEAD_BYTES, future, deadline_s)
        home = self._routes.home(request.shop_id)
        shop = self._shops.get(request.shop_id)
        if shop is None:
            shop = self._shops[request.shop_id] = Shop(home)
        if shop.held or shop.address != home:
            shop.held.append(waiting)
        else:
            self._put(shop, waiting)
        return future

    async def close(self) -> None:
        """Ends the streams. Orders that still wait fail with Unavailable: their result is unknown."""
        error = error_of_code(grpc.StatusCode.UNAVAILABLE, "the client was closed")
        for shop in self._shops.values():
            for waiting in shop.held:
                if not waiting.future.done():
                    waiting.future.set_exception(error)
            shop.held.clear()
        for stream in list(self._streams.values()):
            await stream.close()

    def _release(self, _: asyncio.Future[PlaceOrderResponse]) -> None:
        self._room.release()

    def _put(self, shop: Shop, waiting: Waiting) -> None:
        stream = self._streams.get(shop.address)
        if stream is None:
            stream = self._streams[shop.address] = self._make_stream(WorkerWay(self._routes, shop.address, self._main))
        shop.unanswered += 1
        stream.put(waiting)

    def _settled(self, waiting: Waiting) -> None:
        shop_id = waiting.request.shop_id
        shop = self._shops[shop_id]
        shop.unanswered -= 1
        if shop.unanswered:
            return
        if shop.held:
            # Later, because the stream that tells is in the middle of its work.
            asyncio.get_running_loop().call_soon(self._move, shop_id, shop)
        else:
            del self._shops[shop_id]

    def _move(self, shop_id: str, shop: Shop) -> None:
        shop.address = self._routes.home(shop_id)
        held, shop.held = shop.held, deque()
        for waiting in held:
            self._put(shop, waiting)
        if not held:
            del self._shops[shop_id]

    def _routes_changed(self) -> None:
        for address, stream in list(self._streams.items()):
            if stream.is_idle and not self._routes.names(address):
                del self._streams[address]
                self._routes.start(stream.close())
            else:
                stream.wake()
