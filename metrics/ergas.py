"""ERGAS, erreur relative globale adimensionnelle de synthese (Wald, 2000).

100/ratio * sqrt(mean over bands of MSE_b / mean(gt_b)^2). No unit, range [0, inf), 0 is best.
Legend: B images, C bands, H W size.
"""

from __future__ import annotations

from torch import Tensor

from lemamba.metrics.index import register_index
from lemamba.metrics.inputs import on_moments, safe_sqrt
from lemamba.metrics.moments import band_mean, mean_squared_error


@on_moments
@register_index("ergas", heading="ERGAS", direction=-1, column=2)
def ergas(sr: Tensor, gt: Tensor, *, ratio: float, mask: Tensor | None = None) -> Tensor:
    """Relative global error.

    Args:
        sr: (B, C, H, W).
        gt: the same shape.
        ratio: resolution ratio r, e.g. 4.
        mask: (B, 1, H, W), True where valid.

    Returns:
        (B,) float64; Inf or NaN where a band of gt has mean 0. Differentiable.
    """
    relative = mean_squared_error(sr, gt, mask) / band_mean(gt, mask).square()
    return 100 / ratio * safe_sqrt(relative.mean(dim=1))
