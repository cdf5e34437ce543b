"""Keeps the memory of a process out of core dumps and debuggers: keys, tokens and buyers are in it."""

from __future__ import annotations

import ctypes
import os

PR_SET_DUMPABLE = 4


def withhold() -> None:
    """Of this process, until it becomes another program. EVEROPEN_DUMPABLE=1 leaves it, to look into a crash."""
    if os.environ.get("EVEROPEN_DUMPABLE") != "1":
        ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
