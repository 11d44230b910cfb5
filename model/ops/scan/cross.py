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

import torch
from torch import Tensor

from lemamba.model.ops.scan.backends import choose, fused_of, module_of
from lemamba.model.ops.scan.selective import compute_dtype
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
    total = None
    for k, path in enumerate(y.unbind(1)):
        path = path.flip(-1) if k >= 2 else path
        image = path.unflatten(-1, (width, height)).transpose(-1, -2) if k % 2 else path.unflatten(-1, (height, width))
        total = image if total is None else total + image
    return total


def _composed(scan, x, dt, Bt, Ct, A, D, dt_weight, dt_bias, shared_state, gate, rho) -> tuple[Tensor, Tensor]:
    """The definition above, on a plain selective scan; shapes as in `cross_selective_scan`, rho (K*D)."""
    batch, channels, height, width = x.shape
    K = dt.shape[1]
    xs = to_sequences(x[:, None].expand(batch, K, channels, height, width))
    delta = torch.matmul(dt_weight, to_sequences(dt))  # (K, D, R) x (B, K, R, L) -> (B, K, D, L)
    if shared_state is not None:
        shared = torch.matmul(shared_state.unflatten(1, (K, channels)), to_sequences(gate))
        xs = xs + rho.view(K, channels, 1) * shared
    y, last = scan(xs.flatten(1, 2), delta.flatten(1, 2), A, to_sequences(Bt), to_sequences(Ct), D, dt_bias, True, None)
    return sum_of_sequences(y.unflatten(1, (K, channels)), height, width), last


def _check(x: Tensor, dt: Tensor, A: Tensor, others: dict[str, tuple[Tensor, tuple[int, ...]]]) -> None:
    """Check shapes and devices; `others` maps a name to the tensor and the shape expected of it."""
    for name, (given, shape) in others.items():
        if tuple(given.shape) != shape:
            raise UserError(
                f"expected {name} of shape {shape}, given {tuple(given.shape)}; x is {tuple(x.shape)}, "
                f"dt {tuple(dt.shape)}, A {tuple(A.shape)}"
            )
        if given.device != x.device:
            raise UserError(f"expected {name} on {x.device} like x, given {given.device}; move it there")


def _sizes(x: Tensor, dt: Tensor, A: Tensor) -> tuple[int, int, int, int, int, int, int]:
    """Return B, D, H, W, K, R, N after checking that x, dt and A have them."""
    if x.dim() != 4 or 0 in x.shape[1:]:
        raise UserError(f"expected x of shape (B, D, H, W), no axis but B empty, given {tuple(x.shape)}; reshape it")
    if dt.dim() != 5 or not 1 <= dt.shape[1] <= 4:
        raise UserError(f"expected dt of shape (B, K, R, H, W) with K from 1 to 4, given {tuple(dt.shape)}; reshape it")
    if A.dim() != 2 or A.shape[1] == 0:
        raise UserError(f"expected A of shape (K*D, N) with N >= 1, given {tuple(A.shape)}; reshape it")
    return (*x.shape, dt.shape[1], dt.shape[2], A.shape[1])


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

    Tensors with a pixel axis are given in pixel order; the directions are the kernel's business. Channels-last memory
    (strides of a (B, H, W, .) tensor) is what the CPU kernel reads without a copy.

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
    batch, channels, height, width, K, rank, states = _sizes(x, dt, A)
    given = [v is not None for v in (shared_state, gate, rho)]
    if any(given) and not all(given):
        raise UserError("expected shared_state, gate and rho together or none of them; give all three")
    pixels, rows = (height, width), K * channels
    others = {
        "dt": (dt, (batch, K, rank, *pixels)),
        "Bt": (Bt, (batch, K, states, *pixels)),
        "Ct": (Ct, (batch, K, states, *pixels)),
        "A": (A, (rows, states)),
        "D": (D, (rows,)),
        "dt_weight": (dt_weight, (K, channels, rank)),
        "dt_bias": (dt_bias, (rows,)),
    }
    if rho is not None:
        flat_rho = rho.reshape(-1) if tuple(rho.shape) == (1, K, channels, 1) else rho
        others["shared_state"] = shared_state, (batch, rows, states)
        others["gate"] = gate, (batch, K, states, *pixels)
        others["rho"] = flat_rho, (rows,)
    else:
        flat_rho = None
    _check(x, dt, A, others)
    dtype = compute_dtype(x.dtype)
    name = choose(backend, x.device.type, dtype, torch.is_grad_enabled())
    fused = fused_of(name)
    half = getattr(fused, "HALF_INPUTS", False)  # the kernel loads half types itself and computes in float32
    images = [v if half or v is None else v.to(dtype) for v in (x, dt, Bt, Ct, gate)]
    tables = (A, D, dt_weight, dt_bias, shared_state, flat_rho)
    A, D, dt_weight, dt_bias, shared_state, flat_rho = (None if v is None else v.to(dtype) for v in tables)
    tensors = (*images[:4], A, D, dt_weight, dt_bias, shared_state, images[4], flat_rho)
    with torch.autocast(x.device.type, enabled=False):  # a recurrence in a half type would lose the state
        y, last = fused.cross_scan(*tensors) if fused else _composed(module_of(name).selective_scan, *tensors)
    return y.to(x.dtype), last
