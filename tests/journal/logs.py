"""Small logs to break: how tests make them, look into them and change them."""

import shutil
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from engine.errors import JournalFull

try:
    from engine import _core as native

    native.JournalWriter  # noqa: B018
except (ImportError, AttributeError):  # a core that is built without the journal
    from tests.probes import journal_probe as native  # type: ignore[no-redef]

JournalReader: Any = native.JournalReader
JournalWriter: Any = native.JournalWriter

LOG_ID = bytes(range(1, 17))
SECTOR = 512
UNIT = 4096
SMALL = 65536
TINY = 16384


def record(sequence: int, size: int = 100) -> bytes:
    """A whole record whose content follows from its sequence."""
    head = struct.pack("<IBBHIIq", size, 1, 1, 1, 0, 4, sequence)
    return (head + bytes((sequence * 7 + at) % 251 + 1 for at in range(size)))[:size]


def append(writer: Any, data: bytes) -> int:
    """As the writer's, but patient: small segments fill faster than the next one is prepared."""
    while True:
        try:
            return int(writer.append(data))
        except JournalFull:
            writer.wait_durable(writer.next_sequence - 1, 10)


def commit(writer: Any, records: Iterable[bytes]) -> int:
    """Appends them as one block and waits for it."""
    last = 0
    for each in records:
        last = append(writer, each)
    writer.kick()
    assert writer.wait_durable(last, 30)
    return last


def make_log(path: Path, commits: list[list[bytes]], segment_bytes: int = SMALL, sealed: bool = True) -> Path:
    """A log of one more epoch: a block for each commit, and a seal unless it is to look killed before that."""
    with JournalWriter(path, log_id=LOG_ID, segment_bytes=segment_bytes) as writer:
        for each in commits:
            commit(writer, each)
    last = blocks(last_segment(path))
    if last and not sealed:
        assert last[-1].type == 2
        write_at(last_segment(path), last[-1].offset, bytes(UNIT))
    return path


def copy(source: Path, target: Path) -> Path:
    shutil.copytree(source, target)
    return target


def segment(path: Path, number: int) -> Path:
    return path / f"{number:020d}.log"


def last_segment(path: Path) -> Path:
    return max(path.glob("*.log"))


class Block(NamedTuple):
    offset: int
    type: int
    first_sequence: int
    records: int
    size: int


def blocks(file: Path) -> list[Block]:
    data = file.read_bytes()
    found = []
    at = UNIT
    while at < len(data) and data[at : at + 4] == b"EOBK":
        fields = struct.unpack_from("<IBBHQQQIIIIIIII", data, at)
        found.append(Block(at, fields[2], fields[6], fields[9], fields[11]))
        at += fields[11]
    return found


def record_blocks(file: Path) -> list[Block]:
    return [block for block in blocks(file) if block.type == 1]


def write_at(file: Path, offset: int, data: bytes) -> None:
    with file.open("r+b") as opened:
        opened.seek(offset)
        opened.write(data)


def flip(file: Path, offset: int, bit: int = 0) -> None:
    with file.open("r+b") as opened:
        opened.seek(offset)
        byte = opened.read(1)[0]
        opened.seek(offset)
        opened.write(bytes([byte ^ 1 << bit]))


def read(path: Path, from_sequence: int | None = None) -> list[tuple[int, bytes]]:
    with JournalReader(path, from_sequence) as reader:
        return list(reader)


def expected(last: int, size: int = 100) -> list[tuple[int, bytes]]:
    return [(sequence, record(sequence, size)) for sequence in range(1, last + 1)]
