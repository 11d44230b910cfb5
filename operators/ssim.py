"""The map of the structural similarity index (Wang, Bovik, Sheikh, Simoncelli, TIP 2004), for the metric and the loss.

Gaussian window 11x11, sigma 1.5, K = (0.01, 0.03), valid area only, no down-sampling.
Legend: B images, C bands, H W size.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

WINDOW = 11
SIGMA = 1.5
K1, K2 = 0.01, 0.03
_STEP = 22  # outputs per block of the Toeplitz product: 32 inputs make 22 outputs


@lru_cache(maxsize=16)
def _toeplitz(dtype: torch.dtype, device: torch.device) -> Tensor:
    """Matrix (32, 22) that turns 32 neighbouring samples into 22 valid window means."""
    k = torch.arange(WINDOW, dtype=torch.float64) - WINDOW // 2
    taps = torch.exp(-(k**2) / (2 * SIGMA**2))
    taps = taps / taps.sum()
    matrix = torch.zeros(_STEP + WINDOW - 1, _STEP, dtype=torch.float64)
    for j in range(_STEP):
        matrix[j : j + WINDOW, j] = taps
    return matrix.to(dtype=dtype, device=device)


def _smooth_last(x: Tensor) -> Tensor:
    """Gaussian means along the last axis, valid area: (..., n) -> (..., n - 10)."""
    valid = x.shape[-1] - WINDOW + 1
    blocks = -(-valid // _STEP)
    missing = blocks * _STEP + WINDOW - 1 - x.shape[-1]
    if missing:
        x = torch.nn.functional.pad(x, (0, missing))
    windows = x.unfold(-1, _STEP + WINDOW - 1, _STEP)
    return (windows @ _toeplitz(x.dtype, x.device)).flatten(-2)[..., :valid]


def gaussian_means(x: Tensor) -> Tensor:
    """Means under the 11x11 Gaussian window, valid area: (..., H, W) -> (..., H - 10, W - 10)."""
    return _smooth_last(_smooth_last(x).transpose(-1, -2)).transpose(-1, -2)


def ssim_map(x: Tensor, y: Tensor, data_range: float = 1.0) -> Tensor:
    """Structural similarity of two images at every pixel where the window fits.

    Args:
        x: (B, C, H, W), floating point, H and W at least 11.
        y: the same shape.
        data_range: the L of the constants, e.g. 1 for data in [0, 1], 255 for 8 bits.

    Returns:
        (B, C, H - 10, W - 10), values in [-1, 1], 1 where both windows are equal.

    Raises:
        ValueError: shapes differ or a side is shorter than 11.
    """
    if x.shape != y.shape:
        raise ValueError(f"ssim_map: shapes differ, {tuple(x.shape)} and {tuple(y.shape)}")
    if min(x.shape[-2:]) < WINDOW:
        raise ValueError(f"ssim_map: sides must be at least {WINDOW}, got {tuple(x.shape[-2:])}")
    c1, c2 = (K1 * data_range) ** 2, (K2 * data_range) ** 2
    mx, my, power, cross = gaussian_means(torch.stack((x, y, x * x + y * y, x * y))).unbind()
    product, squares = mx * my, mx * mx + my * my
    return (2 * product + c1) * (2 * (cross - product) + c2) / ((squares + c1) * (power - squares + c2))
