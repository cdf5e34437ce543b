"""How both clients set up their channels."""

from __future__ import annotations

import ipaddress
import re
import time
from collections.abc import Callable
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


# What a call is signed with; asked for each call, so that what it gives may change while the client lives.
Secret = str | Callable[[], str]


class Signed:
    """A channel, of either kind, whose calls show a credential. As much of a channel as stubs use.

    gRPC's own call credentials need TLS, also towards a sidecar or an engine on the same machine.
    """

    def __init__(self, channel: Any, name: str, secret: Secret) -> None:
        """name: of the metadata. A secret is a token with `authorization`, else as it is."""
        self._name = name
        self._secret = secret
        self.unary_unary = self._signing(channel.unary_unary)
        self.unary_stream = self._signing(channel.unary_stream)
        self.stream_unary = self._signing(channel.stream_unary)
        self.stream_stream = self._signing(channel.stream_stream)

    def _signing(self, of: Callable[..., Any]) -> Callable[..., Any]:
        def made(*args: Any, **kwargs: Any) -> Any:
            method = of(*args, **kwargs)

            def call(*request: Any, metadata: Any = (), **rest: Any) -> Any:
                return method(*request, metadata=(*(metadata or ()), self._entry()), **rest)

            return call

        return made

    def _entry(self) -> tuple[str, str]:
        secret = self._secret() if callable(self._secret) else self._secret
        # gRPC would say what is wrong with it, and with that the secret.
        if not re.fullmatch(r"[\x21-\x7e]+", secret):
            raise ValueError("a token or an API key is printable ASCII without blanks")
        return self._name, f"Bearer {secret}" if self._name == "authorization" else secret


def signed(channel: Any, target: str, is_encrypted: bool, token: Secret | None, api_key: Secret | None) -> Any:
    """The channel as its stubs should use it. Raises ValueError for a secret that strangers could read."""
    if token is None and api_key is None:
        return channel
    if token is not None and api_key is not None:
        raise ValueError("token or api_key: nobody could say which of them counts")
    if not is_encrypted and not is_local(target):
        raise ValueError(f"{target}: a token or an API key would go there in plaintext; give credentials for TLS")
    return Signed(channel, "authorization", token) if token is not None else Signed(channel, "x-api-key", api_key or "")


def is_local(target: str) -> bool:
    """Whether calls stay on this machine."""
    if target.startswith(("unix:", "unix-abstract:")):
        return True
    host = re.sub(r"^(?:dns:/*|ipv4:|ipv6:)", "", target).rpartition(":")[0].strip("[]")
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def plain_options(target: str) -> list[tuple[str, int]]:
    """Of a channel without TLS. What is for this machine must not go through a proxy that the environment names."""
    return [*CHANNEL_OPTIONS, ("grpc.enable_http_proxy", 0)] if is_local(target) else CHANNEL_OPTIONS


def stubs_of(channel: Any) -> dict[str, Any]:
    """By service."""
    return {
        methods.ORDERS: OrderServiceStub(channel),  # type: ignore[no-untyped-call]
        methods.INVENTORY: InventoryServiceStub(channel),  # type: ignore[no-untyped-call]
        CLUSTER: ClusterServiceStub(channel),  # type: ignore[no-untyped-call]
    }


def wall_clock_ms() -> int:
    return time.time_ns() // 1_000_000
