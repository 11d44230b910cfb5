"""Launch the Triton kernels: rows in memory, buffers, the passes over chunks, forward and backward.

One `Call` serves both scans, which differ in flags: to the kernels the plain scan is a `CrossInputs` of sequences whose
dt_weight is empty. All images are flat here: x (B, D, L) or (B, K, D, L), dt (B, K, R or D, L), Bt, Ct, gate
(B, K, N, L). The kernels need channels side by side in memory; other layouts are copied, half types stay half. Partial
sums are added here, in a fixed order.

Legend: see `plan.py`; tasks are (b, k, chunk).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lemamba.model.ops.scan.interface import SEQUENCES, CrossInputs, given, replace_tensors
from lemamba.model.ops.triton.plan import (
    Config,
    Shape,
    channel_blocks,
    chunk_length,
    interpreted,
    steps,
    tile,
    vector,
)
from lemamba.model.ops.triton.tune import choose

# Fuse products and sums, whatever this version of Triton does by default: half the arithmetic of these kernels.
OPTIONS = {"num_warps": 1, "num_stages": 1, "enable_fp_fusion": True}
_FAR = 2**31 - 1  # distances beyond this need 64-bit arithmetic in the kernels


def packed(x: Tensor) -> Tensor:
    """Return x (…, C, L) with its channels side by side, rows aligned for vector loads: itself or a copy."""
    unit = vector(x.shape[-2])
    aligned = x.data_ptr() % (unit * x.element_size()) == 0
    side_by_side = x.stride(-2) == 1 or x.shape[-2] == 1
    if side_by_side and aligned and all(s % unit == 0 for i, s in enumerate(x.stride()) if i != x.dim() - 2):
        return x
    return x.transpose(-1, -2).clone(memory_format=torch.contiguous_format).transpose(-1, -2)


def table(x: Tensor) -> Tensor:
    """Return a parameter or state as contiguous float32, aligned for vector loads (slices of one buffer are not)."""
    x = x.detach().float().contiguous()
    return x if x.data_ptr() % 16 == 0 else x.clone()


@dataclass(frozen=True)
class Call:
    """The inputs of a call, packed; parameters and states are contiguous float32.

    The weight of dt is (K, R, D), with R = 0 where dt are the step sizes themselves; `size` is (H, W) of an image,
    (0, 0) of sequences.
    """

    inputs: CrossInputs
    initial_state: Tensor | None
    softplus: bool
    size: tuple[int, int]

    @staticmethod
    def prepare(
        inputs: CrossInputs,
        initial_state: Tensor | None = None,
        softplus: bool = True,
        size: tuple[int, int] = (0, 0),
    ) -> Call:
        """Pack the inputs, those of an image already flat: (…, L) in place of (…, H, W)."""
        inputs = replace_tensors(inputs, lambda name, t: packed(t.detach()) if name in SEQUENCES else table(t))
        weight = inputs.dt_weight.transpose(1, 2).contiguous()  # the channels of a lane side by side
        initial_state = None if initial_state is None else table(initial_state)
        return Call(inputs._replace(dt_weight=weight), initial_state, softplus, size)

    def pointers(self) -> list[Tensor]:
        """Return the inputs in their order, for a kernel; A in place of those it does not read."""
        return [self.inputs.A if t is None or not t.numel() else t for t in self.inputs]

    def shape(self, backward: bool) -> Shape:
        """Return the sizes a configuration is chosen by."""
        x, Bt = self.inputs.x, self.inputs.Bt
        batch, K, N, L = Bt.shape
        R, cross, share = self.inputs.dt_weight.shape[1], self.size[0] > 0, self.inputs.gate is not None
        return Shape(batch, K, x.shape[-2], N, R, L, cross, share, x.element_size() < 4, backward)

    def new(self, *sizes: int) -> Tensor:
        """Return an uninitialised float32 tensor."""
        return self.inputs.x.new_empty(sizes, dtype=torch.float32)


def saved_shape(shape: Shape) -> tuple[int, ...]:
    """Return the shape of what forward keeps."""
    return (shape.B, shape.K, -(-shape.L // steps(shape.L)), shape.D, shape.N)


def saved_type(x: Tensor) -> torch.dtype:
    """Return the dtype in which forward keeps states: half the memory where the inputs are no more precise."""
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
        rows = [t for name, t in given(call.inputs).items() if name in SEQUENCES]
        far = shape.L * max(shape.D, shape.N, shape.R, *(t.stride(-1) for t in (*rows, *more))) > _FAR
        height, width = call.size
        self.path = {"L": shape.L, "H": max(height, 1), "W": max(width, 1)}
        self.path |= {"length": self.length, "chunks": self.chunks}
        self.flags = {"K": shape.K, "CH": shape.D, "N": shape.N, "R": shape.R, **sizes, "BT": steps(shape.L)}
        self.flags |= {"CROSS": shape.cross, "SOFTPLUS": call.softplus, "WIDE": far}
        self.flags["MASK_N"] = sizes["RN"] * sizes["PN"] != shape.N
        self.flags["MASK_D"] = shape.D % (sizes["RD"] * sizes["PD"]) != 0
        self.flags |= {"VEC_N": self.unit_n, "VEC_D": self.unit_d, "VEC_S": self.unit_s}
        self.options = {} if interpreted() else OPTIONS

    def rows(self, *names: str) -> list[int]:
        """Return the strides of inputs: of all that have rows, or of those named."""
        unit = {"x": self.unit_d, "dt": self.unit_s}
        names = names or ("x", "dt", "Bt", "Ct", "gate")
        return [s for n in names for s in _strides(getattr(self.call.inputs, n), unit.get(n, self.unit_n))]

    def grid(self, merge: bool) -> tuple[int]:
        """Return the number of programs."""
        return (self.shape.B * (1 if merge else self.shape.K) * self.chunks * self.blocks,)

    def carry(self, first: Tensor | None, sums: Tensor, ends: Tensor, back: bool) -> None:
        """Turn the chunks' ends into their starts, in place."""
        from lemamba.model.ops.triton.forward import carry_kernel

        width, A = 1024 if interpreted() else 128, self.call.inputs.A
        sizes = {"K": self.shape.K, "CH": self.shape.D, "N": self.shape.N, "BLOCK": width}
        options = {} if interpreted() else {"enable_fp_fusion": True}
        grid = (self.shape.B * self.shape.K, -(-self.shape.D * self.shape.N // width))
        start = A if first is None else first
        carry_kernel[grid](A, start, sums, ends, self.chunks, FIRST=first is not None, BACK=back, **sizes, **options)


def _forward_pass(
    plan: Plan,
    initial: Tensor | None,
    y: Tensor | None,
    last: Tensor,
    saved: Tensor | None,
    sums: Tensor | None,
) -> None:
    """Run the forward kernel once over all chunks; without `y` for the ends of the chunks only."""
    from lemamba.model.ops.triton.forward import forward_kernel

    call, merge = plan.call, plan.config.merge
    start, result, keep, totals = (call.inputs.A if t is None else t for t in (initial, y, saved, sums))
    forward_kernel[plan.grid(merge)](
        *call.pointers(), start, result, last, keep, totals,
        *plan.rows(), *_strides(y, plan.unit_d), **plan.path, **plan.flags, **plan.options,
        SHARE=plan.shape.share, INITIAL=initial is not None, SAVE=saved is not None, OUT=y is not None, SUM=merge,
    )  # fmt: skip


def _forward(plan: Plan, dtype: torch.dtype, save: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return y (B, D, L) of an image or (B, K, D, L) of sequences, the last state, and the kept states."""
    call, s, merged, x = plan.call, plan.shape, plan.config.merge, plan.call.inputs.x
    sizes = (s.B, s.L, s.D) if merged else (s.B, s.K, s.L, s.D)
    y = x.new_empty(sizes, dtype=torch.float32 if s.cross else dtype).transpose(-1, -2)
    last = call.new(*plan.tasks, s.D, s.N)
    saved = x.new_empty(saved_shape(s), dtype=saved_type(x)) if save else None
    initial = call.initial_state
    if plan.chunks > 1:
        sums, starts = call.new(*plan.tasks, s.D), torch.empty_like(last)
        _forward_pass(plan, None, None, starts, None, sums)
        plan.carry(initial, sums, starts, False)
        initial = starts
    _forward_pass(plan, initial, y, last, saved, None)
    if s.cross:
        y = (y if merged else y.sum(1)).to(dtype)
    return y, last[:, :, -1].reshape(s.B, s.K * s.D, s.N), saved


def forward(call: Call, save: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Run forward: y in x's dtype as of `_forward`, last (B, K*D, N), saved (empty unless `save`)."""
    x, shape = call.inputs.x, call.shape(False)
    with torch.cuda.device_of(x):  # Triton launches on the current device
        config = choose(shape, lambda c: _forward(Plan(call, shape, c), x.dtype, save))
        y, last, saved = _forward(Plan(call, shape, config), x.dtype, save)
    return y, last, x.new_empty(0, dtype=saved_type(x)) if saved is None else saved


def _arriving(plan: Plan, gy: Tensor, glast: Tensor | None) -> Tensor | None:
    """Return the gradient of the state after each chunk, or None for zero."""
    if plan.chunks == 1:
        return glast
    from lemamba.model.ops.triton.forward import reverse_kernel

    call, s = plan.call, plan.shape
    ends, sums = call.new(*plan.tasks, s.D, s.N), call.new(*plan.tasks, s.D)
    reverse_kernel[plan.grid(False)](
        *call.pointers(), gy, ends, sums,
        *plan.rows("dt", "Ct"), *_strides(gy, plan.unit_d), **plan.path, **plan.flags, **plan.options,
    )  # fmt: skip
    plan.carry(glast, sums, ends, True)
    return ends


def _backward(plan: Plan, gy: Tensor, glast: Tensor | None, saved: Tensor) -> dict[str, Tensor]:
    """Return the gradients by name, in the shapes of the call's inputs; `initial_state` too where there is one."""
    from lemamba.model.ops.triton.backward import backward_kernel

    call, s, merge, blocks, inputs = plan.call, plan.shape, plan.config.merge, plan.blocks, plan.call.inputs
    arriving = _arriving(plan, gy, glast)
    steps, tasks, unused = (s.B, s.K, s.L), plan.tasks, inputs.A

    def per_state() -> Tensor:  # of every step, summed over the channels of a block
        return call.new(blocks, *steps, s.N)

    parts = CrossInputs(
        x=gy.new_empty((s.B, s.L, s.D) if merge else (*steps, s.D), dtype=torch.float32 if s.cross else inputs.x.dtype),
        dt=call.new(blocks, *steps, s.R) if s.R else gy.new_empty((*steps, s.D), dtype=inputs.dt.dtype),
        Bt=per_state(),
        Ct=per_state(),
        A=call.new(*tasks, s.D, s.N),
        D=call.new(*tasks, s.D),
        dt_weight=call.new(*tasks, s.R, s.D) if s.R else unused,
        dt_bias=call.new(*tasks, s.D),
        shared_state=call.new(*tasks, s.D, s.N) if s.share else unused,
        gate=per_state() if s.share else unused,
        rho=call.new(*tasks, s.D) if s.share else unused,
    )
    leaving = call.new(*tasks, s.D, s.N)
    backward_kernel[plan.grid(merge)](
        *call.pointers(), saved, gy, unused if arriving is None else arriving, *parts, leaving,
        *plan.rows(), *_strides(gy, plan.unit_d), **plan.path, **plan.flags, **plan.options,
        SHARE=s.share, ARRIVING=arriving is not None, SUM=merge,
    )  # fmt: skip

    def total(part: Tensor, like: Tensor) -> Tensor:
        """Add up the channel blocks (blocks, B, K, L, C) and return (B, K, C, L)."""
        return (part[0] if blocks == 1 else part.sum(0)).to(like.dtype).transpose(-1, -2)

    gx = parts.x.sum(1) if s.cross and not merge else parts.x
    gradients = {
        "x": gx.to(inputs.x.dtype).transpose(-1, -2),
        "dt": total(parts.dt, inputs.dt) if s.R else parts.dt.transpose(-1, -2),
        "Bt": total(parts.Bt, inputs.Bt),
        "Ct": total(parts.Ct, inputs.Ct),
        "A": parts.A.sum((0, 2)).view_as(inputs.A),
        "D": parts.D.sum((0, 2)).flatten(),
        "dt_weight": parts.dt_weight.sum((0, 2)).transpose(1, 2).contiguous() if s.R else unused,
        "dt_bias": parts.dt_bias.sum((0, 2)).flatten(),
    }
    if parts.shared_state is not None and inputs.gate is not None and parts.gate is not None and parts.rho is not None:
        gradients["shared_state"] = parts.shared_state.sum(2).flatten(1, 2)
        gradients["gate"] = total(parts.gate, inputs.gate)
        gradients["rho"] = parts.rho.sum((0, 2)).flatten()
    if call.initial_state is not None:
        gradients["initial_state"] = leaving[:, :, 0].reshape(s.B, s.K * s.D, s.N)
    return gradients


def backward(call: Call, gy: Tensor, glast: Tensor | None, saved: Tensor) -> dict[str, Tensor]:
    """Run backward: gradients by name, as of `_backward`; gy as y, glast (B, K*D, N) or None."""
    gy = packed(gy.detach())
    glast = None if glast is None else table(glast)
    shape = call.shape(True)
    with torch.cuda.device_of(call.inputs.x):
        config = choose(shape, lambda c: _backward(Plan(call, shape, c, gy), gy, glast, saved))
        return _backward(Plan(call, shape, config, gy), gy, glast, saved)
