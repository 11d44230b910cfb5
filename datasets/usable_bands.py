"""Hyperspectral bands that hold no image: dead ones, and noise, as where the atmosphere absorbs the light.

Legend: C bands, H W size; bands are numbered from 1 in messages and results.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import numpy as np

from lemamba.datasets.raster import MULTISPECTRAL, Raster

BLOCK = 256  # rows that are read at once
OVERVIEW = 256  # side of the subsampled images that are looked at first
_PIXELS = 8192  # that are enough for a correlation
_ALIKE = 0.5  # a band of an image correlates with a neighbour by more than this; 0.9 and above are usual
_IMAGE = 0.8  # the median over all bands, below which the scene itself has too little structure to say


def dead_bands(ms: Raster) -> list[int]:
    """Return the bands of a hyperspectral image that hold one value wherever there are data.

    They are looked for in a subsampled reading and confirmed in the whole; an image of which all are dead has none.
    """
    if ms.count <= MULTISPECTRAL:
        return []

    def flat(image: np.ndarray, valid: np.ndarray) -> np.ndarray:
        seen = image[:, valid]
        return seen.min(1) == seen.max(1) if seen.shape[1] else np.zeros(len(image), bool)

    step = max(1, max(ms.shape) // OVERVIEW)
    found = flat(*_overview(ms))
    first: dict[int, Any] = {}
    for row in range(0, ms.shape[0], BLOCK):
        if not found.any() or step == 1:
            break
        image, valid = ms.read(((row, min(row + BLOCK, ms.shape[0])), (0, ms.shape[1])))
        found &= flat(image, valid) | ~valid.any()
        for band in np.flatnonzero(found & valid.any()):
            value = image[band][valid][0]
            found[band] = first.setdefault(int(band), value) == value
    return [] if found.all() else [int(band) + 1 for band in np.flatnonzero(found)]


def noisy_bands(ms: Raster, dead: Sequence[int] = ()) -> list[int]:
    """Return the bands of a hyperspectral image that correlate with no neighbour, dead ones left out.

    Neighbouring bands of one ground look alike; a band that only holds noise looks like none. What a producer has
    smoothed or interpolated cannot be told from an image this way.
    """
    if ms.count <= MULTISPECTRAL:
        return []
    image, valid = _overview(ms)
    alive = [band for band in range(ms.count) if band + 1 not in dead]
    seen = image[:, valid]
    seen = seen[alive, :: max(1, seen.shape[1] // _PIXELS)].astype(np.float64)
    if seen.shape[1] < 3 or len(alive) <= MULTISPECTRAL:
        return []
    seen -= seen.mean(1, keepdims=True)
    seen /= np.maximum(np.sqrt((seen**2).sum(1, keepdims=True)), 1e-300)
    with_next = (seen[:-1] * seen[1:]).sum(1)
    best = np.maximum(np.append(with_next, -1.0), np.insert(with_next, 0, -1.0))
    if np.median(best) < _IMAGE:
        return []
    return [alive[i] + 1 for i in np.flatnonzero(best < _ALIKE)]


def _overview(ms: Raster) -> tuple[np.ndarray, np.ndarray]:
    """Return subsampled pixels (C, h, w) and which of them have data."""
    step = max(1, max(ms.shape) // OVERVIEW)
    return ms.read(size=(max(1, ms.shape[0] // step), max(1, ms.shape[1] // step)))


def named(ms: Raster, bands: Sequence[int]) -> str:
    """Return bands in words: ranges, and what the file calls the first and the last of each."""
    labels = ms.labels.get("descriptions") or [None] * ms.count

    def one(band: int) -> str:
        return f"{band} ({labels[band - 1]})" if labels[band - 1] else str(band)

    runs = [[band for _, band in run] for _, run in groupby(enumerate(bands), lambda pair: pair[1] - pair[0])]
    parts = [one(run[0]) if len(run) == 1 else f"{one(run[0])} to {one(run[-1])}" for run in runs]
    return f"{ms.path}: {'bands' if len(bands) > 1 else 'band'} {', '.join(parts)} of {ms.count}"
