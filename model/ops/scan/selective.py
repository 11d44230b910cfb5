"""The selective scan: one function, several backends.

    d   = softplus(delta + delta_bias)
    h_t = exp(d_t A) h_{t-1} + d_t B_t u_t
    y_t = C_t . h_t + D u_t

Source: Gu & Dao, "Mamba" (arXiv 2312.00752), section 3. Legend: B batch, K groups (scan directions), KD = K * D
channels of which each group serves D, N state size, L length. Which backend serves a call: `model.ops.scan.backends`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lemamba.model.ops.scan.backends import available_backends, choose, module_of
from lemamba.utils.errors import UserError

__all__ = ["available_backends", "compute_dtype", "selective_scan"]


def _expect(name: str, given: Tensor, *shape: int) -> None:
    """Raise a `UserError` unless `given` has this shape."""
    if tuple(given.shape) != shape:
        raise UserError(f"expected {name} of shape {shape}, given {tuple(given.shape)}; see selective_scan's docstring")


def _check(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, per_channel: dict, state: Tensor | None) -> None:
    """Check all shapes and devices before any kernel sees a pointer."""
    if u.dim() != 3 or u.shape[2] == 0:
        raise UserError(f"expected u of shape (B, KD, L) with L >= 1, given {tuple(u.shape)}; add the missing axis")
    batch, channels, length = u.shape
    _expect("delta", delta, batch, channels, length)
    if A.dim() != 2 or A.shape[0] != channels or A.shape[1] == 0:
        raise UserError(
            f"expected A of shape ({channels}, N) with N >= 1, given {tuple(A.shape)}; give a row a channel"
        )
    states = A.shape[1]
    if B.dim() != 4 or B.shape[1] == 0 or channels % B.shape[1]:
        raise UserError(
            f"expected B of shape ({batch}, K, {states}, {length}) with K dividing {channels}, given {tuple(B.shape)}; "
            "add the group axis"
        )
    _expect("B", B, batch, B.shape[1], states, length)
    _expect("C", C, *B.shape)
    for name, value in per_channel.items():
        if value is not None:
            _expect(name, value, channels)
    if state is not None:
        _expect("initial_state", state, batch, channels, states)
    others = {"delta": delta, "A": A, "B": B, "C": C, **per_channel, "initial_state": state}
    for name, value in others.items():
        if value is not None and value.device != u.device:
            raise UserError(f"expected {name} on {u.device} like u, given {value.device}; move it there")


def compute_dtype(given: torch.dtype) -> torch.dtype:
    """Return the dtype a scan computes in: float64 stays, all others are float32."""
    return torch.float64 if given == torch.float64 else torch.float32


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    initial_state: Tensor | None = None,
    return_last_state: bool = False,
    backend: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Run the selective scan.

    Args:
        u: input (B, KD, L), any strides. Half types are computed in float32, float64 in float64.
        delta: step sizes (B, KD, L), before bias and softplus.
        A: decay rates (KD, N), negative.
        B: input weights (B, K, N, L); group k serves channels k*KD/K .. (k+1)*KD/K - 1.
        C: output weights (B, K, N, L).
        D: skip weights (KD), or None.
        delta_bias: (KD), added to delta before the softplus, or None.
        delta_softplus: pass delta through softplus.
        initial_state: state before the first step (B, KD, N), or None for zero.
        return_last_state: return (y, last_state).
        backend: a name of `available_backends()`, or None / "auto" for the first that works here.

    Returns:
        y (B, KD, L) in u's dtype; with `return_last_state` also the state after the last step (B, KD, N), float32 or
        float64. Gradients reach every tensor argument, also those that arrive through the last state. An empty batch
        gives empty results; where delta * A is very negative the state decays to 0 without overflow.

    Raises:
        UserError: a shape that does not fit (names argument, shape given, shape expected), or a forced backend that
            does not work here.
    """
    _check(u, delta, A, B, C, {"D": D, "delta_bias": delta_bias}, initial_state)
    dtype = compute_dtype(u.dtype)
    with_grad = torch.is_grad_enabled()
    state_grad = initial_state is not None or (with_grad and return_last_state)
    name = choose(backend, u.device.type, dtype, state_grad)
    module = module_of(name)
    half = getattr(module, "HALF_INPUTS", False)  # the kernel loads half types itself and computes in float32
    sequences = [x if half else x.to(dtype) for x in (u, delta, B, C)]
    A, D, delta_bias, state = (None if x is None else x.to(dtype) for x in (A, D, delta_bias, initial_state))
    u_in, delta, B, C = sequences
    with torch.autocast(u.device.type, enabled=False):  # a recurrence in a half type would lose the state
        y, last = module.selective_scan(u_in, delta, A, B, C, D, delta_bias, delta_softplus, state)
    y = y.to(u.dtype)
    return (y, last) if return_last_state else y
