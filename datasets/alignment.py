"""Where MS pixels lie under PAN pixels, from the geotransforms of two files, and which PAN pixels the result has.

Legend: r ratio, pixel size of MS over that of PAN. Windows are (first, end) along rows and columns, in a file's pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from lemamba.datasets.raster import Raster, Span, Window
from lemamba.utils.errors import UserError
from lemamba.utils.geometry import Geometry

SMALLEST, LARGEST = 1.5, 16.5  # ratios between which pairs are fused
_DRIFT = 0.1  # PAN pixels over the whole image by which a rounded geotransform may differ from a whole ratio
_ROUNDED = 0.02  # PAN pixels by which an offset may differ from a half or a whole one


@dataclass(frozen=True)
class Ground:
    """The common ground.

    Attributes:
        pan: PAN pixels whose centres lie in the MS image, in PAN's own pixels: the grid of the result.
        geometry: of MS pixel (0, 0) of its file, counted from the first of these PAN pixels.
    """

    pan: Window
    geometry: Geometry


def common_ground(ms: Raster, pan: Raster) -> Ground:
    """Return the common ground of two open images; any ratio from 1.5 to 16.5 and any offset will do.

    Raises:
        UserError: different coordinate systems, a rotated image, another ratio, no common ground.
    """
    _check_grids(ms, pan)
    coarse, fine = ms.transform, pan.transform
    axes = ((coarse.f, coarse.e, fine.f, fine.e), (coarse.c, coarse.a, fine.c, fine.a))
    places = []
    for (begin, step, pan_begin, pan_step), count in zip(axes, ms.shape, strict=True):
        ratio = step / pan_step
        if not SMALLEST <= ratio <= LARGEST:
            raise UserError(
                f"expected MS pixels {SMALLEST:g} to {LARGEST:g} times as large as PAN pixels, given {abs(step):g} and "
                f"{abs(pan_step):g}; {_advice(ms, pan)}"
            )
        places.append(_rounded(ratio, (begin - pan_begin) / pan_step + (ratio - 1) / 2, count))
    return ground_of(places[0], places[1], ms, pan)


def _advice(ms: Raster, pan: Raster) -> str:
    """Return what to do about pixel sizes that cannot be: cut images often keep those of another size."""
    ratios = {p / m for p, m in zip(pan.shape, ms.shape, strict=True)}
    ratio = ratios.pop()
    if not ratios and ratio.is_integer() and SMALLEST <= ratio <= LARGEST:
        return f"the sizes have ratio {ratio:g}: if the files lie in one place, add --assume_aligned"
    return "swap --ms and --pan, or resample one (gdalwarp -tr)"


def ground_of(rows: tuple[float, float], columns: tuple[float, float], ms: Raster, pan: Raster) -> Ground:
    """Return the common ground where (ratio, offset in pixels of the PAN file) are known along both axes.

    Raises:
        UserError: no common ground.
    """
    spans = [
        _covered(*axis, *sizes)
        for axis, sizes in zip((rows, columns), zip(ms.shape, pan.shape, strict=True), strict=True)
    ]
    if any(last <= first for first, last in spans):
        raise UserError(f"{ms.path} and {pan.path} share no ground; check that they belong together")
    whole = Geometry((rows[0], columns[0]), (rows[1], columns[1]))
    return Ground((spans[0], spans[1]), whole.window((0, 0), (spans[0][0], spans[1][0])))


def _check_grids(ms: Raster, pan: Raster) -> None:
    if (ms.crs is None) != (pan.crs is None):
        bare, other = (ms, pan) if ms.crs is None else (pan, ms)
        raise UserError(
            f"{bare.path} has no coordinate system, {other.path} has {other.crs}; assign it (gdal_edit.py -a_srs)"
        )
    if ms.crs != pan.crs:
        raise UserError(f"{ms.path} and {pan.path} have different coordinate systems; reproject one")
    for file in (ms, pan):
        t = file.transform
        if not all(map(math.isfinite, t[:6])) or max(map(abs, t[:6])) > 1e12:
            raise UserError(f"{file.path} has an impossible geotransform; correct it (gdal_edit.py -a_ullr)")
        if t.is_identity:
            raise UserError(f"{file.path} has no geotransform; add its corner and pixel size (gdal_edit.py -a_ullr)")
        if (t.b, t.d) != (0, 0) or not (t.a and t.e):
            raise UserError(f"{file.path} is rotated; resample both to a north-up grid")
    coarse, fine = ms.transform, pan.transform
    if min(abs(coarse.a), abs(coarse.e), abs(fine.a), abs(fine.e)) < 1e-9:
        raise UserError(f"expected a positive pixel size, given {coarse.a} and {fine.a}; correct the geotransform")
    if coarse.a * fine.a < 0 or coarse.e * fine.e < 0:
        raise UserError(f"{ms.path} or {pan.path} is flipped; bring both to a north-up grid (gdalwarp)")


def _rounded(ratio: float, offset: float, count: int) -> tuple[float, float]:
    """Undo the rounding of geotransforms: ratio and offset along one axis of `count` MS pixels."""
    whole = round(ratio)
    if abs(ratio - whole) * count <= _DRIFT:
        offset += (ratio - whole) * (count - 1) / 2  # the middle of the image stays where it is
        ratio = float(whole)
        if abs(2 * offset - round(2 * offset)) <= 2 * _ROUNDED:
            offset = round(2 * offset) / 2
    return ratio, offset


def _covered(ratio: float, offset: float, count: int, pan_count: int) -> Span:
    """Return the PAN pixels along one axis whose centres lie in the MS image."""
    first = math.ceil(offset - ratio / 2 - 1e-6)
    last = math.floor(offset + (count - 0.5) * ratio + 1e-6)
    return max(0, first), min(pan_count, last + 1)
