"""What operators copy from deploy/: each metric and each label value in it is one that the engine exports."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from engine.metrics import render
from tests.boards import FakeBoard, sampler
from tests.serving import ROOT

DASHBOARD = ROOT / "deploy" / "grafana.json"
ALERTS = ROOT / "deploy" / "alerts.yaml"
SELECTOR = re.compile(r"\b(everopen_\w+)(?:\{([^}]*)\})?")
MATCHER = re.compile(r'(\w+)\s*(=~|=)\s*"([^"]*)"')
GROUPED = re.compile(r"\b(?:by|on) \(([^)]*)\)")
# What Prometheus itself adds.
ADDED = {"instance", "job", "le"}


def panels() -> list[dict[str, Any]]:
    return [panel for panel in orjson.loads(DASHBOARD.read_bytes())["panels"] if panel["type"] != "row"]


def rules() -> list[dict[str, Any]]:
    [group] = yaml.safe_load(ALERTS.read_text())["groups"]
    return list(group["rules"])


def expressions() -> Iterator[tuple[str, str]]:
    for panel in panels():
        for target in panel["targets"]:
            yield panel["title"], target["expr"]
    for rule in rules():
        yield rule["alert"], rule["expr"]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, str]]]:
    """The labels of each sample, by its name."""
    made = sampler(FakeBoard(), tmp_path_factory.mktemp("deploy"))
    made.exported({"exported": 0, "export_failed": 0})
    found: dict[str, list[dict[str, str]]] = {}
    for family in text_string_to_metric_families(render(made.sample())[0].decode()):
        for sample in family.samples:
            found.setdefault(sample.name, []).append(sample.labels)
    return found


@pytest.mark.parametrize(("where", "expression"), list(expressions()), ids=lambda text: text if len(text) < 30 else "")
def test_expression_selects_something_that_is_exported(
    exported: dict[str, list[dict[str, str]]], where: str, expression: str
) -> None:
    selectors = SELECTOR.findall(expression)
    assert selectors, where
    labels: set[str] = set()
    for name, matchers in selectors:
        assert name in exported, f"{where}: {name} is not exported"
        wanted = [match for match in MATCHER.findall(matchers) if match[0] not in ADDED]
        for label, operator, value in wanted:
            values = value.split("|") if operator == "=~" else [value]
            there = {of.get(label) for of in exported[name]}
            assert set(values) <= there, f"{where}: {name} has no {label} {value}"
        labels |= {label for of in exported[name] for label in of}
    for grouped in GROUPED.findall(expression):
        assert {label.strip() for label in grouped.split(",")} <= labels | ADDED, where


def test_counters_are_read_as_rates_and_gauges_are_not() -> None:
    for where, expression in expressions():
        for name, _ in SELECTOR.findall(expression):
            counts = name.endswith(("_total", "_bucket", "_sum", "_count"))
            within = re.search(rf"(rate|increase)\({name}\b", expression) is not None
            assert counts == within, f"{where}: {name}"


def test_dashboard_shows_each_panel_once_and_beside_the_others() -> None:
    places: set[tuple[int, int]] = set()
    for panel in panels():
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & places, panel["title"]
        assert at["x"] + at["w"] <= 24
        places |= cells
    titles = [panel["title"] for panel in panels()]
    assert len(set(titles)) == len(titles)


def test_every_alert_says_how_bad_it_is_and_what_it_is_about(exported: dict[str, list[dict[str, str]]]) -> None:
    names = [rule["alert"] for rule in rules()]
    assert len(set(names)) == len(names)
    for rule in rules():
        assert rule["labels"]["severity"] in ("critical", "warning", "info")
        summary = rule["annotations"]["summary"]
        name = SELECTOR.findall(rule["expr"])[0][0]
        for label in re.findall(r"\$labels\.(\w+)", summary):
            assert label in exported[name][0], f"{rule['alert']}: {name} has no {label}"


def test_operations_document_names_every_metric(exported: dict[str, list[dict[str, str]]]) -> None:
    text = Path(ROOT / "docs" / "operations.md").read_text()
    # Of a histogram the document names the family.
    families = {re.sub(r"_(bucket|sum|count)$", "", name) for name in exported}
    assert not {name for name in families if name not in text}
