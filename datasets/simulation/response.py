"""Spectral responses: the weight of each band of a hyperspectral cube in a guide image with a few broad bands.

Legend: C bands of the cube, P bands of the guide.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lemamba.utils.errors import UserError
from lemamba.utils.formats.mat import read_mat

_RGB = ((610.0, 35.0), (540.0, 35.0), (465.0, 30.0))  # centre and sigma in nm of a plain colour camera


def gaussian_rgb(wavelengths: np.ndarray) -> np.ndarray:
    """Return the response (3, C) of a plain colour camera, order red, green, blue."""
    centres, sigmas = np.array(_RGB).T[:, :, None]
    return _checked(np.exp(-(((wavelengths[None] - centres) / sigmas) ** 2) / 2), "the built-in RGB response")


def response_from_mat(path: Path, wavelengths: np.ndarray, columns: list[int] | None = None) -> np.ndarray:
    """Read a table of responses and sample it at the bands of a cube.

    Args:
        path: a `.mat` file; its largest matrix has the wavelength in nm in column 1 and responses in the others.
        wavelengths: of the cube's bands in nm, (C,).
        columns: 1-based columns that become guide bands, in this order; None takes all after the first.

    Returns:
        (P, C), 0 outside the table.

    Raises:
        UserError: no such table or column, or a guide band that covers none of the cube's wavelengths.
    """
    tables = [a for a in read_mat(path).values() if a.ndim == 2 and a.dtype.kind in "uif" and min(a.shape) >= 2]
    table = max(tables, key=np.size, default=None)
    if table is None or (np.diff(table[:, 0].astype(float)) <= 0).any():
        raise UserError(
            f"{path}: expected a matrix with increasing wavelengths in column 1 and responses in the others; fix it"
        )
    chosen = columns or list(range(2, table.shape[1] + 1))
    for column in chosen:
        if not 2 <= column <= table.shape[1]:
            raise UserError(f"{path}: expected guide columns from 2 to {table.shape[1]}, given {column}; correct them")
    sampled = [np.interp(wavelengths, table[:, 0], table[:, c - 1], left=0, right=0) for c in chosen]
    return _checked(np.stack(sampled), str(path))


def read_matrix(path: Path) -> np.ndarray:
    """Read a response (P, C) or a PSF (S, S), as `prepare_data.py estimate` writes it: `.npy`, `.csv` or `.mat`.

    A `.csv` may have one line of headings. A `.mat` holds one matrix.

    Raises:
        UserError: no such file, or no matrix of finite numbers.
    """
    suffix = path.suffix.lower()
    try:
        if suffix == ".npy":
            found = np.load(path, allow_pickle=False)
        elif suffix == ".csv":
            lines = path.read_text().splitlines()
            heading = any(c.isalpha() and c not in "eE" for c in lines[0]) if lines else False
            found = np.loadtxt(lines[heading:], delimiter=",", ndmin=2)
        elif suffix == ".mat":
            matrices = [v for v in read_mat(path).values() if v.ndim == 2 and v.size > 1]
            found = matrices[0] if len(matrices) == 1 else np.zeros(0)
        else:
            raise UserError(f'expected a matrix as .npy, .csv or .mat, given "{path}"; convert it')
    except (OSError, ValueError) as error:
        raise UserError(f'cannot read "{path}" as a matrix of numbers; check the file') from error
    if found.ndim != 2 or found.dtype.kind not in "iuf" or not found.size or not np.isfinite(found).all():
        raise UserError(f'expected one matrix of finite numbers in "{path}"; correct it')
    return np.asarray(found, np.float64)


def _checked(response: np.ndarray, source: str) -> np.ndarray:
    response = np.clip(response, 0, None)
    if not np.isfinite(response).all() or (response.sum(1) < 1e-6).any():
        raise UserError(f"{source}: a guide band covers none of the cube's wavelengths; correct --wavelengths")
    return response


def parse_wavelengths(text: str | None, bands: int) -> np.ndarray:
    """Return the wavelengths (C,) in nm of `bands` bands evenly spaced over "START:END".

    None means 400:700 for 31 bands (CAVE), and is a `UserError` otherwise.
    """
    if text is None and bands != 31:
        raise UserError(f"a cube of {bands} bands needs its wavelengths: give --wavelengths START:END in nm")
    try:
        start, end = (float(part) for part in (text or "400:700").split(":"))
    except ValueError:
        raise UserError(f'expected wavelengths as START:END in nm, given "{text}"; e.g. 400:2500') from None
    if not 0 < start < end < 1e5:
        raise UserError(f'expected wavelengths START < END in nm, given "{text}"; e.g. 400:2500')
    return np.linspace(start, end, bands)
