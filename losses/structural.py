"""Structural loss: fused bands must correlate with PAN as the interpolated MS bands do with low-passed PAN.

No ground truth is needed. The correlation is local, with deviations from a running mean. 1 - correlation counts where
it is above a threshold, the same number of the low resolution in wider windows: no band is driven towards PAN further
than the data support. Without a threshold it is a loss of the D_rho type. Source: Z-PNN (Ciotola et al., TGRS 60, 2022)
and its released code, whose windows these are (2w x 2w pixels, zeros outside the image).
Shapes: sr, lms (B, C, H, W), pan (B, 1, H, W).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lemamba.losses.spectral import nominal_ratio
from lemamba.operators import mtf_filter
from lemamba.operators.mtf import REACH
from lemamba.utils.geometry import Geometry

_FLAT = 1e-20  # sum of squared deviations, of images in [0, 1], below which a window has no structure
THRESHOLD_HALF_WIDTH = 8


def _window_sums(x: Tensor, half: int) -> Tensor:
    """Sum over rows i - half + 1 ... i + half and the same columns, zeros outside: (B, C, H, W) -> (B, C, H, W)."""
    padded = F.pad(x, (half - 1, half, half - 1, half))
    down = F.avg_pool2d(padded, (2 * half, 1), stride=1, divisor_override=1)
    return F.avg_pool2d(down, (1, 2 * half), stride=1, divisor_override=1)


def local_correlation(x: Tensor, y: Tensor, half: int) -> Tensor:
    """Correlation of two images in windows of 2 half x 2 half pixels around every pixel.

    Args:
        x, y: (B, C, H, W), or (B, 1, H, W), in [0, 1]; computed in float64.
        half: half the side of the windows.

    Returns:
        (B, C, H, W) float64 in [-1, 1]; 0, without gradient, where a window is flat in x or y.
    """
    n = 4 * half * half
    dx, dy = (i.double() - _window_sums(i.double(), half) / n for i in (x, y))
    power_x, power_y = (_window_sums(d.square(), half) for d in (dx, dy))
    flat = (power_x <= _FLAT) | (power_y <= _FLAT)
    scale = torch.where(flat, 1.0, power_x * power_y).sqrt()
    return torch.where(flat, 0.0, _window_sums(dx * dy, half) / scale).clamp(-1, 1)


@torch.no_grad()
def correlation_threshold(
    lms: Tensor, pan: Tensor, gain: float, geometry: Geometry, half: int = THRESHOLD_HALF_WIDTH
) -> Tensor:
    """Return 1 - correlation of the interpolated MS bands with low-passed PAN: what `Structural` asks for at most.

    Args:
        lms: (B, C, H, W) in [0, 1].
        pan: (B, 1, H, W) in [0, 1]; filtered with `gain`, mirrored without the edge pixel where it is large enough.
        gain: MTF gain at Nyquist of the low-pass, in (0, 1); the released codes take that of the first MS band.
        geometry: of the pair; its ratio sets the cut of the filter.
        half: half the side of the windows.

    Returns:
        (B, C, H, W) of lms's dtype, in [0, 2], without gradient.
    """
    mode = "reflect" if min(pan.shape[-2:]) > REACH else "replicate"
    wide = mtf_filter(F.pad(pan, [REACH] * 4, mode=mode), gain, nominal_ratio(geometry), unit=True)
    low = wide[..., REACH:-REACH, REACH:-REACH]
    return (1 - local_correlation(low, lms, half)).to(lms.dtype)


class Structural(nn.Module):
    """total = structural = mean of X where X > threshold, else 0; X = 1 - local correlation of sr with PAN; in [0, 2].

    Args:
        geometry: of the pair; windows are 2 ceil(r/2) pixels wide.
        border: pixels at each side that are cut off before windows are laid.
    """

    def __init__(self, geometry: Geometry, *, border: int = 0) -> None:
        super().__init__()
        self.half_width = math.ceil(geometry.nominal / 2)
        self.border = border

    def forward(self, sr: Tensor, pan: Tensor, threshold: Tensor | None = None) -> dict[str, Tensor]:
        """Return {"total", "structural"}, scalars.

        Args:
            sr: (B, C, H, W) in [0, 1].
            pan: (B, 1, H, W) in [0, 1].
            threshold: (B, C, H, W), see `correlation_threshold`; None = every pixel counts, as in D_rho.
        """
        sr, pan = self._inside(sr), self._inside(pan)
        apart = 1 - local_correlation(sr, pan, self.half_width)
        if threshold is not None:
            apart = apart * (apart > self._inside(threshold))
        value = apart.mean()
        return {"total": value, "structural": value}

    def _inside(self, x: Tensor) -> Tensor:
        b = self.border
        return x[..., b : x.shape[-2] - b, b : x.shape[-1] - b]
