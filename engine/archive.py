"""The archive: a process that writes closed orders to the stores of all shards, and what a follower sends them with.

A batch is a frame: u32 size, u32 size of its head, the head as JSON, and the orders' bytes one after the other. The
head has `shard`, `orders` ([closing sequence, order sequence, shop_id, order_id, size] each), `through` and
`evicted_through` (both as ArchiveStore.put_many takes them). The answer is u32 size and JSON: `archived_through` once
all of it is synced, or `error`, with `damaged` if trying again is no use. Integers are little-endian.

A batch that was not answered may be there or not; it is sent again, and being there twice is being there once.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson
import structlog

from engine._core import give_way
from engine.archive_store import CACHE_KIB, FILE, ArchiveStore, Row, log_id_of
from engine.channel import Channel
from engine.child import adopted, beats, messages, run_to_the_end
from engine.errors import ArchiveDamaged, ArchiveUnavailable, EveropenError
from engine.limits import (
    ARCHIVE_CACHE_KIB_MAX,
    ARCHIVE_FRAME_BYTES_MAX,
    ARCHIVE_ROWS_MAX,
    ARCHIVE_S_MAX,
    LISTEN_BACKLOG,
)
from engine.listen import private_listener
from engine.logs import configure
from engine.peers import admits_stream

# Below that of the workers, to which orders come.
NICE = 5
# A frame takes no more orders once it may have so many bytes; the largest order fits behind that.
FRAME_BYTES = ARCHIVE_FRAME_BYTES_MAX // 2
# What an order takes of the head, but for its ids, each byte of which JSON may write with six.
HEAD_BYTES = 96
ID_FACTOR = 6
_SIZE = struct.Struct("<I")

log = structlog.get_logger()


class Archive:
    """Answers batches. One at a time for a shard, and shards beside each other, since each has a sync of its own."""

    def __init__(self, directories: Sequence[Path]) -> None:
        self._directories = directories
        self._turns = [asyncio.Lock() for _ in directories]
        self._stores: dict[int, ArchiveStore] = {}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A connection, until its end; a frame that cannot be read ends it too."""
        if not admits_stream(writer, "archive"):
            return
        try:
            while True:
                frame = await reader.readexactly(_checked(await reader.readexactly(_SIZE.size)))
                answer = orjson.dumps(await self.answer(frame))
                writer.write(_SIZE.pack(len(answer)) + answer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        except ValueError as error:
            log.error("a batch cannot be read", error=str(error))
        finally:
            writer.close()

    async def answer(self, frame: bytes) -> dict[str, Any]:
        """Raises ValueError if the frame is none."""
        head, orders = unpack(frame)
        shard = head["shard"]
        if not 0 <= shard < len(self._turns):
            raise ValueError(f"there is no shard {shard}")
        async with self._turns[shard]:
            try:
                through = await asyncio.to_thread(self._put, shard, orders, head["through"], head["evicted_through"])
            except (EveropenError, OSError) as error:
                # What is on the disk is known only once it is opened anew.
                if store := self._stores.pop(shard, None):
                    await asyncio.to_thread(store.close)
                log.error("orders cannot be archived", shard=shard, error=str(error))
                return {"error": str(error), "damaged": isinstance(error, ArchiveDamaged)}
        return {"archived_through": through}

    async def close(self) -> None:
        """Once the batches that are being written are written."""
        for turn in self._turns:
            await turn.acquire()
        for store in self._stores.values():
            await asyncio.to_thread(store.close)

    def _put(self, shard: int, orders: list[Row], through: int, evicted_through: int) -> int:
        store = self._stores.get(shard)
        if store is None:
            directory = self._directories[shard]
            if evicted_through and not (directory / FILE).exists():
                # A new one would say of all that has left memory that it never was.
                raise ArchiveDamaged(str(directory / FILE), "is missing, and orders have left memory: bring it back")
            cache_kib = min(CACHE_KIB, ARCHIVE_CACHE_KIB_MAX // len(self._directories))
            store = self._stores[shard] = ArchiveStore(directory, log_id_of(directory), cache_kib)
        return store.put_many(orders, through, evicted_through)


class ArchiveFeed:
    """A follower's way to the archive. Blocks; connects when it has to; of one thread."""

    def __init__(self, path: str, timeout_s: float = ARCHIVE_S_MAX) -> None:
        self._path = path
        self._timeout_s = timeout_s
        self._socket: socket.socket | None = None
        # By shard, what it was told: an archive that has lost some of that since is refused as well.
        self._promised: dict[int, int] = {}

    def send(self, shard: int, orders: Sequence[Row], *, evicted_through: int = 0) -> int:
        """Returns the closing sequence up to which all that was closed is synced; without orders it only asks.

        orders: all that were closed after what the last call returned, up to the closing sequence of the last of them,
        in order of closing. evicted_through: as ArchiveStore.put_many. Raises ArchiveUnavailable, and then some of them
        may be there: send them again. Raises ArchiveDamaged.
        """
        for frame in pack(shard, orders, max(evicted_through, self._promised.get(shard, 0))):
            answer = self._ask(frame)
            if "error" in answer:
                kind = ArchiveDamaged if answer["damaged"] else ArchiveUnavailable
                raise kind(self._path, answer["error"])
        self._promised[shard] = int(answer["archived_through"])
        return self._promised[shard]

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _ask(self, frame: bytes) -> Any:
        """A connection that an archive before this one has left behind is found out here, and then made anew, once."""
        for is_last in [True] if self._socket is None else [False, True]:
            try:
                return self._exchange(frame)
            except OSError as error:
                self.close()
                if is_last:
                    raise ArchiveUnavailable(self._path, f"the archive does not answer: {error}") from None
        raise AssertionError

    def _exchange(self, frame: bytes) -> Any:
        if self._socket is None:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self._socket.settimeout(self._timeout_s)
            self._socket.connect(self._path)
        self._socket.sendall(_SIZE.pack(len(frame)) + frame)
        return orjson.loads(self._receive(_checked(self._receive(_SIZE.size))))

    def _receive(self, size: int) -> bytes:
        assert self._socket is not None
        received = bytearray()
        while len(received) < size:
            piece = self._socket.recv(size - len(received))
            if not piece:
                raise ConnectionResetError("the connection ended")
            received += piece
        return bytes(received)


def pack(shard: int, orders: Sequence[Row], evicted_through: int = 0) -> Iterator[bytes]:
    """Frames of a bounded size. Only the last one says up to where all is there; without orders it says 0."""
    begin = 0
    while True:
        end, size = begin, 0
        while end < len(orders) and end - begin < ARCHIVE_ROWS_MAX and size < FRAME_BYTES:
            _, _, shop_id, order_id, item = orders[end]
            size += len(item) + HEAD_BYTES + ID_FACTOR * (len(shop_id) + len(order_id))
            end += 1
        piece, begin = orders[begin:end], end
        head = orjson.dumps(
            {
                "shard": shard,
                "orders": [(*order[:4], len(order[4])) for order in piece],
                "through": orders[-1][0] if orders and end == len(orders) else 0,
                "evicted_through": evicted_through,
            }
        )
        yield b"".join((_SIZE.pack(len(head)), head, *(order[4] for order in piece)))
        if end == len(orders):
            return


def unpack(frame: bytes) -> tuple[dict[str, Any], list[Row]]:
    """Head and orders. Raises ValueError."""
    try:
        (size,) = _SIZE.unpack_from(frame)
        begin = _SIZE.size + size
        head = orjson.loads(memoryview(frame)[_SIZE.size : begin])
        orders = []
        for closed_sequence, order_sequence, shop_id, order_id, size in head["orders"]:
            orders.append((closed_sequence, order_sequence, shop_id, order_id, frame[begin : begin + size]))
            begin += size
        if begin != len(frame) or not all(type(head[name]) is int for name in ("shard", "through", "evicted_through")):
            raise ValueError("sizes or types do not fit")
    except (struct.error, KeyError, TypeError) as error:
        raise ValueError(f"no batch: {error}") from None
    return head, orders


def _checked(size: bytes) -> int:
    (number,) = _SIZE.unpack(size)
    if number > ARCHIVE_FRAME_BYTES_MAX:
        raise ValueError(f"a frame of {number} bytes")
    return int(number)


async def work(channel: Channel) -> None:
    """Until the supervisor says `close`."""
    heard = messages(channel, lambda: ({"path": start["path"]}, []))
    start = await anext(heard)
    archive = Archive([Path(directory) for directory in start["directories"]])
    listener = private_listener(start["path"], LISTEN_BACKLOG, replace=True)
    server = await asyncio.start_unix_server(archive.serve, sock=listener, backlog=LISTEN_BACKLOG)
    channel.say("listening")
    # Kept, since a loop forgets tasks that nobody holds.
    beating = asyncio.create_task(beats(channel))
    async for message in heard:
        match message.kind:
            case "drain":
                # Followers send until they end themselves.
                pass
            case "close":
                beating.cancel()
                server.close()
                await archive.close()
                return
            case _:
                raise AssertionError(f"the supervisor said {message.kind}")


def main() -> None:
    # A batch takes a core for a moment; where it shares one with a worker, orders come first.
    give_way(NICE)
    channel, name = adopted()
    configure(process=name)
    run_to_the_end(work(channel))


if __name__ == "__main__":
    main()
