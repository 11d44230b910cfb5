"""Fuse images of any size: whole, or in overlapping tiles that are blended, so that memory stays bounded.

`fuse` takes tensors; `fuse_rows` asks for each tile when its turn comes and hands out rows as soon as no further tile
touches them, so neither the input nor the result has to fit in memory. Both lay the same tiles.

Shapes: ms (B, C, h, w), lms (B, C, H, W), pan (B, P, H, W), sr (B, C, H, W), H = ratio * h.
Tile sizes are pixels of sr; a box is (first row, first column, height, width) in pixels of sr.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import torch

from lemamba.utils.errors import UserError

# Pixels at a tile's rim saw the border of the tile instead of their neighbours. Linear weights still let 1 / overlap of
# that error through; the fourth power all but drops it and stays a smooth step between two tiles.
RIM_POWER = 4

Box = tuple[int, int, int, int]
Model = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
Inputs = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def tile_starts(size: int, tile: int, overlap: int) -> list[int]:
    """Return where tiles begin along one side: every ``tile - overlap`` pixels, the last one flush with the end."""
    if size <= tile:
        return [0]
    step = tile - overlap
    return [*range(0, size - tile, step), size - tile]


def blend_window(height: int, width: int, overlap: int) -> torch.Tensor:
    """Return weights (height, width) that fall to the tile's rim over `overlap` pixels, steeply, and stay above 0."""

    def ramp(size: int) -> torch.Tensor:
        distance = torch.minimum(torch.arange(1, size + 1), torch.arange(size, 0, -1))
        return (distance / (overlap + 1)).clamp(max=1.0) ** RIM_POWER

    return ramp(height)[:, None] * ramp(width)[None, :]


def check_tiling(tile: int, overlap: int, ratio: int) -> None:
    """Refuse tile sizes that cannot be cut from both images or that do not advance."""
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


def _boxes(H: int, W: int, tile: int, overlap: int) -> list[Box]:
    rows, columns = tile_starts(H, tile, overlap), tile_starts(W, tile, overlap)
    return [(r, c, min(tile, H), min(tile, W)) for r, c in itertools.product(rows, columns)]


def _batches(boxes: list[Box], size: int) -> Iterator[list[Box]]:
    for start in range(0, len(boxes), size):
        yield boxes[start : start + size]


def _cut(x: torch.Tensor, box: Box, scale: int) -> torch.Tensor:
    """Cut a box, given in sr pixels, from `x`, whose pixels are `scale` sr pixels wide."""
    r, c, h, w = box
    return x[..., r // scale : (r + h) // scale, c // scale : (c + w) // scale]


def _together(tiles: list[Inputs], device: torch.device | str) -> list[torch.Tensor]:
    """Make one batch of tiles; a single one, perhaps a whole image, is not copied."""
    return [(kind[0] if len(kind) == 1 else torch.cat(kind)).to(device) for kind in zip(*tiles, strict=True)]


class _Rows:
    """Weighted sum of tiles over the rows that are not handed out yet, in one buffer that is kept."""

    def __init__(self, like: torch.Tensor, height: int, width: int) -> None:
        """Make room for `height` rows; `like` (B, C, …) gives batch, bands, dtype and device."""
        self.first = 0
        self.total = like.new_zeros(*like.shape[:2], height, width)
        self.weight = like.new_zeros(1, 1, height, width)

    def add(self, box: Box, piece: torch.Tensor, weights: torch.Tensor) -> None:
        r, c, h, w = box
        self.reserve(r + h)
        r -= self.first
        self.total[..., r : r + h, c : c + w] += piece * weights
        self.weight[..., r : r + h, c : c + w] += weights

    def reserve(self, end: int) -> None:
        """Make room for the rows up to `end`."""
        missing = end - self.first - self.weight.shape[-2]
        if missing > 0:
            self.total = torch.nn.functional.pad(self.total, (0, 0, 0, missing))
            self.weight = torch.nn.functional.pad(self.weight, (0, 0, 0, missing))

    def take(self, end: int) -> torch.Tensor:
        """Remove the rows up to `end` and return them; pixels that no tile reached are 0."""
        self.reserve(end)
        n = end - self.first
        # The floor only keeps 0 / 0 from becoming NaN: every real weight is far above it.
        done = self.total[..., :n, :] / self.weight[..., :n, :].clamp(min=1e-30)
        for band in (*self.total.flatten(0, 1), self.weight[0, 0]):  # one by one: the copy stays small
            kept = band[n:].clone()
            band[: len(kept)] = kept
            band[len(kept) :] = 0
        self.first = end
        return done


@torch.inference_mode()
def fuse_rows(
    model: Model,
    read: Callable[[Box], Inputs | None],
    like: torch.Tensor,
    size: tuple[int, int],
    *,
    ratio: int,
    tile: int | None,
    overlap: int = 16,
    tiles_per_batch: int = 8,
    device: torch.device | str | None = None,
    align: int = 1,
    on_progress: Callable[[int, int], None] | None = None,
) -> Iterator[tuple[int, torch.Tensor]]:
    """Fuse an image that is read tile by tile; yield (first row, rows of sr (B, C, n, W)), top to bottom, once each.

    At any time about two rows of tiles and `align` rows of sr are in memory.

    Args:
        model: a network in evaluation mode or a classical method.
        read: box -> (ms, lms, pan) of that box; None where nothing is to be fused (sr is 0 there).
        like: (B, C, …) of any size: batch, bands, dtype and device of the result.
        size: (H, W).
        ratio: H / h.
        tile: side of the square tiles; None = one box with the whole image.
        overlap: pixels shared by neighbouring tiles; there the results are blended.
        tiles_per_batch: tiles that go through the network together.
        device: where the network runs; None = that of `like`.
        align: rows come in multiples of this, except the last ones.
        on_progress: called with (tiles done, tiles in all).

    Raises:
        UserError: tile or overlap no multiple of the ratio, or an overlap as large as the tile.
    """
    H, W = size
    whole = tile is None or (tile >= H and tile >= W)
    if not whole:
        check_tiling(tile, overlap, ratio)
    boxes = [(0, 0, H, W)] if whole else _boxes(H, W, tile, overlap)
    shape = boxes[0][2:]
    weights = (torch.ones(shape) if whole else blend_window(*shape, overlap)).to(like)
    rows, done = _Rows(like, min(H, 2 * shape[0] + align), W), 0  # a batch may reach into the next row of tiles
    for batch in _batches(boxes, tiles_per_batch):
        read_tiles = [(box, read(box)) for box in batch]
        filled = [(box, tensors) for box, tensors in read_tiles if tensors is not None]
        if filled:
            fused = model(*_together([tensors for _, tensors in filled], device or like.device)).to(like)
            for (box, _), piece in zip(filled, fused.split(like.shape[0]), strict=True):
                rows.add(box, piece, weights)
        done += len(batch)
        if on_progress:
            on_progress(done, len(boxes))
        ready = H if done == len(boxes) else boxes[done][0] // align * align
        if ready > rows.first:
            first = rows.first
            yield first, rows.take(ready)


@torch.inference_mode()
def fuse(
    model: Model,
    ms: torch.Tensor,
    lms: torch.Tensor,
    pan: torch.Tensor,
    *,
    tile: int | None = None,
    overlap: int = 16,
    tiles_per_batch: int = 8,
    device: torch.device | str | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> torch.Tensor:
    """Run `model` on images of any size and return sr (B, C, H, W) on the device of `lms`.

    Args:
        model: see `fuse_rows`.
        ms, lms, pan: see the module; all on one device (usually the CPU).
        tile, overlap, tiles_per_batch, device, on_progress: see `fuse_rows`.

    Raises:
        UserError: tile or overlap no multiple of the ratio, or an overlap as large as the tile.
    """
    device = torch.device(device) if device is not None else lms.device
    H, W = lms.shape[-2:]
    ratio = H // ms.shape[-2]
    if tile is None or (tile >= H and tile >= W):
        return model(*(t.to(device) for t in (ms, lms, pan))).to(lms.device)
    tiling = {"ratio": ratio, "tile": tile, "overlap": overlap, "tiles_per_batch": tiles_per_batch}

    def read(box: Box) -> Inputs:
        return _cut(ms, box, ratio), _cut(lms, box, 1), _cut(pan, box, 1)

    sr = torch.empty_like(lms)
    for row, strip in fuse_rows(model, read, lms, (H, W), **tiling, device=device, on_progress=on_progress):
        sr[..., row : row + strip.shape[-2], :] = strip
    return sr
