"""What the commands share: the data directory, and how they fail."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from engine.exits import Exit

DataDir = Annotated[Path, typer.Option("--data-dir", help="The data directory.", file_okay=False)]


def fail(code: Exit, message: str) -> NoReturn:
    # The code counts, also where nobody can take the sentence.
    with suppress(OSError):
        print(f"everopen: {message}", file=sys.stderr, flush=True)
    raise typer.Exit(code)


@contextmanager
def in_words() -> Iterator[None]:
    """Errors that a user can do something about end the program with a sentence and a code, not with a traceback."""
    from engine import errors

    try:
        yield
    except (errors.EveropenError, OSError) as error:
        fail(Exit.of(error), str(error))
