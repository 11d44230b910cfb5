"""A whole VSS block on a CUDA GPU as one function, its gradient written by hand: fewer passes over memory.

What `layers/ss2d.VSSBlock` computes layer by layer: norm, in_proj, norm, convolution, SiLU, scan, norm, gate, out_proj,
residual, norm, gated MLP, residual; with windows, these are cut out and put back by the first and the last kernel. What
is computed pixel by pixel between two products is one Triton kernel (`block_kernels.py`); products and convolutions are
torch's. Sums over pixels (gradients of norms and biases) go to one buffer, line by line, and are added once, in a fixed
order. Under autocast, products and what lies between them are in the half type; norms, gates and the scan are computed
in float32 as everywhere.

Legend: B images of the scan (windows, where there are), H W their size, rows = B H W pixels in the scan's order, c
width, D inner channels, M hidden width of the MLP, K directions, N states, R rank of dt.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from lemamba.model.ops.scan.backends import backend_for
from lemamba.model.ops.scan.interface import CrossInputs
from lemamba.model.ops.triton import gate
from lemamba.model.ops.triton.launch import Call
from lemamba.model.ops.triton.launch import backward as scan_backward
from lemamba.model.ops.triton.launch import forward as scan_forward
from lemamba.operators.autocast import autocast_dtype, no_autocast

_PROGRAMS = 1024  # most that share the rows where sums are made: as many partial sums
_LEAST = 32  # rows of each of them
_BLOCK = 1024  # elements of a program that prepares weights


class Weights(NamedTuple):
    """The parameters of a block, as `VSSBlock` has them; `gate` (K N, D, 1) and `rho` go with a shared state."""

    norm1: Tensor
    norm1_bias: Tensor
    in_proj: Tensor
    conv_norm: Tensor
    conv_norm_bias: Tensor
    conv: Tensor
    conv_bias: Tensor
    x_proj: Tensor
    gate: Tensor | None
    A_log: Tensor
    D: Tensor
    dt_weight: Tensor
    dt_bias: Tensor
    rho: Tensor | None
    out_norm: Tensor
    out_norm_bias: Tensor
    out_proj: Tensor
    norm2: Tensor
    norm2_bias: Tensor
    fc1: Tensor
    fc1_bias: Tensor
    fc2: Tensor
    fc2_bias: Tensor
    factor: Tensor | None


# The operands of products and convolutions, which autocast casts.
_CAST = ("in_proj", "conv", "conv_bias", "out_proj", "fc1", "fc1_bias", "fc2", "fc2_bias")


@dataclass(frozen=True)
class Settings:
    """What is not a tensor.

    Side of the windows (0: none), eps of norm1 and norm2 and of the two inner norms, rate of stochastic depth, whether
    the last state has a gradient, whether any gradient is wanted, and the type of products.
    """

    window: int
    eps: float
    inner_eps: float
    rate: float
    full: bool
    grad: bool
    half: torch.dtype


@dataclass(frozen=True)
class _Rows:
    """The rows of a call and how kernels take them."""

    size: tuple[int, int]  # of the map that comes in
    image: tuple[int, int, int]  # B, H, W of the scan
    settings: Settings

    @property
    def count(self) -> int:
        """Return the number of rows."""
        return self.image[0] * self.image[1] * self.image[2]

    def windows(self) -> dict[str, int]:
        """Return where the rows lie in the map."""
        return {"H": self.size[0], "W": self.size[1], "WINDOW": self.settings.window}

    def depth(self) -> dict[str, Any]:
        """Return what stochastic depth needs."""
        rate = self.settings.rate
        return {"per_sample": self.image[1] * self.image[2], "scale": 1 / (1 - rate), "DROP": rate > 0}

    def parts(self, parts: Tensor) -> dict[str, int]:
        """Return how what the scan leaves apart is added: (B, K, …) or, where its kernel adds, (B, …)."""
        return {"L": self.image[1] * self.image[2], "PARTS": parts.shape[1] if parts.dim() == 4 else 1}

    def tile(self, size: int) -> dict[str, int]:
        """Return the constants of rows of `size` channels."""
        return {"D": size, **gate._tile(size)}

    def summed(self, size: int) -> dict[str, Any]:
        """Return the constants of kernels that sum over rows: half as many at a time, for want of registers."""
        tile = self.tile(size)
        return tile | {"ROWS": max(1, tile["ROWS"] // 2)} | gate.one_stage()

    def grid(self, size: int) -> tuple[int]:
        """Return the programs that take the rows once."""
        return (-(-self.count // gate._tile(size)["ROWS"]),)

    def programs(self) -> int:
        """Return the programs that share the rows where they are summed."""
        return max(1, min(_PROGRAMS, -(-self.count // _LEAST)))


def served(x: Tensor, weights: Weights, backend: str | None = None) -> bool:
    """Return whether the function takes a map x (B, H, W, c) and these parameters."""
    if not (gate.served(x) and x.numel()):
        return False
    single = all(w is None or w.dtype == torch.float32 for w in weights)
    narrow = max(weights.out_norm.shape[0], weights.fc2.shape[1], x.shape[-1]) <= gate._WIDEST
    if not (single and narrow):
        return False
    half = autocast_dtype(x.device.type)
    typed = x.dtype in (torch.float32, half)
    return typed and backend_for(backend, x.device.type, torch.float32, torch.is_grad_enabled()).name == "triton"


def _casted(weights: Weights, half: torch.dtype) -> Weights:
    """Return the weights with the operands of products in `half`: one buffer, so that one copy casts all."""
    if half == torch.float32:
        return weights
    chosen: list[Tensor] = [getattr(weights, name) for name in _CAST]
    flat = torch.cat([w.detach().flatten() for w in chosen]).to(half).split([w.numel() for w in chosen])
    return weights._replace(**{n: f.view_as(w) for n, f, w in zip(_CAST, flat, chosen, strict=True)})


def _single(gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the gradients of `_CAST` that are in a half type in float32, by one copy."""
    halves = {n: g for n, g in gradients.items() if n in _CAST and g.dtype != torch.float32}
    if not halves:
        return dict(gradients)
    flat = torch.cat([g.flatten() for g in halves.values()]).float().split([g.numel() for g in halves.values()])
    return dict(gradients) | {n: f.view_as(g) for (n, g), f in zip(halves.items(), flat, strict=True)}


def _call(r: _Rows, s: Tensor, rows: Tensor, A: Tensor, w: Weights, shared: Tensor | None) -> Call:
    """Return the call of the scan with s (rows, D), rows (rows, K (R + 2 N or 3 N)) and A."""
    K, _D, R = w.dt_weight.shape
    N = A.shape[1]
    parts = rows.view(r.image[0], -1, rows.shape[1]).split([K * R, *[K * N] * (2 if shared is None else 3)], dim=-1)
    dt, Bt, Ct, *gates = [part.unflatten(-1, (K, -1)).permute(0, 2, 3, 1) for part in parts]
    mixed = (None, None, None) if shared is None or w.rho is None else (shared, gates[0], w.rho.flatten())
    x = s.view(r.image[0], -1, s.shape[1]).transpose(1, 2)
    return Call.prepare(CrossInputs(x, dt, Bt, Ct, A, w.D, w.dt_weight, w.dt_bias.flatten(), *mixed), size=r.image[1:])


def _prepare(w: Weights, shared: Tensor | None, half: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return the joined weight of dt, Bt, Ct and the gate (·, D), and A (K D, N)."""
    from lemamba.model.ops.triton import block_kernels

    K, D, R = w.dt_weight.shape
    N = w.A_log.shape[1]
    gated = 0 if shared is None else K * N
    rows = K * (R + 2 * N) + gated
    weight, A = w.x_proj.new_empty(rows, D, dtype=half), torch.empty_like(w.A_log)
    source = w.x_proj if shared is None or w.gate is None else w.gate
    grid = (-(-max(rows * D, A.numel()) // _BLOCK),)
    block_kernels.prepare[grid](w.x_proj, source, w.A_log, weight, A, rows, gated, K=K, D=D, N=N, R=R, BLOCK=_BLOCK)
    return weight, A


def _convolution(w: Weights) -> dict[str, Any]:
    """Return the arguments of the depth-wise convolution."""
    height, width = w.conv.shape[2:]
    return {
        "stride": [1, 1], "padding": [height // 2, width // 2], "dilation": [1, 1], "transposed": False,
        "output_padding": [0, 0], "groups": w.conv.shape[0],
    }  # fmt: skip


class _Kept(NamedTuple):
    """What backward needs of forward besides inputs: `values` before the SiLU, `s` after it, `rows` of the scan."""

    n1: Tensor
    xz: Tensor
    u: Tensor
    values: Tensor
    s: Tensor
    weight: Tensor
    A: Tensor
    rows: Tensor
    saved: Tensor
    y: Tensor
    gated: Tensor
    total: Tensor
    n2: Tensor
    ab: Tensor
    h: Tensor
    branch: Tensor | None


def _forward(r: _Rows, x: Tensor, shared: Tensor | None, draws: Tensor, w: Weights) -> tuple[Tensor, Tensor, _Kept]:
    """Return the block's result, the last state and what backward needs; the weights of products are in `half`."""
    from lemamba.model.ops.triton import block_kernels, gate_kernels

    half, s, c, D, M = r.settings.half, r.settings, x.shape[-1], w.out_norm.shape[0], w.fc2.shape[1]
    new, windows, narrow, wide = x.new_empty, r.windows(), r.tile(c), r.tile(D)
    n1 = new((r.count, c), dtype=half)
    block_kernels.norm_rows[r.grid(c)](x, w.norm1, w.norm1_bias, n1, c, r.count, s.eps, **windows, **narrow)
    xz = torch.mm(n1, w.in_proj.t())
    u = new((r.count, D), dtype=half)
    flat = {"H": 1, "W": 1, "WINDOW": 0}
    block_kernels.norm_rows[r.grid(D)](
        xz, w.conv_norm, w.conv_norm_bias, u, 2 * D, r.count, s.inner_eps, **flat, **wide
    )
    image = u.view(*r.image, D).permute(0, 3, 1, 2)
    values = torch.convolution(image, w.conv, w.conv_bias, **_convolution(w)).permute(0, 2, 3, 1).contiguous()
    activated = F.silu(values).reshape(r.count, D)
    weight, A = _prepare(w, shared, half)
    rows = torch.mm(activated, weight.t())
    parts, last, saved = scan_forward(_call(r, activated, rows, A, w, shared), s.grad, apart=True)
    y, gated = new((r.count, D), dtype=half), new((r.count, D), dtype=half)
    block_kernels.norm_gate[r.grid(D)](
        parts, xz[:, D:], w.out_norm, w.out_norm_bias, y, gated, 2 * D, r.count, eps=s.inner_eps,
        **r.parts(parts), **wide,
    )  # fmt: skip
    total, n2 = new((r.count, c)), new((r.count, c), dtype=half)
    block_kernels.add_norm[r.grid(c)](
        x, torch.mm(gated, w.out_proj.t()), draws[0], w.norm2, w.norm2_bias, total, n2, r.count, eps=s.eps,
        **r.depth(), **windows, **narrow,
    )  # fmt: skip
    ab = torch.addmm(w.fc1_bias, n2, w.fc1.t())
    h = new((r.count, M), dtype=half)
    gate_kernels.gelu_forward[(-(-h.numel() // _BLOCK),)](ab, ab[:, M:], h, 2 * M, 2 * M, h.numel(), M=M, BLOCK=_BLOCK)
    branch = torch.addmm(w.fc2_bias, h, w.fc2.t())
    out = torch.empty_like(x)
    factor = x if w.factor is None else w.factor
    block_kernels.finish[r.grid(c)](
        x, total, branch, draws[1], factor, out, r.count, **r.depth(), **windows, **narrow
    )  # fmt: skip
    own = branch if s.window else None
    kept = _Kept(n1, xz, u, values, activated, weight, A, rows, saved, y, gated, total, n2, ab, h, own)
    return out, last, kept


class _Sums:
    """Sums over rows of several kernels, one line of columns a program."""

    def __init__(self, r: _Rows, sizes: dict[str, int], like: Tensor) -> None:
        self.programs, self.sizes = r.programs(), sizes
        self.lines = like.new_empty((self.programs, sum(sizes.values())), dtype=torch.float32)
        self.starts = dict(zip(sizes, self.lines.split(list(sizes.values()), dim=1), strict=True))

    def at(self, name: str) -> dict[str, Any]:
        """Return where the columns from `name` on are written."""
        return {"sums": self.starts[name], "sums_row": self.lines.stride(0)}

    def added(self) -> dict[str, Tensor]:
        """Return the sums."""
        return dict(zip(self.sizes, self.lines.sum(0).split(list(self.sizes.values())), strict=True))


def _backward(
    r: _Rows, gout: Tensor, glast: Tensor | None, x: Tensor, shared: Tensor | None, draws: Tensor, w: Weights, k: _Kept
) -> dict[str, Tensor | None]:
    """Return the gradients of x, shared and the weights by name."""
    from lemamba.model.ops.triton import block_kernels, gate_kernels

    s, c, D, M = r.settings, x.shape[-1], w.out_norm.shape[0], w.fc2.shape[1]
    half, new, windows, narrow, wide = s.half, x.new_empty, r.windows(), r.summed(c), r.summed(D)
    flat, factor = {"H": 1, "W": 1, "WINDOW": 0}, x if w.factor is None else w.factor
    names = ("norm1", "norm1_bias", "conv_norm", "conv_norm_bias", "out_norm", "out_norm_bias", "norm2", "norm2_bias")
    sizes = {n: getattr(w, n).numel() for n in (*names, "fc2_bias")}
    sums = _Sums(r, sizes | ({"factor": c} if s.window else {}) | {"fc1_bias": 2 * M}, x)
    grid, g = (sums.programs,), {}
    # the MLP
    gbranch = new((r.count, c), dtype=half)
    block_kernels.finish_backward[grid](
        gout, k.total, k.total if k.branch is None else k.branch, draws[1], factor, gbranch, **sums.at("fc2_bias"),
        count=r.count, **r.depth(), **windows, **narrow,
    )  # fmt: skip
    gh, g["fc2"] = torch.mm(gbranch, w.fc2), torch.mm(gbranch.t(), k.h)
    gab = new((r.count, 2 * M), dtype=half)
    block_kernels.gelu_backward_sums[grid](
        gh, k.ab, k.ab[:, M:], gab, a_row=2 * M, b_row=2 * M, **sums.at("fc1_bias"), count=r.count, **r.summed(M)
    )
    gn2, g["fc1"] = torch.mm(gab, w.fc1), torch.mm(gab.t(), k.n2)
    gtotal, gbranch = new((r.count, c)), new((r.count, c), dtype=half)
    block_kernels.norm_rows_backward[grid](
        gn2, k.total, w.norm2, gtotal, gout, factor, draws[0], gtotal, gbranch, **sums.at("norm2"), x_row=c, gx_row=c,
        count=r.count, eps=s.eps, **r.depth(), **windows, **narrow,
        GATHER=False, MORE=False, RESIDUAL=True, FACTOR=s.window > 0, BRANCH=True,
    )  # fmt: skip
    # the scan
    ggated, g["out_proj"] = torch.mm(gbranch, w.out_proj), torch.mm(gbranch.t(), k.gated)
    gxz, gy = new((r.count, 2 * D), dtype=half), new((r.count, D), dtype=k.y.dtype)
    gate_kernels.norm_backward[grid](
        ggated, k.y, k.xz[:, D:], w.out_norm, w.out_norm_bias, gy, gxz[:, D:], y_row=k.y.stride(0), z_row=2 * D,
        gz_row=2 * D, **sums.at("out_norm"), count=r.count, eps=s.inner_eps, **wide,
    )  # fmt: skip
    gy = gy.view(r.image[0], -1, D).transpose(1, 2)
    scanned = scan_backward(_call(r, k.s, k.rows, k.A, w, shared), gy, glast, k.saved, apart=True)
    grows = scanned["rows"].view(r.count, -1)
    g |= _prepared(w, torch.mm(grows.t(), k.s), scanned["A"], k.A, shared)
    g |= {n: scanned[n] for n in ("D", "dt_weight")} | {"dt_bias": scanned["dt_bias"].view_as(w.dt_bias)}
    if shared is not None and w.rho is not None:
        g |= {"shared": scanned["shared_state"], "rho": scanned["rho"].view_as(w.rho)}
    # the convolution
    gvalues = new((*r.image, D), dtype=half)
    block_kernels.silu_backward[r.grid(D)](
        scanned["x"], torch.mm(grows, k.weight), k.values, gvalues, r.count, **r.parts(scanned["x"]), **r.tile(D)
    )
    image = k.u.view(*r.image, D).permute(0, 3, 1, 2)
    gu, g["conv"], g["conv_bias"] = torch.ops.aten.convolution_backward(
        gvalues.permute(0, 3, 1, 2), image, w.conv, [D], **_convolution(w), output_mask=[True, True, True]
    )
    gu, _row = gate.rows_of(gu.permute(0, 2, 3, 1).contiguous())
    block_kernels.norm_rows_backward[grid](
        gu, k.xz, w.conv_norm, gu, gu, gu, gu, gxz, gu, **sums.at("conv_norm"), x_row=2 * D, gx_row=2 * D,
        count=r.count, eps=s.inner_eps, per_sample=1, scale=1.0, DROP=False, **flat, **wide,
        GATHER=False, MORE=False, RESIDUAL=False, FACTOR=False, BRANCH=False,
    )  # fmt: skip
    gn1, g["in_proj"] = torch.mm(gxz, w.in_proj), torch.mm(gxz.t(), k.n1)
    gx = torch.empty_like(x)
    block_kernels.norm_rows_backward[grid](
        gn1, x, w.norm1, gtotal, gout, gout, gout, gx, gx, **sums.at("norm1"), x_row=c, gx_row=c, count=r.count,
        eps=s.eps, per_sample=1, scale=1.0, DROP=False, **windows, **narrow,
        GATHER=s.window > 0, MORE=True, RESIDUAL=s.window > 0, FACTOR=False, BRANCH=False,
    )  # fmt: skip
    added = sums.added()
    if w.factor is not None:
        added["factor"] = added["factor"].view_as(w.factor)
    found: dict[str, Tensor | None] = {**_single(g), "x": gx, **added}
    return found


def _prepared(w: Weights, gweight: Tensor, gA: Tensor, A: Tensor, shared: Tensor | None) -> dict[str, Tensor]:
    """Return the gradients of x_proj, the gate and A_log from those of what `_prepare` made."""
    from lemamba.model.ops.triton import block_kernels

    K, D, R = w.dt_weight.shape
    N = A.shape[1]
    g = {"x_proj": torch.empty_like(w.x_proj), "A_log": torch.empty_like(A)}
    grid = (-(-max(w.x_proj.numel(), A.numel()) // _BLOCK),)
    block_kernels.prepare_backward[grid](gweight, gA, A, *g.values(), K=K, D=D, N=N, R=R, BLOCK=_BLOCK)
    if shared is not None and w.gate is not None:
        g["gate"] = gweight[-K * N :].to(w.gate.dtype).view_as(w.gate)
    return g


class _Block(torch.autograd.Function):
    """The block with its gradient."""

    @staticmethod
    def forward(
        ctx: Any, r: _Rows, draws: Tensor, x: Tensor, shared: Tensor | None, *parameters: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        weights = _casted(Weights(*cast(Any, parameters)), r.settings.half)
        with no_autocast(x.device.type), torch.cuda.device_of(x):
            out, last, kept = _forward(r, x, shared, draws, weights)
        if not r.settings.full:
            ctx.mark_non_differentiable(last)
        ctx.set_materialize_grads(False)
        ctx.rows, tensors = r, (draws, x, shared, *weights, *kept)
        ctx.given = [t is not None for t in tensors]
        ctx.save_for_backward(*(t for t in tensors if t is not None))
        return out, last

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gout: Tensor | None, glast: Tensor | None) -> tuple[Tensor | None, ...]:
        found = iter(ctx.saved_tensors)
        tensors: list[Any] = [next(found) if given else None for given in ctx.given]
        draws, x, shared, *others = tensors
        size = len(Weights._fields)
        weights, kept = Weights(*others[:size]), _Kept(*others[size:])
        gout = torch.zeros_like(x) if gout is None else gout.contiguous()
        with torch.cuda.device_of(x):
            g = _backward(ctx.rows, gout, glast, x, shared, draws, weights, kept)
        return None, None, g["x"], g.get("shared"), *(g.get(name) for name in Weights._fields)


def block(
    x: Tensor,
    weights: Weights,
    shared: Tensor | None,
    *,
    window: int,
    eps: tuple[float, float],
    rate: float,
    full: bool,
) -> tuple[Tensor, Tensor]:
    """Run a block on a map that `served` accepts.

    Args:
        x: (B, H, W, c); with a window H and W are multiples of it.
        weights: of the block; `factor` (1, 1, 1, c) goes with a window.
        shared: state that is mixed in, (images of the scan, K D, N), or None.
        window: its side; 0: the scan runs over the whole map.
        eps: of norm1 and norm2, and of the two norms inside.
        rate: of stochastic depth, 0 in evaluation.
        full: let a gradient arrive through the last state.

    Returns:
        The result (B, H, W, c), of windows x + factor * that of each, and the last states (images, K D, N).
    """
    batch, height, width, _ = x.shape
    across = (height // window) * (width // window) if window else 1
    image = (batch * across, window or height, window or width)
    half = autocast_dtype(x.device.type) or torch.float32
    settings = Settings(window, eps[0], eps[1], rate, full, torch.is_grad_enabled(), half)
    draws = x.new_empty((2, image[0]), dtype=torch.float32)
    draws = draws.bernoulli_(1 - rate) if rate else draws
    shared = None if weights.gate is None or shared is None else shared.contiguous()
    return _Block.apply(_Rows((height, width), image, settings), draws, x.contiguous(), shared, *weights)
