"""Gates of a block on a CUDA GPU, one pass over memory each way: a * GELU(b), and norm(y) * SiLU(z).

torch takes two and three kernels forward and more backward, each of which reads and writes whole maps and keeps its
results. Here forward keeps its inputs only, and what backward needs is computed once more. The gradients of a and b lie
side by side, so that the gradient of the layer that made both is one product without a concatenation
(`native/linear.py`).

Everything is computed in float32; statistics of a norm in two passes over registers. Rows are pixels; a row of a, b
and z may be a slice of a wider one. On other devices, under torch.compile (which fuses these itself) and with
LEMAMBA_GATE=torch, torch's operators are used.
"""

from __future__ import annotations

import os
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from lemamba.model.ops.triton.launch import OPTIONS
from lemamba.model.ops.triton.plan import interpreted, power_of_two
from lemamba.model.ops.triton.scan import probe
from lemamba.operators.autocast import autocast_dtype

VARIABLE = "LEMAMBA_GATE"
_ELEMENTS = 1024  # of a program
_PROGRAMS = 1024  # that share the rows of a norm's backward: as many partial sums of its weights' gradients
_WIDEST = 1024  # channels of a norm that stay in registers


@cache
def _here() -> bool:
    return not interpreted() and probe()[0]


def served(x: Tensor) -> bool:
    """Return whether the kernels take tensors like x."""
    half_or_single = x.dtype in (torch.float32, torch.bfloat16, torch.float16)
    wanted = os.environ.get(VARIABLE) != "torch" and not torch.compiler.is_compiling()
    return x.device.type == "cuda" and half_or_single and wanted and _here()


def rows_of(x: Tensor) -> tuple[Tensor, int]:
    """Return x with evenly spaced rows (itself or a copy), and the distance between them."""
    flat = x.flatten(0, -2)
    if flat.stride(-1) != 1 or flat.data_ptr() != x.data_ptr():
        flat = x.contiguous().flatten(0, -2)
    return flat, flat.stride(0)


class GeluGate(torch.autograd.Function):
    """a * GELU(b), exact; a and b (…, m) of one dtype."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        """Return the product, packed."""
        from lemamba.model.ops.triton.gate_kernels import gelu_forward

        ctx.save_for_backward(a, b)
        y = a.new_empty(a.shape)
        (first, a_row), (second, b_row) = rows_of(a), rows_of(b)
        with torch.cuda.device_of(a):
            grid = (-(-y.numel() // _ELEMENTS),)
            gelu_forward[grid](first, second, y, a_row, b_row, y.numel(), M=a.shape[-1], BLOCK=_ELEMENTS)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gy: Tensor) -> tuple[Tensor, Tensor]:
        """Return both gradients, halves of one tensor."""
        from lemamba.model.ops.triton.gate_kernels import gelu_backward

        a, b = ctx.saved_tensors
        size, gy = a.shape[-1], gy.contiguous()
        both = a.new_empty(*a.shape[:-1], 2 * size)
        (first, a_row), (second, b_row) = rows_of(a), rows_of(b)
        with torch.cuda.device_of(a):
            grid = (-(-gy.numel() // _ELEMENTS),)
            gelu_backward[grid](gy, first, second, both, a_row, b_row, gy.numel(), M=size, BLOCK=_ELEMENTS)
        ga, gb = both.split(size, dim=-1)
        return ga, gb


class NormGate(torch.autograd.Function):
    """LayerNorm(y) * SiLU(z) in `dtype`; y, z (…, D), weight and bias (D)."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, z: Tensor, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
        """Return the product, packed."""
        from lemamba.model.ops.triton.gate_kernels import norm_forward

        ctx.save_for_backward(y, z, weight, bias)
        ctx.eps = eps
        out = y.new_empty(y.shape, dtype=dtype)
        (first, y_row), (second, z_row), size = rows_of(y), rows_of(z), y.shape[-1]
        count, tile = y.numel() // size, _tile(size)
        with torch.cuda.device_of(y):
            norm_forward[(-(-count // tile["ROWS"]),)](
                first, second, weight, bias, out, y_row, z_row, count, eps, D=size, **tile
            )
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gout: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of y, z, weight and bias."""
        from lemamba.model.ops.triton.gate_kernels import norm_backward

        y, z, weight, bias = ctx.saved_tensors
        gout, size = gout.contiguous(), y.shape[-1]
        gy, gz = y.new_empty(y.shape), z.new_empty(z.shape)
        (first, y_row), (second, z_row) = rows_of(y), rows_of(z)
        count, tile = y.numel() // size, _tile(size)
        programs = min(_PROGRAMS, -(-count // tile["ROWS"]))
        sums = y.new_empty(programs, 2, size, dtype=torch.float32)
        with torch.cuda.device_of(y):
            norm_backward[(programs,)](
                gout, first, second, weight, bias, gy, gz, sums, y_row, z_row, size, 2 * size, count, ctx.eps,
                D=size, **tile, **one_stage(),
            )  # fmt: skip
        gweight, gbias = sums.sum(0)
        return gy, gz, gweight.to(weight.dtype), gbias.to(bias.dtype), None, None


def one_stage() -> dict[str, Any]:
    """Return the option of a kernel with a loop: pipelined ones gave wrong results in silence on sm_100."""
    return {} if interpreted() else {"num_stages": OPTIONS["num_stages"]}


def _tile(size: int) -> dict[str, int]:
    """Return the rows of a program and the width of its tile."""
    width = power_of_two(size)
    return {"ROWS": max(1, _ELEMENTS // width), "WIDTH": width}


def gelu_gate(a: Tensor, b: Tensor) -> Tensor:
    """Return a * GELU(b), exact; a and b (…, m) of one shape and a type that `served` accepts."""
    return GeluGate.apply(a, b)


def norm_gate(norm: nn.LayerNorm, y: Tensor, z: Tensor) -> Tensor:
    """Return norm(y) * SiLU(z), y and z (…, D); under autocast in the half type that the next layer casts it to."""
    if not served(y) or z.shape != y.shape or y.shape[-1] > _WIDEST or y.numel() == 0 or not norm.elementwise_affine:
        return norm(y) * F.silu(z)
    dtype = autocast_dtype(y.device.type) or torch.promote_types(y.dtype, z.dtype)
    return NormGate.apply(y, z, norm.weight, norm.bias, norm.eps, dtype)
