"""Every bench runs tiny here and checks its answer, so that none can rot unseen."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BENCHES = sorted(path.name for path in (ROOT / "bench").glob("test_*.py"))


@pytest.mark.parametrize("bench", BENCHES)
def test_bench_tiny_holds(bench: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", f"bench/{bench}"],
        cwd=ROOT,
        env={**os.environ, "EVEROPEN_BENCH_TINY": "1", "EVEROPEN_BENCH_DIR": str(tmp_path)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
