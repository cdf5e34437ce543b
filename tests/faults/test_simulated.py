"""Engine and follower through thousands of seeded lives on a disk that fails, lies and forgets.

A seed that fails is printed with the fewest steps that still fail. EVEROPEN_SEED runs that one alone.
"""

from __future__ import annotations

import os
from collections import Counter

import pytest

from tests.faults import torture
from tests.faults.simulator import run
from tests.faults.steps import (
    COMMAND,
    COMMIT,
    CRASH,
    DAMAGE,
    FOLLOW,
    PREPARE,
    SNAPSHOT,
    WISH,
    WORK,
    Mix,
    Step,
    steps_of,
)

ORDINARY_SEEDS = 2_000
# What the ordinary seeds must have met at least, so that a run in which nothing happens does not pass.
MET = {
    "acknowledged": 40_000,
    "answered again": 20_000,
    "bit rot in a record": 10,
    "bit rot in the log": 10,
    "crash": 1_500,
    "evicted": 40,
    "follower compared": 2_000,
    "follower crashed": 80,
    "follower refused": 100,
    "hold ended": 1_000,
    "kept unacknowledged": 1_000,
    "late write": 60,
    "log full": 200,
    "lost file": 10,
    "lost unacknowledged": 8_000,
    "lost write": 60,
    "misdirected write": 60,
    "name lost with the power": 500,
    "no space": 150,
    "opening failed": 100,
    "power lost": 2_500,
    "process died": 250,
    "refused": 200,
    "replaced block": 10,
    "restore": 100,
    "short write": 200,
    "snapshot": 800,
    "start": 4_000,
    "swapped files": 10,
    "sync error": 250,
    "takeover": 700,
    "torn write": 150,
    "write error": 120,
    "write lost with the power": 600,
}
CLASS_SEEDS = 40
ROLLING = {COMMAND: 100, COMMIT: 100, PREPARE: 60, FOLLOW: 30, WISH: 10}


@pytest.mark.native
def test_simulation_of_ordinary_seeds_keeps_every_promise() -> None:
    if "EVEROPEN_SEED" in os.environ:
        failure = torture.report(int(os.environ["EVEROPEN_SEED"]))
        assert not failure, failure
        return
    seen: Counter[str] = Counter()
    for outcome in torture.run_many(range(ORDINARY_SEEDS)):
        assert not outcome.failure, outcome.failure
        seen += outcome.seen
    rare = {kind: seen[kind] for kind, least in MET.items() if seen[kind] < least}
    assert not rare, f"hardly met: {rare}"


@pytest.mark.native
@pytest.mark.parametrize(
    ("mix", "met", "least"),
    [
        (
            Mix("snapshots that rot", WORK | {CRASH: 6, SNAPSHOT: 8, DAMAGE: 6}, {"bit rot in a snapshot": 1}),
            "older snapshot",
            5,
        ),
        (Mix("a log that rots", WORK | {CRASH: 6, DAMAGE: 6}, {"bit rot in the log": 1}), "refused", 20),
        (Mix("lost files", WORK | {CRASH: 6, DAMAGE: 6}, {"lost file": 1}), "refused", 20),
        (Mix("swapped files", WORK | {CRASH: 6, DAMAGE: 6}, {"swapped files": 1}), "refused", 20),
        (Mix("lost writes", WORK | {CRASH: 6, WISH: 6}, {"lost write": 1}), "refused", 1),
        (Mix("misdirected writes", WORK | {CRASH: 6, WISH: 6}, {"misdirected write": 1}), "refused", 10),
        (Mix("failing syncs", WORK | {CRASH: 6, WISH: 12}, {"sync error": 1}), "process died", 40),
        (Mix("failing writes", WORK | {CRASH: 6, WISH: 12}, {"write error": 1}), "process died", 40),
        # Into a segment that the dead leader had prepared, and its follower finds.
        (Mix("failing rolls", ROLLING, {"write error": 1}), "takeover", 20),
    ],
    ids=lambda value: value.name if isinstance(value, Mix) else None,
)
def test_fault_is_survived_or_noticed(mix: Mix, met: str, least: int) -> None:
    outcome = torture.run_chunk(list(range(CLASS_SEEDS)), mix=mix)
    assert not outcome.failure, outcome.failure
    assert outcome.seen[met] >= least, outcome.seen


def test_run_of_a_seed_is_the_same_each_time() -> None:
    for seed in range(5):
        assert run(seed, steps_of(seed)) == run(seed, steps_of(seed))


def test_failing_seed_is_reported_with_the_few_steps_that_it_takes() -> None:
    seed = next(seed for seed in range(20) if run(seed, steps_of(seed), "names-sync")[0])
    report = torture.report(seed, mutant="names-sync")
    assert report.startswith(f"seed {seed} (")
    # It may take none at all: a start and a loss of power.
    shown = report.splitlines()[2:]
    assert report.splitlines()[1].startswith(f"shrunk to {len(shown)} steps: ")
    assert len(shown) < len(steps_of(seed)) // 2


def test_step_is_told_readably() -> None:
    step = Step("command", 0, 1_700_000_001 * 10**9, 5_001 * 10**9, 1, b"\x0a\x01o")
    assert str(step) == '    1000 ms  command PlaceOrderRequest order_id: "o"'
