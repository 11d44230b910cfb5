"""Means per band that several indices share, added up over tiles. Legend: B images, C bands, H W size, P pixels."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lemamba.metrics.tiles import plane_groups, row_tiles

Product = Callable[[Tensor, Tensor], Tensor]


def band_means(product: Product, x: Tensor, y: Tensor, mask: Tensor | None) -> Tensor:
    """Mean per band of a sum over pixels.

    Args:
        product: the sum over pixels of two stacks of planes, (K, P) float64 twice -> (K,); 0 for planes of zeros.
        x, y: (B, C, H, W).
        mask: (B, 1, H, W); both images must be 0 where it is False.

    Returns:
        (B, C) float64; NaN where no pixel is valid.
    """
    sums = [_sums(product, *pair) for pair in zip(x, y, strict=True)]
    total = torch.stack(sums) if sums else x.new_zeros(x.shape[:2], dtype=torch.float64)
    if mask is None:
        return total / (x.shape[-2] * x.shape[-1])
    return total / mask.sum(dim=(2, 3))


def _sums(product: Product, x: Tensor, y: Tensor) -> Tensor:
    """`product` of one image pair (C, H, W), tile by tile -> (C,)."""
    total = x.new_zeros(len(x), dtype=torch.float64)
    for rows in row_tiles(x):
        parts = [_of_planes(product, x[planes, rows], y[planes, rows]) for planes in plane_groups(x[:, rows])]
        total = total + torch.cat(parts)
    return total


def _of_planes(product: Product, x: Tensor, y: Tensor) -> Tensor:
    return product(x.double().flatten(1), y.double().flatten(1))


def dot(x: Tensor, y: Tensor) -> Tensor:
    """Scalar products of rows, (K, P) twice -> (K,), without the product itself."""
    return torch.bmm(x[:, None], y[:, :, None]).flatten()


def squared_error(x: Tensor, y: Tensor) -> Tensor:
    """Sum over pixels of (x - y)^2: (K, P) twice -> (K,)."""
    difference = x - y
    return dot(difference, difference)


def mean_squared_error(sr: Tensor, gt: Tensor, mask: Tensor | None) -> Tensor:
    """Mean squared error per band, (B, C) float64; arguments as in `band_means`."""
    return band_means(squared_error, sr, gt, mask)


def band_mean(image: Tensor, mask: Tensor | None) -> Tensor:
    """Mean per band, (B, C) float64; arguments as in `band_means`."""
    return band_means(lambda x, _: x.sum(dim=1), image, image, mask)
