"""Pieces of the Triton kernels of the scan: the tile of a program, the path through an image, step sizes.

A program is one warp. It holds the states of BD channels times BN state indices in registers as a tensor
(RN, RD, PD, PN): the last two axes are the 32 lanes, the first two lie in each lane's registers, so

    n = (PN-1 - pn) * RN + rn,     d = block * BD + (PD-1 - pd) * RD + rd,     BN = RN * PN, BD = RD * PD, PD * PN = 32

and a sum over n or d is a sum of registers followed by few shuffles. A lane's n (and d) are neighbours in memory and
are loaded as one vector; lanes count down because the compiler would sort lanes along ascending addresses. Rows are
loaded for every lane (pointers broadcast to all lanes), which pins this layout: from smaller tensors the compiler would
derive another one and convert between them at every step. For the same reason offsets of whole tiles say that the two
lane axes have neighbours: this puts RD last where the compiler orders axes; vectors are taken along the first one only.

Exponentials are powers of two of prescaled arguments, one instruction each. Part of them as polynomials would not pay:
forward, a state and step costs one exponential (8 of the issue slots of a warp scheduler, on its own unit) beside 5 to
9 other instructions, a polynomial about 10; backward is bound by those other instructions.

Legend: t step, k direction or group, R rank of dt (0: the step sizes themselves come in), L steps.
"""

from __future__ import annotations

import triton
import triton.language as tl

from model.ops.triton_plan import interpreted

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)
# Triton's interpreter knows no inline assembly; it decides at the same moment, when a kernel is decorated.
_INTERPRETED = tl.constexpr(interpreted())


@triton.jit
def exp2(x):
    """Return 2^x; results below the smallest normal number are 0, which spares three instructions."""
    if _INTERPRETED:
        y = tl.exp2(x)
    else:
        y = tl.inline_asm_elementwise("ex2.approx.ftz.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1)
    return y


@triton.jit
def decay_again(step, a):
    """Return 2^(step a), computed anew: the compiler would keep earlier decays, for which there are no registers."""
    if _INTERPRETED:
        y = tl.exp2(step * a)
    else:
        y = tl.inline_asm_elementwise(
            "{ .reg .f32 x; mul.ftz.f32 x, $1, $2; ex2.approx.ftz.f32 $0, x; }",
            "=f,f,f", [step, a], dtype=tl.float32, is_pure=True, pack=1,
        )  # fmt: skip
    return y


@triton.jit
def tile(block, RN: tl.constexpr, RD: tl.constexpr, PD: tl.constexpr, PN: tl.constexpr):
    """Return n (RN, 1, PD, PN) and d (1, RD, PD, PN) of the program's tile, broadcast to all lanes."""
    n = (PN - 1 - tl.arange(0, PN)[None, None, None, :]) * RN + tl.arange(0, RN)[:, None, None, None]
    d = (PD - 1 - tl.arange(0, PD)[None, None, :, None]) * RD + tl.arange(0, RD)[None, :, None, None]
    d += block * (RD * PD)
    return tl.broadcast_to(n, (RN, 1, PD, PN)), tl.broadcast_to(d, (1, RD, PD, PN))


@triton.jit
def over_n(x):
    """Sum (RN, RD, PD, PN) over n: (1, RD, PD, 1)."""
    return tl.sum(tl.sum(x, 0, keep_dims=True), 3, keep_dims=True)


@triton.jit
def over_d(x):
    """Sum (·, RD, PD, PN) over d: (·, 1, 1, PN)."""
    return tl.sum(tl.sum(x, 1, keep_dims=True), 2, keep_dims=True)


@triton.jit
def load(pointers, on, MASK: tl.constexpr):
    """Load float32 values, 0 where not `on`; without MASK everything is known to exist (a mask costs instructions)."""
    if MASK:
        values = tl.load(pointers, mask=on, other=0.0)
    else:
        values = tl.load(pointers)
    return values.to(tl.float32)


@triton.jit
def path_start(t, k, H, L, CROSS: tl.constexpr):
    """Return (step along the path, row, column) of step t; rows and columns count in odd directions only."""
    row, column = 0, 0
    if CROSS:
        t = tl.where(k >= 2, L - 1 - t, t)
        row, column = t % H, t // H
    return t, row, column


@triton.jit
def path_next(t, row, column, k, H, CROSS: tl.constexpr, BACK: tl.constexpr):
    """Return the place one step further (BACK: one step less far) along direction k, without a division."""
    by = -1 if BACK else 1
    if CROSS:
        by = tl.where(k >= 2, -by, by)
        row += by
        column = tl.where(row == H, column + 1, tl.where(row < 0, column - 1, column))
        row = tl.where(row == H, 0, tl.where(row < 0, H - 1, row))
    return t + by, row, column


@triton.jit
def path_pixel(t, row, column, k, W, CROSS: tl.constexpr, WIDE: tl.constexpr):
    """Return where that place lies in memory: directions are rows, columns, rows reversed, columns reversed."""
    place = t
    if CROSS:
        place = tl.where(k % 2 == 1, row * W + column, t)
    if WIDE:  # distances that do not fit 32 bits
        place = place.to(tl.int64)
    return place


@triton.jit
def softplus(x):
    """Return log(1 + exp(x)) and its derivative, relative error 4e-7.

    It is max(x, 0) + log(1 + z) with z = exp(-|x|), and log(1 + z) / z on [0, 1] is a polynomial of degree 7 (Chebyshev
    interpolation): no overflow, and no digits lost for small z.
    """
    z = exp2(-tl.abs(x) * LOG2E)
    p = z * -0.00837115255 + 0.0434938998
    p = p * z - 0.106850029
    p = p * z + 0.176874767
    p = p * z - 0.244747742
    p = p * z + 0.332719284
    p = p * z - 0.499971745
    p = p * z + 0.999999781
    slope = 1.0 / (1.0 + z)
    return tl.maximum(x, 0.0) + p * z, tl.where(x < 0.0, z * slope, slope)


@triton.jit
def step_size(
    pointers, on, weight, shift, R: tl.constexpr, SOFTPLUS: tl.constexpr, MASK: tl.constexpr, MASK_R: tl.constexpr
):  # fmt: skip
    """Return the step sizes (1, RD, PD, PN) and their derivative to what comes before the softplus.

    Pointers to step sizes (1, RD, PD, PN), or with R to dt (BR, 1, PD, PN), which `weight` (BR, RD, PD, PN) expands.
    """
    if R > 0:
        raw = tl.sum(weight * load(pointers, on, MASK_R), 0, keep_dims=True) + shift
    else:
        raw = load(pointers, on, MASK) + shift
    step, slope = raw, tl.full(raw.shape, 1.0, tl.float32)
    if SOFTPLUS:
        step, slope = softplus(raw)
    return step, slope
