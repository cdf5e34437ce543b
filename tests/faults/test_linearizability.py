"""The checker is checked: by histories that anybody can judge, by every order there is, by a model run at random."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.faults.linearizability import (
    ACCEPTED,
    ADJUST,
    CANCEL,
    PLACE,
    READ,
    REFUSED,
    Operation,
    Stock,
    check,
    check_skus,
    sku_step,
)

TEN = Stock(10, 0)


def place(called: int, returned: int | None, units: int, answer: str | None = ACCEPTED) -> Operation:
    return Operation(PLACE, units, called, returned, answer if returned is not None else None)


def adjust(called: int, returned: int | None, units: int, answer: str | None = ACCEPTED) -> Operation:
    return Operation(ADJUST, units, called, returned, answer if returned is not None else None)


def cancel(called: int, returned: int | None, units: int) -> Operation:
    return Operation(CANCEL, units, called, returned, ACCEPTED if returned is not None else None)


def read(called: int, returned: int, on_hand: int, reserved: int) -> Operation:
    return Operation(READ, 0, called, returned, Stock(on_hand, reserved))


GOOD: dict[str, list[Operation]] = {
    "nothing": [],
    "one after the other": [place(0, 1, 4), read(2, 3, 10, 4), place(4, 5, 7, REFUSED), read(6, 7, 10, 4)],
    "the last units go to one of two": [place(0, 5, 10), place(1, 4, 10, REFUSED)],
    "the one that began later was first": [place(0, 9, 10, REFUSED), place(1, 2, 1)],
    "reads see either side of an order under way": [place(0, 9, 3), read(1, 2, 10, 0), read(3, 4, 10, 3)],
    "an order without an answer happened": [place(0, None, 10), read(5, 6, 10, 10)],
    "an order without an answer never happened": [place(0, None, 10), read(5, 6, 10, 0), place(7, 8, 10)],
    "an order without an answer happened late": [place(0, None, 10), read(5, 6, 10, 0), place(7, 8, 1, REFUSED)],
    "of two without answers the second happened": [place(0, None, 3), place(0, None, 4), read(1, 2, 10, 4)],
    "more stock lets the order in": [adjust(0, 3, 5), place(1, 2, 15)],
    "the correction found too little": [place(0, 1, 8), adjust(2, 3, -3, REFUSED), adjust(4, 5, -2)],
    "a cancellation gives back": [place(0, 1, 10), cancel(2, 5, 10), place(3, 4, 10)],
    "without an answer, a cancellation explains": [place(0, 1, 10), cancel(2, None, 10), place(3, 4, 10)],
    "a beginning at the moment of an end overlaps": [place(0, 1, 10, REFUSED), place(1, 2, 1)],
}

BAD: dict[str, list[Operation]] = {
    "oversold": [place(0, 5, 6), place(1, 4, 6)],
    "a lost order": [place(0, 1, 3), read(2, 3, 10, 0)],
    "a lost order, seen by an order": [place(0, 1, 10), place(2, 3, 10)],
    "an order twice": [place(0, 1, 3), read(2, 3, 10, 6)],
    "a stale read": [place(0, 1, 1), place(2, 3, 1), read(4, 5, 10, 1)],
    "time goes back between reads": [place(0, 9, 3), read(1, 2, 10, 3), read(3, 4, 10, 0)],
    "half of an adjustment": [adjust(0, 1, 4), read(2, 3, 12, 0)],
    "refused with stock at hand": [place(0, 1, 3, REFUSED)],
    "the answerless order undone": [place(0, None, 3), read(1, 2, 10, 3), read(3, 4, 10, 0)],
    "the answerless order before it began": [read(0, 1, 10, 3), place(2, None, 3)],
    "a refusal that no order explains": [place(0, None, 4), place(1, 2, 7, REFUSED), read(3, 4, 10, 0)],
    "a resurrected order": [place(0, 1, 10), cancel(2, 3, 10), read(4, 5, 10, 10)],
}


@pytest.mark.parametrize("name", GOOD)
def test_check_good_history_is_accepted_with_an_order_that_shows_it(name: str) -> None:
    verdict = check(GOOD[name], TEN, sku_step)
    assert verdict.holds, verdict
    assert_shows(GOOD[name], verdict.order)


@pytest.mark.parametrize("name", BAD)
def test_check_bad_history_is_refused(name: str) -> None:
    verdict = check(BAD[name], TEN, sku_step)
    assert not verdict.holds
    assert verdict.stuck in BAD[name]


def test_check_names_what_has_no_moment() -> None:
    history = [place(0, 1, 3), read(2, 3, 10, 0), read(4, 5, 10, 3)]
    assert check(history, TEN, sku_step).stuck is history[1]


def test_check_skus_judges_each_by_itself() -> None:
    good = [replace(each, partition="tea") for each in GOOD["one after the other"]]
    bad = [replace(each, partition="rice") for each in BAD["a lost order"]]
    verdicts = check_skus([*good, *bad], TEN)
    assert {name: verdict.holds for name, verdict in verdicts.items()} == {"tea": True, "rice": False}


def test_check_many_calls_at_once_is_a_matter_of_memory_not_of_factorials() -> None:
    wide = [place(0, 100, 1) for _ in range(10)]
    assert check([*wide, read(200, 201, 10, 10)], TEN, sku_step).holds
    assert not check([*wide, read(200, 201, 10, 9)], TEN, sku_step).holds


def assert_shows(history: list[Operation], order: list[Operation]) -> None:
    """What was answered is in the order once, nothing precedes what was over before it began, and the model agrees."""
    assert len({id(each) for each in order}) == len(order)
    assert {id(each) for each in history if each.returned is not None} <= {id(each) for each in order}
    for earlier, later in itertools.combinations(order, 2):
        assert later.returned is None or later.returned >= earlier.called
    state: Stock | None = TEN
    for each in order:
        assert state is not None
        state = sku_step(state, each)
    assert state is not None


def brute(history: list[Operation]) -> bool:
    """Every order of what was answered and of any of the rest: slow, and right beyond doubt."""
    answered = [each for each in history if each.returned is not None]
    maybe = [each for each in history if each.returned is None]
    for count in range(len(maybe) + 1):
        for some in itertools.combinations(maybe, count):
            for order in itertools.permutations([*answered, *some]):
                pairs = itertools.combinations(order, 2)
                if any(b.returned is not None and b.returned < a.called for a, b in pairs):
                    continue
                state: Stock | None = TEN
                for each in order:
                    state = None if state is None else sku_step(state, each)
                if state is not None:
                    return True
    return False


@st.composite
def operations(draw: st.DrawFn) -> Operation:
    kind = draw(st.sampled_from((PLACE, ADJUST, CANCEL, READ)))
    called = draw(st.integers(0, 8))
    returned = called + draw(st.integers(0, 4))
    if kind == READ:
        return read(called, returned, draw(st.integers(8, 12)), draw(st.integers(0, 5)))
    units = draw(st.integers(1, 6)) * (draw(st.sampled_from((1, -1))) if kind == ADJUST else 1)
    if draw(st.booleans()) and draw(st.booleans()):
        return Operation(kind, units, called, None)
    return Operation(kind, units, called, returned, draw(st.sampled_from((ACCEPTED, ACCEPTED, ACCEPTED, REFUSED))))


@settings(max_examples=200)
@given(st.lists(operations(), max_size=5))
def test_check_agrees_with_every_order_tried(history: list[Operation]) -> None:
    verdict = check(history, TEN, sku_step)
    assert verdict.holds == brute(history)
    if verdict.holds:
        assert_shows(history, verdict.order)


@st.composite
def histories(draw: st.DrawFn, overlap: int = 40) -> list[Operation]:
    """What callers of a correct engine may see: each call happens at one moment, and its interval lies around it."""
    stock, held, history = TEN, [], []
    for moment in range(0, 10 * draw(st.integers(4, 24)), 10):
        kind = draw(st.sampled_from((PLACE, PLACE, ADJUST, READ, *([CANCEL] if held else []))))
        called, returned = moment - draw(st.integers(0, overlap)), moment + draw(st.integers(0, overlap))
        units = held.pop()[0] if kind == CANCEL else draw(st.integers(1, 4))
        if kind == ADJUST:
            units -= 2
        if kind == READ:
            history.append(read(called, returned, *stock))
            continue
        after = sku_step(stock, Operation(kind, units, called, returned))
        assert after is not None
        tried = Operation(kind, units, called, returned, ACCEPTED)
        accepted = sku_step(stock, tried) is not None
        fate = draw(st.integers(0, 11)) if overlap else 2
        if fate == 0:
            history.append(Operation(kind, units, called, None))  # never happened
            continue
        stock = after
        if fate == 1:
            history.append(Operation(kind, units, called, None))  # its answer was lost
        else:
            history.append(replace(tried, answer=ACCEPTED if accepted else REFUSED))
            if kind == PLACE and accepted:
                held.append((units, returned))
    return history


@settings(max_examples=60)
@given(histories())
def test_check_history_of_a_correct_engine_is_accepted(history: list[Operation]) -> None:
    verdict = check(history, TEN, sku_step)
    assert verdict.holds, verdict.stuck
    assert_shows(history, verdict.order)


@settings(max_examples=60)
@given(histories(overlap=0), st.data())
def test_check_history_with_one_lie_is_refused(history: list[Operation], data: st.DataObject) -> None:
    """Nothing overlaps, so there is one order only, and each lie about it can be seen."""
    end = 10 * len(history)
    on_hand, reserved = TEN
    for each in history:
        if each.kind != READ and each.answer == ACCEPTED:
            on_hand += each.units if each.kind == ADJUST else 0
            reserved += {PLACE: each.units, CANCEL: -each.units}.get(each.kind, 0)
    history = [*history, read(end, end, on_hand, reserved)]
    assert check(history, TEN, sku_step).holds
    at = data.draw(st.integers(0, len(history) - 1))
    told = history[at]
    if told.kind == READ:
        off = data.draw(st.sampled_from(((1, 0), (-1, 0), (0, 1), (0, -1))))
        lie = [replace(told, answer=Stock(told.answer.on_hand + off[0], told.answer.reserved + off[1]))]
    elif told.answer == ACCEPTED and told.units:
        # Lost, done twice, or said to be refused.
        lie = data.draw(st.sampled_from(([], [told, told], [replace(told, answer=REFUSED)])))
    else:
        lie = [replace(told, answer=REFUSED if told.answer == ACCEPTED else ACCEPTED)]
    assert not check([*history[:at], *lie, *history[at + 1 :]], TEN, sku_step).holds
