"""The rings of spans of a board as a worker writes them, and by plain Python what a collector is to hear of them."""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterable, Mapping
from typing import Any

from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from engine._core import FRONT_METHOD_NAMES, LIMITS, STAGE_NAMES, Board, board_create
from everopen.v1.outcome_pb2 import Outcome

# engine/_spans.pxi: the header's two lines, then the records.
HEADER_BYTES, RECORD_BYTES = 128, 128
RECORD = struct.Struct("<16s8s8sQ6QIIIBBB25x")
SEVERAL_SHARDS = 255
# UNKNOWN, DEADLINE_EXCEEDED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE, DATA_LOSS
FAULTS = frozenset({2, 4, 12, 13, 14, 15})
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PLACE = FRONT_METHOD_NAMES.index("everopen.v1.OrderService/PlaceOrder") + 1


def record(number: int = 1, **more: Any) -> dict[str, Any]:
    base = 10_000
    return {
        "trace_id": TRACE,
        "parent_id": PARENT,
        "span_id": f"{number:016x}",
        "begun_wall_ns": 1_700_000_000_000_000_000,
        "times_ns": (base, base + 10, base + 30, base + 60, base + 1_060, base + 1_110),
        "code": 0,
        "items": 0,
        "worker": 0,
        "method": PLACE,
        "shard": 3,
        "outcome": 1,
    } | more


class Rings:
    """Of a board of its own."""

    def __init__(self, workers: int = 1) -> None:
        fd = board_create(workers)
        self.board = Board(fd, workers)
        self._bytes = mmap.mmap(fd, os.fstat(fd).st_size)
        os.close(fd)
        ring_bytes = HEADER_BYTES + RECORD_BYTES * LIMITS["SPANS_KEPT"]
        first = (
            workers * (2 * LIMITS["BOARD_SLOT_BYTES"] + LIMITS["STAGES_BYTES"])
            + (LIMITS["MARK_PAGE_BYTES"] + LIMITS["SHARD_PAGE_BYTES"]) * LIMITS["SHARDS_MAX"]
        )
        self._at = [first + worker * ring_bytes for worker in range(workers)]

    def put(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Each into the ring of its worker."""
        for of in records:
            at = self._at[of["worker"]]
            (written,) = struct.unpack_from("<Q", self._bytes, at)
            RECORD.pack_into(
                self._bytes,
                at + HEADER_BYTES + written % LIMITS["SPANS_KEPT"] * RECORD_BYTES,
                bytes.fromhex(of["trace_id"]),
                bytes.fromhex(of["parent_id"]) or bytes(8),
                bytes.fromhex(of["span_id"]),
                of["begun_wall_ns"],
                *of["times_ns"],
                of["code"],
                of["items"],
                of["worker"],
                of["method"],
                SEVERAL_SHARDS if of["shard"] < 0 else of["shard"],
                of["outcome"],
            )
            struct.pack_into("<Q", self._bytes, at, written + 1)


def spans_of(of: Mapping[str, Any]) -> list[Span]:
    """The call, and each of its stages that took time; a relayed call has none, and no times between."""
    trace_id, call_id, parent_id = (bytes.fromhex(of[name]) for name in ("trace_id", "span_id", "parent_id"))
    name = FRONT_METHOD_NAMES[of["method"] - 1]
    service, _, method = name.rpartition("/")
    first_ns = of["times_ns"][0]
    times = [of["begun_wall_ns"] + at_ns - first_ns for at_ns in of["times_ns"]]
    call = Span(
        trace_id=trace_id,
        span_id=call_id,
        parent_span_id=parent_id,
        name=name,
        kind=Span.SPAN_KIND_SERVER,
        start_time_unix_nano=times[0],
        end_time_unix_nano=times[-1],
        flags=0x300 if parent_id else 0x100,
    )
    attributes: dict[str, str | int | None] = {
        "rpc.system": "grpc",
        "rpc.service": service or None,
        "rpc.method": method,
        "rpc.grpc.status_code": of["code"],
        "everopen.worker": of["worker"],
        "everopen.shard": of["shard"] if of["shard"] >= 0 else None,
        "everopen.outcome": Outcome.Name(of["outcome"]) if of["outcome"] else None,
        "everopen.items": of["items"] or None,
    }
    for key, value in attributes.items():
        if isinstance(value, str):
            call.attributes.add(key=key).value.string_value = value
        elif value is not None:
            call.attributes.add(key=key).value.int_value = value
    if of["code"] in FAULTS:
        call.status.code = Status.STATUS_CODE_ERROR
    made = [call]
    for stage, (name, began, ended) in enumerate(zip(STAGE_NAMES, times, times[1:], strict=False)):
        if of["times_ns"][1] and ended > began:
            made.append(
                Span(
                    trace_id=trace_id,
                    span_id=stage_id(call_id, stage),
                    parent_span_id=call_id,
                    name=name,
                    kind=Span.SPAN_KIND_INTERNAL,
                    start_time_unix_nano=began,
                    end_time_unix_nano=ended,
                    flags=0x100,
                )
            )
    return made


def stage_id(call_id: bytes, stage: int) -> bytes:
    """splitmix64, that many steps behind the call's own id."""
    word = 2**64 - 1
    mixed = int.from_bytes(call_id, "little") + (stage + 1) * 0x9E3779B97F4A7C15 & word
    mixed = (mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9 & word
    mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EB & word
    return ((mixed ^ mixed >> 31) or 1).to_bytes(8, "little")
