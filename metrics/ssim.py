"""SSIM, structural similarity (Wang, Bovik, Sheikh, Simoncelli, TIP 2004), averaged over bands.

On x / const * 255 with L = 255, K = (0.01, 0.03), Gaussian window 11x11 with sigma 1.5, valid area, no down-sampling.
No unit, range [-1, 1], 1 is best. Legend: B images, C bands, H W size.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from lemamba.metrics.index import register_index
from lemamba.metrics.inputs import each_pair, on_pairs, windows_valid
from lemamba.metrics.tiles import mean_of_windows
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

    def mean(x: Tensor, y: Tensor, v: Tensor | None) -> Tensor:
        return mean_of_windows(_map_of(const), WINDOW, x, y, v)

    return each_pair(mean, sr, gt, valid)


def _map_of(const: float) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the map of planes (K, h, w): the same as on x / const * 255 with L = 255."""
    return lambda x, y: ssim_map(x[None], y[None], data_range=const)[0]
