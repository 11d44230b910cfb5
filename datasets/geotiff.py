"""One image file that GDAL reads by windows: GeoTIFF and COG, VRT, JPEG 2000, ENVI, PNG, JPEG.

Needs rasterio, which is imported when a file is opened. A file is opened with the drivers of its suffix only: others
would take a text file for a list of files and addresses to read.
Legend: C bands, H W size. A window is (first, end) along rows and columns, in pixels of the file.
"""

from __future__ import annotations

import re
import threading
import warnings
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lemamba.datasets.raster import Span, Window
from lemamba.utils.errors import UserError
from lemamba.utils.formats.bounds import ALWAYS_READ, MAX_COMPRESSION

CACHE = 64  # MiB of decoded blocks that GDAL may keep
_CHUNK = 64 * 2**20  # bytes of a row of blocks up to which an image is subsampled here
_LABELS = ("descriptions", "colorinterp", "scales", "offsets", "units")


@contextmanager
def gdal_errors(what: str, advice: str = "check the file") -> Iterator[None]:
    """Turn what GDAL reports about a file into a `UserError`: `what`, the reason, `advice`; other errors pass.

    Not everything that GDAL reports about a damaged file is a `rasterio.errors.RasterioError`; the rest has no public
    class and is recognised by the package it comes from.
    """
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Dataset has no geotransform")  # `opening` reports it
            yield
    except Exception as error:
        if type(error).__module__.partition(".")[0] != "rasterio":
            raise
        raise UserError(f"{what}: {_reason(error)}; {advice}") from error


def _reason(error: Exception) -> str:
    """Return what GDAL says: the end of a chain of errors, without names of temporary files."""
    text = str(error.__cause__ if "See previous exception" in str(error) else error).rstrip(".")
    if "Write error" in text:
        return "the disk is full?"
    if "Attempt to create" in text:
        return text.rpartition(": ")[2] if ": " in text else "it cannot be created"
    return text if text == str(error).rstrip(".") else text.rpartition(": ")[2]


@dataclass(frozen=True)
class Format:
    """What a suffix stands for: a name for messages, and the GDAL drivers that may open such a file."""

    name: str
    drivers: tuple[str, ...]


GEOTIFF = Format("GeoTIFF", ("GTiff",))
VRT = Format("VRT", ("VRT",))
_JP2 = Format("JPEG 2000", ("JP2OpenJPEG", "JP2KAK", "JP2ECW", "JP2MrSID"))
_ENVI = Format("ENVI", ("ENVI", "EHdr"))
FORMATS = {
    ".tif": GEOTIFF,
    ".tiff": GEOTIFF,
    ".vrt": VRT,
    ".jp2": _JP2,
    ".j2k": _JP2,
    ".img": Format("ENVI or ERDAS image", ("ENVI", "HFA")),
    ".dat": _ENVI,
    ".bsq": _ENVI,
    ".bil": _ENVI,
    ".bip": _ENVI,
    ".hdr": _ENVI,
    ".png": Format("PNG", ("PNG",)),
    ".jpg": Format("JPEG", ("JPEG",)),
    ".jpeg": Format("JPEG", ("JPEG",)),
}
_REMOTE = re.compile(r"(/vsi|[a-z][a-z0-9+]+:/+)", re.IGNORECASE)  # one slash: Path joins two to one
_DEEPEST = 4  # VRT files inside VRT files


def is_remote(path: str | Path) -> bool:
    """Return whether a path is an address (http, s3, /vsicurl/ …), which GDAL would fetch."""
    return bool(_REMOTE.match(str(path)))


def _address(path: Path) -> str:
    """Return the text GDAL opens; an address gets its second slash back, which `Path` takes away."""
    return re.sub(r"^([A-Za-z][A-Za-z0-9+]+):/+", r"\1://", str(path))


@contextmanager
def open_geotiff(path: str | Path, form: Format = GEOTIFF, *, remote: bool = False) -> Iterator[GeoTiff]:
    """Open an image file of a format that GDAL reads.

    Args:
        path: the file; for ENVI the image or its header.
        form: which drivers may open it.
        remote: addresses are allowed, also as sources of a VRT.

    Raises:
        UserError: rasterio is not installed, the file does not exist, is of another format, is an address (unless
            `remote`), or declares blocks far larger than the file itself.
    """
    try:
        import rasterio
    except ImportError:
        raise UserError(f"reading {form.name} needs rasterio; install it with: pip install rasterio") from None
    path, fetched = Path(path), is_remote(path)
    if fetched and not remote:
        raise UserError(f'"{_address(path)}" is not a file on this machine; add --allow_remote to read it from there')
    if not fetched:
        if not path.is_file():
            raise UserError(f'expected a {form.name} file, "{path}" does not exist; check the path')
        path = envi_image(path) if path.suffix.lower() == ".hdr" else path
    stored = None if fetched else vrt_bytes(path, remote) if form is VRT else path.stat().st_size
    with rasterio.Env(GDAL_CACHEMAX=CACHE):
        with gdal_errors(f'cannot read "{path}" as {form.name}'):
            raster = GeoTiff(_open(_address(path), form), path, stored)
        with raster.source:
            yield raster


def _open(address: str, form: Format) -> Any:
    """Open with the first driver that can; the error is that of the first one this GDAL has."""
    import rasterio

    first: Exception | None = None
    for driver in form.drivers:
        try:
            return rasterio.open(address, driver=driver)
        except rasterio.errors.RasterioIOError as error:
            first = first or error
    raise first or ValueError("a format without drivers")


def envi_image(header: Path) -> Path:
    """Return the image file next to an ENVI header."""
    plain = header.with_suffix("")  # image.hdr or image.img.hdr
    names = [plain, *(plain.with_suffix(s) for s in (".img", ".dat", ".bsq", ".bil", ".bip", ".raw", ".bin"))]
    image = next((n for n in names if n.is_file()), None)
    if image is None:
        raise UserError(f'expected the image that "{header}" describes next to it, found none; name the image file')
    return image


def vrt_bytes(path: Path, remote: bool = False, depth: int = 0) -> int | None:
    """Return the bytes of all files that a VRT reads, None where some are remote; refuse what it must not read."""
    try:
        root = ElementTree.fromstring(path.read_bytes())
    except (ElementTree.ParseError, LookupError, ValueError) as error:
        raise UserError(f'cannot read "{path}" as VRT: not well-formed XML; write it again (gdalbuildvrt)') from error
    total = 0
    for element in root.iter():
        if element.tag not in ("SourceFilename", "SourceDataset"):
            continue
        name = (element.text or "").strip()
        if is_remote(name) and remote:
            return None
        source = path.parent / name if element.get("relativeToVRT", element.get("relativetoVRT")) == "1" else Path(name)
        if is_remote(name) or not source.is_file():
            what = "add --allow_remote to read it" if is_remote(name) else "put the file there, or write the VRT again"
            raise UserError(f'"{path}" reads "{name[:200]}", which is not a file on this machine; {what}')
        total += source.stat().st_size
        with source.open("rb") as file:
            head = file.read(256).lstrip()
        if head[:1] in (b"<", b"{", b"["):  # GDAL would read such a file as a list of others, whatever its suffix is
            if depth == _DEEPEST or not head.startswith(b"<VRTDataset"):
                raise UserError(f'"{path}" reads "{name[:200]}", which is not an image; write the VRT again')
            inner = vrt_bytes(source, remote, depth + 1)
            if inner is None:
                return None
            total += inner
    return total


class GeoTiff:
    """An open image file; see `lemamba.datasets.raster.Raster`. An alpha band is taken as a mask.

    Attributes:
        source: the rasterio dataset.
        alpha: 1-based alpha bands.
        rpc: whether the file has rational polynomial coefficients.
    """

    def __init__(self, source: Any, path: Path, stored: int | None) -> None:
        """Read the header and refuse blocks that GDAL could not hold: it decodes a block as a whole.

        Args:
            source: the rasterio dataset.
            path: its file.
            stored: bytes of the file and those it refers to; None where they are not known.
        """
        self.source, self.path, self._stored = source, path, stored
        if any(str(name).startswith("complex") for name in source.dtypes):
            source.close()
            raise UserError(
                f"{path} holds complex numbers: expected integers or floating point, given {source.dtypes[0]}; give "
                "their modulus or intensity"
            )
        self.shape: tuple[int, int] = source.shape
        rows, columns = map(max, zip(*source.block_shapes, strict=True))
        self._check_size(source.count * rows * columns, np.dtype(source.dtypes[0]), "blocks")
        # GDAL itself takes an alpha band as a mask only in files of 2 or 4 bands.
        alpha = [i for i, kind in zip(source.indexes, source.colorinterp, strict=True) if kind.name == "alpha"]
        self.alpha = alpha if len(alpha) < source.count else []
        self._bands = [i for i in source.indexes if i not in self.alpha]
        self.count = len(self._bands)
        self.dtypes: tuple[str, ...] = tuple(source.dtypes[i - 1] for i in self._bands)
        self.crs, self.transform, self.nodata = source.crs, source.transform, source.nodata
        self.masked = bool(self.alpha) or any(flags[0].name != "all_valid" for flags in source.mask_flag_enums)
        self.labels = {name: [getattr(source, name)[i - 1] for i in self._bands] for name in _LABELS}
        self.tags = source.tags()
        self.rpc = source.rpcs is not None
        self.interleave: str = source.profile.get("interleave", "pixel")

    def _check_size(self, pixels: int, dtype: np.dtype, what: str) -> None:
        declared, stored = pixels * dtype.itemsize, self._stored
        if stored is not None and declared > max(ALWAYS_READ, MAX_COMPRESSION * stored):
            raise UserError(
                f"{self.path} is {stored} bytes and declares {what} of {declared} bytes; the file is damaged or empty"
            )

    def check_window(self, window: Window) -> None:
        """Refuse a window that declares far more bytes than the file stores; see `Raster.check_window`."""
        (top, bottom), (left, right) = window
        pixels = self.source.count * (bottom - top) * (right - left)
        self._check_size(pixels, np.dtype(self.source.dtypes[0]), "pixels")

    def read(self, window: Window | None = None, size: Span | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Read a window, or the whole image subsampled to `size`; see `Raster.read`."""

        def get(reader: Any, bands: list[int]) -> np.ndarray:
            if size is None:
                return reader(bands, window=window)
            return self._subsampled(reader, bands, size)

        import rasterio

        # in another thread GDAL would print its errors
        own = nullcontext() if threading.current_thread() is threading.main_thread() else rasterio.Env()
        with gdal_errors(f"{self.path} cannot be read to its end", "copy it again, it is cut short"), own:
            image = get(self.source.read, self._bands)
            floating = image.dtype.kind in "fc"
            valid = np.isfinite(image).all(0) if floating else np.ones(image.shape[1:], dtype=bool)
            if self.masked:
                valid &= (get(self.source.read_masks, self._bands) > 0).all(0)
            if self.alpha:
                valid &= (get(self.source.read, self.alpha) > 0).all(0)
        return image, valid

    def _subsampled(self, reader: Any, bands: list[int], size: Span) -> np.ndarray:
        """Return the whole image (C, *size), each pixel the nearest one of the file.

        GDAL does this from overviews, or where it can leave out rows; but it picks pixels from blocks four times more
        slowly than it reads the blocks whole.
        """
        source, (H, W) = self.source, self.shape
        high = max(rows for rows, _ in source.block_shapes)
        chunk = high * W * len(bands) * np.dtype(source.dtypes[0]).itemsize
        if source.overviews(1) or high * size[0] < H or chunk > _CHUNK:
            return reader(bands, out_shape=(len(bands), *size))
        rows, columns = (((np.arange(m) + 0.5) * (n / m)).astype(int) for m, n in zip(size, self.shape, strict=True))
        parts = []
        for top in range(0, H, high):
            taken = rows[(rows >= top) & (rows < top + high)]
            if taken.size:
                block = reader(bands, window=((top, min(top + high, H)), (0, W)))
                parts.append(block[:, (taken - top)[:, None], columns])
        return np.concatenate(parts, axis=1)
