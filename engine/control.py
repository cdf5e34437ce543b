"""The control server: everything that is not the data plane. Fronts relay to it over a private unix socket."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

# gRPC's own lines on stderr repeat what its exceptions say.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import grpc
import structlog
import uvloop
from grpc_channelz.v1 import channelz, channelz_pb2
from grpc_health.v1 import health
from grpc_reflection.v1alpha import reflection

from engine._core import Board, give_way
from engine.audit_trail import AuditTrail
from engine.call_log import CallLog
from engine.channel import Channel
from engine.child import adopted, beats, messages, run_to_the_end
from engine.control_identity import ControlIdentity
from engine.doorkeeper import Doorkeeper
from engine.limits import LIMITS
from engine.logs import configure
from engine.observing import Observing
from engine.partition_map import PARTITIONS, PartitionMap

# The services of the data plane are imported for what they register: reflection answers for them too.
from everopen.v1 import cluster_pb2, cluster_service_pb2, inventory_service_pb2, order_service_pb2
from everopen.v1.cluster_service_pb2_grpc import ClusterServiceServicer, add_ClusterServiceServicer_to_server

# Relayed calls in flight get this long to end at the drain.
GRACE_S = 1.0
# Below that of the workers, to which orders come.
NICE = 10
# What a slot of the board says of the worker itself; all else in it are counters.
SLOT_FIELDS = frozenset(
    {"format_version", "worker", "pid", "state", "heartbeat_ns", "connections", "busy_ppm", "commands_per_s"}
)

log = structlog.get_logger()


class Cluster(ClusterServiceServicer):
    """Answers from what the supervisor said last, and from the board."""

    def __init__(self, board: Board, said: dict[str, Any]) -> None:
        self._board = board
        self._changed = asyncio.Event()
        self._ending = False
        self.update(said)

    def update(self, said: dict[str, Any]) -> None:
        self._map = to_proto(PartitionMap.from_json(said["map"]))
        self._workers = said["workers"]
        self._wake()

    def end_watches(self) -> None:
        """They would last for ever, and the drain waits for every call."""
        self._ending = True
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def GetPartitionMap(  # noqa: N802
        self, request: cluster_service_pb2.GetPartitionMapRequest, context: Any
    ) -> cluster_service_pb2.GetPartitionMapResponse:
        return cluster_service_pb2.GetPartitionMapResponse(map=self._map)

    async def WatchPartitionMap(  # noqa: N802
        self, request: cluster_service_pb2.WatchPartitionMapRequest, context: Any
    ) -> AsyncIterator[cluster_service_pb2.WatchPartitionMapResponse]:
        seen = request.after_version
        while True:
            changed = self._changed
            if self._map.version > seen:
                seen = self._map.version
                yield cluster_service_pb2.WatchPartitionMapResponse(map=self._map)
            elif self._ending:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "the server is going down: watch elsewhere")
            else:
                await changed.wait()

    async def GetWorkers(  # noqa: N802
        self, request: cluster_service_pb2.GetWorkersRequest, context: Any
    ) -> cluster_service_pb2.GetWorkersResponse:
        slots = {slot["worker"]: slot for slot in self._board.slots()}
        answer = cluster_service_pb2.GetWorkersResponse()
        for entry, known in zip(self._map.workers, self._workers, strict=True):
            info = answer.workers.add(worker=entry.worker, state=entry.state, **known)
            slot = slots.get(entry.worker)
            # What a dead one left on the board is not the state of the next.
            if slot is not None and slot["pid"] == info.pid:
                info.connections = slot["connections"]
                info.busy_per_mille = slot["busy_ppm"] // 1_000
                info.commands_per_second = slot["commands_per_s"]
                info.counters.update({name: count for name, count in slot.items() if name not in SLOT_FIELDS})
        return answer


def to_proto(known: PartitionMap) -> cluster_pb2.PartitionMap:
    made = cluster_pb2.PartitionMap(version=known.version, partitions=PARTITIONS)
    for shard in known.shards:
        made.shards.add(
            shard=shard.shard,
            first_partition=shard.first_partition,
            last_partition=shard.last_partition,
            worker=shard.worker,
            log_id=bytes.fromhex(shard.log_id),
            state=cluster_pb2.ShardState.Name(shard.state),
        )
    for worker in known.workers:
        made.workers.add(
            worker=worker.worker, addresses=worker.addresses, state=cluster_pb2.WorkerState.Name(worker.state)
        )
    return made


def make_server(cluster: Cluster, identity: ControlIdentity) -> grpc.aio.Server:
    server = grpc.aio.server(
        interceptors=[CallLog(), identity],
        options=[
            ("grpc.max_receive_message_length", LIMITS["MESSAGE_BYTES_MAX"]),
            ("grpc.max_send_message_length", LIMITS["MESSAGE_BYTES_MAX"]),
            # All relayed calls of a worker share a connection or few; the fronts bound what callers may have open.
            ("grpc.max_concurrent_streams", 65_536),
            # The fronts are no strangers: they may ping as they like.
            ("grpc.http2.max_ping_strikes", 0),
            ("grpc.keepalive_permit_without_calls", 1),
        ],
    )
    add_ClusterServiceServicer_to_server(cluster, server)  # type: ignore[no-untyped-call]
    channelz.add_channelz_servicer(server)
    reflection.enable_server_reflection(
        [
            *(services.DESCRIPTOR.services_by_name[name].full_name for services, name in SERVICES),
            health.SERVICE_NAME,
            reflection.SERVICE_NAME,
        ],
        server,
    )
    return server


SERVICES = (
    (order_service_pb2, "OrderService"),
    (inventory_service_pb2, "InventoryService"),
    (cluster_service_pb2, "ClusterService"),
    (channelz_pb2, "Channelz"),
)


async def work(channel: Channel) -> None:
    """Until the supervisor says `close`."""
    # Besides the board it is given the socket of the metrics, if there is one; the next supervisor gets that back.
    heard = messages(channel, lambda: ({"path": start["path"], "relay_secret": start["relay_secret"]}, start.fds[1:]))
    start = await anext(heard)
    board = Board(start.fds[0], len(start["workers"]))
    cluster = Cluster(board, start.fields)
    identity = ControlIdentity(bytes.fromhex(start["relay_secret"]), AuditTrail(Path(start["data_dir"])))
    server = make_server(cluster, identity)
    door = Doorkeeper(server, start["path"])
    await server.start()
    await door.open()
    metrics = [socket.socket(fileno=os.dup(fd)) for fd in start.fds[1:]]
    observing = Observing(board, start.fields, metrics, lambda: identity.lines_failed)
    await observing.begin()
    channel.say("listening")
    # Kept, since a loop forgets tasks that nobody holds.
    beating = asyncio.create_task(beats(channel))
    async for message in heard:
        match message.kind:
            case "cluster":
                cluster.update(message.fields)
                observing.update(message.fields)
                channel.say("seen")
            case "drain":
                cluster.end_watches()
                door.close()
                observing.end()
                stopping = asyncio.create_task(server.stop(GRACE_S))
            case "close":
                beating.cancel()
                await stopping
                await asyncio.to_thread(identity.close)
                return
            case _:
                raise AssertionError(f"the supervisor said {message.kind}")


def main() -> None:
    # Python that is asked much takes a core; where it shares one with a worker, orders come first.
    give_way(NICE)
    channel, name = adopted()
    configure(process=name)
    run_to_the_end(work(channel), uvloop.run)


if __name__ == "__main__":
    main()
