"""What the control server believes: nothing but what a front says that proves to be ours."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import orjson
import pytest
from google.rpc import error_details_pb2, status_pb2

from engine.audit_chain import verify
from engine.audit_trail import AUDIT_TRAIL, AuditTrail
from engine.control_identity import CALLER, RELAY, ControlIdentity, scope_of
from engine.grants import SCOPES

SECRET = bytes(range(32))
READ, ADMIN, OTHER = (f"/{name}" for name in ("everopen.v1.ClusterService/GetWorkers", "test.Admin/Move", "test.No/No"))


class Services(grpc.GenericRpcHandler):
    """One method that reads, one that watches, and some that change something."""

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self.begun = asyncio.Event()
        self.moves = 0

    def service(self, details: Any) -> Any:
        self.seen.append(details.invocation_metadata)
        return {
            READ: grpc.unary_unary_rpc_method_handler(self.read),
            "/everopen.v1.ClusterService/WatchPartitionMap": grpc.unary_stream_rpc_method_handler(self.watch),
            "/grpc.channelz.v1.Channelz/GetServers": grpc.unary_unary_rpc_method_handler(self.at_once),
            ADMIN: grpc.unary_unary_rpc_method_handler(self.move),
            f"{ADMIN}Fails": grpc.unary_unary_rpc_method_handler(self.fail),
            f"{ADMIN}Hangs": grpc.unary_unary_rpc_method_handler(self.hang),
        }.get(details.method)

    def _answer(self, context: Any) -> bytes:
        self.seen.append(context.invocation_metadata())
        return orjson.dumps([context.caller.name, sorted(context.caller.scopes)])

    async def read(self, request: bytes, context: Any) -> bytes:
        return self._answer(context)

    async def watch(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        for _ in range(3):
            yield self._answer(context)

    def at_once(self, request: bytes, context: Any) -> bytes:
        return self._answer(context)

    async def move(self, request: bytes, context: Any) -> bytes:
        self.moves += 1
        return b"moved"

    async def fail(self, request: bytes, context: Any) -> bytes:
        await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "no")
        raise AssertionError

    async def hang(self, request: bytes, context: Any) -> bytes:
        self.begun.set()
        await asyncio.Event().wait()
        raise AssertionError


class Scene:
    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self.now_s = 0.0
        self.services = Services()
        self.identity = ControlIdentity(SECRET, AuditTrail(data_dir), lambda: self.now_s)
        self.server = grpc.aio.server(interceptors=[self.identity])
        self.server.add_generic_rpc_handlers((self.services,))
        path = f"unix:{data_dir}/control.sock"
        self.server.add_insecure_port(path)
        self.channel = grpc.aio.insecure_channel(path)

    async def call(self, method: str = READ, metadata: Any = ()) -> bytes:
        answer: bytes = await self.channel.unary_unary(method)(b"", metadata=metadata, timeout=20)
        return answer

    async def refused(self, method: str, metadata: Any) -> grpc.aio.AioRpcError:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await self.call(method, metadata)
        return caught.value

    def lines(self) -> list[dict[str, Any]]:
        self.identity.close()
        trail = self.data_dir / AUDIT_TRAIL
        return [orjson.loads(line) for line in trail.read_bytes().splitlines()] if trail.exists() else []


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    made = Scene(tmp_path)
    await made.server.start()
    yield made
    await made.channel.close()
    await made.server.stop(None)


def relayed(*scopes: str, secret: bytes = SECRET, name: str = "key:ops", **fields: Any) -> list[tuple[str, bytes]]:
    caller = {"name": name, "scopes": scopes, "shops": None} | fields
    return [(CALLER, orjson.dumps(caller)), (RELAY, secret)]


async def test_call_that_a_front_relays_is_served_with_its_caller(scene: Scene) -> None:
    answer = await scene.call(READ, relayed("cluster:read", "nonsense"))
    assert orjson.loads(answer) == ["key:ops", ["cluster:read"]]


async def test_service_sees_nothing_of_the_secret_and_all_else(scene: Scene) -> None:
    await scene.call(READ, [*relayed("cluster:read"), ("traceparent", "00-1"), ("everopen-other", "x")])
    assert len(scene.services.seen) == 2
    for metadata in scene.services.seen:
        names = [name for name, _ in metadata]
        assert "traceparent" in names
        assert not [name for name in names if name.startswith("everopen-")]


async def test_stream_and_method_of_a_thread_are_served_alike(scene: Scene) -> None:
    watch = scene.channel.unary_stream("/everopen.v1.ClusterService/WatchPartitionMap")
    answers = [orjson.loads(answer) async for answer in watch(b"", metadata=relayed("cluster:read"), timeout=20)]
    assert answers == 3 * [["key:ops", ["cluster:read"]]]
    answer = await scene.call("/grpc.channelz.v1.Channelz/GetServers", relayed("cluster:read"))
    assert orjson.loads(answer)[0] == "key:ops"


def reason_of(error: grpc.aio.AioRpcError) -> str:
    [details] = [value for name, value in error.trailing_metadata() or () if name == "grpc-status-details-bin"]
    info = error_details_pb2.ErrorInfo()
    assert status_pb2.Status.FromString(details).details[0].Unpack(info)
    return info.reason


GOOD = relayed(*SCOPES)


@pytest.mark.parametrize(
    "metadata",
    [
        [],
        [GOOD[0]],
        [GOOD[1]],
        relayed(*SCOPES, secret=bytes(32)),
        relayed(*SCOPES, secret=SECRET[:-1]),
        relayed(*SCOPES, secret=SECRET + b"\0"),
        relayed(*SCOPES, secret=b""),
        [*GOOD, GOOD[0]],
        [*GOOD, GOOD[1]],
        [*GOOD, (RELAY, bytes(32))],
        [(CALLER, b"junk"), GOOD[1]],
        [(CALLER, b"[]"), GOOD[1]],
        [(CALLER, b"{}"), GOOD[1]],
        [(CALLER, b'{"name": 1, "scopes": [], "shops": null}'), GOOD[1]],
        [(CALLER, b'{"name": "a", "scopes": "cluster:admin", "shops": null}'), GOOD[1]],
        [(CALLER, b'{"name": "a", "scopes": [["cluster:admin"]], "shops": null}'), GOOD[1]],
        [(CALLER, b'{"name": "a", "scopes": [], "shops": 5}'), GOOD[1]],
    ],
)
async def test_call_that_no_front_relays_is_refused_on_every_method(scene: Scene, metadata: Any) -> None:
    errors = [await scene.refused(method, metadata) for method in (READ, ADMIN, OTHER)]
    assert {(error.code(), error.details()) for error in errors} == {
        (grpc.StatusCode.UNAUTHENTICATED, "The credentials were not accepted.")
    }
    assert not scene.services.seen
    assert {line["code"] for line in scene.lines()} == {"UNAUTHENTICATED"}
    assert SECRET.hex() not in (scene.data_dir / AUDIT_TRAIL).read_text()


@pytest.mark.parametrize(
    ("method", "scope"),
    [
        (READ, "cluster:read"),
        ("/everopen.v1.ClusterService/GetPartitionMap", "cluster:read"),
        ("/everopen.v1.ClusterService/WatchPartitionMap", "cluster:read"),
        ("/grpc.channelz.v1.Channelz/GetServers", "cluster:read"),
        ("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", "cluster:read"),
        ("/grpc.health.v1.Health/Check", ""),
        ("/everopen.v1.ClusterService/GetWorkers/", "cluster:admin"),
        ("/everopen.v1.ClusterService/getworkers", "cluster:admin"),
        ("/everopen.v1.OrderService/PlaceOrder", "cluster:admin"),
        ("/grpc.channelz.v1.ChannelzX/GetServers", "cluster:admin"),
        ("//grpc.channelz.v1.Channelz/GetServers", "cluster:admin"),
        ("", "cluster:admin"),
    ],
)
def test_method_needs_its_scope_and_what_is_not_known_the_greatest(method: str, scope: str) -> None:
    assert scope_of(method) == scope


async def test_call_without_the_scope_is_refused_and_is_in_the_trail(scene: Scene) -> None:
    error = await scene.refused(ADMIN, relayed(*(SCOPES - {"cluster:admin"}), peer="192.0.2.1:5"))
    assert error.code() == grpc.StatusCode.PERMISSION_DENIED
    assert reason_of(error) == "SCOPE_DENIED"
    assert (await scene.refused(READ, relayed("cluster:admin"))).code() == grpc.StatusCode.PERMISSION_DENIED
    assert not scene.services.seen
    first, second = scene.lines()
    assert (first["caller"], first["peer"], first["method"]) == ("key:ops", "192.0.2.1:5", ADMIN)
    assert (second["method"], second["code"]) == (READ, "PERMISSION_DENIED")


async def test_call_that_changes_something_is_in_the_trail_however_it_ends(scene: Scene) -> None:
    assert await scene.call(ADMIN, relayed("cluster:admin")) == b"moved"
    error = await scene.refused(f"{ADMIN}Fails", relayed("cluster:admin"))
    assert error.code() == grpc.StatusCode.FAILED_PRECONDITION
    hanging = asyncio.create_task(scene.call(f"{ADMIN}Hangs", relayed("cluster:admin")))
    await asyncio.wait_for(scene.services.begun.wait(), 20)
    hanging.cancel()
    await asyncio.wait([hanging])
    await scene.server.stop(20)
    assert [(line["method"], line["code"]) for line in scene.lines()] == [
        (ADMIN, "BEGUN"),
        (ADMIN, "OK"),
        (f"{ADMIN}Fails", "BEGUN"),
        (f"{ADMIN}Fails", "FAILED_PRECONDITION"),
        (f"{ADMIN}Hangs", "BEGUN"),
        (f"{ADMIN}Hangs", "CANCELLED"),
    ]
    assert verify(scene.data_dir).lines == 6


async def test_call_that_only_reads_is_not_in_the_trail(scene: Scene) -> None:
    await scene.call(READ, relayed("cluster:read"))
    assert scene.lines() == []


async def test_method_that_nobody_has_is_unimplemented_for_who_may_do_everything(scene: Scene) -> None:
    assert (await scene.refused(OTHER, relayed(*SCOPES))).code() == grpc.StatusCode.UNIMPLEMENTED
    assert (await scene.refused(OTHER, relayed("cluster:read"))).code() == grpc.StatusCode.PERMISSION_DENIED


async def test_flood_of_refused_calls_does_not_fill_the_trail_and_is_counted(scene: Scene) -> None:
    for _ in range(130):
        await scene.refused(READ, relayed())
    scene.now_s += 1.0
    await scene.refused(READ, relayed())
    lines = scene.lines()
    assert len(lines) == 101
    assert lines[-1]["suppressed"] == 30


async def test_call_that_changes_something_is_not_carried_out_without_a_line(scene: Scene) -> None:
    trail = scene.data_dir / AUDIT_TRAIL
    trail.mkdir()
    error = await scene.refused(ADMIN, relayed("cluster:admin"))
    assert error.code() == grpc.StatusCode.UNAVAILABLE
    assert reason_of(error) == "AUDIT_TRAIL"
    assert scene.services.moves == 0
    # What changes nothing goes on, and what is refused is refused for its own reason.
    await scene.call(READ, relayed("cluster:read"))
    assert (await scene.refused(ADMIN, relayed())).code() == grpc.StatusCode.PERMISSION_DENIED
    trail.rmdir()
    assert await scene.call(ADMIN, relayed("cluster:admin")) == b"moved"
    assert scene.services.moves == 1


async def test_line_is_on_the_disk_before_the_call_is_carried_out(scene: Scene) -> None:
    hanging = asyncio.create_task(scene.call(f"{ADMIN}Hangs", relayed("cluster:admin")))
    await asyncio.wait_for(scene.services.begun.wait(), 20)
    [line] = [orjson.loads(line) for line in (scene.data_dir / AUDIT_TRAIL).read_bytes().splitlines()]
    assert (line["caller"], line["method"], line["code"]) == ("key:ops", f"{ADMIN}Hangs", "BEGUN")
    hanging.cancel()
    await asyncio.wait([hanging])
