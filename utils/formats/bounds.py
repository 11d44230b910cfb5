"""Validation limits for untrusted files: H5, v7.3 `.mat` and GeoTIFF.

A file may point to other files, which would read data nobody asked for, or declare more data than it stores, which
would exhaust the memory.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lemamba.utils.errors import UserError

if TYPE_CHECKING:
    import h5py

MAX_COMPRESSION = 1100  # largest plausible compression ratio; DEFLATE cannot exceed 1032
ALWAYS_READ = 64 * 2**20  # bytes of pixels that are read whatever the size of the file
DIVIDED = 1.5  # values that end below this have been divided already, whatever the sensor
BEYOND = 1.2  # values above this multiple of the divisor suggest the wrong divisor
_CHUNK_COST = 4096  # bytes of memory that HDF5 needs for each chunk of an array it reads
_CHUNK_MEMORY = 2**27  # bytes of memory for chunks that are always allowed
_SAMPLE_MEMORY = 2**30  # the same where each chunk holds whole samples: data sets of 260 000 small patches exist


def hdf5_member(path: Path, file: h5py.File, name: str) -> Any:
    """Return a member (data set, group or type) of an open HDF5 file; raise `UserError` for a link."""
    import h5py

    if not isinstance(file.get(name, getlink=True), h5py.HardLink):
        raise UserError(f'{path}: "{name}" is a link, which is not allowed; copy the data into one file')
    return file[name]


def check_own_data(path: Path, name: str, data: h5py.Dataset) -> None:
    """Refuse a data set whose values are stored in another file."""
    if data.is_virtual or data.external:
        raise UserError(
            f'{path}: "{name}" stores its data in another file, which is not allowed; copy the data into one file'
        )


def check_chunks(path: Path, name: str, data: h5py.Dataset) -> None:
    """Refuse a data set with so many small chunks that reading it would need far more memory than its values."""
    if not data.chunks:
        return
    chunks = math.prod(-(-n // c) for n, c in zip(data.shape, data.chunks, strict=True))
    declared = data.size * data.dtype.itemsize
    allowed = _SAMPLE_MEMORY if data.chunks[1:] == data.shape[1:] else _CHUNK_MEMORY
    if chunks * _CHUNK_COST > max(allowed, 4 * declared):
        raise UserError(f'{path}: "{name}" is split into {chunks} tiny chunks; store one sample per chunk')


def check_not_divided(source: str, largest: float, divisor: float) -> None:
    """Refuse data that were divided before: divided once more, they would look black to a network."""
    if 0 < largest <= DIVIDED < divisor:
        raise UserError(
            f"the values of {source} end at {largest:.4g} and would be divided by {divisor:g}; "
            "give --divisor 1 if they have been divided already"
        )
