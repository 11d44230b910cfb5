"""A window of a pair of images: its pixels with margins, where it lies, and which of its pixels have data.

Methods that are fitted to an image of any size (`lemamba.model.classical`) look at such windows one after the other.
`cut_windows` makes them from images in memory; scenes on disk give them as they are read.
Legend: ms (1, C, h, w), lms (1, C, H, W), pan (1, P, H, W); sizes of a window include its margins.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from lemamba.operators.resample import MARGIN, interpolate, mirrored
from lemamba.utils.geometry import Geometry

Span = tuple[int, int]  # first, end
_ALL = (slice(None), slice(None))


@dataclass(frozen=True)
class Window:
    """A part of an image with its margins, or a whole image.

    Attributes:
        ms: (1, C, h, w).
        lms: (1, C, H, W).
        pan: (1, P, H, W).
        geometry: of these three, where pixel (0, 0) is the window's.
        inner: rows and columns of lms and pan without the margins.
        inner_ms: MS pixels whose centres lie there; neighbouring windows share none.
        valid: bool, of the size of `inner`, True where there is data; None = everywhere.
        valid_ms: the same of `inner_ms`.
    """

    ms: Tensor
    lms: Tensor
    pan: Tensor
    geometry: Geometry
    inner: tuple[slice, slice] = _ALL
    inner_ms: tuple[slice, slice] = _ALL
    valid: Tensor | None = None
    valid_ms: Tensor | None = None

    def crop(self, x: Tensor) -> Tensor:
        """Cut the margins off an image (1, F, H, W)."""
        return x[..., self.inner[0], self.inner[1]]

    def fine(self, *images: Tensor) -> Tensor:
        """Return features (F, n) at the valid PAN pixels inside the margins, from images (1, ·, H, W)."""
        return _at(torch.cat([self.crop(x)[0] for x in images]), self.valid)

    def coarse(self, *images: Tensor) -> Tensor:
        """Return features (F, n) at the valid MS pixels inside the margins, from images (1, ·, h, w)."""
        return _at(torch.cat([x[0][..., self.inner_ms[0], self.inner_ms[1]] for x in images]), self.valid_ms)


def _at(features: Tensor, valid: Tensor | None) -> Tensor:
    return features.flatten(1) if valid is None else features[:, valid]


@dataclass(frozen=True)
class Axis:
    """Which pixels a window needs along one axis; indices of the images, which may lie outside of them.

    Attributes:
        pan: PAN pixels with margins.
        ms: MS pixels whose centres lie in `pan`.
        wide: MS pixels that interpolating `pan` looks at.
        inner: PAN pixels without margins, counted from pan[0].
        inner_ms: MS pixels whose centres lie in `inner`, counted from ms[0].
    """

    pan: Span
    ms: Span
    wide: Span
    inner: Span
    inner_ms: Span


def plan_axis(ratio: float, offset: float, inner: Span, margin: int, align: int) -> Axis:
    """Plan a window along one axis.

    Args:
        ratio, offset: of the geometry along this axis.
        inner: PAN pixels that the window is for.
        margin: PAN pixels that it needs around them.
        align: its first PAN pixel and its length are multiples of it, so that methods find the same r x r cells in
            every window.
    """
    first = math.floor((inner[0] - margin) / align) * align
    last = first + math.ceil((inner[1] + margin - first) / align) * align

    def centres(low: int, high: int) -> Span:
        """MS pixels whose centres lie in PAN pixels low … high - 1, borders half-way between PAN pixels."""
        first, end = (math.ceil((edge - 0.5 - offset) / ratio - 1e-9) for edge in (low, high))
        return first, end

    ms, own = centres(first, last), centres(*inner)
    wide = (math.floor((first - offset) / ratio) - MARGIN, math.ceil((last - 1 - offset) / ratio) + MARGIN + 1)
    return Axis((first, last), ms, wide, (inner[0] - first, inner[1] - first), (own[0] - ms[0], own[1] - ms[0]))


def assemble(
    wide: Tensor,
    pan: Tensor,
    geometry: Geometry,
    rows: Axis,
    columns: Axis,
    valid: Tensor | None = None,
    valid_ms: Tensor | None = None,
) -> Window:
    """Make a window of pixels that were read.

    Args:
        wide: MS pixels (1, C, ·, ·) of `rows.wide` and `columns.wide`.
        pan: PAN pixels (1, P, ·, ·) of `rows.pan` and `columns.pan`.
        geometry: of the whole images.
        rows, columns: the plan.
        valid, valid_ms: see `Window`.
    """
    axes = (rows, columns)
    size = tuple(a.pan[1] - a.pan[0] for a in axes)
    lms = interpolate(wide, geometry.window((rows.wide[0], columns.wide[0]), (rows.pan[0], columns.pan[0])), size)
    cut = tuple(slice(a.ms[0] - a.wide[0], a.ms[1] - a.wide[0]) for a in axes)
    own = geometry.window((rows.ms[0], columns.ms[0]), (rows.pan[0], columns.pan[0]))
    inner = slice(*rows.inner), slice(*columns.inner)
    inner_ms = slice(*rows.inner_ms), slice(*columns.inner_ms)
    return Window(wide[..., cut[0], cut[1]], lms, pan, own, inner, inner_ms, valid, valid_ms)


def take(x: Tensor, rows: Span, columns: Span) -> Tensor:
    """Cut a window out of (..., H, W); what lies outside is mirrored, the edge pixel repeated."""
    for dim, (first, last) in zip((-2, -1), (rows, columns), strict=True):
        x = x.index_select(dim, mirrored(torch.arange(first, last, device=x.device), x.shape[dim]))
    return x


def cut_windows(
    ms: Tensor, pan: Tensor, geometry: Geometry, side: int, margin: int, valid: Tensor | None = None
) -> Iterator[tuple[tuple[Span, Span], Window]]:
    """Cut images in memory into windows that meet without overlap.

    Args:
        ms: (1, C, h, w).
        pan: (1, P, H, W).
        geometry: of the two.
        side: of the windows in PAN pixels, without margins.
        margin: PAN pixels around them.
        valid: (H, W) bool, PAN pixels with data in both images.

    Yields:
        ((rows, columns) of PAN pixels, window). What lies outside the images is mirrored.
    """
    H, W = pan.shape[-2:]
    align = geometry.nominal
    for top in range(0, H, side):
        for left in range(0, W, side):
            box = (top, min(top + side, H)), (left, min(left + side, W))
            rows, columns = (
                plan_axis(r, o, span, margin, align)
                for r, o, span in zip(geometry.ratio, geometry.offset, box, strict=True)
            )
            window = assemble(
                take(ms, rows.wide, columns.wide), take(pan, rows.pan, columns.pan), geometry, rows, columns
            )
            if valid is not None:
                own = valid[slice(*box[0]), slice(*box[1])]
                window = replace(window, valid=own, valid_ms=covered(valid, geometry, (rows, columns)))
            yield box, window


def covered(valid: Tensor, geometry: Geometry, axes: tuple[Axis, Axis]) -> Tensor:
    """Return which MS pixels of a window (`Axis.inner_ms`) have data in all PAN pixels that they cover."""
    reach = math.ceil(max(geometry.ratio) / 2)
    gaps = F.max_pool2d((~valid)[None, None].float(), 2 * reach + 1, stride=1, padding=reach)[0, 0] > 0
    for dim, axis in enumerate(axes):
        own = torch.arange(axis.inner_ms[0], axis.inner_ms[1], dtype=torch.float64) + axis.ms[0]
        centre = (geometry.offset[dim] + own * geometry.ratio[dim]).round().long().clamp(0, valid.shape[dim] - 1)
        gaps = gaps.index_select(dim, centre)
    return ~gaps
