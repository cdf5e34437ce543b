"""A supervisor that is killed: what goes on without it, and what the next one makes of those it finds."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from engine import datadir
from tests.server.test_followers import PATIENT, wait_for
from tests.server.test_supervisor import PATIENCE_S, eventually, log_is_free, partition_map, wait_for_ends
from tests.serving import Client, Server, everopen, freeze, order

ONE = ("--workers", "1", "--followers", "1", *PATIENT)


def test_children_serve_on_and_are_adopted_by_the_next_supervisor(data_dir: Path) -> None:
    with Server(data_dir, *ONE) as server, Client(server.address) as client:
        client.seed()
        wait_for(server, "following")
        before = server.children
        assert sorted(before) == ["archive", "control server", "follower 0", "worker 0"]
        server.kill_supervisor()
        for n in range(50):
            client.orders.PlaceOrder(order(f"alone-{n}"), timeout=PATIENCE_S)
        with Server(data_dir, *ONE) as again:
            assert again.address == server.address
            assert again.children == before
            for n in range(50):
                assert client.orders.PlaceOrder(order(f"alone-{n}"), timeout=PATIENCE_S).duplicate
            assert [entry.addresses for entry in partition_map(client).workers]
            # Who was adopted is watched like who was started.
            os.kill(before["worker 0"], signal.SIGKILL)
            eventually(lambda: client.orders.PlaceOrder(order("alone-0"), timeout=PATIENCE_S).duplicate, "its shard")
            assert again.children["worker 0"] == before["follower 0"]
            assert "exit code not known" in again.stderr
            assert again.stop() == 0
        assert log_is_free(data_dir)
    assert everopen("audit", "--data-dir", data_dir).returncode == 0


def test_follower_of_a_leader_that_died_meanwhile_is_promoted_by_the_next_supervisor(data_dir: Path) -> None:
    with Server(data_dir, *ONE) as server, Client(server.address) as client:
        client.seed()
        client.orders.PlaceOrder(order("kept"))
        wait_for(server, "following")
        before = server.children
        server.kill_supervisor()
        pidfd = os.pidfd_open(before["worker 0"])
        os.kill(before["worker 0"], signal.SIGKILL)
        wait_for_ends([pidfd])
        with Server(data_dir, *ONE) as again, Client(again.address) as after:
            assert again.address == server.address, "the sockets were the follower's too"
            assert again.children["worker 0"] == before["follower 0"]
            assert after.orders.PlaceOrder(order("kept"), timeout=PATIENCE_S).duplicate
            assert again.stop() == 0


def test_children_that_were_started_otherwise_or_do_not_move_are_replaced(data_dir: Path) -> None:
    with Server(data_dir, "--workers", "2") as server, Client(server.address) as client:
        client.seed()
        client.orders.PlaceOrder(order("kept"))
        before = server.children
        freeze(before["worker 1"])
        server.kill_supervisor()
        with Server(data_dir, "--workers", "2") as again:
            assert again.children["worker 0"] == before["worker 0"]
            assert again.children["worker 1"] != before["worker 1"]
            again.kill_supervisor()
            pidfds = [os.pidfd_open(pid) for pid in again.children.values()]
            with Server(data_dir, "--workers", "1", listen=again.address) as other, Client(other.address) as after:
                wait_for_ends(pidfds)
                assert after.orders.PlaceOrder(order("kept"), timeout=PATIENCE_S).duplicate
                assert other.stop() == 0


def test_orphans_that_are_terminated_answer_and_seal_their_logs(data_dir: Path) -> None:
    with Server(data_dir, *ONE) as server, Client(server.address) as client:
        client.seed()
        client.orders.PlaceOrder(order("kept"))
        wait_for(server, "following")
        pidfds = [os.pidfd_open(pid) for pid in server.children.values()]
        pids = list(server.children.values())
        server.kill_supervisor()
        for pid in pids:
            os.kill(pid, signal.SIGTERM)
        wait_for_ends(pidfds)
        assert '"event": "stopped"' in server.stderr, "sealed"
    assert not any(datadir.is_locked(shard) for shard in datadir.shard_directories(data_dir))
