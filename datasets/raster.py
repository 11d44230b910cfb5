"""The interface of an image file that is read by windows, whatever its format.

`lemamba.datasets.geotiff.GeoTiff` implements it. Alignment, fusing, simulation and writing use nothing else, so a new
input format needs one class with these members and an entry in `lemamba.datasets.readers.READERS`.
Legend: C bands, H W size. A window is (first, end) along rows and columns, in pixels of the file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np

Span = tuple[int, int]
Window = tuple[Span, Span]
MULTISPECTRAL = 13  # bands that an MS image may have (Sentinel-2); a hyperspectral image has more


class Raster(Protocol):
    """An open image.

    Attributes:
        path: the file.
        shape: (H, W).
        count: C, bands with data; masks and alpha bands are not counted.
        dtypes: NumPy dtype name of each of these bands.
        crs: coordinate system, or None.
        transform: affine geotransform (`affine.Affine`), the identity where the file has none.
        nodata: the value that marks pixels without data, or None.
        masked: whether the file marks pixels without data at all (nodata value, mask or alpha band).
        labels: what a result keeps of the bands: rasterio's names (descriptions, scales, …) -> one value per band.
        tags: what a result keeps of the file: name -> text.
        interleave: order of the stored samples, "pixel" or "band".
    """

    path: Path
    shape: tuple[int, int]
    count: int
    dtypes: tuple[str, ...]
    crs: Any
    transform: Any
    nodata: float | None
    masked: bool
    labels: dict[str, list[Any]]
    tags: dict[str, str]
    interleave: str

    def read(self, window: Window | None = None, size: Span | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Read a window, or the whole image subsampled to `size`.

        Returns:
            Pixels (C, h, w) in the file's dtype, and `valid` (h, w) bool: where all bands are finite and not masked.

        Raises:
            UserError: the file is damaged or truncated.
        """
        ...

    def check_window(self, window: Window) -> None:
        """Raise `UserError` where a window, read as a whole, would take far more memory than the file stores."""
        ...
