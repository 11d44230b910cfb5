"""The gate of a gated MLP, a * GELU(b), forward and backward in one pass over memory each.

On a CPU `gate.c` serves float32, on a CUDA GPU a Triton kernel (`triton/gate.py`); everything else is torch's GELU and
product. `LEMAMBA_GATE=cpp` or `torch` forces one.

Shapes: a, b and the result have the same shape.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lemamba.model.ops.native.build import fill, run, serves
from lemamba.model.ops.registration import register
from lemamba.model.ops.triton import gate as gpu

VARIABLE = "LEMAMBA_GATE"
_WIDE_LANES = 8
_SMALL = 1 << 14  # elements below which a call costs more than it saves


class _Gate(ctypes.Structure):
    """`Gate` of gate.c, field by field."""

    _fields_ = [(n, ctypes.c_int64) for n in ("count", "threads")]
    _fields_ += [(n, ctypes.c_void_p) for n in ("a", "b", "gy", "y", "ga", "gb")]


def _forward_cpu(a: Tensor, b: Tensor) -> Tensor:
    """Return a * GELU(b), packed; float32."""
    a, b = a.contiguous(), b.contiguous()
    y = torch.empty_like(a)
    run("gate_forward", fill(_Gate(y.numel(), torch.get_num_threads()), a=a, b=b, y=y))
    return y


def _backward_cpu(gy: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients of a and b."""
    gy, a, b = gy.contiguous(), a.contiguous(), b.contiguous()
    ga, gb = torch.empty_like(a), torch.empty_like(a)
    run("gate_backward", fill(_Gate(a.numel(), torch.get_num_threads()), a=a, b=b, gy=gy, ga=ga, gb=gb))
    return ga, gb


def _forward_fake(a: Tensor, b: Tensor) -> Tensor:
    return a.new_empty(a.shape)


def _backward_fake(gy: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    return a.new_empty(a.shape), a.new_empty(a.shape)


_forward = register("gate_cpp", "(Tensor a, Tensor b) -> Tensor", _forward_cpu, _forward_fake)
_backward = register(
    "gate_cpp_backward", "(Tensor gy, Tensor a, Tensor b) -> (Tensor, Tensor)", _backward_cpu, _backward_fake
)


class _GeluGate(torch.autograd.Function):
    """The operator with its gradient."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(a, b)
        return _forward(a, b)

    @staticmethod
    def backward(ctx: Any, gy: Tensor) -> tuple[Tensor, Tensor]:
        return _backward(gy, *ctx.saved_tensors)


def gelu_gate(a: Tensor, b: Tensor) -> Tensor:
    """Return a * GELU(b) with the exact GELU, b Phi(b); a and b of one shape, any floating dtype and device."""
    if gpu.served(a) and a.dtype == b.dtype and a.shape == b.shape and a.numel():
        return gpu.gelu_gate(a, b)
    served = (
        a.device.type == "cpu"
        and a.dtype == b.dtype == torch.float32
        and a.shape == b.shape
        and a.numel() >= _SMALL
        and serves(VARIABLE, _WIDE_LANES)
    )
    if not served:
        return a * F.gelu(b)
    return _GeluGate.apply(a, b) if torch.is_grad_enabled() else _forward(a, b)
