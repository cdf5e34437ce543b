"""Processes that die and disks that fail: what was acknowledged is there, and nothing is acknowledged afterwards."""

import errno
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.journal.child import check
from tests.journal.logs import JournalReader, JournalWriter

ROOT = Path(__file__).resolve().parents[2]
CRASHES = 20


@pytest.fixture(scope="session")
def failing_disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    library = tmp_path_factory.mktemp("failing_disk") / "failing_disk.so"
    source = Path(__file__).with_name("failing_disk.c")
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-Wall", "-o", library, source, "-ldl"], check=True)
    return library


def environment_with(preload: Path | None) -> dict[str, str]:
    # Sanitizers must come first among what is preloaded.
    libraries = [os.environ.get("LD_PRELOAD"), str(preload) if preload else None]
    return {**os.environ, "LD_PRELOAD": " ".join(filter(None, libraries))}


def run_program(program: str, directory: Path, preload: Path) -> subprocess.CompletedProcess[str]:
    arguments = [sys.executable, "-c", program, str(directory)]
    return subprocess.run(
        arguments, cwd=ROOT, env=environment_with(preload), capture_output=True, text=True, check=False, timeout=60
    )


def run(directory: Path, mode: str, *arguments: object, preload: Path | None = None) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.journal.child", mode, str(directory), *map(str, arguments)],
        cwd=ROOT,
        env=environment_with(preload),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_crash_at_random_points_keeps_everything_acknowledged(tmp_path: Path) -> None:
    pick = random.Random(20)
    log = tmp_path / "log"
    acknowledged = 0
    for _ in range(CRASHES):
        child = run(log, "forever")
        assert child.stdout
        for _ in range(pick.randint(1, 60)):
            acknowledged = int(child.stdout.readline())
        child.kill()
        rest, _ = child.communicate()
        # A line that the kill cut short was not received.
        received = rest[: rest.rfind("\n") + 1].split()
        acknowledged = int(received[-1]) if received else acknowledged
        with JournalReader(log) as reader:
            assert reader.scan() >= acknowledged
    assert check(str(log)) >= acknowledged


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("call", ["fdatasync", "pwrite"])
def test_failed_call_ends_the_process_and_acknowledges_nothing_more(
    tmp_path: Path, failing_disk: Path, call: str, error: int
) -> None:
    child = run(tmp_path / "log", call, error, preload=failing_disk)
    out, err = child.communicate(timeout=60)
    assert child.returncode == 70, err
    assert [int(line) for line in out.split()] == list(range(3, 31, 3))
    what = "sync" if call == "fdatasync" else "write"
    assert f"{what} failed: {tmp_path / 'log'}/{1:020d}.log at offset" in err
    assert f"errno {error}" in err
    assert check(str(tmp_path / "log")) >= 30


def test_failed_sync_of_the_directory_ends_the_process(tmp_path: Path, failing_disk: Path) -> None:
    # Content is synced by fdatasync; the only fsync is that of the directory, when the first segment gets its name.
    program = (
        "import errno, sys; from tests.journal import child; child.fail('fsync', errno.EIO, after=0);"
        "child.JournalWriter(sys.argv[1], segment_bytes=65536)"
    )
    (tmp_path / "log").mkdir()
    child = run_program(program, tmp_path / "log", failing_disk)
    assert child.returncode == 70, child.stderr
    assert "sync of the directory failed" in child.stderr


def test_short_write_is_continued_and_loses_nothing(tmp_path: Path, failing_disk: Path) -> None:
    child = run(tmp_path / "log", "pwrite", -1, preload=failing_disk)
    out, err = child.communicate(timeout=60)
    assert child.returncode == 0, err
    assert int(out.split()[-1]) == 330 == check(str(tmp_path / "log"))


def test_full_disk_at_preallocation_stops_intake_then_goes_on(tmp_path: Path, failing_disk: Path) -> None:
    child = run(tmp_path / "log", "full", preload=failing_disk)
    out, err = child.communicate(timeout=60)
    assert child.returncode == 0, err
    lines = out.split("\n")
    stopped = lines.index("no space")
    assert stopped >= 1, "the first segment is used before intake stops"
    assert [int(line) for line in lines[:stopped]] == list(range(1, stopped + 1))
    # Nothing of what was refused is in the log, and the numbers go on where they stopped.
    assert int(lines[stopped + 1]) == stopped + 1
    assert check(str(tmp_path / "log")) == stopped + 101
    assert err.count("preallocation failed") == 1
    assert "No space left on device" in err
    assert "preallocation works again" in err
    assert int(lines[-2].split()[1]) >= 1


def test_full_disk_at_start_is_an_error_and_leaves_no_segment(tmp_path: Path, failing_disk: Path) -> None:
    program = (
        "import sys, errno; from tests.journal import child; child.fail('posix_fallocate', errno.ENOSPC, after=1);"
        "child.JournalWriter(sys.argv[1])"
    )
    child = run_program(program, tmp_path / "log", failing_disk)
    assert "No space left on device" in child.stderr
    assert sorted(path.name for path in (tmp_path / "log").iterdir()) == ["durable", "lock"]
    with JournalWriter(tmp_path / "log", segment_bytes=1 << 20) as writer:
        assert writer.epoch == 1
