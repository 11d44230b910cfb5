"""Q between bands on distinct 32x32 blocks: what D_s and D_lambda are made of.

Q = 4 Cxy mx my / ((Cxx + Cyy)(mx^2 + my^2)) with covariances over n-1, averaged over the blocks of a band pair.
A block flat (maximum equals minimum) in both bands divides 0 by 0 and makes the published indices NaN; here its Q is 1.
A pair of textured blocks whose means are both exactly 0 stays NaN.
Legend: B images, K bands, H W size, N blocks, M = 1024 pixels of a block.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from metrics.inputs import BLOCK, mean_valid

_M = BLOCK * BLOCK


def distinct_blocks(x: Tensor) -> Tensor:
    """Cut (B, K, H, W), sides multiples of 32, into (B, N, K, M)."""
    x = x.unflatten(-1, (-1, BLOCK)).unflatten(-3, (-1, BLOCK))
    return x.permute(0, 2, 4, 1, 3, 5).flatten(-2).flatten(1, 2)


def _pairs(blocks: Tensor, published: bool) -> Tensor:
    """Q of all band pairs of each block: (N, K, M) -> (N, K, K)."""
    mean = blocks.mean(dim=-1)
    centred = blocks - mean[..., None]
    covariance = centred @ centred.transpose(-1, -2) / (_M - 1)
    power = covariance.diagonal(dim1=-2, dim2=-1)
    product = mean[..., :, None] * mean[..., None, :]
    squares = mean.square()[..., :, None] + mean.square()[..., None, :]
    denominator = (power[..., :, None] + power[..., None, :]) * squares
    # The mean of equal numbers may be off by a rounding: near-flat blocks are looked at exactly.
    near_flat = power.detach() <= 1e-24 * mean.detach().square()
    if not bool(near_flat.any()):
        return 4 * covariance * product / denominator
    flat = near_flat & (blocks.amax(dim=-1) == blocks.amin(dim=-1))
    both = flat[..., :, None] & flat[..., None, :]
    value = 4 * covariance * product / torch.where(both, 1.0, denominator)
    return torch.where(both, math.nan if published else 1.0, value)


def band_quality(images: Tensor, *, published: bool = False, mask: Tensor | None = None) -> Tensor:
    """Mean Q of every pair of bands.

    Args:
        images: (B, K, H, W) float64, sides multiples of 32.
        published: NaN where a block is flat in both bands.
        mask: boolean (B, 1, H, W); only blocks without nodata count.

    Returns:
        (B, K, K), symmetric. Differentiable.
    """
    valid = None if mask is None else distinct_blocks(mask).all(dim=-1)  # (B, N, 1)
    scores = []
    for i in range(len(images)):
        pairs = _pairs(distinct_blocks(images[i : i + 1])[0], published)
        scores.append(mean_valid(pairs, None if valid is None else valid[i][..., None], 0))
    return torch.stack(scores)
