"""The selective scan as an exporter takes it: three loops that stay loops in the file, for any length and batch.

Like `torch_backend`: the sequence is cut into parts of `STEPS` steps that run side by side, (1) each from a zero state,
(2) the ends are carried from part to part, (3) each part again from its true start. Each loop is one operator here and
one `Scan` node of ONNX (`lemamba.engine.weights.onnx_loops`): the number of nodes does not depend on the length, and
the length may stay unknown until the file is run. Decays are products of numbers below 1, so nothing overflows.

Not among the backends that `auto` or a user chooses: `lemamba.model.ops.portable` switches it on. No gradients.

Legend: T steps of a part, P parts, M = P * batch, K groups, D channels of a group, N state size. Time-first inside:
step, x (T, M, K, D); B, C (T, M, K, N); A (K, N, D); states (M, K, N, D).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lemamba.model.ops.registration import register
from lemamba.model.ops.scan.interface import Backend, CrossInputs, ScanInputs

STEPS = 64  # of a part: two loops over them and one over the parts, so about 3 * 64 turns for an image of 64 x 64
_DIRECTIONS = 4  # of the scan that is one operator
_ANY = "CompositeExplicitAutograd"


def _advance(h: Tensor, step: Tensor, x: Tensor, B: Tensor, A: Tensor) -> Tensor:
    """Return exp(step A) h + B x: one step of the recurrence."""
    return torch.exp(step[:, :, None] * A) * h + B[..., None] * x[:, :, None]


def _run_ends(h: Tensor, A: Tensor, step: Tensor, x: Tensor, B: Tensor) -> Tensor:
    for now, value, weight in zip(step, x, B, strict=True):
        h = _advance(h, now, value, weight, A)
    return h


def _run_carry(h: Tensor, decays: Tensor, ends: Tensor) -> Tensor:
    before = torch.empty_like(ends)
    for k, (decay, end) in enumerate(zip(decays, ends, strict=True)):
        before[k] = h
        h = decay * h + end
    return before


def _run_output(h: Tensor, A: Tensor, step: Tensor, x: Tensor, B: Tensor, C: Tensor) -> Tensor:
    y = torch.empty_like(x)
    for t, (now, value, weight, read) in enumerate(zip(step, x, B, C, strict=True)):
        h = _advance(h, now, value, weight, A)
        y[t] = (read[..., None] * h).sum(2)
    return torch.cat((y, h.permute(2, 0, 1, 3)))


_ends = register(
    "portable_ends",
    "(Tensor h, Tensor A, Tensor step, Tensor x, Tensor B) -> Tensor",
    _run_ends,
    lambda h, A, step, x, B: torch.empty_like(h),
    _ANY,
)
_carry = register(
    "portable_carry",
    "(Tensor h, Tensor decays, Tensor ends) -> Tensor",
    _run_carry,
    lambda h, decays, ends: torch.empty_like(ends),
    _ANY,
)
# One result, y and then the N rows of the last state, (T + N, M, K, D): the exporter takes no two of a function.
_output = register(
    "portable_output",
    "(Tensor h, Tensor A, Tensor step, Tensor x, Tensor B, Tensor C) -> Tensor",
    _run_output,
    lambda h, A, step, x, B, C: x.new_empty(x.shape[0] + h.shape[2], *x.shape[1:]),
    _ANY,
)


def _time_first(x: Tensor, groups: int, parts: int, steps: int) -> Tensor:
    """Cut (batch, K*D, L) or (batch, K, N, L) into parts: (T, M, K, D or N), padded with zeros, which keep a state."""
    if x.shape[-1] is not steps:
        x = F.pad(x, (0, parts * steps - x.shape[-1]))
    batch, inner = x.shape[0], (x.shape[1] // groups if x.dim() == 3 else x.shape[2])
    x = x.reshape(batch, groups, inner, parts, steps).permute(4, 3, 0, 1, 2)
    return x.reshape(steps, parts * batch, groups, inner)


def _starts(step: Tensor, x: Tensor, A: Tensor, B: Tensor, first: Tensor, parts: int) -> Tensor:
    """Return the state before each part, (M, K, N, D): loops (1) and (2)."""
    batch, (groups, states, channels) = first.shape[0], A.shape
    ends = _ends(x.new_zeros(parts * batch, groups, states, channels), A, step, x, B)
    decays = torch.exp(step.sum(0)[:, :, None] * A)
    shape = (parts, batch, groups, states, channels)
    return _carry(first, decays.reshape(shape), ends.reshape(shape)).reshape(ends.shape)


def in_parts(inputs: ScanInputs) -> tuple[Tensor, Tensor]:
    """Return y (B, KD, L) and the last state (B, KD, N), in the dtype of the inputs."""
    u, delta, A, B, C, D, delta_bias, delta_softplus, initial_state = inputs
    (batch, channels, length), groups, states = u.shape, B.shape[1], A.shape[1]
    short = isinstance(length, int) and length <= STEPS
    steps = length if short else STEPS
    parts = 1 if short else (length + STEPS - 1) // STEPS
    if delta_bias is not None:
        delta = delta + delta_bias[:, None]
    if delta_softplus:
        delta = F.softplus(delta)
    cut = (groups, parts, steps)
    step, x, B, C = (_time_first(t, *cut) for t in (delta, delta * u, B, C))
    A = A.reshape(groups, channels // groups, states).transpose(1, 2).contiguous()
    start = u.new_zeros(batch, channels, states) if initial_state is None else initial_state
    start = start.reshape(batch, groups, channels // groups, states).transpose(2, 3).contiguous()
    h = start if short else _starts(step, x, A, B, start, parts)
    y, h = _output(h, A, step, x, B, C).split((steps, states))
    y = y.reshape(steps, parts, batch, channels).permute(2, 3, 1, 0).reshape(batch, channels, parts * steps)
    y = y[..., :length]
    if D is not None:
        y = y + D[:, None] * u
    last = h.reshape(states, parts, batch, groups, channels // groups)[:, -1]
    return y, last.permute(1, 2, 3, 0).reshape(batch, channels, states)


def _run_cross(*inputs: Tensor | None) -> tuple[Tensor, Tensor]:
    from lemamba.model.ops.scan.cross import composed  # which imports the backends

    return composed(in_parts, CrossInputs(*inputs))  # type: ignore[arg-type]


# A whole scan is one operator: recorded piece by piece, with sizes still unknown, it took minutes.
_scan = register(
    "portable_scan",
    "(Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? delta_bias, bool delta_softplus) -> "
    "(Tensor, Tensor)",
    lambda u, delta, A, B, C, D, bias, softplus: in_parts(ScanInputs(u, delta, A, B, C, D, bias, softplus)),
    lambda u, delta, A, *_: (u.new_empty(u.shape), u.new_empty(u.shape[0], *A.shape)),
    _ANY,
)
_cross = register(
    "portable_cross",
    "(Tensor x, Tensor dt, Tensor Bt, Tensor Ct, Tensor A, Tensor D, Tensor dt_weight, Tensor dt_bias, "
    "Tensor? shared_state, Tensor? gate, Tensor? rho) -> (Tensor, Tensor)",
    _run_cross,
    lambda x, dt, Bt, Ct, A, *_: (torch.empty_like(x), x.new_empty(x.shape[0], *A.shape)),
    _ANY,
)


def scan(inputs: ScanInputs) -> tuple[Tensor, Tensor]:
    """Return y (B, KD, L) and the last state (B, KD, N), in the dtype of the inputs."""
    return _scan(*inputs[:-1]) if inputs.initial_state is None else in_parts(inputs)


def cross_scan(inputs: CrossInputs) -> tuple[Tensor, Tensor]:
    """Return y (B, D, H, W) and the last states (B, KD, N)."""
    return _cross(*inputs) if inputs.dt.shape[1] == _DIRECTIONS else _run_cross(*inputs)


BACKEND = Backend("portable", lambda: (True, "loops for exporters"), scan, cross_scan, float64=True, automatic=False)
