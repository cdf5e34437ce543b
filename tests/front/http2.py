"""A client that sends any HTTP/2 frame in any order, and tells what came back. It neither judges nor repairs."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self
from urllib.parse import unquote

import hpack
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
FRAME_BYTES_MAX = 16_384
WINDOW_BYTES = 65_535
# A peer that says nothing for so long has nothing to say; a test that waits longer fails.
SILENCE_S = 15.0
NO_ERROR, PROTOCOL_ERROR, CANCEL, ENHANCE_YOUR_CALM = 0x0, 0x1, 0x8, 0xB

Headers = list[tuple[str, str]]


def prefixed(message: bytes, *, compressed: int = 0) -> bytes:
    """A message as gRPC frames it."""
    return bytes([compressed]) + len(message).to_bytes(4, "big") + message


def raw_frame(kind: int, flags: int, stream_id: int, body: bytes = b"", size: int | None = None) -> bytes:
    """Any frame at all, also with a size that is not its body's."""
    length = len(body) if size is None else size
    return length.to_bytes(3, "big") + bytes([kind, flags]) + stream_id.to_bytes(4, "big") + body


def request_headers(path: str, *more: tuple[str, str], **replaced: str | None) -> Headers:
    """The headers of an ordinary call. A keyword replaces one (`_` is `-`, `__` the colon in front), None drops it."""
    headers = {
        ":method": "POST",
        ":scheme": "http",
        ":path": path,
        ":authority": "test",
        "content-type": "application/grpc",
        "te": "trailers",
    }
    for name, value in replaced.items():
        name = name.replace("__", ":").replace("_", "-")
        if value is None:
            del headers[name]
        else:
            headers[name] = value
    return [*headers.items(), *more]


@dataclass
class Answer:
    """What came on one stream so far."""

    headers: dict[str, str] = field(default_factory=dict)
    trailers: dict[str, str] = field(default_factory=dict)
    data: bytearray = field(default_factory=bytearray)
    blocks: int = 0
    ended: bool = False
    reset: int | None = None

    @property
    def over(self) -> bool:
        return self.ended or self.reset is not None

    @property
    def messages(self) -> list[bytes]:
        """Those that are whole."""
        found, at = [], 0
        while at + 5 <= len(self.data):
            size = int.from_bytes(self.data[at + 1 : at + 5], "big")
            if at + 5 + size > len(self.data):
                break
            found.append(bytes(self.data[at + 5 : at + 5 + size]))
            at += 5 + size
        return found

    @property
    def is_trailers_only(self) -> bool:
        return self.blocks == 1 and self.ended and not self.data

    @property
    def last(self) -> dict[str, str]:
        return self.trailers if self.blocks > 1 else self.headers

    @property
    def code(self) -> int | None:
        status = self.last.get("grpc-status")
        return None if status is None else int(status)

    @property
    def message(self) -> str:
        return unquote(self.last.get("grpc-message", ""))


class Connection:
    """One connection. Acknowledges SETTINGS, answers PING and gives windows back unless told not to."""

    def __init__(
        self,
        address: str | socket.socket,
        *,
        greet: bool = True,
        settings: dict[int, int] | None = None,
        give_window: bool = True,
        silent: bool = False,
        source: str | None = None,
    ) -> None:
        self.socket = _connect(address, source) if isinstance(address, str) else address
        self.encoder = hpack.Encoder()
        self.decoder = hpack.Decoder()
        self.decoder.max_header_list_size = 1 << 24
        self.give_window = give_window
        # Answers nothing by itself.
        self.silent = silent
        self.answers: dict[int, Answer] = {}
        self.goaways: list[GoAwayFrame] = []
        self.pongs: list[bytes] = []
        self.peer_settings: dict[int, int] = {}
        self.settings_acked = 0
        self.window_updates: dict[int, int] = {}
        self.sent: dict[int, int] = {}
        self.closed = False
        self.next_stream_id = 1
        self._input = b""
        self._block: tuple[int, bool, bytearray] | None = None
        if greet:
            self.send_bytes(PREFACE)
            self.send(SettingsFrame(0, settings=settings or {}))

    # Sending

    def send_bytes(self, data: bytes) -> None:
        self.socket.sendall(data)

    def send(self, *frames: Frame) -> None:
        for frame in frames:
            if isinstance(frame, DataFrame):
                for stream_id in (0, frame.stream_id):
                    self.sent[stream_id] = self.sent.get(stream_id, 0) + frame.flow_controlled_length
        self.send_bytes(b"".join(frame.serialize() for frame in frames))

    def new_stream(self) -> int:
        stream_id = self.next_stream_id
        self.next_stream_id += 2
        return stream_id

    def headers_frames(
        self, stream_id: int, headers: Iterable[tuple[str, str]], *, end: bool = False, fragment_bytes: int = 0
    ) -> list[Frame]:
        """HEADERS, and CONTINUATION as `fragment_bytes` asks for."""
        block = self.encoder.encode(list(headers))
        size = fragment_bytes or FRAME_BYTES_MAX
        parts = [block[at : at + size] for at in range(0, len(block), size)]
        frames: list[Frame] = [HeadersFrame(stream_id, parts[0], flags=["END_STREAM"] if end else [])]
        frames += [ContinuationFrame(stream_id, part) for part in parts[1:]]
        frames[-1].flags.add("END_HEADERS")
        return frames

    def open(self, path: str, *more: tuple[str, str], end: bool = False, **replaced: str | None) -> int:
        """Begins a call, and gives its stream."""
        stream_id = self.new_stream()
        self.send(*self.headers_frames(stream_id, request_headers(path, *more, **replaced), end=end))
        return stream_id

    def data(self, stream_id: int, data: bytes, *, end: bool = False) -> None:
        """As far as the windows let it, frame by frame; stops when the stream is over."""
        rest = data
        while True:
            self.read_until(lambda: self.window(stream_id) > 0 or self.stream(stream_id).over)
            if self.stream(stream_id).over:
                return
            part = rest[: min(self.window(stream_id), FRAME_BYTES_MAX)]
            rest = rest[len(part) :]
            flags = ["END_STREAM"] if end and not rest else []
            if part or flags:
                self.send(DataFrame(stream_id, part, flags=flags))
            if not rest:
                return

    def window(self, stream_id: int) -> int:
        """Bytes that may be sent on a stream now."""
        return min(self._window(0, WINDOW_BYTES), self._window(stream_id, self.peer_settings.get(4, WINDOW_BYTES)))

    def _window(self, stream_id: int, initial: int) -> int:
        return initial + self.window_updates.get(stream_id, 0) - self.sent.get(stream_id, 0)

    def reset(self, stream_id: int, code: int = CANCEL) -> None:
        self.send(RstStreamFrame(stream_id, error_code=code))

    def call(self, path: str, *messages: bytes, more: Headers | None = None, **replaced: str | None) -> Answer:
        """An ordinary call, from its headers to its end."""
        stream_id = self.open(path, *(more or []), **replaced)
        self.data(stream_id, b"".join(map(prefixed, messages)), end=True)
        return self.answer(stream_id)

    # Receiving

    def answer(self, stream_id: int) -> Answer:
        """Reads until the stream is over."""
        self.read_until(lambda: self.stream(stream_id).over)
        return self.stream(stream_id)

    def stream(self, stream_id: int) -> Answer:
        return self.answers.setdefault(stream_id, Answer())

    def read_until(self, condition: Callable[[], bool]) -> None:
        for _ in self._frames():
            if condition():
                return
        raise EOFError(f"closed by the peer, goaways {self.goaways}")

    def read(self) -> Frame | None:
        """The next frame; None at the end of the connection."""
        header = self._take(9)
        if header is None:
            return None
        frame, size = Frame.parse_frame_header(memoryview(header))
        body = self._take(size)
        if body is None:
            return None
        frame.parse_body(memoryview(body))
        self._received(frame)
        return frame

    def read_to_end(self) -> None:
        for _ in self._frames():
            pass

    def _frames(self) -> Iterator[Frame | None]:
        """None, then what comes until the connection ends. A peer that only pings has nothing to say either."""
        until = time.monotonic() + SILENCE_S
        yield None
        while (frame := self.read()) is not None:
            if time.monotonic() > until:
                raise TimeoutError("the peer goes on without saying what is waited for")
            yield frame

    def ping(self, payload: bytes = b"01234567") -> None:
        """Sends a PING and waits for its acknowledgement: all that was sent before has been read by then."""
        self.send(PingFrame(0, payload))
        self.read_until(lambda: payload in self.pongs)
        self.pongs.remove(payload)

    def close(self) -> None:
        self.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _take(self, size: int) -> bytes | None:
        while len(self._input) < size:
            try:
                more = self.socket.recv(1 << 16)
            except (ConnectionResetError, BrokenPipeError):
                more = b""
            if not more:
                self.closed = True
                return None
            self._input += more
        taken, self._input = self._input[:size], self._input[size:]
        return taken

    def _received(self, frame: Frame) -> None:
        if isinstance(frame, HeadersFrame):
            self._block = (frame.stream_id, "END_STREAM" in frame.flags, bytearray(frame.data))
        elif isinstance(frame, ContinuationFrame):
            assert self._block is not None
            self._block[2].extend(frame.data)
        elif isinstance(frame, DataFrame):
            self._received_data(frame)
        elif isinstance(frame, RstStreamFrame):
            self.stream(frame.stream_id).reset = frame.error_code
        elif isinstance(frame, GoAwayFrame):
            self.goaways.append(frame)
        elif isinstance(frame, WindowUpdateFrame):
            given = self.window_updates.get(frame.stream_id, 0)
            self.window_updates[frame.stream_id] = given + frame.window_increment
        elif isinstance(frame, SettingsFrame):
            self._received_settings(frame)
        elif isinstance(frame, PingFrame):
            self._received_ping(frame)
        if isinstance(frame, (HeadersFrame, ContinuationFrame)) and "END_HEADERS" in frame.flags:
            self._received_block()

    def _received_block(self) -> None:
        assert self._block is not None
        stream_id, ends, block = self._block
        self._block = None
        headers = {str(name): str(value) for name, value in self.decoder.decode(bytes(block))}
        answer = self.stream(stream_id)
        answer.blocks += 1
        if answer.blocks == 1:
            answer.headers = headers
        else:
            answer.trailers = headers
        answer.ended |= ends

    def _received_data(self, frame: DataFrame) -> None:
        answer = self.stream(frame.stream_id)
        answer.data += frame.data
        answer.ended |= "END_STREAM" in frame.flags
        if self.give_window and frame.flow_controlled_length:
            self.grant(0, frame.flow_controlled_length)
            if not answer.ended:
                self.grant(frame.stream_id, frame.flow_controlled_length)

    def _received_settings(self, frame: SettingsFrame) -> None:
        if "ACK" in frame.flags:
            self.settings_acked += 1
            return
        self.peer_settings |= frame.settings
        if not self.silent:
            self._reply(SettingsFrame(0, flags=["ACK"]))

    def _received_ping(self, frame: PingFrame) -> None:
        if "ACK" in frame.flags:
            self.pongs.append(frame.opaque_data)
        elif not self.silent:
            self._reply(PingFrame(0, frame.opaque_data, flags=["ACK"]))

    def grant(self, stream_id: int, size: int) -> None:
        self._reply(WindowUpdateFrame(stream_id, window_increment=size))

    def _reply(self, frame: Frame) -> None:
        # The peer may have closed meanwhile, and what it said before is still to be read.
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            self.send(frame)


def recorded(talk: Callable[[Connection], None]) -> bytes:
    """What a client would send, its greeting first, if nobody answered."""
    ours, theirs = socket.socketpair()
    with theirs, Connection(ours) as connection:
        talk(connection)
        ours.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: theirs.recv(1 << 16), b""))


def _connect(address: str, source: str | None) -> socket.socket:
    if address.startswith("unix:"):
        connected = socket.socket(socket.AF_UNIX)
        connected.connect(address.removeprefix("unix:"))
    else:
        host, _, port = address.rpartition(":")
        connected = socket.create_connection(
            (host.strip("[]"), int(port)), source_address=None if source is None else (source, 0)
        )
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connected.settimeout(SILENCE_S)
    return connected
