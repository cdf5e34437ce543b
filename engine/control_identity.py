"""Who calls the control server: it believes the fronts, which prove with each call that they are ours.

A front adds two entries to the metadata of what it relays, and lets none of that name through from outside:
`everopen-relay-bin`, 32 random bytes that the supervisor gives to its children alone, and `everopen-caller-bin`, whom
it has let in. What is allowed is looked at here once more, so that a hole in one of the two is not a hole in both.
"""

from __future__ import annotations

import asyncio
import hmac
import inspect
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import grpc
import orjson
import structlog
from google.rpc import error_details_pb2, status_pb2

from engine.audit_trail import BEGUN, AuditTrail, summary_of
from engine.grants import SCOPES
from engine.limits import AUDIT_REFUSED_BURST, AUDIT_REFUSED_PER_S

CALLER: Final = "everopen-caller-bin"
RELAY: Final = "everopen-relay-bin"
OURS: Final = "everopen-"
# Other services, and methods that are not named here, take cluster:admin.
READING: Final = frozenset(
    {
        "/everopen.v1.ClusterService/GetPartitionMap",
        "/everopen.v1.ClusterService/WatchPartitionMap",
        "/everopen.v1.ClusterService/GetWorkers",
    }
)
READING_SERVICES: Final = (
    "/grpc.channelz.v1.Channelz/",
    "/grpc.reflection.v1.ServerReflection/",
    "/grpc.reflection.v1alpha.ServerReflection/",
)
OPEN_SERVICE: Final = "/grpc.health.v1.Health/"

log = structlog.get_logger()
Handler = Any
Details = Any


@dataclass(frozen=True)
class RelayedCaller:
    """What a front says of who calls."""

    name: str
    scopes: frozenset[str]
    shops: frozenset[str] | None
    peer: str = ""

    @classmethod
    def of(cls, text: bytes) -> RelayedCaller:
        """Raises ValueError."""
        fields = orjson.loads(text)
        if not isinstance(fields, dict):
            raise ValueError("an object is expected")
        name, scopes, shops, peer = (fields.get(key) for key in ("name", "scopes", "shops", "peer"))
        if not isinstance(name, str) or not isinstance(scopes, list) or not isinstance(shops, list | None):
            raise ValueError("not a caller")
        return cls(name, frozenset(scopes) & SCOPES, None if shops is None else frozenset(shops), str(peer or ""))


def scope_of(method: str) -> str:
    """Empty: it needs none."""
    if method.startswith(OPEN_SERVICE):
        return ""
    if method in READING or method.startswith(READING_SERVICES):
        return "cluster:read"
    return "cluster:admin"


class Stripped:
    """A call as its service sees it: without our metadata, and with the caller."""

    def __init__(self, context: Any, caller: RelayedCaller) -> None:
        self._context = context
        self.caller = caller

    def invocation_metadata(self) -> Any:
        return _others(self._context.invocation_metadata())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)


class ControlIdentity(grpc.aio.ServerInterceptor):
    """Refuses what no front of ours relays, and what its caller may not; writes the audit trail."""

    def __init__(self, secret: bytes, trail: AuditTrail, now_s: Callable[[], float] = time.monotonic) -> None:
        self.secret = secret
        self._trail = trail
        self._now_s = now_s
        # One, so that lines keep their order; the loop never waits for the disk.
        self._writer = ThreadPoolExecutor(1, "everopen-audit")
        self._lines_left = float(AUDIT_REFUSED_BURST)
        self._filled_s = now_s()
        self._suppressed = 0
        # Of the audit trail, since they could not be written.
        self.lines_failed = 0

    async def intercept_service(
        self, continuation: Callable[[Details], Awaitable[Handler]], handler_call_details: Details
    ) -> Handler:
        method = handler_call_details.method
        metadata = handler_call_details.invocation_metadata or ()
        caller = self._caller_of(metadata)
        if caller is None:
            return self._refused(method, None, grpc.StatusCode.UNAUTHENTICATED, "CREDENTIALS")
        scope = scope_of(method)
        if scope and scope not in caller.scopes:
            return self._refused(method, caller, grpc.StatusCode.PERMISSION_DENIED, "SCOPE_DENIED")
        handler = await continuation(type(handler_call_details)(method, _others(metadata)))
        return None if handler is None else self._wrapped(handler, method, caller, scope == "cluster:admin")

    def _caller_of(self, metadata: Any) -> RelayedCaller | None:
        found: dict[str, list[bytes]] = {CALLER: [], RELAY: []}
        for name, value in metadata:
            if name in found:
                found[name].append(value if isinstance(value, bytes) else value.encode())
        if len(found[RELAY]) != 1 or not hmac.compare_digest(found[RELAY][0], self.secret):
            return None
        try:
            [text] = found[CALLER]
            return RelayedCaller.of(text)
        except (ValueError, TypeError):
            return None

    def _refused(self, method: str, caller: RelayedCaller | None, code: grpc.StatusCode, reason: str) -> Handler:
        async def refuse(_: Any, context: Any) -> None:
            # Called by no front at all, it can only be somebody on this machine.
            peer = caller.peer if caller is not None else context.peer()
            self._note_refused(caller, peer, method, code.name)
            await _abort(context, code, reason)

        # Whatever the method takes: nothing of it is read.
        return grpc.stream_stream_rpc_method_handler(refuse)

    def _note_refused(self, caller: RelayedCaller | None, peer: str, method: str, code: str) -> None:
        """Some a second: who may do nothing may not fill the disk either. The next line says how many have none."""
        now_s = self._now_s()
        self._lines_left += (now_s - self._filled_s) * AUDIT_REFUSED_PER_S
        self._lines_left = min(self._lines_left, float(AUDIT_REFUSED_BURST))
        self._filled_s = now_s
        if self._lines_left < 1.0:
            self._suppressed += 1
            return
        self._lines_left -= 1.0
        more: dict[str, Any] = {"suppressed": self._suppressed} if self._suppressed else {}
        self._suppressed = 0
        name = "" if caller is None else caller.name
        self._writer.submit(self._write, partial(self._trail.write, name, peer, method, code, **more))

    def _write(self, write: Callable[[], str]) -> str:
        """The digest of the line; empty: it could not be written."""
        try:
            return write()
        except OSError as error:
            self.lines_failed += 1
            log.critical("the audit trail cannot be written", error=str(error))
            return ""

    async def _line(self, write: Callable[[], str]) -> str:
        """Written also if the caller does not listen any more."""
        return await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._writer, self._write, write))

    def close(self) -> None:
        """Returns once all lines are written."""
        self._writer.shutdown()

    def _wrapped(self, handler: Handler, method: str, caller: RelayedCaller, changes: bool) -> Handler:
        kind = f"{'stream' if handler.request_streaming else 'unary'}_"
        kind += "stream" if handler.response_streaming else "unary"
        serve = getattr(handler, kind)
        if inspect.isasyncgenfunction(serve):

            async def generate(request: Any, context: Any) -> Any:
                async for answer in serve(request, Stripped(context, caller)):
                    yield answer

            wrapped: Any = generate
        elif inspect.iscoroutinefunction(serve):

            async def answer(request: Any, context: Any) -> Any:
                return await serve(request, Stripped(context, caller))

            wrapped = answer
        else:
            # gRPC runs those in threads.
            def answer_at_once(request: Any, context: Any) -> Any:
                return serve(request, Stripped(context, caller))

            wrapped = answer_at_once
        if changes:
            wrapped = self._recorded(wrapped, method, caller)
        return handler._replace(**{kind: wrapped})

    def _recorded(self, serve: Any, method: str, caller: RelayedCaller) -> Any:
        """A line before it is carried out, without which it is not, and one that says how it ended.

        What changes something is a unary call that does not block: anything else would need more than this.
        """
        if not inspect.iscoroutinefunction(serve):
            raise AssertionError(f"{method} changes something, and is not a coroutine")

        async def answer(request: Any, context: Any) -> Any:
            summary = summary_of(request) if hasattr(request, "ListFields") else {}
            line = partial(self._trail.write, caller.name, caller.peer, method, summary=summary)
            begun, code = "", grpc.StatusCode.UNKNOWN.name
            try:
                begun = await self._line(partial(line, BEGUN))
                if not begun:
                    await _abort(context, grpc.StatusCode.UNAVAILABLE, "AUDIT_TRAIL")
                answered = await serve(request, context)
                code = _name_of(context.code()) or grpc.StatusCode.OK.name
                return answered
            except asyncio.CancelledError:
                code = grpc.StatusCode.CANCELLED.name
                raise
            except Exception:
                code = _name_of(context.code()) or code
                raise
            finally:
                # The caller hears of it once this line is on the disk too.
                await self._line(partial(line, code, begun=begun))

        return answer


async def _abort(context: Any, code: grpc.StatusCode, reason: str) -> None:
    sentence = {
        "CREDENTIALS": "The credentials were not accepted.",
        "SCOPE_DENIED": "The caller's scopes do not cover this method.",
        "AUDIT_TRAIL": "The audit trail cannot be written, and nothing is changed without it.",
    }[reason]
    status = status_pb2.Status(code=code.value[0], message=sentence)
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason=reason, domain="everopen.v1"))
    await context.abort(code, sentence, (("grpc-status-details-bin", status.SerializeToString()),))


def _others(metadata: Any) -> tuple[Any, ...]:
    return tuple((name, value) for name, value in metadata or () if not name.startswith(OURS))


def _name_of(code: Any) -> str:
    """Of what a context has: a number, a StatusCode, or nothing yet."""
    if not code:
        return ""
    if isinstance(code, grpc.StatusCode):
        return code.name
    return next((known.name for known in grpc.StatusCode if known.value[0] == code), str(code))
