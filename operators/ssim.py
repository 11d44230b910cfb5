"""The map of the structural similarity index (Wang, Bovik, Sheikh, Simoncelli, TIP 2004), for the metric and the loss.

Gaussian window 11x11, sigma 1.5, K = (0.01, 0.03), valid area only, no down-sampling.
Legend: B images, C bands, H W size.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from lemamba.operators.banded import Blocks, apply_to_columns, apply_to_rows, banded_blocks

WINDOW = 11
SIGMA = 1.5
K1, K2 = 0.01, 0.03
_BLOCK = 24  # outputs per block: the fastest of 16 … 256 for 256 x 256 in float64


@lru_cache(maxsize=32)
@torch.inference_mode(False)  # a cached inference tensor could not be used in training later
def _blocks(n: int, dtype: torch.dtype, device: torch.device) -> Blocks:
    k = torch.arange(WINDOW)
    taps = torch.exp(-((k.double() - WINDOW // 2) ** 2) / (2 * SIGMA**2))
    outputs = n - WINDOW + 1
    index = torch.arange(outputs)[:, None] + k
    return banded_blocks((taps / taps.sum()).expand(outputs, -1), index, _BLOCK, dtype, device)


def gaussian_means(*images: Tensor) -> tuple[Tensor, ...]:
    """Means under the 11x11 Gaussian window, valid area: k images (B, C, H, W) -> k images (B, C, H - 10, W - 10)."""
    H, W = images[0].shape[-2:]
    device, dtype = images[0].device, images[0].dtype
    # Side by side in one row: few, large matrix products.
    rows = apply_to_rows(torch.cat(images, dim=-1), _blocks(H, dtype, device)).unflatten(-1, (len(images), W))
    return apply_to_columns(rows, _blocks(W, dtype, device)).unbind(-2)


def ssim_map(x: Tensor, y: Tensor, data_range: float = 1.0) -> Tensor:
    """Structural similarity of two images at every pixel where the window fits.

    Args:
        x: (B, C, H, W), floating point, H and W at least 11. Half types are computed in float32.
        y: the same shape and type.
        data_range: the L of the constants, e.g. 1 for data in [0, 1], 255 for 8 bits.

    Returns:
        (B, C, H - 10, W - 10), values in [-1, 1], 1 where both windows are equal.

    Raises:
        ValueError: shapes differ or a side is shorter than 11.
    """
    if x.shape != y.shape:
        raise ValueError(f"ssim_map: shapes differ, {tuple(x.shape)} and {tuple(y.shape)}")
    if min(x.shape[-2:]) < WINDOW:
        raise ValueError(f"ssim_map: sides must be at least {WINDOW}, given {tuple(x.shape[-2:])}")
    if x.dtype not in (torch.float32, torch.float64):
        x, y = x.float(), y.float()
    c1, c2 = (K1 * data_range) ** 2, (K2 * data_range) ** 2
    mx, my, power, cross = gaussian_means(x, y, torch.addcmul(x * x, y, y), x * y)
    product, squares = mx * my, torch.addcmul(mx * mx, my, my)
    likeness = (product + c1 / 2) * (cross - product + c2 / 2)
    return 4 * likeness / ((squares + c1) * (power - squares + c2))
