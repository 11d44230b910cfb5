"""A picture of how a hyperspectral pair was observed: the guide's spectral response, and the point spread function.

matplotlib is imported when the picture is drawn.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from lemamba.utils.atomic import write_atomically
from lemamba.utils.geometry import Geometry


def save_observation(path: Path, response: np.ndarray, psf: np.ndarray, geometry: Geometry) -> None:
    """Draw a response (P, C), each guide band a line, and a PSF (S, S) with the MS pixel's outline, as PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    figure = Figure(figsize=(9, 3.4), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, width_ratios=(2, 1))
    bands = np.arange(1, response.shape[1] + 1)
    for p, row in enumerate(response, 1):
        left.plot(bands, row, label=f"guide band {p}", linewidth=1.2)
    left.set(xlabel="band of the hyperspectral image", ylabel="weight", title="spectral response")
    left.legend(fontsize="small", ncols=1 + len(response) // 6)
    half = psf.shape[0] // 2
    shown = right.imshow(psf, extent=(-half - 0.5, half + 0.5, half + 0.5, -half - 0.5), cmap="viridis")
    top, first = (o - math.floor(o + 0.5) - r / 2 for o, r in zip(geometry.offset, geometry.ratio, strict=True))
    right.add_patch(Rectangle((first, top), geometry.ratio[1], geometry.ratio[0], fill=False, edgecolor="white"))
    right.set(title="point spread function", xlabel="guide pixels (white: one MS pixel)")
    figure.colorbar(shown, ax=right, shrink=0.8)
    write_atomically(path, lambda temporary: figure.savefig(temporary, format="png"))
