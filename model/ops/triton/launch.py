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
    kept_steps,
    steps,
    tile,
    vector,
)
from lemamba.model.ops.triton.tune import choose

# Fuse products and sums, whatever this version of Triton does by default: half the arithmetic of these kernels.
# One stage: overlapping the loads of the next steps would need shared memory and registers that these kernels do not
# have, and pipelined loops with varying bounds gave wrong results in silence on sm_100 (triton-lang/triton#9871).
OPTIONS = {"num_stages": 1, "enable_fp_fusion": True}
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

    The weight of dt is (K, D, R), with R = 0 where dt are the step sizes themselves; `size` is (H, W) of an image,
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
        initial_state = None if initial_state is None else table(initial_state)
        return Call(inputs, initial_state, softplus, size)

    def pointers(self) -> list[Tensor]:
        """Return the inputs in their order, for a kernel; A in place of those it does not read."""
        return [self.inputs.A if t is None or not t.numel() else t for t in self.inputs]

    def shape(self, backward: bool) -> Shape:
        """Return the sizes a configuration is chosen by."""
        x, Bt = self.inputs.x, self.inputs.Bt
        batch, K, N, L = Bt.shape
        R, cross, share = self.inputs.dt_weight.shape[2], self.size[0] > 0, self.inputs.gate is not None
        return Shape(batch, K, x.shape[-2], N, R, L, cross, share, x.element_size() < 4, backward)

    def new(self, *sizes: int) -> Tensor:
        """Return an uninitialised float32 tensor."""
        return self.inputs.x.new_empty(sizes, dtype=torch.float32)


def saved_shape(shape: Shape) -> tuple[int, ...]:
    """Return the shape of what forward keeps."""
    return (shape.B, shape.K, -(-shape.L // kept_steps(shape.L)), shape.D, shape.N)


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
        self.flags["KEEP"] = kept_steps(shape.L)
        self.flags |= {"CROSS": shape.cross, "SOFTPLUS": call.softplus, "WIDE": far}
        self.flags["MASK_N"] = sizes["RN"] * sizes["PN"] != shape.N
        self.flags["MASK_D"] = shape.D % (sizes["RD"] * sizes["PD"]) != 0
        self.flags |= {"VEC_N": self.unit_n, "VEC_D": self.unit_d, "VEC_S": self.unit_s}
        self.options = {} if interpreted() else {"num_warps": config.PW, **OPTIONS}

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


def _forward(plan: Plan, dtype: torch.dtype, save: bool, apart: bool = False) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return y (B, D, L) of an image or (B, K, D, L) of sequences, the last state, and the kept states.

    `apart`: of an image the kernel's own y in float32, (B, K, D, L) where the directions are still to be added.
    """
    call, s, merged, x = plan.call, plan.shape, plan.config.merge, plan.call.inputs.x
    sizes = (s.B, s.L, s.D) if merged else (s.B, s.K, s.L, s.D)
    y = x.new_empty(sizes, dtype=torch.float32 if s.cross else dtype).transpose(-1, -2)
    last = call.new(s.B, s.K, s.D, s.N)
    saved = x.new_empty(saved_shape(s), dtype=saved_type(x)) if save else None
    initial = call.initial_state
    if plan.chunks > 1:
        sums, starts = call.new(*plan.tasks, s.D), call.new(*plan.tasks, s.D, s.N)
        _forward_pass(plan, None, None, starts, None, sums)
        plan.carry(initial, sums, starts, False)
        initial = starts
    _forward_pass(plan, initial, y, last, saved, None)
    if s.cross and not apart:
        y = (y if merged else y.transpose(-1, -2).sum(1).transpose(-1, -2)).to(dtype)  # channels stay side by side
    return y, last.flatten(1, 2), saved


def forward(call: Call, save: bool, apart: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """Run forward: y as of `_forward`, in x's dtype unless `apart`, last (B, K*D, N), saved (empty unless `save`)."""
    x, shape = call.inputs.x, call.shape(False)
    with torch.cuda.device_of(x):  # Triton launches on the current device
        config = choose(shape, lambda c: _forward(Plan(call, shape, c), x.dtype, save))
        y, last, saved = _forward(Plan(call, shape, config), x.dtype, save, apart)
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


def row_sizes(inputs: CrossInputs) -> dict[str, int]:
    """Return what a pixel has of each input that comes with N or R values per direction: dt, Bt, Ct and the gate."""
    K, R, N = inputs.dt.shape[1], inputs.dt.shape[2], inputs.Bt.shape[2]
    return {"dt": K * R, "Bt": K * N, "Ct": K * N} | ({} if inputs.gate is None else {"gate": K * N})


class _Sums:
    """Where backward writes what it sums over channels: final gradients, or parts of channel blocks to be added.

    Of an image all gradients of a pixel's dt, Bt, Ct and gate lie side by side in `rows` (B, L, sum of `row_sizes`), in
    the order in which one matrix product makes the inputs: its gradient needs no concatenation.
    """

    def __init__(self, plan: Plan) -> None:
        call, s, self.blocks = plan.call, plan.shape, plan.blocks
        inputs, self.dtype = call.inputs, call.inputs.Bt.dtype
        self.rows: Tensor | None = None
        kinds = {"Bt": s.N, "Ct": s.N} | ({"gate": s.N} if s.share else {})
        if s.R:
            kinds = {"dt": s.R} | kinds
            self.rows = inputs.x.new_empty((s.B, s.L, sum(row_sizes(inputs).values())), dtype=self.dtype)
            parts = self.rows.split(list(row_sizes(inputs).values()), dim=-1)
            views = [p.unflatten(-1, (s.K, -1)).transpose(1, 2) for p in parts]
        else:
            views = [inputs.x.new_empty((s.B, s.K, s.L, n), dtype=self.dtype) for n in kinds.values()]
        self.final: dict[str, Tensor] = dict(zip(kinds, views, strict=True))  # (B, K, L, ·)
        whole = all(v.stride(i) % plan.unit_n == 0 for n, v in self.final.items() if n != "dt" for i in range(3))
        whole = whole and all(v.storage_offset() % plan.unit_n == 0 for n, v in self.final.items() if n != "dt")
        self.direct = self.blocks == 1 and whole
        self.written = {
            name: view[None] if self.direct else call.new(self.blocks, s.B, s.K, s.L, view.shape[-1])
            for name, view in self.final.items()
        }

    def strides(self, name: str, unit: int) -> list[int]:
        """Return the distances between blocks, samples, directions and pixels in units; zeros for what is not there."""
        return [stride // unit for stride in self.written[name].stride()[:4]] if name in self.written else [0] * 4

    def add_up(self) -> None:
        """Add the parts of the channel blocks."""
        for name, final in {} if self.direct else self.final.items():
            if final.dtype == torch.float32:
                torch.sum(self.written[name], 0, out=final)
            else:
                final.copy_(self.written[name].sum(0))


def _backward(plan: Plan, gy: Tensor, glast: Tensor | None, saved: Tensor, apart: bool = False) -> dict[str, Tensor]:
    """Return the gradients by name, in the shapes of the call's inputs; `initial_state` too where there is one.

    Of an image, `rows` (B, L, sum of `row_sizes`) in place of dt, Bt, Ct and gate. `apart`: that of x as the kernel
    writes it, in float32, (B, K, L, D) where the directions are still to be added.
    """
    from lemamba.model.ops.triton.backward import backward_kernel

    call, s, merge, inputs = plan.call, plan.shape, plan.config.merge, plan.call.inputs
    arriving, sums = _arriving(plan, gy, glast), _Sums(plan)
    pixels, tasks, unused = (s.B, s.K, s.L), plan.tasks, inputs.A
    # gradients to be added over samples and chunks: one buffer, so that one sum adds all
    sizes = {"A": s.N, "dt_weight": s.R, "D": 1, "dt_bias": 1} | ({"rho": 1} if s.share else {})
    sizes = {name: s.K * s.D * size for name, size in sizes.items()}
    width = sum(sizes.values())
    each = call.new(s.B, plan.chunks, width)
    per_task = dict(zip(sizes, each.split(list(sizes.values()), dim=-1), strict=True))
    parts = CrossInputs(
        x=gy.new_empty(
            (s.B, s.L, s.D) if merge else (*pixels, s.D), dtype=torch.float32 if s.cross else inputs.x.dtype
        ),
        dt=sums.written["dt"] if s.R else gy.new_empty((*pixels, s.D), dtype=inputs.dt.dtype),
        Bt=sums.written["Bt"],
        Ct=sums.written["Ct"],
        A=per_task["A"],
        D=per_task["D"],
        dt_weight=per_task["dt_weight"],
        dt_bias=per_task["dt_bias"],
        shared_state=call.new(*tasks, s.D, s.N) if s.share else unused,
        gate=sums.written["gate"] if s.share else unused,
        rho=per_task["rho"] if s.share else unused,
    )
    leaving = call.new(*tasks, s.D, s.N)
    programs = s.B * (1 if merge else s.K) * plan.chunks
    scratch = saved.new_empty(programs, kept_steps(s.L) // steps(s.L), s.D, s.N)
    backward_kernel[plan.grid(merge)](
        *call.pointers(), saved, scratch, gy, unused if arriving is None else arriving, *parts, leaving,
        *plan.rows(), *_strides(gy, plan.unit_d), *sums.strides("dt", 1),
        *sums.strides("Bt", plan.unit_n), width // plan.unit_d,
        **plan.path, **plan.flags, **plan.options,
        SHARE=s.share, ARRIVING=arriving is not None, SUM=merge,
    )  # fmt: skip
    sums.add_up()
    gradients = {"x": parts.x}
    if not apart:
        gx = parts.x.sum(1) if s.cross and not merge else parts.x
        gradients = {"x": gx.to(inputs.x.dtype).transpose(-1, -2)}
    gradients |= dict(zip(sizes, each.sum((0, 1)).split(list(sizes.values())), strict=True))
    gradients |= {name: gradients[name].view_as(getattr(inputs, name)) for name in ("A", "dt_weight")}
    if sums.rows is not None:
        gradients["rows"] = sums.rows
    else:
        gradients |= {name: final.transpose(-1, -2) for name, final in sums.final.items()}
        gradients["dt"] = parts.dt.transpose(-1, -2)
    if s.share and parts.shared_state is not None:
        shared = parts.shared_state
        gradients["shared_state"] = (shared[:, :, 0] if plan.chunks == 1 else shared.sum(2)).flatten(1, 2)
    if call.initial_state is not None:
        gradients["initial_state"] = leaving[:, :, 0].reshape(s.B, s.K * s.D, s.N)
    return gradients


def backward(call: Call, gy: Tensor, glast: Tensor | None, saved: Tensor, apart: bool = False) -> dict[str, Tensor]:
    """Run backward: gradients by name, as of `_backward`; gy as y, glast (B, K*D, N) or None."""
    gy = packed(gy.detach())
    glast = None if glast is None else table(glast)
    shape = call.shape(True)
    with torch.cuda.device_of(call.inputs.x):
        config = choose(shape, lambda c: _backward(Plan(call, shape, c, gy), gy, glast, saved))
        return _backward(Plan(call, shape, config, gy), gy, glast, saved, apart)
