"""`everopen torture`: the simulator of tests/faults, which only a checkout has."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Annotated

import typer

from engine.exits import Exit


def torture(
    seed: Annotated[int, typer.Option(help="The first seed.", min=0)] = 0,
    seeds: Annotated[int, typer.Option(help="How many, one after the other.", min=1)] = 1,
    hours: Annotated[float, typer.Option(help="Go on with further seeds for so long.", min=0.0)] = 0.0,
    mutant: Annotated[str, typer.Option(help="Take one safety away, to see that it is missed.")] = "",
) -> None:
    """Run engine and follower on a simulated disk that fails and lies; print the seed that breaks a promise."""
    from engine._core import SAFETY_BY_NAME

    if mutant and mutant not in SAFETY_BY_NAME:
        raise typer.BadParameter(f"one of {', '.join(SAFETY_BY_NAME)}", param_hint="--mutant")
    root = Path(__file__).resolve().parent.parent
    if not (root / "tests" / "faults" / "torture.py").is_file():
        print(f"everopen: {root}: no tests/faults; torture runs from a checkout of the repository", file=sys.stderr)
        raise typer.Exit(Exit.UNUSABLE)
    # Child processes find it there too.
    sys.path[:0] = [str(root), str(root / "clients" / "python")]
    raise typer.Exit(importlib.import_module("tests.faults.torture").torture(seed, seeds, hours, mutant))
