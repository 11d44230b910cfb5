"""The windows of a pair in memory, in which response and PSF are estimated."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch

from lemamba.operators.window import Window, cut_windows
from lemamba.utils.geometry import Geometry

SIDE = 512  # guide pixels of a window
MARGIN = 4  # MS pixels around it


def windows_of(
    ms: np.ndarray, guide: np.ndarray, geometry: Geometry, valid: np.ndarray | None = None
) -> Callable[[], Iterator[Window]]:
    """Return a function that gives the windows of a pair, for `lemamba.operators.observation.estimate`.

    Args:
        ms: (C, h, w).
        guide: (P, r·h, r·w).
        geometry: of the pair, a whole ratio.
        valid: (h, w) bool, MS pixels with data; None = all.
    """
    images = [torch.from_numpy(np.array(x, dtype=np.float64))[None] for x in (ms, guide)]
    r = geometry.nominal
    fine = None if valid is None else torch.from_numpy(valid.repeat(r, 0).repeat(r, 1))

    def windows() -> Iterator[Window]:
        for _, window in cut_windows(images[0], images[1], geometry, r * max(1, SIDE // r), MARGIN * r, fine):
            if window.valid is None or window.valid.any():
                yield window

    return windows
