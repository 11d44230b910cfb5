"""The 23-tap half-band interpolator of the pansharpening toolbox (Aiazzi et al., 2002), circular at the border.

One doubling inserts zeros between samples and filters each axis with 23 symmetric taps of sum 2. As the filter is
half-band, the samples themselves pass unchanged and only the positions between them need arithmetic: 12 taps, 6 pairs.
The first doubling puts the samples on odd rows and columns (MATLAB ``2:2:end``), the later ones on even (``1:2:end``);
so sample k comes back at ``r*k + r/2``, where `decimate` took it.
Legend: h w size before, H = r*h, W = r*w size after, r ratio.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Taps at distances 1, 3, 5, 7, 9, 11 from the centre, already times 2 (the centre tap is then 1, even distances are 0).
HALF_BAND_TAPS = tuple(
    2 * t for t in (0.305334091185, -0.072698593239, 0.021809577942, -0.005192756653, 0.000807762146, -0.000060081482)
)


def _double(x: Tensor, dim: int, samples_on_odd: bool) -> Tensor:
    """Double axis `dim` of `x`; samples go to odd or to even positions."""
    n = x.shape[dim]
    reach = len(HALF_BAND_TAPS)
    # `between` at k lies between samples k-1 and k (odd) or between k and k+1 (even).
    first = -reach if samples_on_odd else 1 - reach
    wrapped = torch.arange(first, first + n + 2 * reach - 1, device=x.device) % n
    padded = x.index_select(dim, wrapped)
    pairs = (padded.narrow(dim, reach - 1 - j, n) + padded.narrow(dim, reach + j, n) for j in range(reach))
    between = next(pairs) * HALF_BAND_TAPS[0]
    for tap, pair in zip(HALF_BAND_TAPS[1:], pairs, strict=True):
        between = torch.add(between, pair, alpha=tap)
    phases = (between, x) if samples_on_odd else (x, between)
    return torch.stack(phases, dim=dim + 1).flatten(dim, dim + 1)


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
    rows, columns = x.dim() - 2, x.dim() - 1
    for level in range(int(ratio).bit_length() - 1):
        x = _double(_double(x, rows, level == 0), columns, level == 0)
    return x
