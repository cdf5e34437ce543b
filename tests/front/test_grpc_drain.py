"""SIGTERM while calls run: what was answered is durable, and what was sent before the final GOAWAY gets an answer."""

from __future__ import annotations

import signal
import socket
from pathlib import Path

import pytest
from grpc_health.v1 import health_pb2

from everopen.v1 import order_service_pb2 as orders
from tests.front.calls import (
    HEALTH_CHECK,
    HEALTH_WATCH,
    OK,
    PLACE_ORDER,
    PLACE_ORDERS,
    UNAVAILABLE,
    details,
    fresh_id,
    place,
    place_batch,
    placed,
)
from tests.front.fronts import FRONTS
from tests.front.http2 import Connection, prefixed
from tests.serving import Client, Server, everopen

STREAM_ID_MAX = 2**31 - 1


def seeded(front: type[Server], data_dir: Path) -> Server:
    server = front(data_dir)
    with Client(server.address) as client:
        client.seed()
    return server


def final_goaway(connection: Connection) -> int | None:
    """The last stream that is answered, once the server has said so."""
    last = [frame.last_stream_id for frame in connection.goaways if frame.last_stream_id < STREAM_ID_MAX]
    return last[-1] if last else None


def test_every_call_before_the_final_goaway_is_answered_and_what_was_answered_is_durable(data_dir: Path) -> None:
    asked: dict[int, str] = {}
    with seeded(Server, data_dir) as server, Connection(server.address) as connection:

        def ask() -> None:
            stream_id, order_id = connection.open(PLACE_ORDER), fresh_id()
            connection.data(stream_id, prefixed(place(order_id)), end=True)
            asked[stream_id] = order_id

        for _ in range(16):
            ask()
        over = 0
        while final_goaway(connection) is None and connection.read() is not None:
            finished = sum(answer.over for answer in connection.answers.values())
            for _ in range(finished - over):
                ask()
            if over < 200 <= finished:
                server.process.send_signal(signal.SIGTERM)
            over = finished
        last = final_goaway(connection)
        assert last is not None, "closed without a word"
        connection.read_to_end()
        assert server.wait() == 0
    answered = set()
    for stream_id, order_id in asked.items():
        answer = connection.stream(stream_id)
        if stream_id <= last:
            assert answer.ended, f"stream {stream_id} of {last} got no answer"
            assert answer.code in (OK, UNAVAILABLE)
        if answer.code == OK:
            answered.add(order_id)
        elif answer.code == UNAVAILABLE:
            assert details(answer).code == UNAVAILABLE
    assert len(answered) >= 200
    with Server(data_dir) as again, Connection(again.address) as connection:
        for order_id in sorted(answered):
            assert placed(connection.call(PLACE_ORDER, place(order_id))).duplicate
        assert again.stop() == 0
    assert everopen("audit", "--data-dir", data_dir).returncode == 0


@pytest.mark.parametrize("front", FRONTS)
def test_open_stream_is_answered_and_ended_by_the_drain(front: type[Server], data_dir: Path) -> None:
    with seeded(front, data_dir) as server, Connection(server.address) as connection:
        stream_id = connection.open(PLACE_ORDERS)
        connection.data(stream_id, prefixed(place_batch(10)))
        connection.read_until(lambda: len(connection.stream(stream_id).messages) == 1)
        server.process.send_signal(signal.SIGTERM)
        answer = connection.answer(stream_id)
        assert answer.code == UNAVAILABLE
        assert len(orders.PlaceOrdersResponse.FromString(answer.messages[0]).results) == 10
        connection.read_to_end()
        assert connection.goaways
        assert server.wait() == 0


@pytest.mark.parametrize("front", FRONTS)
def test_watcher_sees_not_serving_and_then_the_end(front: type[Server], data_dir: Path) -> None:
    with front(data_dir) as server, Connection(server.address) as connection:
        stream_id = connection.open(HEALTH_WATCH)
        connection.data(stream_id, prefixed(b""), end=True)
        connection.read_until(lambda: len(connection.stream(stream_id).messages) == 1)
        server.process.send_signal(signal.SIGTERM)
        answer = connection.answer(stream_id)
        found = [health_pb2.HealthCheckResponse.FromString(message).status for message in answer.messages]
        assert found == [health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING]
        assert answer.ended
        assert server.wait() == 0


@pytest.mark.parametrize("front", FRONTS)
def test_idle_connection_is_told_and_closed_and_does_not_hold_up_the_end(front: type[Server], data_dir: Path) -> None:
    with front(data_dir) as server, Connection(server.address) as idle, Connection(server.address, greet=False):
        assert idle.call(HEALTH_CHECK, b"").code == OK
        server.process.send_signal(signal.SIGTERM)
        idle.read_to_end()
        assert idle.goaways
        assert idle.goaways[-1].error_code == 0
        assert server.wait() == 0


def test_call_between_the_two_goaways_is_answered_and_one_after_them_is_not_taken(data_dir: Path) -> None:
    with seeded(Server, data_dir) as server, Connection(server.address, silent=True) as connection:
        # A call that is half here keeps the connection; no ping is acknowledged, so the notice stands for a while.
        held = connection.open(PLACE_ORDER)
        connection.data(held, prefixed(place())[:-1])
        connection.ping()
        server.process.send_signal(signal.SIGTERM)
        connection.read_until(lambda: bool(connection.goaways))
        assert connection.goaways[0].last_stream_id == STREAM_ID_MAX
        assert connection.call(PLACE_ORDER, place()).code in (OK, UNAVAILABLE)
        connection.read_until(lambda: final_goaway(connection) is not None)
        late = connection.open(PLACE_ORDER)
        connection.data(late, prefixed(place()), end=True)
        connection.data(held, prefixed(place())[-1:], end=True)
        assert connection.answer(held).code in (OK, UNAVAILABLE)
        connection.read_to_end()
        assert connection.stream(late).code is None
        assert server.wait() == 0


def test_port_is_free_after_the_end(data_dir: Path) -> None:
    with Server(data_dir) as server:
        host, _, port = server.address.rpartition(":")
        assert server.stop() == 0
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host, int(port)))
