"""Log lines of the server: to stderr, for people at a terminal and as JSON everywhere else.

Each has `event`, `level`, `time` and `process`. What they hide stands in engine/masking.py.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from contextlib import suppress
from typing import Any, TextIO

import orjson
import structlog

from engine.masking import mask

_names: dict[str, str | int] = {}


def name(**names: str | int) -> None:
    """names: stand in every line from now on, as which process it is that speaks."""
    _names.update(names)


def say(line: str, stream: TextIO) -> None:
    """A full disk, or a reader that has gone, is no reason to end: what cannot be written is lost.

    Past the buffer of the stream, which would be tried again, and fail, at the end of the process.
    """
    with suppress(OSError, ValueError):
        os.write(stream.fileno(), f"{line}\n".encode(errors="backslashreplace"))


class Logger:
    """One line for each call, as structlog calls it."""

    def msg(self, line: str) -> None:
        say(line, sys.stderr)

    log = debug = info = warning = error = critical = exception = fatal = failure = msg


class Forward(logging.Handler):
    """What libraries say with `logging` becomes a line like any other, and hides what the others hide."""

    def emit(self, record: logging.LogRecord) -> None:
        structlog.get_logger().log(
            record.levelno, record.getMessage(), logger=record.name, exc_info=record.exc_info or None
        )


def configure(**names: str | int) -> None:
    """names: as of name()."""
    name(**names)
    terminal = sys.stderr.isatty()
    renderer = structlog.dev.ConsoleRenderer() if terminal else structlog.processors.JSONRenderer(to_json)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            _add_names,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
            structlog.processors.format_exc_info,
            mask,
            renderer,
        ],
        logger_factory=Logger,
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(handlers=[Forward()], level=logging.WARNING, force=True)


def _add_names(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    event.update(_names)
    return event


def to_json(event: dict[str, Any], **_: Any) -> str:
    try:
        return orjson.dumps(event).decode()
    except TypeError:
        # A path that is not UTF-8, or a number of more than 64 bits. Seldom, and no reason to lose the line.
        return json.dumps(event, default=repr)
