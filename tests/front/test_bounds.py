"""A worker near its bounds: what it holds stays bounded, nobody waits for ever, and the gauges come back to nothing."""

from __future__ import annotations

import gzip
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hyperframe.frame import DataFrame

from everopen.v1 import order_service_pb2 as orders
from tests.front.http2 import FRAME_BYTES_MAX, Connection, prefixed
from tests.front.workers import PATIENCE_S, Workers

pytestmark = pytest.mark.native

MIB = 1024 * 1024
BYTES_MAX = 8 * MIB
PLACE_ORDER, PLACE_ORDERS = "/everopen.v1.OrderService/PlaceOrder", "/everopen.v1.OrderService/PlaceOrders"
RESOURCE_EXHAUSTED, INTERNAL = 8, 13
# Nothing may be sent to it before it says so.
CLOSED_WINDOW = {4: 0}


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workers]:
    folder = tmp_path_factory.mktemp("bounds")
    bounds = {"batches_per_stream_max": 2, "connection_bytes_max": BYTES_MAX, "bytes_max": BYTES_MAX}
    with Workers(folder / "data", 1, 1, folder / "control", **bounds) as running:
        yield running
        running.drain(0)


@pytest.fixture
def idle(worker: Workers) -> Iterator[Workers]:
    """At the end of the test it must hold nothing any more."""
    yield worker
    until = time.monotonic() + PATIENCE_S
    while any(worker.gauges(name) != [0] for name in ("connections", "calls_in_flight", "bytes_in_flight")):
        assert time.monotonic() < until
        time.sleep(0.02)


def large(size: int) -> bytes:
    """A request of the order of nobody, with an unknown field that makes it long."""
    digits = (size & 0x7F | 0x80, size >> 7 & 0x7F | 0x80, size >> 14 & 0x7F | 0x80, size >> 21)
    return prefixed(b"\xa2\x06" + bytes(digits) + bytes(size))


def batch(count: int = 3) -> bytes:
    return orders.PlaceOrdersRequest(orders=[orders.PlaceOrderRequest(order_id="o")] * count).SerializeToString()


def test_connection_whose_answers_wait_for_its_windows_is_still_read(idle: Workers) -> None:
    with Connection(idle.addresses[0], settings=CLOSED_WINDOW) as connection:
        streams = [connection.open(PLACE_ORDERS) for _ in range(3)]
        for stream_id in streams:
            connection.data(stream_id, prefixed(batch()) + large(3 * MIB), end=True)
        connection.ping()
        late = connection.call(PLACE_ORDERS, batch())
        assert late.code == RESOURCE_EXHAUSTED, "no answer of it would have a place"
        for stream_id in streams:
            connection.grant(stream_id, MIB)
        assert [len(connection.answer(stream_id).messages) for stream_id in streams] == [2, 2, 2]


def test_connection_with_whole_messages_of_unended_requests_is_still_read(idle: Workers) -> None:
    with Connection(idle.addresses[0]) as connection:
        streams = [connection.open(PLACE_ORDER) for _ in range(3)]
        for stream_id in streams:
            connection.data(stream_id, large(3 * MIB))
        for stream_id in streams:
            connection.data(stream_id, b"", end=True)
        assert all(connection.answer(stream_id).ended for stream_id in streams)


def test_half_messages_together_take_no_more_than_the_bound_and_a_quarter(idle: Workers) -> None:
    with Connection(idle.addresses[0]) as connection:
        streams = [connection.open(PLACE_ORDER) for _ in range(6)]
        body = large(3 * MIB)
        for at in range(0, len(body), 16 * FRAME_BYTES_MAX):
            for stream_id in streams:
                connection.data(stream_id, body[at : at + 16 * FRAME_BYTES_MAX])
        connection.ping()
        refused = [stream_id for stream_id in streams if connection.stream(stream_id).code == RESOURCE_EXHAUSTED]
        # Six of them would be 18 MiB.
        assert len(refused) >= 3
        for stream_id in set(streams) - set(refused):
            connection.data(stream_id, b"", end=True)
            assert connection.answer(stream_id).ended


def test_message_that_is_not_gzip_ends_the_stream_after_the_answers_before_it(idle: Workers) -> None:
    with Connection(idle.addresses[0]) as connection:
        stream_id = connection.open(PLACE_ORDERS, ("grpc-encoding", "gzip"))
        good = prefixed(gzip.compress(batch()), compressed=1)
        connection.data(stream_id, good + prefixed(b"not at all", compressed=1))
        answer = connection.answer(stream_id)
        assert (answer.code, len(answer.messages)) == (INTERNAL, 1)


def test_expanded_message_counts_with_its_full_size(idle: Workers) -> None:
    with Connection(idle.addresses[0], settings=CLOSED_WINDOW) as connection:
        bomb = prefixed(gzip.compress(large(3 * MIB)[5:]), compressed=1)
        codes = [self_contained(connection, bomb) for _ in range(6)]
        assert codes.count(RESOURCE_EXHAUSTED) >= 3


def self_contained(connection: Connection, message: bytes) -> int | None:
    """The code, as far as it is known without a window for the answer."""
    stream_id = connection.open(PLACE_ORDERS, ("grpc-encoding", "gzip"))
    connection.send(DataFrame(stream_id, message, flags=["END_STREAM"]))
    connection.ping()
    connection.read_until(lambda: bool(connection.stream(stream_id).blocks))
    return connection.stream(stream_id).code


@pytest.mark.parametrize("batches", [1, 2, 3, 9])
def test_request_cut_in_a_message_is_refused_after_any_number_of_batches(idle: Workers, batches: int) -> None:
    with Connection(idle.addresses[0]) as connection:
        stream_id = connection.open(PLACE_ORDERS)
        connection.data(stream_id, prefixed(batch()) * batches + b"\0\0\0", end=True)
        answer = connection.answer(stream_id)
        assert (answer.code, len(answer.messages)) == (INTERNAL, batches)


def test_worker_that_is_told_more_while_it_ends_still_ends_in_order(tmp_path: Path) -> None:
    with Workers(tmp_path / "data", 2, 2, tmp_path / "control") as workers:
        process = workers.running[0]
        for kind in ("drain", "drain"):
            process.send(kind)
        process.wait_for("drained")
        for kind in ("close", "drain", "close"):
            process.send(kind)
        workers.link(0, 1)
        del workers.running[0]
        assert process.end() == 0, workers.said()
        workers.drain(1)
