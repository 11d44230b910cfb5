"""Launch the Triton kernels: rows in memory, buffers, the passes over chunks, forward and backward.

One `Call` serves the plain scan and the four-direction scan; what they differ in is flags. All images are flat here:
x (B, D, L) or (B, K, D, L), dt (B, K, R or D, L), B, C, gate (B, K, N, L). The kernels want channels side by side in
memory; other layouts are copied, half types stay half. Partial sums are added here, in a fixed order.

Legend: see `plan.py`; tasks are (b, k, chunk).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lemamba.model.ops.triton.plan import (
    Config,
    Shape,
    channel_blocks,
    chunk_length,
    interpreted,
    steps,
    tile,
    vector,
)  # fmt: skip
from lemamba.model.ops.triton.tune import choose

# Products and sums fuse whatever the Triton at hand does by default: half the arithmetic of these kernels.
OPTIONS = {"num_warps": 1, "num_stages": 1, "enable_fp_fusion": True}
_FAR = 2**31 - 1  # distances beyond this need 64-bit arithmetic in the kernels


def packed(x: Tensor) -> Tensor:
    """Return x (…, C, L) with its channels side by side, rows beginning where vectors may: itself or a copy."""
    unit = vector(x.shape[-2])
    aligned = x.data_ptr() % (unit * x.element_size()) == 0
    side_by_side = x.stride(-2) == 1 or x.shape[-2] == 1
    if side_by_side and aligned and all(s % unit == 0 for i, s in enumerate(x.stride()) if i != x.dim() - 2):
        return x
    return x.transpose(-1, -2).clone(memory_format=torch.contiguous_format).transpose(-1, -2)


def table(x: Tensor) -> Tensor:
    """Return a parameter or state as contiguous float32 that begins where vectors may (slices of one buffer do not)."""
    x = x.detach().float().contiguous()
    return x if x.data_ptr() % 16 == 0 else x.clone()


@dataclass(frozen=True)
class Call:
    """The tensors of a call, packed, and its kind. Tables and states are contiguous float32.

    weight, shared, gate, rho and initial may be None; `size` is (H, W) of an image, (0, 0) of a sequence.
    """

    x: Tensor
    dt: Tensor
    B: Tensor
    C: Tensor
    A: Tensor
    skip: Tensor
    bias: Tensor
    weight: Tensor | None
    shared: Tensor | None
    gate: Tensor | None
    rho: Tensor | None
    initial: Tensor | None
    softplus: bool
    size: tuple[int, int]

    @staticmethod
    def prepare(**given) -> Call:
        """Pack the rows, make the tables contiguous."""
        rows = {n: packed(given[n].detach()) for n in ("x", "dt", "B", "C", "gate") if given.get(n) is not None}
        tables = ("A", "skip", "bias", "weight", "shared", "rho", "initial")
        held = {n: table(given[n]) for n in tables if given.get(n) is not None}
        if "weight" in held:
            held["weight"] = held["weight"].transpose(1, 2).contiguous()  # (K, R, D): a lane's channels side by side
        return Call(**{**given, **rows, **held})

    def shape(self, backward: bool) -> Shape:
        """Return the sizes a configuration is chosen by."""
        batch, K, N, L = self.B.shape
        R = 0 if self.weight is None else self.dt.shape[2]
        half = self.x.element_size() < 4
        cross, share = self.size[0] > 0, self.gate is not None
        return Shape(batch, K, self.x.shape[-2], N, R, L, cross, share, half, backward)

    def new(self, *sizes: int) -> Tensor:
        """Return an uninitialised float32 tensor."""
        return self.x.new_empty(sizes, dtype=torch.float32)


def saved_shape(shape: Shape) -> tuple[int, ...]:
    """Return the shape of what forward keeps."""
    return (shape.B, shape.K, -(-shape.L // steps(shape.L)), shape.D, shape.N)


def saved_type(x: Tensor) -> torch.dtype:
    """Return the type in which forward keeps states: half the memory where the inputs are no more precise."""
    return torch.bfloat16 if x.element_size() < 4 else torch.float32


def _strides(x: Tensor | None, unit: int) -> tuple[int, int, int]:
    """Return the distances between samples, groups and pixels in units; 0 between groups where there is one for all."""
    if x is None:
        return (0, 0, 0)
    group = x.stride(1) if x.dim() == 4 else 0
    return (x.stride(0) // unit, group // unit, x.stride(-1) // unit)


class Plan:
    """One configuration of one call: grid, sizes and flags that all kernels take; `more`: rows beyond the call's."""

    def __init__(self, call: Call, shape: Shape, config: Config, *more: Tensor) -> None:
        self.call, self.shape, self.config = call, shape, config
        self.length = chunk_length(shape, config)
        self.chunks = -(-shape.L // self.length)
        self.blocks = channel_blocks(shape, config)
        self.tasks = (shape.B, shape.K, self.chunks)
        self.unit_n, self.unit_d = vector(shape.N), vector(shape.D)
        self.unit_s = self.unit_d if shape.R == 0 else 1
        sizes = tile(shape, config)
        rows = [t for t in (call.x, call.dt, call.B, call.C, call.gate, *more) if t is not None]
        far = shape.L * max(shape.D, shape.N, shape.R, *(t.stride(-1) for t in rows)) > _FAR
        self.path = {"L": shape.L, "H": max(call.size[0], 1), "W": max(call.size[1], 1), "length": self.length,
                     "chunks": self.chunks}  # fmt: skip
        self.flags = {
            "K": shape.K, "CH": shape.D, "N": shape.N, "R": shape.R,
            "CROSS": shape.cross, "SOFTPLUS": call.softplus, "WIDE": far, **sizes, "BT": steps(shape.L),
            "MASK_N": sizes["RN"] * sizes["PN"] != shape.N, "MASK_D": shape.D % (sizes["RD"] * sizes["PD"]) != 0,
            "VEC_N": self.unit_n, "VEC_D": self.unit_d, "VEC_S": self.unit_s,
        }  # fmt: skip
        self.options = {} if interpreted() else OPTIONS

    def rows(self, *names: str) -> list[int]:
        """Return the strides of rows: x dt B C gate of the call."""
        unit = {"x": self.unit_d, "dt": self.unit_s}
        return [s for n in names for s in _strides(getattr(self.call, n), unit.get(n, self.unit_n))]

    def grid(self, merge: bool) -> tuple[int]:
        """Return the number of programs."""
        return (self.shape.B * (1 if merge else self.shape.K) * self.chunks * self.blocks,)

    def carry(self, first: Tensor | None, sums: Tensor, ends: Tensor, back: bool) -> None:
        """Turn the chunks' ends into their starts, in place."""
        from lemamba.model.ops.triton.forward import carry_kernel

        width = 1024 if interpreted() else 128
        grid = (self.shape.B * self.shape.K, -(-self.shape.D * self.shape.N // width))
        carry_kernel[grid](
            self.call.A, self.call.A if first is None else first, sums, ends, self.chunks,
            K=self.shape.K, CH=self.shape.D, N=self.shape.N, FIRST=first is not None, BACK=back, BLOCK=width,
            **({} if interpreted() else {"enable_fp_fusion": True}),
        )  # fmt: skip


def _forward_pass(plan: Plan, initial, y, last, saved, sums, out: bool) -> None:
    """Run the forward kernel once over all chunks."""
    from lemamba.model.ops.triton.forward import forward_kernel

    c, none, merge = plan.call, plan.call.A, plan.config.merge
    tensors = [c.weight, c.shared, c.gate, c.rho, initial, y, saved, sums]
    weight, shared, gate, rho, start, result, keep, totals = (none if t is None else t for t in tensors)
    forward_kernel[plan.grid(merge)](
        c.x, c.dt, c.B, c.C, gate, c.A, c.skip, weight, c.bias, shared, rho, start, result, last, keep, totals,
        *plan.rows("x", "dt", "B", "C", "gate"), *_strides(y, plan.unit_d), **plan.path, **plan.flags,
        SHARE=plan.shape.share, INITIAL=initial is not None, SAVE=saved is not None, OUT=out, SUM=merge,
        **plan.options,
    )  # fmt: skip


def _forward(plan: Plan, dtype: torch.dtype, save: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return y (B, D, L) of an image or (B, K, D, L) of sequences, the last state, and the kept states."""
    call, s = plan.call, plan.shape
    one = plan.config.merge
    y = torch.empty(
        (s.B, s.L, s.D) if one else (s.B, s.K, s.L, s.D), device=call.x.device,
        dtype=torch.float32 if s.cross else dtype,
    ).transpose(-1, -2)  # fmt: skip
    last = call.new(*plan.tasks, s.D, s.N)
    saved = call.x.new_empty(saved_shape(s), dtype=saved_type(call.x)) if save else None
    initial = call.initial
    if plan.chunks > 1:
        sums, starts = call.new(*plan.tasks, s.D), torch.empty_like(last)
        _forward_pass(plan, None, None, starts, None, sums, False)
        plan.carry(initial, sums, starts, False)
        initial = starts
    _forward_pass(plan, initial, y, last, saved, None, True)
    if s.cross:
        y = (y if one else y.sum(1)).to(dtype)
    return y, last[:, :, -1].reshape(s.B, s.K * s.D, s.N), saved


def forward(call: Call, dtype: torch.dtype, save: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Run forward: y in `dtype` as of `_forward`, last (B, K*D, N), saved (empty unless `save`)."""
    shape = call.shape(False)
    with torch.cuda.device_of(call.x):  # Triton launches on the current device
        config = choose(shape, lambda c: _forward(Plan(call, shape, c), dtype, save))
        y, last, saved = _forward(Plan(call, shape, config), dtype, save)
    return y, last, call.x.new_empty(0, dtype=saved_type(call.x)) if saved is None else saved


def _arriving(plan: Plan, gy: Tensor, glast: Tensor | None) -> Tensor | None:
    """Return the gradient of the state after each chunk, or None for zero."""
    if plan.chunks == 1:
        return glast
    from lemamba.model.ops.triton.forward import reverse_kernel

    c, s = plan.call, plan.shape
    ends, sums = c.new(*plan.tasks, s.D, s.N), c.new(*plan.tasks, s.D)
    reverse_kernel[plan.grid(False)](
        c.dt, c.C, gy, c.A, c.A if c.weight is None else c.weight, c.bias, ends, sums,
        *plan.rows("dt", "C"), *_strides(gy, plan.unit_d), **plan.path, **plan.flags, **plan.options,
    )  # fmt: skip
    plan.carry(glast, sums, ends, True)
    return ends


def _backward(plan: Plan, gy: Tensor, glast: Tensor | None, saved: Tensor) -> dict[str, Tensor]:
    """Return all gradients by name, in the shapes of the call's tensors."""
    from lemamba.model.ops.triton.backward import backward_kernel

    c, s, merge, blocks = plan.call, plan.shape, plan.config.merge, plan.blocks
    arriving = _arriving(plan, gy, glast)
    pixels, tasks, none = (s.B, s.K, s.L), plan.tasks, c.A
    gx = torch.empty(
        (s.B, s.L, s.D) if merge else (*pixels, s.D), device=gy.device, dtype=torch.float32 if s.cross else c.x.dtype
    )
    gdt = c.new(blocks, *pixels, s.R) if s.R else torch.empty((*pixels, s.D), device=gy.device, dtype=c.dt.dtype)
    gB, gC = c.new(blocks, *pixels, s.N), c.new(blocks, *pixels, s.N)
    gA, leaving, gD, gbias = c.new(*tasks, s.D, s.N), c.new(*tasks, s.D, s.N), c.new(*tasks, s.D), c.new(*tasks, s.D)
    gweight = c.new(*tasks, s.R, s.D) if s.R else none
    ggate, gshared, grho = (
        (c.new(blocks, *pixels, s.N), c.new(*tasks, s.D, s.N), c.new(*tasks, s.D)) if s.share else (none, none, none)
    )
    optional = (none if t is None else t for t in (c.weight, c.shared, c.gate, c.rho, arriving))
    weight, shared, gate, rho, arrives = optional
    backward_kernel[plan.grid(merge)](
        c.x, c.dt, c.B, c.C, gate, c.A, c.skip, weight, c.bias, shared, rho, saved, gy, arrives,
        gx, gdt, gB, gC, ggate, gA, gD, gweight, gbias, gshared, grho, leaving,
        *plan.rows("x", "dt", "B", "C", "gate"), *_strides(gy, plan.unit_d), **plan.path, **plan.flags,
        SHARE=s.share, ARRIVING=arriving is not None, SUM=merge, **plan.options,
    )  # fmt: skip

    def total(g: Tensor, like: Tensor) -> Tensor:
        """Add up channel blocks: rows (B, K, C, L)."""
        return (g[0] if g.shape[0] == 1 else g.sum(0)).to(like.dtype).transpose(-1, -2)

    gx = gx.sum(1) if s.cross and not merge else gx
    grads = {
        "x": gx.to(c.x.dtype).transpose(-1, -2), "dt": total(gdt, c.dt) if s.R else gdt.transpose(-1, -2),
        "B": total(gB, c.B), "C": total(gC, c.C), "A": gA.sum((0, 2)).view_as(c.A),
        "skip": gD.sum((0, 2)).flatten(), "bias": gbias.sum((0, 2)).flatten(),
    }  # fmt: skip
    if s.R:
        grads["weight"] = gweight.sum((0, 2)).transpose(1, 2).contiguous()
    if s.share:
        grads |= {"shared": gshared.sum(2).flatten(1, 2), "gate": total(ggate, c.gate)}
        grads["rho"] = grho.sum((0, 2)).flatten()
    if c.initial is not None:
        grads["initial"] = leaving[:, :, 0].reshape(s.B, s.K * s.D, s.N)
    return grads


def backward(call: Call, gy: Tensor, glast: Tensor | None, saved: Tensor) -> dict[str, Tensor]:
    """Run backward: gradients of the call's tensors by name; gy as y, glast (B, K*D, N) or None."""
    gy = packed(gy.detach())
    glast = None if glast is None else table(glast)
    shape = call.shape(True)
    with torch.cuda.device_of(call.x):
        config = choose(shape, lambda c: _backward(Plan(call, shape, c, gy), gy, glast, saved))
        return _backward(Plan(call, shape, config, gy), gy, glast, saved)
