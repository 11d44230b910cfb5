"""Writers of fused scenes, one per output format, and of the field's H5 data sets. A file is whole or absent.

A new output format is one context manager like `write_geotiff` and an entry in `SCENE_WRITERS`.
Legend: C bands of the result, H W size; numbers are as the file stores them, in digital numbers.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lemamba.datasets.geotiff import gdal_errors
from lemamba.datasets.h5 import FAMILIES
from lemamba.datasets.nodata import fits, to_stored
from lemamba.datasets.opening import PIXELS
from lemamba.datasets.pair import BLOCK, ScenePair
from lemamba.datasets.raster import Span, Window
from lemamba.utils.atomic import new_hdf5, refusal, renamed
from lemamba.utils.errors import UserError
from lemamba.utils.numbers import to_numbers
from lemamba.utils.threads import Behind

if TYPE_CHECKING:
    import h5py

Pieces = Iterable[tuple[int, int, torch.Tensor]]  # (first row, first column, pixels (1, C, h, w)), no overlap
Put = Callable[[Window, np.ndarray], object]  # takes the pixels (C, h, w) of a window
FORMAT_VERSION = "1"
TASK_FAMILY = {"pansharpening": FAMILIES[0], "hmif": FAMILIES[1]}
PREVIEW = 4096  # largest side of a quick-look
ELSEWHERE = "choose a folder that is writable and has room"
VRT = ".vrt"  # over strips, see `lemamba.datasets.strips`


@dataclass(frozen=True)
class Output:
    """How a fused scene is written.

    Attributes:
        compress: of GeoTIFF and COG, lossless: none, deflate, zstd or lzw.
        cog: write a cloud-optimised GeoTIFF, with overviews and statistics.
        bands: 1-based bands of the result that are written, in this order; () = all.
        dtype: of the file; None = that of MS. Values are kept: rounded and clipped, not scaled.
        rgb: 0-based bands of the sensor of which a quick-look is returned; None = no quick-look.
        fill: bands of MS that were left out are written, without data, so that all keep their numbers.
    """

    compress: str = "deflate"
    cog: bool = False
    bands: tuple[int, ...] = ()
    dtype: str | None = None
    rgb: tuple[int, ...] | None = None
    fill: bool = False

    def available(self, pair: ScenePair) -> list[int | None]:
        """Return for each band that can be written its 0-based number in sr; None for one that was left out."""
        if not self.fill:
            return list(range(pair.facts.bands))
        places = {band: place for place, band in enumerate(pair.kept)}
        return [places.get(band) for band in range(pair.whole.count)]

    def picked(self, pair: ScenePair) -> list[int | None]:
        """Return `available` for the bands that are written; a band that is not there is a `UserError`."""
        available = self.available(pair)
        wrong = [band for band in self.bands if not 1 <= band <= len(available)]
        if wrong:
            raise UserError(f"expected --bands from 1 to {len(available)}, given {wrong[0]}; correct it")
        return [available[band - 1] for band in self.bands] or available

    def labels(self, pair: ScenePair) -> dict[str, list[Any]]:
        """Return what the file keeps of the bands that are written: name -> one value per band."""
        source = pair.whole if self.fill else pair.ms.raster
        numbers = self.bands or range(1, source.count + 1)
        return {name: [values[band - 1] for band in numbers] for name, values in source.labels.items()}

    def stored_as(self, pair: ScenePair) -> np.dtype:
        """Return the dtype of the file."""
        return np.dtype(self.dtype) if self.dtype else pair.ms.dtype

    def nodata(self, pair: ScenePair) -> float | None:
        """Return what marks pixels without data in the file: the scene's, or what fits its dtype."""
        mark, dtype = pair.nodata, self.stored_as(pair)
        needed = None in self.picked(pair) or (pair.gaps and dtype.kind != "f")  # integers have no NaN
        if mark is not None and fits(mark, dtype) or mark is None and not needed:
            return mark
        return float("nan") if dtype.kind == "f" else 0


def write_scene(
    out: Path, pair: ScenePair, pieces: Pieces, *, clip: bool = False, output: Output | None = None
) -> np.ndarray | None:
    """Write a fused scene in the format that the suffix of `out` names.

    Args:
        out: the file; replaced as a whole when everything is written.
        pair: the scene that was fused.
        pieces: sr, divided by the divisor.
        clip: clip to [0, 1] first.
        output: how it is written.

    Returns:
        The quick-look that `output.rgb` asks for, see `Preview.image`; else None.

    Raises:
        UserError: another suffix, `out` is one of the inputs, it cannot be written, or sr is not finite.
    """
    output = output or Output()
    check_output(out, pair, output)
    preview = Preview(pair, output)

    def convert(piece: tuple[int, int, torch.Tensor]) -> None:
        row, column, sr = piece
        window = (row, row + sr.shape[-2]), (column, column + sr.shape[-1])
        numbers, seen = stored(pair, window, sr, clip, output)
        written((window, numbers))
        preview.add(row, column, seen)

    with SCENE_WRITERS[out.suffix.lower()](out, pair, output) as put:

        def write(item: tuple[Window, np.ndarray]) -> None:
            put(*item)

        with Behind(write) as written, Behind(convert) as converted:
            for piece in pieces:
                converted(piece)
    return preview.image


class Preview:
    """The quick-look of a scene under construction: every `step`-th pixel.

    Attributes:
        image: (3, h, w) float32 in digital numbers, at most `PREVIEW` pixels a side, NaN where nothing was added or
            there are no data; None where `output` asks for none.
    """

    def __init__(self, pair: ScenePair, output: Output) -> None:
        self.step = max(1, math.ceil(max(pair.size) / PREVIEW))
        self.image = None
        if output.rgb is not None:
            self.image = np.full((3, *(-(-side // self.step) for side in pair.size)), np.nan, np.float32)

    def add(self, row: int, column: int, seen: np.ndarray | None) -> None:
        """Take what it needs of pixels (3, h, w) of the scene whose first row and column are given."""
        if self.image is not None and seen is not None:
            part = seen[:, -row % self.step :: self.step, -column % self.step :: self.step]
            top, left = -(-row // self.step), -(-column // self.step)
            self.image[:, top : top + part.shape[1], left : left + part.shape[2]] = part

    def rows(self, span: Span) -> slice:
        """Return its rows that lie in these rows of the scene."""
        return slice(-(-span[0] // self.step), -(-span[1] // self.step))


def check_output(out: Path, pair: ScenePair, output: Output) -> None:
    """Refuse a suffix without writer, options that do not fit, and an input as output; call it before the work."""
    suffix, known = out.suffix.lower(), (*SCENE_WRITERS, VRT)
    if suffix not in known:
        raise UserError(f'expected --out to end in {" or ".join(known)}, given "{out}"; choose another ending')
    if output.cog and suffix not in (".tif", ".tiff"):
        raise UserError(f'expected --out to end in .tif with --cog, given "{out}"; choose another ending')
    output.picked(pair)
    inputs = [p for side in (pair.ms, pair.pan) for p in getattr(side.raster, "paths", (side.raster.path,))]
    if any(out.exists() and p.exists() and out.samefile(p) for p in inputs):
        raise UserError(f'expected --out to be a new file, "{out}" is an input; choose another name')


def stored(
    pair: ScenePair, window: Window, piece: torch.Tensor, clip: bool, output: Output | None = None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return pixels of sr (1, C, h, w) as a file stores them, and those of the quick-look.

    Returns:
        The chosen bands (C, h, w) in digital numbers, gaps marked; and with `output.rgb` these bands (3, h, w) as
        float32, NaN in gaps, else None.

    Raises:
        UserError: sr is not finite.
    """
    output = output or Output()
    valid = pair.valid(window)
    checked = None if valid.all() else torch.from_numpy(valid)
    dtype, nodata, picked = output.stored_as(pair), output.nodata(pair), output.picked(pair)
    numbers = np.empty((len(picked), *piece.shape[2:]), dtype)
    for place in [i for i, b in enumerate(picked) if b is None]:
        numbers[place] = nodata
    seen = None if output.rgb is None else np.empty((3, *piece.shape[2:]), np.float32)
    exact = dtype.kind in "iu" and dtype.itemsize <= 2  # in float32
    for band, values in enumerate(piece[0]):  # band by band, so that only one of them is held as float64
        shown = [i for i, b in enumerate(output.rgb or ()) if b == band]
        image = to_numbers(values if exact else values.double(), pair.facts.divisor, clip=clip, valid=checked).numpy()
        for place in [i for i, b in enumerate(picked) if b == band]:
            numbers[place] = to_stored(image, valid, dtype, nodata)
        for place in shown:
            assert seen is not None  # there are bands to show
            seen[place] = np.where(valid, image, np.nan)
    return numbers, seen


@contextmanager
def write_geotiff(out: Path, pair: ScenePair, output: Output) -> Iterator[Put]:
    """Write a tiled GeoTIFF or COG on PAN's grid, with MS's labels; a `SCENE_WRITERS` entry."""
    with renamed(out) as temporary:
        if not output.cog:
            with _gdal_file(out, temporary, pair, output, _geotiff_profile(pair, output)) as put:
                yield put
            return
        plain = temporary.with_suffix(".plain")  # overviews and statistics need the whole image
        try:
            profile = _geotiff_profile(pair, output) | {"compress": "none", "predictor": 1}
            with _gdal_file(out, plain, pair, output, profile) as put:
                yield put
            _to_cog(out, plain, temporary, output)
        finally:
            plain.unlink(missing_ok=True)
            plain.with_name(f"{plain.name}.aux.xml").unlink(missing_ok=True)


@contextmanager
def write_strip(path: Path, pair: ScenePair, output: Output, rows: Span, *, packed: bool) -> Iterator[Put]:
    """Write some rows of a scene as a GeoTIFF; what is yielded takes windows of the whole scene.

    Args:
        path: the file.
        pair: the scene.
        output: how it is written.
        rows: first and end.
        packed: compress as `output` says; False for a file that is read once and removed.
    """
    profile = _geotiff_profile(pair, output) | {"height": rows[1] - rows[0]}
    if profile["transform"] is not None:
        t = profile["transform"]
        profile["transform"] = type(t)(t.a, t.b, t.c, t.d, t.e, t.f + rows[0] * t.e)
    if not packed:
        profile |= {"compress": "none", "predictor": 1, "interleave": "band"}  # the quickest to write and to read
    with renamed(path) as temporary, _gdal_file(path, temporary, pair, output, profile) as put:

        def put_below(window: Window, numbers: np.ndarray) -> None:
            (top, bottom), columns = window
            put(((top - rows[0], bottom - rows[0]), columns), numbers)

        yield put_below


def _to_cog(out: Path, plain: Path, cog: Path, output: Output) -> None:
    import rasterio.shutil

    options = {"COMPRESS": output.compress.upper(), "PREDICTOR": "YES", "STATISTICS": "YES", "BIGTIFF": "IF_SAFER"}
    if output.compress == "none":
        del options["PREDICTOR"]
    if output.compress in _LEVELS:
        options["LEVEL"] = "1"
    with gdal_errors(f'cannot write "{out}"', ELSEWHERE), rasterio.Env(), _without_stderr():
        rasterio.shutil.copy(plain, cog, driver="COG", NUM_THREADS=str(_threads()), **options)
    check_whole(out, cog)


@contextmanager
def write_envi(out: Path, pair: ScenePair, output: Output) -> Iterator[Put]:
    """Write an ENVI image and its header, band after band; a `SCENE_WRITERS` entry."""
    header = out.with_suffix(".hdr")
    if header.exists() and header.is_dir():
        raise refusal(header, "it is a folder")
    profile = _profile(pair, output) | {"driver": "ENVI", "interleave": "bsq"}
    with renamed(out) as temporary, renamed(header) as other:
        made = temporary.with_suffix(".hdr")  # GDAL names it after the image
        try:
            with _gdal_file(out, temporary, pair, output, profile) as put:
                yield put
            made.replace(other)
        finally:
            made.unlink(missing_ok=True)
            temporary.with_name(f"{temporary.name}.aux.xml").unlink(missing_ok=True)


@contextmanager
def write_npy(out: Path, pair: ScenePair, output: Output) -> Iterator[Put]:
    """Write an array (C, H, W), without georeference; a `SCENE_WRITERS` entry."""
    dtype, (H, W) = output.stored_as(pair), pair.size
    shape = (len(output.picked(pair)), H, W)
    with renamed(out) as temporary, temporary.open("wb") as file:
        header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        start = file.tell()

        def put(window: Window, numbers: np.ndarray) -> None:
            (top, _), (left, _) = window
            for band, image in enumerate(numbers):
                for row, line in enumerate(image, start=top):
                    file.seek(start + ((band * H + row) * W + left) * dtype.itemsize)
                    file.write(line.tobytes())

        yield put


SCENE_WRITERS: dict[str, Callable[[Path, ScenePair, Output], AbstractContextManager[Put]]] = {
    ".tif": write_geotiff,
    ".tiff": write_geotiff,
    ".img": write_envi,
    ".dat": write_envi,
    ".npy": write_npy,
}


@contextmanager
def _gdal_file(
    out: Path, temporary: Path, pair: ScenePair, output: Output, profile: Mapping[str, Any]
) -> Iterator[Put]:
    """Open a new file of GDAL's with the labels of MS; yield what takes its pixels."""
    import rasterio

    with gdal_errors(f'cannot write "{out}"', ELSEWHERE):
        file = rasterio.open(temporary, "w", **profile)
        try:
            for name, values in output.labels(pair).items():
                setattr(file, name, values)
            file.update_tags(**pair.ms.raster.tags)

            def put(window: Window, numbers: np.ndarray) -> None:
                with _without_stderr():
                    file.write(numbers, window=window)

            yield put
        finally:
            with _without_stderr():
                file.close()
    check_whole(out, temporary)


@contextmanager
def _without_stderr() -> Iterator[None]:
    """Silence libtiff, which prints a full disk past GDAL and Python; the error itself is raised as well."""
    try:
        kept = os.dup(2)
    except OSError:  # there is no stderr
        yield
        return
    try:
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, 2)
        os.close(nothing)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def check_whole(out: Path, written: Path) -> None:
    """Refuse a file of which GDAL has lost a part: it reports a full disk at closing, where nobody hears it."""
    import rasterio

    try:
        with gdal_errors(f'cannot read "{out}" again'), rasterio.open(written) as file:
            rows, columns = file.shape
            file.read(file.count, window=((rows - 1, rows), (0, columns)))  # what is written last
            least = 0 if file.compression else rows * columns * file.count * np.dtype(file.dtypes[0]).itemsize
        if written.stat().st_size < least:
            raise UserError(f"{written} is cut short")
    except UserError as error:
        raise refusal(out, "the file was cut short; the disk is full?") from error


def _profile(pair: ScenePair, output: Output) -> dict[str, Any]:
    bare = tuple(pair.pan.raster.transform[:6]) == PIXELS and pair.pan.raster.crs is None
    return {
        "height": pair.size[0],
        "width": pair.size[1],
        "count": len(output.picked(pair)),
        "dtype": output.stored_as(pair).name,
        "crs": pair.pan.raster.crs,
        "transform": None if bare else pair.transform,
        "nodata": output.nodata(pair),
    }


def _geotiff_profile(pair: ScenePair, output: Output) -> dict[str, Any]:
    dtype = output.stored_as(pair)
    predictor = 1 if dtype == np.float16 else 3 if dtype.kind == "f" else 2
    packed = {"predictor": predictor, "num_threads": str(_threads())} | _LEVELS.get(output.compress, {})
    return _profile(pair, output) | {
        "driver": "GTiff",
        "tiled": True,
        "blockxsize": BLOCK,
        "blockysize": BLOCK,
        "interleave": pair.ms.raster.interleave,
        "compress": output.compress,
        **(packed if output.compress != "none" else {}),
        "bigtiff": "IF_SAFER",  # the size after compression is not known beforehand
    }


# Higher levels take ten times as long for 3 % (docs/geotiff.md).
_LEVELS = {"deflate": {"zlevel": 1}, "zstd": {"zstd_level": 1}}


def _threads() -> int:
    """Return how many threads compress: those of torch, which the user may have limited."""
    return max(1, min(torch.get_num_threads(), os.cpu_count() or 1))


def write_map(out: Path, values: np.ndarray, names: Sequence[str], side: int, crs: Any, transform: Any) -> None:
    """Write values of blocks of an image as a GeoTIFF, one pixel for each block.

    Args:
        out: the file, a `.tif`.
        values: (C, h, w); NaN where there are none.
        names: of the C bands.
        side: of a block in pixels of the image.
        crs: coordinate system of the image, or None.
        transform: geotransform of the image.
    """
    import rasterio

    if out.suffix.lower() not in (".tif", ".tiff"):
        raise UserError(f'expected the map as .tif, given "{out}"; choose another ending')
    bare = tuple(transform[:6]) == PIXELS and crs is None
    t = transform
    placed = None if bare else type(t)(t.a * side, t.b, t.c, t.d, t.e * side, t.f)
    profile = {"driver": "GTiff", "dtype": "float32", "nodata": float("nan"), "crs": crs, "transform": placed}
    count, height, width = values.shape
    with renamed(out) as temporary, gdal_errors(f'cannot write "{out}"', ELSEWHERE), _without_stderr():
        with rasterio.open(temporary, "w", count=count, height=height, width=width, **profile) as file:
            file.descriptions = tuple(names)
            file.write(values.astype(np.float32))
        check_whole(out, temporary)


@dataclass
class PlannedFile:
    """A data set that would be written: its samples and their bytes; `whole` unless counting took too long."""

    path: Path
    samples: int = 0
    bytes: int = 0
    whole: bool = True


_PLANNED: ContextVar[list[PlannedFile] | None] = ContextVar("planned", default=None)
COUNTING = 20.0  # seconds after which the samples of a planned file are no longer counted


@contextmanager
def planned_files() -> Iterator[list[PlannedFile]]:
    """Inside the block, `write_h5` makes the samples but writes nothing; yield the files that it would write."""
    files: list[PlannedFile] = []
    token = _PLANNED.set(files)
    try:
        yield files
    finally:
        _PLANNED.reset(token)


def _counted(path: Path, samples: Iterable[Mapping[str, np.ndarray]], files: list[PlannedFile]) -> int:
    started, file = time.monotonic(), PlannedFile(path)
    for sample in samples:
        file.samples += 1
        file.bytes += sum(4 * value.size for value in sample.values())
        if time.monotonic() - started > COUNTING:
            file.whole = False
            break
    if not file.samples:
        raise _no_sample(path)
    files.append(file)
    return file.samples


def _no_sample(path: str | Path) -> UserError:
    return UserError(f'no sample fits for "{path}"; the ground is smaller than one sample')


def write_h5(
    path: str | Path, samples: Iterable[Mapping[str, np.ndarray]], attributes: Mapping[str, Any], task: str
) -> int:
    """Write a data set: one key per role, one sample per chunk, provenance as attributes.

    Values are float32: 16-bit digital numbers are exact in it, and the files are half the size of float64 ones.

    Args:
        path: the file; its folder is created if needed.
        samples: dicts of (·, H, W) arrays by role (ms, lms, pan, perhaps gt), all of one shape; may be a generator.
        attributes: provenance, as attributes of the file.
        task: "pansharpening" (keys ms, lms, …) or "hmif" (LRHSI, HSI_up, …).

    Returns:
        The number of samples.

    Raises:
        UserError: no samples, or the folder is not writable.
    """
    count = 0
    if (planned := _PLANNED.get()) is not None:
        return _counted(Path(path), samples, planned)
    with renamed(path) as temporary, new_hdf5(temporary) as (file, check):
        for sample in samples:
            for role in sample:
                _append(file, TASK_FAMILY[task][role], sample[role], count)
            check()
            count += 1
            del sample  # its views would keep a whole scene in memory while the next is made
        if not count:
            raise _no_sample(path)
        file.attrs.update(dict(attributes) | {"version": FORMAT_VERSION, "task": task})
    return count


@contextmanager
def whole_set(folder: Path) -> Iterator[dict[str, int]]:
    """Yield a dict of the files of a data set that are written, file name -> samples; if one fails, none stay.

    A folder that was made for them is removed, too.
    """
    made, written = not folder.exists(), dict[str, int]()
    try:
        yield written
    except BaseException:
        for file in written:
            (folder / file).unlink(missing_ok=True)
        if made and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
        raise


def _append(file: h5py.File, key: str, value: np.ndarray, index: int) -> None:
    if index == 0:
        file.create_dataset(key, (0, *value.shape), np.float32, maxshape=(None, *value.shape), chunks=(1, *value.shape))
    file[key].resize(index + 1, axis=0)
    file[key][index] = value
