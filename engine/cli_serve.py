"""`everopen serve` and `everopen upgrade`: what their options say, and which of them go together."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from engine.cli_common import DataDir, fail, in_words
from engine.exits import Exit

if TYPE_CHECKING:
    from engine.identity import IdentitySettings
    from engine.listen import Address, UnixAddress
    from engine.tls import TlsFiles

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
    jwt_issuer: Annotated[
        str | None, typer.Option("--jwt-issuer", metavar="TEXT", help="Whose bearer tokens are taken: their `iss`.")
    ] = None,
    jwt_audience: Annotated[
        str | None, typer.Option("--jwt-audience", metavar="TEXT", help="For whom they must be made: their `aud`.")
    ] = None,
    jwt_keys: Annotated[
        Path | None, typer.Option("--jwt-keys", metavar="FILE", help="The issuer's public keys, as JWKS or PEM.")
    ] = None,
    callers: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="TOML: what certificates may do, and the quotas of tokens' subjects."),
    ] = None,
    tls_cert: Annotated[
        Path | None, typer.Option(metavar="FILE", help="PEM: the server's certificate chain. TCP addresses are TLS.")
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option(metavar="FILE", help="PEM: its private key, which nobody else may read.")
    ] = None,
    tls_ca: Annotated[
        Path | None, typer.Option(metavar="FILE", help="PEM: authorities whose client certificates are accepted.")
    ] = None,
    tls_client: Annotated[
        str | None,
        typer.Option(help="Certificates of clients: none, optional, required. Default: required with --tls-ca."),
    ] = None,
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
    metrics_listen: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS", help="Serve /metrics and /healthz there: HOST:PORT or unix:PATH. Default: none."
        ),
    ] = None,
    otlp_endpoint: Annotated[
        str | None, typer.Option(metavar="URL", help="Export spans there by OTLP over HTTP. Default: nowhere.")
    ] = None,
    trace_ratio: Annotated[
        float, typer.Option(help="Share of the calls without a traceparent that are traced.", min=0, max=1)
    ] = 0,
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
    tls = _tls(tls_cert, tls_key, tls_ca, tls_client)
    addresses = _addresses(listen or ["127.0.0.1:7400"], insecure_listen or tls is not None)
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
    if trace_ratio:
        front["trace_ppm"] = round(1_000_000 * trace_ratio)
    observing = _observing(metrics_listen, otlp_endpoint, insecure_listen)
    who = _identity(data_dir, jwt_issuer, jwt_audience, jwt_keys, callers, addresses, tls)
    with in_words():
        settings = Settings(
            data_dir,
            addresses,
            count,
            shards,
            front,
            who,
            segment_bytes,
            expect_orders,
            followers=followers,
            snapshot_bytes=snapshot_bytes,
            snapshot_s=snapshot_s,
            heartbeat_ms=heartbeat_ms or HEARTBEAT_MS_DEFAULT,
            observing=observing,
            # The default of workers depends on the cores that this process may use.
            fingerprint=_fingerprint(context.params | {"workers": count}),
            until_stdin_ends=until_stdin_ends,
            tls=tls,
        )
        code = serve_until_signal(settings)
    raise typer.Exit(code)


def _observing(metrics_listen: str | None, otlp_endpoint: str | None, insecure: bool) -> dict[str, str]:
    """What of it was asked for."""
    from engine.endpoints import check_metrics_listen, headers_of, traces_url

    try:
        option = "--metrics-listen"
        if metrics_listen is not None:
            check_metrics_listen(metrics_listen, insecure)
        option = "--otlp-endpoint"
        if otlp_endpoint is not None:
            traces_url(otlp_endpoint)
            headers_of(os.environ)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from None
    asked = {"metrics_listen": metrics_listen, "otlp_endpoint": otlp_endpoint}
    return {name: text for name, text in asked.items() if text is not None}


def _identity(
    data_dir: Path,
    issuer: str | None,
    audience: str | None,
    keys: Path | None,
    callers: Path | None,
    addresses: tuple[Address | UnixAddress, ...],
    tls: TlsFiles | None,
) -> IdentitySettings:
    from engine.identity import IdentitySettings

    tokens = {"--jwt-issuer": issuer, "--jwt-audience": audience, "--jwt-keys": keys}
    for name, given in tokens.items():
        if not given and any(tokens.values()):
            raise typer.BadParameter(f"{', '.join(tokens)} go together", param_hint=name)
    return IdentitySettings(
        data_dir=os.path.abspath(data_dir),
        jwt_issuer=issuer or "",
        jwt_audience=audience or "",
        jwt_keys=os.path.abspath(keys) if keys else "",
        callers=os.path.abspath(callers) if callers else "",
        client_ca=tls is not None and tls.ca is not None,
        only_local=all(address.is_loopback for address in addresses),
    )


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


def _tls(certificate: Path | None, key: Path | None, ca: Path | None, client: str | None) -> TlsFiles | None:
    if (certificate, key, ca, client) == (None, None, None, None):
        return None
    from engine.tls import TlsFiles

    try:
        return TlsFiles.of(certificate, key, ca, client)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--tls-cert") from None


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
                f"{address} is reachable from other machines, in plaintext: give --tls-cert and --tls-key, or say "
                "--insecure-listen if that is meant",
                param_hint="--listen",
            )
    return addresses
