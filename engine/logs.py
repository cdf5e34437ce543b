"""Log lines of the server: to stderr, for people at a terminal and as JSON everywhere else."""

from __future__ import annotations

import sys

import structlog

_names: dict[str, str | int] = {}


def name(**names: str | int) -> None:
    """names: stand in every line from now on, as which process it is that speaks."""
    _names.update(names)


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
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
