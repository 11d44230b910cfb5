"""Where an image lies on the ground: what an HTML page needs for coordinates of a pixel, a scale bar and north.

A browser has no map projections. It gets unit vectors of longitude and latitude on a grid over the image, fine enough
to be interpolated between. rasterio is imported when a place is described.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

_SIDES = (2, 3, 5, 9, 17, 33, 65)  # nodes along each side of the grid
_CLOSE = 1e-8  # radians, 6 cm on the ground
WGS84 = "EPSG:4326"


def describe_place(crs: Any, transform: Any, size: tuple[int, int]) -> dict[str, Any] | None:
    """Return what the page needs to know; None where a file names no place.

    Args:
        crs: `rasterio.crs.CRS`, or None.
        transform: geotransform from (column, row) to map coordinates, with the six values `a` to `f`.
        size: (H, W) of the image.

    Returns:
        "transform": a, b, c, d, e, f; "crs": "EPSG:32632" or ""; "name" of it; "unit" of its axes; "metres" in a unit,
        None for degrees; "grid": (n, n, 3) unit vectors, None where they are not known; "error" of interpolating
        between them in metres.
    """
    if transform is None or transform.is_identity:
        return None
    about: dict[str, Any] = {"transform": [float(value) for value in tuple(transform)[:6]]}
    if not crs:
        return about | {"crs": "", "name": "no coordinate system", "unit": "", "metres": None, "grid": None, "error": 0}
    name = re.match(r'\w+\["([^"]+)"', crs.to_wkt())
    code = crs.to_authority()
    about |= {"crs": ":".join(code) if code else "", "name": name[1] if name else "", "geographic": crs.is_geographic}
    unit, metres = crs.linear_units_factor if crs.is_projected else ("°", None)
    about |= {"unit": "m" if unit in ("metre", "meter") else unit, "metres": metres}
    grid, error = _grid(crs, transform, size)
    return about | {"grid": grid, "error": error}


def _grid(crs: Any, transform: Any, size: tuple[int, int]) -> tuple[list[Any] | None, float]:
    """Return the coarsest grid that is fine enough, else the finest, and its error in metres."""
    error = 0.0
    grid = None
    for n in _SIDES:
        nodes = _vectors(crs, transform, size, 2 * n - 1)  # with the middles, where the error is largest
        if nodes is None:
            return None, 0.0
        grid = nodes[::2, ::2]
        across = (nodes[::2, :-2:2] + nodes[::2, 2::2]) / 2 - nodes[::2, 1::2]
        down = (nodes[:-2:2, ::2] + nodes[2::2, ::2]) / 2 - nodes[1::2, ::2]
        # the chord lies below the surface: only what is along it counts
        apart = [_along(across, nodes[::2, 1::2]), _along(down, nodes[1::2, ::2])]
        error = max(float(one.max()) for one in apart)
        if error < _CLOSE:
            break
    assert grid is not None
    return np.round(grid, 12).tolist(), 6_371_000 * error


def _along(difference: np.ndarray, up: np.ndarray) -> np.ndarray:
    return np.linalg.norm(difference - (difference * up).sum(-1, keepdims=True) * up, axis=-1)


def _vectors(crs: Any, transform: Any, size: tuple[int, int], n: int) -> np.ndarray | None:
    """Return unit vectors (n, n, 3) of the directions of n x n points over the image; None where there are none."""
    from rasterio.errors import RasterioError
    from rasterio.warp import transform as project

    rows, columns = np.meshgrid(np.linspace(0, size[0], n), np.linspace(0, size[1], n), indexing="ij")
    a, b, c, d, e, f = tuple(transform)[:6]
    x, y = (a * columns + b * rows + c).ravel(), (d * columns + e * rows + f).ravel()
    try:
        longitude, latitude = (np.radians(values) for values in project(crs, WGS84, x.tolist(), y.tolist()))
    except RasterioError:
        return None
    vectors = np.stack(
        (np.cos(latitude) * np.cos(longitude), np.cos(latitude) * np.sin(longitude), np.sin(latitude)), axis=-1
    )
    return vectors.reshape(n, n, 3) if np.isfinite(vectors).all() else None
