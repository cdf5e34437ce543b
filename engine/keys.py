"""API keys: made, listed, revoked, and proved.

A key is `eo_` + id + `_` + secret. The secret is 256 random bits and a checksum over all that stands before it, so that
scanners for leaked secrets can tell a key from a look-alike. `keys.json` holds the SHA-256 of the secret alone: nothing
slower is needed against guessing when what is guessed is 256 random bits.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import os
import re
import secrets
import stat
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import orjson

from engine.datadir import give_to_owner, sync_directory
from engine.grants import Grants, IdentityError, is_name
from engine.limits import CALLER_NAME_BYTES_MAX, IDENTITY_FILE_BYTES_MAX

KEYS: Final = "keys.json"
KEYS_TEMPORARY: Final = f".{KEYS}.tmp"
# There from the first key on: callers must show a credential, whatever becomes of the keys.
REQUIRED: Final = "authentication.required"
REQUIRED_TEXT: Final = b"""\
Keys were made for this engine, so that nobody gets in without credential, also if keys.json is lost.
To let in everybody who reaches it once more: stop the engine, and remove keys.json and this file.
"""
FORMAT_VERSION: Final = 1
ID_CHARACTERS: Final = 12
SECRET_BYTES: Final = 32
# 256 bits, and 32, to the base of 62.
SECRET_CHARACTERS: Final = 43
CHECKSUM_CHARACTERS: Final = 6
# Room for the kind that stands before a caller's name.
KEY_NAME_BYTES_MAX: Final = CALLER_NAME_BYTES_MAX - len("key:")
KEY: Final = re.compile(
    rb"eo_([0-9A-Za-z]{%d})_([0-9A-Za-z]{%d})([0-9A-Za-z]{%d})"
    % (ID_CHARACTERS, SECRET_CHARACTERS, CHECKSUM_CHARACTERS)
)
_DIGITS: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
# Compared with when an id is not known, so that this takes as long.
_NOBODYS: Final = bytes(32)


class NoSuchKey(IdentityError):
    """An id that no key has."""


@dataclass(frozen=True)
class ApiKey:
    id: str
    # Of the secret, without its checksum.
    sha256: bytes
    name: str
    grants: Grants
    created_unix_ms: int
    # 0: never, as is revoked_unix_ms.
    expires_unix_ms: int = 0
    revoked_unix_ms: int = 0

    def is_valid(self, now_unix_ms: int) -> bool:
        return not self.revoked_unix_ms and not 0 < self.expires_unix_ms <= now_unix_ms

    def as_json(self) -> dict[str, Any]:
        """Without the hash, which is of use to nobody but who proves a key."""
        return {
            "id": self.id,
            "name": self.name,
            **self.grants.as_json(),
            "created_unix_ms": self.created_unix_ms,
            "expires_unix_ms": self.expires_unix_ms,
            "revoked_unix_ms": self.revoked_unix_ms,
        }


class Keys:
    """What keys.json holds, by id."""

    def __init__(self, keys: dict[str, ApiKey]) -> None:
        self._keys = keys

    def __len__(self) -> int:
        return len(self._keys)

    def prove(self, credential: bytes, now_unix_ms: int) -> ApiKey | None:
        parts = KEY.fullmatch(credential)
        if parts is None or not hmac.compare_digest(parts[3], _checksum(credential[: parts.start(3)])):
            return None
        found = self._keys.get(parts[1].decode())
        same = hmac.compare_digest(hashlib.sha256(parts[2]).digest(), found.sha256 if found else _NOBODYS)
        return found if found is not None and same and found.is_valid(now_unix_ms) else None


def parse(data: bytes, file: str) -> dict[str, ApiKey]:
    """Raises IdentityError."""
    try:
        held = orjson.loads(data)
        if held["format_version"] != FORMAT_VERSION:
            raise IdentityError(f"{file}: format version {held['format_version']}; this program knows {FORMAT_VERSION}")
        keys = [_of_json(fields) for fields in held["keys"]]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise IdentityError(f"{file}: cannot be read: {type(error).__name__}: {error}") from None
    if len({key.id for key in keys}) != len(keys):
        raise IdentityError(f"{file}: two keys have one id")
    return {key.id: key for key in keys}


def read(data_dir: Path) -> dict[str, ApiKey]:
    """Of a data directory; none if nobody has made one yet. Raises IdentityError, OSError."""
    path = data_dir / KEYS
    try:
        data = read_private(path)
    except FileNotFoundError:
        return {}
    return parse(data, str(path))


def read_private(path: Path) -> bytes:
    """A file that others may write would let them make themselves a key. Raises IdentityError, OSError."""
    with path.open("rb") as file:
        found = os.fstat(file.fileno())
        # Whose the folder is could put another file there.
        owners = (os.getuid(), 0, path.parent.stat().st_uid)
        if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH) or found.st_uid not in owners:
            raise IdentityError(f"{path}: others may write it; it must be its owner's alone (chmod 600)")
        if found.st_size > IDENTITY_FILE_BYTES_MAX:
            raise IdentityError(f"{path}: more than {IDENTITY_FILE_BYTES_MAX} bytes")
        return file.read()


def is_required(data_dir: Path) -> bool:
    """Whether keys were ever made there. Where that cannot be seen, they were."""
    try:
        os.lstat(data_dir / REQUIRED)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


def require(data_dir: Path) -> None:
    """Durable when this returns; that the file is there is all that counts. Raises OSError."""
    if is_required(data_dir):
        return
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    with suppress(FileExistsError), os.fdopen(os.open(data_dir / REQUIRED, flags, 0o600), "wb") as file:
        give_to_owner(file.fileno(), data_dir)
        file.write(REQUIRED_TEXT)
        file.flush()
        os.fsync(file.fileno())
    sync_directory(data_dir)


def make(data_dir: Path, name: str, grants: Grants, now_unix_ms: int, expires_unix_ms: int = 0) -> tuple[ApiKey, str]:
    """The key, and its text, which is nowhere else. Raises ValueError for what cannot be a key."""
    if not is_name(name, KEY_NAME_BYTES_MAX):
        raise ValueError(f"a name has 1 to {KEY_NAME_BYTES_MAX} bytes that can be printed")
    if expires_unix_ms and expires_unix_ms <= now_unix_ms:
        raise ValueError("the key would have expired already")
    with _changing(data_dir) as keys:
        while (key_id := "".join(secrets.choice(_DIGITS) for _ in range(ID_CHARACTERS))) in keys:
            pass
        secret = _to_base_62(int.from_bytes(secrets.token_bytes(SECRET_BYTES)), SECRET_CHARACTERS)
        made = ApiKey(key_id, hashlib.sha256(secret).digest(), name, grants, now_unix_ms, expires_unix_ms)
        keys[key_id] = made
    head = b"eo_" + key_id.encode() + b"_" + secret
    return made, (head + _checksum(head)).decode()


def revoke(data_dir: Path, key_id: str, now_unix_ms: int) -> ApiKey:
    """It stays in the list, so that its id is never another's. A second time changes nothing. Raises NoSuchKey."""
    with _changing(data_dir) as keys:
        if key_id not in keys:
            raise NoSuchKey(f"{key_id}: no key has this id")
        if not keys[key_id].revoked_unix_ms:
            keys[key_id] = replace(keys[key_id], revoked_unix_ms=now_unix_ms)
        return keys[key_id]


@contextmanager
def _changing(data_dir: Path) -> Iterator[dict[str, ApiKey]]:
    """The keys, to change them; one at a time, written at the end: all or nothing, and durable when this returns."""
    lock = os.open(data_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        keys = read(data_dir)
        yield keys
        held = [key.as_json() | {"sha256": key.sha256.hex()} for key in keys.values()]
        _write(data_dir, orjson.dumps({"format_version": FORMAT_VERSION, "keys": held}, option=orjson.OPT_INDENT_2))
    finally:
        os.close(lock)


def _write(data_dir: Path, text: bytes) -> None:
    temporary = data_dir / KEYS_TEMPORARY
    temporary.unlink(missing_ok=True)
    opened: Callable[[str, int], int] = lambda path, flags: os.open(path, flags | os.O_EXCL, 0o600)  # noqa: E731
    with open(temporary, "wb", opener=opened) as file:
        file.write(text)
        give_to_owner(file.fileno(), data_dir)
        file.flush()
        os.fsync(file.fileno())
    # Before there are keys, so that there are never any without it; and not before there is room for them.
    require(data_dir)
    temporary.rename(data_dir / KEYS)
    sync_directory(data_dir)


def _of_json(fields: dict[str, Any]) -> ApiKey:
    fields = dict(fields)
    key_id, name, digest = fields.pop("id"), fields.pop("name"), bytes.fromhex(fields.pop("sha256"))
    times = [fields.pop(f"{what}_unix_ms") for what in ("created", "expires", "revoked")]
    if not re.fullmatch(rf"[0-9A-Za-z]{{{ID_CHARACTERS}}}", key_id) or len(digest) != len(_NOBODYS):
        raise ValueError("not the id or the hash of a key")
    if not is_name(name, KEY_NAME_BYTES_MAX):
        raise ValueError("not the name of a key")
    if not all(type(time) is int and time >= 0 for time in times):
        raise ValueError("a time is a whole number of milliseconds")
    return ApiKey(key_id, digest, name, Grants.of(fields), *times)


def _checksum(head: bytes) -> bytes:
    return _to_base_62(zlib.crc32(head), CHECKSUM_CHARACTERS)


def _to_base_62(number: int, characters: int) -> bytes:
    digits = []
    for _ in range(characters):
        number, digit = divmod(number, len(_DIGITS))
        digits.append(_DIGITS[digit])
    assert number == 0
    return "".join(reversed(digits)).encode()
