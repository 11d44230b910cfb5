"""D_lambda_K, the spectral distortion of HQNR (Khan, Alparone, Chanussot, TGRS 2009), at full resolution.

1 - Q2n of the fused image, low-passed by the sensor's MTF, against lms, at full size; lms takes the place of gt.
No unit, range [0, 1], 0 is best. The uint16 rounding of Q2n applies, and so does its defect with data in [0, 1].
Legend: B images, C bands, H W size.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lemamba.metrics.full_inputs import check_full, gains_of
from lemamba.metrics.index import register_index
from lemamba.metrics.inputs import check_peak
from lemamba.metrics.q2n import q2n
from lemamba.operators import mtf_filter
from lemamba.utils.sensors import Sensor


def const_of(lms: Tensor, const: float | None) -> float | Tensor:
    """Return the peak value: `const` if given, else per image 1 where max(lms) <= 1 and a number above 1 elsewhere."""
    if const is not None:
        return const
    return torch.where(lms.amax(dim=(1, 2, 3)) <= 1, 1.0, 2.0)


@register_index("d_lambda_k", heading="D_lambda_K", direction=-1, protocol="full", column=1, matlab="d_lambda")
def d_lambda_k(
    sr: Tensor,
    lms: Tensor,
    *,
    ratio: int,
    sensor: str | Sensor,
    const: float | None = None,
    published: bool = False,
    mask: Tensor | None = None,
) -> Tensor:
    """Spectral distortion of HQNR.

    Args:
        sr: (B, C, H, W), sides multiples of 32.
        lms: the same shape.
        ratio: resolution ratio, a power of two.
        sensor: name (any case) or `Sensor`; "none" for any number of bands.
        const: peak value; None: decided per image by max(lms) <= 1.
        published: no scaling of data in [0, 1], and the IKONOS gains for QB and GF2.
        mask: (B, 1, H, W), True where valid; only blocks without nodata count (the filter still sees nodata as 0).

    Returns:
        (B,) float64. The rounding makes its gradient zero.
    """
    sr, lms, mask = check_full(sr, lms, ratio=ratio, published=published, mask=mask)
    gains = gains_of(sensor, sr.shape[1], published)
    if const is not None:
        check_peak(const, "lms", lms)
    peak = const_of(lms, const)
    scores = []
    for i in range(len(sr)):  # image by image: one image's transforms fit in the cache
        low = mtf_filter(sr[i : i + 1].detach(), gains, ratio)
        c = peak[i : i + 1] if isinstance(peak, Tensor) else peak
        m = None if mask is None else mask[i : i + 1]
        scores.append(q2n(low, lms[i : i + 1], mask=m, const=c, published=published))
    return 1 - torch.cat(scores)
