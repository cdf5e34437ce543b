"""A server with small bounds, one who does harm, and an ordinary caller beside it who must not notice."""

from __future__ import annotations

import concurrent.futures
import contextlib
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from hyperframe.frame import Frame

from everopen.v1 import cluster_service_pb2 as cluster
from everopen.v1.cluster_service_pb2_grpc import ClusterServiceStub
from tests.front.calls import PLACE_ORDER, place, placed
from tests.front.http2 import Connection
from tests.serving import Client, Server, everopen

# Bounds as small as they go together, so that a flood is short.
STREAMS_MAX = 16
CONNECTIONS_PER_PEER_MAX = 20
SETTINGS = {
    "streams_per_connection_max": STREAMS_MAX,
    "streams_per_connection_min": 4,
    "resets_max": 20,
    "resets_per_s": 1,
    "control_frames_max": 60,
    "control_frames_per_s": 1,
    "handshake_ms": 300,
    "message_ms": 300,
    "keepalive_ms": 1_000,
    "keepalive_timeout_ms": 300,
    "connections_per_peer_max": CONNECTIONS_PER_PEER_MAX,
}
# Where those come from who do harm, so that their bound is not that of the others.
THERE = "127.0.0.2"
# Between two calls of the ordinary caller.
PAUSE_S = 0.02


@contextlib.contextmanager
def guarded_server(folder: Path) -> Iterator[Server]:
    """At the end it must stop in good order, and leave a log that holds."""
    arguments = [text for name, value in SETTINGS.items() for text in ("--front-setting", f"{name}={value}")]
    with Server(folder / "data", *arguments) as running:
        with Client(running.address) as client:
            client.seed()
        yield running
        assert running.stop() == 0
    assert everopen("audit", "--data-dir", folder / "data").returncode == 0


class Neighbour:
    """An ordinary caller on one connection, again and again until close(), who also reads the counters."""

    def __init__(self, server: Server) -> None:
        self.client = Client(server.address)
        self.connection = Connection(server.address)
        self.workers = self.workers_now()
        self.counters = self._counters()
        self._left = threading.Event()
        self._calling = concurrent.futures.ThreadPoolExecutor(1)
        self._served = self._calling.submit(self._call)

    def _call(self) -> int:
        served = 0
        while not self._left.wait(PAUSE_S):
            placed(self.connection.call(PLACE_ORDER, place()))
            served += 1
        placed(self.connection.call(PLACE_ORDER, place()))
        return served

    def sees_risen(self, *names: str) -> None:
        """One of these at least."""
        now = self._counters()
        assert names, "which?"
        assert any(now[name] > self.counters[name] for name in names), {
            name: now[name] - self.counters[name] for name in now if now[name] != self.counters[name]
        }

    def close(self) -> None:
        """Raises what went wrong with a call, or that it was others who served them in the end."""
        self._left.set()
        try:
            self._served.result()
            before = [(worker.pid, worker.restarts) for worker in self.workers]
            assert [(worker.pid, worker.restarts) for worker in self.workers_now()] == before
        finally:
            self._calling.shutdown()
            self.client.close()
            self.connection.close()

    def workers_now(self) -> list[cluster.WorkerInfo]:
        stub = ClusterServiceStub(self.client.channel)
        return list(stub.GetWorkers(cluster.GetWorkersRequest(), timeout=30).workers)

    def _counters(self) -> Counter[str]:
        total: Counter[str] = Counter()
        for worker in self.workers_now():
            total.update(worker.counters)
        return total


def flood(connection: Connection, frames: Iterable[Frame | bytes]) -> list[int]:
    """Sends without listening, then hears the peer out: the codes with which it said good-bye."""
    with contextlib.suppress(ConnectionResetError, BrokenPipeError):
        for frame in frames:
            connection.send_bytes(frame if isinstance(frame, bytes) else frame.serialize())
    connection.read_to_end()
    return [frame.error_code for frame in connection.goaways]
