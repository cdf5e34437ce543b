"""Bearer tokens: each way to have one without being who it names."""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
from typing import Any

import pytest
import structlog
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given
from hypothesis import strategies as st

from engine.grants import IdentityError
from engine.limits import LIMITS, TOKEN_BYTES_MAX, TOKEN_LEEWAY_S
from engine.tokens import Claims, Tokens, parse_keys
from tests.tokens import AUDIENCE, BY_ALGORITHM, EC, ED, ISSUER, OTHER_RSA, RSA, claims, jwk, jwks, pem, raw, token


def proved(credential: bytes, keys: bytes) -> Claims | None:
    return Tokens(ISSUER, AUDIENCE, parse_keys(keys, "keys")).prove(credential)


ALL = jwks(jwk(RSA, kid="rsa"), jwk(EC, kid="ec"), jwk(ED, kid="ed"))


@pytest.mark.parametrize("algorithm", BY_ALGORITHM)
def test_token_of_the_issuer_holds(algorithm: str) -> None:
    key = BY_ALGORITHM[algorithm]
    found = proved(token(key, algorithm, shops=["shop"]), pem(key))
    assert found is not None
    assert (found.subject, found.scopes, found.shops) == ("till", {"orders:write", "orders:read"}, {"shop"})
    assert found.expires_unix_ms > 1_000 * time.time()


def test_token_of_another_key_is_refused() -> None:
    assert proved(token(RSA, "RS256"), pem(RSA)) is not None
    assert proved(token(OTHER_RSA, "RS256"), pem(RSA)) is None
    assert proved(token(OTHER_RSA, "PS256", {"kid": "rsa"}), ALL) is None


@pytest.mark.parametrize(
    "changed",
    [
        {"iss": "https://another.example"},
        {"iss": None},
        {"iss": [ISSUER]},
        {"aud": "another"},
        {"aud": ["another"]},
        {"aud": None},
        {"aud": []},
        {"exp": None},
        {"exp": 1},
        {"exp": "soon"},
        {"exp": True},
        {"exp": [2**40]},
        {"sub": None},
        {"sub": ""},
        {"sub": 7},
        {"sub": "x" * 200},
        {"sub": "a\nb"},
        {"nbf": 2**33},
        {"iat": 2**33},
        {"scope": ["orders:write"]},
        {"scope": 5},
        {"shops": "shop"},
        {"shops": [["shop"]]},
        {"shops": ["*", "shop"]},
        {"shops": [1]},
        {"shops": {"shop": 1}},
        {"shops": 5},
    ],
    ids=str,
)
def test_token_whose_claims_are_not_ours_is_refused(changed: dict[str, Any]) -> None:
    assert proved(raw_signed(claims(**changed)), pem(ED)) is None


def raw_signed(payload: Any, header: Any = None) -> bytes:
    """Also what a library refuses to sign."""
    unsigned = raw(header or {"alg": "EdDSA", "typ": "JWT"}, payload).rstrip(b".")
    return unsigned + b"." + raw(b"", b"", ED.sign(unsigned)).rpartition(b".")[2]


def test_shops_that_are_null_are_not_all_of_them() -> None:
    assert proved(raw_signed(claims() | {"shops": None}), pem(ED)) is None


def test_signature_by_hand_is_one() -> None:
    assert proved(raw_signed(claims()), pem(ED)) is not None


def test_times_have_a_leeway_and_no_more() -> None:
    now = int(time.time())
    near, far = TOKEN_LEEWAY_S - 10, TOKEN_LEEWAY_S + 60
    assert proved(token(exp=now - near), pem(ED)) is not None
    assert proved(token(exp=now - far), pem(ED)) is None
    for claim in ("nbf", "iat"):
        assert proved(token(**{claim: now + near}), pem(ED)) is not None
        assert proved(token(**{claim: now + far}), pem(ED)) is None
    found = proved(token(exp=now + 100), pem(ED))
    assert found is not None
    assert found.expires_unix_ms == (now + 100 + TOKEN_LEEWAY_S) * 1_000
    # A time that no clock will show.
    last = proved(raw_signed(claims(exp=10**30)), pem(ED))
    assert last is None or last.expires_unix_ms == LIMITS["TIME_MS_MAX"]


@pytest.mark.parametrize("name", ["none", "None", "NONE", "nOnE", ""])
def test_token_without_signature_is_refused(name: str) -> None:
    for keys in (pem(ED), pem(RSA), ALL):
        assert proved(raw({"alg": name, "typ": "JWT"}, claims()), keys) is None
        assert proved(raw({"alg": name, "typ": "JWT"}, claims(), b"x"), keys) is None
        assert proved(raw({"alg": name, "kid": "ed"}, claims()).rstrip(b"."), keys) is None


@pytest.mark.parametrize(("name", "digest"), [("HS256", "sha256"), ("HS384", "sha384"), ("HS512", "sha512")])
def test_hmac_with_the_public_key_as_its_secret_is_refused(name: str, digest: str) -> None:
    for secret in (pem(RSA), pem(RSA).strip(), pem(EC), ALL):
        for header in ({"alg": name}, {"alg": name, "kid": "rsa"}):
            unsigned = raw(header, claims()).rstrip(b".")
            signature = hmac.new(secret, unsigned, getattr(hashlib, digest)).digest()
            forged = unsigned + b"." + raw(b"", b"", signature).rpartition(b".")[2]
            for keys in (pem(RSA), pem(RSA, EC), ALL):
                assert proved(forged, keys) is None


def test_algorithm_is_the_keys_and_not_the_tokens() -> None:
    keys = jwks(jwk(RSA, kid="rsa", alg="PS256"))
    assert proved(token(RSA, "PS256", {"kid": "rsa"}), keys) is not None
    assert proved(token(RSA, "RS256", {"kid": "rsa"}), keys) is None
    assert proved(token(RSA, "RS512"), pem(RSA)) is None
    # Signed by one key, said to be of another kind.
    assert proved(token(EC, "ES256", {"kid": "rsa"}), ALL) is None
    assert proved(token(EC, "ES256", {"kid": "ed"}), ALL) is None


def test_kid_chooses_the_key() -> None:
    assert proved(token(ED, "EdDSA", {"kid": "ed"}), ALL) is not None
    assert proved(token(ED, "EdDSA", {"kid": "rsa"}), ALL) is None
    assert proved(token(ED, "EdDSA", {"kid": "unknown"}), ALL) is None
    assert proved(token(ED, "EdDSA"), ALL) is None
    # One key alone needs no name, and one without a name has none that could be wrong.
    assert proved(token(ED, "EdDSA"), jwks(jwk(ED, kid="ed"))) is not None
    assert proved(token(ED, "EdDSA", {"kid": "any"}), pem(RSA, ED)) is not None


@pytest.mark.parametrize("kid", [1, None, [], {}, ["ed"], "../../etc/passwd", "ed' or 1=1"], ids=str)
def test_kid_that_is_no_name_is_refused(kid: Any) -> None:
    assert proved(raw_signed(claims(), {"alg": "EdDSA", "kid": kid}), ALL) is None


def test_keys_without_a_name_are_tried_beside_named_ones() -> None:
    keys = jwks(jwk(RSA, kid="named"), jwk(ED))
    assert proved(token(ED, "EdDSA"), keys) is not None
    assert proved(token(ED, "EdDSA", {"kid": "another"}), keys) is not None
    assert proved(token(ED, "EdDSA", {"kid": "named"}), keys) is None
    assert proved(token(RSA, "RS256", {"kid": "named"}), keys) is not None
    assert proved(token(RSA, "RS256"), keys) is None


def test_key_that_a_token_brings_along_is_not_used() -> None:
    for header in ({"jwk": jwk(OTHER_RSA)}, {"jku": "https://evil.example/keys"}, {"x5u": "https://evil.example"}):
        assert proved(token(OTHER_RSA, "RS256", header), pem(RSA)) is None


@pytest.mark.parametrize("header", [{"crit": ["exp"], "exp": 1}, {"crit": []}, {"b64": False}, {"b64": 0}], ids=str)
def test_extension_that_must_be_understood_is_refused(header: dict[str, Any]) -> None:
    assert proved(raw_signed(claims(), {"alg": "EdDSA"} | header), pem(ED)) is None


def test_token_that_is_too_long_is_refused() -> None:
    filler = "x" * (TOKEN_BYTES_MAX * 3 // 4 - 400)
    fits, too_long = token(filler=filler), token(filler=filler + "x" * 800)
    assert len(fits) <= TOKEN_BYTES_MAX < len(too_long)
    assert proved(fits, pem(ED)) is not None
    assert proved(too_long, pem(ED)) is None


@pytest.mark.parametrize(
    "junk",
    [
        b"",
        b".",
        b"..",
        b"...",
        b"a.b.c",
        b"a.b.c.d",
        b"a.b.c.d.e",
        b"\xff.\xff.\xff",
        raw(b"[" * 2_500, b"{}", b"x"),
        raw(b"{}", b"[" * 2_500, b"x"),
        raw(b'{"alg":' * 500, b"{}", b"x"),
        raw([], {}, b"x"),
        raw("alg", "exp", b"x"),
        raw({"alg": ["EdDSA"]}, {}, b"x"),
        raw({"alg": {"EdDSA": 1}}, {}, b"x"),
        raw({"alg": None}, {}, b"x"),
        raw({}, {}, b"x"),
        raw(b"\x00", b"\x00", b"\x00"),
    ],
)
def test_junk_is_refused(junk: bytes) -> None:
    for keys in (pem(ED), ALL):
        assert proved(junk, keys) is None


@pytest.mark.parametrize(
    "payload", [[], "text", 1, None, b"[" * 2_500, b"{", b"\xff", b"NaN", b'{"exp": NaN}'], ids=str
)
def test_payload_that_is_no_claims_is_refused_though_it_is_signed(payload: Any) -> None:
    assert proved(raw_signed(payload), pem(ED)) is None


VALID = {name: token(key, name) for name, key in BY_ALGORITHM.items()}
KNOWN = Tokens(ISSUER, AUDIENCE, parse_keys(pem(RSA, EC, ED), "keys"))


@given(st.sampled_from(sorted(VALID)), st.data())
def test_token_with_any_byte_changed_never_holds(name: str, data: st.DataObject) -> None:
    good = VALID[name]
    place = data.draw(st.integers(0, len(good) - 1))
    change = data.draw(st.sampled_from(["change", "drop", "insert", "cut", "swap"]))
    byte = data.draw(st.binary(min_size=1, max_size=1))
    match change:
        case "change":
            mutant = good[:place] + byte + good[place + 1 :]
        case "drop":
            mutant = good[:place] + good[place + 1 :]
        case "insert":
            mutant = good[:place] + byte + good[place:]
        case "cut":
            mutant = good[:place]
        case _:
            other = VALID[data.draw(st.sampled_from(sorted(VALID)))]
            parts, others = good.split(b"."), other.split(b".")
            part = data.draw(st.integers(0, 2))
            mutant = b".".join([*parts[:part], others[part], *parts[part + 1 :]])
    # The last character of a part has bits that mean nothing: the same signature may be written in two ways.
    if mutant != good and decoded(mutant) != decoded(good):
        assert KNOWN.prove(mutant) is None


def decoded(text: bytes) -> list[bytes] | None:
    try:
        return [base64.urlsafe_b64decode(part + b"=" * (-len(part) % 4)) for part in text.split(b".")]
    except ValueError:
        return None


def test_keys_that_change_change_who_is_known() -> None:
    old, new = token(RSA, "RS256", {"kid": "a"}), token(OTHER_RSA, "RS256", {"kid": "b"})
    before, both = jwks(jwk(RSA, kid="a")), jwks(jwk(RSA, kid="a"), jwk(OTHER_RSA, kid="b"))
    after = jwks(jwk(OTHER_RSA, kid="b"))
    held = [[proved(each, keys) is not None for each in (old, new)] for keys in (before, both, after)]
    assert held == [[True, False], [True, True], [False, True]]


def private_pem(key: Any) -> bytes:
    return bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "0 keys"),
        (b"{", "cannot be read"),
        (b"{}", "cannot be read"),
        (b'{"keys": 5}', "cannot be read"),
        (b'{"keys": [5]}', "0 keys .*number 1"),
        (b'{"keys": []}', "0 keys"),
        (b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "cannot be read"),
        (private_pem(ED), "private"),
        (jwks({"kty": "oct", "k": "c2VjcmV0", "kid": "a"}), "0 keys"),
        (jwks(jwk(RSA, d="AQAB")), "private"),
        (jwks(jwk(RSA, use="enc")), "0 keys"),
        (jwks(jwk(RSA, alg="RS512", kid="a")), "0 keys .*kid 'a'"),
        (jwks(jwk(RSA, kid="a"), jwk(ED, kid="a")), "one kid"),
        (jwks(*(jwk(ED) for _ in range(5))), "without kid"),
        (jwks(*(jwk(ED, kid=str(n)) for n in range(65))), "65 keys"),
        (pem(rsa.generate_private_key(65_537, 1_024)), "not a key for"),
        (pem(ec.generate_private_key(ec.SECP384R1())), "not a key for"),
    ],
)
def test_file_without_usable_keys_is_refused_and_named(data: bytes, what: str) -> None:
    with pytest.raises(IdentityError, match=f"the-file: .*{what}"):
        parse_keys(data, "the-file")


FOREIGN: list[Any] = [
    5,
    None,
    [],
    {},
    jwk(RSA, kid=7),
    jwk(RSA, kid="x" * 9_000),
    jwk(RSA, kid="foreign", use="enc"),
    jwk(RSA, kid="foreign", key_ops=["encrypt"]),
    jwk(RSA, kid="foreign", key_ops=5),
    jwk(RSA, kid="foreign", alg="RS512"),
    jwk(RSA, kid="foreign", alg=["RS256"]),
    jwk(RSA, kid="foreign", n="!"),
    jwk(EC, kid="foreign", crv="secp256k1"),
    jwk(EC, kid="foreign", crv="P-999"),
    jwk(EC, kid="foreign", x="AA"),
    jwk(ED, kid="foreign", crv="X25519"),
    jwk(ED, kid="foreign", crv=["Ed25519"]),
    {"kty": "oct", "k": "c2VjcmV0", "kid": "foreign"},
    {"kty": "AKP", "alg": "ML-DSA-65", "pub": "AA", "kid": "foreign"},
    {"kty": ["RSA"], "kid": "foreign"},
]


@pytest.mark.parametrize("foreign", FOREIGN)
def test_key_that_is_of_no_use_is_left_out_by_name_and_voids_no_other(foreign: Any) -> None:
    with structlog.testing.capture_logs() as lines:
        keys = parse_keys(jwks(jwk(RSA, kid="rsa"), foreign, jwk(ED, kid="ed")), "the-file")
    assert [key.kid for key in keys] == ["rsa", "ed"]
    assert Tokens(ISSUER, AUDIENCE, keys).prove(token(ED, "EdDSA", {"kid": "ed"})) is not None
    assert Tokens(ISSUER, AUDIENCE, keys).prove(token(ED, "EdDSA", {"kid": "foreign"})) is None
    [line] = lines
    assert (line["log_level"], line["count"], line["file"]) == ("warning", 1, "the-file")
    [said] = line["keys"]
    assert said.startswith("kid 'foreign' (" if "foreign" in repr(foreign) else "number 2 (")
    assert len(said) < 400
    with pytest.raises(IdentityError, match="0 keys"):
        parse_keys(jwks(foreign), "the-file")
