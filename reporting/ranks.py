"""Critical-difference picture: methods on an axis of mean ranks; a bar joins those without a significant difference.

As introduced by Demšar, JMLR 7 (2006). matplotlib is imported when the picture is drawn.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from lemamba.reporting.significance import ALPHA, Ranks, groups
from lemamba.utils.atomic import write_atomically

_OVERHANG = 0.012  # of the axis, by which a bar reaches beyond its methods


def save_critical_difference(path: Path, ranks: Ranks, title: str) -> None:
    """Draw mean ranks, best on the left, the critical difference as a ruler and a bar over every group, as PNG.

    Args:
        path: of the PNG.
        ranks: of at least two methods.
        title: what was ranked; the number of images and the p of Friedman's test are added.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names, joined = list(ranks.mean), groups(ranks)
    rows = (len(names) + 1) // 2
    depth = 1.2 + 0.45 * len(joined)  # below the axis, where the bars of the groups are
    figure = Figure(figsize=(10, 1.9 + 0.24 * (rows + depth)), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    axis.set(xlim=(0.7, len(names) + 0.3), ylim=(rows + depth, -2.6))
    axis.set_axis_off()
    axis.hlines(0, 1, len(names), color="black", linewidth=1)
    step = max(1, math.ceil(len(names) / 15))
    for rank in sorted({*range(1, len(names) + 1, step), len(names)}):
        axis.vlines(rank, -0.2, 0, color="black", linewidth=1)
        axis.text(rank, -0.35, str(rank), ha="center", va="bottom", fontsize=8)
    _draw_ruler(axis, ranks, len(names))
    for i, (name, mean) in enumerate(ranks.mean.items()):
        left = i < rows
        row = depth + (i if left else len(names) - 1 - i)
        side = 1 if left else len(names)
        axis.plot([mean, mean, side], [0, row, row], color="grey", linewidth=0.8)
        label = f"{name}  {mean:.2f} " if left else f" {mean:.2f}  {name}"
        axis.text(side, row, label, ha="right" if left else "left", va="center", fontsize=9, parse_math=False)
    for level, (first, last) in enumerate(joined):
        ends = (ranks.mean[first] - _OVERHANG * len(names), ranks.mean[last] + _OVERHANG * len(names))
        axis.hlines(0.6 + 0.45 * level, *ends, color="black", linewidth=3.5)
    friedman = "" if math.isnan(ranks.friedman) else f", Friedman's test p = {ranks.friedman:.2g}"
    axis.set_title(f"{title}: mean rank over {ranks.images} images{friedman}", fontsize=10, parse_math=False)
    write_atomically(path, lambda temporary: figure.savefig(temporary, format="png", dpi=120, bbox_inches="tight"))


def _draw_ruler(axis: Any, ranks: Ranks, methods: int) -> None:
    """Draw the critical difference above the axis; where it is longer than the axis, no difference is significant."""
    end = min(1 + ranks.critical, float(methods))
    axis.hlines(-1.35, 1, end, color="black", linewidth=1.5)
    axis.vlines([1, end], -1.5, -1.2, color="black", linewidth=1.5)
    cut = ", longer than the axis" if end < 1 + ranks.critical else ""
    text = f"critical difference {ranks.critical:.2f}{cut} (Nemenyi at {ALPHA:g})"
    axis.text(1, -1.65, text, ha="left", va="bottom", fontsize=8)
