"""Choose the backend of a scan: the first one that works here and serves the call.

`LEMAMBA_SCAN=name` in the environment or `backend=` in a call forces one. To add a backend, write a module with a
`BACKEND` (see `interface.Backend`) and add it to the list below.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch

from lemamba.model.ops.native import scan as native
from lemamba.model.ops.portable import is_portable
from lemamba.model.ops.scan import mamba_ssm_backend, portable_backend, reference, torch_backend
from lemamba.model.ops.scan.interface import Backend
from lemamba.model.ops.triton import scan as triton
from lemamba.utils.errors import UserError, nearest

VARIABLE = "LEMAMBA_SCAN"
_MODULES = (triton, mamba_ssm_backend, native, torch_backend, reference)  # the order in which `auto` tries them
BACKENDS: dict[str, Backend] = {module.BACKEND.name: module.BACKEND for module in _MODULES}


@dataclass(frozen=True)
class BackendState:
    """One backend on this machine: usable or not, and the reason in one line."""

    name: str
    available: bool
    reason: str


def state_of(name: str) -> BackendState:
    """Return the state of one backend; the first call for `cpp` compiles it (a few seconds)."""
    return BackendState(name, *BACKENDS[name].probe())


def available_backends() -> dict[str, BackendState]:
    """Return every backend's state and reason, in the order in which `auto` tries them."""
    return {name: state_of(name) for name in BACKENDS}


def _forced(requested: str | None) -> str | None:
    """Return the name that a call or the environment asks for, checked; None means auto."""
    source, name = "backend", requested
    if name in (None, "auto"):
        source, name = VARIABLE, os.environ.get(VARIABLE)
    if name in (None, "", "auto"):
        return None
    if name not in BACKENDS:
        known = ", ".join(("auto", *BACKENDS))
        raise UserError(f'expected {source} to be one of {known}, given "{name}"{nearest(name, BACKENDS)}')
    return name


def backend_for(requested: str | None, device: str, dtype: torch.dtype, state_grad: bool) -> Backend:
    """Return the backend that `choose` names, or the one for exporters inside `lemamba.model.ops.portable.portable`."""
    return portable_backend.BACKEND if is_portable() else BACKENDS[choose(requested, device, dtype, state_grad)]


@torch.compiler.assume_constant_result
def choose(requested: str | None, device: str, dtype: torch.dtype, state_grad: bool) -> str:
    """Return the name of the backend for a call.

    Args:
        requested: `backend=` of the call: a name, "auto" or None.
        device: device type of the tensors, e.g. "cpu"; "meta" where only shapes or FLOPs are wanted.
        dtype: dtype the call computes in, float32 or float64.
        state_grad: an initial state is given, or a gradient may flow through the last state.

    Raises:
        UserError: an unknown name, or a forced backend that does not work here or for this call.
    """
    name = _forced(requested)
    if device == "meta":  # shapes only, no kernel runs: one operator of known FLOPs, whatever serves a real call
        return triton.BACKEND.name
    if name is None:  # `torch` serves every call, so there is always one
        return next(
            backend.name
            for backend in BACKENDS.values()
            if backend.automatic and not backend.refusal(device, dtype, state_grad) and backend.probe()[0]
        )
    state, refusal = state_of(name), BACKENDS[name].refusal(device, dtype, state_grad)
    if not state.available:
        raise UserError(f"backend {name} was asked for but is not available: {state.reason}; use auto")
    if refusal:
        raise UserError(f"backend {name} was asked for but cannot serve this call: {refusal}; use auto or torch")
    return name
