"""What the native fuzzer begins with, and what it once found, through the ordinary build: nothing else is raised."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine._core import JournalReader, Shard

pytest.importorskip("tests.probes.wire_probe")
from tests.fuzz.native import layout, targets
from tests.machines import LOG_ID

CORPUS = Path(__file__).parent / "corpus"
pytestmark = pytest.mark.native


def inputs(name: str) -> list[bytes]:
    return [path.read_bytes() for path in sorted((CORPUS / name).iterdir())]


@pytest.mark.parametrize("name", targets.TARGETS)
def test_kept_input_is_read_or_refused(name: str, tmp_path: Path) -> None:
    with targets.TARGETS[name](tmp_path) as feed:
        for data in inputs(name):
            feed(data)


def test_layout_of_a_log_that_is_repaired_is_that_of_the_log(tmp_path: Path) -> None:
    replayed = 0
    for data in inputs("journal"):
        for name, content in layout.journal_files(data).items():
            (tmp_path / name).write_bytes(content)
            if data[0] == layout.AS_IT_IS and len(layout.journal_in_short(content, layout.AS_IT_IS)) == len(data):
                shard = Shard.empty(LOG_ID)
                with JournalReader(str(tmp_path)) as reader:
                    replayed += shard.replay_from(reader) > 20
                (repaired,) = layout.journal_files(bytes([layout.REPAIRED]) + data[1:]).values()
                assert repaired == content
    assert replayed, "no log of the corpus is whole"


def test_layout_of_a_snapshot_that_is_repaired_is_that_of_the_snapshot(tmp_path: Path) -> None:
    loaded = 0
    for data in inputs("snapshot"):
        if data[0] == layout.AS_IT_IS and len(data) > layout.SNAPSHOT_HEAD:
            (tmp_path / "snap").write_bytes(data[1:])
            try:
                Shard.load(str(tmp_path / "snap"))
            except Exception:
                continue
            loaded += 1
            assert layout.snapshot_file(bytes([layout.REPAIRED]) + data[1:]) == data[1:]
    assert loaded, "no snapshot of the corpus is whole"
