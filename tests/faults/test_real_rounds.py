"""One short round of what `make faults` does for hours."""

from pathlib import Path

import pytest

from tests.faults.rounds import Round

pytestmark = pytest.mark.alone


def test_round_of_random_blows_is_linearizable_and_loses_nothing(tmp_path: Path) -> None:
    this = Round(tmp_path, seed=5, blows=2)
    this.run()
    assert this.done.total() >= 2
