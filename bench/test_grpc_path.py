"""The whole path over gRPC: an order from a client, through a real server process and its synced log, to the answer.

Load: orders of one line for one of 100 SKUs with ample stock, distinct order ids, one client process beside the server
on the same machine. Excluded: catalogue, first connection. Included: all that the Python client costs, which is more
than the server does; `stream` sends batches that were encoded beforehand and leaves the client out as far as it goes.
Checks: every order is acknowledged PLACED, the stock has reserved as many, and after the engine stopped, the audit
holds and the log has them all.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

import everopen
from bench.conftest import TINY, Figures
from engine.demo import placed_in_log
from engine.latency import Latencies
from engine.local import LocalEngine, audit
from everopen.v1.inventory_service_pb2 import AdjustStockRequest, GetStockRequest, PutSkuRequest
from everopen.v1.order_service_pb2 import (
    PlaceOrderLine,
    PlaceOrderRequest,
    PlaceOrdersRequest,
    PlaceOrdersResponse,
)

SHOP_ID, LOCATION_ID = "bench", "hangzhou"
SKU_IDS = [f"sku-{number:03}" for number in range(100)]
ROUNDS = 1 if TINY else 3


class Bench:
    """An engine with a catalogue, and the number of orders that it acknowledged."""

    def __init__(self, engine: LocalEngine) -> None:
        self.engine = engine
        self.placed = 0
        self._named = 0
        with everopen.connect(engine.address) as client:
            client.put_shop(SHOP_ID)
            client.put_location(SHOP_ID, location_id=LOCATION_ID)
            puts = [PutSkuRequest(shop_id=SHOP_ID, sku_id=sku_id, price_minor=100) for sku_id in SKU_IDS]
            everopen.or_raise(client.batch_put_skus(puts))
            everopen.or_raise(client.batch_adjust_stock([self._restock(sku_id) for sku_id in SKU_IDS]))

    @staticmethod
    def _restock(sku_id: str) -> AdjustStockRequest:
        return AdjustStockRequest(
            adjustment_id=sku_id, shop_id=SHOP_ID, sku_id=sku_id, location_id=LOCATION_ID, delta=10**9
        )

    def orders(self, count: int) -> list[PlaceOrderRequest]:
        """Orders that were not sent before."""
        numbers = range(self._named, self._named + count)
        self._named += count
        return [
            PlaceOrderRequest(
                order_id=f"order-{number:012}",
                shop_id=SHOP_ID,
                buyer_id=f"b{number % 10_000:07}",
                lines=[PlaceOrderLine(sku_id=SKU_IDS[number % len(SKU_IDS)], quantity=1)],
            )
            for number in numbers
        ]

    def check(self) -> None:
        """The stock has reserved one unit for each order that was acknowledged."""
        with everopen.connect(self.engine.address) as client:
            reads = [GetStockRequest(shop_id=SHOP_ID, sku_id=sku_id) for sku_id in SKU_IDS]
            reserved = sum(answer.reserved for answer in everopen.or_raise(client.batch_get_stock(reads)))
        assert reserved == self.placed


@pytest.fixture(scope="module")
def bench(data_dir: Path) -> Iterator[Bench]:
    log_dir = data_dir / "data"
    with LocalEngine(log_dir) as engine:
        bench = Bench(engine)
        yield bench
    verdict = audit(log_dir)
    assert verdict.holds, verdict.text
    assert placed_in_log(log_dir) == bench.placed


def measure(bench: Bench, benchmark: BenchmarkFixture, figures: Figures, name: str, run: Run, count: int) -> None:
    """Rounds of `count` orders each, each in an event loop of its own with a warm connection."""
    latencies = Latencies()
    seconds = 0.0

    def round_of(orders: list[PlaceOrderRequest]) -> None:
        nonlocal seconds
        placed, took_s = asyncio.run(run(bench.engine.address, orders, latencies))
        bench.placed += placed
        seconds += took_s
        assert placed == len(orders)

    benchmark.pedantic(  # type: ignore[no-untyped-call]
        round_of, setup=lambda: ((bench.orders(count),), {}), rounds=ROUNDS
    )
    bench.check()
    figures.add(name, count * ROUNDS, "orders", seconds, latencies)


class Run:
    """How orders are sent: `callers` send one after another, each waiting for its answer."""

    def __init__(self, callers: int, batch_orders: bool) -> None:
        self.callers = callers
        self.batch_orders = batch_orders

    async def __call__(self, address: str, orders: list[PlaceOrderRequest], latencies: Latencies) -> tuple[int, float]:
        async with everopen.AsyncClient(address, batch_orders=self.batch_orders) as client:
            await client.wait_for_server(10)
            waiting = iter(orders)
            began_s = time.perf_counter()
            placed = await asyncio.gather(*(self._call(client, waiting, latencies) for _ in range(self.callers)))
            return sum(placed), time.perf_counter() - began_s

    async def _call(
        self, client: everopen.AsyncClient, waiting: Iterator[PlaceOrderRequest], latencies: Latencies
    ) -> int:
        placed = 0
        for order in waiting:
            sent_s = time.perf_counter()
            answer = await client.place_order(order)
            latencies.add(time.perf_counter() - sent_s)
            placed += answer.outcome == everopen.PLACED
        return placed


class Stream(Run):
    """One stream of encoded batches, `window` of them in flight; latencies are those of batches."""

    def __init__(self, batch: int, window: int) -> None:
        self.batch = batch
        self.window = window

    async def __call__(self, address: str, orders: list[PlaceOrderRequest], latencies: Latencies) -> tuple[int, float]:
        batches = [
            PlaceOrdersRequest(orders=orders[begin : begin + self.batch]).SerializeToString()
            for begin in range(0, len(orders), self.batch)
        ]
        async with grpc.aio.insecure_channel(address) as channel:
            await channel.channel_ready()
            answers: list[bytes] = []
            sent_s: list[float] = []
            room = asyncio.Semaphore(self.window)

            async def requests() -> AsyncIterator[bytes]:
                for batch in batches:
                    await room.acquire()
                    sent_s.append(time.perf_counter())
                    yield batch

            place_orders: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(
                "/everopen.v1.OrderService/PlaceOrders"
            )
            began_s = time.perf_counter()
            async for answer in place_orders(requests()):
                latencies.add(time.perf_counter() - sent_s[len(answers)])
                answers.append(answer)
                room.release()
            seconds = time.perf_counter() - began_s
        results = [result for answer in answers for result in PlaceOrdersResponse.FromString(answer).results]
        return sum(result.result.outcome == everopen.PLACED for result in results), seconds


@pytest.mark.parametrize("callers", [1, 8, 64])
def test_unary_orders(bench: Bench, benchmark: BenchmarkFixture, figures: Figures, callers: int) -> None:
    count = 64 if TINY else 4_000
    name = f"unary PlaceOrder, {callers} callers"
    measure(bench, benchmark, figures, name, Run(callers, batch_orders=False), count)


@pytest.mark.parametrize("callers", [1, 64, 1_024])
def test_gathered_orders(bench: Bench, benchmark: BenchmarkFixture, figures: Figures, callers: int) -> None:
    count = 64 if TINY else max(4_000, callers * 20)
    name = f"PlaceOrder gathered by the client, {callers} callers"
    measure(bench, benchmark, figures, name, Run(callers, batch_orders=True), count)


@pytest.mark.parametrize(("batch", "window"), [(64, 1), (1_024, 1), (1_024, 2)])
def test_stream_of_batches(
    bench: Bench, benchmark: BenchmarkFixture, figures: Figures, batch: int, window: int
) -> None:
    count = 64 if TINY else 100 * batch
    name = f"PlaceOrders stream, batches of {batch}, {window} in flight"
    measure(bench, benchmark, figures, name, Stream(batch, window), count)
