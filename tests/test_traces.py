"""Spans on their way to a collector: what they say, that none is sent twice, and what becomes of those nobody takes."""

from __future__ import annotations

import gzip
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import pytest
import urllib3
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from engine import traces
from engine.endpoints import headers_of, traces_url
from engine.exits import Exit
from engine.local import LocalEngine
from engine.traces import Exporter
from everopen.v1 import cluster_service_pb2 as cluster
from everopen.v1.cluster_service_pb2_grpc import ClusterServiceStub
from tests.serving import Client, everopen, order
from tests.span_ring import PARENT, TRACE, Rings, record, spans_of

PATIENCE_S = 30


class Collector:
    """Takes what is posted to it, or answers `code`."""

    def __init__(self) -> None:
        self.code = 200
        # Said with another code than 200.
        self.retry_after = ""
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.spans: list[Span] = []
        self.resources: list[dict[str, str]] = []
        self.requests = 0
        # Of each request.
        self.calls: list[int] = []
        self.came = threading.Condition()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                outer.headers.append({name.lower(): text for name, text in self.headers.items()})
                code = outer.code
                outer.take(self.path, gzip.decompress(body) if self.headers["content-encoding"] == "gzip" else body)
                self.send_response(code)
                if code != 200 and outer.retry_after:
                    self.send_header("retry-after", outer.retry_after)
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
            spans = [span for of in request.resource_spans for scope in of.scope_spans for span in scope.spans]
            self.calls.append(sum(span.kind == Span.SPAN_KIND_SERVER for span in spans))
            if self.code == 200:
                self.spans += spans
                for of in request.resource_spans:
                    self.resources.append({each.key: each.value.string_value for each in of.resource.attributes})
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


def rings(*records: dict[str, Any]) -> Rings:
    made = Rings()
    made.put(records)
    return made


@contextmanager
def exporting(ring: Rings, url: str, folder: Path, environ: Mapping[str, str] | None = None) -> Iterator[Exporter]:
    made = Exporter(ring.board, url, folder, environ or {})
    made.begin()
    try:
        yield made
    finally:
        made.stop()
        assert made.join(PATIENCE_S)


def attributes(span: Span) -> dict[str, Any]:
    return {each.key: getattr(each.value, str(each.value.WhichOneof("value"))) for each in span.attributes}


def test_record_becomes_a_span_of_the_call_and_one_of_each_stage(collector: Collector, tmp_path: Path) -> None:
    with exporting(rings(record()), collector.url, tmp_path):
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
        "everopen.worker": 0,
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
    with exporting(rings(refused), collector.url, tmp_path):
        collector.wait(lambda: len(collector.spans) == 2)
    call, stage = collector.spans
    assert (call.status.code == 2) == is_error
    assert (call.parent_span_id, stage.name) == (b"", "send")
    assert attributes(call)["everopen.items"] == 5
    assert not {"everopen.shard", "everopen.outcome"} & attributes(call).keys()


def test_batches_are_bounded_and_nothing_is_lost_or_sent_twice(collector: Collector, tmp_path: Path) -> None:
    count = 2 * traces.BATCH + 7
    ring = rings(*(record(number, times_ns=(1, 1, 1, 1, 1, 1)) for number in range(1, count + 1)))
    with exporting(ring, collector.url, tmp_path) as made:
        collector.wait(lambda: len(collector.spans) == count)
    assert collector.requests == 3
    assert max(collector.calls) == traces.BATCH
    assert [int(span.span_id.hex(), 16) for span in collector.spans] == list(range(1, count + 1))
    assert made.counts() == {"exported": count, "export_failed": 0}


def test_spans_that_a_collector_refuses_are_counted_and_later_ones_go_through(
    collector: Collector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(traces, "BACKOFF_S_MIN", 0.01)
    monkeypatch.setattr(traces, "PAUSE_S", 0.01)
    collector.code = 400
    ring = rings(record(1))
    with exporting(ring, collector.url, tmp_path) as made:
        collector.wait(lambda: collector.requests == 1)
        collector.code = 200
        ring.put([record(2)])
        collector.wait(lambda: len(collector.spans) == 6)
    assert made.counts() == {"exported": 6, "export_failed": 6}
    assert {span.span_id.hex() for span in collector.spans if span.kind == Span.SPAN_KIND_SERVER} == {f"{2:016x}"}


def test_collector_that_is_not_there_holds_nobody_up_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(traces, "END_S_MAX", 0.01)
    ring = rings(*(record(number) for number in range(1, 2 * traces.BATCH)))
    with exporting(ring, "http://127.0.0.1:9", tmp_path) as made:
        pass
    assert made.counts()["exported"] == 0


def test_ring_has_one_reader_until_that_has_ended(collector: Collector, tmp_path: Path) -> None:
    with exporting(rings(record(1)), collector.url, tmp_path):
        collector.wait(lambda: len(collector.spans) == 6)
        second = rings(record(2))
        with exporting(second, collector.url, tmp_path):
            pass
        assert len(second.board.take_spans(10)) == 1
    third = rings(record(3))
    with exporting(third, collector.url, tmp_path):
        collector.wait(lambda: len(collector.spans) == 12)


def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traces, "BACKOFF_S_MIN", 0.01)
    monkeypatch.setattr(traces, "PAUSE_S", 0.01)


@pytest.mark.parametrize("code", [429, 502, 503, 504])
def test_collector_that_is_busy_gets_the_same_again(
    collector: Collector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    quick(monkeypatch)
    collector.code, collector.retry_after = code, "0"
    with exporting(rings(record(1)), collector.url, tmp_path) as made:
        collector.wait(lambda: collector.requests == 2)
        collector.code = 200
        collector.wait(lambda: len(collector.spans) == 6)
    assert made.counts() == {"exported": 6, "export_failed": 0}
    assert collector.spans == spans_of(record(1))


def test_collector_that_asks_for_too_long_a_wait_is_not_waited_for(
    collector: Collector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick(monkeypatch)
    collector.code, collector.retry_after = 503, "3600"
    with exporting(rings(record(1)), collector.url, tmp_path) as made:
        until(lambda: made.counts()["export_failed"] == 6)
    assert collector.requests == 1
    assert made.counts() == {"exported": 0, "export_failed": 6}


def until(condition: Callable[[], bool]) -> None:
    by_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < by_s
        time.sleep(0.002)


def test_headers_and_compression_are_those_of_the_environment(collector: Collector, tmp_path: Path) -> None:
    environ = {
        "OTEL_EXPORTER_OTLP_HEADERS": "never=heard",
        "OTEL_EXPORTER_OTLP_TRACES_HEADERS": " X-Tenant = a , Authorization=Basic%20dTpw%3D,",
        "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
    }
    with exporting(rings(record(1)), collector.url, tmp_path, environ):
        collector.wait(lambda: len(collector.spans) == 6)
    [headers] = collector.headers
    assert (headers["x-tenant"], headers["authorization"]) == ("a", "Basic dTpw=")
    assert (headers["content-encoding"], headers["content-type"]) == ("gzip", "application/x-protobuf")
    assert "never" not in headers


@pytest.mark.parametrize(
    "text", ["SECRET", "a=b,SECRET", "a b=SECRET", "a=SECRET%0d%0Ab: c", "\u00e4=SECRET", "=SECRET"]
)
def test_header_that_is_none_is_refused_without_a_word_of_it(text: str) -> None:
    with pytest.raises(ValueError, match="OTEL_EXPORTER_OTLP_HEADERS") as refused:
        headers_of({"OTEL_EXPORTER_OTLP_HEADERS": text})
    assert "SECRET" not in str(refused.value)


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


@pytest.mark.parametrize(
    "endpoint",
    [
        "http://me:SECRET@127.0.0.1:4318",
        "https://SECRET@collector/v1/traces",
        "me:SECRET@collector:4317",
        "//u:SECRET@c",
    ],
)
def test_endpoint_with_a_password_is_refused_and_the_password_not_repeated(tmp_path: Path, endpoint: str) -> None:
    with pytest.raises(ValueError, match=r"OTEL_EXPORTER_OTLP_HEADERS|http://HOST:PORT") as refused:
        traces_url(endpoint)
    assert "SECRET" not in str(refused.value)
    done = everopen("serve", "--data-dir", tmp_path / "data", "--otlp-endpoint", endpoint)
    assert done.returncode == Exit.ARGUMENT
    assert "--otlp-endpoint" in done.stderr
    assert "SECRET" not in done.stdout + done.stderr
    assert not (tmp_path / "data").exists()


GET_WORKERS = "everopen.v1.ClusterService/GetWorkers"


def workers(address: str, *metadata: tuple[str, str]) -> None:
    with grpc.insecure_channel(address) as channel:
        stub = ClusterServiceStub(channel)  # type: ignore[no-untyped-call]
        stub.GetWorkers(cluster.GetWorkersRequest(), metadata=metadata, timeout=PATIENCE_S)


def test_engine_exports_the_calls_whose_parent_is_sampled(collector: Collector, tmp_path: Path) -> None:
    """The span of its caller is the parent; a call whose caller was not sampled is not there."""
    arguments = ["--otlp-endpoint", collector.url, "--followers", "0"]
    with LocalEngine(tmp_path / "data", arguments=arguments) as engine, Client(engine.address) as client:
        client.seed()
        client.orders.PlaceOrder(order("without"), metadata=[("traceparent", f"00-{TRACE}-{PARENT}-00")])
        client.orders.PlaceOrder(order("with"), metadata=[("traceparent", f"00-{TRACE}-{PARENT}-01")])
        workers(engine.address, ("traceparent", f"00-{TRACE}-{PARENT}-01"))
        collector.wait(lambda: any(span.name == GET_WORKERS for span in collector.spans))
        collector.wait(lambda: any(span.name.endswith("/PlaceOrder") for span in collector.spans))
    [relayed] = [span for span in collector.spans if span.name == GET_WORKERS]
    assert (relayed.trace_id.hex(), relayed.parent_span_id.hex()) == (TRACE, PARENT)
    assert attributes(relayed)["rpc.grpc.status_code"] == 0
    assert relayed.end_time_unix_nano > relayed.start_time_unix_nano
    [call] = [span for span in collector.spans if span.name.endswith("/PlaceOrder")]
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


@pytest.mark.parametrize("text", ["Fri, 31 Dec 99999 23:59:59 GMT", "9" * 5_000, "soon", "-1"])
def test_time_to_wait_that_cannot_be_read_is_none(text: str) -> None:
    answer = urllib3.HTTPResponse(headers={"Retry-After": text}, status=503)
    assert traces.asked_s(answer) == 0
