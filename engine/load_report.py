"""`everopen bench`: seeds, puts on the load, and says what came of it."""

from __future__ import annotations

import sys
from pathlib import Path

import grpc
import orjson
from rich.console import Console

from engine.load_request import Options
from engine.loadgen import PERCENTILES, Result, run, seed
from engine.report import Report

STATUS_NAMES = {code.value[0]: code.name for code in grpc.StatusCode} | {17: "NONE"}
# Before this nobody wonders.
SILENT_S = 2.0


def bench(options: Options, as_json: bool, acks: Path | None = None) -> bool:
    """Seeds, runs, prints. False if any request that was answered had a wrong status or outcome.

    `acks` gets a bit for each order, lowest bit first: whether it was acknowledged.
    """
    seed(options)
    errors = Console(stderr=True)

    def show(elapsed_s: float, acknowledged: int) -> None:
        if elapsed_s > SILENT_S and errors.is_terminal:
            counted_s = max(elapsed_s - options.warmup_s, 0.001)
            line = f"\r{elapsed_s:5.1f} s, {acknowledged:,} acknowledged, {acknowledged / counted_s:,.0f} a second "
            print(line, end="", file=sys.stderr, flush=True)

    try:
        result = run(options, show)
    finally:
        if errors.is_terminal:
            # Wipes the line of the progress.
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
    if acks is not None:
        acks.write_bytes(result.acks[0])
    if as_json:
        print(orjson.dumps(result.as_dict(), option=orjson.OPT_NON_STR_KEYS).decode())
    else:
        report(result).print(Console())
    return result.holds


def report(result: Result) -> Report:
    options, counts = result.options, result.counts
    loop = f"{options.rate:,} a second" if options.rate else "closed loop"
    table = Report()
    table.section(
        f"{options.method} to {options.target}: {loop}, {options.connections} connections x {options.streams} streams, "
        f"{options.seconds:g} s"
    )
    table.add("rate", f"{result.rate:,.0f}", "acknowledged a second")
    table.add("goodput", f"{result.goodput:,.0f}", f"as expected within {options.goodput_ms} ms of when due, a second")
    for percentile in PERCENTILES:
        table.add(f"p{percentile:g}", f"{result.percentile_ns(percentile) / 1e6:,.3f}", "ms from when due")
    table.add("max", f"{result.max_ns / 1e6:,.3f}", "ms")
    table.add("longest gap", f"{result.gap.longest_ns / 1e6:,.3f}", "ms between two acknowledgements")
    if options.retry:
        table.add("it began", f"{result.gap_began_s:,.3f}", "s after the first request was due")
    table.section("requests")
    remarks = {
        "offered": "due in the seconds that count",
        "sent": "",
        "acknowledged": "answered with status OK",
        "placed": "of these, with the expected outcome",
    }
    for name, remark in remarks.items():
        table.add(name, counts[name], remark)
    happenings = {
        "cancelled": "of these, orders that were cancelled again",
        "sold_out": "of these, refused for too little stock",
        "retried": "tries that were made again with the same id",
        "duplicates": "of these, decided by an earlier try",
    }
    for name, remark in happenings.items():
        if counts[name]:
            table.add(name.replace("_", " "), counts[name], remark)
    if result.reconnects:
        table.add("reconnects", result.reconnects, "connections made after the first ones")
    troubles = {
        "wrong": "status OK, another outcome",
        "refused": "answered with another status",
        "malformed": "answered with nonsense, or without a status",
        "expired": f"not sent within {options.deadline_ms} ms",
        "timed_out": f"sent, without an answer within {options.deadline_ms} ms",
        "reset": "the stream was reset",
        "lost": "the connection was lost",
        "unsent": "not sent before time was up",
        "unanswered": "without an answer when time was up",
    }
    for name, remark in troubles.items():
        if counts[name]:
            table.add(
                name.replace("_", " "),
                counts[name],
                remark,
                style="red" if name in ("wrong", "malformed") else "yellow",
            )
    for code, amount in counts["statuses"].items():
        if code != 0:
            table.add(f"status {STATUS_NAMES[code]}", amount)
    for code, amount in counts["resets"].items():
        table.add(f"reset {code}", amount, "HTTP/2 error code")
    return table
