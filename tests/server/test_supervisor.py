"""The processes of an engine: who dies is replaced, nobody is refused meanwhile, and all end together."""

from __future__ import annotations

import concurrent.futures
import os
import re
import select
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_status import rpc_status

from engine import datadir
from engine._core import partition_of
from everopen.v1 import cluster_pb2, cluster_service_pb2
from everopen.v1.cluster_service_pb2_grpc import ClusterServiceStub
from tests.serving import ROOT, Client, Server, everopen, order

# Much longer than anything here takes; who waits so long waits for what never comes.
PATIENCE_S = 30
# One of each of two shards.
SHOPS = ("shop-0", "shop-1")
TWO_BY_TWO = ("--workers", "2", "--shards", "2")


def eventually(attempt: Callable[[], Any], what: str) -> Any:
    """The first result that is true. UNAVAILABLE is for what has not come back yet."""
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        try:
            if result := attempt():
                return result
        except grpc.RpcError as error:
            if error.code() != grpc.StatusCode.UNAVAILABLE:
                raise
        select.select([], [], [], 0.01)
    raise AssertionError(f"{what}: not within {PATIENCE_S} s")


def wait_for_ends(pidfds: Iterable[int]) -> None:
    for pidfd in pidfds:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        assert poll.poll(PATIENCE_S * 1_000), "a process that should have ended has not"
        os.close(pidfd)


def cluster(client: Client) -> Any:
    return ClusterServiceStub(client.channel)  # type: ignore[no-untyped-call]


def partition_map(client: Client) -> cluster_pb2.PartitionMap:
    request = cluster_service_pb2.GetPartitionMapRequest()
    return cluster(client).GetPartitionMap(request, timeout=PATIENCE_S).map


def watch(client: Client) -> Iterator[cluster_pb2.PartitionMap]:
    request = cluster_service_pb2.WatchPartitionMapRequest()
    return (answer.map for answer in cluster(client).WatchPartitionMap(request, timeout=PATIENCE_S))


def reason(error: Any) -> str:
    status = rpc_status.from_call(error)
    info = error_details_pb2.ErrorInfo()
    return next((info.reason for detail in status.details if detail.Unpack(info)), "") if status else ""


def log_is_free(data_dir: Path) -> bool:
    return not any(datadir.is_locked(shard) for shard in datadir.shard_directories(data_dir))


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def two(data_dir: Path) -> Iterator[Server]:
    """Two workers that host a shard each, with a shop in either."""
    with Server(data_dir, *TWO_BY_TWO) as server:
        with Client(server.address) as client:
            for shop_id in SHOPS:
                client.seed(shop_id=shop_id)
        yield server


def test_shops_of_these_tests_are_spread_over_both_shards() -> None:
    assert [datadir.shard_of(partition_of(shop_id), 2) for shop_id in SHOPS] == [0, 1]


def test_supervisor_and_workers_load_no_grpc(two: Server) -> None:
    def loads_grpc(pid: int) -> bool:
        return "cygrpc" in Path(f"/proc/{pid}/maps").read_text()

    children = two.children
    assert sorted(children) == ["control server", "worker 0", "worker 1"]
    assert loads_grpc(children["control server"])
    assert not any(map(loads_grpc, (two.process.pid, children["worker 0"], children["worker 1"])))
    assert two.stop() == 0


def test_map_and_workers_are_told(two: Server) -> None:
    with Client(two.address) as client:
        found = partition_map(client)
        assert found.partitions == 1_024
        assert [(entry.first_partition, entry.last_partition, entry.worker) for entry in found.shards] == [
            (0, 511, 0),
            (512, 1_023, 1),
        ]
        assert [entry.log_id for entry in found.shards] == [log_id for log_id, _ in two.shards]
        assert {entry.state for entry in found.shards} == {cluster_pb2.SHARD_STATE_SERVING}
        for shop_id, entry in zip(SHOPS, found.workers, strict=True):
            [address] = entry.addresses
            with Client(address) as direct:
                direct.orders.PlaceOrder(order("direct", shop_id=shop_id))
        children = two.children
        workers = cluster(client).GetWorkers(cluster_service_pb2.GetWorkersRequest(), timeout=PATIENCE_S).workers
        assert [worker.pid for worker in workers] == [children["worker 0"], children["worker 1"]]
        assert [worker.restarts for worker in workers] == [0, 0]
        assert sum(worker.counters["commands_executed"] for worker in workers) >= 2
        assert sum(worker.connections for worker in workers) >= 1


def test_reflection_and_channelz_are_served_at_the_same_address(two: Server) -> None:
    with Client(two.address) as client:
        services = set(ProtoReflectionDescriptorDatabase(client.channel).get_services())
        assert services == {
            "everopen.v1.OrderService",
            "everopen.v1.InventoryService",
            "everopen.v1.ClusterService",
            "grpc.health.v1.Health",
            "grpc.channelz.v1.Channelz",
            "grpc.reflection.v1alpha.ServerReflection",
        }
        client.channel.unary_unary("/grpc.channelz.v1.Channelz/GetServers")(b"", timeout=PATIENCE_S)


def test_killed_worker_is_replaced_and_no_connect_is_refused(two: Server) -> None:
    host = two.address.partition(":")[0]
    with Client(two.address) as client:
        own, other = [entry.addresses[0] for entry in partition_map(client).workers]
    # Through the other worker, since a connection to the one that dies dies with it.
    with Client(own) as through:
        maps = watch(through)
        before = next(maps)
        through.orders.PlaceOrder(order("before", shop_id=SHOPS[1]))
        # As long as the supervisor stands still, the worker stays dead.
        os.kill(two.process.pid, signal.SIGSTOP)
        pidfd = os.pidfd_open(two.children["worker 1"])
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        wait_for_ends([pidfd])
        with pytest.raises(grpc.RpcError) as down:
            through.orders.PlaceOrder(order("while-down", shop_id=SHOPS[1]), timeout=PATIENCE_S)
        assert down.value.code() == grpc.StatusCode.UNAVAILABLE
        assert reason(down.value) == "SHARD_DOWN"
        through.orders.PlaceOrder(order("while-down", shop_id=SHOPS[0]), timeout=PATIENCE_S)
        for address in (other, two.address):
            with socket.create_connection((host, int(address.rpartition(":")[2])), PATIENCE_S):
                pass
        os.kill(two.process.pid, signal.SIGCONT)
        states = []
        for seen in maps:
            assert seen.version > before.version
            states.append(seen.shards[1].state)
            if states[-1] == cluster_pb2.SHARD_STATE_SERVING:
                break
        assert states[0] == cluster_pb2.SHARD_STATE_DOWN
        assert cluster_pb2.SHARD_STATE_RECOVERING in states
        assert seen.shards[1].log_id == before.shards[1].log_id
        again = eventually(lambda: through.orders.PlaceOrder(order("before", shop_id=SHOPS[1])), "its shard")
        assert again.duplicate, "what was acknowledged is there"
        workers = cluster(through).GetWorkers(cluster_service_pb2.GetWorkersRequest(), timeout=PATIENCE_S).workers
        assert [worker.restarts for worker in workers] == [0, 1]
    assert two.stop() == 0


def test_worker_that_is_terminated_alone_answers_and_is_replaced(two: Server) -> None:
    worker = two.children["worker 1"]
    with Client(two.address) as client:
        with concurrent.futures.ThreadPoolExecutor(8) as pool:

            def place(n: int) -> str | None:
                if n == 100:
                    os.kill(worker, signal.SIGTERM)
                try:
                    client.orders.PlaceOrder(order(f"o-{n}", shop_id=SHOPS[1]), timeout=PATIENCE_S)
                except grpc.RpcError as error:
                    if error.code() != grpc.StatusCode.UNAVAILABLE:
                        raise
                    return None
                return f"o-{n}"

            answered = [order_id for order_id in pool.map(place, range(400)) if order_id]
        eventually(lambda: two.children.get("worker 1", worker) != worker, "another worker 1")
        eventually(lambda: client.orders.PlaceOrder(order("after", shop_id=SHOPS[1])), "its shard")
        for order_id in answered:
            assert client.orders.PlaceOrder(order(order_id, shop_id=SHOPS[1])).duplicate, order_id
    assert '"how":"exit code 0"' in two.stderr
    assert two.stop() == 0


def test_killed_control_server_comes_back_and_native_calls_notice_nothing(two: Server) -> None:
    with Client(two.address) as client:
        version = partition_map(client).version
        os.kill(two.children["control server"], signal.SIGKILL)
        for n in range(50):
            client.orders.PlaceOrder(order(f"o-{n}", shop_id=SHOPS[n % 2]), timeout=PATIENCE_S)
        assert eventually(lambda: partition_map(client), "the control server").version == version
    assert two.stop() == 0


def test_next_engine_at_the_same_address_need_not_wait_for_one_that_was_killed(data_dir: Path) -> None:
    with Server(data_dir, *TWO_BY_TWO) as server, Client(server.address) as client:
        client.seed(shop_id=SHOPS[1])
        client.orders.PlaceOrder(order("kept", shop_id=SHOPS[1]))
        pidfds = [os.pidfd_open(pid) for pid in server.children.values()]
        assert len(pidfds) == 3
        server.kill()
        # At the same address, which the dying may still hold.
        with Server(data_dir, *TWO_BY_TWO[:2], listen=server.address) as again:
            assert [log_id for log_id, _ in again.shards] == [log_id for log_id, _ in server.shards]
            wait_for_ends(pidfds)
            with Client(again.address) as after:
                assert after.orders.PlaceOrder(order("kept", shop_id=SHOPS[1])).duplicate
            again.kill()
    eventually(lambda: log_is_free(data_dir), "the log of a killed engine")


def test_terminated_under_load_every_answer_is_in_the_logs(data_dir: Path) -> None:
    with Server(data_dir, *TWO_BY_TWO) as server, Client(server.address) as client:
        for shop_id in SHOPS:
            client.seed(shop_id=shop_id)

        def place(n: int) -> str | None:
            if n == 300:
                server.process.send_signal(signal.SIGTERM)
            try:
                return str(client.orders.PlaceOrder(order(f"o-{n}", shop_id=SHOPS[n % 2])).order.order_id)
            except grpc.RpcError as error:
                if error.code() != grpc.StatusCode.UNAVAILABLE:
                    raise
                return None

        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            answered = [order_id for order_id in pool.map(place, range(1_000)) if order_id]
        assert server.wait() == 0
        assert "cut off" not in server.stderr
    assert 284 <= len(answered) < 1_000
    with Server(data_dir) as again, Client(again.address) as client:
        for order_id in answered:
            shop_id = SHOPS[int(order_id[2:]) % 2]
            assert client.orders.PlaceOrder(order(order_id, shop_id=shop_id)).duplicate, order_id


def test_signal_to_the_whole_group_drains_as_one_to_the_supervisor_does(data_dir: Path) -> None:
    """What a terminal and a service manager do."""
    command = [sys.executable, "-m", "engine", "serve", "--data-dir", str(data_dir), "--listen", "127.0.0.1:0"]
    for number in (signal.SIGINT, signal.SIGTERM):
        with subprocess.Popen(
            [*command, *TWO_BY_TWO], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, process_group=0
        ) as process:
            assert process.stdout is not None
            assert [process.stdout.readline().split()[1] for _ in range(3)] == [b"shard", b"shard", b"serving"]
            os.killpg(process.pid, number)
            _, errors = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0
        assert b"Traceback" not in errors
        assert errors.count(b'"event":"stopped"') == 3, "both logs are sealed, and then the supervisor ends"


def test_damaged_shard_of_two_is_named_and_nothing_is_served(data_dir: Path) -> None:
    with Server(data_dir, *TWO_BY_TWO) as server, Client(server.address) as client:
        client.seed(shop_id=SHOPS[1])
        assert server.stop() == 0
    segment = min((data_dir / "shard-0001").glob("*.log"))
    with segment.open("r+b") as file:
        file.seek(4096 + 200)
        file.write(bytes([os.pread(file.fileno(), 1, 4096 + 200)[0] ^ 1]))
    refused = everopen("serve", "--data-dir", data_dir, "--listen", "127.0.0.1:0", "--workers", "2")
    assert refused.returncode == 4
    assert "DATA_LOSS" in refused.stderr
    assert f"shard-0001/{segment.name}: offset 4096" in refused.stderr
    assert "serving" not in refused.stdout


def test_another_number_of_shards_is_refused(data_dir: Path) -> None:
    with Server(data_dir, "--shards", "2") as server:
        assert server.stop() == 0
    refused = everopen("serve", "--data-dir", data_dir, "--listen", "127.0.0.1:0", "--shards", "3")
    assert refused.returncode == 5
    assert "made for 2 shards" in refused.stderr


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("--workers", "65"),
        ("--shards", "65"),
        ("--workers", "0"),
        ("--front-setting", "nonsense=1"),
        ("--listen", "unix:"),
    ],
)
def test_argument_out_of_bounds_is_named(data_dir: Path, argument: str, value: str) -> None:
    refused = everopen("serve", "--data-dir", data_dir, argument, value)
    assert refused.returncode == 2
    assert argument in refused.stderr
    assert not data_dir.exists()


def test_business_digest_does_not_depend_on_workers_and_shards(tmp_path: Path) -> None:
    digests = set()
    for workers, shards in ((1, 1), (2, 1), (2, 2)):
        data_dir = tmp_path / f"{workers}-{shards}"
        with Server(data_dir, "--workers", str(workers), "--shards", str(shards)) as server:
            for number in range(6):
                # A connection each, so that both workers get some.
                with Client(server.address) as client:
                    client.seed(shop_id=f"shop-{number}", stock=30)
                    for n in range(20):
                        client.orders.PlaceOrder(order(f"o-{n}", 1 + n % 3, shop_id=f"shop-{number}"))
            assert server.stop() == 0
        done = everopen("audit", "--data-dir", data_dir)
        assert done.returncode == 0, done.stderr
        digests.add(re.findall(r"business digest (\w+)", done.stdout.splitlines()[-1])[0])
    assert len(digests) == 1


def test_unix_socket_is_private_and_goes_with_the_engine(tmp_path: Path) -> None:
    # pytest's folders may be too deep for the path of a socket.
    path = tmp_path / "s"
    if len(os.fsencode(path)) > 90:
        pytest.skip("the temporary folder is too deep for a socket")
    with Server(tmp_path / "data", "--listen", f"unix:{path}") as server:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        with Client(f"unix:{path}") as client:
            client.seed()
            [direct] = partition_map(client).workers
            assert direct.addresses[1] == f"unix:{path}.worker-0"
        with Client(direct.addresses[1]) as client:
            client.orders.PlaceOrder(order("direct"))
        second = everopen("serve", "--data-dir", tmp_path / "other", "--listen", f"unix:{path}")
        assert (second.returncode, "in use" in second.stderr) == (5, True)
        server.kill()
        assert path.exists()
    with Server(tmp_path / "data", "--listen", f"unix:{path}") as server:
        with Client(f"unix:{path}") as client:
            assert client.orders.PlaceOrder(order("direct")).duplicate
        assert server.stop() == 0
    assert not list(tmp_path.glob("s*"))
