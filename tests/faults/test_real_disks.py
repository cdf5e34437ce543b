"""A disk that fails under a whole engine: what was acknowledged stays, nothing is acknowledged on a failed sync."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

from tests.faults.scene import Scene, until
from tests.faults.shim import HANG, SHORT, FailingDisk
from tests.faults.small_fs import SmallDisk, missing
from tests.serving import Client, order

pytestmark = pytest.mark.alone

WHY_NOT_SMALL = missing()
LOGS = "/shard-0000/0"


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> FailingDisk:
    return FailingDisk(tmp_path_factory.mktemp("disk"))


@contextmanager
def scene_on(disk: FailingDisk, data_dir: Path, segment_bytes: int = 1 << 20) -> Iterator[Scene]:
    with Scene(data_dir, "--workers", "1", segment_bytes=segment_bytes, environment=disk.environment) as scene:
        try:
            yield scene
        finally:
            disk.heal()


def test_failed_write_or_sync_ends_the_worker_and_loses_nothing(tmp_path: Path, disk: FailingDisk) -> None:
    with scene_on(disk, tmp_path / "data") as scene:
        for call, error in (("fdatasync", errno.EIO), ("pwrite", errno.EIO), ("pwrite", errno.ENOSPC)):
            scene.progress()
            pid = scene.pid("worker 0")
            disk.fail(call, error, after=20, path=LOGS)
            scene.replaced("worker 0", pid)
            assert disk.hits >= 1
            disk.heal()
        scene.progress()
        said = scene.server.stderr
    assert said.count("look after the disk") >= 3
    assert f"errno {errno.EIO}" in said
    assert f"errno {errno.ENOSPC}" in said
    assert "exit code 70" in said


def test_short_write_full_disk_and_sync_that_hangs_end_nobody(tmp_path: Path, disk: FailingDisk) -> None:
    with scene_on(disk, tmp_path / "data", segment_bytes=1 << 17) as scene, Client(scene.listen) as client:
        pid = scene.pid("worker 0")
        # One write of many blocks at once is rare, so what is cut is the filling of a new segment.
        disk.fail("pwrite", SHORT, path=".tmp")
        until(lambda: disk.hits == 1, "a short write")
        scene.progress()

        disk.fail("posix_fallocate", errno.ENOSPC, path="/shard-0000/")
        until(lambda: scene.history.failures[grpc.StatusCode.RESOURCE_EXHAUSTED], "a refusal for want of room")
        assert disk.hits >= 1
        disk.heal()
        scene.progress()
        assert scene.pid("worker 0") == pid

        disk.fail("fdatasync", HANG, path=LOGS)
        until(lambda: disk.hits, "a sync that hangs")
        with pytest.raises(grpc.RpcError) as caught:
            client.orders.PlaceOrder(order("behind"), timeout=0.2)
        assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        disk.heal()
        scene.progress()
        said = scene.server.stderr
    assert said.count("preallocation failed") == 1
    assert "preallocation works again" in said


@pytest.mark.skipif(bool(WHY_NOT_SMALL), reason=WHY_NOT_SMALL)
def test_full_file_system_refuses_until_it_grows_and_loses_nothing(tmp_path: Path) -> None:
    with (
        SmallDisk(tmp_path / "small", 1 << 20) as small,
        Scene(small.path, "--workers", "1", segment_bytes=1 << 17) as scene,
    ):
        pid = scene.pid("worker 0")
        refused = scene.history.failures
        until(lambda: refused[grpc.StatusCode.RESOURCE_EXHAUSTED] >= 8, "every caller was refused")
        free = os.statvfs(small.path)
        assert free.f_bavail * free.f_frsize < 1 << 17, "there is room for another segment"
        small.resize(1 << 26)
        scene.progress()
        assert scene.pid("worker 0") == pid
        said = scene.server.stderr
    assert "preallocation failed" in said
    assert "preallocation works again" in said
