"""Where a fused image differs from the ground truth: SAM pixel by pixel and Q2n block by block.

The means of both maps are the indices `sam` and `qn`. Legend: C bands, H W size.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lemamba.metrics.inputs import BLOCK, cut_blocks
from lemamba.metrics.q2n import block_moments, block_scores, mirrored_tile, scale_of
from lemamba.metrics.sam import sam_map
from lemamba.metrics.tiles import block_tiles


def angle_map(sr: Tensor, gt: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return the spectral angle of every pixel in degrees, (H, W) float64; NaN where it is not defined.

    Args:
        sr: (C, H, W).
        gt: the same shape.
        mask: (H, W), True where valid.
    """
    angle, defined = sam_map(sr, gt)
    return angle.where(defined if mask is None else defined & mask, math.nan)


def q2n_map(
    sr: Tensor, gt: Tensor, *, const: float, published: bool = False, mask: Tensor | None = None, block: int = BLOCK
) -> Tensor:
    """Return Q2n of every block, (ceil(H / block), ceil(W / block)) float64; NaN where pixels are missing.

    Args:
        sr: (C, H, W), sides of at least `block`, values in [0, const].
        gt: the same shape.
        const: peak value.
        published: keep the defect of the published scripts, see `lemamba.metrics.q2n`.
        mask: (H, W), True where valid.
        block: side of a block; blocks beyond the right and the bottom are filled with the mirrored image.
    """
    H, W = gt.shape[-2:]
    found = torch.empty(-(-H // block), -(-W // block), dtype=torch.float64)
    factor = float(torch.as_tensor(scale_of(const, published)))
    for tile in block_tiles(gt, block):
        down, across = (slice(s.start // block, s.stop // block) for s in tile)
        pair = mirrored_tile(gt.detach(), *tile), mirrored_tile(sr.detach(), *tile)
        products, squares = zip(*block_moments(*pair, factor, block), strict=True)
        scores = block_scores(torch.cat(products), torch.cat(squares), block)
        if mask is not None:
            valid = cut_blocks(mirrored_tile(mask, *tile)[None], block).flatten(2).all(dim=-1).flatten()
            scores = scores.where(valid, math.nan)
        found[down, across] = scores.view(down.stop - down.start, -1)
    return found
