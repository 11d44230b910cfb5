"""D_lambda of QNR with MS at its own size, as its paper defines it (Alparone et al., PE&RS 2008).

mean over band pairs of | Q(ms_i, ms_j) - Q(sr_i, sr_j) |, Q on distinct blocks of 32 pixels of sr and 32/r of ms, which
cover the same ground. The toolboxes, and `d_lambda`, take MS enlarged to PAN's size instead.
No unit, range [0, 2], 0 is best. Legend: B images, C bands, r ratio.
"""

from __future__ import annotations

from torch import Tensor

from lemamba.metrics.block_q import band_quality
from lemamba.metrics.d_lambda import d_lambda_from
from lemamba.metrics.index import register_index
from lemamba.utils.errors import UserError


@register_index("d_lambda_ms", heading="D_lambda (MS)", direction=-1, protocol="full", column=26, extra=True)
def d_lambda_ms(
    q_sr: Tensor, ms: Tensor, ratio: int, bands: int, block: int, published: bool, mask_ms: Tensor | None
) -> Tensor:
    """D_lambda from `band_quality` of sr and from ms, (B, C, h, w); one band has no pairs: NaN."""
    side = block // ratio
    if block % ratio or side < 2:
        raise UserError(
            f"d_lambda_ms needs blocks that are a multiple of the ratio, at least twice it, given {block} and ratio "
            f"{ratio}; choose another block"
        )
    return d_lambda_from(q_sr, band_quality(ms, published=published, mask=mask_ms, block=side), bands)
