"""The power goes under load, on a file system that forgets what was not synced: what was acknowledged is there."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.lossy_fs import LossyDisk, missing
from tests.faults.scene import Scene, until
from tests.faults.shim import LIE, FailingDisk

WHY_NOT = missing()
pytestmark = [pytest.mark.alone, pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)]


def lose_power(scene: Scene, disk: LossyDisk, seed: int) -> None:
    died = scene.server.stderr.count("exit code 70")
    disk.cut(seed)
    until(lambda: scene.server.stderr.count("exit code 70") > died, "the end of the worker whose sync met the cut")
    assert scene.server.process.poll() is None, "the supervisor has to do with the disk too, and goes on"
    scene.crash()
    assert disk.lose() > 0
    scene.serve()


def test_power_loss_under_load_keeps_everything_acknowledged(tmp_path: Path) -> None:
    """First everything unsynced is lost, then some of it arrives: torn blocks, files without names."""
    with LossyDisk(tmp_path / "disk") as disk, Scene(disk.path, "--workers", "1", segment_bytes=1 << 17) as scene:
        for seed in (0, 1):
            scene.progress()
            lose_power(scene, disk, seed)
        scene.progress()


@pytest.mark.long
def test_power_loss_on_a_disk_that_lies_is_seen(tmp_path: Path) -> None:
    """Syncs that do nothing: if nobody saw that, the test above would show nothing."""
    liar = FailingDisk(tmp_path)
    with LossyDisk(tmp_path / "disk") as disk, pytest.raises(AssertionError, match=r"DATA_LOSS|and lost|no moment"):
        lose_what_was_acknowledged(disk, liar)


def lose_what_was_acknowledged(disk: LossyDisk, liar: FailingDisk) -> None:
    with Scene(disk.path, "--workers", "1", segment_bytes=1 << 17, environment=liar.environment) as scene:
        liar.fail("fdatasync", LIE)
        scene.progress()
        disk.cut(0)
        scene.crash()
        assert disk.lose() > 0
        liar.heal()
        scene.serve()
        scene.progress()
