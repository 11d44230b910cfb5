"""Backend `mamba_ssm`: the CUDA operator of the package mamba-ssm, where it is installed (requirements-gpu.txt).

It takes no initial state and drops the gradient that arrives through its last state, so `auto` chooses it only where
neither is asked for. This is the only file that imports it: the extension module itself, not the package's Python
front, which imports much more. Half types go in uncast; u, delta, B and C then have u's type.
"""

from __future__ import annotations

import importlib.util
from functools import cache
from typing import Any

import torch
from torch import Tensor

from lemamba.model.ops.registration import ScanKernel, register_scan
from lemamba.model.ops.scan.interface import Backend, ScanInputs, given
from lemamba.utils.errors import UserError

MOST_STATES = 256  # MAX_DSTATE of its csrc/selective_scan/selective_scan.h
CHUNK = 2048  # steps between the states that the package's forward keeps


@cache
def probe() -> tuple[bool, str]:
    """Return whether the package's CUDA operator can be called here, and why not."""
    if importlib.util.find_spec("selective_scan_cuda") is None:
        return False, (
            "selective_scan_cuda is not installed (MAMBA_KEEP_CUDA_BUILD=TRUE pip install --no-build-isolation "
            "-r requirements-gpu.txt; needs nvcc and a CUDA torch)"
        )
    if not torch.cuda.is_available():
        return False, "torch finds no CUDA GPU"
    try:
        _extension()
    except ImportError as error:
        return False, f"selective_scan_cuda does not load: {error}"
    return True, "CUDA operator of mamba-ssm; no gradient through the state"


def _extension() -> Any:
    import selective_scan_cuda

    return selective_scan_cuda


def _sequences(inputs: ScanInputs) -> list[Tensor]:
    """Return u, delta, A, B, C the way the package wants them."""
    u, delta, A, B, C = inputs[:5]
    return [t.contiguous() for t in (u, delta.to(u.dtype), A, B.to(u.dtype), C.to(u.dtype))]


def _channels(inputs: ScanInputs) -> list[Tensor | None]:
    """Return D and delta_bias without the stride 0 of an expanded tensor, which the package refuses."""
    return [None if t is None else t.contiguous() for t in (inputs.D, inputs.delta_bias)]


def _forward(inputs: ScanInputs, save: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return y (B, KD, L) in u's dtype, the last state (B, KD, N) and, where `save`, the chunks' states."""
    if inputs.initial_state is not None:
        raise UserError("backend mamba_ssm takes no initial state, one was given; use triton or torch")
    if inputs.A.shape[1] > MOST_STATES:
        raise UserError(
            f"backend mamba_ssm takes at most {MOST_STATES} states a channel, given {inputs.A.shape[1]}; "
            "use triton or torch"
        )
    D, delta_bias = _channels(inputs)
    y, states, *_ = _extension().fwd(*_sequences(inputs), D, None, delta_bias, inputs.delta_softplus)
    last = states[:, :, -1, 1::2].contiguous()  # (B, KD, chunks, 2N): decay products and states alternate
    return y, last, states if save else states.new_empty(0)


def _backward(gy: Tensor, _glast: Tensor | None, saved: Tensor, inputs: ScanInputs) -> dict[str, Tensor]:
    """Return the gradients by name; the package has none through the last state."""
    (D, delta_bias), softplus = _channels(inputs), inputs.delta_softplus
    gy = gy.to(inputs.u.dtype).contiguous()
    gradients = _extension().bwd(*_sequences(inputs), D, None, delta_bias, gy, saved, None, None, softplus, False)
    named = dict(zip(inputs._fields, gradients[:7], strict=False))
    return {name: named[name].to(t.dtype).contiguous() for name, t in given(inputs).items()}


def _outputs(inputs: ScanInputs, save: bool) -> tuple[Tensor, Tensor, Tensor]:
    u, N = inputs.u, inputs.A.shape[1]
    last = u.new_empty(*u.shape[:2], N, dtype=torch.float32)
    chunks = -(-u.shape[2] // CHUNK)
    return u.new_empty(u.shape), last, last.new_empty(*u.shape[:2], chunks, 2 * N) if save else last.new_empty(0)


def _gradients(inputs: ScanInputs) -> dict[str, Tensor]:
    return {name: t.new_empty(t.shape) for name, t in given(inputs).items()}


# `everywhere`: tests replace the package by one that works on the CPU.
scan = register_scan(
    "scan_mamba_ssm",
    ScanKernel(ScanInputs, _forward, _backward, _outputs, _gradients, "cuda", everywhere=True, state_gradient=False),
)
BACKEND = Backend("mamba_ssm", probe, scan, devices=("cuda",), half_inputs=True, state_gradient=False)
