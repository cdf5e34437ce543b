"""A control server that speaks HTTP/2 and keeps to nothing else: answers, half answers, resets, garbage, silence."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import hpack
from hyperframe.frame import (
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from tests.front.http2 import PREFACE, Headers, prefixed, raw_frame

RESPONSE: Headers = [(":status", "200"), ("content-type", "application/grpc")]
TRAILERS: Headers = [("grpc-status", "0"), ("grpc-message", "done")]


class Mischief:
    """Listens at `path` with a thread for each connection; all it does follows from `seed` and what it is sent."""

    def __init__(self, path: Path, seed: int) -> None:
        self._seed = seed
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(64)
        self._threads: list[threading.Thread] = []
        self._accepted: list[socket.socket] = []
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()
        for connection in self._accepted:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            rng = random.Random(self._seed * 1_000 + len(self._accepted))
            self._accepted.append(connection)
            self._threads.append(threading.Thread(target=serve, args=(connection, rng)))
            self._threads[-1].start()


def serve(connection: socket.socket, rng: random.Random) -> None:
    encoder = hpack.Encoder()
    with contextlib.suppress(OSError), connection, connection.makefile("rb") as reader:
        reader.read(len(PREFACE))
        connection.sendall(SettingsFrame(0, settings=rng.choice(({}, {3: 1}, {4: 10}, {4: 0, 3: 2}))).serialize())
        while head := reader.read(9):
            frame, size = Frame.parse_frame_header(memoryview(head))
            body = reader.read(size)
            if isinstance(frame, SettingsFrame) and "ACK" not in frame.flags:
                connection.sendall(SettingsFrame(0, flags=["ACK"]).serialize())
            elif isinstance(frame, DataFrame) and size and rng.random() < 0.8:
                more = WindowUpdateFrame(0, window_increment=size), WindowUpdateFrame(1, window_increment=size)
                more[1].stream_id = frame.stream_id
                connection.sendall(b"".join(update.serialize() for update in more))
            if isinstance(frame, (HeadersFrame, DataFrame)):
                connection.sendall(b"".join(reaction(rng, encoder, frame.stream_id, body)))
                if rng.random() < 0.005:
                    return


def headers(encoder: hpack.Encoder, stream_id: int, block: Headers, *, end: bool = False) -> bytes:
    flags = ["END_HEADERS", *(["END_STREAM"] if end else [])]
    return HeadersFrame(stream_id, encoder.encode(block), flags=flags).serialize()


def reaction(rng: random.Random, encoder: hpack.Encoder, stream_id: int, body: bytes) -> Iterator[bytes]:
    """To a frame of a request. Not every stream is answered, and some are twice."""
    kind = rng.random()
    if kind < 0.35:
        yield headers(encoder, stream_id, RESPONSE)
        for _ in range(rng.randrange(4)):
            yield DataFrame(stream_id, prefixed(body[: rng.randrange(1 + len(body))])).serialize()
        yield headers(encoder, stream_id, TRAILERS, end=True)
    elif kind < 0.45:
        yield headers(encoder, stream_id, [*RESPONSE, *TRAILERS], end=True)
    elif kind < 0.52:
        yield headers(encoder, stream_id, RESPONSE)
        yield DataFrame(stream_id, bytes(rng.randrange(1, 16_384))).serialize()
    elif kind < 0.60:
        yield RstStreamFrame(stream_id, error_code=rng.randrange(14)).serialize()
    elif kind < 0.64:
        yield headers(encoder, stream_id, [(":status", "100"), ("x-early", "1")])
    elif kind < 0.67:
        yield headers(encoder, stream_id, [*RESPONSE, ("x-long", "x" * 15_000), ("x-longer", "y" * 15_000)])
    elif kind < 0.69:
        yield GoAwayFrame(0, last_stream_id=rng.choice((0, stream_id, stream_id + 2)), error_code=0).serialize()
    elif kind < 0.71:
        yield DataFrame(stream_id, b"without headers", flags=["END_STREAM"]).serialize()
    elif kind < 0.73:
        yield PingFrame(0, rng.randbytes(8)).serialize()
    elif kind < 0.74:
        yield raw_frame(rng.randrange(12), rng.randrange(256), rng.choice((0, 1, stream_id)), rng.randbytes(20))
    elif kind < 0.75:
        yield rng.randbytes(100)
    elif kind < 0.78:
        yield SettingsFrame(0, settings={4: rng.choice((0, 1, 65_535, 1 << 20)), 3: rng.randrange(1, 200)}).serialize()
