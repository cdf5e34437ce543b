"""A worker's thread that answers the front's question who has shown a credential.

The front's loop never waits for Python: it puts what it does not know into a list, and the calls wait. Proving a token
takes some hundred microseconds, so it is not for the worker's event loop either. The same thread looks at the files
that say who may call, so nothing here needs a lock.
"""

from __future__ import annotations

import os
import select
import threading
import time
from typing import Protocol

import structlog

from engine.exits import Exit
from engine.identity import Authenticator, Caller
from engine.limits import IDENTITY_LOOK_S

log = structlog.get_logger()


class Asking(Protocol):
    """What is needed of a NativeFront."""

    @property
    def credential_fd(self) -> int: ...
    def authenticate(self, required: bool, epoch: int) -> None: ...
    def take_credentials(self) -> list[tuple[int, int, bytes]]: ...
    def answer_credential(self, token: int, caller: Caller | None) -> None: ...


class Credentials:
    """From begin() until close(); after close() the front is not called any more."""

    def __init__(self, front: Asking, authenticator: Authenticator) -> None:
        self._front = front
        self._authenticator = authenticator
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="everopen-credentials", daemon=True)

    def begin(self) -> None:
        """The front knows before it listens whether anonymous calls are refused."""
        # Who stood by may have read the files long ago.
        self._authenticator.reload()
        self._front.authenticate(self._authenticator.required, self._authenticator.epoch)
        self._thread.start()

    def reload(self) -> None:
        """Looks at the files at once. Any thread."""
        os.eventfd_write(self._wake, 1)

    @property
    def files_failed(self) -> dict[str, int]:
        """Looks at files that failed, by kind. Any thread."""
        return self._authenticator.failed

    def close(self) -> None:
        """Whoever still waits is answered by nobody: the front ends, and refuses them."""
        self._closed = True
        os.eventfd_write(self._wake, 1)
        self._thread.join()
        os.close(self._wake)

    def _run(self) -> None:
        try:
            self._answer_all()
        except BaseException:
            # Without answers callers would wait for ever, and a revoked key would hold.
            log.exception("credentials are not proved any more")
            os._exit(Exit.WRONG)

    def _answer_all(self) -> None:
        poll = select.poll()
        poll.register(self._wake, select.POLLIN)
        poll.register(self._front.credential_fd, select.POLLIN)
        look_at = time.monotonic() + IDENTITY_LOOK_S
        while True:
            ready = {fd for fd, _ in poll.poll(max(0.0, 1_000 * (look_at - time.monotonic())))}
            if self._closed:
                return
            if self._wake in ready:
                os.eventfd_read(self._wake)
                look_at = 0.0
            if time.monotonic() >= look_at:
                self._look()
                look_at = time.monotonic() + IDENTITY_LOOK_S
            if self._front.credential_fd in ready:
                for token, kind, credential in self._front.take_credentials():
                    self._answer(token, self._caller_of(kind, credential))

    def _look(self) -> None:
        if self._authenticator.reload():
            log.info("who may call has changed", epoch=self._authenticator.epoch)
            self._front.authenticate(self._authenticator.required, self._authenticator.epoch)

    def _answer(self, token: int, caller: Caller | None) -> None:
        try:
            self._front.answer_credential(token, caller)
        except ValueError as error:
            # It bounds callers too; what it does not take is nobody.
            log.error("a caller is out of bounds, and is refused", error=str(error))
            self._front.answer_credential(token, None)

    def _caller_of(self, kind: int, credential: bytes) -> Caller | None:
        try:
            return self._authenticator.caller_of(kind, credential)
        except Exception as error:
            # What strangers send must not end a worker. Not the text of the error, which may hold the credential.
            log.error("a credential could not be judged, and is refused", kind=kind, error=type(error).__name__)
            return None
