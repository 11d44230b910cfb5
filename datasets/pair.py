"""An MS and a PAN image of the same ground as one scene that is read window by window.

The result has PAN's own pixels. `lms` of a window is interpolated from the MS pixels around it, wherever they lie under
PAN's, so a window equals the same window cut from the whole scene, and memory does not grow with the scene. What a
window needs outside a file is mirrored, the edge pixel repeated. A pixel that is missing in one image is missing in
both; gaps are filled before any filter sees them (`lemamba.datasets.nodata`).
Legend: ms (1, C, h, w), lms (1, C, H, W), pan (1, 1, H, W), r nominal ratio. PAN pixels are counted from the corner of
the common ground, MS pixels from the corner of their file. Spans are (first, end).
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from lemamba.datasets.alignment import Ground, common_ground
from lemamba.datasets.arrays import ArrayRaster, truth_next_to
from lemamba.datasets.guide_order import checked_order
from lemamba.datasets.nodata import RINGS, fill, fits, unmarked_area
from lemamba.datasets.opening import Paths, Relation, files_of, open_images
from lemamba.datasets.raster import MULTISPECTRAL, Raster, Span, Window
from lemamba.datasets.simulation.sources import Cube, Scene, cube_from_raster
from lemamba.datasets.stack import Chosen
from lemamba.datasets.usable_bands import dead_bands, named, noisy_bands
from lemamba.operators import interpolate, resample
from lemamba.operators import window as windows
from lemamba.operators.resample import MARGIN
from lemamba.utils.errors import UserError
from lemamba.utils.facts import DataFacts
from lemamba.utils.formats.bounds import BEYOND, check_not_divided
from lemamba.utils.geometry import Geometry
from lemamba.utils.sensors import divisor_of, get_sensor

BLOCK = 256  # side of the blocks of a written file
OVERVIEW = 256  # side of the subsampled images from which means and units are taken
_READING = threading.Lock()  # GDAL serves a file to one thread at a time: pixels are read ahead, masks while writing
LITTLE = 0.2  # share of pixels with data below which a user should know
SAME_UNITS = (0.5, 2.0)  # PAN's mean over that of the intensity: outside, PAN is in other units


@contextmanager
def open_aligned(
    ms_path: Paths, pan_path: Paths, relation: Relation | None = None, nodata: float | None = None
) -> Iterator[tuple[Raster, Raster, Ground]]:
    """Open an MS and a PAN image; yield both and the ground they share.

    Args:
        ms_path: a file, several files of single bands, or the folder of a product.
        pan_path: the same.
        relation: see `lemamba.datasets.opening.Relation`.
        nodata: see `open_images`.

    Raises:
        UserError: what `open_images` or `common_ground` refuses.
    """
    with open_images(ms_path, pan_path, relation, nodata=nodata) as (ms, pan):
        yield ms, pan, common_ground(ms, pan)


@contextmanager
def open_pair(
    ms_path: Paths,
    pan_path: Paths,
    *,
    sensor: str | None = None,
    divisor: float | None = None,
    nodata: float | None = None,
    relation: Relation | None = None,
    guide_order: tuple[int, ...] = (),
    drop_dead: bool = False,
) -> Iterator[ScenePair]:
    """Open an MS and a PAN image as a `ScenePair`, to be fused by windows.

    Args:
        ms_path: C bands, integers of at most 32 bits or floating point; an alpha band is taken as a mask. A file,
            several whose bands are stacked, or the folder of a product.
        pan_path: the same; of several bands the mean is taken, unless ms is hyperspectral (`as_guide`).
        sensor: name; None = the product's, else "none".
        divisor: values are divided by it; None = the sensor's, but 255 for 8-bit files.
        nodata: pixels that have this value in all bands are missing, whatever the files mark.
        relation: see `lemamba.datasets.opening.Relation`.
        guide_order: guide bands in the wanted order, from 1; () = as stored.
        drop_dead: leave out hyperspectral bands that hold no image (`lemamba.datasets.usable_bands`).

    Raises:
        UserError: what `open_aligned` refuses, another number of bands than the sensor's, or an unknown type.
    """
    with open_aligned(ms_path, pan_path, relation, nodata) as (ms, pan, ground):
        if guide_order:
            pan = Chosen(pan, checked_order(guide_order, pan.count))
        kept, whole = usable(ms, drop_dead), ms
        if len(kept) < ms.count:
            ms = Chosen(ms, kept)
        pair = ScenePair(ms, pan, ground, sensor or files_of(ms_path, "ms")[1], divisor, nodata)
        pair.whole, pair.kept = whole, kept
        yield pair


def usable(ms: Raster, drop: bool) -> list[int]:
    """Name the bands of a hyperspectral image that hold no image; return the 0-based bands to fuse.

    Args:
        ms: the image.
        drop: leave those bands out; False keeps all.
    """
    dead = dead_bands(ms)
    noisy = noisy_bands(ms, dead)
    for bands, what in ((dead, "hold one value"), (noisy, "correlate with no neighbour, as noise where air absorbs")):
        if bands:
            advice = "left out" if drop else f"{'dead? ' if bands is dead else ''}--drop_dead leaves them out"
            print(f"note: {named(ms, bands)} {what}: {advice}")
    return [band for band in range(ms.count) if not drop or band + 1 not in {*dead, *noisy}]


def load_pair(
    ms_path: Paths,
    pan_path: Paths,
    relation: Relation | None = None,
    *,
    nodata: float | None = None,
    scale: float | None = None,
) -> Scene | Cube:
    """Read an MS and a PAN image whole, cut to the ground they share, to simulate a data set from.

    Args:
        ms_path, pan_path, nodata: see `open_pair`.
        scale: values of a cube are divided by it, see `Cube`.

    Returns:
        The scene, or for a hyperspectral image and a guide of one size a cube with its guide. The scene's `valid`
        marks the MS pixels that have data in both images, None where all have.

    Raises:
        UserError: what `open_pair` refuses, a ratio that is not whole, or no pixel with data.
    """
    with open_images(ms_path, pan_path, relation, equal=True, nodata=nodata) as (ms, pan):
        if ms.shape == pan.shape:
            return _guided_cube(ms, pan, scale)
        pair = ScenePair(ms, pan, common_ground(ms, pan), files_of(ms_path, "ms")[1], None, nodata)
        for line in pair.notes:
            print(f"note: {line}")
        return replace(pair.scene(), gt=_truth(ms, pair))


def _guided_cube(ms: Raster, guide: Raster, scale: float | None) -> Cube:
    """Return a hyperspectral image and a guide of one size as a cube with its guide, both divided by one number."""
    cube = cube_from_raster(ms, scale)
    image, valid = guide.read()
    if not valid.all():
        raise UserError(f"{guide.path}: {int((~valid).sum())} pixels have no data; cut out a part where all have")
    return replace(cube, guide=image.astype(np.float64) / cube.scale, paths=tuple(dict.fromkeys((ms.path, guide.path))))


def _truth(ms: Raster, pair: ScenePair) -> np.ndarray | None:
    """Return the ground truth (C, H, W) that an array file holds next to the pair, None where it holds none."""
    found: np.ndarray | None = truth_next_to(ms.path) if isinstance(ms, ArrayRaster) else None
    if found is not None and found.shape != (pair.facts.bands, *pair.size):
        raise UserError(
            f"{ms.path}: expected the ground truth as {pair.facts.bands} bands of {pair.size[0]}x{pair.size[1]} "
            f"pixels, given {found.shape}; leave it out or correct it"
        )
    return found


class Side:
    """One of the two images.

    Attributes:
        raster: the file.
        first: rows and columns of the file where spans begin to count.
        gaps: whether pixels may be missing.
    """

    def __init__(self, raster: Raster, first: tuple[int, int], nodata: float | None) -> None:
        self.raster, self.first, self.nodata = raster, first, nodata
        self.dtype = np.dtype(raster.dtypes[0])
        # NaN counts as missing
        self.gaps = raster.masked or self.dtype.kind == "f" or nodata is not None

    def read(self, rows: Span, columns: Span) -> tuple[np.ndarray, np.ndarray]:
        """Return pixels (C, h, w) in the file's dtype and which of them have data (h, w); mirrored outside the file."""
        index, inside = [], []
        for (first, last), start, n in zip((rows, columns), self.first, self.raster.shape, strict=True):
            place = np.arange(first + start, last + start) % (2 * n)
            place = np.where(place < n, place, 2 * n - 1 - place)
            inside.append((int(place.min()), int(place.max()) + 1))
            index.append(place - inside[-1][0])
        with _READING:
            image, valid = self.raster.read((inside[0], inside[1]))
        valid = self.marked(image, valid)
        for axis, places in zip((-2, -1), index, strict=True):
            image, valid = _picked(image, places, axis), _picked(valid, places, axis)
        return image, valid

    def marked(self, image: np.ndarray, valid: np.ndarray) -> np.ndarray:
        """Return `valid` without the pixels that are marked by the value that the user named."""
        return valid if self.nodata is None else valid & ~(image == self.nodata).all(0)

    @cached_property
    def small(self) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, np.ndarray]]:
        """The whole file subsampled: float64 pixels (C, h, w), `valid` (h, w), and where they lie (rows, columns)."""
        height, width = self.raster.shape
        step = max(1, max(height, width) // OVERVIEW)
        size = max(1, height // step), max(1, width // step)
        image, valid = self.raster.read(size=size)
        places = [
            (np.arange(m) + 0.5) * n / m - 0.5 - first
            for m, n, first in zip(size, self.raster.shape, self.first, strict=True)
        ]
        return image.astype(np.float64), self.marked(image, valid), (places[0], places[1])


def _picked(image: np.ndarray, index: np.ndarray, axis: int) -> np.ndarray:
    """Return `image` at these places of an axis; the long part that is in order is not picked pixel by pixel."""
    if np.array_equal(index, np.arange(image.shape[axis])):
        return image
    ends = np.concatenate(([0], np.flatnonzero(np.diff(index) != 1) + 1, [len(index)]))
    longest = int(np.diff(ends).argmax())
    first, last = ends[longest], ends[longest + 1]
    cut = [slice(None)] * image.ndim
    cut[axis] = slice(index[first], index[last - 1] + 1)
    return np.concatenate(
        (image.take(index[:first], axis), image[tuple(cut)], image.take(index[last:], axis)), axis=axis
    )


@dataclass(frozen=True)
class Overview:
    """Both images at the same places of the common ground, subsampled to about 256 pixels a side.

    Attributes:
        ms: (C, h, w).
        pan: (1, h, w).
        valid: (h, w), where both have data.
    """

    ms: np.ndarray
    pan: np.ndarray
    valid: np.ndarray

    def mean(self, image: np.ndarray) -> np.ndarray:
        """Mean of each band over valid pixels; 0 where there are none."""
        return image[:, self.valid].mean(1) if self.valid.any() else np.zeros(len(image))

    def largest(self, image: np.ndarray) -> float:
        """Largest value of an image; 0 where it has no data at all."""
        return float(image[:, self.valid].max(initial=0.0))

    def top(self, image: np.ndarray) -> float:
        """The value that 99.99 % of an image's valid pixels do not exceed; 0 where it has no data at all."""
        return float(np.quantile(image[:, self.valid], 0.9999)) if self.valid.any() else 0.0


class ScenePair:
    """A scene to be read by windows; made by `open_pair`.

    Attributes:
        facts: sensor, divisor, ratio, geometry, bands.
        ms, pan: the two images.
        size: (H, W) of the result in PAN pixels.
        gaps: whether pixels may be missing.
        block: windows are best written on multiples of it.
        pan_factor: PAN is multiplied by it, so that it has MS's units; 1 where it has them.
        whole: the MS image with all its bands; `ms` may hold fewer.
        kept: 0-based bands of `whole` that `ms` holds.
        notes: what a user should know of these files, one line each.
    """

    block = BLOCK

    def __init__(
        self,
        ms: Raster,
        pan: Raster,
        ground: Ground,
        sensor: str | None = None,
        divisor: float | None = None,
        nodata: float | None = None,
    ) -> None:
        """See `open_pair`."""
        (top, bottom), (left, right) = ground.pan
        self.ms, self.pan = Side(ms, (0, 0), nodata), Side(pan, (top, left), nodata)
        self.whole, self.kept = ms, list(range(ms.count))
        self.size = (bottom - top, right - left)
        row = get_sensor(sensor or "none")
        if divisor is not None and not (math.isfinite(divisor) and divisor > 0):
            raise UserError(f"expected a positive divisor, given {divisor:g}; correct it")
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
        self.gaps = self.ms.gaps or self.pan.gaps
        self._known = divisor is not None or row.name != "none"
        self.facts = DataFacts(
            row.name,
            float(divisor or row.divisor_for(self.ms.dtype)),
            ground.geometry.nominal,
            ms.count,
            pan.count,
            geometry=ground.geometry,
        )

    # -- what the files say --------------------------------------------------------------------------------------

    @cached_property
    def overview(self) -> Overview:
        """Both images, subsampled."""
        pan, pan_valid, places = self.pan.small
        ms, ms_valid, _ = self.ms.small
        index, inside = [], []
        for axis, (place, n, m, size) in enumerate(
            zip(places, self.ms.raster.shape, ms_valid.shape, self.size, strict=True)
        ):
            at = np.array([self.facts.geometry.ms_index(p, axis) for p in place])
            index.append(np.clip(np.rint((at + 0.5) * m / n - 0.5), 0, m - 1).astype(int))
            inside.append((place > -0.5) & (place < size - 0.5))
        grid = np.ix_(*index)
        valid = pan_valid & ms_valid[grid] & inside[0][:, None] & inside[1]
        return Overview(np.stack([band[grid] for band in ms]), pan, valid)

    @cached_property
    def pan_factor(self) -> float:
        """Mean of the intensity of MS over that of PAN where these are units apart, else 1."""
        return unit_factor(*self._means)

    @property
    def brightness(self) -> float:
        """Mean of PAN, in MS's units, over that of the intensity of MS; 1 where one of them is not positive."""
        ms, pan = self._means
        return pan * self.pan_factor / ms if ms > 0 and pan > 0 else 1.0

    @cached_property
    def _means(self) -> tuple[float, float]:
        """See `unit_means`."""
        seen = self.overview
        return unit_means(seen.ms[:, seen.valid], seen.pan[:, seen.valid])

    @property
    def notes(self) -> list[str]:
        """What a user should know: PAN in other units, an area without data that nothing marks, bands of one value."""
        lines, seen = [], self.overview
        for side, image in ((self.ms, seen.ms), (self.pan, seen.pan)):
            flat = [band for band, values in enumerate(image[:, seen.valid], 1) if values.size and not np.ptp(values)]
            if flat and side.raster.count <= MULTISPECTRAL:  # hyperspectral ones are named by `usable`
                which = f"band{'s' * (len(flat) > 1)} {', '.join(map(str, flat))} of {side.raster.path}"
                so = "nothing of it can be sharpened" if side is self.ms else "it adds nothing"
                lines.append(f"{which}: one value wherever it was read, so {so}")
        if 0 < seen.valid.mean() < LITTLE:
            lines.append(
                f"{1 - seen.valid.mean():.0%} of the pixels have no data in both images: they stay without, and what "
                "is near them is estimated from few pixels"
            )
        dark: dict[float, list[str]] = {}
        for side, image in ((self.ms, seen.ms), (self.pan, seen.pan)):
            value, share = unmarked_area(image, seen.valid, side.dtype)
            if share:
                dark.setdefault(value, []).append(f"{share:.0%} of {side.raster.path}")
        for value, areas in dark.items():
            lines.append(
                f"{' and '.join(areas)}: {value:g} throughout one area, not marked as missing; if it holds no "
                f"data, give --nodata {value:g}"
            )
        if self.pan_factor != 1:
            ms, pan = self._means
            lines.append(other_units(ms, pan))
        return lines

    def check_range(self) -> str:
        """Check the divisor against the data, and take it from them where no sensor is known; return a remark or "".

        Raises:
            UserError: data that have been divided before, which would look black to a network.
        """
        seen = self.overview
        if not self._known:
            self.facts = replace(self.facts, divisor=divisor_of(seen.top(seen.ms), self.ms.dtype))
            return (
                f"no sensor is known: values are divided by {self.facts.divisor:g}, by the range of "
                f"{self.ms.raster.path}; --sensor or --divisor overrides it"
            )
        divisor = self.facts.divisor
        largest = max(seen.largest(seen.ms), seen.largest(seen.pan) * self.pan_factor)
        check_not_divided(f"{self.ms.raster.path} and {self.pan.raster.path}", largest, divisor)
        if largest > BEYOND * divisor:
            return f"the values reach {largest:g} and are divided by {divisor:g}; check --divisor"
        return ""

    @property
    def dtype(self) -> torch.dtype:
        """What classical methods compute in: float32 holds 16-bit integers with 8 bits to spare."""
        small = all(side.dtype.kind in "ui" and side.dtype.itemsize <= 2 for side in (self.ms, self.pan))
        return torch.float32 if small else torch.float64

    @property
    def nodata(self) -> float | None:
        """What marks missing pixels in the result: MS's value, else PAN's, the user's, or one that gaps require.

        None where nothing can be missing, and for floating point that only NaN marks: it needs no other mark.
        """
        for value in (self.ms.raster.nodata, self.pan.raster.nodata, self.ms.nodata):
            if value is not None and fits(value, self.ms.dtype):
                return value
        if self.ms.dtype.kind == "f":
            return float("nan") if self.ms.raster.masked or self.pan.raster.masked else None
        return 0 if self.gaps else None

    @property
    def transform(self) -> Any:
        """Geotransform of the result: PAN's, moved to the corner of the common ground."""
        (top, left), t = self.pan.first, self.pan.raster.transform
        return type(t)(t.a, t.b, t.c + left * t.a, t.d, t.e, t.f + top * t.e)

    # -- missing pixels ------------------------------------------------------------------------------------------

    def valid(self, window: Window) -> np.ndarray:
        """Return which PAN pixels (h, w) of a window have data in both images."""
        if not self.gaps:
            return np.ones([last - first for first, last in window], dtype=bool)
        found = self.pan.read(*window)[1] if self.pan.gaps else np.array(True)
        return found & self._ms_under(window) if self.ms.gaps else found

    def _ms_under(self, window: Window) -> np.ndarray:
        """Return for every PAN pixel of a window whether the MS pixel at it has data."""
        geometry = self.facts.geometry
        at = [
            np.floor((np.arange(*span) - o) / r + 0.5).astype(int)
            for span, o, r in zip(window, geometry.offset, geometry.ratio, strict=True)
        ]
        # rounding may put the outermost PAN pixel half-way outside the file
        at = [np.clip(i, min(0, i.max()), max(n - 1, i.min())) for i, n in zip(at, self.ms.raster.shape, strict=True)]
        valid = self.ms.read(*((int(i.min()), int(i.max()) + 1) for i in at))[1]
        return valid[np.ix_(*(i - i.min() for i in at))]

    def _valid_ms(self, rows: Span, columns: Span, own: np.ndarray) -> np.ndarray:
        """Return which MS pixels have data: their own, and PAN at more than half of the PAN pixels at them.

        Where PAN's file ends, its gaps are mirrored like its pixels.
        """
        if not self.pan.gaps:
            return own
        geometry = self.facts.geometry
        starts = [
            np.ceil(o + (np.arange(first, last + 1) - 0.5) * r - 1e-9).astype(int)
            for (first, last), o, r in zip((rows, columns), geometry.offset, geometry.ratio, strict=True)
        ]
        spans = [(int(s[0]), int(s[-1])) for s in starts]
        valid = self.pan.read(*spans)[1]
        counts = valid.astype(np.int32)
        for axis, start in enumerate(starts):
            counts = np.add.reduceat(counts, start[:-1] - start[0], axis=axis)
        sizes = np.diff(starts[0])[:, None] * np.diff(starts[1])
        return own & (2 * counts > sizes)

    # -- pixels --------------------------------------------------------------------------------------------------

    def _pixels(self, side: Side, rows: Span, columns: Span, dtype: torch.dtype) -> torch.Tensor:
        """Return pixels (1, C, h, w) divided by the divisor, gaps filled."""
        reach = RINGS if self.gaps else 0
        wide = [(first - reach, last + reach) for first, last in (rows, columns)]
        image, valid = side.read(wide[0], wide[1])
        pixels = image.astype(np.float32 if dtype == torch.float32 else np.float64)
        if self.gaps:
            valid = self._valid_ms(wide[0], wide[1], valid) if side is self.ms else self.valid((wide[0], wide[1]))
            if not valid.all():
                seen = self.overview
                pixels = fill(pixels, valid, seen.mean(seen.ms if side is self.ms else seen.pan))
            pixels = pixels[:, reach:-reach, reach:-reach]
        np.multiply(pixels, (self.pan_factor if side is self.pan else 1.0) / self.facts.divisor, out=pixels)
        return torch.from_numpy(np.ascontiguousarray(pixels))[None]

    def window(self, box: Window, margin: int) -> windows.Window | None:
        """Read a window for a classical method, with margins; None where no pixel has data.

        Args:
            box: spans of PAN pixels inside `size`.
            margin: PAN pixels around it.
        """
        valid = torch.from_numpy(self.valid(box)) if self.gaps else None
        if valid is not None and not valid.any():
            return None
        geometry = self.facts.geometry
        rows, columns = (
            windows.plan_axis(r, o, span, margin, self.facts.ratio)
            for r, o, span in zip(geometry.ratio, geometry.offset, box, strict=True)
        )
        wide = self._pixels(self.ms, rows.wide, columns.wide, self.dtype)
        pan = self._pixels(self.pan, rows.pan, columns.pan, self.dtype)
        window = windows.assemble(wide, pan, geometry, rows, columns)
        if valid is None or bool(valid.all()):
            return window
        return replace(window, valid=valid, valid_ms=self._covered(box, (rows, columns)))

    def part(self, role: str, rows: Span, columns: Span) -> torch.Tensor:
        """Return a part (C, h, w) of "ms", "lms" or "pan" in float64, divided by the divisor, gaps filled.

        Args:
            role: which image.
            rows, columns: of MS pixels for "ms", of PAN pixels for the others.
        """
        if role != "lms":
            return self._pixels(self.pan if role == "pan" else self.ms, rows, columns, torch.float64)[0]
        geometry = self.facts.geometry
        axes = [
            windows.plan_axis(r, o, span, 0, 1)
            for r, o, span in zip(geometry.ratio, geometry.offset, (rows, columns), strict=True)
        ]
        wide = self._pixels(self.ms, axes[0].wide, axes[1].wide, torch.float64)
        placed = geometry.window((axes[0].wide[0], axes[1].wide[0]), (rows[0], columns[0]))
        return interpolate(wide, placed, (rows[1] - rows[0], columns[1] - columns[0]))[0]

    def _covered(self, box: Window, axes: tuple[windows.Axis, windows.Axis]) -> torch.Tensor:
        """Return which MS pixels of a window have data wherever their PAN pixels and the next ones lie."""
        geometry = self.facts.geometry
        reach = math.ceil(max(geometry.ratio)) + 1
        around = tuple((first - reach, last + reach) for first, last in box)
        valid = torch.from_numpy(self.valid((around[0], around[1])))
        return windows.covered(valid, geometry.window((0, 0), (around[0][0], around[1][0])), axes)

    # -- what networks see ---------------------------------------------------------------------------------------

    def grid(self, trained: Geometry | None = None) -> NetworkGrid:
        """Return the scene on the grid that a network works on: whole MS pixels of the nominal ratio.

        Args:
            trained: geometry of the data that the network was trained with; None = the research toolboxes'.
        """
        return NetworkGrid(self, trained or Geometry.toolbox(self.facts.ratio))

    def scene(self) -> Scene:
        """Read both images whole, for `load_pair`: MS pixels whose PAN pixels all exist, and these PAN pixels."""
        geometry, r = self.facts.geometry, self.facts.ratio
        if geometry.ratio != (r, r):
            raise UserError(
                f"expected a whole ratio to simulate from, the pixel sizes give {geometry}; resample MS (gdalwarp -tr)"
            )
        spans, pans = [], []
        for offset, n, size in zip(geometry.offset, self.ms.raster.shape, self.size, strict=True):
            # MS pixel i belongs with the PAN pixels start + i r ... start + (i + 1) r - 1
            start = math.ceil(offset - r / 2 - 1e-6)
            first, last = max(0, -(start // r)), min(n, (size - start) // r)
            if last <= first:
                raise UserError(f"{self.ms.raster.path} and {self.pan.raster.path} share no whole MS pixel")
            spans.append((first, last))
            pans.append((start + first * r, start + last * r))
        for side, found in ((self.ms, spans), (self.pan, pans)):
            at = [(a + first, b + first) for (a, b), first in zip(found, side.first, strict=True)]
            side.raster.check_window((at[0], at[1]))
        ms, own = self.ms.read(*spans)
        pan, _ = self.pan.read(*pans)
        valid = None
        if self.gaps:
            h, w = own.shape
            whole = self.valid((pans[0], pans[1])).reshape(h, r, w, r).all(axis=(1, 3))
            valid = None if (own & whole).all() else own & whole
        if valid is not None:
            if not valid.any():
                raise UserError(f"no pixel has data in both {self.ms.raster.path} and {self.pan.raster.path}")
            seen = self.overview  # filters must not see what stands in the gaps
            ms = fill(ms.astype(np.float64), valid, seen.mean(seen.ms))
            pan = fill(pan.astype(np.float64), valid.repeat(r, 0).repeat(r, 1), seen.mean(seen.pan))
        if self.pan_factor != 1:
            pan = pan * self.pan_factor
        placed = geometry.window((spans[0][0], spans[1][0]), (pans[0][0], pans[1][0]))
        divisor = 255.0 if self.ms.dtype == self.pan.dtype == np.uint8 else None
        paths = (self.ms.raster.path, self.pan.raster.path)
        return Scene(ms, pan, r, None, divisor, paths, geometry=placed, valid=valid)


def unit_means(ms: np.ndarray, pan: np.ndarray) -> tuple[float, float]:
    """Return the means of the intensity of MS (C, n) and of PAN (P, n) at n pixels; 0 where there are none.

    Of a guide of several bands, the means of the band that has the median ratio to the MS band most like it: the mean
    of all hyperspectral bands says nothing of the few that a guide sees.
    """
    if not pan.shape[1]:
        return 0.0, 0.0
    means, guides = ms.mean(1, dtype=np.float64), pan.mean(1, dtype=np.float64)
    if len(pan) == 1:
        return float(means.mean()), float(guides.mean())
    best = most_alike(pan, ms)
    pairs = [(float(means[b]), float(p)) for b, p in zip(best, guides, strict=True) if means[b] > 0 and p > 0]
    pairs.sort(key=lambda pair: pair[1] / pair[0])
    return pairs[len(pairs) // 2] if pairs else (0.0, 0.0)


def unit_factor(ms: float, pan: float) -> float:
    """Return what PAN is multiplied by to have MS's units, from `unit_means`; 1 where they are not units apart."""
    apart = ms > 0 and pan > 0 and not SAME_UNITS[0] <= pan / ms <= SAME_UNITS[1]
    return ms / pan if apart else 1.0


def other_units(ms: float, pan: float) -> str:
    """Return the note on PAN in other units."""
    return f"PAN is in other units than MS (mean {pan:.4g} against {ms:.4g}): multiplied by {ms / pan:.4g}"


def most_alike(guide: np.ndarray, ms: np.ndarray) -> list[int]:
    """Return for each guide band (P, n) the index of the band of ms (C, n) that correlates best with it."""

    def normed(x: np.ndarray) -> np.ndarray:
        x = x - x.mean(1, keepdims=True)
        return np.asarray(x / np.maximum(np.sqrt((x**2).sum(1, keepdims=True)), 1e-30))

    return [int(i) for i in (normed(guide.astype(np.float64)) @ normed(ms.astype(np.float64)).T).argmax(1)]


class NetworkGrid:
    """A scene as networks need it: boxes of whole MS pixels at the nominal ratio, H = r h.

    A network that looks at ms knows it at the place where it lay in training. Where a scene has another geometry, ms is
    resampled to that place; lms is always interpolated from the file's own pixels.

    Attributes:
        size: (H, W) of the grid, multiples of r; it covers the result.
        first: row and column of the result where the grid begins, at most 0.
        resampled: whether ms is not that of the file.
    """

    def __init__(self, pair: ScenePair, trained: Geometry) -> None:
        """See `ScenePair.grid`."""
        self.pair, self.trained = pair, trained
        r, own = pair.facts.ratio, pair.facts.geometry
        steps = [o - t for o, t in zip(own.offset, trained.offset, strict=True)]
        same = own.ratio == (r, r) and all(abs(s - round(s)) < 1e-6 for s in steps)
        self.resampled = not same
        self.first = (-(round(-steps[0]) % r), -(round(-steps[1]) % r)) if same else (0, 0)
        height, width = (math.ceil((n - f) / r) * r for n, f in zip(pair.size, self.first, strict=True))
        self.size = (height, width)

    def read(self, box: tuple[int, int, int, int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None:
        """Return (ms, lms, pan) of a box in float32, divided by the divisor; None where no pixel has data.

        Args:
            box: first row, first column, height, width, multiples of r, counted from the corner of the grid.
        """
        pair, r = self.pair, self.pair.facts.ratio
        geometry = pair.facts.geometry
        rows, columns = (
            (first + start, first + start + n) for first, start, n in zip(self.first, box[:2], box[2:], strict=True)
        )
        if pair.gaps and not pair.valid((rows, columns)).any():
            return None
        wide, places = [], []
        for span, o, q, t in zip((rows, columns), geometry.offset, geometry.ratio, self.trained.offset, strict=True):
            low, high = math.floor((span[0] - o) / q) - MARGIN, math.ceil((span[1] - 1 - o) / q) + MARGIN + 1
            wide.append((low, high))
            places.append(((span[0] + t - o) / q - low, r / q, (span[1] - span[0]) // r))
        around = pair._pixels(pair.ms, wide[0], wide[1], torch.float32)
        size = rows[1] - rows[0], columns[1] - columns[0]
        lms = interpolate(around, geometry.window((wide[0][0], wide[1][0]), (rows[0], columns[0])), size)
        return resample(around, *places), lms, pair._pixels(pair.pan, rows, columns, torch.float32)
