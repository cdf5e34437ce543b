"""Log lines of the server: to stderr, for people at a terminal and as JSON everywhere else."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import TextIO

import structlog

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


def configure(**names: str | int) -> None:
    """names: as of name()."""
    name(**names)

    def add_names(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        event.update(_names)
        return event

    renderer = structlog.dev.ConsoleRenderer() if sys.stderr.isatty() else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            add_names,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        logger_factory=Logger,
        cache_logger_on_first_use=True,
    )
