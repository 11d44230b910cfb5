"""RASE, the relative average spectral error in per cent (Ranchin, Wald, PE&RS 2000), over the whole image.

100/M * sqrt(mean over bands of MSE_b), M the mean of gt over all pixels and bands. Range [0, inf), 0 is best.
torchmetrics and sewar average it over sliding 8x8 windows instead, which gives other numbers.
Legend: B images, C bands, H W size.
"""

from __future__ import annotations

from torch import Tensor

from lemamba.metrics.index import register_index
from lemamba.metrics.inputs import on_moments, safe_sqrt
from lemamba.metrics.moments import band_mean, mean_squared_error


@on_moments
@register_index("rase", heading="RASE", direction=-1, unit="%", column=26, extra=True)
def rase(sr: Tensor, gt: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Relative average spectral error.

    Args:
        sr: (B, C, H, W).
        gt: the same shape.
        mask: (B, 1, H, W), True where valid.

    Returns:
        (B,) float64 in per cent; Inf or NaN where gt has mean 0. Differentiable.
    """
    return 100 * safe_sqrt(mean_squared_error(sr, gt, mask).mean(dim=1)) / band_mean(gt, mask).mean(dim=1)
