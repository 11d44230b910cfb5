"""What a VSS block does pixel by pixel, for inference on a CPU: two kernels around its convolution and its scan.

    block_before:  (u, z) = in_proj LN(x),  u = LN(u)
    block_after:   r = x + out_proj(LN(y) silu(z)),  then r + fc2(a GELU(b)) with (a, b) = fc1 LN(r)

`block.c` serves float32 on processors with 512-bit vectors where no gradient is needed; elsewhere the layers run one
after the other. `LEMAMBA_BLOCK=cpp` or `torch` forces one of the two.

With a window w, the rows of u, y and z are ordered window by window, row-major: u, y, z (B * H / w * W / w, w, w, D),
and the block's result is x + factor * r; nothing is cut or put together in memory.

Legend: x and the result (B, H, W, c), D inner channels, m hidden channels of the MLP.
"""

from __future__ import annotations

import ctypes
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from lemamba.model.ops.native.build import fill, run, serves
from lemamba.model.ops.native.scratch import scratch
from lemamba.model.ops.registration import register

VARIABLE = "LEMAMBA_BLOCK"
_WIDE_LANES = 16  # as for the products of linear.py


class Norm(NamedTuple):
    """Parameters of a layer norm: weight (n), bias (n), eps."""

    weight: Tensor
    bias: Tensor
    eps: float


class _Norm(ctypes.Structure):
    """`Norm` of block.c."""

    _fields_ = [("weight", ctypes.c_void_p), ("bias", ctypes.c_void_p), ("eps", ctypes.c_double)]


class _Block(ctypes.Structure):
    """`Block` of block.c, field by field."""

    _sizes = ["batch", "height", "width", "window", "channels", "inner", "hidden", "threads"]
    _fields_ = [(n, ctypes.c_int64) for n in _sizes] + [("x", ctypes.c_void_p), ("norm1", _Norm), ("conv_norm", _Norm)]
    _fields_ += [(n, ctypes.c_void_p) for n in ("in_proj", "u", "z", "y")] + [("out_norm", _Norm), ("norm2", _Norm)]
    _fields_ += [(n, ctypes.c_void_p) for n in ("out_proj", "fc1", "fc1_bias", "fc2", "fc2_bias", "factor", "out")]


def _norm(weight: Tensor, bias: Tensor, eps: float) -> _Norm:
    return _Norm(weight.data_ptr(), bias.data_ptr(), eps)


def _rows_shape(x: Tensor, window: int, inner: int) -> tuple[int, int, int, int]:
    """Return the shape of u, y and z: of the map, or of its windows."""
    batch, height, width, _ = x.shape
    if not window:
        return batch, height, width, inner
    return batch * (height // window) * (width // window), window, window, inner


def _before_cpu(
    x: Tensor, window: int, weight1: Tensor, bias1: Tensor, eps1: float, in_proj: Tensor, weight2: Tensor,
    bias2: Tensor, eps2: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Return u and z; float32, parameters contiguous."""
    x, inner = x.contiguous(), in_proj.shape[0] // 2
    u, z = (scratch(*_rows_shape(x, window, inner)) for _ in range(2))
    call = _Block(*x.shape[:3], window, x.shape[3], inner, 0, torch.get_num_threads())
    norms = {"norm1": _norm(weight1, bias1, eps1), "conv_norm": _norm(weight2, bias2, eps2)}
    run("block_before", fill(call, x=x, in_proj=in_proj, u=u, z=z, **norms))
    return u, z


def _after_cpu(
    x: Tensor, y: Tensor, z: Tensor, window: int, weight1: Tensor, bias1: Tensor, eps1: float, out_proj: Tensor,
    weight2: Tensor, bias2: Tensor, eps2: float, fc1: Tensor, fc1_bias: Tensor, fc2: Tensor, fc2_bias: Tensor,
    factor: Tensor | None,
) -> Tensor:  # fmt: skip
    """Return the block's result; float32, parameters contiguous."""
    x, y, z = x.contiguous(), y.contiguous(), z.contiguous()
    out = torch.empty_like(x)
    call = _Block(*x.shape[:3], window, x.shape[3], out_proj.shape[1], fc2.shape[1], torch.get_num_threads())
    norms = {"out_norm": _norm(weight1, bias1, eps1), "norm2": _norm(weight2, bias2, eps2)}
    weights = {"out_proj": out_proj, "fc1": fc1, "fc1_bias": fc1_bias, "fc2": fc2, "fc2_bias": fc2_bias}
    run("block_after", fill(call, x=x, y=y, z=z, factor=factor, out=out, **norms, **weights))
    return out


def _before_fake(x: Tensor, window: int, *parameters: Any) -> tuple[Tensor, Tensor]:
    shape = _rows_shape(x, window, parameters[3].shape[0] // 2)
    return x.new_empty(shape), x.new_empty(shape)


def _after_fake(x: Tensor, *_others: Any) -> Tensor:
    return x.new_empty(x.shape)


_before = register(
    "block_before_cpp",
    "(Tensor x, int window, Tensor weight1, Tensor bias1, float eps1, Tensor in_proj, Tensor weight2, Tensor bias2, "
    "float eps2) -> (Tensor, Tensor)",
    _before_cpu,
    _before_fake,
)
_after = register(
    "block_after_cpp",
    "(Tensor x, Tensor y, Tensor z, int window, Tensor weight1, Tensor bias1, float eps1, Tensor out_proj, "
    "Tensor weight2, Tensor bias2, float eps2, Tensor fc1, Tensor fc1_bias, Tensor fc2, Tensor fc2_bias, "
    "Tensor? factor) -> Tensor",
    _after_cpu,
    _after_fake,
)


def _products(pixels: int, *weights: torch.Size) -> int:
    """Return the FLOPs of matrix products, as the layers one after the other are counted."""
    return 2 * pixels * sum(w.numel() for w in weights)


@register_flop_formula(_before)
def _before_flops(x: torch.Size, _window: int, *parameters: Any, **_kwargs: Any) -> int:
    return _products(x[:3].numel(), parameters[3])


@register_flop_formula(_after)
def _after_flops(x: torch.Size, _y: Any, _z: Any, _window: int, *parameters: Any, **_kwargs: Any) -> int:
    return _products(x[:3].numel(), parameters[3], parameters[7], parameters[9])


def block_served(x: Tensor, weight: Tensor) -> bool:
    """Return whether the kernels serve a block with these activations and weights."""
    return (
        not torch.is_grad_enabled()
        and x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and serves(VARIABLE, _WIDE_LANES)
    )


def block_before(x: Tensor, window: int, norm1: Norm, in_proj: Tensor, conv_norm: Norm) -> tuple[Tensor, Tensor]:
    """Return u and z, (B, H, W, D) each or by windows, from x (B, H, W, c) and in_proj (2 D, c); window 0: none."""
    return _before(x, window, *norm1, in_proj, *conv_norm)


def block_after(
    x: Tensor, y: Tensor, z: Tensor, window: int, out_norm: Norm, out_proj: Tensor, norm2: Norm,
    fc1: tuple[Tensor, Tensor], fc2: tuple[Tensor, Tensor], factor: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Return the block's result (B, H, W, c) from its input x, the scan's y and the gate z.

    out_proj (c, D); fc1: weight (2 m, c) and bias; fc2: weight (c, m) and bias; factor (c) goes with a window.
    """
    return _after(x, y, z, window, *out_norm, out_proj, *norm2, *fc1, *fc2, factor)
