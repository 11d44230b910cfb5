"""How images are cut and computed while they are fused, as one value object. No torch here.

Tile sizes are pixels of sr; a box is (first row, first column, height, width) in pixels of sr.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

from lemamba.utils.errors import UserError

OVERLAP = 32  # 16 leaves seams of up to 57 of 2047 (docs/geotiff.md)
SCENE_TILE = 256  # default side for scenes, which need not fit in memory
# Pixels of sr that go through a network together. A CPU wants what its caches hold: on two cores LE-Mamba takes
# a quarter less time per pixel for 4 images of 64 x 64 than for one, and no less beyond. A GPU: chosen, not measured.
BATCH_PIXELS = {"cpu": 128 * 128, "cuda": 1024 * 1024}

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Tiling:
    """Tiles, batch and precision of a fusion.

    Attributes:
        tile: side of square tiles; None = whole images.
        overlap: pixels shared by neighbouring tiles; the results are blended there. The default is made a multiple of
            the ratio.
        batch: images or tiles that go through the method together; None = by their size and the device.
        precision: "no" (float32), "bf16" or "fp16", as in ``--mixed_precision``.
    """

    tile: int | None = None
    overlap: int = OVERLAP
    batch: int | None = None
    precision: str = "no"

    def resolve(self, size: tuple[int, int], ratio: int, *, tileable: bool = True, device: str = "cpu") -> Tiling:
        """Decide for images of one size whether they are fused whole or in tiles, and how many at once.

        This is the only place that decides.

        Args:
            size: (H, W).
            ratio: H / h.
            tileable: False for methods that use statistics of the whole image.
            device: type of the device, "cpu" or "cuda".

        Returns:
            A tiling whose `tile` is None exactly if images are fused whole, and whose `batch` is a number.

        Raises:
            UserError: the tile or the overlap is no multiple of the ratio, or the overlap is as large as the tile.
        """
        tile = self.tile if tileable and self.tile is not None and self.tile < max(size) else None
        overlap = -(-OVERLAP // ratio) * ratio if self.overlap == OVERLAP else self.overlap
        if tile is not None:
            check_tiling(tile, overlap, ratio)
        height, width = (side if tile is None else min(tile, side) for side in size)
        return replace(self, tile=tile, overlap=overlap, batch=self.batch or default_batch(height, width, device))

    def boxes(self, size: tuple[int, int]) -> list[Box]:
        """Return the boxes that cover an image of `size` (H, W), row by row."""
        H, W = size
        if self.tile is None:
            return [(0, 0, H, W)]
        rows, columns = (tile_starts(side, self.tile, self.overlap) for side in size)
        return [(r, c, min(self.tile, H), min(self.tile, W)) for r, c in itertools.product(rows, columns)]


def default_batch(height: int, width: int, device: str) -> int:
    """Return how many images or tiles (height, width) best go through a network together on a type of device."""
    return max(1, BATCH_PIXELS.get(device, BATCH_PIXELS["cpu"]) // (height * width))


def tile_starts(size: int, tile: int, overlap: int) -> list[int]:
    """Return where tiles begin along one side: every ``tile - overlap`` pixels, the last one flush with the end."""
    if size <= tile:
        return [0]
    return [*range(0, size - tile, tile - overlap), size - tile]


def check_tiling(tile: int, overlap: int, ratio: int) -> None:
    """Raise a `UserError` for tiles that cannot be cut from both images or that do not advance."""
    if tile < ratio or tile % ratio or overlap % ratio:
        fitting = max(1, tile // ratio) * ratio
        raise UserError(
            f"expected a tile and an overlap that are multiples of the ratio {ratio}, given {tile} and {overlap}; "
            f"try --tile {fitting} --overlap {min(overlap // ratio * ratio, fitting // 2 // ratio * ratio)}"
        )
    if not 0 <= overlap < tile:
        raise UserError(
            f"expected 0 <= overlap < tile, given overlap {overlap} and tile {tile}; make the overlap smaller"
        )
