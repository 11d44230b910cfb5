"""Spectral consistency: the fused image, brought down to the MS image, must be the MS image. No ground truth needed.

The fused image passes the MTF filters of its sensor (taps of sum 1, `mtf_kernel` with ``unit``), is sampled where the
MS pixels lie, and compared with them. Source: Z-PNN (Ciotola et al., TGRS 60, 2022) with L1, lambda-PNN (Ciotola et
al., TGRS 61, 2023) with ERGAS.
Shapes: ms (B, C, h, w), sr (B, C, H, W), both in one unit, usually [0, 1].
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lemamba.operators import mtf_filter, sample
from lemamba.operators.mtf import REACH
from lemamba.utils.errors import UserError
from lemamba.utils.geometry import Geometry


def nominal_ratio(geometry: Geometry) -> float:
    """Return the geometric mean of the ratios of rows and columns, which the square filters are made for."""
    return math.sqrt(geometry.ratio[0] * geometry.ratio[1])


def downgrade(sr: Tensor, gains: Sequence[float], geometry: Geometry, size: Sequence[int]) -> Tensor:
    """Bring a fused image down to the grid of MS: MTF filter, then the samples under the MS pixels.

    Args:
        sr: (B, C, H, W); its edge pixels are repeated outside.
        gains: MTF gain at the Nyquist frequency of MS, one per band or one for all.
        geometry: where MS pixels lie under those of sr.
        size: (h, w) of MS.

    Returns:
        (B, C, h, w). Gradients flow.
    """
    return sample(mtf_filter(sr, gains, nominal_ratio(geometry), unit=True), geometry, size)


def inner_ms(geometry: Geometry, size: Sequence[int], border: int) -> tuple[slice, slice]:
    """Return the rows and columns of MS pixels at least `border` PAN pixels inside an image of `size` (H, W) of PAN."""
    spans = []
    for n, offset, ratio in zip(size, geometry.offset, geometry.ratio, strict=True):
        first = math.ceil((border - offset) / ratio - 1e-9)
        spans.append(slice(max(first, 0), math.floor((n - 1 - border - offset) / ratio + 1e-9) + 1))
    return spans[0], spans[1]


class SpectralL1(nn.Module):
    """total = spectral = mean |downgrade(sr) - ms| over the MS pixels inside; range [0, inf), unit of the images.

    Args:
        gains: one per band or one for all, see `downgrade`.
        geometry: of the pair of images that it is given.
        border: pixels of sr at each side that do not count, beyond the 20 that the filter reaches; None = every MS
            pixel counts, and the filter sees repeated edge pixels. (Z-PNN: 8, half the receptive field of its network.)
    """

    def __init__(self, gains: Sequence[float], geometry: Geometry, *, border: int | None = None) -> None:
        super().__init__()
        self.gains, self.geometry, self.border = tuple(gains), geometry, border

    def forward(self, sr: Tensor, ms: Tensor) -> dict[str, Tensor]:
        """Return {"total", "spectral"}, scalars; sr (B, C, H, W), ms (B, C, h, w).

        Raises:
            UserError: the border leaves no MS pixel.
        """
        low = downgrade(sr, self.gains, self.geometry, ms.shape[-2:])
        if self.border is not None:
            rows, columns = inner_ms(self.geometry, sr.shape[-2:], self.border + REACH)
            low, ms = low[..., rows, columns], ms[..., rows, columns]
            if not low.numel():
                H, W = sr.shape[-2:]
                least = 2 * (self.border + REACH) + math.ceil(max(self.geometry.ratio))
                raise UserError(f"expected an image of at least {least} x {least} pixels, given {H} x {W}; fuse more")
        value = (low - ms).abs().mean()
        return {"total": value, "spectral": value}


class ReprojectedErgas(nn.Module):
    """total = ergas = mean over images of 100/r sqrt(mean over bands of mse(downgrade(sr), ms) / mean(ms)^2).

    No unit, range [0, inf); the MS pixels all count, and edge pixels of sr are repeated for the filter.

    Args:
        gains, geometry: see `SpectralL1`.
    """

    def __init__(self, gains: Sequence[float], geometry: Geometry) -> None:
        super().__init__()
        self.gains, self.geometry = tuple(gains), geometry

    def forward(self, sr: Tensor, ms: Tensor) -> dict[str, Tensor]:
        """Return {"total", "ergas"}, scalars; sr (B, C, H, W), ms (B, C, h, w). A black band counts 0."""
        return self.of(downgrade(sr, self.gains, self.geometry, ms.shape[-2:]), ms)

    def of(self, low: Tensor, ms: Tensor) -> dict[str, Tensor]:
        """Return the same from the downgraded image (B, C, h, w)."""
        power = ms.mean(dim=(-2, -1)).square()
        relative = (low - ms).square().mean(dim=(-2, -1)) / torch.where(power > 0, power, torch.inf)
        mean = relative.mean(dim=1)
        exact = mean > 0  # the gradient of the root at 0 is not finite
        root = torch.where(exact, torch.where(exact, mean, 1.0).sqrt(), 0.0)
        value = (100 / nominal_ratio(self.geometry) * root).mean()
        return {"total": value, "ergas": value}
