"""Depth-wise convolutions of channels-last maps on a CPU, same size out, forward and backward.

For the gradient of large depth-wise weights torch takes seven times as long as `depthwise.c`
(docs/engineering_log.md), which serves float32 and kernel sides of 5 to 11; everything else goes to
`torch.nn.functional.conv2d`. `LEMAMBA_DEPTHWISE=cpp` or `torch` forces one of the two.

Shapes: x (B, H, W, c), weight (c, 1, k, k), bias (c); result (B, H, W, c).
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from lemamba.model.ops.native.build import fill, run, serves
from lemamba.model.ops.registration import register

VARIABLE = "LEMAMBA_DEPTHWISE"
_SIDES = (5, 7, 9, 11)
_WIDE_LANES = 8


class _Depthwise(ctypes.Structure):
    """`Depthwise` of depthwise.c, field by field."""

    _fields_ = [(n, ctypes.c_int64) for n in ("batch", "height", "width", "channels", "kernel", "threads", "silu")]
    _fields_ += [(n, ctypes.c_void_p) for n in ("x", "weight", "bias", "y", "gy", "gx", "gweight", "gbias")]


def _call(function: str, weight: Tensor, shape: torch.Size, **tensors: Tensor | None) -> None:
    """Run a C function on a map of `shape` (B, H, W, c)."""
    structure = _Depthwise(*shape, weight.shape[-1], torch.get_num_threads())
    run(function, fill(structure, weight=weight, **tensors))


def _forward_cpu(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return the convolved map; float32."""
    x, weight = x.contiguous(), weight.contiguous()
    y = torch.empty_like(x)
    _call("depthwise_forward", weight, x.shape, x=x, bias=None if bias is None else bias.contiguous(), y=y)
    return y


def _backward_cpu(gy: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of x, weight and bias."""
    gy, x, weight = gy.contiguous(), x.contiguous(), weight.contiguous()
    gx, gweight, gbias = torch.empty_like(x), torch.empty_like(weight), weight.new_empty(weight.shape[0])
    _call("depthwise_backward", weight, x.shape, x=x, gy=gy, gx=gx, gweight=gweight, gbias=gbias)
    return gx, gweight, gbias


def _forward_fake(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty(x.shape)


def _backward_fake(gy: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return x.new_empty(x.shape), weight.new_empty(weight.shape), weight.new_empty(weight.shape[0])


_forward = register("depthwise_cpp", "(Tensor x, Tensor weight, Tensor? bias) -> Tensor", _forward_cpu, _forward_fake)
_backward = register(
    "depthwise_cpp_backward",
    "(Tensor gy, Tensor x, Tensor weight) -> (Tensor, Tensor, Tensor)",
    _backward_cpu,
    _backward_fake,
)


class _DepthwiseConv(torch.autograd.Function):
    """The operator with its gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.has_bias = bias is not None
        return _forward(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, gy: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        gx, gweight, gbias = _backward(gy, *ctx.saved_tensors)
        return gx, gweight, gbias if ctx.has_bias else None


@register_flop_formula(_forward)
def _flops(x_shape: torch.Size, weight_shape: torch.Size, *_args: Any, out_shape: Any = None, **_kwargs: Any) -> int:
    return 2 * x_shape.numel() * weight_shape[-1] ** 2


@register_flop_formula(_backward)
def _backward_flops(_gy_shape: torch.Size, x_shape: torch.Size, weight_shape: torch.Size, **_kwargs: Any) -> int:
    return 4 * x_shape.numel() * weight_shape[-1] ** 2


def depthwise_served(x: Tensor, weight: Tensor) -> bool:
    """Return whether the C kernel takes these, and `block.c`, which convolves by it."""
    return (
        x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and weight.shape[-1] == weight.shape[-2]
        and weight.shape[-1] in _SIDES
        and not torch.is_autocast_enabled("cpu")
        and serves(VARIABLE, _WIDE_LANES)
    )


def depthwise_conv(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Convolve x (B, H, W, c) channel by channel with weight (c, 1, k, k), k odd, zero padded to the same size.

    Any floating dtype and device; under autocast torch casts.
    """
    if not depthwise_served(x, weight):
        padding = (weight.shape[-2] // 2, weight.shape[-1] // 2)
        y = F.conv2d(x.permute(0, 3, 1, 2), weight, bias, padding=padding, groups=weight.shape[0])
        return y.permute(0, 2, 3, 1)
    if torch.is_grad_enabled():
        return _DepthwiseConv.apply(x, weight, bias)
    return _forward(x, weight, bias)
