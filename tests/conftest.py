"""What every suite shares. A fixture that only one suite uses stands in that suite's own conftest."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from tests.desk import Desk

TESTS = Path(__file__).resolve().parent

# A fixed seed makes a red CI repeatable; a developer's own runs look for new examples, and make fuzz looks longest.
settings.register_profile("ci", derandomize=True, deadline=None, print_blob=True)
settings.register_profile("ordinary", deadline=None)
settings.register_profile("long", max_examples=5_000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "ordinary"))


# Those that take longest come first, so that two processes that take whole files end together.
LONG_FILES = (
    "test_differential.py",
    "test_crash.py",
    "test_bench_tiny.py",
    "faults/test_simulated.py",
    "test_cli.py",
    "test_replay.py",
    "server/test_supervisor.py",
    "front/test_tls.py",
    "front/test_same_answers.py",
    "server/test_upgrade.py",
    "server/test_server.py",
    "server/test_followers.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    ranks = {TESTS / name: rank for rank, name in enumerate(LONG_FILES)}
    items.sort(key=lambda item: ranks.get(item.path, len(ranks)))


@pytest.fixture
def desk() -> "Iterator[Desk]":
    """Core and model side by side; at the end of the test both must hold the same state, and hold together."""
    # Imported here, so that suites without the native core do not load it.
    from tests.desk import Desk

    both = Desk()
    yield both
    both.compare_digests()
