"""What a credential stands for: one of a caller, out of API keys, tokens and the names of certificates.

A worker has one Authenticator, which one thread of its asks (engine/credentials.py). The files that it knows are looked
at each second; one that cannot be used is said aloud, and what was known before stays.
"""

from __future__ import annotations

import time
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

import structlog

from engine import keys as api_keys
from engine.grants import QUOTAS, Grants, IdentityError, is_name
from engine.keys import Keys
from engine.limits import CALLER_NAME_BYTES_MAX

if TYPE_CHECKING:
    from engine.tokens import Tokens

# For whoever stands in no list.
ANY: Final = "*"
SETTLED_NS: Final = 2_000_000_000
log = structlog.get_logger()
Held = TypeVar("Held")


class Kind(IntEnum):
    """As the front counts them."""

    BEARER = 1
    API_KEY = 2
    CERTIFICATE = 3


@dataclass(frozen=True)
class Caller:
    """What the front keeps of who has shown a credential."""

    # The kind, a colon and the name, so that a token's subject is never taken for a key. Never a secret.
    name: str
    scopes: frozenset[str]
    # None: all.
    shops: frozenset[str] | None
    # 0: never.
    expires_unix_ms: int = 0
    # 0: no bound.
    orders_per_s: int = 0
    burst: int = 0
    bytes_in_flight: int = 0
    connections: int = 0


@dataclass(frozen=True)
class IdentitySettings:
    """What `serve` was told of who may call. The supervisor passes it on in its messages."""

    data_dir: str
    jwt_issuer: str = ""
    jwt_audience: str = ""
    jwt_keys: str = ""
    callers: str = ""
    # Clients may show a certificate.
    client_ca: bool = False
    # Every address is loopback or a unix socket.
    only_local: bool = True


@dataclass(frozen=True)
class Known:
    """Of callers.toml: certificates by the name in them, and the quotas of tokens by their subject."""

    certificates: dict[str, Grants]
    tokens: dict[str, Grants]


def check(settings: IdentitySettings) -> None:
    """Before anything is served. Raises IdentityError if a file cannot be used; says whom the engine lets in."""
    found = Authenticator(settings)
    if found.failures:
        raise IdentityError("; ".join(found.failures))
    if not found.required:
        log.warning("callers are anonymous and may do everything: only this machine reaches the engine")
    elif not ((settings.client_ca and settings.callers) or settings.jwt_keys or found.has_keys):
        log.warning("nobody is let in: there is no key, no issuer, and no file of callers; see everopen keys make")


class Watched(Generic[Held]):
    """A file, and what was made of its content the last time that it could be used."""

    def __init__(self, path: Path, parse: Callable[[bytes, str], Held], missing: Held | None = None) -> None:
        """missing: what it holds before it is there for the first time; None: it must be there."""
        self.path = path
        self.held = missing
        self.failure = ""
        self._parse = parse
        self._may_miss = missing is not None
        self._seen: tuple[int, ...] = ()
        self._data: bytes | None = None

    def look(self) -> bool:
        """Whether it holds something else now. A failure is kept in words, and tried again at the next look."""
        try:
            found = self.path.stat()
            seen = (found.st_mtime_ns, found.st_size, found.st_ino, found.st_dev, found.st_mode, found.st_uid)
            if seen == self._seen and not self.failure:
                return False
            data = api_keys.read_private(self.path)
            changed = data != self._data
            if changed:
                self.held = self._parse(data, str(self.path))
            # One that was written a moment ago may be written again within the same tick of the file system's clock.
            settled = time.time_ns() - found.st_mtime_ns > SETTLED_NS
            self._seen, self._data, self.failure = seen if settled else (), data, ""
        except FileNotFoundError as error:
            self.failure = "" if self._may_miss and self._data is None else str(error)
            return False
        except (IdentityError, OSError) as error:
            self.failure = str(error)
            return False
        return changed


class Authenticator:
    """Used by one thread. `epoch` counts what was changed; who was known before one must be asked about again."""

    def __init__(self, settings: IdentitySettings, now_unix_ms: Callable[[], int] | None = None) -> None:
        """Never raises: while a file cannot be used, nobody is let in by it, and nobody without credential."""
        self.epoch = 0
        self._settings = settings
        self._now_unix_ms = now_unix_ms or (lambda: time.time_ns() // 1_000_000)
        self._keys: Watched[Keys] = Watched(
            Path(settings.data_dir) / api_keys.KEYS, lambda data, file: Keys(api_keys.parse(data, file)), Keys({})
        )
        self._files: list[Watched[Any]] = [self._keys]
        self._tokens: Watched[Tokens] | None = None
        self._known: Watched[Known] | None = None
        if settings.jwt_keys:
            self._tokens = Watched(Path(settings.jwt_keys), self._parse_tokens)
            self._files.append(self._tokens)
        if settings.callers:
            self._known = Watched(Path(settings.callers), parse_callers)
            self._files.append(self._known)
        self._said: list[str] = []
        self.reload()

    @property
    def failures(self) -> list[str]:
        """What is wrong with the files, in words."""
        return [file.failure for file in self._files if file.failure]

    @property
    def required(self) -> bool:
        """Whether a call without credential is refused.

        A key that was revoked counts: to take away the last one must not let everybody in.
        """
        settings = self._settings
        configured = settings.client_ca or bool(settings.jwt_keys) or self.has_keys
        return configured or not settings.only_local or bool(self.failures)

    @property
    def has_keys(self) -> bool:
        return bool(self._keys.held)

    def reload(self) -> bool:
        """Looks at the files; True if something has changed, and the epoch with it."""
        before = self.required if self.epoch else None
        looked = [file.look() for file in self._files]
        failures = self.failures
        if failures != self._said:
            for failure in failures:
                log.error("a file that says who may call cannot be used: what was known before stays", error=failure)
            self._said = failures
        if not any(looked) and before == self.required:
            return False
        self.epoch += 1
        return True

    def caller_of(self, kind: int, credential: bytes) -> Caller | None:
        """None: it is malformed, unknown, expired or revoked, or was made for somebody else."""
        match kind:
            case Kind.API_KEY:
                return self._of_key(credential)
            case Kind.BEARER:
                return self._of_token(credential)
            case Kind.CERTIFICATE:
                return self._of_certificate(credential)
            case _:
                return None

    def _of_key(self, credential: bytes) -> Caller | None:
        assert self._keys.held is not None
        key = self._keys.held.prove(credential, self._now_unix_ms())
        return None if key is None else _caller(f"key:{key.name}", key.grants, key.expires_unix_ms)

    def _of_token(self, credential: bytes) -> Caller | None:
        claims = self._tokens.held.prove(credential) if self._tokens and self._tokens.held else None
        if claims is None:
            return None
        quotas = Grants()
        if self._known is not None and self._known.held is not None:
            tokens = self._known.held.tokens
            quotas = tokens.get(claims.subject) or tokens.get(ANY) or quotas
        grants = replace(quotas, scopes=claims.scopes, shops=claims.shops)
        return _caller(f"token:{claims.subject}", grants, claims.expires_unix_ms)

    def _of_certificate(self, der: bytes) -> Caller | None:
        # Not needed by an engine that nobody shows a certificate.
        from engine.certificates import subject_of

        subject = subject_of(der)
        if subject is None or self._known is None or self._known.held is None:
            return None
        grants = self._known.held.certificates.get(subject.name)
        if grants is None or subject.expires_unix_ms <= self._now_unix_ms():
            return None
        return _caller(f"certificate:{subject.name}", grants, subject.expires_unix_ms)

    def _parse_tokens(self, data: bytes, file: str) -> Tokens:
        from engine.tokens import Tokens, parse_keys

        return Tokens(self._settings.jwt_issuer, self._settings.jwt_audience, parse_keys(data, file))


def _caller(name: str, grants: Grants, expires_unix_ms: int) -> Caller:
    quotas = {quota: getattr(grants, quota) for quota in QUOTAS}
    return Caller(name, grants.scopes, grants.shops, expires_unix_ms, **quotas)


def parse_callers(data: bytes, file: str) -> Known:
    """callers.toml. Raises IdentityError."""
    try:
        held = tomllib.loads(data.decode())
        if held.keys() - {"certificates", "tokens"}:
            raise ValueError(f"{', '.join(sorted(held.keys() - {'certificates', 'tokens'}))}: not known")
        tables = {kind: {} for kind in ("certificates", "tokens")}  # type: dict[str, dict[str, Grants]]
        for kind, named in tables.items():
            for name, fields in held.get(kind, {}).items():
                if not is_name(name, CALLER_NAME_BYTES_MAX - len("certificate:")):
                    raise ValueError(f"{kind}: {name!r} is not a name of at most {CALLER_NAME_BYTES_MAX} bytes")
                if kind == "tokens" and not set(fields) <= set(QUOTAS):
                    raise ValueError(f"{kind}.{name}: only quotas; what a token may do stands in the token")
                try:
                    named[name] = Grants.of(fields)
                except ValueError as error:
                    raise ValueError(f"{kind}.{name}: {error}") from None
    except (ValueError, TypeError, AttributeError) as error:
        raise IdentityError(f"{file}: cannot be read: {error}") from None
    return Known(**tables)
