"""Input formats: which reader a file has, by its suffix.

A new format is one subclass of `Reader` with the methods it can serve, and an entry in `READERS`; `prepare_data.py
simulate`, `prepare_data.py inspect` and fusing with `--ms` and `--pan` then accept it. H5 data sets are opened by
`lemamba.datasets.h5.H5Dataset`, fused images are read by `lemamba.utils.formats.fused`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lemamba.datasets.geotiff import open_geotiff
from lemamba.datasets.h5 import DAMAGE
from lemamba.datasets.inspect import Report, inspect_geotiff, inspect_h5, inspect_mat
from lemamba.datasets.raster import Raster
from lemamba.datasets.simulation.sources import Cube, Scene, cube_from_png, load_mat
from lemamba.utils.errors import UserError


class Reader:
    """Base class, and the reader of files with an unknown suffix: H5 to inspect, `.mat` to load, GeoTIFF to open."""

    def inspect(self, report: Report) -> None:
        """Describe the file `report.path`."""
        inspect_h5(report)

    def load(self, path: Path, scale: float | None = None) -> Scene | Cube:
        """Read a scene or a hyperspectral cube as a whole; a cube's values are divided by `scale`."""
        return load_mat(path, scale)

    @contextmanager
    def open_raster(self, path: Path) -> Iterator[Raster]:
        """Open one image of an MS + PAN pair, to be read by windows."""
        with open_geotiff(path) as raster:
            for band in raster.alpha:  # GDAL marks the fourth of 8-bit bands by itself
                print(
                    f"note: band {band} of {path} is marked as alpha and taken as a mask; if it is "
                    f"data: gdal_edit.py -colorinterp_{band} undefined {path}"
                )
            yield raster


class MatFile(Reader):
    """`.mat` files of MATLAB, Octave and scipy."""

    def inspect(self, report: Report) -> None:
        """List the variables."""
        inspect_mat(report)


class GeoTiffFile(Reader):
    """GeoTIFF, through rasterio."""

    def inspect(self, report: Report) -> None:
        """Describe bands, range, grid and missing data."""
        inspect_geotiff(report)

    def load(self, path: Path, scale: float | None = None) -> Scene | Cube:
        """Refuse: a scene is two GeoTIFF files."""
        raise UserError(f'expected a .mat scene or cube, given "{path}"; give a GeoTIFF pair with --ms and --pan')


class PngFolder(Reader):
    """A folder with one grey PNG per band (CAVE)."""

    def load(self, path: Path, scale: float | None = None) -> Scene | Cube:
        """Read the bands in the order of their names."""
        return cube_from_png(path, scale)


READERS: dict[str, Reader] = {".mat": MatFile(), ".tif": GeoTiffFile(), ".tiff": GeoTiffFile()}


def reader_of(path: str | Path) -> Reader:
    """Return the reader of a file or folder."""
    path = Path(path)
    return PngFolder() if path.is_dir() else READERS.get(path.suffix.lower(), Reader())


def inspect_file(path: str | Path) -> Report:
    """Report on a file of any format; what is wrong with the file is part of the report and never raised."""
    report = Report(Path(path))
    try:
        reader_of(path).inspect(report)
    except UserError as error:
        report.problems.append(str(error))
        report.readable = bool(report.lines)
    except DAMAGE as error:
        report.problems.append(f"cannot be read to the end: {error}; damaged, copy it again")
        report.readable = bool(report.lines)
    return report
