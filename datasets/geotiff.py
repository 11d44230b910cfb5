"""An MS and a PAN GeoTIFF as one scene that is read window by window, and the GeoTIFF that is written from it.

Windows are counted from the corner of the ground both files share (`datasets.alignment`). `lms` of a window is made
from MS pixels around it, so a window equals the same window cut from the whole scene, and memory does not grow with the
scene. Needs rasterio, which is imported when a file is opened.
Legend: ms (1, C, h, w), lms (1, C, H, W), pan (1, 1, H, W), r ratio, H = r * h. Windows are (first, end) along rows
and columns; boxes are (first row, first column, height, width) in pixels of the result.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lemamba.datasets.alignment import Span, Window, alpha_bands, open_aligned
from lemamba.datasets.nodata import RINGS, fill, fits, to_stored
from lemamba.operators import interp23
from lemamba.utils.atomic import renamed
from lemamba.utils.errors import UserError
from lemamba.utils.facts import DataFacts
from lemamba.utils.formats.bounds import check_not_divided
from lemamba.utils.sensors import get_sensor

RATIOS = (2, 4, 8, 16)
MARGIN = 12  # interp23 looks 6 * (1 + 1/2 + 1/4 + …) < 12 MS pixels around it
BLOCK = 256  # side of the blocks of the written file; rows are written in multiples of it, and it is one of every r
BEYOND = 1.2  # numbers beyond so many divisors: it is the wrong one
WHOLE_COPIES = 13  # float64 copies of sr that fusing a whole scene holds at once; 12.5 measured, with PRACS on 8 bands


@contextmanager
def open_pair(
    ms_path: str | Path,
    pan_path: str | Path,
    *,
    sensor: str | None = None,
    divisor: float | None = None,
    dtype: torch.dtype = torch.float32,
) -> Iterator[ScenePair]:
    """Open an MS and a PAN GeoTIFF as a `ScenePair`.

    Args:
        ms_path: C bands, integers of at most 32 bits or floating point; an alpha band is taken as a mask.
        pan_path: one band.
        sensor: name; None = "none".
        divisor: numbers are divided by it; None = the sensor's, but 255 for 8-bit files.
        dtype: of the tensors.

    Raises:
        UserError: what `open_aligned` refuses, a ratio that interp23 is not defined for, another number of bands than
            the sensor's.
    """
    with open_aligned(ms_path, pan_path) as (ms, pan, ground):
        yield ScenePair(_Side(ms, ground.ms), _Side(pan, ground.pan), ground.ratio, sensor, divisor, dtype)


class _Side:
    """One of the two files: pixels by windows that are counted from the common ground's corner."""

    def __init__(self, source: Any, ground: Window) -> None:
        self.source, self.ground = source, ground
        self.size = tuple(end - first for first, end in ground)
        self.path = Path(source.name)
        # GDAL itself takes an alpha band as a mask only in files of 2 or 4 bands.
        self.alpha = alpha_bands(source)
        self.bands = [i for i in source.indexes if i not in self.alpha]
        self.dtype = np.dtype(source.dtypes[0])
        self.masked = bool(self.alpha) or any(flags[0].name != "all_valid" for flags in source.mask_flag_enums)
        self.gaps = self.masked or self.dtype.kind == "f"  # NaN counts as no data

    def _in_file(self, spans: Window, reach: int) -> Window:
        """Window in the file's own pixels, wider by `reach` where the file goes on."""
        ends = zip(spans, self.ground, self.source.shape, strict=True)
        return tuple((max(0, g[0] + a - reach), min(size, g[0] + b + reach)) for (a, b), g, size in ends)

    def _read(self, window: Window | None = None, thin: Span | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Float64 pixels (C, h, w) of a window, or of the whole file thinned out to a size; and which have data."""
        from rasterio.errors import RasterioError

        def get(reader: Any, bands: list[int]) -> np.ndarray:
            return reader(bands, window=window, out_shape=(len(bands), *thin) if thin else None)

        try:
            image = get(self.source.read, self.bands).astype(np.float64)
            valid = np.isfinite(image).all(0)
            if self.masked:
                valid &= (get(self.source.read_masks, self.bands) > 0).all(0)
            if self.alpha:
                valid &= (get(self.source.read, self.alpha) > 0).all(0)
        except RasterioError as error:
            raise UserError(f"{self.path} cannot be read to its end ({error}); copy it again") from error
        return image, valid

    def valid(self, spans: Window) -> np.ndarray:
        """Which pixels of the window have data in all bands."""
        if not self.gaps:
            return np.ones([b - a for a, b in spans], dtype=bool)
        return self._read(self._in_file(spans, 0))[1]

    def pixels(self, spans: Window, margin: int = 0) -> np.ndarray:
        """Float64 (C, height + 2 margin, …), gaps filled; mirrored where the margin leaves the file."""
        wanted = [(a - margin, b + margin) for a, b in spans]
        inner = self._in_file(spans, margin)
        outer = self._in_file(spans, margin + RINGS) if self.gaps else inner
        image, valid = self._read(outer)
        if not valid.all():
            image = fill(image, valid, self.mean)
        cuts = [slice(i[0] - o[0], i[1] - o[0]) for i, o in zip(inner, outer, strict=True)]
        image = image[:, cuts[0], cuts[1]]
        # Pixel a of the window is pixel g + a of the file: what lies before 0 or behind the end is mirrored.
        beyond = [
            (i[0] - (g[0] + w[0]), g[0] + w[1] - i[1]) for i, g, w in zip(inner, self.ground, wanted, strict=True)
        ]
        return np.pad(image, [(0, 0), *beyond], mode="reflect") if any(map(any, beyond)) else image

    @cached_property
    def _thinned(self) -> np.ndarray:
        """Pixels with data (C, n) of a thinned-out reading of the file; n is 0 where it has none."""
        thin = tuple(max(1, size // max(1, max(self.source.shape) // 256)) for size in self.source.shape)
        image, valid = self._read(thin=thin)
        return image[:, valid]

    @cached_property
    def mean(self) -> np.ndarray:
        """Mean of every band over a thinned-out reading of the file; 0 where it has no data at all."""
        return self._thinned.mean(1) if self._thinned.size else np.zeros(len(self.bands))

    @property
    def largest(self) -> float:
        """Largest number of a thinned-out reading of the file; 0 where it has no data at all."""
        return float(self._thinned.max(initial=0.0))


class ScenePair:
    """A scene: `read` windows of it, `write` the result; made by `open_pair`.

    Attributes:
        bands, guide_bands: C and 1.
        ratio: r.
        size: (H, W) of the common ground in PAN pixels, multiples of r.
        block: rows are best written in multiples of it.
        dtype: of the tensors; may be changed.
        sensor, divisor: see `open_pair`.
    """

    block = BLOCK

    def __init__(
        self, ms: _Side, pan: _Side, ratio: int, sensor: str | None, divisor: float | None, dtype: torch.dtype
    ) -> None:
        self.ms, self.pan, self.ratio, self.dtype = ms, pan, ratio, dtype
        self.bands, self.guide_bands, self.size = len(ms.bands), 1, pan.size
        row = get_sensor(sensor or "none")
        if divisor is not None and not (math.isfinite(divisor) and divisor > 0):
            raise UserError(f"expected a positive divisor, given {divisor:g}; correct it")
        self.sensor, self.divisor = row.name, float(divisor or row.divisor_for(ms.dtype))
        if ratio not in RATIOS:
            raise UserError(f"expected a ratio of 2, 4, 8 or 16, the pixel sizes say {ratio}; resample one image")
        if row.bands not in (None, self.bands):
            raise UserError(
                f"expected {row.bands} bands for sensor {row.name}, {ms.path} has {self.bands}; name the right sensor"
            )
        for side in (ms, pan):
            if len(set(side.source.dtypes)) > 1 or side.dtype.kind not in "uif" or side.dtype.str[1:] in ("i8", "u8"):
                raise UserError(
                    f"{side.path}: expected one type, integers of at most 32 bits or floating point, given "
                    f"{', '.join(sorted(set(side.source.dtypes)))}; convert it (gdal_translate -ot)"
                )

    @property
    def facts(self) -> DataFacts:
        """Return the scene's facts."""
        return DataFacts(self.sensor, self.divisor, self.ratio, self.bands, self.guide_bands)

    def check_range(self) -> str:
        """Hold the divisor against the numbers; return a remark on numbers beyond it, else "".

        Raises:
            UserError: numbers that were divided before, which a network would take for a black scene.
        """
        largest = max(self.ms.largest, self.pan.largest)
        check_not_divided(f"{self.ms.path} and {self.pan.path}", largest, self.divisor)
        if largest > BEYOND * self.divisor:
            return f"the numbers reach {largest:g} and are divided by {self.divisor:g}: is that the right --divisor?"
        return ""

    @property
    def like(self) -> torch.Tensor:
        """An empty (1, C, 0, 0) that tells bands and dtype of the result."""
        return torch.empty(1, self.bands, 0, 0, dtype=self.dtype)

    def read(self, box: tuple[int, int, int, int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None:
        """Return (ms, lms, pan) of a box, divided by the divisor; None where no pixel has data.

        Args:
            box: multiples of r, inside `size`.
        """
        r, c, h, w = box
        fine: Window = ((r, r + h), (c, c + w))
        coarse: Window = tuple((a // self.ratio, b // self.ratio) for a, b in fine)
        if (self.ms.gaps or self.pan.gaps) and not self.valid(fine).any():
            return None
        wide = self._tensor(self.ms.pixels(coarse, MARGIN))
        inside, far = slice(MARGIN, -MARGIN), slice(MARGIN * self.ratio, -MARGIN * self.ratio)
        lms = interp23(wide, self.ratio)[..., far, far]
        return wide[..., inside, inside], lms, self._tensor(self.pan.pixels(fine))

    def _tensor(self, image: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(image / self.divisor)[None].to(self.dtype)

    def valid(self, fine: Window) -> np.ndarray:
        """Which pixels (h, w) of a window have data in MS and PAN; it begins and ends on MS pixels."""
        coarse = self.ms.valid(tuple((a // self.ratio, b // self.ratio) for a, b in fine))
        return self.pan.valid(fine) & coarse.repeat(self.ratio, 0).repeat(self.ratio, 1)

    def check_memory(self, limit: float) -> float:
        """Return the GiB that a method needs which takes the scene as a whole; above `limit` GiB, a `UserError`."""
        needed = WHOLE_COPIES * 8 * self.bands * self.size[0] * self.size[1] / 2**30
        if needed > limit:
            raise UserError(
                f"expected a scene that needs at most {limit:g} GiB as a whole, this one needs about {needed:.1f}; "
                "raise --memory, crop the scene, or take a method that works in tiles"
            )
        return needed

    @property
    def nodata(self) -> float | None:
        """What marks pixels without data in the result: MS's mark, else PAN's, else one that a mask makes necessary."""
        for side in (self.ms, self.pan):
            if side.source.nodata is not None and fits(side.source.nodata, self.ms.dtype):
                return side.source.nodata
        if not (self.ms.masked or self.pan.masked):
            return None
        return float("nan") if self.ms.dtype.kind == "f" else 0

    def write(self, out: Path, strips: Iterable[tuple[int, torch.Tensor]], *, clip: bool = False) -> None:
        """Write sr as a tiled, compressed GeoTIFF with MS's bands, dtype and marks on PAN's grid.

        Args:
            out: `.tif` or `.tiff`; replaced as a whole when all is written.
            strips: (first row, rows (1, C, n, W)) from top to bottom, divided by the divisor; n a multiple of r.
            clip: clip to [0, 1] first.

        Raises:
            UserError: another ending, `out` is one of the inputs, it cannot be written, or sr is not finite.
        """
        import rasterio

        if out.suffix.lower() not in (".tif", ".tiff"):
            raise UserError(f'expected --out to end in .tif, given "{out}"; a scene is written as GeoTIFF')
        if any(out.exists() and out.samefile(side.path) for side in (self.ms, self.pan)):
            raise UserError(f'expected --out to be a new file, "{out}" is an input; choose another name')

        with renamed(out) as temporary, rasterio.open(temporary, "w", **self._profile()) as file:
            self._describe(file)
            for row, strip in strips:
                span = (row, row + strip.shape[-2])
                file.write(self._stored(span, strip, clip), window=(span, (0, self.size[1])))

    def _stored(self, span: Span, strip: torch.Tensor, clip: bool) -> np.ndarray:
        valid = self.valid((span, (0, self.size[1])))
        stored = np.empty(strip.shape[1:], self.ms.dtype)
        for band, values in enumerate(strip[0]):  # band by band: only one of them is held as float64
            numbers = (values.clamp(0, 1) if clip else values).double().numpy() * self.divisor
            if not np.isfinite(numbers[valid]).all():
                raise UserError("the result holds NaN or infinite values; check weights and divisor")
            stored[band] = to_stored(numbers, valid, self.ms.dtype, self.nodata)
        return stored

    def _profile(self) -> dict[str, Any]:
        from rasterio import Affine

        t, ((top, _), (left, _)) = self.pan.source.transform, self.pan.ground
        kind, bits = self.ms.dtype.kind, 8 * self.ms.dtype.itemsize
        return {
            "driver": "GTiff",
            "height": self.size[0],
            "width": self.size[1],
            "count": self.bands,
            "dtype": self.ms.dtype.name,
            "crs": self.pan.source.crs,
            "transform": Affine(t.a, t.b, t.c + left * t.a, t.d, t.e, t.f + top * t.e),
            "nodata": self.nodata,
            "tiled": True,
            "blockxsize": BLOCK,
            "blockysize": BLOCK,
            "interleave": self.ms.source.profile.get("interleave", "pixel"),
            "compress": "deflate",
            "predictor": 1 if bits == 16 and kind == "f" else 3 if kind == "f" else 2,
            "bigtiff": "IF_SAFER",  # the size after compression is not known beforehand
        }

    def _describe(self, file: Any) -> None:
        source, bands = self.ms.source, self.ms.bands
        file.descriptions = [source.descriptions[i - 1] for i in bands]
        file.colorinterp = [source.colorinterp[i - 1] for i in bands]
        file.scales = [source.scales[i - 1] for i in bands]
        file.offsets = [source.offsets[i - 1] for i in bands]
        file.units = [source.units[i - 1] for i in bands]
        file.update_tags(**source.tags())
