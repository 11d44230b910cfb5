"""One-dimensional Mamba over a sequence of tokens, on top of `lemamba.model.ops.scan.selective`.

Source: A. Gu, T. Dao, "Mamba: Linear-time sequence modeling with selective state spaces" (arXiv 2312.00752), section
3.4. Legend: B batch, L length, c token width, D = 2 c inner channels, N state size, R = ceil(c / 16) rank of dt.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from lemamba.model.ops.causal_conv import causal_conv
from lemamba.model.ops.scan.selective import selective_scan

DT_MIN, DT_MAX, DT_FLOOR = 1e-3, 0.1, 1e-4


def draw_dt_bias(*shape: int) -> Tensor:
    """Draw step sizes dt log-uniformly from [0.001, 0.1] and return their inverse softplus, the bias that gives them.

    Source: Gu and Dao, section 3.6.
    """
    span = math.log(DT_MAX) - math.log(DT_MIN)
    dt = torch.exp(torch.rand(shape) * span + math.log(DT_MIN)).clamp_min(DT_FLOOR)
    return dt + torch.log(-torch.expm1(-dt))


class ScanStream(nn.Module):
    """Projection, causal convolution, selective scan and gate: tokens (B, L, c) to gated inner features (B, L, D)."""

    def __init__(self, width: int, *, d_state: int = 16, kernel: int = 4, expand: int = 2) -> None:
        super().__init__()
        inner, self.rank, self.d_state = expand * width, math.ceil(width / 16), d_state
        self.in_proj = nn.Linear(width, 2 * inner, bias=False)
        self.conv = nn.Conv1d(inner, inner, kernel, groups=inner)
        self.x_proj = nn.Linear(inner, self.rank + 2 * d_state, bias=False)
        self.dt_proj = nn.Linear(self.rank, inner)
        self.A_log = nn.Parameter(torch.arange(1.0, d_state + 1).log().expand(inner, -1).clone())
        self.D = nn.Parameter(torch.ones(inner))
        for parameter in (self.A_log, self.D):
            parameter._no_weight_decay = True  # type: ignore[attr-defined]
        nn.init.uniform_(self.dt_proj.weight, -(self.rank**-0.5), self.rank**-0.5)
        with torch.no_grad():
            self.dt_proj.bias.copy_(draw_dt_bias(inner))

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (B, L, c) to (B, L, D)."""
        u, gate = rearrange(self.in_proj(x), "b l d -> b d l").chunk(2, dim=1)
        u = causal_conv(u, self.conv.weight[:, 0], self.conv.bias)
        dt, B, C = self.x_proj(rearrange(u, "b d l -> b l d")).split((self.rank, self.d_state, self.d_state), dim=-1)
        # the bias of dt is added inside the scan, in float32
        delta = rearrange(F.linear(dt, self.dt_proj.weight), "b l d -> b d l")
        B, C = rearrange(B, "b l n -> b 1 n l"), rearrange(C, "b l n -> b 1 n l")
        A, bias = -torch.exp(self.A_log), self.dt_proj.bias
        y = cast(Tensor, selective_scan(u, delta, A, B, C, self.D, delta_bias=bias, delta_softplus=True))
        return rearrange(y * F.silu(gate), "b d l -> b l d")


class Mamba(nn.Module):
    """A scan over one sequence: (B, L, c) to (B, L, c)."""

    def __init__(self, width: int, **settings: int) -> None:
        super().__init__()
        self.stream = ScanStream(width, **settings)
        self.out_proj = nn.Linear(self.stream.D.numel(), width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (B, L, c) to (B, L, c)."""
        return self.out_proj(self.stream(x))


class TwoStreamMamba(nn.Module):
    """Two sequences, each scanned with its own weights, summed before one projection: (B, L, c) to (B, L, c)."""

    def __init__(self, width: int, **settings: int) -> None:
        super().__init__()
        self.stream, self.extra_stream = ScanStream(width, **settings), ScanStream(width, **settings)
        self.out_proj = nn.Linear(self.stream.D.numel(), width, bias=False)

    def forward(self, x: Tensor, extra: Tensor) -> Tensor:
        """Map tokens x and extra, both (B, L, c), to (B, L, c)."""
        return self.out_proj(self.stream(x) + self.extra_stream(extra))
