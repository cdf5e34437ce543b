"""Which calls are traced, and what a span says of its call; see docs/observability.md."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio

from engine._core import FRONT_METHOD_NAMES, LIMITS, OUTCOME_NAMES
from tests.front.calls import (
    CANCELLED,
    INVALID_ARGUMENT,
    OK,
    PLACE_ORDER,
    PLACE_ORDERS,
    UNAVAILABLE,
    fresh_id,
    place,
    place_batch,
    placed,
)
from tests.front.handing import PATIENCE_S, Front, Fronts, link, seed, until
from tests.front.http2 import Connection, prefixed
from tests.front.relaying import SERVICE, BareFront, Control, start_control
from tests.front.test_handover import shop_of
from tests.serving import order

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED, UNSAMPLED = f"00-{TRACE}-{PARENT}-01", f"00-{TRACE}-{PARENT}-00"


def ask(front: Front, *parents: str, path: str = PLACE_ORDER, request: bytes | None = None) -> int | None:
    with Connection(front.address) as connection:
        return connection.call(
            path, place() if request is None else request, more=[("traceparent", parent) for parent in parents]
        ).code


def spans(fronts: Fronts, front: Front, count: int) -> list[dict[str, Any]]:
    """All of them, once so many calls were traced."""
    until(lambda: front.count("spans_written") + front.count("spans_dropped") >= count)
    return fronts.board.take_spans(1_000_000)


def test_sampled_parent_has_one_span_that_says_what_became_of_the_call(fronts: Fronts, front: Front) -> None:
    assert ask(front, SAMPLED) == OK
    [span] = spans(fronts, front, 1)
    assert (span["trace_id"], span["parent_id"]) == (TRACE, PARENT)
    assert len(span["span_id"]) == 16
    assert span["span_id"] not in (PARENT, "0" * 16)
    assert FRONT_METHOD_NAMES[span["method"] - 1] == PLACE_ORDER[1:]
    assert (span["code"], span["shard"], span["worker"], span["items"]) == (OK, 0, 0, 0)
    assert OUTCOME_NAMES[span["outcome"]] == "placed"
    times = span["times_ns"]
    assert len(times) == 6
    assert list(times) == sorted(times)
    assert times[2] < times[3] < times[4] < times[5]
    assert fronts.board.take_spans(10) == []


def test_failed_call_has_a_span_with_its_code(fronts: Fronts, front: Front) -> None:
    assert ask(front, SAMPLED, request=b"\xff") == INVALID_ARGUMENT
    [span] = spans(fronts, front, 1)
    assert (span["code"], span["outcome"]) == (INVALID_ARGUMENT, 0)
    assert list(span["times_ns"]) == sorted(span["times_ns"])


def test_each_batch_of_a_stream_has_a_span_of_the_same_parent(fronts: Fronts, front: Front) -> None:
    with Connection(front.address) as connection:
        assert (
            connection.call(PLACE_ORDERS, place_batch(3), place_batch(70), more=[("traceparent", SAMPLED)]).code == OK
        )
    found = spans(fronts, front, 2)
    assert [(span["items"], span["trace_id"], span["parent_id"]) for span in found] == [
        (3, TRACE, PARENT),
        (70, TRACE, PARENT),
    ]
    assert len({span["span_id"] for span in found}) == 2


@pytest.mark.parametrize(
    "parent",
    [
        SAMPLED[:-1],
        SAMPLED + "0",
        SAMPLED + "-00",
        "01" + SAMPLED[2:],
        "ff" + SAMPLED[2:],
        SAMPLED.upper(),
        SAMPLED.replace("-", "_"),
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE[:-1]}g-{PARENT}-01",
        f"00-{TRACE}-{PARENT}-0g",
        f"00-{TRACE}-{PARENT[:-1]}:-01",
        f"00-{TRACE}0{PARENT}-01",
        f"00-{TRACE}-{PARENT}001",
        "",
    ],
)
def test_malformed_parent_is_ignored(fronts: Fronts, front: Front, parent: str) -> None:
    assert ask(front, parent) == OK
    assert ask(front, SAMPLED) == OK
    assert len(spans(fronts, front, 1)) == 1


def test_parent_that_was_sent_twice_is_ignored(fronts: Fronts, front: Front) -> None:
    assert ask(front, SAMPLED, SAMPLED) == ask(front, SAMPLED, SAMPLED, SAMPLED) == ask(front, "", SAMPLED) == OK
    assert ask(front, SAMPLED) == OK
    assert len(spans(fronts, front, 1)) == 1


def test_nothing_is_traced_by_default(fronts: Fronts, front: Front) -> None:
    assert {ask(front) for _ in range(40)} == {ask(front, UNSAMPLED)} == {OK}
    assert ask(front, SAMPLED) == OK
    assert len(spans(fronts, front, 1)) == 1


def test_calls_without_a_parent_are_traced_by_chance_and_none_whose_parent_was_not(fronts: Fronts) -> None:
    front = fronts.start(trace_ppm=500_000)
    seed(front)
    with Connection(front.address) as connection:
        for _ in range(200):
            placed(connection.call(PLACE_ORDER, place()))
        for _ in range(200):
            placed(connection.call(PLACE_ORDER, place(), more=[("traceparent", UNSAMPLED)]))
        placed(connection.call(PLACE_ORDER, place(), more=[("traceparent", SAMPLED)]))
        until(lambda: fronts.board.histograms()[0, "total"][1] > 0)
    front.close()
    found = [
        span for span in fronts.board.take_spans(1_000) if FRONT_METHOD_NAMES[span["method"] - 1] == PLACE_ORDER[1:]
    ]
    # Beyond these bounds in one run of 10^9.
    assert 57 < len(found) - 1 < 143
    assert [span["trace_id"] for span in found].count(TRACE) == 1
    assert len({span["trace_id"] for span in found}) == len({span["span_id"] for span in found}) == len(found)
    assert {span["parent_id"] for span in found} == {"", PARENT}


def test_full_ring_drops_what_is_new_and_counts_it(fronts: Fronts, front: Front) -> None:
    kept, more = LIMITS["SPANS_KEPT"], 5
    with Connection(front.address) as connection:
        for first in range(0, kept + more, 500):
            asked = []
            for _ in range(min(500, kept + more - first)):
                asked.append(connection.open(PLACE_ORDER, ("traceparent", SAMPLED)))
                connection.data(asked[-1], prefixed(place()), end=True)
            assert {connection.answer(stream_id).code for stream_id in asked} == {OK}
    until(lambda: front.count("spans_written") + front.count("spans_dropped") == kept + more)
    assert (front.count("spans_written"), front.count("spans_dropped")) == (kept, more)
    assert len(fronts.board.take_spans(10)) == 10
    assert ask(front, SAMPLED) == OK
    until(lambda: front.count("spans_written") == kept + 1)
    assert len(fronts.board.take_spans(2 * kept)) == kept + 1 - 10


def test_spans_of_a_front_that_ended_are_still_there_for_the_next_ones(fronts: Fronts, front: Front) -> None:
    assert ask(front, SAMPLED) == OK
    until(lambda: front.count("spans_written") == 1)
    front.close()
    successor = fronts.start()
    assert ask(successor, SAMPLED) == OK
    assert len(spans(fronts, successor, 1)) == 2


async def relayed_spans(front: BareFront, count: int) -> list[dict[str, Any]]:
    """All of them, once so many calls were traced and none goes on."""
    by_s = time.monotonic() + PATIENCE_S
    while front.count("spans_written") < count:
        assert time.monotonic() < by_s
        await asyncio.sleep(0.002)
    return front.board.take_spans(1_000)


def told(control: Control) -> list[str]:
    """The traceparents that came with the last call."""
    return [str(text) for name, text in control.metadata if name == "traceparent"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "control"


@pytest_asyncio.fixture
async def control(path: Path) -> AsyncIterator[Control]:
    control = Control()
    server = await start_control(path, control)
    yield control
    await server.stop(None)


async def relay(front: BareFront, name: str, *parents: str, request: bytes = b"r", **how: Any) -> Any:
    async with grpc.aio.insecure_channel(front.address) as channel:
        call: Any = channel.unary_unary(f"/{SERVICE}/{name}")
        return await call(request, metadata=tuple(("traceparent", parent) for parent in parents), timeout=20, **how)


async def test_relayed_call_has_a_span_and_the_control_server_is_told_its_id(path: Path, control: Control) -> None:
    with BareFront(path) as front:
        before_ns = time.monotonic_ns()
        await relay(front, "Unary", SAMPLED)
        [span] = await relayed_spans(front, 1)
        assert told(control) == [f"00-{TRACE}-{span['span_id']}-01"]
    assert (span["trace_id"], span["parent_id"]) == (TRACE, PARENT)
    assert span["span_id"] != PARENT
    assert (span["code"], span["outcome"], span["shard"], span["items"]) == (OK, 0, -1, 0)
    # What a caller calls a method is in no span if it is none of ours.
    assert FRONT_METHOD_NAMES[span["method"] - 1] == "_OTHER"
    begun_ns, *between, ended_ns = span["times_ns"]
    assert between == [0, 0, 0, 0]
    assert before_ns < begun_ns < ended_ns < time.monotonic_ns()
    assert abs(span["begun_wall_ns"] - time.time_ns()) < 600 * 10**9


async def test_relayed_call_that_is_not_traced_keeps_the_parent_of_its_caller(path: Path, control: Control) -> None:
    with BareFront(path) as front:
        await relay(front, "Unary", UNSAMPLED)
        assert told(control) == [UNSAMPLED]
        await relay(front, "Unary")
        assert told(control) == []
        await relay(front, "Unary", SAMPLED.upper())
        assert told(control) == []
        assert front.board.take_spans(10) == []
        assert front.count("spans_written") == 0


async def test_relayed_call_without_a_parent_is_traced_by_chance(path: Path, control: Control) -> None:
    with BareFront(path, trace_ppm=1_000_000) as front:
        await relay(front, "Unary")
        [span] = await relayed_spans(front, 1)
        assert told(control) == [f"00-{span['trace_id']}-{span['span_id']}-01"]
        assert span["parent_id"] == ""
        await relay(front, "Unary", UNSAMPLED)
        assert told(control) == [UNSAMPLED]
        assert front.count("spans_written") == 1


async def test_span_of_a_relayed_call_has_its_code(path: Path, control: Control) -> None:
    with BareFront(path) as front:
        for name in ("Fail", "Missing"):
            with pytest.raises(grpc.aio.AioRpcError):
                await relay(front, name, SAMPLED)
        assert [span["code"] for span in await relayed_spans(front, 2)] == [9, 12]
        hanging = asyncio.create_task(relay(front, "Hang", SAMPLED))
        await control.begun.wait()
        hanging.cancel()
        with pytest.raises(asyncio.CancelledError):
            await hanging
        assert [span["code"] for span in await relayed_spans(front, 3)] == [CANCELLED]


async def test_relayed_call_that_no_control_server_takes_has_a_span(path: Path) -> None:
    with BareFront(path, relay_connect_ms=1) as front:
        with pytest.raises(grpc.aio.AioRpcError):
            await relay(front, "Unary", SAMPLED)
        assert [span["code"] for span in await relayed_spans(front, 1)] == [UNAVAILABLE]


def test_methods_of_spans_have_names_of_ours() -> None:
    assert len(set(FRONT_METHOD_NAMES)) == len(FRONT_METHOD_NAMES)
    assert "everopen.v1.ClusterService/WatchPartitionMap" in FRONT_METHOD_NAMES
    assert [name for name in FRONT_METHOD_NAMES if name.endswith("_OTHER")] == [
        "grpc.reflection.v1.ServerReflection/_OTHER",
        "grpc.reflection.v1alpha.ServerReflection/_OTHER",
        "grpc.channelz.v1.Channelz/_OTHER",
        "_OTHER",
    ]


def test_call_for_another_worker_has_its_times_and_its_outcome(tmp_path: Path) -> None:
    with Fronts(tmp_path / "data", workers=2, shards=2) as fronts:
        first, second = fronts.start(0), fronts.start(1)
        link(first, second)
        shops = [shop_of(0), shop_of(1)]
        for shop in shops:
            seed(first, shop)
        for front in (first, second):
            for shop in shops:
                assert ask(front, SAMPLED, request=order(fresh_id(), shop_id=shop).SerializeToString()) == OK
        until(lambda: first.count("spans_written") + second.count("spans_written") == 4)
        found = fronts.board.take_spans(10)
        assert sorted((span["worker"], span["shard"]) for span in found) == [(0, 0), (0, 1), (1, 0), (1, 1)]
        for span in found:
            times = span["times_ns"]
            assert list(times) == sorted(times)
            # Executed, and durable, at some time of their own: also where another worker did it.
            assert times[1] < times[2] < times[3] < times[4] < times[5]
            assert OUTCOME_NAMES[span["outcome"]] == "placed"
