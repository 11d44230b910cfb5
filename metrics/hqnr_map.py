"""Where a fused image is good: HQNR, D_lambda_K and D_s block by block, at full resolution.

D_lambda_K of a block is 1 - Q2n of it; the mean over blocks is the index. D_s of a block is the mean over bands of
| Q(sr_b, pan) - Q(lms_b, pan_lp) | in it; the index takes the difference of the means over blocks instead, so it is at
most the mean of the map. HQNR of a block is (1 - D_lambda_K)(1 - D_s).
Legend: C bands, H W size.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lemamba.metrics.block_q import block_moments as band_moments
from lemamba.metrics.block_q import block_pairs
from lemamba.metrics.d_lambda_k import const_of
from lemamba.metrics.d_s import low_pass_pan
from lemamba.metrics.full_inputs import check_full, check_geometry, check_pan, check_units, gains_of
from lemamba.metrics.inputs import BLOCK, cut_blocks
from lemamba.metrics.q2n import block_moments, block_scores, scale_of
from lemamba.metrics.tiles import block_tiles
from lemamba.operators.mtf import mtf_window
from lemamba.utils.geometry import Geometry
from lemamba.utils.sensors import Sensor


def hqnr_blocks(
    sr: Tensor,
    lms: Tensor,
    pan: Tensor,
    *,
    ratio: int,
    sensor: str | Sensor,
    const: float | None = None,
    published: bool = False,
    mask: Tensor | None = None,
    geometry: Geometry | None = None,
    block: int = BLOCK,
) -> Tensor:
    """Return HQNR, D_lambda_K and D_s of every block, (3, H / block, W / block) float64; NaN where pixels are missing.

    Args:
        sr, lms: (1, C, H, W); the others as in `full_resolution`.
        pan: (1, 1, H, W).
        ratio: a whole number.
        sensor: its MTF gains are used.
        const: peak; None = found from lms.
        published: reproduce the defects of the published script.
        mask: (1, 1, H, W), True where valid.
        geometry: where MS pixels lie; None = the toolboxes' convention.
        block: side of a block.
    """
    gains = gains_of(sensor, sr.shape[1], published)
    sr, lms, mask = check_full(sr, lms, ratio=ratio, published=published, mask=mask, block=block)
    pan = check_pan(pan, sr, mask)
    check_units(lms, pan)
    check_geometry(geometry, ratio)
    low = low_pass_pan(pan, ratio, geometry)
    factor = float(torch.as_tensor(scale_of(const_of(lms, const), published)).flatten()[0])
    found = torch.empty(3, sr.shape[-2] // block, sr.shape[-1] // block, dtype=torch.float64)
    for rows, columns in block_tiles(sr[0], block):
        down, across = (slice(s.start // block, s.stop // block) for s in (rows, columns))
        fused, coarse = sr[0][:, rows, columns].double(), lms[0][:, rows, columns].double()
        smooth = mtf_window(sr[0], gains, ratio, rows, columns)
        moments = zip(*block_moments(coarse, smooth, factor, block), strict=True)
        products, squares = (torch.cat(parts) for parts in moments)
        spectral = 1 - block_scores(products, squares, block)
        spatial = _quality(fused, pan[0][:, rows, columns], published, block)
        spatial = (spatial - _quality(coarse, low[0][:, rows, columns], published, block)).abs().mean(-1)
        both = torch.stack(((1 - spectral) * (1 - spatial), spectral, spatial))
        if mask is not None:
            valid = cut_blocks(mask[0][:, rows, columns], block).flatten(2).all(dim=-1).flatten()
            both[:, ~valid] = math.nan
        found[:, down, across] = both.view(3, down.stop - down.start, -1)
    return found


def _quality(image: Tensor, pan: Tensor, published: bool, block: int) -> Tensor:
    """Q of every band and pan in each block, (N, C)."""
    return block_pairs(*band_moments((image, pan), block), published)[:, :-1, -1]
