"""The ids of a call in the lines of the control server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from engine.call_log import CallLog, ids_of

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = f"00-{TRACE}-00f067aa0ba902b7-01"


def test_ids_are_those_that_the_caller_sent() -> None:
    assert ids_of([("x-request-id", "a-1"), ("traceparent", PARENT)]) == {"request_id": "a-1", "trace_id": TRACE}


@given(text=st.one_of(st.text(max_size=100), st.binary(max_size=10), st.just("x" * 65), st.just("a\nb")))
def test_id_that_is_none_is_replaced_by_a_new_one(text: Any) -> None:
    ids = ids_of([("x-request-id", text), ("traceparent", text)])
    assert ids.keys() == {"request_id"}
    assert 0 < len(ids["request_id"]) <= 64
    assert ids["request_id"].isprintable()


async def test_each_call_has_ids_of_its_own(tmp_path: Path) -> None:
    async def answer(_: bytes, __: object) -> bytes:
        return repr(sorted(structlog.contextvars.get_contextvars().items())).encode()

    server = grpc.aio.server(interceptors=[CallLog()])
    handler = grpc.method_handlers_generic_handler("a.B", {"C": grpc.unary_unary_rpc_method_handler(answer)})
    server.add_generic_rpc_handlers((handler,))
    server.add_insecure_port(f"unix:{tmp_path}/socket")
    await server.start()
    async with grpc.aio.insecure_channel(f"unix:{tmp_path}/socket") as channel:
        call = channel.unary_unary("/a.B/C")
        first = await call(b"", metadata=(("x-request-id", "first"), ("traceparent", PARENT)))
        second = await call(b"", metadata=(("x-request-id", "second"),))
    await server.stop(None)
    assert first == repr([("request_id", "first"), ("trace_id", TRACE)]).encode()
    assert second == repr([("request_id", "second")]).encode()


@pytest.mark.parametrize("parent", [PARENT.upper(), PARENT[:-1], f"01{PARENT[2:]}", ""])
def test_traceparent_that_is_malformed_was_not_sent(parent: str) -> None:
    assert "trace_id" not in ids_of([("traceparent", parent)])
