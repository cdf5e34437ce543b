"""What an engine does when its processes die, are replaced, or have much to write down.

Load: one-line orders with unique ids over 100 SKUs of one shop, sent again with the same id where no answer came, from
`everopen bench`'s generator on one core; all of the engine (`--workers 1 --followers 1`) has another core to itself.
Open loops are reckoned from when an order was first due. Figures are medians of five with quartiles. Excluded: filling,
and the wait for a follower before each blow. Checks, on an engine of its own for each row: the audit holds afterwards,
and each order that was acknowledged is once in the log. EVEROPEN_BENCH_LONG=1 places and closes 50 million orders;
`make kills` kills 500 processes.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Literal

import pytest

from bench import kills
from bench.conftest import ROOT, TINY, Figures
from bench.front import SERVER_CORE, Spread, pinned
from bench.reliability import DAY_MS, DAY_S, Upheld, progress, until
from engine.loadgen import Background, Options
from engine.local import everopen_command

ROUNDS = 1 if TINY else int(os.environ.get("EVEROPEN_BENCH_ROUNDS") or 5)
RATE = 200 if TINY else 5_000
MILLION = 1_000 if TINY else int(os.environ.get("EVEROPEN_BENCH_MILLION") or 1_000_000)
# Between two beginnings of snapshots; five million orders take about 12 s.
SNAPSHOT_S = 1 if TINY else int(os.environ.get("EVEROPEN_BENCH_SNAPSHOT_S") or 40)
# How long all is quiet before a blow, and what is counted after one.
SETTLE_S = 0.05 if TINY else 2.0
CHURNED = 4 * MILLION if TINY else (50 if os.environ.get("EVEROPEN_BENCH_LONG") == "1" else 2) * MILLION
OPEN_AT_A_TIME = MILLION // 10
# Closed orders are remembered for this long, so it must be short against the run.
WINDOW_MS = 1_000
KILLS = 2 if TINY else 10

FOLLOWED = ("--workers", "1", "--followers", "1")
NO_SNAPSHOTS = ("--snapshot-s", str(DAY_S), "--snapshot-bytes", str(1 << 40))
SNAPSHOTS = ("--snapshot-s", str(SNAPSHOT_S), "--snapshot-bytes", str(1 << 40))

STEADY = Options(rate=RATE, streams=64, seconds=DAY_S, warmup_s=0, spin=not TINY, reserve_ttl_ms=DAY_MS)


# What is tiny shares an engine: its rows fail for the same reasons anyway.
EACH_ROW: Literal["module", "function"] = "module" if TINY else "function"


@pytest.fixture(scope=EACH_ROW)
def folder(data_dir: Path) -> Path:
    return Path(tempfile.mkdtemp(dir=data_dir))


@pytest.fixture(scope=EACH_ROW)
def quiet(folder: Path) -> Iterator[Upheld]:
    """Without snapshots."""
    if TINY:
        yield from upheld(folder / "data", *FOLLOWED, *SNAPSHOTS)
    else:
        yield from upheld(folder / "data", *FOLLOWED, *NO_SNAPSHOTS)


@pytest.fixture(scope=EACH_ROW)
def busy(folder: Path, request: pytest.FixtureRequest) -> Iterator[Upheld]:
    """With a snapshot every now and then."""
    if TINY:
        yield request.getfixturevalue("quiet")
    else:
        yield from upheld(folder / "data", *FOLLOWED, *SNAPSHOTS)


def upheld(
    data_dir: Path, *arguments: str, core: int | None = SERVER_CORE, window_ms: int | None = None
) -> Iterator[Upheld]:
    with Upheld(data_dir, *arguments, core=core, window_ms=window_ms) as engine:
        yield engine
        reckoning = engine.check()
        assert reckoning.holds, reckoning


def milliseconds(values: list[int]) -> str:
    return str(Spread([value / 1e6 for value in values]))


def settle(running: Background) -> None:
    """Load alone for a while."""
    time.sleep(SETTLE_S)
    progress(running, 1)


def until_said(engine: Upheld, event: str, times: int) -> None:
    until(lambda: engine.said(event) >= times, event, pause_s=0.1)


def gaps(engine: Upheld, before: Callable[[], None]) -> list[int]:
    """The longest gap around each of some kills of the leader, in ns. `before`: what is awaited before each."""
    with engine.during(STEADY) as running:
        for number in range(ROUNDS):
            until(lambda: "follower 0" in engine.children, "a follower")
            followed = engine.said("following")
            settle(running)
            before()
            running.load.mark(f"kill {number}")
            assert engine.kill("worker 0")
            until_said(engine, "following", followed + 1)
            settle(running)
    return [phase.gap.longest_ns for phase in engine.results[-1].phases[1:]]


def test_gap_after_the_leader_is_killed(quiet: Upheld, figures: Figures) -> None:
    quiet.fill(MILLION)
    took = gaps(quiet, lambda: None)
    figures.note(f"gap, leader killed, {MILLION:,} open, ms (bar 250, reach for 50)", milliseconds(took))


def test_gap_after_the_leader_is_killed_in_a_snapshot(busy: Upheld, figures: Figures) -> None:
    random = Random(1)

    def in_a_snapshot() -> None:
        until(lambda: not busy.snapshot_begins(), "no snapshot")
        until(busy.snapshot_begins, "a snapshot")
        time.sleep(0 if TINY else random.uniform(0, 1))

    busy.fill(MILLION)
    took = gaps(busy, in_a_snapshot)
    figures.note(f"gap, leader killed in a snapshot, {MILLION:,} open, ms (bar 250, reach for 50)", milliseconds(took))


def test_p99_while_a_snapshot_is_written(busy: Upheld, figures: Figures) -> None:
    busy.fill(5 * MILLION)
    with busy.during(STEADY) as running:
        until(lambda: not busy.snapshot_begins(), "no snapshot")
        for _ in range(ROUNDS):
            running.load.mark("without")
            until(busy.snapshot_begins, "a snapshot")
            running.load.mark("while")
            until(lambda: not busy.snapshot_begins(), "its end")
        running.load.mark("after")
        settle(running)
    phases = busy.results[-1].phases
    without, during = ([phase for phase in phases if phase.name == name] for name in ("without", "while"))
    assert len(without) == len(during) == ROUNDS
    orders = 5 * MILLION
    for name, some in (("without", without), ("while", during)):
        p99 = [phase.percentile_ns(99) for phase in some]
        figures.note(f"p99 at {RATE:,}/s {name} a snapshot of {orders:,} open is written, ms", milliseconds(p99))
    ratios = [
        held.percentile_ns(99) / max(1, free.percentile_ns(99)) for held, free in zip(during, without, strict=True)
    ]
    figures.note("p99 while a snapshot is written, over without (bar 1.5, reach for 1.1)", str(Spread(ratios)))


def test_upgrade_under_load(quiet: Upheld, figures: Figures) -> None:
    quiet.fill(MILLION)
    upgrade = [*everopen_command(), "upgrade", "--data-dir", str(quiet.data_dir)]
    with quiet.during(STEADY) as running:
        for number in range(ROUNDS):
            until(lambda: "follower 0" in quiet.children, "a follower")
            before = quiet.children
            settle(running)
            running.load.mark(f"upgrade {number}")
            with pinned(SERVER_CORE):
                done = subprocess.run(upgrade, cwd=ROOT, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout + done.stderr
            assert not set(before.values()) & set(quiet.children.values())
            running.load.mark("after")
            settle(running)
    result = quiet.results[-1]
    failed = int(result.counts["offered"] - result.counts["placed"])
    upgrades = [phase for phase in result.phases if phase.name.startswith("upgrade")]
    figures.note("upgrade, calls failed after safe retry (bar 0)", f"{failed:,}")
    figures.note("upgrade, calls sent again", f"{result.counts['retried']:,}")
    figures.note("upgrade, slowest call in ms (bar 250)", milliseconds([phase.max_ns for phase in upgrades]))
    assert failed == 0


def test_restart_without_a_follower(folder: Path, figures: Figures) -> None:
    """Nobody else needs a core meanwhile, so the engine has both."""
    took = []
    for engine in upheld(folder / "restart", "--workers", "1", "--followers", "0", *NO_SNAPSHOTS, core=None):
        engine.fill(5 * MILLION)
        engine.engine.stop()
        snapshot = [*everopen_command(), "snapshot", "--data-dir", str(engine.data_dir)]
        subprocess.run(snapshot, cwd=ROOT, check=True, capture_output=True)
        engine.serve()
        engine.fill(8 * MILLION)
        for _ in range(ROUNDS):
            engine.crash()
            took.append(engine.serve())
    bar = f"restart, {5 * MILLION:,} open from a snapshot and {8 * MILLION:,} commands, s (bar 8, reach for 4)"
    figures.note(bar, str(Spread(took)))


def test_memory_over_orders_placed_and_closed(folder: Path, figures: Figures) -> None:
    """Each order is placed and cancelled; what is closed leaves memory once the archive has it."""
    snapshots = ("--snapshot-s", "1" if TINY else "20")
    for engine in upheld(folder / "memory", *FOLLOWED, *snapshots, window_ms=WINDOW_MS):
        churn = Options(method="churn", open_orders=OPEN_AT_A_TIME, seconds=DAY_S, warmup_s=0, reserve_ttl_ms=DAY_MS)
        # By process, at each quarter of the way.
        sizes: list[dict[str, int]] = []
        with engine.during(replace(churn, requests=2 * CHURNED, spin=not TINY)) as running:
            for _ in range(4):
                progress(running, CHURNED // 2, patience_s=DAY_S)
                sizes.append(engine.resident_bytes())
        for name in ("worker 0", "follower 0"):
            mib = [size.get(name, 0) / 2**20 for size in sizes]
            text = f"memory of {name} over {CHURNED:,} placed and closed, {OPEN_AT_A_TIME:,} at a time, MiB by quarter"
            figures.note(f"{text} (bar flat)", " ".join(f"{size:,.0f}" for size in mib))


def test_kills_lose_and_double_nothing(folder: Path, figures: Figures) -> None:
    """A few, so that this does not rot; `make kills` does many."""
    done = kills.run(
        folder / "kills", kills.Plan(KILLS, rate=RATE, open_orders=OPEN_AT_A_TIME, answers=RATE // 10), lambda _: None
    )
    figures.note(f"{KILLS} kills of random processes at {RATE:,}/s", str(done.reckoning))
    assert done.reckoning.holds
