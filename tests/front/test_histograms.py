"""Histograms: where a value belongs, and what a front leaves on the board of its stages and its shards."""

from __future__ import annotations

import os
import subprocess
import sys
from bisect import bisect_left
from collections.abc import Iterator
from itertools import pairwise

import pytest

from engine._core import (
    HISTOGRAM_BOUNDS_NS,
    LIMITS,
    SHARD_FIGURE_NAMES,
    SIZE_BOUNDS,
    STAGE_NAMES,
    Board,
    Follower,
    board_create,
)
from engine.front_settings import DEFAULTS
from everopen.v1 import inventory_service_pb2 as inventory
from tests.front.calls import NOT_FOUND, OK, PLACE_ORDER, PLACE_ORDERS, place, place_batch, placed
from tests.front.handing import Front, Fronts, ask, say, until
from tests.front.http2 import Connection
from tests.probes.board_probe import Owner, ShardFigure, index_of_ns, index_of_size
from tests.serving import adjustment, order

pytestmark = pytest.mark.native

EDGES = sorted(
    {max(0, (k << power) + d) for power in range(62) for k in (1, 5, 6, 7) for d in (-1, 0, 1)} | {2**64 - 1}
)

# Reads a board a hundred times and says in one line how often a count fell, and the last count of `total`.
SCRAPE = """
import sys
from engine._core import Board
board, fell, before = Board(int(sys.argv[1]), 1), 0, {}
while before.get((0, "total"), [0])[-1] < int(sys.argv[2]):
    now = {}
    for key, (counts, total) in board.histograms().items():
        now[key] = [total, *counts, sum(counts)]
        fell += any(a < b for a, b in zip(now[key], before.get(key, now[key])))
    before = now
print(fell, before[0, "total"][-1])
"""


@pytest.fixture
def board_fd() -> Iterator[int]:
    fd = board_create(2)
    yield fd
    os.close(fd)


def test_bounds_are_four_for_each_power_of_two() -> None:
    assert len(HISTOGRAM_BOUNDS_NS) == 96
    assert (HISTOGRAM_BOUNDS_NS[0], HISTOGRAM_BOUNDS_NS[-1]) == (1_280, 2**34)
    assert all(4 * (b - a) == 2 ** ((b - 1).bit_length() - 1) for a, b in pairwise(HISTOGRAM_BOUNDS_NS))
    assert [*SIZE_BOUNDS] == [2**power for power in range(31)]


@pytest.mark.parametrize(("index_of", "bounds"), [(index_of_ns, HISTOGRAM_BOUNDS_NS), (index_of_size, SIZE_BOUNDS)])
def test_value_is_in_the_first_bucket_whose_bound_is_not_below_it(index_of: object, bounds: tuple[int, ...]) -> None:
    assert callable(index_of)
    assert [(value, index_of(value)) for value in EDGES] == [(value, bisect_left(bounds, value)) for value in EDGES]


def test_histograms_of_workers_and_stages_do_not_touch(board_fd: int) -> None:
    board = Board(board_fd, 2)
    assert board.histograms() == {}
    owner = Owner(board_fd, 2, 1, 9, 1)
    for worker in range(2):
        for stage in range(len(STAGE_NAMES)):
            for _ in range(1 + worker * 10 + stage):
                owner.observe(worker, stage, 2**40)
                owner.observe(worker, stage, 1)
    # Of the worker that has begun its slot.
    assert board.histograms() == {
        (1, name): ([11 + stage, *[0] * 95, 11 + stage], (11 + stage) * (2**40 + 1))
        for stage, name in enumerate(STAGE_NAMES)
    }


def test_figures_of_a_shard_are_read_under_their_own_names(board_fd: int) -> None:
    board, owner, last = Board(board_fd, 2), Owner(board_fd, 2, 1, 9, 1), LIMITS["SHARDS_MAX"] - 1
    assert board.shards() == {}
    assert board.commit_sizes() == {}
    for number in range(1, ShardFigure.SHARD_FIGURES_END):
        owner.set_figure(last, number, 1000 + number)
    assert list(board.shards()) == [last]
    assert {name: board.shards()[last][name] for name in SHARD_FIGURE_NAMES} == {
        name: 1001 + number for number, name in enumerate(SHARD_FIGURE_NAMES)
    }
    assert board.commit_sizes() == {(last, kind): ([0] * 32, 0) for kind in ("records", "bytes")}


def test_one_call_in_so_many_is_measured_and_its_stages_are_its_whole(fronts: Fronts, front: Front) -> None:
    with Connection(front.address) as connection:
        for _ in range(40):
            placed(connection.call(PLACE_ORDER, place()))
        connection.call(PLACE_ORDERS, *(place_batch(100) for _ in range(30)))
        connection.call(PLACE_ORDER, *[b"\xff"])
        # Health is not counted; an answer may be with its caller a moment before it is counted.
        connection.call("/grpc.health.v1.Health/Check", b"")
    measured = front.count("calls_native") // DEFAULTS["measured_every"]
    assert measured >= 4
    until(lambda: sum(fronts.board.histograms()[0, "total"][0]) == measured)
    found = fronts.board.histograms()
    assert list(found) == [(0, name) for name in STAGE_NAMES]
    assert {sum(counts) for counts, _ in found.values()} == {measured}
    assert sum(total for (_, stage), (_, total) in found.items() if stage != "total") == found[0, "total"][1]
    assert all(total > 0 for (_, stage), (_, total) in found.items())


def test_every_call_in_so_many_is_measured_whatever_becomes_of_it(fronts: Fronts, front: Front) -> None:
    with Connection(front.address) as connection:
        for _ in range(100):
            assert connection.call(PLACE_ORDER, order("x", shop_id="nowhere").SerializeToString()).code == NOT_FOUND
    until(lambda: sum(fronts.board.histograms()[0, "match"][0]) == front.count("calls_native") // 16)


def test_scrape_by_another_process_sees_no_count_fall(fronts: Fronts, front: Front) -> None:
    command = [sys.executable, "-c", SCRAPE, str(fronts.board_fd), "50"]
    with subprocess.Popen(command, pass_fds=[fronts.board_fd], stdout=subprocess.PIPE, text=True) as scraping:
        with Connection(front.address) as connection:
            while scraping.poll() is None:
                asked = [ask(connection, order(f"{front.count('calls_native')}-{i}")) for i in range(50)]
                assert {connection.answer(stream_id).code for stream_id in asked} == {OK}
        assert scraping.stdout is not None
        fell, seen = map(int, scraping.stdout.read().split())
    assert scraping.returncode == 0
    assert fell == 0
    assert seen >= 50


def test_front_after_another_begins_at_zero(fronts: Fronts, front: Front) -> None:
    with Connection(front.address) as connection:
        for _ in range(32):
            placed(connection.call(PLACE_ORDER, place()))
    until(lambda: sum(fronts.board.histograms()[0, "total"][0]) > 0)
    front.close()
    fronts.start()
    assert {total for _, total in fronts.board.histograms().values()} == {0}


def test_front_that_left_its_slot_leaves_the_histograms_to_its_successor(fronts: Fronts, front: Front) -> None:
    with Connection(front.address) as connection:
        placed(connection.call(PLACE_ORDER, place()))
        front.hand_over()
        successor = fronts.succeed(front)
        for _ in range(64):
            placed(connection.call(PLACE_ORDER, place()))
    assert successor.count("jobs_received") == 64
    assert {total for _, total in fronts.board.histograms().values()} == {0}


def test_figures_of_a_shard_are_those_of_its_state(fronts: Fronts, front: Front) -> None:
    with Connection(front.address) as connection:
        for number in range(20):
            placed(connection.call(PLACE_ORDER, place(f"order-{number}")))
        placed(connection.call(PLACE_ORDER, place("order-0")))
        connection.call(PLACE_ORDER, order("x", shop_id="nowhere").SerializeToString())
        connection.call(PLACE_ORDER, order("y", quantity=10_000_000).SerializeToString())
    until(lambda: 0 in fronts.board.shards() and fronts.board.shards()[0]["outcome_insufficient_stock"] == 1)
    until(lambda: fronts.board.shards()[0]["durable_sequence"] == fronts.board.shards()[0]["sequence"])
    shard = fronts.board.shards()[0]
    assert (shard["open_orders"], shard["open_holds"], shard["open_backorders"]) == (20, 20, 0)
    assert (shard["outcome_placed"], shard["outcome_applied"], shard["duplicates"]) == (20, 4, 1)
    assert (shard[f"fault_{NOT_FOUND}"], shard["fault_3"], shard["expiries"]) == (1, 0, 0)
    assert (shard["worker"], shard["follower_sequence"], shard["jobs_in_flight"]) == (0, 0, 0)
    sizes = fronts.board.commit_sizes()
    assert sum(sizes[0, "records"][0]) == sum(sizes[0, "bytes"][0]) == shard["commits"]
    assert sizes[0, "records"][1] == shard["committed_records"]
    assert sizes[0, "bytes"][1] % 4096 == 0


def test_holds_and_backorders_are_counted_until_they_end(fronts: Fronts, front: Front) -> None:
    brief = {"shop_id": "shop", "sku_id": "brief"}
    say(
        front,
        inventory.PutSkuRequest(**brief, price_minor=250, reserve_ttl_ms=1, backorder_policy="BACKORDER_POLICY_ALLOW"),
    )
    say(front, order("waits", sku_id="brief"), order("too", sku_id="brief"))
    until(lambda: 0 in fronts.board.shards() and fronts.board.shards()[0]["open_backorders"] == 2)
    assert fronts.board.shards()[0]["open_holds"] == 0
    # Each is served, holds what it is given until its time is over, and leaves that to the next one.
    say(front, adjustment("more", 1, shop_id="shop", sku_id="brief"))
    until(lambda: fronts.board.shards()[0]["expiries"] == 2)
    shard = fronts.board.shards()[0]
    assert (shard["open_holds"], shard["open_backorders"], shard["outcome_backordered"]) == (0, 0, 2)
    front.close()
    # What is read of the log is counted anew, but for what expired in it.
    again = fronts.start()
    until(lambda: sum(fronts.board.histograms()[0, "total"][0]) == 0)
    say(again, order("last", sku_id="sku"))
    until(lambda: fronts.board.shards()[0]["open_holds"] == 1)
    assert fronts.board.shards()[0]["expiries"] == 0


def test_follower_says_how_far_it_is_until_it_is_closed(fronts: Fronts, front: Front) -> None:
    path = front.directory(0)
    follower = Follower(path, board_fd=fronts.board_fd, workers=1, shard=0)
    until(lambda: follower.follow() == 0 and follower.lag == 0)
    until(lambda: 0 in fronts.board.shards())
    assert fronts.board.shards()[0]["follower_sequence"] == follower.sequence > 0
    before = follower.sequence
    say(front, order("more"))
    until(lambda: follower.follow() > 0)
    assert fronts.board.shards()[0]["follower_sequence"] == follower.sequence > before
    follower.close()
    assert fronts.board.shards()[0]["follower_sequence"] == 0
