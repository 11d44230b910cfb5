"""SSIM, structural similarity (Wang, Bovik, Sheikh, Simoncelli, TIP 2004), averaged over bands.

On x / const * 255 with L = 255, K = (0.01, 0.03), Gaussian window 11x11 with sigma 1.5, valid area, no down-sampling.
No unit, range [-1, 1], 1 is best. Legend: B images, C bands, H W size.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lemamba.metrics.index import register_index
from lemamba.metrics.inputs import mean_valid, on_pairs, plane_chunks, windows_valid
from lemamba.operators.ssim import WINDOW, ssim_map
from lemamba.utils.errors import UserError


@on_pairs
@register_index("ssim", heading="SSIM", direction=+1, column=7)
def ssim(sr: Tensor, gt: Tensor, *, const: float, mask: Tensor | None = None) -> Tensor:
    """Mean structural similarity.

    Args:
        sr: (B, C, H, W), values in [0, const], sides of at least 11.
        gt: the same shape.
        const: peak value.
        mask: (B, 1, H, W), True where valid; only windows without nodata count.

    Returns:
        (B,) float64. Differentiable.
    """
    H, W = sr.shape[-2:]
    if min(H, W) < WINDOW:
        raise UserError(f"ssim needs sides of at least {WINDOW} pixels, given {H} x {W}; use a larger image")
    valid = None if mask is None else windows_valid(mask, WINDOW)
    scores = []
    for i, (x, y) in enumerate(zip(sr, gt, strict=True)):
        v = None if valid is None else valid[i]
        bands = [_band_means(x[c], y[c], const, v) for c in plane_chunks(*x.shape, x.device)]
        scores.append(torch.cat(bands).mean())
    return torch.stack(scores)


def _band_means(x: Tensor, y: Tensor, const: float, valid: Tensor | None) -> Tensor:
    """Mean of the map per band, (K, H, W) twice -> (K,)."""
    values = ssim_map(x[None], y[None], data_range=const)[0]  # the same as on x / const * 255 with L = 255
    return mean_valid(values, valid, (1, 2))
