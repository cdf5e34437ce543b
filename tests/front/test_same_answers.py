"""The same bytes to both fronts give the same answers, byte by byte, and leave the same state."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import pytest

from everopen.v1 import inventory_service_pb2 as inventory
from everopen.v1 import order_service_pb2 as orders
from tests.front.fronts import ReferenceServer
from tests.front.recorded import BATCH_PATHS, PATHS, PLACE_ORDERS, Call, frozen_data_dir, record
from tests.serving import Server, everopen

CALLS = 400


class Answer(NamedTuple):
    code: str
    message: str
    details: bytes
    responses: tuple[bytes, ...]


def ask(channel: grpc.Channel, call: Call) -> Answer:
    responses: list[bytes] = []
    if call.path == PLACE_ORDERS:
        stream: Any = channel.stream_stream(call.path)(iter(call.messages), timeout=60)
    else:
        stream = channel.unary_stream(call.path)(call.messages[0], timeout=60)
    with contextlib.suppress(grpc.RpcError):
        responses.extend(stream)
    trailing = dict(stream.trailing_metadata() or ())
    details = trailing.get("grpc-status-details-bin", b"")
    message = stream.details() if call.in_words else ""
    return Answer(stream.code().name, message, details if call.in_words else b"", tuple(responses))


def answers(front: type[Server], data_dir: Path, calls: list[Call], *arguments: str) -> tuple[list[Answer], str]:
    """What the front says, and what an audit says of the log that it leaves."""
    with front(data_dir, *arguments) as server:
        options = [("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
        with grpc.insecure_channel(server.address, options=options) as channel:
            found = [ask(channel, call) for call in calls]
        assert server.stop() == 0
    audit = everopen("audit", "--data-dir", data_dir)
    assert audit.returncode == 0, audit.stderr
    return found, audit.stdout


def differences(calls: list[Call], one: list[Answer], other: list[Answer]) -> Iterator[str]:
    for number, (call, first, second) in enumerate(zip(calls, one, other, strict=True)):
        if first != second:
            sent = [message[:200] for message in call.messages]
            yield f"call {number} {call.path} {sent}\nreference {str(first)[:2_000]}\nnative    {str(second)[:2_000]}"


@pytest.fixture(scope="module", params=[1, 3, 5], ids=lambda seed: f"seed-{seed}")
def reference(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[list[Call], list[Answer], str]:
    calls = record(request.param, CALLS)
    data_dir = frozen_data_dir(tmp_path_factory.mktemp("reference") / "data")
    return calls, *answers(ReferenceServer, data_dir, calls)


def test_record_reaches_every_method_and_is_answered_in_every_way(
    reference: tuple[list[Call], list[Answer], str],
) -> None:
    calls, found, _ = reference
    assert {call.path for call in calls} >= {*PATHS.values(), *BATCH_PATHS.values()}
    codes = Counter(answer.code for answer in found)
    wanted = {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "ALREADY_EXISTS", "RESOURCE_EXHAUSTED", "UNIMPLEMENTED"}
    assert set(codes) >= wanted
    assert codes["OK"] > CALLS // 2
    assert codes["INVALID_ARGUMENT"] > 50


def test_native_front_answers_byte_by_byte_as_the_reference(
    reference: tuple[list[Call], list[Answer], str], tmp_path: Path
) -> None:
    calls, expected, audit = reference
    found, native_audit = answers(Server, frozen_data_dir(tmp_path / "data"), calls)
    wrong = list(differences(calls, expected, found))
    assert not wrong, f"{len(wrong)} calls were answered otherwise:\n" + "\n".join(wrong[:5])
    assert native_audit == audit


def placeless(path: str, answer: Answer) -> Answer:
    """Without what names the log that an answer's record lies in, which depends on the number of shards."""
    name = path.rpartition("/")[2] + "Response"
    kind = getattr(orders, name, None) or getattr(inventory, name, None)
    if kind is None:
        return answer
    return answer._replace(responses=tuple(str(_cleared(kind.FromString(each))) for each in answer.responses))


def _cleared(message: Any) -> Any:
    for field, value in message.ListFields():
        if field.name in ("sequence", "log_id"):
            message.ClearField(field.name)
        elif field.message_type is not None and not field.message_type.GetOptions().map_entry:
            for each in value if field.is_repeated else [value]:
                _cleared(each)
    return message


def test_two_workers_and_two_shards_answer_as_the_reference_but_for_sequences(
    reference: tuple[list[Call], list[Answer], str], tmp_path: Path
) -> None:
    calls, expected, audit = reference
    data_dir = frozen_data_dir(tmp_path / "data", shards=2)
    found, native_audit = answers(Server, data_dir, calls, "--workers", "2", "--shards", "2")
    one = [placeless(call.path, answer) for call, answer in zip(calls, expected, strict=True)]
    other = [placeless(call.path, answer) for call, answer in zip(calls, found, strict=True)]
    wrong = list(differences(calls, one, other))
    assert not wrong, f"{len(wrong)} calls were answered otherwise:\n" + "\n".join(wrong[:5])
    assert business_digest(native_audit) == business_digest(audit)


def business_digest(audit: str) -> str:
    [line] = [line for line in audit.splitlines() if "business digest" in line][-1:]
    return line.rpartition("business digest")[2].split()[0]
