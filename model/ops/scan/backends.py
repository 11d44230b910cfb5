"""Which backend of the selective scan serves a call, and why the others do not.

Order of `auto`: triton, mamba_ssm, cpp, torch; `reference` only when it is asked for. `LEMAMBA_SCAN=name` in the
environment or `backend=` in a call forces one. Probing is lazy: `cpp` compiles at its first use, not at import.
"""

from __future__ import annotations

import importlib
import os
from dataclasses import dataclass
from types import ModuleType

import torch

from lemamba.utils.errors import UserError, nearest

VARIABLE = "LEMAMBA_SCAN"
# name -> module with `probe() -> (works here, reason)`,
# and `selective_scan(...)`.
_MODULES = {
    "triton": "lemamba.model.ops.triton.scan",
    "mamba_ssm": "lemamba.model.ops.scan.mamba_ssm_backend",
    "cpp": "lemamba.model.ops.native.scan",
    "torch": "lemamba.model.ops.scan.torch_backend",
    "reference": "lemamba.model.ops.scan.reference",
}
# Backends with a fused four-direction kernel -> module with `cross_scan(...)`.
_FUSED = {"cpp": "lemamba.model.ops.native.cross", "triton": "lemamba.model.ops.triton.cross"}
NAMES = tuple(_MODULES)
_LOADED: dict[str, ModuleType] = {}


@dataclass(frozen=True)
class BackendState:
    """One backend on this machine: usable or not, and the reason in one line."""

    name: str
    available: bool
    reason: str


def _load(dotted: str) -> ModuleType:
    """Import a module once; afterwards torch.compile sees a dictionary, not an import."""
    if dotted not in _LOADED:
        _LOADED[dotted] = importlib.import_module(dotted)
    return _LOADED[dotted]


def module_of(name: str) -> ModuleType:
    """Return the module that implements backend `name`."""
    return _load(_MODULES[name])


def fused_of(name: str) -> ModuleType | None:
    """Return the module with backend `name`'s fused four-direction scan, or None."""
    return _load(_FUSED[name]) if name in _FUSED else None


def state_of(name: str) -> BackendState:
    """Return the state of one backend; the first call for `cpp` compiles it (a few seconds)."""
    available, reason = module_of(name).probe()
    return BackendState(name, available, reason)


def available_backends() -> dict[str, BackendState]:
    """Return every backend's state and reason, in the order in which `auto` tries them."""
    return {name: state_of(name) for name in NAMES}


def _forced(requested: str | None) -> str | None:
    """Return the name that a call or the environment asks for, checked; None means auto."""
    source, name = "backend", requested
    if name in (None, "auto"):
        source, name = VARIABLE, os.environ.get(VARIABLE)
    if name in (None, "", "auto"):
        return None
    if name not in _MODULES:
        known = ", ".join(("auto", *NAMES))
        raise UserError(f'expected {source} to be one of {known}, given "{name}"{nearest(name, NAMES)}')
    return name


def _refusal(name: str, device: str, dtype: torch.dtype, state_grad: bool) -> str | None:
    """Return why a working backend cannot serve this kind of call, or None."""
    if name in ("torch", "reference"):
        return None
    if dtype == torch.float64:
        return "it computes in float32"
    if name == "cpp" and device != "cpu":
        return f"it works on CPU tensors, these are on {device}"
    if name == "triton" and device != "cuda" and not module_of("triton").interpreted():
        return f"it works on CUDA tensors, these are on {device}"
    if name == "mamba_ssm":
        if device != "cuda":
            return f"it works on CUDA tensors, these are on {device}"
        if state_grad:
            return "it has no initial state and no gradient through its last state"
    return None


@torch.compiler.assume_constant_result
def choose(requested: str | None, device: str, dtype: torch.dtype, state_grad: bool) -> str:
    """Return the name of the backend for a call.

    Args:
        requested: `backend=` of the call: a name, "auto" or None.
        device: device type of the tensors, e.g. "cpu".
        dtype: dtype the call computes in, float32 or float64.
        state_grad: an initial state is given, or a gradient may flow through the last state.

    Raises:
        UserError: an unknown name, or a forced backend that does not work here or for this call.
    """
    forced = _forced(requested)
    if forced is not None:
        state = state_of(forced)
        if not state.available:
            raise UserError(f"backend {forced} was asked for but is not available: {state.reason}; use auto")
        refusal = _refusal(forced, device, dtype, state_grad)
        if refusal:
            raise UserError(f"backend {forced} was asked for but cannot serve this call: {refusal}; use auto or torch")
        fused_of(forced)
        return forced
    for name in NAMES:
        interpreted = name == "triton" and device != "cuda"  # the interpreter is for tests: only when forced
        if not interpreted and _refusal(name, device, dtype, state_grad) is None and state_of(name).available:
            fused_of(name)  # loaded here, outside of what torch.compile traces
            return name
    return "reference"
