"""D_lambda, the spectral distortion of QNR (Alparone et al., PE&RS 2008), at full resolution.

mean over band pairs of | Q(lms_i, lms_j) - Q(sr_i, sr_j) |, Q on distinct 32x32 blocks and averaged over them first.
No unit, range [0, 2], 0 is best. (HQNR uses D_lambda_K of d_lambda_k.py instead.)
Legend: B images, C bands, H W size.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lemamba.metrics.block_q import band_quality
from lemamba.metrics.full_inputs import check_full
from lemamba.metrics.index import register_index
from lemamba.metrics.inputs import BLOCK


@register_index("d_lambda", heading="D_lambda", direction=-1, protocol="full", column=4, matlab="d_lambda_qnr")
def d_lambda_from(q_sr: Tensor, q_lms: Tensor, bands: int) -> Tensor:
    """D_lambda from the first `bands` rows and columns of `band_quality` of sr and lms; one band has no pairs: NaN."""
    i, j = torch.triu_indices(bands, bands, offset=1)
    return (q_lms[:, i, j] - q_sr[:, i, j]).abs().mean(dim=1)


def d_lambda(
    sr: Tensor, lms: Tensor, *, published: bool = False, mask: Tensor | None = None, block: int = BLOCK
) -> Tensor:
    """Spectral distortion of QNR.

    Args:
        sr: (B, C, H, W), sides multiples of `block`.
        lms: the same shape.
        published: NaN where a block is flat in two bands (here: Q = 1).
        mask: (B, 1, H, W), True where valid; only blocks without nodata count.
        block: side of a block.

    Returns:
        (B,) float64; NaN for a single band. Differentiable.
    """
    sr, lms, mask = check_full(sr, lms, ratio=1, published=published, mask=mask, block=block)
    q_sr, q_lms = (band_quality(x, published=published, mask=mask, block=block) for x in (sr, lms))
    return d_lambda_from(q_sr, q_lms, bands=sr.shape[1])
