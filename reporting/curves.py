"""Curves of several trainings in one picture: a panel for every quantity, a line for every run.

matplotlib is imported when the picture is drawn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from lemamba.utils.atomic import write_atomically

_MARKED = 30  # points; a longer curve is drawn without marks


def save_curves(path: Path, drawn: Mapping[str, Mapping[str, Sequence[tuple[int, float]]]]) -> None:
    """Draw curves as PNG.

    Args:
        path: of the PNG.
        drawn: quantity -> run -> (step, value) in ascending steps.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(run for lines in drawn.values() for run in lines))
    figure = Figure(figsize=(6 * len(drawn), 4.2 + 0.2 * len(names)), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    for axis, (quantity, lines) in zip(figure.subplots(1, len(drawn), squeeze=False)[0], drawn.items(), strict=True):
        for run, points in lines.items():
            steps, values = zip(*points, strict=True)
            mark = "." if len(points) <= _MARKED else ""
            axis.plot(steps, values, marker=mark, linewidth=1.2, color=f"C{names.index(run) % 10}", label=run)
        positive = all(value > 0 for points in lines.values() for _, value in points)
        axis.set(xlabel="optimizer step", title=quantity, yscale="log" if positive else "linear")
        axis.grid(True, which="both", alpha=0.2)
    handles = {label: h for axis in figure.axes for h, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", fontsize="small", ncols=2)
    write_atomically(path, lambda temporary: figure.savefig(temporary, format="png"))
