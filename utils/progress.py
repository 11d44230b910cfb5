"""A progress bar with the time left, in a terminal and in a notebook; nothing where output is piped.

rich is imported only when a terminal shows a bar, IPython never: a notebook has it loaded.
"""

from __future__ import annotations

import contextlib
import html
import os
import sys
import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any, Protocol, TypeVar

from lemamba.utils.startup import VERBOSITY

T = TypeVar("T")
NOTEBOOK_EVERY = 0.2  # seconds between two messages to a notebook's page


def in_notebook() -> bool:
    """Return whether this process runs the cells of a notebook (Jupyter, VS Code, Colab; not IPython's terminal)."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return getattr(shell, "kernel", None) is not None


def is_live() -> bool:
    """Return whether someone sees a bar move: stderr is a terminal, or this is a notebook."""
    return sys.stderr.isatty() or in_notebook()


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
        show: None = only where it is seen, see `is_live`.
    """

    def __init__(self, title: str, total: float, show: bool | None = None) -> None:
        self.title, self.total = title, total
        wanted = is_live() if show is None else show
        self.show = wanted and os.environ.get(VERBOSITY) != "quiet"
        self._bar: _Bar | None = None

    def __enter__(self) -> ProgressBar:
        if self.show:
            self._bar = (_NotebookBar if in_notebook() else _TerminalBar)(self.title, self.total)
        return self

    def update(self, done: float, note: str = "") -> None:
        """Set the amount done so far and the note after the bar; without a note the last one stays."""
        if self._bar is not None:
            self._bar.update(done, note)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._bar is not None:
            with contextlib.suppress(OSError):  # the terminal was closed
                self._bar.stop()


class _Bar(Protocol):
    def update(self, done: float, note: str) -> None: ...

    def stop(self) -> None: ...


class _TerminalBar:
    """rich's bar; the spinner and the elapsed time move by themselves, also in one long step."""

    def __init__(self, title: str, total: float) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        start = (SpinnerColumn(), "{task.description}", BarColumn(), "{task.percentage:>5.1f}%")
        times = (TimeElapsedColumn(), "left", TimeRemainingColumn())
        above = sys.stdout.isatty()  # what is printed goes above the bar, unless it goes to a file
        note = TextColumn("{task.fields[note]}")
        self._bar = Progress(*start, *times, note, console=Console(stderr=True), redirect_stdout=above)
        self._task = self._bar.add_task(title, total=total, note="")
        self._bar.start()

    def update(self, done: float, note: str) -> None:
        fields: dict[str, Any] = {"note": note} if note else {}
        self._bar.update(self._task, completed=done, **fields)

    def stop(self) -> None:
        self._bar.stop()


class _NotebookBar:
    """HTML's own <progress>, in one output of the cell that is replaced; rich's bar would need ipywidgets there."""

    def __init__(self, title: str, total: float) -> None:
        self._title, self._total = title, total
        self._done, self._note = 0.0, ""
        self._started = self._shown = time.monotonic()
        self._output: Any = sys.modules["IPython"].display.display(self._page(), raw=True, display_id=True)

    def update(self, done: float, note: str) -> None:
        self._done, self._note = done, note or self._note
        if time.monotonic() - self._shown >= NOTEBOOK_EVERY:
            self._show()

    def stop(self) -> None:
        self._show()  # the notebook is saved with the last state

    def _show(self) -> None:
        self._output.update(self._page(), raw=True)
        self._shown = time.monotonic()

    def _page(self) -> dict[str, str]:
        """Return the bar as HTML, and as a line for pages that show none."""
        share = min(1.0, self._done / self._total) if self._total else 1.0
        seconds = time.monotonic() - self._started
        parts = [self._title, f"{share:.1%}", clock(seconds)]
        if 0 < share < 1:
            parts.append(f"left {clock(seconds * (1 - share) / share)}")
        title, *rest = (html.escape(part) for part in [*parts, *([self._note] if self._note else [])])
        bar = f'<progress value="{share:.4f}" max="1"></progress>'
        return {
            "text/html": f"<div>{title} {bar} {' &nbsp; '.join(rest)}</div>",
            "text/plain": "  ".join([*parts, *([self._note] if self._note else [])]),
        }


def clock(seconds: float) -> str:
    """Return a duration as hours:minutes:seconds, days before it where there are any."""
    whole = round(seconds)
    days, rest = divmod(whole, 86400)
    text = f"{rest // 3600}:{rest // 60 % 60:02}:{rest % 60:02}"
    return f"{days}d {text}" if days else text


def track(items: Iterable[T], title: str, total: int | None = None, show: bool | None = None) -> Iterator[T]:
    """Yield `items` while a bar advances; `total` defaults to ``len(items)``."""
    count = len(items) if total is None else total  # type: ignore[arg-type]
    with ProgressBar(title, count, show) as bar:
        for done, item in enumerate(items, start=1):
            yield item
            bar.update(done)
