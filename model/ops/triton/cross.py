"""Backend `triton`, fused: the four-direction scan of an image as one operator, `lemamba::cross_scan_triton`.

Directions are index arithmetic, the step is expanded from its rank-R factor, the shared state is mixed in and the sum
over directions is made inside the kernels; half types are loaded as they are. Channels-last memory ((B, H, W, .)) with
rows at multiples of four elements is read in place, anything else is packed first.

Shapes: as in `cross_scan.cross_selective_scan`, rho (K*D).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lemamba.model.ops.scan.registration import ScanKernel, register
from lemamba.model.ops.triton.launch import Call, backward, forward, saved_shape, saved_type
from lemamba.model.ops.triton.plan import Shape

HALF_INPUTS = True


def _image_gradient(t: Tensor) -> Tensor:
    """Return an empty tensor for the gradient of t: images (B, C, H, W) or (B, K, C, H, W) in channels-last memory."""
    if t.dim() < 4:
        return t.new_empty(t.shape)
    *lead, channels, height, width = t.shape
    return t.new_empty((*lead, height, width, channels)).movedim(-1, -3)


def _call(x, dt, Bt, Ct, A, D, dt_weight, dt_bias, shared_state, gate, rho) -> Call:
    flat = {"x": x, "dt": dt, "B": Bt, "C": Ct, "gate": gate}
    return Call.prepare(
        **{name: None if t is None else t.flatten(-2) for name, t in flat.items()}, A=A, skip=D, bias=dt_bias,
        weight=dt_weight, shared=shared_state, rho=rho, initial=None, softplus=True, size=tuple(x.shape[2:]),
    )  # fmt: skip


def _forward(
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
    save: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return y, the last states and, where `save`, the states backward starts from."""
    if not x.numel():
        return _fake(x, dt, Bt, Ct, A, save=save)
    call = _call(x, dt, Bt, Ct, A, D, dt_weight, dt_bias, shared_state, gate, rho)
    y, last, saved = forward(call, x.dtype, save)
    return y.unflatten(-1, x.shape[2:]), last, saved


def _backward(
    gy, glast, x, dt, Bt, Ct, A, D, dt_weight, dt_bias, shared_state, gate, rho, saved
) -> list[Tensor]:  # fmt: skip
    """Return the gradients of the tensor inputs that are given, in their order."""
    given = [t for t in (x, dt, Bt, Ct, A, D, dt_weight, dt_bias, shared_state, gate, rho) if t is not None]
    if not x.numel():
        return [_image_gradient(t).zero_() for t in given]
    call = _call(x, dt, Bt, Ct, A, D, dt_weight, dt_bias, shared_state, gate, rho)
    grads = backward(call, gy.flatten(-2), glast, saved)
    names = [
        "x",
        "dt",
        "B",
        "C",
        "A",
        "skip",
        "weight",
        "bias",
        *(["shared", "gate", "rho"] if gate is not None else []),
    ]
    found = [grads[name].to(t.dtype) for name, t in zip(names, given, strict=True)]
    return [g.unflatten(-1, x.shape[2:]) if t.dim() >= 4 else g for g, t in zip(found, given, strict=True)]


def _fake(x, dt, Bt, Ct, A, *_others, save):
    """Allocate the outputs."""
    batch, D, height, width = x.shape
    K, R, N = dt.shape[1], dt.shape[2], A.shape[1]
    last = x.new_empty(batch, K * D, N, dtype=torch.float32)
    shape = Shape(batch, K, D, N, R, height * width, True, False, False, False)
    return _image_gradient(x), last, last.new_empty(saved_shape(shape) if save else 0, dtype=saved_type(x))


cross_op = register(
    "cross_scan_triton",
    ScanKernel(
        forward=_forward,
        backward=_backward,
        fake=_fake,
        gradient_like=_image_gradient,
        states=lambda x, dt, Bt, Ct, A, *_: x[0] * x[2] * x[3] * math.prod(A),
        device="cuda",
        everywhere=True,  # the interpreter runs on the CPU
    ),
)


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
    """Return y (B, D, H, W) in x's dtype and channels-last memory, and the last states (B, K*D, N), float32."""
    return cross_op(x, dt, Bt, Ct, A, D, dt_weight, dt_bias, shared_state, gate, rho)
