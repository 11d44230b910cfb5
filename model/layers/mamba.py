"""One-dimensional Mamba over a sequence of tokens, on top of `lemamba.model.ops.scan.selective`.

Source: A. Gu, T. Dao, "Mamba: Linear-time sequence modeling with selective state spaces" (arXiv 2312.00752), section
3.4. Legend: B batch, L length, c token width, D = 2 c inner channels, N state size, R = ceil(c / 16) rank of dt.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lemamba.model.layers.dt import draw_dt_bias
from lemamba.model.ops.causal_conv import causal_conv
from lemamba.model.ops.scan.selective import selective_scan


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
        self.A_log._no_weight_decay = self.D._no_weight_decay = True
        nn.init.uniform_(self.dt_proj.weight, -(self.rank**-0.5), self.rank**-0.5)
        with torch.no_grad():
            self.dt_proj.bias.copy_(draw_dt_bias(inner))

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (B, L, c) to (B, L, D)."""
        u, gate = self.in_proj(x).transpose(1, 2).chunk(2, dim=1)
        u = causal_conv(u, self.conv.weight[:, 0], self.conv.bias)
        dt, B, C = self.x_proj(u.transpose(1, 2)).split((self.rank, self.d_state, self.d_state), dim=-1)
        delta = F.linear(dt, self.dt_proj.weight).transpose(1, 2)  # its bias is added inside the scan, in float32
        B, C = (t.transpose(1, 2)[:, None] for t in (B, C))
        y = selective_scan(
            u, delta, -torch.exp(self.A_log), B, C, self.D, delta_bias=self.dt_proj.bias, delta_softplus=True
        )
        return (y * F.silu(gate)).transpose(1, 2)


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
    """Two sequences, each scanned with weights of its own, summed before one projection: (B, L, c) to (B, L, c)."""

    def __init__(self, width: int, **settings: int) -> None:
        super().__init__()
        self.stream, self.extra_stream = ScanStream(width, **settings), ScanStream(width, **settings)
        self.out_proj = nn.Linear(self.stream.D.numel(), width, bias=False)

    def forward(self, x: Tensor, extra: Tensor) -> Tensor:
        """Map tokens x and extra, both (B, L, c), to (B, L, c)."""
        return self.out_proj(self.stream(x) + self.extra_stream(extra))
