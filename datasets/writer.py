"""Writes the field's H5 files: one key per role, sample after sample, provenance as attributes, atomically.

Numbers are float32: digital numbers of 16 bits are exact in it, and the files are half the size of float64 ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from lemamba.datasets.h5 import FAMILIES
from lemamba.utils.atomic import renamed
from lemamba.utils.errors import UserError

FORMAT_VERSION = "1"
Sample = Mapping[str, np.ndarray]
TASK_FAMILY = {"pansharpening": FAMILIES[0], "hmif": FAMILIES[1]}


def write_h5(path: str | Path, samples: Iterable[Sample], attributes: Mapping[str, Any], task: str) -> int:
    """Write samples under a temporary name and rename.

    Args:
        path: the file; its folder is made where needed.
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
            raise UserError(f'no sample fits for "{path}"; the ground is too small for the asked-for size')
        file.attrs.update(dict(attributes) | {"version": FORMAT_VERSION, "task": task})
    return count


def _append(file: h5py.File, key: str, value: np.ndarray, index: int) -> None:
    if index == 0:
        file.create_dataset(key, (0, *value.shape), np.float32, maxshape=(None, *value.shape), chunks=(1, *value.shape))
    file[key].resize(index + 1, axis=0)
    file[key][index] = value


def tiles(
    sample: Sample, size: tuple[int, int], stride: tuple[int, int], ratio: int
) -> Iterator[dict[str, np.ndarray]]:
    """Cut samples out of a large one, row by row.

    Args:
        sample: ms (C, h, w), the others (·, H, W).
        size: rows and columns of a tile on the grid of lms, multiples of `ratio`.
        stride: steps between tiles on the same grid, multiples of `ratio`.
        ratio: H/h.
    """
    height, width = sample["lms"].shape[-2:]
    for y in range(0, height - size[0] + 1, stride[0]):
        for x in range(0, width - size[1] + 1, stride[1]):
            yield {
                role: value[
                    ...,
                    slice(y // ratio, (y + size[0]) // ratio) if role == "ms" else slice(y, y + size[0]),
                    slice(x // ratio, (x + size[1]) // ratio) if role == "ms" else slice(x, x + size[1]),
                ]
                for role, value in sample.items()
            }
