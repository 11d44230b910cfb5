"""MTF filter and decimation in one step: the low-pass image is computed at the MS pixels only.

A 41 x 41 MTF kernel is, to rounding, a sum of a few products of a column and a row (its singular vectors), and so is
the sampling between pixels. Each factor is a banded matrix along one axis that goes from PAN's pixels to MS's, so a
PAN pixel costs a few dozen operations in matrix products, where `mtf_filter` transforms all pixels, of which sampling
keeps one in r x r. All gains share the columns.
Legend: H W size of PAN, h w of MS, G gains, K products, r ratio.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from lemamba.operators.mtf import REACH, mtf_kernel
from lemamba.operators.resample import DECIMATION_TAPS, Positions, taps_at
from lemamba.utils.geometry import Geometry

_BLOCK = 8  # outputs per block
_LEAST = {torch.float32: 1e-7, torch.float64: 1e-15}  # share of the largest singular value that a product must have
_Blocks = tuple[tuple[int, int, Tensor], ...]  # (first input, number of inputs, matrices (·, K, outputs, inputs))


def mtf_sample(x: Tensor, gains: Sequence[float], ratio: float, geometry: Geometry, size: Sequence[int]) -> Tensor:
    """Return ``sample(mtf_filter(x, gains, ratio), geometry, size)`` to rounding.

    Args:
        x: (B, 1, H, W), floating point. Half types are computed in float32.
        gains: G gains at Nyquist, see `mtf_kernel`.
        ratio: that of the filter.
        geometry: of the pair.
        size: (h, w) of MS.

    Returns:
        (B, G, h, w), dtype of `x`.
    """
    work = x if x.dtype in _LEAST else x.float()
    rows, columns = (
        _blocks(n, (offset, step, count), tuple(gains), float(ratio), axis, work.dtype, work.device)
        for axis, (n, offset, step, count) in enumerate(
            zip(x.shape[-2:], geometry.offset, geometry.ratio, size, strict=True)
        )
    )
    with torch.autocast(x.device.type, enabled=False):
        tall = [
            (matrices.flatten(0, 2) @ work.narrow(-2, low, n)).unflatten(-2, matrices.shape[1:3])[:, 0]
            for low, n, matrices in rows
        ]
        filtered = torch.cat(tall, dim=-2)  # (B, K, h, W)
        sampled = [
            torch.einsum("bkhn,gkmn->bghm", filtered.narrow(-1, low, n), matrices) for low, n, matrices in columns
        ]
    return torch.cat(sampled, dim=-1).to(x.dtype)


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # a cached inference tensor could not serve training later
def _blocks(
    n: int,
    positions: Positions,
    gains: tuple[float, ...],
    ratio: float,
    axis: int,
    dtype: torch.dtype,
    device: torch.device,
) -> _Blocks:
    """Return filter and sampling along an axis of `n` pixels; the border is repeated by the filter."""
    factors = _factors(gains, ratio, _LEAST[dtype])[axis]
    weight, index = taps_at(n, positions, DECIMATION_TAPS, "mirror")
    wide = (index[..., None] + torch.arange(-REACH, REACH + 1)).clamp(0, n - 1)  # (count, 4, TAPS)
    blocks = []
    for start in range(0, len(index), _BLOCK):
        part, used = wide[start : start + _BLOCK], weight[start : start + _BLOCK]
        inputs = part[used != 0]
        low, high = int(inputs.min()), int(inputs.max())
        place = (part - low).clamp(0, high - low).flatten(1)  # those outside have weight 0
        matrices = torch.zeros(*factors.shape[:2], len(part), high - low + 1, dtype=torch.float64)
        values = used[:, :, None] * factors[:, :, None, None, :]  # (G, K, outputs, 4, TAPS)
        matrices.scatter_add_(-1, place.expand(*factors.shape[:2], -1, -1), values.flatten(-2))
        blocks.append((low, high - low + 1, matrices.to(dtype=dtype, device=device)))
    return tuple(blocks)


def _factors(gains: tuple[float, ...], ratio: float, least: float) -> tuple[Tensor, Tensor]:
    """Return columns (1, K, TAPS) and rows (G, K, TAPS) of the products: the kernel of gain g is their sum over K."""
    kernels = torch.stack([mtf_kernel(gain, ratio) for gain in gains])
    basis, values, _ = torch.linalg.svd(torch.cat(tuple(kernels), dim=1), full_matrices=False)
    basis = basis[:, values > least * values[0]].T
    return basis[None], basis @ kernels
