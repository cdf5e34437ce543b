"""Who a credential stands for, what files say of it while they change, and the thread that the front asks."""

from __future__ import annotations

import os
import queue
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import structlog
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from engine import keys
from engine.certificates import expiry_of, subject_of
from engine.credentials import Credentials
from engine.grants import Grants, IdentityError
from engine.identity import Authenticator, Caller, IdentitySettings, Kind, parse_callers
from tests.tokens import AUDIENCE, EC, ED, ISSUER, OTHER_RSA, RSA, jwk, jwks, pem, token, write

NOW = 1_800_000_000_000
GRANTS = Grants(frozenset({"orders:write"}), frozenset({"shop"}), orders_per_s=10, burst=20)


def settings(folder: Path, **changed: Any) -> IdentitySettings:
    return IdentitySettings(str(folder), **changed)


def with_tokens(folder: Path, **changed: Any) -> IdentitySettings:
    found = {"jwt_issuer": ISSUER, "jwt_audience": AUDIENCE, "jwt_keys": str(folder / "keys.jwks")}
    return settings(folder, **(found | changed))


def certificate(common_name: str = "till", names: list[x509.GeneralName] | None = None, days: int = 1) -> bytes:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)] if common_name else [])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(subject, subject, EC.public_key(), 7, now - timedelta(9), now + timedelta(days))
    if names is not None:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(EC, hashes.SHA256()).public_bytes(Encoding.DER)


URI = x509.UniformResourceIdentifier("spiffe://everopen/till")
DNS = x509.DNSName("till.example")


@pytest.mark.parametrize(
    ("names", "common_name", "name"),
    [
        ([DNS, URI], "till", "spiffe://everopen/till"),
        ([DNS], "till", "till.example"),
        ([x509.RFC822Name("a@b.example")], "till", "till"),
        (None, "till", "till"),
    ],
)
def test_certificate_is_named_by_uri_then_dns_then_common_name(
    names: list[x509.GeneralName] | None, common_name: str, name: str
) -> None:
    found = subject_of(certificate(common_name, names))
    assert found is not None
    assert found.name == name


@pytest.mark.parametrize("der", [b"", b"junk", certificate(""), certificate()[:-20], certificate("a\nb")])
def test_certificate_without_a_name_is_nobodys(der: bytes) -> None:
    assert subject_of(der) is None


def test_certificate_says_when_it_ends() -> None:
    der = certificate(days=3)
    text = ssl.DER_cert_to_PEM_cert(der).encode()
    subject = subject_of(der)
    assert subject is not None
    # The first one counts: those behind it are of its authorities.
    chain = text + ssl.DER_cert_to_PEM_cert(certificate(days=2)).encode()
    assert expiry_of(text) == expiry_of(chain) == subject.expires_unix_ms // 1_000
    assert expiry_of(b"junk") == 0


CALLERS = b"""
[certificates."spiffe://everopen/till"]
scopes = ["orders:write", "orders:read"]
shops = ["shop"]
orders_per_s = 100
burst = 200

[certificates.desk]
scopes = ["cluster:admin"]

[tokens.till]
orders_per_s = 7

[tokens."*"]
connections = 3
"""


def test_certificate_is_who_the_file_says(tmp_path: Path) -> None:
    callers = write(tmp_path / "callers.toml", CALLERS)
    asked = Authenticator(settings(tmp_path, callers=str(callers), client_ca=True))
    assert asked.required
    found = asked.caller_of(Kind.CERTIFICATE, certificate("desk", [URI]))
    assert found is not None
    assert (found.name, found.shops, found.orders_per_s) == ("certificate:spiffe://everopen/till", {"shop"}, 100)
    assert found.expires_unix_ms > 0
    desk = asked.caller_of(Kind.CERTIFICATE, certificate("desk"))
    assert desk is not None
    assert (desk.scopes, desk.shops) == ({"cluster:admin"}, None)
    assert asked.caller_of(Kind.CERTIFICATE, certificate("stranger")) is None
    assert asked.caller_of(Kind.CERTIFICATE, certificate("desk", days=-1)) is None
    assert Authenticator(settings(tmp_path, client_ca=True)).caller_of(Kind.CERTIFICATE, certificate("desk")) is None


def test_token_has_its_scopes_from_its_claims_and_its_quotas_from_the_file(tmp_path: Path) -> None:
    write(tmp_path / "keys.jwks", pem(ED))
    asked = Authenticator(with_tokens(tmp_path, callers=str(write(tmp_path / "callers.toml", CALLERS))))
    till, other = (asked.caller_of(Kind.BEARER, token(sub=subject)) for subject in ("till", "other"))
    assert till is not None
    assert other is not None
    assert (till.name, till.scopes) == ("token:till", {"orders:write", "orders:read"})
    assert (till.orders_per_s, till.connections) == (7, 0)
    assert (other.orders_per_s, other.connections) == (0, 3)


@pytest.mark.parametrize(
    ("scope", "scopes"),
    [
        ("orders:read openid profile", {"orders:read"}),
        ("openid", set()),
        ("", set()),
        ("orders:readx orders", set()),
        ("ORDERS:READ", set()),
    ],
)
def test_token_gives_our_scopes_alone(tmp_path: Path, scope: str, scopes: set[str]) -> None:
    write(tmp_path / "keys.jwks", pem(ED))
    found = Authenticator(with_tokens(tmp_path)).caller_of(Kind.BEARER, token(scope=scope))
    assert found is not None
    assert found.scopes == scopes


@pytest.mark.parametrize(
    ("shops", "found"), [(None, None), (["*"], None), ([], set()), (["a", "b"], {"a", "b"}), (["ünï"], {"ünï"})]
)
def test_token_is_for_its_shops(tmp_path: Path, shops: Any, found: Any) -> None:
    write(tmp_path / "keys.jwks", pem(ED))
    caller = Authenticator(with_tokens(tmp_path)).caller_of(Kind.BEARER, token(shops=shops))
    assert caller is not None
    assert caller.shops == found


def test_credential_of_one_kind_is_none_of_another(tmp_path: Path) -> None:
    write(tmp_path / "keys.jwks", pem(ED))
    _, key = keys.make(tmp_path, "till", GRANTS, NOW)
    asked = Authenticator(with_tokens(tmp_path), lambda: NOW)
    good = {Kind.BEARER: token(), Kind.API_KEY: key.encode(), Kind.CERTIFICATE: certificate()}
    assert asked.caller_of(Kind.API_KEY, key.encode()) == Caller(
        "key:till", frozenset({"orders:write"}), frozenset({"shop"}), 0, 10, 20, 0, 0
    )
    for kind in (0, *Kind, 4):
        for other, credential in good.items():
            if other != kind:
                assert asked.caller_of(kind, credential) is None


@pytest.mark.parametrize(
    ("changed", "has_key", "required"),
    [
        ({}, False, False),
        ({}, True, True),
        ({"only_local": False}, False, True),
        ({"client_ca": True}, False, True),
        ({"jwt_issuer": ISSUER, "jwt_audience": AUDIENCE, "jwt_keys": "keys.jwks"}, False, True),
    ],
)
def test_anonymous_calls_are_refused_once_anything_is_configured_or_others_reach_it(
    tmp_path: Path, changed: dict[str, Any], has_key: bool, required: bool
) -> None:
    if has_key:
        keys.make(tmp_path, "till", GRANTS, NOW)
    assert Authenticator(settings(tmp_path, **changed)).required is required


def test_first_key_ends_anonymity_and_the_last_that_is_revoked_does_not_bring_it_back(tmp_path: Path) -> None:
    asked = Authenticator(settings(tmp_path), lambda: NOW)
    assert (asked.required, asked.epoch) == (False, 1)
    assert not asked.reload()
    made, text = keys.make(tmp_path, "till", GRANTS, NOW)
    assert asked.reload()
    assert (asked.required, asked.epoch) == (True, 2)
    assert asked.caller_of(Kind.API_KEY, text.encode()) is not None
    keys.revoke(tmp_path, made.id, NOW)
    assert asked.reload()
    assert (asked.required, asked.epoch) == (True, 3)
    assert asked.caller_of(Kind.API_KEY, text.encode()) is None


@pytest.mark.parametrize("how", ["removed", "emptied", "removed with the mark"])
def test_keys_that_are_lost_let_nobody_in_without_credential(tmp_path: Path, how: str) -> None:
    path, mark = tmp_path / keys.KEYS, tmp_path / keys.REQUIRED
    _, text = keys.make(tmp_path, "till", GRANTS, NOW)
    running = Authenticator(settings(tmp_path), lambda: NOW)
    if how == "emptied":
        write(path, b'{"format_version": 1, "keys": []}')
    else:
        path.unlink()
    if how == "removed with the mark":
        mark.unlink()
    with structlog.testing.capture_logs() as lines:
        running.reload()
        running.reload()
    assert running.required
    # What it knew stays, as with any file that cannot be used; one that says that there are no keys can be.
    assert (running.caller_of(Kind.API_KEY, text.encode()) is None) == (how == "emptied")
    # Also if nobody of the running engine is left who remembers.
    assert mark.exists()
    anew = Authenticator(settings(tmp_path), lambda: NOW)
    assert anew.required
    assert anew.had_keys
    assert anew.caller_of(Kind.API_KEY, text.encode()) is None
    if how == "emptied":
        assert not lines
        assert not anew.lost
        return
    assert [line["log_level"] for line in lines] == ["critical"]
    for word in (str(path), str(mark), "everopen keys make", "stop"):
        assert word in lines[0]["error"]
    assert running.failures == anew.failures == [anew.lost]
    _, text = keys.make(tmp_path, "desk", GRANTS, NOW)
    assert anew.reload()
    assert not anew.failures
    assert anew.caller_of(Kind.API_KEY, text.encode()) is not None
    # On purpose: while nothing runs that would remember.
    path.unlink()
    mark.unlink()
    assert not Authenticator(settings(tmp_path)).required
    # But what a supervisor has once said holds for its children.
    assert Authenticator(settings(tmp_path, had_keys=True)).required


def test_keys_of_a_program_without_the_mark_make_it(tmp_path: Path) -> None:
    keys.make(tmp_path, "till", GRANTS, NOW)
    (tmp_path / keys.REQUIRED).unlink()
    asked = Authenticator(settings(tmp_path))
    assert keys.is_required(tmp_path)
    (tmp_path / keys.REQUIRED).unlink()
    assert not asked.reload()
    assert keys.is_required(tmp_path)


def test_mark_that_cannot_be_written_is_said_once_and_opens_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Path) -> None:
        raise OSError(28, "the disk is full")

    keys.make(tmp_path, "till", GRANTS, NOW)
    monkeypatch.setattr(keys, "require", fail)
    with structlog.testing.capture_logs() as lines:
        asked = Authenticator(settings(tmp_path))
        asked.reload()
    assert asked.required
    assert [(line["log_level"], "the disk is full" in line["error"]) for line in lines] == [("error", True)]


def test_parser_that_fails_unforeseen_keeps_what_was_known_is_counted_and_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "callers.toml", CALLERS)
    asked = Authenticator(settings(tmp_path, callers=str(path), client_ca=True))
    assert asked.failed == {"keys": 0, "jwks": 0, "callers": 0}
    # Deeper than a parser goes.
    write(path, b"a = " + b"[" * 100_000)
    with structlog.testing.capture_logs() as lines:
        for _ in range(3):
            assert not asked.reload()
    assert asked.failed == {"keys": 0, "jwks": 0, "callers": 3}
    assert [line["log_level"] for line in lines] == ["error"]
    assert lines[0]["error"] == f"{path}: cannot be read: RecursionError"
    assert asked.caller_of(Kind.CERTIFICATE, certificate("desk")) is not None

    def fail(_: Path) -> bytes:
        raise MemoryError

    monkeypatch.setattr(keys, "read_private", fail)
    write(path, CALLERS)
    assert not asked.reload()
    assert asked.failures == [f"{path}: cannot be read: MemoryError"]
    monkeypatch.undo()
    asked.reload()
    assert not asked.failures
    assert asked.failed["callers"] == 4


def test_keys_that_are_rotated_are_known_at_the_next_look(tmp_path: Path) -> None:
    old, new = token(RSA, "RS256", {"kid": "a"}), token(OTHER_RSA, "RS256", {"kid": "b"})
    write(tmp_path / "keys.jwks", jwks(jwk(RSA, kid="a")))
    asked = Authenticator(with_tokens(tmp_path))
    assert [asked.caller_of(Kind.BEARER, each) is not None for each in (old, new)] == [True, False]
    write(tmp_path / "keys.jwks", jwks(jwk(OTHER_RSA, kid="b")))
    epoch = asked.epoch
    assert asked.reload()
    assert asked.epoch == epoch + 1
    assert [asked.caller_of(Kind.BEARER, each) is not None for each in (old, new)] == [False, True]
    # The same once more is nothing new.
    write(tmp_path / "keys.jwks", jwks(jwk(OTHER_RSA, kid="b")))
    assert not asked.reload()


@pytest.mark.parametrize("how", ["junk", "empty", "gone", "writable"])
def test_file_that_breaks_leaves_what_was_known_and_is_taken_up_once_it_is_whole(tmp_path: Path, how: str) -> None:
    path = write(tmp_path / "keys.jwks", pem(ED))
    asked = Authenticator(with_tokens(tmp_path))
    match how:
        case "junk":
            write(path, b"{")
        case "empty":
            write(path, b"")
        case "gone":
            path.unlink()
        case "writable":
            path.chmod(0o666)
    asked.reload()
    assert len(asked.failures) == 1
    assert asked.caller_of(Kind.BEARER, token()) is not None
    write(path, pem(EC))
    assert asked.reload()
    assert not asked.failures
    assert asked.caller_of(Kind.BEARER, token()) is None
    assert asked.caller_of(Kind.BEARER, token(EC, "ES256")) is not None


def test_file_that_is_broken_from_the_start_lets_nobody_in(tmp_path: Path) -> None:
    (tmp_path / keys.KEYS).write_bytes(b"junk")
    asked = Authenticator(settings(tmp_path))
    assert asked.failures
    assert asked.required


def test_file_that_is_written_twice_at_once_is_read_anew(tmp_path: Path) -> None:
    path = write(tmp_path / "keys.jwks", pem(ED))
    asked = Authenticator(with_tokens(tmp_path))
    seen = path.stat()
    # In place, of the same length and time.
    path.write_bytes(path.read_bytes().replace(b"PUBLIC", b"PUBLIK"))
    os.utime(path, ns=(seen.st_atime_ns, seen.st_mtime_ns))
    asked.reload()
    assert asked.failures


@pytest.mark.parametrize(
    "text",
    [
        b"[",
        b"\xff",
        b"[certificate.till]",
        b"certificates = 5",
        b"[certificates]\ntill = 5",
        b"[certificates.till]\nscope = []",
        b'[certificates.till]\nscopes = ["orders"]',
        b'[tokens.till]\nscopes = ["orders:read"]',
        b'[certificates.""]',
        b'[tokens.till]\norders_per_s = "7"',
    ],
)
def test_callers_that_cannot_be_read_are_named(text: bytes) -> None:
    with pytest.raises(IdentityError, match="the-file"):
        parse_callers(text, "the-file")


class Front:
    """What a NativeFront does with credentials, by hand."""

    def __init__(self) -> None:
        self.credential_fd = os.eventfd(0, os.EFD_NONBLOCK)
        self.said: queue.Queue[tuple[bool, int]] = queue.Queue()
        self.answers: queue.Queue[tuple[int, Caller | None]] = queue.Queue()
        self.questions: list[tuple[int, int, bytes]] = []

    def ask(self, *questions: tuple[int, int, bytes]) -> None:
        self.questions += questions
        os.eventfd_write(self.credential_fd, 1)

    def authenticate(self, required: bool, epoch: int) -> None:
        self.said.put((required, epoch))

    def take_credentials(self) -> list[tuple[int, int, bytes]]:
        os.eventfd_read(self.credential_fd)
        taken, self.questions = self.questions, []
        return taken

    def answer_credential(self, token: int, caller: Caller | None) -> None:
        self.answers.put((token, caller))


@pytest.fixture
def front() -> Iterator[Front]:
    made = Front()
    yield made
    os.close(made.credential_fd)


def test_thread_answers_what_the_front_asks_and_tells_what_changes(front: Front, tmp_path: Path) -> None:
    _, text = keys.make(tmp_path, "till", GRANTS, NOW)
    asked = Credentials(front, Authenticator(settings(tmp_path), lambda: NOW))
    asked.begin()
    try:
        assert front.said.get(timeout=10) == (True, 1)
        front.ask((5, Kind.API_KEY, text.encode()), (6, Kind.API_KEY, b"junk"))
        answers = dict(front.answers.get(timeout=10) for _ in range(2))
        assert answers[6] is None
        assert answers[5] is not None
        assert answers[5].name == "key:till"
        [key_id] = keys.read(tmp_path)
        keys.revoke(tmp_path, key_id, NOW)
        # By itself, as each second.
        assert front.said.get(timeout=10) == (True, 2)
        front.ask((7, Kind.API_KEY, text.encode()))
        assert front.answers.get(timeout=10) == (7, None)
        keys.make(tmp_path, "desk", GRANTS, NOW)
        asked.reload()
        assert front.said.get(timeout=10) == (True, 3)
    finally:
        asked.close()


def test_credential_that_breaks_the_judge_is_refused_and_the_thread_goes_on(
    front: Front, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = Authenticator(settings(tmp_path))
    fails = iter([True, False])

    def caller_of(kind: int, credential: bytes) -> Caller | None:
        if next(fails):
            raise ZeroDivisionError(credential)
        return Caller("key:till", frozenset(), None)

    monkeypatch.setattr(judge, "caller_of", caller_of)
    asked = Credentials(front, judge)
    asked.begin()
    try:
        for number, known in ((1, False), (2, True)):
            front.ask((number, 1, b""))
            answered, caller = front.answers.get(timeout=10)
            assert (answered, caller is not None) == (number, known)
    finally:
        asked.close()
