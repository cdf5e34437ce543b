"""What the benches share: their size, where their data lies, and the table at the end.

EVEROPEN_BENCH_TINY=1 makes every bench so small that it only proves itself, which tests/test_bench_tiny.py does.
EVEROPEN_BENCH_DIR says where data directories are made; the default is on the disk of this repository, because /tmp may
be memory, where a sync costs nothing.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from bench.machine import machine
from engine.latency import Latencies

TINY = os.environ.get("EVEROPEN_BENCH_TINY") == "1"
ROOT = Path(__file__).resolve().parent.parent
DIRECTORY = Path(os.environ.get("EVEROPEN_BENCH_DIR") or ROOT / "build/bench")


@dataclass(slots=True)
class Figures:
    """What the benches found: (bench, figure with its unit, latencies), and the machine before them."""

    machine_before: str
    rows: list[tuple[str, str, Latencies | None]] = field(default_factory=list)

    def add(self, bench: str, amount: int, unit: str, seconds: float, latencies: Latencies | None = None) -> None:
        self.rows.append((bench, f"{amount / max(seconds, 1e-9):>12,.0f} {unit}/s", latencies))

    def note(self, bench: str, figure: str) -> None:
        self.rows.append((bench, f"{figure:>22}", None))


FIGURES = pytest.StashKey[Figures]()


def pytest_configure(config: pytest.Config) -> None:
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    config.stash[FIGURES] = Figures(machine(DIRECTORY))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    figures = config.stash[FIGURES]
    if not figures.rows:
        return
    write = terminalreporter.write_line
    terminalreporter.section("figures" + (" (TINY: they prove the benches and measure nothing)" if TINY else ""))
    write(f"before: {figures.machine_before}")
    write(f"after:  {machine(DIRECTORY)}")
    width = max(len(bench) for bench, *_ in figures.rows)
    for bench, figure, latencies in figures.rows:
        write(f"{bench:<{width}} {figure:<28} {latencies or ''}".rstrip())


@pytest.fixture(scope="session")
def figures(pytestconfig: pytest.Config) -> Figures:
    return pytestconfig.stash[FIGURES]


@pytest.fixture(scope="module")
def data_dir(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A directory of the module's own, removed afterwards."""
    path = DIRECTORY / f"{Path(request.path).stem}-{os.getpid()}"
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    yield path
    shutil.rmtree(path, ignore_errors=True)
