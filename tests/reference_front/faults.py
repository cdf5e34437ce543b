"""Where a google.rpc.Status becomes a gRPC status with rich details."""

from __future__ import annotations

from typing import Any, NamedTuple, NoReturn

import grpc
from google.rpc import code_pb2, error_details_pb2, status_pb2

DOMAIN = "everopen.v1"
PUSHBACK_MS = 100
_CODES = {code.value[0]: code for code in grpc.StatusCode}


class Refusal(NamedTuple):
    """A status, ready to be sent."""

    code: grpc.StatusCode
    message: str
    trailing: tuple[tuple[str, str | bytes], ...]


def refusal(status: bytes) -> Refusal:
    """What to send for a google.rpc.Status in bytes: the bytes go along as they are, for clients that read details."""
    decoded = status_pb2.Status.FromString(status)
    trailing: list[tuple[str, str | bytes]] = [("grpc-status-details-bin", status)]
    if decoded.code == code_pb2.RESOURCE_EXHAUSTED:
        trailing.append(("grpc-retry-pushback-ms", str(_pushback_ms(decoded))))
    return Refusal(_CODES.get(decoded.code, grpc.StatusCode.INTERNAL), decoded.message, tuple(trailing))


async def refuse(context: Any, answer: Refusal) -> NoReturn:
    """Ends the call with the status."""
    await context.abort(answer.code, answer.message, answer.trailing)
    raise AssertionError("abort returned")


def _pushback_ms(status: status_pb2.Status) -> int:
    retry = error_details_pb2.RetryInfo()
    for detail in status.details:
        if detail.Unpack(retry):
            return max(1, int(retry.retry_delay.ToMilliseconds()))
    return PUSHBACK_MS


def _own(code: int, reason: str, message: str) -> Refusal:
    """A refusal that the server itself speaks, in the same form as those of the core."""
    status = status_pb2.Status(code=code, message=message)
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason=reason, domain=DOMAIN))
    return refusal(status.SerializeToString())


DRAINING = _own(code_pb2.UNAVAILABLE, "DRAINING", "the server is going down: retry elsewhere with the same id")
TOO_LATE = _own(code_pb2.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED", "the deadline passed before the call was executed")
