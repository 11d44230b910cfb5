"""A window of a pair of images: its pixels with margins, where it lies, and which of its pixels have data.

Methods that are fitted to an image of any size (`lemamba.model.classical`) look at such windows one after the other.
`cut_windows` makes them from images in memory; scenes on disk give them as they are read.
Legend: ms (1, C, h, w), lms (1, C, H, W), pan (1, P, H, W); sizes of a window include its margins.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F

from lemamba.operators.banded import apply_to_both, apply_transposed, matrix_sums, transposed_product
from lemamba.operators.resample import MARGIN, interpolate, interpolation, mirrored
from lemamba.utils.geometry import Geometry

Span = tuple[int, int]  # first, end
_ALL = (slice(None), slice(None))


@dataclass(frozen=True)
class Window:
    """A part of an image with its margins, or a whole image.

    Attributes:
        ms: (1, C, h, w).
        given: lms (1, C, H, W); None where it is to be interpolated from `wide`.
        pan: (1, P, H, W).
        geometry: of these three, where pixel (0, 0) is the window's.
        inner: rows and columns of lms and pan without the margins.
        inner_ms: MS pixels whose centres lie there; neighbouring windows share none.
        valid: bool, of the size of `inner`, True where there is data; None = everywhere.
        valid_ms: the same of `inner_ms`.
        wide: (1, C, ·, ·), `ms` and the pixels around it that interpolating looks at; not used where lms is given.
        wide_geometry: of `wide` and `pan`.
        first_ms: row and column of the whole image that pixel (0, 0) of ms is.
    """

    ms: Tensor
    given: Tensor | None
    pan: Tensor
    geometry: Geometry
    inner: tuple[slice, slice] = _ALL
    inner_ms: tuple[slice, slice] = _ALL
    valid: Tensor | None = None
    valid_ms: Tensor | None = None
    wide: Tensor | None = None
    wide_geometry: Geometry | None = None
    first_ms: tuple[int, int] = (0, 0)

    @cached_property
    def lms(self) -> Tensor:
        """The interpolated ms (1, C, H, W). Methods that need it in `blend` and `moments` only never compute it."""
        if self.given is not None:
            return self.given
        assert self.wide is not None and self.wide_geometry is not None  # one of both is there
        return interpolate(self.wide, self.wide_geometry, self.pan.shape[-2:], border="mirror")

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns of `inner`."""
        H, W = self.pan.shape[-2:]
        return len(range(H)[self.inner[0]]), len(range(W)[self.inner[1]])

    def crop(self, x: Tensor) -> Tensor:
        """Cut the margins off an image (1, F, H, W); one that has none already is returned as it is."""
        return x if tuple(x.shape[-2:]) == self.size else x[..., self.inner[0], self.inner[1]]

    def blend(self, mix: Tensor | None = None, coarse: Tensor | None = None) -> Tensor:
        """Return ``mix lms + interpolated coarse`` inside the margins.

        Interpolation is linear, so bands are mixed and `coarse` is added before it where that gives the same: at 1/r²
        of the pixels, and one interpolation serves both.

        Args:
            mix: (C, C); None = lms itself.
            coarse: (1, C, h, w), on the pixels of `ms`. The margins must hold the pixels that interpolating looks at.
        """

        def mixed(x: Tensor) -> Tensor:
            return x if mix is None else torch.einsum("bc,nchw->nbhw", mix.to(x), x)

        if self.given is not None:
            lms = mixed(self.crop(self.lms))
            return lms if coarse is None else lms + self.crop(interpolate(coarse, self.geometry, self.pan.shape[-2:]))
        source, geometry = self._source(coarse is not None)
        source = mixed(source)
        return interpolate(source if coarse is None else source + coarse, geometry, self.size, border="mirror")

    def _source(self, narrow: bool) -> tuple[Tensor, Geometry]:
        """Return the MS pixels that the inside of the margins is interpolated from, and their geometry to it."""
        source, geometry = (self.ms, self.geometry) if narrow else (self.wide, self.wide_geometry)
        assert source is not None and geometry is not None
        H, W = self.pan.shape[-2:]
        return source, geometry.window((0, 0), (range(H)[self.inner[0]].start, range(W)[self.inner[1]].start))

    def moments(self, coarse: Tensor | None = None) -> Tensor | Spread:
        """Return features [lms, pan] (F, n) at valid pixels inside the margins, or what moments need of them.

        Where lms is interpolated here, sums of products with it are taken at the MS pixels, by the transposed
        interpolation: 1/r² of the work.

        Args:
            coarse: (1, K, h, w); if given, features are [lms, interpolated coarse, pan], and of products only those
                with pan, see `Spread.scatter`. Margins as for `blend`.
        """
        if self.given is not None or (coarse is None and self.valid is not None):
            more = () if coarse is None else (interpolate(coarse, self.geometry, self.pan.shape[-2:]),)
            return self.fine(self.lms, *more, self.pan)
        source, geometry = self._source(coarse is not None)
        features = (source if coarse is None else torch.cat((source, coarse), dim=1))[0]
        return _spread(features, self.crop(self.pan)[0, 0], geometry, self.valid, only_pan=coarse is not None)

    def fine(self, *images: Tensor) -> Tensor:
        """Return features (F, n) at the valid PAN pixels inside the margins, from images (1, ·, H, W)."""
        return _at(torch.cat([self.crop(x)[0] for x in images]), self.valid)

    def coarse(self, *images: Tensor) -> Tensor:
        """Return features (F, n) at the valid MS pixels inside the margins, from images (1, ·, h, w)."""
        return _at(torch.cat([x[0][..., self.inner_ms[0], self.inner_ms[1]] for x in images]), self.valid_ms)


@dataclass(frozen=True)
class Spread:
    """What moments of F features need to know of a window, float64.

    Attributes:
        count: pixels.
        mean: (F,).
        scatter: sums of products of deviations from the means: (F, F), or those with the last feature (F, 1).
    """

    count: int
    mean: Tensor
    scatter: Tensor


def _spread(features: Tensor, pan: Tensor, geometry: Geometry, valid: Tensor | None, only_pan: bool) -> Spread:
    """Return the spread of [interpolated features, pan] over the valid pixels of pan.

    With U the interpolation, ``sum(U f · pan) = sum(f · U' pan)`` and ``sum(U f · U g) = sum(f · U'U g)``.

    Args:
        features: (K, h, w) at MS pixels.
        pan: (H, W).
        geometry: of the two.
        valid: (H, W); None = all.
        only_pan: products with pan only; else all of them, and `valid` must be None.
    """
    small = (features.shape[-2], features.shape[-1])
    rows, columns = interpolation(small, geometry, pan.shape, pan.dtype, pan.device)
    axes = list(zip((rows, columns), small, strict=True))
    count = pan.numel() if valid is None else int(valid.sum())
    if count == 0:
        none = torch.zeros(len(features) + 1, dtype=torch.float64)
        return Spread(0, none, none[:, None])
    zero = (pan if valid is None else pan[valid]).mean()
    centred = pan - zero  # small numbers: sums in the dtype of pan lose nothing
    if valid is None:
        ones = torch.outer(*(matrix_sums(blocks, n) for blocks, n in axes))
    else:
        centred = centred * valid
        ones = apply_transposed(valid.to(pan), rows, columns, small)
    products = apply_transposed(centred, rows, columns, small)
    off = products.sum(dtype=torch.float64).cpu() / count  # of the mean of pan; interpolation keeps sums
    flat = features.to("cpu", torch.float64).flatten(1)
    middle = flat.mean(1, keepdim=True)
    flat = flat - middle
    step = flat @ ones.to(flat).flatten() / count
    mean = torch.cat((middle[:, 0] + step, (zero.cpu().double() + off)[None]))
    steps = torch.cat((step, off[None]))
    square = centred.square().sum(-1).to("cpu", torch.float64).sum()[None]
    last = torch.cat((flat @ products.to(flat).flatten(), square))[:, None]
    if only_pan:
        return Spread(count, mean, last - count * steps[:, None] * off)
    own = (transposed_product(blocks, n) for blocks, n in axes)
    seen = apply_to_both(flat.unflatten(1, small), *own).flatten(1)
    scatter = torch.cat((torch.cat((flat @ seen.T, last[:-1]), dim=1), last.T), dim=0)
    return Spread(count, mean, scatter - count * torch.outer(steps, steps))


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
    cut = tuple(slice(a.ms[0] - a.wide[0], a.ms[1] - a.wide[0]) for a in axes)
    own = geometry.window((rows.ms[0], columns.ms[0]), (rows.pan[0], columns.pan[0]))
    inner = slice(*rows.inner), slice(*columns.inner)
    inner_ms = slice(*rows.inner_ms), slice(*columns.inner_ms)
    around = geometry.window((rows.wide[0], columns.wide[0]), (rows.pan[0], columns.pan[0]))
    first = rows.ms[0], columns.ms[0]
    return Window(wide[..., cut[0], cut[1]], None, pan, own, inner, inner_ms, valid, valid_ms, wide, around, first)


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
