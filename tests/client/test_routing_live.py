"""The client's routes against an engine of two workers and two shards."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

import everopen
from engine.local import LocalEngine, audit
from everopen.channels import CLUSTER
from everopen.routing import crc32c
from everopen.v1.cluster_pb2 import WorkerState
from everopen.v1.cluster_service_pb2 import GetWorkersRequest, WorkerInfo
from everopen.v1.order_service_pb2 import PlaceOrderLine, PlaceOrderRequest
from tests.client.fake import PATIENCE_S, until
from tests.client.test_against_engine import stock_tea

pytestmark = pytest.mark.native

TWO = ("--workers", "2", "--shards", "2", "--followers", "0")
# Two of each shard; worker 0 hosts the first, worker 1 the second.
SHOPS = [[f"shop-{n}" for n in range(40) if crc32c(f"shop-{n}") % 1024 // 512 == shard][:2] for shard in range(2)]
ALL_SHOPS = [*SHOPS[0], *SHOPS[1]]


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[LocalEngine]:
    with LocalEngine(tmp_path / "data", arguments=TWO) as engine:
        with everopen.connect(engine.address, route=False) as client:
            for shop_id in ALL_SHOPS:
                stock_tea(client, shop_id, units=1_000_000)
        yield engine


async def workers_of(client: everopen.AsyncClient) -> list[WorkerInfo]:
    answer = await client._stubs[CLUSTER].GetWorkers(GetWorkersRequest(), timeout=PATIENCE_S)
    return list(answer.workers)


async def count(client: everopen.AsyncClient, name: str) -> list[int]:
    return [worker.counters[name] for worker in await workers_of(client)]


async def routed(client: everopen.AsyncClient) -> None:
    """Returns once calls go to both workers directly."""
    client._routes.begin()
    await until(lambda: all(client._routes.direct(client._routes.home(shop_id)) for shop_id in ALL_SHOPS))


async def use(client: everopen.AsyncClient, names: Iterator[int]) -> None:
    """A unary call and a batched order of each shop, at the same time."""

    async def one(shop_id: str, name: str) -> None:
        answer = await client.place_order(shop_id, order_id=name, buyer_id="mei", lines=[("tea", 1)])
        assert answer.outcome == everopen.PLACED
        assert (await client.get_order(shop_id, order_id=name)).order.order_id == name

    await asyncio.gather(*(one(shop_id, f"o{next(names)}") for shop_id in ALL_SHOPS))


async def test_routed_calls_need_no_hop_and_others_do(engine: LocalEngine) -> None:
    names = itertools.count()
    async with (
        everopen.AsyncClient(engine.address) as client,
        everopen.AsyncClient(engine.address, route=False) as plain,
    ):
        await routed(client)
        sent, executed = await count(client, "jobs_sent"), await count(client, "commands_executed")
        for _ in range(10):
            await use(client, names)
        assert await count(client, "jobs_sent") == sent
        for before, after in zip(executed, await count(client, "commands_executed"), strict=True):
            assert after >= before + 20, "each worker has two shops"
        await use(plain, names)
        assert sum(await count(client, "jobs_sent")) > sum(sent)


async def test_killed_worker_costs_no_call_of_a_client_that_retries(engine: LocalEngine) -> None:
    names = itertools.count()
    policy = everopen.RetryPolicy(timeout_s=PATIENCE_S)
    killed: set[int] = set()
    done = threading.Event()
    tea = PlaceOrderLine(sku_id="tea", quantity=1)

    async with everopen.AsyncClient(engine.address, policy=policy) as client:
        await routed(client)

        async def caller() -> None:
            while not done.is_set():
                await use(client, names)

        async def kill(number: int) -> None:
            pid = (await workers_of(client))[number].pid
            os.kill(pid, signal.SIGKILL)
            killed.add(pid)
            while not await is_back(number):  # noqa: ASYNC110 - only the engine knows, and it has to be asked
                await asyncio.sleep(0.02)
            await routed(client)

        async def is_back(number: int) -> bool:
            try:
                worker = (await workers_of(client))[number]
            except grpc.RpcError:
                return False  # The main connection was to the one that is gone.
            return worker.pid not in {0, *killed} and worker.state == WorkerState.WORKER_STATE_SERVING

        def blocking_caller() -> None:
            with everopen.connect(engine.address, policy=policy) as blocking:
                while not done.is_set():
                    orders = [
                        PlaceOrderRequest(shop_id=shop_id, order_id=f"o{next(names)}", buyer_id="mei", lines=[tea])
                        for shop_id in ALL_SHOPS
                    ]
                    answers = everopen.or_raise(blocking.place_orders(orders))
                    assert [answer.outcome for answer in answers] == [everopen.PLACED] * len(orders)
                    assert blocking.get_order(ALL_SHOPS[0], order_id=orders[0].order_id).order.order_id

        callers = [asyncio.create_task(caller()) for _ in range(4)]
        callers.append(asyncio.create_task(asyncio.to_thread(blocking_caller)))
        async with asyncio.timeout(3 * PATIENCE_S):
            for number in (1, 0):
                await kill(number)
                await use(client, names)
            done.set()
            await asyncio.gather(*callers)
        assert len(killed) == 2
    with everopen.connect(engine.address) as client_after:
        placed = sum(client_after.get_stock(shop_id, sku_id="tea").reserved for shop_id in ALL_SHOPS)
    assert placed == next(names), "every order was placed once"
    engine.stop()
    assert audit(engine.data_dir).holds
