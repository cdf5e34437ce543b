"""The table of legal transitions, cell by cell; and the page that quotes it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from everopen.v1 import order_pb2
from tests import reference_fields as fields
from tests.desk import Desk, outcome_of

ROOT = Path(__file__).resolve().parent.parent
TABLE = ROOT / "tests/lifecycle_table.txt"
PAGE = ROOT / "docs/state_machine.md"

pytestmark = pytest.mark.native

COMMANDS = {
    "pay": "PayOrder",
    "cancel": "CancelOrder",
    "ship": "ShipOrder",
    "deliver": "DeliverOrder",
    "return": "ReturnOrder",
    "settle": "SettleRefund",
}

# Ways into each state of an order of 4 units at 100. "due": with money to give back, "even": without.
WAYS = {
    "BACKORDERED": {"unpaid even": "", "paid even": "pay 400", "paid due": "pay 500"},
    "PLACED": {"unpaid even": "", "paid even": "pay 400", "paid due": "pay 500"},
    "PARTIALLY_SHIPPED": {
        "paid even left": "pay 400; ship 2",
        "paid even done": "pay 400; ship 2; deliver 2; return 2; settle",
        "paid due left": "pay 500; ship 2",
    },
    "SHIPPED": {"paid even": "pay 400; ship 4", "paid due": "pay 500; ship 4"},
    "PARTIALLY_DELIVERED": {"paid even": "pay 400; ship 4; deliver 1", "paid due": "pay 500; ship 4; deliver 1"},
    "DELIVERED": {"paid even": "pay 400; ship 4; deliver 4", "paid due": "pay 500; ship 4; deliver 4"},
    "PARTIALLY_RETURNED": {
        "paid even left": "pay 400; ship 4; return 1; settle",
        "paid even done": "pay 400; ship 4; deliver 4; return 1; settle",
        "paid due left": "pay 400; ship 4; return 1",
    },
    "RETURNED": {
        "paid even left": "pay 400; ship 4; return 4; settle",
        "paid even done": "pay 400; ship 4; deliver 4; return 4; settle",
        "paid due left": "pay 400; ship 4; return 4",
    },
    "CANCELLED": {
        "unpaid even": "cancel 4",
        "unpaid due": "cancel 4; pay 10",
        "paid even": "pay 400; cancel 4; settle",
        "paid due": "pay 400; cancel 4",
    },
    "EXPIRED": {"unpaid even": "expire", "unpaid due": "expire; pay 10"},
}


def read_table() -> dict[tuple[str, str], str]:
    rows = [line.split() for line in TABLE.read_text().splitlines() if line and not line.startswith("#")]
    return {(row[0], command): cell for row in rows[1:] for command, cell in zip(rows[0][1:], row[1:], strict=True)}


CELLS = read_table()


def arrive(desk: Desk, state: str, way: str) -> None:
    stock = 0 if state == "BACKORDERED" else 4
    desk.open(f"tea@north={stock}", backorder_policy=2, reserve_ttl_ms=1000)
    desk.place("order", "tea*4")
    for word in filter(None, way.split("; ")):
        assert perform(desk, *word.split()) == "APPLIED"
    assert desk.state("order") == state


def perform(desk: Desk, command: str, units: str = "") -> str:
    """Carries out one command: with units, else for all that there is. Tells its outcome."""
    if command == "expire":
        desk.pass_time(1000)
        return "APPLIED"
    if command == "pay":
        return outcome_of(desk.pay("order", int(units or 1)))
    if command == "settle":
        return outcome_of(desk.settle("order"))
    method = {
        "cancel": fields.CANCEL_ORDER,
        "ship": fields.SHIP_ORDER,
        "deliver": fields.DELIVER_ORDER,
        "return": fields.RETURN_ORDER,
    }[command]
    return outcome_of(desk.command(method, "order", f"0*{units}" if units else ""))


def expected(cell: str, way: str) -> str:
    legal = {
        "yes": True,
        "no": False,
        "paid": way.startswith("paid"),
        "due": "due" in way,
        "left": "done" not in way,
    }[cell]
    return "APPLIED" if legal else "ILLEGAL_STATE"


@pytest.mark.parametrize(("state", "command"), CELLS, ids=" ".join)
def test_command_in_each_state_is_legal_as_the_table_says(state: str, command: str) -> None:
    for name, way in WAYS[state].items():
        for units in ("", "1"):
            desk = Desk()
            arrive(desk, state, way)
            outcome = perform(desk, command, units)
            assert outcome == expected(CELLS[state, command], name), f"{state} {name}: {command} {units}"
            desk.compare_digests()


@pytest.mark.parametrize("state", WAYS)
def test_more_units_than_there_are_in_any_state_are_illegal_and_change_nothing(state: str) -> None:
    for way in WAYS[state].values():
        for command in ("cancel", "ship", "deliver", "return"):
            desk = Desk()
            arrive(desk, state, way)
            before = desk.core.business_digest()
            assert perform(desk, command, "5") == "ILLEGAL_STATE"
            assert desk.core.business_digest() == before


def test_table_names_every_state_and_command() -> None:
    states = {name.removeprefix("ORDER_STATE_") for name in order_pb2.OrderState.keys()}  # noqa: SIM118
    assert {state for state, _ in CELLS} == states - {"UNSPECIFIED", "PENDING_REVIEW"}
    assert {command for _, command in CELLS} == set(COMMANDS)
    assert set(WAYS) == {state for state, _ in CELLS}


def test_each_conditional_cell_is_shown_from_both_sides() -> None:
    for (state, command), cell in CELLS.items():
        # What is shipped is paid, so that only PLACED knows both sides of "paid".
        if cell in ("due", "left") or (state, cell) == ("PLACED", "paid"):
            assert len({expected(cell, way) for way in WAYS[state]}) == 2, (state, command)


def test_page_names_the_commands_and_states_of_the_table() -> None:
    page = PAGE.read_text()
    section = page[page.index("## The life of an order") : page.index("## Ticks")]
    assert re.findall(r"^\| (\w+Order|SettleRefund) \|", section, re.MULTILINE) == list(COMMANDS.values())
    assert "tests/lifecycle_table.txt" in section
    proto = (ROOT / "proto/everopen/v1/order.proto").read_text()
    states = re.findall(r"^//   ([A-Z_]+) ", proto[: proto.index("enum OrderState")], re.MULTILINE)
    assert sorted(states) == sorted({state for state, _ in CELLS})
