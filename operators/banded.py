"""A linear filter along one axis as a banded matrix, kept as small dense blocks.

Resizing and windowed means are such filters. A block maps a contiguous range of inputs to a few dozen outputs by
one matrix product: cost is linear in the pixels, few kernels are launched, gradients are cheap.
Legend: n inputs, m outputs, P taps per output.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lemamba.operators.autocast import no_autocast

_BLOCK = 32  # outputs per block of a product
Blocks = tuple[tuple[int, int, Tensor], ...]  # (first input, number of inputs, matrix (outputs, inputs))


def banded_blocks(weight: Tensor, index: Tensor, outputs: int, dtype: torch.dtype, device: torch.device) -> Blocks:
    """Cut a banded matrix into blocks.

    Args:
        weight: (m, P) float64 taps; output i is ``sum_p weight[i, p] * x[index[i, p]]``.
        index: (m, P) int64 input positions; repeated positions add up.
        outputs: outputs per block. Small blocks waste less arithmetic, large ones need fewer launches.
        dtype: of the blocks.
        device: of the blocks.

    Returns:
        Blocks that cover the m outputs in order.
    """
    blocks = []
    for start in range(0, len(weight), outputs):
        w, i = weight[start : start + outputs], index[start : start + outputs]
        used = w != 0
        low, high = int(i[used].min()), int(i[used].max())
        matrix = torch.zeros(len(w), high - low + 1, dtype=torch.float64)
        rows = torch.arange(len(w))[:, None].expand_as(i)
        matrix.index_put_((rows[used], i[used] - low), w[used], accumulate=True)
        blocks.append((low, high - low + 1, matrix.to(dtype=dtype, device=device)))
    return tuple(blocks)


def _plain(x: Tensor) -> bool:
    """Return whether this is computed here and now, on a CPU and without gradients."""
    needs_graph = (torch.is_grad_enabled() and x.requires_grad) or torch.compiler.is_compiling()
    return x.device.type == "cpu" and not needs_graph


def apply_to_rows(x: Tensor, blocks: Blocks) -> Tensor:
    """Filter along the second last axis: (..., n, W) -> (..., m, W). Autocast is off: it would round the weights."""
    with no_autocast(x.device.type):
        if _plain(x):
            made = x.new_empty(*x.shape[:-2], sum(len(matrix) for _, _, matrix in blocks), x.shape[-1])
            for image, out in zip(x.reshape(-1, *x.shape[-2:]), made.view(-1, *made.shape[-2:]), strict=True):
                first = 0
                for low, n, matrix in blocks:  # written in place: a large result costs more to copy than to compute
                    torch.mm(matrix, image.narrow(0, low, n), out=out.narrow(0, first, len(matrix)))
                    first += len(matrix)
            return made
        return torch.cat([matrix @ x.narrow(-2, low, n) for low, n, matrix in blocks], dim=-2)


def apply_to_columns(x: Tensor, blocks: Blocks) -> Tensor:
    """Filter along the last axis: (..., H, n) -> (..., H, m)."""
    with no_autocast(x.device.type):
        return torch.cat([x.narrow(-1, low, n) @ matrix.T for low, n, matrix in blocks], dim=-1)


def apply_to_both(x: Tensor, rows: Blocks, columns: Blocks) -> Tensor:
    """Filter along both axes: (..., n, k) -> (..., m, l); the larger pass is the quicker one, along rows."""
    if sum(len(matrix) for _, _, matrix in rows) > x.shape[-2]:
        return apply_to_rows(apply_to_columns(x, columns), rows)
    return apply_to_columns(apply_to_rows(x, rows), columns)


def apply_transposed(x: Tensor, rows: Blocks, columns: Blocks, size: tuple[int, int]) -> Tensor:
    """Apply the transposes of both matrices, no gradients: (..., m, l) -> (..., n, k), `size` = (n, k)."""
    tall = x.new_zeros(*x.shape[:-2], size[0], x.shape[-1])
    first = 0
    for low, n, matrix in rows:
        tall.narrow(-2, low, n).add_(matrix.T @ x.narrow(-2, first, len(matrix)))
        first += len(matrix)
    small = x.new_zeros(*x.shape[:-2], *size)
    first = 0
    for low, n, matrix in columns:
        small.narrow(-1, low, n).add_(tall.narrow(-1, first, len(matrix)) @ matrix)
        first += len(matrix)
    return small


def transposed_product(blocks: Blocks, n: int) -> Blocks:
    """Return the product of the transposed matrix with the matrix, float64, for a matrix of `n` columns."""
    product = torch.zeros(n, n, dtype=torch.float64)
    for low, width, matrix in blocks:
        exact = matrix.to("cpu", torch.float64)
        product[low : low + width, low : low + width] += exact.T @ exact
    made = []
    for start in range(0, n, _BLOCK):
        part = product[start : start + _BLOCK]
        used = part.any(0).nonzero()[:, 0]
        low, high = (int(used[0]), int(used[-1])) if len(used) else (0, 0)
        made.append((low, high - low + 1, part[:, low : high + 1].contiguous()))
    return tuple(made)


def matrix_sums(blocks: Blocks, n: int) -> Tensor:
    """Return the sum of every column of the matrix, (n,) float64 on the CPU."""
    total = torch.zeros(n, dtype=torch.float64)
    for low, width, matrix in blocks:
        total[low : low + width] += matrix.to("cpu", torch.float64).sum(0)
    return total
