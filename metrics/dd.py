"""DD, the degree of distortion: mean absolute deviation over all pixels and bands.

sum |sr - gt| / number of samples, as in Li, Dian, Fang, Bioucas-Dias, TIP 2018, and the code of its authors. Unit of
the data, range [0, inf), 0 is best. (The documentation of HyperEvalSR squares the sum: another quantity.)
Legend: B images, C bands, H W size.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from lemamba.metrics.index import register_index
from lemamba.metrics.inputs import on_moments
from lemamba.metrics.moments import band_means


@on_moments
@register_index("dd", heading="DD", direction=-1, column=25, extra=True)
def dd(sr: Tensor, gt: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Mean absolute deviation.

    Args:
        sr: (B, C, H, W).
        gt: the same shape.
        mask: (B, 1, H, W), True where valid.

    Returns:
        (B,) float64 in the unit of the data.
    """
    return band_means(_deviation, sr, gt, mask).mean(dim=1)


def _deviation(x: Tensor, y: Tensor) -> Tensor:
    """Sum over pixels of |x - y|: (K, P) twice -> (K,)."""
    return F.l1_loss(x, y, reduction="none").sum(dim=1)
