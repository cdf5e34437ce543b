"""The power goes under load, on a file system that forgets what was not synced: what was acknowledged is there."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.lossy_fs import LossyDisk, missing
from tests.faults.scene import Scene, until

WHY_NOT = missing()


@pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)
def test_power_loss_under_load_keeps_everything_acknowledged(tmp_path: Path) -> None:
    """Twice everything unsynced is lost, then some of it arrives: torn blocks, files without names."""
    with LossyDisk(tmp_path / "disk") as disk, Scene(disk.path, "--workers", "1", segment_bytes=1 << 17) as scene:
        for seed in (0, 0, 1, 2):
            scene.progress()
            died = scene.server.stderr.count("exit code 70")
            disk.cut(seed)
            until(lambda: scene.server.stderr.count("exit code 70") > died, "the sync that met the cut")  # noqa: B023
            scene.crash()
            assert disk.lose() > 0
            scene.serve()
        scene.progress()
