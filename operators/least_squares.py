"""Small least-squares problems with constraints on the signs, also from normal equations gathered over an image."""

from __future__ import annotations

import torch
from torch import Tensor


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


def square_root(normal: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Reduce normal equations to a least-squares problem of K rows with the same solutions, constrained ones too.

    Args:
        normal: (K, K), X'X.
        right: (K, T), X'Y.

    Returns:
        A (K, K) and b (K, T) with A'A = X'X and A'b = X'Y.
    """
    values, vectors = torch.linalg.eigh(normal)
    kept = values > 1e-15 * values.amax().clamp_min(1e-300)
    root = torch.where(kept, values, 0.0).sqrt()
    inverse = torch.where(kept, 1 / torch.where(kept, root, 1.0), 0.0)
    return root[:, None] * vectors.T, inverse[:, None] * (vectors.T @ right)
