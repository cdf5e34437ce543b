"""`everopen keys`, as somebody at a shell sees it."""

from __future__ import annotations

import json
from pathlib import Path

import orjson

from engine import keys
from engine.audit_trail import AUDIT_TRAIL
from engine.keys import Keys
from tests.serving import Server, everopen


def test_key_is_made_before_the_first_start_shown_once_and_revoked(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    made = everopen("keys", "make", "till", "--data-dir", data_dir, "--scope", "orders:write", "--shop", "a")
    assert made.returncode == 0
    text = made.stdout.strip()
    found = Keys(keys.read(data_dir)).prove(text.encode(), 1)
    assert found is not None
    assert (found.name, found.grants.shops) == ("till", {"a"})
    listed = everopen("keys", "list", "--data-dir", data_dir, "--json")
    assert json.loads(listed.stdout)["id"] == found.id
    with Server(data_dir) as server:
        # What was there beforehand is no reason to take the directory for somebody else's.
        assert "callers are anonymous" not in server.stderr
        assert server.stop() == 0
    assert everopen("keys", "revoke", found.id, "--data-dir", data_dir).returncode == 0
    assert Keys(keys.read(data_dir)).prove(text.encode(), 1) is None
    assert "revoked" in everopen("keys", "list", "--data-dir", data_dir).stdout
    trail = (data_dir / AUDIT_TRAIL).read_bytes()
    lines = [orjson.loads(line) for line in trail.splitlines()]
    assert [(line["method"], line["code"]) for line in lines] == [
        (f"everopen {command}", code) for command in ("keys make", "serve", "keys revoke") for code in ("BEGUN", "OK")
    ]
    secret = text.split("_")[2]
    for seen in (listed.stdout, trail.decode(), (data_dir / keys.KEYS).read_text(), made.stderr):
        assert secret[: keys.SECRET_CHARACTERS] not in seen


def test_argument_that_says_nothing_clear_makes_no_key(tmp_path: Path) -> None:
    for arguments in (["--scope", "orders"], [], ["--scope", "orders:read", "--burst", "5"]):
        failed = everopen("keys", "make", "till", "--data-dir", tmp_path / "data", *arguments)
        assert failed.returncode == 2
        assert failed.stderr.startswith("everopen: ")
    assert not (tmp_path / "data").exists()


def test_directory_of_somebody_else_gets_no_keys(tmp_path: Path) -> None:
    (tmp_path / "letters.txt").write_text("mine")
    for command in (["make", "till", "--scope", "orders:read"], ["list"], ["revoke", "0" * 12]):
        assert everopen("keys", *command, "--data-dir", tmp_path).returncode == 5
    assert [path.name for path in tmp_path.iterdir()] == ["letters.txt"]


def test_engine_says_at_its_start_whom_it_lets_in(tmp_path: Path) -> None:
    with Server(tmp_path / "data") as server:
        assert server.stderr.count("callers are anonymous and may do everything") == 1
        assert server.stop() == 0


def test_file_that_cannot_be_used_keeps_the_engine_from_starting(tmp_path: Path) -> None:
    bad = tmp_path / "keys.pem"
    bad.write_text("nothing")
    tokens = ["--jwt-issuer", "i", "--jwt-audience", "a", "--jwt-keys", bad]
    serve = ["serve", "--data-dir", tmp_path / "data", "--listen", "127.0.0.1:0", "--until-stdin-ends"]
    failed = everopen(*serve, *tokens)
    assert failed.returncode == 5
    assert str(bad) in failed.stderr
    incomplete = everopen(*serve, *tokens[:4])
    assert incomplete.returncode == 2
    assert "--jwt-keys" in incomplete.stderr
