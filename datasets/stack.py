"""Several open images as one: single-band files stacked to MS, and a PAN image of several bands as one guide band.

Legend: C bands, H W size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lemamba.datasets.raster import MULTISPECTRAL, Raster, Span, Window
from lemamba.utils.errors import UserError

_SMALL = 512  # side of the subsampled image in which the bands of a guide are compared


class Stack:
    """The bands of several images of one grid, one after the other; see `lemamba.datasets.raster.Raster`."""

    def __init__(self, rasters: Sequence[Raster]) -> None:
        """Stack open images; another size, coordinate system, type or geotransform is a `UserError`."""
        first = rasters[0]
        for other in rasters[1:]:
            _check_same_grid(first, other)
        self.rasters, self.path, self.shape = rasters, first.path, first.shape
        self.paths = tuple(p for r in rasters for p in getattr(r, "paths", (r.path,)))
        self.count = sum(r.count for r in rasters)
        self.dtypes = tuple(name for r in rasters for name in r.dtypes)
        self.crs, self.transform, self.interleave = first.crs, first.transform, first.interleave
        values = {r.nodata for r in rasters}
        self.nodata = next(iter(values)) if len(values) == 1 else None
        self.masked = any(r.masked for r in rasters)
        self.rpc = any(getattr(r, "rpc", False) for r in rasters)
        named = [name for name in first.labels if all(name in r.labels for r in rasters)]
        self.labels: dict[str, list[Any]] = {n: [v for r in rasters for v in r.labels[n]] for n in named}
        if "descriptions" in named:
            names = [r.path.stem for r in rasters for _ in range(r.count)]
            kept = self.labels["descriptions"]
            self.labels["descriptions"] = [own or name for own, name in zip(kept, names, strict=True)]
        self.tags = {k: v for k, v in first.tags.items() if all(r.tags.get(k) == v for r in rasters)}

    def read(self, window: Window | None = None, size: Span | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Read a window of all bands; see `Raster.read`."""
        parts = [raster.read(window, size) for raster in self.rasters]
        return np.concatenate([image for image, _ in parts]), np.logical_and.reduce([valid for _, valid in parts])

    def check_window(self, window: Window) -> None:
        """See `Raster.check_window`."""
        for raster in self.rasters:
            raster.check_window(window)


def _check_same_grid(first: Raster, other: Raster) -> None:
    for what, one, two in (
        ("size", first.shape, other.shape),
        ("coordinate system", first.crs, other.crs),
        ("type", first.dtypes[0], other.dtypes[0]),
    ):
        if one != two:
            given = f"{one[0]}x{one[1]} and {two[0]}x{two[1]}" if what == "size" else f"{one} and {two}"
            raise UserError(
                f"{first.path} and {other.path} are stacked and differ in their {what}: {given}; {_FIX[what]}"
            )
    pixel = abs(first.transform.a) or 1.0
    differ = max(abs(a - b) for a, b in zip(first.transform[:6], other.transform[:6], strict=True))
    if differ > 1e-3 * pixel:
        raise UserError(
            f"{first.path} and {other.path} are stacked and their corners or pixel sizes differ; "
            "resample one to the other's grid (gdalwarp -te … -tr …)"
        )


_FIX = {
    "size": "give bands of one resolution",
    "coordinate system": "reproject one (gdalwarp -t_srs)",
    "type": "convert one (gdal_translate -ot)",
}


class Guide:
    """One band made of an image of several: one of them, or the mean of all; see `Raster`."""

    def __init__(self, raster: Raster, bands: Sequence[int]) -> None:
        """Take the mean of the 0-based `bands` of an open image; of one band, the band itself."""
        self.raster, self.bands, self.path, self.shape, self.count = raster, list(bands), raster.path, raster.shape, 1
        self.paths = getattr(raster, "paths", (raster.path,))
        self.dtypes: tuple[str, ...] = (raster.dtypes[bands[0]],) if len(bands) == 1 else ("float32",)
        self.crs, self.transform, self.nodata = raster.crs, raster.transform, raster.nodata
        self.masked, self.tags, self.interleave = raster.masked, raster.tags, raster.interleave
        self.rpc = getattr(raster, "rpc", False)
        self.labels: dict[str, list[Any]] = {}
        self.check_window = raster.check_window

    def read(self, window: Window | None = None, size: Span | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Read a window; see `Raster.read`."""
        image, valid = self.raster.read(window, size)
        if len(self.bands) == 1:
            return image[self.bands], valid
        return image[self.bands].mean(0, dtype=np.float64, keepdims=True).astype(np.float32), valid


class Chosen(Guide):
    """Some bands of an image, in an order of their own."""

    def __init__(self, raster: Raster, bands: Sequence[int]) -> None:
        """Take the 0-based `bands` of an open image."""
        super().__init__(raster, bands)
        self.count, self.dtypes = len(self.bands), tuple(raster.dtypes[band] for band in bands)
        self.labels = {name: [values[band] for band in bands] for name, values in raster.labels.items()}

    def read(self, window: Window | None = None, size: Span | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Read a window; see `Raster.read`."""
        image, valid = self.raster.read(window, size)
        return image[self.bands], valid


class Masked(Guide):
    """The first of two bands; the second holds 0 where there are no data."""

    def __init__(self, raster: Raster) -> None:
        """See the class."""
        super().__init__(raster, [0])
        self.masked = True

    def read(self, window: Window | None = None, size: Span | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Read a window; see `Raster.read`."""
        image, valid = self.raster.read(window, size)
        return image[:1], valid & (image[1] != 0)


def as_guide(raster: Raster, ms: Raster) -> Raster:
    """Return the guide, and print what was made of several bands.

    A hyperspectral image (more than `MULTISPECTRAL` bands) is given all bands of its guide. Otherwise the guide is
    one PAN band: a second band that holds 0 and the largest number only is a mask; bands that are all alike (grey
    stored as RGB) are one; of others the mean is taken, as a panchromatic band sums what several bands see.

    Args:
        raster: the PAN image.
        ms: the MS image, to notice that the two were confused.

    Raises:
        UserError: several bands in an image that is not larger than MS, or as many as the hyperspectral image has.
    """
    if raster.count == 1:
        return raster
    if ms.count > MULTISPECTRAL and raster.shape[0] >= ms.shape[0] and raster.shape[1] >= ms.shape[1]:
        return _several(raster, ms)
    if raster.shape[0] <= ms.shape[0] and raster.shape[1] <= ms.shape[1]:
        raise UserError(
            f"{raster.path}: expected one band in the PAN image, given {raster.count}; swap --ms and --pan?"
        )
    small, seen = _subsampled(raster)
    if _is_mask(small):
        print(f"note: the second band of {raster.path} holds 0 and {np.iinfo(small.dtype).max} only: taken as a mask")
        return Masked(raster)
    if (seen == seen[:1]).all():
        print(f"note: the {raster.count} bands of {raster.path} are alike; one is taken as PAN")
        return Guide(raster, [0])
    print(f"note: {raster.path} has {raster.count} guide bands; their mean is taken as PAN (for one, give its file)")
    return Guide(raster, range(raster.count))


def _several(raster: Raster, ms: Raster) -> Raster:
    """Return the guide of a hyperspectral image: all bands, without a mask or copies of one band."""
    if raster.count >= ms.count:
        raise UserError(
            f"expected fewer bands in the guide than in the hyperspectral image, given {raster.count} ({raster.path}) "
            f"and {ms.count} ({ms.path}); swap --ms and --pan?"
        )
    small, seen = _subsampled(raster)
    if _is_mask(small):
        print(f"note: the second band of {raster.path} holds 0 and {np.iinfo(small.dtype).max} only: taken as a mask")
        return Masked(raster)
    if (seen == seen[:1]).all():
        print(f"note: the {raster.count} bands of {raster.path} are alike; one is taken as guide")
        return Guide(raster, [0])
    return raster


def _subsampled(raster: Raster) -> tuple[np.ndarray, np.ndarray]:
    """Return an image of at most about `_SMALL` pixels a side, (C, h, w), and its pixels with data (C, n)."""
    step = max(1, max(raster.shape) // _SMALL)
    small, valid = raster.read(size=(max(1, raster.shape[0] // step), max(1, raster.shape[1] // step)))
    return small, small[:, valid]


def _is_mask(small: np.ndarray) -> bool:
    """Return whether the second of two bands holds 0 and the largest number only."""
    return len(small) == 2 and small.dtype.kind == "u" and bool(np.isin(small[1], (0, np.iinfo(small.dtype).max)).all())
