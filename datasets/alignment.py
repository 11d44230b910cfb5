"""Which pixels of an MS and a PAN GeoTIFF lie on the same ground, from their geotransforms.

Legend: r ratio, pixel size of MS over that of PAN. Windows are (first, end) along rows and columns, in a file's pixels.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lemamba.utils.errors import UserError
from lemamba.utils.formats.bounds import MAX_COMPRESSION

CACHE = 64  # MiB of decoded blocks that GDAL may keep
ALWAYS_READ = 64 * 2**20  # bytes of pixels, whatever the size of the file

Span = tuple[int, int]
Window = tuple[Span, Span]


@dataclass(frozen=True)
class Ground:
    """The common ground: windows of both files in their own pixels, and the ratio r."""

    ms: Window
    pan: Window
    ratio: int


@contextmanager
def open_aligned(ms_path: str | Path, pan_path: str | Path) -> Iterator[tuple[Any, Any, Ground]]:
    """Open an MS and a PAN GeoTIFF; give both rasterio datasets and the ground they share, on whole MS pixels.

    Raises:
        UserError: rasterio is absent, a file cannot be read, PAN of several bands, another coordinate system, rotated
            images, pixel sizes without a whole ratio, grids shifted against each other, no common ground.
    """
    try:
        import rasterio
        from rasterio.errors import NotGeoreferencedWarning
    except ImportError:
        raise UserError("reading GeoTIFF needs rasterio; install it with: pip install rasterio") from None
    paths = Path(ms_path), Path(pan_path)
    for path in paths:
        if not path.is_file():
            raise UserError(f'expected a GeoTIFF, "{path}" does not exist; check the path')
    try:
        with rasterio.Env(GDAL_CACHEMAX=CACHE), warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)  # becomes an error of one line below
            # by this driver alone: others take a text for a list of files and addresses to be read
            with rasterio.open(paths[0], driver="GTiff") as ms, rasterio.open(paths[1], driver="GTiff") as pan:
                if pan.count != 1:
                    raise UserError(
                        f"{paths[1]}: expected one band in the PAN image, given {pan.count}; swap --ms and --pan?"
                    )
                for file in (ms, pan):
                    check_blocks(file)
                    for band in alpha_bands(file):  # GDAL's own mark on the fourth band of 8 bits
                        print(
                            f"note: band {band} of {file.name} is marked as alpha and taken as a mask; where it is "
                            f"data: gdal_edit.py -colorinterp_{band} undefined {file.name}"
                        )
                yield ms, pan, common_ground(ms, pan)
    except Exception as error:
        if not is_complaint(error):
            raise
        raise UserError(f"cannot read the GeoTIFF pair: {str(error).rstrip('.')}; check the files") from error


def is_complaint(error: Exception) -> bool:
    """Tell whether rasterio raised `error`: about the file, then.

    Not all that GDAL reports of a damaged file comes as a `rasterio.errors.RasterioError`; the rest has no public
    class, so it is recognised by the package it comes from.
    """
    return type(error).__module__.partition(".")[0] == "rasterio"


def alpha_bands(source: Any) -> list[int]:
    """Return the bands (1-based) of an open file that are marked as alpha."""
    return [i for i, kind in zip(source.indexes, source.colorinterp, strict=True) if kind.name == "alpha"]


def check_blocks(source: Any) -> None:
    """Refuse a file of which GDAL would unfold more at once than it can hold: a block is read as a whole."""
    rows, columns = map(max, zip(*source.block_shapes, strict=True))
    declared = rows * columns * source.count * np.dtype(source.dtypes[0]).itemsize
    stored = Path(source.name).stat().st_size
    if declared > max(ALWAYS_READ, MAX_COMPRESSION * stored):
        raise UserError(f"{source.name} is {stored} bytes and declares blocks of {declared} bytes; the file is damaged")


def common_ground(ms: Any, pan: Any) -> Ground:
    """Return windows of two open rasterio datasets that cover the same ground in whole MS pixels.

    PAN may begin inside an MS pixel, but both grids must agree to a quarter of a PAN pixel everywhere.

    Raises:
        UserError: see `open_aligned`.
    """
    if (ms.crs is None) != (pan.crs is None):
        bare, other = (ms, pan) if ms.crs is None else (pan, ms)
        raise UserError(
            f"{bare.name} has no coordinate system, {other.name} has {other.crs}; name it (gdal_edit.py -a_srs)"
        )
    if ms.crs != pan.crs:
        raise UserError(f"{ms.name} and {pan.name} have different coordinate systems; reproject one")
    coarse, fine = ms.transform, pan.transform
    for file, t in ((ms, coarse), (pan, fine)):
        if not all(map(math.isfinite, t[:6])) or max(map(abs, t[:6])) > 1e12:
            raise UserError(f"{file.name} has a geotransform that is nowhere; correct it (gdal_edit.py -a_ullr)")
        if t.is_identity:
            raise UserError(f"{file.name} has no geotransform; add its corner and pixel size (gdal_edit.py -a_ullr)")
        if (t.b, t.d) != (0, 0) or not (t.a and t.e):
            raise UserError(f"{file.name} is rotated; resample both to a north-up grid")
    if min(abs(coarse.a), abs(coarse.e), abs(fine.a), abs(fine.e)) < 1e-9:
        raise UserError(f"expected pixels of some size, given {coarse.a} and {fine.a}; correct the geotransform")
    ratio = round(coarse.a / fine.a)
    if ratio < 2 or max(abs(coarse.a / fine.a - ratio), abs(coarse.e / fine.e - ratio)) > 1e-3:
        raise UserError(f"expected MS pixels a whole multiple of PAN pixels, given {coarse.a} and {fine.a}; resample")
    axes = [(coarse.f, coarse.e, fine.f, fine.e), (coarse.c, coarse.a, fine.c, fine.a)]
    spans = [
        _span(*axis, ratio, *sizes) for axis, sizes in zip(axes, zip(ms.shape, pan.shape, strict=True), strict=True)
    ]
    if None in spans:
        raise UserError(f"{ms.name} and {pan.name} share no ground; check that they belong together")
    (ms_rows, pan_rows), (ms_columns, pan_columns) = spans
    for (begin, step, pan_begin, pan_step), (own, other) in zip(axes, spans, strict=True):
        # Both ends: a pixel size that is a little off moves the far end, not the near one.
        off = [(begin + a * step - pan_begin) / pan_step - b for a, b in zip(own, other, strict=True)]
        if max(map(abs, off)) > 0.25:
            raise UserError(
                f"the grids of {ms.name} and {pan.name} are shifted by part of a pixel; resample PAN to MS's grid"
            )
    return Ground((ms_rows, ms_columns), (pan_rows, pan_columns), ratio)


def _span(
    begin: float, step: float, pan_begin: float, pan_step: float, ratio: int, size: int, pan_size: int
) -> tuple[Span, Span] | None:
    """Common pixels along one axis: of MS and of PAN; None where there are none."""
    offset = round((pan_begin - begin) / step * ratio)  # of PAN's first pixel from MS's, in PAN pixels
    first, last = max(0, -(-offset // ratio)), min(size, (offset + pan_size) // ratio)
    return ((first, last), (first * ratio - offset, last * ratio - offset)) if last > first else None
