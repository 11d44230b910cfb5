"""Linear layers on a CPU: x W^T + bias, its outer axis split into parts that are separate tensors, with gradients.

Two reasons not to use torch's own product: its library chooses kernels by the vendor of a processor and on some uses
half the vector width (docs/engineering_log.md); and a layer whose result is split into parts (x and z, or dt, B and C
of a scan) writes each part to its own tensor here, so that backward concatenates nothing.

`linear.c` serves float32 on processors with 512-bit vectors; everything else, and small calls, go to
`torch.nn.functional.linear`. `LEMAMBA_LINEAR=cpp` or `torch` forces one of the two.

Shapes: x (…, I), weight (O, I), bias (O); parts (…, O_i) with sum of O_i = O.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.flop_counter import register_flop_formula

from lemamba.model.ops.native.build import fill, run, serves
from lemamba.model.ops.registration import register
from lemamba.operators.autocast import autocast_dtype, no_autocast

VARIABLE = "LEMAMBA_LINEAR"
_WIDE_LANES = 16  # float32 lanes of the vectors from which the kernel beats torch's product
_SMALL = 1 << 18  # multiplications below which a call costs more than it saves


class _Linear(ctypes.Structure):
    """`Linear` of linear.c, field by field."""

    _fields_ = [(n, ctypes.c_int64) for n in ("rows", "inner", "outer", "threads", "x_row", "gy_row", "add")]
    _fields_ += [(n, ctypes.c_void_p) for n in ("x", "weight", "bias", "y", "gy", "gx", "gweight", "gbias")]


def _rows(x: Tensor) -> tuple[Tensor, int]:
    """Return x and the distance of its rows in floats; a copy if they are not evenly spaced."""
    if x.is_contiguous():
        return x, x.shape[-1]
    flat = x.flatten(0, -2)
    if x.dim() > 1 and flat.stride(-1) == 1 and flat.stride(0) >= x.shape[-1]:
        return flat, flat.stride(0)
    return x.contiguous(), x.shape[-1]


def _at(tensor: Tensor | None, offset: int) -> int | None:
    """Return the address of a float of a tensor, counted from its first."""
    return None if tensor is None else tensor.data_ptr() + 4 * offset


def _forward_cpu(x: Tensor, weight: Tensor, bias: Tensor | None, sizes: Sequence[int]) -> list[Tensor]:
    """Return the parts; float32."""
    shape = x.shape[:-1]
    x, row = _rows(x)
    weight, bias = weight.contiguous(), None if bias is None else bias.contiguous()
    inner, threads = weight.shape[1], torch.get_num_threads()
    parts, first = [], 0
    for size in sizes:
        y = x.new_empty(*shape, size)
        call = _Linear(y.numel() // max(size, 1), inner, size, threads, x_row=row)
        run("linear_forward", fill(call, x=x, weight=_at(weight, first * inner), bias=_at(bias, first), y=y))
        parts.append(y)
        first += size
    return parts


def _backward_cpu(grads: Sequence[Tensor], x: Tensor, weight: Tensor) -> list[Tensor]:
    """Return the gradients of x, weight and bias."""
    shape = x.shape
    x, x_row = _rows(x)
    weight = weight.contiguous()
    inner, threads = weight.shape[1], torch.get_num_threads()
    gx, gweight, gbias = x.new_empty(shape), torch.empty_like(weight), weight.new_empty(weight.shape[0])
    first = 0
    for grad in grads:
        gy, gy_row = _rows(grad)
        size, start = gy.shape[-1], first * inner
        call = _Linear(gx.numel() // inner, inner, size, threads, x_row, gy_row, add=int(first > 0))
        fill(call, x=x, weight=_at(weight, start), gy=gy, gx=gx, gweight=_at(gweight, start), gbias=_at(gbias, first))
        run("linear_backward", call)
        first += size
    return [gx, gweight, gbias]


def _forward_fake(x: Tensor, weight: Tensor, bias: Tensor | None, sizes: Sequence[int]) -> list[Tensor]:
    return [x.new_empty(*x.shape[:-1], size) for size in sizes]


def _backward_fake(grads: Sequence[Tensor], x: Tensor, weight: Tensor) -> list[Tensor]:
    return [x.new_empty(x.shape), weight.new_empty(weight.shape), weight.new_empty(weight.shape[0])]


_forward = register(
    "linear_cpp", "(Tensor x, Tensor weight, Tensor? bias, int[] sizes) -> Tensor[]", _forward_cpu, _forward_fake
)
_backward = register(
    "linear_cpp_backward", "(Tensor[] grads, Tensor x, Tensor weight) -> Tensor[]", _backward_cpu, _backward_fake
)


class _LinearParts(torch.autograd.Function):
    """The operator with its gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, sizes: Sequence[int]) -> tuple[Tensor, ...]:
        ctx.save_for_backward(x, weight)
        ctx.has_bias = bias is not None
        return tuple(_forward(x, weight, bias, sizes))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        gx, gweight, gbias = _backward(list(grads), x, weight)
        return gx, gweight, gbias if ctx.has_bias else None, None


@register_flop_formula(_forward)
def _flops(x_shape: torch.Size, weight_shape: torch.Size, *_args: Any, out_shape: Any = None, **_kwargs: Any) -> int:
    return 2 * x_shape.numel() * weight_shape[0]


@register_flop_formula(_backward)
def _backward_flops(_grads_shape: Any, x_shape: torch.Size, weight_shape: torch.Size, **_kwargs: Any) -> int:
    return 4 * x_shape.numel() * weight_shape[0]


def _served(x: Tensor, weight: Tensor) -> bool:
    """Return whether the C kernel takes these."""
    return (
        x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and x.numel() * weight.shape[0] >= _SMALL
        and not torch.is_autocast_enabled("cpu")
        and serves(VARIABLE, _WIDE_LANES)
    )


def _side_by_side(grads: Sequence[Tensor]) -> Tensor | None:
    """Return tensors (…, O_i) that are neighbouring slices of one (…, O) as that one, or None if they are not."""
    first, end = grads[0], grads[0].storage_offset()
    for grad in grads:
        same = grad.untyped_storage() is first.untyped_storage() and grad.stride() == first.stride()
        if not same or grad.storage_offset() != end or grad.dtype != first.dtype:
            return None
        end += grad.shape[-1]
    width = end - first.storage_offset()
    if first.stride(-1) != 1 or first.dim() < 2 or first.stride(-2) < width:
        return None
    return first.as_strided((*first.shape[:-1], width), first.stride())


class _PartsWithoutCat(torch.autograd.Function):
    """`torch.nn.functional.linear` and split; backward does not put the parts' gradients together by a copy.

    Either they already lie side by side (the scan and the gate of a GPU write them so), or each part has its products.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, sizes: Sequence[int], apart: bool
    ) -> tuple[Tensor, ...]:
        ctx.save_for_backward(x, weight)
        ctx.bias, ctx.sizes = None if bias is None else bias.dtype, sizes
        ctx.set_materialize_grads(False)
        if not apart:
            return tuple(F.linear(x, weight, bias).split(sizes, dim=-1))
        biases: Sequence[Tensor | None] = [None] * len(sizes) if bias is None else bias.split(sizes)
        return tuple(F.linear(x, w, b) for w, b in zip(weight.split(sizes), biases, strict=True))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *given: Tensor | None) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        grads = [x.new_zeros(*x.shape[:-1], n) if g is None else g for g, n in zip(given, ctx.sizes, strict=True)]
        joined = _side_by_side(grads)
        grads = grads if joined is None else [joined]
        rows, gweight = x.flatten(0, -2), torch.empty_like(weight)
        gx, first = rows.new_empty(rows.shape), 0
        for grad in grads:
            flat, last = grad.flatten(0, -2).to(x.dtype), first + grad.shape[-1]
            torch.mm(flat.T, rows, out=gweight[first:last])
            gx = torch.mm(flat, weight[first:last]) if first == 0 else gx.addmm_(flat, weight[first:last])
            first = last
        gbias = None
        if ctx.bias is not None:
            gbias = torch.cat([grad.flatten(0, -2).sum(0) for grad in grads]).to(ctx.bias)
        return gx.view(x.shape), gweight, gbias, None, None


def linear_parts(
    x: Tensor, weight: Tensor, bias: Tensor | None, sizes: Sequence[int], *, apart: bool = False
) -> list[Tensor]:
    """Apply a linear layer and split its result: x (…, I) gives len(sizes) tensors (…, O_i), sum of O_i = O.

    The parts are contiguous where the kernel serves the call, and views of one tensor where torch does; with `apart`
    they are contiguous on a GPU too, for a layer that would copy a view. Any floating dtype and device; under autocast
    torch casts.
    """
    if _served(x, weight):
        if torch.is_grad_enabled():
            return list(_LinearParts.apply(x, weight, bias, list(sizes)))
        return _forward(x, weight, bias, list(sizes))
    elsewhere = x.device.type != "cpu" and torch.is_grad_enabled()
    if len(sizes) == 1:  # the gradient of a split into one part is a copy
        return [F.linear(x, weight, bias)]
    if not elsewhere or torch.compiler.is_compiling():  # the compiler joins what it can by itself
        return list(F.linear(x, weight, bias).split(list(sizes), dim=-1))
    half = autocast_dtype(x.device.type)
    if half is not None:
        x, weight, bias = x.to(half), weight.to(half), None if bias is None else bias.to(half)
    with no_autocast(x.device.type):
        return list(_PartsWithoutCat.apply(x, weight, bias, list(sizes), apart))


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Apply a linear layer: x (…, I), weight (O, I), bias (O) give (…, O)."""
    return linear_parts(x, weight, bias, [weight.shape[0]])[0]
