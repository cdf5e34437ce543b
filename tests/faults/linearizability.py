"""Is a history of concurrent calls linearizable? The search of Wing and Gong with the memory of Lowe.

A history is correct if each call can be given one moment between its beginning and its answer, so that the calls, done
one after the other at these moments, give the answers that came. The search takes calls in some order that the
intervals allow, goes back where an answer does not fit, and remembers which sets of calls led to which state, because
how it came there does not matter. A call whose answer never came may have its moment at any time after its
beginning, or none.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

S = TypeVar("S", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Operation:
    """One call with all its retries. Times are of any clock that all callers share."""

    kind: str
    # Units: of an order, of an adjustment; 0 for a read.
    units: int
    called: int
    # None: no answer came, or one that leaves open what happened.
    returned: int | None
    # What the model must give; None: it is not known, or not looked at.
    answer: Any = None
    # For people.
    name: str = ""
    partition: str = ""


class Verdict(NamedTuple):
    """`order` is the longest order found; if it is not the whole history, no moment could be found for `stuck`."""

    order: list[Operation]
    stuck: Operation | None

    @property
    def holds(self) -> bool:
        return self.stuck is None


@dataclass(slots=True, eq=False)
class Entry:
    """A beginning or an end, in the list of those that still have no moment."""

    operation: Operation
    # Of a beginning; None of an end, and where no answer came.
    end: Entry | None = None
    is_call: bool = False
    bit: int = 0
    before: Entry = field(init=False, repr=False)
    after: Entry | None = field(init=False, default=None, repr=False)

    def lift(self) -> None:
        """Out of the list, with its end. What it points to stays, so that it can come back."""
        for entry in (self, self.end):
            if entry is not None:
                entry.before.after = entry.after
                if entry.after is not None:
                    entry.after.before = entry.before

    def unlift(self) -> None:
        for entry in (self.end, self):
            if entry is not None:
                entry.before.after = entry
                if entry.after is not None:
                    entry.after.before = entry


def entries(operations: Iterable[Operation]) -> Entry:
    """The head of the list by time. Where a beginning and an end meet, the two overlap: the beginning comes first."""
    timed: list[tuple[int, int, Entry]] = []
    for number, operation in enumerate(operations):
        call = Entry(operation, is_call=True, bit=1 << number)
        timed.append((operation.called, 0, call))
        if operation.returned is not None:
            call.end = Entry(operation)
            timed.append((operation.returned, 1, call.end))
    head = last = Entry(Operation("head", 0, 0, None))
    for _, _, entry in sorted(timed, key=lambda each: each[:2]):
        last.after, entry.before = entry, last
        last = entry
    return head


def check(operations: Iterable[Operation], initial: S, step: Callable[[S, Operation], S | None]) -> Verdict:
    """step(state, operation): the state after it, or None where the operation's answer is not that of the model."""
    operations = list(operations)
    head = entries(operations)
    answered = sum(operation.returned is not None for operation in operations)
    state, taken = initial, 0
    done: list[tuple[Entry, S]] = []
    seen: set[tuple[int, S]] = {(0, initial)}
    best: list[Operation] = []
    stuck: Operation | None = None
    entry = head.after
    while answered:
        # Whatever was answered and has no moment yet still has its end in the list.
        assert entry is not None
        if entry.is_call:
            following = step(state, entry.operation)
            if following is not None and (reached := (taken | entry.bit, following)) not in seen:
                seen.add(reached)
                done.append((entry, state))
                taken, state = reached
                answered -= entry.end is not None
                entry.lift()
                entry = head.after
            else:
                entry = entry.after
            continue
        if stuck is None or len(done) > len(best):
            best, stuck = [each.operation for each, _ in done], entry.operation
        if not done:
            return Verdict(best, stuck)
        entry, state = done.pop()
        taken &= ~entry.bit
        answered += entry.end is not None
        entry.unlift()
        entry = entry.after
    return Verdict([each.operation for each, _ in done], None)


# The model of one SKU at one location, of which orders have one line.

PLACE, ADJUST, CANCEL, READ = "place", "adjust", "cancel", "read"
ACCEPTED, REFUSED = "accepted", "refused"


class Stock(NamedTuple):
    on_hand: int
    reserved: int


def sku_step(stock: Stock, operation: Operation) -> Stock | None:
    """A cancellation is of an order whose acceptance was answered before, so it always takes effect."""
    units = operation.units
    accepted = True
    if operation.kind == PLACE:
        accepted = stock.on_hand - stock.reserved >= units
        after = stock._replace(reserved=stock.reserved + units) if accepted else stock
    elif operation.kind == ADJUST:
        accepted = stock.on_hand - stock.reserved + units >= 0
        after = stock._replace(on_hand=stock.on_hand + units) if accepted else stock
    elif operation.kind == CANCEL:
        after = stock._replace(reserved=stock.reserved - units)
    else:
        return stock if operation.answer in (None, stock) else None
    return after if operation.answer in (None, ACCEPTED if accepted else REFUSED) else None


def check_skus(operations: Iterable[Operation], initial: Stock) -> dict[str, Verdict]:
    """By SKU: a history is linearizable if, and only if, that of each of its objects is (Herlihy and Wing)."""
    partitions: dict[str, list[Operation]] = {}
    for operation in operations:
        partitions.setdefault(operation.partition, []).append(operation)
    return {name: check(each, initial, sku_step) for name, each in sorted(partitions.items())}
