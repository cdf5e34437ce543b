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
# What may fail: labels of a metric.
FILES: Final = ("keys", "jwks", "callers")
LOST: Final = (
    "{path}: is gone, though keys were made. Nobody gets in by a key, but where a process remembers it, and nobody "
    "without credential. Put the file back, or make new keys (everopen keys make). To let in everybody who reaches "
    "the engine, as before the first key, stop it and remove {mark}"
)
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
    # There were keys when the supervisor began; what it says to its children goes by that while it lives.
    had_keys: bool = False


@dataclass(frozen=True)
class Known:
    """Of callers.toml: certificates by the name in them, and the quotas of tokens by their subject."""

    certificates: dict[str, Grants]
    tokens: dict[str, Grants]


class Watched(Generic[Held]):
    """A file, and what was made of its content the last time that it could be used."""

    def __init__(self, name: str, path: Path, parse: Callable[[bytes, str], Held], held: Held | None = None) -> None:
        """name: one of FILES. held: before it is there for the first time."""
        self.name = name
        self.path = path
        self.held = held
        self.failure = ""
        # What is said if it is not there; empty: it need not be.
        self.missing = f"{path}: No such file or directory"
        # Looks that failed.
        self.failed = 0
        self._parse = parse
        self._seen: tuple[int, ...] = ()
        self._data: bytes | None = None

    def look(self) -> bool:
        """Whether it holds something else now. Never raises: a failure is kept in words, and tried again each time."""
        try:
            changed, self.failure = self._look(), ""
            return changed
        except (FileNotFoundError, NotADirectoryError):
            self.failure = self.missing
        except (IdentityError, OSError) as error:
            self.failure = str(error)
        except Exception as error:
            # What no parser foresaw ends nobody. Not the text, which may quote the file.
            self.failure = f"{self.path}: cannot be read: {type(error).__name__}"
        self.failed += bool(self.failure)
        return False

    def _look(self) -> bool:
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
        self._seen, self._data = seen if settled else (), data
        return changed


class Authenticator:
    """Used by one thread. `epoch` counts what was changed; who was known before one must be asked about again."""

    def __init__(self, settings: IdentitySettings, now_unix_ms: Callable[[], int] | None = None) -> None:
        """Never raises: while a file cannot be used, nobody is let in by it, and nobody without credential."""
        self.epoch = 0
        # Whether there were ever keys. It never falls: who removes their file does not let everybody in.
        self.had_keys = settings.had_keys
        self._settings = settings
        self._now_unix_ms = now_unix_ms or (lambda: time.time_ns() // 1_000_000)
        self._data_dir = Path(settings.data_dir)
        self._keys: Watched[Keys] = Watched(
            "keys", self._data_dir / api_keys.KEYS, lambda data, file: Keys(api_keys.parse(data, file)), Keys({})
        )
        self._keys.missing = ""
        self._files: list[Watched[Any]] = [self._keys]
        self._tokens: Watched[Tokens] | None = None
        self._known: Watched[Known] | None = None
        if settings.jwt_keys:
            self._tokens = Watched("jwks", Path(settings.jwt_keys), self._parse_tokens)
            self._files.append(self._tokens)
        if settings.callers:
            self._known = Watched("callers", Path(settings.callers), parse_callers)
            self._files.append(self._known)
        self._said: list[str] = []
        self._mark_failure = ""
        self.reload()

    @property
    def failures(self) -> list[str]:
        """What is wrong with the files, in words."""
        return [file.failure for file in self._files if file.failure]

    @property
    def lost(self) -> str:
        """The one of the failures that says that the keys are gone; empty: they are not."""
        return self._keys.failure if self._keys.failure == self._keys.missing else ""

    @property
    def failed(self) -> dict[str, int]:
        """Looks at files that failed, by FILES. Any thread."""
        return dict.fromkeys(FILES, 0) | {file.name: file.failed for file in self._files}

    @property
    def required(self) -> bool:
        """Whether a call without credential is refused.

        A key that was revoked counts, and one that is lost: to take away the last one must not let everybody in.
        """
        settings = self._settings
        configured = settings.client_ca or bool(settings.jwt_keys) or self.had_keys
        return configured or not settings.only_local or bool(self.failures)

    def reload(self) -> bool:
        """Looks at the files; True if something has changed, and the epoch with it."""
        before = self.required if self.epoch else None
        self.had_keys |= api_keys.is_required(self._data_dir)
        if self.had_keys:
            self._keys.missing = LOST.format(path=self._keys.path, mark=self._data_dir / api_keys.REQUIRED)
        looked = [file.look() for file in self._files]
        self.had_keys |= bool(self._keys.held)
        if self.had_keys:
            self._keep_mark()
        failures = self.failures
        if failures != self._said:
            for failure in failures:
                say = log.critical if failure == self.lost else log.error
                say("a file that says who may call cannot be used: what was known before stays", error=failure)
            self._said = failures
        if not any(looked) and before == self.required:
            return False
        self.epoch += 1
        return True

    def _keep_mark(self) -> None:
        """Whoever removes the mark under a running engine has not asked for it: that takes a stop."""
        failure = ""
        try:
            api_keys.require(self._data_dir)
        except OSError as error:
            failure = str(error)
        if failure and failure != self._mark_failure:
            log.error("that callers show credentials cannot be kept for the next start", error=failure)
        self._mark_failure = failure

    def tell(self) -> None:
        """Says whom the engine lets in, where that is everybody or nobody."""
        settings = self._settings
        if not self.required:
            log.warning("callers are anonymous and may do everything: only this machine reaches the engine")
        elif not ((settings.client_ca and settings.callers) or settings.jwt_keys or self._keys.held):
            log.warning("nobody is let in: there is no key, no issuer, and no file of callers; see everopen keys make")

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
