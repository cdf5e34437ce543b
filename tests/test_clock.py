"""The clock that commands are logged by: it follows the wall, but not over a cliff."""

from __future__ import annotations

from typing import Any

import pytest

clock_probe: Any = pytest.importorskip("tests.probes.clock_probe")
pytestmark = pytest.mark.native

SECOND_NS = 1_000_000_000
HOUR_NS = 3_600 * SECOND_NS
WALL_NS = 1_700_000_000 * SECOND_NS
BOOT_NS = 5_000 * SECOND_NS


class Room:
    """A clock on the wall and one that runs since boot; only the first can be set."""

    def __init__(self) -> None:
        self.clock = clock_probe.Clock()
        self.wall_ns = WALL_NS
        self.boot_ns = BOOT_NS

    def after(self, ns: int, wall_step_ns: int = 0) -> int:
        self.boot_ns += ns
        self.wall_ns += ns + wall_step_ns
        now_ms: int = self.clock.read_ms(self.wall_ns, self.boot_ns)
        return now_ms


@pytest.fixture
def room() -> Room:
    room = Room()
    assert room.after(0) == WALL_NS // 1_000_000
    return room


def test_clock_without_steps_is_the_wall(room: Room) -> None:
    for _ in range(1_000):
        assert room.after(SECOND_NS // 7) == room.wall_ns // 1_000_000
    assert room.clock.alarms == 0


def test_clock_small_drift_is_followed_without_alarm(room: Room) -> None:
    for drift_ns in (1_000_000, -1_000_000, 900_000_000, -900_000_000, SECOND_NS, -SECOND_NS):
        assert room.after(SECOND_NS, drift_ns) == room.wall_ns // 1_000_000
    assert room.clock.alarms == 0


def test_clock_forward_step_is_slewed_and_counted_once(room: Room) -> None:
    before = room.after(0)
    assert room.after(0, HOUR_NS) == before
    for second in range(1, 601):
        assert room.after(SECOND_NS) == before + second * 1_050
    assert room.clock.alarms == 1


def test_clock_backward_step_is_slewed_and_never_makes_time_fall(room: Room) -> None:
    before = last = room.after(0)
    assert room.after(0, -HOUR_NS) == before
    for second in range(1, 601):
        now = room.after(SECOND_NS)
        assert now == before + second * 950
        assert now > last
        last = now
    assert room.clock.alarms == 1


def test_clock_slewing_ends_at_the_wall_and_a_second_step_alarms_again(room: Room) -> None:
    room.after(0, 2 * SECOND_NS)
    for _ in range(25):
        room.after(SECOND_NS)
    assert room.after(SECOND_NS) == room.wall_ns // 1_000_000
    room.after(SECOND_NS, -5 * SECOND_NS)
    assert room.clock.alarms == 2


def test_clock_step_that_is_taken_back_leaves_no_trace(room: Room) -> None:
    room.after(SECOND_NS, HOUR_NS)
    assert room.after(SECOND_NS, -HOUR_NS) == room.wall_ns // 1_000_000
    assert room.clock.alarms == 1


def test_clock_step_of_just_over_a_second_is_not_believed(room: Room) -> None:
    before = room.after(0)
    assert room.after(0, SECOND_NS + 1) == before
    assert room.clock.alarms == 1


def test_clock_of_a_process_that_goes_on_after_a_step_is_slewed(room: Room) -> None:
    kept = clock_probe.Kept()
    room.clock.keep(kept, 7, room.boot_ns)
    before_ms = room.after(SECOND_NS)
    room.clock = clock_probe.Clock()
    room.clock.keep(kept, 7, room.boot_ns)
    # The wall was set while nobody looked; a second passed.
    after_ms = room.after(SECOND_NS, HOUR_NS)
    assert 1_000 <= after_ms - before_ms <= 1_050
    assert room.clock.alarms == 1


def test_clock_of_another_boot_is_not_gone_on_with(room: Room) -> None:
    kept = clock_probe.Kept()
    room.clock.keep(kept, 7, room.boot_ns)
    room.after(SECOND_NS)
    room.clock = clock_probe.Clock()
    room.boot_ns = BOOT_NS // 2
    room.clock.keep(kept, 8, room.boot_ns)
    assert room.after(0, HOUR_NS) == room.wall_ns // 1_000_000
    assert room.clock.alarms == 0
