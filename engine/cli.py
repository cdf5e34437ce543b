"""The command line. Each command imports what it needs when it runs, so that `everopen --help` is there at once.

Exit codes: 0 all is well; 1 an audit or a load found something wrong; 2 a bad argument; 3 the data directory is in use;
4 log or snapshot is damaged or does not replay; 5 the data directory or the address cannot be used; 128 + n a signal n
ended `serve` at once.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from engine.cli_common import DataDir, fail, in_words
from engine.cli_keys import keys
from engine.cli_serve import serve, upgrade
from engine.exits import Exit
from engine.torture import torture

if TYPE_CHECKING:
    from engine.backup import Held

app = typer.Typer(
    name="everopen",
    help="An order engine: takes orders around the clock and answers once the answer is durable.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
journal = typer.Typer(help="Look into a log.", no_args_is_help=True)
app.add_typer(journal, name="journal")
app.add_typer(keys, name="keys")
for command in (serve, upgrade, torture):
    app.command()(command)


def main() -> None:
    """The console script."""
    app()


@app.command()
def status(
    data_dir: DataDir,
    interval: Annotated[float, typer.Option(metavar="S", help="Over which rates are taken.", min=0.1)] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="One look, also at a terminal.")] = False,
    json: Annotated[bool, typer.Option("--json", help="One look, as a JSON object.")] = False,
) -> None:
    """Show rates, latencies, shards, followers and refusals of a running engine; at a terminal until Ctrl-C."""
    with in_words(), suppress(KeyboardInterrupt):
        from engine.status import run

        run(data_dir, interval, as_json=json, live=sys.stdout.isatty() and not once)


@app.command()
def audit(
    data_dir: DataDir,
    trail: Annotated[bool, typer.Option("--trail", help="The audit trail instead: whether a line is missing.")] = False,
) -> None:
    """Replay the log, compare it with every snapshot, and check every invariant."""
    from engine import errors

    with in_words():
        if trail:
            return _audit_trail(data_dir)
        from engine.audit import Violation
        from engine.audit import audit as run

        try:
            for line in run(data_dir):
                print(line, flush=True)
        except (errors.JournalDamaged, errors.SnapshotDamaged, errors.ReplayMismatch, errors.ArchiveDamaged) as error:
            fail(Exit.DAMAGED, f"audit: fails: {error}")
        except Violation as error:
            fail(Exit.WRONG, f"audit: fails: {error}")


def _audit_trail(data_dir: Path) -> None:
    from engine.audit_chain import TrailBroken, verify
    from engine.datadir import refuse_unless_ours

    refuse_unless_ours(data_dir)
    try:
        found = verify(data_dir)
    except TrailBroken as error:
        fail(Exit.WRONG, f"audit: the trail fails: {error}")
    print(
        f"audit: the trail holds, {found.lines} lines in {found.files} files, {found.torn} torn, "
        f"{found.unchained} not chained, before it {found.before or 'nothing'}, last {found.last or 'nothing'}",
        flush=True,
    )


@app.command()
def snapshot(
    data_dir: DataDir,
    drop_segments: Annotated[
        bool, typer.Option("--drop-segments", help="Remove the segments behind the older of the two newest snapshots.")
    ] = False,
) -> None:
    """Write a snapshot of all that is durable; also beside a running engine."""
    with in_words():
        from engine.datadir import shard_directories
        from engine.snapshots import take

        paths = shard_directories(data_dir)
        for shard, path in enumerate(paths):
            taken = take(path, drop_segments=drop_segments)
            head = f"snapshot: shard {shard}," if len(paths) > 1 else "snapshot:"
            print(
                f"{head} {taken.path.name}, {taken.bytes} bytes, sequence {taken.sequence}, "
                f"state digest {taken.state_digest}, business digest {taken.business_digest}"
            )
            if drop_segments:
                print(f"{head} {taken.segments_dropped} segments dropped", flush=True)


@app.command()
def backup(
    target: Annotated[Path, typer.Argument(metavar="DIR", help="Where to; empty or not there yet.")],
    data_dir: DataDir,
) -> None:
    """Copy what is durable, also of a running engine, and prove the copy by replaying it."""
    with in_words():
        from engine.audit_trail import recorded
        from engine.backup import backup as run
        from engine.datadir import shard_count

        shards = shard_count(data_dir)
        with recorded(data_dir, "backup", target=str(target), shards=shards):
            held = run(data_dir, target)
        _print_held(f"backup: {target}", held)


@app.command()
def restore(
    source: Annotated[Path, typer.Argument(metavar="BACKUP", help="A directory that `everopen backup` made.")],
    data_dir: DataDir,
    until: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SEQUENCE",
            help="The last sequence to restore. Default: all. Of several shards: SHARD=SEQUENCE, as often as needed.",
        ),
    ] = None,
) -> None:
    """Make a data directory from a backup, with new log_ids and the same sequences, times and outcomes."""
    with in_words():
        from engine.backup import read_manifest
        from engine.backup import restore as run

        shards = len(read_manifest(source))
        try:
            ends = _parse_ends(until or [], shards)
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="--until") from None
        _print_held(f"restore: {data_dir}", run(source, data_dir, ends))


def _parse_ends(texts: list[str], shards: int) -> dict[int, int]:
    """The last sequence by shard. Raises ValueError with what is wrong."""
    ends: dict[int, int] = {}
    for text in texts:
        named, equals, sequence = text.rpartition("=")
        if not equals:
            if shards > 1:
                raise ValueError(f"{text}: each of the {shards} shards counts its own sequences: say SHARD=SEQUENCE")
            named = "0"
        shard = int(named) if named.isdecimal() else shards
        if shard >= shards or not sequence.isdecimal() or int(sequence) < 1:
            raise ValueError(f"{text}: neither a SEQUENCE from 1 nor SHARD=SEQUENCE with a shard of 0 to {shards - 1}")
        if shard in ends:
            raise ValueError(f"{text}: shard {shard} is named twice")
        ends[shard] = int(sequence)
    return ends


def _print_held(head: str, held: list[Held]) -> None:
    """A line for each shard, and the sum if there are several."""
    from engine.rebuild import sum_of_digests

    for shard, of in enumerate(held):
        print(
            f"{head}, {f'shard {shard}, ' if len(held) > 1 else ''}sequence {of.sequence}, log {of.log_id}, "
            f"state digest {of.state_digest}, business digest {of.business_digest}"
        )
    if len(held) > 1:
        print(f"{head}, {len(held)} shards, business digest {sum_of_digests(of.business_digest for of in held)}")


@journal.command()
def verify(data_dir: DataDir) -> None:
    """Say in words what of the log is whole, and where it is damaged."""
    from engine import errors

    with in_words():
        from engine.datadir import shard_directories
        from engine.journal_tools import verify as run

        paths = shard_directories(data_dir)
        damaged = 0
        for shard, path in enumerate(paths):
            head = f"shard {shard}: " if len(paths) > 1 else ""
            try:
                for line in run(path):
                    print(f"{head}{line}")
            except errors.JournalDamaged as error:
                damaged += 1
                place = f"{error.file}, offset {error.offset}, sequence {error.sequence}"
                print(f"{head}journal: damaged: {place}: {error.reason}")
            except errors.SnapshotDamaged as error:
                damaged += 1
                place = f"{error.file}, section {error.section}, offset {error.offset}"
                print(f"{head}snapshot: damaged: {place}: {error.reason}")
        if len(paths) > 1:
            holds = f"{damaged} of {len(paths)} shards damaged" if damaged else f"holds, {len(paths)} shards"
            print(f"journal: {holds}")
        if damaged:
            raise typer.Exit(Exit.DAMAGED)


@journal.command()
def dump(
    data_dir: DataDir,
    from_sequence: Annotated[int | None, typer.Option("--from", help="First sequence.", min=1)] = None,
    until_sequence: Annotated[int | None, typer.Option("--until", help="Last sequence.", min=1)] = None,
    shard: Annotated[int | None, typer.Option(help="Of this shard only. Default: all, one after the other.")] = None,
    json: Annotated[bool, typer.Option("--json", help="JSON, one object a line.")] = False,
) -> None:
    """Print records, one a line: shard (if there are several), sequence, time, kind, outcome, command, effects."""
    with in_words():
        from engine.datadir import shard_count
        from engine.journal_tools import dump as run

        several = shard_count(data_dir) > 1
        for number, record in run(data_dir, from_sequence, until_sequence, shard):
            if json:
                sys.stdout.buffer.write(record.as_json(number))
            else:
                sys.stdout.buffer.write((f"{number:>4}  " if several else "").encode())
                sys.stdout.buffer.write(record.as_text().encode() + b"\n")
        sys.stdout.flush()


@app.command()
def replay(
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="Order lines as CSV, gzipped or not.", exists=True, dir_okay=False),
    ],
    target: Annotated[str, typer.Option(help="HOST:PORT of the engine.")] = "127.0.0.1:7400",
    speed: Annotated[
        float | None, typer.Option(help="Multiple of the file's own pace. Default: as fast as it goes.", min=0.001)
    ] = None,
    stock: Annotated[int | None, typer.Option(help="Units of each SKU. Default: what the file orders.", min=0)] = None,
    backorders: Annotated[bool, typer.Option("--backorders", help="Let orders wait for stock.")] = False,
    window: Annotated[int, typer.Option(help="Batches of 1,024 orders in flight.", min=1, max=64)] = 2,
    retry_for: Annotated[float, typer.Option(help="Seconds that the server may be away.", min=0)] = 0,
) -> None:
    """Send real orders; running it again sends nothing twice."""
    from rich.console import Console

    with in_words():
        from engine.order_file import OrderFileError
        from engine.replay import Options, ReplayError, ServerGone, report
        from engine.replay import replay as run
        from engine.seeding import SeedingError

        options = Options(file, target, speed, stock, backorders, window, retry_for)
        try:
            result = run(options, Console(stderr=True))
        except OrderFileError as error:
            fail(Exit.ARGUMENT, str(error))
        except ServerGone as error:
            fail(Exit.UNUSABLE, str(error))
        except (ReplayError, SeedingError) as error:
            fail(Exit.WRONG, str(error))
        report(result).print(Console())
        if not result.holds:
            fail(Exit.WRONG, "replay: the answers do not add up to the file")


@app.command()
def demo(
    seconds: Annotated[int, typer.Option(help="How long the load lasts.", min=2)] = 20,
    data_dir: Annotated[
        Path | None, typer.Option("--data-dir", help="Kept afterwards. Default: .demo, made anew.", file_okay=False)
    ] = None,
) -> None:
    """Start an engine, run a night of orders in seconds, stop it, and audit what it logged."""
    with in_words():
        from engine.demo import demo as run

        raise typer.Exit(run(seconds, data_dir))


@app.command()
def bench(
    target: Annotated[str, typer.Option(help="HOST:PORT or unix:PATH.")] = "127.0.0.1:7400",
    method: Annotated[str, typer.Option(help="place, stream, churn, get-order, health or echo.")] = "place",
    connections: Annotated[int, typer.Option(min=1, max=1024)] = 8,
    streams: Annotated[int, typer.Option(help="Calls at a time on each connection.", min=1, max=1024)] = 16,
    rate: Annotated[int, typer.Option(help="Requests a second. Default: each waits for the one before.", min=0)] = 0,
    poisson: Annotated[bool, typer.Option("--poisson", help="Random gaps between requests.")] = False,
    seconds: Annotated[float, typer.Option(help="How long is measured.", min=0.01)] = 10.0,
    requests: Annotated[int, typer.Option(help="End after so many requests. Default: when time is up.", min=0)] = 0,
    warmup_s: Annotated[float, typer.Option("--warmup-s", help="How long before that.", min=0)] = 1.0,
    batch: Annotated[int, typer.Option(help="Orders of a batch, for stream.", min=1, max=1024)] = 1_000,
    window: Annotated[int, typer.Option(help="Batches in flight on each stream.", min=1, max=64)] = 2,
    skus: Annotated[int, typer.Option(min=1, max=1_000_000)] = 100,
    shops: Annotated[int, typer.Option(min=1, max=10_000)] = 1,
    zipf: Annotated[bool, typer.Option("--zipf", help="Some SKUs sell far more than others.")] = False,
    deadline_ms: Annotated[int, typer.Option("--deadline-ms", help="Of each request; 0: none.", min=0)] = 0,
    goodput_ms: Annotated[int, typer.Option("--goodput-ms", help="What counts as in time.", min=1)] = 100,
    path: Annotated[str, typer.Option(help="Of the method, for echo: /package.Service/Method.")] = "",
    spin: Annotated[bool, typer.Option("--spin", help="Never sleep; for a core of its own.")] = False,
    retry: Annotated[
        bool, typer.Option("--retry", help="Send again, with the same id, what was not answered or not now.")
    ] = False,
    open_orders: Annotated[
        int, typer.Option("--open-orders", help="Of churn, which cancels the oldest once there are so many.", min=1)
    ] = 100_000,
    units: Annotated[int | None, typer.Option(help="Stock of each SKU. Default: more than can be sold.", min=1)] = None,
    reserve_ttl_ms: Annotated[
        int, typer.Option("--reserve-ttl-ms", help="Of each SKU that is new. Default: the engine's.", min=0)
    ] = 0,
    acks: Annotated[
        Path | None, typer.Option(help="Write a bit for each order there: whether it was acknowledged.", dir_okay=False)
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object instead of the table.")] = False,
) -> None:
    """Put load on a server: native, unique orders, every answer checked, latency from when a request was due."""
    with in_words():
        from engine.load_report import bench as run
        from engine.load_request import METHODS, UNITS, Options

        if method not in METHODS:
            raise typer.BadParameter(f"one of {', '.join(METHODS)}", param_hint="--method")
        options = Options(
            target=target,
            method=method,
            connections=connections,
            streams=streams,
            rate=rate,
            poisson=poisson,
            seconds=seconds,
            requests=requests,
            warmup_s=warmup_s,
            batch=batch,
            window=window,
            skus=skus,
            shops=shops,
            zipf=zipf,
            deadline_ms=deadline_ms,
            goodput_ms=goodput_ms,
            path=path,
            spin=spin,
            retry=retry,
            acks=acks is not None,
            open_orders=open_orders,
            units=units or UNITS,
            reserve_ttl_ms=reserve_ttl_ms,
        )
        if not run(options, json, acks):
            fail(Exit.WRONG, "bench: a request was answered wrongly")


@app.command()
def version() -> None:
    """Print the version."""
    from importlib.metadata import version as version_of

    print(f"everopen {version_of('everopen')}")
