"""`everopen keys`: made, listed and revoked beside a running engine, which sees it within a second."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Annotated

import typer

from engine.cli_common import DataDir, fail, in_words
from engine.exits import Exit

if TYPE_CHECKING:
    from engine.keys import ApiKey

keys = typer.Typer(help="API keys: who may call, and what.", no_args_is_help=True)
DAY_MS = 86_400_000


@keys.command()
def make(
    name: Annotated[str, typer.Argument(help="Who it is for. Several keys may have one name, to exchange them.")],
    data_dir: DataDir,
    scope: Annotated[
        list[str] | None, typer.Option(help="orders:write and so on, see docs/security.md. Repeatable.")
    ] = None,
    shop: Annotated[list[str] | None, typer.Option(help="For this shop alone. Repeatable. Default: all.")] = None,
    days: Annotated[int, typer.Option(help="How long it holds. 0: until it is revoked.", min=0, max=36_500)] = 0,
    orders_per_s: Annotated[int, typer.Option("--orders-per-s", help="0: no bound.", min=0)] = 0,
    burst: Annotated[int, typer.Option(help="Orders at once. 0: as many as a second.", min=0)] = 0,
    bytes_in_flight: Annotated[int, typer.Option("--bytes-in-flight", help="0: no bound.", min=0)] = 0,
    connections: Annotated[int, typer.Option(help="0: no bound.", min=0)] = 0,
) -> None:
    """Make a key. It is printed once, and kept nowhere."""
    with in_words():
        from engine import keys as api_keys
        from engine.audit_trail import recorded
        from engine.datadir import create_or_open_for_keys
        from engine.grants import Grants

        now_unix_ms = _now_unix_ms()
        given = {"orders_per_s": orders_per_s, "burst": burst, "bytes_in_flight": bytes_in_flight}
        try:
            grants = Grants.of({"scopes": scope or [], "shops": shop, "connections": connections, **given})
            if not grants.scopes:
                raise ValueError("a key without --scope could do nothing")
            create_or_open_for_keys(data_dir)
            with recorded(data_dir, "keys make", name=name, **grants.as_json()) as summary:
                expires_unix_ms = now_unix_ms + days * DAY_MS if days else 0
                made, text = api_keys.make(data_dir, name, grants, now_unix_ms, expires_unix_ms)
                summary["id"] = made.id
        except ValueError as error:
            fail(Exit.ARGUMENT, str(error))
        # The key alone on standard output, for programs.
        print(f"everopen: key {made.id} for {name}; it is not shown again", file=sys.stderr, flush=True)
        print(text, flush=True)


@keys.command("list")
def list_keys(
    data_dir: DataDir,
    json: Annotated[bool, typer.Option("--json", help="JSON, one object a line.")] = False,
) -> None:
    """List all keys that were ever made, without their secrets."""
    with in_words():
        import orjson

        from engine import keys as api_keys
        from engine.datadir import refuse_unless_ours

        refuse_unless_ours(data_dir)
        for key in api_keys.read(data_dir).values():
            if json:
                print(orjson.dumps(key.as_json()).decode(), flush=True)
            else:
                print(_as_text(key, _now_unix_ms()), flush=True)


@keys.command()
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="As `keys list` shows it; not the key itself.")],
    data_dir: DataDir,
) -> None:
    """Take a key back. Workers refuse it within a second, also on streams that are there."""
    with in_words():
        from engine import keys as api_keys
        from engine.audit_trail import recorded
        from engine.datadir import refuse_unless_ours

        refuse_unless_ours(data_dir)
        if "_" in key_id:
            fail(Exit.ARGUMENT, "the id is wanted, which stands between the two _ of a key, and not the key")
        try:
            with recorded(data_dir, "keys revoke", id=key_id):
                revoked = api_keys.revoke(data_dir, key_id, _now_unix_ms())
        except api_keys.NoSuchKey as error:
            fail(Exit.ARGUMENT, str(error))
        print(f"keys: {revoked.id} for {revoked.name} is revoked", flush=True)


def _as_text(key: ApiKey, now_unix_ms: int) -> str:
    state = "holds" if key.is_valid(now_unix_ms) else "revoked" if key.revoked_unix_ms else "expired"
    grants = key.grants
    shops = "all shops" if grants.shops is None else f"{len(grants.shops)} shops"
    return f"{key.id}  {state:<7}  {key.name}  {' '.join(sorted(grants.scopes))}  {shops}"


def _now_unix_ms() -> int:
    return time.time_ns() // 1_000_000
