"""D_lambda_K, the spectral distortion of HQNR (Khan, Alparone, Chanussot, TGRS 2009), at full resolution.

1 - Q2n of the fused image, low-passed by the sensor's MTF, against lms, at full size; lms takes the place of gt.
No unit, range [0, 1], 0 is best. The uint16 rounding of Q2n applies, and so does its defect with data in [0, 1].
Legend: B images, C bands, H W size.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from lemamba.metrics.full_inputs import check_full, gains_of
from lemamba.metrics.index import register_index
from lemamba.metrics.inputs import BLOCK, check_peak
from lemamba.metrics.q2n import mean_score, scale_of
from lemamba.metrics.tiles import block_tiles
from lemamba.operators.mtf import mtf_window
from lemamba.utils.sensors import Sensor


def const_of(lms: Tensor, const: float | None) -> float | Tensor:
    """Return the peak value: `const` if given, else per image max(lms), (B,) float64."""
    return lms.amax(dim=(1, 2, 3)).double() if const is None else const


def d_lambda_k(
    sr: Tensor,
    lms: Tensor,
    *,
    ratio: int,
    sensor: str | Sensor,
    const: float | None = None,
    published: bool = False,
    mask: Tensor | None = None,
    block: int = BLOCK,
) -> Tensor:
    """Spectral distortion of HQNR.

    Args:
        sr: (B, C, H, W), sides multiples of `block` and of the ratio.
        lms: the same shape.
        ratio: resolution ratio, a whole number.
        sensor: name (any case) or `Sensor`; "none" for any number of bands.
        const: peak value; None: max(lms) of each image.
        published: no scaling before the rounding, and the IKONOS gains for QB and GF2.
        mask: (B, 1, H, W), True where valid; only blocks without nodata count (the filter still sees nodata as 0).
        block: side of a block.

    Returns:
        (B,) float64. The rounding makes its gradient zero.
    """
    sr, lms, mask = check_full(sr, lms, ratio=ratio, published=published, mask=mask, block=block)
    if const is not None:
        check_peak(const, "lms", lms)
    return d_lambda_k_from(sr, lms, ratio, sensor, const, published, mask, block)


@register_index("d_lambda_k", heading="D_lambda_K", direction=-1, protocol="full", column=1, matlab="d_lambda")
def d_lambda_k_from(
    sr: Tensor,
    lms: Tensor,
    ratio: int,
    sensor: str | Sensor,
    const: float | None,
    published: bool,
    mask: Tensor | None,
    block: int,
) -> Tensor:
    """`d_lambda_k` of checked images; `mask` says which blocks count, what the filter sees is sr as it is."""
    gains = gains_of(sensor, sr.shape[1], published)
    factors = torch.as_tensor(scale_of(const_of(lms, const), published)).expand(len(sr)).tolist()
    scores = []
    for i, factor in enumerate(factors):
        tiles = _tiles(sr[i].detach(), lms[i].detach(), None if mask is None else mask[i, 0], gains, ratio, block)
        scores.append(mean_score(tiles, factor, block))
    return 1 - torch.stack(scores)


def _tiles(
    sr: Tensor, lms: Tensor, mask: Tensor | None, gains: tuple[float, ...], ratio: int, block: int
) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
    """Tiles of lms, of the low-passed sr and of the mask: only one tile is low-passed at a time."""
    for rows, columns in block_tiles(sr, block):
        low = mtf_window(sr, gains, ratio, rows, columns)
        yield lms[:, rows, columns], low, None if mask is None else mask[rows, columns]
