"""`everopen bench` as users see it, and against the real engine."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from engine import loadgen
from engine.demo import placed_in_log
from engine.loadgen import Options
from tests.peer import Peer
from tests.serving import Server
from tests.serving import everopen as everopen_command

# Field 1 of a health check's answer is 1 when it serves.
SERVING = b"\x08\x01"


def test_command_prints_json_and_exits_0_when_every_answer_is_right() -> None:
    with Peer(lambda connection, stream: connection.answer(stream, SERVING)) as server:
        done = everopen_bench("--target", server.address, "--method", "health", "--seconds", "0.1", "--json")
    said = json.loads(done.stdout)
    assert done.returncode == 0, done.stderr
    assert said["counts"]["placed"] == said["counts"]["offered"] > 0
    assert said["latency_us"]["p50"] <= said["latency_us"]["max"]


def test_command_exits_1_when_an_answer_is_wrong() -> None:
    with Peer(lambda connection, stream: connection.answer(stream, None, 12)) as server:
        done = everopen_bench("--target", server.address, "--method", "health", "--seconds", "0.1")
    assert done.returncode == 1
    assert "UNIMPLEMENTED" in done.stdout
    assert "answered wrongly" in done.stderr


def test_command_says_what_it_cannot_reach() -> None:
    done = everopen_bench("--target", "unknown", "--method", "health", "--seconds", "0.1")
    assert done.returncode == 5
    assert done.stderr.startswith("everopen: ")


def everopen_bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    return everopen_command("bench", "--warmup-s", "0", *arguments)


@pytest.mark.parametrize("method", ["place", "stream", "get-order"])
def test_log_has_what_the_load_placed(tmp_path: Path, method: str) -> None:
    with Server(tmp_path / "data") as server:
        options = Options(
            target=server.address, method=method, connections=2, streams=2, seconds=0.2, warmup_s=0, batch=50, shops=3
        )
        seeded = loadgen.seed(options)
        result = loadgen.run(options)
    assert result.holds
    assert result.counts["placed"] == result.counts["offered"] > 0
    placed = seeded if method == "get-order" else result.placed
    assert placed_in_log(tmp_path / "data") == placed
