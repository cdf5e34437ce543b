"""The board: what one worker writes, everybody reads; see engine/_board.pxi."""

import os
import threading
from collections.abc import Iterator

import pytest

from engine._core import COUNTER_NAMES, LIMITS, Board, board_create, board_mark_next, memory_create
from tests.probes.board_probe import FrontCounter, Owner

pytestmark = pytest.mark.native


@pytest.fixture
def board_fd() -> Iterator[int]:
    fd = board_create(3)
    yield fd
    os.close(fd)


def test_counter_names_are_those_of_the_enum_in_its_order() -> None:
    assert [FrontCounter[name.upper()] for name in COUNTER_NAMES] == list(range(1, len(COUNTER_NAMES) + 1))
    assert len(COUNTER_NAMES) + 1 == FrontCounter.COUNTERS_END


def test_slots_before_a_worker_began_are_left_out(board_fd: int) -> None:
    board = Board(board_fd, 3)
    assert board.slots() == []
    Owner(board_fd, 3, 1, 77, 5)
    assert [(slot["worker"], slot["pid"], slot["state"], slot["heartbeat_ns"]) for slot in board.slots()] == [
        (1, 77, 1, 5)
    ]


def test_slot_every_counter_is_read_under_its_own_name(board_fd: int) -> None:
    owner = Owner(board_fd, 3, 2, 9, 1)
    for number in range(1, len(COUNTER_NAMES) + 1):
        owner.add(number, 1000)
        owner.add(number, number)
    [slot] = Board(board_fd, 3).slots()
    assert {name: slot[name] for name in COUNTER_NAMES} == {
        name: 1000 + number for number, name in enumerate(COUNTER_NAMES, 1)
    }


def test_slot_load_and_gauges_are_the_last_that_was_written(board_fd: int) -> None:
    owner = Owner(board_fd, 3, 0, 9, 1)
    owner.set(FrontCounter.CALLS_IN_FLIGHT, 12)
    owner.set(FrontCounter.CALLS_IN_FLIGHT, 7)
    owner.serve(2**63, 4, 1_000_000, 250_000)
    [slot] = Board(board_fd, 3).slots()
    assert owner.count(FrontCounter.CALLS_IN_FLIGHT) == slot["calls_in_flight"] == 7
    assert (slot["state"], slot["heartbeat_ns"], slot["connections"]) == (2, 2**63, 4)
    assert (slot["busy_ppm"], slot["commands_per_s"]) == (1_000_000, 250_000)


def test_slot_taken_over_by_a_new_process_begins_at_zero(board_fd: int) -> None:
    first = Owner(board_fd, 3, 0, 9, 1)
    first.add(FrontCounter.TURNS, 3)
    first.serve(2, 4, 5, 6)
    Owner(board_fd, 3, 0, 10, 8)
    [slot] = Board(board_fd, 3).slots()
    assert {name: value for name, value in slot.items() if value} == {
        "format_version": 1,
        "pid": 10,
        "state": 1,
        "heartbeat_ns": 8,
    }


def test_slots_of_two_workers_do_not_touch(board_fd: int) -> None:
    owners = [Owner(board_fd, 3, worker, 100 + worker, 1) for worker in range(3)]
    for worker, owner in enumerate(owners):
        for number in range(1, FrontCounter.COUNTERS_END):
            owner.set(number, worker * 1000 + number)
    for worker, slot in enumerate(Board(board_fd, 3).slots()):
        assert [slot[name] for name in COUNTER_NAMES] == [worker * 1000 + i for i in range(1, len(COUNTER_NAMES) + 1)]


def test_board_outlives_its_descriptor_but_not_its_bounds(board_fd: int) -> None:
    copy = os.dup(board_fd)
    board = Board(copy, 3)
    os.close(copy)
    assert board.slots() == []
    with pytest.raises(ValueError, match="not a board of 4"):
        Board(board_fd, 4)
    with pytest.raises(ValueError, match="of 0 workers"):
        Board(board_fd, 0)


def test_board_of_before_there_were_figures_has_none_and_is_served_on() -> None:
    size = 2 * 3 * LIMITS["BOARD_SLOT_BYTES"] + LIMITS["SHARDS_MAX"] * LIMITS["MARK_PAGE_BYTES"]
    fd = memory_create("board", size)
    board = Board(fd, 3)
    Owner(fd, 3, 1, 77, 5).mark(LIMITS["SHARDS_MAX"] - 1, 10, 1, 2)
    os.close(fd)
    assert [slot["pid"] for slot in board.slots()] == [77]
    assert board_mark_next(board, LIMITS["SHARDS_MAX"] - 1, 0) is not None
    assert board.histograms() == board.shards() == board.commit_sizes() == {}
    assert board.take_spans(10) == []


def test_board_cannot_be_cut_off_under_its_readers(board_fd: int) -> None:
    assert os.fstat(board_fd).st_size == (
        3 * (2 * LIMITS["BOARD_SLOT_BYTES"] + LIMITS["STAGES_BYTES"] + 128 + 128 * LIMITS["SPANS_KEPT"])
        + LIMITS["SHARDS_MAX"] * (LIMITS["MARK_PAGE_BYTES"] + LIMITS["SHARD_PAGE_BYTES"])
        + 1024 * 16 * (1 + 3)  # quotas of callers
    )
    with pytest.raises(PermissionError):
        os.ftruncate(board_fd, 0)
    assert not os.get_inheritable(board_fd)


@pytest.mark.parametrize("workers", [0, -1, 65])
def test_board_for_an_impossible_number_of_workers_is_refused(workers: int) -> None:
    with pytest.raises(ValueError, match="has 1 to 64 workers"):
        board_create(workers)


def test_slot_of_a_follower_is_no_slot_of_a_worker(board_fd: int) -> None:
    Owner(board_fd, 3, 3 + 1, 77, 5)
    board = Board(board_fd, 3)
    assert board.slots() == []
    Owner(board_fd, 3, 1, 78, 6)
    assert [slot["pid"] for slot in board.slots()] == [78]
    assert [slot["pid"] for slot in board.follower_slots()] == [77]


def test_marks_are_read_from_the_least_that_is_beyond(board_fd: int) -> None:
    owner, board = Owner(board_fd, 3, 0, 9, 1), Board(board_fd, 3)
    last = LIMITS["SHARDS_MAX"] - 1
    assert board_mark_next(board, last, 0) is None
    for number in (10, 20, 30):
        owner.mark(last, number, number + 1, 2)
    assert [board_mark_next(board, last, after) for after in (0, 9, 10, 29, 30)] == [
        (10, f"{2:016x}{11:016x}"),
        (10, f"{2:016x}{11:016x}"),
        (20, f"{2:016x}{21:016x}"),
        (30, f"{2:016x}{31:016x}"),
        None,
    ]
    assert board_mark_next(board, last - 1, 0) is None
    with pytest.raises(ValueError, match="out of bounds"):
        board_mark_next(board, last + 1, 0)


def test_oldest_marks_give_way_to_newer_ones(board_fd: int) -> None:
    owner, board = Owner(board_fd, 3, 0, 9, 1), Board(board_fd, 3)
    for sequence in range(1, 1001):
        owner.mark(0, sequence, sequence, 0)
    first = board_mark_next(board, 0, 0)
    assert first == (937, f"{937:032x}")
    assert board_mark_next(board, 0, 999) == (1000, f"{1000:032x}")


def test_cleared_marks_are_gone_and_newer_ones_count(board_fd: int) -> None:
    owner, board = Owner(board_fd, 3, 0, 9, 1), Board(board_fd, 3)
    owner.mark(0, 100, 1, 1)
    owner.clear_marks(0)
    assert board_mark_next(board, 0, 0) is None
    owner.mark(0, 90, 2, 0)
    assert board_mark_next(board, 0, 0) == (90, f"{2:032x}")


def test_mark_is_never_read_half(board_fd: int) -> None:
    owner, board = Owner(board_fd, 3, 0, 9, 1), Board(board_fd, 3)

    def write() -> None:
        for sequence in range(1, 50_001):
            owner.mark(0, sequence, sequence, ~sequence & (2**64 - 1))

    writer = threading.Thread(target=write)
    writer.start()
    seen = 0
    while seen < 50_000:
        found = board_mark_next(board, 0, seen)
        if found is not None:
            sequence, digest = found
            assert digest == f"{~sequence & (2**64 - 1):016x}{sequence:016x}"
            seen = sequence
    writer.join()
