"""`everopen status`: what a running engine does, as its control process sees it. Nothing of it waits for that.

The control process listens on a socket of its own in the engine's private folder, always, and answers with a sample as
JSON. Rates and percentiles are those of two samples.
"""

from __future__ import annotations

import http.client
import socket
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import orjson
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table

from engine import datadir, run_dir, runtime
from engine.peers import Peer
from engine.run_dir import NotRunning, RunDir

ANSWER_S_MAX: Final = 5.0
PERCENTILES: Final = (50, 90, 99, 99.9)
# Fewer say nothing of a percentile; then those since the start count.
OBSERVATIONS_MIN: Final = 20
NS: Final = 1_000_000_000
RATES: Final = {
    "calls": "calls_answered",
    "failed": "calls_failed",
    "commands": "commands_executed",
    "relayed": "calls_relayed",
}
# Which of a worker's counters say that something was refused or given up.
REFUSALS: Final = (
    "refused",
    "denied",
    "failed",
    "unauthenticated",
    "expired",
    "excess",
    "too_large",
    "unknown",
    "timed_out",
    "silent",
    "slow",
    "dropped",
)


class _Connection(http.client.HTTPConnection):
    def __init__(self, found: RunDir, name: str) -> None:
        super().__init__("localhost", timeout=ANSWER_S_MAX)
        self._found = found
        self._path = found.socket(name)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)
        self._found.check(Peer.of(self.sock))


def sample(data_dir: Path) -> dict[str, Any]:
    """As engine/sampling.py has it. Raises NotRunning, Refused, and EveropenError or OSError if that is none."""
    datadir.shard_count(data_dir)
    found = run_dir.find(data_dir)
    # In an upgrade there are two for a moment, and either will do.
    for name in runtime.CONTROL_SOCKETS:
        connection = _Connection(found, f"{name}{runtime.STATUS_SUFFIX}")
        try:
            connection.request("GET", "/status")
            answer = connection.getresponse()
            if answer.status == http.client.OK:
                return dict(orjson.loads(answer.read()))
        except (OSError, http.client.HTTPException):
            continue
        finally:
            connection.close()
    raise NotRunning(f"{data_dir}: no engine is running there, or its control server is just being started again")


def watch(data_dir: Path, interval_s: float) -> Iterator[dict[str, Any]]:
    """A status for each interval, as status_of() makes it."""
    before = sample(data_dir)
    while True:
        time.sleep(interval_s)
        now = sample(data_dir)
        yield status_of(before, now)
        before = now


def status_of(before: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """What happened between two samples, and how it stands at the second."""
    seconds = max((now["monotonic_ns"] - before["monotonic_ns"]) / NS, 0.001)
    totals, totals_before = _sums(now["workers"]), _sums(before["workers"])
    figures, figures_before = _sums(now["shards"]), _sums(before["shards"])
    refusals = {name: count for name, count in totals.items() if count and any(word in name for word in REFUSALS)}
    refusals |= {name: count for name, count in figures.items() if count and name.startswith(("fault_", "refused_"))}
    return {
        "seconds": round(seconds, 3),
        "rates_per_s": {
            name: round((totals.get(counter, 0) - totals_before.get(counter, 0)) / seconds, 1)
            for name, counter in RATES.items()
        }
        | {
            "records": round(
                (figures.get("committed_records", 0) - figures_before.get("committed_records", 0)) / seconds, 1
            )
        },
        "stages": _stages(before, now),
        "connections": sum(worker["connections"] for worker in now["workers"]),
        "refusals": dict(sorted(refusals.items())),
        "outcomes": {
            name.removeprefix("outcome_"): count for name, count in figures.items() if name.startswith("outcome_")
        },
        "workers": [
            {name: worker[name] for name in ("worker", "state", "pid", "restarts", "connections", "busy_ppm")}
            | {"resident_bytes": worker["resident_bytes"], "follower": worker["follower"]}
            for worker in now["workers"]
        ],
        "shards": [
            {name: value for name, value in shard.items() if name not in ("counters", "commits")}
            for shard in now["shards"]
        ],
        "spans": now["spans"],
    }


def _sums(places: Iterable[dict[str, Any]]) -> dict[str, int]:
    sums: dict[str, int] = {}
    for place in places:
        for name, count in place["counters"].items():
            sums[name] = sums.get(name, 0) + count
    return sums


def _stages(before: dict[str, Any], now: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Percentiles in microseconds of all workers together; `since`: of the interval, or of the start."""
    found: dict[str, dict[str, Any]] = {}
    for stage in dict.fromkeys(stage for worker in now["workers"] for stage in worker["stages"]):
        counts, counts_before = _buckets(now, stage), _buckets(before, stage)
        lately = [count - earlier for count, earlier in zip(counts, counts_before or [0] * len(counts), strict=True)]
        recent = sum(lately) >= OBSERVATIONS_MIN
        used = lately if recent else counts
        found[stage] = {"since": "interval" if recent else "start", "measured": sum(used)} | {
            f"p{percentile:g}_us": percentile_us(now["bounds_ns"], used, percentile) for percentile in PERCENTILES
        }
    return found


def _buckets(of: dict[str, Any], stage: str) -> list[int]:
    each = [worker["stages"][stage]["counts"] for worker in of["workers"] if stage in worker["stages"]]
    return [sum(counts) for counts in zip(*each, strict=True)]


def percentile_us(bounds_ns: Sequence[int], counts: Sequence[int], percentile: float) -> float | None:
    """The bound of the bucket in which it lies, so at most a quarter too high. None: nothing was measured."""
    measured = sum(counts)
    if measured == 0:
        return None
    so_far = 0
    for bound, count in zip(bounds_ns, counts, strict=False):
        so_far += count
        if so_far * 100 >= percentile * measured:
            return bound / 1_000
    # Beyond the last bound.
    return bounds_ns[-1] / 1_000


def show(status: dict[str, Any]) -> Group:
    """As a terminal shows it."""
    tables = (_rates(status), _latencies(status), _workers(status), _shards(status), _refusals(status))
    return Group(*(part for table in tables for part in (table, "")))


def _table(title: str, *columns: str) -> Table:
    # A title is not wrapped into the width of a small table.
    table = Table(title=title, title_justify="left", title_style="bold", box=None, min_width=len(title))
    table.pad_edge, table.padding = False, (0, 2, 0, 0)
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right")
    return table


def _rates(status: dict[str, Any]) -> Table:
    rates = status["rates_per_s"]
    table = _table(f"a second, over {status['seconds']:.1f} s", *rates, "connections")
    table.add_row(*(f"{rate:,.0f}" for rate in rates.values()), f"{status['connections']:,}")
    return table


def _latencies(status: dict[str, Any]) -> Table:
    table = _table("us", "stage", *(f"p{percentile:g}" for percentile in PERCENTILES), "measured", "since the")
    for stage, of in status["stages"].items():
        values = (of[f"p{percentile:g}_us"] for percentile in PERCENTILES)
        shown = ("-" if value is None else f"{value:,.0f}" for value in values)
        table.add_row(stage, *shown, f"{of['measured']:,}", of["since"])
    return table


def _workers(status: dict[str, Any]) -> Table:
    table = _table(
        "workers", "worker", "state", "pid", "restarts", "connections", "busy %", "MiB", "follower", "its lag"
    )
    for worker in status["workers"]:
        follower = worker["follower"]
        stands = "-" if follower is None else "ready" if follower["ready"] else "behind" if follower["pid"] else "none"
        table.add_row(
            str(worker["worker"]),
            worker["state"].lower(),
            str(worker["pid"]),
            str(worker["restarts"]),
            f"{worker['connections']:,}",
            f"{worker['busy_ppm'] / 10_000:.1f}",
            f"{worker['resident_bytes'] / 2**20:,.0f}",
            stands,
            "-" if follower is None else f"{follower['lag']:,}",
        )
    return table


def _shards(status: dict[str, Any]) -> Table:
    gauges = {
        "durable_sequence": "durable",
        "open_orders": "orders",
        "open_holds": "holds",
        "open_backorders": "waiting",
    }
    table = _table("shards", "shard", "worker", "state", *gauges.values(), "lag", "snapshot", "archived")
    for shard in status["shards"]:
        table.add_row(
            str(shard["shard"]),
            str(shard["worker"]),
            shard["state"].lower(),
            *(f"{shard['gauges'][name]:,}" if name in shard["gauges"] else "-" for name in gauges),
            "-" if shard["lag"] is None else f"{shard['lag']:,}",
            f"{shard['snapshot_sequence']:,}",
            f"{shard['archived_sequence']:,}",
        )
    return table


def _refusals(status: dict[str, Any]) -> Table:
    table = _table("refused or given up since the start", "reason", "count")
    for name, count in status["refusals"].items():
        table.add_row(name.replace("_", " "), f"{count:,}")
    if not status["refusals"]:
        table.add_row("nothing", "")
    return table


def run(data_dir: Path, interval_s: float, *, as_json: bool, live: bool) -> None:
    """Prints one status; `live`: one after the other until Ctrl-C, in place. Raises NotRunning."""
    states = watch(data_dir, interval_s)
    if as_json:
        print(orjson.dumps(next(states)).decode(), flush=True)
    elif not live:
        Console().print(show(next(states)))
    else:
        with Live(show(next(states)), auto_refresh=False, screen=True) as view:
            for status in states:
                view.update(show(status), refresh=True)
