"""Real orders through gRPC: what is placed is what the file says, also when the engine is killed on the way."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import pytest
from rich.console import Console

import everopen
from engine.local import LocalEngine, audit
from engine.order_file import COLUMNS
from engine.replay import Options, Result, ServerGone, replay, report
from engine.seeding import SeedingError
from tests.orders import order_file, write_rows, write_synthetic
from tests.serving import ALONE


def quiet() -> Console:
    return Console(file=io.StringIO())


def text_of(result: Result) -> str:
    return "\n".join(report(result).lines())


@pytest.fixture(scope="module")
def orders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path, what = order_file(tmp_path_factory.mktemp("orders"))
    if what.startswith("synthetic"):
        warnings.warn(what, stacklevel=1)
    print(what)
    return path


@pytest.fixture(scope="module")
def uninterrupted(orders: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, str]:
    """A run from end to end, and its business digest."""
    data_dir = tmp_path_factory.mktemp("uninterrupted") / "data"
    with LocalEngine(data_dir, arguments=ALONE) as engine:
        result = replay(Options(orders, engine.address), quiet())
    verdict = audit(data_dir)
    assert verdict.holds, verdict.text
    return result, verdict.business_digest


@pytest.mark.native
def test_replay_places_every_order_with_the_files_units_and_amounts(uninterrupted: tuple[Result, str]) -> None:
    result, _ = uninterrupted
    contents = result.contents
    assert result.holds
    assert dict(result.outcomes) == {everopen.PLACED: contents.orders}
    assert (result.accepted_units, result.accepted_cents) == (contents.units, contents.amount_cents)
    assert (result.duplicates, result.out_of_order) == (0, 0)
    assert text_of(result).count("equal to the file's") == 2


@pytest.mark.native
def test_replay_killed_at_half_and_run_again_gives_the_same_business_digest(
    orders: Path, uninterrupted: tuple[Result, str], tmp_path: Path
) -> None:
    half = uninterrupted[0].contents.orders // 2
    data_dir = tmp_path / "data"
    acknowledged = 0
    engine = LocalEngine(data_dir, arguments=ALONE)

    def kill_at_half(count: int) -> None:
        nonlocal acknowledged
        acknowledged = count
        if count == half:
            engine.kill()

    with pytest.raises(ServerGone, match="Run the same command again"):
        replay(Options(orders, engine.address), quiet(), kill_at_half)
    assert acknowledged >= half

    with LocalEngine(data_dir, arguments=ALONE) as engine:
        result = replay(Options(orders, engine.address), quiet())
    assert result.holds
    assert result.duplicates >= acknowledged, "what was acknowledged is still there"
    verdict = audit(data_dir)
    assert verdict.holds, verdict.text
    assert verdict.business_digest == uninterrupted[1]


@pytest.mark.native
def test_replay_that_may_retry_outlives_a_restart(tmp_path: Path) -> None:
    """A run whose engine is killed and started again at the same address, and which knows nothing of it."""
    data_dir, orders = tmp_path / "data", tmp_path / "synthetic.csv.gz"
    write_synthetic(orders)
    first = LocalEngine(data_dir, arguments=ALONE)
    engines = [first]

    def kill_and_restart(count: int) -> None:
        if count == 1_000:
            first.kill()
            engines.append(LocalEngine(data_dir, listen=first.address, arguments=ALONE))

    result = replay(Options(orders, first.address, retry_for_s=60), quiet(), kill_and_restart)
    engines[-1].stop()
    assert result.holds
    assert audit(data_dir).holds


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Three orders of a SKU, two of another shop."""
    path = tmp_path / "small.csv.gz"
    rows = [("A-1", "night", 2, 500), ("A-2", "night", 3, 750), ("B-1", "day", 1, 90), ("A-3", "night", 4, 1000)]
    write_rows(
        path,
        [
            (order_id, f"2026-11-11T2{index}:00:00Z", "mei", shop_id, "tea", quantity, amount)
            for index, (order_id, shop_id, quantity, amount) in enumerate(rows)
        ],
        COLUMNS,
    )
    return path


@pytest.mark.native
def test_replay_with_little_stock_refuses_by_the_files_order(small: Path, tmp_path: Path) -> None:
    with LocalEngine(tmp_path / "data", arguments=ALONE) as engine:
        result = replay(Options(small, engine.address, stock=5), quiet())
        assert result.holds
        assert dict(result.outcomes) == {everopen.PLACED: 3, everopen.INSUFFICIENT_STOCK: 1}
        assert (result.accepted_units, result.refused_units, result.refused_cents) == (6, 4, 1_000)
        assert "with 1,000 refused equal to the file's 2,340" in text_of(result)

        again = replay(Options(small, engine.address, stock=5), quiet())
        assert again.holds
        assert (again.outcomes, again.duplicates) == (result.outcomes, 4)

        with pytest.raises(SeedingError, match="has received 5 units before, and this run needs 6"):
            replay(Options(small, engine.address, stock=6), quiet())


@pytest.mark.native
def test_replay_with_backorders_lets_orders_wait(small: Path, tmp_path: Path) -> None:
    with LocalEngine(tmp_path / "data", arguments=ALONE) as engine:
        result = replay(Options(small, engine.address, stock=4, backorders=True), quiet())
    assert result.holds
    assert dict(result.outcomes) == {everopen.PLACED: 2, everopen.BACKORDERED: 2}


@pytest.mark.native
def test_replay_at_a_pace_waits_as_the_file_does(small: Path, tmp_path: Path) -> None:
    with LocalEngine(tmp_path / "data", arguments=ALONE) as engine:
        result = replay(Options(small, engine.address, speed=3 * 3600 / 0.3), quiet())
    assert result.holds
    assert result.seconds >= 0.3


def test_replay_without_a_server_says_so(small: Path) -> None:
    with pytest.raises(ServerGone, match="cannot be reached after 0 of 4 orders"):
        replay(Options(small, "127.0.0.1:1"), quiet())
