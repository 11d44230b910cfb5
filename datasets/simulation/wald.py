"""Wald's protocol: training and test samples with a ground truth from images that have none.

The observed pair is degraded by its own ratio: MS by the sensor's MTF and decimation, PAN by an antialiased resize; the
observed MS is then the ground truth. A hyperspectral cube is blurred and decimated, and a spectral response gives its
guide. Filters run over a whole box of ground, and tiles are cut from the result.
Legend: C bands, P guide bands, H W size of gt, h w size of ms, r = H/h.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F  # noqa: N812

from lemamba.operators import decimate, imresize, interp23, interpolate, mtf_filter, resample
from lemamba.operators import sample as take_samples
from lemamba.utils.errors import UserError
from lemamba.utils.geometry import LARGEST_RATIO, Geometry

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


@dataclass(frozen=True)
class Degradation:
    """How a guide and a low-resolution image are made from a hyperspectral cube.

    Attributes:
        response: (P, C), weight of each band in each guide band; rows are normalised to sum 1.
        ratio: r, 2 to 64.
        psf: (S, T), weights of the pixels under a pixel of ms, normalised to sum 1; a correlation, as MATLAB's
            `imfilter` computes it, centred at ((S - 1) // 2, (T - 1) // 2); border samples are repeated.
        offset: pixel of gt in each cell of r by r at which the blurred image is taken; None takes r // 2.
        snr: power of each band over that of the noise added to it, in dB, for ms and guide; None adds no noise.
    """

    response: np.ndarray
    ratio: int
    psf: np.ndarray
    offset: int | None = None
    snr: float | None = None

    def __post_init__(self) -> None:
        """Refuse values that no image can be made with."""
        check_ratio(self.ratio)
        if self.psf.ndim != 2 or not np.isfinite(self.psf).all() or not abs(self.psf.sum()) > 0:
            raise UserError(f"expected a blur kernel as a finite matrix with a sum, given {self.psf.shape}; correct it")
        if not 0 <= self.start < self.ratio:
            raise UserError(
                f"expected a decimation offset from 0 to {self.ratio - 1}, given {self.offset}; correct --offset"
            )
        if self.snr is not None and not math.isfinite(self.snr):
            raise UserError(f"expected a finite --snr in dB, given {self.snr}; correct it, or drop it")

    @property
    def start(self) -> int:
        """Return the pixel of gt under which the first sample is taken."""
        return self.ratio // 2 if self.offset is None else self.offset

    @property
    def geometry(self) -> Geometry:
        """Return where pixels of ms lie: an even kernel has its centre half a pixel after the pixel it is put at."""
        rows, columns = (self.start + (0.0 if side % 2 else 0.5) for side in self.psf.shape)
        return Geometry((self.ratio, self.ratio), (rows, columns))


def gaussian_kernel(size: int, sigma: float) -> np.ndarray:
    """Return a Gaussian kernel (size, size) of sum 1, sigma in pixels, as MATLAB's ``fspecial('gaussian')``."""
    if not (size >= 1 and 0 < sigma < math.inf):
        raise UserError(f"expected a positive sigma and blur size, given {sigma} and {size}; correct them")
    taps = np.exp(-((np.arange(size) - (size - 1) / 2) ** 2) / (2 * sigma**2))
    return np.outer(taps, taps) / taps.sum() ** 2


def hyperspectral(cube: np.ndarray, degradation: Degradation, seed: int = 0) -> Sample:
    """Degrade a hyperspectral cube, band by band: no more than one band is held in float64.

    Args:
        cube: (C, H, W), floating point; becomes gt. H and W are multiples of the ratio.
        degradation: response, blur, decimation and noise.
        seed: of the noise.

    Returns:
        gt (C, H, W), ms (C, H/r, W/r), lms (C, H, W), pan (P, H, W) with the dtype of `cube`. lms is the 23-tap
        interpolation where it is defined (a ratio 2^n, samples at r/2), otherwise interpolated where ms lies.
    """
    r, psf, start = degradation.ratio, degradation.psf / degradation.psf.sum(), degradation.start
    above, left = (start - (side - 1) // 2 for side in psf.shape)
    rows, columns = cube.shape[1:]
    taken = _border(rows, above, psf.shape[0], r), _border(columns, left, psf.shape[1], r)
    kernel = torch.from_numpy(psf)[None, None]
    weights = degradation.response / degradation.response.sum(1, keepdims=True)
    ms = np.empty((len(cube), rows // r, columns // r), cube.dtype)
    pan = np.zeros((len(weights), rows, columns), cube.dtype)
    lms = np.empty_like(cube)
    generator = np.random.default_rng(seed)
    for number, values in enumerate(cube):
        band = torch.from_numpy(values.astype(np.float64))
        under = band[taken[0]][:, taken[1]][None, None]
        ms[number] = _noisy(F.conv2d(under, kernel, stride=r)[0, 0].numpy(), degradation.snr, generator)
        pan += (weights[:, number, None, None] * values).astype(cube.dtype)
        lms[number] = _enlarged(ms[number], degradation)
    for number, values in enumerate(pan):
        pan[number] = _noisy(values, degradation.snr, generator)
    return {"gt": cube, "ms": ms, "lms": lms, "pan": pan}


def _border(length: int, first: int, side: int, ratio: int) -> torch.Tensor:
    """Return the pixels under the kernel at all samples along an axis; those outside are the nearest inside."""
    return torch.arange(first, first + length - ratio + side).clamp(0, length - 1)


def _noisy(band: np.ndarray, snr: float | None, generator: np.random.Generator) -> np.ndarray:
    if snr is None:
        return band
    power = float(np.mean(np.square(band, dtype=np.float64))) / 10 ** (snr / 10)
    return band + generator.normal(0, math.sqrt(power), band.shape)


def _enlarged(ms: np.ndarray, degradation: Degradation) -> np.ndarray:
    """Return one band of lms (H, W)."""
    size = [degradation.ratio * side for side in ms.shape]
    return interpolate(_batch(ms[None]), degradation.geometry, size)[0, 0].numpy()


def check_ratio(ratio: int) -> None:
    """Refuse a ratio below 2 or above 64."""
    if not 2 <= ratio <= LARGEST_RATIO:
        raise UserError(f"expected a ratio from 2 to {LARGEST_RATIO:g}, given {ratio}; choose another")


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
