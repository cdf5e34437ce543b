"""Native fronts in threads of this process, which hand their shards to each other as workers do."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from google.protobuf.message import Message

from engine import _core, datadir, front_settings
from engine.partition_map import hosted_by
from everopen.v1 import inventory_service_pb2 as inventory
from tests.front.calls import OK
from tests.front.http2 import Answer, Connection, prefixed
from tests.serving import adjustment

# Nothing is decided by it: what hangs fails.
PATIENCE_S = 20.0


def until(condition: Callable[[], bool]) -> None:
    by_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < by_s
        time.sleep(0.002)


class Front:
    """A front with its own address, and the engines that it hosts."""

    def __init__(self, fronts: Fronts, number: int, **settings: int) -> None:
        self._directories = fronts.directories
        self._window_ms = fronts.window_ms
        self._hosts = hosted_by(number, fronts.workers, len(fronts.directories))
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=64)
        self._listening.setblocking(False)
        self.number = number
        self.address = f"127.0.0.1:{self._listening.getsockname()[1]}"
        self.engines: dict[int, _core.Engine] = {}
        self.native = _core.NativeFront(
            worker=number,
            workers=fronts.workers,
            shards=len(fronts.directories),
            board_fd=fronts.board_fd,
            settings=front_settings.defaults() | settings,
        )
        self.native.listen(self._listening.fileno(), False)
        self._thread = threading.Thread(target=self.native.run)
        self._thread.start()

    def host(self) -> None:
        for shard in self._hosts:
            self.engines[shard] = _core.Engine(
                str(self._directories[shard]), segment_bytes=1024 * 1024, idempotency_window_ms=self._window_ms
            )
            self.native.host(shard, self.engines[shard])

    def directory(self, shard: int) -> str:
        return str(self._directories[shard])

    def hand_over(self) -> None:
        """Returns once the logs are closed."""
        self.native.hand_over()
        assert self.native.handed_over(PATIENCE_S)
        self.close_engines()

    def close_engines(self) -> None:
        while self.engines:
            self.engines.popitem()[1].close()

    def count(self, name: str) -> int:
        return self.native.counters()[name]

    def close(self) -> None:
        if self._thread.is_alive():
            self.native.stop()
            self._thread.join()
            self.native.close()
            self.close_engines()
            self._listening.close()


class Fronts(ExitStack):
    """All that a test starts. Closing them again is harmless."""

    def __init__(self, data_dir: Path, workers: int = 1, shards: int = 1, window_ms: int = 3_600_000) -> None:
        super().__init__()
        self.window_ms = window_ms
        self.workers = workers
        self.directories = datadir.create_or_open(data_dir, shards)
        self.board_fd = _core.board_create(workers)
        self.callback(os.close, self.board_fd)
        self.board = _core.Board(self.board_fd, workers)

    def start(self, number: int = 0, *, hosting: bool = True, **settings: int) -> Front:
        front = Front(self, number, **settings)
        self.callback(front.close)
        if hosting:
            front.host()
        return front

    def succeed(self, front: Front) -> Front:
        """The other half of a handover: a new front for the same shards, and the link between the two."""
        successor = self.start(front.number)
        link(front, successor)
        return successor


def path_of(request: Message) -> str:
    name = request.DESCRIPTOR.name.removesuffix("Request")
    service = "Inventory" if request.DESCRIPTOR.file is inventory.DESCRIPTOR else "Order"
    return f"/everopen.v1.{service}Service/{name}"


def ask(connection: Connection, request: Message, *more: tuple[str, str]) -> int:
    stream_id = connection.open(path_of(request), *more)
    connection.data(stream_id, prefixed(request.SerializeToString()), end=True)
    return stream_id


def message(answer: Answer) -> bytes:
    """The only one of an answer that went well."""
    assert answer.code == OK, answer
    [only] = answer.messages
    return only


def say(front: Front, *requests: Message) -> None:
    with Connection(front.address) as connection:
        for asked in [ask(connection, request) for request in requests]:
            message(connection.answer(asked))


def seed(front: Front, shop_id: str = "shop") -> None:
    of = {"shop_id": shop_id, "sku_id": "sku"}
    say(front, inventory.PutShopRequest(shop_id=shop_id))
    say(front, inventory.PutLocationRequest(shop_id=shop_id, location_id="near"))
    say(front, inventory.PutSkuRequest(**of, price_minor=250))
    say(front, adjustment("seed", 1_000_000, **of))


def link(first: Front, second: Front) -> None:
    """A link, or a new one in place of the one before."""
    ends = socket.socketpair()
    rings = [_core.ring_create() for _ in range(2)]
    wakes = [os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK) for _ in range(2)]
    copies = [os.dup(fd) for fd in (rings[1], rings[0], wakes[1], wakes[0])]
    first.native.link(second.number, ends[0].detach(), *rings, *wakes)
    second.native.link(first.number, ends[1].detach(), *copies)
