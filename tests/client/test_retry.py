"""When a call is tried again; no server needed."""

from __future__ import annotations

from random import Random

import grpc

from everopen.errors import error_of_code
from everopen.retry import Attempts, RetryPolicy
from tests.client.fake import Clock

UNAVAILABLE = error_of_code(grpc.StatusCode.UNAVAILABLE, "gone")


def test_wait_grows_to_its_bound_and_is_drawn_below_it() -> None:
    policy = RetryPolicy(initial_s=0.1, wait_s_max=1.0)
    random = Random(1)
    drawn = [[policy.wait_s(failures, random) for _ in range(200)] for failures in (1, 2, 3, 9, 10_000)]
    bounds = [0.1, 0.2, 0.4, 1.0, 1.0]
    assert all(0 <= wait_s <= bound for waits, bound in zip(drawn, bounds, strict=True) for wait_s in waits)
    assert all(max(waits) > bound * 0.9 for waits, bound in zip(drawn, bounds, strict=True))


def test_attempts_end_at_the_deadline_and_at_the_number_of_failures() -> None:
    clock = Clock()
    attempts = Attempts(RetryPolicy(timeout_s=1, initial_s=0.001), clock.now_s, Random(1), None)
    assert attempts.wait_s(UNAVAILABLE, True) is not None
    clock.seconds += 2
    assert attempts.remaining_s() == 0
    assert attempts.wait_s(UNAVAILABLE, True) is None

    attempts = Attempts(RetryPolicy(unavailable_max=2), clock.now_s, Random(1), None)
    assert [attempts.wait_s(UNAVAILABLE, True) is None for _ in range(3)] == [False, False, True]
