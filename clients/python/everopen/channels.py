"""How both clients set up their channels."""

from __future__ import annotations

import time
from typing import Any

from everopen import methods
from everopen.v1.cluster_service_pb2_grpc import ClusterServiceStub
from everopen.v1.inventory_service_pb2_grpc import InventoryServiceStub
from everopen.v1.order_service_pb2_grpc import OrderServiceStub

CLUSTER = "ClusterService"

# A dead peer is found by pings in 10 + 5 s. Note that grpc.keepalive_timeout_ms does nothing in grpcio.
# Retries are ours alone (retry.py), so gRPC's are off, and no service config from a resolver can turn them on or set a
# timeout. Answers to 1,024 orders with many allocations each can pass gRPC's 4 MiB.
# min_reconnect_backoff_ms is how long gRPC lets a connect take, up to the peer's SETTINGS: less than a far or busy peer
# needs would fail calls that are not repeated.
CHANNEL_OPTIONS: list[tuple[str, int]] = [
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 5_000),
    ("grpc.enable_retries", 0),
    ("grpc.service_config_disable_resolution", 1),
    ("grpc.max_receive_message_length", 64 * 1024 * 1024),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 1_000),
]


def stubs_of(channel: Any) -> dict[str, Any]:
    """By service."""
    return {
        methods.ORDERS: OrderServiceStub(channel),  # type: ignore[no-untyped-call]
        methods.INVENTORY: InventoryServiceStub(channel),  # type: ignore[no-untyped-call]
        CLUSTER: ClusterServiceStub(channel),  # type: ignore[no-untyped-call]
    }


def wall_clock_ms() -> int:
    return time.time_ns() // 1_000_000
