"""A live view of a training on a terminal: curves, scores, speed and time left, redrawn below the lines of the log.

`LiveView` holds the numbers and draws itself for any width; as a context it keeps itself on the terminal. rich is
imported when a view is drawn.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lemamba.utils.progress import ProgressBar, clock

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions
    from rich.text import Text

REDRAWN = 1.0  # times a second
WIDEST = 160  # columns
TWO_CURVES = 100  # columns from which the validation's curve stands next to that of the loss
_CURVE_ROWS, _FEWEST_ROWS = 8, 3
_MOST_POINTS = 1024  # of a curve; beyond it, pairs of neighbours are averaged
_LABEL = 9  # columns of the numbers at the left of a curve
# bits of a braille character by row and column of its dots (Unicode, block 2800)
_DOTS = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]])

Points = list[tuple[float, float]]


class Series:
    """A curve of bounded length: means of equally many neighbours, and the last value as it is."""

    def __init__(self) -> None:
        self._means: Points = []
        self._open: Points = []  # the neighbours of the next mean
        self._together = 1

    def add(self, step: float, value: float) -> None:
        """Append a point; steps ascend."""
        self._open.append((step, value))
        if len(self._open) > self._together:  # the last one stays out
            self._means.append(_mean(self._open[:-1]))
            self._open = self._open[-1:]
        if len(self._means) >= _MOST_POINTS:
            self._means = [_mean(pair) for pair in zip(self._means[::2], self._means[1::2], strict=True)]
            self._together *= 2

    def points(self) -> Points:
        """Return (step, value) in ascending steps; the last point is the one that was added last."""
        before = [_mean(self._open[:-1])] if len(self._open) > 1 else []
        return [*self._means, *before, *self._open[-1:]]


def _mean(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    steps, values = zip(*points, strict=True)
    return sum(steps) / len(points), sum(values) / len(points)


class _Scores(NamedTuple):
    """Scores of one validation and where it stands."""

    values: dict[str, float]
    epoch: float
    step: int


class LiveView:
    """``with LiveView(…) as view:`` shows the view on stderr until the end of the block, where its last state stays.

    Args:
        title: of the training.
        epochs: shown as its length; None where a time budget decides.
        metric: the validation metric that chooses the best weights.
        smaller: whether a smaller value of it is better.
    """

    def __init__(self, title: str, epochs: int | None, metric: str, smaller: bool) -> None:
        self.title, self.epochs, self.metric, self.smaller = title, epochs, metric, smaller
        self.loss, self.scores = Series(), Series()  # of the training, and of `metric`
        self.last: _Scores | None = None
        self.best: _Scores | None = None
        self.loop: dict[str, float] = {}
        self.share, self.trained, self.step, self.doing = 0.0, 0.0, 0, ""
        self.lengths: list[int] = []  # columns of the lines that were drawn last
        self.ended: float | None = None
        self._started, self._first_share = time.monotonic(), math.nan
        self._live: Any = None

    # ------------------------------------------------------------------------------------------ numbers

    def add(self, values: Mapping[str, float | None], *, step: int, epoch: float) -> None:
        """Take values of a step, named ``group/name`` as in the curves of a run; None and NaN are not drawn."""
        self.step, self.trained = step, epoch
        known = {name: float(value) for name, value in values.items() if value is not None}
        self.loop = self.loop | {n.removeprefix("loop/"): v for n, v in known.items() if n.startswith("loop/")}
        if math.isfinite(loss := known.get("train/total", math.nan)):
            self.loss.add(step, loss)
        valid = {n.removeprefix("valid/"): v for n, v in known.items() if n.startswith("valid/")}
        if not valid:
            return
        self.last = _Scores(valid, epoch, step)
        value = valid.get(self.metric, math.nan)
        if math.isfinite(value):
            self.scores.add(step, value)
            old = self.best.values[self.metric] if self.best else None
            if old is None or (value < old if self.smaller else value > old):
                self.best = self.last

    def move(self, share: float, trained: float, doing: str) -> None:
        """Set the share of the training that is done, the epochs trained, and what is being done ("" = a step)."""
        if math.isnan(self._first_share):
            self._first_share, self._started = share, time.monotonic()
        self.share, self.trained, self.doing = min(share, 1.0), trained, doing

    def seconds_left(self) -> float | None:
        """Return the time left at the mean speed since the start of this session, None before anything is done."""
        done = self.share - self._first_share
        return self._elapsed() * (1 - self.share) / done if done > 0 else None

    def _elapsed(self) -> float:
        return (time.monotonic() if self.ended is None else self.ended) - self._started

    # ------------------------------------------------------------------------------------------ drawing

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        """Yield the lines for the width and height of the terminal."""
        width = min(options.max_width, WIDEST) - 1  # a full line would move the cursor to the next
        ascii_only = options.ascii_only
        below = [*self._tables(width), *self._speed(width), self._bar(width, ascii_only)]
        rows = min(_CURVE_ROWS, options.size.height - len(below) - 3)  # without heading, title and the cursor's line
        lines = [_heading(f"training {self.title}", width, ascii_only)]
        if self.loss.points() and rows >= _FEWEST_ROWS:
            lines += self._curves(width, rows, ascii_only)
        lines = [*lines, *below][-max(options.size.height - 1, 1) :]
        for line in lines:
            line.truncate(max(width, 1))
        self.lengths = [line.cell_len for line in lines]
        yield from lines

    def _curves(self, width: int, rows: int, ascii_only: bool) -> list[Text]:
        """Return the curve of the loss and, where there is room, that of the validation's metric at its side."""
        from rich.text import Text

        loss, scores = self.loss.points(), self.scores.points()
        if width + 1 < TWO_CURVES or len(scores) < 2:
            return [
                Text(line, style="cyan" if i else "")
                for i, line in enumerate(plot("loss", loss, width, rows, ascii_only))
            ]
        half = (width - 3) // 2
        both = (plot(*one, half, rows, ascii_only) for one in (("loss", loss), (f"validation {self.metric}", scores)))
        styles = (("cyan", "green") if i else ("", "") for i in range(rows + 1))
        return [
            Text.assemble((left.ljust(half + 3), one), (right, other))
            for left, right, (one, other) in zip(*both, styles, strict=True)
        ]

    def _tables(self, width: int) -> list[Text]:
        """Return the scores of the last and of the best validation, in as many blocks as the width needs."""
        from rich.text import Text

        if self.last is None:
            return [Text("not validated yet", style="dim")]
        rows = {"last": self.last} | ({"best": self.best} if self.best else {})
        cells = {name: [_number(scores.values.get(name)) for scores in rows.values()] for name in self.last.values}
        first = ["validation", *(f"{kind} epoch {s.epoch:.4g} step {s.step}" for kind, s in rows.items())]
        if max(map(len, first)) > width // 2:
            first = ["", *rows]
        edge = max(map(len, first))
        columns = {name: max(len(name), *map(len, values)) for name, values in cells.items()}
        lines: list[Text] = []
        for names in _blocks(columns, width - edge):
            lines.append(Text.assemble((first[0].ljust(edge), "dim")))
            for name in names:
                lines[-1].append(f"  {name:>{columns[name]}}", style="bold" if name == self.metric else "dim")
            for i, label in enumerate(first[1:]):
                text = label.ljust(edge) + "".join(f"  {cells[name][i]:>{columns[name]}}" for name in names)
                lines.append(Text(text, style="green" if label.startswith("best") else ""))
        return lines

    def _speed(self, width: int) -> list[Text]:
        """Return learning rate, speed, gradient norm and memory, and what is being done, wrapped between them."""
        from rich.text import Text

        shown = {"lr": "lr {:.2e}", "samples_per_second": "{:.4g} samples/s", "grad_norm": "gradient norm {:.3g}"}
        shown |= {"gpu_memory_gib": "GPU memory {:.2f} GiB", "skipped_steps": "{:g} steps skipped"}
        known = {name: self.loop[name] for name in shown if name in self.loop}
        if not known.get("skipped_steps"):
            known.pop("skipped_steps", None)
        items = [shown[name].format(value) for name, value in known.items()]
        of = "" if self.epochs is None else f" of {self.epochs}"
        items += [f"epoch {self.trained:.2f}{of}", f"step {self.step}", *([self.doing] if self.doing else [])]
        lines = [""]
        for item in items:
            longer = f"{lines[-1]}, {item}" if lines[-1] else item
            if len(longer) <= width:
                lines[-1] = longer
            else:
                lines.append(item)
        return [Text(line) for line in lines]

    def _bar(self, width: int, ascii_only: bool) -> Text:
        """Return the bar with its share, the time since the start of this session, and the time left."""
        from rich.text import Text

        times = f" {self.share:6.1%}  {clock(self._elapsed())}"
        if self.ended is None:
            left = self.seconds_left()
            times += f"  left {'-:--:--' if left is None else clock(left)}"
        cells = max(width - len(times) - 2, 0)  # a terminal shows ^C behind it
        full = round(self.share * cells)
        done, rest = ("#", "-") if ascii_only else ("━", "─")
        return Text.assemble((done * full, "cyan"), (rest * (cells - full), "dim"), times)

    # ------------------------------------------------------------------------------------------ on the terminal

    def __enter__(self) -> LiveView:
        self._live = _live(self)
        self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.ended, self.doing = time.monotonic(), ""
        with contextlib.suppress(OSError):  # the terminal was closed
            self._live.stop()


class NotebookView(LiveView):
    """The same numbers below the cell of a notebook: a bar with the last loss and score, redrawn where it stands."""

    def __enter__(self) -> NotebookView:
        self._live = ProgressBar("training", 1.0).__enter__()
        return self

    def move(self, share: float, trained: float, doing: str) -> None:
        """Set the same, and move the bar."""
        super().move(share, trained, doing)
        loss = f"loss {self.loss.points()[-1][1]:.4g}" if self.loss.points() else ""
        score = f"{self.metric} {self.last.values.get(self.metric, math.nan):.4g}" if self.last else ""
        self._live.update(self.share, "  ".join(filter(None, (f"epoch {trained:.1f}", loss, score, doing))))

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._live.__exit__(kind, error, tb)


def _live(view: LiveView) -> Any:
    """Return rich's live display of `view`, made to survive a closed terminal and one that becomes narrower."""
    from rich.console import Console
    from rich.live import Live

    class Serial(Console):
        """One print after the other: between finding the old view and drawing the new one no thread draws another."""

        lock: Any = contextlib.nullcontext()

        def print(self, *given: Any, **named: Any) -> None:
            with self.lock:
                super().print(*given, **named)

    class Display(Live):
        def refresh(self) -> None:
            with contextlib.suppress(OSError):  # in the thread that redraws; the training hears of it by itself
                super().refresh()

        def process_renderables(self, renderables: list[Any]) -> list[Any]:
            # A terminal that has become narrower has wrapped the lines, and the view is higher than it was drawn.
            drawn, width = self._live_render, max(self.console.width, 1)
            if drawn._shape is not None and drawn._shape[1] == len(view.lengths):
                rows = sum(max(1, -(-length // width)) for length in view.lengths)
                drawn._shape = (drawn._shape[0], rows)
            return super().process_renderables(renderables)

    console = Serial(stderr=True)
    display = Display(view, console=console, refresh_per_second=REDRAWN)
    console.lock = display._lock  # the thread that redraws holds it
    return display


def _heading(text: str, width: int, ascii_only: bool) -> Text:
    from rich.text import Text

    line = "-" if ascii_only else "─"
    return Text.assemble((line * 2, "dim"), f" {text} ", (line * max(width - len(text) - 4, 0), "dim"))


def _blocks(columns: Mapping[str, int], width: int) -> Iterator[list[str]]:
    """Yield the names of columns in groups that fit into `width`, two spaces before each column."""
    names: list[str] = []
    for name, wide in columns.items():
        if names and sum(columns[n] + 2 for n in names) + wide + 2 > width:
            yield names
            names = []
        names.append(name)
    yield names


def _number(value: float | None) -> str:
    if value is None:
        return ""
    size = abs(value)
    return f"{value:.4f}" if 0.1 <= size < 1e4 else f"{value:.5f}" if 1e-3 <= size < 0.1 else f"{value:.4g}"


# ---------------------------------------------------------------------------------------------------- curves


def plot(
    name: str, points: Sequence[tuple[float, float]], width: int, rows: int, ascii_only: bool = False
) -> list[str]:
    """Draw a curve with characters: a title, then `rows` lines with the largest and the smallest value at their left.

    The axis is logarithmic if all values are positive and they span a factor of 3 or more.

    Args:
        name: of the quantity.
        points: (step, value) in ascending steps, at least one, all finite.
        width: columns in all.
        rows: lines of the curve.
        ascii_only: "*" instead of braille dots.
    """
    steps, values = (np.array(column, dtype=float) for column in zip(*points, strict=True))
    low, high = values.min(), values.max()
    log = low > 0 and high >= 3 * low
    title = f"{name} {_short(values[-1])}, steps {steps[0]:.0f} to {steps[-1]:.0f}{', log scale' if log else ''}"
    dots = _raster(steps, np.log(values) if log else values, rows * 4, max(width - _LABEL - 1, 1) * 2)
    lines = [" " * _LABEL] * rows
    lines[0] = f"{_short(high):>{_LABEL}}"
    if high > low:
        lines[-1] = f"{_short(low):>{_LABEL}}"
    return [
        title[:width],
        *(f"{label} {drawn}" for label, drawn in zip(lines, _characters(dots, ascii_only), strict=True)),
    ]


def _short(value: float) -> str:
    return f"{value:.4g}"


def _raster(steps: np.ndarray, values: np.ndarray, high: int, wide: int) -> np.ndarray:
    """Return the dots (high, wide) of a curve, the largest value in row 0: the means of columns, joined by lines."""
    span, low, top = steps[-1] - steps[0], values.min(), values.max()
    columns = (
        np.zeros(len(steps), dtype=int) if span == 0 else np.round((steps - steps[0]) / span * (wide - 1)).astype(int)
    )
    used, place = np.unique(columns, return_inverse=True)
    means = np.bincount(place, weights=values) / np.bincount(place)
    everywhere = np.arange(used[0], used[-1] + 1)
    level = (top - np.interp(everywhere, used, means)) / (top - low) if top > low else np.full(len(everywhere), 0.5)
    rows = np.round(level * (high - 1)).astype(int)
    dots = np.zeros((high, wide), dtype=bool)
    for column, before, row in zip(everywhere, [rows[0], *rows[:-1]], rows, strict=True):
        dots[min(row, before + 1) : max(row, before - 1) + 1, column] = True
    return dots


def _characters(dots: np.ndarray, ascii_only: bool) -> Iterable[str]:
    """Return lines of characters for dots (4 rows, 2 columns a character)."""
    high, wide = dots.shape
    codes = (dots.reshape(high // 4, 4, wide // 2, 2) * _DOTS[:, None]).sum(axis=(1, 3))
    for line in codes:
        yield "".join(("*" if code else " ") if ascii_only else chr(0x2800 + code) if code else " " for code in line)
