"""What a device does to bytes that were durable. None of it may ever be served as if it were the truth."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import TYPE_CHECKING

from engine._core import crc32c

if TYPE_CHECKING:
    from tests.faults.disk import Disk, File

Keep = Callable[[int, int], list[int]]

SECTOR = 512
SECTOR_CONTENT = 504
UNIT = 4096
BLOCK_HEADER = struct.Struct("<IBBHQQQIIIIIIII")
BLOCK_MAGIC = 0x4B424F45
BLOCK_RECORDS = 1
# Its fields by their place in it.
BLOCK_TYPE, PAYLOAD_BYTES, BLOCK_BYTES, PREVIOUS_CRC = 2, 10, 11, 12
RECORD_HEAD = 24
RECORD_TIME_AT = 16


def _both(file: File, at: int, data: bytes) -> None:
    """Changes what is durable; a cache that had it clean is taken to have been dropped."""
    file.platter[at : at + len(data)] = data
    file.stale = True
    file.forget()


def _flip(disk: Disk, suffix: str) -> bool:
    files = [file for name, file in disk.files() if name.endswith(suffix)]
    if not files:
        return False
    file = disk.random.choice(files)
    # Mostly where something is written, and is not padding.
    sectors = [at for at in range(0, len(file.platter), SECTOR) if any(file.platter[at : at + SECTOR])]
    tries = [disk.random.choice(sectors or [0]) + disk.random.randrange(SECTOR) for _ in range(20)]
    places = [at for at in tries if at < len(file.platter)]
    _flip_bit(disk, file, next((at for at in places if file.platter[at]), 0))
    return True


def _flip_bit(disk: Disk, file: File, at: int) -> None:
    _both(file, at, bytes([file.platter[at] ^ 1 << disk.random.randrange(8)]))


def rot_log(disk: Disk) -> bool:
    return _flip(disk, ".log")


def rot_record(disk: Disk) -> bool:
    """Where replay might not see it: in the head of a record, or in its command."""
    found = _record_blocks(disk, last=True)
    if not found:
        return False
    file, begin, header = disk.random.choice(found)
    size = disk.random.choice((RECORD_HEAD, header[PAYLOAD_BYTES]))
    sector, inside = divmod(BLOCK_HEADER.size + disk.random.randrange(size), SECTOR_CONTENT)
    _flip_bit(disk, file, begin + sector * SECTOR + inside)
    return True


def rot_snapshot(disk: Disk) -> bool:
    return _flip(disk, ".snap")


def lose_file(disk: Disk) -> bool:
    names = [name for name, _ in disk.files()]
    if not names:
        return False
    name = disk.random.choice(names)
    del disk.names[name], disk.synced_names[name]
    return True


def swap_files(disk: Disk) -> bool:
    names = [name for name, _ in disk.files() if name.endswith(".log")]
    if len(names) < 2:
        return False
    one, other = disk.random.sample(names, 2)
    for held in (disk.names, disk.synced_names):
        held[one], held[other] = held[other], held[one]
    return True


def blocks(log: bytes) -> list[tuple[int, tuple[int, ...]]]:
    """Offset and header fields of each block, as far as they follow each other."""
    found = []
    at = UNIT
    while at + UNIT <= len(log):
        header = BLOCK_HEADER.unpack_from(log, at)
        if header[0] != BLOCK_MAGIC or not UNIT <= header[BLOCK_BYTES] <= len(log) - at:
            break
        found.append((at, header))
        at += header[BLOCK_BYTES]
    return found


def replace_block(disk: Disk) -> bool:
    """A block that is not the last is replaced by another one that is whole in itself: a copy from another history."""
    found = _record_blocks(disk, last=False)
    if not found:
        return False
    file, at, header = disk.random.choice(found)
    block = bytes(file.platter[at : at + header[BLOCK_BYTES]])
    _both(file, at, _other_block(block, header[PREVIOUS_CRC]))
    return True


def _record_blocks(disk: Disk, last: bool) -> list[tuple[File, int, tuple[int, ...]]]:
    """All blocks of records; the last block of each file only if asked for."""
    return [
        (file, at, header)
        for name, file in disk.files()
        if name.endswith(".log")
        for at, header in blocks(bytes(file.platter))[: None if last else -1]
        if header[BLOCK_TYPE] == BLOCK_RECORDS
    ]


def _other_block(block: bytes, previous_crc: int) -> bytes:
    """The same with the time of its first record moved, and right in itself."""
    sectors = [bytearray(block[at : at + SECTOR]) for at in range(0, len(block), SECTOR)]
    at = BLOCK_HEADER.size + RECORD_TIME_AT
    (time_ms,) = struct.unpack_from("<q", sectors[0], at)
    struct.pack_into("<q", sectors[0], at, time_ms + 1)
    changed = b"".join(sectors)
    crc = crc32c(changed[BLOCK_HEADER.size :], crc32c(changed[: BLOCK_HEADER.size - 4], previous_crc))
    return changed[: BLOCK_HEADER.size - 4] + struct.pack("<I", crc) + changed[BLOCK_HEADER.size :]


KINDS: dict[str, Callable[[Disk], bool]] = {
    "bit rot in the log": rot_log,
    "bit rot in a record": rot_record,
    "bit rot in a snapshot": rot_snapshot,
    "lost file": lose_file,
    "swapped files": swap_files,
    "replaced block": replace_block,
}
