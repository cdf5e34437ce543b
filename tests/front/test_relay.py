"""What is not native goes to the control server and back as it is, and holds up nobody else."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from google.rpc import status_pb2
from grpc_health.v1 import health_pb2
from hyperframe.frame import Frame, HeadersFrame, RstStreamFrame, SettingsFrame

from tests.front.calls import (
    CANCELLED,
    DEADLINE_EXCEEDED,
    HEALTH_CHECK,
    INTERNAL,
    OK,
    RESOURCE_EXHAUSTED,
    UNAVAILABLE,
    details,
)
from tests.front.http2 import CANCEL, ENHANCE_YOUR_CALM, PREFACE, Answer, Connection, prefixed
from tests.front.relaying import OPTIONS, SERVICE, BareFront, Control, ControlProcess, failure, start_control

# grpcio's stubs know no calls over bare bytes.
Channel = Any
MIB = 1024 * 1024
INTERNAL_ERROR, REFUSED_STREAM = 0x2, 0x7
# Nothing is decided by it: what hangs fails.
PATIENCE_S = 20.0


def path_of(method: str) -> str:
    return f"/{SERVICE}/{method}"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "control"


@pytest.fixture
def front(path: Path) -> Iterator[BareFront]:
    with BareFront(path) as running:
        yield running


@pytest_asyncio.fixture
async def control(path: Path) -> AsyncIterator[Control]:
    control = Control()
    server = await start_control(path, control)
    yield control
    await server.stop(0)


@pytest_asyncio.fixture
async def channel(front: BareFront) -> AsyncIterator[Channel]:
    async with connect(front) as made:
        yield made


def connect(front: BareFront) -> Channel:
    return grpc.aio.insecure_channel(front.address, options=OPTIONS)


async def within(work: AsyncIterator[bytes]) -> list[bytes]:
    async with asyncio.timeout(PATIENCE_S):
        return [item async for item in work]


def wait_until_gone(path: Path) -> None:
    until_s = time.monotonic() + PATIENCE_S
    while path.exists():
        assert time.monotonic() < until_s
        time.sleep(0.01)


async def failed(call: Awaitable[object]) -> grpc.StatusCode:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async with asyncio.timeout(PATIENCE_S):
            await call
    return caught.value.code()


# Shapes


async def test_unary_call_carries_message_and_metadata_both_ways(control: Control, channel: Channel) -> None:
    metadata = (("plain", "a b"), ("twice", "1"), ("twice", "2"), ("odd-bin", b"\0\1\xff"), ("everopen-peer", "forged"))
    call = channel.unary_unary(path_of("Unary"))(b"hello", metadata=metadata)
    assert await call == b"hello"
    seen = control.metadata
    assert [pair for pair in seen if pair[0] in ("plain", "twice", "odd-bin")] == list(metadata[:4])
    assert not [name for name, _ in seen if name.startswith("everopen-")]
    assert [agent for name, agent in seen if name == "user-agent" and "grpc-python" in str(agent)]
    assert dict(await call.initial_metadata()) == {"first": "1", "first-bin": b"\0\xff"}
    assert dict(await call.trailing_metadata()) == {"last": "2", "last-bin": b"\xff\0" * 300}


async def test_stream_of_requests_gets_one_answer(control: Control, channel: Channel) -> None:
    async def requests() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield bytes(10_000)

    assert await channel.stream_unary(path_of("Collect"))(requests()) == b"1000000"


async def test_stream_of_answers_comes_whole_and_in_order(control: Control, channel: Channel) -> None:
    answers = await within(channel.unary_stream(path_of("Spread"))(b"500 3000"))
    assert [int.from_bytes(answer[:4], "big") for answer in answers] == list(range(500))
    assert {len(answer) for answer in answers} == {3000}


async def test_conversation_goes_back_and_forth(control: Control, channel: Channel) -> None:
    call = channel.stream_stream(path_of("Echo"))()
    for number in range(50):
        await call.write(b"%d" % number)
        assert await call.read() == b"%d" % number
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF
    assert await call.code() == grpc.StatusCode.OK


@pytest.mark.parametrize("size", [0, 16 * MIB], ids=["empty", "16 MiB"])
async def test_message_of_any_size_is_echoed(control: Control, channel: Channel, size: int) -> None:
    message = bytes(range(256)) * (size // 256)

    async def requests() -> AsyncIterator[bytes]:
        yield message

    assert await within(channel.stream_stream(path_of("Echo"))(requests())) == [message]


async def test_long_conversation_moves_both_ways_at_once(control: Control, front: BareFront, channel: Channel) -> None:
    async def requests() -> AsyncIterator[bytes]:
        for number in range(256):
            yield number.to_bytes(4, "big") + bytes(65_532)

    answers = await within(channel.stream_stream(path_of("Echo"))(requests()))
    assert [int.from_bytes(answer[:4], "big") for answer in answers] == list(range(256))
    assert front.count("relay_bytes_in") == front.count("relay_bytes_out") == 256 * (65_536 + 5)


async def test_initial_metadata_comes_before_the_first_message(control: Control, channel: Channel) -> None:
    call = channel.unary_stream(path_of("Late"))(b"x")
    assert dict(await call.initial_metadata()) == {"first": "1"}
    control.go.set()
    assert await within(call) == [b"x"]


async def test_200_streams_at_once_are_all_answered(control: Control, channel: Channel) -> None:
    calls = [channel.unary_stream(path_of("Late"))(b"%d" % number) for number in range(200)]
    for call in calls:
        assert dict(await call.initial_metadata()) == {"first": "1"}
    control.go.set()
    assert await asyncio.gather(*map(within, calls)) == [[b"%d" % number] for number in range(200)]


# Ends


async def test_status_comes_with_its_message_and_details(control: Control, channel: Channel) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await channel.unary_unary(path_of("Fail"))(b"")
    assert caught.value.code() == grpc.StatusCode.FAILED_PRECONDITION
    assert caught.value.details() == failure().message
    sent = dict(caught.value.trailing_metadata())["grpc-status-details-bin"]
    assert status_pb2.Status.FromString(sent) == failure()


@pytest.mark.parametrize("name", ["/test.Relayed/Nothing", "/no.such.Service/At", "/", "/%"])
async def test_unknown_method_is_unimplemented(control: Control, channel: Channel, name: str) -> None:
    assert await failed(channel.unary_unary(name)(b"")) == grpc.StatusCode.UNIMPLEMENTED


async def test_deadline_reaches_the_handler(control: Control, channel: Channel) -> None:
    await channel.unary_unary(path_of("Unary"))(b"", timeout=1000)
    assert control.remaining_s is not None
    assert 0 < control.remaining_s < 1100  # a client rounds it up
    assert await failed(channel.unary_unary(path_of("Hang"))(b"", timeout=0.1)) == grpc.StatusCode.DEADLINE_EXCEEDED
    await asyncio.wait_for(control.cancelled.wait(), PATIENCE_S)


async def test_cancelled_call_is_cancelled_in_the_handler(control: Control, channel: Channel) -> None:
    call = channel.unary_unary(path_of("Hang"))(b"")
    waiting = asyncio.ensure_future(call)
    await asyncio.wait_for(control.begun.wait(), PATIENCE_S)
    call.cancel()
    await asyncio.wait_for(control.cancelled.wait(), PATIENCE_S)
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_closed_connection_cancels_its_calls(control: Control, front: BareFront) -> None:
    with Connection(front.address) as connection:
        stream = connection.open(path_of("Hang"))
        connection.data(stream, prefixed(b""), end=True)
        await asyncio.wait_for(control.begun.wait(), PATIENCE_S)
    await asyncio.wait_for(control.cancelled.wait(), PATIENCE_S)


async def test_answer_before_the_end_of_the_request_ends_the_stream(control: Control, front: BareFront) -> None:
    with Connection(front.address) as connection:
        stream = connection.open("/no.such.Service/At")
        answer = await asyncio.to_thread(connection.answer, stream)
        assert answer.headers["grpc-status"] == "12"
        assert await asyncio.to_thread(connection.call, path_of("Unary"), b"next") == await asyncio.to_thread(
            connection.call, path_of("Unary"), b"next"
        )


# Flow control


async def test_slow_client_stalls_its_own_stream_alone(control: Control, front: BareFront, channel: Channel) -> None:
    total = 32 * MIB
    with Connection(front.address, give_window=False) as connection:
        stream = connection.open(path_of("Spread"))
        connection.data(stream, prefixed(b"512 65531"), end=True)
        await asyncio.to_thread(connection.read_until, lambda: len(connection.stream(stream).data) == 65_535)
        # Meanwhile another stream on the same upstream connection moves as much.
        async for _ in channel.unary_stream(path_of("Spread"))(b"512 65531"):
            pass
        stalled = control.messages_sent - 512
        # The windows of client and relay, and what gRPC's server writes ahead.
        assert stalled * 65_536 < 4 * MIB
        connection.grant(0, total)
        connection.grant(stream, total)
        answer = await asyncio.to_thread(connection.answer, stream)
        assert answer.code == OK
        assert len(answer.messages) == 512


async def test_slow_handler_stalls_its_own_stream_alone(control: Control, front: BareFront, channel: Channel) -> None:
    total = 32 * MIB
    written = 0

    async def requests() -> AsyncIterator[bytes]:
        nonlocal written
        for _ in range(512):
            yield bytes(65_536)
            written += 65_536

    slow = asyncio.ensure_future(channel.stream_unary(path_of("Collect"))(requests(), metadata=(("how", "wait"),)))
    await asyncio.wait_for(control.begun.wait(), PATIENCE_S)
    async with connect(front) as other:
        assert len(await other.unary_unary(path_of("Unary"))(bytes(total))) == total
        assert written < 8 * MIB
    control.go.set()
    assert await asyncio.wait_for(slow, PATIENCE_S) == str(total).encode()


async def test_native_calls_go_on_while_the_relay_is_busy(control: Control, front: BareFront, channel: Channel) -> None:
    busy = [channel.unary_stream(path_of("Spread"))(b"1000000 65536") for _ in range(4)]

    async def drain(call: Any) -> None:
        async for _ in call:
            pass

    for call in busy:
        await call.read()
    draining = [asyncio.ensure_future(drain(call)) for call in busy]

    def check() -> list[int | None]:
        with Connection(front.address) as connection:
            request = health_pb2.HealthCheckRequest().SerializeToString()
            return [connection.call(HEALTH_CHECK, request).code for _ in range(300)]

    before = front.count("relay_bytes_out")
    assert await asyncio.to_thread(check) == [OK] * 300
    assert front.count("relay_bytes_out") > before
    for call in busy:
        call.cancel()
    await asyncio.gather(*draining, return_exceptions=True)


async def test_tiny_budget_still_moves_everything(path: Path, control: Control) -> None:
    with BareFront(path, relay_bytes_per_turn=1000, relay_buffer_bytes=1000) as front:
        async with connect(front) as channel:
            assert await channel.unary_unary(path_of("Unary"))(bytes(MIB)) == bytes(MIB)


# Breaks


@pytest_asyncio.fixture
async def mortal(path: Path) -> AsyncIterator[ControlProcess]:
    control = ControlProcess(path)
    await control.start()
    yield control
    await control.kill()


async def test_killed_control_server_ends_its_calls_and_comes_back(mortal: ControlProcess, front: BareFront) -> None:
    async with connect(front) as channel:
        unanswered = asyncio.ensure_future(channel.unary_unary(path_of("Hang"))(b""))
        conversation = channel.stream_stream(path_of("Echo"))()
        await conversation.write(b"1")
        assert await conversation.read() == b"1"
        await mortal.kill()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await asyncio.wait_for(unanswered, PATIENCE_S)
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
        assert await failed(conversation.read()) == grpc.StatusCode.UNAVAILABLE
        await mortal.start()
        assert await channel.unary_unary(path_of("Unary"))(b"again") == b"again"
        assert front.count("relay_connects") == 2


async def test_call_waits_for_a_control_server_that_comes(path: Path, channel: Channel) -> None:
    call = asyncio.ensure_future(channel.unary_unary(path_of("Unary"))(b"early"))
    await asyncio.sleep(0)
    control = Control()
    server = await start_control(path, control)
    assert await asyncio.wait_for(call, PATIENCE_S) == b"early"
    await server.stop(0)


async def test_control_server_that_leaves_ends_its_calls_and_gets_no_more(path: Path, front: BareFront) -> None:
    old = Control()
    leaving = await start_control(path, old)
    async with connect(front) as channel:
        before = channel.unary_stream(path_of("Late"))(b"before")
        assert dict(await before.initial_metadata()) == {"first": "1"}
        stopping = asyncio.ensure_future(leaving.stop(PATIENCE_S))
        await asyncio.to_thread(wait_until_gone, path)
        new = Control()
        server = await start_control(path, new)
        after = asyncio.ensure_future(channel.unary_unary(path_of("Unary"))(b"after"))
        old.go.set()
        assert await within(before) == [b"before"]
        assert await asyncio.wait_for(after, PATIENCE_S) == b"after"
        assert new.metadata
        assert not old.metadata
        await stopping
        await server.stop(0)


async def test_drain_waits_for_relayed_calls_and_for_no_connection(path: Path, control: Control) -> None:
    with BareFront(path) as front:
        async with connect(front) as channel:
            call = channel.unary_stream(path_of("Late"))(b"x")
            assert dict(await call.initial_metadata()) == {"first": "1"}
            front.front.drain()
            assert not await asyncio.to_thread(front.front.drained, 0.0)
            control.go.set()
            assert await within(call) == [b"x"]
            assert await asyncio.to_thread(front.front.drained, PATIENCE_S)


async def test_call_without_a_control_server_is_unavailable(path: Path) -> None:
    with BareFront(path, relay_connect_ms=100) as front, Connection(front.address) as connection:
        answer = await asyncio.to_thread(connection.call, path_of("Unary"), b"x")
        assert answer.code == UNAVAILABLE
        assert b"CONTROL_DOWN" in details(answer).SerializeToString()
        native = await asyncio.to_thread(connection.call, HEALTH_CHECK, b"")
        assert native.code == OK


async def test_deadline_passes_while_a_call_waits_for_a_control_server(path: Path) -> None:
    with BareFront(path) as front, Connection(front.address) as connection:
        stream = connection.open(path_of("Unary"), ("grpc-timeout", "50m"))
        answer = await asyncio.to_thread(connection.answer, stream)
        assert answer.code == DEADLINE_EXCEEDED


async def test_deadline_after_the_headers_ends_with_its_status(control: Control, front: BareFront) -> None:
    with Connection(front.address) as connection:
        stream = connection.open(path_of("Late"), ("grpc-timeout", "200m"))
        connection.data(stream, prefixed(b"x"), end=True)
        answer = await asyncio.to_thread(connection.answer, stream)
        assert answer.headers["first"] == "1"
        assert answer.code == DEADLINE_EXCEEDED


class RawControl:
    """Answers each stream with the frames it was given, and nothing else."""

    def __init__(self, path: Path) -> None:
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(path))
        self._listening.listen()

    def answer_one(self, make: Callable[[int], list[Frame]]) -> None:
        """Takes a connection, waits for a request, sends what `make` makes of its stream, and waits for the end."""
        connected, _ = self._listening.accept()
        # The front may close before it took all of this.
        closed = contextlib.suppress(BrokenPipeError, ConnectionResetError)
        with connected, connected.makefile("rb") as stream, closed:
            connected.sendall(SettingsFrame(0).serialize())
            assert stream.read(len(PREFACE)) == PREFACE
            while head := stream.read(9):
                frame, size = Frame.parse_frame_header(memoryview(head))
                frame.parse_body(memoryview(stream.read(size)))
                if isinstance(frame, HeadersFrame):
                    connected.sendall(b"".join(each.serialize() for each in make(frame.stream_id)))

    def close(self) -> None:
        self._listening.close()


@pytest.fixture
def raw_control(path: Path) -> Iterator[RawControl]:
    control = RawControl(path)
    yield control
    control.close()


# :status 200, without compression's table.
RESPONSE_BLOCK = b"\x88"


async def answered_by(control: RawControl, path: Path, *frames: tuple[str, int]) -> Answer:
    """What a client gets when the control server sends these: `headers`, or `reset` with a code."""

    def make(stream_id: int) -> list[Frame]:
        return [
            HeadersFrame(stream_id, RESPONSE_BLOCK, flags=["END_HEADERS"])
            if kind == "headers"
            else RstStreamFrame(stream_id, error_code=code)
            for kind, code in frames
        ]

    with BareFront(path) as front, Connection(front.address) as connection:
        serving = asyncio.ensure_future(asyncio.to_thread(control.answer_one, make))
        answer = await asyncio.to_thread(connection.call, "/some.Service/Method", b"x")
    await asyncio.wait_for(serving, PATIENCE_S)
    return answer


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (REFUSED_STREAM, UNAVAILABLE),
        (CANCEL, CANCELLED),
        (ENHANCE_YOUR_CALM, RESOURCE_EXHAUSTED),
        (INTERNAL_ERROR, INTERNAL),
        (0, INTERNAL),
    ],
)
async def test_reset_before_the_answer_becomes_a_status(
    raw_control: RawControl, path: Path, error: int, code: int
) -> None:
    answer = await answered_by(raw_control, path, ("reset", error))
    assert answer.code == code
    assert answer.is_trailers_only


@pytest.mark.parametrize(("error", "passed_on"), [(CANCEL, CANCEL), (REFUSED_STREAM, INTERNAL_ERROR)])
async def test_reset_during_the_answer_is_a_reset(
    raw_control: RawControl, path: Path, error: int, passed_on: int
) -> None:
    answer = await answered_by(raw_control, path, ("headers", 0), ("reset", error))
    assert answer.reset == passed_on


async def test_streams_hold_no_more_together_than_they_may(raw_control: RawControl, path: Path) -> None:
    """A control server that takes 64 KiB and no more: beyond the bound a stream is given up, the others stay."""
    with BareFront(path, relay_bytes_max=MIB) as front, Connection(front.address) as connection:
        serving = asyncio.ensure_future(asyncio.to_thread(raw_control.answer_one, lambda stream_id: []))
        streams = [connection.open("/some.Service/Method") for _ in range(8)]
        for stream in streams:
            connection.data(stream, prefixed(bytes(512 * 1024)))
        await asyncio.to_thread(connection.ping)
        over = [each for each in streams if connection.stream(each).over]
        assert 5 <= len(over) <= 6
        assert {connection.stream(each).code for each in over} == {RESOURCE_EXHAUSTED}
        assert front.count("calls_refused_overload") == len(over)
    await asyncio.wait_for(serving, PATIENCE_S)
