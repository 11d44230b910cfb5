"""Backend `triton`, four directions: index arithmetic inside the kernel, so x, dt, Bt and Ct are never reordered.

The low-rank step and the state sharing are matrix products in pixel order before the kernel, the sum over directions
follows it. Shapes: as in `cross_scan.cross_selective_scan`, rho (K*D).
"""

from __future__ import annotations

import torch
from torch import Tensor

from model.ops.scan_triton import run


def cross_scan(
    x: Tensor,
    dt: Tensor,
    Bt: Tensor,
    Ct: Tensor,
    A: Tensor,
    D: Tensor,
    dt_weight: Tensor,
    dt_bias: Tensor,
    shared_state: Tensor | None,
    gate: Tensor | None,
    rho: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Return y (B, D, H, W) and the last states (B, K*D, N); float32."""
    batch, channels, height, width = x.shape
    K = dt.shape[1]
    delta = torch.matmul(dt_weight, dt.flatten(3))  # (K, D, R) x (B, K, R, L)
    u = x.flatten(2)[:, None].expand(batch, K, channels, height * width)
    if shared_state is not None:
        mixed = torch.matmul(shared_state.unflatten(1, (K, channels)), gate.flatten(3))
        u = u + rho.view(K, channels, 1) * mixed
    y, last = run(u, delta, A, Bt.flatten(3), Ct.flatten(3), D, dt_bias, True, None, height, width)
    return y.sum(1).unflatten(-1, (height, width)), last
