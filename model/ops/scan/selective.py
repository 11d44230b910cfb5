"""The selective scan: one function, several backends.

    d   = softplus(delta + delta_bias)
    h_t = exp(d_t A) h_{t-1} + d_t B_t u_t
    y_t = C_t . h_t + D u_t

Source: Gu & Dao, "Mamba" (arXiv 2312.00752), section 3. Legend: B batch, K groups (scan directions), KD = K * D
channels of which each group serves D, N state size, L length. Which backend serves a call: `backends.py`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lemamba.model.ops.scan.backends import available_backends, backend_for
from lemamba.model.ops.scan.interface import ScanInputs, cast, given
from lemamba.operators.autocast import no_autocast
from lemamba.utils.errors import UserError

__all__ = ["available_backends", "compute_dtype", "selective_scan"]


def _check(inputs: ScanInputs) -> None:
    """Check all shapes and devices before any kernel gets a pointer."""
    u, A, B = inputs.u, inputs.A, inputs.B
    if u.dim() != 3 or u.shape[2] == 0:
        raise UserError(f"expected u of shape (B, KD, L) with L >= 1, given {tuple(u.shape)}; add the missing axis")
    batch, channels, length = u.shape
    if A.dim() != 2 or A.shape[0] != channels or A.shape[1] == 0:
        raise UserError(f"expected A of shape ({channels}, N) with N >= 1, given {tuple(A.shape)}; one row per channel")
    states = A.shape[1]
    if B.dim() != 4 or B.shape[1] == 0 or channels % B.shape[1]:
        raise UserError(
            f"expected B of shape ({batch}, K, {states}, {length}) with K dividing {channels}, given {tuple(B.shape)}; "
            "add the group axis"
        )
    sequence, group = (batch, channels, length), (batch, B.shape[1], states, length)
    shapes = {"u": sequence, "delta": sequence, "A": (channels, states), "B": group, "C": group}
    shapes |= {"D": (channels,), "delta_bias": (channels,), "initial_state": (batch, channels, states)}
    for name, value in given(inputs).items():
        if tuple(value.shape) != shapes[name]:
            raise UserError(
                f"expected {name} of shape {shapes[name]}, given {tuple(value.shape)}; see selective_scan's docstring"
            )
        if value.device != u.device:
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
    inputs = ScanInputs(u, delta, A, B, C, D, delta_bias, delta_softplus, initial_state)
    _check(inputs)
    dtype = compute_dtype(u.dtype)
    state_grad = initial_state is not None or (torch.is_grad_enabled() and return_last_state)
    backend_used = backend_for(backend, u.device.type, dtype, state_grad)
    with no_autocast(u.device.type):  # a recurrence in a half type would lose the state
        y, last = backend_used.scan(cast(inputs, dtype, backend_used.half_inputs))
    y = y.to(u.dtype)
    return (y, last) if return_last_state else y
