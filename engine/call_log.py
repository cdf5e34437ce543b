"""Every line that the control server logs for a call says which call it was."""

from __future__ import annotations

import re
import uuid
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final

import grpc
import structlog

REQUEST_ID: Final = "x-request-id"
TRACEPARENT: Final = "traceparent"
# What a caller may put into our lines.
_REQUEST_ID = re.compile(r"[\w.:/+=-]{1,64}", re.ASCII)
_TRACEPARENT = re.compile(r"00-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")


def ids_of(metadata: Iterable[tuple[str, Any]]) -> dict[str, str]:
    """`request_id`: the caller's, or a new one. `trace_id`: if the caller sent a traceparent (W3C Trace Context)."""
    found = dict(metadata)
    request_id, parent = str(found.get(REQUEST_ID, "")), _TRACEPARENT.fullmatch(str(found.get(TRACEPARENT, "")))
    ids = {"request_id": request_id if _REQUEST_ID.fullmatch(request_id) else uuid.uuid4().hex}
    return ids | ({"trace_id": parent[1]} if parent else {})


class CallLog(grpc.aio.ServerInterceptor):
    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any) -> Any:
        # Each call is a task of its own, and so is what is bound in it.
        structlog.contextvars.bind_contextvars(**ids_of(handler_call_details.invocation_metadata or ()))
        return await continuation(handler_call_details)
