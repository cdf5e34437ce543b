"""What native code makes of the records of calls for a collector, beside what plain Python makes of the same."""

from __future__ import annotations

import os
import random
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from engine._core import FRONT_METHOD_NAMES, LIMITS, OUTCOME_NAMES, Board, SpanEncoder, memory_create
from everopen.v1.outcome_pb2 import Outcome
from tests.span_ring import Rings, record, spans_of

pytestmark = pytest.mark.native


def random_record(rng: random.Random) -> dict[str, Any]:
    begun = rng.randrange(1, 2**62)
    between = sorted(begun + rng.choice([0, 0, 1, 127, 128, 10**6, rng.getrandbits(40)]) for _ in range(5))
    is_relayed = rng.random() < 0.2
    return record(
        trace_id=rng.randbytes(16).hex(),
        parent_id=rng.choice(["", rng.randbytes(8).hex()]),
        span_id=rng.choice([rng.randbytes(8).hex(), f"{rng.getrandbits(7) or 1:016x}"]),
        begun_wall_ns=rng.randrange(2**62),
        times_ns=(begun, 0, 0, 0, 0, between[-1]) if is_relayed else (begun, *between),
        code=rng.choice([*range(17), 31, 32, 127, 128, 2**32 - 1]),
        items=rng.choice([0, 1, 127, 128, 500, 2**32 - 1]),
        worker=rng.randrange(3),
        method=rng.randrange(1, len(FRONT_METHOD_NAMES) + 1),
        shard=rng.randrange(-1, 64),
        outcome=rng.choice([0, *OUTCOME_NAMES]),
    )


@pytest.mark.parametrize("seed", range(4))
def test_requests_say_what_plain_python_makes_of_the_records(seed: int) -> None:
    rng = random.Random(seed)
    records = [random_record(rng) for _ in range(1_500)]
    board = Rings(3)
    board.put(records)
    outcomes = {number: name for name, number in Outcome.items() if number}
    encoder = SpanEncoder({"service.name": "a"}, FRONT_METHOD_NAMES, outcomes)
    found: dict[int, list[Span]] = {worker: [] for worker in range(3)}
    by_trace = {of["trace_id"]: of["worker"] for of in records}
    counted = 0
    while (taken := encoder.encode_spans(board.board, rng.randrange(1, 400)))[1]:
        request, calls, count = taken
        [resource_spans] = ExportTraceServiceRequest.FromString(request).resource_spans
        assert [(each.key, each.value.string_value) for each in resource_spans.resource.attributes] == [
            ("service.name", "a")
        ]
        [scope_spans] = resource_spans.scope_spans
        assert len(scope_spans.spans) == count
        assert sum(span.kind == Span.SPAN_KIND_SERVER for span in scope_spans.spans) == calls
        counted += calls
        for span in scope_spans.spans:
            found[by_trace[span.trace_id.hex()]].append(span)
    assert counted == len(records)
    for worker in range(3):
        expected = [span for of in records if of["worker"] == worker for span in spans_of(of)]
        assert found[worker] == expected
    assert taken == (b"", 0, 0)


def test_record_with_numbers_that_nobody_has_is_a_span_without_a_name() -> None:
    board = Rings()
    board.put(
        [record(method=250, outcome=200, times_ns=(1, 0, 0, 0, 0, 2)), record(method=0, times_ns=(1, 0, 0, 0, 0, 2))]
    )
    request, calls, count = SpanEncoder({}, [], {}).encode_spans(board.board, 10)
    assert (calls, count) == (2, 2)
    [resource_spans] = ExportTraceServiceRequest.FromString(request).resource_spans
    for span in resource_spans.scope_spans[0].spans:
        assert span.name == ""
        assert [each.key for each in span.attributes] == ["rpc.grpc.status_code", "everopen.worker", "everopen.shard"]


def test_worker_with_many_records_keeps_no_other_waiting() -> None:
    board = Rings(2)
    board.put([record(number, worker=0) for number in range(1, 101)])
    board.put([record(200, worker=1)])
    encoder = SpanEncoder({}, [], {})
    assert [encoder.encode_spans(board.board, 10)[1] for _ in range(2)] == [10, 10]
    assert board.board.take_spans(1_000)[-1]["worker"] == 0


def test_board_of_before_there_were_spans_has_none() -> None:
    size = 2 * LIMITS["BOARD_SLOT_BYTES"] + LIMITS["SHARDS_MAX"] * LIMITS["MARK_PAGE_BYTES"]
    fd = memory_create("board", size)
    assert SpanEncoder({}, [], {}).encode_spans(Board(fd, 1), 10) == (b"", 0, 0)
    os.close(fd)


@pytest.mark.parametrize(
    "arguments",
    [
        ({"a": "x" * 2_000}, [], {}),
        ({}, ["x" * 2_000], {}),
        ({}, ["a/b"] * 256, {}),
        ({}, [], {0: "a"}),
        ({}, [], {256: "a"}),
    ],
)
def test_encoder_refuses_what_has_no_room(arguments: Any) -> None:
    with pytest.raises(ValueError, match=r"too long|number"):
        SpanEncoder(*arguments)
