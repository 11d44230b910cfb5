"""Open fused images and what they are compared with, whatever their files: .mat, .npz, .npy, GeoTIFF, H5, folders.

Legend: B images, C bands, H W size.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lemamba.commands.options import EvaluateOptions
from lemamba.commands.pairs import relation_of
from lemamba.datasets.geotiff import FORMATS, open_geotiff
from lemamba.datasets.h5 import H5Dataset, file_sensor
from lemamba.datasets.opening import pair_paths
from lemamba.datasets.pair import ScenePair, open_pair
from lemamba.datasets.raster import Raster
from lemamba.metrics.large import LargeImage
from lemamba.operators.window import Axis, plan_axis
from lemamba.utils.errors import UserError
from lemamba.utils.formats.fused import SMALLEST_SIDE, list_files, read_fused, read_mask, two_values
from lemamba.utils.geometry import Geometry

Sample = dict[str, Any]  # arrays (C, H, W), or `LargeImage` (1, C, H, W)
WHOLE = 2**25  # values of a GeoTIFF that is measured in memory; a larger one stays in its file
GEOTIFF, H5 = (".tif", ".tiff", ".img", ".dat", ".vrt"), (".h5", ".hdf5")  # all that `fuse` writes
SUFFIXES = (".mat", ".npz", ".npy", *GEOTIFF)
FACTS = ("sensor", "divisor", "ratio", "offset")
SAME_PLACE = 0.01  # pixels by which corners of one ground may differ in their files


@dataclass
class Opened:
    """Images to measure.

    Attributes:
        names: the samples' numbers, or the names of their files.
        samples: per sample, role -> (C, H, W); "valid" (H, W) bool where pixels have no data; of a GeoTIFF, "place":
            its coordinate system and geotransform.
        info: what the files say: "sensor", "divisor", "ratio", "offset".
        notes: what the reader must know.
        geometry: of a scene; None = the toolboxes' convention.
    """

    names: list[int | str]
    samples: Iterator[Sample]
    info: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    geometry: Geometry | None = None


def open_samples(options: EvaluateOptions, files: ExitStack) -> Opened:
    """Open the fused images with their ground truth or, at full resolution, their inputs.

    Args:
        options: what to open.
        files: keeps large images open until they are measured.

    Raises:
        UserError: options that contradict each other, a file that cannot be read, or numbers of images that differ.
    """
    path = fused_path(options)
    scene = bool(options.ms or options.pan)
    if scene and options.gt:
        raise UserError("expected --gt or --ms with --pan, given both; reduced resolution needs --gt, full the others")
    fused = _open(path, "sr", files)
    if options.mask:
        fused = _masked(fused, options.mask)
    if scene:
        return _with_scene(fused, options, path, files)
    if options.gt is None:
        return fused
    return _paired(fused, _open(options.gt, "gt", files), options.gt)


def with_path(options: EvaluateOptions) -> EvaluateOptions:
    """Take a PATH that follows `--pan PAN.tif` or `--ms MS.tif` for what it is: these options take several files."""
    if options.path is not None or options.sr is not None:
        return options
    if len(options.pan) > 1:
        return replace(options, path=options.pan[-1], pan=options.pan[:-1])
    return replace(options, path=options.ms[-1], ms=options.ms[:-1]) if len(options.ms) > 1 else options


def fused_path(options: EvaluateOptions) -> Path:
    """Return PATH or --sr; both or none is a `UserError`."""
    given = [path for path in (options.path, options.sr) if path is not None]
    if len(given) != 1:
        raise UserError(f"expected the fused images as PATH or --sr, given {'both' if given else 'neither'}; name one")
    return given[0]


def _open(path: Path, role: str, files: ExitStack) -> Opened:
    """Open a file or folder; a nameless array in it is `role`."""
    if not path.is_dir():
        return _open_file(path, role, files)
    listed = list_files(path, SUFFIXES)
    first = next(iter(listed.values()))
    known = _open_file(first, role, files)
    info = known.info

    def images() -> Iterator[Sample]:
        for file in listed.values():
            one = _open_file(file, role, files)
            if len(one.names) != 1:
                raise UserError(
                    f'expected one image per file in a folder, "{file}" has {len(one.names)}; measure it alone'
                )
            for key in FACTS:
                said, says = info.get(key), one.info.get(key)
                if said != says:
                    raise UserError(
                        f'expected one {key} in a folder, "{first}" says {said}, "{file}" {says}; measure them apart'
                    )
            yield from one.samples

    return Opened(list(listed), images(), info, geometry=known.geometry)


def _open_file(path: Path, role: str, files: ExitStack) -> Opened:
    suffix = path.suffix.lower()
    if suffix in GEOTIFF:
        return Opened([1], iter([_read_geotiff(path, role, files)]))
    if suffix in H5 and role == "gt":
        try:
            return _open_h5(H5Dataset(path, divisor=1.0))
        except UserError as error:
            if "has no key" not in str(error):  # it may hold gt alone
                raise
    elif suffix not in (*SUFFIXES, *H5) and path.is_file() and suffix:
        _refuse_suffix(path)
    file = read_fused(path, role)
    images = file.images if role == "sr" else [{"gt": one["gt"]} for one in file.images if "gt" in one]
    if not images and file.images:
        raise UserError(f'expected a ground truth gt in "{path}", it holds {", ".join(file.images[0])}; name another')
    notes = [f"The axes of {path.name} are read as {','.join(file.order)}, ours are B,C,H,W."] if file.order else []
    return Opened(list(range(1, len(images) + 1)), iter(images), file.info, notes, _geometry(path, file.info))


def _geometry(path: Path, info: Mapping[str, Any]) -> Geometry | None:
    """Return where ms lies under pan, as the file says; None where it says nothing: the toolboxes' convention."""
    if "offset" not in info:
        return None
    ratio, offset = info.get("ratio"), np.ravel(info["offset"])
    known = offset.size == 2 and offset.dtype.kind == "f"
    if not isinstance(ratio, float) or not known or not (np.abs(offset) <= ratio).all():
        raise UserError(
            f'expected info_offset in "{path}" to be two PAN pixels, at most info_ratio, given {info["offset"]} at '
            f"ratio {ratio}; correct or delete it"
        )
    return Geometry((ratio, ratio), (float(offset[0]), float(offset[1])))


def _refuse_suffix(path: Path) -> None:
    with path.open("rb") as file:
        head = file.read(132)
    if head[126:128] not in (b"IM", b"MI") and b"HDF" not in head[:8]:  # a .mat under another name is read
        raise UserError(f'expected images as {", ".join((*SUFFIXES, *H5))}, given "{path}"; convert it')


def _raster(path: Path) -> AbstractContextManager[Raster]:
    return open_geotiff(path, FORMATS[path.suffix.lower()])


def _read_geotiff(path: Path, role: str, files: ExitStack) -> Sample:
    """Return the image, in memory or, if it is large, as it is read from its file."""
    with _raster(path) as raster:
        H, W = raster.shape
        if raster.count * H * W <= WHOLE:
            raster.check_window(((0, H), (0, W)))
            image, valid = raster.read()
            sample = {role: image} if valid.all() else {role: np.where(valid, image, 0), "valid": valid}
            return sample | {"place": (raster.crs, raster.transform)}
    return _large(files.enter_context(_raster(path)), role)


def _large(raster: Raster, role: str) -> Sample:
    H, W = raster.shape
    stored = np.dtype(raster.dtypes[0])
    dtype = torch.float32 if stored == np.float32 else torch.float64
    one_at_a_time = threading.Lock()  # GDAL serves a file to one thread

    @lru_cache(maxsize=2)  # pixels and mask come together
    def get(top: int, bottom: int, left: int, right: int) -> tuple[np.ndarray, np.ndarray]:
        with one_at_a_time:
            return raster.read(((top, bottom), (left, right)))

    def pixels(rows: slice, columns: slice) -> torch.Tensor:
        image, valid = get(rows.start, rows.stop, columns.start, columns.stop)
        values = image.astype("float32" if dtype == torch.float32 else "float64")
        return torch.from_numpy(values if valid.all() else np.where(valid, values, 0))

    sample: Sample = {role: LargeImage(pixels, (raster.count, H, W), dtype, stored)}
    sample["place"] = raster.crs, raster.transform
    if raster.masked or stored.kind == "f":  # NaN counts as missing

        def has_data(rows: slice, columns: slice) -> torch.Tensor:
            return torch.from_numpy(get(rows.start, rows.stop, columns.start, columns.stop)[1])[None]

        valid = LargeImage(has_data, (1, H, W), torch.bool)
        if not bool(valid.amin()):
            sample["valid"] = valid
    return sample


def _masked(fused: Opened, path: Path) -> Opened:
    """Leave out the pixels of every sample where the mask in `path` is 0."""
    mask, place = _read_mask(path)
    if mask.ndim == 3 and len(mask) != len(fused.names):
        raise UserError(
            f'expected one mask, or one for each of the {len(fused.names)} samples, "{path}" has {len(mask)}; '
            "write it again"
        )

    def images() -> Iterator[Sample]:
        for i, sample in enumerate(fused.samples):
            valid = mask if mask.ndim == 2 else mask[i]
            for role in (role for role in ("sr", "gt") if role in sample):
                size = sample[role].shape[-2:]
                if valid.shape != size:
                    raise UserError(
                        f"expected a mask of {size[0]} x {size[1]} pixels, the size of {role}, "
                        f'"{path}" has {valid.shape[0]} x {valid.shape[1]}; cut it or name another'
                    )
            if place is not None:
                _check_place(sample, place, path)
            yield _joined({**sample}, {"valid": valid})

    return replace(fused, samples=images())


def _read_mask(path: Path) -> tuple[np.ndarray, tuple[Any, Any] | None]:
    """Return where pixels are valid, (H, W) or (B, H, W) bool, and the place of a GeoTIFF."""
    if not path.is_file():
        raise UserError(f'expected a mask, "{path}" is {"a folder" if path.is_dir() else "not there"}; name a file')
    suffix = path.suffix.lower()
    if suffix not in (*SUFFIXES, *H5):
        raise UserError(f'expected a mask as {", ".join((*SUFFIXES, *H5))}, given "{path}"; convert it')
    if suffix not in GEOTIFF:
        return read_mask(path), None
    with _raster(path) as raster:
        if raster.count != 1:
            raise UserError(f'expected a mask of one band, "{path}" has {raster.count}; name another file')
        mask, valid = raster.read()
        place = raster.crs, raster.transform
    return two_values(np.where(valid, mask[0], 0), path), place


def _check_place(sample: Sample, place: tuple[Any, Any], path: Path) -> None:
    """Refuse a fused GeoTIFF that lies elsewhere than what it is compared with, the file `path` of this place."""
    (crs, transform), (other_crs, other) = sample.get("place", (None, None)), place
    if transform is None or transform.is_identity or other.is_identity:
        return
    if None not in (crs, other_crs) and crs != other_crs:
        raise UserError(
            f'expected the fused image in the coordinate system of "{path}", {other_crs}, given {crs}; reproject it'
        )
    height, width = sample["sr"].shape[-2:]
    corners = np.array([(0, 0, 1), (width, 0, 1), (0, height, 1), (width, height, 1)], np.float64).T
    here, there = (np.reshape(t[:6], (2, 3)) @ corners for t in (transform, other))
    pixel = np.abs(np.reshape(other[:6], (2, 3))[:, :2]).max(1, keepdims=True)  # along x and y; degrees are small
    moved = float((np.abs(here - there) / pixel).max())
    if moved > SAME_PLACE:
        raise UserError(
            f'expected the fused image on the ground of "{path}", their corners or pixel sizes differ by up to '
            f"{moved:.3g} pixels: {tuple(transform)[:6]} and {tuple(other)[:6]}; cut or resample it"
        )


def _open_h5(dataset: H5Dataset) -> Opened:
    """Return gt of a test set, or its ms, lms and pan where it has none."""
    roles = ("gt",) if dataset.facts.has_gt else ("ms", "lms", "pan")
    samples = ({role: dataset[i][role].numpy() for role in roles} for i in range(len(dataset)))
    info: dict[str, Any] = {"ratio": float(dataset.facts.ratio)}
    sensor, divisor = file_sensor(dataset.contents), np.asarray(dataset.contents.attributes.get("divisor", 0))
    if sensor.name != "none":
        info["sensor"] = sensor.name
    facts = dataset.facts
    geometry = None if facts.geometry == Geometry.toolbox(facts.ratio) else facts.geometry
    if geometry is not None:
        info["offset"] = list(geometry.offset)
    if not facts.has_gt and facts.response is not None and facts.psf is not None:
        info |= {"response": np.array(facts.response), "psf": np.array(facts.psf)}
    if divisor.size == 1 and divisor.dtype.kind in "iuf" and divisor.item() > 0:
        info["divisor"] = float(divisor.item())
    return Opened(list(range(1, len(dataset) + 1)), samples, info, geometry=geometry)


def _paired(fused: Opened, truth: Opened, path: Path) -> Opened:
    """Put every fused image together with its ground truth, in their order."""
    if len(fused.names) != len(truth.names):
        raise UserError(
            f'expected as many images in "{path}" as fused ones ({len(fused.names)}), given {len(truth.names)}; '
            "name the test set that was fused"
        )
    notes = fused.notes + truth.notes
    named = all(isinstance(name, str) for name in (*fused.names, *truth.names))
    if named and fused.names != truth.names:
        notes.append(f"Names differ and images are compared in order: {fused.names[0]} with {truth.names[0]}, ….")
    for key in FACTS:
        if key in fused.info and key in truth.info and fused.info[key] != truth.info[key]:
            raise UserError(
                f'the fused images say {key} {fused.info[key]}, "{path}" {truth.info[key]}; name their test set'
            )

    def pairs() -> Iterator[Sample]:
        for one, other in zip(fused.samples, truth.samples, strict=True):
            if "place" in other:
                _check_place(one, other["place"], path)
            yield _joined(one, other)

    return Opened(fused.names, pairs(), truth.info | fused.info, notes, truth.geometry or fused.geometry)


def _joined(one: Sample, other: Sample) -> Sample:
    both = one | other
    places = [sample["place"] for sample in (one, other) if "place" in sample]
    if places:
        both["place"] = next((place for place in places if not place[1].is_identity), places[0])
    masks = [sample["valid"] for sample in (one, other) if "valid" in sample]
    if len(masks) == 2 and masks[0].shape[-2:] == masks[1].shape[-2:]:
        if any(isinstance(mask, LargeImage) for mask in masks):
            first, second = (as_large(mask) for mask in masks)
            size = (1, *first.shape[-2:])
            both["valid"] = LargeImage(
                lambda r, c: first[0, :, r, c].tensor() & second[0, :, r, c].tensor(), size, torch.bool
            )
        else:
            both["valid"] = masks[0] & masks[1]
    return both


def as_large(image: np.ndarray | LargeImage) -> LargeImage:
    """Return an array (C, H, W) or (H, W) as a `LargeImage`, to be used together with one."""
    if isinstance(image, LargeImage):
        return image
    values = image if image.dtype in (np.float32, np.float64, np.bool_) else image.astype(np.float64)
    pixels = torch.from_numpy(np.ascontiguousarray(values))
    pixels = pixels if pixels.dim() == 3 else pixels[None]
    return LargeImage(lambda r, c: pixels[:, r, c], pixels.shape, pixels.dtype, image.dtype)


def _with_scene(fused: Opened, options: EvaluateOptions, path: Path, files: ExitStack) -> Opened:
    """Add ms, lms and pan of a pair of files, cut to a multiple of 32 pixels."""
    if len(fused.names) != 1:
        raise UserError(f'expected one fused image for --ms and --pan, "{path}" has {len(fused.names)}; name one file')
    sample = next(fused.samples)
    coarse, fine = pair_paths(options.ms, options.pan)
    how: dict[str, Any] = {"divisor": 1.0, "nodata": options.nodata, "relation": relation_of(options)}
    pair = files.enter_context(open_pair(coarse, fine, **how))
    ms, pan = (side.raster.path for side in (pair.ms, pair.pan))
    (H, W), ratio = pair.size, pair.facts.ratio
    if "sr" not in sample or sample["sr"].shape[-2:] != (H, W):
        given = "none" if "sr" not in sample else " x ".join(map(str, sample["sr"].shape[-2:]))
        raise UserError(
            f'expected a fused image of {H} x {W} pixels, the ground that "{ms}" and "{pan}" share, given {given}; '
            "cut it to their common ground, or add --register if it was fused so"
        )
    _check_place(sample, (pair.pan.raster.crs, pair.transform), pan)
    step = math.lcm(SMALLEST_SIDE, ratio)
    bottom, right = H - H % step, W - W % step
    box, geometry = ((0, bottom), (0, right)), pair.facts.geometry
    axes = [plan_axis(r, o, span, 0, ratio) for r, o, span in zip(geometry.ratio, geometry.offset, box, strict=True)]
    if any(axis.ms[1] - axis.ms[0] != span[1] // ratio for axis, span in zip(axes, box, strict=True)):
        raise UserError(f'"{ms}" and "{pan}" have {geometry}; full resolution needs a whole ratio')
    if pair.gaps and not pair.overview.valid.any() and not pair.valid(box).any():
        raise UserError(f'"{ms}" and "{pan}" have no pixel with data in common; name another pair')
    _ = pair.pan_factor  # looked up before threads read
    if isinstance(sample["sr"], LargeImage):
        cut = _large_scene(sample, pair, (bottom, right), axes)
    else:
        valid = pair.valid(box) & sample.get("valid", np.ones((H, W), dtype=bool))[:bottom, :right]
        spans = {"ms": (axes[0].ms, axes[1].ms), "lms": box, "pan": box}
        cut = {role: pair.part(role, *at).numpy() for role, at in spans.items()}
        cut["sr"] = sample["sr"][:, :bottom, :right]
        if not valid.all():
            cut["valid"] = valid
    notes = (
        [f"Cut from {H} x {W} to {bottom} x {right} pixels, multiples of {step}."] if (bottom, right) != (H, W) else []
    )
    info = {**fused.info, "ratio": float(ratio)}
    cut["place"] = pair.pan.raster.crs, pair.transform
    return Opened(fused.names, iter([cut]), info, fused.notes + notes, geometry)


def _large_scene(sample: Sample, pair: ScenePair, size: tuple[int, int], axes: list[Axis]) -> Sample:
    """Return the images of a scene as they are read from its files."""
    cut = {"sr": sample["sr"][..., : size[0], : size[1]]}
    for role, bands in (("lms", pair.facts.bands), ("pan", 1), ("ms", pair.facts.bands)):
        starts = [axis.ms[0] if role == "ms" else 0 for axis in axes]
        extent = [axis.ms[1] - axis.ms[0] for axis in axes] if role == "ms" else list(size)

        def read(rows: slice, columns: slice, role: str = role, starts: list[int] = starts) -> torch.Tensor:
            spans = [(s.start + first, s.stop + first) for s, first in zip((rows, columns), starts, strict=True)]
            return pair.part(role, spans[0], spans[1])

        cut[role] = LargeImage(read, (bands, *extent), torch.float64, pair.ms.dtype)
    own = sample.get("valid")
    if pair.gaps or own is not None:

        def valid(rows: slice, columns: slice) -> torch.Tensor:
            found = torch.from_numpy(pair.valid(((rows.start, rows.stop), (columns.start, columns.stop))))[None]
            return found if own is None else found & own[0, :, rows, columns]

        cut["valid"] = LargeImage(valid, (1, *size), torch.bool)
    return cut
