"""D_s, the spatial distortion of QNR and HQNR (Alparone et al., 2008; Aiazzi et al., 2014), at full resolution.

mean over bands of | Q(sr_b, pan) - Q(lms_b, pan_lp) |, Q on distinct 32x32 blocks and averaged over them first;
pan_lp = interp23(bicubic antialiased resize of pan by 1/ratio). No unit, range [0, 2], 0 is best.
Legend: B images, C bands, H W size.
"""

from __future__ import annotations

from torch import Tensor

from lemamba.metrics.block_q import band_quality
from lemamba.metrics.full_inputs import check_full
from lemamba.metrics.index import register_index
from lemamba.metrics.inputs import as_mask
from lemamba.operators import imresize, interp23


def low_pass_pan(pan: Tensor, ratio: int) -> Tensor:
    """Bring the pan image to the resolution of the ms and back to its own grid, (B, 1, H, W) -> (B, 1, H, W)."""
    return interp23(imresize(pan, 1 / ratio, "bicubic"), ratio)


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
) -> Tensor:
    """Spatial distortion.

    Args:
        sr: (B, C, H, W), sides multiples of 32 and of the ratio.
        lms: the same shape.
        pan: (B, 1, H, W).
        ratio: resolution ratio, a power of two.
        published: NaN where a block is flat in both images (here: Q = 1).
        mask: (B, 1, H, W), True where valid; only blocks without nodata count.

    Returns:
        (B,) float64. Differentiable.
    """
    sr, lms, pan, mask = check_full(sr, lms, pan, ratio=ratio, published=published, mask=as_mask(mask, sr))
    q_sr = band_quality(sr, pan, published=published, mask=mask)
    q_lms = band_quality(lms, low_pass_pan(pan, ratio), published=published, mask=mask)
    return d_s_from(q_sr, q_lms)
