"""A fake server, and clients of it whose clock stands still."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

import everopen
from tests.client.cluster import Cluster
from tests.client.fake import Clock, FakeServer, Upper


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def server() -> AsyncIterator[FakeServer]:
    fake = FakeServer()
    await fake.start()
    yield fake
    await fake.stop()


def arguments(clock: Clock) -> dict[str, Any]:
    return {"random": Upper(), "now_s": clock.now_s, "wall_ms": clock.wall_ms}


@pytest.fixture
async def client(server: FakeServer, clock: Clock) -> AsyncIterator[everopen.AsyncClient]:
    async with everopen.AsyncClient(server.address, sleep=clock.sleep, **arguments(clock)) as client:
        yield client


@pytest.fixture
async def unbatched(server: FakeServer, clock: Clock) -> AsyncIterator[everopen.AsyncClient]:
    async with everopen.AsyncClient(
        server.address, sleep=clock.sleep, batch_orders=False, **arguments(clock)
    ) as client:
        yield client


@pytest.fixture
def blocking(server: FakeServer, clock: Clock) -> everopen.Client:
    return everopen.Client(server.address, sleep=clock.sleep_now, **arguments(clock))


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    cluster = Cluster()
    await cluster.start()
    yield cluster
    await cluster.stop()


@pytest.fixture
async def routed(cluster: Cluster, clock: Clock) -> AsyncIterator[everopen.AsyncClient]:
    """A client of the cluster's main address."""
    async with everopen.AsyncClient(cluster.main.address, sleep=clock.sleep, **arguments(clock)) as client:
        yield client
