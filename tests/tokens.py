"""An issuer for the tests: its keys, and what it signs."""

from __future__ import annotations

import base64
import json
import time
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

ISSUER = "https://issuer.example"
AUDIENCE = "everopen"
# Made once: a key of RSA takes a tenth of a second.
RSA = rsa.generate_private_key(65_537, 2_048)
OTHER_RSA = rsa.generate_private_key(65_537, 2_048)
EC = ec.generate_private_key(ec.SECP256R1())
ED = ed25519.Ed25519PrivateKey.generate()
BY_ALGORITHM: dict[str, Any] = {"RS256": RSA, "PS256": RSA, "ES256": EC, "EdDSA": ED}


def pem(*keys: Any) -> bytes:
    return b"".join(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo) for key in keys)


def jwk(key: Any, **fields: Any) -> dict[str, Any]:
    of_type: Any = {
        rsa.RSAPrivateKey: jwt.algorithms.RSAAlgorithm,
        ec.EllipticCurvePrivateKey: jwt.algorithms.ECAlgorithm,
        ed25519.Ed25519PrivateKey: jwt.algorithms.OKPAlgorithm,
    }
    [algorithm] = [found for kind, found in of_type.items() if isinstance(key, kind)]
    made: dict[str, Any] = json.loads(algorithm.to_jwk(key.public_key()))
    return made | fields


def jwks(*keys: dict[str, Any]) -> bytes:
    return json.dumps({"keys": keys}).encode()


def claims(**changed: Any) -> dict[str, Any]:
    """Those of a good token; None takes one away."""
    now = int(time.time())
    good = {"iss": ISSUER, "aud": AUDIENCE, "sub": "till", "exp": now + 600, "scope": "orders:write orders:read"}
    return {name: value for name, value in (good | changed).items() if value is not None}


def token(key: Any = ED, algorithm: str = "EdDSA", headers: dict[str, Any] | None = None, **changed: Any) -> bytes:
    return jwt.encode(claims(**changed), key, algorithm, headers).encode()


def raw(header: Any, payload: Any, signature: bytes = b"") -> bytes:
    """What no library would make."""
    parts = [part if isinstance(part, bytes) else json.dumps(part).encode() for part in (header, payload)]
    return b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in (*parts, signature))


def write(path: Path, data: bytes) -> Path:
    """As programs should replace a file: whole, and its owner's alone."""
    temporary = path.with_suffix(".new")
    temporary.write_bytes(data)
    temporary.chmod(0o600)
    return temporary.rename(path)
