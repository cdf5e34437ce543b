"""Aligned tables of results: a label, a figure, and what it means."""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Console
from rich.text import Text


@dataclass(frozen=True, slots=True)
class Row:
    """A title has no figure and no remark, and stands in its own width."""

    label: str
    figure: str = ""
    remark: str = ""
    style: str = ""
    is_title: bool = False


class Report:
    """Rows in sections; figures are right-aligned over the whole table, so that they can be compared."""

    def __init__(self) -> None:
        self._rows: list[Row] = []

    def section(self, title: str, style: str = "bold") -> None:
        self._rows.append(Row(title, style=style, is_title=True))

    def add(self, label: str, figure: str | int, remark: str = "", style: str = "") -> None:
        self._rows.append(Row(f"  {label}", f"{figure:,}" if isinstance(figure, int) else figure, remark, style))

    def lines(self) -> list[str]:
        label_width = max((len(row.label) for row in self._rows if not row.is_title), default=0)
        figure_width = max((len(row.figure) for row in self._rows), default=0)
        return [
            row.label
            if row.is_title
            else f"{row.label:<{label_width}}  {row.figure:>{figure_width}}  {row.remark}".rstrip()
            for row in self._rows
        ]

    def print(self, console: Console) -> None:
        for row, line in zip(self._rows, self.lines(), strict=True):
            # Soft wrap: a narrow terminal may fold a line, but a pipe must get it whole.
            console.print(Text(line, style=row.style), soft_wrap=True)


def curve(values: list[int]) -> str:
    """The values as a row of bars, the greatest at full height."""
    bars = "▁▂▃▄▅▆▇█"
    greatest = max(values, default=0) or 1
    return "".join(bars[min(len(bars) - 1, value * len(bars) // greatest)] for value in values)
