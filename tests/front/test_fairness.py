"""What a single order pays for the big batches of others, counted in commands: time would tell of the machine."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from os import kill
from pathlib import Path

import pytest

from engine.front_settings import DEFAULTS
from everopen.v1 import order_service_pb2 as orders
from tests.front.calls import PLACE_ORDER, PLACE_ORDERS, fresh_id, place, placed
from tests.front.http2 import Connection, prefixed
from tests.serving import Client, Server, batch

BATCH = 1_000


@pytest.fixture(scope="module")
def single_worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    # A segment that takes all of it: while the next one is prepared, orders would be refused.
    data_dir = tmp_path_factory.mktemp("fairness") / "data"
    settings = ("--workers", "1", "--heartbeat-ms", "600000")
    with Server(data_dir, *settings, segment_bytes=16 * 1024 * 1024) as server:
        with Client(server.address) as client:
            client.seed()
        yield server


def worker_of(server: Server) -> int:
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
    [worker] = [int(pid) for pid in children if b"engine.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    return worker


@contextmanager
def frozen(pid: int) -> Iterator[None]:
    """What is sent meanwhile lies in the sockets, and all of it is found at once afterwards."""
    kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        kill(pid, signal.SIGCONT)


@pytest.mark.parametrize("batchers", [1, 4])
def test_single_order_waits_for_a_turn_of_each_batch_and_not_for_the_batches(
    single_worker: Server, batchers: int
) -> None:
    with ExitStack() as stack:
        senders = [stack.enter_context(Connection(single_worker.address)) for _ in range(batchers)]
        single = stack.enter_context(Connection(single_worker.address))
        for connection in (*senders, single):
            connection.ping()
        with frozen(worker_of(single_worker)):
            streams = []
            for sender in senders:
                stream_id = sender.open(PLACE_ORDERS)
                message = batch(fresh_id() for _ in range(BATCH)).SerializeToString()
                sender.data(stream_id, prefixed(message), end=True)
                streams.append(stream_id)
            asked = single.open(PLACE_ORDER)
            single.data(asked, prefixed(place()), end=True)
        mine = placed(single.answer(asked)).sequence
        answers = [sender.answer(stream_id) for sender, stream_id in zip(senders, streams, strict=True)]
    batches = [orders.PlaceOrdersResponse.FromString(answer.messages[0]).results for answer in answers]
    sequences = sorted(result.result.sequence for results in batches for result in results)
    assert len(sequences) == batchers * BATCH
    before = sum(sequence < mine for sequence in sequences)
    # A batch of this size is read in two turns; each sender may have a turn's commands carried out in either.
    assert before <= 2 * batchers * DEFAULTS["commands_per_turn_max"]


def test_batches_wait_for_the_log_rather_than_be_refused(tmp_path: Path) -> None:
    # A segment takes some 4,000 orders, so that the next one is never ready in time.
    with Server(tmp_path / "data", "--workers", "1", segment_bytes=1024 * 1024) as server:
        with Client(server.address) as client:
            client.seed()
        messages = [batch(fresh_id() for _ in range(BATCH)).SerializeToString() for _ in range(12)]
        with Connection(server.address) as connection:
            answer = connection.call(PLACE_ORDERS, *messages)
        results = [
            result for message in answer.messages for result in orders.PlaceOrdersResponse.FromString(message).results
        ]
        assert [result.WhichOneof("answer") for result in results] == ["result"] * len(messages) * BATCH
