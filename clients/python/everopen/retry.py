"""When a failed call is tried again, and after how long. Pure: time and randomness come in.

What may be repeated: UNAVAILABLE and RESOURCE_EXHAUSTED, with the same request and so the same id. The server remembers
every id that it decided, so a repeat of a decided call gets the original answer and is never carried out twice.

A Put has no id, and repeating one is harmless only while it is unconditional: it sets the same settings again. With
`if_revision` it is not: if the first try was carried out and its answer lost, the second finds the revision moved on
by the first and reports a conflict that never was. So after UNAVAILABLE such a Put is handed back to the caller, who
knows what a conflict would mean; after RESOURCE_EXHAUSTED, where nothing was decided, it is repeated like the rest.
"""

from __future__ import annotations

import random as random_module
from collections.abc import Callable
from dataclasses import dataclass

from everopen.errors import EveropenError, Overloaded, Unavailable


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How long a call may take in all, and how tries are spaced.

    A wait is drawn evenly from 0 to `initial_s` doubled with each failure up to `wait_s_max`, so that callers who
    failed together do not come back together. A server that names a wait gets that wait, and the drawn one on top.
    `unavailable_max` bounds how often in a row the server may be found unavailable; 0: the first time is the last.
    """

    timeout_s: float = 10.0
    initial_s: float = 0.05
    wait_s_max: float = 2.0
    unavailable_max: int = 1_000

    def wait_s(self, failures: int, random: random_module.Random) -> float:
        """failures: how many tries in a row failed, >= 1."""
        # The exponent is bounded because a float is not.
        return random.uniform(0, min(self.wait_s_max, self.initial_s * 2.0 ** min(failures - 1, 60)))

    def is_spent(self, failures: int, error: EveropenError) -> bool:
        return failures > self.unavailable_max and isinstance(error, Unavailable)


def may_repeat(error: EveropenError, repeatable: bool) -> bool:
    """repeatable: whether the request may be carried out twice without harm."""
    if error.retry_after_s is not None and error.retry_after_s < 0:
        return False
    return isinstance(error, Overloaded) or (repeatable and isinstance(error, Unavailable))


class Attempts:
    """The tries of one call under one deadline."""

    def __init__(
        self, policy: RetryPolicy, now_s: Callable[[], float], random: random_module.Random, timeout_s: float | None
    ) -> None:
        self._policy = policy
        self._now_s = now_s
        self._random = random
        self._failures = 0
        self.deadline_s = now_s() + (policy.timeout_s if timeout_s is None else timeout_s)

    def remaining_s(self) -> float:
        return max(0.0, self.deadline_s - self._now_s())

    def wait_s(self, error: EveropenError, repeatable: bool) -> float | None:
        """How long to wait before the next try; None: there is none, hand the error to the caller."""
        self._failures += 1
        if self._policy.is_spent(self._failures, error) or not may_repeat(error, repeatable):
            return None
        wait_s = (error.retry_after_s or 0.0) + self._policy.wait_s(self._failures, self._random)
        return wait_s if wait_s < self.remaining_s() else None
