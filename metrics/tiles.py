"""Cut images into tiles that stay in a core's cache: cost per pixel and extra memory then do not depend on the size.

A tile of a windowed index overlaps its neighbours by window - 1 pixels, so that every window belongs to one tile; the
index adds up sums over tiles. On a GPU an image is one tile.
Legend: C bands, H W size, h w size of a tile.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

_SIDE = 256  # pixels of a tile's side, overlap included
_SAMPLES = _SIDE * _SIDE  # float64 samples that stay in the cache through a dozen passes
_FEW = 2  # as many are worth one call where a sum takes two passes only
_NARROW = 11  # windows up to this side cost little overlap: lower tiles, whose intermediate images are smaller
_COPIES = 3  # float64 arrays that such a sum needs of float32 images, two of them the images themselves
Tile = tuple[slice, slice]  # rows, columns


def _parts(length: int, window: int, longest: int) -> Iterator[slice]:
    """Ranges of at most about `longest` pixels whose windows, `window` pixels long, are those of 0 … length."""
    windows = length - window + 1
    count = -(-windows // max(longest - window + 1, window))
    for i in range(count):
        yield slice(i * windows // count, (i + 1) * windows // count + window - 1)


def stretches(x: Tensor) -> tuple[int, int]:
    """Planes and pixels of (C, H * W) to take at a time, for sums without a window."""
    C, pixels = x.shape
    if x.device.type != "cpu":
        return max(C, 1), max(pixels, 1)
    samples = _FEW * _SAMPLES // (1 if x.dtype == torch.float64 else _COPIES)
    return max(1, samples // max(pixels, 1)), _SAMPLES


def row_tiles(image: Tensor) -> Iterator[slice]:
    """Ranges of whole rows of (…, H, W), all planes of which stay in the cache: for indices without a window."""
    H, W = image.shape[-2:]
    step = max(1, _SAMPLES // max(math.prod(image.shape[:-2]) * W, 1)) if image.device.type == "cpu" else max(H, 1)
    for start in range(0, H, step):
        yield slice(start, min(start + step, H))


def tiles(image: Tensor, window: int = 1) -> Iterator[Tile]:
    """Tiles of (…, H, W), overlapping by window - 1 pixels."""
    H, W = image.shape[-2:]
    whole = image.device.type != "cpu"
    width = W if whole else min(W, _SIDE)
    height = H if whole else max(_SIDE, _SAMPLES // max(width, 1))
    if 1 < window <= _NARROW and not whole:
        height = 3 * height // 4
    for rows in _parts(H, window, height):
        for columns in _parts(W, window, width):
            yield rows, columns


def block_tiles(image: Tensor, block: int) -> Iterator[Tile]:
    """Tiles of (…, H, W) whose sides are multiples of `block`; the last ones may reach beyond the image."""
    H, W = image.shape[-2:]
    side = max(_SIDE // block, 1) * block if image.device.type == "cpu" else max(H, W) + block
    for top in range(0, H, side):
        for left in range(0, W, side):
            bottom, right = (min(first + side, -(-n // block) * block) for first, n in ((top, H), (left, W)))
            yield slice(top, bottom), slice(left, right)


def plane_groups(x: Tensor) -> Iterator[slice]:
    """Slices over the planes of a tile (C, h, w): on a CPU few enough to stay in its cache, elsewhere all at once."""
    planes, h, w = x.shape
    step = max(1, _SAMPLES // max(h * w, 1)) if x.device.type == "cpu" else planes
    for start in range(0, planes, step):
        yield slice(start, start + step)


def add_valid(values: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor]:
    """Sum over the last two axes of the valid values, and how many they are.

    Args:
        values: (…, h, w).
        valid: boolean, broadcasts against `values`; None = all.
    """
    if valid is None:
        return values.sum(dim=(-2, -1)), values.new_tensor(values.shape[-2] * values.shape[-1])
    return torch.where(valid, values, 0.0).sum(dim=(-2, -1)), valid.sum(dim=(-2, -1))


def mean_of_windows(
    function: Callable[[Tensor, Tensor], Tensor], window: int, x: Tensor, y: Tensor, valid: Tensor | None
) -> Tensor:
    """Mean over bands of the mean over positions of a windowed function of one image pair.

    Args:
        function: planes (K, h, w) float64 twice -> (K, h - window + 1, w - window + 1).
        window: side of the window.
        x, y: (C, H, W).
        valid: boolean (H - window + 1, W - window + 1), which positions count; None = all.

    Returns:
        () float64; NaN where no position is valid.
    """
    total, count = x.new_zeros(len(x), dtype=torch.float64), x.new_zeros((), dtype=torch.float64)
    for rows, columns in tiles(x, window):
        v = None
        if valid is not None:
            v = valid[rows.start : rows.stop - window + 1, columns.start : columns.stop - window + 1]
        parts = []
        for planes in plane_groups(x[:, rows, columns]):
            a, b = (image[planes, rows, columns].double() for image in (x, y))
            sums, number = add_valid(function(a, b), v)
            parts.append(sums)
        total, count = total + torch.cat(parts), count + number
    return (total / count).mean()
