"""Abuse that goes on: each kind is counted, memory stays bounded, and who behaves beside it is served."""

from __future__ import annotations

import concurrent.futures
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.front.abuses import ABUSES, bytes_of, idle_connections, send_once
from tests.front.calls import PLACE_ORDER, place, placed
from tests.front.hostile import THERE, Neighbour
from tests.front.http2 import Connection
from tests.serving import PRELOADED, Client, Server

MIB = 1024 * 1024
TIMES = 12
# A peer that is reset but not closed says nothing more; what is slow is given up after message_ms, 300.
PATIENCE_S = 1.0
# What a message of each connection, all of them at once, and the allocator's slack may add. 576 MiB is asked for.
GROWTH_BYTES_MAX = (TIMES * 4 + 16) * MIB
# 10,000 where the machine gives a process so many descriptors.
IDLE = min(10_000, resource.getrlimit(resource.RLIMIT_NOFILE)[1] - 2_000)
IDLE_BYTES_MAX = 24 * 1024


@pytest.fixture
def server(guarded: Server) -> Server:
    return guarded


def memory(server: Server) -> tuple[int, int]:
    """Bytes of the worker: the most that it had, and what it has."""
    lines = Path(f"/proc/{server.children['worker 0']}/status").read_text().splitlines()
    status = dict(line.split(":", 1) for line in lines)
    most, now = (int(status[name].split()[0]) * 1024 for name in ("VmHWM", "VmRSS"))
    return most, now


@pytest.mark.parametrize("name", ABUSES)
def test_abuse_that_goes_on_is_counted_and_takes_no_more_memory(
    server: Server, neighbour: Neighbour, name: str
) -> None:
    abuse = ABUSES[name]
    data = bytes_of(abuse.frames)
    send_once(server.address, data, THERE, PATIENCE_S)
    before, _ = memory(server)
    with concurrent.futures.ThreadPoolExecutor(TIMES) as together:
        for sent in [together.submit(send_once, server.address, data, THERE, PATIENCE_S) for _ in range(TIMES)]:
            sent.result()
    neighbour.sees_risen(*abuse.counters)
    if "asan" not in PRELOADED:
        assert memory(server)[0] - before < GROWTH_BYTES_MAX


@pytest.fixture
def roomy(tmp_path: Path) -> Iterator[Server]:
    """With the bounds that it ships with."""
    with Server(tmp_path / "data") as running:
        with Client(running.address) as client:
            client.seed()
        yield running
        assert running.stop() == 0


@pytest.mark.skipif(IDLE < 1_000, reason="too few descriptors")
def test_thousands_of_idle_connections_take_little_and_keep_nobody_out(roomy: Server) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    neighbour = Neighbour(roomy)
    _, bytes_before = memory(roomy)
    idle = idle_connections(roomy.address, IDLE)
    try:
        with Connection(roomy.address) as connection:
            for _ in range(100):
                placed(connection.call(PLACE_ORDER, place()))
            # What was accepted before is greeted by now: the last of them was.
            assert idle[-1].recv(9)
            [worker] = [worker for worker in neighbour.workers_now() if worker.connections]
            assert worker.connections > IDLE
            neighbour.sees_risen("connections_accepted")
            if "asan" not in PRELOADED:
                assert (memory(roomy)[1] - bytes_before) / IDLE < IDLE_BYTES_MAX
    finally:
        for one in idle:
            one.close()
        neighbour.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
