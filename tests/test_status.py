"""`everopen status`: what it says of a running engine, and of one that is not there."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from engine import status
from engine.exits import Exit
from engine.local import LocalEngine
from tests.serving import Client, everopen, order

ORDERS = 40
INTERVAL_S = "0.1"


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalEngine]:
    path = tmp_path_factory.mktemp("status") / "data"
    with LocalEngine(path, arguments=["--workers", "2", "--shards", "2", "--heartbeat-ms", "20000"]) as running:
        with Client(running.address) as client:
            client.seed()
            for number in range(ORDERS):
                client.orders.PlaceOrder(order(f"o-{number}"))
            with pytest.raises(Exception, match="INVALID_ARGUMENT"):
                client.orders.PlaceOrder(order(""))
        yield running


def asked(engine: LocalEngine) -> dict[str, Any]:
    done = everopen("status", "--data-dir", engine.data_dir, "--json", "--interval", INTERVAL_S)
    assert done.returncode == Exit.OK, done.stderr
    return dict(orjson.loads(done.stdout))


def eventually(engine: LocalEngine, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """A status takes its time itself, so this does not spin."""
    for _ in range(60):
        found = asked(engine)
        if holds(found):
            return found
    raise AssertionError(f"never so: {found}")


def test_json_names_every_worker_shard_and_follower(engine: LocalEngine) -> None:
    found = eventually(engine, lambda of: all(worker["follower"] for worker in of["workers"]))
    assert [(worker["worker"], worker["state"], worker["restarts"]) for worker in found["workers"]] == [
        (0, "SERVING", 0),
        (1, "SERVING", 0),
    ]
    assert [(shard["shard"], shard["worker"], shard["state"]) for shard in found["shards"]] == [
        (0, 0, "SERVING"),
        (1, 1, "SERVING"),
    ]
    assert len({worker["pid"] for worker in found["workers"]}) == 2
    assert all(worker["resident_bytes"] > 2**20 for worker in found["workers"])


def test_json_counts_what_was_placed_and_what_was_refused(engine: LocalEngine) -> None:
    found = eventually(engine, lambda of: of["outcomes"].get("placed") == ORDERS)
    assert sum(shard["gauges"]["open_orders"] for shard in found["shards"]) == ORDERS
    assert sum(shard["gauges"]["open_holds"] for shard in found["shards"]) == ORDERS
    assert found["refusals"]["fault_3"] >= 1
    assert max(shard["gauges"]["durable_sequence"] for shard in found["shards"]) > ORDERS


def test_json_has_percentiles_of_every_stage(engine: LocalEngine) -> None:
    found = eventually(engine, lambda of: of["stages"]["total"]["measured"] > 0)
    assert list(found["stages"]) == ["decode", "queue", "match", "sync", "send", "total"]
    total = found["stages"]["total"]
    assert 0 < total["p50_us"] <= total["p99_us"] <= total["p99.9_us"]


def test_text_has_a_row_for_each_worker_and_shard(engine: LocalEngine) -> None:
    done = everopen("status", "--data-dir", engine.data_dir, "--interval", INTERVAL_S)
    assert done.returncode == Exit.OK, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert sum(line[:2] in (["0", "serving"], ["1", "serving"]) for line in lines) == 2, "workers"
    assert sum(line[:3] in (["0", "0", "serving"], ["1", "1", "serving"]) for line in lines) == 2, "shards"


def test_engine_that_is_not_running_is_said_with_its_exit_code(tmp_path: Path) -> None:
    path = tmp_path / "data"
    with LocalEngine(path):
        pass
    done = everopen("status", "--data-dir", path, "--json")
    assert (done.returncode, done.stdout) == (Exit.UNUSABLE, "")
    assert "no engine is running there" in done.stderr
    assert "Traceback" not in done.stderr


def test_directory_that_is_none_is_said_with_its_exit_code(tmp_path: Path) -> None:
    done = everopen("status", "--data-dir", tmp_path / "none")
    assert done.returncode == Exit.UNUSABLE
    assert "Traceback" not in done.stderr


@given(
    counts=st.lists(st.integers(0, 1_000), min_size=4, max_size=4),
    percentiles=st.lists(st.floats(0.1, 100), min_size=2, max_size=2),
)
def test_percentile_never_falls_and_is_the_bound_of_its_bucket(counts: list[int], percentiles: list[float]) -> None:
    bounds = [1_000, 2_000, 4_000]
    found = [status.percentile_us(bounds, counts, percentile) for percentile in sorted(percentiles)]
    if not any(counts):
        assert found == [None, None]
        return
    values = [value for value in found if value is not None]
    assert values == sorted(values)
    # By the definition, each observation written out.
    written = [bound / 1_000 for bound, count in zip([*bounds, bounds[-1]], counts, strict=True) for _ in range(count)]
    for percentile, value in zip(sorted(percentiles), values, strict=True):
        assert sum(each <= value for each in written) * 100 >= percentile * len(written)
        assert sum(each < value for each in written) * 100 < percentile * len(written)


def worker(counters: dict[str, int], counts: list[int]) -> dict[str, Any]:
    fields = {"worker": 0, "state": "SERVING", "pid": 1, "restarts": 0, "connections": 3, "busy_ppm": 10_000}
    more = {"resident_bytes": 0, "follower": {"pid": 2, "ready": False, "lag": 7}, "counters": counters}
    return fields | more | {"stages": {"total": {"counts": counts, "sum": 0}}}


def test_rates_are_of_the_interval_and_percentiles_too_if_it_has_enough() -> None:
    common = {"bounds_ns": [1_000, 2_000], "shards": [], "spans": {}}
    before = common | {"monotonic_ns": 0, "workers": [worker({"calls_answered": 100}, [1_000, 0, 0])]}
    after = common | {"monotonic_ns": 2 * 10**9, "workers": [worker({"calls_answered": 150}, [1_000, 25, 0])]}
    found = status.status_of(before, after)
    assert found["rates_per_s"]["calls"] == 25
    assert (found["stages"]["total"]["since"], found["stages"]["total"]["p50_us"]) == ("interval", 2)
    still = status.status_of(after, after | {"monotonic_ns": 3 * 10**9})
    assert still["rates_per_s"]["calls"] == 0
    assert (still["stages"]["total"]["since"], still["stages"]["total"]["p50_us"]) == ("start", 1)


def test_view_shows_a_follower_that_is_behind() -> None:
    common = {"bounds_ns": [1_000, 2_000], "shards": [], "spans": {}, "monotonic_ns": 1}
    of = common | {"workers": [worker({"calls_refused_overload": 4, "turns": 9}, [0, 0, 0])]}
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(status.show(status.status_of(of, of)))
    text = console.export_text()
    assert "behind" in text
    assert "calls refused overload" in text
    assert "turns" not in text
