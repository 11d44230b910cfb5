"""RMSE, the root of the mean squared error over all pixels and bands.

Unit of the data, range [0, inf), 0 is best. Images of another peak value give another RMSE: name it with the number.
Legend: B images, C bands, H W size.
"""

from __future__ import annotations

from torch import Tensor

from lemamba.metrics.index import register_index
from lemamba.metrics.inputs import on_moments, safe_sqrt
from lemamba.metrics.moments import mean_squared_error


@on_moments
@register_index("rmse", heading="RMSE", direction=-1, column=20, extra=True)
def rmse(sr: Tensor, gt: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Root mean squared error of the whole cube.

    Args:
        sr: (B, C, H, W).
        gt: the same shape.
        mask: (B, 1, H, W), True where valid.

    Returns:
        (B,) float64 in the unit of the data. Differentiable.
    """
    return safe_sqrt(mean_squared_error(sr, gt, mask).mean(dim=1))
