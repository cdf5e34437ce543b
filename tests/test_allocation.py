"""Where an order's units come from: the four strategies, ties, no splitting, safety stock, paused locations."""

from __future__ import annotations

import pytest

from tests.desk import Desk, allocations_of, outcome_of, table_rows

pytestmark = pytest.mark.native

# Locations: name, region and priority. The buyer is in the region "home"; "home" to "near" costs 1, to "far" 9.
PLACES = {
    "a": ("near", 2),
    "b": ("near", 1),
    "c": ("far", 1),
    "d": ("home", 3),
    "e": ("", 0),
}

STRATEGIES = {"PRIORITY": 1, "NEAREST": 2, "MOST_STOCK": 3, "FEWEST_SHIPMENTS": 4}

SPLIT = """
strategy         | stock                             | lines             | allocations
PRIORITY         | tea@a=5 tea@b=5 tea@c=5           | tea*12            | 0:5@b 0:5@c 0:2@a
PRIORITY         | tea@a=5 tea@e=5                   | tea*3             | 0:3@e
PRIORITY         | tea@b=1 tea@c=1 tea@a=9           | tea*3             | 0:1@b 0:1@c 0:1@a
PRIORITY         | tea@b=3 cup@c=3                   | tea*2 cup*2       | 0:2@b 1:2@c
PRIORITY         | tea@b=3 tea@a=3                   | tea*2 tea*3       | 0:2@b 1:1@b 1:2@a
NEAREST          | tea@a=5 tea@b=5 tea@c=5 tea@d=5   | tea*12            | 0:5@d 0:5@b 0:2@a
NEAREST          | tea@c=5 tea@e=5                   | tea*6             | 0:5@c 0:1@e
NEAREST          | tea@a=2 tea@b=2                   | tea*3             | 0:2@b 0:1@a
MOST_STOCK       | tea@a=5 tea@b=7 tea@c=6           | tea*12            | 0:7@b 0:5@c
MOST_STOCK       | tea@a=5 tea@b=5 tea@d=5           | tea*7             | 0:5@d 0:2@b
MOST_STOCK       | tea@a=5 tea@b=4                   | tea*3 tea*3       | 0:3@a 1:3@b
MOST_STOCK       | tea@a=5 tea@c=1 cup@a=1 cup@c=5   | tea*1 cup*1       | 0:1@a 1:1@c
FEWEST_SHIPMENTS | tea@a=5 tea@b=3 cup@b=3           | tea*3 cup*3       | 0:3@b 1:3@b
FEWEST_SHIPMENTS | tea@a=3 tea@b=9                   | tea*5             | 0:5@b
FEWEST_SHIPMENTS | tea@a=4 tea@b=3 tea@c=3           | tea*6             | 0:4@a 0:2@b
FEWEST_SHIPMENTS | tea@a=2 cup@a=2 tea@c=3 cup@d=1   | tea*3 cup*2       | 0:2@a 1:2@a 0:1@c
FEWEST_SHIPMENTS | tea@a=3 tea@b=3 tea@c=3           | tea*3             | 0:3@b
FEWEST_SHIPMENTS | tea@b=3 tea@a=9                   | tea*2 tea*2 tea*2 | 0:2@a 1:2@a 2:2@a
"""

ONE_PLACE = """
strategy         | stock                             | lines             | allocations
PRIORITY         | tea@b=2 tea@a=5                   | tea*3             | 0:3@a
PRIORITY         | tea@b=5 tea@e=2                   | tea*3             | 0:3@b
PRIORITY         | tea@b=5 cup@a=5 cup@b=1 tea@a=9   | tea*3 cup*2       | 0:3@a 1:2@a
NEAREST          | tea@c=9 tea@a=4 tea@d=2           | tea*3             | 0:3@a
NEAREST          | tea@a=4 tea@b=4                   | tea*3             | 0:3@b
MOST_STOCK       | tea@b=4 tea@c=5                   | tea*3             | 0:3@c
MOST_STOCK       | tea@a=4 cup@a=4 tea@b=6 cup@b=1   | tea*1 cup*1       | 0:1@a 1:1@a
FEWEST_SHIPMENTS | tea@a=4 tea@b=4 tea@d=4           | tea*3             | 0:3@d
FEWEST_SHIPMENTS | tea@a=9 tea@b=4                   | tea*2 tea*3       | 0:2@a 1:3@a
"""


def stocked(desk: Desk, stock: str, **sku_values: object) -> None:
    costs = [{"from_region": "home", "to_region": place, "cost": cost} for place, cost in (("near", 1), ("far", 9))]
    desk.put_shop(region_costs=costs)
    for name, (region, priority) in PLACES.items():
        desk.put_location(name, region=region, priority=priority)
    desk.put_location("home-less", region="home", priority=9)
    for sku_id in ("tea", "cup"):
        desk.put_sku(sku_id, **sku_values)
    for entry in stock.split():
        place, units = entry.split("=")
        desk.adjust(*place.split("@"), int(units))


def allocated(desk: Desk, row: dict[str, str], **values: object) -> str:
    placed = desk.place("order", row["lines"], strategy=STRATEGIES[row["strategy"]], region="home", **values)
    assert outcome_of(placed) == "PLACED", row
    return allocations_of(placed.order)


@pytest.mark.parametrize("row", table_rows(SPLIT), ids=lambda row: f"{row['strategy']} {row['lines']}")
def test_split_order_takes_from_locations_in_the_order_of_its_strategy(desk: Desk, row: dict[str, str]) -> None:
    stocked(desk, row["stock"])
    assert allocated(desk, row) == row["allocations"]


@pytest.mark.parametrize("row", table_rows(ONE_PLACE), ids=lambda row: f"{row['strategy']} {row['lines']}")
def test_unsplit_order_takes_all_from_one_location_that_can(desk: Desk, row: dict[str, str]) -> None:
    stocked(desk, row["stock"])
    assert allocated(desk, row, allow_split=False) == row["allocations"]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_unsplit_order_without_one_able_location_is_refused(desk: Desk, strategy: str) -> None:
    stocked(desk, "tea@a=2 tea@b=2")
    refused = desk.place("order", "tea*3", strategy=STRATEGIES[strategy], allow_split=False)
    assert outcome_of(refused) == "INSUFFICIENT_STOCK"
    assert refused.refused_line_index == 0
    assert outcome_of(desk.place("split", "tea*3", strategy=STRATEGIES[strategy])) == "PLACED"


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_tie_of_cost_and_priority_goes_to_the_bytewise_lower_location_id(desk: Desk, strategy: str) -> None:
    desk.open("tea@z=5 tea@B=5 tea@a=5")
    placed = desk.place("order", "tea*6", strategy=STRATEGIES[strategy])
    assert allocations_of(placed.order) == "0:5@B 0:1@a"


def test_order_without_strategy_follows_the_shop(desk: Desk) -> None:
    stocked(desk, "tea@a=5 tea@b=3")
    desk.put_shop(strategy=STRATEGIES["MOST_STOCK"])
    assert allocations_of(desk.place("order", "tea*4").order) == "0:4@a"
    desk.put_shop(allow_split=False)
    assert outcome_of(desk.place("unsplit", "tea*4")) == "INSUFFICIENT_STOCK"


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_safety_stock_is_never_taken(desk: Desk, strategy: str) -> None:
    stocked(desk, "tea@a=5 tea@b=5")
    desk.put_sku("tea", safety_stock=2, safety_stock_overrides=[{"location_id": "b", "quantity": 4}])
    assert outcome_of(desk.place("more", "tea*5", strategy=STRATEGIES[strategy])) == "INSUFFICIENT_STOCK"
    assert outcome_of(desk.place("order", "tea*4", strategy=STRATEGIES[strategy])) == "PLACED"
    assert [(row.location_id, row.available, row.sellable) for row in desk.stock("tea").locations] == [
        ("a", 2, 0),
        ("b", 4, 0),
    ]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_paused_location_gives_nothing_until_it_is_active_again(desk: Desk, strategy: str) -> None:
    desk.open("tea@north=5 tea@south=2")
    desk.put_location("north", status=2)
    assert desk.stock("tea").sellable == 2
    assert allocations_of(desk.place("two", "tea*2", strategy=STRATEGIES[strategy]).order) == "0:2@south"
    assert outcome_of(desk.place("more", "tea*1", strategy=STRATEGIES[strategy])) == "INSUFFICIENT_STOCK"
    desk.put_location("north", status=1)
    assert allocations_of(desk.place("again", "tea*5", strategy=STRATEGIES[strategy]).order) == "0:5@north"


def test_plan_of_more_than_256_allocations_does_not_fit(desk: Desk) -> None:
    desk.put_shop()
    for sku in range(52):
        desk.put_sku(f"s{sku}")
    for place in range(5):
        desk.put_location(f"p{place}")
        for sku in range(52):
            desk.adjust(f"s{sku}", f"p{place}", 1)
    lines = [f"s{sku}*5" for sku in range(52)]
    assert outcome_of(desk.place("most", " ".join(lines[:51]))) == "PLACED"
    assert len(desk.order("most").allocations) == 255
    desk.cancel("most")
    assert outcome_of(desk.place("too-much", " ".join(lines))) == "INSUFFICIENT_STOCK"


def test_region_that_the_shop_never_named_costs_the_same_everywhere(desk: Desk) -> None:
    stocked(desk, "tea@a=5 tea@b=5 tea@d=5")
    placed = desk.place("order", "tea*6", strategy=STRATEGIES["NEAREST"], region="elsewhere")
    assert allocations_of(placed.order) == "0:5@b 0:1@a"
