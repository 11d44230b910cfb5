"""Pixels without data: filled before fusing, so that they do not bleed, and put back after it.

Legend: C bands, H W size; images (C, H, W), `valid` (H, W) bool.
"""

from __future__ import annotations

import numpy as np

RINGS = 16  # pixels by which known values grow into a gap; beyond them the gap is a constant


def fill(image: np.ndarray, valid: np.ndarray, constant: np.ndarray) -> np.ndarray:
    """Fill the gaps of an image from their rims inwards, without a step at the rim that a filter could ring on.

    Ring after ring, a gap pixel becomes the mean of those of its 8 neighbours that are known; after `RINGS` rings what
    is left becomes `constant`. A pixel's value depends only on pixels at most `RINGS` away, so windows with that margin
    agree with the whole image.

    Args:
        image: (C, H, W) floating point; values in the gaps are not looked at, NaN included.
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
    """Sum over 3 x 3 pixels, zero outside; always in the same order, so that windows agree to the last bit."""
    rows = np.pad(image, ((0, 0), (1, 1), (0, 0)))
    rows = rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]
    both = np.pad(rows, ((0, 0), (0, 0), (1, 1)))
    return both[..., :-2] + both[..., 1:-1] + both[..., 2:]


def fits(value: float, dtype: np.dtype) -> bool:
    """Tell whether `dtype` can hold `value` exactly enough to mark pixels with it."""
    if dtype.kind == "f":
        return True
    return float(value).is_integer() and np.iinfo(dtype).min <= value <= np.iinfo(dtype).max


def to_stored(values: np.ndarray, valid: np.ndarray, dtype: np.dtype, nodata: float | None) -> np.ndarray:
    """Turn numbers into the dtype of a file: integers rounded and clipped, gaps marked.

    Args:
        values: (H, W) floating point; not looked at in gaps.
        valid: (H, W).
        dtype: integer of at most 32 bits, or floating point.
        nodata: what marks gaps; None: 0 for integers, NaN for floating point.

    Returns:
        (H, W). A valid pixel that would equal `nodata` moves to the next value, so that it stays valid.
    """
    values = np.where(valid, values, 0.0)
    if dtype.kind != "f":
        limits = np.iinfo(dtype)
        values = np.rint(values).clip(limits.min, limits.max)
    stored = values.astype(dtype)
    if nodata is not None and not np.isnan(nodata):
        mark = dtype.type(nodata)
        stored[stored == mark] = _next_value(mark, dtype)
    gap = nodata if nodata is not None else (np.nan if dtype.kind == "f" else 0)
    stored[~valid] = gap
    return stored


def _next_value(mark: np.generic, dtype: np.dtype) -> np.generic:
    if dtype.kind == "f":
        return np.nextafter(mark, dtype.type(np.inf if mark <= 0 else 0))
    return dtype.type(int(mark) + (1 if mark < np.iinfo(dtype).max else -1))
