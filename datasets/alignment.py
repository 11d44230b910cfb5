"""Which pixels of an MS and a PAN image cover the same ground, from their geotransforms.

Legend: r ratio, pixel size of MS over that of PAN. Windows are (first, end) along rows and columns, in a file's pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from lemamba.datasets.raster import Raster, Span, Window
from lemamba.utils.errors import UserError


@dataclass(frozen=True)
class Ground:
    """The common ground: windows of both files in their own pixels, and the ratio r."""

    ms: Window
    pan: Window
    ratio: int


def common_ground(ms: Raster, pan: Raster) -> Ground:
    """Return the windows of two open images that cover the same ground, in whole MS pixels.

    PAN may begin inside an MS pixel, but both grids must agree to a quarter of a PAN pixel everywhere.

    Raises:
        UserError: different coordinate systems, rotated images, pixel sizes without a whole ratio, grids shifted
            against each other, no common ground.
    """
    if (ms.crs is None) != (pan.crs is None):
        bare, other = (ms, pan) if ms.crs is None else (pan, ms)
        raise UserError(
            f"{bare.path} has no coordinate system, {other.path} has {other.crs}; assign it (gdal_edit.py -a_srs)"
        )
    if ms.crs != pan.crs:
        raise UserError(f"{ms.path} and {pan.path} have different coordinate systems; reproject one")
    coarse, fine = ms.transform, pan.transform
    for file, t in ((ms, coarse), (pan, fine)):
        if not all(map(math.isfinite, t[:6])) or max(map(abs, t[:6])) > 1e12:
            raise UserError(f"{file.path} has an impossible geotransform; correct it (gdal_edit.py -a_ullr)")
        if t.is_identity:
            raise UserError(f"{file.path} has no geotransform; add its corner and pixel size (gdal_edit.py -a_ullr)")
        if (t.b, t.d) != (0, 0) or not (t.a and t.e):
            raise UserError(f"{file.path} is rotated; resample both to a north-up grid")
    if min(abs(coarse.a), abs(coarse.e), abs(fine.a), abs(fine.e)) < 1e-9:
        raise UserError(f"expected a positive pixel size, given {coarse.a} and {fine.a}; correct the geotransform")
    ratio = round(coarse.a / fine.a)
    if ratio < 2 or max(abs(coarse.a / fine.a - ratio), abs(coarse.e / fine.e - ratio)) > 1e-3:
        raise UserError(f"expected MS pixels a whole multiple of PAN pixels, given {coarse.a} and {fine.a}; resample")
    axes = [(coarse.f, coarse.e, fine.f, fine.e), (coarse.c, coarse.a, fine.c, fine.a)]
    rows, columns = (
        _span(*axis, ratio, *sizes) for axis, sizes in zip(axes, zip(ms.shape, pan.shape, strict=True), strict=True)
    )
    if rows is None or columns is None:
        raise UserError(f"{ms.path} and {pan.path} share no ground; check that they belong together")
    for (begin, step, pan_begin, pan_step), (span, pan_span) in zip(axes, (rows, columns), strict=True):
        # Both ends are checked: a pixel size that is slightly wrong shifts the far end, not the near one.
        shifts = [(begin + a * step - pan_begin) / pan_step - b for a, b in zip(span, pan_span, strict=True)]
        if max(map(abs, shifts)) > 0.25:
            raise UserError(
                f"the grids of {ms.path} and {pan.path} are shifted by part of a pixel; resample PAN to MS's grid"
            )
    return Ground((rows[0], columns[0]), (rows[1], columns[1]), ratio)


def _span(
    begin: float, step: float, pan_begin: float, pan_step: float, ratio: int, size: int, pan_size: int
) -> tuple[Span, Span] | None:
    """Return the common pixels along one axis, of MS and of PAN; None where there are none."""
    offset = round((pan_begin - begin) / step * ratio)  # from MS's first pixel to PAN's, in PAN pixels
    first, last = max(0, -(-offset // ratio)), min(size, (offset + pan_size) // ratio)
    return ((first, last), (first * ratio - offset, last * ratio - offset)) if last > first else None
