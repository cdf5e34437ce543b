"""The demo: its night, and the whole of it in two seconds."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from engine import night
from engine.latency import Latencies
from engine.local import LocalEngine, LocalEngineError, everopen_command
from engine.report import Report, curve


def test_night_is_the_same_for_the_same_seed() -> None:
    def sample(seed: int) -> list[bytes]:
        made = night.Night(1_000, seed)
        return [made.order(hour).SerializeToString() for hour in (18.0, 20.1, 24.2, 31.0)]

    assert sample(1) == sample(1) != sample(2)


def test_night_has_its_peak_in_the_evening_and_never_ends() -> None:
    made = night.Night(1_000)
    rates = {hour / 10: made.rate_per_s(hour / 10) for hour in range(180, 320)}
    calm = {hour: rate for hour, rate in rates.items() if night.live_room(hour) is None}
    assert 20 <= max(calm, key=lambda hour: calm[hour]) <= 22
    assert max(calm.values()) == pytest.approx(1_000, rel=0.1)
    assert min(rates.values()) > 100
    assert max(rates.values()) > 1.5 * max(calm.values())


def test_night_owes_the_rest_of_an_order_to_the_next_moment() -> None:
    made = night.Night(1_000)
    owed, count = 0.0, 0
    for _ in range(1_000):
        orders, owed = made.orders(19.0, 0.001, owed)
        count += len(list(orders))
    assert count == pytest.approx(made.rate_per_s(19.0), abs=1)


def test_night_stocks_every_sku_that_it_orders() -> None:
    made = night.Night(1_000)
    stocked = {(stock.put.shop_id, stock.put.sku_id) for stock in made.stocks()}
    ordered = {
        (order.shop_id, line.sku_id) for number in range(2_000) for order in [made.order(18 + number / 200)]
        for line in order.lines
    }  # fmt: skip
    assert ordered <= stocked
    assert {location.shop_id for location in made.locations()} == {shop.shop_id for shop in made.shops()}


def test_clock_goes_past_midnight() -> None:
    assert [night.clock(hour) for hour in (18, 21.5, 24, 31.999)] == ["18:00", "21:30", "00:00", "07:59"]


def test_report_aligns_figures_and_leaves_titles_alone() -> None:
    report = Report()
    report.section("A title that is longer than any label of the table")
    report.add("orders", 1_234_567, "placed")
    report.add("units", 89)
    assert report.lines()[1:] == ["  orders  1,234,567  placed", "  units          89"]
    assert curve([0, 4, 8]) == "▁▅█"
    assert curve([]) == ""


def test_latencies_keep_the_tail() -> None:
    latencies = Latencies()
    assert str(latencies) == "none"
    for milliseconds in range(1, 101):
        latencies.add(milliseconds / 1000)
    assert [latencies.ms(percentile) for percentile in (50, 99, 100)] == pytest.approx([50, 99, 100], rel=0.01)


@pytest.mark.native
def test_demo_of_two_seconds_ends_with_proof(tmp_path: Path) -> None:
    done = subprocess.run(
        [*everopen_command(), "demo", "--seconds", "2", "--data-dir", str(tmp_path / "data")],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    figures = dict(re.findall(r"^  (\w+) +([\d,]+)  orders", done.stdout, re.MULTILINE))
    assert figures["acknowledged"] == figures["logged"] == figures["PLACED"] != "0"
    assert re.search(r"^audit: holds, \d+ records", done.stdout, re.MULTILINE)


@pytest.mark.native
def test_local_engine_that_cannot_start_says_why(tmp_path: Path) -> None:
    with (
        LocalEngine(tmp_path / "data"),
        pytest.raises(LocalEngineError, match=r"ended with code 3 before it served(.|\n)*in use"),
    ):
        LocalEngine(tmp_path / "data")
