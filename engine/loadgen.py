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
import secrets
import socket
import sys
import time
from bisect import bisect
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

# gRPC's own lines on stderr would tear the progress line.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import grpc
import orjson

import everopen
from engine._load import Generator
from engine.errors import EveropenError
from engine.report import Report
from engine.seeding import Seeder, Stock
from everopen.v1.inventory_service_pb2 import PutLocationRequest, PutShopRequest, PutSkuRequest
from everopen.v1.order_service_pb2 import GetOrderRequest, PlaceOrderLine, PlaceOrderRequest

LOCATION_ID = "bench"
# Units of each SKU: more than any run orders.
UNITS = 10**11
# Orders that `get-order` reads in turn.
ORDERS_READ = 1_000
# SKUs are drawn from a sequence of this length where they are not taken in turn.
DRAWS = 1 << 16
CONNECT_S_MAX = 10.0
UNIX_CONNECT_S_MAX = 1.0
# How long answers may take once no request is due any more.
DRAIN_S = 10.0
# Between two looks at signals and at connections.
SLICE_MS = 100
SILENT_S = 2.0
PERCENTILES = (50.0, 90.0, 99.0, 99.9)

STATUS_NAMES = {code.value[0]: code.name for code in grpc.StatusCode} | {17: "NONE"}

# What a server may say under too much load: DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, UNAVAILABLE.
SHED = (4, 8, 14)

# Method of the command line: path, and what its answer must be.
METHODS = {
    "place": ("/everopen.v1.OrderService/PlaceOrder", "number"),
    "stream": ("/everopen.v1.OrderService/PlaceOrders", "results"),
    "get-order": ("/everopen.v1.OrderService/GetOrder", "message"),
    "health": ("/grpc.health.v1.Health/Check", "number"),
    "echo": ("/everopen.bench.Echo/Echo", "anything"),
}

# An order that is PLACED and a server that is SERVING have the same number.
EXPECTED = everopen.PLACED


class LoadError(EveropenError):
    """The load could not be put on."""


@dataclass(frozen=True, slots=True)
class Options:
    """What to do. rate: requests a second, 0 for a closed loop. Requests are orders, unless the method is another.

    path: instead of the method's own. spin: never sleep, for a generator with a core of its own. zipf: SKUs by their
    rank's share instead of in turn. deadline_ms: 0 for none.
    """

    target: str = "127.0.0.1:7400"
    method: str = "place"
    connections: int = 8
    streams: int = 16
    rate: int = 0
    poisson: bool = False
    seconds: float = 10.0
    warmup_s: float = 1.0
    batch: int = 1_000
    window: int = 2
    skus: int = 100
    shops: int = 1
    zipf: bool = False
    deadline_ms: int = 0
    goodput_ms: int = 100
    path: str = ""
    spin: bool = False
    run_id: str = field(default_factory=lambda: secrets.token_hex(5))


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a load. `counts` is of requests due while it counted, `warmup` of those before.

    acknowledged_in_time: answers with status OK that came in the seconds that count, whenever they were due.
    """

    options: Options
    counts: dict[str, Any]
    warmup: dict[str, Any]
    acknowledged_in_time: int
    handshakes: int
    steps: list[tuple[int, int]]
    max_ns: int

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
        """Not above the greatest that was seen; 0 when nothing was."""
        ends = list(accumulate(count for _, count in self.steps))
        if not ends:
            return 0
        rank = max(1, -int(-ends[-1] * percentile // 100))
        return min(self.max_ns, self.steps[bisect(ends, rank - 1)][0])

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
            "latency_us": {
                **{f"p{percentile:g}": self.percentile_ns(percentile) / 1000 for percentile in PERCENTILES},
                "max": self.max_ns / 1000,
            },
            "counts": self.counts,
            "warmup": self.warmup,
        }


def run(options: Options, progress: Callable[[float, int], None] | None = None) -> Result:
    """One load, from the connections to the last answer; the catalogue must be there. `progress` is told about every
    100 ms how many seconds it has been running and how many answers with status OK came while it counted."""
    generator = make_generator(options)
    connect(generator, options)
    drain_s = max(DRAIN_S, 2 * options.deadline_ms / 1000)
    generator.start(options.seconds, options.warmup_s, drain_s)
    began_s = time.monotonic()
    while not generator.run(SLICE_MS):
        attach(generator, options.target)
        if progress is not None:
            progress(time.monotonic() - began_s, generator.acknowledged_in_time)
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
    )


def make_generator(options: Options) -> Generator:
    path, expect = METHODS[options.method]
    is_stream = options.method == "stream"
    request, digits_at = template_of(options)
    # A stream outlives every request, so it has no timeout.
    headers = headers_of(options.path or path, options.target, options.deadline_ms > 0 and not is_stream)
    return Generator(
        connections=options.connections,
        streams=options.streams,
        batch=options.batch if is_stream else 1,
        window=options.window if is_stream else 1,
        is_stream=is_stream,
        is_poisson=options.poisson,
        spin=options.spin,
        rate=options.rate,
        deadline_ms=options.deadline_ms,
        goodput_ms=options.goodput_ms,
        expect=expect,
        expected=EXPECTED,
        headers_first=headers[0],
        headers_next=headers[1],
        headers_plain=headers[2],
        request=request,
        digits_at=digits_at,
        places=places_of(options),
        names=ORDERS_READ if options.method == "get-order" else 0,
        seed=random.getrandbits(63),
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
        found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
        opened = socket.socket(found[0][0])
        address = found[0][4]
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        opened.setblocking(False)
        error = opened.connect_ex(address)
    if error not in (0, errno.EINPROGRESS, errno.ECONNREFUSED, errno.ENOENT, errno.EAGAIN):
        opened.close()
        raise LoadError(f"{target}: {os.strerror(error)}")
    return opened


# What is sent


def shop_id_of(number: int) -> str:
    return f"shop-{number:04}"


def sku_id_of(number: int) -> str:
    return f"sku-{number:06}"


def order_of(options: Options) -> PlaceOrderRequest:
    """The order with number 0. Others differ in their digits."""
    return PlaceOrderRequest(
        order_id=f"{options.run_id}-{0:012x}",
        shop_id=shop_id_of(0),
        buyer_id=f"b-{0:04x}",
        lines=[PlaceOrderLine(sku_id=sku_id_of(0), quantity=1)],
    )


def template_of(options: Options) -> tuple[bytes, dict[str, int]]:
    """A request, and where the digits stand that make it one of its own."""
    order = order_of(options)
    if options.method in ("place", "stream"):
        request = order.SerializeToString()
    elif options.method == "get-order":
        request = GetOrderRequest(shop_id=order.shop_id, order_id=order.order_id).SerializeToString()
    else:
        return b"", {}
    digits_at = {"order": request.index(order.order_id.encode()) + len(order.order_id) - 12}
    digits_at["shop"] = request.index(order.shop_id.encode()) + len(order.shop_id) - 4
    if options.method != "get-order":
        digits_at["buyer"] = request.index(order.buyer_id.encode()) + len(order.buyer_id) - 4
        digits_at["sku"] = request.index(order.lines[0].sku_id.encode()) + len(order.lines[0].sku_id) - 6
    return request, digits_at


def places_of(options: Options) -> bytes:
    """Ten digits for each order, over and over: of its shop and of its SKU."""
    if options.zipf:
        shares = [1 / rank for rank in range(1, options.skus + 1)]
        skus = random.choices(range(options.skus), shares, k=DRAWS)  # noqa: S311
    else:
        skus = [sku for sku in range(options.skus) for _ in range(options.shops)]
    return b"".join(b"%04d%06d" % (number % options.shops, sku) for number, sku in enumerate(skus))


def headers_of(path: str, target: str, has_timeout: bool) -> tuple[bytes, bytes, bytes]:
    """Header blocks (HPACK, RFC 7541) of a connection's first request, of those after it, and for a peer that keeps no
    table. A timeout is the last field; its nine bytes of value end the block and are filled in per request."""
    authority = "localhost" if target.startswith("unix:") else target
    # The first two stand in the static table with their values, as do the names of those with an index.
    known = bytes([0x80 | 3, 0x80 | 6])
    fields: list[tuple[str | int, str]] = [
        (4, path),
        (1, authority),
        ("te", "trailers"),
        (31, "application/grpc"),
        (58, "everopen-bench"),
    ]
    if has_timeout:
        fields.append(("grpc-timeout", "0" * 8 + "u"))
    # The newest entry of the table has index 62.
    newest = 61 + len(fields)
    indexed = [bytes([0x80 | newest - place]) for place in range(len(fields))]
    if has_timeout:
        indexed[-1] = literal(0, 4, 62, fields[-1][1])
    first = known + b"".join(literal(0x40, 6, name, value) for name, value in fields)
    plain = known + b"".join(literal(0, 4, name, value) for name, value in fields)
    return first, known + b"".join(indexed), plain


def literal(kind: int, bits: int, name: str | int, value: str) -> bytes:
    """A field with a value of its own; `kind` says whether the peer's table takes it, in the bits above `bits`."""
    if isinstance(name, str):
        return bytes([kind]) + text(name) + text(value)
    most = (1 << bits) - 1
    head = bytes([kind | name]) if name < most else bytes([kind | most]) + number(name - most)
    return head + text(value)


def text(value: str) -> bytes:
    size = len(value)
    return (bytes([size]) if size < 127 else b"\x7f" + number(size - 127)) + value.encode()


def number(value: int) -> bytes:
    parts = []
    while value >= 128:
        parts.append(0x80 | value & 0x7F)
        value >>= 7
    return bytes([*parts, value])


# The catalogue


def seed(options: Options) -> int:
    """Puts shops, SKUs and stock there if they are missing, and orders to read. Returns how many orders it placed."""
    if options.method not in ("place", "stream", "get-order"):
        return 0
    try:
        return asyncio.run(_seed(options))
    except TimeoutError as error:
        raise LoadError(f"{options.target} does not answer") from error
    except everopen.EveropenError as error:
        raise LoadError(f"{options.target} cannot be seeded: {error}") from error


async def _seed(options: Options) -> int:
    async with everopen.AsyncClient(options.target) as client:
        await client.wait_for_server(CONNECT_S_MAX)
        shops = [shop_id_of(shop) for shop in range(options.shops)]
        stocks = [
            Stock(PutSkuRequest(shop_id=shop, sku_id=sku_id_of(sku), price_minor=100), LOCATION_ID, UNITS)
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


def orders_to_read(options: Options) -> list[PlaceOrderRequest]:
    places = places_of(options)
    orders = []
    for number_ in range(ORDERS_READ):
        place = places[number_ * 10 % len(places) :][:10].decode()
        order = order_of(options)
        order.order_id = f"{options.run_id}-{number_:012x}"
        order.shop_id = shop_id_of(int(place[:4]))
        order.lines[0].sku_id = sku_id_of(int(place[4:]))
        orders.append(order)
    return orders


# The command


def bench(options: Options, as_json: bool) -> bool:
    """Seeds, runs, prints. False if any request that was answered had a wrong status or outcome."""
    from rich.console import Console

    seed(options)
    errors = Console(stderr=True)

    def show(elapsed_s: float, acknowledged: int) -> None:
        if elapsed_s > SILENT_S and errors.is_terminal:
            counted_s = max(elapsed_s - options.warmup_s, 0.001)
            line = f"\r{elapsed_s:5.1f} s, {acknowledged:,} acknowledged, {acknowledged / counted_s:,.0f} a second "
            print(line, end="", file=sys.stderr, flush=True)

    try:
        result = run(options, show)
    finally:
        if errors.is_terminal:
            # Wipes the line of the progress.
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
    if as_json:
        print(orjson.dumps(result.as_dict(), option=orjson.OPT_NON_STR_KEYS).decode())
    else:
        report(result).print(Console())
    return result.holds


def report(result: Result) -> Report:
    options, counts = result.options, result.counts
    loop = f"{options.rate:,} a second" if options.rate else "closed loop"
    table = Report()
    table.section(
        f"{options.method} to {options.target}: {loop}, {options.connections} connections x {options.streams} streams, "
        f"{options.seconds:g} s"
    )
    table.add("rate", f"{result.rate:,.0f}", "acknowledged a second")
    table.add("goodput", f"{result.goodput:,.0f}", f"as expected within {options.goodput_ms} ms of when due, a second")
    for percentile in PERCENTILES:
        table.add(f"p{percentile:g}", f"{result.percentile_ns(percentile) / 1e6:,.3f}", "ms from when due")
    table.add("max", f"{result.max_ns / 1e6:,.3f}", "ms")
    table.section("requests")
    remarks = {
        "offered": "due in the seconds that count",
        "sent": "",
        "acknowledged": "answered with status OK",
        "placed": "of these, with the expected outcome",
    }
    for name, remark in remarks.items():
        table.add(name, counts[name], remark)
    troubles = {
        "wrong": "status OK, another outcome",
        "refused": "answered with another status",
        "malformed": "answered with nonsense, or without a status",
        "expired": f"not sent within {options.deadline_ms} ms",
        "timed_out": f"sent, without an answer within {options.deadline_ms} ms",
        "reset": "the stream was reset",
        "lost": "the connection was lost",
        "unsent": "not sent before time was up",
        "unanswered": "without an answer when time was up",
        "retried": "given back by a GOAWAY and sent again",
    }
    for name, remark in troubles.items():
        if counts[name]:
            table.add(
                name.replace("_", " "),
                counts[name],
                remark,
                style="red" if name in ("wrong", "malformed") else "yellow",
            )
    for code, amount in counts["statuses"].items():
        if code != 0:
            table.add(f"status {STATUS_NAMES[code]}", amount)
    for code, amount in counts["resets"].items():
        table.add(f"reset {code}", amount, "HTTP/2 error code")
    return table
