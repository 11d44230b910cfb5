"""Backend `mamba_ssm`: the CUDA operator of the package mamba-ssm, where it is installed (requirements-gpu.txt).

It has no initial state and drops the gradient that arrives through its last state, so `auto` takes it only where
neither is asked for. This is the only file that imports it: the extension module itself, not the package's Python
front, which imports much more. Half types go in uncast; u, delta, B and C then have u's type.
"""

from __future__ import annotations

import importlib.util
import math
from functools import cache

import torch
from torch import Tensor

from lemamba.model.ops.scan.registration import ScanKernel, register
from lemamba.utils.errors import UserError

HALF_INPUTS = True
CHUNK = 2048  # steps between the states that the package's forward keeps


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


def _fwd(u, delta, A, B, C, D, delta_bias, delta_softplus):
    """Call the package's forward: (y, the states at the ends of its chunks (B, KD, chunks, 2N))."""
    import selective_scan_cuda

    u, delta, A, B, C = (v.contiguous() for v in (u, delta.to(u.dtype), A, B.to(u.dtype), C.to(u.dtype)))
    y, states, *_ = selective_scan_cuda.fwd(u, delta, A, B, C, D, None, delta_bias, delta_softplus)
    return y, states


def _forward(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    save: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return y (B, KD, L) in u's dtype, the last state (B, KD, N) and, where `save`, the chunks' states."""
    if not u.numel():
        return _fake(u, delta, A, B, C, D, delta_bias, delta_softplus, save=save)
    y, states = _fwd(u, delta, A, B, C, D, delta_bias, delta_softplus)
    last = states[:, :, -1, 1::2].contiguous()  # decay products and states alternate
    return y, last, states if save else states.new_empty(0)


def _backward(gy, glast, u, delta, A, B, C, D, delta_bias, delta_softplus, saved) -> list[Tensor]:
    """Return the gradients of the tensor inputs that are given, in their order; `glast` has no way in."""
    given = [v for v in (u, delta, A, B, C, D, delta_bias) if v is not None]
    if not u.numel():
        return [torch.zeros_like(v, memory_format=torch.contiguous_format) for v in given]
    import selective_scan_cuda

    first = [v.contiguous() for v in (u, delta.to(u.dtype), A, B.to(u.dtype), C.to(u.dtype))]
    grads = selective_scan_cuda.bwd(
        *first, D, None, delta_bias, gy.to(u.dtype).contiguous(), saved, None, None, delta_softplus, False
    )
    kept = [g for g, v in zip(grads[:7], (u, delta, A, B, C, D, delta_bias), strict=True) if v is not None]
    return [g.to(v.dtype).contiguous() for g, v in zip(kept, given, strict=True)]


def _fake(u, delta, A, B, C, D, delta_bias, delta_softplus, *, save):
    """Allocate the outputs."""
    last = u.new_empty(*u.shape[:2], A.shape[1], dtype=torch.float32)
    chunks = -(-u.shape[2] // CHUNK)
    saved = last.new_empty(*u.shape[:2], chunks, 2 * A.shape[1]) if save else last.new_empty(0)
    return u.new_empty(u.shape), last, saved


scan_op = register(
    "scan_mamba_ssm",
    ScanKernel(
        forward=_forward,
        backward=_backward,
        fake=_fake,
        gradient_like=lambda t: t.new_empty(t.shape),
        states=lambda u, delta, A, *_: math.prod(u) * A[1],
        device="cuda",
        everywhere=True,  # where the package is replaced by one that works on the CPU, in tests
        state_gradient=False,
    ),
)


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
    """Return y (B, KD, L) in u's dtype and the last state (B, KD, N), float32, without a gradient."""
    if initial_state is not None:
        raise UserError("backend mamba_ssm takes no initial state, one was given; use triton or torch")
    return scan_op(u, delta, A, B, C, D, delta_bias, delta_softplus)
