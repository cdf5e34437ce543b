"""The archive as a process: batches in pieces, twice and broken, kills in between; and a worker's questions to it."""

from __future__ import annotations

import asyncio
import errno
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from engine import archive, datadir
from engine._core import JournalWriter
from engine.archive import ArchiveFeed
from engine.archive_store import FILE, ArchiveReader, ArchiveStore, Closed
from engine.channel import Channel, Message
from engine.errors import ArchiveDamaged, ArchiveUnavailable
from engine.lookups import Lookups
from tests.faults.shim import FailingDisk
from tests.serving import SEGMENT_BYTES

pytestmark = pytest.mark.native

PATIENCE_S = 30.0
LOG_IDS = [bytes([shard]) * 16 for shard in (1, 2)]


def closed(closed_sequence: int, item: bytes = b"") -> Closed:
    order_id = f"order-{closed_sequence}"
    return Closed(closed_sequence, closed_sequence, "shop", order_id, item or order_id.encode())


class Process:
    """`python -m engine.archive` with a supervisor that is this test."""

    def __init__(self, path: Path, directories: list[Path], environment: dict[str, str] | None = None) -> None:
        self.channel, other = Channel.pair()
        command = [sys.executable, "-m", "engine.archive", "--channel", str(other.fileno()), "--name", "archive"]
        with other:
            self.process = subprocess.Popen(
                command,
                pass_fds=[other.fileno()],
                stderr=subprocess.PIPE,
                text=True,
                env=os.environ | (environment or {}),
            )
        self.channel.send("start", path=str(path), directories=[str(directory) for directory in directories])
        assert self.hear().kind == "listening"

    def hear(self) -> Message:
        assert select.select([self.channel.fileno()], [], [], PATIENCE_S)[0]
        message = self.channel.receive()
        assert message, self.process.communicate()[1]
        return self.hear() if message.kind == "beat" else message

    def kill(self) -> None:
        self.process.kill()
        self.wait()

    def wait(self) -> int:
        code = self.process.wait(PATIENCE_S)
        self.channel.close()
        assert self.process.stderr
        self.stderr = self.process.stderr.read()
        self.process.stderr.close()
        return code


@pytest.fixture
def directories(tmp_path: Path) -> list[Path]:
    """Of two shards, each with a log."""
    made = datadir.make_shard_directories(tmp_path, 2)
    for directory, log_id in zip(made, LOG_IDS, strict=True):
        JournalWriter(str(directory), log_id=log_id, segment_bytes=SEGMENT_BYTES).close()
    return made


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "archive.sock"


@pytest.fixture
def running(path: Path, directories: list[Path]) -> Iterator[Process]:
    process = Process(path, directories)
    yield process
    if process.process.poll() is None:
        process.kill()


@pytest.fixture
def feed(path: Path) -> Iterator[ArchiveFeed]:
    made = ArchiveFeed(str(path), PATIENCE_S)
    yield made
    made.close()


def reader(directories: list[Path], shard: int) -> ArchiveReader:
    return ArchiveReader(directories[shard], LOG_IDS[shard])


def test_orders_of_each_shard_are_there_once_they_are_answered(
    running: Process, feed: ArchiveFeed, directories: list[Path]
) -> None:
    assert feed.send(0, []) == 0
    assert feed.send(0, [closed(n) for n in range(1, 101)]) == 100
    assert feed.send(1, [closed(7, b"other")]) == 7
    assert feed.send(0, [closed(200)], evicted_through=100) == 200
    with reader(directories, 0) as first, reader(directories, 1) as second:
        assert (first.count(), second.count()) == (101, 1)
        assert (first.find("shop", "order-7"), second.find("shop", "order-7")) == (b"order-7", b"other")


def test_orders_that_fill_many_frames_are_promised_with_the_last_one(
    running: Process, feed: ArchiveFeed, directories: list[Path]
) -> None:
    # All closed by one tick, so that no part of them may be called archived.
    rows = [Closed(9, n, "shop", f"order-{n}", bytes(1_000_000)) for n in range(1, 21)]
    frames = list(archive.pack(0, rows))
    assert len(frames) > 2
    assert [archive.unpack(frame)[0]["through"] for frame in frames] == [0] * (len(frames) - 1) + [9]
    assert feed.send(0, rows) == 9
    with reader(directories, 0) as store:
        assert store.count() == 20


@pytest.mark.parametrize("character", ["\x01", "é", "\U0001f4e6", "a"])
def test_largest_frame_keeps_its_bound(character: str) -> None:
    longest = character * (64 // len(character.encode()))
    rows = [Closed(2**63, 2**63, longest, longest, b"") for _ in range(archive.ARCHIVE_ROWS_MAX)]
    rows[-1:] = [Closed(2**63, 2**63, longest, longest, bytes(4 * 1024 * 1024))] * 9
    frames = list(archive.pack(0, rows))
    assert max(map(len, frames)) <= archive.ARCHIVE_FRAME_BYTES_MAX
    assert [row for frame in frames for row in archive.unpack(frame)[1]] == [tuple(row) for row in rows]


def send_until_it_dies(feed: ArchiveFeed, rows: list[Closed], through: int, answers: int, process: Process) -> int:
    """What the last answer said. The kill comes after some answers, while the next batches are on their way."""
    due = threading.Event()

    def kill() -> None:
        assert due.wait(PATIENCE_S)
        process.process.kill()

    killer = threading.Thread(target=kill)
    killer.start()
    while True:
        if answers == 0:
            due.set()
        answers -= 1
        try:
            # Should all of them be through before the kill, the first ones again.
            through = feed.send(0, rows[through : through + 100] or rows[:100])
        except ArchiveUnavailable:
            killer.join()
            process.wait()
            return through


def test_kills_in_the_middle_of_batches_lose_nothing_that_was_answered(path: Path, directories: list[Path]) -> None:
    rows = [closed(n, bytes(500)) for n in range(1, 6_001)]
    feed = ArchiveFeed(str(path), PATIENCE_S)
    through = 0
    for answers in (1, 2, 5, 11):
        process = Process(path, directories)
        before = through
        through = feed.send(0, [])
        assert through >= before
        through = send_until_it_dies(feed, rows, through, answers, process)
        assert through > before
        with reader(directories, 0) as store:
            assert store.archived_through >= through
            assert {row[0] for row in store.iterate(through)} == set(range(1, through + 1))
    feed.close()


def test_feed_finds_the_next_archive_and_may_send_all_of_it_again(
    running: Process, path: Path, feed: ArchiveFeed, directories: list[Path]
) -> None:
    rows = [closed(n) for n in range(1, 101)]
    assert feed.send(0, rows[:50]) == 50
    running.kill()
    with pytest.raises(ArchiveUnavailable, match="the archive does not answer"):
        feed.send(0, rows[50:])
    again = Process(path, directories)
    try:
        assert feed.send(0, rows) == 100
        with reader(directories, 0) as store:
            assert store.count() == 100
    finally:
        again.kill()


@pytest.mark.parametrize("call", ["fdatasync", "pwrite"])
def test_batch_whose_write_or_sync_fails_is_not_answered_and_can_be_sent_again(
    path: Path, feed: ArchiveFeed, directories: list[Path], tmp_path: Path, call: str
) -> None:
    disk = FailingDisk(tmp_path)
    process = Process(path, directories, disk.environment)
    rows = [closed(n) for n in range(1, 101)]
    try:
        assert feed.send(0, rows[:50]) == 50
        disk.fail(call, errno.EIO, path=FILE)
        for _ in range(2):
            with pytest.raises(ArchiveUnavailable, match="disk I/O error"):
                feed.send(0, rows[50:])
        assert disk.hits >= 2
        disk.heal()
        assert feed.send(0, rows[50:]) == 100
        with reader(directories, 0) as store:
            assert list(store.iterate(100)) == sorted(rows, key=lambda row: row.order_id)
    finally:
        process.kill()


def test_close_ends_with_a_file_that_stands_alone(running: Process, feed: ArchiveFeed, directories: list[Path]) -> None:
    assert feed.send(0, [closed(1)]) == 1
    running.process.send_signal(signal.SIGTERM)
    assert running.hear().kind == "leaving"
    running.channel.send("drain")
    running.channel.send("close")
    assert running.wait() == 0, running.stderr
    assert not list(directories[0].glob(f"{FILE}-*"))
    with reader(directories, 0) as store:
        assert store.find("shop", "order-1", 1) == b"order-1"


def test_damaged_store_is_refused_and_others_go_on(
    running: Process, feed: ArchiveFeed, directories: list[Path]
) -> None:
    (directories[0] / FILE).write_bytes(b"no database" * 100)
    for _ in range(2):
        with pytest.raises(ArchiveDamaged, match=r"shard-0000.archive\.sqlite: file is not a database"):
            feed.send(0, [closed(1)])
    assert feed.send(1, [closed(1)]) == 1
    (directories[0] / FILE).unlink()
    assert feed.send(0, [closed(1)]) == 1


def test_store_that_vanished_is_not_made_anew_without_what_left_memory(
    running: Process, feed: ArchiveFeed, directories: list[Path]
) -> None:
    assert feed.send(0, [closed(1)]) == 1
    for path in directories[0].glob(f"{FILE}*"):
        path.unlink()
    with pytest.raises(ArchiveUnavailable, match="is missing"):
        feed.send(0, [closed(2)], evicted_through=1)
    with pytest.raises(ArchiveDamaged, match="left memory"):
        feed.send(0, [closed(2)], evicted_through=1)
    assert not (directories[0] / FILE).exists()
    ArchiveStore(directories[0], LOG_IDS[0]).close()
    with pytest.raises(ArchiveDamaged, match="left memory"):
        feed.send(0, [closed(2)], evicted_through=1)


def test_older_copy_is_refused_by_who_was_told_of_more_and_filled_by_who_was_not(
    running: Process, path: Path, feed: ArchiveFeed, directories: list[Path]
) -> None:
    rows = [closed(n) for n in range(1, 101)]
    assert feed.send(0, rows[:50]) == 50
    with reader(directories, 0) as store:
        older = directories[1] / "older"
        older.mkdir()
        store.copy(older)
    assert feed.send(0, rows[50:60]) == 60
    running.kill()
    for name in directories[0].glob(f"{FILE}*"):
        name.unlink()
    (older / FILE).rename(directories[0] / FILE)
    again = Process(path, directories)
    try:
        with pytest.raises(ArchiveDamaged, match="closed up to sequence 50, but what was closed up to 60 was here"):
            feed.send(0, rows[60:])
        next_feed = ArchiveFeed(str(path), PATIENCE_S)
        assert next_feed.send(0, []) == 50
        assert next_feed.send(0, rows[50:]) == 100
        next_feed.close()
    finally:
        again.kill()


@pytest.mark.parametrize(
    "sent",
    [
        struct.pack("<I", 2**31),
        struct.pack("<I", 3) + b"abc",
        struct.pack("<II", 4, 9),
        struct.pack("<II", 6, 2) + b"{}",
        struct.pack("<II", 6, 2) + b"[]",
        struct.pack("<II", 5, 2) + b"[]"[:1],
    ],
)
def test_broken_frame_ends_the_connection_and_nothing_else(
    running: Process, path: Path, feed: ArchiveFeed, sent: bytes
) -> None:
    with socket.socket(socket.AF_UNIX) as broken:
        broken.settimeout(PATIENCE_S)
        broken.connect(str(path))
        broken.sendall(sent)
        assert broken.recv(1) == b""
    assert feed.send(0, [closed(1)]) == 1


class Front:
    """What a NativeFront does for lookups."""

    def __init__(self) -> None:
        self.lookup_fd = os.eventfd(0, os.EFD_NONBLOCK)
        self.answers: dict[int, tuple[bytes | None, bool]] = {}
        self._asked: list[tuple[int, int, str, str]] = []
        self._answered = asyncio.Event()

    def ask(self, *question: Any) -> None:
        self._asked.append(question)  # type: ignore[arg-type]
        os.eventfd_write(self.lookup_fd, 1)

    def take_lookups(self) -> list[tuple[int, int, str, str]]:
        os.eventfd_read(self.lookup_fd)
        taken, self._asked = self._asked, []
        return taken

    def answer_lookup(self, token: int, item: bytes | None, failed: bool = False) -> None:
        assert token not in self.answers
        self.answers[token] = (item, failed)
        self._answered.set()

    async def answer(self, token: int) -> tuple[bytes | None, bool]:
        while token not in self.answers:
            self._answered.clear()
            await asyncio.wait_for(self._answered.wait(), PATIENCE_S)
        return self.answers[token]


FAILED = (None, True)
UNKNOWN = (None, False)


async def asked(front: Front, *questions: tuple[int, int, str, str]) -> list[tuple[bytes | None, bool]]:
    for question in questions:
        front.ask(*question)
    return [await front.answer(question[0]) for question in questions]


def looking_up(directories: list[Path], evicted: dict[int, int], story: Any) -> None:
    async def whole() -> None:
        front = Front()
        lookups = Lookups(front, directories, lambda shard: evicted.get(shard, 0))
        lookups.begin()
        try:
            told: Coroutine[Any, Any, None] = story(front, lookups)
            await told
        finally:
            lookups.close()
            os.close(front.lookup_fd)

    asyncio.run(whole())


def test_lookups_are_answered_from_the_store_of_their_shard(directories: list[Path]) -> None:
    for shard in (0, 1):
        with ArchiveStore(directories[shard], LOG_IDS[shard]) as store:
            store.put_many([closed(n, b"%d of %d" % (n, shard)) for n in range(1, 101)], 100)

    async def story(front: Front, _: Lookups) -> None:
        questions = [(100 * shard + n, shard, "shop", f"order-{n}") for shard in (0, 1) for n in range(1, 101)]
        answers = await asked(front, *questions, (999, 1, "shop", "nobody's"))
        assert answers == [(b"%d of %d" % (n, shard), False) for shard in (0, 1) for n in range(1, 101)] + [UNKNOWN]

    looking_up(directories, {0: 100, 1: 100}, story)


def test_lookup_in_a_store_that_is_missing_or_behind_fails_until_it_is_there(directories: list[Path]) -> None:
    async def story(front: Front, _: Lookups) -> None:
        assert await asked(front, (1, 0, "shop", "order-5")) == [FAILED]
        with ArchiveStore(directories[0], LOG_IDS[0]) as store:
            store.put_many([closed(5)], 5)
            assert await asked(front, (2, 0, "shop", "order-5"), (3, 0, "shop", "unknown")) == [FAILED, FAILED]
            store.put_many([closed(6)], 6)
            assert await asked(front, (4, 0, "shop", "order-5")) == [(b"order-5", False)]
            assert await asked(front, (5, 0, "shop", "unknown")) == [UNKNOWN]

    looking_up(directories, {0: 6}, story)


def test_lookup_opens_a_store_anew_after_an_error(directories: list[Path]) -> None:
    path = directories[0] / FILE

    async def story(front: Front, _: Lookups) -> None:
        with ArchiveStore(directories[0], LOG_IDS[0]) as store:
            store.put_many([closed(5)], 5)
        assert await asked(front, (1, 0, "shop", "order-5")) == [(b"order-5", False)]
        whole = path.read_bytes()
        for name in (path, *path.parent.glob(f"{FILE}-*")):
            name.unlink()
        assert await asked(front, (2, 0, "shop", "order-5")) == [FAILED]
        path.write_bytes(b"no database" * 100)
        assert await asked(front, (3, 0, "shop", "order-5")) == [FAILED]
        path.write_bytes(whole)
        assert await asked(front, (4, 0, "shop", "order-5")) == [(b"order-5", False)]

    looking_up(directories, {0: 5}, story)


def test_closed_lookups_leave_the_front_alone(directories: list[Path]) -> None:
    async def story(front: Front, lookups: Lookups) -> None:
        front.ask(1, 0, "shop", "order-5")
        lookups._ask()
        lookups.close()
        lookups._threads.shutdown(wait=True)
        # Whatever the threads left to the loop runs before this does.
        for _ in range(3):
            await asyncio.sleep(0)
        assert front.answers == {}

    looking_up(directories, {}, story)
