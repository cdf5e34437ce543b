"""`everopen upgrade` on real processes: all are replaced and no call fails, or it stops and nothing has changed."""

from __future__ import annotations

import threading
from pathlib import Path

import grpc
import pytest

from tests.server.test_followers import PATIENT, wait_for
from tests.server.test_supervisor import PATIENCE_S
from tests.serving import ROOT, Client, Server, everopen, order


class Caller(threading.Thread):
    """Places orders one after the other until it is told to end; what is not answered it repeats at once."""

    def __init__(self, address: str) -> None:
        super().__init__()
        self._address = address
        self._enough = threading.Event()
        self.placed = 0
        self.failures: list[str] = []

    def run(self) -> None:
        with Client(self._address) as client:
            while not self._enough.is_set():
                self._place(client, f"o-{self.placed}")
                self.placed += 1

    def _place(self, client: Client, order_id: str) -> None:
        for _ in range(10):
            try:
                client.orders.PlaceOrder(order(order_id), timeout=PATIENCE_S, wait_for_ready=True)
                return
            except grpc.RpcError as error:
                if error.code() != grpc.StatusCode.UNAVAILABLE:
                    self.failures.append(f"{order_id}: {error}")
                    return
        self.failures.append(f"{order_id}: not answered after ten attempts")

    def finish(self) -> None:
        self._enough.set()
        self.join(PATIENCE_S)


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(("--workers", "2", "--followers", "1", *PATIENT), id="two workers, one of which hosts"),
        pytest.param(("--workers", "1", "--followers", "0", *PATIENT), id="the smallest"),
    ],
)
def test_upgrade_under_load_replaces_every_process_and_fails_no_call(
    data_dir: Path, arguments: tuple[str, ...]
) -> None:
    with Server(data_dir, *arguments) as server:
        with Client(server.address) as client:
            client.seed()
        if arguments[3] == "1":
            wait_for(server, "following")
        before = server.children
        caller = Caller(server.address)
        caller.start()
        done = everopen("upgrade", "--data-dir", data_dir)
        caller.finish()
        assert done.returncode == 0, done.stderr + server.stderr
        assert not caller.failures
        assert caller.placed > 0
        assert done.stdout.splitlines()[-1] == "upgrade: all processes are replaced"
        assert f"supervisor replaced, process {server.process.pid}" in done.stdout
        after = server.children
        assert not set(before.values()) & set(after.values())
        # A new follower may still be on its way.
        assert set(before) - {"follower 0"} <= set(after)
        assert server.stop() == 0
    audited = everopen("audit", "--data-dir", data_dir)
    assert audited.returncode == 0, audited.stderr


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """A copy of the program, which a test may break."""
    package = tmp_path / "program" / "engine"
    package.mkdir(parents=True)
    for path in (ROOT / "engine").iterdir():
        if path.suffix in (".py", ".so"):
            (package / path.name).symlink_to(path)
    return package.parent


def rewrite(program: Path, module: str, text: str) -> None:
    path = program / "engine" / module
    path.unlink()
    path.write_text(text)


def test_program_that_cannot_be_loaded_replaces_nothing(data_dir: Path, program: Path) -> None:
    with Server(data_dir, "--workers", "1", root=program) as server, Client(server.address) as client:
        client.seed()
        before = server.children
        rewrite(program, "adoption.py", "import nothing_of_that_name\n")
        done = everopen("upgrade", "--data-dir", data_dir, root=program)
        assert done.returncode == 1
        assert "nothing was touched" in done.stderr
        assert "nothing_of_that_name" in done.stderr
        assert server.children == before
        assert server.stop() == 0


def test_new_process_that_does_not_come_up_stops_the_upgrade_and_what_runs_goes_on(
    data_dir: Path, program: Path
) -> None:
    with Server(data_dir, "--workers", "1", root=program) as server, Client(server.address) as client:
        client.seed()
        before = server.children
        rewrite(
            program, "follower.py", "import os\n\nclass StandingBy:\n    def __init__(self, *_):\n        os._exit(1)\n"
        )
        done = everopen("upgrade", "--data-dir", data_dir, root=program)
        assert done.returncode == 1
        assert "does not stand by" in done.stderr
        assert server.children["worker 0"] == before["worker 0"]
        client.orders.PlaceOrder(order("after"), timeout=PATIENCE_S)
        assert server.stop() == 0


def test_upgrade_of_an_engine_that_does_not_run_is_refused(data_dir: Path) -> None:
    done = everopen("upgrade", "--data-dir", data_dir)
    assert done.returncode == 1
    assert "no engine is running" in done.stderr
