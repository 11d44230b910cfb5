"""Hyperspectral bands that hold no image: dead ones, noise, as where the atmosphere absorbs the light, and filled ones.

Legend: C bands, H W size, n pixels; bands are numbered from 1 in messages and results.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

import numpy as np

from lemamba.datasets.raster import MULTISPECTRAL, Raster

BLOCK = 256  # rows that are read at once
OVERVIEW = 256  # side of the subsampled images that are looked at first
_PIXELS = 8192  # that are enough for a correlation
_ALIKE = 0.5  # a band of an image correlates with a neighbour by more than this; 0.9 and above are usual
_IMAGE = 0.8  # the median over all bands, below which the scene itself has too little structure to say
# What the two neighbours of a band do not explain of it, as a share of its deviation: it is noise. Of the median over
# all bands, single bands have 0.32 at least on Jasper Ridge and 0.64 on Paris, interpolated and rounded ones 0.04.
_FILLED = 0.15  # of that median
_NOISE = 0.005  # the median below which the image has too little noise to say; it is 0.017 and 0.063 on those two


def dead_bands(ms: Raster) -> list[int]:
    """Return the bands of a hyperspectral image that hold one value wherever there are data.

    They are looked for in a subsampled reading and confirmed in the whole; an image of which all are dead has none.
    """
    if ms.count <= MULTISPECTRAL:
        return []

    step = max(1, max(ms.shape) // OVERVIEW)
    found = _flat(*_overview(ms))
    first: dict[int, Any] = {}
    for row in range(0, ms.shape[0], BLOCK):
        if not found.any() or step == 1:
            break
        image, valid = ms.read(((row, min(row + BLOCK, ms.shape[0])), (0, ms.shape[1])))
        found &= _flat(image, valid) | ~valid.any()
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
    return _noisy(image[:, valid], dead)


def band_notes(image: np.ndarray) -> list[str]:
    """Return a line for each kind of band without an image in a hyperspectral image (C, n), which may be a part of it.

    Bands that were interpolated from their neighbours, or smoothed along the spectrum, are named here only: they look
    like images, and fusing does not leave them out. Weak smoothing is not found.
    """
    if len(image) <= MULTISPECTRAL or image.shape[1] < 3:
        return []
    dead = [int(band) + 1 for band in np.flatnonzero(_flat(image, np.ones(image.shape[1], bool)))]
    if len(dead) == len(image):
        return []
    kinds = (
        (dead, "one value everywhere: ERGAS is infinite with them; simulate leaves them out, fuse --drop_dead"),
        (_noisy(image, dead), "no correlation with a neighbour, as noise where air absorbs: fuse --drop_dead"),
        (_filled(image, dead), "explained by the neighbours without noise: interpolated or smoothed, not measured?"),
    )
    return [f"band{'s' * (len(bands) > 1)} {_runs(bands)} of {len(image)}: {what}" for bands, what in kinds if bands]


def _flat(image: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Return which bands of (C, ...) hold one value in all valid pixels."""
    seen = image[:, valid]
    return seen.min(1) == seen.max(1) if seen.shape[1] else np.zeros(len(image), bool)


def _centred(seen: np.ndarray, dead: Sequence[int]) -> tuple[list[int], np.ndarray]:
    """Return the 0-based bands that are not dead, and their pixels (C, n), of mean 0 and norm 1, at most `_PIXELS`."""
    alive = [band for band in range(len(seen)) if band + 1 not in dead]
    seen = seen[alive, :: max(1, seen.shape[1] // _PIXELS)].astype(np.float64)
    seen -= seen.mean(1, keepdims=True)
    return alive, seen / np.maximum(np.sqrt((seen**2).sum(1, keepdims=True)), 1e-300)


def _noisy(seen: np.ndarray, dead: Sequence[int]) -> list[int]:
    if seen.shape[1] < 3 or len(seen) - len(dead) <= MULTISPECTRAL:
        return []
    alive, seen = _centred(seen, dead)
    with_next = (seen[:-1] * seen[1:]).sum(1)
    best = np.maximum(np.append(with_next, -1.0), np.insert(with_next, 0, -1.0))
    if np.median(best) < _IMAGE:
        return []
    return [alive[i] + 1 for i in np.flatnonzero(best < _ALIKE)]


def _filled(seen: np.ndarray, dead: Sequence[int]) -> list[int]:
    if len(seen) - len(dead) <= MULTISPECTRAL:
        return []
    alive, seen = _centred(seen, dead)
    if seen.shape[1] < len(seen):
        return []
    before, own, after = seen[:-2], seen[1:-1], seen[2:]
    a, b, c = ((x * y).sum(1) for x, y in ((before, own), (after, own), (before, after)))
    explained = (a**2 + b**2 - 2 * a * b * c) / np.maximum(1 - c**2, 1e-12)
    left = np.sqrt(np.maximum(1 - explained, 0))
    if np.median(left) < _NOISE:
        return []
    return [alive[i + 1] + 1 for i in np.flatnonzero(left < _FILLED * np.median(left))]


def _overview(ms: Raster) -> tuple[np.ndarray, np.ndarray]:
    """Return subsampled pixels (C, h, w) and which of them have data."""
    step = max(1, max(ms.shape) // OVERVIEW)
    return ms.read(size=(max(1, ms.shape[0] // step), max(1, ms.shape[1] // step)))


def named(ms: Raster, bands: Sequence[int]) -> str:
    """Return bands in words: ranges, and what the file calls the first and the last of each."""
    labels = ms.labels.get("descriptions") or [None] * ms.count

    def one(band: int) -> str:
        return f"{band} ({labels[band - 1]})" if labels[band - 1] else str(band)

    return f"{ms.path}: {'bands' if len(bands) > 1 else 'band'} {_runs(bands, one)} of {ms.count}"


def _runs(bands: Sequence[int], one: Callable[[int], str] = str) -> str:
    """Return numbers as ranges: "1, 5 to 9"."""
    runs = [[band for _, band in run] for _, run in groupby(enumerate(bands), lambda pair: pair[1] - pair[0])]
    return ", ".join(one(run[0]) if len(run) == 1 else f"{one(run[0])} to {one(run[-1])}" for run in runs)
