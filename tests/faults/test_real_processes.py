"""Every kind of process is killed and frozen under load: the door stays open, and what callers saw is linearizable."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import grpc
import pytest

from tests.faults.scene import Scene, process_state, until
from tests.serving import Client, order

pytestmark = pytest.mark.alone

SEVERAL = ("--workers", "2", "--shards", "2")


def test_kill_every_kind_of_process_under_load_loses_nothing(tmp_path: Path) -> None:
    """All in one engine, so that each blow falls on what the one before it left."""
    with Scene(tmp_path / "data", *SEVERAL) as scene:
        for name in ("control server", "worker 0", "worker 1", "supervisor"):
            scene.progress()
            scene.kill(name)
        scene.progress()
    assert scene.history.failures[grpc.StatusCode.UNAVAILABLE] > 0, "the kills were not noticed by anybody"
    assert scene.server.stderr.count("SIGKILL") == 3


def test_frozen_process_is_waited_for_or_not_needed(tmp_path: Path) -> None:
    with Scene(tmp_path / "data", "--workers", "1") as scene, Client(scene.listen) as client:
        for name in ("supervisor", "control server"):
            pid = scene.freeze(name)
            scene.progress()
            assert process_state(pid) == "T", "no order needs it"
            os.kill(pid, signal.SIGCONT)
        scene.progress()
        pid = scene.freeze("worker 0")
        with pytest.raises(grpc.RpcError) as caught:
            client.orders.PlaceOrder(order("frozen"), timeout=0.2)
        assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        os.kill(pid, signal.SIGCONT)
        scene.progress()


def test_lone_worker_that_is_told_to_go_does_not_wait_for_those_who_watch(tmp_path: Path) -> None:
    """The library's clients watch the map through it, without end, and nobody else can serve meanwhile."""
    with Scene(tmp_path / "data", "--workers", "1") as scene:
        scene.progress()
        pid = scene.pid("worker 0")
        os.kill(pid, signal.SIGTERM)
        until(lambda: scene.server.children.get("worker 0", pid) != pid, "another worker")
        scene.progress()
        assert "calls are cut off" not in scene.server.stderr
