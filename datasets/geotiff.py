"""One GeoTIFF, read by windows. Needs rasterio, which is imported when a file is opened.

Legend: C bands, H W size. A window is (first, end) along rows and columns, in pixels of the file.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from lemamba.datasets.raster import Span, Window
from lemamba.utils.errors import UserError
from lemamba.utils.formats.bounds import ALWAYS_READ, MAX_COMPRESSION

CACHE = 64  # MiB of decoded blocks that GDAL may keep
_LABELS = ("descriptions", "colorinterp", "scales", "offsets", "units")


@contextmanager
def gdal_errors(what: str) -> Iterator[None]:
    """Turn what GDAL reports about a file into a `UserError` that begins with `what`; other errors pass unchanged.

    Not everything that GDAL reports about a damaged file is a `rasterio.errors.RasterioError`; the rest has no public
    class and is recognised by the package it comes from.
    """
    try:
        yield
    except Exception as error:
        if type(error).__module__.partition(".")[0] != "rasterio":
            raise
        raise UserError(f"{what}: {str(error).rstrip('.')}; check the file") from error


@contextmanager
def open_geotiff(path: str | Path) -> Iterator[GeoTiff]:
    """Open a GeoTIFF for reading.

    Raises:
        UserError: rasterio is not installed, the file does not exist, is no GeoTIFF, or declares blocks far larger than
            the file itself.
    """
    try:
        import rasterio
        from rasterio.errors import NotGeoreferencedWarning
    except ImportError:
        raise UserError("reading GeoTIFF needs rasterio; install it with: pip install rasterio") from None
    path = Path(path)
    if not path.is_file():
        raise UserError(f'expected a GeoTIFF, "{path}" does not exist; check the path')
    with rasterio.Env(GDAL_CACHEMAX=CACHE):
        with gdal_errors(f'cannot read "{path}" as GeoTIFF'), warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)  # alignment reports it as an error
            # With this driver only: others take a text file for a list of files and URLs to read.
            raster = GeoTiff(rasterio.open(path, driver="GTiff"), path)
        with raster.source:
            yield raster


class GeoTiff:
    """An open GeoTIFF; see `lemamba.datasets.raster.Raster`. An alpha band is taken as a mask.

    Attributes:
        source: the rasterio dataset.
        alpha: 1-based alpha bands.
    """

    def __init__(self, source: Any, path: Path) -> None:
        """Read the header and refuse blocks that GDAL could not hold: it decodes a block as a whole."""
        self.source, self.path = source, path
        self.shape: tuple[int, int] = source.shape
        rows, columns = map(max, zip(*source.block_shapes, strict=True))
        self._check_size(source.count * rows * columns, np.dtype(source.dtypes[0]), "blocks")
        # GDAL itself takes an alpha band as a mask only in files of 2 or 4 bands.
        alpha = [i for i, kind in zip(source.indexes, source.colorinterp, strict=True) if kind.name == "alpha"]
        self.alpha = alpha if len(alpha) < source.count else []
        self._bands = [i for i in source.indexes if i not in self.alpha]
        self.count = len(self._bands)
        self.dtypes: tuple[str, ...] = tuple(source.dtypes[i - 1] for i in self._bands)
        self.crs, self.transform, self.nodata = source.crs, source.transform, source.nodata
        self.masked = bool(self.alpha) or any(flags[0].name != "all_valid" for flags in source.mask_flag_enums)
        self.labels = {name: [getattr(source, name)[i - 1] for i in self._bands] for name in _LABELS}
        self.tags = source.tags()
        self.interleave: str = source.profile.get("interleave", "pixel")

    def _check_size(self, pixels: int, dtype: np.dtype, what: str) -> None:
        declared, stored = pixels * dtype.itemsize, self.path.stat().st_size
        if declared > max(ALWAYS_READ, MAX_COMPRESSION * stored):
            raise UserError(
                f"{self.path} is {stored} bytes and declares {what} of {declared} bytes; the file is damaged or empty"
            )

    def check_window(self, window: Window) -> None:
        """Refuse a window that declares far more bytes than the file stores; see `Raster.check_window`."""
        (top, bottom), (left, right) = window
        pixels = self.source.count * (bottom - top) * (right - left)
        self._check_size(pixels, np.dtype(self.source.dtypes[0]), "pixels")

    def read(self, window: Window | None = None, size: Span | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Read a window, or the whole image subsampled to `size`; see `Raster.read`."""

        def get(reader: Any, bands: list[int]) -> np.ndarray:
            return reader(bands, window=window, out_shape=(len(bands), *size) if size else None)

        with gdal_errors(f"{self.path} cannot be read to its end"):
            image = get(self.source.read, self._bands)
            floating = image.dtype.kind in "fc"
            valid = np.isfinite(image).all(0) if floating else np.ones(image.shape[1:], dtype=bool)
            if self.masked:
                valid &= (get(self.source.read_masks, self._bands) > 0).all(0)
            if self.alpha:
                valid &= (get(self.source.read, self.alpha) > 0).all(0)
        return image, valid
