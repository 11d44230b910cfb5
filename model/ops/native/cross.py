"""Backend `cpp`, fused: the four-direction scan of an image as one native operator, `lemamba::cross_scan_cpp`.

The kernel reads and writes channels side by side: a tensor (B, C, H, W) or (B, K, C, H, W) whose memory is that of a
(B, H, W, .) one passes without a copy, any other layout is copied to that one.

Shapes: as in `cross_scan.cross_selective_scan`, rho (K*D). float32.
"""

from __future__ import annotations

import ctypes
import math

import torch
from torch import Tensor

from lemamba.model.ops.native.build import fill, run
from lemamba.model.ops.native.scan import saved_floats
from lemamba.model.ops.scan.registration import ScanKernel, register


class _Rows(ctypes.Structure):
    """`Rows` of native/cross.h: where the channels of a pixel lie."""

    _fields_ = [("data", ctypes.c_void_p)] + [(n, ctypes.c_int64) for n in ("batch", "pixel", "k")]


class _Cross(ctypes.Structure):
    """`Cross` of native/cross.h, field by field."""

    _fields_ = [(n, ctypes.c_int64) for n in ("batch", "K", "D", "N", "R", "height", "width", "threads")]
    _fields_ += [(n, _Rows) for n in ("x", "dt", "B", "C", "gate")]
    _fields_ += [
        (n, ctypes.c_void_p) for n in ("A", "skip", "W", "bias", "shared", "rho", "y", "last", "saved", "glast")
    ]
    _fields_ += [("gy", _Rows)]
    _fields_ += [(n, ctypes.c_void_p) for n in ("gx", "gdt", "gB", "gC", "ggate")]
    _fields_ += [(n, ctypes.c_void_p) for n in ("gA", "gskip", "gW", "gbias", "gshared", "grho")]


def _pixel_rows(x: Tensor) -> Tensor:
    """Return x with channels side by side and equally spaced pixels: itself where it is so, else a copy.

    x (B, C, H, W) or (B, K, C, H, W); a copy has the memory of (B, H, W, C) or (B, H, W, K, C).
    """
    *_, channels, height, width = x.shape
    unit = channels == 1 or x.stride(-3) == 1
    even = height == 1 or x.stride(-2) == width * x.stride(-1)
    if unit and even and (width > 1 or height == 1):
        return x
    if x.dim() == 4:
        return x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    return x.permute(0, 3, 4, 1, 2).contiguous().permute(0, 3, 4, 1, 2)


def _rows(x: Tensor | None) -> _Rows:
    """Return the strides of what `_pixel_rows` gave."""
    if x is None:
        return _Rows(None, 0, 0, 0)
    return _Rows(x.data_ptr(), x.stride(0), x.stride(-1), x.stride(1) if x.dim() == 5 else 0)


def _empty_like_pixels(x: Tensor) -> Tensor:
    """Return an uninitialised tensor of x's shape with packed pixel rows."""
    if x.dim() == 4:
        batch, channels, height, width = x.shape
        return x.new_empty(batch, height, width, channels).permute(0, 3, 1, 2)
    batch, K, channels, height, width = x.shape
    return x.new_empty(batch, height, width, K, channels).permute(0, 3, 4, 1, 2)


def _prepare(x, dt, Bt, Ct, A, D, dt_weight, dt_bias, shared_state, gate, rho) -> tuple[_Cross, list]:
    """Fill a structure with the inputs; also returns the tensors it points at, to be kept alive."""
    images = [None if t is None else _pixel_rows(t.detach()) for t in (x, dt, Bt, Ct, gate)]
    tables = [None if t is None else t.detach().contiguous() for t in (A, D, dt_weight, dt_bias, shared_state, rho)]
    batch, channels, height, width = x.shape
    structure = fill(
        _Cross(), dict(zip(("A", "skip", "W", "bias", "shared", "rho"), tables, strict=True)),
        batch=batch, K=dt.shape[1], D=channels, N=A.shape[1], R=dt.shape[2], height=height, width=width,
        threads=torch.get_num_threads(),
    )  # fmt: skip
    for name, image in zip(("x", "dt", "B", "C", "gate"), images, strict=True):
        setattr(structure, name, _rows(image))
    return structure, images + tables


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
    """Return y, the last states and, where `save`, what backward starts from."""
    structure, keep = _prepare(x, dt, Bt, Ct, A, D, dt_weight, dt_bias, shared_state, gate, rho)
    y, last, saved = _fake(x, dt, Bt, Ct, A, save=save)
    run("cross_forward", fill(structure, {"y": y, "last": last, "saved": saved if save else None}))
    del keep
    return y, last, saved


def _backward(
    gy, glast, x, dt, Bt, Ct, A, D, dt_weight, dt_bias, shared_state, gate, rho, saved
) -> list[Tensor]:  # fmt: skip
    """Return the gradients of the tensor inputs that are given, in their order."""
    structure, keep = _prepare(x, dt, Bt, Ct, A, D, dt_weight, dt_bias, shared_state, gate, rho)
    gy, glast = _pixel_rows(gy.detach()), None if glast is None else glast.detach().contiguous()
    structure.gy = _rows(gy)
    images = {"gx": x, "gdt": dt, "gB": Bt, "gC": Ct}
    tables = {"gA": A, "gskip": D, "gW": dt_weight, "gbias": dt_bias}
    shares = {} if gate is None else {"gshared": shared_state, "ggate": gate, "grho": rho}
    grads = {name: _empty_like_pixels(t) for name, t in images.items()}
    grads |= {name: t.new_zeros(t.shape) for name, t in tables.items()}
    grads |= {name: _empty_like_pixels(t) if t.dim() == 5 else t.new_zeros(t.shape) for name, t in shares.items()}
    run("cross_backward", fill(structure, {**grads, "glast": glast, "saved": saved}))
    del keep
    return list(grads.values())


def _fake(x, dt, Bt, Ct, A, *_others, save):
    """Allocate the outputs."""
    batch, channels, height, width = x.shape
    count = saved_floats(batch, dt.shape[1], channels, A.shape[1], height * width) if save else 0
    return _empty_like_pixels(x), x.new_empty(x.shape[0], *A.shape), x.new_empty(count)


cross_op = register(
    "cross_scan_cpp",
    ScanKernel(
        forward=_forward,
        backward=_backward,
        fake=_fake,
        gradient_like=lambda t: _empty_like_pixels(t) if t.dim() >= 4 else t.new_empty(t.shape),
        states=lambda x, dt, Bt, Ct, A, *_: x[0] * x[2] * x[3] * math.prod(A),
        device="cpu",
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
    """Return y (B, D, H, W) in channels-last memory and the last states (B, K*D, N); float32."""
    return cross_op(x, dt, Bt, Ct, A, D, dt_weight, dt_bias, shared_state, gate, rho)
