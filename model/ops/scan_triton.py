"""Backend `triton`: kernels for CUDA GPUs (`triton_kernels.py`), as one torch.library operator `lemamba::scan_triton`.

The operator works on (B, K, D, L) views of any strides and, with `height` and `width` given, takes group k through an
image in direction k by index arithmetic. It returns y, the last state, and the states backward starts from.
On a machine without a GPU the kernels run in Triton's interpreter (TRITON_INTERPRET=1, for tests: very slow).

Shapes: u, delta (B, K, D, L); A (K*D, N); B, C (B, K, N, L); skip, bias (K*D); states (B, K*D, N). Inside float32.
"""

from __future__ import annotations

import importlib.util
import os

import torch
from torch import Tensor
from torch.library import custom_op, register_autocast
from torch.utils.flop_counter import register_flop_formula

_ELEMENTS = 8192  # BT * BD * BN of a program: what its registers hold


def interpreted() -> bool:
    """Tell whether Triton's interpreter runs the kernels on the CPU."""
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "yes", "on")


def probe() -> tuple[bool, str]:
    """Tell whether the kernels can run here, and why not."""
    if importlib.util.find_spec("triton") is None:
        return False, "triton is not installed"
    if interpreted():
        return True, "Triton's interpreter on the CPU (TRITON_INTERPRET=1), for tests"
    if not torch.cuda.is_available():
        return False, "torch finds no CUDA GPU"
    return True, f"CUDA kernels on {torch.cuda.get_device_name()}"


def _power_of_two(n: int) -> int:
    return 1 << max(0, n - 1).bit_length()


def _blocks(D: int, N: int, L: int) -> dict[str, int]:
    """Return the block sizes of a shape: many channels share B and C, chunks as long as registers allow."""
    BN = _power_of_two(N)
    BD = min(_power_of_two(D), 16, max(1, _ELEMENTS // (BN * 8)))
    BT = min(_power_of_two(L), 64, max(2, _ELEMENTS // (BN * BD)))
    return {"BT": max(2, BT), "BD": BD, "BN": BN}


def _launch(D: int, N: int, L: int) -> dict[str, int]:
    """Return block sizes and, on a GPU, the number of warps for them."""
    blocks = _blocks(D, N, L)
    if interpreted():
        return blocks
    elements = blocks["BT"] * blocks["BD"] * blocks["BN"]
    return {**blocks, "num_warps": min(8, max(1, elements // 1024))}


def _plan(u: Tensor, A: Tensor, height: int, width: int) -> dict:
    """Return what both kernels are told about sizes and the path."""
    _, K, D, L = u.shape
    return {"K": K, "CH": D, "N": A.shape[1], "L": L, "H": max(height, 1), "W": max(width, 1), "CROSS": height > 0}


@custom_op("lemamba::scan_triton", mutates_args=())
def scan_op(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    skip: Tensor,
    bias: Tensor,
    softplus: bool,
    initial: Tensor | None,
    height: int,
    width: int,
    save: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return y (B, K, D, L), the last state (B, K*D, N), and the states before the chunks (empty unless `save`)."""
    from model.ops.triton_kernels import forward_kernel

    batch, K, D, L = u.shape
    N, launch = A.shape[1], _launch(D, A.shape[1], L)
    A, skip, bias = A.contiguous(), skip.contiguous(), bias.contiguous()
    initial = None if initial is None else initial.contiguous()
    y, last = u.new_empty(u.shape, dtype=torch.float32), u.new_empty(batch, K * D, N, dtype=torch.float32)
    saved = last.new_empty(batch, K, D, -(-L // launch["BT"]), N) if save else last.new_empty(0)
    if batch:
        grid = (batch * K, -(-D // launch["BD"]))
        forward_kernel[grid](
            u, delta, A, B, C, skip, bias, last if initial is None else initial, y, last, saved,
            *u.stride(), *delta.stride(), *B.stride(), *C.stride(), **_plan(u, A, height, width),
            SOFTPLUS=softplus, INITIAL=initial is not None, SAVE=save, **launch,
        )  # fmt: skip
    return y, last, saved


@custom_op("lemamba::scan_triton_backward", mutates_args=())
def backward_op(
    gy: Tensor,
    glast: Tensor | None,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    skip: Tensor,
    bias: Tensor,
    softplus: bool,
    saved: Tensor,
    height: int,
    width: int,
) -> list[Tensor]:
    """Return the gradients of u, delta, A, B, C, skip, bias and the initial state."""
    from model.ops.triton_kernels import backward_kernel

    batch, K, D, L = u.shape
    N, launch = A.shape[1], _launch(D, A.shape[1], L)
    blocks = -(-D // launch["BD"])
    A, skip, bias = A.contiguous(), skip.contiguous(), bias.contiguous()

    def new(*shape: int) -> Tensor:
        return u.new_empty(shape, dtype=torch.float32)

    glast = u.new_zeros(batch, K * D, N, dtype=torch.float32) if glast is None else glast.contiguous()
    gu, gdelta, gA, ginitial = new(batch, K, D, L), new(batch, K, D, L), new(batch, K * D, N), new(batch, K * D, N)
    gB, gC, gskip, gbias = (
        new(blocks, batch, K, L, N),
        new(blocks, batch, K, L, N),
        new(batch, K * D),
        new(batch, K * D),
    )
    if batch:
        backward_kernel[(batch * K, blocks)](
            u, delta, A, B, C, skip, bias, saved, gy, glast, gu, gdelta, gA, gB, gC, gskip, gbias, ginitial,
            *u.stride(), *delta.stride(), *B.stride(), *C.stride(), *gy.stride(), **_plan(u, A, height, width),
            SOFTPLUS=softplus, **launch,
        )  # fmt: skip
    rows = [g.sum(0).transpose(-1, -2).contiguous() for g in (gB, gC)]
    return [gu, gdelta, gA.sum(0), *rows, gskip.sum(0), gbias.sum(0), ginitial]


@scan_op.register_fake
def _(u, delta, A, B, C, skip, bias, softplus, initial, height, width, save):
    batch, K, D, L = u.shape
    y, last = u.new_empty(u.shape, dtype=torch.float32), u.new_empty(batch, K * D, A.shape[1], dtype=torch.float32)
    chunks = -(-L // _blocks(D, A.shape[1], L)["BT"])
    return y, last, last.new_empty(batch, K, D, chunks, A.shape[1]) if save else last.new_empty(0)


@backward_op.register_fake
def _(gy, glast, u, delta, A, B, C, skip, bias, softplus, saved, height, width):
    batch, K, D, _ = u.shape
    row = (K * D,)
    shapes = (u.shape, u.shape, A.shape, B.shape, C.shape, row, row, (batch, K * D, A.shape[1]))
    return [u.new_empty(shape, dtype=torch.float32) for shape in shapes]


def _setup(ctx, inputs, output):
    u, delta, A, B, C, skip, bias, softplus, initial, height, width, _ = inputs
    ctx.softplus, ctx.size, ctx.initial = softplus, (height, width), initial is not None
    ctx.save_for_backward(u, delta, A, B, C, skip, bias, output[2])


def _backward(ctx, gy, glast, _gsaved):
    u, delta, A, B, C, skip, bias, saved = ctx.saved_tensors
    gy = torch.zeros_like(u) if gy is None else gy
    *grads, ginitial = backward_op(gy, glast, u, delta, A, B, C, skip, bias, ctx.softplus, saved, *ctx.size)
    return (*grads, None, ginitial if ctx.initial else None, None, None, None)


scan_op.register_autograd(_backward, setup_context=_setup)
register_autocast("lemamba::scan_triton", "cuda", torch.float32)


@register_flop_formula(torch.ops.lemamba.scan_triton)
def _flops(u_shape, delta_shape, A_shape, *_args, out_shape=None, **_kwargs) -> int:
    batch, K, D, L = u_shape
    return 9 * batch * K * D * L * A_shape[1]


def run(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    initial_state: Tensor | None,
    height: int = 0,
    width: int = 0,
) -> tuple[Tensor, Tensor]:
    """Run the operator on (B, K, D, L) views: y (B, K, D, L) and the last state (B, K*D, N)."""
    given = (u, delta, A, B, C, D, delta_bias, initial_state)
    save = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in given)
    zeros = A.new_zeros(A.shape[0])
    skip, bias = (zeros if v is None else v for v in (D, delta_bias))
    y, last, _ = scan_op(u, delta, A, B, C, skip, bias, delta_softplus, initial_state, height, width, save)
    return y, last


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
    groups = (B.shape[1], u.shape[1] // B.shape[1])
    u, delta = u.unflatten(1, groups), delta.unflatten(1, groups)
    y, last = run(u, delta, A, B, C, D, delta_bias, delta_softplus, initial_state)
    return y.flatten(1, 2), last
