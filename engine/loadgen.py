"""`everopen bench`: load from the native generator (engine/_load.pyx), and what came of it.

    seed catalogue and stock -> connect -> warm up -> measure -> drain -> report

Latency is reckoned from the moment at which a request was due, not from that at which it could be sent, so a server
that stalls is not spared the requests that waited meanwhile (no coordinated omission). Each request is one of its own.
"""

from __future__ import annotations

import asyncio
import errno
import os
import random
import socket
import threading
import time
from bisect import bisect
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

# gRPC's own lines on stderr would tear the progress line.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import grpc

import everopen
from engine._load import Generator
from engine.errors import EveropenError
from engine.load_request import (
    METHODS,
    ORDERS_READ,
    PLACING,
    UNITS,
    Options,
    methods_of,
    orders_to_read,
    places_of,
    shop_id_of,
    sku_id_of,
)
from engine.seeding import Seeder, Stock
from everopen.v1.inventory_service_pb2 import PutLocationRequest, PutShopRequest, PutSkuRequest

__all__ = ["METHODS", "Options", "places_of"]

LOCATION_ID = "bench"
CONNECT_S_MAX = 10.0
UNIX_CONNECT_S_MAX = 1.0
# How long answers may take once no request is due any more.
DRAIN_S = 10.0
# Between two looks at signals and at connections.
SLICE_MS = 100
PERCENTILES = (50.0, 90.0, 99.0, 99.9)

# What a server may say under too much load: DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, UNAVAILABLE.
SHED = (4, 8, 14)


class LoadError(EveropenError):
    """The load could not be put on."""


class Gap(NamedTuple):
    """The longest time between two acknowledgements, and when it began (CLOCK_MONOTONIC)."""

    longest_ns: int
    began_ns: int


@dataclass(frozen=True, slots=True)
class Phase:
    """A part of a load that was marked: latencies of what was due in it, and the longest gap that ended in it."""

    name: str
    began_ns: int
    steps: list[tuple[int, int]]
    max_ns: int
    gap: Gap

    def percentile_ns(self, percentile: float) -> int:
        return percentile_of(self.steps, self.max_ns, percentile)


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a load. `counts` is of requests due while it counted, `warmup` of those before.

    acknowledged_in_time: answers with status OK that came in the seconds that count, whenever they were due. began_ns:
    when the first request was due. numbers: how many orders were begun; their ids end in 0 to numbers - 1. acks: a bit
    for each of them, lowest bit first, that was acknowledged as placed, and of those as cancelled.
    """

    options: Options
    counts: dict[str, Any]
    warmup: dict[str, Any]
    acknowledged_in_time: int
    handshakes: int
    steps: list[tuple[int, int]]
    max_ns: int
    began_ns: int
    gap: Gap
    phases: list[Phase]
    numbers: int
    acks: tuple[bytes, bytes]

    @property
    def reconnects(self) -> int:
        return max(0, self.handshakes - self.options.connections)

    @property
    def gap_began_s(self) -> float:
        return (self.gap.began_ns - self.began_ns) / 1e9

    @property
    def rate(self) -> float:
        """Requests a second that were answered with status OK."""
        return self.acknowledged_in_time / self.options.seconds

    @property
    def goodput(self) -> float:
        """Requests a second that were placed within goodput_ms of the moment at which they were due."""
        return float(self.counts["good"]) / self.options.seconds

    @property
    def placed(self) -> int:
        """Of the warm-up too: what the log must have."""
        return int(self.counts["placed"] + self.warmup["placed"])

    @property
    def uncertain(self) -> int:
        """Requests that may have been carried out though nobody was told."""
        names = ("reset", "timed_out", "lost", "unanswered", "refused", "malformed")
        return sum(int(counts[name]) for counts in (self.counts, self.warmup) for name in names)

    @property
    def holds(self) -> bool:
        """Every request that was answered got what it must get, or was refused for load."""
        both = (self.counts, self.warmup)
        return not any(
            counts["wrong"] or counts["malformed"] or counts["statuses"].keys() - {0, *SHED} for counts in both
        )

    def percentile_ns(self, percentile: float) -> int:
        return percentile_of(self.steps, self.max_ns, percentile)

    def as_dict(self) -> dict[str, Any]:
        return {
            "target": self.options.target,
            "method": self.options.method,
            "connections": self.options.connections,
            "streams": self.options.streams,
            "rate_offered": self.options.rate,
            "seconds": self.options.seconds,
            "rate": self.rate,
            "goodput": self.goodput,
            "handshakes": self.handshakes,
            "reconnects": self.reconnects,
            "gap_us": self.gap.longest_ns / 1000,
            "gap_began_s": self.gap_began_s,
            "latency_us": {
                **{f"p{percentile:g}": self.percentile_ns(percentile) / 1000 for percentile in PERCENTILES},
                "max": self.max_ns / 1000,
            },
            "counts": self.counts,
            "warmup": self.warmup,
        }


def percentile_of(steps: list[tuple[int, int]], max_ns: int, percentile: float) -> int:
    """Not above the greatest that was seen; 0 when nothing was."""
    ends = list(accumulate(count for _, count in steps))
    if not ends:
        return 0
    rank = max(1, -int(-ends[-1] * percentile // 100))
    return min(max_ns, steps[bisect(ends, rank - 1)][0])


def run(options: Options, progress: Callable[[float, int], None] | None = None) -> Result:
    """One load, from the connections to the last answer; the catalogue must be there. `progress` is told about every
    100 ms how many seconds it has been running and how many answers with status OK came while it counted."""
    return Load(options).run(progress)


class Load:
    """A load that is connected and about to run. `mark`, `stop` and `acknowledged` may be used from other threads."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._generator = make_generator(options)
        self._names = [""]
        self._stop = threading.Event()
        connect(self._generator, options)

    @property
    def acknowledged(self) -> int:
        """Answers with status OK so far that came while it counts."""
        return self._generator.acknowledged_in_time

    def mark(self, name: str) -> None:
        """A phase of this name begins."""
        self._generator.mark()
        self._names.append(name)

    def stop(self) -> None:
        """No further request becomes due; what was sent is still answered."""
        self._stop.set()

    def run(self, progress: Callable[[float, int], None] | None = None) -> Result:
        options, generator = self._options, self._generator
        drain_s = max(DRAIN_S, 2 * options.deadline_ms / 1000)
        began_ns = time.monotonic_ns()
        generator.start(options.seconds, options.warmup_s, drain_s)
        while not generator.run(SLICE_MS):
            if self._stop.is_set():
                generator.end()
            attach(generator, options.target)
            if progress is not None:
                progress((time.monotonic_ns() - began_ns) / 1e9, generator.acknowledged_in_time)
        generator.finish()
        steps, max_ns = generator.latencies()
        return Result(
            options,
            generator.counts(True),
            generator.counts(False),
            generator.acknowledged_in_time,
            generator.handshakes,
            steps,
            max_ns,
            began_ns,
            Gap(*generator.gap),
            [self._phase(index) for index in range(len(self._names))],
            generator.numbers,
            (generator.acks(0), generator.acks(1)),
        )

    def _phase(self, index: int) -> Phase:
        began_ns, steps, max_ns, gap = self._generator.phase(index)
        return Phase(self._names[index], began_ns, steps, max_ns, Gap(*gap))


class Background:
    """A load on a thread of its own while the caller does something to the server. `before` runs on it first."""

    def __init__(self, options: Options, before: Callable[[], None] = lambda: None) -> None:
        self.load = Load(options)
        self._before = before
        self._result: Result | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="load")

    def _run(self) -> None:
        try:
            self._before()
            self._result = self.load.run()
        except BaseException as error:
            self._error = error

    def result(self) -> Result:
        """Waits for the load to end."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        assert self._result is not None
        return self._result

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.load.stop()
        self._thread.join()


def make_generator(options: Options) -> Generator:
    is_stream = options.method == "stream"
    return Generator(
        connections=options.connections,
        streams=options.streams,
        batch=options.batch if is_stream else 1,
        window=options.window if is_stream else 1,
        is_stream=is_stream,
        is_poisson=options.poisson,
        spin=options.spin,
        retry=options.retry,
        keep_acks=options.acks,
        rate=options.rate,
        requests_max=options.requests,
        open_max=options.open_orders if options.method == "churn" else 0,
        deadline_ms=options.deadline_ms,
        goodput_ms=options.goodput_ms,
        expect=METHODS[options.method][1],
        sold_out=everopen.INSUFFICIENT_STOCK if options.units != UNITS and options.method in PLACING else 0,
        methods=methods_of(options),
        places=places_of(options),
        names=ORDERS_READ if options.method == "get-order" else 0,
        seed=random.getrandbits(63),
        tls_ca=os.fsencode(options.tls_ca),
        host=host_of(options.target).encode() + b"\0",
    )


def connect(generator: Generator, options: Options) -> None:
    """Until every connection knows its peer's settings."""
    patience_ends_s = time.monotonic() + CONNECT_S_MAX
    while generator.ready < options.connections:
        if time.monotonic() > patience_ends_s:
            raise LoadError(f"{options.target} does not answer: {generator.ready} of {options.connections} connections")
        attach(generator, options.target)
        generator.run(10)


def attach(generator: Generator, target: str) -> None:
    for index in generator.wanted():
        generator.attach(index, open_socket(target).detach())


def host_of(target: str) -> str:
    return "localhost" if target.startswith("unix:") else target.rpartition(":")[0].strip("[]")


def open_socket(target: str) -> socket.socket:
    """On its way to the target; whether it arrives shows when it is used."""
    if target.startswith("unix:"):
        opened = socket.socket(socket.AF_UNIX)
        address: Any = target.removeprefix("unix:").removeprefix("//")
        # It has no handshake, but where too many wait to be accepted it would give up at once.
        opened.settimeout(UNIX_CONNECT_S_MAX)
        error = opened.connect_ex(address)
        opened.setblocking(False)
    else:
        host, _, port = target.rpartition(":")
        family, address = resolve(host.strip("[]"), port)
        opened = socket.socket(family)
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        opened.setblocking(False)
        error = opened.connect_ex(address)
    if error not in (0, errno.EINPROGRESS, errno.ECONNREFUSED, errno.ENOENT, errno.EAGAIN):
        opened.close()
        raise LoadError(f"{target}: {os.strerror(error)}")
    return opened


@lru_cache
def resolve(host: str, port: str) -> tuple[int, Any]:
    """Kept, because a load that connects again and again should not ask again and again."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return found[0][0], found[0][4]


# The catalogue


def credentials_of(options: Options) -> dict[str, Any]:
    """As the client takes them."""
    shown = dict(options.headers)
    found: dict[str, Any] = {}
    if options.tls_ca:
        found["credentials"] = grpc.ssl_channel_credentials(Path(options.tls_ca).read_bytes())
    if "x-api-key" in shown:
        found["api_key"] = shown["x-api-key"]
    if "authorization" in shown:
        found["token"] = shown["authorization"].removeprefix("Bearer ")
    return found


def seed(options: Options) -> int:
    """Puts shops, SKUs and stock there if they are missing, and orders to read. Returns how many orders it placed."""
    if options.method not in (*PLACING, "get-order"):
        return 0
    try:
        return asyncio.run(_seed(options))
    except TimeoutError as error:
        raise LoadError(f"{options.target} does not answer") from error
    except everopen.EveropenError as error:
        raise LoadError(f"{options.target} cannot be seeded: {error}") from error


async def _seed(options: Options) -> int:
    async with everopen.AsyncClient(options.target, **credentials_of(options)) as client:
        await client.wait_for_server(CONNECT_S_MAX)
        shops = [shop_id_of(shop) for shop in range(options.shops)]
        stocks = [
            Stock(sku_of(options, shop, sku), LOCATION_ID, options.units)
            for shop in shops
            for sku in range(options.skus)
        ]
        await Seeder(client, lambda done: None).seed(
            [PutShopRequest(shop_id=shop) for shop in shops],
            [PutLocationRequest(shop_id=shop, location_id=LOCATION_ID) for shop in shops],
            stocks,
        )
        if options.method != "get-order":
            return 0
        answers = await client.place_orders(orders_to_read(options))
        return sum(not isinstance(answer, everopen.EveropenError) for answer in answers)


def sku_of(options: Options, shop_id: str, number: int) -> PutSkuRequest:
    put = PutSkuRequest(shop_id=shop_id, sku_id=sku_id_of(number), price_minor=100)
    if options.reserve_ttl_ms:
        put.reserve_ttl_ms = options.reserve_ttl_ms
    return put
