"""Reading and writing `.mat` files: what fusing writes and the metrics (Python, Octave, MATLAB) read.

`sr`, `gt`, `ms`, `lms`, `pan` are `(B, C, H, W)` float32 in digital numbers. There are two containers: v5 up to 2 GiB
per variable, v7.3 above. A v7.3 file is HDF5 after a 512-byte user block; MATLAB is column-major, so a MATLAB array of
size `(B, C, H, W)` is stored as `(W, H, C, B)`, and its class is an attribute.

Files are not trusted: the declared sizes are compared with the size of the file before anything is allocated, and links
to other files are refused.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lemamba.utils.atomic import new_hdf5, write_atomically
from lemamba.utils.errors import UserError, nearest
from lemamba.utils.formats import mat5
from lemamba.utils.formats.bounds import MAX_COMPRESSION, check_chunks, check_own_data, hdf5_member

V5_LIMIT = 2**31 - 1  # bytes per variable, MATLAB's limit for v5
READ_LIMIT = 16 * 2**30  # bytes that are read from one file
_USER_BLOCK = 512
_HDF5 = b"\x89HDF\r\n\x1a\n"
_ITEM_BYTES = {"double": 8, "single": 4, "logical": 1, "char": 4} | {
    f"{sign}int{bits}": bits // 8 for sign in ("", "u") for bits in (8, 16, 32, 64)
}
_MATLAB_CLASS = {"f8": "double", "f4": "single", "b1": "logical"}


def read_mat(path: str | Path, keys: Iterable[str] | None = None, *, limit: int = READ_LIMIT) -> dict[str, np.ndarray]:
    """Read numeric, logical and text variables of a `.mat` file (v4, v5, v7, v7.3).

    Args:
        path: the file.
        keys: names to read; None reads all. Structures, cells and sparse matrices are skipped.
        limit: bytes that these variables may take in memory.

    Returns:
        name -> array with MATLAB's axes and dtype, e.g. `sr` as `(B, C, H, W)`; text as an array of strings.
        Trailing axes of length 1 may be missing, as in MATLAB.

    Raises:
        UserError: the file does not exist, is no `.mat` file, is truncated, lacks a key (the message lists those
            present), or declares more data than it can contain.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f'expected a .mat file, "{path}" {_what_it_is(path)}; check the path')
    with path.open("rb") as file:
        head = file.read(128)
        file.seek(_USER_BLOCK)
        signature = file.read(8)
    if _HDF5 in (head[:8], signature):
        return _read_v73(path, keys, limit)
    return _read_v5(path, head, keys, limit)


def is_plain_hdf5(path: Path) -> bool:
    """Return whether a file is HDF5 without MATLAB's user block, so that another program wrote it."""
    with path.open("rb") as file:
        return file.read(8) == _HDF5


def unread_variables(path: Path) -> dict[str, str]:
    """Return name -> kind ("cell", "struct", …) of the variables of a v5 or v7.3 file that `read_mat` skips."""
    import h5py

    with path.open("rb") as file:
        head = file.read(128)
    try:
        if h5py.is_hdf5(path):
            with h5py.File(path, "r") as file73:
                return {n: kind for n in file73 if not n.startswith("#") and (kind := _other_kind(file73.get(n)))}
        order = {b"IM": "<", b"MI": ">"}.get(head[126:128])
        return mat5.list_others(path, order) if order else {}
    except (mat5.DamagedError, OSError, RuntimeError, ValueError, KeyError):
        return {}


def _other_kind(member: Any) -> str:
    """Return what a member of a v7.3 file is that holds no numbers, else ""."""
    if not hasattr(member, "dtype"):
        return "struct"
    return "cell" if member.dtype.kind == "O" else ""


def _what_it_is(path: Path) -> str:
    return "is a folder" if path.is_dir() else "does not exist"


def _select(path: Path, present: Mapping[str, int], keys: Iterable[str] | None, limit: int) -> list[str]:
    """Check keys and declared bytes; return the names to read. `present`: name -> declared bytes."""
    wanted = list(present if keys is None else dict.fromkeys(keys))
    for key in wanted:
        if key not in present:
            found = ", ".join(present) or "none that can be read"
            raise UserError(f'{path} has no variable "{key}"{nearest(key, present)}; it holds: {found}')
    declared, size = sum(present[key] for key in wanted), path.stat().st_size
    if declared > limit or declared > MAX_COMPRESSION * size:
        raise UserError(
            f"{path} is {size} bytes and declares {declared} bytes of data (at most {limit} are read); "
            "the file is damaged or too large"
        )
    return wanted


def _read_v5(path: Path, head: bytes, keys: Iterable[str] | None, limit: int) -> dict[str, np.ndarray]:
    order = {b"IM": "<", b"MI": ">"}.get(head[126:128])
    if order is None:
        return _read_v4(path, keys, limit)
    try:
        variables = mat5.list_variables(path, order)
        wanted = _select(path, {name: v.nbytes for name, v in variables.items()}, keys, limit)
        return {key: mat5.read_variable(order, variables[key]) for key in wanted}
    except (mat5.DamagedError, MemoryError, OverflowError) as error:
        raise UserError(f"{path} is a damaged .mat file ({error}); copy or make it again") from error


def _read_v4(path: Path, keys: Iterable[str] | None, limit: int) -> dict[str, np.ndarray]:
    from scipy.io import loadmat, whosmat

    try:
        kinds = {name: (shape, kind) for name, shape, kind in whosmat(path)}
        present = {n: math.prod(shape) * _ITEM_BYTES[kind] for n, (shape, kind) in kinds.items() if kind in _ITEM_BYTES}
        wanted = _select(path, present, keys, limit)
        data = loadmat(path, variable_names=wanted) if wanted else {}
        return {key: np.asarray(data[key]) for key in wanted}
    except UserError:
        raise
    except Exception as error:  # scipy raises many types of errors for files of another format
        raise UserError(f"{path} is not a readable .mat file: damaged or of another format; make it again") from error


def _read_v73(path: Path, keys: Iterable[str] | None, limit: int) -> dict[str, np.ndarray]:
    import h5py

    try:
        with h5py.File(path, "r") as file:
            present = {}
            for name in file:
                if isinstance(data := _local_dataset(path, file, name), h5py.Dataset):
                    present[name] = data.size * data.dtype.itemsize
            wanted = _select(path, present, keys, limit)
            return {key: _from_matlab(file[key]) for key in wanted}
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, MemoryError) as error:
        raise UserError(f"{path} cannot be read as a v7.3 .mat file: damaged or truncated; make it again") from error


def _local_dataset(path: Path, file: Any, name: str) -> Any:
    """Return a numeric dataset stored in this file, None for other members; refuse links and external data."""
    import h5py

    data = hdf5_member(path, file, name)
    if not isinstance(data, h5py.Dataset) or name.startswith("#") or data.dtype.kind not in "biuf":
        return None
    check_own_data(path, name, data)
    check_chunks(path, name, data)
    return data


def _from_matlab(data: Any) -> np.ndarray:
    """Read a v7.3 dataset with MATLAB's axes and class."""
    kind = data.attrs.get("MATLAB_class", b"")
    kind = kind.decode() if isinstance(kind, bytes) else str(kind)
    if "MATLAB_empty" in data.attrs:  # the dataset is the size of the empty array
        return np.zeros([int(n) for n in data[()].ravel()][:8] if data.size <= 8 else [0])
    array = data[()].transpose()
    if kind == "char":
        return np.array(["".join(map(chr, row)) for row in np.atleast_2d(array).astype(np.uint32)])
    return array.astype(bool) if kind == "logical" else array


def write_mat(
    path: str | Path,
    arrays: Mapping[str, np.ndarray],
    *,
    dtype: np.dtype | type | None = np.float32,
    v73: bool | None = None,
    info: Mapping[str, Any] | None = None,
) -> None:
    """Write arrays to a `.mat` file under a temporary name, then rename.

    Args:
        path: the file; its folder is created if needed.
        arrays: name -> array, e.g. `sr` `(B, C, H, W)`. MATLAB drops trailing axes of length 1 when it reads.
        dtype: of all stored arrays; None keeps each array's own (for integers).
        info: facts about the images, name -> text, number or numbers; stored as variables of their own, as float64 or
            text.
        v73: True or False forces a container; None chooses v5 unless a variable exceeds 2 GiB.

    Raises:
        UserError: the folder is not writable, or v5 is forced for a variable above 2 GiB.
        ValueError: a name is not a MATLAB variable name (an error of the caller).
    """
    stored = {name: np.atleast_2d(np.asarray(a, dtype=dtype)) for name, a in arrays.items()}
    for name, value in (info or {}).items():
        stored[name] = np.array([value]) if isinstance(value, str) else np.atleast_2d(np.asarray(value, np.float64))
    for name in stored:
        if not (name.isascii() and name.isidentifier() and name[0] != "_" and len(name) <= 63):
            raise ValueError(f"{name!r} is not a MATLAB variable name")
    largest = max((a.nbytes for a in stored.values()), default=0)
    if v73 is False and largest > V5_LIMIT:
        raise UserError(f"a v5 .mat holds 2 GiB per variable, the largest here is {largest} bytes; write v7.3")
    use_v73 = largest > V5_LIMIT if v73 is None else v73
    write_atomically(path, lambda temporary: (_write_v73 if use_v73 else _write_v5)(temporary, stored))


def _write_v5(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    from scipy.io import savemat

    with path.open("wb") as file:  # given a name, savemat would append ".mat" to the temporary one
        savemat(file, dict(arrays))


def _write_text(file: Any, name: str, text: str) -> None:
    """Store a row of characters, UTF-16 as MATLAB does."""
    codes = np.frombuffer(text.encode("utf-16-le"), np.uint16)
    data = file.create_dataset(name, data=codes[:, None])
    data.attrs["MATLAB_class"] = np.bytes_("char")
    data.attrs["MATLAB_int_decode"] = np.int32(2)


def _write_v73(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    with new_hdf5(path, userblock_size=_USER_BLOCK) as (file, _):
        for name, array in arrays.items():
            if array.dtype.kind == "U":
                _write_text(file, name, str(array[0]))
                continue
            stored = array.astype(np.uint8) if array.dtype == bool else array
            data = file.create_dataset(name, data=stored.transpose())
            kind = _MATLAB_CLASS.get(array.dtype.str[1:], array.dtype.name)
            data.attrs["MATLAB_class"] = np.bytes_(kind)
            if array.dtype == bool:
                data.attrs["MATLAB_int_decode"] = np.int32(1)
    text = b"MATLAB 7.3 MAT-file, Platform: any, Created by LE-Mamba, HDF5 schema 1.00 ."
    with path.open("r+b") as file:
        file.write(text.ljust(116) + bytes(8) + b"\x00\x02IM")
