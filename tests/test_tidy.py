"""The rules of this tree that no linter knows: texts, layout, the order of the stages, and stubs that match proto/."""

import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Prose may run wider than code: it is read by the paragraph, and its tables and links cannot break at all.
LINE_LENGTH_MAX = 120
PROSE_LINE_LENGTH_MAX = 160
FILE_LINES_MAX = 500

# Files that may be longer than FILE_LINES_MAX, each with the reason.
LONG_FILES: dict[str, str] = {}

# The order of the native stages. A stage may use names of its own row and of the rows above, never of those below. A
# trailing * stands for every stage whose name begins so.
STAGES = [
    ["_platform", "_system"],
    ["_limits", "_types"],
    ["_wire_*"],
    ["_crc32c"],
    ["_histogram", "_spans"],
    ["_board_figures", "_board", "_spans_otlp", "_marks", "_ring", "_quota"],
    ["_arena"],
    [
        "_state",
        "_digest",
        "_order_view",
        "_remember",
        "_stock",
        "_catalogue",
        "_allocate",
        "_holds",
        "_backorder",
        "_orders",
        "_lifecycle",
        "_order_item",
        "_retention",
        "_execute",
        "_ready",
        "_check",
    ],
    ["_disk"],
    ["_journal_*"],
    ["_keyed"],
    ["_snapshot_format"],
    ["_snapshot_sort", "_snapshot_file", "_snapshot_write", "_snapshot_read", "_snapshot_section"],
    ["_route"],
    ["_clock", "_ahead", "_replay", "_shard", "_snapshot_load", "_snapshot_save", "_engine", "_follow"],
    ["_simulated_process", "_simulation"],
    ["_nghttp2", "_openssl"],
    ["_front*"],
]

GENERATED = re.compile(r"_pb2(_grpc)?\.pyi?$|(^|/)(requirements\.lock|package-lock\.json|LICENSE)$")
DATA = re.compile(r"^tests/(golden|fuzz/corpus)/|^deploy/grafana\.json$|\.(bin|binpb|png|svg|csv)$")

# The words are put together here, so that this file does not break its own rules.
MACHINE_PATH = re.compile(r"(?<![\w./$})-])/(work|root|home)(/|\b(?![-\w.]))")
REGISTRY = re.compile(
    "|".join(map(re.escape, ["pypi." + "org", "python" + "hosted", "npm" + "js.", "deb." + "debian"]))
)
UNFINISHED = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X)\b")


@cache
def tree() -> dict[str, str]:
    """Every text file that is or would be committed, by its path."""
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listing, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
    files = [name for name in sorted(set(names)) if name and (ROOT / name).is_file() and not DATA.search(name)]
    return {name: (ROOT / name).read_text(encoding="utf-8") for name in files}


def written() -> dict[str, str]:
    return {name: text for name, text in tree().items() if not GENERATED.search(name)}


def native() -> dict[str, str]:
    return {Path(name).stem: text for name, text in tree().items() if re.fullmatch(r"engine/_\w+\.pxi", name)}


def lines_that(pattern: re.Pattern[str], files: dict[str, str]) -> list[str]:
    return [
        f"{name}:{number}: {line.strip()[:100]}"
        for name, text in files.items()
        for number, line in enumerate(text.splitlines(), 1)
        if pattern.search(line)
    ]


def without_remarks(source: str) -> str:
    """Source without strings and comments, which may name anything."""
    return re.sub(r'"""[\s\S]*?"""|"(\\.|[^"\\\n])*"|\'(\\.|[^\'\\\n])*\'|#[^\n]*', "", source)


@pytest.mark.parametrize(
    ("rule", "pattern"),
    [
        ("names a path of one machine", MACHINE_PATH),
        ("names a package registry", REGISTRY),
        ("is unfinished", UNFINISHED),
        ("ends with a blank", re.compile(r"[ \t]+$")),
    ],
)
def test_text_of_every_file_keeps_the_rule(rule: str, pattern: re.Pattern[str]) -> None:
    found = lines_that(pattern, written())
    assert not found, f"a line {rule}:\n" + "\n".join(found)


def test_tabs_stand_only_where_make_needs_them() -> None:
    files = {name: text for name, text in written().items() if Path(name).name != "Makefile"}
    found = lines_that(re.compile("\t"), files)
    assert not found, "\n".join(found)


def test_line_is_at_most_the_limit_unless_a_table_or_a_link() -> None:
    found = []
    for name, text in written().items():
        limit = PROSE_LINE_LENGTH_MAX if name.endswith(".md") else LINE_LENGTH_MAX
        found += lines_that(re.compile(rf"^(?!\s*(\||.*https?://)).{{{limit + 1},}}$"), {name: text})
    assert not found, "too long:\n" + "\n".join(found)


def test_file_is_at_most_the_limit_unless_allowed_by_name() -> None:
    sizes = {name: text.count("\n") for name, text in written().items()}
    too_long = {name: size for name, size in sizes.items() if size > FILE_LINES_MAX and name not in LONG_FILES}
    assert not too_long, "split these, or name them in LONG_FILES with a reason"
    assert not LONG_FILES.keys() - sizes.keys(), "LONG_FILES names what is gone"


def test_native_stage_is_included_by_the_core_once() -> None:
    included = re.findall(r'^include "(\w+)\.pxi"', tree()["engine/_core.pyx"], re.MULTILINE)
    assert sorted(included) == sorted(native()), "engine/_core.pyx includes each engine/_*.pxi once"


def row_of(stage: str) -> int | None:
    for row, patterns in enumerate(STAGES):
        if any(stage.startswith(pattern[:-1]) if pattern.endswith("*") else stage == pattern for pattern in patterns):
            return row
    return None


def test_native_stage_has_its_place_in_the_order() -> None:
    assert not [stage for stage in native() if row_of(stage) is None], "give the stage a row in STAGES"


def names_defined_by(source: str) -> set[str]:
    functions = re.findall(r"^(?:cdef|cpdef|def)\b[^\n(=:]*?\b(\w+)\(", source, re.MULTILINE)
    types = re.findall(r"^(?:cdef|ctypedef)\s+(?:packed\s+)?(?:struct|union|enum|class)\s+(\w+)", source, re.MULTILINE)
    constants = re.findall(r"^ {4}([A-Z][A-Z0-9_]+)\b(?=\s*(?:=|,|$))", source, re.MULTILINE)
    return {name for name in (*functions, *types, *constants) if name not in ("sizeof", "INVARIANT")}


def test_native_stage_uses_no_later_stage() -> None:
    sources = {stage: without_remarks(text) for stage, text in native().items() if row_of(stage) is not None}
    defined = {stage: names_defined_by(source) for stage, source in sources.items()}
    found = []
    for stage, source in sources.items():
        words = set(re.findall(r"\b[A-Za-z_]\w*", source)) - defined[stage]
        for later, names in defined.items():
            if (row_of(later) or 0) > (row_of(stage) or 0) and words & names:
                found.append(f"{stage} uses {', '.join(sorted(words & names))} of the later {later}")
    assert not found, "\n".join(found)


def test_part_of_the_load_generator_is_included_once_and_uses_no_later_part() -> None:
    included = re.findall(r'^include "load/(\w+)\.pxi"', tree()["engine/_load.pyx"], re.MULTILINE)
    parts = {Path(name).stem: without_remarks(text) for name, text in tree().items() if name.startswith("engine/load/")}
    assert sorted(included) == sorted(parts)
    for place, part in enumerate(included):
        words = set(re.findall(r"\b[A-Za-z_]\w*", parts[part])) - names_defined_by(parts[part])
        for later in included[place + 1 :]:
            assert not words & names_defined_by(parts[later]), f"{part} uses what the later {later} defines"


def test_native_code_states_invariants_rather_than_asserts() -> None:
    files = {name: text for name, text in tree().items() if re.fullmatch(r"engine/.*\.(pxi|pyx)", name)}
    found = lines_that(re.compile(r"^\s*assert\b"), files)
    assert not found, "an assert in noexcept code prints and returns 0; use INVARIANT:\n" + "\n".join(found)


def test_readme_names_both_commands() -> None:
    assert [command for command in ("make demo", "make test") if command in tree()["README.md"]] == [
        "make demo",
        "make test",
    ]


def test_decision_records_are_numbered_without_gaps() -> None:
    names = [Path(name).name for name in tree() if re.fullmatch(r"docs/adr/\d{4}-[a-z0-9-]+\.md", name)]
    assert [int(name[:4]) for name in sorted(names)] == list(range(len(names)))
    assert len(names) == sum(name.startswith("docs/adr/") for name in tree()), "a record is named NNNN-title.md"


def test_stubs_match_proto(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "scripts/generate_stubs.py", str(tmp_path)], cwd=ROOT, check=True)

    def stubs(folder: Path) -> dict[str, str]:
        found = (path for path in folder.rglob("*_pb2*") if path.suffix in {".py", ".pyi"})
        return {str(path.relative_to(folder)): path.read_text() for path in found}

    fresh, committed = stubs(tmp_path), stubs(ROOT / "clients/python")
    assert sorted(fresh) == sorted(committed), "run make proto"
    assert [name for name, text in fresh.items() if committed[name] != text] == [], "run make proto"
