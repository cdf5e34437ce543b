"""PlaceOrders: order of answers, bad items, the ends of a stream, and the bounds of the process."""

from __future__ import annotations

import queue
import signal
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from everopen.v1 import order_service_pb2 as orders
from everopen.v1.outcome_pb2 import Outcome
from tests.serving import Client, Server, batch, order

STREAM = "/everopen.v1.OrderService/PlaceOrders"


def test_bad_items_in_the_middle_leave_the_others_and_the_stream_alone(client: Client) -> None:
    middle = orders.PlaceOrdersRequest(
        orders=[
            order("m-1"),
            order("two words"),
            order("m-2", sku_id="none"),
            order("m-1", 2),
            order("m-1"),
            order("m-3"),
        ]
    )
    before, answer, after = client.orders.PlaceOrders(iter([batch(["m-0"]), middle, batch(["m-4"])]))
    assert [result.result.outcome for result in (*before.results, *after.results)] == [Outcome.OUTCOME_PLACED] * 2
    assert [result.WhichOneof("answer") for result in answer.results] == [
        "result",
        "status",
        "status",
        "status",
        "result",
        "result",
    ]
    codes = [result.status.code for result in answer.results[1:4]]
    expected = (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.ALREADY_EXISTS)
    assert codes == [code.value[0] for code in expected]
    assert answer.results[4].result.duplicate
    assert answer.results[4].result.sequence == answer.results[0].result.sequence


def test_malformed_batch_ends_the_stream_after_what_came_before_it_is_answered(client: Client) -> None:
    requests = [batch(["b-0"]).SerializeToString(), b"\xff\xff", batch(["b-1"]).SerializeToString()]
    answers = client.channel.stream_stream(STREAM)(iter(requests))
    first = orders.PlaceOrdersResponse.FromString(next(answers))
    assert first.results[0].result.order.order_id == "b-0"
    with pytest.raises(grpc.RpcError) as refused:
        next(answers)
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert not client.orders.PlaceOrder(order("b-1")).duplicate, "nothing after the malformed batch was executed"


def test_batch_with_too_many_items_is_refused_as_a_whole(client: Client) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        list(client.orders.PlaceOrders(iter([batch(f"many-{n}" for n in range(1_025))])))
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert not client.orders.PlaceOrder(order("many-0")).duplicate


def test_empty_batch_is_answered_with_an_empty_one(client: Client) -> None:
    answers = list(client.orders.PlaceOrders(iter([orders.PlaceOrdersRequest(), batch(["e-0"])])))
    assert [len(answer.results) for answer in answers] == [0, 1]


def test_stream_that_is_cancelled_leaves_the_server_serving(client: Client) -> None:
    for n in range(20):
        stream = client.orders.PlaceOrders(iter([batch([f"cancelled-{n}-{item}"]) for item in range(50)]))
        next(stream)
        stream.cancel()
    assert len(list(client.orders.PlaceOrders(iter([batch(["after-cancel"])])))) == 1


def test_drain_answers_what_was_read_and_ends_the_stream(data_dir: Path) -> None:
    with Server(data_dir) as server, Client(server.address) as client:
        client.seed()
        sent: queue.SimpleQueue[orders.PlaceOrdersRequest | None] = queue.SimpleQueue()
        requests: Iterator[orders.PlaceOrdersRequest] = iter(sent.get, None)
        stream = client.orders.PlaceOrders(requests)
        sent.put(batch(["d-0"]))
        assert next(stream).results[0].result.sequence > 0
        server.process.send_signal(signal.SIGTERM)
        with pytest.raises(grpc.RpcError) as ended:
            next(stream)
        assert ended.value.code() == grpc.StatusCode.UNAVAILABLE
        sent.put(None)
        assert server.wait() == 0
