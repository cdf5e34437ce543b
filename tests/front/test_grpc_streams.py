"""Streams, flow control in both directions, cancellation and health, against peers that read slowly or leave early."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from grpc_health.v1 import health_pb2
from hyperframe.frame import DataFrame, SettingsFrame

from everopen.v1 import order_service_pb2 as orders
from tests.front.calls import (
    GET_ORDER,
    HEALTH_CHECK,
    HEALTH_WATCH,
    INVALID_ARGUMENT,
    NOT_FOUND,
    OK,
    PLACE_ORDER,
    PLACE_ORDERS,
    RESOURCE_EXHAUSTED,
    details,
    fresh_id,
    is_known,
    place,
    place_batch,
    placed,
)
from tests.front.http2 import CANCEL, NO_ERROR, Connection, prefixed
from tests.serving import Server, batch

SERVICES = ("", "everopen.v1.OrderService", "everopen.v1.InventoryService")
INITIAL_WINDOW = 4
# A server may hold this much for a caller that does not read, and not more.
HELD_BYTES_MAX = 48 * 1024 * 1024


def resident_bytes(pid: int) -> int:
    """Memory of a process and of all below it."""
    status = Path(f"/proc/{pid}/status").read_text()
    [line] = [line for line in status.splitlines() if line.startswith("VmRSS")]
    below = [child for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()]
    return int(line.split()[1]) * 1024 + sum(resident_bytes(int(child)) for child in below)


# PlaceOrders


def test_batches_sent_at_once_are_answered_in_their_order(connection: Connection) -> None:
    asked = [[fresh_id() for _ in range(size)] for size in (1, 40, 0, 3, 1_000, 2, 1, 1, 1, 7)]
    answer = connection.call(PLACE_ORDERS, *(batch(ids).SerializeToString() for ids in asked))
    assert answer.code == OK
    answered = [orders.PlaceOrdersResponse.FromString(message) for message in answer.messages]
    assert [[result.result.order.order_id for result in each.results] for each in answered] == asked


def test_batch_is_answered_while_the_stream_stays_open(connection: Connection) -> None:
    stream_id = connection.open(PLACE_ORDERS)
    for count in range(1, 6):
        connection.data(stream_id, prefixed(place_batch()))
        connection.read_until(lambda count=count: len(connection.stream(stream_id).messages) == count)
    connection.data(stream_id, b"", end=True)
    assert connection.answer(stream_id).code == OK


def test_stream_without_messages_is_answered_by_its_end(connection: Connection) -> None:
    answer = connection.call(PLACE_ORDERS)
    assert (answer.code, answer.messages) == (OK, [])


def test_stream_in_small_frames_is_the_same(connection: Connection) -> None:
    body = b"".join(prefixed(place_batch(count)) for count in (1, 2, 1, 3, 1))
    stream_id = connection.open(PLACE_ORDERS)
    for at in range(0, len(body), 3):
        connection.send(DataFrame(stream_id, body[at : at + 3]))
    connection.data(stream_id, b"", end=True)
    answer = connection.answer(stream_id)
    sizes = [len(orders.PlaceOrdersResponse.FromString(message).results) for message in answer.messages]
    assert (answer.code, sizes) == (OK, [1, 2, 1, 3, 1])


def test_bad_batch_ends_the_stream_after_the_answers_before_it(connection: Connection) -> None:
    after = fresh_id()
    answer = connection.call(PLACE_ORDERS, place_batch(), place_batch(), b"\xff", batch([after]).SerializeToString())
    assert (answer.code, len(answer.messages)) == (INVALID_ARGUMENT, 2)
    assert details(answer).code == INVALID_ARGUMENT
    assert not is_known(connection, after)


def test_oversized_batch_ends_the_stream_after_the_answers_before_it(connection: Connection) -> None:
    stream_id = connection.open(PLACE_ORDERS)
    connection.data(stream_id, prefixed(place_batch()))
    connection.read_until(lambda: len(connection.stream(stream_id).messages) == 1)
    connection.data(stream_id, prefixed(bytes(4 * 1024 * 1024 + 1)))
    answer = connection.answer(stream_id)
    assert (answer.code, len(answer.messages)) == (RESOURCE_EXHAUSTED, 1)


def test_stream_cancelled_in_the_middle_leaves_whole_orders_and_a_connection_that_lives(
    connection: Connection,
) -> None:
    ids = [[fresh_id() for _ in range(300)] for _ in range(4)]
    stream_id = connection.open(PLACE_ORDERS)
    for each in ids:
        connection.data(stream_id, prefixed(batch(each).SerializeToString()))
    connection.read_until(lambda: len(connection.stream(stream_id).messages) >= 1)
    connection.reset(stream_id)
    for order_id in ids[0][::50] + ids[-1][::50]:
        request = orders.GetOrderRequest(shop_id="shop", order_id=order_id)
        answer = connection.call(GET_ORDER, request.SerializeToString())
        assert answer.code in (OK, NOT_FOUND)
        if answer.code == OK:
            found = orders.GetOrderResponse.FromString(answer.messages[0]).order
            assert [(line.quantity, line.open) for line in found.lines] == [(1, 1)]
            assert sum(allocation.quantity for allocation in found.allocations) == 1
    assert connection.call(PLACE_ORDERS, place_batch(5)).code == OK


# Flow control


def test_reader_without_a_window_holds_up_itself_and_nobody_else(server: Server) -> None:
    request = prefixed(place_batch(1_000))
    with Connection(server.address, settings={INITIAL_WINDOW: 0}, give_window=False) as slow:
        stream_id = slow.open(PLACE_ORDERS)
        slow.data(stream_id, request)
        slow.ping()
        before = resident_bytes(server.process.pid)
        sent = 1
        while slow.window(stream_id) > len(request) and sent < 2_000:
            # The same batch again: the state does not grow by it, so what memory grows by is held for the caller.
            slow.data(stream_id, request)
            sent += 1
            if slow.window(stream_id) <= len(request):
                slow.ping()
        assert sent < 2_000, "the server reads on for a caller that takes nothing"
        assert resident_bytes(server.process.pid) - before < HELD_BYTES_MAX
        with Connection(server.address) as other:
            for _ in range(20):
                placed(other.call(PLACE_ORDER, place()))
        assert slow.stream(stream_id).data == b""
        slow.give_window = True
        slow.grant(stream_id, 1 << 24)
        slow.grant(0, 1 << 24)
        slow.data(stream_id, b"", end=True)
        answer = slow.answer(stream_id)
        assert (answer.code, len(answer.messages)) == (OK, sent)


def test_stream_that_is_not_read_leaves_the_others_of_its_connection_alone(server: Server) -> None:
    with Connection(server.address, give_window=False) as connection:
        connection.grant(0, 1 << 24)
        stalled = connection.open(PLACE_ORDERS)
        request = place_batch(1_000)
        for _ in range(4):
            connection.data(stalled, prefixed(request))
        connection.read_until(lambda: len(connection.stream(stalled).data) == 65_535)
        for _ in range(20):
            placed(connection.call(PLACE_ORDER, place()))
        connection.grant(stalled, 1 << 24)
        connection.data(stalled, b"", end=True)
        assert len(connection.answer(stalled).messages) == 4


@pytest.mark.parametrize("step", [1, 7, 1_000])
def test_answer_comes_no_faster_than_the_stream_s_window(server: Server, step: int) -> None:
    with Connection(server.address, settings={INITIAL_WINDOW: 0}, give_window=False) as connection:
        stream_id = connection.open(PLACE_ORDER)
        connection.data(stream_id, prefixed(place()), end=True)
        granted = 0
        while not connection.stream(stream_id).over:
            connection.grant(stream_id, step)
            granted += step
            size = len(connection.stream(stream_id).data)
            connection.read_until(
                lambda size=size: len(connection.stream(stream_id).data) > size or connection.stream(stream_id).over
            )
            assert len(connection.stream(stream_id).data) <= granted
        placed(connection.answer(stream_id))


def test_answers_come_no_faster_than_the_connection_s_window(server: Server) -> None:
    with Connection(server.address, give_window=False) as connection:
        connection.grant(0, 1_000)
        stream_id = connection.open(PLACE_ORDERS)
        for _ in range(2):
            connection.data(stream_id, prefixed(place_batch(1_000)))
            connection.grant(stream_id, 1 << 20)
        connection.read_until(lambda: len(connection.stream(stream_id).data) == 66_535)
        connection.ping()
        assert len(connection.stream(stream_id).data) == 66_535
        connection.grant(0, 1 << 20)
        connection.data(stream_id, b"", end=True)
        assert len(connection.answer(stream_id).messages) == 2


def test_window_that_settings_raise_lets_the_answer_go(server: Server) -> None:
    with Connection(server.address, settings={INITIAL_WINDOW: 0}) as connection:
        stream_id = connection.open(PLACE_ORDER)
        connection.data(stream_id, prefixed(place()), end=True)
        connection.ping()
        assert connection.stream(stream_id).data == b""
        connection.send(SettingsFrame(0, settings={INITIAL_WINDOW: 65_535}))
        placed(connection.answer(stream_id))


def test_window_that_settings_make_negative_is_waited_for(server: Server) -> None:
    with Connection(server.address, settings={INITIAL_WINDOW: 100}, give_window=False) as connection:
        stream_id = connection.open(PLACE_ORDERS)
        connection.data(stream_id, prefixed(place_batch(100)))
        connection.read_until(lambda: len(connection.stream(stream_id).data) == 100)
        connection.send(SettingsFrame(0, settings={INITIAL_WINDOW: 0}))
        connection.grant(stream_id, 100)
        connection.ping()
        assert len(connection.stream(stream_id).data) == 100
        connection.grant(stream_id, 1 << 20)
        connection.data(stream_id, b"", end=True)
        assert len(connection.answer(stream_id).messages) == 1


def test_bodies_that_nobody_wants_give_the_connection_s_window_back(connection: Connection) -> None:
    body = prefixed(bytes(900_000))
    for number in range(24):
        path, more = ((PLACE_ORDER, {}), ("/nothing/Nothing", {}), (PLACE_ORDER, {"grpc_timeout": "x"}))[number % 3]
        stream_id = connection.open(path, **more)
        connection.data(stream_id, body, end=True)
        assert connection.answer(stream_id).code != OK
    connection.call(PLACE_ORDER, bytes(4 * 1024 * 1024))
    placed(connection.call(PLACE_ORDER, place()))


def test_many_large_messages_go_through_one_connection(connection: Connection) -> None:
    for _ in range(8):
        request = place_batch(1_024)
        padded = request + b"\xa2\x06\x80\x80\x80\x01" + bytes(2 * 1024 * 1024)
        answer = connection.call(PLACE_ORDERS, padded, padded)
        assert (answer.code, len(answer.messages)) == (OK, 2)


# Cancellation


@pytest.mark.parametrize("code", [NO_ERROR, CANCEL, 0x2, 0xFFFF_FFFF])
def test_call_that_is_reset_is_decided_or_not_and_the_connection_lives(connection: Connection, code: int) -> None:
    rng = random.Random(code)
    ids = []
    for _ in range(12):
        order_id = fresh_id()
        ids.append(order_id)
        stream_id = connection.open(PLACE_ORDER)
        body = prefixed(place(order_id))
        sent = rng.choice((0, 3, len(body) - 1, len(body), len(body)))
        connection.data(stream_id, body[:sent], end=sent == len(body))
        connection.reset(stream_id, code)
    for order_id in ids:
        first = placed(connection.call(PLACE_ORDER, place(order_id)))
        again = placed(connection.call(PLACE_ORDER, place(order_id)))
        assert again.duplicate
        assert again.sequence == first.sequence
        assert again.order.allocations == first.order.allocations


def test_reset_of_a_finished_stream_is_ignored(connection: Connection) -> None:
    stream_id = connection.open(PLACE_ORDER)
    connection.data(stream_id, prefixed(place()), end=True)
    placed(connection.answer(stream_id))
    connection.reset(stream_id)
    placed(connection.call(PLACE_ORDER, place()))


def test_connection_that_is_cut_leaves_its_calls_decided_or_not(server: Server) -> None:
    ids = [fresh_id() for _ in range(30)]
    with Connection(server.address) as cut:
        for order_id in ids:
            stream_id = cut.open(PLACE_ORDER)
            cut.data(stream_id, prefixed(place(order_id)), end=True)
    with Connection(server.address) as connection:
        for order_id in ids:
            first = placed(connection.call(PLACE_ORDER, place(order_id)))
            assert placed(connection.call(PLACE_ORDER, place(order_id))).sequence == first.sequence


# Health


def health_of(message: bytes) -> int:
    return int(health_pb2.HealthCheckResponse.FromString(message).status)


def health_request(service: str) -> bytes:
    return health_pb2.HealthCheckRequest(service=service).SerializeToString()


@pytest.mark.parametrize("service", SERVICES)
def test_health_check_is_serving(connection: Connection, service: str) -> None:
    answer = connection.call(HEALTH_CHECK, health_request(service))
    assert answer.code == OK
    assert [health_of(message) for message in answer.messages] == [health_pb2.HealthCheckResponse.SERVING]


def test_health_check_of_an_unknown_service_is_not_found(connection: Connection) -> None:
    assert connection.call(HEALTH_CHECK, health_request("nothing")).code == NOT_FOUND


@pytest.mark.parametrize("service", [*SERVICES, "nothing"])
def test_health_watch_tells_at_once_and_stays_open(connection: Connection, service: str) -> None:
    stream_id = connection.open(HEALTH_WATCH)
    connection.data(stream_id, prefixed(health_request(service)), end=True)
    connection.read_until(lambda: len(connection.stream(stream_id).messages) == 1)
    connection.ping()
    answer = connection.stream(stream_id)
    known = service in SERVICES
    expected = health_pb2.HealthCheckResponse.SERVING if known else health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
    assert [health_of(message) for message in answer.messages] == [expected]
    assert not answer.over
    connection.reset(stream_id)
    placed(connection.call(PLACE_ORDER, place()))
