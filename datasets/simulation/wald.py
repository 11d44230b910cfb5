"""Wald's protocol: training and test samples with a ground truth from images that have none.

The observed pair is degraded by its own ratio: MS by the sensor's MTF and decimation, PAN by an antialiased resize; the
observed MS is then the ground truth. A hyperspectral cube is blurred and decimated, and a spectral response gives its
guide. Filters run over a whole box of ground, and tiles are cut from the result.
Legend: C bands, P guide bands, H W size of gt, h w size of ms, r = H/h.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch.nn import functional as F  # noqa: N812

from lemamba.operators import decimate, imresize, interp23, interpolate, mtf_filter, resample
from lemamba.operators import sample as take_samples
from lemamba.utils.errors import UserError
from lemamba.utils.geometry import Geometry

Sample = dict[str, np.ndarray]
Box = tuple[int, int, int, int]  # first row, row after the last, first column, column after the last


def _batch(x: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.array(x, dtype=np.float64))[None]


def upsampled(ms: np.ndarray, ratio: int, geometry: Geometry | None = None) -> np.ndarray:
    """Return lms (C, H, W), interpolated from ms (C, h, w); geometry as in `wald`.

    Without a geometry it is the 23-tap interpolation as published, circular over the given ground.
    """
    if geometry is None:
        return interp23(_batch(ms), ratio)[0].numpy()
    return _interpolated(_batch(ms), ratio, geometry)[0].numpy()


def _interpolated(ms: torch.Tensor, ratio: int, geometry: Geometry) -> torch.Tensor:
    size = ratio * ms.shape[-2], ratio * ms.shape[-1]
    return interpolate(ms, geometry, size, border="mirror")


def wald(
    ms: np.ndarray, pan: np.ndarray, gains: Sequence[float], ratio: int, geometry: Geometry | None = None
) -> Sample:
    """Degrade an observed pair by its ratio.

    With a geometry, ms and lms lie under gt as the observed ms lies under the observed pan, and the degraded pan is
    moved to where gt lies.

    Args:
        ms: (C, H, W), observed; becomes gt. H and W are multiples of `ratio`.
        pan: (P, r·H, r·W), observed.
        gains: MTF gains at Nyquist, one per band.
        ratio: r; a power of two if there is no geometry (interp23).
        geometry: of the observed pair, ratio r; None = the research toolboxes' protocol as published: ms taken at
            offset r/2, pan by an antialiased resize whatever its offset.

    Returns:
        gt (C, H, W), ms (C, H/r, W/r), lms (C, H, W), pan (P, H, W), float64, in the units given.
    """
    filtered, guide = mtf_filter(_batch(ms), gains, ratio), _batch(pan)
    if geometry is None:
        small = decimate(filtered, ratio)
        lms = interp23(small, ratio)
    else:
        h, w = (n // ratio for n in filtered.shape[-2:])
        small = take_samples(filtered, geometry, (h, w))
        lms = _interpolated(small, ratio, geometry)
        moved = [o - (ratio - 1) / 2 for o in geometry.offset]  # imresize takes its samples at (r - 1)/2 + i r
        if any(moved):
            guide = resample(guide, *((m, 1.0, n) for m, n in zip(moved, guide.shape[-2:], strict=True)))
    guide = imresize(guide, 1 / ratio, "bicubic")
    return {"gt": np.asarray(ms, np.float64), "ms": small[0].numpy(), "lms": lms[0].numpy(), "pan": guide[0].numpy()}


def full_resolution(ms: np.ndarray, pan: np.ndarray, ratio: int, geometry: Geometry | None = None) -> Sample:
    """Return the observed pair as a sample without ground truth: ms (C, h, w), lms (C, H, W), pan (P, H, W)."""
    return {
        "ms": np.asarray(ms, np.float64),
        "lms": upsampled(ms, ratio, geometry),
        "pan": np.asarray(pan, np.float64),
    }


def hyperspectral(cube: np.ndarray, response: np.ndarray, ratio: int, sigma: float, size: int) -> Sample:
    """Degrade a hyperspectral cube.

    Args:
        cube: (C, H, W); becomes gt. H and W are multiples of `ratio`.
        response: (P, C), weight of each band in each guide band; rows are normalised to sum 1.
        ratio: r, a power of two.
        sigma: standard deviation of the Gaussian blur in pixels; border samples are repeated.
        size: side of the blur's kernel, odd.

    Returns:
        gt (C, H, W), ms (C, H/r, W/r) decimated at offset r/2, lms (C, H, W), pan (P, H, W), float64.
    """
    x = _batch(cube)
    offsets = torch.arange(size, dtype=x.dtype) - size // 2
    taps = torch.exp(-(offsets**2) / (2 * sigma**2))
    taps = (taps / taps.sum()).view(1, 1, size)
    padded = F.pad(x, (size // 2,) * 4, mode="replicate").transpose(0, 1)
    blurred = F.conv2d(F.conv2d(padded, taps[..., None]), taps[:, :, None]).transpose(0, 1)
    small = decimate(blurred, ratio)
    weights = response / response.sum(1, keepdims=True)
    guide = np.tensordot(weights, np.asarray(cube, np.float64), 1)
    return {
        "gt": np.asarray(cube, np.float64),
        "ms": small[0].numpy(),
        "lms": interp23(small, ratio)[0].numpy(),
        "pan": guide,
    }


def check_ratio(ratio: int) -> None:
    """Refuse a ratio that interp23 is not defined for."""
    if ratio < 2 or ratio & (ratio - 1):
        raise UserError(f"expected a ratio that is a power of two (2, 4, 8), given {ratio}; choose another")


def cell(ratio: int) -> int:
    """Return the unit of boxes and tiles: 32 pixels, or the multiple of the ratio nearest to it."""
    return 32 if 32 % ratio == 0 else ratio * round(32 / ratio)


def split_boxes(rows: int, columns: int, ratio: int) -> tuple[dict[str, Box], int]:
    """Split the ground of a scene; the boxes never overlap.

    The longer side (rows of a square) is split into train | valid | test, about 60, 20 and 20 per cent in steps of 32
    (`cell`) and at least one patch each: 0-191, 192-255, 256-319 for 320 rows. Both sides are first cut to multiples of
    `ratio`.

    Args:
        rows: H of the ground truth.
        columns: W of the ground truth.
        ratio: r.

    Returns:
        (boxes by split, side of a training patch: 64, or 32 for small scenes).

    Raises:
        UserError: fewer than 96 by 32 pixels, too few for three areas.
    """
    longest, shortest = max(rows, columns), min(rows, columns)
    unit = cell(ratio)
    patch = 2 * unit if longest >= 6 * unit and shortest >= 2 * unit else unit
    if longest < 3 * patch or shortest < patch:
        raise UserError(
            f"expected at least {3 * unit}x{unit} ground-truth pixels for three separate areas, given {rows}x{columns};"
            " use --test_only or a larger scene"
        )
    held_out = max(patch, math.floor(longest / 5 / unit) * unit)
    end = longest - longest % math.lcm(ratio, unit)
    cuts = {
        "train": (0, end - 2 * held_out),
        "valid": (end - 2 * held_out, end - held_out),
        "test": (end - held_out, end),
    }
    if rows >= columns:
        width = columns - columns % ratio
        return {split: (low, high, 0, width) for split, (low, high) in cuts.items()}, patch
    height = rows - rows % ratio
    return {split: (0, height, low, high) for split, (low, high) in cuts.items()}, patch


def crop(image: np.ndarray, box: Box, scale: int = 1) -> np.ndarray:
    """Cut a box out of an image (·, H, W) whose pixels are `scale` times finer than the box's."""
    top, bottom, left, right = (scale * edge for edge in box)
    return image[..., top:bottom, left:right]


def tiles(
    sample: Sample, size: tuple[int, int], stride: tuple[int, int], ratio: int
) -> Iterator[dict[str, np.ndarray]]:
    """Cut samples out of a large one, row by row.

    Args:
        sample: ms (C, h, w), the others (·, H, W).
        size: rows and columns of a tile on the grid of lms, multiples of `ratio`.
        stride: steps between tiles on the same grid, multiples of `ratio`.
        ratio: H/h.
    """
    height, width = sample["lms"].shape[-2:]
    for y in range(0, height - size[0] + 1, stride[0]):
        for x in range(0, width - size[1] + 1, stride[1]):
            yield {
                role: value[
                    ...,
                    slice(y // ratio, (y + size[0]) // ratio) if role == "ms" else slice(y, y + size[0]),
                    slice(x // ratio, (x + size[1]) // ratio) if role == "ms" else slice(x, x + size[1]),
                ]
                for role, value in sample.items()
            }


def image_size(height: int, width: int, largest: int = 256, unit: int = 32) -> tuple[int, int]:
    """Return the size of test images cut from a box: near-square multiples of `unit` that cover it if they can."""
    target = min(height // unit, width // unit, largest // unit) * unit
    if target == 0:
        raise UserError(
            f"expected a test area of at least {unit}x{unit} pixels, given {height}x{width}; use a larger scene"
        )
    return _tile_side(height, target, unit), _tile_side(width, target, unit)


def _tile_side(length: int, target: int, unit: int) -> int:
    """Return the shortest multiple of `unit` from `target` to twice it that divides the length; else `target`."""
    cells = length // unit
    sides = [unit * cells // count for count in range(cells, 0, -1) if cells % count == 0]
    return next((side for side in sides if target <= side <= 2 * target), target)
