"""Pixel values for an HTML page: whole numbers of steps, compressed without further loss, as base64.

Each plane is predicted and the residual stored: from its neighbours (the median edge detector of JPEG-LS: Weinberger,
Seroussi, Sapiro, 2000) or from the same plane of a reference image, whichever leaves less. Residuals are folded to
unsigned numbers; their low bytes, then their high bytes are deflated, which every browser can inflate.
`assets/page.js` is the reader. Legend: C planes, H W size.
"""

from __future__ import annotations

import base64
import zlib
from typing import Any

import numpy as np

MISSING = -(2**15)  # marks a pixel without a value
_MOST = 2**15 - 1
_NEIGHBOURS, _REFERENCE = "n", "r"


def to_steps(image: np.ndarray, low: float, step: float, valid: np.ndarray | None = None) -> np.ndarray:
    """Return (image - low) / step rounded to int16; `MISSING` where `image` is not finite or `valid` is False.

    Values further than 32767 steps from `low` are set to that distance.
    """
    known = np.isfinite(image) if valid is None else np.isfinite(image) & valid
    scaled = np.rint((np.where(known, image, low).astype(np.float64) - low) / step)
    return np.where(known, np.clip(scaled, -_MOST, _MOST), MISSING).astype(np.int16)


def pack(steps: np.ndarray, low: float, step: float, reference: np.ndarray | None = None) -> dict[str, Any]:
    """Return planes (C, H, W) int16 for JSON; `reference`: planes of the same shape that the reader has already."""
    modes, residuals = [], []
    for c, plane in enumerate(steps.astype(np.int32)):
        options = {_NEIGHBOURS: _wrapped(plane - _from_neighbours(plane))}
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
    return {"shape": list(steps.shape), "low": low, "step": step, "modes": "".join(modes), "data": text}


def _wrapped(residual: np.ndarray) -> np.ndarray:
    return residual.astype(np.int16)  # modulo 2^16, as the reader adds


def _from_neighbours(plane: np.ndarray) -> np.ndarray:
    """Predict (H, W) from left, above and above left; 0 outside."""
    framed = np.pad(plane, ((1, 0), (1, 0)))
    left, above, corner = framed[1:, :-1], framed[:-1, 1:], framed[:-1, :-1]
    small, large = np.minimum(left, above), np.maximum(left, above)
    return np.where(corner >= large, small, np.where(corner <= small, large, left + above - corner))
