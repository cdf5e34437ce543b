"""Calls on orders that have left memory wait for the archive, which a test stands in for."""

from __future__ import annotations

import select
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine import _core
from engine._core import JournalReader, JournalWriter, Shard
from everopen.v1 import order_service_pb2 as orders
from tests.front.calls import (
    DEADLINE_EXCEEDED,
    HEALTH_CHECK,
    NOT_FOUND,
    RESOURCE_EXHAUSTED,
    UNAVAILABLE,
    details,
    fresh_id,
)
from tests.front.handing import PATIENCE_S, Front, Fronts, ask, link, message, say, seed, until
from tests.front.http2 import Answer, Connection
from tests.serving import adjustment, batch, order

pytestmark = pytest.mark.native

Lookup = tuple[int, int, str, str]


@pytest.fixture
def fronts(tmp_path: Path) -> Iterator[Fronts]:
    with Fronts(tmp_path / "data", window_ms=1) as running:
        yield running


@pytest.fixture
def front(fronts: Fronts) -> Front:
    return fronts.start()


def deliver(front: Front, count: int = 3) -> None:
    """Orders order-0 and so on, all delivered, and so closed."""
    seed(front)
    for number in range(count):
        of = {"shop_id": "shop", "order_id": f"order-{number}"}
        # Of one connection, in their order.
        say(
            front,
            order(of["order_id"]),
            orders.PayOrderRequest(**of, payment_id="p", amount_minor=250),
            orders.ShipOrderRequest(**of, command_id="s"),
            orders.DeliverOrderRequest(**of, command_id="d"),
        )


def engine_of(front: Front) -> tuple[int, _core.Engine]:
    """The only one, and its shard."""
    [(number, engine)] = front.engines.items()
    return number, engine


def replayed(front: Front) -> Shard:
    """What a follower has."""
    number, engine = engine_of(front)
    shard = Shard.empty(engine.log_id)
    with JournalReader(front.directory(number), 1, engine.durable) as reader:
        shard.replay_from(reader)
    return shard


def archived(front: Front, count: int) -> dict[str, bytes]:
    """The items of all orders, once their windows are over, before they are evicted."""
    found: dict[str, bytes] = {}

    def all_are_over() -> bool:
        # Time is logged with commands.
        say(front, adjustment(fresh_id(), 1))
        found.update({order_id: item for _, _, _, order_id, item in replayed(front).closed(0, 100_000)})
        return len(found) == count

    until(all_are_over)
    return found


def evict(front: Front, count: int) -> dict[str, bytes]:
    """All of `count` closed orders; returns what the archive has."""
    items = archived(front, count)
    number, engine = engine_of(front)
    front.native.evict(number, engine.sequence)
    until(lambda: engine.counts()["evicted_orders"] == count)
    return items


def lookups(front: Front, count: int = 1) -> list[Lookup]:
    """The next questions, when there are so many."""
    found: list[Lookup] = []
    while len(found) < count:
        readable, _, _ = select.select([front.native.lookup_fd], [], [], PATIENCE_S)
        assert readable, found
        found += front.native.take_lookups()
    assert len(found) == count
    return found


def ask_for(connection: Connection, number: int, *more: tuple[str, str]) -> int:
    return ask(connection, orders.GetOrderRequest(shop_id="shop", order_id=f"order-{number}"), *more)


def ask_return(connection: Connection, number: int, command_id: str = "r") -> int:
    of = {"shop_id": "shop", "order_id": f"order-{number}"}
    return ask(connection, orders.ReturnOrderRequest(**of, command_id=command_id))


def read_order(answer: Answer) -> bytes:
    return orders.GetOrderResponse.FromString(message(answer)).order.SerializeToString()


def reason(answer: Answer) -> bytes:
    return details(answer).details[0].value


def kinds_logged(front: Front, since: int) -> list[int]:
    engine = front.engines[0]
    assert engine.wait_durable(engine.sequence, PATIENCE_S)
    with JournalReader(front.directory(0), since + 1, engine.durable) as reader:
        return [record[4] for _, record in reader]


def assert_replays(front: Front) -> None:
    # Nothing more is decided from here on, so that the two can be compared.
    front.native.hand_over()
    assert front.native.handed_over(PATIENCE_S)
    shard = replayed(front)
    assert shard.check() == ""
    assert shard.state_digest() == front.engines[0].state_digest()


def test_archived_order_is_read_as_it_was_and_nothing_is_logged(front: Front) -> None:
    deliver(front)
    with Connection(front.address) as connection:
        before = [read_order(connection.answer(ask_for(connection, number))) for number in range(3)]
        items = evict(front, 3)
        sequence = front.engines[0].sequence
        asked = [ask_for(connection, number) for number in range(3)]
        for token, shard, shop_id, order_id in lookups(front, 3):
            assert (shard, shop_id) == (0, "shop")
            front.native.answer_lookup(token, items[order_id])
        assert [read_order(connection.answer(each)) for each in asked] == before
    assert not set(kinds_logged(front, sequence)) - {_core.TICK}
    assert front.count("archive_lookups") == front.count("archive_hits") == 3
    assert front.count("orders_restored") == 0


def test_command_on_an_archived_order_finds_it_restored(front: Front) -> None:
    deliver(front)
    items = evict(front, 3)
    before = front.engines[0].sequence
    with Connection(front.address) as connection:
        asked = ask_return(connection, 1)
        [(token, _, _, order_id)] = lookups(front)
        assert order_id == "order-1"
        front.native.answer_lookup(token, items[order_id])
        returned = orders.ReturnOrderResponse.FromString(message(connection.answer(asked)))
        assert returned.sequence >= before + 2
        assert not returned.duplicate
        assert returned.order.refund_due_minor == 250
        # It is in memory again, and nobody is asked.
        assert orders.ReturnOrderResponse.FromString(message(connection.answer(ask_return(connection, 1)))).duplicate
        assert message(connection.answer(ask_for(connection, 1)))
    assert [kind for kind in kinds_logged(front, before) if kind != _core.TICK] == [_core.RESTORE, _core.RETURN_ORDER]
    assert front.count("archive_lookups") == front.count("orders_restored") == 1
    assert front.engines[0].counts()["evicted_orders"] == 2
    assert_replays(front)


def test_order_that_the_archive_does_not_have_is_not_found(front: Front) -> None:
    deliver(front)
    with Connection(front.address) as connection:
        # Nothing was evicted yet, so nobody needs to be asked.
        assert connection.answer(ask_for(connection, 7)).code == NOT_FOUND
        evict(front, 3)
        asked = [ask_for(connection, 7), ask_return(connection, 8)]
        for token, _, _, _ in lookups(front, 2):
            front.native.answer_lookup(token, None)
        for each in asked:
            answer = connection.answer(each)
            assert answer.code == NOT_FOUND
            assert b"order-" in details(answer).SerializeToString()
    assert front.count("archive_lookups") == 2


def test_archive_that_fails_makes_the_call_unavailable(front: Front) -> None:
    deliver(front)
    items = evict(front, 3)
    with Connection(front.address) as connection:
        sequence = front.engines[0].sequence
        asked = ask_return(connection, 0)
        [(token, _, _, order_id)] = lookups(front)
        front.native.answer_lookup(token, None, True)
        answer = connection.answer(asked)
        assert answer.code == UNAVAILABLE
        assert b"ARCHIVE_UNAVAILABLE" in reason(answer)
        assert not set(kinds_logged(front, sequence)) - {_core.TICK}
        # What is no order of the shop changes nothing either.
        asked = ask_for(connection, 0)
        [(token, _, _, _)] = lookups(front)
        front.native.answer_lookup(token, items[order_id][:-1])
        assert b"ARCHIVE_DAMAGED" in reason(connection.answer(asked))
        asked = ask_return(connection, 0)
        [(token, _, _, _)] = lookups(front)
        front.native.answer_lookup(token, b"nonsense")
        assert b"ARCHIVE_DAMAGED" in reason(connection.answer(asked))
        for ask in ask_for, ask_return:
            asked = ask(connection, 0)
            [(token, _, _, order_id)] = lookups(front)
            front.native.answer_lookup(token, next(item for name, item in items.items() if name != order_id))
            assert b"ARCHIVE_DAMAGED" in reason(connection.answer(asked))
        assert not set(kinds_logged(front, sequence)) - {_core.TICK}
    assert front.count("archive_failed") == 1
    assert_replays(front)


def test_calls_beyond_the_bound_are_refused_and_a_late_one_gives_its_place_back(fronts: Fronts) -> None:
    front = fronts.start(archive_calls_max=1)
    deliver(front)
    items = evict(front, 3)
    with Connection(front.address) as connection:
        late = ask_for(connection, 0, ("grpc-timeout", "300m"))
        [(old, _, _, _)] = lookups(front)
        assert connection.answer(ask_for(connection, 1)).code == RESOURCE_EXHAUSTED
        # Others do not wait with it.
        assert message(connection.call(HEALTH_CHECK, b""))
        assert connection.answer(late).code == DEADLINE_EXCEEDED
        asked = ask_for(connection, 1)
        [(token, _, _, order_id)] = lookups(front)
        front.native.answer_lookup(old, items["order-0"])
        front.native.answer_lookup(2**64 - 1, items["order-0"])
        connection.ping()
        assert not connection.stream(asked).over
        front.native.answer_lookup(token, items[order_id])
        found = orders.GetOrderResponse.FromString(message(connection.answer(asked)))
        assert found.order.order_id == "order-1"


def test_caller_that_goes_away_leaves_nothing_behind(fronts: Fronts) -> None:
    front = fronts.start(archive_calls_max=2)
    deliver(front)
    items = evict(front, 3)
    with Connection(front.address) as connection:
        given_up = ask_return(connection, 0)
        with Connection(front.address) as other:
            ask_return(other, 1)
            found = lookups(front, 2)
        connection.reset(given_up)
        for token, _, _, order_id in found:
            front.native.answer_lookup(token, items[order_id])
        until(lambda: front.count("calls_in_flight") == 0)
        asked = [ask_for(connection, 0), ask_for(connection, 1)]
        for token, _, _, order_id in lookups(front, 2):
            front.native.answer_lookup(token, items[order_id])
        for each in asked:
            assert message(connection.answer(each))
    assert front.count("orders_restored") == 0


def test_older_answer_is_not_taken_for_an_order_that_came_back_meanwhile(front: Front) -> None:
    deliver(front)
    items = evict(front, 3)
    with Connection(front.address) as connection:
        first, second = ask_return(connection, 1, "first"), ask_return(connection, 1, "second")
        [(token, _, _, _), (later, _, _, _)] = lookups(front, 2)
        front.native.answer_lookup(token, items["order-1"])
        message(connection.answer(first))
        of = {"shop_id": "shop", "order_id": "order-1"}
        say(front, orders.SettleRefundRequest(**of, command_id="x", amount_minor=250))
        newer = archived(front, 1)
        front.native.evict(0, front.engines[0].sequence)
        until(lambda: front.engines[0].counts()["evicted_orders"] == 3)
        front.native.answer_lookup(later, items["order-1"])
        [(again, _, _, order_id)] = lookups(front)
        front.native.answer_lookup(again, newer[order_id])
        # All of it came back already.
        answer = orders.ReturnOrderResponse.FromString(message(connection.answer(second)))
        assert answer.order.refunded_minor == 250
    assert_replays(front)


def test_drain_waits_for_the_archive(front: Front) -> None:
    deliver(front)
    items = evict(front, 3)
    with Connection(front.address) as connection:
        asked = ask_for(connection, 0)
        [(token, _, _, order_id)] = lookups(front)
        front.native.drain()
        assert not front.native.drained(0.2)
        front.native.answer_lookup(token, items[order_id])
        assert message(connection.answer(asked))
        assert front.native.drained(PATIENCE_S)


def test_front_that_ends_refuses_who_still_waits(front: Front) -> None:
    deliver(front)
    evict(front, 3)
    with Connection(front.address) as connection:
        ask_return(connection, 0)
        [(token, _, _, _)] = lookups(front)
        front.native.answer_lookup(token, None)
        ask_return(connection, 1)
        lookups(front)
        front.close()


def test_call_that_waits_for_the_archive_crosses_a_handover(fronts: Fronts) -> None:
    # The successor may take its time on a busy machine.
    old = fronts.start(handover_ms=20_000)
    deliver(old)
    items = evict(old, 3)
    with Connection(old.address) as connection:
        asked = ask_return(connection, 2)
        [(token, _, _, _)] = lookups(old)
        old.hand_over()
        old.native.answer_lookup(token, items["order-2"])
        new = fronts.succeed(old)
        [(token, _, _, order_id)] = lookups(new)
        new.native.answer_lookup(token, items[order_id])
        assert not orders.ReturnOrderResponse.FromString(message(connection.answer(asked))).duplicate
        assert (old.count("orders_restored"), new.count("orders_restored")) == (0, 1)


def test_call_of_another_worker_waits_for_the_archive_also_when_that_worker_dies(tmp_path: Path) -> None:
    with Fronts(tmp_path / "data", workers=2, shards=2, window_ms=1) as fronts:
        # The shop lives in shard 1.
        host, other = fronts.start(1), fronts.start(0)
        link(host, other)
        deliver(host)
        items = evict(host, 3)
        with Connection(other.address) as connection:
            until(lambda: connection.call(HEALTH_CHECK, b"").messages == [b"\x08\x01"])
            asked = ask_for(connection, 0)
            [(token, _, _, order_id)] = lookups(host)
            host.native.answer_lookup(token, items[order_id])
            assert message(connection.answer(asked))
            ask_return(connection, 1)
            [(token, _, _, order_id)] = lookups(host)
        other.close()
        with Connection(host.address) as connection:
            until(lambda: connection.call(HEALTH_CHECK, b"").messages == [b"\x08\x02"])
            host.native.answer_lookup(token, items[order_id])
            asked = ask_for(connection, 1)
            [(token, _, _, order_id)] = lookups(host)
            host.native.answer_lookup(token, items[order_id])
            assert message(connection.answer(asked))
        assert host.count("orders_restored") == 0


def test_evict_goes_on_in_slices_until_none_is_due(front: Front) -> None:
    deliver(front, 2)
    say(front, batch(f"many-{number}" for number in range(1000)))
    # Cancelled before they were paid: closed at once.
    names = [f"many-{number}" for number in range(0, 1000, 2)]
    say(front, *(orders.CancelOrderRequest(shop_id="shop", order_id=name, command_id="c") for name in names))
    evict(front, 502)
    assert front.count("evictions") > 1
    assert front.engines[0].counts()["orders"] == 500
    assert_replays(front)
    with pytest.raises(ValueError, match="out of bounds"):
        front.native.evict(1, 5)


def outrun(front: Front) -> list[int]:
    """The archive has one order of many that should have left memory; as many were placed as may be meanwhile.

    Returns the closing sequences of the others.
    """
    seed(front)
    say(front, batch(f"closed-{number}" for number in range(500)))
    names = [f"closed-{number}" for number in range(500)]
    say(front, *(orders.CancelOrderRequest(shop_id="shop", order_id=name, command_id="c") for name in names))
    archived(front, 500)
    first, *others = [row[0] for row in replayed(front).closed(0, 100_000)]
    front.native.evict(0, first)
    until(lambda: front.engines[0].counts()["evicted_orders"] == 1)
    for round_number in range(16):
        say(front, batch(f"more-{round_number}-{number}" for number in range(1024)))
    return others


def test_orders_wait_for_an_archive_that_is_behind(fronts: Fronts) -> None:
    front = fronts.start(archive_lag_ms=1, archive_wait_ms=1_000_000)
    others = outrun(front)
    with Connection(front.address) as connection:
        asked = ask(connection, order("waits"))
        until(lambda: front.count("archive_waits") > 0)
        # Who waits is not read, but others are served, also by the shard.
        with Connection(front.address) as other:
            assert message(other.call(HEALTH_CHECK, b""))
            message(other.answer(ask(other, orders.GetOrderRequest(shop_id="shop", order_id="more-0-0"))))
        assert front.engines[0].counts()["orders"] == 499 + 16 * 1024
        front.native.evict(0, others[99])
        message(connection.answer(asked))
    # Fewer may come than have left, so that it catches up.
    with Connection(front.address) as connection:
        asked = [ask(connection, order(f"later-{number}")) for number in range(99)]
        until(lambda: front.engines[0].counts()["orders"] >= 399 + 16 * 1024 + 88)
        waits = front.count("archive_waits")
        until(lambda: front.count("archive_waits") > waits)
        assert front.engines[0].counts()["orders"] < 399 + 16 * 1024 + 99
        front.native.evict(0, others[-1])
        for stream_id in asked:
            message(connection.answer(stream_id))
    assert_replays(front)


def test_archive_that_takes_nothing_keeps_nobody_waiting(fronts: Fronts) -> None:
    front = fronts.start(archive_lag_ms=1, archive_wait_ms=1)
    others = outrun(front)
    # What comes meanwhile is no debt: once orders leave again, as many may come as leave.
    say(front, batch(f"free-{number}" for number in range(1024)))
    front.native.evict(0, others[299])
    until(lambda: front.engines[0].counts()["evicted_orders"] == 301)
    waits = front.count("archive_waits")
    say(front, *(order(f"later-{number}") for number in range(80)))
    assert front.count("archive_waits") == waits


def test_level_is_raised_once(fronts: Fronts) -> None:
    log_id = bytes(range(16))
    shard = Shard(log_id, level=1)
    with JournalWriter(str(fronts.directories[0]), log_id=log_id, segment_bytes=1024 * 1024) as writer:
        writer.append(shard.record)
        writer.kick()
        assert writer.wait_durable(1, PATIENCE_S)
    front = fronts.start()
    assert front.engines[0].level == 1
    front.native.raise_level(0)
    until(lambda: front.engines[0].level == 2)
    front.native.raise_level(0)
    deliver(front)
    assert kinds_logged(front, 0).count(_core.ACTIVATE) == 2
    assert_replays(front)
