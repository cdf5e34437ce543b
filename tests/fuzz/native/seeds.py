"""Writes what the fuzzer begins with, tests/fuzz/corpus: inputs that go through, from the generators of other tests.

    python -m tests.fuzz.native.seeds FOLDER

What a run finds beyond is merged into the same folders by hand; inputs that once broke something stay.
"""

from __future__ import annotations

import gzip
import hashlib
import random
import struct
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from hyperframe.frame import DataFrame, PingFrame, RstStreamFrame

from tests.front.calls import PLACE_ORDER, PLACE_ORDERS, place, place_batch
from tests.front.http2 import Connection, prefixed, recorded, request_headers
from tests.fuzz.native.layout import AS_IT_IS, REPAIRED, journal_in_short
from tests.fuzz.native.targets import BYTES, COMPRESSED, FRAMES, GREETING, GUARDED, MESSAGES
from tests.generate import Generator
from tests.journal.logs import JournalWriter, commit
from tests.machines import LOG_ID, Pair
from tests.wire import generate
from tests.wire.requests import KINDS

SEGMENT_BYTES = 65_536
STEPS = 24


def wire() -> Iterator[bytes]:
    rng = random.Random(1)
    for place_of, kind in enumerate(KINDS):
        for batch in (0, 0x80):
            # The target divides by the number of methods.
            first = next(byte for byte in range(batch + 1, 256) if byte % len(KINDS) == place_of)
            for _ in range(2):
                message = generate.request(rng, kind).SerializeToString(deterministic=True)
                if len(message) < 500:
                    item = b"\x0a" + generate.varint(len(message)) + message
                    yield bytes([first]) + (item * 2 if batch else message)


def talk(connection: Connection) -> None:
    for frame in connection.headers_frames(connection.new_stream(), request_headers(PLACE_ORDER), fragment_bytes=30):
        connection.send(frame)
    connection.send(DataFrame(1, prefixed(place("a")), flags=["END_STREAM"]), PingFrame(0, b"12345678"))
    stream_id = connection.open(PLACE_ORDERS, ("grpc-timeout", "9S"), ("x-some-bin", "AAEC"))
    connection.send(DataFrame(stream_id, prefixed(place_batch())), RstStreamFrame(stream_id, error_code=8))


def front() -> Iterator[bytes]:
    said = recorded(talk)
    yield bytes([BYTES]) + said
    yield bytes([BYTES]) + b"GET / HTTP/1.1\r\n\r\n"
    parts, at = [bytes([FRAMES])], len(GREETING)
    while at < len(said):
        size = int.from_bytes(said[at : at + 3], "big")
        parts.append(
            struct.pack(">BBBH", said[at + 3], said[at + 4], said[at + 8], size) + said[at + 9 : at + 9 + size]
        )
        at += 9 + size
    yield b"".join(parts)
    for call, message in ((0, place("b")), (1, place_batch()), (2, b"\x0a\x01s\x12\x01a"), (4, b""), (255, b"")):
        for how, body in ((MESSAGES, message), (COMPRESSED, gzip.compress(message, mtime=0))):
            messages = bytes([call]) + 2 * (len(body).to_bytes(2, "big") + body)
            yield bytes([how]) + messages
            for key in (b"", b"fu", b"fuzz", b"no"):
                yield bytes([GUARDED + how, len(key)]) + key + messages


def journal() -> Iterator[bytes]:
    for seed in range(4):
        generator = Generator(seed)
        pair = Pair(generator.profile.window_ms, generator.profile.entries_max)
        records = [pair.core.record]
        while len(records) < STEPS:
            step = generator.next(pair.model)
            if pair.execute(step.method, step.request, step.now_ms).sequence:
                records.append(pair.core.record)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder)
            with JournalWriter(folder, log_id=LOG_ID, segment_bytes=SEGMENT_BYTES) as writer:
                for at in range(0, len(records), 8):
                    commit(writer, records[at : at + 8])
            segment = min(path.glob("*.log")).read_bytes()
        for how in (AS_IT_IS, REPAIRED):
            yield journal_in_short(segment, how)


def snapshot() -> Iterator[bytes]:
    for seed in range(6):
        generator = Generator(seed)
        pair = Pair(generator.profile.window_ms, generator.profile.entries_max)
        for _ in range(STEPS):
            step = generator.next(pair.model)
            pair.execute(step.method, step.request, step.now_ms)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "snap"
            pair.core.save(str(path))
            for how in (AS_IT_IS, REPAIRED):
                yield bytes([how]) + path.read_bytes()


def main(folder: Path) -> None:
    for name, seeds in (("wire", wire()), ("front", front()), ("journal", journal()), ("snapshot", snapshot())):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for seed in seeds:
            # As libFuzzer names them, so that the same input is one file.
            (folder / name / hashlib.sha1(seed, usedforsecurity=False).hexdigest()).write_bytes(seed)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
