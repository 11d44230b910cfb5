"""The scan of an image in four directions, summed, with state sharing: what a layer of LE-Mamba calls.

For direction k, from the sequence xs of pixels in its order (rows, columns, rows reversed, columns reversed):

    delta = softplus(dt_weight_k dt_k + dt_bias_k)                      dt of rank R
    u     = xs + rho_k * sum_n shared_state[k, :, n] gate[k, n, :]      where a state is shared
    y_k, s_k = selective_scan(u, delta, A_k, Bt_k, Ct_k, D_k)

and y is the sum over k, put back in pixel order. Source: VMamba (arXiv 2401.10166), section 4.2, for the directions;
LE-Mamba (arXiv 2404.09293) for the state sharing. Backends with a fused kernel never make the four copies; the others
get the composition below, which is also the definition.

Legend: B batch, K directions (1 to 4), D channels, N state size, R rank of dt, H W image.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce

import torch
from torch import Tensor

from lemamba.model.ops.scan.backends import backend_for
from lemamba.model.ops.scan.interface import CrossInputs, ScanInputs, cast, given
from lemamba.model.ops.scan.selective import compute_dtype
from lemamba.operators.autocast import no_autocast
from lemamba.utils.errors import UserError


def to_sequences(x: Tensor) -> Tensor:
    """Order (B, K, C, H, W) into sequences (B, K, C, L): direction k of axis 1 by its own path."""
    paths = []
    for k, image in enumerate(x.unbind(1)):
        path = (image.transpose(-1, -2) if k % 2 else image).flatten(-2)
        paths.append(path.flip(-1) if k >= 2 else path)
    return torch.stack(paths, dim=1)


def sum_of_sequences(y: Tensor, height: int, width: int) -> Tensor:
    """Put sequences (B, K, C, L) back in pixel order and sum over K: (B, C, H, W)."""
    images = []
    for k, path in enumerate(y.unbind(1)):
        path = path.flip(-1) if k >= 2 else path
        rows = path.unflatten(-1, (width, height)).transpose(-1, -2) if k % 2 else path.unflatten(-1, (height, width))
        images.append(rows)
    return reduce(torch.add, images)


def composed(scan: Callable[[ScanInputs], tuple[Tensor, Tensor]], inputs: CrossInputs) -> tuple[Tensor, Tensor]:
    """The definition above, on a plain selective scan."""
    x, dt, Bt, Ct, A, D, dt_weight, dt_bias, shared_state, gate, rho = inputs
    batch, channels, height, width = x.shape
    K = dt.shape[1]
    xs = to_sequences(x[:, None].expand(batch, K, channels, height, width))
    delta = torch.matmul(dt_weight, to_sequences(dt))  # (K, D, R) x (B, K, R, L) -> (B, K, D, L)
    if shared_state is not None and gate is not None and rho is not None:
        shared = torch.matmul(shared_state.unflatten(1, (K, channels)), to_sequences(gate))
        xs = xs + rho.view(K, channels, 1) * shared
    B, C = to_sequences(Bt), to_sequences(Ct)
    y, last = scan(ScanInputs(xs.flatten(1, 2), delta.flatten(1, 2), A, B, C, D, dt_bias, delta_softplus=True))
    return sum_of_sequences(y.unflatten(1, (K, channels)), height, width), last


def _check(inputs: CrossInputs) -> None:
    """Check all shapes and devices before any kernel gets a pointer."""
    x, dt, A = inputs.x, inputs.dt, inputs.A
    if x.dim() != 4 or 0 in x.shape[1:]:
        raise UserError(f"expected x of shape (B, D, H, W), no axis but B empty, given {tuple(x.shape)}; reshape it")
    if dt.dim() != 5 or not 1 <= dt.shape[1] <= 4:
        raise UserError(f"expected dt of shape (B, K, R, H, W) with K from 1 to 4, given {tuple(dt.shape)}; reshape it")
    if A.dim() != 2 or A.shape[1] == 0:
        raise UserError(f"expected A of shape (K*D, N) with N >= 1, given {tuple(A.shape)}; reshape it")
    shared = [inputs.shared_state is not None, inputs.gate is not None, inputs.rho is not None]
    if any(shared) and not all(shared):
        raise UserError("expected shared_state, gate and rho together or none of them; give all three")
    batch, channels, height, width = x.shape
    K, rank, states, rows = dt.shape[1], dt.shape[2], A.shape[1], dt.shape[1] * channels
    group = (batch, K, states, height, width)
    shapes: dict[str, tuple[int, ...]] = {
        "x": tuple(x.shape),
        "dt": (batch, K, rank, height, width),
        "A": (rows, states),
    }
    shapes |= {"Bt": group, "Ct": group, "gate": group, "dt_weight": (K, channels, rank)}
    shapes |= {"D": (rows,), "dt_bias": (rows,), "rho": (rows,), "shared_state": (batch, rows, states)}
    for name, value in given(inputs).items():
        if tuple(value.shape) != shapes[name]:
            raise UserError(
                f"expected {name} of shape {shapes[name]}, given {tuple(value.shape)}; x is {tuple(x.shape)}, "
                f"dt {tuple(dt.shape)}, A {tuple(A.shape)}"
            )
        if value.device != x.device:
            raise UserError(f"expected {name} on {x.device} like x, given {value.device}; move it there")


def cross_selective_scan(
    x: Tensor,
    dt: Tensor,
    Bt: Tensor,
    Ct: Tensor,
    A: Tensor,
    D: Tensor,
    dt_weight: Tensor,
    dt_bias: Tensor,
    *,
    shared_state: Tensor | None = None,
    gate: Tensor | None = None,
    rho: Tensor | None = None,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Scan an image in K directions and sum.

    Tensors with a pixel axis are given in pixel order; the kernel orders the directions. The CPU kernel reads
    channels-last memory (strides of a (B, H, W, .) tensor) without a copy.

    Args:
        x: (B, D, H, W). Half types are computed in float32, float64 in float64.
        dt: (B, K, R, H, W), the low-rank step.
        Bt: (B, K, N, H, W), input weights.
        Ct: (B, K, N, H, W), output weights.
        A: (K*D, N), negative.
        D: (K*D), skip weights.
        dt_weight: (K, D, R).
        dt_bias: (K*D).
        shared_state: (B, K*D, N), or None; goes with `gate` and `rho`.
        gate: (B, K, N, H, W).
        rho: (1, K, D, 1) or (K*D).
        backend: as in `selective_scan`.

    Returns:
        y (B, D, H, W) in x's dtype, and the last state of each direction (B, K*D, N), float32 or float64. Gradients
        reach every tensor argument, also those that arrive through the last state.

    Raises:
        UserError: a shape that does not fit, a shared state without its gate and rho, or a backend that does not work.
    """
    if rho is not None and tuple(rho.shape) == (1, *dt_weight.shape[:2], 1):
        rho = rho.reshape(-1)
    inputs = CrossInputs(x, dt, Bt, Ct, A, D, dt_weight, dt_bias, shared_state, gate, rho)
    _check(inputs)
    dtype = compute_dtype(x.dtype)
    backend_used = backend_for(backend, x.device.type, dtype, torch.is_grad_enabled())
    fused = backend_used.cross_scan
    inputs = cast(inputs, dtype, keep_sequences=backend_used.half_inputs and fused is not None)
    with no_autocast(x.device.type):  # a recurrence in a half type would lose the state
        y, last = composed(backend_used.scan, inputs) if fused is None else fused(inputs)
    return y.to(x.dtype), last
