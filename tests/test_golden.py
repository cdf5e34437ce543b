"""Data directories of every release: each must open, replay to the digests recorded with it, and audit clean.

What a program does not know yet, it must refuse by name: the same directories with a newer version or level written in.
"""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from engine import datadir, rebuild
from engine._core import LIMITS, Engine, JournalReader, JournalWriter, Shard, crc32c
from engine.audit import audit_shard
from engine.errors import JournalFormatError, ReplayMismatch, SnapshotDamaged
from scripts import make_golden

pytestmark = pytest.mark.native

GOLDEN = Path(__file__).resolve().parent / "golden"
RELEASES = sorted(path.stem for path in GOLDEN.glob("*.json"))
NEWER = 99
# Where a snapshot's header has its version, its level and its CRC: docs/snapshot_format.md.
SNAPSHOT_VERSION_AT, SNAPSHOT_LEVEL_AT, SNAPSHOT_CRC_AT = 8, 12, 100
SEGMENT_VERSION_AT, SEGMENT_CRC_AT = 4, 4092
RECORD_LEVEL_AT = 6


def expected(release: str) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((GOLDEN / f"{release}.json").read_text())
    return values


@pytest.fixture(params=RELEASES)
def release(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def data_dir(release: str, tmp_path: Path) -> Path:
    """A copy of the release's directory, which a test may change."""
    with tarfile.open(GOLDEN / f"{release}.tar.xz") as archive:
        archive.extractall(tmp_path / "data", filter="data")
    return tmp_path / "data"


def shard_in(data_dir: Path) -> Path:
    [path] = datadir.shard_directories(data_dir)
    return path


def records_of(data_dir: Path) -> list[bytes]:
    with JournalReader(str(shard_in(data_dir))) as reader:
        return [record for _, record in reader]


def stamp(path: Path, at: int, value: int, crc_at: int) -> None:
    """Writes a number into a header and makes its checksum right again, as a newer program would have."""
    data = bytearray(path.read_bytes())
    data[at] = value
    data[crc_at : crc_at + 4] = crc32c(bytes(data[:crc_at])).to_bytes(4, "little")
    path.write_bytes(data)


def snapshot_of(data_dir: Path) -> Path:
    return datadir.snapshots(shard_in(data_dir))[-1][1]


def test_release_of_today_has_its_directory() -> None:
    assert make_golden.version("everopen") in RELEASES, "run scripts/make_golden.py when a release is made"


def test_audit_of_a_release_holds_with_its_digests(release: str, data_dir: Path) -> None:
    verdict, wanted = audit_shard(shard_in(data_dir)), expected(release)
    assert verdict.records == verdict.sequence == wanted["records"]
    assert (verdict.state_digest, verdict.business_digest) == (wanted["state_digest"], wanted["business_digest"])


def test_snapshot_of_a_release_holds_the_digest_of_its_sequence(release: str, data_dir: Path) -> None:
    shard, wanted = rebuild.load(snapshot_of(data_dir)), expected(release)["snapshot"]
    assert {"sequence": shard.sequence, "state_digest": shard.state_digest()} == wanted
    assert shard.check() == ""


def test_engine_recovers_a_release_from_its_snapshot_and_goes_on(release: str, data_dir: Path) -> None:
    engine, wanted = Engine(str(shard_in(data_dir))), expected(release)
    try:
        assert engine.sequence == wanted["records"]
        assert engine.log_id.hex() == wanted["log_id"]
        assert (engine.state_digest(), engine.business_digest()) == (wanted["state_digest"], wanted["business_digest"])
    finally:
        engine.close()
    assert audit_shard(shard_in(data_dir)).records == wanted["records"]


def test_records_of_the_release_of_today_are_made_the_same_again(tmp_path: Path) -> None:
    """Same commands and times, same bytes. Once the release is out, another outcome needs a new level; before that, its
    files are deleted and made anew by scripts/make_golden.py."""
    release = make_golden.version("everopen")
    assert make_golden.make(tmp_path / "again", expected(release)["level"]) == expected(release)
    with tarfile.open(GOLDEN / f"{release}.tar.xz") as archive:
        archive.extractall(tmp_path / "data", filter="data")
    assert records_of(tmp_path / "again") == records_of(tmp_path / "data")
    assert snapshot_of(tmp_path / "again").read_bytes() == snapshot_of(tmp_path / "data").read_bytes()


def test_record_of_a_newer_level_is_refused_by_name(data_dir: Path, tmp_path: Path) -> None:
    records = records_of(data_dir)
    middle = len(records) // 2
    newer = bytearray(records[middle])
    newer[RECORD_LEVEL_AT : RECORD_LEVEL_AT + 2] = (LIMITS["LEVEL_MAX"] + 1).to_bytes(2, "little")
    [shard_directory] = datadir.create_or_open(tmp_path / "newer")
    with JournalWriter(str(shard_directory)) as writer:
        for record in [*records[:middle], bytes(newer), *records[middle + 1 :]]:
            writer.append(record)
    with pytest.raises(ReplayMismatch, match="newer level") as refused:
        audit_shard(shard_directory)
    assert refused.value.sequence == middle + 1
    with pytest.raises(ReplayMismatch, match="newer level"):
        Engine(str(shard_directory))


def test_segment_of_a_newer_format_version_is_refused_by_name(data_dir: Path) -> None:
    last = max(shard_in(data_dir).glob("*.log"))
    stamp(last, SEGMENT_VERSION_AT, NEWER, SEGMENT_CRC_AT)
    with pytest.raises(JournalFormatError, match=f"format version {NEWER}"):
        audit_shard(shard_in(data_dir))


def test_snapshot_of_a_newer_format_version_is_refused_by_name(data_dir: Path) -> None:
    stamp(snapshot_of(data_dir), SNAPSHOT_VERSION_AT, NEWER, SNAPSHOT_CRC_AT)
    with pytest.raises(JournalFormatError, match=f"format version {NEWER}"):
        audit_shard(shard_in(data_dir))


def test_snapshot_of_a_newer_level_is_refused_by_name(data_dir: Path) -> None:
    stamp(snapshot_of(data_dir), SNAPSHOT_LEVEL_AT, NEWER, SNAPSHOT_CRC_AT)
    with pytest.raises(SnapshotDamaged, match=f"level {NEWER} is newer"):
        Shard.load(str(snapshot_of(data_dir)))
