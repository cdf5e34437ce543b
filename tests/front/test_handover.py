"""A front gives its shards to another and goes on as a front; links are replaced; no call is lost."""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine import _core, journal_tools
from engine._core import LIMITS, JournalReader, Shard, board_mark_next
from engine.datadir import shard_of
from everopen.v1 import order_service_pb2 as orders
from tests.front.calls import (
    HEALTH_CHECK,
    OK,
    PLACE_ORDER,
    UNAVAILABLE,
    details,
    fresh_id,
    place,
    placed,
)
from tests.front.handing import PATIENCE_S, Fronts, ask, link, message, seed, until
from tests.front.http2 import Answer, Connection
from tests.serving import batch, order

pytestmark = pytest.mark.native

SERVING, NOT_SERVING = b"\x08\x01", b"\x08\x02"


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Fronts]:
    with Fronts(tmp_path / "data") as fronts:
        yield fronts


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Fronts]:
    with Fronts(tmp_path / "data", workers=2, shards=2) as fronts:
        yield fronts


def ask_order(connection: Connection, order_id: str, shop_id: str = "shop") -> int:
    return ask(connection, order(order_id, shop_id=shop_id))


def ask_batch(connection: Connection, count: int) -> int:
    return ask(connection, batch(fresh_id() for _ in range(count)))


def batch_answer(answer: Answer) -> list[str]:
    """Of each item, what it was answered with."""
    return [str(each.WhichOneof("answer")) for each in orders.PlaceOrdersResponse.FromString(message(answer)).results]


def health(connection: Connection) -> bytes:
    return message(connection.call(HEALTH_CHECK, b""))


def reason(answer: Answer) -> bytes:
    return details(answer).details[0].value


def orders_logged(directory: Path) -> Counter[str]:
    return Counter(
        orders.PlaceOrderRequest.FromString(record.command).order_id
        for _, record in journal_tools.dump(directory)
        if record.kind == _core.PLACE_ORDER
    )


def test_calls_that_come_during_a_handover_wait_and_are_answered(alone: Fronts) -> None:
    old = alone.start()
    seed(old)
    with Connection(old.address) as connection:
        assert placed(connection.call(PLACE_ORDER, place("before")))
        old.hand_over()
        waiting = [ask_order(connection, f"waits-{number}") for number in range(100)]
        asked = ask_batch(connection, 300)
        assert health(connection) == SERVING
        connection.ping()
        assert not any(connection.stream(each).over for each in (*waiting, asked))
        new = alone.succeed(old)
        for each in waiting:
            assert not placed(connection.answer(each)).duplicate
        assert batch_answer(connection.answer(asked)) == ["result"] * 300
        assert placed(connection.call(PLACE_ORDER, place("before"))).duplicate
        assert health(connection) == SERVING
        assert new.count("jobs_received") == 102
        assert old.count("handovers") == 1


def test_handover_under_load_loses_and_doubles_nothing(alone: Fronts, tmp_path: Path) -> None:
    fronts = [alone.start()]
    seed(fronts[0])
    answered: list[str] = []
    stop = threading.Event()

    def call(number: int) -> None:
        """Over one connection for all the time: each handover is one more hop."""
        with Connection(fronts[0].address) as connection:
            asked: dict[int, str] = {}
            for count in range(100_000):
                order_id = f"order-{number}-{count}"
                asked[ask_order(connection, order_id)] = order_id
                if len(asked) == 32 or stop.is_set():
                    for stream_id, name in asked.items():
                        assert not placed(connection.answer(stream_id)).duplicate
                        answered.append(name)
                    asked = {}
                if stop.is_set():
                    return

    failures: list[BaseException] = []

    def caller(number: int) -> None:
        try:
            call(number)
        except BaseException as error:
            failures.append(error)

    callers = [threading.Thread(target=caller, args=(number,)) for number in range(3)]
    for each in callers:
        each.start()
    for _ in range(4):
        before = len(answered)
        until(lambda before=before: len(answered) > before + 200 or bool(failures))
        fronts[-1].hand_over()
        fronts.append(alone.succeed(fronts[-1]))
    before = len(answered)
    until(lambda: len(answered) > before + 200 or bool(failures))
    stop.set()
    for each in callers:
        each.join()
    assert not failures, failures
    for front in reversed(fronts):
        front.native.drain()
    for front in reversed(fronts):
        assert front.native.drained(PATIENCE_S)
    for front in reversed(fronts):
        front.close()
    assert orders_logged(tmp_path / "data") == Counter(answered)


def test_batch_that_was_begun_is_whole_on_one_side(alone: Fronts) -> None:
    old = alone.start(commands_per_turn_max=1)
    seed(old)
    with Connection(old.address) as connection:
        before = old.engines[0].sequence
        asked = ask_batch(connection, 1024)
        until(lambda: old.count("batches_executed") == 1)
        old.native.hand_over()
        assert old.native.handed_over(PATIENCE_S)
        assert old.engines[0].sequence in (before, before + 1024)
        assert old.engines[0].durable == old.engines[0].sequence
        old.close_engines()
        new = alone.succeed(old)
        assert batch_answer(connection.answer(asked)) == ["result"] * 1024
        assert new.engines[0].sequence >= before + 1024


def test_slot_of_the_board_is_the_successors(alone: Fronts) -> None:
    old = alone.start()
    seed(old)
    old.hand_over()
    [slot] = alone.board.slots()
    turns, accepted = slot["turns"], slot["connections_accepted"]
    assert old.count("connections_accepted") == accepted > 0
    # It goes on to turn and to count, and nobody sees it; whoever connects now is left to the successor.
    with Connection(old.address):
        until(lambda: old.count("turns") > turns + 3)
    assert [slot["turns"] for slot in alone.board.slots()] == [turns]
    assert old.count("connections_accepted") == accepted
    new = alone.start()
    until(lambda: new.count("turns") > 0)
    [slot] = alone.board.slots()
    assert slot["turns"] < turns + 1_000
    assert slot["handovers"] == 0


def test_calls_fail_when_no_successor_comes_in_time(alone: Fronts) -> None:
    old = alone.start(handover_ms=200)
    seed(old)
    with Connection(old.address) as connection:
        old.hand_over()
        waiting = ask_order(connection, "waits")
        answer = connection.answer(waiting)
        assert answer.code == UNAVAILABLE
        assert b"SHARD_DOWN" in reason(answer)
        assert connection.call(PLACE_ORDER, place("late")).code == UNAVAILABLE
        until(lambda: health(connection) == NOT_SERVING)
        # It is not too late for one.
        alone.succeed(old)
        until(lambda: connection.call(PLACE_ORDER, place("late")).code == OK)
        assert health(connection) == SERVING


def test_calls_fail_when_the_successor_dies(alone: Fronts) -> None:
    old = alone.start()
    seed(old)
    with Connection(old.address) as connection:
        old.hand_over()
        new = alone.succeed(old)
        assert not placed(connection.call(PLACE_ORDER, place("there"))).duplicate
        new.close()
        answer = connection.call(PLACE_ORDER, place("gone"))
        assert answer.code == UNAVAILABLE
        assert b"SHARD_DOWN" in reason(answer)
        assert health(connection) == NOT_SERVING


def shop_of(shard: int) -> str:
    names = (f"shop-{number}" for number in range(1000))
    return next(name for name in names if shard_of(_core.partition_of(name), 2) == shard)


def test_jobs_of_other_workers_cross_the_handover_over_the_link_that_they_came_by(pair: Fronts) -> None:
    shop_id = shop_of(0)
    old, other = pair.start(0), pair.start(1)
    link(old, other)
    with Connection(other.address) as connection:
        until(lambda: health(connection) == SERVING)
        seed(other, shop_id)
        old.hand_over()
        first = [ask_order(connection, f"first-{number}", shop_id) for number in range(50)]
        connection.ping()
        # A new link beside the old one, over which still nothing was answered.
        new = pair.start(0)
        link(new, other)
        until(lambda: placed(connection.answer(ask_order(connection, "second", shop_id))).duplicate)
        assert not any(connection.stream(each).over for each in first)
        assert old.count("jobs_received") >= 50
        link(old, new)
        for each in first:
            assert not placed(connection.answer(each)).duplicate
        sent = old.count("jobs_sent")
        assert sent == 50
        # The old one may go now, and nobody notices.
        old.native.drain()
        assert old.native.drained(PATIENCE_S)
        old.close()
        assert not placed(connection.answer(ask_order(connection, "third", shop_id))).duplicate
        assert health(connection) == SERVING
        assert other.count("jobs_lost") == new.count("jobs_lost") == 0


def test_front_that_handed_over_is_drained_only_when_others_wait_no_more(pair: Fronts) -> None:
    shop_id = shop_of(0)
    old, other = pair.start(0), pair.start(1)
    link(old, other)
    with Connection(other.address) as connection:
        until(lambda: health(connection) == SERVING)
        seed(other, shop_id)
        old.hand_over()
        waiting = ask_order(connection, "waits", shop_id)
        until(lambda: old.count("jobs_received") > 0)
        old.native.drain()
        assert not old.native.drained(0.2)
        new = pair.start(0)
        link(new, other)
        link(old, new)
        assert not placed(connection.answer(waiting)).duplicate
        assert old.native.drained(PATIENCE_S)


def test_links_replaced_under_load_lose_nothing_and_go_when_they_are_empty(pair: Fronts) -> None:
    shop_id = shop_of(0)
    host, other = pair.start(0), pair.start(1)
    link(host, other)
    with Connection(other.address) as connection:
        until(lambda: health(connection) == SERVING)
        seed(other, shop_id)
        descriptors = len(os.listdir("/proc/self/fd"))
        for turn in range(10):
            asked = [ask_order(connection, f"order-{turn}-{number}", shop_id) for number in range(200)]
            link(host, other)
            for each in asked:
                assert not placed(connection.answer(each)).duplicate
        assert other.count("jobs_lost") == 0
        until(lambda: len(os.listdir("/proc/self/fd")) <= descriptors)


def test_marks_tell_the_digest_at_their_sequence(alone: Fronts) -> None:
    front = alone.start()
    seed(front)
    assert board_mark_next(alone.board, 0, 0) is None
    with Connection(front.address) as connection:
        for _ in range(17):
            connection.answer(ask_batch(connection, 1024))
    found = board_mark_next(alone.board, 0, 0)
    assert found is not None
    sequence, _ = found
    assert LIMITS["MARK_EVERY"] <= sequence < LIMITS["MARK_EVERY"] + 1024
    directory, log_id = str(alone.directories[0]), front.engines[0].log_id
    front.hand_over()
    shard = Shard.empty(log_id)
    with JournalReader(directory, 1, sequence) as reader:
        shard.replay_from(reader)
    assert (shard.sequence, shard.state_digest()) == found
    # Whoever leads next begins anew.
    alone.succeed(front)
    until(lambda: board_mark_next(alone.board, 0, 0) is None)
