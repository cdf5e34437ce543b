"""What a log line hides: no value of a masked field, and nothing that looks like a secret, survives in the line."""

from __future__ import annotations

import base64
import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

import orjson
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from engine import logs
from engine.masking import MASK, WORDS, is_masked, mask_text

BASE64 = st.binary(min_size=4, max_size=40).map(lambda raw: base64.urlsafe_b64encode(raw).rstrip(b"=").decode())
# What must not survive is long enough not to stand in a line by chance.
SECRET = st.binary(min_size=16, max_size=32).map(bytes.hex)
JWT = st.builds(
    lambda kind, claims, signature: f"{_base64(orjson.dumps({'alg': kind}))}.{claims}.{signature}",
    st.sampled_from(["RS256", "none", "ES256"]),
    BASE64,
    SECRET,
)
API_KEY = SECRET.map(lambda secret: f"eo_{secret}")
AROUND = st.text(max_size=20)
WRAPS = st.recursive(
    st.just(lambda value: value),
    lambda inner: st.builds(
        lambda wrap, within: lambda value: wrap(within(value)),
        st.sampled_from(
            [
                lambda value: {"field": value},
                lambda value: [value],
                lambda value: (1, value),
                lambda value: {"k": [value]},
            ]
        ),
        inner,
    ),
    max_leaves=4,
)


def _base64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


@contextmanager
def captured() -> Iterator[list[str]]:
    """The lines that come out at the end, through every processor that the server has."""
    lines: list[str] = []
    before = structlog.get_config()
    handlers = logging.getLogger().handlers[:]
    level = logging.getLogger().level

    class Kept(logs.Logger):
        def msg(self, line: str) -> None:
            lines.append(line)

        log = debug = info = warning = error = critical = exception = msg

    logs.configure(process="test")
    structlog.configure(logger_factory=Kept, cache_logger_on_first_use=False)
    try:
        yield lines
    finally:
        structlog.configure(**before)
        logging.basicConfig(handlers=handlers, level=level, force=True)


@given(
    word=st.sampled_from(sorted(WORDS)),
    form=st.sampled_from(["{}", "{}_id", "shipping_{}", "{}Id", "the{}", "X-{}"]),
    secret=SECRET,
    wrap=WRAPS,
    inside=st.booleans(),
)
def test_value_of_a_masked_field_does_not_survive(
    word: str, form: str, secret: str, wrap: object, inside: bool
) -> None:
    assert callable(wrap)
    name = form.format(word.title() if form == "the{}" else word)
    value = wrap(secret)
    with captured() as lines:
        structlog.get_logger().info("a line", **({"nested": wrap({name: value})} if inside else {name: value}))
    assert secret not in lines[0]
    assert MASK in lines[0]


@given(
    secret=st.one_of(API_KEY, JWT, SECRET.map(lambda s: f"Bearer {s}"), SECRET.map(lambda s: f"authorization: {s}")),
    before=AROUND,
    after=st.one_of(st.just(""), AROUND.map(lambda text: f" {text}")),
    wrap=WRAPS,
    place=st.sampled_from(["event", "value", "name", "bytes", "exception", "logging"]),
)
def test_secret_in_any_value_does_not_survive(secret: str, before: str, after: str, wrap: object, place: str) -> None:
    assert callable(wrap)
    text = f"{before}{secret}{after}"
    with captured() as lines:
        log = structlog.get_logger()
        if place == "event":
            log.warning(text)
        elif place == "value":
            log.warning("a line", value=wrap(text))
        elif place == "name":
            log.warning("a line", **{text: 1})
        elif place == "bytes":
            log.warning("a line", value=wrap(text.encode(errors="replace")))
        elif place == "logging":
            logging.getLogger("a.library").error("said %s", text)
        else:
            try:
                raise ValueError(text)
            except ValueError:
                log.exception("failed")
    assert secret.split()[-1] not in "".join(lines)
    assert len(lines) == 1


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("GET / authorization: Basic dXNlcjpwYXNz done", "GET / authorization: Basic *** done"),
        ('{"authorization": "ApiKey abcdef"}', '{"authorization": "ApiKey ***"}'),
        ("('x-api-key', 'abcdef')", "('x-api-key', '***')"),
        ("key eo_0123456789abcdef0123 is revoked", "key *** is revoked"),
        ("eyJhbGciOiJub25lIn0.eyJzdWIiOiJhIn0.", "***"),
        ("a buyer pays; the video_id is eo_1", "a buyer pays; the video_id is eo_1"),
    ],
)
def test_text_says_what_was_hidden_there(text: str, hidden: str) -> None:
    assert mask_text(text) == hidden


@pytest.mark.parametrize(
    "name", ["event", "process", "shard", "pid", "listen", "addresses", "bytes", "keys", "listening"]
)
def test_field_that_an_operator_needs_is_not_masked(name: str) -> None:
    assert not is_masked(name)


def test_what_was_logged_is_not_changed() -> None:
    value = {"buyer_id": "b", "more": ["eo_0123456789abcdef"]}
    with captured() as lines:
        structlog.get_logger().info("a line", value=value)
    assert value == {"buyer_id": "b", "more": ["eo_0123456789abcdef"]}
    assert orjson.loads(lines[0])["value"] == {"buyer_id": MASK, "more": [MASK]}


@pytest.mark.parametrize("value", [os.fsdecode(b"/tmp/\xff"), 2**70], ids=["path that is not UTF-8", "long number"])
def test_line_that_is_hard_to_write_is_written_all_the_same(value: object) -> None:
    with captured() as lines:
        structlog.get_logger().info("a line", value=value)
    line = json.loads(lines[0])
    assert line["value"] == value
    assert {"event", "level", "time", "process"} <= line.keys()


def test_line_of_a_call_has_what_was_bound_for_it() -> None:
    with captured() as lines, structlog.contextvars.bound_contextvars(request_id="r", trace_id="t"):
        structlog.get_logger().info("a line")
    line = orjson.loads(lines[0])
    assert (line["request_id"], line["trace_id"]) == ("r", "t")
