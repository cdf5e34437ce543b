"""What guarding and watching cost: the server's CPU time for an order, with over without.

Load: one-line orders with unique ids over 100 SKUs of one shop at a fixed rate, open loop, from `everopen bench`'s
generator on one core; each of two engines in turn, all of it (`--workers 1 --followers 0`) on the other. Ten pairs that
alternate; figures are medians of their ratios with quartiles. CPU time is that of all the engine's threads
(/proc/PID/task/*/schedstat, Documentation/scheduler/sched-stats.rst of the kernel), so that the kernel's part of
sockets and disk is in it, and the connecting: 8 handshakes for 60,000 orders. Excluded: the catalogue, a first round.
Checks: every answer, the audit afterwards, and that the log has what was acknowledged.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from bench.conftest import ROOT, TINY, Figures
from bench.front import MAIN, Served, Spread, family, served
from engine.front_settings import VALUE_MAX
from engine.loadgen import Options
from engine.local import everopen_command
from tests.front.authority import Authority

PAIRS = 1 if TINY else int(os.environ.get("EVEROPEN_BENCH_ROUNDS") or 10)
SECONDS = 0.2 if TINY else float(os.environ.get("EVEROPEN_BENCH_SECONDS") or 3)
RATE = 200 if TINY else 20_000
ORDERS = Options(rate=RATE, streams=64, seconds=SECONDS, warmup_s=0)
SCOPES = ("orders:write", "orders:read", "catalogue:write", "catalogue:read")


class Collector(BaseHTTPRequestHandler):
    """Takes what is exported, and forgets it."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def folder(data_dir: Path) -> Path:
    return Path(tempfile.mkdtemp(dir=data_dir))


@pytest.fixture(scope="module")
def collector() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Collector) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def cpu_ns(pid: int) -> int:
    """Of all threads of a process and its children, as far as they live."""
    return sum(
        int(stat.read_text().split()[0])
        for process in family(pid)
        for stat in Path(f"/proc/{process}/task").glob("*/schedstat")
    )


def cpu_ns_of_an_order(engine: Served, options: Options) -> float:
    before = cpu_ns(engine.engine.pid)
    result = engine.load(replace(options, run_id=secrets.token_hex(5)))
    return (cpu_ns(engine.engine.pid) - before) / result.placed


def compare(
    folder: Path,
    figures: Figures,
    name: str,
    guarded: tuple[str, ...] = (),
    options: Options = ORDERS,
    plain: tuple[str, ...] = (),
) -> None:
    """guarded, plain: arguments of `serve`; options: how the guarded one is spoken to."""
    with (
        served(folder / "plain", arguments=(*MAIN, *plain)) as without,
        served(folder / "guarded", arguments=(*MAIN, *guarded)) as with_,
    ):
        cpu_ns_of_an_order(without, ORDERS), cpu_ns_of_an_order(with_, options)
        pairs = [(cpu_ns_of_an_order(with_, options), cpu_ns_of_an_order(without, ORDERS)) for _ in range(PAIRS)]
    spent = Spread([plain_ns / 1e3 for _, plain_ns in pairs])
    figures.note(f"CPU of an order at {RATE:,}/s, all but {name}, us", str(spent))
    figures.note(f"CPU of an order at {RATE:,}/s, with {name} over without", str(Spread([a / b for a, b in pairs])))


def test_tls(folder: Path, figures: Figures) -> None:
    authority = Authority(folder, "authority")
    certificate, key = authority.issue("server").pair
    options = replace(ORDERS, tls_ca=str(authority.certificate))
    compare(folder, figures, "TLS (bar 1.5, reach for 1.2)", ("--tls-cert", certificate, "--tls-key", key), options)


def test_credentials(folder: Path, figures: Figures) -> None:
    make = [*everopen_command(), "keys", "make", "bench", "--data-dir", str(folder / "guarded")]
    make += [word for scope in SCOPES for word in ("--scope", scope)]
    made = subprocess.run(make, cwd=ROOT, check=True, capture_output=True, text=True)
    key = next(word for word in made.stdout.split() if word.startswith("eo_"))
    compare(folder, figures, "an API key (bar 1.05)", options=replace(ORDERS, headers=(("x-api-key", key),)))


def test_metrics(folder: Path, figures: Figures) -> None:
    never = ("--front-setting", f"measured_every={VALUE_MAX}")
    compare(folder, figures, "stage metrics (bar 1.03)", ("--metrics-listen", "127.0.0.1:0"), plain=never)


def test_traces(folder: Path, figures: Figures, collector: str) -> None:
    traced = ("--trace-ratio", "0.01", "--otlp-endpoint", collector)
    compare(folder, figures, "1 % of calls traced (bar 1.03)", traced)
