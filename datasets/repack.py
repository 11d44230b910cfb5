"""Rewrite an H5 file with one sample per chunk and in a smaller dtype, and report the gain.

Chunks that contain parts of several samples are decoded many times when samples are read in random order; float64 takes
twice the space of the float32 that training uses, 16-bit digital numbers a quarter.
Legend: N samples, C bands, P guide bands, H W size, h w size of ms.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from lemamba.datasets.h5 import DAMAGE, Contents, H5Dataset, checked_dataset, describe, open_file
from lemamba.datasets.layout import read_sample
from lemamba.utils.atomic import new_hdf5, renamed
from lemamba.utils.errors import UserError

DTYPES = ("float32", "uint16")
_EXACT = 2**24  # float32 represents every whole number up to here


@dataclass(frozen=True)
class Cost:
    """Bytes of a file, and samples per second read in random order without a cache."""

    size: int
    speed: float


def repack(path: str | Path, out: str | Path, dtype: str = "float32") -> tuple[Cost, Cost]:
    """Write `out` with the values, keys, sample order and attributes of `path`; the axes become (N, C, H, W).

    Args:
        path: an H5 file that `lemamba.datasets.h5.describe` accepts.
        out: another file; written under a temporary name, then renamed.
        dtype: "float32" (values are rounded to it, as reading does) or "uint16" (only without loss); 8-bit data keep
            their dtype.

    Returns:
        Cost before and after.

    Raises:
        UserError: what `describe` refuses, `out` is `path`, another dtype, values that are NaN, infinite, not whole
            numbers from 0 to 65535 for uint16, or not representable as float32, a folder that is not writable.
    """
    path, out = Path(path), Path(out)
    if dtype not in DTYPES:
        raise UserError(f'expected {" or ".join(DTYPES)}, given "{dtype}"; choose one')
    contents = describe(path)
    if out.exists() and out.samefile(path):
        raise UserError(f'expected --out to be a new file, "{out}" is the input; choose another name')
    with open_file(path) as source, renamed(out) as temporary, new_hdf5(temporary) as (target, check):
        for role, key in contents.keys.items():
            # 8-bit data keep their dtype: it determines the default divisor.
            kept = "uint8" if contents.dtypes[role] == "uint8" else dtype
            new = _create(target, source[key], key, contents.shapes[role], kept)
            for index in range(len(new)):
                where = f'{path}: "{key}" of sample {index}'
                new[index] = _converted(_sample(contents, source, role, index), kept, where)
                check()
        target.attrs.update(contents.attributes)
    return measure(path), measure(out)


def _create(target: h5py.File, old: h5py.Dataset, key: str, shape: tuple[int, ...], dtype: str) -> h5py.Dataset:
    new = target.create_dataset(key, shape, np.dtype(dtype), chunks=(1, *shape[1:]))
    new.attrs.update(old.attrs)
    return new


def _sample(contents: Contents, source: h5py.File, role: str, index: int) -> np.ndarray:
    key = contents.keys[role]
    try:
        return read_sample(checked_dataset(contents.path, source, key), index, contents.layout)
    except DAMAGE as error:
        raise UserError(f'{contents.path}: "{key}" of sample {index} cannot be read: damaged; copy it again') from error


def _converted(values: np.ndarray, dtype: str, where: str) -> np.ndarray:
    """Return the values in `dtype`; refuse a conversion that loses more than reading as float32 does."""
    if not np.isfinite(values).all():
        raise UserError(f"{where} has NaN or infinite values; fix or drop it")
    with np.errstate(over="ignore", invalid="ignore"):
        stored = values.astype(dtype)
    if dtype == "uint16" and not np.array_equal(stored, values):
        odd = values[stored != values].flat[0]
        raise UserError(f"{where} has {odd:g}, uint16 holds whole numbers from 0 to 65535; repack with --dtype float32")
    if values.dtype.kind in "iu" and np.abs(values.astype(np.float64)).max(initial=0) > _EXACT:
        raise UserError(
            f"{where} has whole numbers above {_EXACT}, which float32 does not hold; keep the file as it is"
        )
    if not np.isfinite(stored).all():
        raise UserError(f"{where} has numbers that float32 does not hold; keep the file as it is")
    return stored


def measure(path: Path, seconds: float = 2.0) -> Cost:
    """Return the size, and the speed of reading samples in random order: each once, for at most `seconds`."""
    dataset = H5Dataset(path, cache_limit=0)
    order = np.random.default_rng(0).permutation(len(dataset))
    dataset[int(order[0])]  # opens the file
    start, read = time.perf_counter(), 0
    for index in order:
        dataset[int(index)]
        read += 1
        if time.perf_counter() - start > seconds:
            break
    return Cost(path.stat().st_size, read / max(time.perf_counter() - start, 1e-9))


def report(before: Cost, after: Cost) -> str:
    """Return two lines: size and speed, before and after."""
    return (
        f"size  {before.size / 2**20:.2f} MiB -> {after.size / 2**20:.2f} MiB ({after.size / before.size:.2f} times)\n"
        f"read  {before.speed:.0f} -> {after.speed:.0f} samples/s in random order "
        f"({after.speed / before.speed:.1f} times)"
    )
