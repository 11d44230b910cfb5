"""BDSD-PC: band-dependent spatial detail with physical constraints on the signs.

Papers: G. Vivone, "Robust band-dependent spatial-detail approaches for panchromatic sharpening", IEEE TGRS 57(9),
2019; after A. Garzelli, F. Nencini, L. Capobianco, "Optimal MMSE pan sharpening of very high resolution
multispectral images", IEEE TGRS 46(1), 2008.
Shapes: lms and sr (B, C, H, W), pan (B, 1, H, W); K = C + 1 regressors.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lemamba.model.classical.base import Classical
from lemamba.model.classical.statistics import combine, reduced_system
from lemamba.operators import decimate, imresize, mtf_filter
from lemamba.utils.registry import register_model


def non_negative_least_squares(A: Tensor, b: Tensor) -> Tensor:
    """Minimise ``|A x - b|`` over ``x >= 0`` by the active-set method of Lawson and Hanson (1974, chapter 23).

    Args:
        A: (n, K) float64 on the CPU, small.
        b: (n,).

    Returns:
        (K,) solution; constrained entries are exactly 0.
    """
    K = A.shape[1]
    x, free = torch.zeros(K, dtype=A.dtype), torch.zeros(K, dtype=torch.bool)
    tolerance = 10 * K * torch.finfo(A.dtype).eps * float(A.abs().sum(0).amax()) * max(float(b.abs().amax()), 1e-300)
    for _ in range(10 * K):  # each pass frees one unknown; cycling by rounding ends here
        slope = torch.where(free, -torch.inf, A.T @ (b - A @ x))
        if free.all() or slope.amax() <= tolerance:
            break
        free[slope.argmax()] = True
        while True:
            trial = torch.zeros_like(x)
            trial[free] = torch.linalg.lstsq(A[:, free], b[:, None], driver="gelsy").solution[:, 0]
            blocked = free & (trial <= 0)
            if not blocked.any():
                break
            step = (x[blocked] / (x[blocked] - trial[blocked])).amin()
            x = x + step * (trial - x)
            free &= x > 1e-14 * x.abs().amax()  # at least the blocking unknown returns to the bound
            x = torch.where(free, x, 0.0)
        x = trial
    return x


@register_model(
    "BDSD-PC",
    tasks=("pansharpening",),
    ratios=(2, 4, 8),
    family="classical",
    tileable=False,
    paper="Vivone, TGRS 57(9), 2019",
)
class BDSDPC(Classical):
    """Details from all bands and the PAN, weights learned one scale down: PAN's non-negative, the bands' non-positive.

    The published code takes the low-resolution PAN at a fixed offset, right for ratio 4; here it is ratio // 2.
    """

    def fuse(self, ms: Tensor, lms: Tensor, pan: Tensor) -> Tensor:
        """Fuse float64 images; one set of weights per image and band."""
        low = imresize(lms, 1 / self.ratio, "bicubic")
        smooth = mtf_filter(low, self.gains, self.ratio)
        low_pan = decimate(mtf_filter(pan, self.sensor.pan_gain, self.ratio), self.ratio)
        matrix, right = reduced_system(low - smooth, torch.cat([low_pan, -smooth], dim=1))
        weights = torch.stack(
            [
                torch.stack([non_negative_least_squares(A, b) for b in rhs.T])
                for A, rhs in zip(matrix, right, strict=True)
            ]
        )
        return lms + combine(weights.to(lms.device), torch.cat([pan, -lms], dim=1))
