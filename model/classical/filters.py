"""The low-pass filters of the classical methods, on top of `operators`.

Images (B, C, H, W), float64. `ideal_low_pass` is the toolbox's "LPfilterGauss", `binomial_low_pass` its "LPfilter".
Source: the pansharpening toolbox of Vivone et al. (IEEE GRSM 2015 and 2021).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lemamba.operators import decimate, imresize, interp23, mtf_filter

_IDEAL_GAIN = 0.3
_IDEAL_SPAN = 41  # the kernel's length, where MTF kernels use the length minus one
_BINOMIAL = tuple(t / 16 for t in (1, 4, 6, 4, 1))


def ideal_low_pass(x: Tensor, ratio: int) -> Tensor:
    """Gaussian low-pass with gain 0.3 at the cut frequency 1/ratio; the border is replicated."""
    return mtf_filter(x, _IDEAL_GAIN, ratio, span=_IDEAL_SPAN)


def glp_low_pass(x: Tensor, gains: Sequence[float], ratio: int) -> Tensor:
    """Generalised Laplacian pyramid: MTF filter, decimate, interpolate. One gain per band of the result.

    Args:
        x: (B, C, H, W), or (B, 1, H, W) to filter one band with every gain.
        gains: C Nyquist gains.
        ratio: resolution ratio.

    Returns:
        (B, C, H, W).
    """
    filtered = mtf_filter(x.expand(-1, len(gains), -1, -1), gains, ratio)
    return interp23(decimate(filtered, ratio), ratio)


def resize_low_pass(x: Tensor, ratio: int) -> Tensor:
    """Shrink and enlarge by bicubic ``imresize``."""
    return imresize(imresize(x, 1 / ratio, "bicubic"), ratio, "bicubic")


def _mirror(x: Tensor, dim: int, margin: int) -> Tensor:
    """Extend axis `dim` by `margin` on both sides, mirrored with the edge sample repeated."""
    n = x.shape[dim]
    index = torch.arange(-margin, n + margin, device=x.device) % (2 * n)
    return x.index_select(dim, torch.where(index < n, index, 2 * n - 1 - index))


def _binomial_valid(x: Tensor, dim: int) -> Tensor:
    n = x.shape[dim] - len(_BINOMIAL) + 1
    total = torch.zeros((), dtype=x.dtype, device=x.device)
    for i, tap in enumerate(_BINOMIAL):
        total = total + tap * x.narrow(dim, i, n)
    return total


def binomial_low_pass(x: Tensor) -> Tensor:
    """Four passes of [1 4 6 4 1]/16 per axis: a 17-tap binomial, made for ratio 4 (gain 0.282 at 1/8).

    The border is treated as in the toolbox: the first two passes mirror 4 samples, all four keep the valid part only.
    The result differs from one mirrored 17-tap filter within 8 samples of the border.
    """
    for dim in (-2, -1):
        for extends in (True, True, False, False):
            x = _binomial_valid(_mirror(x, dim, 4) if extends else x, dim)
    return x
