"""Triton kernels of a whole block; what they compute and in which order: `block.py`.

Rows are pixels, in the order of the scan's images: with WINDOW the pixels of one window after the other, of images
(IMAGES, H, W). `place` is the row of the image. A program takes ROWS of them at a time; those that sum over rows walk
through all rows and write one line of `sums`, `sums_row` apart, which are added afterwards. Everything is computed in
float32.
"""

from __future__ import annotations

from typing import no_type_check

import triton
import triton.language as tl

from lemamba.model.ops.triton.gate_kernels import gelu_gradients, normalised, through_norm, tile_of


@triton.jit
def _place(row, H, W, WINDOW: tl.constexpr):
    """Return the row of the image that a row of the windows is."""
    if WINDOW > 0:
        inside, window = row % (WINDOW * WINDOW), row // (WINDOW * WINDOW)
        across = W // WINDOW
        top, left = window // across * WINDOW, window % across * WINDOW  # H is a multiple of WINDOW: images follow
        row = (top + inside // WINDOW) * W + left + inside % WINDOW
    return row


@triton.jit
def _load(pointers, on):
    return tl.load(pointers, mask=on, other=0.0).to(tl.float32)


@triton.jit
def _drawn(draws, row, count, per_sample, scale, DROP: tl.constexpr):
    """Return the factor of stochastic depth of rows, 0 or `scale`; 1 without DROP."""
    factor = 1.0
    if DROP:
        factor = tl.load(draws + row // per_sample, mask=row < count, other=0.0) * scale
    return factor


@triton.jit
@no_type_check
def prepare(
    x_proj, gate, A_log, weight, A, rows, gated,
    K: tl.constexpr, D: tl.constexpr, N: tl.constexpr, R: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write weight (rows, D): x_proj (K, R + 2 N, D) by parts, `gated` rows of the gate last; and A = -exp(A_log)."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    row, column = at // D, at % D
    on, own = at < rows * D, row < rows - gated
    source = _source(row, K, N, R) * D + column
    value = tl.load(x_proj + source, mask=on & own, other=0.0)
    value += tl.load(gate + (row - rows + gated) * D + column, mask=on & (row >= rows - gated), other=0.0)
    tl.store(weight + at, value.to(weight.dtype.element_ty), mask=on)
    here = at < K * D * N
    tl.store(A + at, -tl.exp(tl.load(A_log + at, mask=here, other=0.0)), mask=here)


@triton.jit
def _source(row, K: tl.constexpr, N: tl.constexpr, R: tl.constexpr):
    """Return the row of x_proj that a row of the joined weight is: first dt of all K directions, then B, then C."""
    behind = row - K * R
    part, rest = behind // (K * N), behind % (K * N)
    of_dt = row // max(R, 1) * (R + 2 * N) + row % max(R, 1)
    return tl.where(row < K * R, of_dt, rest // N * (R + 2 * N) + R + part * N + rest % N)


@triton.jit
@no_type_check
def prepare_backward(
    gweight, gA, A, gx_proj, gA_log,
    K: tl.constexpr, D: tl.constexpr, N: tl.constexpr, R: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write the gradients of x_proj and A_log from those of the joined weight and A."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    on = at < K * (R + 2 * N) * D
    row = at // D
    to = _source(row, K, N, R) * D + at % D
    tl.store(gx_proj + to, _load(gweight + at, on), mask=on)
    here = at < K * D * N
    tl.store(gA_log + at, _load(gA + at, here) * _load(A + at, here), mask=here)


@triton.jit
@no_type_check
def norm_rows(
    x, weight, bias, out, x_row, count, eps, H, W,
    D: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr, WINDOW: tl.constexpr,
):  # fmt: skip
    """Write out = norm(x), packed, the rows of x taken from the image."""
    row, d, on = tile_of(count, D, ROWS, WIDTH)
    value, _scale = normalised(_load(x + _place(row, H, W, WINDOW) * x_row + d, on), on, eps, D)
    result = value * _load(weight + d, d < D) + _load(bias + d, d < D)
    tl.store(out + row * D + d, result.to(out.dtype.element_ty), mask=on)


@triton.jit
@no_type_check
def norm_gate(
    parts, z, weight, bias, total, out, z_row, count, L, eps,
    D: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """Write total, the sum of parts (images, PARTS, L, D) over its second axis, and norm(total) SiLU(z); packed."""
    row, d, on = tile_of(count, D, ROWS, WIDTH)
    y = _sum_of_parts(parts, row, d, on, L, D, PARTS)
    tl.store(total + row * D + d, y.to(total.dtype.element_ty), mask=on)
    value, _scale = normalised(y, on, eps, D)
    value = value * _load(weight + d, d < D) + _load(bias + d, d < D)
    gate = _load(z + row * z_row + d, on)
    tl.store(out + row * D + d, (value * gate * tl.sigmoid(gate)).to(out.dtype.element_ty), mask=on)


@triton.jit
@no_type_check
def silu_backward(
    parts, product, values, out, count, L, D: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
    PARTS: tl.constexpr,
):  # fmt: skip
    """Write the gradient of v from that of SiLU(v), which is the sum of the parts and of the product; packed."""
    row, d, on = tile_of(count, D, ROWS, WIDTH)
    g = _sum_of_parts(parts, row, d, on, L, D, PARTS) + _load(product + row * D + d, on)
    value = _load(values + row * D + d, on)
    sigmoid = tl.sigmoid(value)
    result = g * sigmoid * (1.0 + value * (1.0 - sigmoid))
    tl.store(out + row * D + d, result.to(out.dtype.element_ty), mask=on)


@triton.jit
def _sum_of_parts(parts, row, d, on, L, D: tl.constexpr, PARTS: tl.constexpr):
    """Return the sum over PARTS of rows of parts (images, PARTS, L, D)."""
    first = parts + (row // L * (PARTS * L) + row % L) * D + d
    total = _load(first, on)
    for part in tl.static_range(1, PARTS):
        total += _load(first + part * L * D, on)
    return total


@triton.jit
@no_type_check
def add_norm(
    x, branch, draws, weight, bias, total, out, count, per_sample, scale, eps, H, W,
    D: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr, WINDOW: tl.constexpr, DROP: tl.constexpr,
):  # fmt: skip
    """Write total = x + draw branch, the rows of x taken from the image, and out = norm(total); packed."""
    row, d, on = tile_of(count, D, ROWS, WIDTH)
    draw = _drawn(draws, row, count, per_sample, scale, DROP)
    result = _load(x + _place(row, H, W, WINDOW) * D + d, on) + draw * _load(branch + row * D + d, on)
    tl.store(total + row * D + d, result.to(total.dtype.element_ty), mask=on)
    value, _scale = normalised(result, on, eps, D)
    result = value * _load(weight + d, d < D) + _load(bias + d, d < D)
    tl.store(out + row * D + d, result.to(out.dtype.element_ty), mask=on)


@triton.jit
@no_type_check
def finish(
    x, total, branch, draws, factor, out, count, per_sample, scale, H, W,
    D: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr, WINDOW: tl.constexpr, DROP: tl.constexpr,
):  # fmt: skip
    """Write out = total + draw branch; of windows x + factor times that, back in the image."""
    row, d, on = tile_of(count, D, ROWS, WIDTH)
    draw = _drawn(draws, row, count, per_sample, scale, DROP)
    result = _load(total + row * D + d, on) + draw * _load(branch + row * D + d, on)
    to = _place(row, H, W, WINDOW) * D + d
    if WINDOW > 0:
        result = _load(x + to, on) + result * _load(factor + d, d < D)
    tl.store(out + to, result.to(out.dtype.element_ty), mask=on)


@triton.jit
@no_type_check
def finish_backward(
    gout, total, branch, draws, factor, gbranch, sums, sums_row, count, per_sample, scale, H, W,
    D: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr, WINDOW: tl.constexpr, DROP: tl.constexpr,
):  # fmt: skip
    """Write the gradient of the branch, and sums for its bias and, of windows, for the factor: sums (2, D)."""
    d = tl.arange(0, WIDTH)[None, :]
    to_bias = tl.zeros((1, WIDTH), tl.float32)
    to_factor = tl.zeros((1, WIDTH), tl.float32)
    for base in range(tl.program_id(0) * ROWS, count, tl.num_programs(0) * ROWS):
        row = (base + tl.arange(0, ROWS)[:, None]).to(tl.int64)
        on = (row < count) & (d < D)
        draw = _drawn(draws, row, count, per_sample, scale, DROP)
        g = _load(gout + _place(row, H, W, WINDOW) * D + d, on)
        if WINDOW > 0:
            whole = _load(total + row * D + d, on) + draw * _load(branch + row * D + d, on)
            to_factor += tl.sum(g * whole, 0, keep_dims=True)
            g = g * _load(factor + d, d < D)
        g = g * draw
        to_bias += tl.sum(g, 0, keep_dims=True)
        tl.store(gbranch + row * D + d, g.to(gbranch.dtype.element_ty), mask=on)
    to = sums + tl.program_id(0) * sums_row + d
    tl.store(to, to_bias, mask=d < D)
    if WINDOW > 0:
        tl.store(to + D, to_factor, mask=d < D)


@triton.jit
@no_type_check
def gelu_backward_sums(
    gy, a, b, both, sums, a_row, b_row, sums_row, count,
    D: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Write the gradients of a and b side by side, both (count, 2 D), and sums of them over rows: sums (2 D)."""
    d = tl.arange(0, WIDTH)[None, :]
    to_a = tl.zeros((1, WIDTH), tl.float32)
    to_b = tl.zeros((1, WIDTH), tl.float32)
    for base in range(tl.program_id(0) * ROWS, count, tl.num_programs(0) * ROWS):
        row = (base + tl.arange(0, ROWS)[:, None]).to(tl.int64)
        on = (row < count) & (d < D)
        g, first, second = _load(gy + row * D + d, on), _load(a + row * a_row + d, on), _load(b + row * b_row + d, on)
        ga, gb = gelu_gradients(g, first, second)
        to_a += tl.sum(ga, 0, keep_dims=True)
        to_b += tl.sum(gb, 0, keep_dims=True)
        to = both + row * (2 * D) + d
        tl.store(to, ga.to(both.dtype.element_ty), mask=on)
        tl.store(to + D, gb.to(both.dtype.element_ty), mask=on)
    to = sums + tl.program_id(0) * sums_row + d
    tl.store(to, to_a, mask=d < D)
    tl.store(to + D, to_b, mask=d < D)


@triton.jit
@no_type_check
def norm_rows_backward(
    g, x, weight, more, gout, factor, draws, gx, gbranch, sums, x_row, gx_row, sums_row,
    count, per_sample, scale, eps, H, W,
    D: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr, WINDOW: tl.constexpr, GATHER: tl.constexpr,
    MORE: tl.constexpr, RESIDUAL: tl.constexpr, FACTOR: tl.constexpr, BRANCH: tl.constexpr, DROP: tl.constexpr,
):  # fmt: skip
    """Write gx, the gradient of x from that of norm(x), g, and sums for weight and bias: sums (2, D).

    GATHER: x and gx are in the order of the image. Added to it: MORE, more[row]; RESIDUAL, gout of the image, with
    FACTOR times factor. BRANCH: also written times the draw, the gradient of the branch that x is the end of.
    """
    d = tl.arange(0, WIDTH)[None, :]
    w = _load(weight + d, d < D)
    to_weight = tl.zeros((1, WIDTH), tl.float32)
    to_bias = tl.zeros((1, WIDTH), tl.float32)
    for base in range(tl.program_id(0) * ROWS, count, tl.num_programs(0) * ROWS):
        row = (base + tl.arange(0, ROWS)[:, None]).to(tl.int64)
        on = (row < count) & (d < D)
        place = _place(row, H, W, WINDOW)
        there = place if GATHER else row
        value, deviation = normalised(_load(x + there * x_row + d, on), on, eps, D)
        to_norm = _load(g + row * D + d, on)
        to_weight += tl.sum(to_norm * value, 0, keep_dims=True)
        to_bias += tl.sum(to_norm, 0, keep_dims=True)
        result = through_norm(to_norm * w, value, deviation, D)
        if MORE:
            result += _load(more + row * D + d, on)
        if RESIDUAL:
            passed = _load(gout + place * D + d, on)
            if FACTOR:
                passed = passed * _load(factor + d, d < D)
            result += passed
        tl.store(gx + there * gx_row + d, result.to(gx.dtype.element_ty), mask=on)
        if BRANCH:
            draw = _drawn(draws, row, count, per_sample, scale, DROP)
            tl.store(gbranch + row * D + d, (result * draw).to(gbranch.dtype.element_ty), mask=on)
    to = sums + tl.program_id(0) * sums_row + d
    tl.store(to, to_weight, mask=d < D)
    tl.store(to + D, to_bias, mask=d < D)
