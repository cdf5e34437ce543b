"""Rings between two processes: order, wrap-around, wake-ups, death of an end, damage; see engine/_ring.pxi."""

import os
import random
import select
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from engine._core import LIMITS, board_create, ring_create
from tests.front.rings import CAPACITY, LARGE
from tests.probes.ring_probe import (
    CONSUMER_SLEEPS_AT,
    HEAD_AT,
    HEADER_BYTES,
    PRODUCER_WAITS_AT,
    TAIL_AT,
    End,
    ping_pong,
)

pytestmark = pytest.mark.native
ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Pair:
    """Both ends of a ring in one process."""

    capacity: int = 4096
    ring_fd: int = field(init=False)
    to_consumer: int = field(init=False)
    to_producer: int = field(init=False)

    def __post_init__(self) -> None:
        self.ring_fd = ring_create(self.capacity)
        self.to_consumer = os.eventfd(0, os.EFD_NONBLOCK)
        self.to_producer = os.eventfd(0, os.EFD_NONBLOCK)
        self.producer = End(self.ring_fd, self.to_consumer, True)
        self.consumer = End(self.ring_fd, self.to_producer, False)

    def close(self) -> None:
        for fd in (self.ring_fd, self.to_consumer, self.to_producer):
            os.close(fd)

    def write(self, at: int, value: int) -> None:
        os.pwrite(self.ring_fd, value.to_bytes(8, "little"), at)

    def read(self, at: int) -> int:
        return int.from_bytes(os.pread(self.ring_fd, 8, at), "little")


@pytest.fixture
def pair() -> Iterator[Pair]:
    with closing(Pair()) as made:
        yield made


def woken(fd: int) -> int:
    """How often the eventfd was written since it was last asked."""
    return os.eventfd_read(fd) if select.select([fd], [], [], 0)[0] else 0


def send(pair: Pair, *messages: bytes) -> None:
    for message in messages:
        assert pair.producer.push(message[:24], message[24:])
    pair.producer.publish()


def test_message_is_seen_only_after_publish(pair: Pair) -> None:
    assert pair.producer.push(b"head", b"body")
    assert pair.consumer.next() is None
    pair.producer.publish()
    assert pair.consumer.next() == b"headbody"
    assert pair.consumer.next() is None


@pytest.mark.parametrize("seed", range(20))
def test_random_messages_come_out_as_from_a_queue(seed: int) -> None:
    rng = random.Random(seed)
    with closing(Pair(4096 << rng.randrange(3))) as pair:
        pushed: deque[bytes] = deque()
        published: deque[bytes] = deque()
        waiting: tuple[bytes, bytes] | None = None
        received = 0
        while received < 3000:
            step = rng.randrange(4)
            if step == 0:
                size = rng.choice((1, 7, 8, 9, 24, 100, pair.producer.fragment_bytes_max, 3 * pair.capacity))
                message = rng.randbytes(rng.randint(1, size))
                cut = rng.randint(0, len(message))
                waiting = waiting or (message[:cut], message[cut:])
                if pair.producer.push(*waiting):
                    pushed.append(b"".join(waiting))
                    waiting = None
                else:
                    # A full ring publishes by itself, or nobody could ever make room.
                    published.extend(pushed)
                    pushed.clear()
            elif step == 1:
                pair.producer.publish()
                published.extend(pushed)
                pushed.clear()
            elif step == 2:
                pair.consumer.release()
            for _ in range(rng.randrange(8) if step == 3 else 0):
                expected = published.popleft() if published else None
                assert pair.consumer.next() == expected
                received += expected is not None


def test_every_size_around_a_fragment_comes_out_whole(pair: Pair) -> None:
    limit = pair.producer.fragment_bytes_max
    for size in (*range(1, 50), *range(limit - 9, limit + 10)):
        message = random.Random(size).randbytes(size)
        send(pair, message)
        assert pair.consumer.next() == message
        pair.consumer.release()


def test_messages_of_one_batch_stay_readable_until_release(pair: Pair) -> None:
    send(pair, b"a" * 1000, b"b" * 1000, b"c" * 1000)
    assert [pair.consumer.next() for _ in range(3)] == [b"a" * 1000, b"b" * 1000, b"c" * 1000]
    assert not pair.producer.push(b"d" * 1016, b"e" * 1016)
    pair.consumer.release()
    assert pair.producer.push(b"d" * 1016, b"e" * 1016)


def test_message_larger_than_the_ring_goes_through_in_parts(pair: Pair) -> None:
    message = random.Random(1).randbytes(1_000_000)
    calls = 1
    while not pair.producer.push(message[:24], message[24:]):
        assert pair.consumer.next() is None
        pair.consumer.release()
        calls += 1
    pair.producer.publish()
    assert pair.consumer.next() == message
    assert calls > len(message) // pair.capacity
    send(pair, b"small")
    assert pair.consumer.next() == b"small"


def test_largest_message_goes_through_the_ring_of_a_link() -> None:
    with closing(Pair(LIMITS["RING_BYTES"])) as pair:
        message = bytes(LIMITS["RING_MESSAGE_BYTES_MAX"])
        while not pair.producer.push(message, b""):
            assert pair.consumer.next() is None
            pair.consumer.release()
        pair.producer.publish()
        assert pair.consumer.next() == message


def test_consumer_awake_costs_no_wake_up(pair: Pair) -> None:
    for _ in range(3):
        send(pair, b"x")
    assert woken(pair.to_consumer) == 0


def test_consumer_asleep_is_woken_once_until_it_sleeps_again(pair: Pair) -> None:
    assert pair.consumer.sleep()
    send(pair, b"x")
    send(pair, b"y")
    assert woken(pair.to_consumer) == 1
    assert pair.consumer.next() == b"x"
    assert not pair.consumer.sleep(), "y is left"
    assert pair.consumer.next() == b"y"
    assert pair.consumer.sleep()
    send(pair, b"z")
    assert woken(pair.to_consumer) == 1


def test_consumer_awake_again_for_another_reason_needs_no_wake_up(pair: Pair) -> None:
    assert pair.consumer.sleep()
    pair.consumer.awake()
    send(pair, b"x")
    assert woken(pair.to_consumer) == 0
    assert pair.read(CONSUMER_SLEEPS_AT) == 0


def test_publish_of_nothing_wakes_nobody(pair: Pair) -> None:
    assert pair.consumer.sleep()
    pair.producer.publish()
    assert woken(pair.to_consumer) == 0


def test_producer_is_woken_by_release_only_if_it_waits(pair: Pair) -> None:
    send(pair, b"x" * 900)
    pair.consumer.next()
    pair.consumer.release()
    assert woken(pair.to_producer) == 0
    while pair.producer.push(b"x" * 900, b""):
        pass
    assert pair.read(PRODUCER_WAITS_AT) == 1
    assert woken(pair.to_producer) == 0
    while pair.consumer.next() is not None:
        pass
    pair.consumer.release()
    assert woken(pair.to_producer) == 1
    assert pair.producer.push(b"x" * 900, b"")


def test_full_ring_shows_what_it_holds_and_wakes_the_consumer(pair: Pair) -> None:
    assert pair.consumer.sleep()
    while pair.producer.push(b"x" * 900, b""):
        pass
    assert woken(pair.to_consumer) == 1
    assert pair.consumer.next() == b"x" * 900


@pytest.mark.parametrize("capacity", [4096, CAPACITY])
def test_two_processes_lose_no_message_and_no_wake_up(capacity: int) -> None:
    count = 200_000
    with closing(Pair(capacity)) as pair:
        child = start(pair, count)
        received, sleeps = pair.consumer.receive_numbered(0, count, LARGE, pair.to_consumer)
        if received != count:
            child.kill()
        assert (received, child.wait(30)) == (count, 0)
        assert sleeps > 0, "the consumer never slept, so the wake-ups were not tested"
        assert pair.consumer.next() is None


def test_two_ends_that_wait_for_each_other_lose_no_wake_up() -> None:
    count = 200_000
    with closing(Pair()) as there, closing(Pair()) as back, ThreadPoolExecutor() as threads:
        echo = threads.submit(ping_pong, back.producer, there.consumer, there.to_consumer, count, False)
        came, sleeps = ping_pong(there.producer, back.consumer, back.to_consumer, count, True)
        assert (came, echo.result()[0]) == (count, count)
        assert sleeps > 0, "the end never slept, so the wake-ups were not tested"


def start(pair: Pair, count: int) -> subprocess.Popen[bytes]:
    fds = (pair.ring_fd, pair.to_consumer, pair.to_producer)
    return subprocess.Popen(
        [sys.executable, "-m", "tests.front.ring_child", *map(str, (*fds, count))], cwd=ROOT, pass_fds=fds
    )


@pytest.mark.parametrize("round_", range(8))
def test_producer_killed_at_any_time_leaves_only_whole_messages(round_: int) -> None:
    with closing(Pair(CAPACITY)) as pair:
        child = start(pair, 2**62)
        wanted = 1 + random.Random(round_).randrange(60_000)
        received, _ = pair.consumer.receive_numbered(0, wanted, LARGE, pair.to_consumer)
        child.kill()
        child.wait(30)
        assert received == wanted
        _, all_whole = pair.consumer.drain_numbered(received, LARGE)
        assert all_whole


def break_by_fragment(size: int, rest: int) -> dict[int, int]:
    return {HEADER_BYTES: size | rest << 32}


BREAKS = {
    "a fragment of nothing": break_by_fragment(0, 0),
    "a fragment larger than any": break_by_fragment(1024, 0),
    "a fragment beyond the tail": break_by_fragment(200, 0),
    "a message larger than any": break_by_fragment(8, 2**32 - 1),
    "a tail before the head": {TAIL_AT: 2**64 - 8},
    "a tail a ring too far": {TAIL_AT: 4096 + 8},
    "a tail between two words": {TAIL_AT: 13},
}


@pytest.mark.parametrize("what", BREAKS)
def test_consumer_meets_damage_and_refuses_the_ring_for_good(pair: Pair, what: str) -> None:
    assert pair.producer.push(b"x" * 100, b"")
    pair.producer.publish()
    kept = {at: pair.read(at) for at in BREAKS[what]}
    for at, value in BREAKS[what].items():
        pair.write(at, value)
    with pytest.raises(BrokenPipeError):
        pair.consumer.next()
    for at, value in kept.items():
        pair.write(at, value)
    assert not pair.consumer.sleep(), "who sleeps on a broken ring would never learn of it"
    with pytest.raises(BrokenPipeError):
        pair.consumer.next()


def test_consumer_refuses_a_fragment_that_does_not_go_on_with_its_message(pair: Pair) -> None:
    send(pair, b"x" * 2000)
    second = HEADER_BYTES + 8 + pair.producer.fragment_bytes_max
    assert pair.read(second) & 0xFFFFFFFF == 2000 - pair.producer.fragment_bytes_max
    pair.write(second, 8)
    with pytest.raises(BrokenPipeError):
        pair.consumer.next()


@pytest.mark.parametrize("head", [4096, 2**64 - 4096 - 8, 3])
def test_producer_meets_an_impossible_head_and_refuses_the_ring(pair: Pair, head: int) -> None:
    pair.write(HEAD_AT, head)
    send(pair, *[b"x" * 1000] * 4)
    for _ in range(2):
        with pytest.raises(BrokenPipeError):
            pair.producer.push(b"x" * 1000, b"")


@pytest.mark.parametrize("seed", range(30))
def test_random_damage_never_crashes_the_consumer(pair: Pair, seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(3):
        send(pair, rng.randbytes(rng.randint(1, 1000)))
    for _ in range(rng.randint(1, 20)):
        pair.write(rng.choice((TAIL_AT, HEADER_BYTES + 8 * rng.randrange(512))), rng.getrandbits(64))
    try:
        while pair.consumer.next() is not None:
            pair.consumer.release()
    except BrokenPipeError:
        assert not pair.consumer.sleep()


@pytest.mark.parametrize(
    ("at", "value"),
    [(0, 1), (8, 0), (8, 2), (16, 0), (16, 2**63), (16, 4096 - 8), (16, 8192), (TAIL_AT, 2**40), (HEAD_AT, 8)],
)
def test_ring_with_a_damaged_header_is_refused(pair: Pair, at: int, value: int) -> None:
    pair.write(at, value)
    for producer in (True, False):
        with pytest.raises(ValueError, match="not a ring"):
            End(pair.ring_fd, pair.to_consumer, producer)


def test_what_is_no_ring_is_refused() -> None:
    board = board_create(1)
    reading, writing = os.pipe()
    for fd in (board, reading, writing, 1_000_000):
        with pytest.raises(ValueError, match="not a ring"):
            End(fd, -1, True)
    for fd in (board, reading, writing):
        os.close(fd)


@pytest.mark.parametrize("capacity", [0, 2048, 5000, 2 * LIMITS["RING_BYTES"]])
def test_ring_of_an_impossible_capacity_is_refused(capacity: int) -> None:
    with pytest.raises(ValueError, match="capacity"):
        ring_create(capacity)


def test_ring_cannot_be_cut_off_under_its_ends(pair: Pair) -> None:
    with pytest.raises(PermissionError):
        os.ftruncate(pair.ring_fd, 0)
