"""What a log line hides: fields that say who somebody is, and whatever looks like a secret, wherever it stands."""

from __future__ import annotations

import re
from typing import Any, Final

import structlog

MASK: Final = "***"
# A field is masked if one of the words of its name is one of these: buyer_id, deviceId, SHIPPING-ADDRESS.
WORDS: Final = frozenset(
    {
        "address",
        "apikey",
        "authorization",
        "buyer",
        "cookie",
        "credential",
        "device",
        "email",
        "jwt",
        "mail",
        "password",
        "phone",
        "secret",
        "token",
    }
)
# Beyond that somebody logs a structure that nobody would read.
DEPTH_MAX: Final = 8

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
# In this order. A name in front of a secret stays, so that the line still says what was there.
_SECRETS = (
    # Also without a name in front: a key of this engine, and a JWT, whose header always begins with {" in base64.
    re.compile(r"()eo_[\w.~+/=-]{8,}"),
    re.compile(r"()eyJ[\w-]*(?:\.[\w-]*)+=*"),
    re.compile(r"((?:bearer|basic|apikey)\s+)[^\s\"',;)\]}]+", re.IGNORECASE),
    re.compile(r"((?:authorization|x-api-key)\W{1,8}(?:(?:bearer|basic|apikey)\s+)?)[^\s\"',;)\]}]+", re.IGNORECASE),
)


def mask_text(text: str) -> str:
    for secret in _SECRETS:
        text = secret.sub(rf"\g<1>{MASK}", text)
    return text


def is_masked(name: str) -> bool:
    """Whether a field of this name says who somebody is, or is a secret itself."""
    words = [word.lower() for word in _WORD.findall(name)]
    return not WORDS.isdisjoint(words) or ("api" in words and "key" in words)


def mask(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """The processor. It comes right before the renderer, so that no other one adds anything behind it."""
    return {mask_text(name): MASK if is_masked(name) else _masked(value, DEPTH_MAX) for name, value in event.items()}


def _masked(value: Any, depth: int) -> Any:
    """A copy: what was logged belongs to somebody else."""
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, str):
        return mask_text(value)
    if depth == 0:
        return MASK
    if isinstance(value, dict):
        return {
            mask_text(str(name)): MASK if is_masked(str(name)) else _masked(item, depth - 1)
            for name, item in value.items()
        }
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_masked(item, depth - 1) for item in value]
    # Bytes, paths, exceptions, messages: as the renderer would write them.
    return mask_text(repr(value))
