"""Pixels without data: filled before fusing, so that they do not affect their neighbours, and marked again after it.

Legend: C bands, H W size; images (C, H, W), `valid` (H, W) bool.
"""

from __future__ import annotations

from typing import Any

import numpy as np

LARGE_AREA = 0.01  # share of the pixels from which on an area of one value is reported
RINGS = 16  # pixels by which valid values grow into a gap; further inside, the gap is filled with a constant


def fill(image: np.ndarray, valid: np.ndarray, constant: np.ndarray) -> np.ndarray:
    """Fill the gaps of an image from their rims inwards, without an edge at the rim that would make filters ring.

    Ring by ring, a gap pixel becomes the mean of its known neighbours (of 8); after `RINGS` rings the rest becomes
    `constant`. A value depends only on pixels at most `RINGS` away, so windows with that margin agree with the whole
    image.

    Args:
        image: (C, H, W) floating point; values in the gaps, also NaN, are ignored.
        valid: (H, W).
        constant: (C,).

    Returns:
        A new array; valid pixels unchanged. Without any valid pixel, all is `constant`.
    """
    filled, known = np.where(valid, image, 0.0), valid.copy()
    for _ in range(RINGS):
        if known.all() or not known.any():
            break
        counts = _neighbourhood(known[None].astype(image.dtype))[0]
        ring = ~known & (counts > 0)
        filled[:, ring] = _neighbourhood(filled)[:, ring] / counts[ring]
        known |= ring
    filled[:, ~known] = constant[:, None]
    return filled


def _neighbourhood(image: np.ndarray) -> np.ndarray:
    """Return sums over 3 x 3 pixels, zero outside; in a fixed order, so that windows agree to the last bit."""
    rows = np.pad(image, ((0, 0), (1, 1), (0, 0)))
    rows = rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]
    both = np.pad(rows, ((0, 0), (0, 0), (1, 1)))
    return both[..., :-2] + both[..., 1:-1] + both[..., 2:]


def unmarked_area(image: np.ndarray, valid: np.ndarray, dtype: np.dtype) -> tuple[float, float]:
    """Look for pixels without data that nothing marks: one large connected area that holds one value throughout.

    The values that are tried are 0, the type's maximum, and the smallest and the largest of the image (-9999, -32768).
    A negative value counts anywhere, as a gap inside a scene has it; others only at the border: water is often 0.

    Args:
        image: (C, H, W), subsampled.
        valid: (H, W), what is known to have data; the border is that of the array and of this area.
        dtype: of the file; floating point has no maximum to look for.

    Returns:
        The value and the share of the valid pixels that have it; (0, 0) where there is no such area.
    """
    found, total = (0.0, 0.0), max(1, int(valid.sum()))
    around = np.pad(valid, 1)  # what lies outside the array counts as not valid
    rim = valid & ~(around[:-2, 1:-1] & around[2:, 1:-1] & around[1:-1, :-2] & around[1:-1, 2:])
    ends = (image[:, valid].min(), image[:, valid].max()) if valid.any() else ()
    values = (0.0, *([float(np.iinfo(dtype).max)] if dtype.kind in "ui" else []), *map(float, ends))
    for value in dict.fromkeys(values):
        same = (image == value).all(0) & valid
        if same.sum() < LARGE_AREA * total or same.sum() == total:
            continue
        from scipy import ndimage  # takes longer to load than to label

        areas, _ = ndimage.label(same, np.ones((3, 3)))
        sizes = np.bincount(areas.ravel())
        where = np.arange(1, len(sizes)) if value < 0 else np.unique(areas[rim & same])
        share = float(sizes[where].max(initial=0)) / total
        if share >= LARGE_AREA and share > found[1]:
            found = (value, share)
    return found


def fits(value: float, dtype: np.dtype) -> bool:
    """Return whether `dtype` can hold `value`, so that it can mark pixels."""
    if dtype.kind == "f":
        return True
    return float(value).is_integer() and np.iinfo(dtype).min <= value <= np.iinfo(dtype).max


def to_stored(values: np.ndarray, valid: np.ndarray, dtype: np.dtype, nodata: float | None) -> np.ndarray:
    """Convert values to the dtype of a file: integers are rounded and clipped, gaps marked.

    Args:
        values: (H, W) floating point; ignored in gaps.
        valid: (H, W).
        dtype: integer of at most 32 bits, or floating point.
        nodata: what marks gaps; None: 0 for integers, NaN for floating point.

    Returns:
        (H, W). A valid pixel equal to `nodata` is moved to the next value, so that it stays valid.
    """
    whole = bool(valid.all())
    values = values if whole else np.where(valid, values, 0)
    if dtype.kind != "f":
        limits, values = np.iinfo(dtype), np.rint(values)
        if values.size and not (values.min() >= limits.min and values.max() <= limits.max):
            values = values.clip(limits.min, limits.max)
    stored = values.astype(dtype)
    if nodata is not None and not np.isnan(nodata):
        mark = dtype.type(nodata)
        stored[stored == mark] = _next_value(mark, dtype)
    if not whole:
        stored[~valid] = nodata if nodata is not None else (np.nan if dtype.kind == "f" else 0)
    return stored


def _next_value(mark: Any, dtype: np.dtype) -> np.generic:
    if dtype.kind == "f":
        return np.nextafter(mark, dtype.type(np.inf if mark <= 0 else 0))
    return dtype.type(int(mark) + (1 if mark < np.iinfo(dtype).max else -1))
