"""The images that data sets are simulated from: observed MS + PAN pairs and hyperspectral cubes, as arrays.

Which file holds what is found out here for `.mat` files and folders of PNG bands; `lemamba.datasets.readers` chooses
the reader by suffix.
Legend: C bands, H W size of MS or cube, r ratio. Arrays are (C, H, W), in digital numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lemamba.datasets.h5 import rgb_indexes
from lemamba.datasets.raster import MULTISPECTRAL, Raster
from lemamba.utils.errors import UserError
from lemamba.utils.formats.mat import read_mat
from lemamba.utils.geometry import Geometry
from lemamba.utils.sensors import find_sensor

_LEAST_BANDS = 4  # of a cube of PNG


@dataclass(frozen=True)
class Scene:
    """An observed pair.

    Attributes:
        ms: (C, H, W).
        pan: (P, r·H, r·W); several bands are the guide of a hyperspectral image.
        ratio: r.
        sensor: name given in the file, or None.
        divisor: 2^L - 1 where the file gives L, 255 for 8-bit data, or None.
        paths: the source files.
        rgb: 1-based bands that the file names for red, green, blue, or None.
        geometry: where MS pixels lie under PAN pixels; None = as in the research toolboxes, offset r/2.
        valid: (H, W) bool, MS pixels with data in both images; None = all.
        gt: (C, r·H, r·W), the ground truth that the file holds next to the pair, or None.
    """

    ms: np.ndarray
    pan: np.ndarray
    ratio: int
    sensor: str | None
    divisor: float | None
    paths: tuple[Path, ...]
    rgb: tuple[int, int, int] | None = None
    geometry: Geometry | None = None
    valid: np.ndarray | None = None
    gt: np.ndarray | None = None


@dataclass(frozen=True)
class Cube:
    """A hyperspectral image.

    Attributes:
        values: (C, H, W) in 0..1.
        scale: what the file's values were divided by.
        paths: the source file or folder.
        kept: 1-based bands of the sensor that the file keeps, (C,), where it names them, else None.
        kept_name: name of that variable.
        guide: (P, H, W), divided by the same number, an observed guide of the same size; None = it is simulated.
    """

    values: np.ndarray
    scale: float
    paths: tuple[Path, ...]
    kept: np.ndarray | None = None
    kept_name: str = ""
    guide: np.ndarray | None = None


def load_mat(path: Path, scale: float | None = None) -> Scene | Cube:
    """Read a `.mat` file: a scene where it has I_PAN, else a cube. See `scene_from_mat` and `cube_from_mat`."""
    data = read_mat(path)
    return scene_from_mat(path, data) if "I_PAN" in data else cube_from_mat(path, data, scale)


def scene_from_mat(path: Path, data: Mapping[str, np.ndarray]) -> Scene:
    """Return the scene in a `.mat` file of the pansharpening toolboxes.

    Args:
        path: the file, for messages and provenance.
        data: its variables: I_MS_LR or I_MS (H, W, C), I_PAN (r·H, r·W), optionally `sensor`, `L`, `RGB_indexes`.

    Raises:
        UserError: a missing variable, sizes without a common ratio, NaN.
    """
    key = "I_MS_LR" if "I_MS_LR" in data else "I_MS"  # files with both have the enlarged image in I_MS
    missing = [k for k in (key, "I_PAN") if k not in data]
    if missing:
        raise UserError(
            f'{path} has no variable "{missing[0]}"; it holds: {", ".join(data)}; '
            "a scene needs I_MS (or I_MS_LR) and I_PAN"
        )
    ms, pan = data[key], data["I_PAN"]
    if ms.ndim != 3 or pan.ndim != 2:
        raise UserError(f"{path}: expected {key} (H, W, C) and I_PAN (H, W), given {ms.shape} and {pan.shape}; fix it")
    bits = _scalar(data.get("L"))
    sensor = str(data["sensor"].item()) if "sensor" in data and data["sensor"].size == 1 else None
    return _scene(
        np.moveaxis(ms, -1, 0),
        pan[None],
        sensor if sensor and find_sensor(sensor) else None,
        2.0**bits - 1 if bits and 1 < bits <= 32 else None,
        (path,),
        rgb_indexes(data.get("RGB_indexes"), ms.shape[2]),
    )


def _scalar(value: Any) -> float | None:
    return float(value.item()) if value is not None and value.size == 1 and value.dtype.kind in "uif" else None


def _scene(
    ms: np.ndarray,
    pan: np.ndarray,
    sensor: str | None,
    divisor: float | None,
    paths: tuple[Path, ...],
    rgb: tuple[int, int, int] | None = None,
) -> Scene:
    (rows, columns), (tall, wide) = ms.shape[-2:], pan.shape[-2:]
    ratio = tall // rows if rows else 0
    if ratio < 2 or (rows * ratio, columns * ratio) != (tall, wide):
        raise UserError(
            f"{paths[-1]}: expected PAN a whole multiple (2, 4, 8) of MS, given MS {rows}x{columns} and PAN "
            f"{tall}x{wide}; crop both to the same ground"
        )
    check_finite("MS", ms, paths[0])
    check_finite("PAN", pan, paths[-1])
    if divisor is None and ms.dtype == pan.dtype == np.uint8:
        divisor = 255.0
    return Scene(ms, pan, ratio, sensor, divisor, paths, rgb)


def check_finite(name: str, image: np.ndarray, path: Path) -> None:
    """Refuse NaN and infinite values."""
    bad = int(np.size(image) - np.isfinite(image).sum())
    if bad:
        raise UserError(f"{path}: {name} has {bad} NaN or infinite values; crop or fill them")


def cube_from_png(folder: Path, scale: float | None = None) -> Cube:
    """Read a folder with one grey PNG per band (CAVE); colour images in it are ignored.

    Args:
        folder: the folder.
        scale: values are divided by it; None takes 255 or 65535, by the bits of the PNG.

    Raises:
        UserError: no bands of one size, or a PNG that cannot be read.
    """
    from PIL import Image, UnidentifiedImageError

    bands = []
    inner = [p for p in folder.iterdir() if p.is_dir()]
    if len(inner) == 1 and not any(folder.glob("*.png")):  # CAVE as unzipped: balloons_ms/balloons_ms
        folder = inner[0]
    for path in sorted(folder.glob("*.png")):
        try:
            with Image.open(path) as image:
                band = np.asarray(image)
        except (OSError, UnidentifiedImageError, ValueError) as error:
            raise UserError(f"{path} cannot be read as a PNG image; copy it again") from error
        if band.ndim == 3 and band.shape[2] == 4 and "_ms_" in path.name:  # CAVE's watercolors: grey stored as RGBA
            band = band[..., 0]
        if band.ndim == 2:  # CAVE has a colour preview next to the bands
            bands.append(band)
    if len(bands) < _LEAST_BANDS or len({band.shape for band in bands}) != 1:
        raise UserError(
            f"{folder}: expected one grey PNG of one size per band, found {len(bands)} bands; check the folder "
            "(the whole download of CAVE: prepare_data.py cave)"
        )
    full = 255.0 if bands[0].dtype == np.uint8 else 65535.0
    return _cube(folder, np.stack(bands).astype(np.float64), scale or full)


def cube_from_raster(raster: Raster, scale: float | None = None) -> Cube:
    """Return an open image of more bands than multispectral ones have as a cube.

    Args:
        raster: the image.
        scale: values are divided by it; None takes the largest value, unless that lies in 0.5..1 (reflectance).

    Raises:
        UserError: fewer bands, pixels without data, or NaN.
    """
    if raster.count <= MULTISPECTRAL:
        raise UserError(
            f"expected a hyperspectral cube of more than {MULTISPECTRAL} bands, {raster.path} has {raster.count}; "
            "give an image pair with --ms and --pan"
        )
    raster.check_window(((0, raster.shape[0]), (0, raster.shape[1])))
    image, valid = raster.read()
    missing = int(valid.size - valid.sum())
    if missing:
        raise UserError(
            f"{raster.path}: {missing} pixels have no data; cut out a part where all have (gdal_translate -srcwin)"
        )
    return _cube(raster.path, image.astype(np.float64), scale)


def cube_from_mat(path: Path, data: Mapping[str, np.ndarray], scale: float | None = None) -> Cube:
    """Return the cube among the variables of a `.mat` file.

    It is `Y` (C, pixels) with `nRow` and `nCol`, pixels in column order (Jasper Ridge), or else the largest array of
    three axes (H, W, C) (Harvard).

    Args:
        path: the file, for messages and provenance.
        data: its variables.
        scale: values are divided by it; None takes the largest value, unless that lies in 0.5..1 (reflectance).

    Raises:
        UserError: nothing that can be read as a cube, or NaN.
    """
    kept_name, kept = _kept_bands(data)
    rows, columns = (_scalar(data.get(key)) for key in ("nRow", "nCol"))
    y = data.get("Y")
    if y is not None and y.ndim == 2 and rows and columns and rows * columns == y.shape[1]:
        values = y.reshape(len(y), int(columns), int(rows)).transpose(0, 2, 1)
    else:
        cubes = {key: value for key, value in data.items() if value.ndim == 3 and value.dtype.kind in "uif"}
        if not cubes:
            raise UserError(f"{path} holds no cube (H, W, C); {_held(data)}; give another file")
        name = max(cubes, key=lambda key: cubes[key].size)
        others = [key for key, value in cubes.items() if key != name and value.shape[2] > 1]
        if others:
            print(
                f"note: {path}: ms and guide are simulated from {name}; {' and '.join(others)} of the file "
                f"{'are' if len(others) > 1 else 'is'} not used"
            )
        values = np.moveaxis(cubes[name], -1, 0)
    if kept is not None and len(kept) != len(values):
        print(f"note: {path}: {kept_name} has {len(kept)} entries for {len(values)} bands and is ignored")
        kept = None
    return _cube(path, values.astype(np.float64), scale, kept, kept_name)


_KEPT = ("slectbands", "selectbands", "selectedbands", "non_del_bands", "kept_bands", "good_bands", "bands_kept")


def _kept_bands(data: Mapping[str, np.ndarray]) -> tuple[str, np.ndarray | None]:
    """Return name and value of the variable that lists the sensor's bands that were kept, counted from 1."""
    for name, value in data.items():
        if name.lower() in _KEPT and value.size > 1 and value.dtype.kind in "iufb":
            listed = value.ravel()
            if set(np.unique(listed)) == {0, 1} and listed.size > 2:  # a mask over all bands of the sensor
                return name, np.flatnonzero(listed) + 1
            if (listed >= 1).all() and (listed == np.round(listed)).all() and (np.diff(listed.astype(float)) > 0).all():
                return name, listed.astype(int)
    return "", None


def _held(data: Mapping[str, np.ndarray]) -> str:
    listed = ", ".join(f"{name} {tuple(v.shape)} {v.dtype}" for name, v in data.items())
    return f"it holds: {listed}" if listed else "cells, structures and sparse matrices are not read"


def _cube(
    path: Path, values: np.ndarray, scale: float | None, kept: np.ndarray | None = None, kept_name: str = ""
) -> Cube:
    check_finite("the cube", values, path)
    largest = float(values.max(initial=0))
    if scale is not None and not 0 < scale < float("inf"):
        raise UserError(f"expected a positive scale, given {scale}; correct it")
    used = scale or _full_scale(path, largest)
    if largest / used > _MOST_ABOVE:
        raise UserError(
            f"{path}: values up to {largest:g} divided by {used:g} are not in 0..1, where PSNR and SSIM have their "
            "peak; correct --scale"
        )
    return Cube(values / used, used, (path,), kept, kept_name)


_MOST_ABOVE = 16.0  # a largest value this far above 1 is another unit, not a bright pixel
_REFLECTANCE = 0.5  # a largest value from here to 1 is taken as reflectance, which has its full scale at 1


def _full_scale(path: Path, largest: float) -> float:
    """Return the largest value, or 1 for what looks like reflectance in 0..1."""
    if largest <= 0:
        raise UserError(f"{path}: all values of the cube are 0 or negative; give another file")
    if _REFLECTANCE <= largest <= 1:
        return 1.0
    if largest < _REFLECTANCE:  # Harvard: PSNR against a peak of 1 would be tens of dB too high
        print(f"note: {path}: values end at {largest:.6g} and are divided by it (--scale overrides)")
    return largest
