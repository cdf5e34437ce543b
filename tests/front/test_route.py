"""Requests to shards, batches cut and put together again, against google.protobuf; see engine/_route.pxi."""

import random
from collections import Counter
from typing import Any

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status
from hypothesis import given
from hypothesis import strategies as st

from engine._core import LIMITS, Shard, partition_of
from everopen.v1.inventory_service_pb2 import BatchAdjustStockRequest, BatchGetStockRequest, BatchPutSkusRequest
from everopen.v1.order_service_pb2 import PlaceOrdersRequest, PlaceOrdersResponse
from tests.probes import route_probe, wire_probe
from tests.wire import generate
from tests.wire.requests import CLASSES, KINDS

pytestmark = pytest.mark.native
ROUTED = sorted(set(KINDS) - {"Activate"})
BATCHES: dict[str, Any] = {
    "PlaceOrder": PlaceOrdersRequest,
    "AdjustStock": BatchAdjustStockRequest,
    "PutSku": BatchPutSkusRequest,
    "GetStock": BatchGetStockRequest,
}


def parsed(kind: str, data: bytes) -> Any:
    """The message, None where google.protobuf refuses the bytes."""
    message = CLASSES[kind]()
    try:
        message.ParseFromString(data)
    except DecodeError:
        return None
    return message


def check(kind: str, data: bytes) -> str:
    shop = route_probe.shop_of(KINDS[kind], data)
    message = parsed(kind, data)
    if message is None:
        # Items are not looked into, so what is malformed inside them, or no UTF-8, is left to the decoder.
        return "malformed"
    assert shop == (message.shop_id.encode() or None)
    try:
        decoded = wire_probe.decode(KINDS[kind], data)
    except wire_probe.Refused:
        return "refused"
    assert decoded["shop_id"].encode() == shop
    return "passed"


@pytest.mark.parametrize("kind", ROUTED)
@given(rng=st.randoms(use_true_random=False))
def test_shop_of_any_request_is_the_one_that_protobuf_reads(kind: str, rng: random.Random) -> None:
    check(kind, generate.request(rng, kind).SerializeToString())


def test_shop_of_mutated_requests_is_the_one_that_protobuf_reads() -> None:
    rng = random.Random(7)
    counts: Counter[str] = Counter()
    for _ in range(12_000):
        kind = rng.choice(ROUTED)
        data = generate.hostile(rng, generate.request(rng, kind).SerializeToString())
        try:
            counts[check(kind, data)] += 1
        except AssertionError as error:
            raise AssertionError(f"{kind} {data!r}") from error
    assert min(counts[what] for what in ("malformed", "refused", "passed")) > 500, counts


@pytest.mark.parametrize("kind", ROUTED)
def test_shop_named_twice_is_the_last_one(kind: str) -> None:
    first, last = CLASSES[kind](shop_id="first"), CLASSES[kind](shop_id="last")
    data = first.SerializeToString() + b"\xa2\x06\x01x" + last.SerializeToString()
    assert route_probe.shop_of(KINDS[kind], data) == b"last"


@pytest.mark.parametrize("kind", ROUTED)
@pytest.mark.parametrize("tail", [b"\x00", b"\x0a\x05ab", b"\x7b", b"\x7c", b"\x7e\x00", b"\x80", b"\x79\x00"])
def test_request_malformed_behind_its_shop_has_none(kind: str, tail: bytes) -> None:
    data = CLASSES[kind](shop_id="shop").SerializeToString()
    assert route_probe.shop_of(KINDS[kind], data) == b"shop"
    assert route_probe.shop_of(KINDS[kind], data + tail) is None


@pytest.mark.parametrize("kind", ROUTED)
def test_request_without_a_shop_has_none(kind: str) -> None:
    assert route_probe.shop_of(KINDS[kind], b"") is None
    assert route_probe.shop_of(KINDS[kind], CLASSES[kind](shop_id="shop").SerializeToString()[:-6]) is None


@given(shop=st.text(min_size=1, max_size=70))
def test_partition_of_a_shop_is_that_of_the_core(shop: str) -> None:
    assert route_probe.partition_of_bytes(shop.encode()) == partition_of(shop)


@pytest.mark.parametrize("shards", [1, 2, 3, 5, 8, 63, 64])
def test_shards_have_ranges_side_by_side_of_nearly_one_size(shards: int) -> None:
    owners = [route_probe.shard_of(partition, shards) for partition in range(LIMITS["PARTITIONS"])]
    assert owners == sorted(owners)
    sizes = Counter(owners)
    assert sorted(sizes) == list(range(shards))
    assert max(sizes.values()) - min(sizes.values()) <= 1


def make_batch(rng: random.Random, kind: str) -> tuple[bytes, list[bytes]]:
    """A batch as odd as a client may write it, and its items."""
    items = []
    for _ in range(rng.choice([0, 1, 2, 7, 30])):
        item = generate.request(rng, kind)
        item.shop_id = f"shop-{rng.randrange(12)}"
        items.append(item.SerializeToString())
        if rng.random() < 0.1:
            items[-1] = generate.hostile(rng, items[-1])
    data = b""
    for item in items:
        data += b"\x0a" + generate.varint(len(item), rng.choice([0, 0, 1])) + item
        if rng.random() < 0.1:
            data += rng.choice([b"\x12\x02xy", b"\x08\x01", b"\x7b\x0a\x01a\x7c"])
    return data, items


def shard_expected(kind: str, item: bytes, shards: int) -> int:
    shop = route_probe.shop_of(KINDS[kind], item)
    return 0 if shop is None else route_probe.partition_of_bytes(shop) * shards // LIMITS["PARTITIONS"]


def fields(data: bytes) -> list[bytes]:
    """The bodies of the fields 1 of a message that has nothing else."""
    read = generate.split(data)
    assert all(number == 1 and isinstance(value, bytes) for number, _, value in read)
    return [value for _, _, value in read if isinstance(value, bytes)]


@pytest.mark.parametrize("kind", BATCHES)
@pytest.mark.parametrize("shards", range(1, 9))
def test_batch_cut_by_shard_and_merged_is_in_its_order_again(kind: str, shards: int) -> None:
    rng = random.Random(shards)
    for _ in range(30):
        data, items = make_batch(rng, kind)
        owners = route_probe.route(KINDS[kind], data, shards)
        assert owners == [shard_expected(kind, item, shards) for item in items]
        parts = [route_probe.split(data, bytes(owners), shard, b"before") for shard in range(shards)]
        for shard, part in enumerate(parts):
            assert part[:6] == b"before"
            assert fields(part[6:]) == [item for item, owner in zip(items, owners, strict=True) if owner == shard]
        whole, merged = route_probe.merge(bytes(owners), [part[6:] for part in parts], b"\0\0\0\0\0")
        assert whole
        assert merged[:5] == b"\0\0\0\0\0"
        assert fields(merged[5:]) == items


@pytest.mark.parametrize("shards", [2, 3])
def test_batch_executed_by_several_shards_answers_item_by_item_as_one(shards: int) -> None:
    rng = random.Random(3)
    orders = [generate.request(rng, "PlaceOrder") for _ in range(100)]
    data = PlaceOrdersRequest(orders=orders).SerializeToString()
    method = KINDS["PlaceOrder"]
    owners = route_probe.route(method, data, shards)
    assert len(set(owners)) == shards
    answers = []
    for shard in range(shards):
        code, answer, _ = Shard().execute_batch(method, route_probe.split(data, bytes(owners), shard), 1_000)
        assert code == 0
        answers.append(answer)
    whole, merged = route_probe.merge(bytes(owners), answers)
    _, alone, _ = Shard().execute_batch(method, data, 1_000)
    assert whole
    assert PlaceOrdersResponse.FromString(merged) == PlaceOrdersResponse.FromString(alone)
    assert len(PlaceOrdersResponse.FromString(merged).results) == 100


@pytest.mark.parametrize("kind", BATCHES)
def test_batch_is_refused_exactly_when_the_core_refuses_it(kind: str) -> None:
    rng = random.Random(9)
    shard = Shard()
    refused = 0
    for _ in range(400):
        data = generate.damage(rng, make_batch(rng, kind)[0])
        code, _, _ = shard.execute_batch(KINDS[kind], data, 1_000)
        owners = route_probe.route(KINDS[kind], data, 4)
        assert isinstance(owners, str) == (code != 0)
        refused += code != 0
    assert 0 < refused < 400


def test_batch_of_too_many_items_is_refused_by_the_name_of_its_field() -> None:
    limit = LIMITS["BATCH_ITEMS_MAX"]
    assert route_probe.route(KINDS["PlaceOrder"], b"\x0a\x00" * limit, 2) == [0] * limit
    assert route_probe.route(KINDS["PlaceOrder"], b"\x0a\x00" * (limit + 1), 2) == "orders"
    assert route_probe.route(KINDS["PutSku"], b"\x0a\x00" * (limit + 1), 2) == "requests"


@pytest.mark.parametrize(
    ("what", "answers"),
    [
        ("too few", [b"\x0a\x01a", b""]),
        ("too many", [b"\x0a\x01a\x0a\x01b", b"\x0a\x01b\x0a\x01c"]),
        ("from a shard that was not asked", [b"\x0a\x01a\x0a\x01b", b"\x0a\x01c", b"\x0a\x01d"]),
        ("cut off", [b"\x0a\x01a\x0a\x05b", b"\x0a\x01c"]),
        ("cut off behind the last", [b"\x0a\x01a\x0a\x01b\x0a", b"\x0a\x01c"]),
    ],
)
def test_answers_that_do_not_fit_the_items_are_refused_and_leave_nothing(what: str, answers: list[bytes]) -> None:
    owners = bytes([0, 1, 0])
    answers = answers + [b""] * (3 - len(answers))
    assert route_probe.merge(owners, [b"\x0a\x01a\x0a\x01c", b"\x0a\x01b", b""]) == (
        True,
        b"\x0a\x01a\x0a\x01b\x0a\x01c",
    )
    assert route_probe.merge(owners, answers, b"kept") == (False, b"kept"), what


@given(code=st.integers(1, 16), message=st.text(), padded=st.booleans())
def test_head_of_a_status_is_its_code_and_message(code: int, message: str, padded: bool) -> None:
    detail = AnyMessage()
    detail.Pack(ErrorInfo(reason="R", domain="everopen.v1"))
    data = Status(code=code, message=message, details=[detail, detail]).SerializeToString()
    if padded:
        data = Status(code=99, message="earlier").SerializeToString() + data + b"\x7b\x7c"
        message = message or "earlier"
    assert route_probe.head_of_status(data) == (code, message)


@pytest.mark.parametrize(
    "data", [b"", b"\x12\x01m", b"\x08\x00", b"\x08", b"\x08\x03\x12\x05m", b"\x08\x03\x12\x01\xff"]
)
def test_status_that_is_none_has_no_head(data: bytes) -> None:
    assert route_probe.head_of_status(data) is None
