"""Q between bands on distinct 32x32 blocks, the building block of D_s and D_lambda.

Q = 4 Cxy mx my / ((Cxx + Cyy)(mx^2 + my^2)) with covariances over n-1, averaged over the blocks of a band pair.
A block flat (maximum equals minimum) in both bands divides 0 by 0 and makes the published indices NaN; here its Q is 1.
A pair of textured blocks whose means are both exactly 0 stays NaN.
Legend: B images, K bands, H W size, N blocks, M pixels of a block (1024), h w size of a tile.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lemamba.metrics.inputs import BLOCK, cut_blocks
from lemamba.metrics.tiles import add_valid, block_tiles

_GROUP = 2**17  # samples of the blocks that are worked on at once


def block_moments(image: tuple[Tensor, ...], block: int) -> tuple[Tensor, Tensor, Tensor]:
    """Mean (N, K), covariance (N, K, K) and flatness (N, K) of the blocks of one tile, its bands in several parts."""
    K = sum(map(len, image))
    h, w = image[0].shape[-2:]
    on_cpu = image[0].device.type == "cpu"
    across = max(1, _GROUP // (K * block * block)) * block if on_cpu else w
    down = block if on_cpu else h
    parts = []
    for top in range(0, h, down):
        for left in range(0, w, across):
            part = (slice(None), slice(top, top + down), slice(left, left + across))
            blocks = cut_blocks(torch.cat([i[part].double() for i in image]), block).flatten(-2).flatten(0, 1)
            parts.append(_moments_of(blocks))
    means, covariances, flats = zip(*parts, strict=True)
    return torch.cat(means), torch.cat(covariances), torch.cat(flats)


def _moments_of(blocks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, covariance and flatness of blocks (N, K, M)."""
    mean = blocks.mean(dim=-1)
    centred = blocks - mean[..., None]
    covariance = centred @ centred.transpose(-1, -2) / (blocks.shape[-1] - 1)
    # The mean of equal numbers may be off by a rounding: near-flat blocks are checked exactly.
    power = covariance.detach().diagonal(dim1=-2, dim2=-1)
    flat = power <= 1e-24 * mean.detach().square()
    if bool(flat.any()):
        flat = flat & (blocks.amax(dim=-1) == blocks.amin(dim=-1))
    return mean, covariance, flat


def block_pairs(mean: Tensor, covariance: Tensor, flat: Tensor, published: bool) -> Tensor:
    """Q of all band pairs of each block, (N, K, K)."""
    power = covariance.diagonal(dim1=-2, dim2=-1)
    product = mean[:, :, None] * mean[:, None, :]
    squares = mean.square()[:, :, None] + mean.square()[:, None, :]
    both = flat[:, :, None] & flat[:, None, :]
    denominator = torch.where(both, 1.0, (power[:, :, None] + power[:, None, :]) * squares)
    return torch.where(both, math.nan if published else 1.0, 4 * covariance * product / denominator)


def band_quality(*images: Tensor, published: bool = False, mask: Tensor | None = None, block: int = BLOCK) -> Tensor:
    """Mean Q of every pair of bands.

    Args:
        images: one or more (B, K_i, H, W), sides multiples of `block`; their bands are concatenated.
        published: NaN where a block is flat in both bands.
        mask: boolean (B, 1, H, W); only blocks without nodata count.
        block: side of a block.

    Returns:
        (B, K, K) float64, K the sum of the K_i, symmetric. Differentiable.
    """
    means = []
    for i, image in enumerate(zip(*images, strict=True)):
        sums, count = [], image[0].new_zeros((), dtype=torch.float64)
        for rows, columns in block_tiles(image[0], block):
            pairs = block_pairs(*block_moments(tuple(part[:, rows, columns] for part in image), block), published)
            valid = None
            if mask is not None:
                valid = cut_blocks(mask[i, :, rows, columns], block).flatten(2).all(dim=-1).view(1, 1, 1, -1)
            total, number = add_valid(pairs.permute(1, 2, 0)[:, :, None], valid)
            sums.append(total)
            count = count + number
        means.append(torch.stack(sums).sum(dim=0) / count)
    return torch.stack(means)
