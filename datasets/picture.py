"""A picture of an observed pair: true colour, colour infrared and panchromatic side by side."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from utils.atomic import renamed


def stretched(image: np.ndarray, low: float = 1.0, high: float = 99.0) -> np.ndarray:
    """Stretch an image (…, H, W) between two percentiles of all its values; 0..1."""
    bottom, top = np.percentile(image, (low, high))
    return np.clip((image - bottom) / max(top - bottom, 1e-12), 0, 1)


def save_scene(path: str | Path, ms: np.ndarray, pan: np.ndarray, rgb: tuple[int, int, int], infrared: int) -> None:
    """Write a PNG of a pair.

    Args:
        path: the PNG.
        ms: (C, H, W).
        pan: (1, r·H, r·W).
        rgb: 0-based bands shown as red, green, blue.
        infrared: 0-based band shown as red in the second panel.
    """
    from matplotlib.figure import Figure

    red, green, blue = (stretched(ms[band]) for band in rgb)
    panels = {
        "MS, true colour": np.stack([red, green, blue], -1),
        "MS, colour infrared": np.stack([stretched(ms[infrared]), red, green], -1),
        "PAN": stretched(pan[0]),
    }
    figure = Figure(figsize=(12, 4.25), layout="constrained")
    for axes, (title, image) in zip(figure.subplots(1, 3), panels.items(), strict=True):
        axes.imshow(image, cmap="gray", vmin=0, vmax=1, interpolation="antialiased")
        axes.set_title(title)
        axes.set_axis_off()
    with renamed(path) as temporary:
        figure.savefig(temporary, format="png", dpi=100)
