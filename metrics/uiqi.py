"""UIQI, the universal image quality index (Wang, Bovik, SPL 2002) in the 8x8 box of its authors, averaged over bands.

The same formula as `qave`, whose box is 32x32: the numbers differ, UIQI reacts more to noise. No unit, range [-1, 1], 1
is best. Legend: B images, C bands, H W size.
"""

from __future__ import annotations

from torch import Tensor

from lemamba.metrics.index import register_index
from lemamba.metrics.inputs import check_sides, on_pairs
from lemamba.metrics.qave import mean_q

SIDE = 8


@on_pairs
@register_index("uiqi", heading="UIQI", direction=+1, column=23, extra=True)
def uiqi(sr: Tensor, gt: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Mean of Q over positions of the 8x8 box and bands.

    Args:
        sr: (B, C, H, W), sides of at least 8.
        gt: the same shape.
        mask: (B, 1, H, W), True where valid; only boxes without nodata count.

    Returns:
        (B,) float64; flat boxes as in `qave`. Differentiable.
    """
    check_sides(sr, "uiqi", SIDE)
    return mean_q(sr, gt, mask, SIDE)
