"""Spectral responses: the weight of each band of a hyperspectral cube in a guide image with a few broad bands.

Legend: C bands of the cube, P bands of the guide.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lemamba.utils.errors import UserError
from lemamba.utils.formats.mat import read_mat

_RGB = ((610.0, 35.0), (540.0, 35.0), (465.0, 30.0))  # centre and sigma in nm of a plain colour camera
_LEAST_WAVELENGTH = 100.0  # nm; a first column that increases from here on is one of wavelengths
_MOST_GUIDE_BANDS = 16
_SLECTBANDS_SENSOR = 224  # bands of AVIRIS: files with SlectBands are cut from its images
# Share of each band from 400 to 700 nm in steps of 10 nm in the red, green and blue of a Nikon D700. Measured by Jiang,
# Liu, Gu, Susstrunk: "What is the space of spectral sensitivity functions for digital color cameras?", WACV 2013; the
# numbers are those of the CAVE experiments of XieQi2015/MHF-net and Caoxuheng/HIFtool, each band divided by its sum.
_NIKON_D700 = (
    (0.0037, 0.0031, 0.0030, 0.0020, 0.0020, 0.0013, 0.0005, 0.0001, 0, 0, 0, 0, 0, 0, 0.0012, 0.0086, 0.0219,
     0.0405, 0.0604, 0.0780, 0.0798, 0.0777, 0.0755, 0.0738, 0.0720, 0.0700, 0.0677, 0.0662, 0.0644, 0.0637,
     0.0630),
    (0.0063, 0.0052, 0.0045, 0.0040, 0.0035, 0.0050, 0.0105, 0.0173, 0.0288, 0.0427, 0.0583, 0.0746, 0.0954,
     0.1021, 0.0985, 0.0900, 0.0812, 0.0671, 0.0524, 0.0378, 0.0238, 0.0160, 0.0111, 0.0084, 0.0069, 0.0064,
     0.0064, 0.0069, 0.0083, 0.0095, 0.0115),
    (0.0256, 0.0384, 0.0561, 0.0779, 0.0969, 0.1157, 0.1195, 0.1193, 0.1102, 0.0887, 0.0630, 0.0349, 0.0094, 0,
     0, 0, 0, 0, 0, 0.0009, 0.0017, 0.0029, 0.0049, 0.0052, 0.0052, 0.0048, 0.0044, 0.0043, 0.0040, 0.0033,
     0.0028),
)  # fmt: skip


def gaussian_rgb(wavelengths: np.ndarray) -> np.ndarray:
    """Return the response (3, C) of a plain colour camera, order red, green, blue."""
    centres, sigmas = np.array(_RGB).T[:, :, None]
    return _checked(np.exp(-(((wavelengths[None] - centres) / sigmas) ** 2) / 2), "the built-in RGB response")


def nikon_d700(wavelengths: np.ndarray) -> np.ndarray:
    """Return the response (3, C) of a Nikon D700, order red, green, blue; 0 outside 400 to 700 nm."""
    grid = np.linspace(400, 700, 31)
    sampled = [np.interp(wavelengths, grid, row, left=0, right=0) for row in _NIKON_D700]
    return _checked(np.stack(sampled), "the response of the Nikon D700")


CAMERAS = {"gaussian": gaussian_rgb, "nikon_d700": nikon_d700}


def read_response(path: Path, wavelengths: np.ndarray, columns: Sequence[int] | None = None) -> np.ndarray:
    """Read responses and sample them at the bands of a cube.

    The matrix is a table, with increasing wavelengths in nm in column 1 and one response in each other column; or it
    has one row for each of the cube's bands and one column per guide band (or the transpose), without wavelengths.

    Args:
        path: `.mat`, `.npy`, or text with commas (`.csv`, `.txt`; a line that is no numbers is a heading).
        wavelengths: of the cube's bands in nm, (C,).
        columns: 1-based columns that become guide bands, in this order; None takes all responses.

    Returns:
        (P, C), 0 outside a table.

    Raises:
        UserError: no such matrix, two of them, no such column, or a guide band that covers none of the wavelengths.
    """
    bands = len(wavelengths)
    tables, matrices = [], []
    for matrix in _matrices(path):
        if _is_table(matrix):
            tables.append(matrix)
        elif bands in matrix.shape and min(matrix.shape) <= _MOST_GUIDE_BANDS and min(matrix.shape) < bands:
            matrices.append(matrix if matrix.shape[0] == bands else matrix.T)
    found = [max(tables, key=np.size)] if tables else matrices
    if len(found) != 1:
        what = "several matrices that could be it" if found else "no such matrix"
        raise UserError(
            f"{path}: expected a matrix of {bands} bands x guide bands, or a table with increasing wavelengths in "
            f"column 1; {what}; save the one that is meant in a file of its own"
        )
    matrix = found[0]
    first = 2 if tables else 1
    chosen = columns or list(range(first, matrix.shape[1] + 1))
    for column in chosen:
        if not first <= column <= matrix.shape[1]:
            raise UserError(
                f"{path}: expected guide columns from {first} to {matrix.shape[1]}, given {column}; correct them"
            )
    picked = [matrix[:, column - 1] for column in chosen]
    if tables:
        picked = [np.interp(wavelengths, matrix[:, 0], values, left=0, right=0) for values in picked]
    return _checked(np.stack(picked), str(path))


def _is_table(matrix: np.ndarray) -> bool:
    return bool(matrix.shape[1] >= 2 and matrix[0, 0] >= _LEAST_WAVELENGTH and (np.diff(matrix[:, 0]) > 0).all())


def read_psf(path: Path) -> np.ndarray:
    """Read a blur kernel (S, T) from `.mat`, `.npy` or text: the variable C, B, psf or kernel, or the only square one.

    Raises:
        UserError: no kernel, or several matrices that could be one.
    """
    named = _arrays(path)
    known = [v for name, v in named.items() if name.lower() in ("c", "b", "psf", "kernel", "k")]
    square = known or [v for v in named.values() if v.shape[0] == v.shape[1]]
    if len(square) != 1 or min(square[0].shape) < 1:
        held = ", ".join(f"{name} {v.shape[0]}x{v.shape[1]}" for name, v in named.items()) or "no matrix"
        raise UserError(f"{path}: expected one blur kernel (psf), it holds {held}; save the kernel in its own file")
    return square[0]


def _matrices(path: Path) -> list[np.ndarray]:
    return [matrix for matrix in _arrays(path).values() if min(matrix.shape) >= 1 and matrix.size > 1]


def _arrays(path: Path) -> dict[str, np.ndarray]:
    """Return the matrices of numbers in a file by name, float64."""
    suffix = path.suffix.lower()
    if suffix == ".mat":
        found = read_mat(path)
    elif suffix not in (".npy", ".csv", ".txt"):
        raise UserError(f'expected a .mat, .npy, .csv or .txt file of numbers, given "{path}"; convert it')
    elif not path.is_file():
        raise UserError(f'expected a file of numbers, "{path}" does not exist; check the path')
    else:
        try:
            found = {path.stem: np.load(path, allow_pickle=False) if suffix == ".npy" else _numbers(path)}
        except (OSError, ValueError, EOFError) as error:
            raise UserError(f'cannot read "{path}" as numbers: cut short or of another kind; write it again') from error
    numbers = {name: v for name, v in found.items() if v.ndim == 2 and v.dtype.kind in "iuf"}
    return {name: v.astype(np.float64) for name, v in numbers.items()}


def _numbers(path: Path) -> np.ndarray:
    """Return the lines of numbers in a text file, separated by commas, semicolons or blanks; headings are skipped."""
    rows = []
    for line in path.read_text(encoding="utf-8-sig").splitlines():
        words = re.split(r"[,;\s]+", line.strip(" \t,;"))
        try:
            rows.append([float(word) for word in words])
        except ValueError:
            if rows and line.strip():
                raise
    if not rows or len({len(row) for row in rows}) != 1:
        raise ValueError("not a matrix")
    return np.array(rows)


def read_matrix(path: Path) -> np.ndarray:
    """Read a response (P, C) or a PSF (S, S), as `prepare_data.py estimate` writes it: the only matrix of the file.

    Raises:
        UserError: no such file, or no single matrix of finite numbers.
    """
    found = _matrices(path)
    if len(found) != 1 or not np.isfinite(found[0]).all():
        raise UserError(f'expected one matrix of finite numbers in "{path}"; correct it')
    return found[0]


def _checked(response: np.ndarray, source: str) -> np.ndarray:
    if not np.isfinite(response).all():
        raise UserError(f"{source}: the responses have NaN or infinite values; correct the file")
    response = np.clip(response, 0, None)
    if (response.sum(1) < 1e-6).any():
        raise UserError(f"{source}: a guide band covers none of the cube's wavelengths; correct --wavelengths")
    return response


def parse_wavelengths(text: str | None, bands: int, kept: np.ndarray | None = None, kept_name: str = "") -> np.ndarray:
    """Return the wavelengths (C,) in nm of `bands` bands.

    Args:
        text: "START:END", evenly spaced over the bands; "START:END:N", the same over the N bands of the sensor, of
            which the file keeps some; a list "400,410.5,…"; or a file of that many numbers. None means 400:700 for 31
            bands (CAVE), and is a `UserError` otherwise.
        bands: C.
        kept: 1-based bands of the sensor that the file keeps, (C,), or None.
        kept_name: name of that variable, for messages.
    """
    if text is None and (bands != 31 or kept is not None):
        raise UserError(f"a cube of {bands} bands needs its wavelengths: give --wavelengths START:END in nm")
    text = text or "400:700"
    if ":" in text and not Path(text).is_file():
        return _spaced(text, bands, kept, kept_name)
    if Path(text).is_file():
        arrays = [v.ravel() for v in _arrays(Path(text)).values() if v.size == bands]
        listed = arrays[0] if len(arrays) == 1 else np.zeros(0)
    else:
        try:
            listed = np.array([float(part) for part in text.split(",")])
        except ValueError:
            raise _wrong(text) from None
    if len(listed) != bands:
        raise UserError(f'expected {bands} wavelengths, one per band, given {len(listed)} in "{text}"; correct them')
    if not ((listed > 0) & (listed < 1e5)).all():
        raise _wrong(text)
    return listed


def _spaced(text: str, bands: int, kept: np.ndarray | None, kept_name: str) -> np.ndarray:
    parts = text.split(":")
    try:
        start, end = float(parts[0]), float(parts[1])
        total = int(parts[2]) if len(parts) > 2 else None
    except ValueError:
        raise _wrong(text) from None
    if not 0 < start < end < 1e5 or len(parts) > 3:
        raise _wrong(text)
    if kept is None:
        if total not in (None, bands):
            raise UserError(
                f"expected {total} bands by --wavelengths {text}, the cube has {bands} and does not say which of the "
                f"sensor's they are; give a list of {bands} wavelengths, or a file of them"
            )
        return np.linspace(start, end, bands)
    if total is None and kept_name.lower() == "slectbands" and kept.max() <= _SLECTBANDS_SENSOR:
        total = _SLECTBANDS_SENSOR
        print(f"note: bands {kept.min()} to {kept.max()} by {kept_name}, of {total} (AVIRIS) spread over {text} nm")
    if total is None or total < kept.max():
        raise UserError(
            f"the cube keeps {bands} of the sensor's bands, up to {kept.max()} ({kept_name}); give --wavelengths "
            f"START:END:N with the number N of all bands of the sensor, e.g. {start:g}:{end:g}:242"
        )
    return np.linspace(start, end, total)[kept - 1]


def _wrong(text: str) -> UserError:
    return UserError(
        f'expected wavelengths in nm as START:END (START < END), START:END:N, a list or a file, given "{text}"; '
        "e.g. 400:2500"
    )
