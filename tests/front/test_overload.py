"""What a worker does that cannot keep up: it lowers how many calls its peers may open, and refuses what is beyond."""

from __future__ import annotations

from pathlib import Path

from hyperframe.frame import SettingsFrame

from engine.front_settings import DEFAULTS
from tests.front.calls import OK, PLACE_ORDER, RESOURCE_EXHAUSTED, details, fresh_id, is_known, place
from tests.front.http2 import Connection, prefixed
from tests.front.test_fairness import frozen, worker_of
from tests.serving import Client, Server

STREAMS = SettingsFrame.MAX_CONCURRENT_STREAMS


def settings(**changed: int) -> list[str]:
    return [text for name, value in changed.items() for text in ("--front-setting", f"{name}={value}")]


def test_worker_that_falls_behind_lowers_the_streams_of_a_connection(tmp_path: Path) -> None:
    # Every turn takes longer than a microsecond.
    arguments = settings(overloaded_turn_us=1, streams_per_connection_min=8)
    with Server(tmp_path / "data", "--workers", "1", *arguments) as server, Connection(server.address) as connection:
        seen: list[int] = []
        while not seen or seen[-1] > 8:
            connection.read_until(lambda: connection.peer_settings.get(STREAMS) not in (None, *seen))
            seen.append(connection.peer_settings[STREAMS])
        assert seen == sorted(seen, reverse=True)
        # It goes on serving, with fewer at a time.
        with Client(server.address) as client:
            client.seed()
        assert not is_known(connection, fresh_id())


def test_order_beyond_what_a_shard_may_have_in_flight_is_refused_and_told_when_to_come_again(tmp_path: Path) -> None:
    calls = 64
    with Server(tmp_path / "data", "--workers", "1", *settings(shard_jobs_max=1)) as server:
        with Client(server.address) as client:
            client.seed()
        with Connection(server.address) as connection:
            connection.ping()
            # All of them are found in one turn: only the first few are carried out before the bound is looked at again.
            with frozen(worker_of(server)):
                asked = []
                for _ in range(calls):
                    stream_id = connection.open(PLACE_ORDER)
                    connection.data(stream_id, prefixed(place()), end=True)
                    asked.append(stream_id)
            answers = [connection.answer(stream_id) for stream_id in asked]
    placed = [answer for answer in answers if answer.code == OK]
    refused = [answer for answer in answers if answer.code == RESOURCE_EXHAUSTED]
    assert placed
    assert refused
    assert len(placed) + len(refused) == calls
    assert all(answer.last["grpc-retry-pushback-ms"].isdigit() for answer in refused)
    assert details(refused[0]).code == RESOURCE_EXHAUSTED


def test_message_that_can_never_be_taken_is_refused_without_a_time_to_come_again(tmp_path: Path) -> None:
    with Server(tmp_path / "data", "--workers", "1") as server, Connection(server.address) as connection:
        stream_id = connection.open(PLACE_ORDER)
        connection.data(stream_id, b"\0" + (5 * 1024 * 1024).to_bytes(4, "big"))
        large = connection.answer(stream_id)
        heavy = connection.call(PLACE_ORDER, place(), more=[("weight", "x" * DEFAULTS["header_list_bytes_max"])])
    assert [large.code, heavy.code] == [RESOURCE_EXHAUSTED, RESOURCE_EXHAUSTED]
    assert "grpc-retry-pushback-ms" not in large.last | heavy.last
