"""How the asyncio client gathers orders into batches, and what a broken stream means for its callers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import grpc
import pytest

import everopen
from everopen import methods
from everopen.routing import MAIN
from everopen.v1.order_service_pb2 import PlaceOrderResponse, PlaceOrdersResponse
from tests.client.fake import PATIENCE_S, Abort, Clock, End, FakeServer, make_status, shed, until


def start(
    client: everopen.AsyncClient, order_ids: Sequence[str], timeout_s: float | None = None
) -> list[asyncio.Task[PlaceOrderResponse]]:
    return [
        asyncio.create_task(
            client.place_order("shop", order_id=name, buyer_id="mei", lines=[("tea", 1)], timeout_s=timeout_s)
        )
        for name in order_ids
    ]


async def ids_of(tasks: Sequence[asyncio.Task[PlaceOrderResponse]]) -> list[str]:
    async with asyncio.timeout(PATIENCE_S):
        return [answer.order.order_id for answer in await asyncio.gather(*tasks)]


async def test_order_on_an_idle_stream_is_sent_at_once(client: everopen.AsyncClient, server: FakeServer) -> None:
    tasks = start(client, ["a"])
    batch = await server.take()
    assert batch.ids == ["a"]
    batch.answer()
    assert await ids_of(tasks) == ["a"]


async def test_orders_during_a_batch_go_together_and_each_gets_its_own_answer(
    client: everopen.AsyncClient, server: FakeServer
) -> None:
    first = start(client, ["a"])
    batch = await server.take()
    others = start(client, ["b", "c", "d"])
    await asyncio.sleep(0)
    assert server.arrived.empty()
    batch.answer()
    batch = await server.take()
    assert batch.ids == ["b", "c", "d"]
    batch.answer(instead={"c": make_status(grpc.StatusCode.NOT_FOUND, "no such shop")})
    assert await ids_of([*first, others[0], others[2]]) == ["a", "b", "d"]
    with pytest.raises(everopen.NotFound, match="no such shop"):
        await others[1]
    assert server.streams == 1


async def test_batch_holds_at_most_the_limit_of_orders(client: everopen.AsyncClient, server: FakeServer) -> None:
    names = [f"o{number}" for number in range(methods.BATCH_ITEMS_MAX + 2)]
    tasks = start(client, names)
    sizes: list[int] = []
    while sum(sizes) < len(names):
        batch = await server.take()
        sizes.append(len(batch.ids))
        batch.answer()
    assert sizes == [methods.BATCH_ITEMS_MAX, 2]
    assert await ids_of(tasks) == names


async def test_batch_holds_at_most_the_limit_of_bytes(
    client: everopen.AsyncClient, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(methods, "BATCH_BYTES_MAX", 200)
    names = [f"order-with-a-long-name-{number}" for number in range(8)]
    tasks = start(client, names)
    seen: list[str] = []
    while len(seen) < len(names):
        batch = await server.take()
        assert batch.request.ByteSize() <= 200
        seen += batch.ids
        batch.answer()
    assert seen == names == await ids_of(tasks)


async def test_broken_stream_sends_unanswered_orders_again_with_the_same_content(
    client: everopen.AsyncClient, server: FakeServer, clock: Clock
) -> None:
    tasks = start(client, ["a", "b"])
    lost = await server.take()
    tasks += start(client, ["c"])
    await asyncio.sleep(0)
    clock.seconds += 5
    lost.reply_with(Abort(grpc.StatusCode.UNAVAILABLE, "going away"))
    again = await server.take()
    assert again.ids == ["a", "b", "c"]
    assert list(again.request.orders)[:2] == list(lost.request.orders), "first_sent_at_ms is that of the first try"
    again.answer()
    assert await ids_of(tasks) == ["a", "b", "c"]
    assert server.streams == 2


async def test_stream_that_the_server_ends_is_opened_again(client: everopen.AsyncClient, server: FakeServer) -> None:
    tasks = start(client, ["a"])
    (await server.take()).answer()
    assert await ids_of(tasks) == ["a"]
    tasks = start(client, ["b"])
    (await server.take()).reply_with(End())
    batch = await server.take()
    assert batch.ids == ["b"]
    batch.answer()
    assert await ids_of(tasks) == ["b"]


async def test_broken_stream_with_a_pushback_waits_at_least_that_long(
    client: everopen.AsyncClient, server: FakeServer, clock: Clock
) -> None:
    tasks = start(client, ["a"])
    trailing = {"grpc-retry-pushback-ms": "1500"}
    (await server.take()).reply_with(Abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "busy", trailing=trailing))
    (await server.take()).answer()
    assert await ids_of(tasks) == ["a"]
    assert [wait_s for wait_s in clock.slept if wait_s] == [pytest.approx(1.55)]


async def test_shed_order_comes_again_alone_after_its_wait(
    client: everopen.AsyncClient, server: FakeServer, clock: Clock
) -> None:
    tasks = start(client, ["a", "b", "c"])
    (await server.take()).answer(instead={"b": shed(3)})
    batch = await server.take()
    assert batch.ids == ["b"]
    assert clock.slept == [pytest.approx(3.05)]
    batch.answer()
    assert await ids_of(tasks) == ["a", "b", "c"]


async def test_server_that_stays_away_fails_orders_at_their_deadline(
    client: everopen.AsyncClient, server: FakeServer, clock: Clock
) -> None:
    (task,) = start(client, ["a"], timeout_s=4)
    while not task.done():
        arrival = asyncio.create_task(server.take())
        await asyncio.wait([arrival, task], return_when=asyncio.FIRST_COMPLETED)
        if arrival.done():
            arrival.result().reply_with(Abort(grpc.StatusCode.UNAVAILABLE))
        arrival.cancel()
    with pytest.raises(everopen.Unavailable):
        await task
    assert sum(clock.slept[:-1]) <= 4, "the last wait is the stream's own, with nothing left to send"


async def test_stream_refused_for_good_fails_its_orders_at_once(
    client: everopen.AsyncClient, server: FakeServer, clock: Clock
) -> None:
    tasks = start(client, ["a"])
    (await server.take()).reply_with(Abort(grpc.StatusCode.DATA_LOSS, "damaged"))
    with pytest.raises(everopen.DataLoss, match="damaged"):
        await tasks[0]


async def test_answer_of_another_length_fails_the_batch(client: everopen.AsyncClient, server: FakeServer) -> None:
    tasks = start(client, ["a", "b"])
    (await server.take()).reply_with(PlaceOrdersResponse())
    for task in tasks:
        with pytest.raises(everopen.EveropenError, match="answered 0 items of 2"):
            await task


async def test_cancelled_caller_leaves_the_others_alone(client: everopen.AsyncClient, server: FakeServer) -> None:
    sent = start(client, ["a", "b"])
    batch = await server.take()
    queued = start(client, ["c", "d"])
    await asyncio.sleep(0)
    for task in (sent[0], queued[0]):
        task.cancel()
    await asyncio.wait([sent[0], queued[0]])
    batch.answer()
    batch = await server.take()
    assert batch.ids == ["d"], "what was cancelled before it was sent is not sent"
    batch.answer()
    assert await ids_of([sent[1], queued[1]]) == ["b", "d"]
    assert sent[0].cancelled()
    assert server.streams == 1


async def test_order_whose_time_runs_out_says_that_its_result_is_unknown(
    client: everopen.AsyncClient, server: FakeServer
) -> None:
    tasks = start(client, ["a"], timeout_s=0.05)
    with pytest.raises(everopen.DeadlineExceeded, match="unknown"):
        await tasks[0]


async def test_full_queue_makes_callers_wait_for_room(server: FakeServer, clock: Clock) -> None:
    async with everopen.AsyncClient(server.address, orders_waiting_max=2) as client:
        tasks = start(client, ["a", "b", "c"])
        batch = await server.take()
        assert batch.ids == ["a", "b"]
        batch.answer()
        batch = await server.take()
        assert batch.ids == ["c"]
        batch.answer()
        assert await ids_of(tasks) == ["a", "b", "c"]


async def test_several_batches_in_flight_are_answered_in_their_order(server: FakeServer) -> None:
    async with everopen.AsyncClient(server.address, batches_in_flight=2) as client:
        tasks = start(client, ["a"])
        first = await server.take()
        tasks += start(client, ["b"])
        tasks += start(client, ["c"])
        first.answer()
        seen: list[str] = []
        while len(seen) < 2:
            batch = await server.take()
            seen += batch.ids
            batch.answer()
        assert seen == ["b", "c"]
        assert await ids_of(tasks) == ["a", "b", "c"]


async def test_broken_stream_with_several_batches_sends_them_again_in_order(server: FakeServer, clock: Clock) -> None:
    async with everopen.AsyncClient(server.address, batches_in_flight=3, sleep=clock.sleep) as client:
        tasks = start(client, ["a"])
        first = await server.take()
        tasks += start(client, ["b"])
        await until(lambda: len(client._orders._streams[MAIN]._in_flight) == 2)
        tasks += start(client, ["c"])
        await until(lambda: len(client._orders._streams[MAIN]._in_flight) == 3)
        first.reply_with(Abort(grpc.StatusCode.UNAVAILABLE))
        again = await server.take()
        assert again.ids == ["a", "b", "c"]
        again.answer()
        assert await ids_of(tasks) == ["a", "b", "c"]


async def test_stream_without_any_answer_is_given_up_for_a_new_one(server: FakeServer) -> None:
    policy = everopen.RetryPolicy(timeout_s=0.05)
    async with everopen.AsyncClient(server.address, policy=policy) as client:
        tasks = start(client, ["a"], timeout_s=PATIENCE_S)
        await server.take()
        batch = await server.take()
        assert batch.ids == ["a"]
        batch.answer()
        assert await ids_of(tasks) == ["a"]


async def test_closed_client_tells_those_who_wait(server: FakeServer) -> None:
    client = everopen.AsyncClient(server.address)
    tasks = start(client, ["a"])
    await server.take()
    tasks += start(client, ["b"])
    await asyncio.sleep(0)
    await client.close()
    for task in tasks:
        with pytest.raises(everopen.Unavailable, match="closed"):
            await task


async def test_place_orders_returns_answers_and_errors_in_order(
    client: everopen.AsyncClient, server: FakeServer
) -> None:
    requests = [methods.make_request(methods.PLACE_ORDER.request, "shop", {"order_id": name}, 7) for name in "abc"]
    task = asyncio.create_task(client.place_orders(requests))
    batch = await server.take()
    while len(batch.ids) < 3:  # the first may have gone alone
        batch.answer(instead={"b": make_status(grpc.StatusCode.INVALID_ARGUMENT)})
        batch = await server.take()
    batch.answer(instead={"b": make_status(grpc.StatusCode.INVALID_ARGUMENT)})
    a, b, c = await task
    assert isinstance(a, PlaceOrderResponse)
    assert isinstance(b, everopen.InvalidArgument)
    assert isinstance(c, PlaceOrderResponse)


async def test_stream_whose_token_expired_is_opened_anew_and_one_that_never_was_let_in_fails(
    client: everopen.AsyncClient, server: FakeServer
) -> None:
    first = start(client, ["a"])
    (await server.take()).answer()
    assert await ids_of(first) == ["a"]
    second = start(client, ["b"])
    (await server.take()).reply_with(Abort(grpc.StatusCode.UNAUTHENTICATED, "no"))
    # The same order again, on the next stream; only there it is the last word.
    again = await server.take()
    assert again.ids == ["b"]
    assert server.streams == 2
    again.reply_with(Abort(grpc.StatusCode.UNAUTHENTICATED, "no"))
    with pytest.raises(everopen.EveropenError, match="UNAUTHENTICATED"):
        await ids_of(second)
