"""Bearer tokens: JWTs of one issuer, proved with public keys out of a file.

What a key may be used for follows from the key: its type, its curve, and the `alg` of its JWK. A token's header only
chooses among that, so neither `none` nor an HMAC with a public key as its secret is ever tried. PyJWT does the rest.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import jwt
import orjson
import structlog
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from cryptography.x509 import load_pem_x509_certificate

from engine.grants import ALL_SHOPS, SCOPES, IdentityError, is_name, shops_of
from engine.limits import (
    CALLER_NAME_BYTES_MAX,
    LIMITS,
    TOKEN_BYTES_MAX,
    TOKEN_KEYS_MAX,
    TOKEN_KEYS_UNNAMED_MAX,
    TOKEN_LEEWAY_S,
)

RSA_BITS_MIN: Final = 2_048
SUBJECT_BYTES_MAX: Final = CALLER_NAME_BYTES_MAX - len("token:")
# Three parts of URL-safe base64 without padding; anything else is no JWS in compact form.
_TOKEN: Final = re.compile(rb"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
_PEM: Final = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----.+?-----END \1-----", re.DOTALL)
# Members of a JWK that only a secret has.
_SECRET_MEMBERS: Final = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth"})

PublicKey = RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey
log = structlog.get_logger()


@dataclass(frozen=True)
class Claims:
    """What a token that holds says of its bearer."""

    subject: str
    scopes: frozenset[str]
    # None: all.
    shops: frozenset[str] | None
    # From here on it is refused; the leeway is in it.
    expires_unix_ms: int


@dataclass(frozen=True)
class TokenKey:
    key: PublicKey
    algorithms: tuple[str, ...]
    kid: str | None


class Tokens:
    """Of one issuer, for one audience. Asked by one thread at a time."""

    def __init__(self, issuer: str, audience: str, keys: list[TokenKey]) -> None:
        self._issuer = issuer
        self._audience = audience
        self._keys = keys
        self._jwt = jwt.PyJWT()

    def prove(self, credential: bytes) -> Claims | None:
        if len(credential) > TOKEN_BYTES_MAX or _TOKEN.fullmatch(credential) is None:
            return None
        token = credential.decode("ascii")
        try:
            header = jwt.get_unverified_header(token)
        except (jwt.PyJWTError, ValueError, RecursionError):
            return None
        # Extensions that must be understood, and payloads that are not encoded: we know none.
        if "crit" in header or header.get("b64", True) is not True:
            return None
        algorithm = header.get("alg")
        for key in self._candidates(header.get("kid")):
            # Checked here too, so that it never depends on what the library does with the header.
            if algorithm in key.algorithms:
                claims = self._claims(token, key)
                if claims is not None:
                    return claims
        return None

    def _candidates(self, kid: Any) -> list[TokenKey]:
        """The one that is named, else those without a name; the only one there is, if the token names none."""
        unnamed = [key for key in self._keys if key.kid is None]
        if kid is None:
            return self._keys if len(self._keys) == 1 else unnamed
        return [key for key in self._keys if key.kid == kid] or unnamed

    def _claims(self, token: str, key: TokenKey) -> Claims | None:
        try:
            payload = self._jwt.decode(
                token,
                key.key,
                algorithms=key.algorithms,
                audience=self._audience,
                issuer=self._issuer,
                leeway=TOKEN_LEEWAY_S,
                options={"require": ["exp", "iss", "aud", "sub"]},
            )
            return claims_of(payload)
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError):
            return None


def claims_of(payload: Mapping[str, Any]) -> Claims:
    """Raises ValueError. A scope that is not ours is another service's."""
    subject, scope, expires = payload["sub"], payload.get("scope", ""), payload["exp"]
    if not is_name(subject, SUBJECT_BYTES_MAX):
        raise ValueError("not a subject")
    if not isinstance(scope, str):
        raise ValueError("not a scope")
    if type(expires) not in (int, float):
        raise ValueError("not a time")
    expires_unix_ms = min((int(expires) + TOKEN_LEEWAY_S) * 1_000, LIMITS["TIME_MS_MAX"])
    shops = shops_of(payload.get("shops", [ALL_SHOPS]))
    return Claims(subject, SCOPES & set(scope.split(" ")), shops, expires_unix_ms)


# The file with the keys.


def parse_keys(data: bytes, file: str) -> list[TokenKey]:
    """A JWKS, or public keys and certificates in PEM. Raises IdentityError."""
    left_out: list[str] = []
    try:
        keys = _parse_jwks(data, left_out) if data.lstrip().startswith(b"{") else _parse_pem(data)
    except (ValueError, TypeError, KeyError, AttributeError, UnsupportedAlgorithm, jwt.PyJWTError) as error:
        raise IdentityError(f"{file}: cannot be read: {error}") from None
    if not 1 <= len(keys) <= TOKEN_KEYS_MAX:
        beside = f"; left out: {', '.join(left_out[:TOKEN_KEYS_MAX])}" if left_out else ""
        raise IdentityError(f"{file}: {len(keys)} keys that prove a token; 1 to {TOKEN_KEYS_MAX} are possible{beside}")
    named = [key.kid for key in keys if key.kid is not None]
    if len(set(named)) != len(named):
        raise IdentityError(f"{file}: two keys have one kid")
    if len(keys) - len(named) > TOKEN_KEYS_UNNAMED_MAX:
        raise IdentityError(f"{file}: at most {TOKEN_KEYS_UNNAMED_MAX} keys may be without kid")
    if left_out:
        text = "keys of a JWKS are of no use here and left out; the others hold"
        log.warning(text, file=file, count=len(left_out), keys=left_out[:TOKEN_KEYS_MAX])
    return keys


def _parse_pem(data: bytes) -> list[TokenKey]:
    keys = []
    for block in _PEM.finditer(data):
        if b"PRIVATE" in block[1]:
            raise ValueError("a private key has no place here: public ones are enough")
        if block[1] == b"CERTIFICATE":
            key: Any = load_pem_x509_certificate(block[0]).public_key()
        else:
            key = load_pem_public_key(block[0])
        algorithms = algorithms_of(key)
        if not algorithms:
            raise ValueError(f"{type(key).__name__}: not a key for RS256, PS256, ES256 or EdDSA")
        keys.append(TokenKey(key, algorithms, None))
    return keys


def _parse_jwks(data: bytes, left_out: list[str]) -> list[TokenKey]:
    """left_out: gets those that are of no use here, which is not wrong in a set that others use too."""
    keys = []
    for number, fields in enumerate(orjson.loads(data)["keys"], 1):
        given = fields.get("kid") if isinstance(fields, dict) else None
        kid = given if is_name(given, TOKEN_BYTES_MAX) else None
        if isinstance(fields, dict) and _SECRET_MEMBERS & fields.keys():
            raise ValueError("a private key has no place here: public ones are enough")
        try:
            if not isinstance(fields, dict) or (given is not None and kid is None):
                raise ValueError("no object, or its kid is no name")
            keys.append(_token_key(fields, kid))
        except Exception as error:
            # Whatever a library makes of a key that it does not know: it must not void the others.
            reason = str(error) if isinstance(error, (ValueError, jwt.PyJWTError)) else type(error).__name__
            left_out.append(f"{f'kid {kid[:CALLER_NAME_BYTES_MAX]!r}' if kid else f'number {number}'} ({reason})")
    return keys


def _token_key(fields: Mapping[str, Any], kid: str | None) -> TokenKey:
    """Raises ValueError with a reason, and whatever a library does."""
    if fields.get("use", "sig") != "sig" or "verify" not in fields.get("key_ops", ["verify"]):
        raise ValueError("not for signatures")
    algorithms = algorithms_of(key := _key_of_jwk(fields))
    if "alg" in fields:
        algorithms = tuple(name for name in algorithms if name == fields["alg"])
    if not algorithms:
        raise ValueError("not for RS256, PS256, ES256 or EdDSA")
    return TokenKey(key, algorithms, kid)


def _key_of_jwk(fields: Mapping[str, Any]) -> Any:
    """None of a type that is not for us, a shared secret above all."""
    classes: dict[Any, Any] = {
        "RSA": jwt.algorithms.RSAAlgorithm,
        "EC": jwt.algorithms.ECAlgorithm,
        "OKP": jwt.algorithms.OKPAlgorithm,
    }
    of_type = classes.get(fields.get("kty"))
    return None if of_type is None else of_type.from_jwk(dict(fields))


def algorithms_of(key: Any) -> tuple[str, ...]:
    match key:
        case RSAPublicKey():
            return ("RS256", "PS256") if key.key_size >= RSA_BITS_MIN else ()
        case EllipticCurvePublicKey():
            return ("ES256",) if isinstance(key.curve, SECP256R1) else ()
        case Ed25519PublicKey():
            return ("EdDSA",)
        case _:
            return ()
