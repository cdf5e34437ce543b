"""Spans on their way to a collector: what they say, that none is sent twice, and what becomes of those nobody takes."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from engine import traces
from engine._core import FRONT_METHOD_NAMES
from engine.endpoints import traces_url
from engine.local import LocalEngine
from engine.traces import Exporter
from tests.serving import Client, order

PATIENCE_S = 30
PLACE = FRONT_METHOD_NAMES.index("everopen.v1.OrderService/PlaceOrder") + 1
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


class Collector:
    """Takes what is posted to it, or answers `code`."""

    def __init__(self) -> None:
        self.code = 200
        self.paths: list[str] = []
        self.spans: list[Span] = []
        self.resources: list[dict[str, str]] = []
        self.requests = 0
        self.came = threading.Condition()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                outer.take(self.path, gzip.decompress(body) if self.headers["content-encoding"] == "gzip" else body)
                self.send_response(outer.code)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def take(self, path: str, body: bytes) -> None:
        request = ExportTraceServiceRequest.FromString(body)
        with self.came:
            self.requests += 1
            self.paths.append(path)
            if self.code == 200:
                for of in request.resource_spans:
                    self.resources.append({each.key: each.value.string_value for each in of.resource.attributes})
                    self.spans += [span for scope in of.scope_spans for span in scope.spans]
            self.came.notify_all()

    def wait(self, holds: Callable[[], bool]) -> None:
        with self.came:
            assert self.came.wait_for(holds, PATIENCE_S), [span.name for span in self.spans]


@pytest.fixture
def collector() -> Iterator[Collector]:
    made = Collector()
    yield made
    made.http.shutdown()
    made.http.server_close()


class Ring:
    """Records that a test puts there; `given` says that all are taken, and how many at once."""

    def __init__(self, records: list[dict[str, Any]]) -> None:
        self.records = records
        self.taken: list[int] = []

    def take_spans(self, limit: int) -> list[dict[str, Any]]:
        found, self.records = self.records[:limit], self.records[limit:]
        self.taken += [len(found)] if found else []
        return found


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
        "worker": 1,
        "method": PLACE,
        "shard": 3,
        "outcome": 1,
    } | more


@contextmanager
def exporting(ring: Ring, url: str, folder: Path) -> Iterator[Exporter]:
    made = Exporter(ring, url, folder)
    made.begin()
    try:
        yield made
    finally:
        made.stop()
        assert made.join(PATIENCE_S)


def attributes(span: Span) -> dict[str, Any]:
    return {each.key: getattr(each.value, str(each.value.WhichOneof("value"))) for each in span.attributes}


def test_record_becomes_a_span_of_the_call_and_one_of_each_stage(collector: Collector, tmp_path: Path) -> None:
    with exporting(Ring([record()]), collector.url, tmp_path):
        collector.wait(lambda: len(collector.spans) == 6)
    assert collector.paths == ["/v1/traces"]
    [call] = [span for span in collector.spans if span.kind == Span.SPAN_KIND_SERVER]
    stages = [span for span in collector.spans if span is not call]
    assert call.name == "everopen.v1.OrderService/PlaceOrder"
    assert (call.trace_id.hex(), call.parent_span_id.hex(), call.span_id.hex()) == (TRACE, PARENT, f"{1:016x}")
    assert call.start_time_unix_nano == 1_700_000_000_000_000_000
    assert call.end_time_unix_nano - call.start_time_unix_nano == 1_110
    assert attributes(call) == {
        "rpc.system": "grpc",
        "rpc.service": "everopen.v1.OrderService",
        "rpc.method": "PlaceOrder",
        "rpc.grpc.status_code": 0,
        "everopen.worker": 1,
        "everopen.shard": 3,
        "everopen.outcome": "OUTCOME_PLACED",
    }
    durations = {span.name: span.end_time_unix_nano - span.start_time_unix_nano for span in stages}
    assert durations == {"decode": 10, "queue": 20, "match": 30, "sync": 1_000, "send": 50}
    assert {span.parent_span_id for span in stages} == {call.span_id}
    assert {span.trace_id.hex() for span in stages} == {TRACE}
    assert len({span.span_id for span in collector.spans}) == 6
    assert collector.resources[0]["service.name"] == "everopen"


@pytest.mark.parametrize(("code", "is_error"), [(0, False), (3, False), (8, False), (13, True), (14, True)])
def test_only_a_fault_of_the_server_is_an_error(
    collector: Collector, tmp_path: Path, code: int, is_error: bool
) -> None:
    refused = record(code=code, outcome=0, shard=-1, items=5, parent_id="", times_ns=(5, 5, 5, 5, 5, 9))
    with exporting(Ring([refused]), collector.url, tmp_path):
        collector.wait(lambda: len(collector.spans) == 2)
    call, stage = collector.spans
    assert (call.status.code == 2) == is_error
    assert (call.parent_span_id, stage.name) == (b"", "send")
    assert attributes(call)["everopen.items"] == 5
    assert not {"everopen.shard", "everopen.outcome"} & attributes(call).keys()


def test_batches_are_bounded_and_nothing_is_lost_or_sent_twice(collector: Collector, tmp_path: Path) -> None:
    count = 2 * traces.BATCH + 7
    ring = Ring([record(number, times_ns=(1, 1, 1, 1, 1, 1)) for number in range(1, count + 1)])
    with exporting(ring, collector.url, tmp_path) as made:
        collector.wait(lambda: len(collector.spans) == count)
    assert ring.taken == [traces.BATCH, traces.BATCH, 7]
    assert [int(span.span_id.hex(), 16) for span in collector.spans] == list(range(1, count + 1))
    assert made.counts() == {"exported": count, "export_failed": 0}


def test_spans_that_a_collector_refuses_are_counted_and_later_ones_go_through(
    collector: Collector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(traces, "BACKOFF_S_MIN", 0.01)
    monkeypatch.setattr(traces, "PAUSE_S", 0.01)
    collector.code = 400
    ring = Ring([record(1)])
    with exporting(ring, collector.url, tmp_path) as made:
        collector.wait(lambda: collector.requests == 1)
        collector.code = 200
        ring.records = [record(2)]
        collector.wait(lambda: len(collector.spans) == 6)
    assert made.counts() == {"exported": 6, "export_failed": 6}
    assert {span.span_id.hex() for span in collector.spans if span.kind == Span.SPAN_KIND_SERVER} == {f"{2:016x}"}


def test_collector_that_is_not_there_holds_nobody_up_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(traces, "END_S_MAX", 0.01)
    ring = Ring([record(number) for number in range(1, 2 * traces.BATCH)])
    with exporting(ring, "http://127.0.0.1:9", tmp_path) as made:
        pass
    assert made.counts()["exported"] == 0
    assert sum(ring.taken) <= 2 * traces.BATCH


def test_ring_has_one_reader_until_that_has_ended(collector: Collector, tmp_path: Path) -> None:
    with exporting(Ring([record(1)]), collector.url, tmp_path):
        collector.wait(lambda: len(collector.spans) == 6)
        second = Ring([record(2)])
        with exporting(second, collector.url, tmp_path):
            pass
        assert second.taken == []
    third = Ring([record(3)])
    with exporting(third, collector.url, tmp_path):
        collector.wait(lambda: len(collector.spans) == 12)


@pytest.mark.parametrize(
    ("endpoint", "url"),
    [
        ("http://127.0.0.1:4318", "http://127.0.0.1:4318/v1/traces"),
        ("https://collector/", "https://collector/v1/traces"),
        ("http://127.0.0.1:4318/other", "http://127.0.0.1:4318/other"),
    ],
)
def test_endpoint_without_a_path_is_that_of_all_signals(endpoint: str, url: str) -> None:
    assert traces_url(endpoint) == url


@pytest.mark.parametrize("endpoint", ["127.0.0.1:4318", "grpc://collector:4317", "http://", ""])
def test_endpoint_that_is_no_url_is_refused(endpoint: str) -> None:
    with pytest.raises(ValueError, match="http://HOST:PORT"):
        traces_url(endpoint)


def test_engine_exports_the_calls_whose_parent_is_sampled(collector: Collector, tmp_path: Path) -> None:
    """The span of its caller is the parent; a call whose caller was not sampled is not there."""
    arguments = ["--otlp-endpoint", collector.url, "--followers", "0"]
    with LocalEngine(tmp_path / "data", arguments=arguments) as engine, Client(engine.address) as client:
        client.seed()
        client.orders.PlaceOrder(order("without"), metadata=[("traceparent", f"00-{TRACE}-{PARENT}-00")])
        client.orders.PlaceOrder(order("with"), metadata=[("traceparent", f"00-{TRACE}-{PARENT}-01")])
        collector.wait(lambda: any(span.kind == Span.SPAN_KIND_SERVER for span in collector.spans))
    [call] = [span for span in collector.spans if span.kind == Span.SPAN_KIND_SERVER]
    assert (call.trace_id.hex(), call.parent_span_id.hex()) == (TRACE, PARENT)
    assert attributes(call)["everopen.outcome"] == "OUTCOME_PLACED"
    stages = [span for span in collector.spans if span.parent_span_id == call.span_id]
    assert sum(span.end_time_unix_nano - span.start_time_unix_nano for span in stages) == (
        call.end_time_unix_nano - call.start_time_unix_nano
    )


def test_engine_with_a_ratio_traces_calls_that_say_nothing(collector: Collector, tmp_path: Path) -> None:
    arguments = ["--otlp-endpoint", collector.url, "--trace-ratio", "1", "--followers", "0"]
    with LocalEngine(tmp_path / "data", arguments=arguments) as engine, Client(engine.address) as client:
        client.seed()
        client.orders.PlaceOrder(order("said-nothing"))
        collector.wait(lambda: any(span.name.endswith("/PlaceOrder") for span in collector.spans))
    [call] = [span for span in collector.spans if span.name.endswith("/PlaceOrder")]
    assert call.parent_span_id == b""
