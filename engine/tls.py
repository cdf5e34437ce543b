"""The certificate files of `serve`: read, checked, and watched while it runs. Only their paths go from one process to
another; each worker reads them itself."""

from __future__ import annotations

import asyncio
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

import structlog

from engine._core import check_tls
from engine.errors import EveropenError

# How often the files are looked at.
LOOK_S: Final = 1.0
# What a key file may not let anybody else do; a group that reads it is how secrets are often handed to a service.
KEY_MODE_FORBIDDEN: Final = stat.S_IRWXO | stat.S_IWGRP
FILE_BYTES_MAX: Final = 1024 * 1024

NONE, OPTIONAL, REQUIRED = "none", "optional", "required"
CLIENTS: Final = (NONE, OPTIONAL, REQUIRED)
# By what the native front calls it.
OPTION_OF: Final = {"certificate": "--tls-cert", "key": "--tls-key", "client_ca": "--tls-ca"}

log = structlog.get_logger()


class TlsError(EveropenError):
    """A certificate file cannot be used. Says which option, which file, and why."""


class Pem(NamedTuple):
    """What the native front is given."""

    certificate: bytes
    key: bytes
    client_ca: bytes | None
    client_required: bool


class Front(Protocol):
    def tls(self, certificate: bytes, key: bytes, client_ca: bytes | None, client_required: bool) -> None: ...
    def tls_kept(self) -> None: ...


@dataclass(frozen=True)
class TlsFiles:
    """What was asked for."""

    certificate: str
    key: str
    ca: str | None
    # Whether clients show a certificate: one of CLIENTS.
    client: str

    @classmethod
    def of(cls, certificate: Path | None, key: Path | None, ca: Path | None, client: str | None) -> TlsFiles | None:
        """Of the options; None if they ask for no TLS. Raises ValueError with a sentence."""
        if client not in (None, *CLIENTS):
            raise ValueError(f"--tls-client is one of {', '.join(CLIENTS)}")
        if certificate is None and key is None:
            if ca is not None or client not in (None, NONE):
                raise ValueError("--tls-ca and --tls-client need --tls-cert and --tls-key")
            return None
        if certificate is None or key is None:
            raise ValueError("--tls-cert and --tls-key go together")
        client = client or (NONE if ca is None else REQUIRED)
        if (client == NONE) != (ca is None):
            raise ValueError("--tls-ca goes with --tls-client optional or required")
        # Symbolic links stay what they are: certificates are often exchanged by moving one.
        return cls(
            os.path.abspath(certificate), os.path.abspath(key), None if ca is None else os.path.abspath(ca), client
        )

    @property
    def paths(self) -> dict[str, str]:
        named = {"certificate": self.certificate, "key": self.key}
        return named if self.ca is None else named | {"client_ca": self.ca}

    def read(self) -> Pem:
        """Raises TlsError, also for what is there and does not fit together."""
        texts = {name: _read(name, path) for name, path in self.paths.items()}
        pem = Pem(texts["certificate"], texts["key"], texts.get("client_ca"), self.client == REQUIRED)
        try:
            check_tls(*pem)
        except ValueError as error:
            name, _, reason = str(error).partition(": ")
            if name not in OPTION_OF:
                raise TlsError(str(error)) from None
            raise TlsError(f"{OPTION_OF[name]} {self.paths[name]}: {reason}") from None
        return pem

    def failures(self) -> list[str]:
        """What is wrong with them, in words."""
        try:
            self.read()
        except TlsError as error:
            return [str(error)]
        return []

    def marks(self) -> list[Any]:
        """Differs once a file does."""
        return [_mark(path) for path in self.paths.values()]


def _read(name: str, path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            if name == "key" and os.fstat(file.fileno()).st_mode & KEY_MODE_FORBIDDEN:
                raise TlsError(f"{OPTION_OF[name]} {path}: others can read or change it; say: chmod 600 {path}")
            text = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise TlsError(f"{OPTION_OF[name]} {path}: {error.strerror}") from None
    if len(text) > FILE_BYTES_MAX:
        raise TlsError(f"{OPTION_OF[name]} {path}: more than {FILE_BYTES_MAX} bytes are no PEM file")
    return text


def _expiry(pem: Pem) -> int:
    # Takes a tenth of a second to load, which nobody pays who serves in plaintext.
    from engine.certificates import expiry_of

    return expiry_of(pem.certificate)


def _mark(path: str) -> tuple[int, ...] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


class Certificates:
    """The files as they were when they last held; a front that is attached has what they say."""

    def __init__(self, files: TlsFiles) -> None:
        """Raises TlsError."""
        self._files = files
        self._front: Front | None = None
        self._marks = files.marks()
        self._pem = files.read()
        self.expires_unix_s = _expiry(self._pem)

    def attach(self, front: Front) -> None:
        self._front = front
        front.tls(*self._pem)

    def look(self, again: bool = False) -> None:
        """Takes what has changed; `again`: also what has not. What does not hold is said, and what was there goes on.

        Files are exchanged one after the other, so what does not fit together may do so a second later.
        """
        marks = self._files.marks()
        if marks == self._marks and not again:
            return
        self._marks = marks
        try:
            pem = self._files.read()
        except TlsError as error:
            log.error("certificates cannot be read again; those that were there go on", error=str(error))
            if self._front is not None:
                self._front.tls_kept()
            return
        if pem != self._pem or again:
            self._pem = pem
            self.expires_unix_s = _expiry(pem)
            if self._front is not None:
                self._front.tls(*pem)
            log.info("certificates were read again")

    async def watch(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            self.look()
