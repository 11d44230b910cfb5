"""Backend `triton`: kernels for CUDA GPUs as `lemamba::scan_triton` and `lemamba::cross_scan_triton`.

Half types are loaded as they are and computed in float32; y has the input's type. In the scan of an image the kernels
order the directions by index arithmetic, expand the step from its rank-R factor, mix in the shared state and sum over
directions. Channels-last memory ((B, H, W, .)) with rows at multiples of four elements is read in place, anything else
is packed first. On a machine without a GPU the kernels run in Triton's interpreter (TRITON_INTERPRET=1, for tests: very
slow).
"""

from __future__ import annotations

import importlib.util

import torch
from torch import Tensor

from lemamba.model.ops.registration import ScanKernel, register_scan
from lemamba.model.ops.scan.interface import SEQUENCES, Backend, CrossInputs, ScanInputs, given
from lemamba.model.ops.triton.launch import Call, backward, forward, row_sizes, saved_shape, saved_type
from lemamba.model.ops.triton.plan import Shape, interpreted


def probe() -> tuple[bool, str]:
    """Return whether the kernels can run here, and why not."""
    if importlib.util.find_spec("triton") is None:
        return False, "triton is not installed"
    if not interpreted() and not torch.cuda.is_available():
        return False, "torch finds no CUDA GPU"
    import triton

    if not hasattr(triton.language, "gather"):
        return False, f"triton {triton.__version__} is too old; 3.3 or later is needed, which comes with torch 2.7"
    if interpreted():
        return True, "Triton's interpreter on the CPU (TRITON_INTERPRET=1), for tests"
    return True, f"CUDA kernels on {torch.cuda.get_device_name()}"


def _kept(like: Tensor, shape: Shape, save: bool) -> tuple[Tensor, Tensor]:
    """Return empty last states (B, K*D, N) and what forward keeps for backward."""
    last = like.new_empty(shape.B, shape.K * shape.D, shape.N, dtype=torch.float32)
    return last, like.new_empty(saved_shape(shape) if save else 0, dtype=saved_type(like))


# The plain scan. The kernels see its groups: u (B, K, D, L), with the channels of a step side by side in memory.


def _empty_rows(t: Tensor, K: int) -> Tensor:
    """Return an empty tensor like t, in the memory the kernels write: u and delta (B, K*D, L), B and C (B, K, N, L)."""
    if t.dim() == 4:
        return t.new_empty((*t.shape[:2], t.shape[3], t.shape[2])).transpose(-1, -2)
    batch, channels, L = t.shape
    return t.new_empty(batch, K, L, channels // K).transpose(-1, -2).flatten(1, 2)


def _scan_call(inputs: ScanInputs) -> Call:
    u, delta, A, B, C, D, delta_bias, delta_softplus, initial_state = inputs
    K = B.shape[1]
    u, delta = u.unflatten(1, (K, -1)), delta.unflatten(1, (K, -1))
    zeros, no_rank = A.new_zeros(A.shape[0]), A.new_empty(K, u.shape[2], 0)
    D, delta_bias = (zeros if v is None else v for v in (D, delta_bias))
    return Call.prepare(CrossInputs(u, delta, B, C, A, D, no_rank, delta_bias), initial_state, delta_softplus)


def _scan_outputs(inputs: ScanInputs, save: bool) -> tuple[Tensor, Tensor, Tensor]:
    (batch, channels, L), K, N = inputs.u.shape, inputs.B.shape[1], inputs.A.shape[1]
    shape = Shape(batch, K, channels // K, N, 0, L, False, False, False, False)
    return _empty_rows(inputs.u, K), *_kept(inputs.u, shape, save)


def _scan_gradients(inputs: ScanInputs) -> dict[str, Tensor]:
    K, named = inputs.B.shape[1], given(inputs).items()
    return {name: _empty_rows(t, K) if name in SEQUENCES else t.new_empty(t.shape) for name, t in named}


def _scan_forward(inputs: ScanInputs, save: bool) -> tuple[Tensor, Tensor, Tensor]:
    y, last, saved = forward(_scan_call(inputs), save)
    return y.flatten(1, 2), last, saved


def _scan_backward(gy: Tensor, glast: Tensor | None, saved: Tensor, inputs: ScanInputs) -> dict[str, Tensor]:
    found = backward(_scan_call(inputs), gy.unflatten(1, (inputs.B.shape[1], -1)), glast, saved)
    named = {"u": "x", "delta": "dt", "B": "Bt", "C": "Ct", "delta_bias": "dt_bias"}
    gradients = {name: found[named.get(name, name)].to(t.dtype) for name, t in given(inputs).items()}
    return {name: g.flatten(1, 2) if name in ("u", "delta") else g for name, g in gradients.items()}


# The scan of an image in several directions. The kernels see it flat: (…, H*W).


def _empty_image(t: Tensor) -> Tensor:
    """Return an empty tensor like t, (B, C, H, W) or (B, K, C, H, W), with its channels last in memory."""
    *lead, channels, height, width = t.shape
    return t.new_empty((*lead, height, width, channels)).movedim(-1, -3)


def _cross_call(inputs: CrossInputs) -> Call:
    flat = {name: t.flatten(-2) for name, t in given(inputs).items() if name in SEQUENCES}
    height, width = inputs.x.shape[2:]
    return Call.prepare(inputs._replace(**flat), size=(height, width))


def _cross_outputs(inputs: CrossInputs, save: bool) -> tuple[Tensor, Tensor, Tensor]:
    (batch, D, height, width), (K, R), N = inputs.x.shape, inputs.dt.shape[1:3], inputs.A.shape[1]
    shape = Shape(batch, K, D, N, R, height * width, True, False, False, False)
    return _empty_image(inputs.x), *_kept(inputs.x, shape, save)


def _cross_gradients(inputs: CrossInputs) -> dict[str, Tensor]:
    sizes, (batch, _, height, width) = row_sizes(inputs), inputs.x.shape
    named = {name: t for name, t in given(inputs).items() if name not in sizes}
    gradients = {name: _empty_image(t) if name == "x" else t.new_empty(t.shape) for name, t in named.items()}
    return gradients | {"rows": inputs.Bt.new_empty(batch, height, width, sum(sizes.values()))}


def _cross_cut(inputs: CrossInputs, rows: Tensor) -> dict[str, Tensor]:
    """Cut `rows` (B, H, W, K * ·) into the gradients of dt, Bt, Ct and the gate, (B, K, ·, H, W): views."""
    sizes, K = row_sizes(inputs), inputs.dt.shape[1]
    parts = rows.split(list(sizes.values()), dim=-1)
    views = {name: part.unflatten(-1, (K, -1)).permute(0, 3, 4, 1, 2) for name, part in zip(sizes, parts, strict=True)}
    return {name: view.to(getattr(inputs, name).dtype) for name, view in views.items()}


def _cross_forward(inputs: CrossInputs, save: bool) -> tuple[Tensor, Tensor, Tensor]:
    y, last, saved = forward(_cross_call(inputs), save)
    return y.unflatten(-1, inputs.x.shape[2:]), last, saved


def _cross_backward(gy: Tensor, glast: Tensor | None, saved: Tensor, inputs: CrossInputs) -> dict[str, Tensor]:
    found, pixels = backward(_cross_call(inputs), gy.flatten(-2), glast, saved), inputs.x.shape[2:]
    gradients = {name: found[name].to(t.dtype) for name, t in given(inputs).items() if name in found}
    return gradients | {"x": gradients["x"].unflatten(-1, pixels), "rows": found["rows"].unflatten(1, pixels)}


# `everywhere`: the interpreter runs on the CPU.
SCAN = ScanKernel(ScanInputs, _scan_forward, _scan_backward, _scan_outputs, _scan_gradients, "cuda", everywhere=True)
CROSS = ScanKernel(
    CrossInputs,
    _cross_forward,
    _cross_backward,
    _cross_outputs,
    _cross_gradients,
    "cuda",
    everywhere=True,
    joined=("dt", "Bt", "Ct", "gate"),
    cut=_cross_cut,
)
scan, cross_scan = register_scan("scan_triton", SCAN), register_scan("cross_scan_triton", CROSS)
BACKEND = Backend(
    "triton",
    probe,
    scan,
    cross_scan,
    devices=("cuda", "cpu") if interpreted() else ("cuda",),
    half_inputs=True,
    automatic=not interpreted(),
)
