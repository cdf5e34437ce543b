"""Eight busy connections that all came to one worker spread out, and no call fails on the way."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.loadgen import Options, attach, connect, make_generator, seed
from everopen.v1 import cluster_service_pb2 as cluster
from everopen.v1.cluster_service_pb2_grpc import ClusterServiceStub
from tests.serving import Client, Server, everopen

# Two workers are to be equally busy, and each needs a core for it.
pytestmark = pytest.mark.alone

CONNECTIONS = 8
STREAMS = 100
PATIENCE_S = 60.0
SEGMENT_BYTES = 64 * 1024 * 1024
FAILED = ("reset", "timed_out", "lost", "unanswered", "refused", "malformed", "wrong")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    # A slow machine may make the front allow fewer streams and reset those that are on their way: not the matter here.
    settings = ("--workers", "2", "--heartbeat-ms", "600000", "--front-setting", "balance_ms=100")
    settings += ("--front-setting", f"streams_per_connection_min={STREAMS}")
    # Small segments would end faster than the next ones are made, and orders be refused meanwhile.
    with Server(tmp_path / "data", *settings, segment_bytes=SEGMENT_BYTES) as running:
        yield running
        assert running.stop() == 0


def workers_of(client: Client) -> list[cluster.WorkerInfo]:
    answer = ClusterServiceStub(client.channel).GetWorkers(cluster.GetWorkersRequest(), timeout=30)
    return sorted(answer.workers, key=lambda worker: worker.worker)


def freeze(pid: int) -> None:
    """Returns when no thread of it runs any more."""
    os.kill(pid, signal.SIGSTOP)
    threads = list(Path(f"/proc/{pid}/task").iterdir())
    gives_up_s = time.monotonic() + PATIENCE_S
    while any((thread / "stat").read_text().rpartition(")")[2].split()[0] != "T" for thread in threads):
        assert time.monotonic() < gives_up_s, "it does not stop"


def test_eight_busy_connections_on_one_worker_spread_out_and_no_call_fails(server: Server) -> None:
    options = Options(server.address, connections=CONNECTIONS, streams=STREAMS, seconds=2 * PATIENCE_S, warmup_s=0)
    seed(options)
    with Client(server.address) as client:
        frozen = workers_of(client)[1]
    # Who does not run accepts nothing, and shows no heartbeat that others would leave an accept to.
    freeze(frozen.pid)
    try:
        generator = make_generator(options)
        connect(generator, options)
        with Client(server.address) as client:
            before = workers_of(client)
            assert before[0].connections >= CONNECTIONS
            assert before[0].counters["connections_shed"] == 0
            os.kill(frozen.pid, signal.SIGCONT)
            generator.start(2 * PATIENCE_S, 0, 10)
            gives_up_s = time.monotonic() + PATIENCE_S
            while workers_of(client)[0].counters["connections_shed"] < 3 and time.monotonic() < gives_up_s:
                attach(generator, options.target)
                assert not generator.run(100)
            after = workers_of(client)
    finally:
        os.kill(frozen.pid, signal.SIGCONT)
    # No new calls; those on the way are answered.
    generator.start(0, 0, 10)
    while not generator.run(100):
        attach(generator, options.target)
    generator.finish()
    # Those that were due before the second start count as its warm-up.
    measured, warmup = generator.counts(True), generator.counts(False)
    counts = {fate: measured[fate] + warmup[fate] for fate in ("sent", "answered", "placed", *FAILED)}
    assert [worker.pid for worker in after] == [worker.pid for worker in before], "nobody was restarted"
    assert after[0].counters["connections_shed"] >= 3
    assert after[1].connections >= 2, "the third may be on its way"
    assert after[1].counters["calls_native"] > before[1].counters["calls_native"]
    assert not any(counts[fate] for fate in FAILED), counts
    assert counts["sent"] == counts["answered"] == counts["placed"] > 0
    assert server.stop() == 0
    assert everopen("audit", "--data-dir", server.data_dir).returncode == 0
