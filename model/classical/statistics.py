"""Statistics and regression per image, as the classical methods use them.

Images (B, C, H, W), float64; means and deviations come back as (B, C, 1, 1). Deviation, variance and covariance
divide by N - 1. A quotient of statistics is 0 where its denominator is 0 (a constant band has no detail to scale).
"""

from __future__ import annotations

import torch
from torch import Tensor

_AXES = (-2, -1)


def mean(x: Tensor) -> Tensor:
    """Mean of every band: (B, C, H, W) -> (B, C, 1, 1)."""
    return x.mean(dim=_AXES, keepdim=True)


def sd(x: Tensor) -> Tensor:
    """Standard deviation of every band: (B, C, H, W) -> (B, C, 1, 1)."""
    return x.std(dim=_AXES, keepdim=True)


def cov(x: Tensor, y: Tensor) -> Tensor:
    """Covariance of the bands of `x` and `y`, which broadcast against each other: -> (B, C, 1, 1)."""
    product = ((x - mean(x)) * (y - mean(y))).sum(dim=_AXES, keepdim=True)
    return product / (x.shape[-2] * x.shape[-1] - 1)


def quotient(x: Tensor, y: Tensor) -> Tensor:
    """``x / y``, and 0 where y is 0."""
    zero = y == 0
    return torch.where(zero, 0.0, x / torch.where(zero, 1.0, y))


def corr(x: Tensor, y: Tensor) -> Tensor:
    """Pearson correlation of the bands of `x` and `y`; 0 where one of them is constant."""
    return quotient(cov(x, y), sd(x) * sd(y))


def match(pan: Tensor, target: Tensor, deviation: Tensor) -> Tensor:
    """Histogram-match `pan` to each band of `target`: ``(P - mean P) sd(M_b) / deviation + mean M_b``.

    Args:
        pan: (B, 1, H, W).
        target: (B, C, H, W).
        deviation: (B, 1, 1, 1), the deviation of the PAN in the method's definition.
    """
    return (pan - mean(pan)) * quotient(sd(target), deviation) + mean(target)


def percentile(x: Tensor, percent: float) -> Tensor:
    """Percentile of every band by linear interpolation between the points (i - 0.5)/n: (B, C, H, W) -> (B, C, 1, 1)."""
    flat = x.flatten(2)
    n = flat.shape[-1]
    position = min(max(percent / 100 * n - 0.5, 0.0), n - 1.0)
    low = int(position)
    below = flat.kthvalue(low + 1, dim=-1).values
    above = flat.kthvalue(min(low + 2, n), dim=-1).values
    return (below + (position - low) * (above - below))[..., None, None]


def with_ones(x: Tensor) -> Tensor:
    """Prepend a band of ones (the intercept) to (B, C, H, W)."""
    return torch.cat([torch.ones_like(x[:, :1]), x], dim=1)


def reduced_system(y: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Reduce the least-squares problem "each band of y from the bands of x" to K + T equations by a QR factorisation.

    Args:
        y: (B, T, H, W) targets.
        x: (B, K, H, W) regressors.

    Returns:
        (B, n, K) matrix and (B, n, T) right-hand sides on the CPU, with the same solutions and residuals.
    """
    K = x.shape[1]
    table = torch.cat([x, y], dim=1).flatten(2).transpose(1, 2)
    R = torch.linalg.qr(table, mode="r").R.cpu()
    return R[..., :K], R[..., K:]


def regress(y: Tensor, x: Tensor) -> Tensor:
    """Least squares, unweighted, over all pixels, without an intercept (see `with_ones`).

    Args:
        y: (B, T, H, W) targets.
        x: (B, K, H, W) regressors; where they are linearly dependent the solution of least norm is taken.

    Returns:
        (B, T, K) coefficients.
    """
    matrix, right = reduced_system(y, x)
    solution = torch.linalg.lstsq(matrix, right, driver="gelsy").solution
    return solution.transpose(1, 2).to(y.device)


def combine(weights: Tensor, x: Tensor) -> Tensor:
    """Weighted sums of bands: weights (B, T, K), x (B, K, H, W) -> (B, T, H, W)."""
    return torch.einsum("btk,bkhw->bthw", weights, x)
