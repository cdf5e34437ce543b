"""Who comes through to the sockets of an engine: processes of its own user and root, whatever the files let in."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from collections.abc import AsyncIterator
from contextlib import closing, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import grpc
import pytest

from engine import doorkeeper, run_dir, runtime
from engine.archive import pack
from engine.channel import Channel
from engine.doorkeeper import Doorkeeper
from engine.peers import Peer
from tests.server.test_supervisor import eventually
from tests.serving import Client, Server, order
from tests.strangers import NOBODY, answer_to_nobody, let_everybody_in, needs_root

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes.fromhex("000000040000000000")
HTTP = b"GET /status HTTP/1.1\r\nHost: x\r\n\r\n"


@needs_root
def test_process_of_another_user_gets_nowhere_on_any_socket(data_dir: Path) -> None:
    with Server(data_dir, "--followers", "1") as server, Client(server.address) as client:
        client.seed()
        folder = run_dir.find(data_dir).path
        eventually(lambda: (folder / runtime.ARCHIVE_SOCKET).exists(), "the archive")
        let_everybody_in(folder)
        [batch] = pack(0, [])
        frame = len(batch).to_bytes(4, "little") + batch
        tried = {
            runtime.CONTROL_SOCKETS[0]: (PREFACE, socket.SOCK_STREAM),
            runtime.ARCHIVE_SOCKET: (frame, socket.SOCK_STREAM),
            runtime.CONTROL_SOCKETS[0] + runtime.STATUS_SUFFIX: (HTTP, socket.SOCK_STREAM),
            runtime.SUPERVISOR_SOCKET: (b'{"kind": "restart"}\n', socket.SOCK_SEQPACKET),
        }
        found = {path.name for path in folder.iterdir() if path.is_socket()}
        assert found == tried.keys(), "every socket is tried, and gRPC's own has no name"
        pid = server.process.pid
        before = server.children
        for name, (said, kind) in tried.items():
            assert answer_to_nobody(folder / name, said, kind) == b"", name
        places = ("control server", "archive", "status", "supervisor")
        refused = [f"a connection to the {place} is refused" for place in places]
        eventually(lambda: all(text in server.stderr for text in refused), "a line for each")
        assert server.stderr.count(f'"uid":{NOBODY}') == 4
        # Of our own user all of them answer.
        for name, (said, kind) in list(tried.items())[:3]:
            with socket.socket(socket.AF_UNIX, kind) as end:
                end.settimeout(60)
                end.connect(str(folder / name))
                end.sendall(said)
                assert end.recv(1), name
        assert (server.process.pid, server.process.poll(), server.children) == (pid, None, before)
        client.orders.PlaceOrder(order("after"))
        assert server.stop() == 0


def test_peer_is_who_has_connected_and_who_listens(tmp_path: Path) -> None:
    with TemporaryDirectory() as short, closing(runtime.supervisor_socket(Path(short))) as meeting:
        assert stat.S_IMODE((Path(short) / runtime.SUPERVISOR_SOCKET).stat().st_mode) == 0o600
        channel = Channel.to(str(Path(short) / runtime.SUPERVISOR_SOCKET))
        assert channel is not None
        accepted, _ = meeting.accept()
        with accepted:
            assert channel.peer == Peer.of(accepted) == Peer(os.getpid(), os.getuid())
        channel.close()


@pytest.mark.parametrize("uid", [0, os.getuid()])
def test_own_user_and_root_are_ours(uid: int) -> None:
    assert Peer(1, uid).is_ours


def test_any_other_user_is_not() -> None:
    assert not Peer(1, os.getuid() + 1).is_ours


# The door of the control server.


class Echo(grpc.GenericRpcHandler):
    """Says back what it hears, message by message."""

    def service(self, details: Any) -> Any:
        async def echo(messages: Any, context: Any) -> AsyncIterator[bytes]:
            async for message in messages:
                yield message

        return grpc.stream_stream_rpc_method_handler(echo)


@pytest.fixture
async def door() -> AsyncIterator[Path]:
    with TemporaryDirectory() as folder:
        server = grpc.aio.server(options=[("grpc.max_receive_message_length", -1)])
        server.add_generic_rpc_handlers((Echo(),))
        path = Path(folder) / "control.sock"
        made = Doorkeeper(server, str(path))
        await server.start()
        await made.open()
        yield path
        made.close()
        assert not path.exists()
        await server.stop(None)


async def exchange(path: Path, messages: list[bytes]) -> list[bytes]:
    options = [("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(f"unix:{path}", options=options) as channel:
        call: Any = channel.stream_stream("/test.Echo/Echo")(iter(messages), timeout=60)
        return [answer async for answer in call]


async def test_large_messages_come_through_the_door_whole_both_ways(door: Path) -> None:
    messages = [os.urandom(3 * doorkeeper.PIECE_BYTES + 1) for _ in range(8)]
    found = await asyncio.gather(*(exchange(door, messages) for _ in range(3)))
    assert found == 3 * [messages]


async def test_socket_behind_the_door_has_no_name(door: Path) -> None:
    assert [path.name for path in door.parent.iterdir()] == [door.name]
    assert stat.S_IMODE(os.stat(door).st_mode) == 0o600


async def test_door_is_closed_to_more_than_the_bound_and_open_again_when_they_leave(
    door: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doorkeeper, "CONTROL_CONNECTIONS_MAX", 2)
    # Each is answered, so that it is in.
    held = []
    for _ in range(2):
        reader, writer = await asyncio.open_unix_connection(str(door))
        writer.write(PREFACE)
        assert await asyncio.wait_for(reader.read(1), 60)
        held.append(writer)
    reader, _ = await asyncio.open_unix_connection(str(door))
    assert await asyncio.wait_for(reader.read(), 60) == b""
    for writer in held:
        writer.close()
    async with asyncio.timeout(60):
        while True:
            with suppress(grpc.aio.AioRpcError):
                assert await exchange(door, [b"in"]) == [b"in"]
                return


async def test_client_that_leaves_leaves_nothing_behind_the_door(door: Path) -> None:
    open_before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        reader, writer = await asyncio.open_unix_connection(str(door))
        writer.write(PREFACE)
        assert await asyncio.wait_for(reader.read(1), 60)
        writer.close()
    async with asyncio.timeout(60):
        # A connection each side, and the one behind the door, which gRPC closes when it sees the end.
        while True:
            # gRPC opens some of its own as it likes; each client had three.
            if len(os.listdir("/proc/self/fd")) < open_before + 20:
                return
            await asyncio.sleep(0.01)
