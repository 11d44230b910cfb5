"""Reports on what a file holds and what is wrong with it: H5 data sets, `.mat` files, GeoTIFF.

`lemamba.datasets.readers.inspect_file` chooses the function by suffix. At most eight samples, or eight slices of an
array, are read.
Legend: N samples, C bands, P guide bands, H W size, h w size of ms, r = H/h.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lemamba.datasets.arrays import NAMES, load_npz, open_array, pair_names
from lemamba.datasets.geotiff import GEOTIFF, Format, open_geotiff
from lemamba.datasets.guide_order import are_clear, described, estimated_centres
from lemamba.datasets.h5 import (
    DAMAGE,
    Contents,
    checked_dataset,
    default_divisor,
    describe,
    file_geometry,
    file_sensor,
    open_file,
)
from lemamba.datasets.layout import read_sample
from lemamba.datasets.nodata import unmarked_area
from lemamba.datasets.pair_windows import windows_of
from lemamba.datasets.raster import MULTISPECTRAL
from lemamba.datasets.usable_bands import band_notes
from lemamba.operators import interp23
from lemamba.utils.errors import UserError
from lemamba.utils.formats.bounds import BEYOND, DIVIDED
from lemamba.utils.formats.mat import read_mat
from lemamba.utils.sensors import SENSORS

if TYPE_CHECKING:
    import h5py

_SAMPLES = 8
_LONGEST = 160  # characters of an attribute
_NUMBERS = 2**24  # values of a GeoTIFF
_PIXELS = 2**16  # of a cube, to look at its bands


@dataclass
class Report:
    """Lines about a file, problems, and notes.

    `status` is 0 (fine), 1 (readable, but something is wrong) or 2 (not readable).
    """

    path: Path
    lines: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    readable: bool = True
    nodata: float | None = None  # pixels of an image with this value in all bands are missing

    @property
    def status(self) -> int:
        """Exit status of the command line."""
        return (1 if self.problems else 0) if self.readable else 2

    def text(self) -> str:
        """Return the report as printed."""
        verdict = [f"  WRONG: {p}" for p in self.problems] or ["  nothing wrong found"]
        return "\n".join(
            [str(self.path), *(f"  {s}" for s in self.lines), *(f"  note: {n}" for n in self.notes), *verdict]
        )


def _range(values: np.ndarray) -> str:
    if values.dtype.kind not in "biuf" or not values.size:
        return "no numbers"
    finite = values[np.isfinite(values)]
    others = f", {values.size - finite.size} NaN or infinite" if finite.size < values.size else ""
    return (f"{finite.min():.6g} .. {finite.max():.6g}" if finite.size else "no finite value") + others


def _shown(value: Any) -> str:
    """Return an attribute as one line: a matrix as its shape and range, a list as its values."""
    if isinstance(value, np.ndarray) and value.ndim > 1:
        return f"{tuple(value.shape)} {value.dtype}, {_range(value)}"
    text = str(value.tolist() if isinstance(value, np.ndarray) else value)
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} …"


def spread(count: int) -> list[int]:
    """Return at most `_SAMPLES` indexes spread over 0 … count - 1; in integers, since a file may declare any count."""
    return sorted({(count - 1) * i // (_SAMPLES - 1) for i in range(_SAMPLES)}) if count else []


def _some_rows(data: h5py.Dataset) -> np.ndarray:
    """Return at most eight slices along the first axis, so that the reading is bounded."""
    if not data.shape:
        return np.asarray(data[()])
    picks = spread(len(data))
    return np.stack([data[i] for i in picks]) if picks else np.zeros(0)


def _arrays_of(file: h5py.File) -> list[str]:
    """Return the names of the members, those of a group instead of the group."""
    import h5py

    inside = {name: list(file[name]) for name in file if isinstance(file.get(name), h5py.Group)}
    return [key for name in file for key in ([f"{name}/{k}" for k in inside[name]] if inside.get(name) else [name])]


def inspect_h5(report: Report) -> None:
    """Describe the arrays and attributes of an H5 data set and check some samples."""
    with open_file(report.path) as file:
        for key in _arrays_of(file):
            try:
                data = checked_dataset(report.path, file, key)
                report.lines.append(f"{key}: {tuple(data.shape)} {data.dtype}, {_range(_some_rows(data))} (sampled)")
            except UserError as error:
                report.lines.append(f"{key}: not readable")
                report.problems.append(str(error))
            except DAMAGE as error:
                report.lines.append(f"{key}: not readable")
                report.problems.append(f'"{key}" cannot be read: {error}')
        for key, value in file.attrs.items():
            report.lines.append(f"@{key} = {_shown(value)}")
    if report.problems:
        return
    contents = describe(report.path)
    shapes = contents.shapes
    report.lines.append(
        f"{shapes['lms'][0]} samples, {shapes['ms'][1]} bands, {shapes['pan'][1]} guide bands, "
        f"ratio {contents.ratio}, axes {contents.layout}, {'with' if 'gt' in contents.keys else 'without'} ground truth"  # noqa: SIM118
    )
    _judge(report, contents)


def _judge(report: Report, contents: Contents) -> None:
    """Check some samples: finite values, range against the divisor, lms against interp23 of ms, order of the guide."""
    count = contents.shapes["lms"][0]
    picks = spread(count)
    with open_file(contents.path) as file:
        samples = {
            role: np.stack([read_sample(file[key], i, contents.layout) for i in picks]).astype(np.float64)
            for role, key in contents.keys.items()
        }
    for role, values in samples.items():
        bad = [i for i, sample in zip(picks, values, strict=True) if not np.isfinite(sample).all()]
        if bad:
            report.problems.append(f'"{contents.keys[role]}" has NaN or infinite values in sample {bad[0]}')
        elif values.min() == values.max():
            report.problems.append(f'"{contents.keys[role]}" is constant ({values.min():g})')
        elif flat := [str(band + 1) for band in range(values.shape[1]) if np.ptp(values[:, band]) == 0]:
            report.problems.append(
                f'"{contents.keys[role]}": band {", ".join(flat)} holds one value in the samples looked at; leave it '
                "out, indices are not defined with it"
            )
    if report.problems:
        return
    report.notes += band_notes(
        np.moveaxis(samples.get("gt", samples["ms"]), 1, 0).reshape(contents.shapes["ms"][1], -1)
    )
    largest = max(float(samples[role].max()) for role in ("ms", "pan"))
    report.lines.append(f"sensor: {_sensor_guess(contents, largest)}")
    _judge_range(report, contents, largest)
    if "lms" in samples:
        _judge_lms(report, contents, samples)
    else:
        report.notes.append("the file has no lms: it is interpolated from ms when samples are read")
    if contents.shapes["pan"][1] == 3 and contents.shapes["ms"][1] > 8:
        report.lines.append(f"guide order: {_guide_order(contents, samples)}")


def _sensor_guess(contents: Contents, largest: float) -> str:
    written = file_sensor(contents)
    if written.name != "none":
        return f"{written.name} (from the file)"
    bands = contents.shapes["ms"][1]
    same_bands = [s for s in SENSORS.values() if s.bands == bands and (largest <= DIVIDED) == (s.divisor == 1)]
    fitting = [s.name for s in same_bands if largest <= 1.02 * s.divisor]
    return f"one of, by bands and range: {', '.join(fitting)}" if fitting else f"none known with {bands} bands"


def _judge_range(report: Report, contents: Contents, largest: float) -> None:
    divisor = default_divisor(contents, file_sensor(contents))
    if divisor > 1 and largest <= DIVIDED:
        report.problems.append(f"the values end at {largest:.4g} and the divisor is {divisor:g}: already divided?")
    elif largest > BEYOND * divisor and file_sensor(contents).name != "none":
        report.problems.append(f"the values reach {largest:.6g}, beyond the divisor {divisor:g}")
    elif divisor == 1 and largest > DIVIDED:
        report.notes.append(f"the values reach {largest:.6g}: give the sensor or a divisor when reading it")


def _judge_lms(report: Report, contents: Contents, samples: dict[str, np.ndarray]) -> None:
    """Compare lms with ms: the same ground, and which interpolation."""
    ratio, ms, lms = contents.ratio, samples["ms"], samples["lms"]
    means = lms.reshape(*ms.shape[:3], ratio, ms.shape[3], ratio).mean((3, 5))
    if np.corrcoef(means.ravel(), ms.ravel())[0, 1] < 0.8:
        report.problems.append("lms does not look like ms enlarged: other samples, band order or ground?")
        return
    if ratio & (ratio - 1):
        report.notes.append(f"ratio {ratio} is not a power of two: the 23-tap interpolation is not defined for it")
        return
    edge = 6 * ratio  # interp23 wraps around, so a tile cut from a larger image differs at its border
    ours = interp23(torch.from_numpy(ms), ratio).numpy()
    inner = (slice(None), slice(None), slice(edge, -edge), slice(edge, -edge))
    if ours[inner].size and np.abs(ours - lms)[inner].max() > 1e-3 * np.abs(lms).max():
        report.notes.append("lms is not the 23-tap interpolation of ms (another interpolation, which is common)")


def _guide_order(contents: Contents, samples: dict[str, np.ndarray]) -> str:
    """Return the order of the guide bands by the response that the samples show; "not clear" where bands overlap."""
    geometry = file_geometry(contents)
    parts = [windows_of(ms, guide, geometry) for ms, guide in zip(samples["ms"], samples["pan"], strict=True)]
    try:
        centres = estimated_centres(lambda: chain.from_iterable(part() for part in parts))
    except UserError:  # samples without data
        return "not clear"
    return described(centres) if are_clear(centres) else "not clear"


def inspect_arrays(report: Report) -> None:
    """List the arrays of a .npy or .npz file."""
    if report.path.suffix.lower() == ".npz":
        arrays = dict(load_npz(report.path))
    else:
        raster = open_array(report.path, "ms")
        arrays = {f"{raster.count} band{'s' * (raster.count > 1)} (C,H,W)": raster.values}
    for name, values in arrays.items():
        report.lines.append(f"{name}: {tuple(values.shape)} {values.dtype}, {_range(values)}")
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            report.problems.append(f'"{name}" has NaN or infinite values')
        elif values.ndim == 3 and values.dtype.kind in "iuf":
            report.notes += band_notes(_some_pixels(values.reshape(len(values), -1)))
    report.lines.append("kind: arrays without georeference: a pair with --ms and --pan is related by its sizes")


def inspect_mat(report: Report) -> None:
    """List the variables of a `.mat` file and what it can be used for."""
    data = read_mat(report.path)
    for key, value in data.items():
        shown = f"{value.item()!s}" if value.size == 1 else _range(value)
        report.lines.append(f"{key}: {tuple(value.shape)} {value.dtype}, {shown}")
        if value.dtype.kind == "c":
            report.problems.append(f'"{key}" holds complex numbers, which are not read as an image')
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            report.problems.append(f'"{key}" has NaN or infinite values')
    if not data:
        report.problems.append("it holds no array of numbers (cells, structures and sparse matrices are not read)")
    else:
        report.lines.append(f"kind: {_mat_kind(data)}")
    cube = None if report.problems or "sr" in data else _cube_in(data)
    if cube is not None:
        report.notes += band_notes(_some_pixels(cube))


def _cube_in(data: dict[str, Any]) -> np.ndarray | None:
    """Return the hyperspectral image of a `.mat` file as (C, pixels): its `Y`, or its largest array (H, W, C)."""
    y = data.get("Y")
    if y is not None and y.ndim == 2 and "nRow" in data:
        return np.asarray(y)
    cubes = [v for v in data.values() if v.ndim == 3 and v.dtype.kind in "iuf" and v.shape[-1] > MULTISPECTRAL]
    largest = max(cubes, key=lambda cube: cube.size, default=None)
    return None if largest is None else largest.reshape(-1, largest.shape[-1]).T


def _some_pixels(image: np.ndarray) -> np.ndarray:
    """Return at most `_PIXELS` pixels of (C, pixels), spread over all."""
    return image[:, :: max(1, image.shape[1] // _PIXELS)]


def _mat_kind(data: dict[str, Any]) -> str:
    names = {name.lower() for name in data}
    try:
        found = pair_names(Path("the file"), {name: v for name, v in data.items() if v.ndim == 3})
    except UserError as reason:
        return str(reason)
    if found:
        held = " and ".join(found[role] for role in ("ms", "pan"))
        return f"a hyperspectral image and its guide ({held}): prepare_data.py estimate and simulate, or --ms FILE"
    if names & {"i_pan", "pan"} and names & {*NAMES["ms"]} and "sr" not in data:
        return "a scene (MS and PAN): prepare_data.py simulate, or --ms FILE --pan FILE"
    if "sr" in data:
        return f"fused images {'with' if 'gt' in data else 'without'} ground truth: evaluate.py"
    if "Y" in data or any(value.ndim == 3 for value in data.values()):
        return "probably a hyperspectral cube: prepare_data.py simulate --wavelengths START:END"
    return "of no known kind"


def inspect_geotiff(report: Report, form: Format = GEOTIFF) -> None:
    """Describe an image file that rasterio reads from a subsampled reading: bands, range, grid, pixels without data."""
    with open_geotiff(report.path, form) as raster:
        source, (height, width) = raster.source, raster.shape
        step = max(1, max(height, width) // 512, math.isqrt(source.count * height * width // _NUMBERS))
        small, valid = raster.read(size=(max(1, height // step), max(1, width // step)))
        if report.nodata is not None:
            valid &= ~(small == report.nodata).all(0)
        seen = small if report.nodata is None else small[:, valid]  # the range is that of the data
        report.lines.append(f"{source.count} bands, {height}x{width}, {source.dtypes[0]}, {_range(seen)}")
        if report.nodata is not None:
            report.lines.append(f"--nodata {report.nodata:g}: about {1 - valid.mean():.1%} of the pixels are missing")
        report.notes += band_notes(_some_pixels(small[:, valid]))
        report.lines.append(f"CRS {source.crs}, pixel {source.transform.a:g} x {-source.transform.e:g}")
        if source.nodata is not None:
            report.lines.append(f"nodata {source.nodata:g}: about {1 - valid.mean():.1%} of the pixels")
        value, share = unmarked_area(small, valid, small.dtype)
        if share:
            report.notes.append(
                f"{share:.0%} of the pixels: {value:g} throughout one area, not marked as missing; if they hold no "
                f"data, give --nodata {value:g} when fusing"
            )
        for band in raster.alpha:
            report.notes.append(f"band {band} is marked as alpha and is taken as a mask, not as data")
        if raster.rpc and source.transform.is_identity:
            report.notes.append("RPC instead of a geotransform: rectify it first (gdalwarp -rpc)")
        elif source.transform.is_identity:
            report.notes.append("no geotransform: a pair is related by its sizes, corners taken to agree")
        elif source.crs is None:
            report.notes.append("no coordinate system: the other image's is taken")
