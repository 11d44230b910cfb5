"""Resampling at any phase: MS on to PAN's grid and a low-passed image on to MS's, whatever the geometry of the pair.

Geometries that the published 23-tap interpolation reaches (ratios that are powers of two, whole offsets) go through
`interp23` itself, so that published digits are kept. Elsewhere the kernel is the Lagrange polynomial through the
nearest samples of each axis, the family that the half-band filter belongs to (Deslauriers and Dubuc, 1989): through 6
samples for interpolation, which no method preferred 12 to, and through 4 between the pixels of a low-passed image.
Legend: h w size of MS, H W size of PAN, r ratio.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from lemamba.operators.banded import Blocks, apply_to_both, banded_blocks
from lemamba.operators.interp23 import REACH, interp23, response
from lemamba.utils.geometry import Geometry

INTERPOLATION_TAPS = 6
DECIMATION_TAPS = 4
MARGIN = 12  # MS pixels around a window that its interpolation looks at: interp23's 6 * (1 + 1/2 + 1/4 + …)
_BLOCK = 32  # outputs per block
Border = Literal["mirror", "circular"]
Positions = tuple[float, float, int]  # first, step, count


def mirrored(index: Tensor, n: int) -> Tensor:
    """Bring indices of an axis of n samples inside: the axis is mirrored, the edge sample repeated."""
    wrapped = index % (2 * n)
    return torch.where(wrapped < n, wrapped, 2 * n - 1 - wrapped)


def lagrange_weights(fraction: Tensor, taps: int) -> Tensor:
    """Return the weights of the samples around a point.

    Args:
        fraction: (m,) float64 in [0, 1), distance from the sample before the point, the middle one of the first half.
        taps: number of samples, even.

    Returns:
        (m, taps) float64; rows sum to 1, and polynomials up to degree taps - 1 are reproduced.
    """
    node = torch.arange(taps, dtype=torch.float64) - (taps // 2 - 1)
    weights = []
    for k in range(taps):
        others = node[torch.arange(taps) != k]
        weights.append(((fraction[:, None] - others) / (node[k] - others)).prod(dim=1))
    return torch.stack(weights, dim=1)


def taps_at(n: int, positions: Positions, taps: int, border: Border) -> tuple[Tensor, Tensor]:
    """Return which samples of an axis of `n` enter at evenly spaced places, and with what weight.

    Args:
        n: samples of the axis.
        positions, taps, border: see `resample`.

    Returns:
        (count, taps) float64 weights, (count, taps) int64 indices inside the axis.
    """
    first, step, count = positions
    place = first + step * torch.arange(count, dtype=torch.float64)
    nearest = place.round()
    place = torch.where((place - nearest).abs() < 1e-9, nearest, place)  # samples pass through unchanged
    below = place.floor()
    index = below.long()[:, None] + torch.arange(1 - taps // 2, taps // 2 + 1)
    index = index % n if border == "circular" else mirrored(index, n)
    return lagrange_weights(place - below, taps), index


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # a cached inference tensor could not serve training later
def _blocks(
    n: int, positions: Positions, taps: int, border: Border, dtype: torch.dtype, device: torch.device
) -> Blocks:
    return banded_blocks(*taps_at(n, positions, taps, border), _BLOCK, dtype, device)


def resample(
    x: Tensor, rows: Positions, columns: Positions, *, taps: int = INTERPOLATION_TAPS, border: Border = "mirror"
) -> Tensor:
    """Read `x` at evenly spaced places.

    Args:
        x: (..., n, m), floating point. Half types are computed in float32.
        rows, columns: (first, step, count) in indices of `x`; they may lie outside.
        taps: samples of each axis that enter a result, even.
        border: what lies outside: "mirror" repeats the edge sample (MATLAB's "symmetric"), "circular" wraps.

    Returns:
        (..., rows count, columns count), dtype of `x`. Gradients flow.
    """
    work = x if x.dtype in (torch.float32, torch.float64) else x.float()
    both = (
        _blocks(n, positions, taps, border, work.dtype, work.device)
        for n, positions in zip(x.shape[-2:], (rows, columns), strict=True)
    )
    return apply_to_both(work, *both).to(x.dtype)


def interpolate(ms: Tensor, geometry: Geometry, size: Sequence[int], *, border: Border | None = None) -> Tensor:
    """Interpolate MS on to PAN's grid.

    Args:
        ms: (B, C, h, w), floating point.
        geometry: of this pair of images (`Geometry.window` for a part of one).
        size: (H, W) of PAN.
        border: see `resample`; None = "circular", as published, where the geometry is the toolboxes' and `size` is r
            times that of ms, else "mirror".

    Returns:
        lms (B, C, H, W): exactly `interp23` where the ratio is a power of two and the offsets are whole numbers.
    """
    h, w = ms.shape[-2:]
    if border != "mirror" and geometry.doubles:
        r = int(geometry.ratio[0])
        if geometry.offset == (r // 2, r // 2) and tuple(size) == (r * h, r * w):
            return interp23(ms, r)
    if border == "circular":
        rows, columns = ((-o / q, 1 / q, n) for o, q, n in zip(geometry.offset, geometry.ratio, size, strict=True))
        return resample(ms, rows, columns, border="circular")
    work = ms if ms.dtype in (torch.float32, torch.float64) else ms.float()
    return apply_to_both(work, *interpolation((h, w), geometry, size, work.dtype, work.device)).to(ms.dtype)


def interpolation(
    ms_size: Sequence[int], geometry: Geometry, size: Sequence[int], dtype: torch.dtype, device: torch.device
) -> tuple[Blocks, Blocks]:
    """Return `interpolate` of mirrored images as banded matrices for rows and columns: what its transpose needs.

    Args:
        ms_size: (h, w) of ms.
        geometry, size: see `interpolate`.
        dtype, device: of the matrices.
    """
    rows, columns = (
        _interpolating(n, (r, o, count), geometry.doubles and r > 1, dtype, device)
        for n, r, o, count in zip(ms_size, geometry.ratio, geometry.offset, size, strict=True)
    )
    return rows, columns


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def _interpolating(
    n: int, axis: tuple[float, float, int], doubles: bool, dtype: torch.dtype, device: torch.device
) -> Blocks:
    """Return the interpolation along an axis of `n` MS pixels; `axis` is ratio, offset, number of PAN pixels."""
    ratio, offset, count = axis
    if not doubles:
        positions = (-offset / ratio, 1 / ratio, count)
        return banded_blocks(*taps_at(n, positions, INTERPOLATION_TAPS, "mirror"), _BLOCK, dtype, device)
    r = int(ratio)
    place = torch.arange(count)[:, None] - (int(offset) - r // 2)  # counted from the first pixel that interp23 gives
    near = place.div(r, rounding_mode="floor") + torch.arange(1 - REACH, REACH)
    weight = response(r)[place - near * r + REACH * r]
    return banded_blocks(weight, mirrored(near, n), _BLOCK, dtype, device)


def sample(x: Tensor, geometry: Geometry, size: Sequence[int]) -> Tensor:
    """Take the samples of a low-passed image that lie under MS pixels: the decimation of Wald's protocol.

    Args:
        x: (B, C, H, W), floating point, low-passed.
        geometry: of the pair.
        size: (h, w) of MS.

    Returns:
        (B, C, h, w): a view where every MS pixel lies on a pixel of `x`, else interpolated between its pixels.
    """
    if geometry.whole:
        taken = []
        for n, offset, ratio, count in zip(x.shape[-2:], geometry.offset, geometry.ratio, size, strict=True):
            last = int(offset) + int(ratio) * (count - 1)
            taken.append(slice(int(offset), last + 1, int(ratio)) if offset >= 0 and last < n else None)
        if None not in taken:
            return x[..., taken[0], taken[1]]
    rows, columns = zip(geometry.offset, geometry.ratio, size, strict=True)
    return resample(x, rows, columns, taps=DECIMATION_TAPS)
