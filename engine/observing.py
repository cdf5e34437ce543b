"""What the control process does for those who look on: metrics, status, spans."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any, Final

import structlog

from engine._core import HISTOGRAM_BOUNDS_NS, SIZE_BOUNDS, Board
from engine.listen import ListenError, UnixAddress, parse_address
from engine.metrics_server import MetricsServer
from engine.runtime import STATUS_SUFFIX
from engine.sampling import Sample, Sampler

# How often totals are brought up to date: a worker that dies takes along what it counted since.
SAMPLE_S: Final = 1.0
# After that it is tried again to listen where somebody else does; each time after twice as long.
LISTEN_AGAIN_S: Final = 1.0
LISTEN_AGAIN_S_MAX: Final = 60.0
TOTALS: Final = "totals.json"

log = structlog.get_logger()


class Observing:
    def __init__(self, board: Board, start: dict[str, Any]) -> None:
        """start: what the supervisor said first."""
        folder = Path(start["path"]).parent
        directories = [Path(path) for path in start.get("directories", [])]
        bounds = (HISTOGRAM_BOUNDS_NS, SIZE_BOUNDS)
        self._sampler = Sampler(board, bounds, directories, folder / TOTALS, start)
        self._server = MetricsServer(self._sample)
        self._one_at_a_time = threading.Lock()
        self._tasks: list[asyncio.Task[None]] = []
        self._status = f"{start['path']}{STATUS_SUFFIX}"
        self._metrics: str | None = start.get("metrics_listen")
        self._spans: Any = None
        if start.get("otlp_endpoint"):
            # Takes a tenth of a second, which nobody pays who exports nothing.
            from engine.traces import Exporter

            self._spans = Exporter(board, start["otlp_endpoint"], folder)

    async def begin(self) -> None:
        await self._server.serve(UnixAddress(self._status), private=True)
        work = [self._sample_on(), self._look_on()]
        if self._metrics is not None and not await self._listens(self._metrics):
            work.append(self._listen(self._metrics))
        self._tasks = [asyncio.create_task(each) for each in work]
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

    async def _listens(self, text: str) -> bool:
        try:
            port = await self._server.serve(parse_address(text), private=False)
        except ListenError as error:
            log.warning("metrics are not served; it is tried again", error=str(error))
            return False
        log.info("metrics are served", listen=text, port=port)
        return True

    async def _listen(self, text: str) -> None:
        """That somebody took the address meanwhile is no reason to end: calls are relayed all the same."""
        wait_s = LISTEN_AGAIN_S
        await asyncio.sleep(wait_s)
        while not await self._listens(text):
            wait_s = min(2 * wait_s, LISTEN_AGAIN_S_MAX)
            await asyncio.sleep(wait_s)
