"""Q averaged over bands: the universal quality index (Wang, Bovik, SPL 2002) in a sliding 32x32 box.

With N = 32*32 and sums over the box: den1 = N (Sxx + Syy) - (Sx^2 + Sy^2), den2 = Sx^2 + Sy^2,
Q = 4 (N Sxy - Sx Sy) Sx Sy / (den1 den2); both windows flat (maximum equals minimum): 2 Sx Sy / den2; den2 = 0: 1.
Valid area; mean over pixels and bands. No unit, range [-1, 1], 1 is best.

Box sums are built by doubling (1, 2, 4, 8, 16, 32 samples), never by cumulative sums: those lose the flat windows.
Legend: B images, C bands, H W size.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lemamba.metrics.index import register_index
from lemamba.metrics.inputs import BLOCK, check_sides, mean_valid, on_pairs, plane_chunks, windows_valid

_N = BLOCK * BLOCK


def slide(x: Tensor, combine: Callable[[Tensor, Tensor], Tensor] = torch.add) -> Tensor:
    """Combine each 32x32 box by an associative operation: (..., H, W) -> (..., H - 31, W - 31)."""
    for dim in (-2, -1):
        shift = 1
        while shift < BLOCK:
            n = x.shape[dim] - shift
            x = combine(x.narrow(dim, 0, n), x.narrow(dim, shift, n))
            shift *= 2
    return x


def _flat(x: Tensor) -> Tensor:
    return slide(x, torch.maximum) == slide(x, torch.minimum)


def q_map(x: Tensor, y: Tensor) -> Tensor:
    """Q at every position of the box: (..., H, W) float64 twice -> (..., H - 31, W - 31)."""
    # Covariances do not feel a shift; an integer near the mean keeps integer data exact and spares digits of others.
    cx, cy = (i.detach().mean(dim=(-2, -1), keepdim=True).round() for i in (x, y))
    x, y = x - cx, y - cy
    sx, sy = slide(x), slide(y)
    power = _N * slide(torch.addcmul(x * x, y, y))
    covariance = _N * slide(x * y) - sx * sy
    den1 = power - (sx * sx + sy * sy)
    sx, sy = sx + _N * cx, sy + _N * cy
    product, den2 = sx * sy, sx * sx + sy * sy
    near_flat = den1.detach() <= 1e-11 * power.detach()
    den = den1 * den2
    if not bool(near_flat.any()) and bool((den != 0).all()):
        return 4 * covariance * product / den
    flat = near_flat & _flat(x) & _flat(y)
    regular = ~flat & (den != 0)
    usual = 4 * covariance * product / torch.where(regular, den, 1.0)
    level = torch.where(den2 != 0, 2 * product / torch.where(den2 != 0, den2, 1.0), 1.0)
    return torch.where(regular, usual, torch.where(flat, level, 1.0))


@on_pairs
@register_index("qave", heading="Q", direction=+1, column=5)
def qave(sr: Tensor, gt: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Mean of Q over positions and bands.

    Args:
        sr: (B, C, H, W), sides of at least 32.
        gt: the same shape.
        mask: (B, 1, H, W), True where valid; only boxes without nodata count.

    Returns:
        (B,) float64. Differentiable. A box of mean 0 in both images that is not flat counts 1, as published.
    """
    check_sides(sr, "qave")
    valid = None if mask is None else windows_valid(mask, BLOCK)
    scores = []
    for i, (x, y) in enumerate(zip(sr, gt, strict=True)):
        v = None if valid is None else valid[i]
        chunks = plane_chunks(*x.shape, x.device)
        scores.append(torch.cat([mean_valid(q_map(x[c], y[c]), v, (1, 2)) for c in chunks]).mean())
    return torch.stack(scores)
