"""Backend `mamba_ssm`: the CUDA operator of the package mamba-ssm, where it is installed (requirements-gpu.txt).

It has no initial state and drops the gradient that arrives through its last state, so `auto` takes it only where
neither is asked for. This is the only file that imports it.
"""

from __future__ import annotations

import importlib.util
from functools import cache

import torch
from torch import Tensor

from utils.errors import UserError


@cache
def probe() -> tuple[bool, str]:
    """Return whether the package's CUDA operator can be called here, and why not."""
    if importlib.util.find_spec("selective_scan_cuda") is None:
        return False, "selective_scan_cuda is not installed (requirements-gpu.txt; needs nvcc and a CUDA torch)"
    if not torch.cuda.is_available():
        return False, "torch finds no CUDA GPU"
    try:
        import selective_scan_cuda  # noqa: F401
    except ImportError as error:
        return False, f"selective_scan_cuda does not load: {error}"
    return True, "CUDA operator of mamba-ssm; no gradient through the state"


class _MambaScan(torch.autograd.Function):
    """The package's operator, both ways, without its own Python front (which imports much more)."""

    @staticmethod
    def forward(ctx, u, delta, A, B, C, D, delta_bias, delta_softplus):
        """Return y (B, KD, L) and the last state (B, KD, N)."""
        import selective_scan_cuda

        u, delta, A, B, C = (v.contiguous() for v in (u, delta, A, B, C))
        y, states, *_ = selective_scan_cuda.fwd(u, delta, A, B, C, D, None, delta_bias, delta_softplus)
        ctx.delta_softplus = delta_softplus
        ctx.save_for_backward(u, delta, A, B, C, D, delta_bias, states)
        last = states[:, :, -1, 1::2].contiguous()
        ctx.mark_non_differentiable(last)
        return y, last

    @staticmethod
    def backward(ctx, gy, _glast):
        """Return the gradients of the tensor inputs; the last state has none."""
        import selective_scan_cuda

        u, delta, A, B, C, D, delta_bias, states = ctx.saved_tensors
        gu, gdelta, gA, gB, gC, gD, gbias, *_ = selective_scan_cuda.bwd(
            u, delta, A, B, C, D, None, delta_bias, gy.contiguous(), states, None, None, ctx.delta_softplus, False
        )
        return (
            gu, gdelta, gA, gB, gC,
            gD if D is not None else None, gbias if delta_bias is not None else None, None,
        )  # fmt: skip


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    initial_state: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Return y (B, KD, L) and the last state (B, KD, N); float32."""
    if initial_state is not None:
        raise UserError("backend mamba_ssm takes no initial state, one was given; use triton or torch")
    return _MambaScan.apply(u, delta, A, B, C, D, delta_bias, delta_softplus)
