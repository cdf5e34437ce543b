"""Orders over a stream for each worker: what goes together, and that a shop's orders keep their order."""

from __future__ import annotations

import asyncio
import itertools
from random import Random

import grpc
import pytest

import everopen
from everopen import methods
from everopen.routing import AVOID_S_MAX
from everopen.v1.order_service_pb2 import GetOrderResponse, PlaceOrderResponse
from tests.client.cluster import SHOPS, Cluster, usable
from tests.client.fake import PATIENCE_S, Abort, Clock, End, FakeServer, until

Code = grpc.StatusCode


def place(client: everopen.AsyncClient, shop_id: str, *names: str) -> list[asyncio.Task[PlaceOrderResponse]]:
    return [asyncio.create_task(client.place_order(shop_id, order_id=name, buyer_id="mei")) for name in names]


async def test_orders_gather_by_worker(cluster: Cluster, routed: everopen.AsyncClient) -> None:
    cluster.publish()
    await until(usable(routed, *cluster.workers))
    tasks = place(routed, SHOPS[0][0], "a") + place(routed, SHOPS[1][0], "b")
    first = [await worker.take() for worker in cluster.workers]
    tasks += place(routed, SHOPS[0][0], "c") + place(routed, SHOPS[1][1], "d") + place(routed, SHOPS[0][1], "e")
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
    cluster: Cluster, routed: everopen.AsyncClient
) -> None:
    cluster.publish()
    await until(usable(routed, *cluster.workers))
    tasks = place(routed, SHOPS[0][0], "a", "b")
    batch = await cluster.workers[0].take()
    assert batch.ids == ["a", "b"]
    cluster.publish(hosts=(1, 0))
    await until(lambda: routed._routes._version == 2)
    await until(usable(routed, *cluster.workers))
    tasks += place(routed, SHOPS[0][0], "c") + place(routed, SHOPS[0][1], "d")
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
    cluster: Cluster, routed: everopen.AsyncClient, clock: Clock
) -> None:
    cluster.publish()
    await until(usable(routed, *cluster.workers))
    tasks = place(routed, SHOPS[0][0], "a", "b")
    batch = await cluster.workers[0].take()
    tasks += place(routed, SHOPS[0][0], "c")
    await asyncio.sleep(0)
    batch.reply_with(Abort(Code.UNAVAILABLE, "draining"))
    again = await cluster.main.take()
    assert again.ids == ["a", "b", "c"]
    assert list(again.request.orders)[:2] == list(batch.request.orders)
    assert [wait_s for wait_s in clock.slept if wait_s] == []
    clock.seconds += AVOID_S_MAX
    tasks += place(routed, SHOPS[0][0], "d")
    await until(usable(routed, cluster.workers[0]))
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
