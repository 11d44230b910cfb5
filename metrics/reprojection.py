"""Consistency at MS size: the fused image, reduced to MS, against MS itself (Scarpa, Ciotola, Remote Sensing 2022).

The fused bands are low-passed by the sensor's MTF (normalised to sum 1, as the authors do; D_lambda_K's filter is not)
and sampled where MS pixels lie; then R-SAM, R-ERGAS and R-Q2n are the indices of those names, MS as reference.
The authors' tool samples each band where it fits PAN best; here the geometry decides unless that is asked for, see
`coregistration`.
Legend: B images, C bands, h w size of MS, H W size of PAN, r ratio.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lemamba.metrics.d_lambda_k import const_of
from lemamba.metrics.ergas import ergas
from lemamba.metrics.full_inputs import published_geometry
from lemamba.metrics.index import register_index
from lemamba.metrics.q2n import q2n
from lemamba.metrics.sam import sam
from lemamba.operators import mtf_filter, mtf_kernel, sample
from lemamba.utils.geometry import Geometry


def reproject(
    sr: Tensor,
    gains: tuple[float, ...],
    ratio: int,
    size: tuple[int, int],
    geometry: Geometry | None = None,
    at: Tensor | None = None,
) -> Tensor:
    """Reduce a fused image to the size of MS.

    Args:
        sr: (B, C, H, W).
        gains: MTF gain at MS's Nyquist frequency, one per band.
        ratio: r, a whole number.
        size: (h, w) of MS.
        geometry: where MS pixels lie; None = the toolboxes' convention, PAN pixel r//2 of each cell.
        at: instead of it, PAN pixel of each band in its cell, (C, 2), one for all images.

    Returns:
        (B, C, h, w) float64.
    """
    geometry = geometry or published_geometry(ratio)
    bands = []
    for b, (gain, band) in enumerate(zip(gains, sr.split(1, dim=1), strict=True)):
        low = mtf_filter(band.double(), gain, ratio) / float(mtf_kernel(gain, ratio).sum())
        if at is not None:
            rows, columns = at[b].tolist()
            geometry = Geometry((ratio, ratio), (rows, columns))
        bands.append(sample(low, geometry, size).clone())  # a view would keep the filtered band
    return torch.cat(bands, dim=1)


@register_index("r_q2n", heading="R-Q2n", direction=+1, protocol="full", column=23, extra=True)
def r_q2n(sr_ms: Tensor, gt_ms: Tensor, const: float | None, valid_ms: Tensor | None, block: int) -> Tensor:
    """Q2n at MS size, whose sides must reach `block`."""
    return q2n(sr_ms, gt_ms, const=const_of(gt_ms, const), mask=valid_ms, block=block)


@register_index("r_sam", heading="R-SAM", direction=-1, protocol="full", unit="degrees", column=24, extra=True)
def r_sam(sr_ms: Tensor, gt_ms: Tensor, valid_ms: Tensor | None) -> Tensor:
    """SAM at MS size."""
    return sam(sr_ms, gt_ms, mask=valid_ms)


@register_index("r_ergas", heading="R-ERGAS", direction=-1, protocol="full", column=25, extra=True)
def r_ergas(sr_ms: Tensor, gt_ms: Tensor, ratio: int, valid_ms: Tensor | None) -> Tensor:
    """ERGAS at MS size, with the factor 100/r."""
    return ergas(sr_ms, gt_ms, ratio=ratio, mask=valid_ms)
