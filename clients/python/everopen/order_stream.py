"""Gathers the orders of many callers into batches over one long-lived PlaceOrders stream.

An order that finds the stream idle is sent at once. While `batches_in_flight` batches are unanswered, orders gather,
and the next answer sends them together: the batch grows with the load, and no timer delays anyone.

The queue is first in, first out, and the server decides the orders of a stream in their order. When the stream breaks,
what was sent and not answered is sent again before everything else, with the same ids and in the same order; so an
order that was decided gets its original answer, and orders of one shop are not decided out of order. Only an order that
the server shed by itself (RESOURCE_EXHAUSTED) waits aside and may fall behind later ones.

There is one of these for each worker; order_streams.py has them all. When another address becomes the better one for
its worker, the stream waits for what is in flight, ends, and goes on there.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from random import Random
from typing import Protocol, TypeAlias

import grpc

from everopen import methods
from everopen.errors import EveropenError, error_of_code, error_of_rpc
from everopen.retry import RetryPolicy, may_repeat
from everopen.v1.order_service_pb2 import (
    PlaceOrderRequest,
    PlaceOrderResponse,
    PlaceOrdersRequest,
    PlaceOrdersResponse,
)

PlaceOrdersCall: TypeAlias = grpc.aio.StreamStreamCall[PlaceOrdersRequest, PlaceOrdersResponse]


@dataclass(slots=True, eq=False)
class Waiting:
    """An order that has no answer yet."""

    request: PlaceOrderRequest
    size_bytes: int
    future: asyncio.Future[PlaceOrderResponse]
    deadline_s: float
    failures: int = 0


@dataclass(slots=True, eq=False)
class Batch:
    """Orders that were sent together and have no answer yet."""

    orders: list[Waiting]
    watchdog: asyncio.TimerHandle
    sent_at_s: float


class Way(Protocol):
    """Where the stream goes."""

    def open(self) -> PlaceOrdersCall: ...

    def is_outdated(self) -> bool:
        """Whether another address is now better than that of the open stream."""

    def leave(self, error: EveropenError | None) -> bool:
        """The stream is over; error: what broke it. Returns whether to go on elsewhere at once."""


class OrderStream:
    """One stream and the orders that wait for it; belongs to one event loop."""

    def __init__(
        self,
        way: Way,
        *,
        settled: Callable[[Waiting], None],
        policy: RetryPolicy,
        random: Random,
        now_s: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]],
        batches_in_flight: int = 1,
        on_batch: Callable[[int, float], None] | None = None,
    ) -> None:
        """settled is told of each order that will not be sent (again). on_batch learns of each answered batch: how many
        orders it held, and how many seconds its answer took."""
        self._way = way
        self._settled = settled
        self._policy = policy
        self._random = random
        self._now_s = now_s
        self._sleep = sleep
        self._batches_in_flight_max = batches_in_flight
        self._on_batch = on_batch
        self._queue: deque[Waiting] = deque()
        self._in_flight: deque[Batch] = deque()
        self._changed = asyncio.Event()
        self._failures = 0
        self._moving = False
        # Whether the stream that is open has answered anything.
        self._answered = False
        self._runner: asyncio.Task[None] | None = None
        self._shed: set[asyncio.Task[None]] = set()

    def put(self, waiting: Waiting) -> None:
        """Orders go in the order in which they are put. Cancelling the future withdraws the order if it was not sent
        yet, and otherwise only drops its answer. After its deadline it is not sent (again)."""
        self._queue.append(waiting)
        self._changed.set()
        if self._runner is None or self._runner.done():
            self._runner = asyncio.create_task(self._run(), name="everopen-orders")

    def wake(self) -> None:
        """The way may be outdated."""
        self._changed.set()

    @property
    def is_idle(self) -> bool:
        return not self._queue and not self._in_flight and not self._shed

    async def close(self) -> None:
        """Ends the stream. Orders that still wait fail with Unavailable: their result is unknown."""
        tasks = [task for task in (self._runner, *self._shed) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._fail_all(error_of_code(grpc.StatusCode.UNAVAILABLE, "the client was closed"))

    async def _run(self) -> None:
        """Stream after stream, as long as there are orders to send."""
        try:
            while True:
                await self._until(lambda: bool(self._queue))
                error: EveropenError | None = None
                elsewhere = True
                call = self._way.open()
                try:
                    error = await self._serve(call)
                finally:
                    # A token that was good expires on a stream that stays: the next one shows what there is by then.
                    expired = error is not None and error.code == grpc.StatusCode.UNAUTHENTICATED and self._answered
                    elsewhere = self._way.leave(error) or expired
                if error is not None:
                    await self._sleep(self._recover(error, elsewhere))
        except Exception as bug:
            # Whoever waits must not wait for a task that is gone.
            self._fail_all(error_of_code(grpc.StatusCode.INTERNAL, f"the order stream failed: {bug!r}"))
            raise

    async def _serve(self, call: PlaceOrdersCall) -> EveropenError | None:
        """Uses one stream until it breaks; returns why it did, or None if it is to go on elsewhere, with nothing in
        flight."""
        self._moving = self._answered = False
        writer = asyncio.create_task(self._write(call), name="everopen-orders-writer")
        try:
            return await self._read(call)
        except grpc.RpcError as rpc_error:
            error = error_of_rpc(rpc_error)
            # grpc.aio reports a write into a broken connection as its own INTERNAL, over the status that broke it.
            if error.code == grpc.StatusCode.INTERNAL and writer.done() and not writer.cancelled() and writer.result():
                return error_of_code(grpc.StatusCode.UNAVAILABLE, "the connection broke while orders were sent")
            return error
        except EveropenError as error:
            return error
        except asyncio.CancelledError:
            # grpc.aio cancels the reader when the call is cancelled, which the watchdog does and a proxy may do.
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            if self._moving:
                return None
            return error_of_code(grpc.StatusCode.UNAVAILABLE, "the stream was cancelled before it answered")
        finally:
            writer.cancel()
            call.cancel()
            await asyncio.gather(writer, return_exceptions=True)

    async def _write(self, call: PlaceOrdersCall) -> bool:
        """Ends when the call does; returns whether a write failed while the call was open."""
        while True:
            await self._until(self._may_write)
            if self._way.is_outdated():
                self._moving = True
                call.cancel()
                return False
            batch = self._take_batch(call)
            if batch is None:
                continue
            self._in_flight.append(batch)
            try:
                await call.write(PlaceOrdersRequest(orders=[waiting.request for waiting in batch.orders]))
            except asyncio.InvalidStateError:
                return False  # The call is over; its reader learns why.
            except grpc.RpcError:
                return True

    def _may_write(self) -> bool:
        """Also true when the stream is to go on elsewhere, and may."""
        if self._way.is_outdated():
            return not self._in_flight
        return bool(self._queue) and len(self._in_flight) < self._batches_in_flight_max

    async def _read(self, call: PlaceOrdersCall) -> EveropenError:
        while True:
            response = await call.read()
            if not isinstance(response, PlaceOrdersResponse):
                return error_of_code(grpc.StatusCode.UNAVAILABLE, "the server ended the stream")
            self._answer(response)

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._changed.clear()
            await self._changed.wait()

    def _take_batch(self, call: PlaceOrdersCall) -> Batch | None:
        """The orders that go next; those that nobody waits for any more are left out."""
        now_s = self._now_s()
        orders: list[Waiting] = []
        size_bytes = 0
        while self._queue and len(orders) < methods.BATCH_ITEMS_MAX:
            waiting = self._queue[0]
            if orders and size_bytes + waiting.size_bytes > methods.BATCH_BYTES_MAX:
                break
            self._queue.popleft()
            if waiting.deadline_s <= now_s:
                self._fail(waiting, error_of_code(grpc.StatusCode.DEADLINE_EXCEEDED, "the order was not sent in time"))
            elif waiting.future.done():
                self._settled(waiting)
            else:
                orders.append(waiting)
                size_bytes += waiting.size_bytes
        if not orders:
            return None
        # A stream that hangs would block every later order; its callers have given up by then.
        watchdog = asyncio.get_running_loop().call_later(self._policy.timeout_s, call.cancel)
        return Batch(orders, watchdog, now_s)

    def _answer(self, response: PlaceOrdersResponse) -> None:
        if not self._in_flight:
            raise error_of_code(grpc.StatusCode.INTERNAL, "the server answered what was not asked")
        answers = methods.unpack(response.results, len(self._in_flight[0].orders))
        batch = self._in_flight.popleft()
        batch.watchdog.cancel()
        self._failures = 0
        self._answered = True
        if self._on_batch is not None:
            self._on_batch(len(batch.orders), self._now_s() - batch.sent_at_s)
        shed: list[tuple[Waiting, EveropenError]] = []
        for waiting, answer in zip(batch.orders, answers, strict=True):
            if not isinstance(answer, EveropenError):
                if not waiting.future.done():
                    waiting.future.set_result(answer)
                self._settled(waiting)
            elif may_repeat(answer, True):
                shed.append((waiting, answer))
            else:
                self._fail(waiting, answer)
        if shed:
            task = asyncio.create_task(self._repeat_later(shed), name="everopen-orders-shed")
            self._shed.add(task)
            task.add_done_callback(self._shed.discard)
        self._changed.set()

    async def _repeat_later(self, shed: list[tuple[Waiting, EveropenError]]) -> None:
        """Orders that one batch got back wait together, so that they go again in their order."""
        wait_s = 0.0
        for waiting, error in shed:
            waiting.failures += 1
            drawn_s = self._policy.wait_s(waiting.failures, self._random)
            wait_s = max(wait_s, (error.retry_after_s or 0.0) + drawn_s)
        resumes_at_s = self._now_s() + wait_s
        again = [waiting for waiting, error in shed if not self._give_up(waiting, error, resumes_at_s)]
        try:
            await self._sleep(wait_s)
        finally:
            # Also when the client is closed meanwhile: whoever is in the queue is told so.
            self._queue.extendleft(reversed(again))
            self._changed.set()

    def _give_up(self, waiting: Waiting, error: EveropenError, resumes_at_s: float) -> bool:
        if waiting.deadline_s > resumes_at_s and not self._policy.is_spent(waiting.failures, error):
            return False
        self._fail(waiting, error)
        return True

    def _recover(self, error: EveropenError, elsewhere: bool) -> float:
        """Puts what the broken stream left unanswered first in the queue again. Returns the wait in seconds."""
        unanswered = [waiting for batch in self._in_flight for waiting in batch.orders]
        self._forget_in_flight()
        if elsewhere:
            self._queue.extendleft(reversed(unanswered))
            return 0.0
        self._failures += 1
        wait_s = (max(0.0, error.retry_after_s or 0.0)) + self._policy.wait_s(self._failures, self._random)
        if not may_repeat(error, True):
            for waiting in unanswered:
                self._fail(waiting, error)
            return wait_s
        for waiting in unanswered:
            waiting.failures += 1
        resumes_at_s = self._now_s() + wait_s
        again = [*unanswered, *self._queue]
        self._queue = deque(waiting for waiting in again if not self._give_up(waiting, error, resumes_at_s))
        return wait_s

    def _forget_in_flight(self) -> None:
        for batch in self._in_flight:
            batch.watchdog.cancel()
        self._in_flight.clear()

    def _fail_all(self, error: EveropenError) -> None:
        for waiting in [*(waiting for batch in self._in_flight for waiting in batch.orders), *self._queue]:
            self._fail(waiting, error)
        self._forget_in_flight()
        self._queue.clear()

    def _fail(self, waiting: Waiting, error: EveropenError) -> None:
        if not waiting.future.done():
            waiting.future.set_exception(error)
        self._settled(waiting)
