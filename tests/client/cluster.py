"""A fake engine of several addresses: a main one, and two workers with theirs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import everopen
from everopen.routing import crc32c
from everopen.v1.cluster_pb2 import PartitionMap, ShardState, WorkerState
from everopen.v1.order_service_pb2 import GetOrderResponse
from tests.client.fake import PATIENCE_S, FakeServer, Known, Received

# By the worker that hosts them while there are two.
SHOPS = [[f"shop-{n}" for n in range(40) if crc32c(f"shop-{n}") % 1024 // 512 == worker] for worker in range(2)]


class Cluster:
    """A main address and two workers behind it."""

    def __init__(self) -> None:
        self.known = Known()
        self.main, *self.workers = self.servers = [FakeServer(self.known) for _ in range(3)]

    async def start(self) -> None:
        for server in self.servers:
            await server.start()

    async def stop(self) -> None:
        for server in self.servers:
            await server.stop()

    def publish(self, hosts: tuple[int, ...] = (0, 1), **changes: Any) -> None:
        """A map with as many shards as there are hosts. `changes`: addresses, log_id, worker_state, shard_state."""
        addresses = changes.get("addresses", [worker.address for worker in self.workers])
        version = self.known.map.version + 1 if self.known.map else 1
        published = PartitionMap(version=version, partitions=1024)
        size = 1024 // len(hosts)
        for shard, worker in enumerate(hosts):
            published.shards.add(
                shard=shard,
                first_partition=shard * size,
                last_partition=(shard + 1) * size - 1,
                worker=worker,
                log_id=changes.get("log_id", b"log of shard %d" % shard),
                state=changes.get("shard_state", ShardState.SHARD_STATE_SERVING),
            )
        for number, address in enumerate(addresses):
            state = changes.get("worker_state", WorkerState.WORKER_STATE_SERVING)
            published.workers.add(worker=number, addresses=[address], state=state)
        self.known.publish(published)

    async def take(self, timeout_s: float = PATIENCE_S) -> tuple[FakeServer, Received]:
        """The next message, wherever it arrives."""
        takes = [asyncio.create_task(server.arrived.get()) for server in self.servers]
        try:
            await asyncio.wait(takes, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
            for server, took in zip(self.servers, takes, strict=True):
                if took.done():
                    return server, took.result()
            raise TimeoutError
        finally:
            for took in takes:
                took.cancel()


def usable(client: everopen.AsyncClient, *servers: FakeServer) -> Callable[[], bool]:
    """Each server's direct address is known and checked; asking makes the client check."""
    client._routes.begin()
    return lambda: all(client._routes.direct(server.address) is not None for server in servers)


async def get_order(cluster: Cluster, client: everopen.AsyncClient, shop_id: str) -> FakeServer:
    """Makes a call, and returns which server got it."""
    call = asyncio.create_task(client.get_order(shop_id, order_id="A-1"))
    server, received = await cluster.take()
    received.reply_with(GetOrderResponse())
    await call
    return server
