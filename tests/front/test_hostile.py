"""Peers that mean harm: each meets its bound, is counted, and nobody beside it notices."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Iterable, Iterator

import pytest
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from tests.front.calls import OK, PLACE_ORDER, PLACE_ORDERS, RESOURCE_EXHAUSTED, place, place_batch, placed
from tests.front.hostile import CONNECTIONS_PER_PEER_MAX, SETTINGS, STREAMS_MAX, THERE, Neighbour, flood
from tests.front.http2 import NO_ERROR, PREFACE, SILENCE_S, Connection, prefixed, raw_frame, request_headers
from tests.serving import Server

FLOOD = 400


@pytest.fixture
def server(guarded: Server) -> Server:
    return guarded


def rapid_reset(connection: Connection) -> Iterator[Frame]:
    for _ in range(FLOOD):
        stream_id = connection.new_stream()
        yield from connection.headers_frames(stream_id, request_headers(PLACE_ORDER))
        yield RstStreamFrame(stream_id, error_code=8)


def continuations(connection: Connection) -> Iterator[Frame]:
    [headers] = connection.headers_frames(connection.new_stream(), request_headers(PLACE_ORDER))
    headers.flags.discard("END_HEADERS")
    yield headers
    block = connection.encoder.encode([("x-more", "v")])
    for _ in range(FLOOD):
        yield ContinuationFrame(headers.stream_id, block)


def empty_continuations(connection: Connection) -> Iterator[Frame]:
    [headers] = connection.headers_frames(connection.new_stream(), request_headers(PLACE_ORDER))
    headers.flags.discard("END_HEADERS")
    yield headers
    for _ in range(FLOOD):
        yield ContinuationFrame(headers.stream_id, b"")


def empty_data(connection: Connection) -> Iterator[Frame]:
    stream_id = connection.open(PLACE_ORDER)
    for _ in range(FLOOD):
        yield DataFrame(stream_id, b"")


def padding_only(connection: Connection) -> Iterator[Frame]:
    stream_id = connection.open(PLACE_ORDERS)
    for _ in range(FLOOD):
        frame = DataFrame(stream_id, b"", flags=["PADDED"])
        frame.pad_length = 255
        yield frame


def each(frame: Frame | bytes) -> Callable[[Connection], Iterator[Frame | bytes]]:
    return lambda _: iter([frame] * FLOOD)


def window_updates(connection: Connection) -> Iterator[Frame]:
    stream_id = connection.open(PLACE_ORDER)
    for number in range(FLOOD):
        yield WindowUpdateFrame(stream_id * (number % 2), window_increment=1)


FLOODS: list[tuple[Callable[[Connection], Iterable[Frame | bytes]], str]] = [
    (rapid_reset, "resets_excess"),
    (continuations, "continuation_excess"),
    (empty_continuations, "continuation_excess"),
    (each(SettingsFrame(0, settings={4: 70_000})), "settings_excess"),
    (each(SettingsFrame(0)), "settings_excess"),
    (each(PingFrame(0, b"12345678")), "pings_excess"),
    (empty_data, "frames_excess"),
    (each(PriorityFrame(1, depends_on=0, stream_weight=9)), "frames_excess"),
    (window_updates, "frames_excess"),
    (each(PingFrame(0, b"12345678", flags=["ACK"])), "pings_excess"),
    (each(SettingsFrame(0, flags=["ACK"])), "settings_excess"),
]


@pytest.mark.parametrize(
    ("frames", "counter"), FLOODS, ids=[f"{number}-{counter}" for number, (_, counter) in enumerate(FLOODS)]
)
def test_flood_is_cut_off_and_counted(
    hostile: Connection,
    neighbour: Neighbour,
    frames: Callable[[Connection], Iterable[Frame | bytes]],
    counter: str,
) -> None:
    assert NO_ERROR not in flood(hostile, frames(hostile))
    neighbour.sees_risen(counter, "http2_errors")


@pytest.mark.parametrize("frames", [padding_only, each(raw_frame(0xEE, 0, 0, b"unknown"))], ids=["padding", "unknown"])
def test_flood_of_what_costs_its_bytes_alone_may_go_on_and_harms_nobody(
    hostile: Connection, neighbour: Neighbour, frames: Callable[[Connection], Iterable[Frame | bytes]]
) -> None:
    with contextlib.suppress(ConnectionResetError, BrokenPipeError):
        for frame in frames(hostile):
            hostile.send_bytes(frame if isinstance(frame, bytes) else frame.serialize())
    with contextlib.suppress(EOFError, ConnectionResetError, BrokenPipeError):
        hostile.ping()


# Headers


def test_header_list_beyond_the_bound_is_refused_and_the_connection_lives(
    hostile: Connection, neighbour: Neighbour
) -> None:
    answer = hostile.call(PLACE_ORDER, place(), more=[("x-long", "v" * 20_000)])
    assert answer.code == RESOURCE_EXHAUSTED
    placed(hostile.call(PLACE_ORDER, place()))
    neighbour.sees_risen("headers_too_large")


def test_header_list_that_grows_from_a_small_block_is_refused(hostile: Connection, neighbour: Neighbour) -> None:
    stream_id = hostile.new_stream()
    # One entry of the table, then a byte for each time that it is named again.
    block = hostile.encoder.encode([*request_headers(PLACE_ORDER), ("x-long", "v" * 3_900)])
    again = hostile.encoder.encode([("x-long", "v" * 3_900)])
    assert len(again) == 1
    hostile.send(HeadersFrame(stream_id, block + again * 8_000, flags=["END_HEADERS"]))
    hostile.read_until(lambda: hostile.stream(stream_id).over or bool(hostile.goaways))
    assert hostile.stream(stream_id).code != OK
    neighbour.sees_risen("headers_too_large", "http2_errors")


def test_header_block_that_never_ends_is_given_up(hostile: Connection, neighbour: Neighbour) -> None:
    [headers] = hostile.headers_frames(hostile.new_stream(), request_headers(PLACE_ORDER))
    headers.flags.discard("END_HEADERS")
    hostile.send(headers)
    # A frame of 16,000 bytes, of which one comes now and then.
    hostile.send_bytes(raw_frame(0x9, 0, headers.stream_id, size=16_000))
    began = time.monotonic()
    with contextlib.suppress(ConnectionResetError, BrokenPipeError):
        while not _is_readable_end(hostile) and time.monotonic() - began < 20:
            hostile.send_bytes(b"\0")
            time.sleep(0.02)
    hostile.read_to_end()
    neighbour.sees_risen("slow_senders_reset")


def _is_readable_end(connection: Connection) -> bool:
    """Whether the peer has said good-bye. Reads what there is."""
    connection.socket.settimeout(0.001)
    try:
        while connection.read() is not None:
            pass
    except TimeoutError:
        return bool(connection.goaways)
    finally:
        connection.socket.settimeout(SILENCE_S)
    return True


# Streams


def test_streams_beyond_the_bound_are_refused(hostile: Connection, neighbour: Neighbour) -> None:
    hostile.ping()
    streams = [hostile.open(PLACE_ORDER) for _ in range(STREAMS_MAX * 2)]
    with contextlib.suppress(EOFError):
        hostile.read_until(lambda: all(hostile.stream(stream_id).over for stream_id in streams[STREAMS_MAX:]))
    assert hostile.goaways or all(hostile.stream(stream_id).reset is not None for stream_id in streams[STREAMS_MAX:])
    neighbour.sees_risen("streams_refused", "http2_errors")


def test_sender_that_stops_within_a_message_is_reset_and_the_connection_lives(
    hostile: Connection, neighbour: Neighbour
) -> None:
    for body in (prefixed(place())[:-1], b"\0\0", b""):
        stream_id = hostile.open(PLACE_ORDER)
        hostile.data(stream_id, body)
        answer = hostile.answer(stream_id)
        assert answer.reset is not None or answer.code != OK
    placed(hostile.call(PLACE_ORDER, place()))
    neighbour.sees_risen("slow_senders_reset")


def test_sender_that_dribbles_a_message_is_reset(hostile: Connection, neighbour: Neighbour) -> None:
    stream_id = hostile.open(PLACE_ORDERS)
    hostile.data(stream_id, (100_000).to_bytes(5, "big"))
    began = time.monotonic()
    while not hostile.stream(stream_id).over and time.monotonic() - began < 20:
        hostile.send(DataFrame(stream_id, b"\0"))
        _is_readable_end(hostile)
    assert hostile.stream(stream_id).over
    neighbour.sees_risen("slow_senders_reset")


def test_stream_that_rests_between_its_messages_is_left_alone(hostile: Connection) -> None:
    stream_id = hostile.open(PLACE_ORDERS)
    hostile.data(stream_id, prefixed(place_batch()))
    hostile.read_until(lambda: len(hostile.stream(stream_id).messages) == 1)
    time.sleep(3 * SETTINGS["message_ms"] / 1_000)
    hostile.data(stream_id, prefixed(place_batch()), end=True)
    assert hostile.answer(stream_id).code == OK


# Connections


@pytest.mark.parametrize("beginning", [b"", PREFACE[:10], PREFACE, PREFACE + b"\0"])
def test_peer_that_does_not_finish_its_greeting_is_closed(
    server: Server, neighbour: Neighbour, beginning: bytes
) -> None:
    with Connection(server.address, greet=False, silent=True, source=THERE) as connection:
        connection.send_bytes(beginning)
        connection.read_to_end()
    neighbour.sees_risen("handshakes_timed_out")


def test_peer_that_answers_no_ping_is_closed(server: Server, neighbour: Neighbour) -> None:
    with Connection(server.address, silent=True, source=THERE) as connection:
        connection.read_to_end()
    neighbour.sees_risen("silent_peers_closed")


def test_idle_peer_that_answers_pings_is_left_alone(server: Server, neighbour: Neighbour) -> None:
    with Connection(server.address, source=THERE) as connection:
        pings = 0
        while pings < 2:
            frame = connection.read()
            assert frame is not None
            pings += isinstance(frame, PingFrame) and "ACK" not in frame.flags
        placed(connection.call(PLACE_ORDER, place()))


def test_peer_that_takes_no_answer_is_closed(server: Server, neighbour: Neighbour) -> None:
    with Connection(server.address, settings={4: 0}, give_window=False, source=THERE) as connection:
        stream_id = connection.open(PLACE_ORDER)
        connection.data(stream_id, prefixed(place()), end=True)
        connection.read_to_end()
        assert connection.stream(stream_id).data == b""
    neighbour.sees_risen("silent_peers_closed")


def test_connections_of_one_address_are_bounded_and_others_are_not_kept_out(
    server: Server, neighbour: Neighbour
) -> None:
    where = "127.0.0.3"
    with contextlib.ExitStack() as stack:
        made = [stack.enter_context(Connection(server.address, source=where)) for _ in range(CONNECTIONS_PER_PEER_MAX)]
        for connection in made:
            placed(connection.call(PLACE_ORDER, place()))
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            beyond = stack.enter_context(Connection(server.address, source=where))
            beyond.read_to_end()
            assert not beyond.answers
        neighbour.sees_risen("connections_refused_per_peer")
        made[0].close()
        made[1].ping()
        # Its place is free once the server has seen the end.
        for _ in range(100):
            with contextlib.suppress(EOFError, ConnectionResetError, BrokenPipeError):
                again = stack.enter_context(Connection(server.address, source=where))
                placed(again.call(PLACE_ORDER, place()))
                return
    raise AssertionError("a connection that ended is still counted")


def test_connections_that_come_and_go_leave_nothing_behind(server: Server, neighbour: Neighbour) -> None:
    rng = random.Random(7)
    for number in range(200):
        with Connection(server.address, greet=rng.random() < 0.8, source=f"127.0.2.{1 + number}") as connection:
            if rng.random() < 0.5:
                stream_id = connection.open(PLACE_ORDER)
                connection.data(stream_id, prefixed(place())[: rng.randrange(60)], end=rng.random() < 0.5)
    for _ in range(1_000):
        # Those that are gone are no longer counted as open; only the neighbour's are left.
        if sum(worker.connections for worker in neighbour.workers_now()) <= 3:
            return
        time.sleep(0.01)
    raise AssertionError("connections are left")
