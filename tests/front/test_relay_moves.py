"""The control server is somewhere else from now on; what runs at the one before ends there."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import pytest

from tests.front.handing import PATIENCE_S
from tests.front.relaying import SERVICE, BareFront, Control, start_control


async def test_relay_goes_to_the_new_control_server_and_ends_at_the_old_one(tmp_path: Path) -> None:
    old, new = Control(), Control()
    servers = [await start_control(tmp_path / name, control) for name, control in (("old", old), ("new", new))]
    with BareFront(tmp_path / "old") as front:
        async with grpc.aio.insecure_channel(front.address) as channel:
            before = channel.unary_stream(f"/{SERVICE}/Late")(b"before")
            assert dict(await before.initial_metadata()) == {"first": "1"}
            front.front.relay_to(str(tmp_path / "new"))
            assert await asyncio.wait_for(channel.unary_unary(f"/{SERVICE}/Unary")(b"after"), PATIENCE_S) == b"after"
            assert new.metadata
            assert not old.metadata
            old.go.set()
            assert [message async for message in before] == [b"before"]
            assert front.count("relay_connects") == 2
            with pytest.raises(ValueError, match="too long"):
                front.front.relay_to("x" * 200)
    for server in servers:
        await server.stop(0)


async def test_call_that_waits_for_a_control_server_goes_to_the_new_one(tmp_path: Path) -> None:
    new = Control()
    server = await start_control(tmp_path / "new", new)
    with BareFront(tmp_path / "nobody") as front:
        async with grpc.aio.insecure_channel(front.address) as channel:
            call = asyncio.ensure_future(channel.unary_unary(f"/{SERVICE}/Unary")(bytes(100_000)))
            until_s = asyncio.get_running_loop().time() + PATIENCE_S
            while front.count("calls_relayed") == 0:
                assert asyncio.get_running_loop().time() < until_s
                await asyncio.sleep(0.01)
            front.front.relay_to(str(tmp_path / "new"))
            assert await asyncio.wait_for(call, PATIENCE_S) == bytes(100_000)
    await server.stop(0)
