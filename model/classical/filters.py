"""The low-pass filters of the classical methods, on top of `operators`.

Images (1, C, H, W). `ideal_low_pass` is the toolbox's "LPfilterGauss", `binomial_low_pass` its "LPfilter".
Source: the pansharpening toolbox of Vivone et al. (IEEE GRSM 2015 and 2021).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from lemamba.operators import imresize, interpolate, mtf_filter, mtf_sample, sample
from lemamba.operators.banded import Blocks, apply_to_both, banded_blocks
from lemamba.operators.mtf import REACH as MTF_REACH
from lemamba.operators.resample import DECIMATION_TAPS, MARGIN, Positions, mirrored, taps_at
from lemamba.operators.window import Window
from lemamba.utils.geometry import Geometry

_IDEAL_GAIN = 0.3
_IDEAL_SPAN = 41  # the kernel's length, where MTF kernels use the length minus one
_BINOMIAL = tuple(t / 16 for t in (1, 4, 6, 4, 1))
BINOMIAL_REACH = 8
_BLOCK = 8  # outputs per block of a banded matrix
BINOMIAL_RATIO = 4  # what the binomial is made for: gain 0.282 at 1/8


def ideal_low_pass(x: Tensor, ratio: float) -> Tensor:
    """Gaussian low-pass with gain 0.3 at the cut frequency 1/ratio; the border is replicated."""
    return mtf_filter(x, _IDEAL_GAIN, ratio, span=_IDEAL_SPAN)


def glp_low_pass(pan: Tensor, gains: Sequence[float], geometry: Geometry, size: Sequence[int]) -> Tensor:
    """Generalised Laplacian pyramid: MTF filter, decimate, interpolate. One gain per band of the result.

    Args:
        pan: (1, 1, H, W).
        gains: C Nyquist gains; equal ones are computed once.
        geometry: of the pair.
        size: (h, w) of ms.

    Returns:
        (1, C, H, W).
    """
    scale = (geometry.ratio[0] * geometry.ratio[1]) ** 0.5
    distinct = sorted(set(gains))
    low = interpolate(mtf_sample(pan, distinct, scale, geometry, size), geometry, tuple(pan.shape[-2:]))
    return low[:, [distinct.index(g) for g in gains]] if len(distinct) > 1 else low.expand(-1, len(gains), -1, -1)


def glp_margin(ratio: float) -> int:
    """PAN pixels that `glp_low_pass` looks at around a window."""
    return int(MARGIN * ratio) + MTF_REACH + int(ratio) + 1


def resize_low_pass(x: Tensor, ratio: int) -> Tensor:
    """Shrink and enlarge by bicubic ``imresize``."""
    low = imresize(imresize(x, 1 / ratio, "bicubic"), ratio, "bicubic")
    return low[..., : x.shape[-2], : x.shape[-1]]


def resize_margin(ratio: int) -> int:
    """PAN pixels that `resize_low_pass` looks at around a window, in whole MS pixels."""
    return 5 * ratio


def _mirror(x: Tensor, dim: int, margin: int) -> Tensor:
    """Extend axis `dim` by `margin` on both sides, mirrored with the edge sample repeated."""
    n = x.shape[dim]
    return x.index_select(dim, mirrored(torch.arange(-margin, n + margin, device=x.device), n))


def _binomial_valid(x: Tensor, dim: int) -> Tensor:
    n = x.shape[dim] - len(_BINOMIAL) + 1
    total = _BINOMIAL[0] * x.narrow(dim, 0, n)
    for i, tap in enumerate(_BINOMIAL[1:], start=1):
        total.add_(x.narrow(dim, i, n), alpha=tap)
    return total


def binomial_low_pass(x: Tensor) -> Tensor:
    """Four passes of [1 4 6 4 1]/16 per axis: a 17-tap binomial, made for ratio 4 (gain 0.282 at 1/8).

    The border is what the toolbox does: the first two passes mirror 4 samples of what they are given, all four keep
    the valid part only. It differs from one mirrored 17-tap filter within 8 samples of the border.
    """
    for dim in (-2, -1):
        for extends in (True, True, False, False):
            x = _binomial_valid(_mirror(x, dim, 4) if extends else x, dim)
    return x


def pyramid_low_pass(x: Tensor, ratio: float) -> Tensor:
    """Low-pass of GSA and AWLP: the published binomial at ratio 4, else the Gaussian of gain 0.3 at 1/ratio.

    The binomial is made for ratio 4 and defined for no other; its gain there, 0.282, is next to the Gaussian's.
    """
    return binomial_low_pass(x) if ratio == BINOMIAL_RATIO else ideal_low_pass(x, ratio)


def pyramid_sample(window: Window, ratio: float) -> Tensor:
    """Return `pyramid_low_pass` of PAN at the MS pixels of a window, (1, 1, h, w).

    Where a window has margins, the border of the binomial is not seen, and it is computed at the MS pixels only.
    """
    size = tuple(window.ms.shape[-2:])
    if ratio != BINOMIAL_RATIO or window.given is not None:
        return sample(pyramid_low_pass(window.pan, ratio), window.geometry, size)
    x, geometry = window.pan, window.geometry
    rows, columns = (
        _binomial_sampling(n, (offset, step, count), x.dtype, x.device)
        for n, offset, step, count in zip(x.shape[-2:], geometry.offset, geometry.ratio, size, strict=True)
    )
    return apply_to_both(x, rows, columns)


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def _binomial_sampling(n: int, positions: Positions, dtype: torch.dtype, device: torch.device) -> Blocks:
    """Return the 17-tap binomial and the sampling of an axis of `n` pixels in one; the border is repeated."""
    taps = torch.tensor([math.comb(2 * BINOMIAL_REACH, k) for k in range(2 * BINOMIAL_REACH + 1)], dtype=torch.float64)
    weight, index = taps_at(n, positions, DECIMATION_TAPS, "mirror")
    wide = (index[..., None] + torch.arange(-BINOMIAL_REACH, BINOMIAL_REACH + 1)).clamp(0, n - 1)
    weights = weight[..., None] * (taps / 4**BINOMIAL_REACH)
    return banded_blocks(weights.flatten(1), wide.flatten(1), _BLOCK, dtype, device)


def pyramid_margin(ratio: float) -> int:
    """PAN pixels that `pyramid_low_pass` looks at around a window."""
    return BINOMIAL_REACH if ratio == BINOMIAL_RATIO else MTF_REACH
