"""Pixel values for an HTML page: whole numbers of steps, compressed without further loss, as base64.

Each plane is predicted and the residual stored: from the plane before and its neighbours (the median edge detector of
JPEG-LS: Weinberger, Seroussi, Sapiro, 2000) or from the same plane of a reference image, whichever leaves less.
Residuals are folded to unsigned numbers; their low bytes, then their high bytes are deflated, which every browser can
inflate.
`assets/viewer.js` is the reader. Legend: C planes, H W size.
"""

from __future__ import annotations

import base64
import zlib
from typing import Any

import numpy as np

MISSING = -(2**15)  # marks a pixel without a value
_MOST = 2**15 - 1
_REFERENCE = -1
_GAIN_BITS = 4  # gains are whole numbers of 1/16


def to_steps(image: np.ndarray, low: float, step: float, valid: np.ndarray | None = None) -> np.ndarray:
    """Return (image - low) / step rounded to int16; `MISSING` where `image` is not finite or `valid` is False.

    Values further than 32767 steps from `low` are set to that distance.
    """
    known = np.isfinite(image) if valid is None else np.isfinite(image) & valid
    scaled = np.rint((np.where(known, image, low).astype(np.float64) - low) / step)
    return np.where(known, np.clip(scaled, -_MOST, _MOST), MISSING).astype(np.int16)


def pack(steps: np.ndarray, low: float, step: float, reference: np.ndarray | None = None) -> dict[str, Any]:
    """Return planes (C, H, W) int16 for JSON; `reference`: planes of the same shape that the reader has already.

    "modes" holds how each plane is predicted: `_REFERENCE`, or the gain with which the plane before is subtracted
    before neighbours predict what remains.
    """
    modes, residuals = [], []
    planes = steps.astype(np.int32)
    for c, plane in enumerate(planes):
        gain = _gain(plane, planes[c - 1]) if c else 0
        remains = plane - (gain * planes[c - 1] >> _GAIN_BITS) if gain else plane
        options = {gain: _wrapped(remains - _from_neighbours(remains))}
        if reference is not None:
            options[_REFERENCE] = _wrapped(plane - reference[c])
        mode = min(options, key=lambda m: np.log2(1 + np.abs(options[m].astype(np.float32))).sum())
        modes.append(mode)
        residuals.append(options[mode])
    wide = np.stack(residuals).astype(np.int32)
    folded = (wide << 1 ^ wide >> 15).astype(np.uint16)
    deflate = zlib.compressobj(level=7, strategy=zlib.Z_FILTERED)
    data = (folded & 255).astype(np.uint8).tobytes() + (folded >> 8).astype(np.uint8).tobytes()
    text = base64.b64encode(deflate.compress(data) + deflate.flush()).decode()
    return {"shape": list(steps.shape), "low": low, "step": step, "modes": modes, "data": text}


def _wrapped(residual: np.ndarray) -> np.ndarray:
    return residual.astype(np.int16)  # modulo 2^16, as the reader adds


def _from_neighbours(plane: np.ndarray) -> np.ndarray:
    """Predict (H, W) from left, above and above left; 0 outside."""
    framed = np.pad(plane, ((1, 0), (1, 0)))
    left, above, corner = framed[1:, :-1], framed[:-1, 1:], framed[:-1, :-1]
    small, large = np.minimum(left, above), np.maximum(left, above)
    return np.where(corner >= large, small, np.where(corner <= small, large, left + above - corner))


def _gain(plane: np.ndarray, before: np.ndarray) -> int:
    """Return the least-squares gain from the slopes of the plane before to those of a plane (H, W), in 1/16."""
    own, other = (np.diff(x, axis=1).astype(np.float64) for x in (plane, before))
    power = float((other * other).sum())
    return int(np.clip(round(2**_GAIN_BITS * float((own * other).sum()) / power), 0, 2**15)) if power else 0
