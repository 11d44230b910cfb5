"""D_sR, the spatial distortion by regression, and RQNR (Alparone, Garzelli, Vivone, IGARSS 2018; Arienzo et al. 2022).

PAN is fitted by a linear combination of the fused bands, without a constant, over the whole image:
D_sR = var(pan - fit) / var(pan) = 1 - the coefficient of determination. RQNR = (1 - D_lambda_K)(1 - D_sR).
No unit; D_sR is 0 at best and about 1 where the bands say nothing about PAN.
The least squares problem is reduced tile by tile to one triangle (QR), which loses no digits as sums of products would.
Legend: B images, C bands, H W size.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lemamba.metrics.full_inputs import check_full, check_pan
from lemamba.metrics.index import register_index
from lemamba.metrics.inputs import each_pair
from lemamba.metrics.tiles import row_tiles


@register_index("d_sr", heading="D_sR", direction=-1, protocol="full", column=21, extra=True)
def d_sr_from(sr: Tensor, pan: Tensor, mask: Tensor | None) -> Tensor:
    """`d_sr` of checked images."""
    return each_pair(_unexplained, sr, pan, mask)


@register_index("rqnr", heading="RQNR", direction=+1, protocol="full", column=22, extra=True)
def rqnr(d_lambda_k: Tensor, d_sr: Tensor) -> Tensor:
    """RQNR from D_lambda_K and D_sR, each (B,)."""
    return (1 - d_lambda_k) * (1 - d_sr)


def d_sr(sr: Tensor, pan: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Spatial distortion by regression.

    Args:
        sr: (B, C, H, W).
        pan: (B, 1, H, W).
        mask: (B, 1, H, W), True where valid.

    Returns:
        (B,) float64; NaN where pan is constant.
    """
    sr, _, mask = check_full(sr, sr, ratio=1, published=False, mask=mask, block=None)
    return d_sr_from(sr, check_pan(pan, sr, mask), mask)


def _unexplained(sr: Tensor, pan: Tensor, mask: Tensor | None) -> Tensor:
    """D_sR of one image (C, H, W), pan (1, H, W), mask (H, W)."""
    sr, pan = sr.detach(), pan.detach()
    C = len(sr)
    triangle = sr.new_zeros(0, C + 2, dtype=torch.float64)  # columns: bands, ones, pan
    count = 0
    for rows in row_tiles(sr):
        parts = (sr[:, rows], torch.ones_like(pan[:, rows]), pan[:, rows])
        samples = torch.cat([part.double() for part in parts]).flatten(1)
        if mask is not None:
            samples = samples[:, mask[rows].flatten()]
        triangle = torch.linalg.qr(torch.cat((triangle, samples.T)), mode="r").R
        count += samples.shape[1]
    if not count:
        return triangle.new_full((), torch.nan)
    bands, ones, target = triangle[:, :C], triangle[:, C], triangle[:, C + 1]
    weights = torch.linalg.lstsq(bands, target[:, None], driver=_driver(bands)).solution[:, 0]
    return _variance(target - bands @ weights, ones, count) / _variance(target, ones, count)


def _driver(x: Tensor) -> str:
    return "gelsd" if x.device.type == "cpu" else "gels"  # gelsd also serves bands that depend on each other


def _variance(values: Tensor, ones: Tensor, count: int) -> Tensor:
    """Variance of what a column of the triangle stands for: scalar products are kept by QR."""
    return values @ values - (values @ ones) ** 2 / count
