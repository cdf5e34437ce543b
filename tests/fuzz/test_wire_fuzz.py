"""Damaged requests without end, or as long as EVEROPEN_FUZZ_SECONDS says: read as google.protobuf reads them."""

import os
import random
import time

import pytest

from tests.wire import generate
from tests.wire.requests import KINDS
from tests.wire.test_decode import check

SECONDS = float(os.environ.get("EVEROPEN_FUZZ_SECONDS", "0"))

pytestmark = [pytest.mark.native, pytest.mark.skipif(not SECONDS, reason="make fuzz sets EVEROPEN_FUZZ_SECONDS")]


def test_requests_of_a_new_seed_are_read_as_protobuf_reads_them() -> None:
    seed = random.SystemRandom().getrandbits(32)
    rng = random.Random(seed)
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        kind = rng.choice(list(KINDS))
        sample = generate.request(rng, kind).SerializeToString(deterministic=True)
        for _ in range(50):
            data = generate.hostile(rng, sample)
            try:
                check(kind, data)
            except AssertionError as error:
                raise AssertionError(f"seed {seed}: {kind} {data!r}") from error
