"""What the tests run in a process of its own, to be killed or to meet a failing disk.

`python -m tests.journal.child MODE DIR`. Each line it prints is the last sequence that is durable, once it is.
"""

import ctypes
import errno
import sys
import time
from typing import Any

from engine.errors import JournalNoSpace
from tests.journal.logs import TINY, JournalReader, JournalWriter, append, record


def size_of(sequence: int) -> int:
    return 24 + sequence * 37 % 900


def fail(call: str, error: int, after: int = 0) -> None:
    ctypes.CDLL(None).failing_disk(call.encode(), error, after)


def append_batch(writer: Any, count: int) -> int:
    """Appends so many and wakes the sync thread; the last sequence."""
    last = 0
    for _ in range(count):
        last = append(writer, record(writer.next_sequence, size_of(writer.next_sequence)))
    writer.kick()
    return last


def acknowledge(writer: Any, sequence: int) -> None:
    if not writer.wait_durable(sequence, 60):
        sys.exit("never durable")
    print(sequence, flush=True)


def forever(path: str) -> None:
    """Batches of all sizes until it is killed."""
    with JournalWriter(path, segment_bytes=1 << 17) as writer:
        turn = 0
        while True:
            turn += 1
            acknowledge(writer, append_batch(writer, turn * 13 % 40 + 1))


def disk(path: str, call: str, error: int) -> None:
    """Ten commits, then the disk fails, then more of them."""
    with JournalWriter(path, segment_bytes=1 << 20) as writer:
        for _ in range(10):
            acknowledge(writer, append_batch(writer, 3))
        fail(call, error)
        for _ in range(10):
            acknowledge(writer, append_batch(writer, 30))


def full(path: str) -> None:
    """No second segment can be preallocated; then there is room again."""
    fail("posix_fallocate", errno.ENOSPC, after=2)  # `durable` and the first segment
    with JournalWriter(path, segment_bytes=TINY) as writer:
        try:
            while True:
                acknowledge(writer, append_batch(writer, 1))
        except JournalNoSpace:
            print("no space", flush=True)
        before = writer.next_sequence
        fail("", 0)
        until = time.monotonic() + 30
        while writer.next_sequence == before and time.monotonic() < until:
            try:
                acknowledge(writer, append_batch(writer, 1))
            except JournalNoSpace:
                continue
        for _ in range(100):
            acknowledge(writer, append_batch(writer, 1))
        print("failures", writer.stats()["prepare_failures"], flush=True)


def check(path: str) -> int:
    """Reads all back; every record is what its sequence says. The last sequence."""
    last = 0
    with JournalReader(path) as reader:
        for sequence, data in reader:
            if sequence != last + 1 or data != record(sequence, size_of(sequence)):
                raise AssertionError(f"sequence {sequence} after {last} is not what was appended")
            last = sequence
    return last


if __name__ == "__main__":
    mode, directory, *rest = sys.argv[1:]
    if mode == "forever":
        forever(directory)
    elif mode == "full":
        full(directory)
    else:
        disk(directory, mode, int(rest[0]))
