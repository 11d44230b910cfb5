"""Reader of v5 `.mat` files (MATLAB 5 to 7, Octave `-v6`, `-v7`, scipy): numeric, logical and text variables.

scipy's own reader trusts the lengths in the file and can crash the process: `loadmat` of scipy 1.17.1 died with a
segmentation fault on 36 of 6 000 damaged files (one wrong byte in the header of a variable is enough), and on 8 of
4 000 where `whosmat` had first selected the numeric variables. Here every length is checked against the bytes present.

Format: MathWorks, "MAT-File Format", chapter 1. A file is a 128-byte header followed by elements; an element is a tag
(type, length) and its data; a variable is an element of type miMATRIX with flags, sizes, name and values, usually
inside a DEFLATE stream (miCOMPRESSED).
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

HEADER_BYTES = 128
_INT32, _UINT32, _MATRIX, _COMPRESSED = 5, 6, 14, 15
_PIECE = 2**16  # stored bytes that are decompressed at once
_PEEK = 4096  # bytes that always contain flags, sizes and a name of 63 characters
_STORAGE = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_CLASSES = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}
_CHAR = 4
OTHERS = {1: "cell", 2: "struct", 3: "object", 5: "sparse"}  # have a header alike and are not read
_TEXT = {1: "latin-1", 2: "latin-1", 4: "utf-16", 16: "utf-8", 17: "utf-16", 18: "utf-32"}


class DamagedError(Exception):
    """The data contradict their tags."""


@dataclass(frozen=True)
class Variable:
    """Header of a variable.

    Attributes:
        shape: its size, two or more axes.
        kind: MATLAB's class number (6 double … 15 uint64, 4 char).
        logical: whether it is a logical array.
        is_complex: whether an imaginary part follows.
        total: bytes of the decompressed element including its tag.
        values_at: position of the values' tag in the decompressed element.
        element: function that returns the first bytes of the decompressed element, at most as many as asked for.
    """

    shape: tuple[int, ...]
    kind: int
    logical: bool
    is_complex: bool
    total: int
    values_at: int
    element: Callable[[int], bytes | bytearray]

    @property
    def nbytes(self) -> int:
        """Bytes of the array in memory."""
        item = 4 if self.kind == _CHAR else np.dtype(_CLASSES[self.kind]).itemsize
        return math.prod(self.shape) * item * (1 + self.is_complex)


def list_variables(path: Path, order: str) -> dict[str, Variable]:
    """Return the readable variables of a v5 file by name; `order` is "<" or ">". Damage raises `DamagedError`."""
    size, position = path.stat().st_size, HEADER_BYTES
    found: dict[str, Variable] = {}
    while position < size:
        kind, length = _unpack(order + "II", _stored(path, position, 8, 8))
        if position + 8 + length > size:
            raise DamagedError("truncated")
        if kind == _COMPRESSED:
            found |= _describe(partial(_inflated, path, position + 8, length), order)
        elif kind == _MATRIX:
            found |= _describe(partial(_stored, path, position, 8 + length), order)
        position += 8 + length
    return found


def list_others(path: Path, order: str) -> dict[str, str]:
    """Return name -> kind ("cell", "struct", …) of the variables that `list_variables` leaves out."""
    size, position = path.stat().st_size, HEADER_BYTES
    found = {}
    while position + 8 <= size:
        kind, length = _unpack(order + "II", _stored(path, position, 8, 8))
        if kind == _COMPRESSED:
            peek = _inflated(path, position + 8, length, _PEEK)
        else:
            peek = _stored(path, position, 8 + length, _PEEK) if kind == _MATRIX else bytearray()
        if peek and _unpack(order + "II", peek[:8])[0] == _MATRIX:
            _, flags, at = _element(peek, order, 8)
            what = OTHERS.get(flags[0] if order == "<" else flags[3]) if len(flags) >= 8 else None
            if what:
                _, _, at = _element(peek, order, at)
                found[bytes(_element(peek, order, at)[1]).decode("ascii", "replace").rstrip("\0")] = what
        position += 8 + length
    return found


def _stored(path: Path, position: int, length: int, most: int) -> bytearray:
    """Return bytes of the file, writable: arrays of the stored type can use them without a copy."""
    found = bytearray(max(0, min(length, most, path.stat().st_size - position)))
    with path.open("rb") as file:
        file.seek(position)
        del found[file.readinto(found) :]
    return found


def _inflated(path: Path, position: int, length: int, most: int) -> bytearray:
    # A compressed header of _PEEK bytes lies within its first _PEEK stored bytes, or is damaged.
    data = memoryview(_stored(path, position, length, _PEEK if most == _PEEK else length))
    inflater, found = zlib.decompressobj(), bytearray()
    try:
        for start in range(0, len(data), _PIECE):  # in pieces: zlib would hold the whole twice
            if len(found) >= most or inflater.eof:
                break
            found += inflater.decompress(data[start : start + _PIECE], most - len(found))
    except zlib.error as error:
        raise DamagedError(str(error)) from error
    return found


def _describe(element: Callable[[int], bytes | bytearray], order: str) -> dict[str, Variable]:
    """Return {name: variable} from a header; nothing for structures, cells and sparse matrices."""
    peek = element(_PEEK)
    inner, length = _unpack(order + "II", peek[:8])
    if inner != _MATRIX or length == 0:
        return {}
    kind, flags, at = _element(peek, order, 8)
    if kind != _UINT32 or len(flags) < 8:
        raise DamagedError("array flags")
    word = _unpack(order + "I", flags[:4])[0]
    if word & 0xFF not in _CLASSES and word & 0xFF != _CHAR:
        return {}
    kind, sizes, at = _element(peek, order, at)
    if kind != _INT32 or len(sizes) % 4 or not 8 <= len(sizes) <= 128:
        raise DamagedError("array sizes")
    shape = tuple(int(n) for n in np.frombuffer(sizes, order + "i4"))
    _, name, at = _element(peek, order, at)
    if min(shape) < 0:
        raise DamagedError("negative size")
    variable = Variable(shape, word & 0xFF, bool(word & 0x200), bool(word & 0x800), length + 8, at, element)
    return {bytes(name).decode("ascii", "replace").rstrip("\0"): variable}


def read_variable(order: str, variable: Variable) -> np.ndarray:
    """Return a variable with MATLAB's axes and dtype, text as an array of row strings; raise `DamagedError`."""
    # Compact storage (doubles stored as bytes) makes an element shorter than its array, never much longer.
    data = variable.element(min(variable.total, 2 * variable.nbytes + 2 * _PEEK))
    kind, values, at = _element(data, order, variable.values_at)
    if variable.kind == _CHAR:
        return _text(values, kind, order, variable.shape)
    array = _numbers(values, kind, order, variable)
    if variable.is_complex:
        kind, values, _ = _element(data, order, at)
        array = array + 1j * _numbers(values, kind, order, variable)
    return array


def _unpack(layout: str, data: bytes | bytearray | memoryview) -> tuple[int, ...]:
    if len(data) < struct.calcsize(layout):
        raise DamagedError("truncated")
    return struct.unpack(layout, data)


def _element(data: bytes | bytearray, order: str, at: int) -> tuple[int, memoryview, int]:
    """Return type, data and end of the element at `at`; short elements store their data in the tag."""
    first, second = _unpack(order + "II", data[at : at + 8])
    if first >> 16:
        kind, length, start, following = first & 0xFFFF, first >> 16, at + 4, at + 8
    else:
        kind, length, start = first, second, at + 8
        following = start + length + -length % 8
    if start + length > len(data) or (first >> 16 and length > 4):
        raise DamagedError("truncated")
    return kind, memoryview(data)[start : start + length], following


def _numbers(values: memoryview, kind: int, order: str, variable: Variable) -> np.ndarray:
    storage = np.dtype(order + _STORAGE[kind]) if kind in _STORAGE else None
    if storage is None or len(values) != math.prod(variable.shape) * storage.itemsize:
        raise DamagedError("values do not fill the array")
    wanted = np.dtype(bool) if variable.logical else np.dtype(_CLASSES[variable.kind])
    return np.frombuffer(values, storage).astype(wanted, copy=values.readonly).reshape(variable.shape, order="F")


def _text(values: memoryview, kind: int, order: str, shape: tuple[int, ...]) -> np.ndarray:
    encoding = _TEXT.get(kind)
    if encoding is None:
        raise DamagedError("text of an unknown encoding")
    if encoding.startswith("utf-") and encoding != "utf-8":
        encoding += "-le" if order == "<" else "-be"
    characters = list(bytes(values).decode(encoding, "replace"))
    if len(shape) != 2 or len(characters) != math.prod(shape):
        return np.array(["".join(characters)])
    grid = np.array(characters, dtype="U1").reshape(shape, order="F")
    return np.array(["".join(row) for row in grid]) if shape[0] else np.array([""])
