"""The core against the naive model: equal answers, faults, effects and digests over a million seeded commands.

A mismatch is shrunk to a short sequence and printed with its seed. EVEROPEN_SEED runs one seed, EVEROPEN_COMMANDS that
many commands of it.
"""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import pytest

from engine._core import Shard
from everopen.v1.order_service_pb2 import PlaceOrdersResponse
from tests.generate import Generator, Step
from tests.machines import LOG_ID, Pair
from tests.profiles import PROFILES
from tests.reference_fields import INTERNAL, PLACE_ORDER, REQUESTS
from tests.shrinking import shrink

PROCESSES = 2
LEAST_PRIORITY = 19
RUN_COMMANDS = 2_500
# The model is slow where every step looks at long queues of long orders: such runs are short.
LONG_QUEUES_COMMANDS = 600
# A variant of the core is slower; it runs the same beginnings.
ORDINARY_COMMANDS = 100_000 if "EVEROPEN_VARIANT" in os.environ else 1_000_000
BATCH_ITEMS = 60
LONG_COMMANDS = 10_000_000
COMPARE_EVERY = 500


def commands_of(seed: int) -> int:
    if "EVEROPEN_COMMANDS" in os.environ:
        return int(os.environ["EVEROPEN_COMMANDS"])
    return LONG_QUEUES_COMMANDS if PROFILES[seed % len(PROFILES)].restock_rarely else RUN_COMMANDS


def new_pair(seed: int) -> Pair:
    profile = PROFILES[seed % len(PROFILES)]
    return Pair(profile.window_ms, profile.entries_max)


def run_seed(seed: int, folder: Path) -> str:
    """Empty, or what went wrong, with a short sequence that shows it."""
    steps: list[Step] = []
    try:
        _run(seed, steps, folder)
    except AssertionError as mismatch:
        return _report(seed, steps, str(mismatch))
    return ""


def _run(seed: int, steps: list[Step], folder: Path) -> None:
    generator, pair = Generator(seed), new_pair(seed)
    replica = Shard(LOG_ID, generator.profile.window_ms, generator.profile.entries_max)
    half_way = commands_of(seed) // 2
    for index in range(commands_of(seed)):
        step = generator.next(pair.model)
        steps.append(step)
        if pair.execute(step.method, step.request, step.now_ms).sequence:
            replica.apply(pair.core.record)
        if index % COMPARE_EVERY == COMPARE_EVERY - 1:
            pair.compare_digests()
            pair.compare_closed()
        if index == half_way:
            pair.core = _saved_and_loaded(pair.core, folder / f"{seed}.snap")
    pair.compare_digests()
    assert replica.state_digest() == pair.core.state_digest(), "replay of the records gave another state"
    assert replica.business_digest() == pair.core.business_digest()
    assert replica.check() == ""


def _saved_and_loaded(shard: Shard, path: Path) -> Shard:
    shard.save(str(path))
    loaded = Shard.load(str(path))
    path.unlink()
    assert loaded.state_digest() == shard.state_digest(), "the snapshot holds another state"
    assert loaded.business_digest() == shard.business_digest()
    assert loaded.check() == ""
    return loaded


def _fails(seed: int, steps: list[Step]) -> str:
    """What goes wrong when just these steps are run; digests are compared after each."""
    pair = new_pair(seed)
    try:
        for step in steps:
            pair.execute(step.method, step.request, step.now_ms)
            if pair.core.state_digest() != pair.model.state_digest():
                pair.compare_digests()
        pair.compare_digests()
    except AssertionError as mismatch:
        return str(mismatch)
    return ""


def _report(seed: int, steps: list[Step], mismatch: str) -> str:
    lines = [f"seed {seed} ({PROFILES[seed % len(PROFILES)].name}), command {len(steps)}: {mismatch}"]
    if _fails(seed, steps):
        short = shrink(steps, lambda shorter: bool(_fails(seed, shorter)))
        lines.append(f"shrunk to {len(short)} commands: {_fails(seed, short)}")
    else:
        short = steps[-10:]
        lines.append("it takes the snapshot or the replay to fail; the last commands:")
    for step in short:
        messages = REQUESTS | INTERNAL
        name = messages[step.method].__name__ if step.method in messages else "Tick"
        text = str(messages[step.method].FromString(step.request)) if step.method in messages else ""
        lines.append(f"{step.now_ms} {name} " + " ".join(text.split()))
    return "\n".join(lines)


def seeds_for(commands: int, first: int) -> list[int]:
    seeds = []
    while commands > 0:
        seeds.append(first + len(seeds))
        commands -= commands_of(seeds[-1])
    return seeds


def run_seeds(seeds: list[int], folder: Path) -> None:
    # Not forked: a child must not inherit what the test process loaded.
    context = multiprocessing.get_context("spawn")
    # They compute all the time: who waits for an engine's processes meanwhile comes first.
    with context.Pool(PROCESSES, os.nice, (LEAST_PRIORITY,)) as pool:
        for report in pool.imap_unordered(_run_one, [(seed, folder) for seed in seeds], chunksize=4):
            if report:
                pool.terminate()
                pytest.fail(report, pytrace=False)


def _run_one(work: tuple[int, Path]) -> str:
    return run_seed(*work)


@pytest.mark.native
def test_core_on_a_million_seeded_commands_equals_the_model(tmp_path: Path) -> None:
    if "EVEROPEN_SEED" in os.environ:
        report = run_seed(int(os.environ["EVEROPEN_SEED"]), tmp_path)
        assert not report, report
        return
    run_seeds(seeds_for(ORDINARY_COMMANDS, first=0), tmp_path)


def test_batch_of_seeded_orders_answers_as_one_by_one() -> None:
    for seed in range(len(PROFILES)):
        generator, pair = Generator(seed), new_pair(seed)
        alone = Shard(LOG_ID, generator.profile.window_ms, generator.profile.entries_max)
        for step in [generator.next(pair.model) for _ in range(60)]:
            pair.execute(step.method, step.request, step.now_ms)
            alone.execute(step.method, step.request, step.now_ms)
        steps = [generator.next(pair.model) for _ in range(400)]
        requests = [step.request for step in steps if step.method == PLACE_ORDER][:BATCH_ITEMS]
        batch = b"".join(b"\x0a" + _varint(len(request)) + request for request in requests)
        code, answer, _ = alone.execute_batch(PLACE_ORDER, batch, pair.model.time_ms)
        assert code == 0
        for request, result in zip(requests, PlaceOrdersResponse.FromString(answer).results, strict=True):
            expected = pair.execute(PLACE_ORDER, request)
            assert result.result == (expected.response or PlaceOrdersResponse().results.add().result)
            assert result.status.code == expected.code
        assert alone.state_digest() == pair.core.state_digest()


def _varint(number: int) -> bytes:
    return bytes([number]) if number < 128 else bytes([number & 127 | 128]) + _varint(number >> 7)


@pytest.mark.long
def test_core_on_ten_million_seeded_commands_equals_the_model(tmp_path: Path) -> None:
    run_seeds(seeds_for(LONG_COMMANDS, first=1_000_000), tmp_path)


def test_shrink_of_a_failing_sequence_leaves_what_it_takes() -> None:
    steps = [Step(number, b"", 0) for number in range(100)]
    short = shrink(steps, lambda kept: {17, 60} <= {step.method for step in kept})
    assert [step.method for step in short] == [17, 60]
