"""What the load generator sends: templates, and where the digits go that make a request one of its own."""

from __future__ import annotations

import random
import secrets
from dataclasses import dataclass, field
from typing import Any, Final

from google.protobuf.message import Message

import everopen
from everopen.v1.order_service_pb2 import CancelOrderRequest, GetOrderRequest, PlaceOrderLine, PlaceOrderRequest

# Units of each SKU unless told otherwise: more than any run orders.
UNITS: Final = 10**11
# Orders that `get-order` reads in turn.
ORDERS_READ: Final = 1_000
# SKUs are drawn from a sequence of this length where they are not taken in turn.
DRAWS: Final = 1 << 16

# Method of the command line: path, and what its answer must be.
METHODS: Final = {
    "place": ("/everopen.v1.OrderService/PlaceOrder", "number"),
    "churn": ("/everopen.v1.OrderService/PlaceOrder", "number"),
    "stream": ("/everopen.v1.OrderService/PlaceOrders", "results"),
    "get-order": ("/everopen.v1.OrderService/GetOrder", "message"),
    "health": ("/grpc.health.v1.Health/Check", "number"),
    "echo": ("/everopen.bench.Echo/Echo", "anything"),
}
CANCEL: Final = "/everopen.v1.OrderService/CancelOrder"

# Those whose requests are orders.
PLACING: Final = ("place", "churn", "stream")

# An order that is PLACED and a server that is SERVING have the same number.
EXPECTED: Final = everopen.PLACED


@dataclass(frozen=True, slots=True)
class Options:
    """What to do. rate: requests a second, 0 for a closed loop. Requests are orders, unless the method is another.

    path: instead of the method's own. spin: never sleep, for a generator with a core of its own. zipf: SKUs by their
    rank's share instead of in turn. deadline_ms: 0 for none. requests: end after so many, 0 for never, rounded up to
    whole batches. retry: what the server did not answer, or could not now, is sent again with the same id. acks: keep
    which orders were acknowledged. open_orders: of `churn`, which cancels the oldest once there are so many. units: of
    each SKU; if not the default, orders may find too few. reserve_ttl_ms: of each SKU, 0 for the engine's default.
    tls_ca: a file with the CA's certificates, empty for plaintext. headers: sent with each request, as a token is.
    """

    target: str = "127.0.0.1:7400"
    method: str = "place"
    connections: int = 8
    streams: int = 16
    rate: int = 0
    poisson: bool = False
    seconds: float = 10.0
    requests: int = 0
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
    retry: bool = False
    acks: bool = False
    open_orders: int = 100_000
    units: int = UNITS
    reserve_ttl_ms: int = 0
    tls_ca: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    run_id: str = field(default_factory=lambda: secrets.token_hex(5))


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


def methods_of(options: Options) -> list[dict[str, Any]]:
    """What is sent, and what cancels it, as the generator takes them."""
    path, _ = METHODS[options.method]
    order = order_of(options)
    if options.method == "get-order":
        return [method_of(options, path, GetOrderRequest(shop_id=order.shop_id, order_id=order.order_id), EXPECTED)]
    if options.method not in PLACING:
        return [method_of(options, options.path or path, None, EXPECTED)]
    sent = [method_of(options, path, order, EXPECTED)]
    if options.method == "churn":
        cancel = CancelOrderRequest(shop_id=order.shop_id, order_id=order.order_id, command_id="cancel")
        sent.append(method_of(options, CANCEL, cancel, everopen.APPLIED))
    return sent


def method_of(options: Options, path: str, request: Message | None, expected: int) -> dict[str, Any]:
    """Headers, a template, where the digits stand in it that make a request one of its own, and the answer's number."""
    # A stream outlives every request, so it has no timeout.
    has_timeout = options.deadline_ms > 0 and options.method != "stream"
    first, following, plain = headers_of(path, options.target, has_timeout, options.method != "churn", options.headers)
    return {
        "headers_first": first,
        "headers_next": following,
        "headers_plain": plain,
        "request": b"" if request is None else request.SerializeToString(),
        "digits_at": {} if request is None else digits_of(order_of(options), request),
        "expected": expected,
    }


def digits_of(order: PlaceOrderRequest, request: Message) -> dict[str, int]:
    """Offsets in a request that names the order. An order's id is random, and may hold what looks like a buyer's: it
    stands first, so each is looked for from behind."""
    ids = {"order": (order.order_id, 12), "shop": (order.shop_id, 4)}
    if isinstance(request, PlaceOrderRequest):
        ids |= {"buyer": (order.buyer_id, 4), "sku": (order.lines[0].sku_id, 6)}
    body = request.SerializeToString()
    return {name: body.rindex(id_.encode()) + len(id_) - digits for name, (id_, digits) in ids.items()}


def places_of(options: Options) -> bytes:
    """Ten digits for each order, over and over: of its shop and of its SKU."""
    if options.zipf:
        shares = [1 / rank for rank in range(1, options.skus + 1)]
        skus = random.choices(range(options.skus), shares, k=DRAWS)  # noqa: S311
    else:
        skus = [sku for sku in range(options.skus) for _ in range(options.shops)]
    return b"".join(b"%04d%06d" % (number % options.shops, sku) for number, sku in enumerate(skus))


def headers_of(
    path: str, target: str, has_timeout: bool, only_path: bool, more: tuple[tuple[str, str], ...] = ()
) -> tuple[bytes, bytes, bytes]:
    """Header blocks (HPACK, RFC 7541) of a connection's first request, of those after it, and for a peer that keeps no
    table. A timeout is the last field; its nine bytes of value end the block and are filled in per request. Where
    other paths are sent on the same connection, the path is left out of the table, which is one for all."""
    authority = "localhost" if target.startswith("unix:") else target
    # The first two stand in the static table with their values, as do the names of those with an index.
    known = bytes([0x80 | 3, 0x80 | 6])
    if not only_path:
        known += literal(0, 4, 4, path)
    fields: list[tuple[str | int, str]] = [
        *([(4, path)] if only_path else []),
        (1, authority),
        ("te", "trailers"),
        (31, "application/grpc"),
        (58, "everopen-bench"),
        *more,
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
