"""What goes behind snapshots, and what a backup does when it goes meanwhile."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from engine import backup, datadir, snapshots


def test_nothing_goes_that_the_caller_has_still_to_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(snapshots, "drop_segments_before", lambda _, sequence: asked.append(sequence) or 0)
    for sequence in (5, 10, 20, 30):
        datadir.snapshot_path(tmp_path, sequence).touch()
    snapshots.drop_behind(tmp_path, 10)
    assert [sequence for sequence, _ in datadir.snapshots(tmp_path)] == [10, 20, 30]
    snapshots.drop_behind(tmp_path, 30)
    assert [sequence for sequence, _ in datadir.snapshots(tmp_path)] == [20, 30]
    assert asked == [10, 20]
    datadir.snapshot_path(tmp_path, 40).touch()
    # What is damaged is none of the two to go on from.
    snapshots.drop_behind(tmp_path, 40, {datadir.snapshot_path(tmp_path, 30).name: "its CRC is wrong"})
    assert [sequence for sequence, _ in datadir.snapshots(tmp_path)] == [20, 30, 40]
    assert asked[2:] == [20]


def test_backup_begins_again_when_files_went_and_not_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tries = 0

    def copy_once(_: Path, copy: Path) -> Any:
        nonlocal tries
        tries += 1
        (copy / "begun").touch(exist_ok=False)
        raise FileNotFoundError

    monkeypatch.setattr(backup, "_copy_once", copy_once)
    with pytest.raises(FileNotFoundError):
        backup._copy_shard(tmp_path, tmp_path)
    assert tries == backup.COPY_TRIES
