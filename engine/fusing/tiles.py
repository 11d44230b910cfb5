"""Fuse images of any size: whole, or in overlapping tiles that are blended, so that memory stays bounded.

`fuse` takes tensors. `fuse_rows` reads each tile when it is needed and yields rows as soon as no further tile touches
them, so neither the input nor the result has to fit in memory. Both use the same tiles.

Shapes: ms (B, C, h, w), lms (B, C, H, W), pan (B, P, H, W), sr (B, C, H, W), H = ratio * h.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from lemamba.engine.fusing.tiling import Box, Tiling
from lemamba.utils.registry import Traits
from lemamba.utils.threads import ahead

# Pixels at a tile's rim saw the border of the tile instead of their neighbours. Linear weights still let 1 / overlap of
# that error through; the fourth power all but drops it and stays a smooth step between two tiles.
RIM_POWER = 4

Model = Callable[[Tensor, Tensor, Tensor], Tensor]
Inputs = tuple[Tensor, Tensor, Tensor]


def traits_of(model: Model) -> Traits:
    """Return the traits of a registered method; those of a network for any other function."""
    return getattr(model, "traits", Traits())


def call(model: Model, ms: Tensor, lms: Tensor, pan: Tensor) -> Tensor:
    """Run a method: with gradients if it trains on the images that it fuses, in inference mode otherwise."""
    if traits_of(model).adapts:
        with torch.inference_mode(False), torch.enable_grad():
            return model(ms, lms, pan).detach()
    with torch.inference_mode():
        return model(ms, lms, pan)


def blend_window(height: int, width: int, overlap: int) -> Tensor:
    """Return weights (height, width) above 0 that fall steeply towards the rim of the tile over `overlap` pixels."""

    def ramp(size: int) -> Tensor:
        distance = torch.minimum(torch.arange(1, size + 1), torch.arange(size, 0, -1))
        return (distance / (overlap + 1)).clamp(max=1.0) ** RIM_POWER

    return ramp(height)[:, None] * ramp(width)[None, :]


def _cut(x: Tensor, box: Box, scale: int) -> Tensor:
    """Cut a box, given in sr pixels, from `x`, whose pixels are `scale` sr pixels wide."""
    r, c, h, w = box
    return x[..., r // scale : (r + h) // scale, c // scale : (c + w) // scale]


def _joined(tiles: list[Inputs]) -> list[Tensor]:
    """Make one batch of tiles; a single one, which may be a whole image, is not copied."""
    return [kind[0] if len(kind) == 1 else torch.cat(kind) for kind in zip(*tiles, strict=True)]


class _Rows:
    """Weighted sum of tiles over the rows that are not yielded yet, in one buffer that is reused."""

    def __init__(self, like: Tensor, height: int, width: int) -> None:
        """Make room for `height` rows; `like` (B, C, …) gives batch, bands, dtype and device."""
        self.first = 0
        self.total = like.new_zeros(*like.shape[:2], height, width)
        self.weight = like.new_zeros(1, 1, height, width)

    def add(self, box: Box, piece: Tensor, weights: Tensor) -> None:
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

    def take(self, end: int) -> Tensor:
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


@torch.no_grad()
def fuse_rows(
    model: Model,
    read: Callable[[Box], Inputs | None],
    like: Tensor,
    size: tuple[int, int],
    *,
    ratio: int,
    tiling: Tiling,
    align: int = 1,
    span: tuple[int, int] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Iterator[tuple[int, Tensor]]:
    """Fuse an image that is read tile by tile; yield (first row, rows of sr (B, C, n, W)), top to bottom, once each.

    At any time about two rows of tiles and `align` rows of sr are in memory. The next batch of tiles is read while one
    is fused.

    Args:
        model: a network in evaluation mode, a classical method, or an `lemamba.engine.fusing.runner.Runner` of it.
        read: box -> (ms, lms, pan) of that box; None if nothing is to be fused there (sr is 0).
        like: (B, C, …) of any size: batch, bands, dtype and device of the result.
        size: (H, W).
        ratio: H / h.
        tiling: see `Tiling`; not applied to methods that use statistics of the whole image.
        align: rows come in multiples of this, except the first and the last ones.
        span: (first, end) of the rows to yield; None = all. They equal those of the whole image to the last bit, as
            the same tiles go through the method together.
        on_progress: called with (tiles done, all tiles of these rows).

    Raises:
        UserError: see `Tiling.resolve`.
    """
    tiling = tiling.resolve(size, ratio, tileable=traits_of(model).tileable, device=like.device.type)
    boxes = tiling.boxes(size)
    height, width = boxes[0][2:]
    weights = blend_window(height, width, tiling.overlap) if tiling.tile else torch.ones(height, width)
    weights = weights.to(like)
    first, end = span or (0, size[0])
    batch = tiling.batch or 1
    needed = [i for i, (top, _, h, _) in enumerate(boxes) if top < end and top + h > first]
    starts = range(needed[0] // batch * batch, needed[-1] + 1, batch)  # whole batches: their size affects rounding
    rows = _Rows(like, min(size[0], 2 * height + align), size[1])  # a batch may reach into the next row of tiles
    rows.first = boxes[starts[0]][0]
    for start, tiles in zip(starts, ahead(_batches(read, boxes, starts)), strict=True):
        filled = [(box, tensors) for box, tensors in tiles if tensors is not None]
        if filled:
            fused = call(model, *_joined([tensors for _, tensors in filled])).to(like)
            for (box, _), piece in zip(filled, fused.split(like.shape[0]), strict=True):
                if box[0] < end and box[0] + box[2] > first:  # others only fill up the batch
                    rows.add(box, piece, weights)
        done = min(start + batch, len(boxes))
        if on_progress:
            on_progress(done - starts[0], min(starts[-1] + batch, len(boxes)) - starts[0])
        ready = end if start == starts[-1] else min(end, boxes[done][0] // align * align)
        if rows.first < first <= ready:
            rows.take(first)  # rows that belong to others
        if ready > rows.first >= first:
            at = rows.first
            yield at, rows.take(ready)


@torch.no_grad()
def _batches(
    read: Callable[[Box], Inputs | None], boxes: list[Box], starts: range
) -> Iterator[list[tuple[Box, Inputs | None]]]:
    for start in starts:
        yield [(box, read(box)) for box in boxes[start : start + starts.step]]


@torch.no_grad()
def fuse(
    model: Model,
    ms: Tensor,
    lms: Tensor,
    pan: Tensor,
    tiling: Tiling | None = None,
    *,
    on_progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Run `model` on images of any size and return sr (B, C, H, W) on the device of `lms`.

    Args:
        model: see `fuse_rows`.
        ms, lms, pan: see the module docstring; all on one device (usually the CPU).
        tiling: see `fuse_rows`; None = whole images.
        on_progress: see `fuse_rows`.

    Raises:
        UserError: see `Tiling.resolve`.
    """
    size = (lms.shape[-2], lms.shape[-1])
    ratio = size[0] // ms.shape[-2]
    tiling = (tiling or Tiling()).resolve(size, ratio, tileable=traits_of(model).tileable, device=lms.device.type)
    if tiling.tile is None:
        parts = zip(*(images.split(tiling.batch or 1) for images in (ms, lms, pan)), strict=True)
        return torch.cat([call(model, *part).to(lms.device) for part in parts])

    def read(box: Box) -> Inputs:
        return _cut(ms, box, ratio), _cut(lms, box, 1), _cut(pan, box, 1)

    sr = torch.empty_like(lms)
    for row, strip in fuse_rows(model, read, lms, size, ratio=ratio, tiling=tiling, on_progress=on_progress):
        sr[..., row : row + strip.shape[-2], :] = strip
    return sr
