"""What can go wrong, as exceptions: the one border where gRPC statuses become Python.

A refusal by state (no stock, a paused shop, ...) is no error: it is decided, logged and remembered, and comes as the
`outcome` of a response. An error means that nothing was decided and the id is still free, except where the result is
unknown: `Unavailable` and `DeadlineExceeded`. After those, repeat with the same id.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

import grpc
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2

T = TypeVar("T")
Detail = TypeVar("Detail", bound=Message)

DETAILS_KEY = "grpc-status-details-bin"
PUSHBACK_KEY = "grpc-retry-pushback-ms"

CODES = {code.value[0]: code for code in grpc.StatusCode}


class EveropenError(Exception):
    """A call that brought no decision. `code` is the gRPC code, `reason` that of google.rpc.ErrorInfo or empty."""

    def __init__(self, status: status_pb2.Status, retry_after_s: float | None = None) -> None:
        self.status = status
        self.code = CODES.get(status.code, grpc.StatusCode.UNKNOWN)
        info = detail_of(status, error_details_pb2.ErrorInfo)
        self.reason = info.reason if info else ""
        # What the server asked to wait; None when it did not say, negative when it asked not to try again.
        self.retry_after_s = retry_after_s
        super().__init__(f"{self.code.name}: {status.message}")


class InvalidArgument(EveropenError):
    """A field breaks its bounds. `field` is its path in the request, such as lines[0].quantity."""

    def __init__(self, status: status_pb2.Status, retry_after_s: float | None = None) -> None:
        super().__init__(status, retry_after_s)
        bad = detail_of(status, error_details_pb2.BadRequest)
        first = bad.field_violations[0] if bad and bad.field_violations else None
        self.field = first.field if first else ""
        self.description = first.description if first else status.message


class NotFound(EveropenError):
    """The request names a shop, SKU, location or order that is not known. `resource` is its id."""

    def __init__(self, status: status_pb2.Status, retry_after_s: float | None = None) -> None:
        super().__init__(status, retry_after_s)
        info = detail_of(status, error_details_pb2.ResourceInfo)
        self.resource = info.resource_name if info else ""
        self.resource_type = info.resource_type if info else ""

    def __str__(self) -> str:
        return f"{super().__str__()} ({self.resource})" if self.resource else super().__str__()


class IdConflict(EveropenError):
    """The id was used before, with other content."""


class RevisionConflict(EveropenError):
    """The entity does not have the revision that `if_revision` names."""


class Overloaded(EveropenError):
    """The server shed the call, or a table is full. Nothing was decided."""


class Unavailable(EveropenError):
    """The server cannot be reached, or went away. Whether the call was decided is unknown: repeat with the same id."""


class DeadlineExceeded(EveropenError):
    """Time ran out. Whether the call was decided is unknown: repeat with the same id."""


class DataLoss(EveropenError):
    """The server's log is damaged; it refuses to serve."""


KINDS: dict[grpc.StatusCode, type[EveropenError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidArgument,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.ALREADY_EXISTS: IdConflict,
    grpc.StatusCode.ABORTED: RevisionConflict,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Overloaded,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.DATA_LOSS: DataLoss,
}


def detail_of(status: status_pb2.Status, kind: type[Detail]) -> Detail | None:
    for packed in status.details:
        detail = kind()
        if packed.Unpack(detail):
            return detail
    return None


def error_of_status(status: status_pb2.Status, pushback_s: float | None = None) -> EveropenError:
    """The error that an item's status, or the status of a whole call, stands for."""
    if pushback_s is None:
        retry = detail_of(status, error_details_pb2.RetryInfo)
        pushback_s = retry.retry_delay.ToTimedelta().total_seconds() if retry else None
    code = CODES.get(status.code, grpc.StatusCode.UNKNOWN)
    return KINDS.get(code, EveropenError)(status, pushback_s)


def error_of_rpc(rpc_error: grpc.RpcError) -> EveropenError:
    """The error that a failed call stands for; its rich status comes in the trailing metadata."""
    assert isinstance(rpc_error, grpc.Call | grpc.aio.AioRpcError)  # what calls raise has the accessors of a call
    code, message = rpc_error.code(), rpc_error.details()
    trailing = dict(rpc_error.trailing_metadata() or ())
    status = status_of(code, message or "", trailing.get(DETAILS_KEY))
    return error_of_status(status, pushback_of(trailing.get(PUSHBACK_KEY)))


def error_of_code(code: grpc.StatusCode, message: str) -> EveropenError:
    """An error that arose on this side."""
    return error_of_status(status_of(code, message, None))


def status_of(code: grpc.StatusCode, message: str, details: str | bytes | None) -> status_pb2.Status:
    status = status_pb2.Status(code=code.value[0], message=message)
    if isinstance(details, bytes):
        rich = status_pb2.Status()
        try:
            rich.ParseFromString(details)
        except DecodeError:
            return status
        # Details that contradict the code are not of this answer, for instance a proxy's.
        if rich.code == status.code:
            return rich
    return status


def pushback_of(value: str | bytes | None) -> float | None:
    """Seconds; negative means do not try again, and so does what is not a number, as gRPC has it."""
    if value is None:
        return None
    try:
        return int(value) / 1000
    except ValueError:
        return -1.0


def or_raise(results: Iterable[T | EveropenError]) -> list[T]:
    """The answers of a batch, if all items have one; otherwise the first error."""
    answers: list[T] = []
    for result in results:
        if isinstance(result, EveropenError):
            raise result
        answers.append(result)
    return answers
