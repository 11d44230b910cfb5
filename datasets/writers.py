"""Writers of fused scenes, one per output format, and of the field's H5 data sets. A file is whole or absent.

A new output format is one function like `write_geotiff` and an entry in `SCENE_WRITERS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from lemamba.datasets.geotiff import gdal_errors
from lemamba.datasets.h5 import FAMILIES
from lemamba.datasets.nodata import to_stored
from lemamba.datasets.pair import BLOCK, ScenePair
from lemamba.datasets.raster import Window
from lemamba.utils.atomic import renamed
from lemamba.utils.errors import UserError
from lemamba.utils.numbers import to_numbers

Pieces = Iterable[tuple[int, int, torch.Tensor]]  # (first row, first column, pixels (1, C, h, w)), no overlap
FORMAT_VERSION = "1"
TASK_FAMILY = {"pansharpening": FAMILIES[0], "hmif": FAMILIES[1]}


def write_scene(out: Path, pair: ScenePair, pieces: Pieces, *, clip: bool = False) -> None:
    """Write a fused scene in the format that the suffix of `out` names.

    Args:
        out: the file; replaced as a whole when everything is written.
        pair: the scene that was fused.
        pieces: sr, divided by the divisor.
        clip: clip to [0, 1] first.

    Raises:
        UserError: another suffix, `out` is one of the inputs, it cannot be written, or sr is not finite.
    """
    write = SCENE_WRITERS.get(out.suffix.lower())
    if write is None:
        known = " or ".join(SCENE_WRITERS)
        raise UserError(f'expected --out to end in {known}, given "{out}"; a scene is written as GeoTIFF')
    if any(out.exists() and out.samefile(side.raster.path) for side in (pair.ms, pair.pan)):
        raise UserError(f'expected --out to be a new file, "{out}" is an input; choose another name')
    write(out, pair, pieces, clip=clip)


def write_geotiff(out: Path, pair: ScenePair, pieces: Pieces, *, clip: bool = False) -> None:
    """Write a tiled, compressed GeoTIFF with MS's bands, dtype and labels on PAN's grid; see `write_scene`."""
    import rasterio

    profile = _profile(pair)
    with (
        gdal_errors(f'cannot write "{out}"'),
        renamed(out) as temporary,
        rasterio.open(temporary, "w", **profile) as file,
    ):
        for name, values in pair.ms.raster.labels.items():
            setattr(file, name, values)
        file.update_tags(**pair.ms.raster.tags)
        for row, column, piece in pieces:
            window = (row, row + piece.shape[-2]), (column, column + piece.shape[-1])
            file.write(stored(pair, window, piece, clip), window=window)


SCENE_WRITERS: dict[str, Callable[..., None]] = {".tif": write_geotiff, ".tiff": write_geotiff}


def stored(pair: ScenePair, window: Window, piece: torch.Tensor, clip: bool) -> np.ndarray:
    """Return pixels of sr (1, C, h, w) as a file stores them: (C, h, w) in digital numbers of MS's dtype, gaps marked.

    Raises:
        UserError: sr is not finite.
    """
    valid = pair.valid(window)
    checked = torch.from_numpy(valid)
    numbers = np.empty(piece.shape[1:], pair.ms.dtype)
    for band, values in enumerate(piece[0]):  # band by band, so that only one of them is held as float64
        image = to_numbers(values.double(), pair.facts.divisor, clip=clip, valid=checked)
        numbers[band] = to_stored(image.numpy(), valid, pair.ms.dtype, pair.nodata)
    return numbers


def _profile(pair: ScenePair) -> dict[str, Any]:
    kind, bits = pair.ms.dtype.kind, 8 * pair.ms.dtype.itemsize
    return {
        "driver": "GTiff",
        "height": pair.size[0],
        "width": pair.size[1],
        "count": pair.facts.bands,
        "dtype": pair.ms.dtype.name,
        "crs": pair.pan.raster.crs,
        "transform": pair.transform,
        "nodata": pair.nodata,
        "tiled": True,
        "blockxsize": BLOCK,
        "blockysize": BLOCK,
        "interleave": pair.ms.raster.interleave,
        "compress": "deflate",
        "predictor": 1 if bits == 16 and kind == "f" else 3 if kind == "f" else 2,
        "bigtiff": "IF_SAFER",  # the size after compression is not known beforehand
    }


def write_h5(
    path: str | Path, samples: Iterable[Mapping[str, np.ndarray]], attributes: Mapping[str, Any], task: str
) -> int:
    """Write a data set: one key per role, one sample per chunk, provenance as attributes.

    Values are float32: 16-bit digital numbers are exact in it, and the files are half the size of float64 ones.

    Args:
        path: the file; its folder is created if needed.
        samples: dicts of (·, H, W) arrays by role (ms, lms, pan, perhaps gt), all of one shape; may be a generator.
        attributes: provenance, as attributes of the file.
        task: "pansharpening" (keys ms, lms, …) or "hmif" (LRHSI, HSI_up, …).

    Returns:
        The number of samples.

    Raises:
        UserError: no samples, or the folder is not writable.
    """
    count = 0
    with renamed(path) as temporary, h5py.File(temporary, "w") as file:
        for sample in samples:
            for role, value in sample.items():
                _append(file, TASK_FAMILY[task][role], value, count)
            count += 1
        if not count:
            raise UserError(f'no sample fits for "{path}"; the ground is smaller than one sample')
        file.attrs.update(dict(attributes) | {"version": FORMAT_VERSION, "task": task})
    return count


def _append(file: h5py.File, key: str, value: np.ndarray, index: int) -> None:
    if index == 0:
        file.create_dataset(key, (0, *value.shape), np.float32, maxshape=(None, *value.shape), chunks=(1, *value.shape))
    file[key].resize(index + 1, axis=0)
    file[key][index] = value
