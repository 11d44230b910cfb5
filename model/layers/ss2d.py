"""SS2D, the two-dimensional selective scan with state sharing, and the VSS block around it.

Source: LE-Mamba (arXiv 2404.09293), building on VMamba (Liu et al., 2024) and Mamba (Gu and Dao, 2023).

Legend: B batch, H W size, c block width, D inner channels (ssm_ratio * c), K = 4 scan directions, N state size,
R = ceil(c / 16) rank of dt. Everything is channels last: (B, H, W, ·).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from lemamba.model.layers.conv import DepthwiseConv
from lemamba.model.layers.drop_path import DropPath
from lemamba.model.layers.linear import Linear
from lemamba.model.layers.mamba import draw_dt_bias
from lemamba.model.layers.window import window_merge, window_partition
from lemamba.model.ops.native.block import block as inference_block
from lemamba.model.ops.native.block import block_served
from lemamba.model.ops.native.gate import gelu_gate
from lemamba.model.ops.native.linear import linear_parts
from lemamba.model.ops.scan.cross import cross_selective_scan
from lemamba.model.ops.triton.block import Weights, block
from lemamba.model.ops.triton.block import served as fused_served
from lemamba.model.ops.triton.gate import norm_gate

K = 4
StateGrad = Literal["detached", "full"]


class GatedMlp(nn.Module):
    """Linear(c -> 2m), halves (a, b), Linear(m -> c)(a * GELU(b)), with m = mlp_ratio * c and the exact GELU."""

    def __init__(self, channels: int, mlp_ratio: float) -> None:
        super().__init__()
        hidden = int(channels * mlp_ratio)
        self.hidden = hidden
        self.fc1 = Linear(channels, 2 * hidden)
        self.fc2 = Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map x (…, c) to (…, c)."""
        a, b = self.fc1.parts(x, (self.hidden, self.hidden))
        return self.fc2(gelu_gate(a, b))


def project_state(weight: Tensor, state: Tensor) -> Tensor:
    """Apply one matrix per direction: weight (K * D, D', 1) and state (B, K * D', N) give (B, K * D, N).

    The result has the states' dtype, float32 or float64, whatever the weights' is.
    """
    W = rearrange(weight.to(state.dtype), "(k d) e 1 -> k d e", k=K)
    projected = torch.einsum("kde,bken->bkdn", W, rearrange(state, "b (k e) n -> b k e n", k=K))
    return rearrange(projected, "b k d n -> b (k d) n")


class SS2D(nn.Module):
    """Selective scan over four directions of an image, with states shared between blocks.

    Args:
        channels: width c of the block.
        d_state: state size N.
        kernel: side of the depth-wise convolution.
        ssm_ratio: D = ssm_ratio * c.
        prev_inner: inner channels D' of the block whose state is shared; None: takes no state, has no W1, G, rho.
        skip_inner: inner channels of the encoder block whose state comes through the skip; None: has no W2 and adds
            the skip state unprojected.
        state_grad: "detached" detaches the state that the scan returns (as published), "full" keeps its gradient.
    """

    FLOAT32_PARAMETERS = ("A_log", "D", "dt_bias")

    def __init__(
        self,
        channels: int,
        *,
        d_state: int,
        kernel: int,
        ssm_ratio: float,
        prev_inner: int | None = None,
        skip_inner: int | None = None,
        state_grad: StateGrad = "detached",
    ) -> None:
        super().__init__()
        D, N, R = int(ssm_ratio * channels), d_state, math.ceil(channels / 16)
        self.inner, self.d_state, self.dt_rank = D, N, R
        self.state_grad = state_grad

        self.in_proj = Linear(channels, 2 * D, bias=False)
        self.conv_norm = nn.LayerNorm(D)
        self.conv = DepthwiseConv(D, kernel)
        self.x_proj = nn.Parameter(torch.empty(K, R + 2 * N, D))
        self.dt_weight = nn.Parameter(torch.empty(K, D, R))
        self.dt_bias = nn.Parameter(torch.empty(K, D))
        self.A_log = nn.Parameter(torch.empty(K * D, N))
        self.D = nn.Parameter(torch.empty(K * D))
        self.W1: nn.Parameter | None = None
        self.G: nn.Parameter | None = None
        self.rho: nn.Parameter | None = None
        self.W2: nn.Parameter | None = None
        if prev_inner is not None:
            self.W1 = nn.Parameter(torch.empty(K * D, prev_inner, 1))
            self.G = nn.Parameter(torch.empty(K * N, D, 1))
            self.rho = nn.Parameter(torch.empty(1, K, D, 1))
        if skip_inner is not None:
            self.W2 = nn.Parameter(torch.empty(K * D, skip_inner, 1))
        self.out_norm = nn.LayerNorm(D)
        self.out_proj = Linear(D, channels, bias=False)
        for name in self.FLOAT32_PARAMETERS:
            getattr(self, name)._no_weight_decay = True
        self.on_gate: Callable[[Tensor], object] | None = None  # called with `gate_strength` in each pass; None = not
        self.reset_scan_parameters()

    @torch.no_grad()
    def reset_scan_parameters(self) -> None:
        """Draw the parameters of the scan: A = -1..-N, D = 1, dt log-uniform in [1e-3, 0.1], state weights N(0, 1)."""
        D, N, R = self.inner, self.d_state, self.dt_rank
        self.A_log.copy_(torch.arange(1, N + 1, dtype=torch.float32).log().expand(K * D, N))
        self.D.fill_(1.0)
        nn.init.uniform_(self.x_proj, -(D**-0.5), D**-0.5)
        nn.init.uniform_(self.dt_weight, -(R**-0.5), R**-0.5)
        self.dt_bias.copy_(draw_dt_bias(K, D))
        for weight in (self.W1, self.W2, self.G, self.rho):
            if weight is not None:
                nn.init.normal_(weight)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> SS2D:
        """Move or cast the module, but keep A_log, D and dt_bias in float32 or wider: bf16 would ruin the decays."""
        kept = {name: getattr(self, name).detach() for name in self.FLOAT32_PARAMETERS}
        super()._apply(fn, recurse)
        for name, before in kept.items():
            parameter = getattr(self, name)
            if parameter.dtype in (torch.float16, torch.bfloat16):
                parameter.data = before.to(parameter.device)
        return self

    def shared_state(self, prev: Tensor | None, skip: Tensor | None) -> Tensor | None:
        """Combine the previous block's state and the encoder's: s = W1 prev (+ W2 skip); (B, K * D, N) or None.

        Without a previous state the skip state is ignored; without W2 it is added unprojected.
        """
        if prev is None or self.W1 is None:
            return None
        s = project_state(self.W1, prev)
        if skip is not None:
            s = s + (skip if self.W2 is None else project_state(self.W2, skip))
        return s

    def scan(self, x: Tensor, prev: Tensor | None, skip: Tensor | None) -> tuple[Tensor, Tensor]:
        """Scan x (B, H, W, D) in four directions: y (B, H, W, D) and the last state (B, K * D, N)."""
        s = self.shared_state(prev, skip)
        # One product yields dt, Bt, Ct and the gate of all directions: all read the unmodified x.
        weight, sizes = self._pixel_weights(s)
        y, last = self._scan_parts(x, linear_parts(x, torch.cat(weight), None, sizes), s)
        return y, last.detach() if self.state_grad == "detached" else last

    def _pixel_weights(self, s: Tensor | None) -> tuple[list[Tensor], list[int]]:
        """Return the weights (·, D) that give dt, Bt, Ct and, where a state s is shared, the gate of a pixel.

        They are those of the directions one after the other, K pieces of dt, then of Bt and so on: views, so that one
        concatenation copies them. Also the sizes of dt, Bt, Ct and the gate.
        """
        R, N = self.dt_rank, self.d_state
        pieces = self.x_proj.flatten(0, 1).split((R, N, N) * K)
        weights = [piece for part in range(3) for piece in pieces[part::3]]
        if s is None or self.G is None:
            return weights, [K * R, K * N, K * N]
        return [*weights, self.G.flatten(1)], [K * R, K * N, K * N, K * N]

    def _scan_parts(self, x: Tensor, parts: Sequence[Tensor], s: Tensor | None) -> tuple[Tensor, Tensor]:
        """Scan x (B, H, W, D) with dt, Bt, Ct and perhaps the gate, (B, H, W, K * ·) each; see `scan`."""
        dt, Bt, Ct, *gate = [rearrange(part, "b h w (k n) -> b k n h w", k=K) for part in parts]
        if self.on_gate is not None and s is not None and gate:
            self.on_gate(self.gate_strength(x, gate[0], s))
        y, last = cross_selective_scan(
            rearrange(x, "b h w d -> b d h w"),
            dt,
            Bt,
            Ct,
            -torch.exp(self.A_log.to(torch.promote_types(self.A_log.dtype, torch.float32))),
            self.D,
            self.dt_weight,
            self.dt_bias.flatten(),
            shared_state=s,
            gate=gate[0] if gate else None,
            rho=None if s is None else self.rho,
        )
        return rearrange(y, "b d h w -> b h w d"), last

    def gate_strength(self, x: Tensor, gate: Tensor, s: Tensor) -> Tensor:
        """Return how much the shared state adds to what is scanned: RMS(rho * sum_n s gate) / RMS(x), a scalar.

        Args:
            x: (B, H, W, D), the input of the scan.
            gate: (B, K, N, H, W).
            s: the shared state (B, K * D, N).
        """
        assert self.rho is not None, "a block that receives a state has rho"
        added = torch.einsum("bkdn,bknhw->bkdhw", s.float().unflatten(1, (K, -1)), gate.float())
        added = added * self.rho.float()[..., None]
        return added.square().mean().sqrt() / x.float().square().mean().sqrt().clamp_min(1e-12)

    def forward(self, x: Tensor, prev: Tensor | None = None, skip: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map x (B, H, W, c) to the same shape; also return the last state (B, K * D, N)."""
        x, z = self.in_proj.parts(x, (self.inner, self.inner), apart=True)
        x = F.silu(self.conv(self.conv_norm(x)))
        y, last = self.scan(x, prev, skip)
        return self.out_proj(norm_gate(self.out_norm, y, z)), last


class VSSBlock(nn.Module):
    """x + DropPath(SS2D(LN(x))), then x + DropPath(gMLP(LN(x))); LayerNorm eps 1e-6.

    Args:
        channels: width c.
        mlp_ratio: hidden width of the gated MLP over c.
        drop_path: drop probability of both residual branches.
        **ss2d: arguments of `SS2D`.
    """

    def __init__(self, channels: int, *, mlp_ratio: float, drop_path: float = 0.0, **ss2d: Any) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels, eps=1e-6)
        self.ss2d = SS2D(channels, **ss2d)
        self.norm2 = nn.LayerNorm(channels, eps=1e-6)
        self.mlp = GatedMlp(channels, mlp_ratio)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, prev: Tensor | None = None, skip: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map x (B, H, W, c) to the same shape; also return the last state (B, K * D, N)."""
        if (fused := self._whole_block(x, 0, None, prev, skip, want_last=True)) is not None:
            return fused
        y, state = self.ss2d(self.norm1(x), prev, skip)
        x = self.drop_path.add(x, y)
        x = self.drop_path.add(x, self.mlp(self.norm2(x)))
        return x, state

    def windows(
        self, x: Tensor, window: int, factor: Tensor, prev: Tensor | None, skip: Tensor | None, *, want_last: bool
    ) -> tuple[Tensor, Tensor]:
        """Return x + factor * the block applied to each window of x (B, H, W, c), and the windows' last states.

        Args:
            x: H and W are multiples of `window`.
            window: its side.
            factor: (1, 1, 1, c).
            prev, skip: one state per window, (B * H / window * W / window, K * D', N).
            want_last: whether the states are read; else they may be an empty tensor.
        """
        if (fused := self._whole_block(x, window, factor, prev, skip, want_last=want_last)) is not None:
            return fused
        y, state = self(window_partition(x, window), prev, skip)
        return window_merge(y, (x.shape[1], x.shape[2])) * factor + x, state

    def _weights(self, factor: Tensor | None) -> Weights:
        """Return the parameters in the order of the fused kernels."""
        s, mlp = self.ss2d, self.mlp
        return Weights(
            self.norm1.weight, self.norm1.bias, s.in_proj.weight, s.conv_norm.weight, s.conv_norm.bias,
            s.conv.weight, cast(Tensor, s.conv.bias), s.x_proj, s.G, s.A_log, s.D, s.dt_weight, s.dt_bias, s.rho,
            s.out_norm.weight, s.out_norm.bias, s.out_proj.weight, self.norm2.weight, self.norm2.bias,
            mlp.fc1.weight, mlp.fc1.bias, mlp.fc2.weight, mlp.fc2.bias, factor,
        )  # fmt: skip

    def _whole_block(
        self,
        x: Tensor,
        window: int,
        factor: Tensor | None,
        prev: Tensor | None,
        skip: Tensor | None,
        *,
        want_last: bool,
    ) -> tuple[Tensor, Tensor] | None:
        """Return the result where one function serves the whole block, else None.

        That is a kernel for inference on a CPU, or the fused kernels of a GPU. Only the layers know a gate that is
        asked for.
        """
        if self.ss2d.on_gate is not None:
            return None
        weights = self._weights(factor)
        if not self.training and block_served(x, weights):
            shared, eps = self.ss2d.shared_state(prev, skip), (self.norm1.eps, self.ss2d.conv_norm.eps)
            return inference_block(x, weights, shared, window, eps=eps, want_last=want_last)
        return self._fused(x, window, prev, skip, weights) if fused_served(x, weights) else None

    def _fused(
        self, x: Tensor, window: int, prev: Tensor | None, skip: Tensor | None, weights: Weights
    ) -> tuple[Tensor, Tensor]:
        """The same on a GPU, forward and backward."""
        return block(
            x,
            weights,
            self.ss2d.shared_state(prev, skip),
            window=window,
            eps=(self.norm1.eps, self.ss2d.conv_norm.eps),
            rate=self.drop_path.rate if self.training else 0.0,
            full=self.ss2d.state_grad == "full",
        )
