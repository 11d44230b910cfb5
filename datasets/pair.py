"""An MS and a PAN image of the same ground as one scene that is read window by window.

`lms` of a window is made from the MS pixels around it, so a window equals the same window cut from the whole scene, and
memory does not grow with the scene.
Legend: ms (1, C, h, w), lms (1, C, H, W), pan (1, 1, H, W), r ratio, H = r * h. Windows are (first, end) along rows and
columns, counted from the corner of the common ground; boxes are (first row, first column, height, width) in pixels of
the result.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from lemamba.datasets.alignment import Ground, common_ground
from lemamba.datasets.nodata import RINGS, fill, fits
from lemamba.datasets.opening import Paths, Relation, files_of, open_images
from lemamba.datasets.raster import Raster, Window
from lemamba.datasets.simulation.sources import Scene, scene_from_rasters
from lemamba.operators import interp23
from lemamba.utils.errors import UserError
from lemamba.utils.facts import DataFacts
from lemamba.utils.formats.bounds import BEYOND, check_not_divided
from lemamba.utils.sensors import divisor_of, get_sensor

RATIOS = (2, 4, 8, 16)
MARGIN = 12  # interp23 looks 6 * (1 + 1/2 + 1/4 + …) < 12 MS pixels around it
BLOCK = 256  # side of the blocks of a written file; rows are written in multiples of it, and it is one of every r
WHOLE_COPIES = 13  # float64 copies of sr that fusing a whole scene holds at once; 12.5 measured, with PRACS on 8 bands


@contextmanager
def open_aligned(
    ms_path: Paths, pan_path: Paths, relation: Relation | None = None
) -> Iterator[tuple[Raster, Raster, Ground]]:
    """Open an MS and a PAN image; yield both and the ground they share, on whole MS pixels.

    Args:
        ms_path: a file, several files of single bands, or the folder of a product.
        pan_path: the same.
        relation: see `lemamba.datasets.opening.Relation`.

    Raises:
        UserError: what `open_images` or `common_ground` refuses.
    """
    with open_images(ms_path, pan_path, relation) as (ms, pan):
        yield ms, pan, common_ground(ms, pan)


@contextmanager
def open_pair(
    ms_path: Paths,
    pan_path: Paths,
    *,
    sensor: str | None = None,
    divisor: float | None = None,
    dtype: torch.dtype = torch.float32,
    relation: Relation | None = None,
) -> Iterator[ScenePair]:
    """Open an MS and a PAN image as a `ScenePair`, to be fused by windows.

    Args:
        ms_path: C bands, integers of at most 32 bits or floating point; an alpha band is taken as a mask. A file,
            several whose bands are stacked, or the folder of a product.
        pan_path: the same; of several bands the mean is taken.
        sensor: name; None = the product's, else "none".
        divisor: values are divided by it; None = the sensor's, but 255 for 8-bit files.
        dtype: of the tensors.
        relation: see `lemamba.datasets.opening.Relation`.

    Raises:
        UserError: what `open_aligned` refuses, a ratio that interp23 is not defined for, another number of bands than
            the sensor's.
    """
    with open_aligned(ms_path, pan_path, relation) as (ms, pan, ground):
        yield ScenePair(ms, pan, ground, sensor or files_of(ms_path, "ms")[1], divisor, dtype)


def load_pair(ms_path: Paths, pan_path: Paths, relation: Relation | None = None) -> Scene:
    """Read an MS and a PAN image whole, cut to the ground they share, to simulate a data set from.

    Raises:
        UserError: what `open_aligned` refuses, or pixels without data.
    """
    with open_aligned(ms_path, pan_path, relation) as (ms, pan, ground):
        return scene_from_rasters(ms, pan, ground)


class Side:
    """One of the two images: pixels by windows that are counted from the corner of the common ground."""

    def __init__(self, raster: Raster, ground: Window) -> None:
        self.raster, self.ground = raster, ground
        self.size = (ground[0][1] - ground[0][0], ground[1][1] - ground[1][0])
        self.dtype = np.dtype(raster.dtypes[0])
        self.gaps = raster.masked or self.dtype.kind == "f"  # NaN counts as no data

    def _in_file(self, spans: Window, reach: int) -> Window:
        """Return the window in the file's own pixels, enlarged by `reach` as far as the file extends."""
        rows, columns = (
            (max(0, ground[0] + a - reach), min(size, ground[0] + b + reach))
            for (a, b), ground, size in zip(spans, self.ground, self.raster.shape, strict=True)
        )
        return rows, columns

    def valid(self, spans: Window) -> np.ndarray:
        """Return which pixels (h, w) of the window have data in all bands."""
        if not self.gaps:
            return np.ones([b - a for a, b in spans], dtype=bool)
        return self.raster.read(self._in_file(spans, 0))[1]

    def pixels(self, spans: Window, margin: int = 0) -> np.ndarray:
        """Return the window as float64 (C, height + 2 margin, …), gaps filled; mirrored where the file ends."""
        wanted = [(a - margin, b + margin) for a, b in spans]
        inner = self._in_file(spans, margin)
        outer = self._in_file(spans, margin + RINGS) if self.gaps else inner
        image, valid = self.raster.read(outer)
        image = image.astype(np.float64)
        if not valid.all():
            image = fill(image, valid, self.mean)
        cuts = [slice(i[0] - o[0], i[1] - o[0]) for i, o in zip(inner, outer, strict=True)]
        image = image[:, cuts[0], cuts[1]]
        # Pixel a of the window is pixel ground + a of the file; what lies before 0 or after the end is mirrored.
        beyond = [
            (i[0] - (g[0] + w[0]), g[0] + w[1] - i[1]) for i, g, w in zip(inner, self.ground, wanted, strict=True)
        ]
        return np.pad(image, [(0, 0), *beyond], mode="reflect") if any(map(any, beyond)) else image

    @cached_property
    def _sample(self) -> np.ndarray:
        """Float64 pixels with data (C, n) of the subsampled image; n is 0 where it has none."""
        height, width = self.raster.shape
        step = max(1, max(height, width) // 256)
        image, valid = self.raster.read(size=(max(1, height // step), max(1, width // step)))
        return image.astype(np.float64)[:, valid]

    @cached_property
    def mean(self) -> np.ndarray:
        """Mean (C,) of each band of the subsampled image; 0 where it has no data at all."""
        return self._sample.mean(1) if self._sample.size else np.zeros(self.raster.count)

    @property
    def top(self) -> float:
        """The value that 99.99 % of the subsampled image do not exceed; 0 where it has no data at all."""
        return float(np.quantile(self._sample, 0.9999)) if self._sample.size else 0.0

    @property
    def largest(self) -> float:
        """Largest value of the subsampled image; 0 where it has no data at all."""
        return float(self._sample.max(initial=0.0))


class ScenePair:
    """A scene to be read by windows; made by `open_pair`.

    Attributes:
        facts: sensor, divisor, ratio, bands.
        ms, pan: the two images on the common ground.
        size: (H, W) of the common ground in PAN pixels, multiples of r.
        block: rows are best written in multiples of it.
        dtype: of the tensors; may be changed.
    """

    block = BLOCK

    def __init__(
        self, ms: Raster, pan: Raster, ground: Ground, sensor: str | None, divisor: float | None, dtype: torch.dtype
    ) -> None:
        """See `open_pair`."""
        self.ms, self.pan, self.dtype = Side(ms, ground.ms), Side(pan, ground.pan), dtype
        self.size = self.pan.size
        row = get_sensor(sensor or "none")
        if divisor is not None and not (math.isfinite(divisor) and divisor > 0):
            raise UserError(f"expected a positive divisor, given {divisor:g}; correct it")
        if ground.ratio not in RATIOS:
            raise UserError(f"expected a ratio of 2, 4, 8 or 16, the pixel sizes give {ground.ratio}; resample one")
        if row.bands not in (None, ms.count):
            raise UserError(
                f"expected {row.bands} bands for sensor {row.name}, {ms.path} has {ms.count}; name the right sensor"
            )
        for side in (self.ms, self.pan):
            names = set(side.raster.dtypes)
            if len(names) > 1 or side.dtype.kind not in "uif" or side.dtype.name in ("int64", "uint64"):
                raise UserError(
                    f"{side.raster.path}: expected one type, integers of at most 32 bits or floating point, given "
                    f"{', '.join(sorted(names))}; convert it (gdal_translate -ot)"
                )
        self._known = divisor is not None or row.name != "none"
        self.facts = DataFacts(row.name, float(divisor or row.divisor_for(self.ms.dtype)), ground.ratio, ms.count, 1)

    def check_range(self) -> str:
        """Check the divisor against the data, and take it from them where no sensor is known; return a remark or "".

        Raises:
            UserError: data that have been divided before, which would look black to a network.
        """
        if not self._known:
            self.facts = replace(self.facts, divisor=divisor_of(self.ms.top, self.ms.dtype))
            return (
                f"no sensor is known: values are divided by {self.facts.divisor:g}, by the range of "
                f"{self.ms.raster.path}; --sensor or --divisor overrides it"
            )
        largest, divisor = max(self.ms.largest, self.pan.largest), self.facts.divisor
        check_not_divided(f"{self.ms.raster.path} and {self.pan.raster.path}", largest, divisor)
        if largest > BEYOND * divisor:
            return f"the values reach {largest:g} and are divided by {divisor:g}; check --divisor"
        return ""

    @property
    def like(self) -> torch.Tensor:
        """An empty (1, C, 0, 0) with the bands and dtype of the result."""
        return torch.empty(1, self.facts.bands, 0, 0, dtype=self.dtype)

    def read(self, box: tuple[int, int, int, int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None:
        """Return (ms, lms, pan) of a box, divided by the divisor; None where no pixel has data.

        Args:
            box: multiples of r, inside `size`.
        """
        r, c, h, w = box
        fine = ((r, r + h), (c, c + w))
        if (self.ms.gaps or self.pan.gaps) and not self.valid(fine).any():
            return None
        ratio = self.facts.ratio
        wide = self._tensor(self.ms.pixels(self._coarse(fine), MARGIN))
        inside, far = slice(MARGIN, -MARGIN), slice(MARGIN * ratio, -MARGIN * ratio)
        lms = interp23(wide, ratio)[..., far, far]
        return wide[..., inside, inside], lms, self._tensor(self.pan.pixels(fine))

    def _coarse(self, fine: Window) -> Window:
        """Return the window of MS that covers a window of PAN."""
        rows, columns = ((a // self.facts.ratio, b // self.facts.ratio) for a, b in fine)
        return rows, columns

    def _tensor(self, image: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(image / self.facts.divisor)[None].to(self.dtype)

    def valid(self, fine: Window) -> np.ndarray:
        """Return which pixels (h, w) of a window have data in MS and PAN; it begins and ends on MS pixels."""
        coarse = self.ms.valid(self._coarse(fine))
        return self.pan.valid(fine) & coarse.repeat(self.facts.ratio, 0).repeat(self.facts.ratio, 1)

    def check_memory(self, limit: float) -> float:
        """Return the GiB that a method needs to fuse the scene as a whole; above `limit` GiB, raise `UserError`."""
        needed = WHOLE_COPIES * 8 * self.facts.bands * self.size[0] * self.size[1] / 2**30
        if needed > limit:
            raise UserError(
                f"expected a scene that needs at most {limit:g} GiB as a whole, this one needs about {needed:.1f}; "
                "raise --memory, crop the scene, or choose a method that works in tiles"
            )
        return needed

    @property
    def nodata(self) -> float | None:
        """What marks pixels without data in the result: MS's value, else PAN's, else one that a mask requires."""
        for raster in (self.ms.raster, self.pan.raster):
            if raster.nodata is not None and fits(raster.nodata, self.ms.dtype):
                return raster.nodata
        if not (self.ms.raster.masked or self.pan.raster.masked):
            return None
        return float("nan") if self.ms.dtype.kind == "f" else 0

    @property
    def transform(self) -> Any:
        """Geotransform of the result: PAN's, moved to the corner of the common ground."""
        (top, _), (left, _) = self.pan.ground
        t = self.pan.raster.transform
        return type(t)(t.a, t.b, t.c + left * t.a, t.d, t.e, t.f + top * t.e)
