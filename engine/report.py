"""Aligned tables of results: a label, a figure, and what it means."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text


class Report:
    """Rows in sections; figures are right-aligned over the whole table, so that they can be compared."""

    def __init__(self) -> None:
        self._rows: list[tuple[str, str, str]] = []

    def section(self, title: str) -> None:
        self._rows.append((title, "", ""))

    def add(self, label: str, figure: str | int, remark: str = "") -> None:
        self._rows.append((f"  {label}", f"{figure:,}" if isinstance(figure, int) else figure, remark))

    def lines(self) -> list[str]:
        label_width = max((len(label) for label, _, _ in self._rows), default=0)
        figure_width = max((len(figure) for _, figure, _ in self._rows), default=0)
        row = "{:<{}}  {:>{}}  {}".format
        return [row(label, label_width, figure, figure_width, remark).rstrip() for label, figure, remark in self._rows]

    def print(self, console: Console) -> None:
        for (label, _, _), line in zip(self._rows, self.lines(), strict=True):
            is_title = not label.startswith(" ")
            # Soft wrap: a narrow terminal may fold a line, but a pipe must get it whole.
            console.print(Text(line, style="bold" if is_title else ""), soft_wrap=True)
