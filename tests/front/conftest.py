"""One server of each front for a file's tests that leave it running."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.front.fronts import FRONTS, TwoWorkers
from tests.front.handing import Front, Fronts, seed
from tests.front.hostile import THERE, Neighbour, guarded_server
from tests.front.http2 import Connection
from tests.serving import Client, Server


@pytest.fixture(scope="module", params=[*FRONTS, pytest.param(TwoWorkers, id="two-workers")])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    front: type[Server] = request.param
    with front(tmp_path_factory.mktemp("front") / "data") as running:
        with Client(running.address) as client:
            client.seed()
        yield running
        assert running.stop() == 0


@pytest.fixture
def connection(server: Server) -> Iterator[Connection]:
    with Connection(server.address) as made:
        yield made


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def fronts(tmp_path: Path) -> Iterator[Fronts]:
    """A native front, or several, in this process."""
    with Fronts(tmp_path / "data") as made:
        yield made


@pytest.fixture
def front(fronts: Fronts) -> Front:
    """One, with something to sell."""
    made = fronts.start()
    seed(made)
    return made


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A native front whose bounds are small."""
    with guarded_server(tmp_path_factory.mktemp("guarded")) as running:
        yield running


@pytest.fixture
def hostile(guarded: Server) -> Iterator[Connection]:
    with Connection(guarded.address, source=THERE) as made:
        yield made


@pytest.fixture
def neighbour(guarded: Server) -> Iterator[Neighbour]:
    made = Neighbour(guarded)
    yield made
    made.close()
