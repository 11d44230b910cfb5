"""Turn scenes and cubes into the field's H5 files: split the ground, degrade each box, cut tiles, write.

The attributes of every file record how it was made: sensor, gains, ratio, offset, boxes, SHA-256 of the sources.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from lemamba.datasets.simulation import wald as simulate
from lemamba.datasets.simulation.sources import Cube, Scene
from lemamba.datasets.writers import whole_set, write_h5
from lemamba.utils.atomic import check_writable, sha256
from lemamba.utils.errors import UserError
from lemamba.utils.geometry import Geometry
from lemamba.utils.sensors import Sensor, divisor_of, files_of

Sample = dict[str, np.ndarray]
Degrade = Callable[[int, simulate.Box], Sample]  # number of the scene, box of its ground -> one large sample
Job = tuple[str, Degrade, str, int]  # split, how its samples are made, file name, pixels of the sample per box pixel
RATIOS = (2, 3, 4, 5, 6, 7, 8, 16)
_ALL = np.ones(1, bool)
FULL_RESOLUTION_IMAGE = 512  # largest side of a test image without ground truth


def prepare_scenes(
    scenes: Sequence[Scene],
    sensor: Sensor,
    folder: Path,
    name: str,
    *,
    stride: int | None = None,
    divisor: float | None = None,
    test_only: bool = False,
    overwrite: bool = False,
) -> dict[str, int]:
    """Write train, valid, reduced-resolution and full-resolution test files from observed pairs.

    Args:
        scenes: one or more of one sensor; the ground of each is split separately.
        sensor: gives MTF gains, bands and the divisor.
        folder: output folder.
        name: name of the data set in the file names.
        stride: step between training patches in gt pixels, a multiple of the ratio; None takes the one nearest to 16.
        divisor: written as attribute; None takes the scene's 2^L - 1, else the sensor's.
        test_only: use all ground for the two test files.
        overwrite: replace files that were made from other ground.

    Samples in which data are missing are left out, and one line says how many.

    Returns:
        file name -> number of samples.

    Raises:
        UserError: inconsistent bands, ratios or geometries, ground too small, folder not writable.
    """
    bands, ratio, geometry = len(scenes[0].ms), scenes[0].ratio, scenes[0].geometry
    for scene in scenes:
        if (len(scene.ms), scene.ratio, scene.geometry) != (bands, ratio, geometry):
            raise UserError(
                f"{scene.paths[0]}: expected {bands} bands, ratio {ratio} and the geometry of the first; prepare it "
                "separately"
            )
    if sensor.bands not in (None, bands):
        raise UserError(f"expected {sensor.bands} bands for sensor {sensor.name}, given {bands}; name the right sensor")
    if ratio not in RATIOS:
        raise UserError(f"expected a ratio of 2 to 8 or 16, given {ratio}; resample one image")
    if geometry is None and ratio & (ratio - 1):  # no published protocol: samples are taken at offset r // 2
        geometry = Geometry((ratio, ratio), (ratio // 2, ratio // 2))
    if divisor is not None and not 0 < divisor < float("inf"):
        raise UserError(f"expected a positive divisor, given {divisor:g}; correct it, or drop --divisor")
    gains = sensor.gains(bands)

    def reduced(number: int, box: simulate.Box) -> Sample:
        scene = scenes[number]
        ms, pan = simulate.crop(scene.ms, box), simulate.crop(scene.pan, box, ratio)
        return simulate.wald(ms, pan, gains, ratio, geometry) | _mask(scene, box)

    def full(number: int, box: simulate.Box) -> Sample:
        scene = scenes[number]
        ms, pan = simulate.crop(scene.ms, box), simulate.crop(scene.pan, box, ratio)
        return simulate.full_resolution(ms, pan, ratio, geometry) | _mask(scene, box, ratio)

    files = files_of("pansharpening", name)
    jobs: list[Job] = [(split, reduced, files[split], 1) for split in ("train", "valid", "test")]
    jobs.append(("test", full, files["test_full"], ratio))
    attributes = {
        "sensor": sensor.name,
        "divisor": divisor or scenes[0].divisor or _divisor(scenes[0], sensor),
        "gains": gains,
        "pan_resize": "bicubic, antialiased",
    }
    if geometry is not None:
        attributes["offset"] = geometry.offset
    if scenes[0].rgb is not None:
        attributes["RGB_indexes"] = scenes[0].rgb
    shapes = [scene.ms.shape[1:] for scene in scenes]
    attributes |= _provenance(scenes)
    masks = [scene.valid for scene in scenes]
    return _write(jobs, shapes, ratio, folder, attributes, "pansharpening", stride, test_only, masks, overwrite)


def _divisor(scene: Scene, sensor: Sensor) -> float:
    """Return the sensor's divisor; for a sensor outside the table that of the data, which is printed."""
    if sensor.name != "none":
        return sensor.divisor
    found = divisor_of(float(np.quantile(scene.ms, 0.9999)), scene.ms.dtype)
    print(f"note: no sensor is known; divisor {found:g} by the range of {scene.paths[0]} (--divisor overrides)")
    return found


def prepare_cubes(
    cubes: Sequence[Cube],
    degradation: simulate.Degradation,
    wavelengths: np.ndarray,
    folder: Path,
    name: str,
    *,
    stride: int | None = None,
    test_only: bool = False,
    overwrite: bool = False,
    facts: Mapping[str, Any] | None = None,
) -> dict[str, int]:
    """Write train, valid and test files of hyperspectral images with a guide; the ground of each is split.

    Bands that are 0 in all cubes are left out: SAM ignores them, ERGAS is infinite or NaN. A line names them, and the
    attributes `dropped_bands` (1-based) and `wavelengths` tell which bands the file has.

    Args:
        cubes: one or more with the same bands.
        degradation: how guide and low-resolution image are made.
        wavelengths: of the bands in nm, (C,); written as attribute.
        folder: output folder.
        name: name of the data set.
        stride: step between training patches.
        test_only: use all ground for the test file.
        overwrite: replace files that were made from other ground.
        facts: further attributes of the files.

    Returns:
        file name -> number of samples.
    """
    bands, ratio = len(cubes[0].values), degradation.ratio
    for cube in cubes:
        if len(cube.values) != bands:
            raise UserError(f"{cube.paths[0]}: expected {bands} bands as in the first, given {len(cube.values)}")
    alive = np.array([any(cube.values[band].any() for cube in cubes) for band in range(bands)])
    dropped = np.flatnonzero(~alive) + 1
    if dropped.size:
        listed = ", ".join(f"{band} ({wavelengths[band - 1]:.0f} nm)" for band in dropped[:8])
        more = f" and {dropped.size - 8} others" if dropped.size > 8 else ""
        print(f"note: {dropped.size} of {bands} bands are 0 everywhere and are left out: {listed}{more}")
        degradation = replace(degradation, response=degradation.response[:, alive])
        if (degradation.response.sum(1) < 1e-6).any():
            raise UserError("a guide band sees only bands that are 0 everywhere; choose others with --guide_columns")
        cubes = [replace(cube, values=cube.values[alive]) for cube in cubes]

    def reduced(number: int, box: simulate.Box) -> Sample:
        return simulate.hyperspectral(simulate.crop(cubes[number].values, box), degradation, number)

    jobs: list[Job] = [(split, reduced, file, 1) for split, file in files_of("hmif", name).items()]
    attributes = {"scale": [cube.scale for cube in cubes], "wavelengths": wavelengths[alive]}
    attributes |= _facts_of(degradation) | dict(facts or {}) | _provenance(cubes)
    if dropped.size:
        attributes["dropped_bands"] = dropped
    shapes = [cube.values.shape[1:] for cube in cubes]
    return _write(jobs, shapes, ratio, folder, attributes, "hmif", stride, test_only, overwrite=overwrite)


def prepare_benchmark(
    splits: Mapping[str, Mapping[str, Path]],
    load: Callable[[Path], Cube],
    degradation: simulate.Degradation,
    wavelengths: np.ndarray,
    folder: Path,
    name: str,
    *,
    patch: int,
    stride: int,
    crop: int | None = None,
    overwrite: bool = False,
    facts: Mapping[str, Any] | None = None,
) -> dict[str, int]:
    """Write train, valid and test files of a data set whose scenes belong to one split each; one scene is in memory.

    Args:
        splits: "train", "valid", "test" -> name of a scene -> its place.
        load: reads a scene.
        degradation: how guide and low-resolution image are made.
        wavelengths: of the bands in nm, (C,).
        folder: output folder.
        name: name of the data set.
        patch: side of the patches of train and valid; test images are whole.
        stride: step between patches of train; those of valid do not overlap.
        crop: side of the square at the top left that is used of each scene; None uses all.
        overwrite: replace files that were made from other scenes.
        facts: further attributes of the files.

    Returns:
        file name -> number of samples.
    """
    ratio = degradation.ratio
    if patch % ratio or stride < 1 or stride % ratio:
        raise UserError(
            f"expected patch and stride as multiples of the ratio {ratio}, given {patch} and {stride}; correct them"
        )
    files = {split: folder / file for split, file in files_of("hmif", name).items()}
    check_writable(*files.values())
    for split, file in files.items():
        _check_earlier(file, {"source": [path.name for path in splits[split].values()]}, overwrite)
    with whole_set(folder) as written:
        for split, file in files.items():
            step = stride if split == "train" else patch
            attributes = {**_facts_of(degradation), **(facts or {}), "wavelengths": wavelengths, "ratio": ratio}
            attributes |= {"split": split, "stride": step, "scenes": list(splits[split])}
            attributes |= {key: [] for key in ("source", "sha256", "scale")}
            sizes = None if split == "test" else (patch, patch)
            samples = _scene_samples(splits[split], load, degradation, crop, sizes, step, attributes)
            written[file.name] = write_h5(file, samples, attributes, "hmif")
    return written


def _scene_samples(
    scenes: Mapping[str, Path],
    load: Callable[[Path], Cube],
    degradation: simulate.Degradation,
    crop: int | None,
    size: tuple[int, int] | None,
    step: int,
    attributes: dict[str, Any],
) -> Iterator[Sample]:
    """Yield the samples of one scene after the other, and append to `attributes` what is known of each.

    Args:
        scenes, load, degradation, crop: see `prepare_benchmark`.
        size: of a patch; None yields whole images.
        step: between patches.
        attributes: "source", "sha256" and "scale" grow; "tile" is set.
    """
    ratio = degradation.ratio
    for number, (name, path) in enumerate(scenes.items()):
        cube = load(path)
        rows, columns = (min(side, crop or side) // ratio * ratio for side in cube.values.shape[1:])
        taken = size or (rows, columns)
        if attributes.setdefault("tile", taken) != taken:
            raise UserError(
                f"{path}: expected a test image of the first one's {attributes['tile'][0]}x{attributes['tile'][1]} "
                f"pixels, given {rows}x{columns}; test it in a set of its own (--test_scenes)"
            )
        if min(rows, columns) < max(taken) and size:
            raise UserError(f"{path}: expected at least {size[0]}x{size[1]} pixels, scene {name} has {rows}x{columns}")
        attributes["source"].append(path.name)
        attributes["sha256"].append(sha256(path))
        attributes["scale"].append(cube.scale)
        image = cube.values[:, :rows, :columns]
        del cube
        sample = simulate.hyperspectral(image, degradation, number)
        yield from simulate.tiles(sample, taken, (step, step) if size else taken, ratio)
        del image, sample  # before the next scene is read: each takes half a gigabyte with Harvard


_LARGEST_ATTRIBUTE = 60_000  # bytes; HDF5 keeps attributes below 64 KiB


def _facts_of(degradation: simulate.Degradation) -> dict[str, Any]:
    """Return the attributes that say how images were made."""
    offset = degradation.geometry.offset
    found: dict[str, Any] = {
        "divisor": 1.0,
        "response": degradation.response,
        "offset": offset[0] if offset[0] == offset[1] else offset,
        "psf_size": degradation.psf.shape,
    }
    psf = degradation.psf.astype(np.float32)
    if psf.nbytes < _LARGEST_ATTRIBUTE:
        found["psf"] = psf
    if degradation.snr is not None:
        found["snr"] = degradation.snr
    return found


def _check_earlier(file: Path, made_of: Mapping[str, Any], overwrite: bool) -> None:
    """Refuse to replace a file of other sources or ground: with the other splits it could share ground unnoticed."""
    if overwrite or not file.is_file():
        return
    try:
        with h5py.File(file) as earlier:
            before = {
                key: np.asarray(earlier.attrs[key]).astype(str).tolist() for key in made_of if key in earlier.attrs
            }
    except OSError:  # damaged: nothing is lost
        return
    changed = [key for key in before if before[key] != np.asarray(made_of[key]).astype(str).tolist()]
    if changed:
        raise UserError(
            f'"{file}" was made from other scenes or another split; choose another --out or --name, or give --overwrite'
        )


def _mask(scene: Scene, box: simulate.Box, scale: int = 1) -> Sample:
    """Return the role "valid" (1, H, W) of a sample: where the scene has data; nothing for a scene without gaps."""
    if scene.valid is None:
        return {}
    valid = simulate.crop(scene.valid[None], box)
    return {"valid": valid.repeat(scale, -2).repeat(scale, -1)}


def _provenance(sources: Sequence[Scene | Cube]) -> dict[str, Any]:
    paths = [path for source in sources for path in source.paths]
    return {"source": [path.name for path in paths], "sha256": [sha256(path) for path in paths]}


def _boxes(shapes: Sequence[tuple[int, int]], ratio: int, test_only: bool) -> tuple[list[dict[str, simulate.Box]], int]:
    """Return the boxes by split of each scene, and the side of a training patch that fits in all."""
    if test_only:
        return [{"test": (0, h - h % ratio, 0, w - w % ratio)} for h, w in shapes], 0
    found = [simulate.split_boxes(*shape, ratio) for shape in shapes]
    return [boxes for boxes, _ in found], min(patch for _, patch in found)


def _write(
    jobs: Sequence[Job],
    shapes: Sequence[tuple[int, int]],
    ratio: int,
    folder: Path,
    attributes: dict[str, Any],
    task: str,
    stride: int | None,
    test_only: bool,
    masks: Sequence[np.ndarray | None] = (),
    overwrite: bool = False,
) -> dict[str, int]:
    """Write one file per job whose split has ground; return file name -> number of samples."""
    stride = ratio * max(1, round(16 / ratio)) if stride is None else stride
    if stride < 1 or stride % ratio:
        raise UserError(f"expected a stride that is a multiple of the ratio {ratio}, given {stride}; correct it")
    boxes, patch = _boxes(shapes, ratio, test_only)
    jobs = [job for job in jobs if job[0] in boxes[0]]
    check_writable(*(folder / file for _, _, file, _ in jobs))  # all of them, before the first is written
    for _, _, file, _ in jobs:
        _check_earlier(folder / file, {"sha256": attributes["sha256"], "boxes": json.dumps(boxes)}, overwrite)
    with whole_set(folder) as written:
        for split, degrade, file, scale in jobs:
            size, step = _tile(split, boxes, patch, stride, scale, ratio)
            if split == "test":
                size = step = _without_gaps(size, masks, boxes, scale, _unit(min(size), ratio, scale))
            details = {
                "ratio": ratio,
                "offset": attributes.get("offset", ratio // 2),
                "split": split,
                "boxes": json.dumps(boxes),
                "tile": size,
                "stride": step,
            }
            left_out: list[int] = []
            samples = _samples(split, degrade, boxes, size, step, ratio, left_out)
            written[file] = write_h5(folder / file, samples, attributes | details, task)
            if left_out:
                print(f"note: {file}: {len(left_out)} samples left out, in which data are missing")
    return written


def _without_gaps(
    size: tuple[int, int],
    masks: Sequence[np.ndarray | None],
    boxes: Sequence[dict[str, simulate.Box]],
    scale: int,
    unit: int,
) -> tuple[int, int]:
    """Return the size of test images, halved until at least one of them has no missing pixel; not below `unit`."""
    grounds = [simulate.crop(m[None], b["test"])[0] for m, b in zip(masks, boxes, strict=False) if m is not None]
    while len(grounds) == len(boxes) and max(size) > unit:
        h, w = (max(1, side // scale) for side in size)
        whole = (
            ground[y : y + h, x : x + w].all()
            for ground in grounds
            for y in range(0, ground.shape[0] - h + 1, h)
            for x in range(0, ground.shape[1] - w + 1, w)
        )
        if any(whole):
            break
        size = max(unit, size[0] // 2 // unit * unit), max(unit, size[1] // 2 // unit * unit)
    return size


def _samples(
    split: str,
    degrade: Degrade,
    boxes: Sequence[dict[str, simulate.Box]],
    size: tuple[int, int],
    step: tuple[int, int],
    ratio: int,
    left_out: list[int],
) -> Iterator[Sample]:
    """Yield the tiles of a split, scene after scene; each box is degraded when it is reached.

    The numbers of tiles in which data are missing are appended to `left_out`.
    """
    count = 0
    for number, scene_boxes in enumerate(boxes):
        for tile in simulate.tiles(degrade(number, scene_boxes[split]), size, step, ratio):
            count += 1
            if tile.pop("valid", _ALL).all():
                yield tile
            else:
                left_out.append(count)
    if count and len(left_out) == count:
        raise UserError(
            f"expected at least one sample of {split} without missing pixels, {count} have some; crop the scene "
            "to where it has data (gdal_translate -srcwin), or use --test_only"
        )


def _unit(side: int, ratio: int, scale: int) -> int:
    """Return what the sides of test images are multiples of; `side` is the smallest of their boxes.

    At full resolution that is 32 and the ratio, as only such images can be measured, unless the box is too small.
    """
    measured = math.lcm(32, ratio)
    return measured if scale > 1 and measured <= side else simulate.cell(ratio)


def _tile(
    split: str, boxes: Sequence[dict[str, simulate.Box]], patch: int, stride: int, scale: int, ratio: int
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return size and step of the tiles of a split; test images fit in the smallest box and do not overlap."""
    if split != "test":
        step = stride if split == "train" else patch
        return (patch, patch), (step, step)
    height = scale * min(bottom - top for top, bottom, _, _ in (b[split] for b in boxes))
    width = scale * min(right - left for _, _, left, right in (b[split] for b in boxes))
    unit = _unit(min(height, width), ratio, scale)
    size = simulate.image_size(height, width, 256 if scale == 1 else FULL_RESOLUTION_IMAGE, unit)
    return size, size
