"""Scatter plot of quality against cost: one mark per method, its name placed next to it without overlaps.

matplotlib is imported when the picture is drawn.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lemamba.utils.atomic import write_atomically


def _places(width: float, radius: float) -> Iterator[tuple[float, float]]:
    """Yield offsets at which a label of `width` pixels may start, from a mark of `radius` pixels; nearest first."""
    for distance in np.arange(max(12, radius + 6), radius + 160, 8):
        for turn in np.linspace(0, 2 * np.pi, 16, endpoint=False) + np.pi / 8:
            yield distance * np.cos(turn) - width * (np.cos(turn) < 0), distance * np.sin(turn)


def _place_labels(axis: Any, points: Mapping[str, tuple[float, float]], radii: Mapping[str, float]) -> None:
    """Write every name next to its point, at the nearest place where it covers no other name or point.

    `radii` are those of the marks, in pixels.
    """
    figure = axis.figure
    figure.draw_without_rendering()  # sizes of texts and axes are known from now on
    renderer = figure.canvas.get_renderer()
    marks = {name: axis.transData.transform(point) for name, point in points.items()}
    frame = axis.get_window_extent(renderer)
    taken: list[Any] = []

    def away(place: Any, name: str) -> bool:
        (x, y), (x0, x1), (y0, y1) = marks[name], place.intervalx, place.intervaly
        return np.hypot(x - np.clip(x, x0, x1), y - np.clip(y, y0, y1)) > max(4, radii[name])

    def free(place: Any) -> bool:
        inside = frame.x0 < place.x0 and place.x1 < frame.x1 and frame.y0 < place.y0 and place.y1 < frame.y1
        return inside and all(away(place, name) for name in marks) and not any(map(place.overlaps, taken))

    for name in sorted(points, key=lambda n: -marks[n][1]):
        label = axis.annotate(name, points[name], fontsize=8, xytext=(0, 0), textcoords="offset pixels")
        box = label.get_window_extent(renderer)
        dx, dy = next((p for p in _places(box.width, radii[name]) if free(box.translated(*p))), (6, 6))
        label.set_position((dx, dy))
        taken.append(box.translated(dx, dy))
        near = (
            min(max(0.0, dx), dx + box.width),
            min(max(0.0, dy), dy + box.height),
        )  # nearest point of the label
        if np.hypot(*near) > radii[name] + 12:  # far away: a line connects name and mark
            line = {"arrowstyle": "-", "linewidth": 0.5, "alpha": 0.6, "shrinkA": 0, "shrinkB": 2}
            axis.annotate("", points[name], xytext=near, textcoords="offset pixels", arrowprops=line)


def _plain_numbers(axis: Any) -> None:
    """Label a logarithmic x axis 0.1, 1, 10, not with powers of ten; also at 2, 3 and 5 if there is room."""
    low, high = axis.get_xlim()
    between = "235" if high < 100 * low else ""
    axis.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
    axis.xaxis.set_minor_formatter(lambda x, _: f"{x:g}" if f"{x:e}"[0] in between else "")


def save_scatter(path: Path, points: Mapping[str, tuple[float, float, int | None]], x_title: str, y_title: str) -> None:
    """Draw quality (y) against cost (x, logarithmic); the area of a mark grows with the number of parameters.

    Args:
        path: of the PNG.
        points: name -> (x, y, parameters); None for a method without learned parameters, drawn as a square.
        x_title, y_title: axis titles.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 7), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    sizes = {name: 30 + (parameters or 0) / 8e3 for name, (_, _, parameters) in points.items()}  # square points
    for name, (x, y, parameters) in points.items():
        axis.scatter(x, y, s=sizes[name], marker="s" if parameters is None else "o", alpha=0.6, edgecolors="black")
    axis.set_xscale("log")
    axis.set_xlabel(x_title)
    axis.set_ylabel(y_title)
    axis.set_title("squares: classical; circles: learned, area by parameters", fontsize=9)
    axis.grid(True, which="both", alpha=0.2)
    axis.margins(0.08)
    _plain_numbers(axis)
    radii = {name: np.sqrt(size) / 2 * figure.dpi / 72 for name, size in sizes.items()}
    _place_labels(axis, {name: (x, y) for name, (x, y, _) in points.items()}, radii)
    write_atomically(path, lambda temporary: figure.savefig(temporary, format="png", dpi=figure.dpi))
