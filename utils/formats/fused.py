"""Reader of fused images and ground truths in `.mat`, `.npz` and `.npy` files, and of the facts written with them.

A file holds a batch (B, C, H, W) or one image (H, W, C). Other programs use other axis orders: MATLAB users
(H, W, C, B), Python users (B, H, W, C), and a `.mat` written by h5py, without MATLAB's user block, has its axes in
Python's order. Height and width are found from the shapes: `ms` is smaller along them, and no index is defined for
sides below 32. The order this project writes is preferred if it fits.

Facts are variables `info_<name>`: `info_sensor`, `info_divisor`, `info_ratio`, `info_offset` (where ms lies under pan,
in pan pixels, if not at r/2), `info_wavelengths` (nm), `info_guide` (what the guide bands are, in their order).
Legend: B images, C bands, H W size.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lemamba.utils.errors import UserError, nearest
from lemamba.utils.formats.bounds import MAX_COMPRESSION
from lemamba.utils.formats.mat import READ_LIMIT, is_plain_hdf5, read_mat, unread_variables

IMAGES = ("sr", "gt", "ms", "lms", "pan")
INFO = "info_"
SMALLEST_SIDE = 32  # of the windows and blocks that the indices use
BATCHES, SINGLE = ("BCHW", "BHWC", "HWCB"), ("HWC", "CHW")  # the first is ours
NUMBERED = re.compile(r"output_mulExm_(\d+)\.\w+")  # how MATLAB users and the published networks name single images


@dataclass(frozen=True)
class FusedFile:
    """The images of a file.

    Attributes:
        images: per sample, role -> (C, H, W) in the file's dtype.
        order: the axis order if it is not ours, else "".
        info: what the file says of its images: "sensor", "divisor", "ratio", … as text, number or numbers.
    """

    images: list[dict[str, np.ndarray]]
    order: str = ""
    info: dict[str, Any] = field(default_factory=dict)


def read_fused(path: Path, role: str = "sr") -> FusedFile:
    """Read a `.mat`, `.h5`, `.npz` or `.npy` file.

    Args:
        path: the file.
        role: what an array without a name is. For "gt", a single array of any name is taken.

    Raises:
        UserError: no such file, none of the images in it, inconsistent shapes, cells or structures.
    """
    every = _read(path, role)
    arrays = _images(path, every, role)
    info = {k.removeprefix(INFO): _plain(v) for k, v in every.items() if k.startswith(INFO)}
    from_python = path.suffix.lower() in (".npy", ".npz")
    if all(v.ndim in (2, 3) for v in arrays.values()):  # no batch axis
        one, order = _single(path, arrays, tuple(reversed(SINGLE)) if from_python else SINGLE)
        return FusedFile([one], order, info)
    return FusedFile(*_batch(path, arrays), info)


def read_mask(path: Path) -> np.ndarray:
    """Read a mask of valid pixels from a `.mat`, `.h5`, `.npz` or `.npy` file.

    Args:
        path: its array is the variable `mask` or `valid`, or the only one of the file: (H, W), or (B, H, W) or
            (B, 1, H, W) with one for each sample.

    Returns:
        (H, W) or, for more than one sample, (B, H, W) bool; True = valid.

    Raises:
        UserError: no such array, another number of axes, values that are no mask (see `two_values`).
    """
    arrays = {k: v for k, v in _read(path, "mask").items() if v.ndim > 1 and v.size > 1 and v.dtype.kind in "biuf"}
    name = next((n for n in ("mask", "valid") if n in arrays), next(iter(arrays)) if len(arrays) == 1 else None)
    if name is None:
        raise UserError(
            f'expected a mask in "{path}" as the variable mask or valid, it holds {", ".join(arrays) or "no array"}; '
            "name the array so, or another file"
        )
    mask = arrays[name]
    if path.suffix.lower() not in (".npy", ".npz") and is_plain_hdf5(path):
        mask = mask.transpose()  # not written by MATLAB: undo what `read_mat` does
    mask = mask.reshape([n for n in mask.shape if n > 1])
    if mask.ndim not in (2, 3):
        raise UserError(f'expected a mask (H,W) or (B,H,W), {name} in "{path}" is {arrays[name].shape}; write it again')
    return two_values(mask, path)


def two_values(mask: np.ndarray, path: Path) -> np.ndarray:
    """Return where a mask is not 0.

    Raises:
        UserError: it is 0 everywhere, or has values other than 0 and one more, so that it is an image, not a mask.
    """
    top = mask.max()
    if not ((mask == 0) | (mask == top)).all():
        raise UserError(
            f'expected a mask of 0 (missing) and one other value (valid), "{path}" has others; write it as boolean'
        )
    valid: np.ndarray = mask != 0
    if not valid.any():
        raise UserError(f'the mask "{path}" is 0 everywhere, so that no pixel counts; valid pixels are not 0')
    return valid


def list_files(folder: Path, suffixes: tuple[str, ...]) -> dict[int | str, Path]:
    """Return the images of a folder in natural order: number -> file if named output_mulExm_<i>, else name -> file.

    Raises:
        UserError: none, or two with the same number.
    """
    files = [f for f in folder.iterdir() if f.suffix.lower() in suffixes and not f.name.startswith(".")]
    numbered = sorted((int(m[1]), f) for f in files if (m := NUMBERED.fullmatch(f.name)))
    if not files:
        raise UserError(
            f'expected images ({", ".join(suffixes)}) in "{folder}", for example output_mulExm_<i>.mat, found none; '
            "name a file or another folder"
        )
    if not numbered:
        return {f.stem: f for f in sorted(files, key=lambda f: _natural(f.name))}
    numbers = [i for i, _ in numbered]
    if len(set(numbers)) < len(numbers):  # 1 and 01
        raise UserError(
            f'expected one file of each number in "{folder}", found two with the same number; rename or remove one'
        )
    return dict(numbered)


def _natural(name: str) -> list[tuple[bool, int | str]]:
    """Return the key by which img2 comes before img10."""
    return [(part.isdigit(), int(part) if part.isdigit() else part.lower()) for part in re.split(r"(\d+)", name)]


def _read(path: Path, role: str) -> dict[str, np.ndarray]:
    suffix = path.suffix.lower()
    if suffix not in (".npy", ".npz"):
        return read_mat(path)
    if not path.is_file():
        raise UserError(f'expected a {suffix} file, "{path}" does not exist; check the path')
    try:
        if suffix == ".npy":
            return {role: np.array(np.load(path, mmap_mode="r", allow_pickle=False))}
        _check_archive(path)
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except UserError:
        raise
    except Exception as error:  # numpy and zipfile raise many types of errors for damaged files
        raise UserError(f'cannot read "{path}" as {suffix}: damaged, or Python objects; save numeric arrays') from error


def _check_archive(path: Path) -> None:
    declared, size = sum(entry.file_size for entry in zipfile.ZipFile(path).infolist()), path.stat().st_size
    if declared > READ_LIMIT or declared > MAX_COMPRESSION * size:
        raise UserError(f"{path} is {size} bytes and declares {declared} bytes of data; damaged or too large")


def _images(path: Path, every: Mapping[str, np.ndarray], role: str) -> dict[str, np.ndarray]:
    """Return the images among the variables."""
    skipped = unread_variables(path) if path.suffix.lower() not in (".npy", ".npz") else {}
    for name in (n for n in IMAGES if n in skipped):
        raise UserError(
            f'expected {name} as a numeric array in "{path}", it is a {skipped[name]}; save the images of all samples '
            "as one array (B,C,H,W)"
        )
    arrays = {k: v for k, v in every.items() if k in IMAGES}
    others = {k: v for k, v in every.items() if v.ndim > 1 and v.size > 1 and v.dtype.kind in "biufc"}
    if role == "gt" and "gt" not in arrays:
        named = "GT" if "GT" in others else next(iter(others), "")
        arrays = {"gt": others[named]} if named == "GT" or len(others) == 1 else {}
    if not arrays:
        held = [*every, *(f"{name} ({kind})" for name, kind in skipped.items())]
        hint = next((nearest(name, IMAGES) for name in held if name.lower() in IMAGES), "")
        raise UserError(
            f'expected variables {", ".join(IMAGES)} in "{path}", found none of them{hint}; it holds '
            f"{', '.join(held[:12]) or 'nothing'}; rename the variables or name another file"
        )
    wrong = next((f"{k} is {v.dtype}" for k, v in arrays.items() if v.dtype.kind not in "biuf"), None)
    if wrong:
        raise UserError(f'expected real numbers in "{path}", {wrong}; convert it')
    if path.suffix.lower() in (".npy", ".npz") or not is_plain_hdf5(path):
        return arrays
    arrays = {k: v.transpose() for k, v in arrays.items()}  # not written by MATLAB: undo what `read_mat` does
    shapes = {k: v.shape for k, v in arrays.items()}
    if _axes(shapes) == {4} and not any(_fits(shapes, o) for o in BATCHES[:2]):  # written by MATLAB's h5write
        return {k: v.transpose() for k, v in arrays.items()}
    return arrays


def _plain(value: np.ndarray) -> Any:
    """Return a variable with facts as text, number or list of numbers."""
    flat = value.ravel()
    if value.dtype.kind == "U":
        return str(flat[0]) if flat.size else ""
    return float(flat[0].real) if flat.size == 1 else [float(v.real) for v in flat[:10_000]]


def _batch(path: Path, arrays: dict[str, np.ndarray]) -> tuple[list[dict[str, np.ndarray]], str]:
    shapes = {k: v.shape for k, v in arrays.items()}
    order = next((o for o in BATCHES if _fits(shapes, o)), BATCHES[0]) if _axes(shapes) == {4} else BATCHES[0]
    if _axes(shapes) == {4}:
        arrays = {k: v.transpose([order.index(axis) for axis in "BCHW"]) for k, v in arrays.items()}
    if _axes(shapes) != {4} or len({len(v) for v in arrays.values()}) > 1:
        given = ", ".join(f"{k} {s}" for k, s in shapes.items())
        raise UserError(f'expected arrays (B,C,H,W) with one B in "{path}", given {given}; write the file again')
    count = len(next(iter(arrays.values()), ()))
    samples = [{k: v[i] for k, v in arrays.items()} for i in range(count)]
    return samples, "" if order == BATCHES[0] else order


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


def _single(path: Path, arrays: dict[str, np.ndarray], orders: tuple[str, ...]) -> tuple[dict[str, np.ndarray], str]:
    """Return the arrays of one image as (C, H, W), a missing band axis added, and the order if it is not ours."""
    for name, image in arrays.items():
        if image.ndim not in (2, 3):
            raise UserError(f'expected {name} as (H,W,C) in "{path}", given {image.shape}; one image per file')
    shapes = {k: v.shape for k, v in arrays.items() if v.ndim == 3}
    order = next((o for o in orders if _fits(shapes, o)), orders[0])
    turned = [order.index(axis) for axis in "CHW"]
    images = {k: v[None] if v.ndim == 2 else v.transpose(turned) for k, v in arrays.items()}
    return images, "" if order == SINGLE[0] else order
