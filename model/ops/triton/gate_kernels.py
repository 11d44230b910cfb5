"""Triton kernels of the gates; what they compute: `gate.py`. M, D: length of a row; a_row, …: distance of rows."""

from __future__ import annotations

from typing import no_type_check

import triton
import triton.language as tl

INV_SQRT2 = tl.constexpr(0.7071067811865476)
INV_SQRT_2PI = tl.constexpr(0.3989422804014327)


@triton.jit
@no_type_check
def gelu_gradients(g, first, second):
    """Return the gradients of a and b, the factors of a GELU(b), from that of the product."""
    phi = 0.5 * (1.0 + tl.erf(second * INV_SQRT2))
    slope = phi + second * tl.exp(-0.5 * second * second) * INV_SQRT_2PI
    return g * second * phi, g * first * slope


@triton.jit
@no_type_check
def gelu_forward(a, b, y, a_row, b_row, count, M: tl.constexpr, BLOCK: tl.constexpr):
    """Write y = a b Phi(b), packed."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    on, row, column = at < count, at // M, at % M
    first = tl.load(a + row * a_row + column, mask=on, other=0.0).to(tl.float32)
    second = tl.load(b + row * b_row + column, mask=on, other=0.0).to(tl.float32)
    out = first * second * (0.5 * (1.0 + tl.erf(second * INV_SQRT2)))
    tl.store(y + at, out.to(y.dtype.element_ty), mask=on)


@triton.jit
@no_type_check
def gelu_backward(gy, a, b, both, a_row, b_row, count, M: tl.constexpr, BLOCK: tl.constexpr):
    """Write the gradients of a and b side by side: both (rows, 2M)."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    on, row, column = at < count, at // M, at % M
    g = tl.load(gy + at, mask=on, other=0.0).to(tl.float32)
    first = tl.load(a + row * a_row + column, mask=on, other=0.0).to(tl.float32)
    second = tl.load(b + row * b_row + column, mask=on, other=0.0).to(tl.float32)
    ga, gb = gelu_gradients(g, first, second)
    to = both + row * (2 * M) + column
    tl.store(to, ga.to(both.dtype.element_ty), mask=on)
    tl.store(to + M, gb.to(both.dtype.element_ty), mask=on)


@triton.jit
@no_type_check
def tile_of(count, D: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    """Return the rows (ROWS, 1) of this program, the columns (1, WIDTH), and where both exist."""
    d = tl.arange(0, WIDTH)[None, :]
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    return row, d, (row < count) & (d < D)


@triton.jit
@no_type_check
def normalised(y, on, eps, D: tl.constexpr):
    """Return (y - mean) / deviation and 1 / deviation of rows (ROWS, WIDTH), 0 where not `on`."""
    centred = tl.where(on, y - tl.sum(y, 1, keep_dims=True) / D, 0.0)
    scale = 1.0 / tl.sqrt(tl.sum(centred * centred, 1, keep_dims=True) / D + eps)
    return centred * scale, scale


@triton.jit
@no_type_check
def through_norm(g, value, scale, D: tl.constexpr):
    """Return the gradient of y from that of (y - mean) / deviation, g; value and scale as of `normalised`."""
    mean = tl.sum(g, 1, keep_dims=True) / D
    along = tl.sum(g * value, 1, keep_dims=True) / D
    return scale * (g - mean - value * along)


@triton.jit
@no_type_check
def norm_forward(
    y, z, weight, bias, out, y_row, z_row, count, eps, D: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr
):
    """Write out = norm(y) z sigmoid(z), packed."""
    row, d, on = tile_of(count, D, ROWS, WIDTH)
    value, _scale = normalised(tl.load(y + row * y_row + d, mask=on, other=0.0).to(tl.float32), on, eps, D)
    gate = tl.load(z + row * z_row + d, mask=on, other=0.0).to(tl.float32)
    w = tl.load(weight + d, mask=d < D, other=0.0).to(tl.float32)
    shift = tl.load(bias + d, mask=d < D, other=0.0).to(tl.float32)
    result = (value * w + shift) * gate * tl.sigmoid(gate)
    tl.store(out + row * D + d, result.to(out.dtype.element_ty), mask=on)


@triton.jit
@no_type_check
def norm_backward(
    gout, y, z, weight, bias, gy, gz, sums, y_row, z_row, gz_row, sums_row, count, eps,
    D: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Write gy, packed, and gz, and this program's sums for weight and bias, a line of `sums` (2, D)."""
    d = tl.arange(0, WIDTH)[None, :]
    w = tl.load(weight + d, mask=d < D, other=0.0).to(tl.float32)
    shift = tl.load(bias + d, mask=d < D, other=0.0).to(tl.float32)
    to_weight = tl.zeros((1, WIDTH), tl.float32)
    to_bias = tl.zeros((1, WIDTH), tl.float32)
    for base in range(tl.program_id(0) * ROWS, count, tl.num_programs(0) * ROWS):
        row = (base + tl.arange(0, ROWS)[:, None]).to(tl.int64)
        on = (row < count) & (d < D)
        value, scale = normalised(tl.load(y + row * y_row + d, mask=on, other=0.0).to(tl.float32), on, eps, D)
        gate = tl.load(z + row * z_row + d, mask=on, other=0.0).to(tl.float32)
        g = tl.load(gout + row * D + d, mask=on, other=0.0).to(tl.float32)
        sigmoid = tl.sigmoid(gate)
        to_gate = g * (value * w + shift) * sigmoid * (1.0 + gate * (1.0 - sigmoid))
        tl.store(gz + row * gz_row + d, to_gate.to(gz.dtype.element_ty), mask=on)
        to_norm = g * gate * sigmoid
        to_weight += tl.sum(to_norm * value, 0, keep_dims=True)
        to_bias += tl.sum(to_norm, 0, keep_dims=True)
        to_y = through_norm(to_norm * w, value, scale, D)
        tl.store(gy + row * D + d, to_y.to(gy.dtype.element_ty), mask=on)
    to = sums + tl.program_id(0) * sums_row + d
    tl.store(to, to_weight, mask=d < D)
    tl.store(to + D, to_bias, mask=d < D)
