"""Backend `triton`: kernels for CUDA GPUs as the torch.library operator `lemamba::scan_triton` (see `registration.py`).

Half types are loaded as they are and computed in float32; y has u's type. On a machine without a GPU the kernels run in
Triton's interpreter (TRITON_INTERPRET=1, for tests: very slow).

Shapes: u, delta (B, K, D, L); A (K*D, N); B, C (B, K, N, L); skip, bias (K*D); states (B, K*D, N), float32.
"""

from __future__ import annotations

import importlib.util
import math

import torch
from torch import Tensor

from lemamba.model.ops.scan.registration import ScanKernel, register
from lemamba.model.ops.triton.launch import Call, backward, forward, saved_shape, saved_type
from lemamba.model.ops.triton.plan import Shape, interpreted

HALF_INPUTS = True


def probe() -> tuple[bool, str]:
    """Tell whether the kernels can run here, and why not."""
    if importlib.util.find_spec("triton") is None:
        return False, "triton is not installed"
    if not interpreted() and not torch.cuda.is_available():
        return False, "torch finds no CUDA GPU"
    import triton

    if not hasattr(triton.language, "gather"):
        return False, f"triton {triton.__version__} is too old; 3.3 or later is needed, which comes with torch 2.7"
    if interpreted():
        return True, "Triton's interpreter on the CPU (TRITON_INTERPRET=1), for tests"
    return True, f"CUDA kernels on {torch.cuda.get_device_name()}"


def row_gradient(t: Tensor) -> Tensor:
    """Return an empty tensor for the gradient of t: rows (B, K, C, L) have their channels side by side in memory."""
    if t.dim() != 4:
        return t.new_empty(t.shape)
    return t.new_empty((*t.shape[:2], t.shape[3], t.shape[2])).transpose(-1, -2)


def _call(u, delta, A, B, C, skip, bias, softplus, initial) -> Call:
    return Call.prepare(
        x=u, dt=delta, B=B, C=C, A=A, skip=skip, bias=bias, weight=None, shared=None, gate=None, rho=None,
        initial=initial, softplus=softplus, size=(0, 0),
    )  # fmt: skip


def _forward(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    skip: Tensor,
    bias: Tensor,
    softplus: bool,
    initial: Tensor | None,
    save: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return y (B, K, D, L), the last state and, where `save`, the states backward starts from."""
    if not u.numel():
        return _fake(u, delta, A, B, C, skip, bias, softplus, initial, save=save)
    return forward(_call(u, delta, A, B, C, skip, bias, softplus, initial), u.dtype, save)


def _backward(gy, glast, u, delta, A, B, C, skip, bias, softplus, initial, saved) -> list[Tensor]:
    """Return the gradients of the tensor inputs that are given, in their order."""
    given = [t for t in (u, delta, A, B, C, skip, bias, initial) if t is not None]
    if not u.numel():
        return [row_gradient(t).zero_() for t in given]
    grads = backward(_call(u, delta, A, B, C, skip, bias, softplus, initial), gy, glast, saved)
    names = ["x", "dt", "A", "B", "C", "skip", "bias", *(["initial"] if initial is not None else [])]
    return [grads[name].to(t.dtype) for name, t in zip(names, given, strict=True)]


def _fake(u, delta, A, B, C, skip, bias, softplus, initial, *, save):
    """Allocate the outputs."""
    batch, K, D, L = u.shape
    last = u.new_empty(batch, K * D, A.shape[1], dtype=torch.float32)
    shape = Shape(batch, K, D, A.shape[1], 0, L, False, False, False, False)
    return row_gradient(u), last, last.new_empty(saved_shape(shape) if save else 0, dtype=saved_type(u))


scan_op = register(
    "scan_triton",
    ScanKernel(
        forward=_forward,
        backward=_backward,
        fake=_fake,
        gradient_like=row_gradient,
        states=lambda u, delta, A, *_: math.prod(u) * A[1],
        device="cuda",
        everywhere=True,  # the interpreter runs on the CPU
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
    """Return y (B, KD, L) in u's dtype and the last state (B, KD, N), float32."""
    groups = (B.shape[1], u.shape[1] // B.shape[1])
    u, delta = u.unflatten(1, groups), delta.unflatten(1, groups)
    zeros = A.new_zeros(A.shape[0])
    skip, bias = (zeros if v is None else v for v in (D, delta_bias))
    y, last = scan_op(u, delta, A, B, C, skip, bias, delta_softplus, initial_state)
    return y.flatten(1, 2), last
