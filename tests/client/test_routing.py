"""Calls go to the worker that hosts their shop, and routing never costs a call."""

from __future__ import annotations

import asyncio
import gc
import itertools
import socket
import threading
from collections.abc import AsyncIterator, Callable
from random import Random
from typing import Any

import grpc
import pytest

import everopen
from everopen import methods
from everopen.routing import AVOID_S_MAX, MAIN, crc32c, direct_address
from everopen.v1.cluster_pb2 import PartitionMap, ShardState, WorkerState
from everopen.v1.inventory_service_pb2 import GetStockRequest, GetStockResponse
from everopen.v1.order_service_pb2 import GetOrderResponse, PlaceOrderResponse
from tests.client.conftest import arguments
from tests.client.fake import PATIENCE_S, Abort, Clock, End, FakeServer, Known, Received, until

Code = grpc.StatusCode
# By the worker that hosts them while there are two.
SHOPS = [[f"shop-{n}" for n in range(40) if crc32c(f"shop-{n}") % 1024 // 512 == worker] for worker in range(2)]


class Cluster:
    """A main address and two workers behind it."""

    def __init__(self) -> None:
        self.known = Known()
        self.main, *self.workers = self.servers = [FakeServer(self.known) for _ in range(3)]

    async def start(self) -> None:
        for server in self.servers:
            await server.start()

    async def stop(self) -> None:
        for server in self.servers:
            await server.stop()

    def publish(self, hosts: tuple[int, ...] = (0, 1), **changes: Any) -> None:
        """A map with as many shards as there are hosts. `changes`: addresses, log_id, worker_state, shard_state."""
        addresses = changes.get("addresses", [worker.address for worker in self.workers])
        version = self.known.map.version + 1 if self.known.map else 1
        published = PartitionMap(version=version, partitions=1024)
        size = 1024 // len(hosts)
        for shard, worker in enumerate(hosts):
            published.shards.add(
                shard=shard,
                first_partition=shard * size,
                last_partition=(shard + 1) * size - 1,
                worker=worker,
                log_id=changes.get("log_id", b"log of shard %d" % shard),
                state=changes.get("shard_state", ShardState.SHARD_STATE_SERVING),
            )
        for number, address in enumerate(addresses):
            state = changes.get("worker_state", WorkerState.WORKER_STATE_SERVING)
            published.workers.add(worker=number, addresses=[address], state=state)
        self.known.publish(published)

    async def take(self, timeout_s: float = PATIENCE_S) -> tuple[FakeServer, Received]:
        """The next message, wherever it arrives."""
        takes = [asyncio.create_task(server.arrived.get()) for server in self.servers]
        try:
            await asyncio.wait(takes, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
            for server, took in zip(self.servers, takes, strict=True):
                if took.done():
                    return server, took.result()
            raise TimeoutError
        finally:
            for took in takes:
                took.cancel()


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    cluster = Cluster()
    await cluster.start()
    yield cluster
    await cluster.stop()


@pytest.fixture
async def client(cluster: Cluster, clock: Clock) -> AsyncIterator[everopen.AsyncClient]:
    async with everopen.AsyncClient(cluster.main.address, sleep=clock.sleep, **arguments(clock)) as client:
        yield client


def usable(client: everopen.AsyncClient, *servers: FakeServer) -> Callable[[], bool]:
    """Each server's direct address is known and checked; asking makes the client check."""
    client._routes.begin()
    return lambda: all(client._routes.direct(server.address) is not None for server in servers)


async def get_order(cluster: Cluster, client: everopen.AsyncClient, shop_id: str) -> FakeServer:
    """Makes a call, and returns which server got it."""
    call = asyncio.create_task(client.get_order(shop_id, order_id="A-1"))
    server, received = await cluster.take()
    received.reply_with(GetOrderResponse())
    await call
    return server


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
    cluster: Cluster, client: everopen.AsyncClient
) -> None:
    cluster.publish()
    assert await get_order(cluster, client, SHOPS[0][0]) is cluster.main
    await until(usable(client, *cluster.workers))
    for worker, shops in enumerate(SHOPS):
        for shop_id in shops[:4]:
            assert await get_order(cluster, client, shop_id) is cluster.workers[worker]


async def test_batch_of_one_worker_goes_there_and_a_mixed_one_to_main(
    cluster: Cluster, client: everopen.AsyncClient
) -> None:
    cluster.publish()
    await until(usable(client, *cluster.workers))
    for shops, server in (SHOPS[1][:2], cluster.workers[1]), ([SHOPS[0][0], SHOPS[1][0]], cluster.main):
        requests = [GetStockRequest(shop_id=shop_id, sku_id="tea") for shop_id in shops]
        call = asyncio.create_task(client.batch_get_stock(requests))
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


async def test_lone_worker_is_served_over_the_main_connection(cluster: Cluster, client: everopen.AsyncClient) -> None:
    cluster.publish(hosts=(0,), addresses=[cluster.workers[0].address])
    assert await get_order(cluster, client, SHOPS[0][0]) is cluster.main
    await until(lambda: client._routes._version == 1)
    assert await get_order(cluster, client, SHOPS[0][0]) is cluster.main
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


async def test_call_that_must_not_be_repeated_goes_to_main(cluster: Cluster, client: everopen.AsyncClient) -> None:
    cluster.publish()
    await until(usable(client, *cluster.workers))
    call = asyncio.create_task(client.put_shop(SHOPS[0][0], if_revision=1))
    server, received = await cluster.take()
    assert server is cluster.main
    received.reply_with(Abort(Code.UNAVAILABLE))
    with pytest.raises(everopen.Unavailable):
        await call


async def test_address_where_nobody_listens_is_not_used(cluster: Cluster, client: everopen.AsyncClient) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    cluster.publish(addresses=[f"127.0.0.1:{port}", cluster.workers[1].address])
    await until(usable(client, cluster.workers[1]))
    assert client._routes.direct(f"127.0.0.1:{port}") is None
    direct = client._routes._directs[f"127.0.0.1:{port}"]
    await until(lambda: direct.failures > 0)
    assert await get_order(cluster, client, SHOPS[0][0]) is cluster.main


async def test_address_of_another_engine_is_not_used(cluster: Cluster, client: everopen.AsyncClient) -> None:
    other = Cluster()
    await other.start()
    other.publish(log_id=b"another log")
    cluster.publish(addresses=[other.workers[0].address, cluster.workers[1].address])
    await until(usable(client, cluster.workers[1]))
    assert client._routes.direct(other.workers[0].address) is None
    direct = client._routes._directs[other.workers[0].address]
    await until(lambda: direct.failures > 0)
    assert other.known.checks == 1
    assert await get_order(cluster, client, SHOPS[0][0]) is cluster.main
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
    cluster: Cluster, client: everopen.AsyncClient, changes: dict[str, Any]
) -> None:
    cluster.publish()
    await until(usable(client, *cluster.workers))
    cluster.publish(**changes)
    await until(lambda: client._routes._version == 2)
    assert await get_order(cluster, client, SHOPS[0][0]) is cluster.main
    cluster.publish()
    await until(usable(client, *cluster.workers))
    assert await get_order(cluster, client, SHOPS[0][0]) is cluster.workers[0]


async def test_channel_of_an_address_that_is_gone_is_closed_after_its_last_call(
    cluster: Cluster, client: everopen.AsyncClient
) -> None:
    cluster.publish()
    await until(usable(client, *cluster.workers))
    direct = client._routes._directs[cluster.workers[0].address]
    call = asyncio.create_task(client.get_order(SHOPS[0][0], order_id="A-1"))
    server, received = await cluster.take()
    assert server is cluster.workers[0]
    cluster.publish(hosts=(1, 1))
    await until(lambda: client._routes._version == 2)
    assert direct.channel is not None
    assert await get_order(cluster, client, SHOPS[0][0]) is cluster.workers[1]
    received.reply_with(GetOrderResponse())
    await call
    assert direct.channel is None


async def test_broken_watch_sends_calls_to_main_until_the_next(cluster: Cluster, client: everopen.AsyncClient) -> None:
    cluster.publish()
    await until(usable(client, *cluster.workers))
    cluster.known.break_watches()
    await until(lambda: not client._routes._live)
    assert await get_order(cluster, client, SHOPS[0][0]) is cluster.main
    await until(usable(client, *cluster.workers))
    assert cluster.known.watches == 2
    assert await get_order(cluster, client, SHOPS[0][0]) is cluster.workers[0]


async def test_server_without_a_map_is_asked_once_and_used(cluster: Cluster, client: everopen.AsyncClient) -> None:
    for _ in range(3):
        assert await get_order(cluster, client, SHOPS[0][0]) is cluster.main
    await until(lambda: cluster.known.watches == 1)


def place(client: everopen.AsyncClient, shop_id: str, *names: str) -> list[asyncio.Task[PlaceOrderResponse]]:
    return [asyncio.create_task(client.place_order(shop_id, order_id=name, buyer_id="mei")) for name in names]


async def test_orders_gather_by_worker(cluster: Cluster, client: everopen.AsyncClient) -> None:
    cluster.publish()
    await until(usable(client, *cluster.workers))
    tasks = place(client, SHOPS[0][0], "a") + place(client, SHOPS[1][0], "b")
    first = [await worker.take() for worker in cluster.workers]
    tasks += place(client, SHOPS[0][0], "c") + place(client, SHOPS[1][1], "d") + place(client, SHOPS[0][1], "e")
    await asyncio.sleep(0)
    first[0].answer()
    second = await cluster.workers[0].take()
    assert second.ids == ["c", "e"]
    assert cluster.workers[1].arrived.empty(), "its first batch has no answer yet"
    first[1].answer()
    third = await cluster.workers[1].take()
    assert third.ids == ["d"]
    second.answer()
    third.answer()
    assert [answer.order.order_id for answer in await asyncio.gather(*tasks)] == ["a", "b", "c", "d", "e"]
    assert [server.streams for server in cluster.servers] == [0, 1, 1]


async def test_shop_moves_once_its_orders_are_answered_and_others_at_once(
    cluster: Cluster, client: everopen.AsyncClient
) -> None:
    cluster.publish()
    await until(usable(client, *cluster.workers))
    tasks = place(client, SHOPS[0][0], "a", "b")
    batch = await cluster.workers[0].take()
    assert batch.ids == ["a", "b"]
    cluster.publish(hosts=(1, 0))
    await until(lambda: client._routes._version == 2)
    await until(usable(client, *cluster.workers))
    tasks += place(client, SHOPS[0][0], "c") + place(client, SHOPS[0][1], "d")
    other = await cluster.workers[1].take()
    assert other.ids == ["d"], "a shop without orders under way moves at once"
    other.answer()
    await tasks[3]
    tasks[0].cancel()  # Its caller is gone; the order is not.
    batch.answer()
    moved = await cluster.workers[1].take()
    assert moved.ids == ["c"]
    moved.answer()
    assert [answer.order.order_id for answer in await asyncio.gather(*tasks[1:])] == ["b", "c", "d"]
    assert all(not server.arrived.qsize() for server in cluster.servers)


async def test_stream_that_a_worker_breaks_goes_on_at_main_in_order_and_returns(
    cluster: Cluster, client: everopen.AsyncClient, clock: Clock
) -> None:
    cluster.publish()
    await until(usable(client, *cluster.workers))
    tasks = place(client, SHOPS[0][0], "a", "b")
    batch = await cluster.workers[0].take()
    tasks += place(client, SHOPS[0][0], "c")
    await asyncio.sleep(0)
    batch.reply_with(Abort(Code.UNAVAILABLE, "draining"))
    again = await cluster.main.take()
    assert again.ids == ["a", "b", "c"]
    assert list(again.request.orders)[:2] == list(batch.request.orders)
    assert [wait_s for wait_s in clock.slept if wait_s] == []
    clock.seconds += AVOID_S_MAX
    tasks += place(client, SHOPS[0][0], "d")
    await until(usable(client, cluster.workers[0]))
    again.answer()
    back = await cluster.workers[0].take()
    assert back.ids == ["d"]
    back.answer()
    assert [answer.order.order_id for answer in await asyncio.gather(*tasks)] == ["a", "b", "c", "d"]
    assert (cluster.main.streams, cluster.workers[0].streams) == (1, 2)


async def test_closed_client_tells_those_whose_shop_moves(cluster: Cluster) -> None:
    cluster.publish()
    client = everopen.AsyncClient(cluster.main.address)
    await until(usable(client, *cluster.workers))
    tasks = place(client, SHOPS[0][0], "a")
    await cluster.workers[0].take()
    cluster.publish(hosts=(1, 0))
    await until(lambda: client._routes._version == 2)
    tasks += place(client, SHOPS[0][0], "b")
    await asyncio.sleep(0)
    await client.close()
    for task in tasks:
        with pytest.raises(everopen.Unavailable, match="closed"):
            await task


@pytest.mark.parametrize("seed", range(6))
async def test_orders_of_a_shop_stay_in_order_through_moves_and_breaks(cluster: Cluster, seed: int) -> None:
    """Server and map do what they like; each shop's orders must be decided in order, on one stream at a time."""
    random = Random(seed)
    cluster.publish()
    shops = [*SHOPS[0][:3], *SHOPS[1][:3]]
    decided: dict[str, list[int]] = {shop_id: [] for shop_id in shops}
    used: set[FakeServer] = set()
    policy = everopen.RetryPolicy(timeout_s=PATIENCE_S, initial_s=0.001, wait_s_max=0.002)
    async with everopen.AsyncClient(cluster.main.address, policy=policy, batches_in_flight=2) as client:
        await until(usable(client, *cluster.workers))

        async def serve(server: FakeServer) -> None:
            while True:
                received = await server.arrived.get()
                used.add(server)
                for _ in range(random.randrange(4)):
                    await asyncio.sleep(0)
                for order in received.request.orders:
                    number = int(order.order_id)
                    seen = decided[order.shop_id]
                    assert number <= len(seen), f"{order.shop_id}: {number} came before {len(seen)}"
                    if number == len(seen):
                        seen.append(number)
                match random.randrange(12):
                    case 0:
                        received.reply_with(Abort(Code.UNAVAILABLE, "the answer is lost"))
                    case 1:
                        received.reply_with(End())
                    case _:
                        received.answer()
                match random.randrange(8):
                    case 0:
                        cluster.publish(random.choice([(0, 1), (1, 0), (0, 0), (1, 1), (1, 0, 1, 0)]))
                    case 1:
                        cluster.known.break_watches()

        serving = [asyncio.create_task(serve(server)) for server in cluster.servers]
        orders = [
            methods.make_request(methods.PLACE_ORDER.request, shop_id, {"order_id": str(number)}, 1)
            for number in range(60)
            for shop_id in shops
        ]
        waiting = []
        for order in orders:
            waiting.append(await client.enqueue_order(order))
            if not random.randrange(8):
                await asyncio.sleep(0.001)
        answers = asyncio.gather(*waiting)
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.wait([answers, *serving], return_when=asyncio.FIRST_COMPLETED)
        for task in serving:
            if task.done():
                task.result()
            task.cancel()
        await answers
        assert client._orders._shops == {}
    assert decided == {shop_id: list(range(60)) for shop_id in shops}
    assert used == set(cluster.servers)


async def test_connections_that_servers_shed_cost_no_call(clock: Clock) -> None:
    """Each server sends GOAWAY to connections of some age, and soon after ends what is left on them."""
    cluster = Cluster()
    shedding = [("grpc.max_connection_age_ms", 100), ("grpc.max_connection_age_grace_ms", 30)]
    for server in cluster.servers:
        await server.start(shedding)
    cluster.publish()

    async def serve(server: FakeServer) -> None:
        while True:
            received = await server.arrived.get()
            if received.reply.done():
                continue  # Its connection ended meanwhile.
            if hasattr(received.request, "orders"):
                received.answer()
            else:
                received.reply_with(GetOrderResponse())

    serving = [asyncio.create_task(serve(server)) for server in cluster.servers]
    numbers = itertools.count()
    async with everopen.AsyncClient(cluster.main.address) as client, asyncio.timeout(PATIENCE_S):

        async def caller(shop_id: str) -> None:
            while any(len(server.peers) < 4 for server in cluster.workers):
                name = f"o{next(numbers)}"
                answer = await client.place_order(shop_id, order_id=name, buyer_id="mei")
                assert answer.order.order_id == name
                await client.get_order(shop_id, order_id=name)

        await asyncio.gather(*(caller(shop_id) for shops in SHOPS for shop_id in shops[:2]))
    for task in serving:
        task.cancel()
    await cluster.stop()


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
