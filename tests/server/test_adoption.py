"""A supervisor that is killed: what goes on without it, and what the next one makes of those it finds."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path

from engine import adoption, datadir, runtime
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
        assert '"event":"stopped"' in server.stderr, "sealed"
    assert not any(datadir.is_locked(shard) for shard in datadir.shard_directories(data_dir))


# Read by every Python that is started with its folder on the path.
FAILING = """
import sys
if "serve" in sys.orig_argv:
    from engine.post import Post
    def fail(*_):
        raise RuntimeError("nobody foresaw this")
    Post._ended = fail
"""


def test_supervisor_that_fails_leaves_its_children_to_the_next(data_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(FAILING)
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    with Server(data_dir, *ONE, environment={"PYTHONPATH": path}) as server, Client(server.address) as client:
        client.seed()
        wait_for(server, "following")
        before = server.children
        os.kill(before["control server"], signal.SIGKILL)
        assert server.wait() == 1
        client.orders.PlaceOrder(order("alone"), timeout=PATIENCE_S)
        with Server(data_dir, *ONE) as again:
            assert again.children["worker 0"] == before["worker 0"]
            assert again.children["follower 0"] == before["follower 0"]
            assert client.orders.PlaceOrder(order("alone"), timeout=PATIENCE_S).duplicate
            assert again.stop() == 0


HELLO = """
import sys
from engine.channel import Channel
Channel.to(sys.argv[1]).send("hello", name="worker 0", fingerprint="f", worker=0)
"""


class Named(runtime.Children):
    def __init__(self, *pids: int) -> None:
        self.pids = pids

    def living(self) -> list[runtime.Process]:
        return [runtime.Process(pid, runtime.start_time(pid), "worker 0") for pid in self.pids]


def test_child_that_dies_in_the_moment_of_its_hello_is_not_adopted(tmp_path: Path) -> None:
    with closing(runtime.supervisor_socket(tmp_path)) as meeting:
        path = str(tmp_path / runtime.SUPERVISOR_SOCKET)
        process = subprocess.Popen([sys.executable, "-c", HELLO, path])
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        # Another one is waited for, so that the hello is still read after the end.
        other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        freeze(other.pid)
        open_before = len(os.listdir("/proc/self/fd"))
        assert adoption.gather(Named(process.pid, other.pid), meeting, "f") == []
        assert len(os.listdir("/proc/self/fd")) == open_before
    # They were reaped there.
    process.returncode = other.returncode = 0
    assert other.stdin is not None
    other.stdin.close()
