"""Q averaged over bands: the universal quality index (Wang, Bovik, SPL 2002) in a sliding 32x32 box.

With N = 32*32 and sums over the box: den1 = N (Sxx + Syy) - (Sx^2 + Sy^2), den2 = Sx^2 + Sy^2,
Q = 4 (N Sxy - Sx Sy) Sx Sy / (den1 den2); both windows flat (maximum equals minimum): 2 Sx Sy / den2; den2 = 0: 1.
Valid area; mean over pixels and bands. No unit, range [-1, 1], 1 is best.

Box sums are built by doubling (1, 2, 4, 8, … samples), never by cumulative sums: those lose the flat windows.
Legend: B images, C bands, H W size.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, reduce

import torch
from torch import Tensor

from lemamba.metrics.index import register_index
from lemamba.metrics.inputs import BLOCK, check_sides, each_pair, on_pairs, windows_valid
from lemamba.metrics.tiles import mean_of_windows


def slide(x: Tensor, side: int, combine: Callable[[Tensor, Tensor], Tensor] = torch.add) -> Tensor:
    """Combine each side x side box by an associative operation: (..., H, W) -> (..., H - side + 1, W - side + 1)."""
    for dim in (-2, -1):
        x = _slide_along(x, side, combine, dim)
    return x


def _slide_along(x: Tensor, side: int, combine: Callable[[Tensor, Tensor], Tensor], dim: int) -> Tensor:
    """Combine `side` neighbours along an axis from windows of 1, 2, 4, 8, … samples."""
    windows = x.shape[dim] - side + 1
    parts, length, power = [], 0, 1  # together, `parts` cover `length` samples; `x` covers `power`
    while True:
        if side & power:
            parts.append(x.narrow(dim, length, windows))
            length += power
        if length == side:
            return reduce(combine, parts)
        n = x.shape[dim] - power
        x = combine(x.narrow(dim, 0, n), x.narrow(dim, power, n))
        power *= 2


def q_map(x: Tensor, y: Tensor, side: int = BLOCK) -> Tensor:
    """Q at every position of the box: (..., H, W) float64 twice -> (..., H - side + 1, W - side + 1)."""
    n = side * side
    # Covariances do not feel a shift; an integer near the mean keeps integer data exact and spares digits of others.
    cx, cy = (i.detach().mean(dim=(-2, -1), keepdim=True).round() for i in (x, y))
    x, y = x - cx, y - cy
    sx, sy = slide(x, side), slide(y, side)
    power = n * slide(torch.addcmul(x * x, y, y), side)
    covariance = n * slide(x * y, side) - sx * sy
    den1 = power - (sx * sx + sy * sy)
    sx, sy = sx + n * cx, sy + n * cy
    product, den2 = sx * sy, sx * sx + sy * sy
    near_flat = den1.detach() <= 1e-11 * power.detach()
    den = den1 * den2
    if not bool(near_flat.any()) and bool((den != 0).all()):
        return 4 * covariance * product / den
    flat = near_flat & _flat(x, side) & _flat(y, side)
    regular = ~flat & (den != 0)
    usual = 4 * covariance * product / torch.where(regular, den, 1.0)
    level = torch.where(den2 != 0, 2 * product / torch.where(den2 != 0, den2, 1.0), 1.0)
    return torch.where(regular, usual, torch.where(flat, level, 1.0))


def _flat(x: Tensor, side: int) -> Tensor:
    return slide(x, side, torch.maximum) == slide(x, side, torch.minimum)


def mean_q(sr: Tensor, gt: Tensor, mask: Tensor | None, side: int) -> Tensor:
    """Mean of Q over positions and bands, (B,) float64; arguments as in `qave`."""
    valid = None if mask is None else windows_valid(mask, side)
    return each_pair(lambda x, y, v: mean_of_windows(partial(q_map, side=side), side, x, y, v), sr, gt, valid)


@on_pairs
@register_index("qave", heading="Q", direction=+1, column=5)
def qave(sr: Tensor, gt: Tensor, *, mask: Tensor | None = None, block: int = BLOCK) -> Tensor:
    """Mean of Q over positions and bands.

    Args:
        sr: (B, C, H, W), sides of at least `block`.
        gt: the same shape.
        mask: (B, 1, H, W), True where valid; only boxes without nodata count.
        block: side of the box.

    Returns:
        (B,) float64. Differentiable. A box of mean 0 in both images that is not flat counts 1, as published.
    """
    check_sides(sr, "qave", block)
    return mean_q(sr, gt, mask, block)
