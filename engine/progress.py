"""A progress bar on stderr for work that turns out to take long; short work stays silent."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.progress import Progress

SILENT_S = 2.0
# How many steps pass between two looks at the clock.
STRIDE = 1_024

Item = TypeVar("Item")


class Bar:
    """Counts steps, or is told where the work stands; it appears once the work has taken longer than SILENT_S."""

    def __init__(self, title: str, total: int | None) -> None:
        self._title = title
        self._total = total
        self._began = time.monotonic()
        self._done = 0
        self._shown: Progress | None = None

    def step(self) -> None:
        self._done += 1
        if self._done % STRIDE == 0:
            self.reach(self._done)

    def reach(self, done: int) -> None:
        self._done = done
        if time.monotonic() - self._began > SILENT_S:
            self._show()

    def close(self) -> None:
        if self._shown is not None:
            self._shown.stop()

    def _show(self) -> None:
        if self._shown is None:
            from rich.console import Console
            from rich.progress import Progress

            self._shown = Progress(console=Console(stderr=True), transient=True)
            self._shown.add_task(self._title, total=self._total)
            self._shown.start()
        self._shown.update(self._shown.task_ids[0], completed=self._done)


@contextmanager
def bar(title: str, total: int | None) -> Iterator[Bar]:
    shown = Bar(title, total)
    try:
        yield shown
    finally:
        shown.close()


def watched(title: str, total: int | None, items: Iterable[Item]) -> Iterator[Item]:
    """The items, counted by a bar."""
    with bar(title, total) as shown:
        for item in items:
            yield item
            shown.step()
