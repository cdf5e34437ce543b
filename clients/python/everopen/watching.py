"""Watches the partition map over the main channel and keeps the channels to direct addresses: one class for threads,
one for asyncio. Both begin with the first call, in the background."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine
from random import Random
from typing import Any

import grpc
from google.protobuf.message import Message

from everopen.channels import CHANNEL_OPTIONS, CLUSTER, stubs_of
from everopen.errors import EveropenError
from everopen.retry import RetryPolicy
from everopen.routing import CHECK_S_MAX, MAIN, Direct, Routes
from everopen.v1.cluster_pb2 import PartitionMap
from everopen.v1.cluster_service_pb2 import GetPartitionMapRequest, WatchPartitionMapRequest

# How long after a watch broke the next is begun. An older server has no map, and will not have one soon.
AGAIN = RetryPolicy(initial_s=0.5, wait_s_max=60.0)
FAILURES_IF_UNIMPLEMENTED = 10


class Pause:
    """How long to wait before the next watch."""

    def __init__(self) -> None:
        self._random = Random()  # noqa: S311 - spaces retries; nothing here is a secret
        self._failures = 0

    def reset(self) -> None:
        self._failures = 0

    def next_s(self, code: grpc.StatusCode) -> float:
        self._failures += 1
        if code == grpc.StatusCode.UNIMPLEMENTED:
            self._failures = max(self._failures, FAILURES_IF_UNIMPLEMENTED)
        return AGAIN.wait_s(self._failures, self._random)


class AsyncRoutes(Routes):
    """For one event loop."""

    def __init__(self, target: str, now_s: Callable[[], float], cluster: Any, *, enabled: bool) -> None:
        """cluster: the stub of ClusterService at the main address."""
        super().__init__(target, now_s)
        self._cluster = cluster
        self._enabled = enabled
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self) -> None:
        """Before each call. Needs a running loop, which the constructor of a client may not have."""
        if self._enabled:
            self._enabled = False
            self.start(self._watch())

    async def close(self) -> None:
        self._enabled = False
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        channels = [direct.channel for direct in self._directs.values() if direct.channel is not None]
        self._directs.clear()
        for channel in channels:
            await channel.close()

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """In the background, until the routes are closed."""
        task = asyncio.create_task(work, name="everopen-routes")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _watch(self) -> None:
        pause = Pause()
        while True:
            code = grpc.StatusCode.UNAVAILABLE
            try:
                async for answer in self._cluster.WatchPartitionMap(WatchPartitionMapRequest()):
                    pause.reset()
                    self.learn(answer.map)
            except grpc.aio.AioRpcError as rpc_error:
                code = rpc_error.code()
            self.forget()
            await asyncio.sleep(pause.next_s(code))

    def _check(self, direct: Direct) -> None:
        if direct.channel is None:
            direct.channel = grpc.aio.insecure_channel(direct.address, CHANNEL_OPTIONS)
            direct.stubs = stubs_of(direct.channel)
        self.start(self._ask(direct))

    async def _ask(self, direct: Direct) -> None:
        found: PartitionMap | None = None
        with contextlib.suppress(grpc.RpcError):
            answer = await direct.stubs[CLUSTER].GetPartitionMap(GetPartitionMapRequest(), timeout=CHECK_S_MAX)
            found = answer.map
        self._checked(direct, found)

    def _close_channel(self, channel: Any) -> None:
        self.start(channel.close())


class BlockingRoutes(Routes):
    """For many threads; a thread of its own watches, and ends when the routes are closed."""

    def __init__(self, target: str, now_s: Callable[[], float], cluster: Any, *, enabled: bool) -> None:
        """cluster: the stub of ClusterService at the main address."""
        super().__init__(target, now_s)
        self._cluster = cluster
        self._enabled = enabled
        # Taken again by the thread that has it: gRPC may call back at once, and a collected client closes its routes.
        self._lock = threading.RLock()
        self._closed = threading.Event()
        self._call: Any = None

    def take_for(self, request: Message) -> Direct | None:
        with self._lock:
            self._begin()
            return self.take(self.home_of(request))

    def release(self, direct: Direct) -> None:
        with self._lock:
            super().release(direct)

    def failed(self, direct: Direct, error: EveropenError) -> bool:
        with self._lock:
            return super().failed(direct, error)

    def split(self, shop_ids: list[str]) -> list[tuple[Direct | None, list[int]]]:
        """Which of the shops' indexes go where; what is taken must be released."""
        with self._lock:
            self._begin()
            found: dict[str, list[int]] = {}
            for index, shop_id in enumerate(shop_ids):
                address = self.home(shop_id)
                found.setdefault(address if self.direct(address) is not None else MAIN, []).append(index)
            return [(self.take(address), indexes) for address, indexes in found.items()]

    def close(self) -> None:
        with self._lock:
            self._closed.set()
            if self._call is not None:
                self._call.cancel()
            for direct in self._directs.values():
                if direct.channel is not None:
                    direct.channel.close()
            self._directs.clear()

    def _begin(self) -> None:
        if self._enabled:
            self._enabled = False
            threading.Thread(target=self._watch, name="everopen-routes", daemon=True).start()

    def _watch(self) -> None:
        pause = Pause()
        while True:
            with self._lock:
                if self._closed.is_set():
                    return
                self._call = self._cluster.WatchPartitionMap(WatchPartitionMapRequest())
            code = grpc.StatusCode.UNAVAILABLE
            try:
                for answer in self._call:
                    pause.reset()
                    with self._lock:
                        if not self._closed.is_set():
                            self.learn(answer.map)
            except grpc.RpcError:
                code = self._call.code()
            with self._lock:
                self.forget()
            self._closed.wait(pause.next_s(code))

    def _check(self, direct: Direct) -> None:
        if direct.channel is None:
            direct.channel = grpc.insecure_channel(direct.address, CHANNEL_OPTIONS)
            direct.stubs = stubs_of(direct.channel)
        asked = direct.stubs[CLUSTER].GetPartitionMap.future(GetPartitionMapRequest(), timeout=CHECK_S_MAX)
        asked.add_done_callback(lambda done: self._answered(direct, done))

    def _answered(self, direct: Direct, asked: Any) -> None:
        found: PartitionMap | None = None
        with contextlib.suppress(grpc.RpcError, grpc.FutureCancelledError):
            found = asked.result().map
        with self._lock:
            if not self._closed.is_set():
                self._checked(direct, found)

    def _close_channel(self, channel: Any) -> None:
        channel.close()
