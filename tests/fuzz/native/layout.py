"""Inputs of the fuzzer as files of a shard: as they are, or with every checksum made right.

A log is written in short, without its padding, as most of a segment is zeros: see docs/log_format.md.
"""

from __future__ import annotations

import struct

from engine._core import crc32c

AS_IT_IS, REPAIRED = range(2)
UNIT, SECTOR, CONTENT = 4096, 512, 504
SEGMENT_BYTES = 65_536
SEGMENT_HEAD, BLOCK_HEAD = 76, 64
MASK = 2**64 - 1

SNAPSHOT_HEAD, RETENTION, SECTION_HEAD = 104, 40, 56


def mix(x: int) -> int:
    """The finalizer of splitmix64."""
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & MASK
    return x ^ (x >> 31)


def with_u32(data: bytes, offset: int, value: int) -> bytes:
    return data[:offset] + value.to_bytes(4, "little") + data[offset + 4 :]


def journal_files(data: bytes) -> dict[str, bytes]:
    """u8 how, then one segment: the named part of its header, then blocks, each u16 size of its payload, header,
    payload."""
    how, rest = (data[0] & 1, data[1:]) if data else (AS_IT_IS, data)
    head, rest = rest[:SEGMENT_HEAD].ljust(UNIT - 4, b"\0"), rest[SEGMENT_HEAD:]
    chain = crc32c(head)
    parts = [head, chain.to_bytes(4, "little")]
    room = SEGMENT_BYTES - UNIT
    while len(rest) > 2 and room > UNIT:
        size = min(int.from_bytes(rest[:2], "little"), room * CONTENT // SECTOR - BLOCK_HEAD)
        header = rest[2 : 2 + BLOCK_HEAD].ljust(BLOCK_HEAD, b"\0")
        payload = rest[2 + BLOCK_HEAD : 2 + BLOCK_HEAD + size]
        rest = rest[2 + BLOCK_HEAD + size :]
        block, chain = journal_block(how, header, payload, chain)
        parts.append(block)
        room -= len(block)
    return {f"{1:020d}.log": b"".join(parts)[:SEGMENT_BYTES].ljust(SEGMENT_BYTES, b"\0")}


def journal_block(how: int, header: bytes, payload: bytes, chain: int) -> tuple[bytes, int]:
    """The block in sectors with their stamps, and the next link of the chain."""
    size = -(-(BLOCK_HEAD + len(payload)) // (UNIT // SECTOR * CONTENT)) * UNIT
    if how == REPAIRED:
        header = with_u32(with_u32(with_u32(header, 44, len(payload)), 48, size), 52, chain)
        header = with_u32(header, 56, crc32c(header[:56]))
    log_digest, epoch, first_sequence, segment, index = struct.unpack_from("<QQQII", header, 8)
    key = mix(mix(mix(log_digest ^ epoch) ^ first_sequence) ^ (segment << 32 | index))
    content = (header + payload).ljust(size // SECTOR * CONTENT, b"\0")
    block = b"".join(
        content[number * CONTENT : (number + 1) * CONTENT] + (mix(key + number & MASK) | 1).to_bytes(8, "little")
        for number in range(size // SECTOR)
    )
    chain = crc32c(block[BLOCK_HEAD:], crc32c(block[: BLOCK_HEAD - 4], chain))
    return (with_u32(block, BLOCK_HEAD - 4, chain) if how == REPAIRED else block), chain


def journal_in_short(segment: bytes, how: int) -> bytes:
    """The reverse of journal_files, for what is whole."""
    parts = [bytes([how]), segment[:SEGMENT_HEAD]]
    at = UNIT
    while segment[at : at + 4] == b"EOBK":
        payload_bytes, block_bytes = struct.unpack_from("<II", segment, at + 44)
        sectors = range(at, at + block_bytes, SECTOR)
        content = b"".join(segment[sector : sector + CONTENT] for sector in sectors)
        parts += [payload_bytes.to_bytes(2, "little"), content[: BLOCK_HEAD + payload_bytes]]
        at += block_bytes
    return b"".join(parts)


def snapshot_file(data: bytes) -> bytes:
    """u8 how, then the file."""
    how, rest = (data[0] & 1, data[1:]) if data else (AS_IT_IS, data)
    if how == AS_IT_IS or len(rest) < SNAPSHOT_HEAD:
        return rest
    head = with_u32(rest[:SNAPSHOT_HEAD], 100, crc32c(rest[:100]))
    rest = rest[SNAPSHOT_HEAD:]
    parts = [head]
    if int.from_bytes(head[8:12], "little") > 1 and len(rest) >= RETENTION:
        parts.append(with_u32(rest[:RETENTION], 36, crc32c(rest[:36], int.from_bytes(head[100:], "little"))))
        rest = rest[RETENTION:]
    while len(rest) >= SECTION_HEAD:
        size = int.from_bytes(rest[8:16], "little")
        items = rest[SECTION_HEAD : SECTION_HEAD + size]
        section = with_u32(rest[:SECTION_HEAD], 48, crc32c(items))
        parts += [with_u32(section, 52, crc32c(section[:52])), items]
        rest = rest[SECTION_HEAD + size :]
    return b"".join([*parts, rest])
