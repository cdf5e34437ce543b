"""The settings of the native front, and how one is changed by hand."""

import re
from pathlib import Path

import pytest

from engine.front_settings import DEFAULTS, broken_relations, defaults, parse_overrides

TYPES = Path(__file__).resolve().parents[2] / "engine" / "_front_types.pxi"


def test_settings_are_those_of_the_struct_in_its_order() -> None:
    found = re.search(r"^cdef struct FrontSettings:\n((?:    .*\n)+)", TYPES.read_text(), re.MULTILINE)
    assert found
    assert re.findall(r"\b(?!uint64_t\b)[a-z]\w+", re.sub(r"#.*", "", found[1])) == list(DEFAULTS)


def test_defaults_go_together_and_are_a_copy() -> None:
    assert broken_relations(DEFAULTS) == []
    defaults()["calls_max"] = 1
    assert defaults()["calls_max"] == DEFAULTS["calls_max"] == 65_536


def test_overrides_change_what_they_name() -> None:
    changed = parse_overrides(["connection_age_ms=5000", "resets_per_s=7", "resets_per_s=8"])
    assert changed == defaults() | {"connection_age_ms": 5_000, "resets_per_s": 8}
    assert parse_overrides([]) == defaults()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("calls_max", "not NAME=VALUE"),
        ("calls=1", "there is no setting 'calls'"),
        ("calls_max=", "whole number"),
        ("calls_max=-1", "whole number"),
        ("calls_max=1.5", "whole number"),
        ("calls_max=\u0661", "whole number"),
        (f"calls_max={2**40 + 1}", "whole number"),
        ("calls_max=0", "at least 1"),
        ("batches_per_stream_max=1", "waits for its sync"),
        ("resets_max=1023", "all streams may be reset at once"),
        ("connections_per_peer_max=20000", "no more connections than all"),
        ("connection_bytes_max=1000", "a message fits a connection"),
    ],
)
def test_override_that_makes_no_sense_is_refused(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse_overrides([text])
