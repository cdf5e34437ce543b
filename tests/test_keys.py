"""API keys: what is given out, what is kept, and what is taken for one."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import keys
from engine.grants import Grants, IdentityError
from engine.keys import KEY, Keys

NOW = 1_800_000_000_000
GRANTS = Grants(frozenset({"orders:write"}), frozenset({"shop"}), orders_per_s=10, burst=20)


def proved(data_dir: Path, credential: str | bytes, now: int = NOW) -> keys.ApiKey | None:
    return Keys(keys.read(data_dir)).prove(credential.encode() if isinstance(credential, str) else credential, now)


def test_key_that_was_made_is_proved_with_what_it_was_made_for(tmp_path: Path) -> None:
    made, text = keys.make(tmp_path, "till", GRANTS, NOW)
    assert KEY.fullmatch(text.encode())
    found = proved(tmp_path, text)
    assert found == made
    assert found is not None
    assert (found.name, found.grants) == ("till", GRANTS)


def test_two_keys_have_nothing_in_common(tmp_path: Path) -> None:
    (one, first), (other, second) = (keys.make(tmp_path, "till", GRANTS, NOW) for _ in range(2))
    assert one.id != other.id
    assert first.split("_")[2] != second.split("_")[2]
    assert proved(tmp_path, first) == one
    assert proved(tmp_path, second) == other


def test_file_holds_the_hash_and_not_the_secret_and_is_its_owners_alone(tmp_path: Path) -> None:
    made, text = keys.make(tmp_path, "till", GRANTS, NOW)
    secret = text.split("_")[2][: keys.SECRET_CHARACTERS]
    held = (tmp_path / keys.KEYS).read_text()
    assert secret not in held
    assert made.sha256 == hashlib.sha256(secret.encode()).digest()
    assert json.loads(held)["keys"][0]["sha256"] == made.sha256.hex()
    assert stat.S_IMODE((tmp_path / keys.KEYS).stat().st_mode) == 0o600
    assert sorted(path.name for path in tmp_path.iterdir()) == [keys.REQUIRED, keys.KEYS]
    assert secret not in (tmp_path / keys.REQUIRED).read_text()


def test_secret_of_another_key_is_refused(tmp_path: Path) -> None:
    (one, _), (_, second) = (keys.make(tmp_path, "till", GRANTS, NOW) for _ in range(2))
    mixed = f"eo_{one.id}_{second.split('_')[2][: keys.SECRET_CHARACTERS]}".encode()
    assert proved(tmp_path, mixed + keys._checksum(mixed)) is None


def test_key_of_another_directory_is_refused(tmp_path: Path) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
    keys.make(tmp_path / "one", "till", GRANTS, NOW)
    _, text = keys.make(tmp_path / "other", "till", GRANTS, NOW)
    assert proved(tmp_path / "one", text) is None


def test_key_holds_until_it_expires(tmp_path: Path) -> None:
    _, text = keys.make(tmp_path, "till", GRANTS, NOW, expires_unix_ms=NOW + 5)
    assert proved(tmp_path, text, NOW + 4) is not None
    assert proved(tmp_path, text, NOW + 5) is None


def test_revoked_key_is_refused_and_stays_in_the_list(tmp_path: Path) -> None:
    made, text = keys.make(tmp_path, "till", GRANTS, NOW)
    _, other = keys.make(tmp_path, "desk", GRANTS, NOW)
    assert keys.revoke(tmp_path, made.id, NOW + 1).revoked_unix_ms == NOW + 1
    assert keys.revoke(tmp_path, made.id, NOW + 9).revoked_unix_ms == NOW + 1
    assert proved(tmp_path, text) is None
    assert proved(tmp_path, other) is not None
    assert made.id in keys.read(tmp_path)
    with pytest.raises(keys.NoSuchKey):
        keys.revoke(tmp_path, "0" * keys.ID_CHARACTERS, NOW)


@given(st.data())
def test_key_with_any_one_byte_changed_is_refused(data: st.DataObject) -> None:
    secret = b"A" * keys.SECRET_CHARACTERS
    known = keys.ApiKey("k" * keys.ID_CHARACTERS, hashlib.sha256(secret).digest(), "till", GRANTS, NOW)
    head = b"eo_" + known.id.encode() + b"_" + secret
    text = head + keys._checksum(head)
    held = Keys({known.id: known})
    assert held.prove(text, NOW) is known
    place = data.draw(st.integers(0, len(text) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda byte: byte != text[place]))
    assert held.prove(text[:place] + bytes([byte]) + text[place + 1 :], NOW) is None


@given(st.binary(max_size=200))
def test_anything_else_is_refused(credential: bytes) -> None:
    assert Keys({}).prove(credential, NOW) is None
    assert Keys({}).prove(b"eo_" + credential, NOW) is None


@pytest.mark.parametrize(
    ("name", "expires"), [("", 0), ("x" * 125, 0), ("a\nb", 0), ("a\x00", 0), ("till", NOW), ("till", 1)]
)
def test_key_that_cannot_be_is_not_made(tmp_path: Path, name: str, expires: int) -> None:
    with pytest.raises(ValueError, match=r"name|expired"):
        keys.make(tmp_path, name, GRANTS, NOW, expires)
    assert not (tmp_path / keys.KEYS).exists()
    assert not keys.is_required(tmp_path)


@pytest.mark.parametrize(
    "fields",
    [
        {"scopes": ["orders:everything"]},
        {"scopes": "orders:read"},
        {"scopes": [1]},
        {"shops": ["*", "shop"]},
        {"shops": [""]},
        {"shops": ["x" * 200]},
        {"shops": "shop"},
        {"shops": [f"shop-{n}" for n in range(2_000)]},
        {"orders_per_s": -1},
        {"orders_per_s": True},
        {"orders_per_s": 1.5},
        {"burst": 5},
        {"connections": 2**60},
        {"scope": []},
    ],
)
def test_grants_that_say_nothing_clear_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        Grants.of(fields)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"{}",
        b'{"format_version": 2, "keys": []}',
        b'{"format_version": 1, "keys": [{}]}',
        b'{"format_version": 1, "keys": [1]}',
        b'{"format_version": 1, "keys": {"a": 1}}',
    ],
)
def test_file_that_is_no_list_of_keys_is_named(tmp_path: Path, text: bytes) -> None:
    (tmp_path / keys.KEYS).write_bytes(text)
    (tmp_path / keys.KEYS).chmod(0o600)
    with pytest.raises(IdentityError, match=keys.KEYS):
        keys.read(tmp_path)


def test_file_that_others_may_write_is_refused(tmp_path: Path) -> None:
    _, text = keys.make(tmp_path, "till", GRANTS, NOW)
    (tmp_path / keys.KEYS).chmod(0o622)
    with pytest.raises(IdentityError, match="others may write"):
        proved(tmp_path, text)


def test_two_who_make_keys_at_the_same_time_lose_none(tmp_path: Path) -> None:
    def make() -> None:
        for _ in range(10):
            keys.make(tmp_path, "till", GRANTS, NOW)

    threads = [threading.Thread(target=make) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(keys.read(tmp_path)) == 40


def test_write_that_fails_leaves_the_keys_as_they_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, text = keys.make(tmp_path, "till", GRANTS, NOW)

    def fail(fd: int) -> None:
        raise OSError(5, "the disk")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="the disk"):
        keys.make(tmp_path, "desk", GRANTS, NOW)
    monkeypatch.undo()
    assert proved(tmp_path, text) is not None
    assert len(keys.read(tmp_path)) == 1


def test_mark_is_there_before_the_first_key_and_outlives_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not keys.is_required(tmp_path)
    assert not keys.is_required(tmp_path / "no such directory")

    def fail(*_: object) -> None:
        assert keys.is_required(tmp_path)
        raise OSError(28, "the disk is full")

    # What gives the keys their name.
    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(OSError, match="the disk is full"):
        keys.make(tmp_path, "till", GRANTS, NOW)
    monkeypatch.undo()
    _, text = keys.make(tmp_path, "till", GRANTS, NOW)
    (tmp_path / keys.KEYS).unlink()
    assert keys.is_required(tmp_path)
    assert proved(tmp_path, text) is None
    # The next key needs no other step.
    _, text = keys.make(tmp_path, "till", GRANTS, NOW)
    assert proved(tmp_path, text) is not None


def test_mark_that_cannot_be_looked_for_counts(tmp_path: Path) -> None:
    long = tmp_path / ("x" * 300)
    assert keys.is_required(long)
    (tmp_path / keys.REQUIRED).symlink_to(tmp_path / "nowhere")
    assert keys.is_required(tmp_path)
    keys.require(tmp_path)
    assert not (tmp_path / "nowhere").exists()


def test_key_for_which_there_is_no_room_leaves_no_mark(tmp_path: Path) -> None:
    (tmp_path / keys.KEYS_TEMPORARY).mkdir()
    with pytest.raises(OSError, match=keys.KEYS_TEMPORARY):
        keys.make(tmp_path, "key", GRANTS, NOW)
    assert not keys.is_required(tmp_path)
