"""Who behaves beside who does harm: the p99 of an open loop, abused over quiet.

Load: one-line orders at an open-loop 2,000/s from `everopen bench`'s generator, beside one abuse at a time from a
process of its own (tests/front/abuses.py), again and again without a pause, or 10,000 idle connections. The server has
a core to itself, and its bounds as shipped but for message_ms, so that slow senders meet theirs before they are given
up. The abuser shares the generator's core and stands behind it, which alone makes the generator late. So a round has
three parts: quiet; beside the abuser while it does the same to a socket of its own; abused. Figures are medians of the
rounds' ratios, with quartiles. Excluded: catalogue, connecting, warm-up. Checks: every answer, the audit afterwards,
that each abuse raised its counter. EVEROPEN_BENCH_SECONDS is what a part lasts.
"""

from __future__ import annotations

import importlib
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from bench.conftest import ROOT, TINY, Figures
from bench.front import GENERATOR_CORE, MAIN, Served, Spread, pinned, served
from engine.loadgen import Options
from everopen.v1 import cluster_service_pb2 as cluster
from everopen.v1.cluster_service_pb2_grpc import ClusterServiceStub

ROUNDS = 1 if TINY else 5
SECONDS = 0.2 if TINY else float(os.environ.get("EVEROPEN_BENCH_SECONDS") or 3)
WARMUP_S = 0.05 if TINY else 0.5
RATE = 200 if TINY else 2_000
IDLE = 100 if TINY else min(10_000, resource.getrlimit(resource.RLIMIT_NOFILE)[1] - 2_000)
IDLE_CONNECTIONS = "idle connections"
# The check at the end needs the whole log, so no snapshot lets any of it go.
ARGUMENTS = (*MAIN, "--front-setting", "message_ms=100", "--snapshot-s", "86400", "--snapshot-bytes", str(1 << 40))
# Whom the abuser abuses where only its own weight counts.
ITSELF = "self"
BEHIND = 10
# Nothing is decided by it: an abuse that meets no bound for so long fails.
PATIENCE_S = 30.0
# What is typed loosely in the tests is not to be judged here.
ABUSES: Any = importlib.import_module("tests.front.abuses").ABUSES


@pytest.fixture(scope="module")
def engine(data_dir: Path) -> Iterator[Served]:
    with served(data_dir / "data", arguments=ARGUMENTS) as engine:
        yield engine


@contextmanager
def abused(address: str, name: str) -> Iterator[None]:
    """From the moment at which the abuse has begun until it has ended."""
    lasts_s = 10 * (SECONDS + WARMUP_S) + 30
    command = [sys.executable, "-m", "tests.front.abuses", address, name, str(lasts_s)]
    environment = {**os.environ, "EVEROPEN_IDLE_CONNECTIONS": str(IDLE)}
    with (
        pinned(GENERATOR_CORE),
        subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            preexec_fn=lambda: os.nice(BEHIND) and None,
        ) as abuser,
    ):
        try:
            assert abuser.stdout is not None
            assert abuser.stdout.readline() == b"begun\n"
            yield
            assert abuser.poll() is None, "it ended before its time"
        finally:
            abuser.kill()


def counters(engine: Served) -> dict[str, int]:
    with grpc.insecure_channel(engine.engine.address) as channel:
        stub: Any = ClusterServiceStub(channel)  # type: ignore[no-untyped-call]
        answer = stub.GetWorkers(cluster.GetWorkersRequest(), timeout=30)
    return {name: sum(worker.counters[name] for worker in answer.workers) for name in answer.workers[0].counters}


@pytest.mark.parametrize("name", [*ABUSES, IDLE_CONNECTIONS])
def test_well_behaved_beside_abuse(engine: Served, figures: Figures, name: str) -> None:
    raised = ("connections_accepted",) if name == IDLE_CONNECTIONS else ABUSES[name].counters
    before = counters(engine)
    quiet_ms, busy_ms, abused_ms = [], [], []
    for _ in range(ROUNDS):
        quiet_ms.append(p99_ms(engine))
        with abused(ITSELF, name):
            busy_ms.append(p99_ms(engine))
        with abused(engine.engine.address, name):
            abused_ms.append(p99_ms(engine))
            await_risen(engine, before, raised)
    title = f"{RATE:,}/s beside {f'{IDLE:,} ' if name == IDLE_CONNECTIONS else ''}{name}, p99"
    figures.note(f"{title} in ms", str(Spread(abused_ms)))
    figures.note(f"{title} over quiet (bar 2)", str(over(abused_ms, quiet_ms)))
    figures.note(f"{title} over beside the abuser alone (bar 2)", str(over(abused_ms, busy_ms)))


def over(some_ms: list[float], others_ms: list[float]) -> Spread:
    return Spread([some / other for some, other in zip(some_ms, others_ms, strict=True)])


def await_risen(engine: Served, before: dict[str, int], names: tuple[str, ...]) -> None:
    """One of these at least."""
    until = time.monotonic() + PATIENCE_S
    while all(counters(engine)[name] <= before[name] for name in names):
        assert time.monotonic() < until, f"none of {names} has risen"


def p99_ms(engine: Served) -> float:
    options = Options(rate=RATE, streams=128, seconds=SECONDS, warmup_s=WARMUP_S)
    return engine.load(options, spin=False).percentile_ns(99) / 1e6
