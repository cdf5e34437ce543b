"""Real processes that stand by: takeover, snapshots on a schedule, and a follower that finds a damaged log."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import orjson

from engine import datadir
from tests.server.test_supervisor import PATIENCE_S, eventually
from tests.serving import Client, Server, everopen, freeze, order

# A machine that is busy with other tests is no reason to kill a worker.
PATIENT = ("--heartbeat-ms", "20000")
FOLLOWED = ("--workers", "1", "--followers", "1")


def events(server: Server, event: str) -> list[dict[str, Any]]:
    """The log lines of that name."""
    lines = (orjson.loads(line) for line in server.stderr.splitlines() if line.startswith("{"))
    return [line for line in lines if line["event"] == event]


def wait_for(server: Server, event: str, count: int = 1) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = eventually(
        lambda: seen if len(seen := events(server, event)) >= count else None, f"{event} in the log lines"
    )
    return found


def place(client: Client, order_id: str) -> Any:
    """Repeated for as long as nobody can answer."""
    return eventually(
        lambda: client.orders.PlaceOrder(order(order_id), timeout=PATIENCE_S), f"an answer for {order_id}"
    )


def test_killed_leader_is_taken_over_with_all_that_was_answered(data_dir: Path) -> None:
    with Server(data_dir, *FOLLOWED, *PATIENT) as server, Client(server.address) as client:
        client.seed()
        wait_for(server, "following")
        for life in range(2):
            for n in range(50):
                client.orders.PlaceOrder(order(f"{life}-{n}"))
            leader, follower = (server.children[name] for name in ("worker 0", "follower 0"))
            os.kill(leader, signal.SIGKILL)
            place(client, f"after-{life}")
            assert server.children["worker 0"] == follower
            for n in range(50):
                assert client.orders.PlaceOrder(order(f"{life}-{n}")).duplicate
            wait_for(server, "following", life + 2)
            assert server.children["follower 0"] not in (leader, follower)
        assert server.stop() == 0
    done = everopen("audit", "--data-dir", data_dir)
    assert done.returncode == 0, done.stderr


def test_frozen_leader_is_killed_and_taken_over(data_dir: Path) -> None:
    with Server(data_dir, *FOLLOWED, "--heartbeat-ms", "400") as server, Client(server.address) as client:
        client.seed()
        wait_for(server, "following")
        follower = server.children["follower 0"]
        freeze(server.children["worker 0"])
        place(client, "after")
        assert server.children["worker 0"] == follower
        assert "shows no heartbeat" in server.stderr
        assert server.stop() == 0


def test_snapshots_are_taken_on_schedule_two_are_kept_and_segments_go(data_dir: Path) -> None:
    arguments = (*FOLLOWED, *PATIENT, "--snapshot-bytes", "65536")
    with Server(data_dir, *arguments, segment_bytes=64 * 1024) as server, Client(server.address) as client:
        client.seed()
        wait_for(server, "following")
        for taken in range(1, 4):
            for n in range(200):
                place(client, f"{taken}-{n}")
            wait_for(server, "snapshot", taken)
        assert sum(line["segments_dropped"] for line in events(server, "snapshot")) > 0
        # Another one may be there just now, and those before it not gone yet.
        eventually(lambda: len(datadir.snapshots(server.shard)) == 2, "two snapshots")
        # From the newest of them, and what was logged since.
        server.kill()
    with Server(data_dir) as again, Client(again.address) as client:
        assert client.orders.PlaceOrder(order("1-0")).duplicate
        assert client.orders.PlaceOrder(order("3-199")).duplicate
        assert again.stop() == 0
    done = everopen("audit", "--data-dir", data_dir)
    assert done.returncode == 0, done.stderr


def test_without_followers_a_replayer_takes_the_snapshots_and_ends(data_dir: Path) -> None:
    arguments = ("--workers", "1", "--followers", "0", "--snapshot-bytes", "65536")
    with Server(data_dir, *arguments, segment_bytes=64 * 1024) as server, Client(server.address) as client:
        client.seed()
        for n in range(200):
            place(client, f"o-{n}")
        [line] = wait_for(server, "snapshot")
        assert 0 < line["sequence"] <= place(client, "after").sequence
        eventually(lambda: "replayer 0" not in server.children, "the end of the replayer")
        assert server.stop() == 0
        assert not events(server, "replayer 0 died")


def test_follower_that_finds_a_damaged_log_ends_and_the_leader_goes_on(data_dir: Path) -> None:
    with Server(data_dir, *FOLLOWED, *PATIENT) as server, Client(server.address) as client:
        client.seed()
        for n in range(50):
            client.orders.PlaceOrder(order(f"o-{n}"))
        wait_for(server, "following")
        leader = server.children["worker 0"]
        segment = min(server.shard.glob("*.log"))
        with segment.open("r+b") as file:
            file.seek(4096 + 200)
            byte = file.read(1)
            file.seek(4096 + 200)
            file.write(bytes([byte[0] ^ 1]))
        os.kill(server.children["follower 0"], signal.SIGKILL)
        wait_for(server, "a follower ends, and none is started for this log again: somebody has to look at it")
        eventually(lambda: "follower 0" not in server.children, "the end of the follower")
        client.orders.PlaceOrder(order("after"))
        assert server.children["worker 0"] == leader
        assert segment.name in server.stderr
        assert server.stop() == 0


def test_worker_terminated_alone_hands_over_and_no_call_fails(data_dir: Path) -> None:
    with Server(data_dir, *FOLLOWED, *PATIENT) as server, Client(server.address) as client:
        client.seed()
        wait_for(server, "following")
        leader, follower = (server.children[name] for name in ("worker 0", "follower 0"))
        os.kill(leader, signal.SIGTERM)
        n = 0
        while leader in server.children.values():
            n += 1
            client.orders.PlaceOrder(order(f"o-{n}"), timeout=PATIENCE_S, wait_for_ready=True)
        assert server.children["worker 0"] == follower
        assert server.stop() == 0
    done = everopen("audit", "--data-dir", data_dir)
    assert done.returncode == 0, done.stderr


def test_more_followers_than_one_are_refused(data_dir: Path) -> None:
    refused = everopen("serve", "--data-dir", data_dir, "--followers", "2")
    assert refused.returncode == 2
    assert "--followers" in refused.stderr
    assert not data_dir.exists()
