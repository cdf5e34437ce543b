"""The audit trail: whole lines in order, from everybody who writes, and nothing personal in them."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson
import pytest

from engine import keys
from engine.audit_trail import AUDIT_TRAIL, AuditTrail, recorded, summary_of
from engine.grants import Grants
from everopen.v1 import inventory_service_pb2 as inventory
from everopen.v1 import order_service_pb2 as orders


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
        assert synced == [(tmp_path / AUDIT_TRAIL).stat().st_size]


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
with AuditTrail(Path(sys.argv[1])) as trail:
    for number in range(50):
        trail.write(sys.argv[2], "x" * 200, "m", "OK", {"number": number})
"""


def test_lines_of_processes_and_threads_do_not_mix(tmp_path: Path) -> None:
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), str(n)]) for n in range(3)]
    with AuditTrail(tmp_path) as trail:

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
    for line in lines(tmp_path):
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


def test_command_leaves_a_line_however_it_ends(tmp_path: Path) -> None:
    with recorded(tmp_path, "backup", target="there") as summary:
        summary["shards"] = 2
    with pytest.raises(RuntimeError), recorded(tmp_path, "upgrade"):
        raise RuntimeError("no")
    done, failed = lines(tmp_path)
    assert (done["method"], done["summary"], done["code"]) == (
        "everopen backup",
        {"target": "there", "shards": 2},
        "OK",
    )
    assert (failed["method"], failed["code"]) == ("everopen upgrade", "UNUSABLE")
    assert done["caller"] == f"uid:{os.getuid()}"


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
