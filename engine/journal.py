"""The journal's control plane: proves a whole log and says in words what lies where. See docs/log_format.md."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from engine._core import JournalReader, journal_durable

SECTOR_BYTES = 512
BLOCK_UNIT_BYTES = 4096
BLOCK_MAGIC = b"EOBK"


class Segment(NamedTuple):
    """One segment, proved. `end` is the offset at which the log goes on in the next segment, or ends."""

    number: int
    epoch: int
    first_sequence: int
    records: int
    blocks: int
    seals: int
    end: int
    size: int
    # What lies behind `end`, in words; empty: nothing but zeros. It is not part of the log.
    behind: str

    def __str__(self) -> str:
        holds = "no records"
        if self.records:
            holds = f"sequences {self.first_sequence} to {self.first_sequence + self.records - 1}"
        behind = f"; behind the end: {self.behind}" if self.behind else ""
        text = f"segment {self.number}: epoch {self.epoch}, {holds}, {self.blocks} blocks, {self.seals} of them seals"
        return f"{text}, ends at {self.end} of {self.size} bytes{behind}"


class Verdict(NamedTuple):
    """A log that holds. `durable` is what its leader last published, None if that is not known."""

    log_id: bytes
    segments: list[Segment]
    first_sequence: int
    last_sequence: int
    # clean, sealed or torn; limit: stopped at until_sequence.
    tail: str
    durable: int | None

    def __str__(self) -> str:
        holds = "no records"
        if self.last_sequence >= self.first_sequence:
            holds = f"sequences {self.first_sequence} to {self.last_sequence}"
        return f"journal: holds, {len(self.segments)} segments, {holds}, tail {self.tail}, log {self.log_id.hex()}"


def verify(directory: Path | str, *, until_sequence: int | None = None) -> Verdict:
    """Proves every block from the first segment that is there.

    Give `until_sequence` (what `durable` names) while a leader writes. Raises JournalDamaged or JournalFormatError with
    the first thing that is wrong; OSError if the disk cannot be read.
    """
    path = Path(directory)
    durable = journal_durable(str(path))
    segments = []
    with JournalReader(str(path), None, until_sequence) as reader:
        before = reader.position
        first_sequence = before["sequence"]
        more = True
        while more:
            more = reader.scan_segment()
            now = reader.position
            # While a leader writes, what is behind the end of the last segment is its next block.
            behind = describe_behind(path, now) if more or until_sequence is None else ""
            segments.append(
                Segment(
                    number=now["segment"],
                    epoch=now["epoch"],
                    first_sequence=now["segment_first_sequence"],
                    records=now["sequence"] - now["segment_first_sequence"],
                    blocks=now["blocks"] - before["blocks"],
                    seals=now["seals"] - before["seals"],
                    end=now["offset"],
                    size=now["segment_bytes"],
                    behind=behind,
                )
            )
            before = now
    return Verdict(
        log_id=before["log_id"],
        segments=segments,
        first_sequence=first_sequence,
        last_sequence=before["sequence"] - 1,
        tail=before["tail"],
        durable=durable["sequence"] if durable else None,
    )


def describe_behind(directory: Path, position: dict[str, object]) -> str:
    """What a segment holds behind the log's end in it, in words; empty if only zeros."""
    written = 0
    blocks = 0
    with (directory / f"{position['segment']:020d}.log").open("rb") as file:
        file.seek(int(str(position["offset"])))
        while unit := file.read(BLOCK_UNIT_BYTES):
            if unit.count(0) == len(unit):
                continue
            blocks += unit.startswith(BLOCK_MAGIC)
            sectors = (unit[at : at + SECTOR_BYTES] for at in range(0, len(unit), SECTOR_BYTES))
            written += sum(sector.count(0) != len(sector) for sector in sectors)
    if not written:
        return ""
    return f"{written} written sectors, {blocks} of them with a block's magic (a torn write, or of a fenced leader)"
