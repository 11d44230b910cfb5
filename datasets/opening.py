"""An MS and a PAN image, opened from whatever names them, and related where their files do not say how they lie.

MS is a file, several files that are stacked, or the folder of a product; PAN the same. Without georeference, or with
`aligned`, the corners of both images are taken to agree. With `register`, the shift between them is estimated from the
data. Both only set `transform` and `crs` of the open images; `lemamba.datasets.alignment` works as for any pair.
Legend: r ratio, PAN pixels per MS pixel.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lemamba.datasets.alignment import common_ground
from lemamba.datasets.geotiff import gdal_errors
from lemamba.datasets.inspect import Report
from lemamba.datasets.products import is_product, product_files
from lemamba.datasets.raster import MULTISPECTRAL, Raster
from lemamba.datasets.readers import reader_of
from lemamba.datasets.registration import WARN, NoShiftError, measure_pair, pair_geometry, register_pair
from lemamba.datasets.stack import Stack, as_guide
from lemamba.utils.errors import UserError

Paths = str | Path | Sequence[str | Path]
LARGEST = 16  # ratio


@dataclass(frozen=True)
class Relation:
    """How two images are brought together.

    Attributes:
        remote: addresses are read, too.
        aligned: the corners of both images agree, whatever the files say.
        register: the shift between them is estimated, printed and corrected.
    """

    remote: bool = False
    aligned: bool = False
    register: bool = False


def as_paths(paths: Paths) -> tuple[Path, ...]:
    """Return one path or several as a tuple."""
    return (Path(paths),) if isinstance(paths, str | Path) else tuple(map(Path, paths))


def pair_paths(ms: Paths, pan: Paths) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    """Return the paths of both images; a folder, a `.mat`, `.h5` or `.npz` may hold both.

    Raises:
        UserError: one of the two is not given.
    """
    coarse, fine = as_paths(ms), as_paths(pan)
    holds_both = len(coarse) == 1 and (is_product(coarse[0]) or coarse[0].suffix.lower() in _BOTH)
    if holds_both and not fine:
        fine = coarse
    if not (coarse and fine):
        raise UserError("expected --ms and --pan together; give both, or a folder or .mat that holds both with --ms")
    return coarse, fine


_BOTH = (".mat", ".h5", ".hdf5", ".npz")


def files_of(paths: Paths, role: str) -> tuple[tuple[Path, ...], str | None]:
    """Return the image files that `paths` names, and the sensor where it is a product's; see `product_files`."""
    given = as_paths(paths)
    if len(given) == 1 and is_product(given[0]):
        return product_files(given[0], role)
    return given, None


@contextmanager
def open_images(
    ms: Paths, pan: Paths, relation: Relation | None = None, *, equal: bool = False, nodata: float | None = None
) -> Iterator[tuple[Raster, Raster]]:
    """Open an MS and a PAN image whose `crs` and `transform` say how they lie.

    Args:
        ms: a file, several whose bands are stacked, or the folder of a product.
        pan: the same; of several bands the mean is taken unless ms is hyperspectral, see `as_guide`.
        relation: see `Relation`.
        equal: a hyperspectral image and a guide of one size are accepted, and not related.
        nodata: pixels of an image with this value in all bands are missing, and not looked at to register the pair.

    Raises:
        UserError: files that cannot be read, stacked or related; the line says what to do.
    """
    relation = relation or Relation()
    with ExitStack() as open_files, gdal_errors("cannot read the image pair"):

        def image(paths: Paths, role: str) -> Raster:
            files, _ = files_of(paths, role)
            opened = [
                open_files.enter_context(reader_of(f).open_raster(f, role, remote=relation.remote)) for f in files
            ]
            return opened[0] if len(opened) == 1 else Stack(opened)

        coarse = image(ms, "ms")
        fine = as_guide(image(pan, "pan"), coarse)
        if equal and coarse.count > MULTISPECTRAL and coarse.shape == fine.shape:
            yield coarse, fine
            return
        relate(coarse, fine, relation.aligned)
        if relation.register:
            print(f"note: {register_pair(coarse, fine, nodata)}")
        yield coarse, fine


def relate(ms: Raster, pan: Raster, aligned: bool = False) -> None:
    """Give both images a transform and coordinate system where the files lack them; see `open_images`.

    Raises:
        UserError: two coordinate systems, a rotated image, one with RPC only, or sizes without a clear ratio; with the
            command that helps.
    """
    if aligned:
        _by_size(ms, pan)
        return
    bare = [raster for raster in (ms, pan) if raster.transform.is_identity]
    rpc = next((raster for raster in bare if getattr(raster, "rpc", False)), None)
    if rpc is not None:
        raise UserError(
            f"{rpc.path} has RPC instead of a geotransform; rectify both images first: gdalwarp -rpc -t_srs EPSG:CODE "
            f"{_warped(rpc)} (-to RPC_DEM=dem.tif on hilly ground), or add --assume_aligned if their corners agree"
        )
    if bare:
        _by_clear_size(ms, pan, f"{' and '.join(dict.fromkeys(str(r.path) for r in bare))} without geotransform")
    elif (ms.crs is None) != (pan.crs is None):
        without, other = (ms, pan) if ms.crs is None else (pan, ms)
        if _share_ground(ms, pan) and 1.5 < abs(ms.transform.a) / (abs(pan.transform.a) or math.inf) < LARGEST + 0.5:
            print(
                f"note: {without.path} names no coordinate system; that of {other.path} is taken ({_name(other.crs)})"
            )
            without.crs = other.crs
        else:
            _by_clear_size(ms, pan, f"{without.path} without coordinate system")
    elif ms.crs != pan.crs:
        raise UserError(
            f"{ms.path} and {pan.path} have different coordinate systems, {_name(ms.crs)} and {_name(pan.crs)}; "
            f"reproject MS: gdalwarp -t_srs {_name(pan.crs)} -r cubic {_warped(ms)}"
        )
    for raster in (ms, pan):
        if raster.transform.b or raster.transform.d:
            target = f" -t_srs {_name(raster.crs)}" if raster.crs else ""
            raise UserError(f"{raster.path} is rotated; make it north-up: gdalwarp{target} -r cubic {_warped(raster)}")


def _name(crs: Any) -> str:
    text = str(crs.to_string())
    return text if len(text) < 40 else "EPSG:CODE"  # WKT does not fit into a line


def _warped(raster: Raster) -> str:
    return f"{raster.path} {raster.path.stem}_warped.tif"


def _extent(raster: Raster) -> list[tuple[float, float]]:
    """Return (least, greatest) along y and x, of an image that is not rotated."""
    t, (rows, columns) = raster.transform, raster.shape
    return [
        (min(a, b), max(a, b)) for a, b in ((t.f, t.f + rows * t.e), (t.c, t.c + columns * t.a))
    ]  # fmt: skip


def _share_ground(ms: Raster, pan: Raster) -> bool:
    """Return whether half of the smaller extent is common to both, as it is in one coordinate system."""
    if ms.transform.b or ms.transform.d or pan.transform.b or pan.transform.d:
        return False
    for (low, high), (other_low, other_high) in zip(_extent(ms), _extent(pan), strict=True):
        if min(high, other_high) - max(low, other_low) < 0.5 * min(high - low, other_high - other_low):
            return False
    return True


def _by_clear_size(ms: Raster, pan: Raster, reason: str) -> None:
    """Relate by the sizes, which must have one whole ratio; print that it was done."""
    _refuse_equal(ms, pan)
    rows, columns = (p / m for p, m in zip(pan.shape, ms.shape, strict=True))
    if rows != columns or not rows.is_integer() or not 2 <= rows <= LARGEST:
        raise UserError(
            f"{reason}, and sizes without one whole ratio: MS {ms.shape[0]}x{ms.shape[1]}, PAN {pan.shape[0]}x"
            f"{pan.shape[1]}; add --assume_aligned if their corners agree, or give corner and pixel size "
            "(gdal_edit.py -a_ullr)"
        )
    print(f"note: {reason}: their corners are taken to agree, ratio {rows:g} by the sizes (--assume_aligned)")
    _by_size(ms, pan)


def _refuse_equal(ms: Raster, pan: Raster) -> None:
    if ms.shape == pan.shape and ms.count > MULTISPECTRAL:
        raise UserError(
            f"expected a guide larger than the hyperspectral image, both have {ms.shape[0]}x{ms.shape[1]} pixels "
            f"({pan.path}); there is nothing to sharpen: prepare_data.py simulate degrades the hyperspectral image"
        )


def _by_size(ms: Raster, pan: Raster) -> None:
    """Lay the corners of MS on those of PAN, in the coordinates of the file that has some."""
    from affine import Affine

    rows, columns = (p / m for p, m in zip(pan.shape, ms.shape, strict=True))
    _refuse_equal(ms, pan)
    if not all(1 < ratio <= LARGEST + 0.5 and math.isfinite(ratio) for ratio in (rows, columns)):
        raise UserError(
            f"expected a PAN image larger than MS, at most {LARGEST} times, given {pan.shape[0]}x{pan.shape[1]} "
            f"({pan.path}) and {ms.shape[0]}x{ms.shape[1]} ({ms.path}); swap --ms and --pan, or name the right files"
        )
    if not pan.transform.is_identity:
        crs, transform = pan.crs or ms.crs, pan.transform
    elif not ms.transform.is_identity:
        crs, transform = ms.crs or pan.crs, ms.transform * Affine.scale(1 / columns, 1 / rows)
    else:
        crs, transform = None, Affine(*PIXELS)
    ms.crs = pan.crs = crs
    pan.transform, ms.transform = transform, transform * Affine.scale(columns, rows)


PIXELS = (1.0, 0.0, 0.0, 0.0, -1.0, 0.0)  # transform of a pair without any: PAN's pixels; not written to a file


def inspect_pair(ms: Paths, pan: Paths, relation: Relation | None = None, nodata: float | None = None) -> Report:
    """Report how the images of a pair lie, and their shift; from `WARN` PAN pixels on it is a problem.

    Args:
        ms, pan, relation: see `open_images`.
        nodata: pixels of an image with this value in all bands are missing.
    """
    report = Report(as_paths(ms)[0])
    try:
        with open_images(ms, pan, relation) as (coarse, fine):
            for name, raster in (("MS", coarse), ("PAN", fine)):
                bands = f"{raster.count} band{'s' * (raster.count > 1)}"
                report.lines.append(f"{name}: {bands}, {raster.shape[0]}x{raster.shape[1]}, {raster.dtypes[0]}")
            report.lines.append(str(pair_geometry(coarse, fine)))
            common_ground(coarse, fine)  # refuses what fusing refuses
            try:
                rows, columns, error = measure_pair(coarse, fine, nodata)
            except NoShiftError as reason:
                report.notes.append(str(reason))
                return report
            shown = f"{rows:+.2f} rows and {columns:+.2f} columns of PAN (standard error {error:.2f})"
            report.lines.append(f"MS is shifted by {shown}")
            if max(abs(rows), abs(columns)) >= max(WARN, 2 * error):
                report.problems.append(f"MS lies {shown} off where its file puts it; fuse with --register")
    except UserError as error:
        report.problems.append(str(error))
        report.readable = bool(report.lines)
    return report
