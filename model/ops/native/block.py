"""A VSS block for inference on a CPU as one kernel, `block.c`: nothing is kept for a gradient.

    (u, z) = in_proj LN(x),  v = silu(conv LN(u)),  (dt, B, C, gate) = x_proj v,  y = scan(v, dt, B, C, gate)
    r = x + out_proj(LN(y) silu(z)),  then r + fc2(a GELU(b)) with (a, b) = fc1 LN(r)

It serves float32 on processors with 512-bit vectors where no gradient is needed; elsewhere the layers run one after the
other. `LEMAMBA_BLOCK=cpp` or `torch` forces one of the two.

With a window w, every window goes through all of it by itself, and the block's result is x + factor * r.

Legend: x and the result (B, H, W, c), D inner channels, K directions, N states, R rank of dt.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from lemamba.model.ops.native import scan
from lemamba.model.ops.native.build import fill, run, serves
from lemamba.model.ops.native.depthwise import depthwise_served
from lemamba.model.ops.native.scratch import scratch
from lemamba.model.ops.registration import FLOPS_PER_STATE, register
from lemamba.model.ops.scan.backends import choose
from lemamba.model.ops.triton.block import Weights

VARIABLE = "LEMAMBA_BLOCK"
_WIDE_LANES = 16  # as for the products of linear.py
_RENAMED = {"A_log": "A"}  # the kernel takes A = -exp(A_log)
_MAPS = 4  # that a map goes through: u, z, v and the sum over the second pair of directions


class _Block(ctypes.Structure):
    """`Block` of block.c, field by field."""

    _sizes = ["batch", "height", "width", "window", "channels", "inner", "hidden", "K", "N", "R", "kernel", "threads"]
    _fields_ = [(n, ctypes.c_int64) for n in _sizes] + [(n, ctypes.c_double) for n in ("eps", "inner_eps")]
    _fields_ += [(_RENAMED.get(n, n), ctypes.c_void_p) for n in ("x", "shared_state", *Weights._fields)]
    _fields_ += [(n, ctypes.c_void_p) for n in ("maps", "out", "last")]


def _outputs(x: Tensor, window: int, want_last: bool, w: Weights) -> tuple[Tensor, Tensor]:
    """Return the result and the last states, or none, uninitialised."""
    batch, height, width, _ = x.shape
    scans = batch * (height // window) * (width // window) if window else batch
    return x.new_empty(x.shape), x.new_empty((scans, *w.A_log.shape) if want_last else (0,))


def _block_cpu(
    x: Tensor, window: int, eps: float, inner_eps: float, want_last: bool, shared_state: Tensor | None,
    *weights: Tensor | None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Return the block's result and its last states; float32."""
    w = Weights(*(None if p is None else p.contiguous() for p in weights))  # type: ignore[arg-type]
    x, shared_state = x.contiguous(), None if shared_state is None else shared_state.contiguous()
    out, last = _outputs(x, window, want_last, w)
    if not x.numel():
        return out, last
    (K, _, inner), hidden, states, rank = w.x_proj.shape, w.fc2.shape[1], w.A_log.shape[1], w.dt_weight.shape[2]
    sizes = (*x.shape[:3], window, x.shape[3], inner, hidden, K, states, rank, w.conv.shape[-1])
    call = _Block(*sizes, torch.get_num_threads(), eps, inner_eps)
    maps = None if window else scratch(_MAPS, *x.shape[:3], inner)
    A = -torch.exp(w.A_log)
    tensors = {_RENAMED.get(n, n): t for n, t in w._asdict().items()} | {"A": A, "maps": maps}
    run(
        "block_forward",
        fill(call, x=x, shared_state=shared_state, out=out, last=last if want_last else None, **tensors),
    )
    return out, last


def _block_fake(
    x: Tensor, window: int, _eps: float, _inner_eps: float, want_last: bool, _shared_state: Any, *weights: Any
) -> tuple[Tensor, Tensor]:
    return _outputs(x, window, want_last, Weights(*weights))


_OPTIONAL = ("gate", "rho", "conv_bias", "factor")
_block = register(
    "block_cpp",
    "(Tensor x, int window, float eps, float inner_eps, bool want_last, Tensor? shared_state, "
    + ", ".join(f"{'Tensor?' if n in _OPTIONAL else 'Tensor'} {n}" for n in Weights._fields)
    + ") -> (Tensor, Tensor)",
    _block_cpu,
    _block_fake,
)


@register_flop_formula(_block)
def _flops(x: torch.Size, _window: int, *arguments: Any, **_kwargs: Any) -> int:
    """Return what the layers one after the other count."""
    shared, w = arguments[3], Weights(*arguments[4:])
    products = [p.numel() for p in (w.in_proj, w.x_proj, w.out_proj, w.fc1, w.fc2, w.conv)]
    gate = w.gate.numel() if w.gate is not None and shared is not None else 0
    return x[:3].numel() * (2 * (sum(products) + gate) + FLOPS_PER_STATE * w.A_log.numel())


def block_served(x: Tensor, weights: Weights) -> bool:
    """Return whether the kernel serves a block with these activations and weights."""
    return (
        not torch.is_grad_enabled()
        and depthwise_served(x, weights.conv)
        and weights.fc1.dtype == torch.float32
        and serves(VARIABLE, _WIDE_LANES)
        and choose(None, "cpu", torch.float32, False) == scan.BACKEND.name
    )


def block(
    x: Tensor, weights: Weights, shared_state: Tensor | None, window: int, *, eps: tuple[float, float], want_last: bool
) -> tuple[Tensor, Tensor]:
    """Return the block's result (B, H, W, c), and the last states (B, K * D, N).

    Args:
        x: (B, H, W, c).
        weights: `factor` with a window only.
        shared_state: (B, K * D, N), of every window where there are windows; None takes no `gate` and `rho`.
        window: side of the windows, which divides H and W; 0: none.
        eps: of norm1 and norm2, and of the two inner norms.
        want_last: False: an empty tensor in place of the states.
    """
    return _block(x, window, *eps, want_last, shared_state, *weights)
