"""Turn scenes and cubes into the field's H5 files: split the ground, degrade each box, cut tiles, write.

The attributes of every file record how it was made: sensor, gains, ratio, offset, boxes, SHA-256 of the sources.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lemamba.datasets.simulation import wald as simulate
from lemamba.datasets.simulation.sources import Cube, Scene
from lemamba.datasets.writers import write_h5
from lemamba.utils.atomic import check_writable, sha256
from lemamba.utils.errors import UserError
from lemamba.utils.sensors import Sensor, divisor_of, files_of

Sample = dict[str, np.ndarray]
Degrade = Callable[[int, simulate.Box], Sample]  # number of the scene, box of its ground -> one large sample
Job = tuple[str, Degrade, str, int]  # split, how its samples are made, file name, pixels of the sample per box pixel
FULL_RESOLUTION_IMAGE = 512  # largest side of a test image without ground truth


def prepare_scenes(
    scenes: Sequence[Scene],
    sensor: Sensor,
    folder: Path,
    name: str,
    *,
    stride: int = 16,
    divisor: float | None = None,
    test_only: bool = False,
) -> dict[str, int]:
    """Write train, valid, reduced-resolution and full-resolution test files from observed pairs.

    Args:
        scenes: one or more of one sensor; the ground of each is split separately.
        sensor: gives MTF gains, bands and the divisor.
        folder: output folder.
        name: name of the data set in the file names.
        stride: step between training patches in gt pixels, a multiple of the ratio.
        divisor: written as attribute; None takes the scene's 2^L - 1, else the sensor's.
        test_only: use all ground for the two test files.

    Returns:
        file name -> number of samples.

    Raises:
        UserError: inconsistent bands or ratios, ground too small, folder not writable.
    """
    bands, ratio = len(scenes[0].ms), scenes[0].ratio
    for scene in scenes:
        if (len(scene.ms), scene.ratio) != (bands, ratio):
            raise UserError(
                f"{scene.paths[0]}: expected {bands} bands, ratio {ratio} as in the first; prepare it separately"
            )
    if sensor.bands not in (None, bands):
        raise UserError(f"expected {sensor.bands} bands for sensor {sensor.name}, given {bands}; name the right sensor")
    simulate.check_ratio(ratio)
    if divisor is not None and not 0 < divisor < float("inf"):
        raise UserError(f"expected a positive divisor, given {divisor:g}; correct it, or drop --divisor")
    gains = sensor.gains(bands)

    def reduced(number: int, box: simulate.Box) -> Sample:
        scene = scenes[number]
        return simulate.wald(simulate.crop(scene.ms, box), simulate.crop(scene.pan, box, ratio), gains, ratio)

    def full(number: int, box: simulate.Box) -> Sample:
        scene = scenes[number]
        return simulate.full_resolution(simulate.crop(scene.ms, box), simulate.crop(scene.pan, box, ratio), ratio)

    files = files_of("pansharpening", name)
    jobs: list[Job] = [(split, reduced, files[split], 1) for split in ("train", "valid", "test")]
    jobs.append(("test", full, files["test_full"], ratio))
    attributes = {
        "sensor": sensor.name,
        "divisor": divisor or scenes[0].divisor or _divisor(scenes[0], sensor),
        "gains": gains,
        "pan_resize": "bicubic, antialiased",
    }
    if scenes[0].rgb is not None:
        attributes["RGB_indexes"] = scenes[0].rgb
    shapes = [scene.ms.shape[1:] for scene in scenes]
    return _write(jobs, shapes, ratio, folder, attributes | _provenance(scenes), "pansharpening", stride, test_only)


def _divisor(scene: Scene, sensor: Sensor) -> float:
    """Return the sensor's divisor; for a sensor outside the table that of the data, which is printed."""
    if sensor.name != "none":
        return sensor.divisor
    found = divisor_of(float(np.quantile(scene.ms, 0.9999)), scene.ms.dtype)
    print(f"note: no sensor is known; divisor {found:g} by the range of {scene.paths[0]} (--divisor overrides)")
    return found


def prepare_cubes(
    cubes: Sequence[Cube],
    response: np.ndarray,
    folder: Path,
    name: str,
    *,
    ratio: int = 4,
    sigma: float | None = None,
    blur_size: int | None = None,
    stride: int = 16,
    sensor: str = "none",
    guide: str = "gaussian RGB",
    test_only: bool = False,
) -> dict[str, int]:
    """Write train, valid and test files of hyperspectral images with a guide.

    Args:
        cubes: one or more with the same bands.
        response: (P, C), see `lemamba.datasets.simulation.response`.
        folder: output folder.
        name: name of the data set.
        ratio: 4 or 8 (a power of two).
        sigma: of the Gaussian blur; None takes ratio / 2.
        blur_size: odd side of its kernel; None takes 2 · ratio + 1.
        stride: step between training patches.
        sensor: written as attribute.
        guide: what the response is, written as attribute.
        test_only: use all ground for the test file.

    Returns:
        file name -> number of samples.
    """
    simulate.check_ratio(ratio)
    sigma, size = sigma or ratio / 2, blur_size or 2 * ratio + 1
    if sigma <= 0 or size < 1 or size % 2 == 0:
        raise UserError(f"expected a positive sigma and an odd blur size, given {sigma} and {size}; correct them")
    bands = len(cubes[0].values)
    for cube in cubes:
        if len(cube.values) != bands:
            raise UserError(f"{cube.paths[0]}: expected {bands} bands as in the first, given {len(cube.values)}")

    def reduced(number: int, box: simulate.Box) -> Sample:
        return simulate.hyperspectral(simulate.crop(cubes[number].values, box), response, ratio, sigma, size)

    jobs: list[Job] = [(split, reduced, file, 1) for split, file in files_of("hmif", name).items()]
    attributes = {
        "sensor": sensor,
        "divisor": 1.0,
        "scale": [cube.scale for cube in cubes],
        "blur_sigma": sigma,
        "blur_size": size,
        "guide": guide,
        "response": response,
    }
    shapes = [cube.values.shape[1:] for cube in cubes]
    return _write(jobs, shapes, ratio, folder, attributes | _provenance(cubes), "hmif", stride, test_only)


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
    stride: int,
    test_only: bool,
) -> dict[str, int]:
    """Write one file per job whose split has ground; return file name -> number of samples."""
    if stride < 1 or stride % ratio:
        raise UserError(f"expected a stride that is a multiple of the ratio {ratio}, given {stride}; correct it")
    boxes, patch = _boxes(shapes, ratio, test_only)
    check_writable(*(folder / file for _, _, file, _ in jobs))  # all of them, before the first is written
    written = {}
    for split, degrade, file, scale in jobs:
        if split not in boxes[0]:
            continue
        size, step = _tile(split, boxes, patch, stride, scale)
        details = {
            "ratio": ratio,
            "offset": ratio // 2,
            "split": split,
            "boxes": json.dumps(boxes),
            "tile": size,
            "stride": step,
        }
        samples = _samples(split, degrade, boxes, size, step, ratio)
        written[file] = write_h5(folder / file, samples, attributes | details, task)
    return written


def _samples(
    split: str,
    degrade: Degrade,
    boxes: Sequence[dict[str, simulate.Box]],
    size: tuple[int, int],
    step: tuple[int, int],
    ratio: int,
) -> Iterator[Sample]:
    """Yield the tiles of a split, scene after scene; each box is degraded when it is reached."""
    for number, scene_boxes in enumerate(boxes):
        yield from simulate.tiles(degrade(number, scene_boxes[split]), size, step, ratio)


def _tile(
    split: str, boxes: Sequence[dict[str, simulate.Box]], patch: int, stride: int, scale: int
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return size and step of the tiles of a split; test images fit in the smallest box and do not overlap."""
    if split != "test":
        step = stride if split == "train" else patch
        return (patch, patch), (step, step)
    height = scale * min(bottom - top for top, bottom, _, _ in (b[split] for b in boxes))
    width = scale * min(right - left for _, _, left, right in (b[split] for b in boxes))
    size = simulate.image_size(height, width, 256 if scale == 1 else FULL_RESOLUTION_IMAGE)
    return size, size
