"""The load generator against servers that go away and come back: every order is placed once, and the gap is told."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

import everopen
from engine import loadgen
from engine.loadgen import Background, Options, Result
from everopen.v1.order_service_pb2 import (
    CancelOrderRequest,
    CancelOrderResponse,
    PlaceOrderRequest,
    PlaceOrderResponse,
    PlaceOrderResult,
    PlaceOrdersRequest,
    PlaceOrdersResponse,
)
from tests import peer
from tests.peer import Connection, Peer, Stream, frame
from tests.serving import Server
from tests.test_loadgen import PLACED, check_books

pytestmark = pytest.mark.native

AGAIN = PlaceOrderResponse(outcome=everopen.PLACED, sequence=7, duplicate=True).SerializeToString()
CANCELLED = CancelOrderResponse(outcome=everopen.APPLIED, sequence=9).SerializeToString()
SOLD_OUT = PlaceOrderResponse(outcome=everopen.INSUFFICIENT_STOCK, sequence=8).SerializeToString()

# 100 requests, far less than any machine takes.
OPEN = Options(connections=1, streams=8, seconds=0.1, warmup_s=0, rate=1_000, retry=True, acks=True)


class Shop:
    """Places each order once, and says so when it sees it again."""

    def __init__(self) -> None:
        self.tries = Counter[str]()
        self.placed: set[str] = set()
        self.cancelled: set[str] = set()
        self.open_max = 0
        self.repeats = 0

    def place(self, connection: Connection, stream: Stream) -> None:
        order_id = PlaceOrderRequest.FromString(stream.body[5:]).order_id
        self.tries[order_id] += 1
        known = order_id in self.placed
        self.repeats += known
        self.placed.add(order_id)
        self.open_max = max(self.open_max, len(self.placed) - len(self.cancelled))
        connection.answer(stream, AGAIN if known else PLACED)

    def cancel(self, connection: Connection, stream: Stream) -> None:
        order_id = CancelOrderRequest.FromString(stream.body[5:]).order_id
        assert order_id in self.placed - self.cancelled
        self.cancelled.add(order_id)
        connection.answer(stream, CANCELLED)


def load(server: Peer, options: Options = OPEN) -> Result:
    result = loadgen.run(replace(options, target=server.address))
    assert not server.faults
    check_books(result)
    return result


def bits(data: bytes) -> list[int]:
    return [8 * index + bit for index, byte in enumerate(data) for bit in range(8) if byte >> bit & 1]


def check_all_placed(result: Result, shop: Shop) -> None:
    counts = result.counts
    assert result.holds
    assert counts["placed"] == counts["offered"] == counts["acknowledged"] == len(shop.placed) == 100
    assert bits(result.acks[0]) == list(range(100))
    assert {int(order_id[-12:], 16) for order_id in shop.placed} == set(range(100))
    # What was tried again is what was tried twice, and no try was forgotten.
    assert counts["retried"] >= sum(shop.tries.values()) - 100
    assert sum(count for _, count in result.steps) == 100


def test_orders_on_a_lost_connection_are_sent_again_on_a_new_one() -> None:
    shop = Shop()

    def hang_up(connection: Connection, stream: Stream) -> None:
        # Decided, and its answer lost.
        if connection.number == 0 and len(server.bodies) == 20:
            shop.placed.add(PlaceOrderRequest.FromString(stream.body[5:]).order_id)
            connection.socket.shutdown(socket.SHUT_RDWR)
        else:
            shop.place(connection, stream)

    with Peer(hang_up) as server:
        result = load(server)
    check_all_placed(result, shop)
    assert result.reconnects == 1
    assert result.counts["retried"] >= 1
    # Answers that were on their way are lost with it.
    assert result.counts["duplicates"] == shop.repeats >= 1
    assert result.counts["lost"] == 0


def test_orders_on_a_lost_connection_are_lost_without_retry() -> None:
    def hang_up(connection: Connection, stream: Stream) -> None:
        if connection.number == 0:
            connection.socket.shutdown(socket.SHUT_RDWR)
        else:
            connection.answer(stream, PLACED)

    with Peer(hang_up) as server:
        result = load(server, replace(OPEN, retry=False))
    assert result.counts["lost"] > 0
    assert result.counts["retried"] == 0
    assert len(bits(result.acks[0])) == result.counts["placed"] == 100 - result.counts["lost"]


@pytest.mark.parametrize("pushback", ["", "1"])
def test_unavailable_orders_are_sent_again_with_the_same_id(pushback: str) -> None:
    shop = Shop()
    refused = Counter[str]()

    def refuse_twice(connection: Connection, stream: Stream) -> None:
        order_id = PlaceOrderRequest.FromString(stream.body[5:]).order_id
        refused[order_id] += 1
        if refused[order_id] <= 2:
            connection.answer(stream, None, 14, pushback)
        else:
            shop.place(connection, stream)

    with Peer(refuse_twice) as server:
        result = load(server, replace(OPEN, streams=64))
    check_all_placed(result, shop)
    assert result.counts["retried"] == 200
    assert result.counts["statuses"] == {0: 100, 14: 200}
    assert result.counts["refused"] == 0
    # From when they were due: the second and third tries wait a little.
    assert result.steps[0][0] > 4_000_000


def test_pushback_says_when_to_come_again() -> None:
    came: dict[str, list[int]] = {}

    def push_back(connection: Connection, stream: Stream) -> None:
        times = came.setdefault(PlaceOrderRequest.FromString(stream.body[5:]).order_id, [])
        times.append(time.monotonic_ns())
        if len(times) == 1:
            connection.answer(stream, None, 8, "30")
        else:
            connection.answer(stream, PLACED)

    with Peer(push_back) as server:
        result = load(server, replace(OPEN, streams=64))
    assert result.counts["placed"] == 100
    assert all(second - first >= 29_000_000 for first, second in came.values())


@pytest.mark.parametrize("pushback", ["", "-1", "soon"])
def test_exhausted_without_a_time_to_come_again_is_a_refusal(pushback: str) -> None:
    with Peer(lambda connection, stream: connection.answer(stream, None, 8, pushback)) as server:
        result = load(server)
    assert result.counts["refused"] == result.counts["statuses"][8] == 100
    assert result.counts["retried"] == 0
    assert bits(result.acks[0]) == []


def test_what_waits_to_be_sent_again_leaves_the_rest_unsent() -> None:
    numbers: set[int] = set()

    def refuse(connection: Connection, stream: Stream) -> None:
        numbers.add(int(PlaceOrderRequest.FromString(stream.body[5:]).order_id[-12:], 16))
        if len(server.bodies) <= 30:
            connection.answer(stream, None, 14)
        else:
            shop.place(connection, stream)
        if not shop.placed:
            waiting.update(numbers)

    shop = Shop()
    waiting: set[int] = set()
    with Peer(refuse) as server:
        result = load(server, replace(OPEN, streams=4))
    check_all_placed(result, shop)
    # As many as calls have room for, and the others queue up.
    assert waiting == {0, 1, 2, 3}


def test_refused_connections_are_tried_until_somebody_listens() -> None:
    shop = Shop()
    with Peer(shop.place) as server:
        options = replace(OPEN, target=server.address, seconds=5)
        port = int(server.address.rpartition(":")[2])
        with Background(options) as running:
            wait_until(lambda: running.load.acknowledged >= 20)
            running.load.mark("away")
            # Nobody listens, and those that were connected are gone.
            server.close()
            away_ns = time.monotonic_ns()
            time.sleep(0.05)
            with Peer(shop.place, port=port) as successor:
                back_ns = time.monotonic_ns()
                seen = running.load.acknowledged
                wait_until(lambda: running.load.acknowledged >= seen + 20)
                running.load.stop()
                result = running.result()
    assert not successor.faults
    check_books(result)
    assert result.counts["placed"] == result.counts["offered"] == len(shop.placed) > 40
    assert result.reconnects == 1
    assert result.gap.longest_ns >= back_ns - away_ns
    assert result.began_ns < result.gap.began_ns < back_ns
    before, away = result.phases
    assert away.name == "away"
    assert away.gap == result.gap
    assert sum(count for phase in result.phases for _, count in phase.steps) == len(shop.placed)
    # Orders that were due in the gap are reckoned from then.
    assert away.max_ns >= result.gap.longest_ns - (away.began_ns - result.gap.began_ns) - 5_000_000
    assert before.gap.longest_ns < result.gap.longest_ns


def wait_until(holds: object, timeout_s: float = 20) -> None:
    assert callable(holds)
    until = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.001)


def test_gap_is_told_with_its_beginning() -> None:
    stall_ns: list[int] = []

    def stall(connection: Connection, stream: Stream) -> None:
        if len(server.bodies) == 50:
            stall_ns.append(time.monotonic_ns())
            time.sleep(0.2)
            stall_ns.append(time.monotonic_ns())
        connection.answer(stream, PLACED)

    with Peer(stall) as server:
        result = load(server)
    began_ns, ended_ns = stall_ns
    # The answers before the stall may be read when it has begun.
    late_ns = max(0, result.gap.began_ns - began_ns)
    assert result.gap.longest_ns + late_ns >= 200_000_000
    assert result.gap.began_ns < ended_ns <= result.gap.began_ns + result.gap.longest_ns
    assert result.as_dict()["gap_us"] == result.gap.longest_ns / 1000


def test_stream_of_batches_goes_on_after_a_loss_with_the_same_orders() -> None:
    placed = Counter[str]()
    refused: list[int] = []
    answered: set[tuple[int, int]] = set()

    def answer(connection: Connection, stream: Stream) -> None:
        while len(stream.body) >= 5 and len(stream.body) >= 5 + int.from_bytes(stream.body[1:5], "big"):
            size = 5 + int.from_bytes(stream.body[1:5], "big")
            batch = PlaceOrdersRequest.FromString(stream.body[5:size])
            stream.body = stream.body[size:]
            connection.give_window(stream, size)
            results = []
            for order in batch.orders:
                placed[order.order_id] += 1
                results.append(PlaceOrderResult(result=PlaceOrderResponse(outcome=everopen.PLACED)))
                results[-1].result.duplicate = placed[order.order_id] > 1
            batches.append(batch)
            if len(batches) == 3:
                connection.socket.shutdown(socket.SHUT_RDWR)
                return
            if len(batches) == 6:
                # The orders before it are decided, and answered as duplicates the next time.
                refused.append(placed.pop(batch.orders[7].order_id))
                results[7] = PlaceOrderResult()
                results[7].status.code = 14
            if (connection.number, stream.id) not in answered:
                answered.add((connection.number, stream.id))
                connection.send(frame(peer.HEADERS, peer.END_HEADERS, stream.id, peer.RESPONSE))
            connection.send(
                frame(peer.DATA, 0, stream.id, peer.message(PlaceOrdersResponse(results=results).SerializeToString()))
            )

    def end(connection: Connection, stream: Stream) -> None:
        answer(connection, stream)
        connection.answer(stream, None)

    batches: list[PlaceOrdersRequest] = []
    with Peer(end, on_data=answer) as server:
        options = replace(OPEN, method="stream", rate=0, streams=1, batch=10, requests=195, seconds=20)
        result = load(server, options)
    assert result.holds
    # Whole batches, and no more of them.
    assert result.counts["placed"] == result.counts["offered"] == result.numbers == len(placed) == 200
    assert bits(result.acks[0]) == list(range(200))
    assert refused == [1]
    assert result.counts["duplicates"] >= 19
    assert result.counts["retried"] >= 20


def test_churn_cancels_the_oldest_once_there_are_enough() -> None:
    shop = Shop()

    def serve(connection: Connection, stream: Stream) -> None:
        path = stream.headers[":path"]
        assert path.startswith("/everopen.v1.OrderService/")
        (shop.cancel if path.endswith("CancelOrder") else shop.place)(connection, stream)

    with Peer(serve) as server:
        result = load(server, replace(OPEN, method="churn", open_orders=10, streams=4))
    counts = result.counts
    assert counts["placed"] == len(shop.placed) == result.numbers
    assert counts["cancelled"] == len(shop.cancelled) > 0
    assert counts["placed"] + counts["cancelled"] == counts["acknowledged"] == 100
    assert 10 <= shop.open_max <= 14
    # In the order in which they were acknowledged; the numbers follow that but for calls that ran side by side.
    assert bits(result.acks[1]) == sorted(int(order_id[-12:], 16) for order_id in shop.cancelled)
    assert max(bits(result.acks[1])) <= counts["cancelled"] + 4
    # One table of headers serves both paths.
    assert all(headers[":authority"] == server.address for headers in server.headers)


def test_order_that_finds_no_stock_is_no_wrong_answer_where_stock_is_short() -> None:
    def sell(connection: Connection, stream: Stream) -> None:
        connection.answer(stream, PLACED if len(server.bodies) <= 60 else SOLD_OUT)

    with Peer(sell) as server:
        result = load(server, replace(OPEN, units=60))
    assert result.holds
    assert (result.counts["placed"], result.counts["sold_out"]) == (60, 40)
    assert len(bits(result.acks[0])) == 60


def test_worker_killed_under_load_loses_and_doubles_nothing(tmp_path: Path) -> None:
    with Server(tmp_path / "data", "--workers", "1") as server:
        options = replace(OPEN, target=server.address, connections=2, rate=500, seconds=60)
        loadgen.seed(options)
        with Background(options) as running:
            wait_until(lambda: running.load.acknowledged >= 100)
            running.load.mark("killed")
            os.kill(server.children["worker 0"], signal.SIGKILL)
            killed_ns = time.monotonic_ns()
            seen = running.load.acknowledged
            wait_until(lambda: running.load.acknowledged >= seen + 100)
            running.load.stop()
            result = running.result()
        server.stop()
    check_books(result)
    assert result.holds
    assert result.counts["placed"] == result.counts["offered"]
    assert bits(result.acks[0]) == list(range(result.numbers))
    assert numbers_in_log(tmp_path / "data", options) == list(range(result.numbers))
    assert result.reconnects >= 2
    assert result.phases[1].gap.began_ns <= killed_ns + 1_000_000_000
    assert result.phases[1].gap.longest_ns > 0


def numbers_in_log(data_dir: Path, options: Options) -> list[int]:
    from engine import journal_tools
    from engine._core import PLACE_ORDER

    ids = [
        PlaceOrderRequest.FromString(record.command).order_id
        for _, record in journal_tools.dump(data_dir)
        if record.kind == PLACE_ORDER and record.outcome == everopen.PLACED
    ]
    assert all(order_id.startswith(options.run_id) for order_id in ids)
    return sorted(int(order_id[-12:], 16) for order_id in ids)
