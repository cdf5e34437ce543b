"""Who is not known: its share of the questions who calls, and of the memory, before there is an answer."""

from __future__ import annotations

import contextlib
import gzip
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from hyperframe.frame import DataFrame

from tests.front.callers import (
    BEARER,
    TOKEN,
    UNAUTHENTICATED,
    Answerer,
    Caller,
    answerer,
    reason,
    refused_anonymously,
)
from tests.front.calls import (
    INTERNAL,
    INVALID_ARGUMENT,
    OK,
    PLACE_ORDER,
    PLACE_ORDERS,
    RESOURCE_EXHAUSTED,
    UNAVAILABLE,
    fresh_id,
    placed,
)
from tests.front.handing import PATIENCE_S, Front, Fronts, ask, seed, until
from tests.front.http2 import ENHANCE_YOUR_CALM, FRAME_BYTES_MAX, WINDOW_BYTES, Answer, Connection, prefixed
from tests.serving import batch, order

__all__ = ["answerer"]
pytestmark = pytest.mark.native


@contextlib.contextmanager
def asked_by_nobody(front: Front) -> Iterator[None]:
    """While nobody takes the questions, they stay open."""
    seed(front)
    front.native.authenticate(True, 1)
    until(lambda: refused_anonymously(front))
    yield


def is_busy(answer: Answer) -> bool:
    return (answer.code, reason(answer), answer.last["grpc-retry-pushback-ms"]) == (UNAVAILABLE, "IDENTITY_BUSY", "100")


def key(name: object) -> tuple[str, str]:
    return ("x-api-key", str(name))


def test_connection_has_a_small_share_of_the_questions_and_others_theirs(fronts: Fronts) -> None:
    front = fronts.start(identity_questions_per_connection_max=3)
    with asked_by_nobody(front), Connection(front.address) as greedy, Connection(front.address) as other:
        asked = [ask(greedy, order("never"), key(number)) for number in range(3)]
        assert all(is_busy(greedy.answer(ask(greedy, order("never"), key(name)))) for name in ("3", "4"))
        # What was asked for already may be waited for, and what is reset makes room.
        asked.append(ask(greedy, order("never"), key(0)))
        greedy.reset(asked[1])
        asked.append(ask(greedy, order("never"), key(5)))
        asked.append(ask(other, order("never"), key("other")))
        greedy.ping()
        other.ping()
        assert not any(greedy.stream(stream).over for stream in asked[:1] + asked[2:5])
        assert not other.stream(asked[5]).over
        assert front.count("calls_identity_refused") == 2
        assert len(questions(front)) == 5


def test_connection_has_a_share_of_the_calls_that_wait(fronts: Fronts) -> None:
    front = fronts.start(identity_calls_per_connection_max=2)
    with asked_by_nobody(front), Connection(front.address) as connection, Connection(front.address) as other:
        waiting = [ask(connection, order("never"), key("same")) for _ in range(2)]
        assert is_busy(connection.answer(ask(connection, order("never"), key("same"))))
        theirs = ask(other, order("never"), key("same"))
        other.ping()
        assert not other.stream(theirs).over
        assert not any(connection.stream(stream).over for stream in waiting)


def test_address_has_a_share_that_no_new_connection_renews(fronts: Fronts) -> None:
    front = fronts.start(identity_calls_per_peer_max=4)
    with asked_by_nobody(front):
        for number in range(4):
            # Questions outlast who asked them.
            with Connection(front.address) as connection:
                ask(connection, order("never"), key(number))
                connection.ping()
        until(lambda: front.count("connections_closed") == front.count("connections_accepted"))
        with Connection(front.address) as connection:
            assert is_busy(connection.answer(ask(connection, order("never"), key("more"))))
        with Connection(front.address, source="127.0.0.9") as elsewhere:
            waiting = ask(elsewhere, order("never"), key("elsewhere"))
            elsewhere.ping()
            assert not elsewhere.stream(waiting).over
            for token, _, _ in questions(front):
                front.native.answer_credential(token, None)
            assert elsewhere.answer(waiting).code == UNAUTHENTICATED
        # Answered, they count no more.
        with Connection(front.address) as connection:
            again = ask(connection, order("never"), key("more"))
            connection.ping()
            assert not connection.stream(again).over


def test_who_was_known_before_the_keys_changed_is_asked_for_first_however_many_strangers_wait(fronts: Fronts) -> None:
    front = fronts.start(identity_calls_max=40)
    seed(front)
    with Connection(front.address) as known, ExitStack() as stack:
        with Answerer(front.native, {b"good": Caller()}):
            until(lambda: refused_anonymously(front))
            assert known.answer(ask(known, order(fresh_id()), TOKEN)).code == OK
            assert known.answer(ask(known, order("never"), key("bad"))).code == UNAUTHENTICATED
        front.native.authenticate(True, 2)
        for stranger in range(5):
            connection = stack.enter_context(Connection(front.address))
            asked = [ask(connection, order("never"), key(f"{stranger}-{number}")) for number in range(8)]
            connection.ping()
            assert not any(connection.stream(stream).over for stream in asked)
        assert is_busy(known.answer(ask(known, order("never"), key("new"))))
        # One that was refused before is a stranger still.
        assert is_busy(known.answer(ask(known, order("never"), key("bad"))))
        assert len(front.native.take_credentials()) == 32
        waiting = [ask(known, order(fresh_id()), TOKEN) for _ in range(2)]
        known.ping()
        [(token, kind, secret)] = front.native.take_credentials()
        assert (kind, secret) == (BEARER, b"good")
        front.native.answer_credential(token, Caller())
        assert [known.answer(stream).code for stream in waiting] == [OK, OK]
        assert len(front.native.take_credentials()) == 8


def test_many_bad_credentials_end_their_connection_and_no_other(fronts: Fronts) -> None:
    # However often it is looked whether the connection has ended.
    looks = {"ping_strikes_max": 100_000, "control_frames_max": 100_000}
    front = fronts.start(bad_credentials_max=5, bad_credentials_per_s=1, **looks)
    seed(front)
    with Answerer(front.native, {b"good": Caller()}), Connection(front.address) as connection:
        until(lambda: refused_anonymously(front))
        with Connection(front.address) as guessing:
            for number in range(5):
                assert guessing.answer(ask(guessing, order("never"), key(number))).code == UNAUTHENTICATED
            ended_s = time.monotonic() + PATIENCE_S
            while not guessing.goaways and time.monotonic() < ended_s:
                ask(guessing, order("never"), key("again"))
                with contextlib.suppress(EOFError):
                    guessing.ping()
            assert guessing.goaways[0].error_code == ENHANCE_YOUR_CALM
            assert guessing.goaways[0].additional_data == b"too_many_bad_credentials"
        assert front.count("credentials_excess") == 1
        assert connection.answer(ask(connection, order(fresh_id()), TOKEN)).code == OK


def questions(front: Front) -> list[tuple[int, int, bytes]]:
    found = []
    while taken := front.native.take_credentials():
        found += taken
    return found


def body_bytes(connection: Connection, stream_id: int, body: bytes) -> int:
    """Sends as far as the windows let it, and says how far that was."""
    sent = 0
    while sent < len(body) and (room := min(connection.window(stream_id), FRAME_BYTES_MAX)) > 0:
        part = body[sent : sent + room]
        connection.send(DataFrame(stream_id, part))
        sent += len(part)
    connection.ping()
    return sent


@pytest.mark.parametrize("path", [PLACE_ORDERS, PLACE_ORDER, "/everopen.v1.X/Relayed"])
def test_body_of_who_is_not_known_waits_with_its_sender(tmp_path: Path, fronts: Fronts, path: str) -> None:
    front = fronts.start(ping_strikes_max=100)
    # Nobody is there, which is not said before it is known who asks.
    front.native.relay_to(str(tmp_path / "nobody"))
    with asked_by_nobody(front), Connection(front.address) as connection:
        connection.ping()
        opened = [connection.open(path, key(number)) for number in range(4)]
        body = prefixed(bytes(3 << 20))
        assert [body_bytes(connection, stream, body) for stream in opened] == [WINDOW_BYTES, 0, 0, 0]
        until(lambda: front.count("bytes_in_flight") <= WINDOW_BYTES + 4_096)
        # What was held of the connection's window is given back with the stream.
        connection.reset(opened[0])
        connection.read_until(lambda: connection.window(opened[1]) > 0)
        assert body_bytes(connection, opened[1], body) >= WINDOW_BYTES // 2


def test_bomb_of_who_is_not_known_is_not_expanded(fronts: Fronts) -> None:
    front = fronts.start()
    with asked_by_nobody(front), Connection(front.address) as connection:
        packed = prefixed(gzip.compress(bytes(3 << 20)), compressed=1)
        stream = connection.open(PLACE_ORDER, key("x"), ("grpc-encoding", "gzip"))
        connection.data(stream, packed, end=True)
        connection.ping()
        assert front.count("requests_compressed") == 0
        [(token, _, _)] = questions(front)
        front.native.answer_credential(token, Caller())
        assert connection.answer(stream).code == INVALID_ARGUMENT
        assert front.count("requests_compressed") == 1


@pytest.mark.parametrize("ends", [True, False])
def test_body_goes_on_once_its_caller_is_known(front: Front, answerer: Answerer, ends: bool) -> None:
    with Connection(front.address) as connection:
        connection.ping()
        answerer.held.set()
        stream = connection.open(PLACE_ORDERS, TOKEN)
        names = [[fresh_id() for _ in range(1_000)] for _ in range(6)]
        body = b"".join(prefixed(batch(each).SerializeToString()) for each in names)
        assert len(body) > 2 * WINDOW_BYTES
        sent = body_bytes(connection, stream, body)
        assert sent == WINDOW_BYTES
        answerer.held.clear()
        connection.data(stream, body[sent:], end=ends)
        connection.read_until(lambda: len(connection.stream(stream).messages) == 6)
        if not ends:
            connection.data(stream, b"", end=True)
        assert connection.answer(stream).code == OK
        # It is known now, and its connection and its long streams have room at once.
        again = connection.open(PLACE_ORDERS, TOKEN)
        connection.read_until(lambda: connection.window(again) > 10 * WINDOW_BYTES)


def test_small_order_of_who_is_not_known_yet_needs_nothing_more_from_its_client(
    front: Front, answerer: Answerer
) -> None:
    with Connection(front.address, give_window=False) as connection:
        first = ask(connection, order(fresh_id()), TOKEN)
        assert placed(connection.answer(first)).duplicate is False
        assert first not in connection.window_updates
        large = connection.call(PLACE_ORDER, b"\xff" * (4 * 1024 * 1024 - 5), more=[TOKEN])
        assert large.code == INVALID_ARGUMENT


def test_request_that_is_malformed_is_told_to_nobody_unknown(fronts: Fronts) -> None:
    front = fronts.start()
    with asked_by_nobody(front), Connection(front.address) as connection:
        bodies = [b"", b"\0", b"\2" + bytes(4), b"\0" + b"\xff" * 4, prefixed(b"") * 2]
        streams = []
        for number, body in enumerate(bodies * 2):
            path = PLACE_ORDER
            streams.append(connection.open(path, key(number % 8)))
            connection.data(streams[-1], body, end=True)
        connection.ping()
        for token, _, secret in questions(front):
            front.native.answer_credential(token, Caller() if secret in b"01234" else None)
        codes = [connection.answer(stream).code for stream in streams]
        assert codes[:5] == [INTERNAL, INTERNAL, INTERNAL, RESOURCE_EXHAUSTED, INTERNAL]
        assert codes[5:8] == [UNAUTHENTICATED] * 3
