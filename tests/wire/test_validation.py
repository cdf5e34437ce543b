"""The bounds of requests, from validation_table.txt, and which of several faults is named."""

import re
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format
from google.rpc import error_details_pb2, status_pb2

from tests.probes import wire_probe
from tests.wire.requests import CLASSES, KINDS, LIMITS, first_broken

pytestmark = pytest.mark.native

LINE = {"sku_id": "sku", "quantity": 1}
SAMPLES: dict[str, dict[str, Any]] = {
    "PlaceOrder": {"order_id": "o", "shop_id": "s", "buyer_id": "b", "lines": [LINE]},
    "PayOrder": {"shop_id": "s", "order_id": "o", "payment_id": "p", "amount_minor": 1},
    "CancelOrder": {"shop_id": "s", "order_id": "o", "command_id": "c"},
    "ShipOrder": {"shop_id": "s", "order_id": "o", "command_id": "c"},
    "DeliverOrder": {"shop_id": "s", "order_id": "o", "command_id": "c"},
    "ReturnOrder": {"shop_id": "s", "order_id": "o", "command_id": "c"},
    "SettleRefund": {"shop_id": "s", "order_id": "o", "command_id": "c"},
    "PutShop": {"shop_id": "s"},
    "PutLocation": {"shop_id": "s", "location_id": "l"},
    "PutSku": {"shop_id": "s", "sku_id": "k"},
    "AdjustStock": {"adjustment_id": "a", "shop_id": "s", "sku_id": "k", "location_id": "l", "delta": 1},
    "TransferStock": {
        "transfer_id": "t",
        "shop_id": "s",
        "sku_id": "k",
        "from_location_id": "from",
        "to_location_id": "to",
        "quantity": 1,
    },
    "Activate": {"level": 1, "idempotency_window_ms": 1, "idempotency_entries_max": 1},
    "GetOrder": {"shop_id": "s", "order_id": "o"},
    "GetStock": {"shop_id": "s", "sku_id": "k"},
}
NAMES = {
    **LIMITS,
    "LINE": LINE,
    "PRICED": {**LINE, "amount_minor": LIMITS["AMOUNT_MINOR_MAX"] // 2},
    "UNITS": {"line_index": 1, "quantity": 1},
    "COST": {"from_region": "a", "to_region": "b"},
    "WIDE_COST": {"from_region": "a" * 64, "to_region": "b" * 64},
    "SAFETY": {"location_id": "l"},
}


def rows() -> list[tuple[str, ...]]:
    text = (Path(__file__).parent / "validation_table.txt").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [tuple(match) for line in lines for match in re.findall(r"(\S+) +(\S+) +(.*?) +(\S+)$", line)]


def with_field(kind: str, field: str, value: Any) -> bytes:
    """The sample with one field changed. Numbers out of JSON's reach and wrong ones go through as they are."""
    sample = {name: [dict(row) for row in old] if isinstance(old, list) else old for name, old in SAMPLES[kind].items()}
    inside = re.fullmatch(r"(\w+)\[(\d+)\]\.(\w+)", field)
    if inside:
        sample[inside[1]][int(inside[2])][inside[3]] = value
    else:
        sample[field] = value
    message = json_format.ParseDict(sample, CLASSES[kind]())
    return bytes(message.SerializeToString(deterministic=True))


def fault_of(kind: str, data: bytes) -> Any:
    try:
        wire_probe.decode(KINDS[kind], data)
    except wire_probe.Refused as refused:
        return refused
    return None


def violation(refused: Any) -> tuple[str, str]:
    """Field and description of BadRequest in the status that the fault becomes."""
    status = status_pb2.Status.FromString(refused.status)
    bad_request = error_details_pb2.BadRequest()
    assert status.code == 3
    assert status.details[1].Unpack(bad_request)
    (only,) = bad_request.field_violations
    return only.field, only.description


@pytest.mark.parametrize(("kind", "field", "value", "path"), rows(), ids=lambda cell: cell[:40])
def test_field_with_a_value_is_taken_or_named(kind: str, field: str, value: str, path: str) -> None:
    data = with_field(kind, field, eval(value, {"str": str, "range": range}, NAMES))
    refused = fault_of(kind, data)
    expected = None if path == "ok" else path.replace("-", "")
    assert (None if refused is None else violation(refused)[0]) == expected
    assert first_broken(kind, CLASSES[kind].FromString(data)) == expected, "the model must say the same"


def test_table_has_rows_for_every_request() -> None:
    assert {row[0] for row in rows()} == set(SAMPLES) == set(KINDS)


@pytest.mark.parametrize(
    ("kind", "delta", "taken", "resolved"),
    [
        (0, 5, True, 1),
        (0, -5, True, 2),
        (0, 0, False, 0),
        (1, 5, True, 1),
        (1, -5, False, 0),
        (1, 0, False, 0),
        (2, 5, True, 2),
        (2, -5, True, 2),
        (2, 0, False, 0),
        (3, 5, True, 3),
        (3, -5, False, 0),
        (3, 0, True, 3),
    ],
)
def test_delta_of_each_kind_is_taken_by_its_sign(kind: int, delta: int, taken: bool, resolved: int) -> None:
    request = CLASSES["AdjustStock"](**{**SAMPLES["AdjustStock"], "delta": delta, "kind": kind}).SerializeToString()
    if taken:
        assert wire_probe.decode(KINDS["AdjustStock"], request)["kind"] == resolved
    else:
        assert violation(fault_of("AdjustStock", request))[0] == "delta"


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"buyer_id": "", "shop_id": "", "strategy": 9}, "shop_id"),
        ({"lines": [LINE, {"sku_id": ""}, {"sku_id": ""}], "region": " "}, "lines[1].sku_id"),
        ({"lines": [{"sku_id": "", "quantity": 0}]}, "lines[0].sku_id"),
        ({"lines": [{**LINE, "amount_minor": -1, "expected_price_minor": -1}]}, "lines[0].amount_minor"),
        ({"attributes": {"k": "v" * 300}, "placed_at_ms": -1}, "placed_at_ms"),
        ({"attributes": {"k": "v" * 300}, "first_sent_at_ms": -1}, "attributes"),
    ],
)
def test_of_several_faults_the_lowest_field_is_named(changes: dict[str, Any], path: str) -> None:
    request = CLASSES["PlaceOrder"](**{**SAMPLES["PlaceOrder"], **changes}).SerializeToString()
    assert violation(fault_of("PlaceOrder", request))[0] == path


def test_malformed_tail_outweighs_a_bad_field() -> None:
    refused = fault_of("PlaceOrder", b"\x0a\x00\x12\x05s")
    assert (refused.reason, violation(refused)) == (
        "MALFORMED_MESSAGE",
        ("", "The bytes are no protobuf message of this type."),
    )


def test_descriptions_name_the_limits() -> None:
    """The texts in the core are fixed, so that a changed limit must not leave an old figure in them."""
    limits = {f"{value:,}" for value in LIMITS.values()} | {f"{LIMITS['LINES_MAX'] - 1}", "0", "1", "3", "9", "4"}
    for kind, field, value, path in rows():
        if path not in ("ok", "-"):
            data = with_field(kind, field, eval(value, {"str": str, "range": range}, NAMES))
            figures = set(re.findall(r"\d[\d,]*", violation(fault_of(kind, data))[1]))
            assert figures <= limits, figures - limits


def test_request_beyond_the_size_of_a_record_is_refused_as_a_whole() -> None:
    costs = [{"from_region": "a" * 64, "to_region": "b" * 64}] * 485
    request = CLASSES["PutShop"](shop_id="s", region_costs=costs)
    room = LIMITS["RECORD_COMMAND_BYTES_MAX"] - request.ByteSize()
    last = request.region_costs.add(from_region="a" * (room - 7), to_region="b")
    assert request.ByteSize() == LIMITS["RECORD_COMMAND_BYTES_MAX"]
    assert fault_of("PutShop", request.SerializeToString()) is None
    last.to_region = "bb"
    refused = fault_of("PutShop", request.SerializeToString())
    assert violation(refused) == ("", "The message must be at most 64 KiB.")


def test_unknown_fields_do_not_count_for_the_size_of_a_record() -> None:
    stray = b"\xa2\x06\x80\x80\x08" + bytes(2**17)
    assert fault_of("PayOrder", CLASSES["PayOrder"](**SAMPLES["PayOrder"]).SerializeToString() + stray) is None


def test_request_of_more_than_the_message_bound_is_refused_unread() -> None:
    refused = fault_of("PayOrder", b"\xff" * (4 * 1024 * 1024 + 1))
    assert violation(refused) == ("", "The message must be at most 4 MiB.")
