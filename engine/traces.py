"""From the ring of spans to a collector, by OTLP over HTTP.

The calls are over when Python hears of them: a record of the ring becomes one span for the call and one for each stage.
The ring is the queue, and it is bounded: while a collector does not answer it fills, and the front counts what it
drops. What a collector refuses is dropped here, and counted too.
"""

from __future__ import annotations

import fcntl
import os
import random
import threading
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, Protocol

import grpc
import structlog
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from engine._core import FRONT_METHOD_NAMES, STAGE_NAMES
from engine.endpoints import traces_url
from everopen.v1.outcome_pb2 import Outcome

# Calls of one request to the collector.
BATCH: Final = 512
# Between two looks at an empty ring.
PAUSE_S: Final = 0.5
# What one request may take, with the repetitions that the exporter makes of its own.
EXPORT_S_MAX: Final = 10.0
# After a failure nothing is sent for so long; each time twice as long.
BACKOFF_S_MIN: Final = 1.0
BACKOFF_S_MAX: Final = 30.0
# What is left at the end is sent if it takes no longer.
END_S_MAX: Final = 1.0
LOCK: Final = "spans.lock"

log = structlog.get_logger()


class Spans(Protocol):
    """The board, as far as it is read here."""

    def take_spans(self, limit: int) -> list[dict[str, Any]]: ...


class Sink(Protocol):
    """OpenTelemetry's exporter, as far as it is used here."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult: ...
    def shutdown(self) -> None: ...


class Exporter:
    """A thread that takes and sends. Of all control processes there are, one at a time does."""

    def __init__(self, board: Spans, endpoint: str, folder: Path, sink: Sink | None = None) -> None:
        self._board = board
        self._sink: Sink = sink or OTLPSpanExporter(
            traces_url(endpoint), timeout=EXPORT_S_MAX, compression=Compression.Gzip
        )
        self._lock_path = folder / LOCK
        self._resource = Resource(
            {
                "service.name": "everopen",
                "service.version": version("everopen"),
                "service.instance.id": folder.name,
            }
        )
        self._counts = {"exported": 0, "export_failed": 0}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="everopen-spans", daemon=True)

    def begin(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """What is in the ring is sent if that is quick, and whoever comes next finds the rest."""
        self._stop.set()
        threading.Timer(END_S_MAX, self._sink.shutdown).start()

    def join(self, timeout_s: float) -> bool:
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def counts(self) -> dict[str, int]:
        """Spans, by what became of them."""
        return dict(self._counts)

    def _run(self) -> None:
        lock = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if self._alone(lock):
                self._export()
        except Exception:
            log.exception("spans are exported no more")
        finally:
            os.close(lock)

    def _alone(self, lock: int) -> bool:
        """The ring has one reader. False: this one is to end before the other does."""
        while not self._stop.is_set():
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._stop.wait(PAUSE_S)
                continue
            return True
        return False

    def _export(self) -> None:
        backoff_s = BACKOFF_S_MIN
        while True:
            ending = self._stop.is_set()
            records = self._board.take_spans(BATCH)
            if records and not self._send(records):
                self._stop.wait(backoff_s)
                backoff_s = min(2 * backoff_s, BACKOFF_S_MAX)
            else:
                backoff_s = BACKOFF_S_MIN
                if len(records) < BATCH:
                    self._stop.wait(PAUSE_S)
            if ending:
                return

    def _send(self, records: list[dict[str, Any]]) -> bool:
        spans = [span for record in records for span in spans_of(record, self._resource)]
        taken = self._sink.export(spans) is SpanExportResult.SUCCESS
        self._counts["exported" if taken else "export_failed"] += len(spans)
        if not taken:
            log.warning("a collector did not take spans; they are dropped", spans=len(spans))
        return taken


def spans_of(record: Mapping[str, Any], resource: Resource) -> list[ReadableSpan]:
    """The call, and each of its stages that took time. The records are those of _spans.pxi."""
    trace_id = int(record["trace_id"], 16)
    call = _context(trace_id, int(record["span_id"], 16))
    parent = _context(trace_id, int(record["parent_id"], 16), is_remote=True) if record["parent_id"] else None
    service, _, method = FRONT_METHOD_NAMES[record["method"] - 1].rpartition("/")
    attributes: dict[str, str | int] = {
        "rpc.system": "grpc",
        "rpc.service": service,
        "rpc.method": method,
        "rpc.grpc.status_code": record["code"],
        "everopen.worker": record["worker"],
    }
    if record["shard"] >= 0:
        attributes["everopen.shard"] = record["shard"]
    if record["outcome"]:
        attributes["everopen.outcome"] = Outcome.Name(record["outcome"])
    if record["items"]:
        attributes["everopen.items"] = record["items"]
    first_ns = record["times_ns"][0]
    times = [record["begun_wall_ns"] + at_ns - first_ns for at_ns in record["times_ns"]]
    status = Status(StatusCode.ERROR) if record["code"] in FAULTS else Status()
    name = f"{service}/{method}"
    kind = SpanKind.SERVER
    made = [
        _span(name, call, parent, resource, attributes=attributes, kind=kind, status=status, of=(times[0], times[-1]))
    ]
    for stage, began, ended in zip(STAGE_NAMES, times, times[1:], strict=False):
        if ended > began:
            made.append(
                _span(stage, _context(trace_id, random.getrandbits(64) or 1), call, resource, of=(began, ended))
            )
    return made


def _context(trace_id: int, span_id: int, *, is_remote: bool = False) -> SpanContext:
    return SpanContext(trace_id, span_id, is_remote, TraceFlags(TraceFlags.SAMPLED))


def _span(
    name: str,
    context: SpanContext,
    parent: SpanContext | None,
    resource: Resource,
    *,
    of: tuple[int, int],
    **more: Any,
) -> ReadableSpan:
    return ReadableSpan(name, context, parent, resource, start_time=of[0], end_time=of[1], **more)


# Those that the conventions of OpenTelemetry call an error of the server, and not of its caller.
FAULTS: Final = frozenset(
    code.value[0]
    for code in (
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DATA_LOSS,
    )
)
