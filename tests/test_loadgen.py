"""The load generator against a peer that answers wrongly, late, or not at all: every request must be accounted for."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import everopen
from engine import loadgen
from engine.loadgen import Options, Result
from everopen.v1.order_service_pb2 import (
    PlaceOrderRequest,
    PlaceOrderResponse,
    PlaceOrderResult,
    PlaceOrdersRequest,
    PlaceOrdersResponse,
)
from tests import peer
from tests.peer import Connection, Peer, Stream, frame

pytestmark = pytest.mark.native

PLACED = PlaceOrderResponse(outcome=everopen.PLACED, sequence=7, log_id=b"l" * 16).SerializeToString()
REFUSED = PlaceOrderResponse(outcome=everopen.INSUFFICIENT_STOCK, sequence=8).SerializeToString()

CLOSED = Options(connections=2, streams=3, seconds=0.15, warmup_s=0)
# 100 requests, far less than any machine takes.
OPEN = replace(CLOSED, rate=1_000, seconds=0.1)


def place(connection: Connection, stream: Stream) -> None:
    connection.answer(stream, PLACED)


def load(server: Peer, options: Options = CLOSED) -> Result:
    """Runs it, and checks that its books balance and that it kept to the protocol."""
    result = loadgen.run(replace(options, target=server.address))
    assert not server.faults
    check_books(result)
    assert sum(count for _, count in result.steps) == result.counts["acknowledged"]
    return result


def check_books(result: Result) -> None:
    for counts in (result.counts, result.warmup):
        assert counts["offered"] == counts["sent"] + counts["expired"] + counts["unsent"]
        fates = ("answered", "reset", "timed_out", "lost", "unanswered")
        assert counts["sent"] == sum(counts[name] for name in fates)
        assert counts["answered"] == sum(counts[name] for name in ("acknowledged", "refused", "malformed"))
        outcomes = ("placed", "cancelled", "sold_out", "wrong")
        assert counts["acknowledged"] == sum(counts[name] for name in outcomes)
        assert counts["reset"] == sum(counts["resets"].values())


def every(number: int, other: Any) -> Any:
    """A handler that places orders, but treats one of so many otherwise; and how many those were."""
    seen = Counter[str]()

    def handler(connection: Connection, stream: Stream) -> None:
        seen["all"] += 1
        if seen["all"] % number == 0:
            seen["other"] += 1
            other(connection, stream)
        else:
            place(connection, stream)

    return handler, seen


def requests_of(server: Peer) -> list[PlaceOrderRequest]:
    return [PlaceOrderRequest.FromString(body[5:]) for body in server.bodies]


def test_orders_that_are_placed_are_counted_and_unique() -> None:
    with Peer(place) as server:
        result = load(server, replace(OPEN, skus=7, shops=2))
    orders = requests_of(server)
    assert result.holds
    assert result.counts["offered"] == result.placed == len(orders) == 100
    assert len({order.order_id for order in orders}) == 100
    assert Counter(order.shop_id for order in orders) == {"shop-0000": 50, "shop-0001": 50}
    assert {order.lines[0].sku_id for order in orders} == {f"sku-{number:06}" for number in range(7)}


def test_unix_socket_is_loaded_like_any_other(tmp_path: Path) -> None:
    with Peer(place, path=tmp_path / "socket") as server:
        result = load(server, OPEN)
    assert result.counts["placed"] == 100
    assert server.headers[0][":authority"] == "localhost"


def test_random_gaps_keep_the_rate() -> None:
    with Peer(place) as server:
        result = load(server, replace(OPEN, poisson=True))
    # Five and ten standard deviations away from a hundred.
    assert 50 < result.counts["offered"] < 200


def test_zipf_sells_skus_by_their_rank() -> None:
    places = loadgen.places_of(replace(OPEN, zipf=True, skus=4, shops=2))
    sold = Counter(places[at + 4 : at + 10] for at in range(0, len(places), 10))
    shares = [sold[b"%06d" % sku] * (1 + 1 / 2 + 1 / 3 + 1 / 4) / sold.total() for sku in range(4)]
    assert shares == pytest.approx([1, 1 / 2, 1 / 3, 1 / 4], rel=0.1)
    assert {places[at : at + 4] for at in range(0, len(places), 10)} == {b"0000", b"0001"}


def test_order_id_that_looks_like_a_buyer_keeps_its_own_digits() -> None:
    with Peer(place) as server:
        load(server, replace(OPEN, run_id="feedb"))
    orders = requests_of(server)
    assert {order.order_id for order in orders} == {f"feedb-{number:012x}" for number in range(100)}
    assert {order.buyer_id for order in orders} == {f"b-{number:04x}" for number in range(100)}


def test_runs_have_different_order_ids() -> None:
    with Peer(place) as server:
        load(server, OPEN)
        load(server, replace(OPEN, run_id=Options().run_id))
    assert len({order.order_id for order in requests_of(server)}) == 200


def test_warm_up_is_counted_apart() -> None:
    with Peer(place) as server:
        result = load(server, replace(OPEN, warmup_s=0.05))
    assert (result.warmup["placed"], result.counts["placed"], result.placed) == (50, 100, 150)


@pytest.mark.parametrize("status", [3, 8, 14])
def test_other_statuses_are_refusals(status: int) -> None:
    handler, seen = every(3, lambda connection, stream: connection.answer(stream, None, status))
    with Peer(handler) as server:
        result = load(server)
    assert result.counts["refused"] == result.counts["statuses"][status] == seen["other"] > 0
    assert result.counts["placed"] == result.counts["statuses"][0] == seen["all"] - seen["other"]
    assert result.holds == (status in loadgen.SHED)


def test_other_outcome_is_wrong() -> None:
    handler, seen = every(3, lambda connection, stream: connection.answer(stream, REFUSED))
    with Peer(handler) as server:
        result = load(server)
    assert result.counts["wrong"] == seen["other"] > 0
    assert not result.holds


def without_status(connection: Connection, stream: Stream) -> None:
    del connection.streams[stream.id]
    body = peer.message(PLACED)
    connection.send(
        frame(peer.HEADERS, peer.END_HEADERS, stream.id, peer.RESPONSE), frame(peer.DATA, 1, stream.id, body)
    )


def two_messages(connection: Connection, stream: Stream) -> None:
    connection.send(
        frame(peer.HEADERS, peer.END_HEADERS, stream.id, peer.RESPONSE),
        frame(peer.DATA, 0, stream.id, peer.message(PLACED)),
        frame(peer.DATA, 0, stream.id, peer.message(PLACED)),
    )
    connection.answer(stream, None)


@pytest.mark.parametrize(
    "answer",
    [
        without_status,
        two_messages,
        lambda connection, stream: connection.answer(stream, None),
        lambda connection, stream: connection.answer(stream, b"\x08"),
        lambda connection, stream: connection.answer(stream, b"\x12\x7fabc"),
        lambda connection, stream: connection.answer(stream, PLACED, 99),
    ],
    ids=["no status", "two messages", "no message", "half a field", "size beyond the end", "status 99"],
)
def test_nonsense_is_malformed(answer: Any) -> None:
    handler, seen = every(4, answer)
    with Peer(handler) as server:
        result = load(server)
    assert result.counts["malformed"] == seen["other"] > 0
    assert result.counts["placed"] == seen["all"] - seen["other"]
    assert not result.holds


def test_resets_are_counted_by_code() -> None:
    def reset(connection: Connection, stream: Stream) -> None:
        del connection.streams[stream.id]
        connection.send(frame(peer.RST_STREAM, 0, stream.id, (11).to_bytes(4, "big")))

    handler, seen = every(3, reset)
    with Peer(handler) as server:
        result = load(server)
    assert result.counts["resets"] == {11: seen["other"]}
    assert result.counts["placed"] == seen["all"] - seen["other"]


def test_goaway_gives_unprocessed_requests_to_another_connection() -> None:
    def leave(connection: Connection, stream: Stream) -> None:
        if connection.number == 0 and len(server.bodies) == 20:
            last = (stream.id - 2).to_bytes(4, "big")
            connection.send(frame(peer.GOAWAY, 0, 0, last + bytes(4)))
        elif connection.number != 0 or len(server.bodies) < 20:
            place(connection, stream)

    with Peer(leave) as server:
        result = load(server, replace(OPEN, connections=1))
    assert result.handshakes == 2
    assert result.counts["retried"] >= 1
    assert result.counts["placed"] == result.counts["offered"] == 100


def test_lost_connection_is_counted_and_replaced() -> None:
    def hang_up(connection: Connection, stream: Stream) -> None:
        if connection.number == 0 and len(server.bodies) == 20:
            connection.socket.shutdown(2)
        elif connection.number != 0 or len(server.bodies) < 20:
            place(connection, stream)

    with Peer(hang_up) as server:
        result = load(server, replace(OPEN, connections=1))
    assert result.handshakes == 2
    assert 1 <= result.counts["lost"] <= 3
    assert result.counts["placed"] == 100 - result.counts["lost"]


def test_streams_stay_within_the_peers_limit_also_when_it_falls() -> None:
    def narrow(connection: Connection, stream: Stream) -> None:
        if len(server.bodies) == 20:
            # What is open may end first.
            connection.send(frame(peer.SETTINGS, 0, 0, b"\0\3" + (1).to_bytes(4, "big")))
        if len(server.bodies) == 40:
            server.open_max = 0
        place(connection, stream)

    with Peer(narrow, settings={peer.MAX_CONCURRENT_STREAMS: 4}) as server:
        result = load(server, replace(CLOSED, connections=1, streams=16))
    assert len(server.bodies) > 60
    assert server.open_max == 1
    assert result.counts["placed"] == result.counts["offered"]


def test_small_windows_are_kept() -> None:
    def widen(connection: Connection, stream: Stream) -> None:
        connection.give_window(stream, 13)

    with Peer(place, on_data=widen, settings={peer.INITIAL_WINDOW_SIZE: 10}) as server:
        result = load(server, replace(OPEN, connections=1))
    assert result.counts["placed"] == 100
    assert len({order.order_id for order in requests_of(server)}) == 100


def test_peer_without_a_header_table_gets_plain_headers() -> None:
    with Peer(place, settings={peer.HEADER_TABLE_SIZE: 0}) as server:
        load(server, replace(OPEN, connections=1))
    # A table of size 0 is announced once; then each block holds its path.
    assert [block[:1] for block in server.blocks[:2]] == [b"\x20", b"\x83"]
    assert all(b"/everopen.v1.OrderService/PlaceOrder" in block for block in server.blocks)
    assert len(server.headers) == 100


def test_headers_are_sent_whole_once_and_by_number_after() -> None:
    with Peer(place) as server:
        load(server, replace(OPEN, connections=1))
    assert {len(block) for block in server.blocks[1:]} == {7}
    assert server.headers[0][":path"] == "/everopen.v1.OrderService/PlaceOrder"
    assert server.headers[0] == {
        ":method": "POST",
        ":scheme": "http",
        ":path": "/everopen.v1.OrderService/PlaceOrder",
        ":authority": server.address,
        "te": "trailers",
        "content-type": "application/grpc",
        "user-agent": "everopen-bench",
    }
    assert all(headers == server.headers[0] for headers in server.headers)


def test_timeout_is_what_is_left_of_the_deadline() -> None:
    with Peer(place) as server:
        load(server, replace(OPEN, connections=1, deadline_ms=5_000))
    left_us = [int(headers["grpc-timeout"].removesuffix("u")) for headers in server.headers]
    assert all(0 < left <= 5_000_000 for left in left_us)
    assert any(left < 5_000_000 for left in left_us)


def test_answers_in_odd_frames_are_read() -> None:
    def odd(connection: Connection, stream: Stream) -> None:
        del connection.streams[stream.id]
        body = peer.message(PLACED)
        trailers = peer.field_of("grpc-status", "0") + peer.field_of("x" * 50, "y" * 50)
        connection.send(
            frame(peer.PING, 0, 0, b"pingping"),
            frame(peer.HEADERS, 0, stream.id, peer.RESPONSE[:5]),
            frame(peer.CONTINUATION, peer.END_HEADERS, stream.id, peer.RESPONSE[5:]),
            frame(77, 0, 0, b"a kind of the future"),
            frame(peer.DATA, peer.PADDED, stream.id, b"\4" + body[:3] + bytes(4)),
            frame(peer.DATA, 0, stream.id, b""),
            frame(peer.DATA, 0, stream.id, body[3:9]),
            frame(peer.DATA, 0, stream.id, body[9:]),
            frame(
                peer.HEADERS, peer.END_STREAM | peer.END_HEADERS | peer.PADDED, stream.id, b"\2" + trailers + b"\0\0"
            ),
        )

    with Peer(odd) as server:
        result = load(server)
    assert result.counts["placed"] == result.counts["offered"] > 0
    assert b"pingping" in server.connections[0].acknowledged_pings


def test_requests_past_their_deadline_expire_or_time_out() -> None:
    # One call at a time, never answered: it times out, and what waits behind it expires.
    with Peer(lambda connection, stream: None) as server:
        result = load(server, replace(OPEN, connections=1, streams=1, deadline_ms=20))
    assert result.counts["offered"] == 100
    assert result.counts["expired"] > 0
    assert result.counts["timed_out"] == len(server.bodies) > 0
    assert server.cancelled[0] == 1


def test_latency_counts_from_when_a_request_was_due() -> None:
    waiting: list[Stream] = []

    def stall(connection: Connection, stream: Stream) -> None:
        waiting.append(stream)
        if len(server.bodies) > 1:
            place(connection, stream)

    with Peer(stall) as server:
        options = replace(OPEN, target=server.address, connections=1, streams=1)
        generator = loadgen.make_generator(options)
        loadgen.connect(generator, options)
        generator.start(0.1, 0, 10)
        generator.run(100)
        assert len(waiting) == 1
        place(server.connections[0], waiting[0])
        while not generator.run(10):
            pass
    steps, max_ns = generator.latencies()
    # One call at a time, and the first took 0.1 s: half of the hundred were due 0.05 s before they could be sent.
    assert sum(count for _, count in steps) == 100
    assert sum(count for latency_ns, count in steps if latency_ns > 40_000_000) >= 50
    assert max_ns <= steps[-1][0] <= max_ns * 1.008


def test_requests_without_an_answer_are_counted_when_time_is_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loadgen, "DRAIN_S", 0.05)
    with Peer(lambda connection, stream: None) as server:
        result = load(server, replace(OPEN, connections=1, streams=4))
    assert (result.counts["unanswered"], result.counts["unsent"]) == (4, 96)


def test_batches_are_counted_order_by_order() -> None:
    def answer(connection: Connection, stream: Stream) -> None:
        # Each message is answered when it is whole; the stream when the other side ends it.
        while len(stream.body) >= 5 and len(stream.body) >= 5 + int.from_bytes(stream.body[1:5], "big"):
            size = 5 + int.from_bytes(stream.body[1:5], "big")
            batch = PlaceOrdersRequest.FromString(stream.body[5:size])
            batches.append(batch)
            stream.body = stream.body[size:]
            connection.give_window(stream, size)
            results = [PlaceOrderResult(result=PlaceOrderResponse.FromString(PLACED)) for _ in batch.orders]
            results[3].result.outcome = everopen.INSUFFICIENT_STOCK
            results[4].status.code = 8
            body = peer.message(PlaceOrdersResponse(results=results[:9]).SerializeToString())
            if stream.id not in started:
                connection.send(frame(peer.HEADERS, peer.END_HEADERS, stream.id, peer.RESPONSE))
                started.add(stream.id)
            connection.send(frame(peer.DATA, 0, stream.id, body))

    def end(connection: Connection, stream: Stream) -> None:
        answer(connection, stream)
        connection.answer(stream, None)

    batches: list[PlaceOrdersRequest] = []
    started: set[int] = set()
    with Peer(end, on_data=answer) as server:
        options = replace(CLOSED, target=server.address, method="stream", connections=1, streams=2, batch=10, window=3)
        result = loadgen.run(options)
    assert not server.faults
    check_books(result)
    count = len(batches)
    assert count > 10
    assert {len(batch.orders) for batch in batches} == {10}
    assert len({order.order_id for batch in batches for order in batch.orders}) == 10 * count
    assert result.counts["sent"] == 10 * count
    # Of ten: one has another outcome, one another status, and one no result at all.
    assert (result.counts["wrong"], result.counts["refused"], result.counts["malformed"]) == (count, count, count)
    assert result.counts["placed"] == 7 * count
    assert result.counts["statuses"] == {0: 8 * count, 8: count}


def test_percentiles_are_those_of_the_steps() -> None:
    steps = [(10, 50), (20, 49), (30, 1)]
    points = {50: 10, 50.5: 20, 99: 20, 99.1: 29, 100: 29}
    assert {point: loadgen.percentile_of(steps, 29, point) for point in points} == points
