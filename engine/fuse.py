"""Fuse images of any size: whole, or in overlapping tiles that are blended, so that memory stays bounded.

Shapes: ms (B, C, h, w), lms (B, C, H, W), pan (B, P, H, W), sr (B, C, H, W), H = ratio * h.
Tile sizes are pixels of sr.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import torch

from utils.errors import UserError

Box = tuple[int, int, int, int]


def tile_starts(size: int, tile: int, overlap: int) -> list[int]:
    """Return where tiles begin along one side: every ``tile - overlap`` pixels, the last one flush with the end."""
    if size <= tile:
        return [0]
    step = tile - overlap
    return [*range(0, size - tile, step), size - tile]


def blend_window(height: int, width: int, overlap: int) -> torch.Tensor:
    """Return weights (height, width) that fall linearly to the tile's rim over `overlap` pixels and stay above 0."""

    def ramp(size: int) -> torch.Tensor:
        distance = torch.minimum(torch.arange(1, size + 1), torch.arange(size, 0, -1))
        return (distance / (overlap + 1)).clamp(max=1.0)

    return ramp(height)[:, None] * ramp(width)[None, :]


def check_tiling(tile: int, overlap: int, ratio: int) -> None:
    """Refuse tile sizes that cannot be cut from both images or that do not advance."""
    if tile < ratio or tile % ratio or overlap % ratio:
        raise UserError(
            f"expected a tile and an overlap that are multiples of the ratio {ratio}, given {tile} and {overlap}; "
            f"try --tile {max(1, tile // ratio) * ratio} --overlap {overlap // ratio * ratio}"
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


def _cut(x: torch.Tensor, boxes: list[Box], scale: int) -> torch.Tensor:
    """Cut the same boxes, given in sr pixels, from `x`, whose pixels are `scale` sr pixels wide: (n * B, …)."""
    return torch.cat([x[..., r // scale : (r + h) // scale, c // scale : (c + w) // scale] for r, c, h, w in boxes])


@torch.inference_mode()
def fuse(
    model: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor],
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
        model: a network in evaluation mode or a classical method.
        ms, lms, pan: see the module; all on one device (usually the CPU).
        tile: side of the square tiles; None = the whole image at once.
        overlap: pixels shared by neighbouring tiles; there the results are blended linearly.
        tiles_per_batch: tiles that go through the network together.
        device: where the network runs; None = where `lms` is.
        on_progress: called with (tiles done, tiles in all).

    Raises:
        UserError: tile or overlap no multiple of the ratio, or an overlap as large as the tile.
    """
    device = torch.device(device) if device is not None else lms.device
    H, W = lms.shape[-2:]
    ratio = H // ms.shape[-2]
    if tile is None or (tile >= H and tile >= W):
        return model(*(t.to(device) for t in (ms, lms, pan))).to(lms.device)
    check_tiling(tile, overlap, ratio)

    boxes = _boxes(H, W, tile, overlap)
    weights = blend_window(min(tile, H), min(tile, W), overlap).to(lms)
    total, weight_sum = torch.zeros_like(lms), lms.new_zeros(H, W)
    done = 0
    for batch in _batches(boxes, tiles_per_batch):
        inputs = (_cut(ms, batch, ratio), _cut(lms, batch, 1), _cut(pan, batch, 1))
        fused = model(*(t.to(device) for t in inputs)).to(lms)
        for (r, c, h, w), piece in zip(batch, fused.split(lms.shape[0]), strict=True):
            total[..., r : r + h, c : c + w] += piece * weights
            weight_sum[r : r + h, c : c + w] += weights
        done += len(batch)
        if on_progress:
            on_progress(done, len(boxes))
    return total / weight_sum
