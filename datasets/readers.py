"""Input formats: which reader a file has, by its suffix.

A new format is one subclass of `Reader` with the methods it can serve, and an entry in `READERS`; `prepare_data.py
simulate`, `prepare_data.py inspect` and fusing with `--ms` and `--pan` then accept it. H5 data sets are opened by
`lemamba.datasets.h5.H5Dataset`, fused images are read by `lemamba.utils.formats.fused`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lemamba.datasets.arrays import open_array, pick
from lemamba.datasets.geotiff import FORMATS, Format, is_remote, open_geotiff
from lemamba.datasets.h5 import DAMAGE
from lemamba.datasets.inspect import Report, inspect_arrays, inspect_geotiff, inspect_h5, inspect_mat
from lemamba.datasets.products import product_files
from lemamba.datasets.raster import Raster
from lemamba.datasets.simulation.sources import (
    Cube,
    Scene,
    cube_from_png,
    cube_from_raster,
    load_mat,
    scene_from_mat,
)
from lemamba.utils.errors import UserError
from lemamba.utils.formats.mat import read_mat


class Reader:
    """Base class, and the reader of files with an unknown suffix, which refuses them."""

    def inspect(self, report: Report) -> None:
        """Describe the file `report.path`."""
        raise _unknown(report.path)

    def load(self, path: Path, scale: float | None = None) -> Scene | Cube:
        """Read a scene or a hyperspectral cube as a whole; a cube's values are divided by `scale`."""
        raise UserError(f'expected a scene or cube, or a folder of PNG bands, given "{path}"; {_CONVERT}')

    @contextmanager
    def open_raster(self, path: Path, role: str = "ms", *, remote: bool = False) -> Iterator[Raster]:
        """Open one image of an MS + PAN pair, to be read by windows.

        Args:
            path: the file.
            role: "ms" or "pan": which of several arrays in a file is meant.
            remote: addresses are allowed, also inside a VRT.
        """
        raise _unknown(path)
        yield  # a generator, as the readers of known formats are


_CONVERT = "an image of another format can be converted: gdal_translate FILE NEW.tif"


def _unknown(path: Path) -> UserError:
    if not path.exists() and not is_remote(path):
        return UserError(f'"{path}" does not exist; check the path')
    known = "GeoTIFF, VRT, JPEG 2000, ENVI, .npy, .npz, .mat, .h5"
    return UserError(f'"{path}" is of no format that is read ({known}), by its name; {_CONVERT}')


class ArrayFile(Reader):
    """Arrays by name, without georeference: `.npy`, `.npz`."""

    def inspect(self, report: Report) -> None:
        """List the arrays."""
        inspect_arrays(report)

    def load(self, path: Path, scale: float | None = None) -> Scene | Cube:
        """Read the one array, or the one named like an image, as a cube."""
        return cube_from_raster(open_array(path, "ms"), scale)

    @contextmanager
    def open_raster(self, path: Path, role: str = "ms", *, remote: bool = False) -> Iterator[Raster]:
        """Open the array that has the name of the role."""
        yield open_array(path, role)


class H5File(ArrayFile):
    """H5 data sets, and H5 files of one scene."""

    def inspect(self, report: Report) -> None:
        """Describe samples and attributes."""
        inspect_h5(report)


class MatFile(ArrayFile):
    """`.mat` files of MATLAB, Octave and scipy."""

    def inspect(self, report: Report) -> None:
        """List the variables."""
        inspect_mat(report)

    def load(self, path: Path, scale: float | None = None) -> Scene | Cube:
        """Read a scene, under the names of the toolboxes or others (ms and pan, MS and PAN, lrms …), or a cube."""
        data = read_mat(path)
        for name, values in data.items():
            if values.dtype.kind == "c" and values.ndim > 1 and values.size > 1:
                raise UserError(f'{path}: "{name}" holds complex numbers; give their modulus as real numbers')
        images = {name: v for name, v in data.items() if v.ndim > 1 and v.dtype.kind in "iuf"}
        pan = next((name for name in images if name.lower() in ("pan", "i_pan")), None)
        if pan is None or "I_PAN" in data:
            return load_mat(path, scale)
        ms = pick(path, {name: v for name, v in images.items() if v.ndim == 3}, "ms")
        return scene_from_mat(path, {**data, "I_MS_LR": data[ms], "I_PAN": data[pan].squeeze()})


class RasterFile(Reader):
    """Formats that rasterio reads."""

    def __init__(self, form: Format) -> None:
        """Read files of one format."""
        self.form = form

    def inspect(self, report: Report) -> None:
        """Describe bands, range, grid and missing data."""
        inspect_geotiff(report, self.form)

    def load(self, path: Path, scale: float | None = None) -> Scene | Cube:
        """Read a cube whole; a scene is two files."""
        with open_geotiff(path, self.form) as raster:
            return cube_from_raster(raster, scale)

    @contextmanager
    def open_raster(self, path: Path, role: str = "ms", *, remote: bool = False) -> Iterator[Raster]:
        """Open the file."""
        with open_geotiff(path, self.form, remote=remote) as raster:
            for band in raster.alpha:  # GDAL marks the fourth of 8-bit bands by itself
                print(
                    f"note: band {band} of {path} is marked as alpha and taken as a mask; if it is "
                    f"data: gdal_edit.py -colorinterp_{band} undefined {path}"
                )
            yield raster


class Folder(Reader):
    """A folder with one grey PNG per band (CAVE), or that of a satellite product, which is a pair."""

    def inspect(self, report: Report) -> None:
        """Describe the bands; of a product, which files are MS and which PAN."""
        if self._is_product(report.path):
            files, sensor = product_files(report.path, "ms")
            report.lines.append(f"MS: {', '.join(f.name for f in files)}")
            report.lines.append(f"PAN: {', '.join(f.name for f in product_files(report.path, 'pan')[0])}")
            report.lines.append(f"kind: a {sensor} product: inspect, simulate or fuse it with --ms {report.path}")
            return
        bands, height, width = cube_from_png(report.path).values.shape
        report.lines.append(f"{bands} bands, {height}x{width}, one PNG each")
        report.lines.append("kind: a hyperspectral cube: prepare_data.py simulate")

    def load(self, path: Path, scale: float | None = None) -> Scene | Cube:
        """Read the bands in the order of their names."""
        if self._is_product(path):
            raise UserError(f'"{path}" is the folder of a product, MS and PAN in one; give it with --ms')
        return cube_from_png(path, scale)

    @staticmethod
    def _is_product(path: Path) -> bool:
        try:
            return bool(product_files(path, "ms"))
        except UserError:
            return False


READERS: dict[str, Reader] = {
    ".mat": MatFile(),
    ".npy": ArrayFile(),
    ".npz": ArrayFile(),
    ".h5": H5File(),
    ".hdf5": H5File(),
    **{suffix: RasterFile(form) for suffix, form in FORMATS.items()},
}
_HDF5 = b"\x89HDF"


def reader_of(path: str | Path) -> Reader:
    """Return the reader of a file or folder: by its suffix, else by what lies in it."""
    path = Path(path)
    if path.is_dir():
        return Folder()
    known = READERS.get(path.suffix.lower())
    if known is not None:
        return known
    if path.with_name(f"{path.name}.hdr").is_file():  # an ENVI image needs no suffix
        return READERS[".dat"]
    if path.is_file():
        with path.open("rb") as file:
            if file.read(4) == _HDF5:
                return READERS[".h5"]
    return Reader()


def inspect_file(path: str | Path, nodata: float | None = None) -> Report:
    """Report on a file of any format; what is wrong with the file is part of the report and never raised.

    Args:
        path: the file.
        nodata: pixels of an image with this value in all bands are missing.
    """
    report = Report(Path(path), nodata=nodata)
    try:
        reader_of(path).inspect(report)
    except UserError as error:
        report.problems.append(str(error))
        report.readable = bool(report.lines)
    except DAMAGE as error:
        report.problems.append(f"cannot be read to the end: {error}; damaged, copy it again")
        report.readable = bool(report.lines)
    return report
