"""Building blocks of the Triton kernels: the tile of a program, sums over lanes, the path through an image, steps.

A program is PW warps, one unless channels are summed over in backward. It holds the states of PW * BD channels times
BN state indices in registers as a tensor (RN, RD, warp, lane): the first two axes are registers of a lane, and with
PD * PN = 32

    n = (PN-1 - lane % PN) * RN + rn,   d = (block * PW + warp) * BD + (PD-1 - lane // PN) * RD + rd
    BN = RN * PN, BD = RD * PD

A lane's n (and d) are neighbours in memory and are loaded as one vector; lanes count down because the compiler
would put lanes along ascending addresses. All tensors have all warps and all 32 lanes on their last axes: whatever
order of axes the compiler prefers, a lane's part is the same and nothing is exchanged between layouts. For the same
reason offsets of whole tiles are declared contiguous along the lane axis: the compiler then orders RD last. Only sums
over warps (`over_warps`) go through shared memory.

What depends on step and channel only (step sizes, softplus, the input, addresses) is not computed by all PN lanes of a
channel: BT steps are processed together, lane i loads and computes step i and passes its values on (`from_lane`) when
that step is due. Conversely, sums over lanes are exchanged so that each lane ends with the sum of its step (`push`):
half the shuffles of a sum that all lanes know.

Exponentials are powers of two of prescaled arguments, one instruction each. Polynomials for part of them
would not pay: one costs about 10 instructions, and instructions are the bottleneck of these kernels.

Legend: t step, k direction or group, R rank of dt (0: the step sizes themselves come in), L steps.
"""

from __future__ import annotations

import triton
import triton.language as tl

from lemamba.model.ops.triton.plan import interpreted

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)
# Triton's interpreter has no inline assembly. Triton, too, decides when a kernel is decorated whether to interpret it.
_INTERPRETED = tl.constexpr(interpreted())


@triton.jit
def exp2(x):
    """Return 2^x; results below the smallest normal number are 0, which saves three instructions."""
    if _INTERPRETED:
        y = tl.exp2(x)
    else:
        y = tl.inline_asm_elementwise("ex2.approx.ftz.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1)
    return y


@triton.jit
def fresh(x):
    """Return x, an int32 scalar, as a value that the compiler knows nothing about.

    What is computed from it is computed here and not kept, in registers or on the stack, from where the same was
    computed before: worth it around loops that need all registers.
    """
    if not _INTERPRETED:
        x = tl.inline_asm_elementwise("mov.b32 $0, $1;", "=r,r", [x], dtype=tl.int32, is_pure=False, pack=1)
    return x


@triton.jit
def tile(block, RN: tl.constexpr, RD: tl.constexpr, PD: tl.constexpr, PN: tl.constexpr, PW: tl.constexpr):
    """Return n (RN, 1, PW, 32), d (1, RD, PW, 32) of the program's tile, and each lane's number (1, 1, PW, 32)."""
    warp = tl.arange(0, PW)[None, None, :, None]
    lane = tl.arange(0, PD * PN)[None, None, None, :] + warp * 0
    n = (PN - 1 - lane % PN) * RN + tl.arange(0, RN)[:, None, None, None]
    d = (PD - 1 - lane // PN) * RD + tl.arange(0, RD)[None, :, None, None] + (block * PW + warp) * (RD * PD)
    return n, d, lane


@triton.jit
def over_warps(x, PW: tl.constexpr):
    """Sum (…, PW, 32) over the program's warps, in a fixed order: (…, 1, 32)."""
    if PW > 1:
        x = tl.sum(x, 2, keep_dims=True)
    return x


@triton.jit
def _add2(a, b, x, y):
    return a + x, b + y


@triton.jit
def _add3(a, b, c, x, y, z):
    return a + x, b + y, c + z


@triton.jit
def all_over_warps(x, y, z, THREE: tl.constexpr, PW: tl.constexpr):
    """Return `over_warps` of two or, with THREE, three tensors: the warps wait for each other once for all of them."""
    if PW > 1 and _INTERPRETED:  # which takes its time for a reduction of several
        x, y, z = over_warps(x, PW), over_warps(y, PW), over_warps(z, PW)
    elif PW > 1 and THREE:
        x, y, z = tl.reduce((x, y, z), 2, _add3, keep_dims=True)
    elif PW > 1:
        x, y = tl.reduce((x, y), 2, _add2, keep_dims=True)
    return x, y, z


@triton.jit
def from_lane(x, lane):
    """Return, in each lane, x of the lane whose number is given there."""
    return tl.gather(x, tl.broadcast_to(lane, x.shape), 3)


@triton.jit
def plain_sum(x, lane, STRIDE: tl.constexpr, FIRST: tl.constexpr, SIZE: tl.constexpr):
    """Sum over SIZE / FIRST lanes that lie STRIDE * FIRST apart; all of them get the sum."""
    for bit in tl.static_range(5):
        if (FIRST << bit) < SIZE:
            x += from_lane(x, lane ^ (STRIDE * (FIRST << bit)))
    return x


@triton.jit
def push(stack, x, lane, m: tl.constexpr, STRIDE: tl.constexpr, Q: tl.constexpr, BACK: tl.constexpr):
    """Add the m-th of several summands over lanes (BACK: their steps descend); return what is still to be merged.

    Two tensors of steps that differ in one bit become one: the lane whose own number has that bit keeps the later step
    and passes on the earlier one, the lane at distance STRIDE << bit does the opposite. After Q steps lane i has, of
    log2(Q) of the lane bits, the sum for step i: three instructions and one shuffle per value.
    """
    for bit in tl.static_range(5):
        if (2 << bit) <= Q and (m + 1) % (2 << bit) == 0:
            earlier, later = (x, stack[-1]) if BACK else (stack[-1], x)
            high = (lane & (STRIDE << bit)) != 0
            x = tl.where(high, later, earlier) + from_lane(tl.where(high, earlier, later), lane ^ (STRIDE << bit))
            stack = stack[:-1]
    return stack + (x,)


@triton.jit
def load(pointers, on, MASK: tl.constexpr):
    """Load values as float32, 0 where not `on`; without MASK all are in range (a mask costs instructions)."""
    if MASK:
        values = tl.load(pointers, mask=on, other=0.0)
    else:
        values = tl.load(pointers)
    return values.to(tl.float32)


@triton.jit
def path_start(t, k, H, W, L, CROSS: tl.constexpr, BACK: tl.constexpr):
    """Return the place of step t of direction k in memory, and its row in its column.

    Directions are rows, columns, rows reversed, columns reversed. BACK: the path will be walked from its end. The
    row is used in odd directions only; elsewhere `path_next` leaves it unchanged.
    """
    place, row = t, t * 0
    if CROSS:
        odd = k % 2 == 1
        row = tl.where(odd, t % H, 0)
        place = tl.where(odd, row * W + t // H, t)
        place = tl.where(k >= 2, L - 1 - place, place)
        if BACK:
            row = H - 1 - row
    return place, row


@triton.jit
def path_stride(k, H, W, L, STEPS: tl.constexpr, CROSS: tl.constexpr, BACK: tl.constexpr):
    """Return what STEPS steps add to the row, to the place, and to the place where they reach another column."""
    rows, far, farther = 0, STEPS, STEPS
    if CROSS:
        odd = k % 2 == 1
        rows = tl.where(odd, STEPS % H, 0)
        far = tl.where(odd, STEPS % H * W + STEPS // H, STEPS)
        farther = far + 1 - L
        far, farther = tl.where(k >= 2, -far, far), tl.where(k >= 2, -farther, farther)
    if BACK:
        far, farther = -far, -farther
    return rows, far, farther


@triton.jit
def path_next(place, row, stride, H, CROSS: tl.constexpr):
    """Return place and row further along the path, without a division."""
    rows, far, farther = stride
    if CROSS:
        row += rows
        place += tl.where(row >= H, farther, far)
        row = tl.where(row >= H, row - H, row)
    else:
        place += far
    return place, row


@triton.jit
def wide(place, WIDE: tl.constexpr):
    """Return a place in 64 bits if distances do not fit 32."""
    if WIDE:
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
def step_size(pointers, on, ranks, shift, R: tl.constexpr, SOFTPLUS: tl.constexpr, MASK: tl.constexpr):
    """Return the step sizes (1, RD, PW, 32) and their derivative with respect to the input of the softplus.

    Pointers are to step sizes (1, RD, PW, 32) or, with R > 0, to dt (1, 1, PW, 32), expanded by R weights `ranks`
    (1, RD, PW, 32).
    """
    if R > 0:
        raw = shift
        for r in tl.static_range(R):
            raw += ranks[r] * load(pointers + r, on, False)
    else:
        raw = load(pointers, on, MASK) + shift
    step, slope = raw, tl.full(raw.shape, 1.0, tl.float32)
    if SOFTPLUS:
        step, slope = softplus(raw)
    return step, slope
