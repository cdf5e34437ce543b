"""An HTTP/2 server that misbehaves on demand, frame by frame: what the load generator is tested against."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import hpack

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
END_STREAM, END_HEADERS, ACK, PADDED = 1, 4, 1, 8
HEADER_TABLE_SIZE, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE = 1, 3, 4
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
WINDOW_DEFAULT = 65_535


def frame(kind: int, flags: int, stream_id: int, body: bytes = b"") -> bytes:
    return len(body).to_bytes(3, "big") + bytes([kind, flags]) + stream_id.to_bytes(4, "big") + body


def field_of(name: str, value: str) -> bytes:
    """HPACK: a literal that no table takes."""
    return b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()


# :status 200 stands in the static table.
RESPONSE = b"\x88" + field_of("content-type", "application/grpc")


def message(body: bytes) -> bytes:
    return b"\0" + len(body).to_bytes(4, "big") + body


@dataclass(slots=True)
class Stream:
    """A request as far as it came, and what may still come."""

    id: int
    window: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Connection:
    """One of the peer's. `streams` are those whose request is not whole or not answered."""

    socket: socket.socket
    number: int
    window: int = WINDOW_DEFAULT
    streams: dict[int, Stream] = field(default_factory=dict)
    acknowledged_pings: list[bytes] = field(default_factory=list)
    decoder: hpack.Decoder = field(default_factory=hpack.Decoder)

    def send(self, *frames: bytes) -> None:
        self.socket.sendall(b"".join(frames))

    def answer(self, stream: Stream, body: bytes | None, status: int = 0, pushback_ms: str = "") -> None:
        """An ordinary answer; without a body, trailers only."""
        trailers = field_of("grpc-status", str(status))
        if pushback_ms:
            trailers += field_of("grpc-retry-pushback-ms", pushback_ms)
        self.streams.pop(stream.id, None)
        if body is None:
            self.send(frame(HEADERS, END_STREAM | END_HEADERS, stream.id, RESPONSE + trailers))
            return
        self.send(
            frame(HEADERS, END_HEADERS, stream.id, RESPONSE),
            frame(DATA, 0, stream.id, message(body)),
            frame(HEADERS, END_STREAM | END_HEADERS, stream.id, trailers),
        )

    def give_window(self, stream: Stream, size: int) -> None:
        self.window += size
        stream.window += size
        more = size.to_bytes(4, "big")
        self.send(frame(WINDOW_UPDATE, 0, 0, more), frame(WINDOW_UPDATE, 0, stream.id, more))


Handler = Callable[[Connection, Stream], None]


class Peer:
    """Calls `on_request` for each request that is whole, `on_data` for each piece of one, on a thread per connection.

    What a handler does wrong, and what the other side does wrong, is in `faults` afterwards.
    """

    def __init__(
        self,
        on_request: Handler,
        on_data: Handler | None = None,
        settings: dict[int, int] | None = None,
        path: Path | None = None,
        port: int = 0,
    ) -> None:
        self.on_request = on_request
        self.on_data = on_data
        self.settings = settings or {}
        self.faults: list[str] = []
        self.bodies: list[bytes] = []
        self.blocks: list[bytes] = []
        self.headers: list[dict[str, str]] = []
        self.cancelled: list[int] = []
        self.connections: list[Connection] = []
        self.open_max = 0
        self._threads: list[threading.Thread] = []
        if path is None:
            self._listener = socket.create_server(("127.0.0.1", port))
            self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        else:
            self._listener = socket.create_server(str(path), family=socket.AF_UNIX)
            self.address = f"unix:{path}"
        self._accepting = threading.Thread(target=self._accept)
        self._accepting.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Nobody listens any more, and who was connected is not. Does nothing the second time."""
        if self._listener.fileno() < 0:
            return
        self._listener.shutdown(socket.SHUT_RDWR)
        self._accepting.join()
        self._listener.close()
        for connection in self.connections:
            with suppress(OSError):
                connection.socket.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for connection in self.connections:
            connection.socket.close()

    def _accept(self) -> None:
        while True:
            try:
                accepted, _ = self._listener.accept()
            except OSError:
                return
            connection = Connection(accepted, len(self.connections))
            self.connections.append(connection)
            self._threads.append(threading.Thread(target=self._serve, args=(connection,)))
            self._threads[-1].start()

    def _serve(self, connection: Connection) -> None:
        try:
            with connection.socket.makefile("rb") as reader:
                if reader.read(len(PREFACE)) != PREFACE:
                    self.faults.append("no preface")
                settings = b"".join(struct.pack(">HI", key, value) for key, value in self.settings.items())
                connection.send(frame(SETTINGS, 0, 0, settings))
                while head := reader.read(9):
                    size = int.from_bytes(head[:3], "big")
                    self._take(connection, head[3], head[4], int.from_bytes(head[5:9], "big"), reader.read(size))
        except OSError:
            return
        except Exception as error:
            self.faults.append(repr(error))

    def _take(self, connection: Connection, kind: int, flags: int, stream_id: int, body: bytes) -> None:
        streams = connection.streams
        if kind == SETTINGS and not flags & ACK:
            connection.send(frame(SETTINGS, ACK, 0))
        elif kind == PING and flags & ACK:
            connection.acknowledged_pings.append(body)
        elif kind == HEADERS:
            fields = connection.decoder.decode(body)
            window = self.settings.get(INITIAL_WINDOW_SIZE, WINDOW_DEFAULT)
            streams[stream_id] = Stream(stream_id, window, b"", dict(fields))
            self.blocks.append(body)
            self.headers.append(dict(fields))
            self.open_max = max(self.open_max, len(streams))
        elif kind == RST_STREAM:
            self.cancelled.append(stream_id)
            streams.pop(stream_id, None)
        elif kind == DATA and stream_id in streams:
            stream = streams[stream_id]
            stream.body += body
            stream.window -= len(body)
            connection.window -= len(body)
            if stream.window < 0 or connection.window < 0:
                self.faults.append("more than the window")
            if flags & END_STREAM:
                self.bodies.append(stream.body)
                if connection.window < WINDOW_DEFAULT // 2 and INITIAL_WINDOW_SIZE not in self.settings:
                    connection.send(frame(WINDOW_UPDATE, 0, 0, WINDOW_DEFAULT.to_bytes(4, "big")))
                    connection.window += WINDOW_DEFAULT
                self.on_request(connection, stream)
            elif self.on_data is not None:
                self.on_data(connection, stream)
