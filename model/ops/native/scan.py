"""Backend `cpp`: native kernels for CPUs (`native/`), compiled at first use by the machine's C compiler.

The torch.library operator `lemamba::scan_cpp` (`registration.py` says what that entails; `lemamba::cross_scan_cpp` is
in `cross.py`). Backward starts from the state at the beginning of each tile of the sequence, kept by forward only
where a gradient is asked for.

Shapes: u, delta (B, KD, L); A (KD, N); B, C (B, K, N, L); D, delta_bias (KD); states (B, KD, N). float32.
"""

from __future__ import annotations

import ctypes
import math

import torch
from torch import Tensor

from lemamba.model.ops.native.build import fill, library, run
from lemamba.model.ops.scan.registration import ScanKernel, register


def probe() -> tuple[bool, str]:
    """Tell whether the kernels compile and load here, and with what, or why not."""
    found, reason = library()
    return found is not None, reason


class _Scan(ctypes.Structure):
    """`Scan` of native/scan.h, field by field."""

    _fields_ = [(n, ctypes.c_int64) for n in ("batch", "K", "D", "N", "length", "softplus", "threads")]
    _fields_ += [(n, ctypes.c_void_p) for n in ("u", "delta", "A", "B", "C", "skip", "bias", "initial")]
    _fields_ += [(n, ctypes.c_void_p) for n in ("y", "last", "saved", "gy", "glast")]
    _fields_ += [(n, ctypes.c_void_p) for n in ("gu", "gdelta", "gA", "gB", "gC", "gskip", "gbias", "ginitial")]


def saved_floats(*sizes: int) -> int:
    """Return how many floats forward keeps for backward, for (batch, K, D, N, length)."""
    found, _ = library()
    function = found.scan_saved_floats
    function.restype, function.argtypes = ctypes.c_int64, [ctypes.c_int64] * 5
    return function(*sizes)


def _sizes(u: Tensor, A: Tensor, B: Tensor) -> dict[str, int]:
    """Return the sizes a structure needs; threads follow torch's."""
    K = B.shape[1]
    return {
        "batch": u.shape[0], "K": K, "D": u.shape[1] // K, "N": A.shape[1], "length": u.shape[2],
        "threads": torch.get_num_threads(),
    }  # fmt: skip


def _contiguous(*tensors: Tensor | None) -> list[Tensor | None]:
    return [None if t is None else t.detach().contiguous() for t in tensors]


def _forward(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    initial_state: Tensor | None,
    save: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return y, the last state and, where `save`, what backward starts from."""
    u, delta, A, B, C, D, delta_bias, initial_state = _contiguous(u, delta, A, B, C, D, delta_bias, initial_state)
    y, last, saved = _fake(u, delta, A, B, C, D, delta_bias, delta_softplus, initial_state, save=save)
    tensors = dict(u=u, delta=delta, A=A, B=B, C=C, skip=D, bias=delta_bias, initial=initial_state, y=y, last=last)
    tensors["saved"] = saved if save else None
    run("scan_forward", fill(_Scan(), tensors, softplus=int(delta_softplus), **_sizes(u, A, B)))
    return y, last, saved


def _backward(gy, glast, u, delta, A, B, C, D, delta_bias, delta_softplus, initial_state, saved) -> list[Tensor]:
    """Return the gradients of the tensor inputs that are given, in their order."""
    inputs = _contiguous(gy, glast, u, delta, A, B, C, D, delta_bias, initial_state, saved)
    names = ("gy", "glast", "u", "delta", "A", "B", "C", "skip", "bias", "initial", "saved")
    u, A, B = inputs[2], inputs[4], inputs[5]
    channels = u.shape[1]
    grads = {
        "gu": torch.empty_like(u), "gdelta": torch.empty_like(u), "gA": torch.zeros_like(A),
        "gB": torch.empty_like(B), "gC": torch.empty_like(B), "gskip": u.new_zeros(channels),
        "gbias": u.new_zeros(channels), "ginitial": u.new_empty(u.shape[0], channels, A.shape[1]),
    }  # fmt: skip
    tensors = {**dict(zip(names, inputs, strict=True)), **grads}
    run("scan_backward", fill(_Scan(), tensors, softplus=int(delta_softplus), **_sizes(u, A, B)))
    given = (u, delta, A, B, C, D, delta_bias, initial_state)
    return [grad for grad, tensor in zip(grads.values(), given, strict=True) if tensor is not None]


def _fake(u, delta, A, B, C, D, delta_bias, delta_softplus, initial_state, *, save):
    """Allocate the outputs."""
    sizes = _sizes(u, A, B)
    count = saved_floats(*(sizes[n] for n in ("batch", "K", "D", "N", "length"))) if save else 0
    return u.new_empty(u.shape), u.new_empty(*u.shape[:2], A.shape[1]), u.new_empty(count)


scan_op = register(
    "scan_cpp",
    ScanKernel(
        forward=_forward,
        backward=_backward,
        fake=_fake,
        gradient_like=lambda t: t.new_empty(t.shape),
        states=lambda u, delta, A, *_: math.prod(u) * A[1],
        device="cpu",
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
    """Return y (B, KD, L) and the last state (B, KD, N); float32."""
    return scan_op(u, delta, A, B, C, D, delta_bias, delta_softplus, initial_state)
