"""What those who do harm send, as bytes: one connection's worth each, and a way to send it again and again.

python -m tests.front.abuses ADDRESS NAME SECONDS      for the bench, from a process that can be put behind others

The address `self` is a socket of the process itself: it takes as much of its core, and harms nobody.
"""

from __future__ import annotations

import contextlib
import gzip
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from hyperframe.frame import ContinuationFrame, DataFrame, Frame, PingFrame, RstStreamFrame, SettingsFrame

from tests.front.calls import PLACE_ORDER, PLACE_ORDERS, place
from tests.front.http2 import FRAME_BYTES_MAX, Connection, prefixed, request_headers

GIB = 1024**3
# Far beyond every bound of engine/front_settings.py.
FLOOD = 4_000
STREAMS = 32
SINK_BYTES = 1 << 16
# Whom nobody answers gives up: after several times what the bench's slow senders are given.
PATIENCE_S = 0.4


class Sink:
    """Takes what a connection sends, for later."""

    def __init__(self) -> None:
        self.taken = bytearray()

    def sendall(self, data: bytes) -> None:
        self.taken += data


def headers(connection: Connection, stream_id: int, *more: tuple[str, str], path: str = PLACE_ORDER) -> list[Frame]:
    return connection.headers_frames(stream_id, request_headers(path, *more))


def rapid_reset(connection: Connection) -> Iterator[Frame]:
    for _ in range(FLOOD):
        stream_id = connection.new_stream()
        yield from headers(connection, stream_id)
        yield RstStreamFrame(stream_id, error_code=8)


def continuations(connection: Connection) -> Iterator[Frame]:
    [begin] = headers(connection, connection.new_stream())
    begin.flags.discard("END_HEADERS")
    yield begin
    for _ in range(FLOOD):
        yield ContinuationFrame(1, connection.encoder.encode([("x-more", "v")]))


def settings(connection: Connection) -> Iterator[Frame]:
    for number in range(FLOOD):
        yield SettingsFrame(0, settings={1: number % 4_096})


def pings(connection: Connection) -> Iterator[Frame]:
    for number in range(FLOOD):
        yield PingFrame(0, number.to_bytes(8, "big"))


def huge_metadata(connection: Connection) -> Iterator[Frame]:
    for _ in range(8):
        stream_id = connection.new_stream()
        # Each value is another one, so that no table makes it short.
        yield from headers(connection, stream_id, ("x-huge", os.urandom(10_000).hex()))
        yield DataFrame(stream_id, prefixed(place()), flags=["END_STREAM"])


def declared_3_gb(connection: Connection) -> Iterator[Frame]:
    for _ in range(STREAMS):
        stream_id = connection.new_stream()
        yield from headers(connection, stream_id)
        yield DataFrame(stream_id, b"\0" + (3 * GIB).to_bytes(4, "big") + bytes(1_000))


def gzip_bombs(connection: Connection) -> Iterator[Frame]:
    bomb = prefixed(gzip.compress(bytes(48 * 1024 * 1024)), compressed=1)
    stream_id = connection.new_stream()
    yield from headers(connection, stream_id, ("grpc-encoding", "gzip"), path=PLACE_ORDERS)
    # What fits the first window of a connection.
    assert len(bomb) < 65_535
    for at in range(0, len(bomb), FRAME_BYTES_MAX):
        yield DataFrame(stream_id, bomb[at : at + FRAME_BYTES_MAX])


def slow_senders(connection: Connection) -> Iterator[Frame]:
    for _ in range(8):
        stream_id = connection.new_stream()
        yield from headers(connection, stream_id)
        yield DataFrame(stream_id, prefixed(place())[:-1])


class Abuse(NamedTuple):
    frames: Callable[[Connection], Iterator[Frame]]
    # One of these at least is raised.
    counters: tuple[str, ...]


ABUSES = {
    "rapid reset": Abuse(rapid_reset, ("resets_excess",)),
    "continuations": Abuse(continuations, ("continuation_excess",)),
    # With the bounds as shipped libnghttp2's own, on acknowledgements that wait to be sent, is met first.
    "settings": Abuse(settings, ("settings_excess", "http2_errors")),
    "pings": Abuse(pings, ("pings_excess",)),
    "huge metadata": Abuse(huge_metadata, ("headers_too_large",)),
    "declared 3 GB": Abuse(declared_3_gb, ("requests_too_large",)),
    "gzip bombs": Abuse(gzip_bombs, ("requests_too_large",)),
    "slow senders": Abuse(slow_senders, ("slow_senders_reset",)),
}


def bytes_of(frames: Callable[[Connection], Iterator[Frame]]) -> bytes:
    """With a greeting before them."""
    sink: Any = Sink()
    connection = Connection(sink)
    connection.send(*frames(connection))
    return bytes(sink.taken)


def send_once(address: str, data: bytes, source: str, patience_s: float) -> None:
    """On a connection of its own, until the peer ends it or says nothing for so long."""
    host, _, port = address.rpartition(":")
    with (
        contextlib.suppress(ConnectionResetError, BrokenPipeError, TimeoutError),
        socket.create_connection((host, int(port)), patience_s, source_address=(source, 0)) as connection,
    ):
        connection.sendall(data)
        while connection.recv(1 << 16):
            pass


def idle_connections(address: str, count: int) -> list[socket.socket]:
    """Greeted, and silent from then on. They come from as many addresses as it takes for the bound on one."""
    host, _, port = address.rpartition(":")
    greeting = bytes_of(lambda _: iter(()))
    made = []
    for number in range(count):
        made.append(socket.create_connection((host, int(port)), source_address=(f"127.0.4.{1 + number // 2_000}", 0)))
        made[-1].sendall(greeting)
    return made


def sink() -> str:
    """The address of somebody in this process who reads what comes, and ends each connection like a server that has had
    enough."""
    listener = socket.create_server(("127.0.0.1", 0))

    def run() -> None:
        while True:
            peer, _ = listener.accept()
            with peer, contextlib.suppress(ConnectionError):
                peer.recv(SINK_BYTES)

    threading.Thread(target=run, daemon=True).start()
    return f"127.0.0.1:{listener.getsockname()[1]}"


def main(address: str, name: str, seconds: float) -> None:
    until = time.monotonic() + seconds
    if address == "self":
        address = sink()
    if name == "idle connections":
        idle = idle_connections(address, int(os.environ["EVEROPEN_IDLE_CONNECTIONS"]))
        print("begun", flush=True)
        time.sleep(max(0.0, until - time.monotonic()))
        del idle
        return
    data = bytes_of(ABUSES[name].frames)
    print("begun", flush=True)
    while time.monotonic() < until:
        send_once(address, data, "127.0.0.2", PATIENCE_S)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]))
