"""What a scan backend receives, and what it declares about itself.

`ScanInputs` and `CrossInputs` list the inputs of the two operators once: the schemas of `registration.py`, the ctypes
structures of `native/scan.py`, the C structs `Scan` and `Cross` and the arguments of the Triton kernels have these
names in this order. The gradient of an input has its name with a `g` in front.

Legend: B batch, K groups (scan directions), D channels of a group, N state size, R rank of dt, L steps, H W image.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor


class ScanInputs(NamedTuple):
    """Inputs of the selective scan; see `selective.selective_scan`."""

    u: Tensor  # (B, K*D, L)
    delta: Tensor  # (B, K*D, L)
    A: Tensor  # (K*D, N)
    B: Tensor  # (B, K, N, L)
    C: Tensor  # (B, K, N, L)
    D: Tensor | None = None  # (K*D)
    delta_bias: Tensor | None = None  # (K*D)
    delta_softplus: bool = False
    initial_state: Tensor | None = None  # (B, K*D, N)


class CrossInputs(NamedTuple):
    """Inputs of the scan in several directions; see `cross.cross_selective_scan`."""

    x: Tensor  # (B, D, H, W)
    dt: Tensor  # (B, K, R, H, W)
    Bt: Tensor  # (B, K, N, H, W)
    Ct: Tensor  # (B, K, N, H, W)
    A: Tensor  # (K*D, N)
    D: Tensor  # (K*D)
    dt_weight: Tensor  # (K, D, R)
    dt_bias: Tensor  # (K*D)
    shared_state: Tensor | None = None  # (B, K*D, N); given together with gate and rho
    gate: Tensor | None = None  # (B, K, N, H, W)
    rho: Tensor | None = None  # (K*D)


Inputs = TypeVar("Inputs", ScanInputs, CrossInputs)

# Inputs with an axis of steps or pixels; the others are parameters and states.
SEQUENCES = frozenset(("u", "delta", "B", "C", "x", "dt", "Bt", "Ct", "gate"))


def given(inputs: ScanInputs | CrossInputs) -> dict[str, Tensor]:
    """Return the tensors among the inputs by name, in their order, without those that are None."""
    return {name: value for name, value in zip(inputs._fields, inputs, strict=True) if isinstance(value, Tensor)}


def replace_tensors(inputs: Inputs, function: Callable[[str, Tensor], Tensor]) -> Inputs:
    """Return the inputs with `function(name, tensor)` in place of each tensor that is given."""
    named = zip(inputs._fields, inputs, strict=True)
    values: list[Any] = [function(name, value) if isinstance(value, Tensor) else value for name, value in named]
    return type(inputs)(*values)


def cast(inputs: Inputs, dtype: torch.dtype, keep_sequences: bool) -> Inputs:
    """Return the inputs in `dtype`; with `keep_sequences`, those in `SEQUENCES` keep their own."""
    return replace_tensors(inputs, lambda name, t: t if keep_sequences and name in SEQUENCES else t.to(dtype))


@dataclass(frozen=True)
class Backend:
    """One implementation of the scan and what it can do.

    Args:
        name: the name users force it by.
        probe: () -> (works on this machine, one line that says with what or why not).
        scan: ScanInputs -> y (B, K*D, L) and the last state (B, K*D, N).
        cross_scan: CrossInputs -> y (B, D, H, W) and the last states (B, K*D, N), one fused kernel; None: composed of
            `scan` by `cross.py`.
        devices: device types of the tensors it takes; None is any.
        float64: it computes in float64 where the inputs are float64; else float32 only.
        half_inputs: it loads float16 and bfloat16 sequences itself and computes in float32.
        state_gradient: it takes an initial state and returns a gradient through the last state.
        automatic: `auto` may choose it; else it runs only when forced.
    """

    name: str
    probe: Callable[[], tuple[bool, str]]
    scan: Callable[[ScanInputs], tuple[Tensor, Tensor]]
    cross_scan: Callable[[CrossInputs], tuple[Tensor, Tensor]] | None = None
    devices: tuple[str, ...] | None = None
    float64: bool = False
    half_inputs: bool = False
    state_gradient: bool = True
    automatic: bool = True

    def refusal(self, device: str, dtype: torch.dtype, state_grad: bool) -> str | None:
        """Return why this backend cannot serve a call of this kind, or None; arguments as in `backends.choose`."""
        if dtype == torch.float64 and not self.float64:
            return "it computes in float32"
        if self.devices is not None and device not in self.devices:
            return f"it works on {self.devices[0].upper()} tensors, these are on {device}"
        if state_grad and not self.state_gradient:
            return "it has no initial state and no gradient through its last state"
        return None
