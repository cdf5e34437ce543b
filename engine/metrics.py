"""From a sample to Prometheus. Names, units and labels are listed in docs/operations.md.

The numbers are in shared memory already, so of prometheus_client only the families and the formats are used. No label
has a value that a caller chose.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from importlib.metadata import version
from itertools import accumulate
from typing import Final, NamedTuple

from grpc import StatusCode
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from engine.identity import FILES
from engine.partition_map import ShardState, WorkerState
from engine.sampling import FILES_FAILED, Histogram, Sample

Encoder = Callable[[Collector], bytes]
_FORMAT: Final = re.compile(r"; version=(0\.0\.4|1\.0\.0);(.*; escaping=(allow-utf-8|underscores|dots|values))?")
NS: Final = 1_000_000_000
PPM: Final = 1_000_000


class Counter(NamedTuple):
    """The metric of one counter of a worker, without its `_total`. Several counters may be one metric by reason."""

    name: str
    reason: str = ""


_CALLS_REFUSED = "everopen_calls_refused"
_CONNECTIONS_REFUSED = "everopen_connections_refused"
_PEER_FAULTS = "everopen_peer_faults"
_ARCHIVE = "everopen_archive_lookups"
_OUTCOMES = "everopen_outcomes"
_FAULTS = "everopen_faults"
_LOG_REFUSED = "everopen_log_refused"
_IDENTITY_FAILED = "everopen_identity_reloads_failed"
# What tells the counters of one metric apart, if it is no reason.
LABELS: Final = {_OUTCOMES: "outcome", _IDENTITY_FAILED: "file"}

# Those whose metric is not named after them alone.
NAMED: Final = {
    "calls_refused_overload": Counter(_CALLS_REFUSED, "overload"),
    "calls_refused_unavailable": Counter(_CALLS_REFUSED, "unavailable"),
    "calls_expired": Counter(_CALLS_REFUSED, "expired"),
    "calls_unauthenticated": Counter(_CALLS_REFUSED, "unauthenticated"),
    "calls_identity_refused": Counter(_CALLS_REFUSED, "identity"),
    "calls_scope_denied": Counter(_CALLS_REFUSED, "scope"),
    "calls_shop_denied": Counter(_CALLS_REFUSED, "shop"),
    "calls_quota_refused": Counter(_CALLS_REFUSED, "quota"),
    "requests_too_large": Counter(_CALLS_REFUSED, "request_too_large"),
    "headers_too_large": Counter(_CALLS_REFUSED, "headers_too_large"),
    "content_type_refused": Counter(_CALLS_REFUSED, "content_type"),
    "methods_unknown": Counter(_CALLS_REFUSED, "method_unknown"),
    "streams_refused": Counter(_CALLS_REFUSED, "stream_refused"),
    "connections_refused_per_peer": Counter(_CONNECTIONS_REFUSED, "peer"),
    "connections_refused_total": Counter(_CONNECTIONS_REFUSED, "worker"),
    "handshakes_timed_out": Counter(_CONNECTIONS_REFUSED, "handshake"),
    "pings_excess": Counter(_PEER_FAULTS, "pings"),
    "settings_excess": Counter(_PEER_FAULTS, "settings"),
    "resets_excess": Counter(_PEER_FAULTS, "resets"),
    "credentials_excess": Counter(_PEER_FAULTS, "credentials"),
    "frames_excess": Counter(_PEER_FAULTS, "frames"),
    "continuation_excess": Counter(_PEER_FAULTS, "continuation"),
    "slow_senders_reset": Counter(_PEER_FAULTS, "slow_sender"),
    "silent_peers_closed": Counter(_PEER_FAULTS, "silent"),
    "http2_errors": Counter(_PEER_FAULTS, "http2"),
    "bytes_received": Counter("everopen_received_bytes"),
    "bytes_sent": Counter("everopen_sent_bytes"),
    "relay_bytes_in": Counter("everopen_relay_received_bytes"),
    "relay_bytes_out": Counter("everopen_relay_sent_bytes"),
    "turns": Counter("everopen_loop_turns"),
    "archive_lookups": Counter(_ARCHIVE),
    "archive_failed": Counter("everopen_archive_lookups_failed"),
    **{f"{FILES_FAILED}{kind}": Counter(_IDENTITY_FAILED, kind) for kind in FILES},
}
# The same of a shard's figures.
NAMED_OF_SHARD: Final = {
    "expiries": Counter("everopen_hold_expiries"),
    "duplicates": Counter("everopen_duplicates"),
    "reads": Counter("everopen_reads"),
    "commits": Counter("everopen_log_commits"),
    "committed_records": Counter("everopen_log_records"),
    "committed_bytes": Counter("everopen_log_record_bytes"),
    "disk_bytes": Counter("everopen_log_disk_bytes"),
    "sync_ns": Counter("everopen_log_sync_seconds"),
    "refused_full": Counter(_LOG_REFUSED, "full"),
    "refused_no_space": Counter(_LOG_REFUSED, "no_space"),
    "clock_alarms": Counter("everopen_clock_alarms"),
}
DOCUMENTED: Final = {
    _CALLS_REFUSED: "Calls that were refused before anything was done for them, by reason.",
    _CONNECTIONS_REFUSED: "Connections that were refused or given up before a call, by reason.",
    _PEER_FAULTS: "What peers did beyond what they may, by reason.",
    _OUTCOMES: "Commands that were decided, by outcome.",
    _FAULTS: "Commands that were not decided, by the status that they were answered with.",
    _LOG_REFUSED: "Commands that the log had no room for, by reason.",
    _IDENTITY_FAILED: "Looks, one a second, at files that say who may call and that cannot be used; by file.",
    "everopen_calls_answered": "Calls that were answered with status OK or another one.",
    "everopen_calls_failed": "Calls that were answered with another status than OK.",
    "everopen_commands_executed": "Commands that the state machines executed.",
    "everopen_hold_expiries": "Orders whose hold ran out before they were paid.",
    "everopen_duplicates": "Commands that were decided before.",
    "everopen_log_sync_seconds": "Time that syncs of the log took.",
}
STATUS_NAMES: Final = {code.value[0]: code.name.lower() for code in StatusCode}


def counter_of(name: str) -> Counter:
    """The metric of a counter of the board."""
    return NAMED.get(name) or Counter(f"everopen_{name}")


def counter_of_shard(name: str) -> Counter:
    """The same of a counter among the figures of a shard."""
    kind, _, rest = name.partition("_")
    if kind == "outcome":
        return Counter(_OUTCOMES, rest)
    if kind == "fault":
        return Counter(_FAULTS, STATUS_NAMES[int(rest)])
    return NAMED_OF_SHARD.get(name) or Counter(f"everopen_{name}")


def families(sample: Sample) -> Iterator[Metric]:
    workers = [(str(of.worker), of.counters) for of in sample.workers]
    shards = [(str(of.shard), of.counters) for of in sample.shards]
    yield from _counters("worker", workers, counter_of)
    yield from _counters("shard", shards, counter_of_shard)
    restarts = [(str(of.worker), {"worker_restarts": of.restarts}) for of in sample.workers]
    yield from _counters("worker", restarts, counter_of)
    yield from _workers(sample)
    yield from _shards(sample)
    yield from _histograms(sample)
    for name, count in sample.spans.items():
        made = CounterMetricFamily(
            f"everopen_spans_{name}", f"Spans that the control process {name.replace('_', ' ')}."
        )
        made.add_metric([], count)
        yield made
    lines = CounterMetricFamily("everopen_audit_lines_failed", "Lines of the audit trail that could not be written.")
    lines.add_metric([], sample.audit_lines_failed)
    yield lines
    build = GaugeMetricFamily("everopen_build_info", "1; the version of the control process.", labels=["version"])
    build.add_metric([version("everopen")], 1)
    yield build


def _counters(
    label: str, places: Sequence[tuple[str, Mapping[str, int]]], named: Callable[[str], Counter]
) -> Iterator[Metric]:
    """One family for each metric, with all its places and reasons, since a name may stand there once only."""
    made: dict[str, CounterMetricFamily] = {}
    for place, counters in places:
        for counter, count in counters.items():
            name, reason = named(counter)
            if name not in made:
                text = DOCUMENTED.get(name, f"Counter {counter} of the board.")
                labels = [label, LABELS.get(name, "reason")] if reason else [label]
                made[name] = CounterMetricFamily(name, text, labels=labels)
            value = count / NS if counter.endswith("_ns") else count
            made[name].add_metric([place, reason] if reason else [place], value)
    yield from made.values()


def _gauge(name: str, text: str, labels: list[str], values: Iterator[tuple[list[str], float]]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=labels)
    for of, value in values:
        family.add_metric(of, value)
    return family


def _workers(sample: Sample) -> Iterator[Metric]:
    def each(read: Callable[..., float | None]) -> Iterator[tuple[list[str], float]]:
        found = ((worker, read(worker)) for worker in sample.workers)
        return (([str(worker.worker)], value) for worker, value in found if value is not None)

    gauges: dict[str, tuple[str, Callable[..., float | None]]] = {
        "everopen_worker_up": ("1: the worker takes calls.", lambda w: float(w.state == WorkerState.SERVING.name)),
        "everopen_connections": ("Connections that are open.", lambda w: w.connections),
        "everopen_calls_in_flight": ("Calls that are being answered.", lambda w: w.gauges["calls_in_flight"]),
        "everopen_in_flight_bytes": ("Bytes of their requests and answers.", lambda w: w.gauges["bytes_in_flight"]),
        "everopen_concurrent_streams_max": (
            "Streams that a peer may have open on a connection now.",
            lambda w: w.gauges["max_concurrent_streams"],
        ),
        "everopen_link_waiting_bytes": (
            "In the rings to other workers, and not read yet.",
            lambda w: w.gauges["link_bytes_waiting"],
        ),
        "everopen_link_jobs_in_flight": (
            "Asked of other workers, and not answered yet.",
            lambda w: w.gauges["link_jobs_away"],
        ),
        "everopen_credentials_known": (
            "Credentials whose caller is remembered.",
            lambda w: w.gauges["credentials_known"],
        ),
        "everopen_loop_busy_ratio": ("How much of the last while the loop was at work.", lambda w: w.busy_ppm / PPM),
        "everopen_worker_heartbeat_age_seconds": (
            "Since the last turn of the loop, or since a sync began that has not returned.",
            lambda w: None if w.heartbeat_age_ns is None else w.heartbeat_age_ns / NS,
        ),
        "everopen_worker_resident_memory_bytes": ("Memory of the worker's process.", lambda w: w.resident_bytes),
        "everopen_tls_certificate_expiry_timestamp_seconds": (
            "When the certificate ends that the worker shows.",
            lambda w: w.certificate_expires_unix_s or None,
        ),
        "everopen_follower_up": (
            "1: a follower stands by that has read the whole log.",
            lambda w: None if w.follower is None else float(w.follower.ready),
        ),
        "everopen_follower_lag_records": (
            "Durable records that the follower has not applied yet.",
            lambda w: w.follower.lag if w.follower is not None and w.follower.pid else None,
        ),
    }
    for name, (text, read) in gauges.items():
        yield _gauge(name, text, ["worker"], each(read))


def _shards(sample: Sample) -> Iterator[Metric]:
    gauges: dict[str, tuple[str, Callable[..., float | None]]] = {
        "everopen_shard_up": ("1: calls are answered.", lambda s: float(s.state == ShardState.SERVING.name)),
        "everopen_shard_sequence": ("The last record that was decided.", lambda s: s.gauges.get("sequence")),
        "everopen_shard_durable_sequence": ("The last durable record.", lambda s: s.gauges.get("durable_sequence")),
        "everopen_shard_follower_lag_records": (
            "Durable records that the follower has not applied yet.",
            lambda s: s.lag,
        ),
        "everopen_shard_jobs_in_flight": (
            "Executed, and not durable yet.",
            lambda s: s.gauges.get("jobs_in_flight"),
        ),
        "everopen_open_orders": ("Orders that are not closed.", lambda s: s.gauges.get("open_orders")),
        "everopen_open_holds": (
            "Orders whose stock is held until they are paid.",
            lambda s: s.gauges.get("open_holds"),
        ),
        "everopen_open_backorders": ("Orders that wait for stock.", lambda s: s.gauges.get("open_backorders")),
        "everopen_evicted_orders": ("Orders that the archive alone has.", lambda s: s.gauges.get("evicted_orders")),
        "everopen_shard_snapshot_sequence": ("What the newest snapshot covers.", lambda s: s.snapshot_sequence),
        "everopen_shard_snapshot_timestamp_seconds": ("When it was taken; 0: never.", lambda s: s.snapshot_unix_s),
        "everopen_shard_archived_sequence": ("What was closed up to there is archived.", lambda s: s.archived_sequence),
    }
    for name, (text, read) in gauges.items():
        values = ((shard, read(shard)) for shard in sample.shards)
        known = (([str(shard.shard)], value) for shard, value in values if value is not None)
        yield _gauge(name, text, ["shard"], known)


def _histograms(sample: Sample) -> Iterator[Metric]:
    durations = HistogramMetricFamily(
        "everopen_call_duration_seconds",
        "How long measured calls were in each stage; docs/observability.md says which calls are measured.",
        labels=["worker", "stage"],
    )
    bounds = [repr(bound / NS) for bound in sample.bounds_ns]
    for worker in sample.workers:
        for stage, histogram in worker.stages.items():
            durations.add_metric([str(worker.worker), stage], _cumulative(bounds, histogram), histogram.sum / NS)
    yield durations
    bounds = [repr(float(bound)) for bound in sample.size_bounds]
    for unit in ("records", "bytes"):
        sizes = HistogramMetricFamily(f"everopen_log_commit_{unit}", f"The {unit} of each commit.", labels=["shard"])
        for shard in sample.shards:
            if unit in shard.commits:
                sizes.add_metric([str(shard.shard)], _cumulative(bounds, shard.commits[unit]), shard.commits[unit].sum)
        yield sizes


def _cumulative(bounds: list[str], histogram: Histogram) -> list[tuple[str, float]]:
    """Buckets as Prometheus has them: each with all below it, and the last one with everything."""
    return list(zip([*bounds, "+Inf"], accumulate(histogram.counts), strict=True))


class _Once(Collector):
    def __init__(self, sample: Sample) -> None:
        self._sample = sample

    def collect(self) -> Iterator[Metric]:
        return families(self._sample)


def format_for(accept: str) -> tuple[Encoder, str]:
    """The newest format that the header `accept` names, and its content type. There are few."""
    # What a stranger asked for is no version of a format.
    with suppress(Exception):
        encode, content_type = choose_encoder(accept)
        if _FORMAT.search(content_type):
            return encode, content_type
    return choose_encoder("")


def render(sample: Sample, accept: str = "") -> tuple[bytes, str]:
    """The text and its content type."""
    encode, content_type = format_for(accept)
    return encode(_Once(sample)), content_type
