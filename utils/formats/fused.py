"""Reader of fused images: one `.mat` file (B, C, H, W), or a folder of output_mulExm_<i>.mat files (H, W, C).

Other programs use other axis orders: MATLAB users (H, W, C, B), Python users (B, H, W, C), and a `.mat` written by
h5py, without MATLAB's user block, has its axes in Python's order. Height and width are found from the shapes: `ms` is
smaller along them, and no index is defined for sides below 32. The order this project writes is preferred if it fits.
Legend: B images, C bands, H W size.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from lemamba.utils.errors import UserError
from lemamba.utils.formats.mat import is_plain_hdf5, read_mat

IMAGES = ("sr", "gt", "ms", "lms", "pan")
SMALLEST_SIDE = 32  # of the windows and blocks that the indices use
BATCHES, SINGLE = ("BCHW", "BHWC", "HWCB"), ("HWC", "CHW")  # the first is ours


def open_samples(path: Path) -> tuple[list[int], Iterator[dict[str, np.ndarray]], str]:
    """Read a file or a folder.

    Returns:
        The samples' numbers, an iterator over their images, each (C, H, W), and the axis order if it is not ours, else
        "" (also for a folder, whose files may differ).

    Raises:
        UserError: no such file, none of the images in it, or inconsistent shapes.
    """
    if path.is_dir():
        files = _numbered_files(path)
        return list(files), (_single(f, _read(f))[0] for f in files.values()), ""
    arrays = _read(path)
    if "sr" in arrays and arrays["sr"].ndim in (2, 3):  # no batch axis: one image as in a folder
        images, order = _single(path, arrays)
        return [1], iter([images]), order
    shapes = {k: v.shape for k, v in arrays.items()}
    order = next((o for o in BATCHES if _fits(shapes, o)), BATCHES[0]) if _axes(shapes) == {4} else BATCHES[0]
    if _axes(shapes) == {4}:
        arrays = {k: v.transpose([order.index(axis) for axis in "BCHW"]) for k, v in arrays.items()}
    if _axes(shapes) != {4} or len({len(v) for v in arrays.values()}) > 1:
        given = ", ".join(f"{k} {s}" for k, s in shapes.items())
        raise UserError(f'expected arrays (B,C,H,W) with one B in "{path}", given {given}; write the file again')
    count = len(next(iter(arrays.values()), ()))
    samples = ({k: v[i] for k, v in arrays.items()} for i in range(count))
    return list(range(1, count + 1)), samples, "" if order == BATCHES[0] else order


def _read(path: Path) -> dict[str, np.ndarray]:
    arrays = {k: v for k, v in read_mat(path).items() if k in IMAGES}
    if not arrays:
        raise UserError(f'expected variables {", ".join(IMAGES)} in "{path}", found none of them; name another file')
    if is_plain_hdf5(path):  # not written by MATLAB: undo the transposition of `read_mat`
        arrays = {k: v.transpose() for k, v in arrays.items()}
        shapes = {k: v.shape for k, v in arrays.items()}
        if _axes(shapes) == {4} and not any(_fits(shapes, o) for o in BATCHES[:2]):  # written by MATLAB's h5write
            return {k: v.transpose() for k, v in arrays.items()}
    return arrays


def _axes(shapes: Mapping[str, tuple[int, ...]]) -> set[int]:
    return {len(s) for s in shapes.values()}


def _fits(shapes: Mapping[str, tuple[int, ...]], order: str) -> bool:
    """Return whether the axes called H and W can be the sides of all images."""
    sides = {order.index("H"), order.index("W")}
    whole = [s for k, s in shapes.items() if k != "ms"]
    if any(s[axis] < SMALLEST_SIDE for s in whole for axis in sides):
        return False
    if "ms" not in shapes or not whole:
        return True
    smaller = {axis for axis, (small, large) in enumerate(zip(shapes["ms"], whole[0], strict=True)) if small != large}
    return smaller == sides


def _single(path: Path, arrays: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], str]:
    """Return the arrays of one image as (C, H, W), a missing band axis added, and the order if it is not ours."""
    for name, image in arrays.items():
        if image.ndim not in (2, 3):
            raise UserError(f'expected {name} as (H,W,C) in "{path}", given {image.shape}; one image per file')
    shapes = {k: v.shape for k, v in arrays.items() if v.ndim == 3}
    order = next((o for o in SINGLE if _fits(shapes, o)), SINGLE[0])
    turned = [order.index(axis) for axis in "CHW"]
    images = {k: v[None] if v.ndim == 2 else v.transpose(turned) for k, v in arrays.items()}
    return images, "" if order == SINGLE[0] else order


def _numbered_files(folder: Path) -> dict[int, Path]:
    found = sorted((int(m[1]), f) for f in folder.iterdir() if (m := re.fullmatch(r"output_mulExm_(\d+)\.mat", f.name)))
    if not found:
        raise UserError(
            f'expected files output_mulExm_<i>.mat in "{folder}", found none; name a .mat or another folder'
        )
    numbers = [i for i, _ in found]
    if len(set(numbers)) < len(numbers):  # 1 and 01
        raise UserError(
            f'expected one file of each number in "{folder}", found two with the same number; rename or remove one'
        )
    return dict(found)
