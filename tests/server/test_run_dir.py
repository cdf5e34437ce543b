"""Where an engine's sockets are, who may have made the folder, and whether a command talks to it."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from engine import datadir, run_dir, runtime
from engine.exits import Exit
from engine.peers import Peer
from engine.run_dir import NotRunning, Refused
from tests.serving import ROOT, Server, everopen
from tests.strangers import NOBODY, needs_root

STATUS = runtime.CONTROL_SOCKETS[0] + runtime.STATUS_SUFFIX


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where all may write. Its path is short enough for sockets."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o1777)
        monkeypatch.setattr(tempfile, "tempdir", folder)
        monkeypatch.delenv("RUNTIME_DIRECTORY", raising=False)
        yield Path(folder)


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    datadir.create_or_open(tmp_path / "data")
    return tmp_path / "data"


def made(data_dir: Path) -> Path:
    with runtime.exclusive(data_dir) as lock:
        return run_dir.make(data_dir, lock)


def test_folder_is_private_and_is_found_again(data_dir: Path, temporary: Path) -> None:
    folder = made(data_dir)
    assert folder.parent == temporary
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert run_dir.find(data_dir) == (folder, os.getuid())
    assert (data_dir / runtime.LOCK).read_text() == f"{os.getpid()}\n{folder}\n"


def test_folder_is_found_wherever_temporary_files_are_for_who_looks(
    data_dir: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = made(data_dir)
    monkeypatch.setattr(tempfile, "tempdir", str(data_dir))
    assert run_dir.find(data_dir).path == folder


def test_folder_is_where_systemd_says(data_dir: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (temporary / "run").mkdir()
    monkeypatch.setenv("RUNTIME_DIRECTORY", f"{temporary}/run:{temporary}/other")
    folder = made(data_dir)
    assert folder.parent == temporary / "run"
    monkeypatch.delenv("RUNTIME_DIRECTORY")
    assert run_dir.find(data_dir).path == folder
    # Who is killed leaves it, and children look for the next supervisor there.
    assert made(data_dir) == folder
    # Once it is gone, the next one is made where one would be made now.
    folder.rmdir()
    assert made(data_dir).parent == temporary


def test_no_engine_is_not_running(data_dir: Path, temporary: Path) -> None:
    with pytest.raises(NotRunning):
        run_dir.find(data_dir)
    made(data_dir).rmdir()
    with pytest.raises(NotRunning):
        run_dir.find(data_dir)


def test_copy_of_a_data_directory_does_not_lead_to_the_engine_of_the_first(
    data_dir: Path, temporary: Path, tmp_path: Path
) -> None:
    made(data_dir)
    shutil.copytree(data_dir, tmp_path / "copy")
    with pytest.raises(NotRunning):
        run_dir.find(tmp_path / "copy")


def of_nobody(path: Path) -> None:
    os.chown(path, NOBODY, NOBODY)


def open_to_all(path: Path) -> None:
    path.chmod(0o755)


def by_a_link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


SPOILED = [
    pytest.param(of_nobody, f"belongs to user {NOBODY}", marks=needs_root),
    (open_to_all, r"open to others \(mode 0755\)"),
    (by_a_link, "no folder|no socket"),
]


@pytest.mark.parametrize(("spoil", "said"), SPOILED)
def test_folder_that_may_be_somebody_elses_is_refused_by_name(
    data_dir: Path, temporary: Path, spoil: Callable[[Path], None], said: str
) -> None:
    folder = made(data_dir)
    spoil(folder)
    with pytest.raises(Refused, match=rf"{folder}: .*({said})"):
        run_dir.find(data_dir)
    for command in ("status", "upgrade"):
        done = everopen(command, "--data-dir", data_dir)
        assert done.returncode == Exit.UNUSABLE
        assert f"{folder}: " in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("spoil", "said"), SPOILED)
def test_folder_that_somebody_else_has_made_before_is_not_used_and_the_other_is_found(
    data_dir: Path, temporary: Path, spoil: Callable[[Path], None], said: str
) -> None:
    first = made(data_dir)
    spoil(first)
    second = made(data_dir)
    assert second != first
    assert stat.S_IMODE(second.stat().st_mode) == 0o700
    assert run_dir.find(data_dir).path == second


@pytest.mark.parametrize(("spoil", "said"), SPOILED)
def test_socket_that_may_be_somebody_elses_is_refused_by_name(
    data_dir: Path, temporary: Path, spoil: Callable[[Path], None], said: str
) -> None:
    folder = made(data_dir)
    with closing(runtime.supervisor_socket(folder)):
        found = run_dir.find(data_dir)
        assert found.socket(runtime.SUPERVISOR_SOCKET) == str(folder / runtime.SUPERVISOR_SOCKET)
        spoil(folder / runtime.SUPERVISOR_SOCKET)
        with pytest.raises(Refused, match=rf"{runtime.SUPERVISOR_SOCKET}: .*({said})"):
            found.socket(runtime.SUPERVISOR_SOCKET)


def test_listener_of_another_user_is_refused(data_dir: Path, temporary: Path) -> None:
    folder = made(data_dir)
    found = run_dir.find(data_dir)
    found.check(Peer(1, os.getuid()))
    found.check(Peer(1, 0))
    with pytest.raises(Refused, match="process 7 of user 4321"):
        found.check(Peer(7, 4_321))
    assert folder


AS_NOBODY = """
import os, sys
from pathlib import Path
import engine.run_dir, engine.runtime, engine.status
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
"""
MAKE = """
data_dir = Path(sys.argv[1])
with engine.runtime.exclusive(data_dir) as lock:
    print(engine.run_dir.make(data_dir, lock))
"""
LOOK = """
try:
    engine.status.sample(Path(sys.argv[1]))
except engine.run_dir.Refused as error:
    print(error)
"""


def as_nobody(program: str, *arguments: str | Path) -> str:
    command = [sys.executable, "-c", AS_NOBODY + program, *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout.strip()


@needs_root
def test_root_finds_the_engine_of_another_user() -> None:
    # Below a folder that another user may enter, as pytest's are not.
    with tempfile.TemporaryDirectory() as shared:
        Path(shared).chmod(0o755)
        data_dir = Path(shared) / "data"
        datadir.create_or_open(data_dir)
        of_nobody(data_dir)
        folder = Path(as_nobody(MAKE, data_dir))
        try:
            assert run_dir.find(data_dir) == (folder, NOBODY)
            # Without the line in the lock it is looked for by the owner.
            (data_dir / runtime.LOCK).unlink()
            assert run_dir.find(data_dir).uid == NOBODY
        finally:
            folder.rmdir()


@needs_root
def test_other_users_are_told_whom_to_ask() -> None:
    with tempfile.TemporaryDirectory() as shared:
        Path(shared).chmod(0o755)
        with Server(Path(shared) / "data") as server:
            folder = run_dir.find(server.data_dir).path
            assert as_nobody(LOOK, server.data_dir) == f"{folder}: belongs to user 0: ask as that user, or as root"
            assert everopen("status", "--json", "--data-dir", server.data_dir).returncode == 0
            assert server.stop() == 0


def test_status_talks_to_nobody_who_took_the_place_of_the_socket(data_dir: Path, temporary: Path) -> None:
    folder = made(data_dir)
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(folder / STATUS))
        (folder / STATUS).chmod(0o666)
        other.listen()
        other.settimeout(0.0)
        done = everopen("status", "--data-dir", data_dir)
        assert done.returncode == Exit.UNUSABLE
        assert "open to others" in done.stderr
        with pytest.raises(BlockingIOError):
            other.accept()
