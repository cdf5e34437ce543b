"""`make kills`: processes of an engine are killed one after another under load, and nothing that was acknowledged may
be lost, doubled or sold twice.

Two workers, of which one leads the only shard; its follower; archive; control server; supervisor. Who dies is drawn
from a seed (EVEROPEN_KILLS_SEED), how many is EVEROPEN_KILLS. Orders come at EVEROPEN_KILLS_RATE a second, whatever
happens, and each is cancelled once 100,000 are open; stock is a little short, so that what could be oversold is. When
the supervisor died, `everopen serve` is started again. At the end the log is read, record by record.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from bench.conftest import DIRECTORY
from bench.reliability import DAY_MS, DAY_S, Reckoning, Upheld, progress
from engine.load_request import Options
from engine.loadgen import Result

SKUS = 100
# The door must be open again so soon, also with both leader and follower gone; and ids are remembered for longer, so
# that the same order is the same order whenever it gets through.
REOPEN_S_MAX = 45.0
WINDOW_MS = 60_000
# At most so long after there were enough answers since the kill before.
PAUSE_S_MAX = 0.3


@dataclass(frozen=True, slots=True)
class Plan:
    kills: int
    rate: int = 20_000
    open_orders: int = 100_000
    # Answers between two kills, so that each falls on an engine at work.
    answers: int = 500
    seed: int = 1
    arguments: tuple[str, ...] = ("--workers", "2", "--followers", "1", "--snapshot-s", "10")


@dataclass(slots=True)
class Done:
    """What was killed, what the load says of it, and what the log says."""

    killed: Counter[str] = field(default_factory=Counter)
    result: Result | None = None
    reckoning: Reckoning = field(default_factory=lambda: Reckoning(0, 0, 0, 0))


def run(data_dir: Path, plan: Plan, tell: Callable[[str], None]) -> Done:
    random = Random(plan.seed)
    done = Done()
    options = Options(
        method="churn",
        rate=plan.rate,
        connections=8,
        streams=32,
        seconds=DAY_S,
        warmup_s=0,
        skus=SKUS,
        # Nearly all of it is sold all of the time.
        units=plan.open_orders // SKUS + 1,
        open_orders=plan.open_orders,
        reserve_ttl_ms=DAY_MS,
    )
    with Upheld(data_dir, *plan.arguments, core=None, window_ms=WINDOW_MS) as engine:
        with engine.during(options) as running:
            for number in range(1, plan.kills + 1):
                progress(running, plan.answers, f"after {number - 1} kills: {dict(done.killed)}", REOPEN_S_MAX)
                if not running.running:
                    break
                time.sleep(random.uniform(0, PAUSE_S_MAX))
                name = random.choice(sorted({*engine.children, "supervisor"}))
                if not engine.kill(name):
                    continue
                done.killed[name] += 1
                if name == "supervisor":
                    time.sleep(random.uniform(0, PAUSE_S_MAX))
                    engine.serve()
                tell(f"{number} of {plan.kills}: {name} killed, {running.load.acknowledged:,} acknowledged")
            progress(running, plan.answers, "after the last kill", REOPEN_S_MAX)
        done.result = engine.results[-1]
        tell("reading the log")
        done.reckoning = engine.check()
    return done


def main() -> int:
    plan = Plan(
        int(os.environ.get("EVEROPEN_KILLS") or 500),
        rate=int(os.environ.get("EVEROPEN_KILLS_RATE") or 20_000),
        seed=int(os.environ.get("EVEROPEN_KILLS_SEED") or 1),
    )
    data_dir = DIRECTORY / f"kills-{os.getpid()}" / "data"
    shutil.rmtree(data_dir.parent, ignore_errors=True)
    data_dir.parent.mkdir(parents=True)
    is_terminal = sys.stderr.isatty()

    def tell(line: str) -> None:
        print(f"\r\x1b[K{line}" if is_terminal else line, end="" if is_terminal else "\n", file=sys.stderr, flush=True)

    try:
        done = run(data_dir, plan, tell)
    finally:
        tell("" if is_terminal else "over")
        shutil.rmtree(data_dir.parent, ignore_errors=True)
    assert done.result is not None
    counts = done.result.counts
    print(f"killed: {', '.join(f'{amount} {name}' for name, amount in sorted(done.killed.items()))}")
    print(
        f"load: {counts['offered']:,} due, {counts['placed']:,} placed, {counts['sold_out']:,} found no stock, ", end=""
    )
    print(f"{counts['retried']:,} tries again, {done.result.reconnects:,} reconnects")
    print(f"longest gap between acknowledgements: {done.result.gap.longest_ns / 1e6:,.1f} ms")
    print(f"log: {done.reckoning}")
    return 0 if done.reckoning.holds and done.result.holds else 1


if __name__ == "__main__":
    sys.exit(main())
