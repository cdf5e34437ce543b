"""The wall clock is set wrong under load: no hold of the night ends early, and logged time never falls."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.faults.scene import Scene, until

pytestmark = pytest.mark.alone

LIBRARY = next(iter(sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))), None)
ALARM = "the wall clock stepped by more than a second"


@pytest.mark.skipif(LIBRARY is None, reason="libfaketime is not installed")
def test_clock_steps_under_load_are_counted_and_end_no_hold(tmp_path: Path) -> None:
    """By more than the 15 minutes of a hold. That one ended would show in the stock, which has no other reason."""
    offset = tmp_path / "offset"
    offset.write_text("+0\n")
    environment = {
        "LD_PRELOAD": " ".join(filter(None, [os.environ.get("LD_PRELOAD"), str(LIBRARY)])),
        "FAKETIME_TIMESTAMP_FILE": str(offset),
        "FAKETIME_NO_CACHE": "1",
        "DONT_FAKE_MONOTONIC": "1",
    }

    def step(to: str) -> None:
        whole = tmp_path / "next"
        whole.write_text(f"{to}\n")
        whole.rename(offset)

    with Scene(tmp_path / "data", "--workers", "1", environment=environment) as scene:
        scene.progress()
        step("+3h")
        until(lambda: ALARM in scene.server.stderr, "an alarm")
        scene.progress()
        # From wrong to more wrong is no new alarm; what may not happen is that logged time falls.
        step("-3h")
        scene.progress()
        assert scene.server.stderr.count(ALARM) == 1
