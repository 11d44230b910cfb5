"""A progress bar with the time left; silent without a terminal. rich is imported only when a bar is shown."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any, TypeVar

from lemamba.utils.startup import VERBOSITY

T = TypeVar("T")


def can_redraw() -> bool:
    """Return whether a view may be redrawn below what is printed: both streams on a terminal that can, and wanted.

    It is not wanted with --quiet, under CI, and where TERM=dumb or NO_COLOR ask for plain text.
    """
    wanted = os.environ.get(VERBOSITY) != "quiet" and not os.environ.get("NO_COLOR")
    by_machine = os.environ.get("CI", "").lower() not in ("", "0", "false")
    able = os.environ.get("TERM", "") not in ("", "dumb", "unknown") or sys.platform == "win32"
    return wanted and not by_machine and able and sys.stdout.isatty() and sys.stderr.isatty()


class ProgressBar:
    """``with ProgressBar("train", total) as bar: bar.update(done, "loss 0.01")``. A no-op unless `show`.

    Args:
        title: text before the bar.
        total: amount of work; `update` takes amounts of the same unit.
        show: None = only if stderr is a terminal.
    """

    def __init__(self, title: str, total: float, show: bool | None = None) -> None:
        self.title, self.total = title, total
        wanted = sys.stderr.isatty() if show is None else show
        self.show = wanted and os.environ.get(VERBOSITY) != "quiet"
        self._bar: Any = None

    def __enter__(self) -> ProgressBar:
        if self.show:
            from rich.console import Console
            from rich.progress import (
                BarColumn,
                Progress,
                SpinnerColumn,
                TextColumn,
                TimeElapsedColumn,
                TimeRemainingColumn,
            )

            # the spinner and the elapsed time move by themselves, also in one long step
            start = (SpinnerColumn(), "{task.description}", BarColumn(), "{task.percentage:>5.1f}%")
            times = (TimeElapsedColumn(), "left", TimeRemainingColumn())
            note = TextColumn("{task.fields[note]}")
            # what is printed goes above the bar, unless it goes to a file
            above = sys.stdout.isatty()
            self._bar = Progress(*start, *times, note, console=Console(stderr=True), redirect_stdout=above)
            self._task = self._bar.add_task(self.title, total=self.total, note="")
            self._bar.start()
        return self

    def update(self, done: float, note: str = "") -> None:
        """Set the amount done so far and the note after the bar; without a note the last one stays."""
        if self._bar is not None:
            self._bar.update(self._task, completed=done, **({"note": note} if note else {}))

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._bar is not None:
            with contextlib.suppress(OSError):  # the terminal was closed
                self._bar.stop()


def track(items: Iterable[T], title: str, total: int | None = None, show: bool | None = None) -> Iterator[T]:
    """Yield `items` while a bar advances; `total` defaults to ``len(items)``."""
    count = len(items) if total is None else total  # type: ignore[arg-type]
    with ProgressBar(title, count, show) as bar:
        for done, item in enumerate(items, start=1):
            yield item
            bar.update(done)
