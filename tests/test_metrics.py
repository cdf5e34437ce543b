"""What a scraper gets: names and units as Prometheus wants them, histograms that add up, counters that never fall."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import tempfile
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from engine import metrics_server
from engine._core import COUNTER_NAMES, SHARD_FIGURE_NAMES
from engine.exits import Exit
from engine.local import LocalEngine
from engine.metrics import format_for, render
from engine.metrics_server import HEAD_BYTES_MAX, MetricsServer
from engine.runtime import named
from engine.sampling import GAUGES, SHARD_GAUGES, Sample, Sampler, Totals
from tests.boards import BOUNDS, EXPIRES_UNIX_S, FakeBoard, said, sampler
from tests.serving import ROOT, Client, everopen, order

LABELS = {"worker", "shard", "reason", "stage", "outcome", "method", "version", "le", "file"}
# What a name may not end with, since the base units are seconds and bytes.
OTHER_UNITS = re.compile(r"_(ns|us|ms|millis|minutes|kib|mib|kb|mb|ppm|percent|per_s)(_total)?$")


def scraped(text: str) -> dict[str, Metric]:
    families = list(parse_text(text))
    assert len({family.name for family in families}) == len(families), "a family stands there once"
    return {family.name: family for family in families}


def values(family: Metric) -> dict[frozenset[str], float]:
    """By the values of its labels, none of which is that of two labels."""
    return {frozenset(sample.labels.values()): sample.value for sample in family.samples}


def at(families: dict[str, Metric], name: str, *labels: str) -> float:
    return values(families[name])[frozenset(labels)]


def figures(text: str) -> dict[tuple[str, frozenset[str]], float]:
    """By family and the values of its labels."""
    return {(name, labels): value for name, family in scraped(text).items() for labels, value in values(family).items()}


@pytest.fixture
def board() -> FakeBoard:
    return FakeBoard()


def text_of(board: FakeBoard, folder: Path) -> str:
    return render(sampler(board, folder).sample())[0].decode()


def test_exposition_keeps_the_conventions(board: FakeBoard, tmp_path: Path) -> None:
    families = scraped(text_of(board, tmp_path))
    for name, family in families.items():
        assert re.fullmatch(r"everopen_[a-z0-9_]+", name)
        assert family.documentation, name
        assert not OTHER_UNITS.search(name), f"{name}: base units are seconds and bytes"
        assert not name.endswith("_total") or family.type != "gauge", f"{name}: only counters are totals"
        for sample in family.samples:
            assert sample.labels.keys() <= LABELS, f"{sample.name}: a label that nobody knows"
            assert family.type != "counter" or sample.name.endswith("_total"), sample.name
            assert sample.value >= 0
        assert family.type in ("counter", "gauge", "histogram"), name


def test_exposition_parses_as_openmetrics_too(board: FakeBoard, tmp_path: Path) -> None:
    accept = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"
    body, content_type = render(sampler(board, tmp_path).sample(), accept)
    assert content_type.startswith("application/openmetrics-text")
    names = {family.name for family in parse_openmetrics(body.decode())}
    assert names == {family.name.removesuffix("_total") for family in parse_text(text_of(board, tmp_path))}


@pytest.mark.parametrize("name", [name for name in COUNTER_NAMES if name not in GAUGES])
def test_every_counter_of_the_board_is_in_one_metric(board: FakeBoard, tmp_path: Path, name: str) -> None:
    nothing = figures(text_of(board, tmp_path))
    board.workers[1][name] = 7
    something = figures(text_of(board, tmp_path))
    changed = {
        (family, labels): value - nothing.get((family, labels), 0)
        for (family, labels), value in something.items()
        if family.startswith("everopen_") and value != nothing.get((family, labels), 0)
        if "heartbeat" not in family
    }
    assert list(changed.values()) == [7]
    [(_, labels)] = changed
    assert "1" in labels


@pytest.mark.parametrize("name", [name for name in SHARD_FIGURE_NAMES if name not in SHARD_GAUGES])
def test_every_counter_of_a_shard_is_in_one_metric(board: FakeBoard, tmp_path: Path, name: str) -> None:
    board.figures[0][name] = 7_000_000_000
    found = [
        (family.name, sample.value)
        for family in scraped(text_of(board, tmp_path)).values()
        for sample in family.samples
        if sample.value in (7.0, 7e9)
    ]
    assert [value for _, value in found] == [7.0 if name.endswith("_ns") else 7e9]


@pytest.mark.parametrize(
    ("file", "enum", "prefix", "gauges"),
    [
        ("_board.pxi", "FrontCounter", "", GAUGES),
        ("_board_figures.pxi", "ShardFigure", "shard_", SHARD_GAUGES - {"follower_sequence"}),
    ],
)
def test_gauges_are_those_that_the_native_code_calls_so(
    file: str, enum: str, prefix: str, gauges: frozenset[str]
) -> None:
    text = (ROOT / "engine" / file).read_text()
    body = text[text.index(f"cpdef enum {enum}:") :]
    lines = body[: body.index("_END")].splitlines()[1:]
    found = set()
    also = 0
    counted = {"six": 6}
    for line in lines:
        name = line.split("#")[0].split("=")[0].strip().lower().removeprefix(prefix)
        if "gauge" in line or also:
            found.add(name)
        also = counted[line.split()[-1]] if "as the next" in line else max(0, also - 1)
    assert found == gauges


def test_histogram_is_cumulative_and_its_count_is_its_last_bucket(board: FakeBoard, tmp_path: Path) -> None:
    counts, _ = board.stages[0, "sync"]
    counts[0], counts[5], counts[-1] = 3, 4, 2
    board.stages[0, "sync"] = (counts, 5 * 10**9)
    family = scraped(text_of(board, tmp_path))["everopen_call_duration_seconds"]
    samples = [
        sample for sample in family.samples if (sample.labels["worker"], sample.labels["stage"]) == ("0", "sync")
    ]
    buckets = {float(sample.labels["le"]): sample.value for sample in samples if sample.name.endswith("_bucket")}
    assert list(buckets) == sorted(buckets)
    assert list(buckets.values()) == sorted(buckets.values())
    assert list(buckets)[-1] == float("inf")
    assert (min(buckets.values()), buckets[float("inf")]) == (3, 9)
    assert {sample.name.rpartition("_")[2]: sample.value for sample in samples if "le" not in sample.labels} == {
        "count": 9,
        "sum": 5,
    }
    assert 1e-7 < min(buckets) < 1e-5, "seconds"


LIVES = st.lists(
    st.tuples(st.integers(1, 3), st.lists(st.integers(0, 50), min_size=1, max_size=4)), min_size=1, max_size=6
)


@given(lives=LIVES, control_restarts=st.integers(0, 5))
def test_total_is_what_all_processes_counted_and_never_falls(
    lives: list[tuple[int, list[int]]], control_restarts: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "totals.json"
        totals, seen, expected = Totals(path), 0, 0
        for epoch, (_, growth) in enumerate(lives, 1):
            count = 0
            for more in growth:
                count += more
                expected += more
                total = totals.add("place", epoch, {"count": count})["count"]
                assert total == expected >= seen
                seen = total
                totals.keep()
                if epoch % 6 < control_restarts:
                    totals = Totals(path)


@given(counts=st.lists(st.integers(0, 20), min_size=1, max_size=12))
def test_total_of_an_unknown_process_never_falls(counts: list[int]) -> None:
    totals = Totals(Path(os.devnull))
    expected = sum(
        max(0, now - before) if now >= before else now for before, now in zip([0, *counts], counts, strict=False)
    )
    found = [totals.add("place", 0, {"count": count})["count"] for count in counts]
    assert found == sorted(found)
    assert found[-1] == expected


def test_restart_of_a_worker_and_of_the_supervisor_lowers_no_counter(board: FakeBoard, tmp_path: Path) -> None:
    board.workers[0]["calls_answered"] = 10
    board.stages[0, "total"][0][2] = 6
    board.figures[0]["commits"] = 9
    made = sampler(board, tmp_path, restarts=2)
    made.sample()
    board.begin(0, 300)
    board.lead(0)
    board.workers[0]["calls_answered"] = 4
    board.figures[0]["commits"] = 1
    made.update(said(pids=(300, 101), since_ns=2))
    # The histograms of a slot that has just been begun may still be those of the one before.
    made.sample()
    board.stages[0, "total"][0][2] = 1
    found = scraped(render(made.sample())[0].decode())
    assert at(found, "everopen_calls_answered", "0") == 14
    assert at(found, "everopen_call_duration_seconds", "0", "total", "+Inf") == 7
    assert at(found, "everopen_log_commits", "0") == 10
    assert at(found, "everopen_worker_restarts", "0") == 2


def test_board_of_a_dead_worker_is_no_state_of_the_next(board: FakeBoard, tmp_path: Path) -> None:
    board.workers[0]["connections"] = 9
    board.workers[1]["connections"] = 4
    found = scraped(render(sampler(board, tmp_path, pids=(555, 101)).sample())[0].decode())
    assert values(found["everopen_connections"]) == {frozenset("0"): 0, frozenset("1"): 4}
    assert list(values(found["everopen_worker_heartbeat_age_seconds"])) == [frozenset("1")]


def test_certificate_and_files_are_as_each_worker_said_and_failures_add_up(board: FakeBoard, tmp_path: Path) -> None:
    failing = [7]
    made = Sampler(board, BOUNDS, [], tmp_path / "totals.json", said(), lambda: failing[0])
    found = scraped(render(made.sample())[0].decode())
    expires = "everopen_tls_certificate_expiry_timestamp_seconds"
    assert values(found[expires]) == {frozenset("0"): EXPIRES_UNIX_S}
    failed = "everopen_identity_reloads_failed"
    assert [at(found, failed, "0", file) for file in ("keys", "jwks", "callers")] == [0, 3, 0]
    assert at(found, failed, "1", "jwks") == 0
    assert at(found, "everopen_audit_lines_failed") == 7
    # The next worker, which has failed once; and a control server that has begun anew.
    again = said(pids=(300, 101))
    again["figures"]["guards"][0]["files_failed"]["jwks"] = 1
    made.update(again)
    failing[0] = 9
    found = scraped(render(made.sample())[0].decode())
    assert at(found, failed, "0", "jwks") == 4
    assert at(found, "everopen_audit_lines_failed") == 9
    again["figures"].pop("guards")
    made.update(again)
    found = scraped(render(made.sample())[0].decode())
    assert (at(found, failed, "0", "jwks"), values(found.get(expires, Metric("x", "", "gauge")))) == (4, {})


# Over HTTP.


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalEngine]:
    folder = tmp_path_factory.mktemp("metrics")
    arguments = ["--metrics-listen", f"unix:{folder}/metrics.sock", "--heartbeat-ms", "20000", "--followers", "0"]
    with LocalEngine(folder / "data", arguments=arguments) as running:
        yield running


async def ask(path: Path, request: bytes) -> tuple[str, dict[str, str], str]:
    reader, writer = await asyncio.open_unix_connection(str(path))
    with closing(writer):
        writer.write(request)
        answer = ""
        # Of what is not answered the rest may not be read either.
        with suppress(ConnectionError):
            answer = (await reader.read()).decode()
    head, _, body = answer.partition("\r\n\r\n")
    first, *lines = head.split("\r\n")
    return first, dict(line.lower().split(": ", 1) for line in lines), body


async def got(engine: LocalEngine, path: str, method: str = "GET") -> tuple[str, dict[str, str], str]:
    socket_path = engine.data_dir.parent / "metrics.sock"
    return await ask(socket_path, f"{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())


async def eventually(engine: LocalEngine, holds: Callable[[dict[str, Metric]], bool]) -> dict[str, Metric]:
    async with asyncio.timeout(30):
        while True:
            try:
                _, _, body = await got(engine, "/metrics")
            except OSError:
                # Between two control processes.
                body = ""
            if body and holds(scraped(body)):
                return scraped(body)
            await asyncio.sleep(0.05)


def total(found: dict[str, Metric], name: str) -> float:
    return sum(values(found[name]).values()) if name in found else 0


def process(engine: LocalEngine, name: str) -> int:
    return next(child.pid for child in named(engine.data_dir) if child.name == name)


async def test_engine_counts_what_was_placed_over_deaths_of_its_processes(engine: LocalEngine) -> None:
    with Client(engine.address) as client:
        client.seed()
        for number in range(20):
            client.orders.PlaceOrder(order(f"o-{number}"))
    # The catalogue has outcomes too, and what is placed is seen a moment after it was answered.
    placed = await eventually(
        engine,
        lambda found: total(found, "everopen_outcomes") >= 20 and at(found, "everopen_outcomes", "0", "placed") >= 20,
    )
    answered = total(placed, "everopen_calls_answered")
    assert answered >= 20
    assert at(placed, "everopen_outcomes", "0", "placed") == 20
    # What is kept for the next control process is at most a second old.
    os.kill(process(engine, "worker 0"), signal.SIGKILL)
    after = await eventually(engine, lambda found: total(found, "everopen_worker_restarts") == 1)
    assert total(after, "everopen_calls_answered") >= answered
    before = process(engine, "control server")
    os.kill(before, signal.SIGKILL)
    again = await eventually(engine, lambda found: process(engine, "control server") != before)
    assert total(again, "everopen_calls_answered") >= answered
    assert total(again, "everopen_worker_restarts") == 1
    assert at(again, "everopen_outcomes", "0", "placed") >= 20


async def test_healthz_says_whether_every_shard_is_served(engine: LocalEngine) -> None:
    async with asyncio.timeout(30):
        while (answer := await got(engine, "/healthz"))[0] != "HTTP/1.1 200 OK":
            assert (answer[0], answer[2].split()[0]) == ("HTTP/1.1 503 Service Unavailable", "shard")
            await asyncio.sleep(0.05)
    assert answer[2] == "serving\n"


@pytest.mark.parametrize(
    ("method", "path", "code"),
    [("POST", "/metrics", "405"), ("GET", "/", "404"), ("GET", "/status", "404"), ("GET", "/metrics?x=1", "200")],
)
async def test_other_requests_are_answered_as_http_has_it(
    engine: LocalEngine, method: str, path: str, code: str
) -> None:
    assert (await got(engine, path, method))[0].split()[1] == code


async def test_head_has_the_length_and_no_body(engine: LocalEngine) -> None:
    first, fields, body = await got(engine, "/metrics", "HEAD")
    assert (first, body) == ("HTTP/1.1 200 OK", "")
    assert int(fields["content-length"]) > 1_000


@pytest.fixture
async def server(board: FakeBoard, tmp_path: Path) -> AsyncIterator[Path]:
    made = sampler(board, tmp_path)
    serving = MetricsServer(made.sample)
    path = tmp_path / "metrics.sock"
    await serving.serve_status(str(path))
    yield path
    serving.close()
    assert not path.exists()


async def test_storm_of_scrapes_takes_one_sample_and_renders_each_format_once(
    board: FakeBoard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = sampler(board, tmp_path)
    now_s, samples, rendered = [100.0], [0], [0]

    def sample() -> Sample:
        samples[0] += 1
        return made.sample()

    def counted(*arguments: Any) -> tuple[bytes, str]:
        rendered[0] += 1
        return render(*arguments)

    monkeypatch.setattr(metrics_server, "render", counted)
    serving = MetricsServer(sample, lambda: now_s[0])
    path = tmp_path / "metrics.sock"
    await serving.serve_status(str(path))
    with closing(serving):
        board.workers[0]["calls_answered"] = 1
        accepts = ("", "application/openmetrics-text;version=1.0.0", "application/openmetrics-text; version=1.0.0,a/b")
        for accept in accepts:
            asked = f"GET /metrics HTTP/1.1\r\nAccept: {accept}\r\n\r\n".encode()
            answers = await asyncio.gather(*(ask(path, asked) for _ in range(10)))
            assert {answer[0] for answer in answers} == {"HTTP/1.1 200 OK"}
        assert (await ask(path, b"GET /healthz HTTP/1.1\r\n\r\n"))[0]
        assert (samples, rendered) == ([1], [2])
        board.workers[0]["calls_answered"] = 5
        found = scraped((await ask(path, b"GET /metrics HTTP/1.1\r\n\r\n"))[2])
        assert at(found, "everopen_calls_answered", "0") == 1
        now_s[0] += metrics_server.FRESH_S
        found = scraped((await ask(path, b"GET /metrics HTTP/1.1\r\n\r\n"))[2])
        assert at(found, "everopen_calls_answered", "0") == 5
        assert (samples, rendered) == ([2], [3])
        # Who shows rates looks twice in less than that, and is the engine's own user.
        for _ in range(2):
            assert (await ask(path, b"GET /status HTTP/1.1\r\n\r\n"))[0] == "HTTP/1.1 200 OK"
        assert samples == [4]


@pytest.mark.parametrize(
    "request_bytes", [b"\0" * 64 + b"\r\n\r\n", b"GET\r\n\r\n", b"x" * 2 * HEAD_BYTES_MAX], ids=len
)
async def test_request_that_is_none_does_no_harm(server: Path, request_bytes: bytes) -> None:
    first, _, _ = await ask(server, request_bytes)
    assert first == "" or first.split()[1] in ("404", "405")
    assert (await ask(server, b"GET /metrics HTTP/1.1\r\n\r\n"))[0] == "HTTP/1.1 200 OK"


async def test_peer_that_says_nothing_is_given_up(server: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_server, "REQUEST_S_MAX", 0.01)
    assert await ask(server, b"GET /metr") == ("", {}, "")


async def test_more_connections_than_the_bound_are_closed_at_once(server: Path) -> None:
    held = [await asyncio.open_unix_connection(str(server)) for _ in range(metrics_server.CONNECTIONS_MAX)]
    assert await ask(server, b"GET /healthz HTTP/1.1\r\n\r\n") == ("", {}, "")
    for _, writer in held:
        writer.close()
    async with asyncio.timeout(30):
        while not (await ask(server, b"GET /healthz HTTP/1.1\r\n\r\n"))[0]:
            pass


def port_of(log: str) -> str:
    found = re.findall(r'"port":(\d+),"event":"metrics are served"', log)
    assert found
    return str(found[-1])


def families(port: str) -> dict[str, Metric]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
        return scraped(answer.read().decode())


TCP = ("--metrics-listen", "127.0.0.1:0", "--followers", "0", "--heartbeat-ms", "20000")


def test_metrics_are_served_over_tcp_and_the_port_is_free_again(tmp_path: Path) -> None:
    with LocalEngine(tmp_path / "data", arguments=TCP) as running:
        port = port_of(running.log_path.read_text())
        assert "everopen_build_info" in families(port)
    with pytest.raises(urllib.error.URLError):
        families(port)


def test_port_of_the_metrics_stays_over_deaths_of_the_control_server_and_of_the_supervisor(tmp_path: Path) -> None:
    path = tmp_path / "data"
    with LocalEngine(path, arguments=TCP) as running:
        port = port_of(running.log_path.read_text())
        # Who asks meanwhile waits until there is one again.
        os.kill(process(running, "control server"), signal.SIGKILL)
        assert "everopen_build_info" in families(port)
        running.kill_supervisor()
        assert "everopen_build_info" in families(port)
        with LocalEngine(path, arguments=TCP) as again:
            assert again.log_path.read_text().count("adopted") > 0
            assert "everopen_build_info" in families(port)
            os.kill(process(again, "control server"), signal.SIGKILL)
            assert "everopen_build_info" in families(port), "the next supervisor has it too"


def test_address_of_another_engine_is_refused(engine: LocalEngine, tmp_path: Path) -> None:
    path = engine.data_dir.parent / "metrics.sock"
    inode = path.stat().st_ino
    with LocalEngine(tmp_path / "data", arguments=TCP) as running:
        port = port_of(running.log_path.read_text())
        for taken in (f"127.0.0.1:{port}", f"unix:{path}"):
            done = everopen("serve", "--data-dir", tmp_path / "other", "--listen", "127.0.0.1:0", TCP[0], taken)
            assert done.returncode == Exit.UNUSABLE
            assert f"metrics: cannot listen on {taken}: Address already in use" in done.stderr
            assert "Traceback" not in done.stderr
        assert "everopen_build_info" in families(port)
    assert path.stat().st_ino == inode


@pytest.mark.parametrize(
    ("option", "value", "said_is"),
    [
        ("--metrics-listen", "0.0.0.0:9100", "--insecure-listen"),
        ("--metrics-listen", "nowhere", "HOST:PORT"),
        ("--otlp-endpoint", "collector:4317", "http://HOST:PORT"),
    ],
)
def test_option_that_makes_no_sense_is_refused(tmp_path: Path, option: str, value: str, said_is: str) -> None:
    done = everopen("serve", "--data-dir", tmp_path / "data", option, value)
    assert done.returncode == Exit.ARGUMENT
    assert said_is in done.stderr
    assert option in done.stderr
    assert not (tmp_path / "data").exists()


def test_versions_that_nobody_knows_make_no_formats() -> None:
    kinds = {
        format_for(f"application/openmetrics-text; version=1.0.{number}; escaping=e{number}")[1] for number in range(50)
    }
    assert kinds <= {format_for("")[1], format_for("application/openmetrics-text; version=1.0.0")[1]}
