"""What a file from anywhere must keep to before its data are used: one set of rules for H5, v7.3 `.mat` and GeoTIFF.

A file may name other files, or declare more than it holds: the first would read what nobody asked for, the second would
take the machine's memory.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lemamba.utils.errors import UserError

if TYPE_CHECKING:
    import h5py

MAX_COMPRESSION = 1100  # bytes unfolded from one stored: DEFLATE cannot exceed 1032, so a larger claim is a lie
DIVIDED = 1.5  # numbers up to here were divided already, whatever the sensor
_CHUNK_COST = 4096  # bytes that HDF5 takes for each chunk of an array it reads
_CHUNK_MEMORY = 2**27  # bytes for chunks that are always allowed


def hdf5_member(path: Path, file: h5py.File, name: str) -> Any:
    """Return a member (data set, group or type) of an open HDF5 file; a link to somewhere else is a `UserError`."""
    import h5py

    if not isinstance(file.get(name, getlink=True), h5py.HardLink):
        raise UserError(f'{path}: "{name}" is a link; links are refused, copy the data into one file')
    return file[name]


def check_own_data(path: Path, name: str, data: h5py.Dataset) -> None:
    """Refuse a data set whose values lie in another file."""
    if data.is_virtual or data.external:
        raise UserError(
            f'{path}: "{name}" keeps its data in another file; that is refused, copy the data into one file'
        )


def check_chunks(path: Path, name: str, data: h5py.Dataset) -> None:
    """Refuse a data set in so many chunks that reading it would take far more memory than its values."""
    if not data.chunks:
        return
    chunks = math.prod(-(-n // c) for n, c in zip(data.shape, data.chunks, strict=True))
    declared = data.size * data.dtype.itemsize
    if chunks * _CHUNK_COST > max(_CHUNK_MEMORY, 4 * declared):
        raise UserError(f'{path}: "{name}" is cut in {chunks} chunks of some bytes; store a sample as a chunk')


def check_not_divided(source: str, largest: float, divisor: float) -> None:
    """Refuse data whose numbers were divided before: divided again, a network takes them for black images."""
    if 0 < largest <= DIVIDED < divisor:
        raise UserError(
            f"the numbers of {source} end at {largest:.4g} and would be divided by {divisor:g}; "
            "give --divisor 1 where they are divided already"
        )
