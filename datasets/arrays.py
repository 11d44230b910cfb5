"""Images that are arrays in a file, without georeference: `.npy`, `.npz`, `.mat`, `.h5`.

Which array is MS and which is PAN is found from its name, which axis holds the bands from the sizes. Such a pair is
related by its sizes (`lemamba.datasets.opening`).
Legend: C bands, H W size.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lemamba.datasets.h5 import DAMAGE, checked_dataset, open_file
from lemamba.datasets.raster import Span, Window
from lemamba.utils.errors import UserError
from lemamba.utils.formats.bounds import MAX_COMPRESSION
from lemamba.utils.formats.mat import READ_LIMIT, read_mat

if TYPE_CHECKING:
    import h5py

# Names by role, in the order in which they are looked for: files with I_MS_LR or lrms have the enlarged image in I_MS.
NAMES = {
    "ms": ("i_ms_lr", "ms_lr", "lrms", "lr_ms", "i_ms", "ms", "lrhsi", "lr_hsi", "hsi", "hsim", "i_hs", "hs"),
    "pan": ("i_pan", "pan", "p"),
}
# A hyperspectral image and its guide of several bands: names that mean a pair only together; "y" only with "z".
_HYPERSPECTRAL = ("lrhsi", "lr_hsi", "hsim", "i_hs", "hsi", "hs", "yh", "y")
_GUIDES = ("hrmsi", "hr_msi", "msim", "msi", "hrms", "hr_ms", "ym", "i_ms", "ms", "rgb", "z", *NAMES["pan"])
_TRUTHS = ("hrhsi", "hr_hsi", "gt")


class ArrayRaster:
    """An array as an image; see `lemamba.datasets.raster.Raster`.

    Attributes:
        values: (C, H, W).
    """

    def __init__(self, path: Path, values: np.ndarray) -> None:
        """Take an array (C, H, W); 64-bit integers that fit into 32 bits become those."""
        from affine import Affine

        self.path, self.values = path, values
        self.shape = (int(values.shape[1]), int(values.shape[2]))
        self.count = len(values)
        self.dtypes = (_smaller(values).name,) * self.count
        self.crs, self.transform, self.masked, self.rpc = None, Affine.identity(), False, False
        self.nodata: float | None = None
        self.labels: dict[str, list[Any]] = {}
        self.tags: dict[str, str] = {}
        self.interleave = "pixel"

    def read(self, window: Window | None = None, size: Span | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Read a window, or the whole image subsampled to `size`; see `Raster.read`."""
        (top, bottom), (left, right) = window or ((0, self.shape[0]), (0, self.shape[1]))
        part = self.values[:, top:bottom, left:right]
        if size:
            rows, columns = (np.arange(n) * side // n for n, side in zip(size, part.shape[1:], strict=True))
            part = part[:, rows][:, :, columns]
        image = np.array(part, dtype=self.dtypes[0])
        floating = image.dtype.kind == "f"
        return image, np.isfinite(image).all(0) if floating else np.ones(image.shape[1:], dtype=bool)

    def check_window(self, window: Window) -> None:
        """Nothing to check: the array has been read, or its file has been compared with its size."""


def _smaller(values: np.ndarray) -> np.dtype:
    """Return the dtype that an array is read with: 16 or 32 bits for 64-bit integers that fit, else its own."""
    if values.dtype.kind not in "iu" or values.dtype.itemsize < 8 or not values.size:
        return values.dtype.newbyteorder("=")
    low, high = int(values.min()), int(values.max())
    fitting = (np.dtype(name) for name in ("uint16", "int32", "uint32"))
    return next((t for t in fitting if np.iinfo(t).min <= low and high <= np.iinfo(t).max), values.dtype)


def open_array(path: Path, role: str) -> ArrayRaster:
    """Read the MS or the PAN image from a file of arrays.

    Args:
        path: .npy, .npz, .mat, or H5 (.h5, .hdf5).
        role: "ms" or "pan"; a file with one array is that image whatever its name.

    Raises:
        UserError: the file cannot be read, no array or several have the name of an image, or it is no image of real
            numbers.
    """
    if not path.is_file():
        raise UserError(f'expected a file of arrays, "{path}" {"is a folder" if path.is_dir() else "does not exist"}')
    if path.suffix.lower() in (".mat", ".npz"):
        arrays = _images_in(path)
        names = _pair_in(path, arrays)
        if names:
            return ArrayRaster(path, _oriented(path, {role: arrays[name] for role, name in names.items()})[role])
    return ArrayRaster(path, _image(path, *_LOADERS[path.suffix.lower()](path, role)))


def _oriented(path: Path, images: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return a hyperspectral image, its guide and perhaps the truth as (C, H, W): in both, sizes of one whole ratio.

    Of a cube with more bands than rows, the sizes of one array alone do not say which axis holds the bands.
    """
    for axis in (-1, 0):  # (H, W, C) as MATLAB has it, else (C, H, W)
        found = {role: np.moveaxis(v, axis, 0) if v.ndim == 3 else v[None] for role, v in images.items()}
        (h, w), (H, W) = found["ms"].shape[-2:], found["pan"].shape[-2:]
        if H % h == W % w == 0 and H // h == W // w and len(found["ms"]) > len(found["pan"]):
            return found
    return {role: _image(path, role, v) for role, v in images.items()}


def pick(path: Path, names: Mapping[str, Any] | list[str], role: str) -> str:
    """Return which of the names in a file is the MS ("ms") or PAN ("pan") image; see `NAMES`."""
    pair = pair_names(path, names)
    if pair:
        return pair[role]
    found = _named(names, role)
    if found is None and len(names) == 1:
        found = next(iter(names))
    if found is None:
        held = ", ".join(list(names)[:20]) or "no array of numbers"
        wanted = "ms, I_MS, lrms" if role == "ms" else "pan, I_PAN"
        raise UserError(f"{path} has no array named like a {role.upper()} image ({wanted} …); it holds: {held}")
    return found


def pair_names(path: Path, names: Mapping[str, Any] | list[str]) -> dict[str, str]:
    """Return which names are a hyperspectral image ("ms"), its guide ("pan") and perhaps the truth ("gt"), or {}.

    Raises:
        UserError: several guides.
    """
    known = {name.lower(): name for name in names}
    hyper = next((name for name in _HYPERSPECTRAL if name in known), None)
    guides = [name for name in (_GUIDES if hyper != "y" else ("z",)) if name in known]
    if hyper is None or not guides:
        return {}
    if len(guides) > 1:
        held = " and ".join(known[name] for name in guides)
        raise UserError(f"{path} holds several guides of {known[hyper]}: {held}; save it with the one to use")
    truth = next((known[name] for name in _TRUTHS if name in known), None)
    return {"ms": known[hyper], "pan": known[guides[0]]} | ({"gt": truth} if truth else {})


def holds_pair(path: Path) -> bool:
    """Return whether a file holds a hyperspectral image and its guide, or MS and a PAN image.

    A `.mat` file of MS and a PAN image of one band does not count: it is a scene in the geometry of the toolboxes.
    """
    suffix = path.suffix.lower()
    if not path.is_file() or suffix not in (".mat", ".npz", ".h5", ".hdf5"):
        return False
    if suffix in (".mat", ".npz") and _pair_in(path, _images_in(path)):
        return True
    return suffix != ".mat" and all(_named(_names_in(path), role) for role in NAMES)


def _named(names: Iterable[str], role: str) -> str | None:
    """Return the first of the names in a file that stands for a role; see `NAMES`."""
    known = {name.lower(): name for name in names}
    return next((known[name] for name in NAMES[role] if name in known), None)


def _names_in(path: Path) -> list[str]:
    """Return the names of the arrays in a .npz or H5 file."""
    if path.suffix.lower() == ".npz":
        return list(load_npz(path))
    with open_file(path) as file:
        return _datasets(file)


def _pair_in(path: Path, arrays: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Return `pair_names`, or the names of MS and of a PAN image of several bands."""
    names = pair_names(path, arrays)
    cubes = {name.lower(): name for name, v in arrays.items() if v.squeeze().ndim == 3}
    both = {role: next((cubes[name] for name in known if name in cubes), None) for role, known in NAMES.items()}
    return names or {role: name for role, name in both.items() if name and all(both.values())}


def truth_next_to(path: Path) -> np.ndarray | None:
    """Return the ground truth (C, H, W) that a file holds next to a pair, see `pair_names`, or None."""
    if path.suffix.lower() not in (".mat", ".npz"):
        return None
    arrays = _images_in(path)
    names = pair_names(path, arrays)
    return _oriented(path, {role: arrays[name] for role, name in names.items()})["gt"] if "gt" in names else None


def _images_in(path: Path) -> dict[str, np.ndarray]:
    arrays: Mapping[str, np.ndarray] = load_npz(path) if path.suffix.lower() == ".npz" else read_mat(path)
    return {name: arrays[name] for name in arrays if arrays[name].ndim in (2, 3) and arrays[name].size > 1}


def load_npz(path: Path) -> Mapping[str, np.ndarray]:
    """Open a .npz; its arrays are read when they are taken."""
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                if member.file_size > min(READ_LIMIT, max(2**26, MAX_COMPRESSION * member.compress_size)):
                    raise UserError(
                        f'{path}: "{member.filename}" declares {member.file_size} bytes; the file is damaged'
                    )
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f'cannot read "{path}" as .npz: cut short or of another format; write it again') from error


def _npy(path: Path, _: str) -> tuple[str, np.ndarray]:
    try:
        return "array", np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        objects = "pickle" in str(error) or "Python objects" in str(error)
        reason = "it holds Python objects, not numbers" if objects else "cut short or of another format"
        raise UserError(f'cannot read "{path}" as .npy: {reason}; write it again') from error


def _npz(path: Path, role: str) -> tuple[str, np.ndarray]:
    arrays = load_npz(path)
    name = pick(path, list(arrays), role)
    try:
        return name, arrays[name]
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f'cannot read "{name}" of "{path}": damaged, or not numbers; write it again') from error


def _mat(path: Path, role: str) -> tuple[str, np.ndarray]:
    data = {name: v for name, v in read_mat(path).items() if v.dtype.kind in "iufc" and v.size > 1}
    name = pick(path, data, role)
    return name, data[name]


def _datasets(file: h5py.File) -> list[str]:
    import h5py

    return [key for key in file if isinstance(file.get(key), h5py.Dataset)]


def _h5(path: Path, role: str) -> tuple[str, np.ndarray]:
    with open_file(path) as file:
        try:
            name = pick(path, _datasets(file), role)
            return name, checked_dataset(path, file, name)[()]
        except DAMAGE as error:
            raise UserError(f'cannot read "{path}": damaged; copy or make it again') from error


_LOADERS: dict[str, Callable[[Path, str], tuple[str, np.ndarray]]] = {
    ".npy": _npy,
    ".npz": _npz,
    ".mat": _mat,
    ".h5": _h5,
    ".hdf5": _h5,
}


def _image(path: Path, name: str, values: np.ndarray) -> np.ndarray:
    """Return an array as (C, H, W)."""
    if values.dtype.kind == "c":
        raise UserError(f'{path}: "{name}" holds complex numbers; give their modulus or intensity as real numbers')
    if values.dtype.kind not in "iuf":
        raise UserError(f'{path}: "{name}" holds {values.dtype} values, expected numbers; write it again')
    if values.ndim == 4 and values.shape[0] == 1:
        values = values[0]
    if values.ndim == 2:
        return values[None]
    if values.ndim != 3 or 0 in values.shape:
        more = "; of a data set of several images: --data" if values.ndim == 4 else "; give one image"
        raise UserError(f'{path}: expected "{name}" as (H,W,C) or (C,H,W), given {values.shape}{more}')
    first, second, last = values.shape
    if last < min(first, second):
        return np.moveaxis(values, -1, 0)
    if first < min(second, last):
        return values
    raise UserError(
        f'{path}: which axis of "{name}" {values.shape} holds the bands is not clear (the smallest is not the first '
        "or the last alone); write it as (C,H,W) with fewer bands than rows and columns"
    )
