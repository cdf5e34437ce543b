"""The audit trail: whole lines in order, from everybody who writes, and nothing personal in them."""

from __future__ import annotations

import fcntl
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import orjson
import pytest
import structlog

from engine import audit_trail, keys
from engine.audit_chain import Trail, TrailBroken, verify
from engine.audit_trail import AUDIT_TRAIL, BEGUN, AuditTrail, full_files, recorded, summary_of
from engine.datadir import refuse_unless_ours
from engine.exits import Exit
from engine.grants import Grants
from everopen.v1 import inventory_service_pb2 as inventory
from everopen.v1 import order_service_pb2 as orders
from tests.serving import everopen


def lines(data_dir: Path) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in (data_dir / AUDIT_TRAIL).read_bytes().splitlines()]


def test_line_says_who_what_when_and_how_it_ended(tmp_path: Path) -> None:
    with AuditTrail(tmp_path) as trail:
        trail.write("key:ops", "192.0.2.1:5", "/everopen.v1.ClusterService/Move", "OK", {"shard": 3})
    [line] = lines(tmp_path)
    assert datetime.fromisoformat(line.pop("time")).tzinfo is not None
    assert line == {
        "caller": "key:ops",
        "peer": "192.0.2.1:5",
        "method": "/everopen.v1.ClusterService/Move",
        "summary": {"shard": 3},
        "code": "OK",
        "previous": "",
    }
    assert stat.S_IMODE((tmp_path / AUDIT_TRAIL).stat().st_mode) == 0o600


def test_lines_are_added_and_never_replaced(tmp_path: Path) -> None:
    for number in range(3):
        with AuditTrail(tmp_path) as trail:
            trail.write("a", "", "m", "OK", {"number": number})
    assert [line["summary"]["number"] for line in lines(tmp_path)] == [0, 1, 2]


def test_line_is_synced_before_it_is_said_to_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.fstat(fd).st_size))
    with AuditTrail(tmp_path) as trail:
        trail.write("a", "", "m", "OK")
        # Before it the directory, which has a new name in it.
        assert len(synced) == 2
        assert synced[1] == (tmp_path / AUDIT_TRAIL).stat().st_size


def test_half_a_line_stays_and_spoils_no_other(tmp_path: Path) -> None:
    (tmp_path / AUDIT_TRAIL).write_bytes(b'{"time": "20')
    with AuditTrail(tmp_path) as trail:
        trail.write("a", "", "m", "OK")
        trail.write("b", "", "m", "OK")
    torn, *whole = (tmp_path / AUDIT_TRAIL).read_bytes().splitlines()
    assert torn == b'{"time": "20'
    assert [orjson.loads(line)["caller"] for line in whole] == ["a", "b"]


def test_line_after_one_that_the_disk_did_not_take_whole_begins_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.write
    with AuditTrail(tmp_path) as trail:
        monkeypatch.setattr(os, "write", lambda fd, text: write(fd, text[:10]))
        with pytest.raises(OSError, match="10 of"):
            trail.write("a", "", "m", "OK")
        monkeypatch.undo()
        trail.write("b", "", "m", "OK")
    assert orjson.loads((tmp_path / AUDIT_TRAIL).read_bytes().splitlines()[1])["caller"] == "b"


def test_text_of_a_caller_breaks_no_line_and_is_bounded(tmp_path: Path) -> None:
    with AuditTrail(tmp_path) as trail:
        trail.write('a"\n{"caller": "b"}\n', "", "/x" * 5_000, "OK")
    [line] = lines(tmp_path)
    assert line["caller"].startswith('a"\n')
    assert len(line["method"]) == 256


WRITER = """
import sys
from pathlib import Path
from engine import keys
from engine.audit_trail import AuditTrail
with AuditTrail(Path(sys.argv[1]), 20_000) as trail:
    for number in range(50):
        trail.write(sys.argv[2], "x" * 200, "m", "OK", {"number": number})
"""


def test_lines_of_processes_and_threads_do_not_mix(tmp_path: Path) -> None:
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), str(n)]) for n in range(3)]
    with AuditTrail(tmp_path, 20_000) as trail:

        def write(name: str) -> None:
            for number in range(50):
                trail.write(name, "y" * 200, "m", "OK", {"number": number})

        threads = [threading.Thread(target=write, args=(f"thread-{n}",)) for n in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    by_caller: dict[str, list[int]] = {}
    full = full_files(tmp_path)
    assert verify(tmp_path) == Trail(files=len(full) + 1, lines=250, last=verify(tmp_path).last)
    for line in [orjson.loads(line) for path in full for line in path.read_bytes().splitlines()] + lines(tmp_path):
        by_caller.setdefault(line["caller"], []).append(line["summary"]["number"])
    assert by_caller == {name: list(range(50)) for name in ("0", "1", "2", "thread-0", "thread-1")}


def test_summary_has_numbers_and_no_texts() -> None:
    request = orders.PlaceOrderRequest(shop_id="secret-shop", buyer_id="mei", first_sent_at_ms=7)
    request.lines.add(sku_id="tea", quantity=2)
    summary = summary_of(request)
    assert summary == {
        "shop_id": "11 characters",
        "buyer_id": "3 characters",
        "first_sent_at_ms": 7,
        "lines": "1 items",
    }
    assert summary_of(inventory.BatchPutShopsRequest()) == {}


def test_command_leaves_a_line_before_it_and_one_however_it_ends(tmp_path: Path) -> None:
    with recorded(tmp_path, "backup", target="there") as summary:
        assert [line["code"] for line in lines(tmp_path)] == [BEGUN], "before it is carried out"
        summary["shards"] = 2
    with pytest.raises(RuntimeError), recorded(tmp_path, "upgrade"):
        raise RuntimeError("no")
    begun, done, begun_too, failed = lines(tmp_path)
    assert (begun["method"], begun["summary"]) == ("everopen backup", {"target": "there"})
    assert (done["method"], done["summary"], done["code"]) == (
        "everopen backup",
        {"target": "there", "shards": 2},
        "OK",
    )
    assert (begun_too["code"], failed["method"], failed["code"]) == (BEGUN, "everopen upgrade", "UNUSABLE")
    assert done["caller"] == f"uid:{os.getuid()}"
    first, _, third, _ = (tmp_path / AUDIT_TRAIL).read_bytes().splitlines()
    assert [done["begun"], failed["begun"]] == [sha256(first).hexdigest(), sha256(third).hexdigest()]


def test_engine_serves_also_where_no_line_can_be_written(tmp_path: Path) -> None:
    (tmp_path / AUDIT_TRAIL).mkdir()
    with structlog.testing.capture_logs() as said, recorded(tmp_path, "serve", strict=False):
        pass
    assert [line["log_level"] for line in said] == ["critical", "critical"]


def test_command_whose_line_cannot_be_written_is_not_begun(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="directory"), recorded(tmp_path / "gone", "backup"):
        raise AssertionError("it was begun")


@pytest.mark.skipif(os.getuid() != 0, reason="only root may give files away")
def test_files_that_root_makes_are_the_engines_user_s(tmp_path: Path) -> None:
    os.chown(tmp_path, 12_345, 12_345)
    with AuditTrail(tmp_path) as trail:
        trail.write("a", "", "m", "OK")
    keys.make(tmp_path, "till", Grants(), 1)
    owners = {path.name: path.stat().st_uid for path in tmp_path.iterdir()}
    assert owners == dict.fromkeys((AUDIT_TRAIL, keys.KEYS, keys.REQUIRED), 12_345)
    assert len(keys.read(tmp_path)) == 1


def test_what_is_no_file_of_the_owner_is_not_written_to(tmp_path: Path) -> None:
    data_dir, other = tmp_path / "data", tmp_path / "other"
    data_dir.mkdir()
    other.write_bytes(b"of somebody else\n")
    for put in (data_dir / AUDIT_TRAIL).symlink_to, (data_dir / AUDIT_TRAIL).hardlink_to:
        put(other)
        with AuditTrail(data_dir) as trail, pytest.raises(OSError, match=AUDIT_TRAIL):
            trail.write("cli:root", "-", "keys make", "OK")
        (data_dir / AUDIT_TRAIL).unlink()
    assert other.read_bytes() == b"of somebody else\n"


# The chain, and one file after the other.


def write(data_dir: Path, count: int, bytes_max: int = 1 << 20, first: int = 0) -> str:
    """The digest of the last line."""
    digest = ""
    with AuditTrail(data_dir, bytes_max) as trail:
        for number in range(first, first + count):
            digest = trail.write("a", "", "m", "OK", {"number": number})
    return digest


def test_every_line_has_the_digest_of_the_one_before_it(tmp_path: Path) -> None:
    digests = ["", *(write(tmp_path, 1, first=number) for number in range(4))]
    raw = (tmp_path / AUDIT_TRAIL).read_bytes().splitlines()
    assert [line["previous"] for line in lines(tmp_path)] == digests[:-1]
    assert digests[1:] == [sha256(line).hexdigest() for line in raw]
    assert verify(tmp_path) == Trail(files=1, lines=4, last=digests[-1])


def test_full_file_gets_a_name_with_its_time_and_the_next_one_goes_on(tmp_path: Path) -> None:
    last = write(tmp_path, 60, bytes_max=2_000)
    full = full_files(tmp_path)
    assert len(full) >= 4
    assert all(1_000 < path.stat().st_size <= 2_000 for path in full)
    assert verify(tmp_path) == Trail(files=len(full) + 1, lines=60, last=last)
    found = [orjson.loads(line) for path in full for line in path.read_bytes().splitlines()] + lines(tmp_path)
    assert [line["summary"]["number"] for line in found] == list(range(60))
    assert {stat.S_IMODE(path.stat().st_mode) for path in full} == {0o600}
    # A data directory with nothing else in it is still nobody's.
    refuse_unless_ours(tmp_path)


def test_file_that_is_full_is_named_after_all_others_whatever_the_clock_says(tmp_path: Path) -> None:
    write(tmp_path, 3)
    (tmp_path / AUDIT_TRAIL).rename(tmp_path / "audit-29991231T235959.999999Z.jsonl")
    write(tmp_path, 20, bytes_max=2_000)
    names = [path.name for path in full_files(tmp_path)]
    assert names[:2] == ["audit-29991231T235959.999999Z.jsonl", "audit-30000101T000000.000000Z.jsonl"]
    assert verify(tmp_path).lines == 23


def test_line_longer_than_a_file_may_be_is_written_all_the_same(tmp_path: Path) -> None:
    write(tmp_path, 1)
    with AuditTrail(tmp_path, 2_000) as trail:
        trail.write("a", "", "m", "OK", {"shops": ["x" * 100] * 200})
        trail.write("b", "", "m", "OK")
    assert verify(tmp_path).lines == 3


def test_trail_whose_older_files_were_moved_away_holds_and_says_so(tmp_path: Path) -> None:
    write(tmp_path, 60, bytes_max=2_000)
    first, *_ = full_files(tmp_path)
    before = sha256(first.read_bytes().splitlines()[-1]).hexdigest()
    first.unlink()
    assert verify(tmp_path).before == before
    # In between none may be missing.
    full_files(tmp_path)[1].unlink()
    with pytest.raises(TrailBroken, match="line 1 does not follow"):
        verify(tmp_path)


def cut(raw: list[bytes]) -> list[bytes]:
    return raw[:3] + raw[4:]


def change(raw: list[bytes]) -> list[bytes]:
    return [*raw[:3], raw[3].replace(b'"a"', b'"b"'), *raw[4:]]


def put_in(raw: list[bytes]) -> list[bytes]:
    return [*raw[:3], raw[2], *raw[3:]]


def exchange(raw: list[bytes]) -> list[bytes]:
    return [*raw[:3], raw[4], raw[3], *raw[5:]]


def unchain(raw: list[bytes]) -> list[bytes]:
    return [*raw[:3], b"{}", *raw[3:]]


def spoil(raw: list[bytes]) -> list[bytes]:
    return [*raw[:3], b"{", *raw[4:]]


@pytest.mark.parametrize("damage", [cut, change, put_in, exchange, unchain, spoil])
def test_line_that_was_changed_put_in_or_taken_away_shows(
    tmp_path: Path, damage: Callable[[list[bytes]], list[bytes]]
) -> None:
    write(tmp_path, 8)
    path = tmp_path / AUDIT_TRAIL
    path.write_bytes(b"".join(line + b"\n" for line in damage(path.read_bytes().splitlines())))
    with pytest.raises(TrailBroken, match=r"line [45]"):
        verify(tmp_path)
    done = everopen("audit", "--trail", "--data-dir", tmp_path)
    assert done.returncode == Exit.WRONG
    assert "audit.jsonl: line" in done.stderr


def test_half_a_line_and_lines_of_an_older_program_are_counted(tmp_path: Path) -> None:
    path = tmp_path / AUDIT_TRAIL
    path.write_bytes(b'{"time": "2026", "code": "OK"}\n{"time": "20')
    last = write(tmp_path, 2)
    assert verify(tmp_path) == Trail(files=1, lines=4, torn=1, unchained=1, last=last)
    done = everopen("audit", "--trail", "--data-dir", tmp_path)
    assert done.returncode == Exit.OK
    assert f"4 lines in 1 files, 1 torn, 1 not chained, before it nothing, last {last}" in done.stdout


def test_directory_without_a_trail_holds(tmp_path: Path) -> None:
    assert verify(tmp_path) == Trail()


def test_file_that_was_moved_away_under_a_writer_is_begun_anew(tmp_path: Path) -> None:
    with AuditTrail(tmp_path) as trail:
        trail.write("a", "", "m", "OK")
        (tmp_path / AUDIT_TRAIL).rename(tmp_path / "elsewhere")
        trail.write("b", "", "m", "OK")
    assert [line["caller"] for line in lines(tmp_path)] == ["b"]


def test_lock_that_another_process_keeps_is_an_error_and_no_wait_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_trail, "AUDIT_LOCK_S_MAX", 0.01)
    write(tmp_path, 1)
    with (tmp_path / AUDIT_TRAIL).open("rb") as held, AuditTrail(tmp_path) as trail:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(OSError, match="locked"):
            trail.write("a", "", "m", "OK")
        fcntl.flock(held, fcntl.LOCK_UN)
        trail.write("a", "", "m", "OK")


def test_line_after_the_deed_that_cannot_be_written_hides_nothing_of_it(tmp_path: Path) -> None:
    with recorded(tmp_path, "keys make"):
        (tmp_path / AUDIT_TRAIL).unlink()
        (tmp_path / AUDIT_TRAIL).mkdir()
    with pytest.raises(LookupError, match="its own"), recorded(tmp_path / "other", "keys make", strict=False):
        raise LookupError("its own")


def test_file_that_cannot_be_begun_behind_a_full_one_is_an_oserror(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full() -> int:
        raise OSError("no space")

    with AuditTrail(tmp_path, 1) as trail:
        trail.write("a", "local", "first", "OK")
        monkeypatch.setattr(trail, "_opened", full)
        with pytest.raises(OSError, match="no space"):
            trail.write("a", "local", "second", "OK")
        monkeypatch.undo()
        trail.write("a", "local", "third", "OK")
    assert [line["method"] for line in lines(tmp_path)] == ["third"]
    verify(tmp_path)
