"""Calls go to the worker that hosts their shop, and routing never costs a call."""

from __future__ import annotations

import asyncio
import gc
import itertools
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest

import everopen
from everopen import methods
from everopen.routing import AVOID_S_MAX, MAIN, crc32c, direct_address
from everopen.v1.cluster_pb2 import ShardState, WorkerState
from everopen.v1.inventory_service_pb2 import GetStockRequest, GetStockResponse
from everopen.v1.order_service_pb2 import GetOrderResponse, PlaceOrderResponse
from tests.client.cluster import SHOPS, Cluster, get_order, usable
from tests.client.conftest import arguments
from tests.client.fake import Abort, Clock, FakeServer, until

Code = grpc.StatusCode


def test_crc32c_of_known_texts() -> None:
    assert crc32c("123456789") == 0xE3069283
    assert crc32c("\0" * 32) == 0x8A9136AA  # RFC 3720, B.4
    assert crc32c("".join(map(chr, range(32)))) == 0x46DD794E
    assert crc32c("") == 0


@pytest.mark.parametrize(
    ("target", "addresses", "chosen"),
    [
        ("127.0.0.1:7400", ["127.0.0.1:9"], "127.0.0.1:9"),
        ("dns:///shop.example:7400", ["10.0.0.5:9"], "10.0.0.5:9"),
        ("10.0.0.5:7400", ["127.0.0.1:8", "10.0.0.5:9"], "10.0.0.5:9"),
        ("10.0.0.5:7400", ["unix:/run/w", "127.0.0.1:8"], "127.0.0.1:8"),
        ("shop.example:7400", ["0.0.0.0:9"], "shop.example:9"),
        ("[::1]:7400", ["[::]:9"], "[::1]:9"),
        ("xds:shop", ["0.0.0.0:9"], MAIN),
        ("unix:/run/e", ["127.0.0.1:8", "unix:/run/e.worker-0"], "unix:/run/e.worker-0"),
        ("unix:/run/e", ["127.0.0.1:8"], MAIN),
        ("127.0.0.1:7400", ["unix:/run/w"], MAIN),
        ("127.0.0.1:7400", [], MAIN),
    ],
)
def test_direct_address_is_the_one_most_like_the_target(target: str, addresses: list[str], chosen: str) -> None:
    assert direct_address(addresses, target) == chosen


async def test_call_goes_to_main_until_the_map_is_known_and_then_to_the_owner(
    cluster: Cluster, routed: everopen.AsyncClient
) -> None:
    cluster.publish()
    assert await get_order(cluster, routed, SHOPS[0][0]) is cluster.main
    await until(usable(routed, *cluster.workers))
    for worker, shops in enumerate(SHOPS):
        for shop_id in shops[:4]:
            assert await get_order(cluster, routed, shop_id) is cluster.workers[worker]


async def test_batch_of_one_worker_goes_there_and_a_mixed_one_to_main(
    cluster: Cluster, routed: everopen.AsyncClient
) -> None:
    cluster.publish()
    await until(usable(routed, *cluster.workers))
    for shops, server in (SHOPS[1][:2], cluster.workers[1]), ([SHOPS[0][0], SHOPS[1][0]], cluster.main):
        requests = [GetStockRequest(shop_id=shop_id, sku_id="tea") for shop_id in shops]
        call = asyncio.create_task(routed.batch_get_stock(requests))
        got, received = await cluster.take()
        assert got is server
        received.reply_with(methods.BATCH_GET_STOCK.request())  # no result for any: a message without fields
        for error in await call:
            assert isinstance(error, everopen.EveropenError)


async def test_route_false_asks_for_no_map(cluster: Cluster) -> None:
    cluster.publish()
    async with everopen.AsyncClient(cluster.main.address, route=False) as client:
        for shop_id in (SHOPS[0][0], SHOPS[1][0]):
            assert await get_order(cluster, client, shop_id) is cluster.main
    assert cluster.known.watches == 0


async def test_lone_worker_is_served_over_the_main_connection(cluster: Cluster, routed: everopen.AsyncClient) -> None:
    cluster.publish(hosts=(0,), addresses=[cluster.workers[0].address])
    assert await get_order(cluster, routed, SHOPS[0][0]) is cluster.main
    await until(lambda: routed._routes._version == 1)
    assert await get_order(cluster, routed, SHOPS[0][0]) is cluster.main
    assert cluster.known.checks == 0


@pytest.mark.parametrize("repeats", [0, 1_000])
async def test_unavailable_owner_leaves_the_call_to_main_at_once(cluster: Cluster, clock: Clock, repeats: int) -> None:
    policy = everopen.RetryPolicy(unavailable_max=repeats)
    cluster.publish()
    async with everopen.AsyncClient(
        cluster.main.address, policy=policy, sleep=clock.sleep, batch_orders=False, **arguments(clock)
    ) as client:
        await until(usable(client, *cluster.workers))
        call = asyncio.create_task(client.place_order(SHOPS[0][0], order_id="A-1", buyer_id="mei"))
        server, first = await cluster.take()
        assert server is cluster.workers[0]
        first.reply_with(Abort(Code.UNAVAILABLE, "draining"))
        server, again = await cluster.take()
        assert server is cluster.main
        assert again.request == first.request
        again.reply_with(PlaceOrderResponse())
        await call
        assert clock.slept == []

        assert await get_order(cluster, client, SHOPS[0][0]) is cluster.main, "the address is left alone"
        assert await get_order(cluster, client, SHOPS[1][0]) is cluster.workers[1]
        clock.seconds += AVOID_S_MAX
        await until(usable(client, cluster.workers[0]))
        assert await get_order(cluster, client, SHOPS[0][0]) is cluster.workers[0]


async def test_call_that_must_not_be_repeated_goes_to_main(cluster: Cluster, routed: everopen.AsyncClient) -> None:
    cluster.publish()
    await until(usable(routed, *cluster.workers))
    call = asyncio.create_task(routed.put_shop(SHOPS[0][0], if_revision=1))
    server, received = await cluster.take()
    assert server is cluster.main
    received.reply_with(Abort(Code.UNAVAILABLE))
    with pytest.raises(everopen.Unavailable):
        await call


async def test_address_where_nobody_listens_is_not_used(cluster: Cluster, routed: everopen.AsyncClient) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    cluster.publish(addresses=[f"127.0.0.1:{port}", cluster.workers[1].address])
    await until(usable(routed, cluster.workers[1]))
    assert routed._routes.direct(f"127.0.0.1:{port}") is None
    direct = routed._routes._directs[f"127.0.0.1:{port}"]
    await until(lambda: direct.failures > 0)
    assert await get_order(cluster, routed, SHOPS[0][0]) is cluster.main


async def test_address_of_another_engine_is_not_used(cluster: Cluster, routed: everopen.AsyncClient) -> None:
    other = Cluster()
    await other.start()
    other.publish(log_id=b"another log")
    cluster.publish(addresses=[other.workers[0].address, cluster.workers[1].address])
    await until(usable(routed, cluster.workers[1]))
    assert routed._routes.direct(other.workers[0].address) is None
    direct = routed._routes._directs[other.workers[0].address]
    await until(lambda: direct.failures > 0)
    assert other.known.checks == 1
    assert await get_order(cluster, routed, SHOPS[0][0]) is cluster.main
    await other.stop()


@pytest.mark.parametrize(
    "changes",
    [
        {"worker_state": WorkerState.WORKER_STATE_DRAINING},
        {"shard_state": ShardState.SHARD_STATE_RECOVERING},
        {"log_id": b""},
    ],
    ids=["worker drains", "shard recovers", "log not known"],
)
async def test_owner_that_does_not_serve_is_passed_over(
    cluster: Cluster, routed: everopen.AsyncClient, changes: dict[str, Any]
) -> None:
    cluster.publish()
    await until(usable(routed, *cluster.workers))
    cluster.publish(**changes)
    await until(lambda: routed._routes._version == 2)
    assert await get_order(cluster, routed, SHOPS[0][0]) is cluster.main
    cluster.publish()
    await until(usable(routed, *cluster.workers))
    assert await get_order(cluster, routed, SHOPS[0][0]) is cluster.workers[0]


async def test_channel_of_an_address_that_is_gone_is_closed_after_its_last_call(
    cluster: Cluster, routed: everopen.AsyncClient
) -> None:
    cluster.publish()
    await until(usable(routed, *cluster.workers))
    direct = routed._routes._directs[cluster.workers[0].address]
    call = asyncio.create_task(routed.get_order(SHOPS[0][0], order_id="A-1"))
    server, received = await cluster.take()
    assert server is cluster.workers[0]
    cluster.publish(hosts=(1, 1))
    await until(lambda: routed._routes._version == 2)
    assert direct.channel is not None
    assert await get_order(cluster, routed, SHOPS[0][0]) is cluster.workers[1]
    received.reply_with(GetOrderResponse())
    await call
    assert direct.channel is None


async def test_broken_watch_sends_calls_to_main_until_the_next(cluster: Cluster, routed: everopen.AsyncClient) -> None:
    cluster.publish()
    await until(usable(routed, *cluster.workers))
    cluster.known.break_watches()
    await until(lambda: not routed._routes._live)
    assert await get_order(cluster, routed, SHOPS[0][0]) is cluster.main
    await until(usable(routed, *cluster.workers))
    assert cluster.known.watches == 2
    assert await get_order(cluster, routed, SHOPS[0][0]) is cluster.workers[0]


async def test_server_without_a_map_is_asked_once_and_used(cluster: Cluster, routed: everopen.AsyncClient) -> None:
    for _ in range(3):
        assert await get_order(cluster, routed, SHOPS[0][0]) is cluster.main
    await until(lambda: cluster.known.watches == 1)


def threads() -> int:
    return sum(thread.name == "everopen-routes" for thread in threading.enumerate())


class Blocking:
    """Calls of the synchronous client, each in a thread, while the test answers them."""

    def __init__(self, cluster: Cluster, client: everopen.Client) -> None:
        self.cluster = cluster
        self.client = client

    async def usable(self) -> None:
        with self.client._routes._lock:
            self.client._routes._begin()
        routes = self.client._routes
        await until(lambda: all(direct is not None for direct, _ in routes_of(routes)))

    async def get_order(self, shop_id: str) -> FakeServer:
        call = asyncio.create_task(asyncio.to_thread(self.client.get_order, shop_id, order_id="A-1"))
        server, received = await self.cluster.take()
        received.reply_with(GetOrderResponse())
        await call
        return server


def routes_of(routes: Any) -> list[tuple[Any, list[int]]]:
    found: list[tuple[Any, list[int]]] = routes.split([SHOPS[0][0], SHOPS[1][0]])
    for direct, _ in found:
        if direct is not None:
            routes.release(direct)
    return found


async def test_blocking_client_goes_to_the_owner_and_leaves_no_thread(cluster: Cluster, clock: Clock) -> None:
    cluster.publish()
    before = threads()
    with everopen.Client(cluster.main.address, sleep=clock.sleep_now, **arguments(clock)) as client:
        assert threads() == before
        blocking = Blocking(cluster, client)
        assert await blocking.get_order(SHOPS[0][0]) is cluster.main
        await blocking.usable()
        for worker, shops in enumerate(SHOPS):
            assert await blocking.get_order(shops[0]) is cluster.workers[worker]
        call = asyncio.create_task(asyncio.to_thread(client.get_stock, SHOPS[1][0], sku_id="tea"))
        server, received = await cluster.take()
        assert server is cluster.workers[1]
        received.reply_with(Abort(Code.UNAVAILABLE))
        server, received = await cluster.take()
        assert server is cluster.main
        received.reply_with(GetStockResponse())
        await call
        assert clock.slept == []
        assert threads() == before + 1
    await until(lambda: threads() == before)

    unclosed = everopen.Client(cluster.main.address)
    assert await Blocking(cluster, unclosed).get_order(SHOPS[0][0]) is cluster.main
    del unclosed
    gc.collect()
    await until(lambda: threads() == before)


@pytest.mark.parametrize("repeats", [0, 1_000])
async def test_blocking_client_places_orders_over_a_stream_for_each_worker(
    cluster: Cluster, clock: Clock, repeats: int
) -> None:
    cluster.publish()
    policy = everopen.RetryPolicy(unavailable_max=repeats)
    with everopen.Client(cluster.main.address, policy=policy, sleep=clock.sleep_now, **arguments(clock)) as client:
        await Blocking(cluster, client).usable()
        orders = [
            methods.make_request(methods.PLACE_ORDER.request, SHOPS[number % 2][0], {"order_id": f"o{number}"}, 1)
            for number in range(6)
        ]
        call = asyncio.create_task(asyncio.to_thread(client.place_orders, orders))
        even, odd = [await worker.take() for worker in cluster.workers]
        assert (even.ids, odd.ids) == (["o0", "o2", "o4"], ["o1", "o3", "o5"])
        even.reply_with(Abort(Code.UNAVAILABLE))
        odd.answer()
        again = await cluster.main.take()
        assert again.ids == ["o0", "o2", "o4"]
        again.answer()
        answers = everopen.or_raise(await call)
        assert [answer.order.order_id for answer in answers] == [f"o{number}" for number in range(6)]
        assert clock.slept == []


async def test_threads_share_a_client_while_the_map_changes(cluster: Cluster) -> None:
    """Channels come and go under the calls of many threads; none may notice."""
    cluster.publish()
    got: set[FakeServer] = set()

    async def serve(server: FakeServer) -> None:
        while True:
            received = await server.arrived.get()
            got.add(server)
            received.reply_with(GetOrderResponse())

    serving = [asyncio.create_task(serve(server)) for server in cluster.servers]
    with everopen.Client(cluster.main.address) as client:
        await Blocking(cluster, client).usable()

        def call(number: int) -> None:
            for turn in range(100):
                client.get_order(SHOPS[turn % 2][number], order_id="A-1")

        with ThreadPoolExecutor(8) as pool:
            calls = asyncio.gather(*(asyncio.get_running_loop().run_in_executor(pool, call, n) for n in range(8)))
            for hosts in itertools.cycle([(0, 0), (0, 1), (1, 1), (1, 0, 1, 0)]):
                if calls.done():
                    break
                cluster.publish(hosts=hosts)
                await asyncio.wait([calls], timeout=0.005)
            await calls
    for task in serving:
        task.cancel()
    assert got == set(cluster.servers)
