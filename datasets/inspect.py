"""What is in this file, and what is wrong with it: H5 data sets, `.mat` files, GeoTIFF.

Reads a bounded part: at most eight samples or eight blocks of rows of each array.
Legend: N samples, C bands, P guide bands, H W size, h w size of ms, r = H/h.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from lemamba.datasets.alignment import CACHE, alpha_bands, check_blocks, is_complaint
from lemamba.datasets.h5 import DAMAGE, Contents, checked_dataset, default_divisor, describe, file_sensor, open_file
from lemamba.datasets.layout import read_sample
from lemamba.utils.errors import UserError
from lemamba.utils.sensors import SENSORS

_SAMPLES = 8
_LONGEST = 160  # letters of an attribute
_NUMBERS = 2**24  # of a GeoTIFF
_SUFFIXES_TIFF = (".tif", ".tiff")


@dataclass
class Report:
    """Lines about a file, what is wrong with it, and what is worth knowing.

    `status` is 0 (fine), 1 (readable, but something is wrong) or 2 (not readable).
    """

    path: Path
    lines: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    readable: bool = True

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


def inspect_file(path: str | Path, read_mat: Callable[[Path], dict[str, np.ndarray]] | None = None) -> Report:
    """Report on an H5 file, a `.mat` or a GeoTIFF; never raises for what is wrong with the file.

    Args:
        path: the file; its ending tells `.mat` and GeoTIFF, everything else is taken for H5.
        read_mat: reader of `.mat` files (`utils.formats.mat.read_mat`, handed in); None takes them for H5.
    """
    report = Report(Path(path))
    try:
        if report.path.suffix.lower() in _SUFFIXES_TIFF:
            _inspect_tiff(report)
        elif report.path.suffix.lower() == ".mat" and read_mat is not None:
            _inspect_mat(report, read_mat(report.path))
        else:
            _inspect_h5(report)
    except UserError as error:
        report.problems.append(str(error))
        report.readable = bool(report.lines)
    except DAMAGE as error:
        report.problems.append(f"cannot be read to the end: {error}; damaged, copy it again")
        report.readable = bool(report.lines)
    return report


def _range(values: np.ndarray) -> str:
    if values.dtype.kind not in "biuf" or not values.size:
        return "no numbers"
    finite = values[np.isfinite(values)]
    spoiled = f", {values.size - finite.size} NaN or infinite" if finite.size < values.size else ""
    return (f"{finite.min():.6g} .. {finite.max():.6g}" if finite.size else "no finite value") + spoiled


def _shown(value: Any) -> str:
    """Return an attribute as one line: a table by its shape and range, a list by its values."""
    if isinstance(value, np.ndarray) and value.ndim > 1:
        return f"{tuple(value.shape)} {value.dtype}, {_range(value)}"
    text = str(value.tolist() if isinstance(value, np.ndarray) else value)
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} …"


def spread(count: int) -> list[int]:
    """Return at most `_SAMPLES` numbers spread over 0 … count - 1; in integers, since a file may declare any count."""
    return sorted({(count - 1) * i // (_SAMPLES - 1) for i in range(_SAMPLES)}) if count else []


def _some_rows(data: h5py.Dataset) -> np.ndarray:
    """Return at most eight slices along the shortest way through the file: bounded whatever the size."""
    if not data.shape:
        return np.asarray(data[()])
    picks = spread(len(data))
    return np.stack([data[i] for i in picks]) if picks else np.zeros(0)


def _inspect_h5(report: Report) -> None:
    with open_file(report.path) as file:
        for key in file:
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
    """Look at some samples: finite values, range against divisor, is lms what interp23 gives, order of the guide."""
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
    if report.problems:
        return
    largest = max(float(samples[role].max()) for role in ("ms", "pan"))
    report.lines.append(f"sensor: {_sensor_guess(contents, largest)}")
    _judge_range(report, contents, largest)
    _judge_lms(report, contents, samples)
    if contents.shapes["pan"][1] == 3 and contents.shapes["ms"][1] > 8:
        report.lines.append(f"guide order: {_guide_order(samples)}")


def _sensor_guess(contents: Contents, largest: float) -> str:
    written = file_sensor(contents)
    if written.name != "none":
        return f"{written.name} (says the file)"
    bands = contents.shapes["ms"][1]
    fitting = [s for s in SENSORS.values() if s.bands == bands and (largest <= 1.5) == (s.divisor == 1)]
    fitting = [s.name for s in fitting if largest <= 1.02 * s.divisor]
    return f"by bands and range one of {', '.join(fitting)}" if fitting else f"none known with {bands} bands"


def _judge_range(report: Report, contents: Contents, largest: float) -> None:
    divisor = default_divisor(contents, file_sensor(contents))
    if divisor > 1 and largest <= 1.5:
        report.problems.append(f"the numbers end at {largest:.4g} and the divisor is {divisor:g}: already divided?")
    elif largest > 1.2 * divisor and file_sensor(contents).name != "none":
        report.problems.append(f"the numbers reach {largest:.6g}, beyond the divisor {divisor:g}")
    elif divisor == 1 and largest > 1.5:
        report.notes.append(f"the numbers reach {largest:.6g}: name the sensor or a divisor when you read it")


def _judge_lms(report: Report, contents: Contents, samples: dict[str, np.ndarray]) -> None:
    """Compare lms with ms: the same ground, and which interpolation."""
    import torch

    from lemamba.operators import interp23

    ratio, ms, lms = contents.ratio, samples["ms"], samples["lms"]
    means = lms.reshape(*ms.shape[:3], ratio, ms.shape[3], ratio).mean((3, 5))
    if np.corrcoef(means.ravel(), ms.ravel())[0, 1] < 0.8:
        report.problems.append("lms does not look like ms enlarged: other samples, order of bands or ground?")
        return
    if ratio & (ratio - 1):
        report.notes.append(f"ratio {ratio} is no power of two: the 23-tap interpolation is not defined for it")
        return
    edge = 6 * ratio  # the interpolation wraps around; a tile cut from a larger image differs at its border
    ours = interp23(torch.from_numpy(ms), ratio).numpy()
    inner = (slice(None), slice(None), slice(edge, -edge), slice(edge, -edge))
    if ours[inner].size and np.abs(ours - lms)[inner].max() > 1e-3 * np.abs(lms).max():
        report.notes.append("lms is not the 23-tap interpolation of ms (another interpolation, which is common)")


def _guide_order(samples: dict[str, np.ndarray]) -> str:
    """Guess RGB or BGR: is the first guide band more like the last (red) or the first (blue) bands of ms?"""
    spectral = samples["lms"]
    first = samples["pan"][:, 0].ravel()
    third = spectral.shape[1] // 3
    red, blue = (np.corrcoef(first, part.mean(1).ravel())[0, 1] for part in (spectral[:, -third:], spectral[:, :third]))
    return "RGB" if red > blue else "BGR"


def _inspect_mat(report: Report, data: dict[str, np.ndarray]) -> None:
    for key, value in data.items():
        shown = f"{value.item()!s}" if value.size == 1 else _range(value)
        report.lines.append(f"{key}: {tuple(value.shape)} {value.dtype}, {shown}")
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            report.problems.append(f'"{key}" has NaN or infinite values')
    report.lines.append(f"kind: {_mat_kind(data)}")


def _mat_kind(data: dict[str, Any]) -> str:
    if "I_PAN" in data:
        return "a scene (MS and PAN): prepare_data.py simulate"
    if "sr" in data:
        return f"fused images {'with' if 'gt' in data else 'without'} ground truth: evaluate.py"
    if "Y" in data or any(value.ndim == 3 for value in data.values()):
        return "a hyperspectral cube, it seems: prepare_data.py simulate --wavelengths START:END"
    return "of no known kind"


def _inspect_tiff(report: Report) -> None:
    try:
        import rasterio
    except ImportError:
        raise UserError("reading GeoTIFF needs rasterio; install it with: pip install rasterio") from None
    try:
        with rasterio.Env(GDAL_CACHEMAX=CACHE), rasterio.open(report.path, driver="GTiff") as source:
            check_blocks(source)
            step = max(1, max(source.shape) // 512, math.isqrt(source.count * math.prod(source.shape) // _NUMBERS))
            small = source.read(out_shape=(source.count, *(max(1, n // step) for n in source.shape)))
            report.lines.append(
                f"{source.count} bands, {source.height}x{source.width}, {source.dtypes[0]}, {_range(small)}"
            )
            report.lines.append(f"CRS {source.crs}, pixel {source.transform.a:g} x {-source.transform.e:g}")
            if source.nodata is not None:
                share = float((small == source.nodata).any(0).mean())
                report.lines.append(f"nodata {source.nodata:g}: about {share:.1%} of the pixels")
            for band in alpha_bands(source):
                report.notes.append(f"band {band} is marked as alpha and is taken as a mask, not as data")
            if source.crs is None:
                report.notes.append("no coordinate system: MS and PAN cannot be aligned by it")
    except Exception as error:
        if not is_complaint(error):
            raise
        raise UserError(f'cannot read "{report.path}" as GeoTIFF: {str(error).rstrip(".")}; check the file') from error
