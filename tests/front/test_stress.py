"""Callers of every kind, a control server that does mischief, workers that are killed and drained: nothing breaks.

EVEROPEN_STRESS_SESSIONS says how many calls on the workers there are, EVEROPEN_STRESS_SEED what is in them. `make
test-asan` has many more of them than the ordinary run.
"""

from __future__ import annotations

import ctypes
import gzip
import itertools
import os
import queue
import random
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hyperframe.frame import DataFrame, Frame

from engine import _core, audit, journal_tools
from engine.datadir import shard_of
from everopen.v1 import inventory_service_pb2 as inventory
from everopen.v1 import order_service_pb2 as orders
from tests.front.http2 import Connection, prefixed, recorded
from tests.front.mischief import Mischief
from tests.front.test_malformed import converse, mutated
from tests.front.workers import PATIENCE_S, ROOT, Workers

pytestmark = pytest.mark.native

SESSIONS = int(os.environ.get("EVEROPEN_STRESS_SESSIONS", "150"))
SEED = int(os.environ.get("EVEROPEN_STRESS_SEED", "1"))
CALLERS = 4
# Between two blows to a worker.
SESSIONS_OF_PEACE = 40
WORKERS, SHARDS = 3, 4
SHOPS = [f"{number}-shop-{number * number}" for number in range(12)]
INVENTORY, ORDERS = "/everopen.v1.InventoryService/", "/everopen.v1.OrderService/"
OK = 0
# Small enough for callers to meet them.
SETTINGS = {
    "bytes_max": 24 * 1024 * 1024,
    "connection_bytes_max": 16 * 1024 * 1024,
    "relay_bytes_max": 1024 * 1024,
    "commands_per_turn_max": 16,
    "link_jobs_max": 64,
    "calls_max": 2_048,
    "keepalive_timeout_ms": 3_000,
    "keepalive_ms": 3_000,
    "message_ms": 2_000,
    "connections_per_peer_max": 64,
    "connections_max": 64,
}


class Caller:
    """Sessions of one thread, all of them from its seed. Knows which orders were acknowledged."""

    def __init__(self, seed: int, addresses: list[str], finished: queue.Queue[BaseException | None]) -> None:
        self.rng = random.Random(seed)
        self.placed: list[str] = []
        self.kinds: Counter[str] = Counter()
        self.stop = threading.Event()
        self._name = f"caller-{seed}"
        self._numbers = itertools.count()
        self._addresses = addresses
        self._finished = finished
        self._valid = recorded(converse)
        self.thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        kinds: list[Callable[[], None]] = [
            self.unary, self.batches, self.stock, self.watch, self.relay, self.faults, self.churn, self.uploads,
        ]  # fmt: skip
        while not self.stop.is_set():
            kind = self.rng.choice(kinds)
            failure: BaseException | None = None
            try:
                kind()
                self.kinds[kind.__name__] += 1
            except TimeoutError as error:
                failure = error
            except (EOFError, OSError):
                pass  # its worker was killed or drained, or told it to go
            except BaseException as error:
                failure = error
            self._finished.put(failure)

    def connect(self, **more: object) -> Connection:
        settings = self.rng.choice(({}, {}, {4: 1_000}, {4: self.rng.randrange(1, 70_000)}))
        return Connection(self.rng.choice(self._addresses), settings=settings)

    def order(self) -> orders.PlaceOrderRequest:
        return orders.PlaceOrderRequest(
            order_id=f"{self._name}-{next(self._numbers)}",
            shop_id=self.rng.choice(SHOPS),
            buyer_id="b",
            lines=[orders.PlaceOrderLine(sku_id="sku", quantity=1)],
        )

    def leave(self, connection: Connection) -> None:
        """Sometimes without a good-bye."""
        if self.rng.random() < 0.5:
            connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()

    def pieces(self, stream_id: int, data: bytes, *, end: bool) -> Iterator[Frame]:
        """Cut anywhere, also into nothing."""
        while data:
            size = self.rng.choice((1, 3, 5, 100, 1_000, 16_384))
            part, data = data[:size], data[size:]
            yield DataFrame(stream_id, part, flags=["END_STREAM"] if end and not data else [])

    def send(self, connection: Connection, stream_id: int, data: bytes, *, end: bool = True) -> None:
        for frame in self.pieces(stream_id, data, end=end):
            assert isinstance(frame, DataFrame)
            connection.data(stream_id, frame.data, end="END_STREAM" in frame.flags)

    def unary(self) -> None:
        with self.connect() as connection:
            asked: dict[int, str] = {}
            for _ in range(self.rng.randrange(1, 60)):
                request = self.order()
                timeout = ("grpc-timeout", self.rng.choice(("1u", "300u", "1m", "5m", "9S")))
                stream_id = connection.open(ORDERS + "PlaceOrder", *self.rng.choice(([], [], [timeout])))
                asked[stream_id] = request.order_id
                self.send(connection, stream_id, prefixed(request.SerializeToString()))
                if self.rng.random() < 0.1:
                    connection.reset(stream_id)
                    del asked[stream_id]
            if self.rng.random() < 0.2:
                self.leave(connection)
                return
            for stream_id, order_id in asked.items():
                if connection.answer(stream_id).code == OK:
                    self.placed.append(order_id)

    def batches(self) -> None:
        with self.connect() as connection:
            compressed = self.rng.random() < 0.4
            encoding = ("grpc-encoding", "gzip" if compressed else "identity")
            stream_id = connection.open(ORDERS + "PlaceOrders", encoding)
            sent: list[list[str]] = []
            cut = self.rng.random() < 0.1
            for _ in range(self.rng.randrange(12)):
                batch = orders.PlaceOrdersRequest(orders=[self.order() for _ in range(self.rng.randrange(120))])
                message = batch.SerializeToString()
                if compressed:
                    message = gzip.compress(message)
                    if self.rng.random() < 0.05:
                        message = message[:-9] + b"x" + message[-8:]
                self.send(connection, stream_id, prefixed(message, compressed=int(compressed)), end=False)
                sent.append([order.order_id for order in batch.orders])
                if self.rng.random() < 0.03:
                    self.leave(connection)
                    return
            connection.data(stream_id, b"\0\0\0" if cut else b"", end=True)
            answer = connection.answer(stream_id)
            for order_ids, message in zip(sent, answer.messages, strict=False):
                results = orders.PlaceOrdersResponse.FromString(message).results
                assert len(results) == len(order_ids)
                asked = zip(order_ids, results, strict=True)
                self.placed += [name for name, result in asked if result.WhichOneof("answer") == "result"]
            assert answer.code != OK or len(answer.messages) == len(sent)

    def stock(self) -> None:
        """Large answers, which a small window lets go bit by bit."""
        with self.connect() as connection:
            read = [inventory.GetStockRequest(shop_id=self.rng.choice(SHOPS), sku_id="sku") for _ in range(900)]
            message = prefixed(inventory.BatchGetStockRequest(requests=read).SerializeToString())
            asked = [connection.open(INVENTORY + "BatchGetStock") for _ in range(self.rng.randrange(1, 8))]
            for stream_id in asked:
                connection.data(stream_id, message, end=True)
            if self.rng.random() < 0.3:
                self.leave(connection)
                return
            for stream_id in asked:
                answer = connection.answer(stream_id)
                if answer.code == OK:
                    [found] = answer.messages
                    assert len(inventory.BatchGetStockResponse.FromString(found).results) == len(read)

    def watch(self) -> None:
        with self.connect() as connection:
            streams = [connection.open("/grpc.health.v1.Health/Watch") for _ in range(self.rng.randrange(1, 20))]
            for stream_id in streams:
                connection.data(stream_id, prefixed(b""), end=True)
            self.rng.shuffle(streams)
            for stream_id in streams[: len(streams) // 2]:
                connection.reset(stream_id)
            connection.ping()
            self.leave(connection)

    def relay(self) -> None:
        """Whatever becomes of it upstream, the deadline ends it."""
        with self.connect() as connection:
            asked = []
            for number in range(self.rng.randrange(1, 20)):
                more = ("x-some", "y" * self.rng.randrange(300))
                stream_id = connection.open(f"/mischief.M/{number}", more, grpc_timeout="400m")
                size = self.rng.choice((0, 10, 3_000, 60_000))
                self.send(connection, stream_id, prefixed(self.rng.randbytes(size)), end=self.rng.random() < 0.8)
                asked.append(stream_id)
                if self.rng.random() < 0.1:
                    connection.reset(asked.pop())
            if self.rng.random() < 0.2:
                self.leave(connection)
                return
            for stream_id in asked:
                connection.answer(stream_id)

    def faults(self) -> None:
        """A conversation, changed or cut, and nobody who listens."""
        with Connection(self.rng.choice(self._addresses), greet=False) as connection:
            data = mutated(self.rng, self._valid) if self.rng.random() < 0.7 else self._valid
            connection.send_bytes(data[: self.rng.randrange(1, len(data) + 1)])
            if self.rng.random() < 0.5:
                connection.socket.shutdown(socket.SHUT_WR)
                while connection.socket.recv(1 << 16):
                    pass
            self.leave(connection)

    def churn(self) -> None:
        """Calls that are given up as soon as they are made, at every moment of their life."""
        with self.connect() as connection:
            for _ in range(self.rng.randrange(1, 150)):
                batch = orders.PlaceOrdersRequest(orders=[self.order() for _ in range(self.rng.randrange(30))])
                stream_id = connection.open(ORDERS + "PlaceOrders")
                connection.data(stream_id, prefixed(batch.SerializeToString()))
                if self.rng.random() < 0.3:
                    connection.ping(self.rng.randbytes(8))
                connection.reset(stream_id)
            self.leave(connection)

    def uploads(self) -> None:
        """Large messages side by side, which together are more than fits."""
        with self.connect() as connection:
            item = self.order().SerializeToString() + b"\xa2\x06"
            body = prefixed(item + b"\x80\x80\xc0\x01" + bytes(3 * 1024 * 1024))
            streams = [connection.open(ORDERS + "PlaceOrder") for _ in range(self.rng.randrange(1, 6))]
            for at in range(0, len(body), 1 << 18):
                for stream_id in streams:
                    connection.data(stream_id, body[at : at + (1 << 18)], end=at + (1 << 18) >= len(body))
            for stream_id in streams:
                connection.answer(stream_id)


def seed(address: str) -> None:
    with Connection(address) as connection:
        for shop_id in SHOPS:
            for name, request in (
                ("PutShop", inventory.PutShopRequest(shop_id=shop_id)),
                ("PutLocation", inventory.PutLocationRequest(shop_id=shop_id, location_id="near")),
                ("PutSku", inventory.PutSkuRequest(shop_id=shop_id, sku_id="sku", price_minor=1)),
                (
                    "AdjustStock",
                    inventory.AdjustStockRequest(
                        shop_id=shop_id, sku_id="sku", adjustment_id="a", location_id="near", delta=10**7
                    ),
                ),
            ):
                answer = connection.call(INVENTORY + name, request.SerializeToString())
                assert answer.code == OK, answer


def strike(rng: random.Random, workers: Workers) -> None:
    number = rng.randrange(WORKERS)
    blow = rng.randrange(3)
    if blow == 0:
        workers.kill(number)
        workers.start(number)
    elif blow == 1:
        workers.drain(number)
        workers.start(number)
    else:
        workers.link(*sorted(rng.sample(range(WORKERS), 2)))


def await_zero(workers: Workers, *gauges: str) -> None:
    until = time.monotonic() + PATIENCE_S
    while any(any(workers.gauges(name)) for name in gauges):
        assert time.monotonic() < until, {name: workers.gauges(name) for name in gauges}
        time.sleep(0.05)


def test_stress_leaves_nothing_behind_and_loses_nothing(tmp_path: Path) -> None:
    rng = random.Random(SEED)
    assert len({shard_of(_core.partition_of(shop), SHARDS) for shop in SHOPS}) == SHARDS
    finished: queue.Queue[BaseException | None] = queue.Queue()
    control = tmp_path / "control"
    with Mischief(control, SEED), Workers(tmp_path / "data", WORKERS, SHARDS, control, **SETTINGS) as workers:
        seed(workers.addresses[0])
        callers = [Caller(SEED * CALLERS + number, workers.addresses, finished) for number in range(CALLERS)]
        for caller in callers:
            caller.thread.start()
        try:
            for session in range(1, SESSIONS + 1):
                failure = finished.get(timeout=PATIENCE_S)
                assert failure is None, workers.said()
                if session % SESSIONS_OF_PEACE == 0:
                    strike(rng, workers)
                assert all(one.process.poll() is None for one in workers.running.values()), workers.said()
        finally:
            for caller in callers:
                caller.stop.set()
            for caller in callers:
                caller.thread.join()
        await_zero(workers, "connections", "calls_in_flight", "bytes_in_flight")
        seed(workers.addresses[0])
        for number in range(WORKERS):
            workers.drain(number)
        said = workers.log.read_text(errors="replace")
    for trouble in ("Sanitizer", "runtime error", "invariant broken", "Traceback"):
        assert trouble not in said, said[-20_000:]
    check_logs(tmp_path / "data", [order_id for caller in callers for order_id in caller.placed])


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "__lsan_do_recoverable_leak_check"), reason="not under a sanitizer")
def test_front_that_is_closed_has_given_all_memory_back(tmp_path: Path) -> None:
    options = {"ASAN_OPTIONS": os.environ["ASAN_OPTIONS"] + ":detect_leaks=1:leak_check_at_exit=0"}
    command = [sys.executable, "-m", "tests.front.leak_child", str(tmp_path), str(SESSIONS // 4)]
    ran = subprocess.run(command, env=os.environ | options, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-20_000:]


def check_logs(data_dir: Path, placed: list[str]) -> None:
    """They hold together, and have each order that was acknowledged, once."""
    assert list(audit.audit(data_dir))
    logged = Counter(
        orders.PlaceOrderRequest.FromString(record.command).order_id
        for _, record in journal_tools.dump(data_dir)
        if record.kind == _core.PLACE_ORDER
    )
    assert len(placed) > SESSIONS, "the callers were hardly served"
    assert max(logged.values()) == 1
    lost = [order_id for order_id in placed if order_id not in logged]
    assert not lost
