"""Makes a sequence that fails short, by delta debugging."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

SHRINK_TRIES_MAX = 2_000

T = TypeVar("T")


def shrink(steps: list[T], fails: Callable[[list[T]], bool]) -> list[T]:
    """Leaves out ever smaller parts as long as it still fails."""
    part = len(steps) // 2
    tries = 0
    while part and tries < SHRINK_TRIES_MAX:
        begin = 0
        while begin < len(steps) and tries < SHRINK_TRIES_MAX:
            tries += 1
            shorter = steps[:begin] + steps[begin + part :]
            if fails(shorter):
                steps = shorter
            else:
                begin += part
        part //= 2
    return steps
