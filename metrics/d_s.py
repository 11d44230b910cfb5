"""D_s, the spatial distortion of QNR and HQNR (Alparone et al., 2008; Aiazzi et al., 2014), at full resolution.

mean over bands of | Q(sr_b, pan) - Q(lms_b, pan_lp) |, Q on distinct 32x32 blocks and averaged over them first;
pan_lp = pan after a bicubic antialiased resize by 1/ratio, interpolated to its size again (the 23-tap interpolator for
ratios that are powers of two). No unit, range [0, 2], 0 is best.
Legend: B images, C bands, H W size.
"""

from __future__ import annotations

from torch import Tensor

from lemamba.metrics.block_q import band_quality
from lemamba.metrics.full_inputs import check_full, check_geometry, check_pan, published_geometry
from lemamba.metrics.index import register_index
from lemamba.metrics.inputs import BLOCK
from lemamba.operators import imresize, interpolate, resample
from lemamba.utils.geometry import Geometry


def low_pass_pan(pan: Tensor, ratio: int, geometry: Geometry | None = None) -> Tensor:
    """Reduce the pan image to the resolution of the ms and enlarge it again, (B, 1, H, W) -> (B, 1, H, W) float64.

    Args:
        pan: sides multiples of the ratio.
        ratio: a whole number.
        geometry: where MS pixels lie. None = the toolboxes' convention: the reduced pixels, whose centres are those of
            cells of PAN, are enlarged as if they lay at r//2, for even r half a PAN pixel further (published so).
    """
    pan = pan.double()
    H, W = pan.shape[-2:]
    if geometry is None:
        return interpolate(imresize(pan, 1 / ratio, "bicubic"), published_geometry(ratio), (H, W))
    # The centre of cell (0, 0) is brought under that of MS pixel (0, 0).
    rows, columns = ((offset - (ratio - 1) / 2, 1.0, n) for offset, n in zip(geometry.offset, (H, W), strict=True))
    return interpolate(imresize(resample(pan, rows, columns), 1 / ratio, "bicubic"), geometry, (H, W))


@register_index("d_s", heading="D_s", direction=-1, protocol="full", column=2)
def d_s_from(q_sr: Tensor, q_lms: Tensor) -> Tensor:
    """D_s from `band_quality` of (sr, pan) and of (lms, pan_lp), both (B, C+1, C+1) with the pan last."""
    return (q_sr[:, :-1, -1] - q_lms[:, :-1, -1]).abs().mean(dim=1)


def d_s(
    sr: Tensor,
    lms: Tensor,
    pan: Tensor,
    *,
    ratio: int,
    published: bool = False,
    mask: Tensor | None = None,
    geometry: Geometry | None = None,
    block: int = BLOCK,
) -> Tensor:
    """Spatial distortion.

    Args:
        sr: (B, C, H, W), sides multiples of `block` and of the ratio.
        lms: the same shape.
        pan: (B, 1, H, W).
        ratio: resolution ratio, a whole number.
        published: NaN where a block is flat in both images (here: Q = 1).
        mask: (B, 1, H, W), True where valid; only blocks without nodata count.
        geometry: where MS pixels lie under PAN pixels; None = the toolboxes' convention, see `low_pass_pan`.
        block: side of a block.

    Returns:
        (B,) float64. Differentiable.
    """
    sr, lms, mask = check_full(sr, lms, ratio=ratio, published=published, mask=mask, block=block)
    pan = check_pan(pan, sr, mask)
    check_geometry(geometry, ratio)
    q_sr = band_quality(sr, pan, published=published, mask=mask, block=block)
    q_lms = band_quality(lms, low_pass_pan(pan, ratio, geometry), published=published, mask=mask, block=block)
    return d_s_from(q_sr, q_lms)
