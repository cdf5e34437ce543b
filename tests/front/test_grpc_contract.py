"""gRPC over HTTP/2, call by call, as any client may speak it: headers, timeouts, statuses, encodings, messages."""

from __future__ import annotations

import gzip
import re
import time

import pytest
from hyperframe.frame import DataFrame, Frame, HeadersFrame, PriorityFrame, SettingsFrame

from everopen.v1 import order_service_pb2 as orders
from tests.front.calls import (
    DEADLINE_EXCEEDED,
    GET_ORDER,
    HEALTH_CHECK,
    INTERNAL,
    INVALID_ARGUMENT,
    NOT_FOUND,
    OK,
    PLACE_ORDER,
    PLACE_ORDERS,
    RESOURCE_EXHAUSTED,
    UNIMPLEMENTED,
    details,
    fresh_id,
    is_known,
    place,
    placed,
)
from tests.front.fronts import ReferenceServer
from tests.front.http2 import NO_ERROR, Answer, Connection, prefixed, raw_frame, recorded, request_headers
from tests.serving import Server

MESSAGE_BYTES_MAX = 4 * 1024 * 1024


@pytest.fixture
def native(server: Server) -> None:
    """For what grpcio's server does in another way, or not at all."""
    if isinstance(server, ReferenceServer):
        pytest.skip("grpcio's server does otherwise")


def send(connection: Connection, body: bytes, path: str = PLACE_ORDER, **replaced: str | None) -> Answer:
    """A call whose body is these bytes, which need not be a framed message."""
    stream_id = connection.open(path, **replaced)
    connection.data(stream_id, body, end=True)
    return connection.answer(stream_id)


# Statuses


def test_answer_has_headers_one_message_and_trailers(connection: Connection) -> None:
    order_id = fresh_id()
    answer = connection.call(PLACE_ORDER, place(order_id))
    assert placed(answer).order.order_id == order_id
    assert answer.headers[":status"] == "200"
    assert answer.headers["content-type"].startswith("application/grpc")
    assert "grpc-status" not in answer.headers
    assert answer.trailers["grpc-status"] == "0"
    assert answer.blocks == 2


@pytest.mark.parametrize(
    ("path", "request_bytes", "code"),
    [
        (PLACE_ORDER, b"\xff", INVALID_ARGUMENT),
        (PLACE_ORDER, b"", INVALID_ARGUMENT),
        (GET_ORDER, orders.GetOrderRequest(shop_id="shop", order_id="100% nobody").SerializeToString(), 3),
        (GET_ORDER, orders.GetOrderRequest(shop_id="shop", order_id="nobody").SerializeToString(), NOT_FOUND),
    ],
)
def test_refusal_is_trailers_only_with_details(
    connection: Connection, path: str, request_bytes: bytes, code: int
) -> None:
    answer = connection.call(path, request_bytes)
    assert answer.is_trailers_only
    assert answer.headers[":status"] == "200"
    assert answer.headers["content-type"].startswith("application/grpc")
    assert answer.code == code
    status = details(answer)
    assert status.code == code
    assert status.message == answer.message != ""
    # Printable ASCII but for the percent sign itself, which only begins an escape.
    assert re.fullmatch("(?:[ -$&-~]|%[0-9A-Fa-f]{2})*", answer.headers["grpc-message"])


@pytest.mark.parametrize(
    "path", ["/everopen.v1.OrderService/Nothing", "/everopen.v1.Nothing/PlaceOrder", "/Nothing", "/", "/a/b/c"]
)
def test_unknown_method_is_unimplemented(connection: Connection, path: str) -> None:
    assert connection.call(path, b"").code == UNIMPLEMENTED
    assert connection.call(HEALTH_CHECK, b"").code == OK


@pytest.mark.parametrize(
    ("name", "wrong", "right"),
    [("grpc-timeout", "x", "9S"), ("grpc-encoding", "what", "gzip"), ("x-raw-bin", "###", "AAEC")],
)
def test_header_that_cannot_be_read_harms_no_other_call(server: Server, name: str, wrong: str, right: str) -> None:
    # A method that nobody has is relayed; the calls of all clients share the connection to the control server.
    for value, code in ((wrong, None), (right, UNIMPLEMENTED), (wrong, None), (right, UNIMPLEMENTED)):
        with Connection(server.address) as connection:
            answer = connection.call("/everopen.v1.OrderService/Nothing", b"", more=[(name, value)])
            assert answer.code == (code or answer.code), answer


# Deadlines


@pytest.mark.parametrize("timeout", ["1H", "1M", "9S", "00000009S", "99999999m", "99999999u", "99999999H"])
def test_timeout_that_lies_ahead_lets_the_call_through(connection: Connection, timeout: str) -> None:
    placed(connection.call(PLACE_ORDER, place(), grpc_timeout=timeout))


@pytest.mark.parametrize("timeout", ["0H", "0M", "0S", "0m", "0u", "0n", "1n", "1u", "1m", "99n"])
def test_call_whose_deadline_has_passed_is_refused_and_not_executed(connection: Connection, timeout: str) -> None:
    order_id = fresh_id()
    stream_id = connection.open(PLACE_ORDER, grpc_timeout=timeout)
    # The time runs from when the server reads the headers.
    connection.ping()
    time.sleep(0.005)
    connection.data(stream_id, prefixed(place(order_id)), end=True)
    assert connection.answer(stream_id).code == DEADLINE_EXCEEDED
    assert not is_known(connection, order_id)


def test_call_whose_message_never_comes_ends_at_its_deadline(connection: Connection) -> None:
    stream_id = connection.open(PLACE_ORDER, grpc_timeout="20m")
    connection.data(stream_id, prefixed(place())[:-1])
    answer = connection.answer(stream_id)
    assert answer.code == DEADLINE_EXCEEDED
    connection.ping()


@pytest.mark.parametrize("timeout", ["", "S", "1", "1x", "-1S", "1.5S", "1s", "1h"])
def test_timeout_that_is_none_is_an_error_and_the_call_not_executed(connection: Connection, timeout: str) -> None:
    order_id = fresh_id()
    assert connection.call(PLACE_ORDER, place(order_id), grpc_timeout=timeout).code in (INTERNAL, INVALID_ARGUMENT)
    assert not is_known(connection, order_id)


def test_timeout_of_nine_digits_is_an_error(connection: Connection, native: None) -> None:
    assert connection.call(PLACE_ORDER, place(), grpc_timeout="123456789S").code in (INTERNAL, INVALID_ARGUMENT)


# Metadata and headers


def test_metadata_of_every_kind_is_accepted(connection: Connection) -> None:
    more = [
        ("x-trace", "a, b ; c=d"),
        ("x-trace", "twice"),
        ("x-empty", ""),
        ("x-raw-bin", "AAEC/w"),
        ("x-padded-bin", "AAEC/w=="),
        ("x-long", "v" * 6_000),
        ("grpc-previous-rpc-attempts", "2"),
        ("grpc-tags-bin", "AAAA"),
        ("user-agent", "test"),
        ("grpc-accept-encoding", "identity,deflate,gzip"),
        ("authorization", "Bearer x"),
    ]
    placed(connection.call(PLACE_ORDER, place(), more=more))


def test_hundred_headers_are_accepted_and_the_table_stays_in_step(connection: Connection) -> None:
    for turn in range(5):
        more = [(f"x-{number}", f"{number % 7}-{turn}") for number in range(100)]
        placed(connection.call(PLACE_ORDER, place(), more=more))


def test_header_list_beyond_the_bound_is_refused_and_the_connection_lives(connection: Connection, native: None) -> None:
    stream_id = connection.open(PLACE_ORDER, ("x-huge", "v" * 40_000))
    connection.data(stream_id, prefixed(place()), end=True)
    answer = connection.answer(stream_id)
    assert answer.reset is not None or answer.code != OK or answer.headers[":status"] == "431"
    placed(connection.call(PLACE_ORDER, place()))


@pytest.mark.parametrize(
    "content_type", ["application/grpc", "application/grpc+proto", "application/grpc;charset=utf-8"]
)
def test_content_type_of_grpc_is_accepted(connection: Connection, content_type: str) -> None:
    placed(connection.call(PLACE_ORDER, place(), content_type=content_type))


@pytest.mark.parametrize(
    "content_type", [None, "", "text/plain", "application/json", "application/grp", "application/grpc-web"]
)
def test_other_content_type_is_415_and_not_executed(
    connection: Connection, native: None, content_type: str | None
) -> None:
    order_id = fresh_id()
    answer = connection.call(PLACE_ORDER, place(order_id), content_type=content_type)
    assert answer.headers[":status"] == "415"
    assert not is_known(connection, order_id)


def test_other_content_type_without_an_end_is_answered_and_then_let_go(connection: Connection, native: None) -> None:
    stream_id = connection.open(PLACE_ORDER, content_type="application/json")
    connection.read_until(lambda: connection.stream(stream_id).reset is not None)
    answer = connection.stream(stream_id)
    assert answer.headers[":status"] == "415"
    assert (answer.ended, answer.reset) == (True, NO_ERROR)


@pytest.mark.parametrize("method", ["GET", "PUT", "HEAD", "get", "OPTIONS"])
def test_other_method_than_post_is_refused_and_not_executed(connection: Connection, method: str) -> None:
    order_id = fresh_id()
    answer = connection.call(PLACE_ORDER, place(order_id), __method=method)
    assert answer.reset is not None or answer.headers[":status"] == "405" or answer.code not in (None, OK)
    assert not is_known(connection, order_id)


@pytest.mark.parametrize("missing", ["__path", "__method"])
def test_request_without_what_http_demands_is_refused_and_the_connection_lives(
    connection: Connection, missing: str
) -> None:
    answer = connection.call(PLACE_ORDER, place(), **{missing: None})
    assert answer.reset is not None or answer.code not in (None, OK) or answer.headers[":status"] != "200"
    connection.ping()


# Encodings


def test_gzip_message_is_accepted(connection: Connection) -> None:
    body = prefixed(gzip.compress(place()), compressed=1)
    placed(send(connection, body, grpc_encoding="gzip"))


def test_plain_message_under_an_encoding_is_accepted(connection: Connection) -> None:
    for encoding in ("gzip", "identity"):
        placed(send(connection, prefixed(place()), grpc_encoding=encoding))


@pytest.mark.parametrize("encoding", [None, "identity"])
def test_compressed_message_without_an_encoding_is_internal(connection: Connection, encoding: str | None) -> None:
    more = {} if encoding is None else {"grpc_encoding": encoding}
    answer = send(connection, prefixed(gzip.compress(place()), compressed=1), **more)
    assert answer.code == INTERNAL


@pytest.mark.parametrize("cut", [1, 9, 20])
def test_gzip_message_that_is_none_is_internal(connection: Connection, cut: int) -> None:
    packed = gzip.compress(place())
    for body in (packed[:-cut], packed[cut:], place(), b""):
        answer = send(connection, prefixed(body, compressed=1), grpc_encoding="gzip")
        # grpcio takes a text that is cut at its end for a message that is cut.
        assert answer.code in (INTERNAL, INVALID_ARGUMENT), body


def test_gzip_message_that_grows_beyond_the_bound_is_refused(connection: Connection) -> None:
    bomb = gzip.compress(bytes(64 * 1024 * 1024))
    assert send(connection, prefixed(bomb, compressed=1), grpc_encoding="gzip").code == RESOURCE_EXHAUSTED


@pytest.mark.parametrize("encoding", ["br", "zstd", "", "GZIP"])
def test_unknown_encoding_is_unimplemented_and_names_those_that_are_known(
    connection: Connection, native: None, encoding: str
) -> None:
    answer = send(connection, prefixed(b"packed", compressed=1), grpc_encoding=encoding)
    assert answer.code == UNIMPLEMENTED
    known = {name.strip() for name in answer.last["grpc-accept-encoding"].split(",")}
    assert known >= {"identity", "gzip"}


# Messages


def test_message_declared_beyond_the_bound_is_refused_before_it_comes(connection: Connection) -> None:
    for size in (MESSAGE_BYTES_MAX + 1, 2**32 - 1):
        stream_id = connection.open(PLACE_ORDER)
        connection.data(stream_id, b"\0" + size.to_bytes(4, "big"))
        assert connection.answer(stream_id).code == RESOURCE_EXHAUSTED
    placed(connection.call(PLACE_ORDER, place()))


def test_message_beyond_the_bound_is_refused_and_the_connection_lives(connection: Connection) -> None:
    for _ in range(3):
        assert send(connection, prefixed(bytes(MESSAGE_BYTES_MAX + 1))).code == RESOURCE_EXHAUSTED
    placed(connection.call(PLACE_ORDER, place()))


def test_message_at_the_bound_reaches_the_core(connection: Connection) -> None:
    padding = MESSAGE_BYTES_MAX - len(place("at-the-bound")) - 6
    request = place("at-the-bound") + b"\xa2\x06" + bytes([padding & 127 | 128, padding >> 7 & 127 | 128])
    request += bytes([padding >> 14 & 127 | 128, padding >> 21]) + bytes(padding)
    assert len(request) == MESSAGE_BYTES_MAX
    placed(connection.call(PLACE_ORDER, request))


@pytest.mark.parametrize("body", [b"", b"\0\0\0", prefixed(place("cut"))[:-1], b"\0\0\0\0\x05"])
def test_unary_call_without_a_whole_message_is_an_error(connection: Connection, native: None, body: bytes) -> None:
    answer = send(connection, body)
    assert answer.code not in (None, OK)
    assert not is_known(connection, "cut-not-taken" + str(len(body)))
    placed(connection.call(PLACE_ORDER, place()))


def test_unary_call_that_ends_with_its_headers_is_an_error(connection: Connection, native: None) -> None:
    assert connection.answer(connection.open(PLACE_ORDER, end=True)).code not in (None, OK)


def test_second_message_of_a_unary_call_is_not_executed(connection: Connection) -> None:
    first, second = fresh_id(), fresh_id()
    answer = send(connection, prefixed(place(first)) + prefixed(place(second)))
    # grpcio answers the first and ignores the second; a front may as well refuse both.
    assert answer.over
    assert is_known(connection, first) == (answer.code == OK)
    assert not is_known(connection, second)


def test_flag_beside_the_two_known_ones_is_an_error(connection: Connection, native: None) -> None:
    order_id = fresh_id()
    assert send(connection, prefixed(place(order_id), compressed=2)).code not in (None, OK)
    assert not is_known(connection, order_id)


# Frames


def chunks(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


@pytest.mark.parametrize("size", [1, 2, 4, 5, 6, 13])
def test_message_in_small_frames_is_put_together(connection: Connection, size: int) -> None:
    stream_id = connection.open(PLACE_ORDER)
    frames: list[Frame] = [DataFrame(stream_id, part) for part in chunks(prefixed(place()), size)]
    frames[-1].flags.add("END_STREAM")
    connection.send(*frames)
    placed(connection.answer(stream_id))


def test_message_byte_by_byte_in_as_many_writes_is_put_together(connection: Connection) -> None:
    stream_id = connection.open(PLACE_ORDER)
    for part in chunks(prefixed(place()), 1):
        connection.send(DataFrame(stream_id, part))
    connection.send(DataFrame(stream_id, b"", flags=["END_STREAM"]))
    placed(connection.answer(stream_id))


@pytest.mark.parametrize("padding", [0, 1, 255])
def test_padding_is_no_part_of_the_message(connection: Connection, native: None, padding: int) -> None:
    stream_id = connection.new_stream()
    [headers] = connection.headers_frames(stream_id, request_headers(PLACE_ORDER))
    assert isinstance(headers, HeadersFrame)
    headers.flags.add("PADDED")
    headers.pad_length = padding
    frames: list[Frame] = [headers]
    for part in chunks(prefixed(place()), 10):
        frame = DataFrame(stream_id, part, flags=["PADDED"])
        frame.pad_length = padding
        frames.append(frame)
    frames[-1].flags.add("END_STREAM")
    connection.send(*frames)
    placed(connection.answer(stream_id))


@pytest.mark.parametrize("size", [16, 40, 1_000])
def test_headers_in_continuations_are_put_together(connection: Connection, size: int) -> None:
    stream_id = connection.new_stream()
    headers = [*request_headers(PLACE_ORDER), ("x-long", "v" * 4 * size)]
    frames = connection.headers_frames(stream_id, headers, fragment_bytes=size)
    assert len(frames) > 3
    connection.send(*frames)
    connection.data(stream_id, prefixed(place()), end=True)
    placed(connection.answer(stream_id))


def test_trailers_of_the_client_end_its_message(connection: Connection) -> None:
    stream_id = connection.open(PLACE_ORDER)
    connection.data(stream_id, prefixed(place()))
    connection.send(*connection.headers_frames(stream_id, [("x-trailer", "1")], end=True))
    placed(connection.answer(stream_id))


@pytest.mark.parametrize("size", [1, 7, 1 << 20])
def test_conversation_in_writes_of_any_size_is_the_same(server: Server, size: int) -> None:
    def talk(connection: Connection) -> None:
        stream_id = connection.open(PLACE_ORDER)
        connection.data(stream_id, prefixed(place()), end=True)

    with Connection(server.address, greet=False) as connection:
        for part in chunks(recorded(talk), size):
            connection.send_bytes(part)
        placed(connection.answer(1))


def test_frames_that_mean_nothing_are_ignored(connection: Connection) -> None:
    stream_id = connection.open(PLACE_ORDER)
    connection.send(
        PriorityFrame(stream_id, depends_on=0, stream_weight=3),
        PriorityFrame(stream_id + 100, depends_on=stream_id, stream_weight=3),
    )
    connection.send_bytes(raw_frame(0xEE, 0xFF, 0, b"unknown") + raw_frame(0xEE, 0xFF, stream_id, b"unknown"))
    connection.data(stream_id, prefixed(place()), end=True)
    placed(connection.answer(stream_id))


def test_settings_that_change_in_the_middle_are_heeded(connection: Connection) -> None:
    for settings in ({1: 0}, {1: 65_536}, {4: 1_000}, {5: 1 << 20}, {3: 1}, {6: 1 << 20}, {4: 65_535}):
        connection.send(SettingsFrame(0, settings=settings))
        placed(connection.call(PLACE_ORDER, place()))
    connection.read_until(lambda: connection.settings_acked == 8)


def test_ping_is_acknowledged_with_its_payload(connection: Connection) -> None:
    for payload in (bytes(8), b"\xff" * 8, b"abcdefgh"):
        connection.ping(payload)


def test_hundred_calls_at_a_time_are_answered_each_with_its_own(connection: Connection) -> None:
    asked: dict[int, str] = {}
    for _ in range(100):
        stream_id, order_id = connection.open(PLACE_ORDER), fresh_id()
        asked[stream_id] = order_id
    for stream_id in reversed(asked):
        connection.data(stream_id, prefixed(place(asked[stream_id])), end=True)
    for stream_id, order_id in asked.items():
        assert placed(connection.answer(stream_id)).order.order_id == order_id


def test_stream_method_with_one_message_is_answered_like_a_unary_one(connection: Connection) -> None:
    answer = connection.call(PLACE_ORDERS, orders.PlaceOrdersRequest().SerializeToString())
    assert answer.code == OK
    assert answer.messages == [b""]
