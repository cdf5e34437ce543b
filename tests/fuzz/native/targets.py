"""What is fed, and what it may answer: a refusal in the words that its callers know. Anything else is a finding.

Each input begins with a byte that says how the rest is meant, so that one corpus holds both what is broken outside
and what is whole outside and broken within: checksums and framing would keep a fuzzer out for ever.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from google.protobuf.message import Message

from engine import _core, front_settings
from engine._core import crc32c
from engine.errors import EveropenError
from engine.identity import Caller
from everopen.v1 import inventory_service_pb2 as inventory
from tests.fuzz.native.layout import journal_files, snapshot_file
from tests.probes import wire_probe

Target = Callable[[bytes], object]

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
GREETING = PREFACE + bytes.fromhex("000000040000000000")
# How the rest of an input of the front is meant.
BYTES, FRAMES, MESSAGES, COMPRESSED = range(4)
# Added to it: for the front that wants credentials.
GUARDED = 4
PATHS = (
    b"/everopen.v1.OrderService/PlaceOrder",
    b"/everopen.v1.OrderService/PlaceOrders",
    b"/everopen.v1.OrderService/GetOrder",
    b"/everopen.v1.OrderService/ShipOrder",
    b"/everopen.v1.InventoryService/BatchPutSkus",
)
# Which call is never over.
HEALTH_WATCH, WATCH = b"/grpc.health.v1.Health/Watch", b"\xff"
# A shop with something to sell, so that an order can be taken.
STOCKED: dict[int, Message] = {
    _core.PUT_SHOP: inventory.PutShopRequest(shop_id="shop"),
    _core.PUT_LOCATION: inventory.PutLocationRequest(shop_id="shop", location_id="near"),
    _core.PUT_SKU: inventory.PutSkuRequest(shop_id="shop", sku_id="sku", price_minor=5),
    _core.ADJUST_STOCK: inventory.AdjustStockRequest(
        shop_id="shop", sku_id="sku", location_id="near", adjustment_id="first", delta=10**9
    ),
}
# No answer takes longer; a front that stands still for so long is a finding.
PATIENCE_S = 20.0


@contextlib.contextmanager
def wire(folder: Path) -> Iterator[Target]:
    """A byte for the method, then a request."""
    kinds = list(wire_probe.KINDS.values())

    def feed(data: bytes) -> None:
        kind = kinds[data[0] % len(kinds)] if data else kinds[0]
        for read in (wire_probe.decode, wire_probe.batch) if data[:1] > b"\x80" else (wire_probe.decode,):
            with contextlib.suppress(wire_probe.Refused):
                read(kind, data[1:])

    yield feed


@contextlib.contextmanager
def journal(folder: Path) -> Iterator[Target]:
    """The files of a log (see layout.py); what can be read is replayed, as a start would."""

    def feed(data: bytes) -> None:
        for name, content in journal_files(data).items():
            (folder / name).write_bytes(content)
        shard = _core.Shard.empty(bytes(range(16)))
        with contextlib.suppress(EveropenError, ValueError), _core.JournalReader(str(folder)) as reader:
            shard.replay_from(reader)
        with contextlib.suppress(EveropenError), _core.JournalReader(str(folder), None) as reader:
            reader.scan()
        with contextlib.suppress(EveropenError):
            _core.journal_segments(str(folder))

    yield feed


@contextlib.contextmanager
def snapshot(folder: Path) -> Iterator[Target]:
    """A snapshot; one that loads is looked through. Some are saved and loaded again, which takes ten times as long."""
    path, again = str(folder / "fuzz.snap"), str(folder / "again.snap")

    def feed(data: bytes) -> None:
        Path(path).write_bytes(snapshot_file(data))
        with contextlib.suppress(EveropenError):
            shard = _core.Shard.load(path)
            if not shard.check() and crc32c(data) % 16 == 0:
                shard.save(again)
                assert _core.Shard.load(again).state_digest() == shard.state_digest()

    yield feed


def literal(text: bytes) -> bytes:
    return bytes([len(text)]) + text


def header_block(path: bytes, encoding: bytes, key: bytes) -> bytes:
    """HPACK without tables: a request's headers, each as a literal that is not to be remembered."""
    fields = {
        b":method": b"POST",
        b":scheme": b"http",
        b":path": path,
        b":authority": b"fuzz",
        b"content-type": b"application/grpc",
        b"te": b"trailers",
        b"grpc-encoding": encoding,
        **({b"x-api-key": key} if key else {}),
    }
    return b"".join(b"\x10" + literal(name) + literal(value) for name, value in fields.items())


def frame(kind: int, flags: int, stream_id: int, body: bytes) -> bytes:
    return len(body).to_bytes(3, "big") + bytes([kind, flags]) + stream_id.to_bytes(4, "big") + body


def conversation(data: bytes) -> tuple[bytes, bool]:
    """What is sent, and whether stream 1 will be answered.

    BYTES: as they are. FRAMES: after a greeting, each of u8 kind, u8 flags, u8 stream, u16 size, body. MESSAGES and
    COMPRESSED: a call, u8 which one, and then its messages, each of u16 size, body; before that what is shown."""
    how, rest = (data[0] % 4, data[1:]) if data else (BYTES, data)
    if how == BYTES:
        return rest, False
    parts = [GREETING]
    key = b""
    if data[0] & GUARDED and how != FRAMES:
        # What is shown: u8 size, then an API key.
        key, rest = rest[1 : 1 + rest[0] % 64] if rest else b"", rest[1 + rest[0] % 64 :] if rest else b""
    if how == FRAMES:
        while len(rest) >= 5:
            kind, flags, stream_id, size = struct.unpack_from(">BBBH", rest)
            parts.append(frame(kind, flags, stream_id, rest[5 : 5 + size]))
            rest = rest[5 + size :]
        return b"".join(parts), False
    watches = rest[:1] == WATCH
    path = HEALTH_WATCH if watches else PATHS[rest[0] % len(PATHS)] if rest else PATHS[0]
    encoding, compressed = (b"gzip", b"\1") if how == COMPRESSED else (b"identity", b"\0")
    parts.append(frame(1, 4, 1, header_block(path, encoding, key)))
    rest = rest[1:]
    while len(rest) >= 2:
        size = int.from_bytes(rest[:2], "big")
        message = rest[2 : 2 + size]
        parts.append(frame(0, 0, 1, (compressed + len(message).to_bytes(4, "big") + message)[:16_384]))
        rest = rest[2 + size :]
    return b"".join([*parts, frame(0, 1, 1, b"")]), not watches


def read_answer(reader: BinaryIO) -> None:
    """Until the call is over: its stream ends, or the connection does. What it asked for is executed by then."""
    while len(head := reader.read(9)) == 9:
        reader.read(int.from_bytes(head[:3], "big"))
        if (head[3] == 1 and head[4] & 1) or head[3] in (3, 7):
            return


@contextlib.contextmanager
def running(folder: Path, name: str) -> Iterator[_core.NativeFront]:
    """A front as in a worker, with a shard; at folder/name."""
    board = _core.board_create(1)
    settings = front_settings.defaults()
    loop = _core.NativeFront(worker=0, workers=1, shards=1, board_fd=board, settings=settings)
    os.close(board)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(folder / name))
    listener.listen(16)
    listener.setblocking(False)
    loop.listen(listener.fileno(), True)
    (folder / f"{name}-shard").mkdir()
    engine = _core.Engine(str(folder / f"{name}-shard"))
    for method, request in STOCKED.items():
        assert engine.execute(method, request.SerializeToString())[0] == 0
    loop.host(0, engine)
    thread = threading.Thread(target=loop.run, daemon=True)
    thread.start()
    yield loop
    loop.stop()
    thread.join()
    loop.close()
    engine.close()
    listener.close()


def answer_credentials(loop: _core.NativeFront, stop: int) -> None:
    """Whoever shows something that begins with f is somebody, at times for one shop and with quotas."""
    while stop not in select.select([loop.credential_fd, stop], [], [])[0]:
        for token, kind, shown in loop.take_credentials():
            bound = len(shown) % 4
            caller = Caller(
                name="fuzz",
                scopes=frozenset({"orders:write", "orders:read", "catalogue:read"}),
                shops=None if kind == 1 else frozenset({"shop"}),
                expires_unix_ms=0,
                orders_per_s=bound,
                burst=bound,
                bytes_in_flight=1_000 * bound,
                connections=bound,
            )
            loop.answer_credential(token, caller if shown[:1] == b"f" else None)


@contextlib.contextmanager
def front(folder: Path) -> Iterator[Target]:
    """An input is one connection, from its first byte to its end: to a front that serves anybody, or to one that wants
    credentials."""
    stop = os.eventfd(0)
    with running(folder, "open") as _, running(folder, "guarded") as guarded:
        guarded.authenticate(True, 1)
        answering = threading.Thread(target=answer_credentials, args=(guarded, stop), daemon=True)
        answering.start()

        def feed(data: bytes) -> None:
            path = "guarded" if data and data[0] & GUARDED else "open"
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(PATIENCE_S)
                connection.connect(str(folder / path))
                # A peer that is refused may close before it has read all.
                with contextlib.suppress(ConnectionResetError, BrokenPipeError):
                    said, is_answered = conversation(data)
                    connection.sendall(said)
                    with connection.makefile("rb") as reader:
                        if is_answered:
                            read_answer(reader)
                        connection.shutdown(socket.SHUT_WR)
                        while reader.read(1 << 16):
                            pass

        yield feed
        os.eventfd_write(stop, 1)
        answering.join()
    os.close(stop)


TARGETS: dict[str, Callable[[Path], contextlib.AbstractContextManager[Target]]] = {
    "wire": wire,
    "front": front,
    "journal": journal,
    "snapshot": snapshot,
}


_open: list[contextlib.AbstractContextManager[Target]] = []


def open_target(name: str) -> Target:
    """For the host, which never closes one."""
    folder = tempfile.mkdtemp(dir=os.environ["EVEROPEN_FUZZ_FOLDER"])
    _open.append(TARGETS[name](Path(folder)))
    return _open[-1].__enter__()
