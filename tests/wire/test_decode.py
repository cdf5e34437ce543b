"""Decoders against google.protobuf: what parses, which fields, canonical bytes, content hash."""

import random
from typing import Any

import pytest
import xxhash
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message
from hypothesis import given
from hypothesis import strategies as st

from tests.probes import wire_probe
from tests.wire import generate
from tests.wire.requests import CLASSES, EXPECTED, KINDS, canonical_bytes, first_broken

pytestmark = pytest.mark.native

MUTATIONS = 200_000


def parsed(kind: str, data: bytes) -> Message | None:
    try:
        message: Message = CLASSES[kind].FromString(data)
    except DecodeError:
        return None
    return message


def without_field_15(message: Any) -> bytes:
    content = type(message)()
    content.CopyFrom(message)
    for field in message.DESCRIPTOR.fields:
        if field.number == 15:
            content.ClearField(field.name)
    return canonical_bytes(content)


def decoded(kind: str, data: bytes) -> tuple[dict[str, Any] | None, Any]:
    try:
        return wire_probe.decode(KINDS[kind], data), None
    except wire_probe.Refused as refused:
        return None, refused


def check(kind: str, data: bytes) -> str:
    """Holds a decoder to google.protobuf and to the bounds; gives what became of the request."""
    message = parsed(kind, data)
    broken = None if message is None else first_broken(kind, message)
    got, refused = decoded(kind, data)
    if message is None:
        assert refused is not None
        assert (refused.reason, refused.path) == ("MALFORMED_MESSAGE", "")
        return "malformed"
    if refused is not None:
        assert (refused.reason, refused.path) == ("INVALID_FIELD", broken)
        return "refused"
    assert got is not None
    assert broken is None
    expected = EXPECTED[kind](message)
    assert {name: got[name] for name in expected} == expected
    if "hash" in got:
        canonical = canonical_bytes(message)
        assert got["canonical"] == canonical
        assert got["content"] == without_field_15(message)
        assert got["hash"] == xxhash.xxh3_128_intdigest(got["content"])
        assert got["in_place"] == (canonical == data)
    return "passed"


TYPE_NAMES = {
    FieldDescriptor.TYPE_UINT32: "uint32",
    FieldDescriptor.TYPE_UINT64: "uint64",
    FieldDescriptor.TYPE_INT64: "int64",
    FieldDescriptor.TYPE_ENUM: "enum",
    FieldDescriptor.TYPE_BOOL: "bool",
    FieldDescriptor.TYPE_STRING: "string",
}


def table_of(descriptor: Any) -> dict[int, tuple[str, bool]]:
    table = {}
    for field in descriptor.fields:
        name = TYPE_NAMES.get(field.type, "item")
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            name = "entry"
        table[field.number] = (name, field.has_presence and not field.is_repeated)
    return table


@pytest.mark.parametrize("kind", KINDS)
def test_shape_of_every_request_is_that_of_its_descriptor(kind: str) -> None:
    fields, items, _, items_name = wire_probe.shape(KINDS[kind])
    descriptor = CLASSES[kind].DESCRIPTOR
    assert fields == table_of(descriptor)
    repeated = [field for field in descriptor.fields if fields[field.number][0] == "item"]
    assert items_name == (repeated[0].name if repeated else None)
    assert items == (table_of(repeated[0].message_type) if repeated else None)


@pytest.mark.parametrize("kind", KINDS)
@given(rng=st.randoms(use_true_random=False))
def test_request_of_any_fields_decodes_as_protobuf_does(kind: str, rng: random.Random) -> None:
    check(kind, generate.request(rng, kind).SerializeToString(deterministic=True))


@given(rng=st.randoms(use_true_random=False), kind=st.sampled_from(sorted(KINDS)))
def test_request_of_hostile_bytes_is_read_as_protobuf_reads_it(kind: str, rng: random.Random) -> None:
    check(kind, generate.hostile(rng, generate.request(rng, kind).SerializeToString()))


@given(data=st.binary(max_size=40), kind=st.sampled_from(sorted(KINDS)))
def test_request_of_random_bytes_is_read_as_protobuf_reads_it(kind: str, data: bytes) -> None:
    check(kind, data)


def test_mutated_requests_of_a_fixed_seed_are_read_as_protobuf_reads_them() -> None:
    rng = random.Random(20261122)
    counts = dict.fromkeys(("malformed", "refused", "passed"), 0)
    for _ in range(MUTATIONS // 20):
        kind = rng.choice([*KINDS, "PlaceOrder", "PlaceOrder"])
        sample = generate.request(rng, kind).SerializeToString(deterministic=True)
        for _ in range(20):
            data = generate.hostile(rng, sample)
            try:
                counts[check(kind, data)] += 1
            except AssertionError as error:
                raise AssertionError(f"{kind} {data!r}") from error
    assert min(counts.values()) > MUTATIONS // 10, counts


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_requests_in_memory_of_their_size_are_never_read_beyond_it(kind: str) -> None:
    rng = random.Random(5)
    for seed in range(20):
        sample = generate.fill(rng, CLASSES[kind](), 0, 0).SerializeToString()
        assert wire_probe.storm(KINDS[kind], sample, seed * 7919 + 1, 500) > 0


PAY = b"\x0a\x01s\x12\x01o\x1a\x01p"


@pytest.mark.parametrize(
    ("what", "tail", "parses"),
    [
        ("group", b"\x7b\x7c", True),
        ("group in a group", b"\x7b\x0b\x0c\x7c", True),
        ("field 0 in a group", b"\x7b\x00\x00\x7c", True),
        ("field 0", b"\x00\x00", False),
        ("group that ends with another number", b"\x7b\x74", False),
        ("group that does not end", b"\x7b", False),
        ("end without a group", b"\x7c", False),
        ("100 groups", b"\x7b" * 100 + b"\x7c" * 100, True),
        ("101 groups", b"\x7b" * 101 + b"\x7c" * 101, False),
        ("wire type 6", b"\x7e\x00", False),
        ("tag of five bytes", b"\xa0\x80\x80\x80\x00\x01", True),
        ("tag of six bytes", b"\xa0\x80\x80\x80\x80\x00\x01", False),
        ("greatest field number", b"\xf8\xff\xff\xff\x0f\x01", True),
        ("field number beyond 29 bits", b"\xf8\xff\xff\xff\x1f\x01", False),
        ("size of five bytes", b"\x7a\x81\x80\x80\x80\x00A", True),
        ("size of six bytes", b"\x7a\x81\x80\x80\x80\x80\x00A", False),
        ("size beyond the end", b"\x7a\x02A", False),
        ("varint of ten bytes with lost bits", b"\x20" + b"\xff" * 9 + b"\x7e", None),
        ("varint of eleven bytes", b"\x20" + b"\x80" * 10 + b"\x00", False),
        ("varint cut off", b"\x20\x80", False),
        ("fixed64 cut off", b"\x79" + bytes(7), False),
        ("surrogate", b"\x1a\x03\xed\xa0\x80\x1a\x01p", False),
        ("overlong character", b"\x1a\x02\xc0\x80\x1a\x01p", False),
        ("character beyond U+10FFFF", b"\x1a\x04\xf4\x90\x80\x80\x1a\x01p", False),
        ("no UTF-8 in an unknown field", b"\x7a\x01\xff", True),
        ("id with a wrong wire type", b"\x18\x05", True),
    ],
)
def test_syntax_at_its_edge_is_taken_as_protobuf_takes_it(what: str, tail: bytes, parses: bool | None) -> None:
    result = check("PayOrder", PAY + tail)
    assert parses is None or (result == "passed") == parses


def test_groups_in_an_item_nest_one_less_deep() -> None:
    for depth, parses in ((99, True), (100, False)):
        body = b"\x10\x01" + b"\x7b" * depth + b"\x7c" * depth
        assert (check("CancelOrder", PAY + b"\x22" + generate.varint(len(body)) + body) == "passed") == parses


def test_attributes_given_twice_keep_the_last_value_and_are_sorted() -> None:
    order = b"\x0a\x01o\x12\x01s\x1a\x01b\x22\x05\x0a\x01k\x10\x01"
    entries = [
        b"\x12\x01z",
        b"\x0a\x01b\x12\x01x",
        b"\x0a\x02ab\x12\x01x",
        b"\x0a\x01b\x12\x01y",
        b"",
        b"\x0a\x01a\x60\x01",
    ]
    data = order + b"".join(b"\x52" + bytes([len(entry)]) + entry for entry in entries)
    assert check("PlaceOrder", data) == "passed"


@pytest.mark.parametrize("kind", ["PlaceOrder", "PutSku"])
def test_batch_gives_its_items_and_skips_what_it_does_not_know(kind: str) -> None:
    data = b"\x0a\x01a\x10\x07\x0a\x00\x1b\x1c\x8a\x80\x00\x02bc"
    assert wire_probe.batch(KINDS[kind], data) == [b"a", b"", b"bc"]
    assert wire_probe.batch(KINDS[kind], b"") == []


def test_batch_of_too_many_items_is_refused_by_its_field() -> None:
    assert len(wire_probe.batch(KINDS["GetStock"], b"\x0a\x00" * 1024)) == 1024
    for kind, path in (("PlaceOrder", "orders"), ("GetStock", "requests")):
        with pytest.raises(wire_probe.Refused) as caught:
            wire_probe.batch(KINDS[kind], b"\x0a\x00" * 1025)
        assert caught.value.path == path


@pytest.mark.parametrize("data", [b"\x0a\x05a", b"\x0a\x00\x0c", b"\x0a\x00\x80", b"\x00\x00"])
def test_batch_that_is_malformed_is_refused_as_a_whole(data: bytes) -> None:
    with pytest.raises(wire_probe.Refused) as caught:
        wire_probe.batch(KINDS["PlaceOrder"], data)
    assert caught.value.reason == "MALFORMED_MESSAGE"
