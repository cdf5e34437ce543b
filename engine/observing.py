"""What the control process does for those who look on: metrics, status, spans."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import structlog

from engine._core import HISTOGRAM_BOUNDS_NS, SIZE_BOUNDS, Board
from engine.metrics_server import MetricsServer
from engine.runtime import STATUS_SUFFIX
from engine.sampling import Sample, Sampler

# How often totals are brought up to date: a worker that dies takes along what it counted since.
SAMPLE_S: Final = 1.0
TOTALS: Final = "totals.json"

log = structlog.get_logger()


class Observing:
    def __init__(
        self,
        board: Board,
        start: dict[str, Any],
        metrics: Sequence[socket.socket],
        audit_lines_failed: Callable[[], int],
    ) -> None:
        """start: what the supervisor said first. metrics: the socket where they are served, or none.

        audit_lines_failed: lines of the audit trail that could not be written.
        """
        folder = Path(start["path"]).parent
        directories = [Path(path) for path in start.get("directories", [])]
        bounds = (HISTOGRAM_BOUNDS_NS, SIZE_BOUNDS)
        self._sampler = Sampler(board, bounds, directories, folder / TOTALS, start, audit_lines_failed)
        self._server = MetricsServer(self._sample)
        self._one_at_a_time = threading.Lock()
        self._tasks: list[asyncio.Task[None]] = []
        self._status = f"{start['path']}{STATUS_SUFFIX}"
        self._metrics = metrics
        self._spans: Any = None
        if start.get("otlp_endpoint"):
            # HTTP and TLS take a moment to import, which nobody pays who exports nothing.
            from engine.traces import Exporter

            self._spans = Exporter(board, start["otlp_endpoint"], folder)

    async def begin(self) -> None:
        await self._server.serve_status(self._status)
        for listener in self._metrics:
            await self._server.serve(listener)
            bound = listener.getsockname()
            # Of a unix socket the path, of others the host, the port, and what IPv6 has beside.
            where = {"path": bound} if isinstance(bound, str) else {"host": bound[0], "port": bound[1]}
            log.info("metrics are served", **where)
        self._tasks = [asyncio.create_task(each) for each in (self._sample_on(), self._look_on())]
        if self._spans is not None:
            self._spans.begin()

    def update(self, said: dict[str, Any]) -> None:
        self._sampler.update(said)

    def end(self) -> None:
        """Another control process may be there already, for the same sockets and the same spans."""
        for task in self._tasks:
            task.cancel()
        self._server.close()
        if self._spans is not None:
            self._spans.stop()

    def _sample(self) -> Sample:
        with self._one_at_a_time:
            if self._spans is not None:
                self._sampler.exported(self._spans.counts())
            return self._sampler.sample()

    async def _sample_on(self) -> None:
        while True:
            await asyncio.to_thread(self._sample)
            await asyncio.sleep(SAMPLE_S)

    async def _look_on(self) -> None:
        """A disk that does not answer stops this, and nothing else."""
        while True:
            await asyncio.to_thread(self._sampler.look_at_disk)
            await asyncio.sleep(SAMPLE_S)
