"""What the front lets a peer do in how much time; see engine/_front_bucket.pxi. The time is a number here."""

from __future__ import annotations

import random
from typing import Any

import pytest

from engine import front_settings

guard_probe: Any = pytest.importorskip("tests.probes.guard_probe")
pytestmark = pytest.mark.native

SECOND_NS = 1_000_000_000
NOW_NS = 77 * SECOND_NS
INTERVAL_NS = 10 * SECOND_NS


def peer(burst: int = 5, per_s: int = 2, now_ns: int = NOW_NS) -> Any:
    return guard_probe.Peer(now_ns, burst, per_s)


def taken(at: Any, now_ns: int, wanted: int) -> int:
    return sum(at.control(now_ns) for _ in range(wanted))


def test_bucket_gives_its_burst_and_then_its_rate() -> None:
    at = peer()
    assert taken(at, NOW_NS, 10) == 5
    assert not at.control(NOW_NS + SECOND_NS // 2 - 1)
    assert at.control(NOW_NS + SECOND_NS // 2)
    assert taken(at, NOW_NS + 2 * SECOND_NS, 10) == 3


def test_bucket_is_never_fuller_than_its_burst() -> None:
    at = peer()
    assert taken(at, NOW_NS, 5) == 5
    assert taken(at, NOW_NS + 10**6 * SECOND_NS, 10) == 5
    assert taken(at, 2**63, 10) == 5


def test_bucket_of_the_largest_settings_does_not_overflow() -> None:
    most = front_settings.RATE_MAX
    at = peer(most, most)
    assert taken(at, NOW_NS, 1_000) == 1_000
    assert taken(at, 2**63, 1_000) == 1_000
    for _ in range(1_000):
        at.answered()
    assert at.control(2**63)


def test_bucket_when_time_stands_or_goes_back_gives_nothing_new() -> None:
    at = peer()
    assert taken(at, NOW_NS, 10) == 5
    assert taken(at, NOW_NS - 60 * SECOND_NS, 10) == 0
    assert taken(at, NOW_NS, 10) == 0


@pytest.mark.parametrize("seed", range(20))
def test_bucket_at_random_times_never_gives_more_than_burst_and_rate(seed: int) -> None:
    rng = random.Random(seed)
    burst, per_s = rng.randint(1, 50), rng.randint(1, 1_000)
    at = peer(burst, per_s)
    now_ns, times = NOW_NS, []
    for _ in range(2_000):
        now_ns += rng.choice([0, 0, 1, rng.randint(0, 10**6), rng.randint(0, 10**9)])
        if at.control(now_ns):
            times.append(now_ns)
    for _ in range(200):
        first, last = sorted(rng.sample(range(len(times)), 2))
        span_ns = times[last] - times[first]
        assert last - first + 1 <= burst + span_ns * per_s / SECOND_NS + 1


@pytest.mark.parametrize("seed", range(10))
def test_bucket_of_a_peer_slower_than_the_rate_never_says_no(seed: int) -> None:
    rng = random.Random(seed)
    per_s = rng.randint(1, 1_000)
    at = peer(1, per_s)
    now_ns = NOW_NS
    for _ in range(2_000):
        assert at.control(now_ns)
        now_ns += -(-SECOND_NS // per_s) + rng.randint(0, 1_000)


def test_control_frames_of_a_busy_connection_are_earned_by_its_answers() -> None:
    """A WINDOW_UPDATE for the stream, one for the connection and a ping, for each of 100,000 answers in 0.1 s."""
    settings = front_settings.defaults()
    at = peer(settings["control_frames_max"], settings["control_frames_per_s"])
    for i in range(100_000):
        at.answered()
        now_ns = NOW_NS + i * 1_000
        assert taken(at, now_ns, 3) == 3
        assert at.ping(now_ns, INTERVAL_NS, 2)


def test_control_frames_of_a_connection_without_answers_are_a_flood() -> None:
    settings = front_settings.defaults()
    at = peer(settings["control_frames_max"], settings["control_frames_per_s"])
    assert taken(at, NOW_NS, 100_000) == settings["control_frames_max"]
    assert taken(at, NOW_NS + SECOND_NS, 100_000) == settings["control_frames_per_s"]


def test_ping_at_the_interval_is_allowed_for_ever() -> None:
    at = peer()
    jitter = random.Random(1)
    for i in range(1_000):
        assert at.ping(NOW_NS + i * INTERVAL_NS + jitter.randint(0, INTERVAL_NS // 11), INTERVAL_NS, 2)


def test_ping_too_soon_is_forgiven_twice() -> None:
    at = peer()
    assert [at.ping(NOW_NS + i * SECOND_NS, INTERVAL_NS, 2) for i in range(5)] == [True, True, True, False, False]


def test_ping_too_soon_is_forgiven_anew_after_an_answer() -> None:
    at = peer()
    for i in range(100):
        if i % 3 == 2:
            at.answered()
        assert at.ping(NOW_NS + i * SECOND_NS, INTERVAL_NS, 2)


def test_pings_beyond_what_answers_earned_are_strikes() -> None:
    at = peer(burst=100)
    for _ in range(10):
        at.answered()
    assert [at.ping(NOW_NS, INTERVAL_NS, 2) for _ in range(14)].count(True) == 12


def test_sending_is_stuck_only_if_nothing_moves_for_the_whole_time() -> None:
    at = peer()
    patience = 40 * SECOND_NS
    assert not at.stuck(False, 1, NOW_NS, patience)
    assert not at.stuck(False, 1, NOW_NS + 100 * SECOND_NS, patience)
    waits_from = NOW_NS + 100 * SECOND_NS
    assert not at.stuck(True, 1, waits_from, patience)
    assert not at.stuck(True, 1, waits_from + patience - 1, patience)
    assert not at.stuck(True, 2, waits_from + patience, patience)
    assert not at.stuck(True, 2, waits_from + 2 * patience - 1, patience)
    assert at.stuck(True, 2, waits_from + 2 * patience, patience)


def test_sending_that_had_nothing_to_wait_for_begins_anew() -> None:
    at = peer()
    assert not at.stuck(True, 1, NOW_NS, SECOND_NS)
    assert not at.stuck(False, 1, NOW_NS + SECOND_NS, SECOND_NS)
    assert not at.stuck(True, 1, NOW_NS + 2 * SECOND_NS, SECOND_NS)


@pytest.mark.parametrize(
    ("began_ns", "received_ns", "now_ns", "slow"),
    [
        (0, NOW_NS, NOW_NS + 90 * SECOND_NS, False),  # no block is open
        (NOW_NS, NOW_NS, NOW_NS + 90 * SECOND_NS, False),  # silent since: the keepalive's business
        (NOW_NS, NOW_NS + SECOND_NS, NOW_NS + 29 * SECOND_NS, False),
        (NOW_NS, NOW_NS + SECOND_NS, NOW_NS + 30 * SECOND_NS, True),
    ],
)
def test_headers_are_slow(began_ns: int, received_ns: int, now_ns: int, slow: bool) -> None:
    assert peer().headers_slow(began_ns, received_ns, now_ns, 30 * SECOND_NS) == slow
