"""Images of any size, read block by block: means of pixels, sums for scores per band, and 8-bit pictures.

An image is an array (C, H, W), or a `LargeImage` (1, C, H, W) that stays in its file; no more than one block of it
is in memory at once. Legend: C bands, H W size, f factor.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from lemamba.metrics.large import LargeImage

SIDE = 256  # pixels of a block; f is a power of two up to it
Image = np.ndarray | LargeImage
Block = tuple[slice, slice]  # rows, columns


def part(image: Image, rows: slice, columns: slice) -> np.ndarray:
    """Return a part (C, h, w) of an image, or (h, w) of a mask (H, W)."""
    if isinstance(image, LargeImage):
        return np.asarray(image[0, :, rows, columns].tensor().numpy())
    return image[..., rows, columns]


def blocks(size: tuple[int, int], side: int = SIDE) -> Iterator[Block]:
    """Yield the blocks of an image of `size` (H, W), row by row; the last ones may be smaller."""
    H, W = size
    for top in range(0, H, side):
        for left in range(0, W, side):
            yield slice(top, min(top + side, H)), slice(left, min(left + side, W))


def shrunk(image: np.ndarray, factor: int) -> np.ndarray:
    """Return means of factor x factor pixels of (…, H, W); the last row and column may be means of fewer."""
    if factor == 1:
        return image
    sums = image.astype(np.float64)
    for axis in (-2, -1):
        length = image.shape[axis]
        starts = np.arange(0, length, factor)
        counts = np.minimum(factor, length - starts)
        sums = np.add.reduceat(sums, starts, axis=axis) / (counts[:, None] if axis == -2 else counts)
    return sums


def shrunk_size(size: tuple[int, int], factor: int) -> tuple[int, int]:
    """Return the size (h, w) of what `shrunk` returns."""
    return -(-size[0] // factor), -(-size[1] // factor)


class Means:
    """The means of an image of any size, put together from its blocks.

    Args:
        bands: C.
        size: (H, W) of the image.
        factor: see `shrunk`.
    """

    def __init__(self, bands: int, size: tuple[int, int], factor: int) -> None:
        self.image = np.empty((bands, *shrunk_size(size, factor)), np.float32)
        self._factor = factor

    def add(self, block: Block, pixels: np.ndarray) -> None:
        """Put in a block (C, h, w) of the image."""
        top, left = (span.start // self._factor for span in block)
        means = shrunk(pixels, self._factor)
        self.image[:, top : top + means.shape[-2], left : left + means.shape[-1]] = means


class BandSums:
    """RMSE, PSNR and correlation of each band, from sums over blocks."""

    def __init__(self) -> None:
        self._shift: tuple[np.ndarray, np.ndarray] | None = None  # near the means: sums of squares keep their digits
        self._sums: np.ndarray | float = 0.0
        self._count = 0

    def add(self, sr: np.ndarray, gt: np.ndarray, valid: np.ndarray | None = None) -> None:
        """Add a block (C, h, w) of both; `valid` (h, w), False where pixels are missing."""
        x, y = (image.reshape(len(image), -1) if valid is None else image[:, valid] for image in (sr, gt))
        # in one order of memory, whatever that of the file: the same numbers give the same sums
        x, y = np.ascontiguousarray(x, np.float64), np.ascontiguousarray(y, np.float64)
        if not x.shape[1]:
            return
        if self._shift is None:
            self._shift = x.mean(1, keepdims=True), y.mean(1, keepdims=True)
        squares = ((x - y) ** 2).sum(1)
        x, y = x - self._shift[0], y - self._shift[1]
        parts = (squares, x.sum(1), y.sum(1), (x * x).sum(1), (y * y).sum(1), (x * y).sum(1))
        self._sums = self._sums + np.stack(parts, axis=1)
        self._count += x.shape[1]

    def rows(self, bands: int, const: float | None) -> list[list[float | None]]:
        """Return [RMSE, PSNR, correlation] of each of C `bands`; None where one is not defined."""
        if not self._count:
            return [[None, None, None]] * bands
        found: list[list[float | None]] = []
        for squares, x, y, xx, yy, xy in np.asarray(self._sums) / self._count:
            rmse = math.sqrt(squares)
            psnr = 20 * math.log10(const / rmse) if const is not None and rmse > 0 else None
            spread = math.sqrt(max(xx - x * x, 0.0) * max(yy - y * y, 0.0))
            found.append([rmse, psnr, (xy - x * y) / spread if spread > 0 else None])
        return found


Draw = Callable[[slice, slice], np.ndarray]  # rows, columns -> (h, w, 4) uint8


def drawing(image: Image, bands: Sequence[int], limits: np.ndarray, valid: Image | None) -> Draw:
    """Return what draws a part of an image.

    Args:
        image: see above.
        bands: three, 0-based, for red, green, blue.
        limits: (3, 2), the values that become 0 and 255.
        valid: (H, W) or (1, 1, H, W), False where pixels are missing; these are transparent.
    """
    low, high = limits[:, 0, None, None], limits[:, 1, None, None]

    def draw(rows: slice, columns: slice) -> np.ndarray:
        pixels = part(image, rows, columns)[list(bands)].astype(np.float64)
        known = np.isfinite(pixels).all(0)
        if valid is not None:
            known &= part(valid, rows, columns).reshape(known.shape)
        scaled = np.clip(np.where(known, pixels - low, 0) / (high - low), 0, 1)
        picture = np.empty((*known.shape, 4), np.uint8)
        picture[..., :3] = np.round(255 * scaled).transpose(1, 2, 0)
        picture[..., 3] = 255 * known
        return picture

    return draw
