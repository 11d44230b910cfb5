"""Backend `torch`: the selective scan in torch operations only, for any device and any floating dtype.

The sequence is cut into P parts that are stepped in parallel, so a long sequence costs about sqrt(L) large operations
instead of L small ones: (1) every part from a zero state gives its end, (2) the ends are carried from part to part with
the parts' total decay, (3) every part again from its true start gives y. Decays are products of numbers below 1; the
cumulative-log form (divide by a running product) overflows and is not used.

The autograd.Function keeps only the state at every S-th step and recomputes the others in backward: plain autograd
would keep all L * N states of every channel.

Legend: T steps of a part, M = P * batch, K groups, D channels of a group, N state size. Time-first inside:
step, x (T, M, K, D); B, C (T, M, K, N); A (K, N, D); states (M, K, N, D).
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from lemamba.model.ops.scan.interface import Backend, ScanInputs

_ELEMENTS_PER_STEP = 1 << 18  # below this an operation's overhead outweighs its work, so more parts run in parallel


def _decay(step: Tensor, A: Tensor) -> Tensor:
    """Return exp(step A): step (M, K, D), A (K, N, D) -> (M, K, N, D)."""
    return (step[:, :, None] * A).exp_()


def _advance(h: Tensor, decay: Tensor, x: Tensor, B: Tensor) -> Tensor:
    """Return decay * h + B x: one step of the recurrence; x (M, K, D), B (M, K, N)."""
    return torch.addcmul(B[..., None] * x[:, :, None], decay, h)


def _carry(starts: Tensor, decays: Tensor, ends: Tensor) -> tuple[Tensor, Tensor]:
    """Carry the state from part to part.

    Args:
        starts: state before the first part (batch, K, N, D).
        decays: total decay of each part (P, batch, K, N, D), in the order they are visited.
        ends: what each part adds, from a zero state; same shape.

    Returns:
        The state before each part (P, batch, K, N, D), and the one after the last.
    """
    state, before = starts, []
    for decay, end in zip(decays, ends, strict=True):
        before.append(state)
        state = torch.addcmul(end, decay, state)
    return torch.stack(before), state


class _ChunkedScan(torch.autograd.Function):
    """y_t = C_t . h_t with h_t = exp(step_t A) h_{t-1} + B_t x_t; parts in parallel, states recomputed in backward."""

    @staticmethod
    def forward(
        ctx: Any, step: Tensor, x: Tensor, A: Tensor, B: Tensor, C: Tensor, first: Tensor, parts: int
    ) -> tuple[Tensor, Tensor]:
        """Return y (T, M, K, D) and the last state (batch, K, N, D)."""
        length, rows = step.shape[:2]
        batch = first.shape[0]
        decays = torch.exp(step.sum(0)[:, :, None] * A).unflatten(0, (parts, batch))
        if parts > 1:
            h = step.new_zeros(rows, *first.shape[1:])
            for t in range(length):
                h = _advance(h, _decay(step[t], A), x[t], B[t])
            before, _ = _carry(first, decays, h.unflatten(0, (parts, batch)))
            h = before.flatten(0, 1)
        else:
            h = first
        y = torch.empty_like(x)
        every = math.isqrt(length - 1) + 1
        kept = []
        for t in range(length):
            if t % every == 0:
                kept.append(h)
            h = _advance(h, _decay(step[t], A), x[t], B[t])
            y[t] = torch.matmul(C[t].unsqueeze(-2), h).squeeze(-2)
        ctx.save_for_backward(step, x, A, B, C, decays, torch.stack(kept))
        return y, h.unflatten(0, (parts, batch))[-1].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gy: Tensor, glast: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of step, x, A, B, C and the first state; the number of parts has none."""
        step, x, A, B, C, decays, kept = ctx.saved_tensors
        length, (parts, batch) = step.shape[0], decays.shape[:2]
        g = _ChunkedScan._gradient_at_ends(step, A, C, gy, glast, decays)
        gstep, gx, gB, gC = (torch.empty_like(v) for v in (step, x, B, C))
        gA = torch.zeros_like(g)
        every = math.isqrt(length - 1) + 1
        for segment in reversed(range(len(kept))):
            times = range(segment * every, min(length, (segment + 1) * every))
            states, decay = [kept[segment]], []
            for t in times:
                decay.append(_decay(step[t], A))
                states.append(_advance(states[-1], decay[-1], x[t], B[t]))
            for t in reversed(times):
                h, a = states.pop(), decay.pop()
                g = torch.addcmul(g, C[t][..., None], gy[t][:, :, None])
                gC[t] = torch.matmul(h, gy[t][..., None]).squeeze(-1)
                gB[t] = torch.matmul(g, x[t][..., None]).squeeze(-1)
                gx[t] = torch.matmul(B[t].unsqueeze(-2), g).squeeze(-2)
                g = g * a
                ga = g * states[-1]
                gstep[t] = (ga * A).sum(2)
                gA.addcmul_(ga, step[t][:, :, None])
        return gstep, gx, gA.sum(0), gB, gC, g.unflatten(0, (parts, batch))[0], None

    @staticmethod
    def _gradient_at_ends(step: Tensor, A: Tensor, C: Tensor, gy: Tensor, glast: Tensor, decays: Tensor) -> Tensor:
        """Return the gradient of the state after each part (M, K, N, D): step (1) and (2) backwards in time."""
        parts = decays.shape[0]
        if parts == 1:
            return glast
        g = torch.zeros_like(decays).flatten(0, 1)
        for t in reversed(range(step.shape[0])):
            g = torch.addcmul(g, C[t][..., None], gy[t][:, :, None]).mul_(_decay(step[t], A))
        before, _ = _carry(glast, decays.flip(0), g.view_as(decays).flip(0))
        return before.flip(0).flatten(0, 1)


def _time_first(x: Tensor, groups: int, parts: int, steps: int) -> Tensor:
    """Cut (batch, K*D, L) or (batch, K, N, L) into parts: (T, P*batch, K, D or N), padded with zeros at the end.

    A zero step keeps the state (decay 1, input 0), so the padding changes neither the last state nor any gradient.
    """
    x = F.pad(x, (0, parts * steps - x.shape[-1]))
    if x.dim() == 3:
        x = x.unflatten(1, (groups, -1))
    x = x.unflatten(-1, (parts, steps))  # (batch, K, D, P, T)
    return x.permute(4, 3, 0, 1, 2).flatten(1, 2).contiguous()


def scan(inputs: ScanInputs) -> tuple[Tensor, Tensor]:
    """Return y (B, KD, L) and the last state (B, KD, N), in the dtype of the inputs."""
    u, delta, A, B, C, D, delta_bias, delta_softplus, initial_state = inputs
    batch, channels, length = u.shape
    groups, states = B.shape[1], A.shape[1]
    per_step = max(batch * channels * states, 1)
    parts = min(max(1, _ELEMENTS_PER_STEP // per_step), math.isqrt(length))
    steps = -(-length // parts)
    parts = -(-length // steps)
    if delta_bias is not None:
        delta = delta + delta_bias[:, None]
    if delta_softplus:
        delta = F.softplus(delta)
    cut = (groups, parts, steps)
    first = u.new_zeros(batch, channels, states) if initial_state is None else initial_state
    y, last = _ChunkedScan.apply(
        _time_first(delta, *cut),
        _time_first(delta * u, *cut),
        A.unflatten(0, (groups, -1)).transpose(1, 2).contiguous(),
        _time_first(B, *cut),
        _time_first(C, *cut),
        first.unflatten(1, (groups, -1)).transpose(2, 3).contiguous(),
        parts,
    )
    y = y.unflatten(1, (parts, batch)).permute(2, 3, 4, 1, 0).reshape(batch, channels, parts * steps)[..., :length]
    if D is not None:
        y = y + D[:, None] * u
    return y, last.transpose(2, 3).reshape(batch, channels, states)


BACKEND = Backend("torch", lambda: (True, "torch operations, any device"), scan, float64=True)
