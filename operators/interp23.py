"""The 23-tap half-band interpolator of the pansharpening toolbox (Aiazzi et al., 2002), circular at the border.

One doubling inserts zeros between samples and filters each axis with 23 symmetric taps of sum 2. As the filter is
half-band, the samples themselves pass unchanged and only the positions between them need arithmetic: 12 taps, 6 pairs.
The first doubling puts the samples on odd rows and columns (MATLAB ``2:2:end``), the later ones on even (``1:2:end``);
so sample k comes back at ``r*k + r/2``, where `decimate` took it.
Legend: h w size before, H = r*h, W = r*w size after, r ratio.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from lemamba.operators.banded import Blocks, apply_to_both, banded_blocks

# Taps at distances 1, 3, 5, 7, 9, 11 from the centre, already times 2 (the centre tap is then 1, even distances are 0).
HALF_BAND_TAPS = tuple(
    2 * t for t in (0.305334091185, -0.072698593239, 0.021809577942, -0.005192756653, 0.000807762146, -0.000060081482)
)

REACH = 12  # samples on either side that a result depends on: 6 * (1 + 1/2 + 1/4 + …) < 12
_BLOCK = 32  # outputs per block


def _double(x: Tensor, samples_on_odd: bool) -> Tensor:
    """Double a signal (n,), circularly; samples go to odd or to even positions."""
    n = len(x)
    reach = len(HALF_BAND_TAPS)
    # `between` at k lies between samples k-1 and k (odd) or between k and k+1 (even).
    first = -reach if samples_on_odd else 1 - reach
    padded = x[torch.arange(first, first + n + 2 * reach - 1) % n]
    between = torch.zeros_like(x)
    for j, tap in enumerate(HALF_BAND_TAPS):
        between += tap * (padded[reach - 1 - j :][:n] + padded[reach + j :][:n])
    return torch.stack((between, x) if samples_on_odd else (x, between), dim=1).flatten()


@lru_cache(maxsize=8)
@torch.inference_mode(False)  # a cached inference tensor could not serve training later
def response(ratio: int) -> Tensor:
    """Return what all doublings make of one sample: (2 REACH ratio,) float64, the sample at REACH * ratio + ratio/2."""
    signal = torch.zeros(2 * REACH, dtype=torch.float64)
    signal[REACH] = 1
    for level in range(ratio.bit_length() - 1):
        signal = _double(signal, level == 0)
    return signal


@lru_cache(maxsize=32)
@torch.inference_mode(False)
def _blocks(n: int, ratio: int, dtype: torch.dtype, device: torch.device) -> Blocks:
    """Return the doublings of an axis of n samples as one banded matrix: one pass instead of two for each of them."""
    out = torch.arange(n * ratio)
    sample = out[:, None] // ratio + torch.arange(1 - REACH, REACH)
    weight = response(ratio)[out[:, None] - sample * ratio + REACH * ratio]
    return banded_blocks(weight, sample % n, _BLOCK, dtype, device)


def interp23(x: Tensor, ratio: int) -> Tensor:
    """Enlarge `x` by `ratio` in both directions.

    Args:
        x: (B, C, h, w) or (..., h, w), floating point, any h, w >= 1 (the border is circular).
        ratio: 1, 2, 4, 8, 16, …

    Returns:
        (..., r*h, r*w), same dtype.

    Raises:
        ValueError: the ratio is not a power of two. (The published loop doubles ratio/2 times, which is right for 2 and
            4 and gives x16 for 8; this one doubles log2(ratio) times.)
    """
    if int(ratio) != ratio or ratio < 1 or int(ratio) & (int(ratio) - 1):
        raise ValueError(f"interp23: ratio must be a power of two, given {ratio}")
    ratio = int(ratio)
    if ratio == 1:
        return x
    rows, columns = (_blocks(n, ratio, x.dtype, x.device) for n in x.shape[-2:])
    return apply_to_both(x, rows, columns)
