"""Triton kernels of the selective scan: forward, the carry from chunk to chunk, and the ends of chunks backwards.

A program (one warp, see `triton_parts.py`) walks BT steps at a time through one chunk of one sample, one group k and a
block of its channels, the recurrence in registers. Inputs have their channels side by side in memory; B and C are read
once for all channels of a block. With CROSS, step t of direction k reads and writes the pixel that this direction
visits: nothing is reordered in memory. With SUM the program takes all directions in turn and adds into y (it alone
owns these pixels and channels, so without atomics and with the same bits each time).

A sequence cut into chunks takes three passes: the end of each chunk from a zero state (OUT off), `carry_kernel`, and
each chunk again from its true start. Backward: `triton_backward.py`. Sizes: tasks are (b, k, chunk).
"""

from __future__ import annotations

import triton
import triton.language as tl

from model.ops.triton_parts import LOG2E, exp2, load, over_n, path_next, path_pixel, path_start, step_size, tile


@triton.jit
def forward_kernel(  # noqa: C901 - a kernel is one function: its registers are what it is about
    x, dt, B, C, gate, A, D, weight, bias, shared, rho, initial, y, last, saved, sums,
    x_b, x_k, x_l, s_b, s_k, s_l, B_b, B_k, B_l, C_b, C_k, C_l, g_b, g_k, g_l, y_b, y_k, y_l,
    L, H, W, length, chunks,
    K: tl.constexpr, CH: tl.constexpr, N: tl.constexpr, R: tl.constexpr, BR: tl.constexpr,
    CROSS: tl.constexpr, SOFTPLUS: tl.constexpr, SHARE: tl.constexpr, INITIAL: tl.constexpr, SAVE: tl.constexpr,
    OUT: tl.constexpr, SUM: tl.constexpr,
    WIDE: tl.constexpr, MASK_N: tl.constexpr, MASK_D: tl.constexpr,
    VEC_N: tl.constexpr, VEC_D: tl.constexpr, VEC_S: tl.constexpr,
    BT: tl.constexpr, RN: tl.constexpr, RD: tl.constexpr, PD: tl.constexpr, PN: tl.constexpr,
):  # fmt: skip
    """Forward over chunks of `length` steps.

    y is written by its strides; last, initial (tasks, CH, N); saved (B, K, cdiv(L, BT), CH, N): the state before every
    BT steps; sums (tasks, CH): a chunk's step sizes added up (written where OUT is off).
    """
    blocks = tl.cdiv(CH, RD * PD)
    program = tl.program_id(0)
    block, task = program % blocks, program // blocks
    chunk, b = task % chunks, (task // chunks).to(tl.int64)
    first, directions = 0, K
    if not SUM:
        first, b, directions = (b % K).to(tl.int32), b // K, 1
    n, d = tile(block, RN, RD, PD, PN)
    r = tl.arange(0, BR)[:, None, None, None]
    dn, dr = tl.max_contiguous(d * N + n, [RN, 1, 2, 2]), tl.max_contiguous(d * R + r, [1, 1, 2, 2])
    index, on_index = (r, r < R) if R > 0 else (d, d < CH)
    on_n, on_d, on_dn = n < N, d < CH, (n < N) & (d < CH)
    begin = chunk * length
    end = tl.minimum(begin + length, L)
    limit = tl.full((1, 1, 1, 1), 0, tl.int32) + end
    for k in range(first, first + directions):
        later = tl.full((1, 1, 1, 1), 0, tl.int32) + k > 0
        row = k * CH + d
        a = tl.load(A + k * CH * N + dn, mask=on_dn, other=0.0) * LOG2E
        skip = tl.load(D + row, mask=on_d, other=0.0)
        shift = tl.load(bias + row, mask=on_d, other=0.0)
        rank = tl.load(weight + k * CH * R + dr, mask=on_d & (r < R), other=0.0) if R > 0 else 0.0
        bk = b * K + k
        state = (bk * chunks + chunk) * CH * N + dn
        x_row, dt_row, y_row = (
            x + b * (x_b * VEC_D) + k * (x_k * VEC_D) + d,
            dt + b * (s_b * VEC_S) + k * (s_k * VEC_S) + index,
            y + b * (y_b * VEC_D) + k * (y_k * VEC_D) + d,
        )
        B_row, C_row = B + b * (B_b * VEC_N) + k * (B_k * VEC_N) + n, C + b * (C_b * VEC_N) + k * (C_k * VEC_N) + n
        if SHARE:
            gate_row = gate + b * (g_b * VEC_N) + k * (g_k * VEC_N) + n
            mixing = tl.load(shared + bk * CH * N + dn, mask=on_dn, other=0.0)
            mixing *= tl.load(rho + row, mask=on_d, other=0.0)
        h = tl.zeros((RN, RD, PD, PN), tl.float32)
        if INITIAL:
            h = tl.load(initial + state, mask=on_dn, other=0.0)
        total = tl.zeros((1, RD, PD, PN), tl.float32)
        for base in range(begin, end, BT):
            if SAVE:
                at = (bk * tl.cdiv(L, BT) + base // BT) * CH * N
                tl.store(saved + at + dn, h.to(saved.dtype.element_ty), mask=on_dn)
            t, i, j = path_start(base, k, H, L, CROSS)
            home = path_pixel(t, i, j, k, W, CROSS, WIDE)
            outs, places = (), ()
            for s in tl.static_range(BT):
                on = base + s < end
                place = tl.where(on, path_pixel(t, i, j, k, W, CROSS, WIDE), home)  # past the end: anything that exists
                t, i, j = path_next(t, i, j, k, H, CROSS, False)
                value = load(x_row + place * (x_l * VEC_D), on_d, MASK_D)
                Bt = load(B_row + place * (B_l * VEC_N), on_n, MASK_N)
                step, _slope = step_size(
                    dt_row + place * (s_l * VEC_S), on_index, rank, shift, R, SOFTPLUS, MASK_D, R < BR
                )
                step = tl.where(on, step, 0.0)  # past the end a step leaves the state as it is
                if SHARE:
                    value += over_n(mixing * load(gate_row + place * (g_l * VEC_N), on_n, MASK_N))
                h = exp2(step * a) * h + (step * value) * Bt
                if OUT:
                    out = over_n(h * load(C_row + place * (C_l * VEC_N), on_n, MASK_N)) + skip * value
                    outs, places = outs + (out,), places + (place,)  # noqa: RUF005 - tuples of Triton only add
                else:
                    total += step
            if OUT:  # after all loads: the compiler may not move a load before a store
                for s in tl.static_range(BT):
                    on, out = on_d & (base + s < limit), outs[s]
                    if SUM:
                        out += tl.load(y_row + places[s] * (y_l * VEC_D), mask=on & later, other=0.0)
                    tl.store(y_row + places[s] * (y_l * VEC_D), out.to(y.dtype.element_ty), mask=on)
        tl.store(last + state, h, mask=on_dn)
        if not OUT:
            tl.store(sums + (bk * chunks + chunk) * CH + d, total, mask=on_d)
        if SUM:
            tl.debug_barrier()  # the next direction reads what this one wrote


@triton.jit
def carry_kernel(
    A, first, sums, ends, chunks,
    K: tl.constexpr, CH: tl.constexpr, N: tl.constexpr, FIRST: tl.constexpr, BACK: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Hand the state from chunk to chunk: ends (B, K, chunks, CH, N) become each chunk's start, in place.

    first (B, K, CH, N): what enters the first chunk (BACK: the last one), zero unless FIRST; sums (B, K, chunks, CH).
    """
    task = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    on = at < CH * N
    a = tl.load(A + (task % K) * CH * N + at, mask=on, other=0.0) * LOG2E
    state = tl.zeros((BLOCK,), tl.float32)
    if FIRST:
        state = tl.load(first + task * CH * N + at, mask=on, other=0.0)
    for i in range(0, chunks):
        chunk = task * chunks + (chunks - 1 - i if BACK else i)
        end = tl.load(ends + chunk * CH * N + at, mask=on, other=0.0)
        total = tl.load(sums + chunk * CH + at // N, mask=on, other=0.0)
        tl.store(ends + chunk * CH * N + at, state, mask=on)
        state = tl.exp2(total * a) * state + end


@triton.jit
def reverse_kernel(
    dt, C, gy, A, weight, bias, ends, sums,
    s_b, s_k, s_l, C_b, C_k, C_l, y_b, y_k, y_l, L, H, W, length, chunks,
    K: tl.constexpr, CH: tl.constexpr, N: tl.constexpr, R: tl.constexpr, BR: tl.constexpr,
    CROSS: tl.constexpr, SOFTPLUS: tl.constexpr,
    WIDE: tl.constexpr, MASK_N: tl.constexpr, MASK_D: tl.constexpr,
    VEC_N: tl.constexpr, VEC_D: tl.constexpr, VEC_S: tl.constexpr,
    BT: tl.constexpr, RN: tl.constexpr, RD: tl.constexpr, PD: tl.constexpr, PN: tl.constexpr,
):  # fmt: skip
    """Gradient that leaves each chunk at its beginning where none enters at its end: ends (tasks, CH, N)."""
    blocks = tl.cdiv(CH, RD * PD)
    program = tl.program_id(0)
    block, task = program % blocks, program // blocks
    chunk, b, k = task % chunks, (task // chunks // K).to(tl.int64), task // chunks % K
    n, d = tile(block, RN, RD, PD, PN)
    r = tl.arange(0, BR)[:, None, None, None]
    dn, dr = tl.max_contiguous(d * N + n, [RN, 1, 2, 2]), tl.max_contiguous(d * R + r, [1, 1, 2, 2])
    index, on_index = (r, r < R) if R > 0 else (d, d < CH)
    on_n, on_d, on_dn = n < N, d < CH, (n < N) & (d < CH)
    begin = chunk * length
    end = tl.minimum(begin + length, L)
    row = k * CH + d
    a = tl.load(A + k * CH * N + dn, mask=on_dn, other=0.0) * LOG2E
    shift = tl.load(bias + row, mask=on_d, other=0.0)
    rank = tl.load(weight + k * CH * R + dr, mask=on_d & (r < R), other=0.0) if R > 0 else 0.0
    dt_row, y_row = dt + b * (s_b * VEC_S) + k * (s_k * VEC_S) + index, gy + b * (y_b * VEC_D) + k * (y_k * VEC_D) + d
    C_row = C + b * (C_b * VEC_N) + k * (C_k * VEC_N) + n
    g = tl.zeros((RN, RD, PD, PN), tl.float32)
    total = tl.zeros((1, RD, PD, PN), tl.float32)
    for back in range(0, tl.cdiv(end - begin, BT)):
        stop = end - back * BT
        t, i, j = path_start(stop - 1, k, H, L, CROSS)
        home = path_pixel(t, i, j, k, W, CROSS, WIDE)
        for s in tl.static_range(BT):
            on = stop - 1 - s >= begin
            place = tl.where(on, path_pixel(t, i, j, k, W, CROSS, WIDE), home)
            t, i, j = path_next(t, i, j, k, H, CROSS, True)
            step, _slope = step_size(dt_row + place * (s_l * VEC_S), on_index, rank, shift, R, SOFTPLUS, MASK_D, R < BR)
            step = tl.where(on, step, 0.0)
            out = tl.where(on, load(y_row + place * (y_l * VEC_D), on_d, MASK_D), 0.0)
            g = exp2(step * a) * (g + load(C_row + place * (C_l * VEC_N), on_n, MASK_N) * out)
            total += step
    at = (b * K + k) * chunks + chunk
    tl.store(ends + at * CH * N + dn, g, mask=on_dn)
    tl.store(sums + at * CH + d, total, mask=on_d)
