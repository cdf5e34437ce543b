"""The state machine under random bytes and random valid commands, for EVEROPEN_FUZZ_SECONDS (else a fixed few)."""

import os
import random
import time

import pytest

from engine._core import Shard
from tests.generate import Generator
from tests.machines import LOG_ID, Pair
from tests.profiles import PROFILES
from tests.reference_fields import REQUESTS

SECONDS = float(os.environ.get("EVEROPEN_FUZZ_SECONDS", "0"))
RUN_COMMANDS = 1_500
pytestmark = pytest.mark.native


def hostile(source: random.Random, sample: bytes) -> bytes:
    if source.random() < 0.2 or not sample:
        return source.randbytes(source.randrange(60))
    data = bytearray(sample)
    for _ in range(source.randint(1, 3)):
        data[source.randrange(len(data))] = source.randrange(256)
    return bytes(data[: source.randint(1, len(data))] if source.random() < 0.1 else data)


def run(seed: int) -> None:
    """Valid commands go to core and model; the same core also gets damaged ones, and a replica all the records."""
    source = random.Random(seed)
    generator = Generator(seed)
    pair = Pair(generator.profile.window_ms, generator.profile.entries_max)
    core = Shard(LOG_ID, generator.profile.window_ms, generator.profile.entries_max)
    replica = Shard(LOG_ID, generator.profile.window_ms, generator.profile.entries_max)
    for _ in range(RUN_COMMANDS):
        step = generator.next(pair.model)
        pair.execute(step.method, step.request, step.now_ms)
        for method, request in (
            (step.method, step.request),
            (source.choice(list(REQUESTS)), hostile(source, step.request)),
            (step.method, hostile(source, step.request)),
        ):
            if method != 14 and core.execute(method, request, step.now_ms)[2]:
                replica.apply(core.record)
    assert core.check() == "", seed
    assert replica.state_digest() == core.state_digest(), seed


def test_random_bytes_among_random_commands_break_no_invariant() -> None:
    # The last profile has queues that are slow in the model.
    if not SECONDS:
        for seed in range(4):
            run(seed)
        return
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        run(random.SystemRandom().getrandbits(28) * len(PROFILES) + random.randrange(len(PROFILES) - 1))
