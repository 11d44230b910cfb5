"""Data sets from an observed pair of a hyperspectral image and its guide, by Wald's protocol with the pair's own PSF.

The hyperspectral image becomes the ground truth; both images are blurred with the point spread function (PSF) of the
pair and decimated by its ratio. The pair as observed is the test image without ground truth.
Legend: C bands, P guide bands, H W size of gt, h w size of ms, r ratio, S side of the PSF.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lemamba.datasets.pair_windows import windows_of
from lemamba.datasets.simulation import wald as simulate
from lemamba.datasets.simulation.sources import Cube, Scene
from lemamba.datasets.writers import whole_set, write_h5
from lemamba.operators import interpolate
from lemamba.operators.observation import Observation, estimate, estimate_response, start
from lemamba.operators.window import Window
from lemamba.utils.atomic import check_writable, sha256
from lemamba.utils.errors import UserError
from lemamba.utils.geometry import Geometry
from lemamba.utils.sensors import divisor_of, files_of, full_file

Sample = dict[str, np.ndarray]


def observe(
    windows: Callable[[], Iterable[Window]],
    geometry: Geometry,
    response: np.ndarray | None = None,
    psf: np.ndarray | None = None,
) -> Observation:
    """Return how a pair was observed: as given, and estimated where not.

    Args:
        windows: of the pair.
        geometry: of the pair.
        response: (P, C), or None.
        psf: (S, S), S odd, or None.
    """
    if response is None or psf is None:
        found = estimate(windows)
    else:
        found = start(geometry, torch.zeros(0), 1.0)
    R = found.response if response is None else torch.from_numpy(np.array(response, dtype=np.float64))
    kernel = found.psf if psf is None else torch.from_numpy(np.array(psf, dtype=np.float64))
    return Observation(R, kernel, found.ratio, found.base)


def prepare_pairs(
    scenes: Sequence[Scene],
    folder: Path,
    name: str,
    *,
    response: np.ndarray | None = None,
    psf: np.ndarray | None = None,
    stride: int | None = None,
    divisor: float | None = None,
    test_only: bool = False,
) -> dict[str, int]:
    """Write train, valid and test files with ground truth, and the pair as observed as a test file without.

    Args:
        scenes: one or more pairs with the same bands, ratio and geometry; the first gives response and PSF.
        folder: output folder.
        name: of the data set.
        response: (P, C) in the units of the data; None estimates it.
        psf: (S, S); None estimates it.
        stride: step between training patches.
        divisor: written as attribute; None takes the scene's, else one by the range of the data.
        test_only: use all ground for the test files.

    Returns:
        file name -> number of samples.

    Raises:
        UserError: scenes that differ, ground too small, a response or PSF that does not fit.
    """
    first = scenes[0]
    ratio, geometry = first.ratio, first.geometry or Geometry.corners(first.ratio)
    for scene in scenes[1:]:
        if (len(scene.ms), len(scene.pan), scene.ratio, scene.geometry, scene.gt is None) != (
            len(first.ms),
            len(first.pan),
            ratio,
            first.geometry,
            first.gt is None,
        ):
            raise UserError(f"{scene.paths[0]}: expected bands, ratio and geometry of the first pair; prepare it apart")
    check_fits(response, psf, len(first.ms), len(first.pan))
    seen = observe(windows_of(first.ms, first.pan, geometry, first.valid), geometry, response, psf)
    degrade = partial(_given if first.gt is not None else _degraded, seen=seen, geometry=geometry)
    attributes = {
        "divisor": divisor or first.divisor or divisor_of(float(np.quantile(first.ms, 0.9999)), first.ms.dtype),
        "offset": geometry.offset,
        "response_from": "estimated" if response is None else "given",
        "psf_from": "estimated" if psf is None else "given",
    }
    observed = None if first.gt is not None else partial(_observed, scenes, geometry)
    shapes = [(scene.ms if scene.gt is None else scene.gt).shape[1:] for scene in scenes]
    return _write(scenes, shapes, degrade, seen, attributes, folder, name, stride, test_only, observed)


def prepare_guided(
    cubes: Sequence[Cube],
    folder: Path,
    name: str,
    *,
    ratio: int,
    sigma: float | None = None,
    psf: np.ndarray | None = None,
    response: np.ndarray | None = None,
    stride: int | None = None,
    test_only: bool = False,
) -> dict[str, int]:
    """Write train, valid and test files of hyperspectral images with an observed guide of the same size.

    The hyperspectral image is blurred and decimated, the guide stays as it is.

    Args:
        cubes: one or more with the same bands and guide bands.
        folder: output folder.
        name: of the data set.
        ratio: r.
        sigma: of a Gaussian blur in pixels; None takes ratio / 2.
        psf: (S, S), S odd, instead of the Gaussian.
        response: (P, C), written as attribute; None estimates it.
        stride, test_only: see `prepare_pairs`.

    Returns:
        file name -> number of samples.
    """
    bands, guide_bands = len(cubes[0].values), len(_guide(cubes[0]))
    for cube in cubes[1:]:
        if (len(cube.values), len(_guide(cube))) != (bands, guide_bands):
            raise UserError(f"{cube.paths[0]}: expected {bands} bands and {guide_bands} of the guide, as in the first")
    check_fits(response, psf, bands, guide_bands)
    same, geometry = Geometry.corners(1), Geometry.toolbox(ratio)
    if response is None:
        response = estimate_response(
            windows_of(cubes[0].values, _guide(cubes[0]), same), torch.ones(1, 1), blur=0.0
        ).numpy()
        source = "estimated"
    else:
        source = "given"
    seen = start(geometry, torch.from_numpy(response), (sigma or ratio / 2) / ratio)
    if psf is not None:
        seen = replace(seen, psf=torch.from_numpy(psf))

    def degrade(cube: Cube, box: simulate.Box) -> Sample:
        gt = simulate.crop(cube.values, box)
        small = seen.degrade(_batch(gt), (gt.shape[1] // ratio, gt.shape[2] // ratio))
        lms = interpolate(small, geometry, (gt.shape[1], gt.shape[2]), border="mirror")
        return {"gt": gt, "ms": small[0].numpy(), "lms": lms[0].numpy(), "pan": simulate.crop(_guide(cube), box)}

    attributes = {
        "divisor": 1.0,
        "scale": [cube.scale for cube in cubes],
        "offset": geometry.offset,
        "response_from": source,
        "psf_from": "given" if psf is not None else f"Gaussian, sigma {sigma or ratio / 2:g}",
    }
    shapes = [cube.values.shape[1:] for cube in cubes]
    return _write(cubes, shapes, degrade, seen, attributes, folder, name, stride, test_only)


def _guide(cube: Cube) -> np.ndarray:
    if cube.guide is None:
        raise UserError(f"{cube.paths[0]}: expected a guide next to the hyperspectral image; prepare it apart")
    return cube.guide


def _write(
    sources: Sequence[Any],
    shapes: Sequence[tuple[int, int]],
    degrade: Callable[[Any, simulate.Box], Sample],
    seen: Observation,
    attributes: dict[str, Any],
    folder: Path,
    name: str,
    stride: int | None,
    test_only: bool,
    observed: Callable[[], Iterator[Sample]] | None = None,
) -> dict[str, int]:
    """Write a file per split; return file name -> number of samples."""
    ratio = seen.ratio[0]
    found = [simulate.split_boxes(*shape, ratio) for shape in shapes] if not test_only else []
    boxes = [b for b, _ in found] or [{"test": (0, h - h % ratio, 0, w - w % ratio)} for h, w in shapes]
    patch = min((side for _, side in found), default=0)
    stride = ratio * max(1, round(16 / ratio)) if stride is None else stride
    if stride < 1 or stride % ratio:
        raise UserError(f"expected a stride that is a multiple of the ratio {ratio}, given {stride}; correct it")
    attributes = attributes | {
        "sensor": "none",
        "ratio": ratio,
        "guide": "observed",
        "response": seen.response.numpy(),
        "psf": seen.psf.numpy(),
        "boxes": json.dumps(boxes),
        "source": [path.name for source in sources for path in source.paths],
        "sha256": [sha256(path) for source in sources for path in source.paths],
    }
    files = {split: file for split, file in files_of("hmif", name).items() if split in boxes[0]}
    if test_only and observed is not None and min(min(shape) for shape in shapes) < simulate.cell(ratio):
        print(f"note: too small for a test image with ground truth (under {simulate.cell(ratio)} pixels a side)")
        files = {}
    check_writable(*(folder / file for file in files.values()), folder / full_file(name))
    with whole_set(folder) as written:
        for split, file in files.items():
            samples = _tiles(sources, boxes, split, degrade, ratio, patch, stride)
            written[file] = write_h5(folder / file, samples, attributes | {"split": split}, "hmif")
        if observed is not None:
            file = full_file(name)
            written[file] = write_h5(folder / file, observed(), attributes | {"split": "test_full"}, "hmif")
    return written


def check_fits(response: np.ndarray | None, psf: np.ndarray | None, bands: int, guide_bands: int) -> None:
    """Refuse a response or a PSF that does not fit the data."""
    if response is not None and response.shape != (guide_bands, bands):
        raise UserError(
            f"expected a response of {guide_bands} guide bands x {bands} bands, given {response.shape[0]} x "
            f"{response.shape[1]}; give that of this pair"
        )
    if psf is not None and (psf.ndim != 2 or psf.shape[0] != psf.shape[1] or psf.shape[0] % 2 == 0):
        raise UserError(f"expected a PSF of S x S values, S odd, given {' x '.join(map(str, psf.shape))}; pad it")


def _batch(x: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.array(x, dtype=np.float64))[None]


def _degraded(scene: Scene, box: simulate.Box, seen: Observation, geometry: Geometry) -> Sample:
    """Degrade the ground `box` of a pair by its ratio: gt (C, H, W), ms (C, h, w), lms (C, H, W), pan (P, H, W)."""
    gt, guide = simulate.crop(scene.ms, box), simulate.crop(scene.pan, box, scene.ratio)
    return degraded(gt, guide, seen, geometry) | _mask(scene, box)


def degraded(ms: np.ndarray, guide: np.ndarray, seen: Observation, geometry: Geometry) -> Sample:
    """Degrade a pair by its own ratio and PSF.

    Args:
        ms: (C, H, W), becomes gt; H and W are multiples of the ratio r.
        guide: (P, r·H, r·W).
        seen: how the pair was observed.
        geometry: of the pair.

    Returns:
        gt (C, H, W), ms (C, H/r, W/r), lms (C, H, W), pan (P, H, W).
    """
    (H, W), r = ms.shape[-2:], geometry.nominal
    small = seen.degrade(_batch(ms), (H // r, W // r))
    lms = interpolate(small, geometry, (H, W), border="mirror")
    pan = seen.degrade(_batch(guide), (H, W))
    return {"gt": ms, "ms": small[0].numpy(), "lms": lms[0].numpy(), "pan": pan[0].numpy()}


def _given(scene: Scene, box: simulate.Box, seen: Observation, geometry: Geometry) -> Sample:
    """Cut the ground `box` out of a pair whose file holds the ground truth; nothing is degraded."""
    assert scene.gt is not None
    coarse = tuple(edge // scene.ratio for edge in box)
    gt, pan = simulate.crop(scene.gt, box), simulate.crop(scene.pan, box)
    ms = simulate.crop(scene.ms, (coarse[0], coarse[1], coarse[2], coarse[3]))
    lms = interpolate(_batch(ms), geometry, (gt.shape[-2], gt.shape[-1]), border="mirror")[0].numpy()
    return {"gt": gt, "ms": ms, "lms": lms, "pan": pan}


def _mask(scene: Scene, box: simulate.Box) -> Sample:
    return {} if scene.valid is None else {"valid": simulate.crop(scene.valid[None], box)}


def _tiles(
    sources: Sequence[Any],
    boxes: Sequence[dict[str, simulate.Box]],
    split: str,
    degrade: Callable[[Any, simulate.Box], Sample],
    ratio: int,
    patch: int,
    stride: int,
) -> Iterator[Sample]:
    """Yield the tiles of a split that have no missing pixel."""
    size, step = (patch, patch), (patch, patch)
    if split == "train":
        step = (stride, stride)
    if split == "test":
        height, width = (min(b["test"][i + 1] - b["test"][i] for b in boxes) for i in (0, 2))
        size = step = simulate.image_size(height, width, unit=simulate.cell(ratio))
    left_out = count = 0
    for source, own in zip(sources, boxes, strict=True):
        for tile in simulate.tiles(degrade(source, own[split]), size, step, ratio):
            count += 1
            if tile.pop("valid", np.ones(1, bool)).all():
                yield tile
            else:
                left_out += 1
    if left_out == count > 0:
        raise UserError(f"every sample of {split} has missing pixels; cut out a part of the pair that has data")
    if left_out:
        print(f"note: {split}: {left_out} samples left out, in which data are missing")


def _observed(scenes: Sequence[Scene], geometry: Geometry) -> Iterator[Sample]:
    """Yield the pairs as observed, whole; of several, each cut to the size of the smallest."""
    rows, columns = (min(scene.ms.shape[i] for scene in scenes) for i in (1, 2))
    for scene in scenes:
        box = (0, rows, 0, columns)
        pair = simulate.crop(scene.ms, box), simulate.crop(scene.pan, box, scene.ratio)
        if scene.valid is not None and not simulate.crop(scene.valid[None], box).all():
            print(f"note: {scene.paths[0]} has missing pixels; the test image without ground truth has them filled")
        yield simulate.full_resolution(*pair, scene.ratio, geometry)
