"""Means per band that several indices share, added up over tiles. Legend: B images, C bands, H W size, P pixels."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from lemamba.metrics.large import LargeImage
from lemamba.metrics.tiles import stretches, tiles

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
    if len(sums) == 1:
        total = sums[0][None]
    else:
        total = torch.stack(sums) if sums else x.new_zeros(x.shape[:2], dtype=torch.float64)
    if mask is None:
        return total / (x.shape[-2] * x.shape[-1])
    return total / mask.sum(dim=(2, 3))


def _sums(product: Product, x: Tensor, y: Tensor) -> Tensor:
    """`product` of one image pair (C, H, W), a stretch that stays in the cache at a time -> (C,)."""
    if isinstance(x, LargeImage):
        parts = ((x[:, rows, columns].double(), y[:, rows, columns].double()) for rows, columns in tiles(x))
        return torch.stack([_sums(product, *pair) for pair in parts]).sum(0)
    x, y = x.flatten(1), y.flatten(1)
    planes, pixels = stretches(x)
    if planes >= len(x) and pixels >= x.shape[1]:  # each call on a small image costs more than its arithmetic
        return product(x.double(), y.double())
    sums = []
    for group in zip(x.split(planes), y.split(planes), strict=True):
        parts = zip(*(image.split(pixels, dim=1) for image in group), strict=True)
        first, *others = (product(a.double(), b.double()) for a, b in parts)
        sums.append(sum(others, first))
    return torch.cat(sums)


def dot(x: Tensor, y: Tensor) -> Tensor:
    """Scalar products of rows, (K, P) twice -> (K,), without the product itself."""
    return torch.bmm(x[:, None], y[:, :, None]).flatten()


def squared_error(x: Tensor, y: Tensor) -> Tensor:
    """Sum over pixels of (x - y)^2: (K, P) twice -> (K,)."""
    return F.mse_loss(x, y, reduction="none").sum(dim=1)  # difference and square in one pass


def mean_squared_error(sr: Tensor, gt: Tensor, mask: Tensor | None) -> Tensor:
    """Mean squared error per band, (B, C) float64; arguments as in `band_means`."""
    return band_means(squared_error, sr, gt, mask)


def band_mean(image: Tensor, mask: Tensor | None) -> Tensor:
    """Mean per band, (B, C) float64; arguments as in `band_means`."""
    if image.dtype == torch.float64 and mask is None and not isinstance(image, LargeImage):
        return image.mean(dim=(2, 3))
    return band_means(lambda x, _: x.sum(dim=1), image, image, mask)
