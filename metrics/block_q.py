"""Q between bands on distinct 32x32 blocks, the building block of D_s and D_lambda.

Q = 4 Cxy mx my / ((Cxx + Cyy)(mx^2 + my^2)) with covariances over n-1, averaged over the blocks of a band pair.
A block flat (maximum equals minimum) in both bands divides 0 by 0 and makes the published indices NaN; here its Q is 1.
A pair of textured blocks whose means are both exactly 0 stays NaN.
Legend: B images, K bands, H W size, N blocks, M = 1024 pixels of a block.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lemamba.metrics.inputs import BLOCK, cut_blocks, mean_valid, strips

_M = BLOCK * BLOCK


def _moments(image: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """Mean (N, K), covariance (N, K, K) and flatness (N, K) of the blocks of one image, its bands in several parts."""
    parts = []
    for rows in strips(image[0].shape[-2], image[0].device):
        blocks = cut_blocks(torch.cat([i[:, rows] for i in image])).flatten(-2).flatten(0, 1)
        mean = blocks.mean(dim=-1)
        centred = blocks - mean[..., None]
        covariance = centred @ centred.transpose(-1, -2) / (_M - 1)
        # The mean of equal numbers may be off by a rounding: near-flat blocks are checked exactly.
        power = covariance.detach().diagonal(dim1=-2, dim2=-1)
        flat = power <= 1e-24 * mean.detach().square()
        if bool(flat.any()):
            flat = flat & (blocks.amax(dim=-1) == blocks.amin(dim=-1))
        parts.append((mean, covariance, flat))
    means, covariances, flats = zip(*parts, strict=True)
    return torch.cat(means), torch.cat(covariances), torch.cat(flats)


def _pairs(mean: Tensor, covariance: Tensor, flat: Tensor, published: bool) -> Tensor:
    """Q of all band pairs of each block, (N, K, K)."""
    power = covariance.diagonal(dim1=-2, dim2=-1)
    product = mean[:, :, None] * mean[:, None, :]
    squares = mean.square()[:, :, None] + mean.square()[:, None, :]
    both = flat[:, :, None] & flat[:, None, :]
    denominator = torch.where(both, 1.0, (power[:, :, None] + power[:, None, :]) * squares)
    return torch.where(both, math.nan if published else 1.0, 4 * covariance * product / denominator)


def band_quality(*images: Tensor, published: bool = False, mask: Tensor | None = None) -> Tensor:
    """Mean Q of every pair of bands.

    Args:
        images: one or more (B, K_i, H, W) float64, sides multiples of 32; their bands are concatenated.
        published: NaN where a block is flat in both bands.
        mask: boolean (B, 1, H, W); only blocks without nodata count.

    Returns:
        (B, K, K), K the sum of the K_i, symmetric. Differentiable.
    """
    scores = []
    for i, image in enumerate(zip(*images, strict=True)):
        pairs = _pairs(*_moments(image), published)
        valid = None if mask is None else cut_blocks(mask[i]).flatten(2).all(dim=-1).flatten()
        scores.append(mean_valid(pairs, None if valid is None else valid[:, None, None], 0))
    return torch.stack(scores)
