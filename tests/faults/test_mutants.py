"""Each safety is taken away in turn, and the simulator must miss it: it is worth nothing if it passes everything."""

from __future__ import annotations

import pytest

from engine._core import SAFETY_BY_NAME
from tests.faults.simulator import run
from tests.faults.steps import CRASH, DAMAGE, MIXES, POWER, SNAPSHOT, WISH, WORK, Mix, steps_of

SEEDS = 200
ALONE = WORK | dict.fromkeys((SNAPSHOT, "follow", "spare", "drop"), 0)
# The mix that gives what the safety is for. Others would do it too, in more seeds.
MIX_FOR = {
    "sync": MIXES[0],
    "ack-after-sync": Mix("power", WORK | {POWER: 6, "power in": 12}, {}),
    "sync-once": Mix("failing syncs", WORK | {POWER: 8, WISH: 8}, {"sync error": 1}),
    "epoch": MIXES[0],
    "crc": Mix("rot", ALONE | {CRASH: 8, DAMAGE: 5}, {"bit rot in a record": 1}),
    "chain": Mix("replaced blocks", ALONE | {CRASH: 8, DAMAGE: 25}, {"replaced block": 1}),
    "dedupe-in-snapshot": Mix("snapshots", WORK | {CRASH: 8, SNAPSHOT: 20}, {}),
    "logged-time": MIXES[0],
    "names-sync": MIXES[0],
}


def test_every_safety_has_its_mutant() -> None:
    assert set(MIX_FOR) == set(SAFETY_BY_NAME)


@pytest.mark.native
@pytest.mark.parametrize("mutant", MIX_FOR)
def test_mutant_is_caught_and_the_engine_passes_where_it_is(mutant: str) -> None:
    for seed in range(SEEDS):
        steps = steps_of(seed, MIX_FOR[mutant])
        wrong, _ = run(seed, steps, mutant)
        if wrong:
            assert run(seed, steps)[0] == "", "it fails without the mutant as well"
            return
    pytest.fail(f"{SEEDS} seeds did not miss {mutant}")
