"""Servers in processes of their own, and what the suites that talk to them share. Nothing here waits by sleeping."""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc

from engine import runtime
from everopen.v1 import inventory_service_pb2 as inventory
from everopen.v1 import order_service_pb2 as orders
from everopen.v1.inventory_service_pb2_grpc import InventoryServiceStub
from everopen.v1.order_service_pb2_grpc import OrderServiceStub

ROOT = Path(__file__).resolve().parent.parent
READY = re.compile(
    r"everopen: serving on ([^,\s]+),(?: \S+,)* "
    r"(?:shard 0, log ([0-9a-f]{32}), sequence (\d+), recovered in [\d.]+ s|\d+ shards, \d+ workers)\n"
)
SHARD = re.compile(r"everopen: shard \d+, log ([0-9a-f]{32}), sequence (\d+), recovered in [\d.]+ s\n")
# Small segments, so that a test meets several of them.
SEGMENT_BYTES = 1024 * 1024
PRELOADED = os.environ.get("LD_PRELOAD", "")
# For an engine of a test that is not about followers.
ALONE = ("--followers", "0")


def everopen(*arguments: str | Path, timeout_s: float = 120, root: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Runs the command line to its end. root: where the program is."""
    command = [sys.executable, "-m", "engine", *map(str, arguments)]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=timeout_s, check=False)


class Server:
    """`everopen serve` on a free port. Ready once constructed; a start that fails raises with what it said."""

    PROGRAM: tuple[str, ...] = ("engine", "serve")

    def __init__(
        self,
        data_dir: Path,
        *arguments: str,
        listen: str = "127.0.0.1:0",
        segment_bytes: int = SEGMENT_BYTES,
        environment: Mapping[str, str] | None = None,
        root: Path = ROOT,
    ) -> None:
        """environment: beside that of this process. root: where the program is."""
        self.data_dir = data_dir
        self.log_path = data_dir.parent / f"{data_dir.name}.stderr"
        command = [sys.executable, "-m", *self.PROGRAM, "--data-dir", str(data_dir), "--listen", listen]
        command += ["--segment-bytes", str(segment_bytes), *arguments]
        if self.PROGRAM == Server.PROGRAM:
            # Whose tests die takes its servers along, and followers are for those that are about them.
            command += ["--until-stdin-ends", *(() if "--followers" in arguments else ALONE)]
            if "--heartbeat-ms" not in arguments and ("--followers" not in arguments or "asan" in PRELOADED):
                # A machine that is busy with other tests is no reason to kill a worker.
                command += ["--heartbeat-ms", "20000"]
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                command,
                cwd=root,
                env={**os.environ, **(environment or {})},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        # (log_id, sequence) by shard
        self.shards: list[tuple[bytes, int]] = []
        while shard := SHARD.fullmatch(line):
            self.shards.append((bytes.fromhex(shard[1]), int(shard[2])))
            line = self.process.stdout.readline()
        ready = READY.fullmatch(line)
        if ready is None:
            self.kill()
            raise AssertionError(f"not ready: {line!r}\n{self.stderr}")
        self.address = ready[1]
        if ready[2]:
            self.shards.append((bytes.fromhex(ready[2]), int(ready[3])))
        self.log_id, self.sequence = self.shards[0]

    @property
    def stderr(self) -> str:
        return self.log_path.read_text()

    @property
    def shard(self) -> Path:
        return self.data_dir / "shard-0000"

    @property
    def children(self) -> dict[str, int]:
        """Pids by name: worker 0, follower 0 and so on, control server. Also while there is no supervisor."""
        listed = runtime.named(self.data_dir)
        return {child.name: child.pid for child in listed if runtime.start_time(child.pid) == child.start_time}

    def stop(self) -> int:
        """SIGTERM, and the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.wait()

    def kill(self) -> None:
        """SIGKILL to all processes, as a crash of the machine would."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.wait()

    def kill_supervisor(self) -> None:
        """SIGKILL to it alone: its children go on."""
        self.process.kill()
        self.wait()

    def wait(self) -> int:
        code = self.process.wait(timeout=60)
        for end in (self.process.stdin, self.process.stdout):
            if end is not None:
                end.close()
        return code

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Also children that outlived it; an engine that has ended leaves none.
        self.kill()


def freeze(pid: int) -> None:
    """SIGSTOP; returns once no thread of it runs any more."""
    os.kill(pid, signal.SIGSTOP)
    threads = list(Path(f"/proc/{pid}/task").iterdir())
    while any((thread / "stat").read_text().rpartition(")")[2].split()[0] != "T" for thread in threads):
        select.select([], [], [], 0.001)


class Client:
    """The generated stubs over one connection, and the bare channel for bytes that no stub would send."""

    def __init__(self, address: str) -> None:
        # Reconnecting at once: the default waits a second after a server that was killed. (The minimum is how long an
        # attempt may take.)
        options = [("grpc.initial_reconnect_backoff_ms", 50), ("grpc.min_reconnect_backoff_ms", 20_000)]
        # A pool of connections is shared by address otherwise, also over the life of two servers.
        options.append(("grpc.use_local_subchannel_pool", 1))
        self.channel = grpc.insecure_channel(address, options=options)
        self.orders: Any = OrderServiceStub(self.channel)
        self.inventory: Any = InventoryServiceStub(self.channel)

    def raw(self, method: str, request: bytes, timeout: float | None = None) -> bytes:
        answer: bytes = self.channel.unary_unary(f"/everopen.v1.{method}")(request, timeout=timeout)
        return answer

    def seed(self, *, shop_id: str = "shop", skus: Iterable[str] = ("sku",), stock: int = 1_000_000) -> None:
        """One shop, two locations, some SKUs with `stock` units at the first."""
        self.inventory.PutShop(inventory.PutShopRequest(shop_id=shop_id))
        for priority, location_id in enumerate(("near", "far")):
            request = inventory.PutLocationRequest(
                shop_id=shop_id, location_id=location_id, region="east", priority=priority
            )
            self.inventory.PutLocation(request)
        for sku_id in skus:
            self.inventory.PutSku(inventory.PutSkuRequest(shop_id=shop_id, sku_id=sku_id, price_minor=250))
            if stock:
                self.inventory.AdjustStock(adjustment(f"seed-{sku_id}", stock, shop_id=shop_id, sku_id=sku_id))

    def close(self) -> None:
        self.channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()


def adjustment(
    adjustment_id: str, delta: int, *, shop_id: str = "shop", sku_id: str = "sku", location_id: str = "near"
) -> inventory.AdjustStockRequest:
    return inventory.AdjustStockRequest(
        adjustment_id=adjustment_id, shop_id=shop_id, sku_id=sku_id, location_id=location_id, delta=delta
    )


def order(
    order_id: str, quantity: int = 1, *, shop_id: str = "shop", sku_id: str = "sku", buyer_id: str = "buyer"
) -> orders.PlaceOrderRequest:
    lines = [orders.PlaceOrderLine(sku_id=sku_id, quantity=quantity)]
    return orders.PlaceOrderRequest(order_id=order_id, shop_id=shop_id, buyer_id=buyer_id, lines=lines)


def batch(order_ids: Iterable[str]) -> orders.PlaceOrdersRequest:
    return orders.PlaceOrdersRequest(orders=[order(order_id) for order_id in order_ids])
