"""Backend `cpp`: native kernels for CPUs (`native/`), compiled at first use by the machine's C compiler.

Two torch.library operators, `lemamba::scan_cpp` and `lemamba::cross_scan_cpp` (in `cross_cpp.py`), each with fake,
autograd and autocast rules and a FLOP formula, so that torch.compile, autocast and FLOP counting see one operator.
They return y, the last state, and what backward starts from: the state at the beginning of each tile of the sequence
(empty unless asked for).

Shapes: u, delta (B, KD, L); A (KD, N); B, C (B, K, N, L); D, delta_bias (KD); states (B, KD, N). float32.
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor
from torch.library import custom_op, register_autocast
from torch.utils.flop_counter import register_flop_formula

from model.ops.native_build import library

FLOPS_PER_STATE = 9  # of one state and step: the convention of the Mamba papers


def probe() -> tuple[bool, str]:
    """Tell whether the kernels compile and load here, and with what, or why not."""
    found, reason = library()
    return found is not None, reason


class _Scan(ctypes.Structure):
    """`Scan` of native/scan.c, field by field."""

    _fields_ = [(n, ctypes.c_int64) for n in ("batch", "K", "D", "N", "length", "softplus", "threads")]
    _fields_ += [(n, ctypes.c_void_p) for n in ("u", "delta", "A", "B", "C", "skip", "bias", "initial")]
    _fields_ += [(n, ctypes.c_void_p) for n in ("y", "last", "saved", "gy", "glast")]
    _fields_ += [(n, ctypes.c_void_p) for n in ("gu", "gdelta", "gA", "gB", "gC", "gskip", "gbias", "ginitial")]


def fill(structure: ctypes.Structure, tensors: dict[str, Tensor | None], **numbers: int) -> ctypes.Structure:
    """Set a C structure's fields from tensors (None is a null pointer) and numbers."""
    for name, tensor in tensors.items():
        setattr(structure, name, None if tensor is None else tensor.data_ptr())
    for name, number in numbers.items():
        setattr(structure, name, number)
    return structure


def call(function: str, structure: ctypes.Structure) -> None:
    """Run a C function on a filled structure; ctypes lets go of the interpreter lock meanwhile."""
    found, reason = library()
    if found is None:
        raise RuntimeError(f"backend cpp: {reason}")
    if getattr(found, function)(ctypes.byref(structure)):
        raise MemoryError(f"{function}: no memory for the kernel's scratch space")


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


@custom_op("lemamba::scan_cpp", mutates_args=(), device_types="cpu")
def scan_op(
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
    sizes = _sizes(u, A, B)
    y, last = torch.empty_like(u), u.new_empty(*u.shape[:2], A.shape[1])
    count = saved_floats(*(sizes[n] for n in ("batch", "K", "D", "N", "length"))) if save else 0
    saved = u.new_empty(count)
    tensors = dict(u=u, delta=delta, A=A, B=B, C=C, skip=D, bias=delta_bias, initial=initial_state, y=y, last=last)
    tensors["saved"] = saved if count else None
    call("scan_forward", fill(_Scan(), tensors, softplus=int(delta_softplus), **sizes))
    return y, last, saved


@custom_op("lemamba::scan_cpp_backward", mutates_args=(), device_types="cpu")
def backward_op(
    gy: Tensor,
    glast: Tensor | None,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    initial_state: Tensor | None,
    saved: Tensor,
) -> list[Tensor]:
    """Return the gradients of u, delta, A, B, C, D, delta_bias and initial_state (the last three always)."""
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
    call("scan_backward", fill(_Scan(), tensors, softplus=int(delta_softplus), **_sizes(u, A, B)))
    return list(grads.values())


@scan_op.register_fake
def _(u, delta, A, B, C, D, delta_bias, delta_softplus, initial_state, save):
    sizes = _sizes(u, A, B)
    count = saved_floats(*(sizes[n] for n in ("batch", "K", "D", "N", "length"))) if save else 0
    return u.new_empty(u.shape), u.new_empty(*u.shape[:2], A.shape[1]), u.new_empty(count)


@backward_op.register_fake
def _(gy, glast, u, delta, A, B, C, D, delta_bias, delta_softplus, initial_state, saved):
    channels = (u.shape[1],)
    shapes = (u.shape, u.shape, A.shape, B.shape, B.shape, channels, channels, (*u.shape[:2], A.shape[1]))
    return [u.new_empty(shape) for shape in shapes]


def _setup(ctx, inputs, output):
    u, delta, A, B, C, D, delta_bias, delta_softplus, initial_state, _ = inputs
    ctx.delta_softplus = delta_softplus
    ctx.save_for_backward(u, delta, A, B, C, D, delta_bias, initial_state, output[2])


def _backward(ctx, gy, glast, _gsaved):
    u, delta, A, B, C, D, delta_bias, initial_state, saved = ctx.saved_tensors
    gy = torch.zeros_like(u) if gy is None else gy
    gu, gdelta, gA, gB, gC, gD, gbias, ginitial = backward_op(
        gy, glast, u, delta, A, B, C, D, delta_bias, ctx.delta_softplus, initial_state, saved
    )
    gD, gbias, ginitial = (
        g if given is not None else None
        for g, given in ((gD, D), (gbias, delta_bias), (ginitial, initial_state))
    )  # fmt: skip
    return gu, gdelta, gA, gB, gC, gD, gbias, None, ginitial, None


scan_op.register_autograd(_backward, setup_context=_setup)
register_autocast("lemamba::scan_cpp", "cpu", torch.float32)


@register_flop_formula(torch.ops.lemamba.scan_cpp)
def _flops(u_shape, delta_shape, A_shape, *_args, out_shape=None, **_kwargs) -> int:
    batch, channels, length = u_shape
    return FLOPS_PER_STATE * batch * channels * length * A_shape[1]


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
    given = (u, delta, A, B, C, D, delta_bias, initial_state)
    save = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in given)
    y, last, _ = scan_op(u, delta, A, B, C, D, delta_bias, delta_softplus, initial_state, save)
    return y, last
