"""Bytes that are no HTTP/2, or nearly: what is wrong ends its stream or its connection, and nothing else."""

from __future__ import annotations

import contextlib
import random
import socket
from collections.abc import Callable

import pytest
from hyperframe.frame import DataFrame, GoAwayFrame, PingFrame, PriorityFrame, RstStreamFrame

from tests.front.calls import PLACE_ORDER, PLACE_ORDERS, place, place_batch, placed
from tests.front.hostile import THERE, Neighbour, flood
from tests.front.http2 import PREFACE, PROTOCOL_ERROR, Connection, prefixed, raw_frame, recorded, request_headers
from tests.serving import Server


@pytest.fixture
def server(guarded: Server) -> Server:
    return guarded


GARBAGE = {
    "http/1.1": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "tls": bytes.fromhex("1603010200010001fc0303") + bytes(60),
    "almost": PREFACE[:-1] + b"X" + bytes(100),
    "zeros": bytes(4_096),
    "noise": random.Random(1).randbytes(4_096),
}


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE)
def test_peer_that_speaks_no_http2_is_closed(server: Server, neighbour: Neighbour, garbage: bytes) -> None:
    with Connection(server.address, greet=False, source=THERE) as connection:
        flood(connection, [garbage])
    neighbour.sees_risen("http2_errors")


def test_peer_that_does_not_begin_with_settings_is_told_and_closed(server: Server, neighbour: Neighbour) -> None:
    with Connection(server.address, greet=False, source=THERE) as connection:
        assert flood(connection, [PREFACE, PingFrame(0, b"12345678")]) == [PROTOCOL_ERROR]


# Frames that are wrong


def headers_block(connection: Connection) -> bytes:
    return connection.encoder.encode(request_headers(PLACE_ORDER))


# Each is sent on a fresh connection whose stream 1 has its headers and whose stream 3 is over.
WRONG: dict[str, Callable[[Connection], bytes]] = {
    "data on stream 0": lambda _: raw_frame(0, 0, 0, b"x"),
    "data on an idle stream": lambda _: raw_frame(0, 0, 77, b"x"),
    "data on a closed stream": lambda _: raw_frame(0, 0, 3, b"x"),
    "data with more padding than body": lambda _: raw_frame(0, 8, 1, b"\xffx"),
    "data padded and empty": lambda _: raw_frame(0, 8, 1, b""),
    "data that is too large": lambda _: raw_frame(0, 0, 1, size=2**24 - 1),
    "headers on stream 0": lambda c: raw_frame(1, 4, 0, headers_block(c)),
    "headers on an even stream": lambda c: raw_frame(1, 4, 8, headers_block(c)),
    "headers on a closed stream": lambda c: raw_frame(1, 4, 3, headers_block(c)),
    "headers in the past": lambda c: raw_frame(1, 4, 99, headers_block(c)) + raw_frame(1, 4, 97, headers_block(c)),
    "headers that depend on themselves": lambda c: raw_frame(1, 0x24, 99, b"\0\0\0\x63\1" + headers_block(c)),
    "headers with padding beyond": lambda c: raw_frame(1, 0xC, 99, b"\xff" + headers_block(c)[:9]),
    "headers of garbage": lambda _: raw_frame(1, 4, 99, b"\xff" * 40),
    "headers with an index beyond": lambda _: raw_frame(1, 4, 99, b"\xff\xff\x7f"),
    "headers with a huffman text that is none": lambda _: raw_frame(1, 4, 99, b"\x00\x83\xff\xff\xff\x01x"),
    "headers with a table beyond": lambda _: raw_frame(1, 4, 99, b"\x3f\xff\xff\x7f"),
    "empty headers": lambda _: raw_frame(1, 4, 99),
    "headers then a ping in the block": lambda c: raw_frame(1, 0, 99, headers_block(c)) + raw_frame(6, 0, 0, bytes(8)),
    "headers then another's continuation": lambda c: raw_frame(1, 0, 99, headers_block(c)) + raw_frame(9, 4, 101),
    "priority of 4 bytes": lambda _: raw_frame(2, 0, 1, bytes(4)),
    "priority on stream 0": lambda _: raw_frame(2, 0, 0, bytes(5)),
    "priority on itself": lambda _: raw_frame(2, 0, 1, b"\0\0\0\1\1"),
    "reset of stream 0": lambda _: raw_frame(3, 0, 0, bytes(4)),
    "reset of an idle stream": lambda _: raw_frame(3, 0, 99, bytes(4)),
    "reset of 3 bytes": lambda _: raw_frame(3, 0, 1, bytes(3)),
    "settings of 5 bytes": lambda _: raw_frame(4, 0, 0, bytes(5)),
    "settings on stream 1": lambda _: raw_frame(4, 0, 1, bytes(6)),
    "settings that acknowledge with a body": lambda _: raw_frame(4, 1, 0, bytes(6)),
    "settings that push twice": lambda _: raw_frame(4, 0, 0, b"\0\2\0\0\0\2"),
    "settings with a window beyond": lambda _: raw_frame(4, 0, 0, b"\0\4\x80\0\0\0"),
    "settings with frames too small": lambda _: raw_frame(4, 0, 0, b"\0\5\0\0\0\1"),
    "push promise": lambda c: raw_frame(5, 4, 1, b"\0\0\0\2" + headers_block(c)),
    "ping of 7 bytes": lambda _: raw_frame(6, 0, 0, bytes(7)),
    "ping on stream 1": lambda _: raw_frame(6, 0, 1, bytes(8)),
    "goaway": lambda _: GoAwayFrame(0, last_stream_id=0, error_code=2).serialize(),
    "goaway of 7 bytes": lambda _: raw_frame(7, 0, 0, bytes(7)),
    "goaway on stream 1": lambda _: raw_frame(7, 0, 1, bytes(8)),
    "window of nothing": lambda _: raw_frame(8, 0, 1, bytes(4)),
    "window of nothing for all": lambda _: raw_frame(8, 0, 0, bytes(4)),
    "window beyond": lambda _: raw_frame(8, 0, 1, b"\x7f\xff\xff\xff") * 2,
    "window beyond for all": lambda _: raw_frame(8, 0, 0, b"\x7f\xff\xff\xff") * 2,
    "window of 3 bytes": lambda _: raw_frame(8, 0, 1, bytes(3)),
    "window of an idle stream": lambda _: raw_frame(8, 0, 99, b"\0\0\0\1"),
    "continuation of nothing": lambda _: raw_frame(9, 4, 1, b""),
    "continuation on stream 0": lambda _: raw_frame(9, 4, 0, b""),
    "frame that is cut": lambda _: raw_frame(1, 4, 99, b"abc", size=100),
    "more data than the window": lambda _: raw_frame(0, 0, 1, bytes(16_384)) * 1_100,
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_wrong_frame_ends_its_stream_or_connection_and_nothing_else(
    hostile: Connection, neighbour: Neighbour, wrong: Callable[[Connection], bytes]
) -> None:
    hostile.open(PLACE_ORDER)
    placed(hostile.call(PLACE_ORDER, place()))
    with contextlib.suppress(ConnectionResetError, BrokenPipeError):
        hostile.send_bytes(wrong(hostile))
        # The end of what we send; the server must not wait for more.
        hostile.socket.shutdown(socket.SHUT_WR)
    hostile.read_to_end()


def converse(connection: Connection) -> None:
    """A few calls, as a well-behaved client makes them."""
    connection.grant(0, 1 << 20)
    for path, message in ((PLACE_ORDER, place()), (PLACE_ORDERS, place_batch(3)), ("/nothing/Nothing", b"x")):
        stream_id = connection.open(path, ("x-trace", "t"), grpc_timeout="9S")
        body = prefixed(message)
        connection.send(DataFrame(stream_id, body[:9]), PingFrame(0, b"12345678"))
        connection.send(DataFrame(stream_id, body[9:], flags=["END_STREAM"]), PriorityFrame(stream_id))
    connection.send(RstStreamFrame(1, error_code=8), GoAwayFrame(0))


def mutated(rng: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        at = rng.randrange(len(PREFACE) if rng.random() < 0.98 else 0, len(changed))
        kind = rng.randrange(5)
        if kind == 0:
            changed[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            changed[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF))
        elif kind == 2:
            del changed[at : at + rng.choice((1, 2, 9))]
        elif kind == 3:
            changed[at:at] = rng.randbytes(rng.choice((1, 4, 9, 30)))
        else:
            changed[at:at] = changed[at : at + rng.choice((9, 20, 60))]
    return bytes(changed)


@pytest.mark.parametrize("seed", range(4))
def test_conversation_with_faults_harms_nobody(server: Server, neighbour: Neighbour, seed: int) -> None:
    rng = random.Random(seed)
    valid = recorded(converse)
    for _ in range(60):
        with Connection(server.address, greet=False, source=f"127.0.1.{rng.randrange(1, 200)}") as connection:
            with contextlib.suppress(ConnectionResetError, BrokenPipeError, OSError):
                connection.send_bytes(mutated(rng, valid))
                connection.socket.shutdown(socket.SHUT_WR)
            received = b"?"
            with contextlib.suppress(ConnectionResetError):
                while received:
                    received = connection.socket.recv(1 << 16)
