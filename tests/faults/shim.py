"""tests/journal/failing_disk.c around a whole engine: how it is preloaded, told what to do and asked what it did."""

from __future__ import annotations

import mmap
import os
import struct
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "tests" / "journal" / "failing_disk.c"
# error, passing, hits, times, call, path: struct plan.
PLAN = struct.Struct("=iiii32s220s")
ERROR_AT, HITS_AT = 0, 8
# Beside the errno values.
SHORT, HANG, LIE = -1, -2, -3


def build(folder: Path) -> Path:
    library = folder / "failing_disk.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-Wall", "-o", library, SOURCE, "-ldl"], check=True)
    return library


class FailingDisk:
    """One command at a time, for all processes that have `environment`."""

    def __init__(self, folder: Path) -> None:
        plan = folder / "failing_disk.plan"
        plan.write_bytes(bytes(mmap.PAGESIZE))
        with plan.open("r+b") as file:
            self._shared = mmap.mmap(file.fileno(), mmap.PAGESIZE)
        # Sanitizers must come first among what is preloaded.
        libraries = " ".join(filter(None, [os.environ.get("LD_PRELOAD"), str(build(folder))]))
        self.environment = {"LD_PRELOAD": libraries, "EVEROPEN_FAILING_DISK": str(plan)}

    def fail(self, call: str, error: int, after: int = 0, path: str = "", times: int = 0) -> None:
        """After so many calls that pass. path: part of the name of the files that it concerns; times: 0 for all."""
        self.heal()
        PLAN.pack_into(self._shared, 0, 0, after, 0, times, call.encode(), path.encode())
        # Last, since the others read without a lock.
        struct.pack_into("=i", self._shared, ERROR_AT, error)

    def heal(self) -> None:
        struct.pack_into("=i", self._shared, ERROR_AT, 0)

    @property
    def hits(self) -> int:
        """How many calls met the failure since the last `fail`."""
        return int(struct.unpack_from("=i", self._shared, HITS_AT)[0])
