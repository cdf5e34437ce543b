"""`everopen serve` and `everopen upgrade`: what their options say, and which of them go together."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer

from engine.cli_common import DataDir, fail, in_words
from engine.exits import Exit

if TYPE_CHECKING:
    from engine.listen import Address, UnixAddress

FOLLOWERS_DEFAULT = 1


def serve(
    context: typer.Context,
    data_dir: DataDir,
    listen: Annotated[
        list[str] | None,
        typer.Option(
            help="HOST:PORT, [IPV6]:PORT or unix:PATH; port 0 picks a free one. Repeatable. Default: 127.0.0.1:7400."
        ),
    ] = None,
    insecure_listen: Annotated[
        bool, typer.Option("--insecure-listen", help="Allow an address that other machines reach, in plaintext.")
    ] = False,
    workers: Annotated[
        int | None, typer.Option(help="Processes that serve. Default: one for each core but one, at least one.", min=1)
    ] = None,
    shards: Annotated[
        int | None,
        typer.Option(help="Shards of a new data directory, which cannot be changed later. Default: 1.", min=1),
    ] = None,
    max_connection_age: Annotated[
        int | None,
        typer.Option(metavar="S", help="Ask clients to connect anew after so many seconds. Default: never.", min=1),
    ] = None,
    expect_orders: Annotated[
        int, typer.Option(help="Take memory for so many open orders of each shard at the start.", min=0)
    ] = 0,
    followers: Annotated[
        int, typer.Option(help="Processes that stand by for each worker with a shard, to take over: 0 or 1.", min=0)
    ] = FOLLOWERS_DEFAULT,
    snapshot_bytes: Annotated[
        int, typer.Option(help="A snapshot is taken after so many bytes of log.", min=4096)
    ] = 1024**3,
    snapshot_s: Annotated[
        int, typer.Option("--snapshot-s", help="Or after so many seconds, if anything was logged.", min=1)
    ] = 900,
    segment_bytes: Annotated[
        int | None,
        typer.Option(help="Size of a log segment, in bytes; below 16 MiB for tests only.", hidden=True),
    ] = None,
    heartbeat_ms: Annotated[
        int | None, typer.Option("--heartbeat-ms", help="A worker without heartbeat is killed.", hidden=True, min=1)
    ] = None,
    until_stdin_ends: Annotated[
        bool, typer.Option("--until-stdin-ends", help="Go down when whoever started it is gone.", hidden=True)
    ] = False,
    front_setting: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="See engine/front_settings.py.", hidden=True)
    ] = None,
) -> None:
    """Serve orders until SIGTERM or SIGINT; a second signal ends at once."""
    addresses = _addresses(listen or ["127.0.0.1:7400"], insecure_listen)
    from engine.logs import configure

    configure(process="supervisor")
    from engine import front_settings
    from engine.limits import FOLLOWERS_MAX, HEARTBEAT_MS_DEFAULT, LIMITS
    from engine.serve import serve as serve_until_signal
    from engine.settings import Settings

    count = workers or max(1, len(os.sched_getaffinity(0)) - 1)
    if count > LIMITS["WORKERS_MAX"]:
        if workers:
            raise typer.BadParameter(f"at most {LIMITS['WORKERS_MAX']} are possible", param_hint="--workers")
        count = LIMITS["WORKERS_MAX"]
    if shards is not None and shards > LIMITS["SHARDS_MAX"]:
        raise typer.BadParameter(f"at most {LIMITS['SHARDS_MAX']} are possible", param_hint="--shards")
    if followers > FOLLOWERS_MAX:
        raise typer.BadParameter(f"a worker has at most {FOLLOWERS_MAX} follower", param_hint="--followers")
    try:
        front = front_settings.parse_overrides(front_setting or [])
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--front-setting") from None
    if max_connection_age:
        front["connection_age_ms"] = 1_000 * max_connection_age
    with in_words():
        settings = Settings(
            data_dir,
            addresses,
            count,
            shards,
            front,
            segment_bytes,
            expect_orders,
            followers=followers,
            snapshot_bytes=snapshot_bytes,
            snapshot_s=snapshot_s,
            heartbeat_ms=heartbeat_ms or HEARTBEAT_MS_DEFAULT,
            # The default of workers depends on the cores that this process may use.
            fingerprint=_fingerprint(context.params | {"workers": count}),
            until_stdin_ends=until_stdin_ends,
        )
        code = serve_until_signal(settings)
    raise typer.Exit(code)


def _fingerprint(parameters: dict[str, object]) -> str:
    """Of what was asked for; what was not asked for is left out, so that options may be added later."""
    import hashlib

    asked = {name: value for name, value in parameters.items() if name != "data_dir" and value not in (None, False, [])}
    return hashlib.blake2b(repr(sorted(asked.items())).encode(), digest_size=16).hexdigest()


def upgrade(data_dir: DataDir) -> None:
    """Replace every process of a running engine by the program as it is installed now; no call fails."""
    with in_words():
        from engine.upgrade import UpgradeError
        from engine.upgrade import run as run_upgrade

        try:
            for line in run_upgrade(data_dir):
                print(f"upgrade: {line}", flush=True)
        except UpgradeError as error:
            fail(Exit.WRONG, f"upgrade: {error}")
        print("upgrade: all processes are replaced", flush=True)


def _addresses(texts: list[str], insecure: bool) -> tuple[Address | UnixAddress, ...]:
    from engine.limits import LISTEN_ADDRESSES_MAX
    from engine.listen import parse_address

    try:
        addresses = tuple(parse_address(text) for text in texts)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--listen") from None
    if len(addresses) > LISTEN_ADDRESSES_MAX:
        raise typer.BadParameter(f"at most {LISTEN_ADDRESSES_MAX} are possible", param_hint="--listen")
    for address in addresses:
        if not address.is_loopback and not insecure:
            raise typer.BadParameter(
                f"{address} is reachable from other machines, in plaintext: say --insecure-listen if that is meant",
                param_hint="--listen",
            )
    return addresses
