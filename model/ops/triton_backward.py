"""Triton kernel of the selective scan, backward. Tile and path: `triton_parts.py`, passes: `triton_kernels.py`.

From the end of a chunk to its beginning, BT steps at a time: the states of these steps are computed again from the one
that forward kept and stay in registers; then, with g the gradient of the state, backwards in time

    g += C gy                                   the state's own output
    gC = sum_d h gy    gB = sum_d g step u      gu = step sum_n g B + D gy
    gstep = sum_n g decay A h_before + u sum_n g B
    g *= decay                                  to the step before

Sums over channel blocks, samples and chunks go to separate buffers that are added afterwards: no atomics, the same bits
every time.
"""

from __future__ import annotations

import triton
import triton.language as tl

from model.ops.triton_parts import (
    LN2,
    LOG2E,
    decay_again,
    exp2,
    load,
    over_d,
    over_n,
    path_next,
    path_pixel,
    path_start,
    step_size,
    tile,
)


@triton.jit
def backward_kernel(  # noqa: C901 - a kernel is one function: its registers are what it is about
    x, dt, B, C, gate, A, D, weight, bias, shared, rho, saved, gy, arriving,
    gx, gdt, gB, gC, ggate, gA, gD, gweight, gbias, gshared, grho, leaving,
    x_b, x_k, x_l, s_b, s_k, s_l, B_b, B_k, B_l, C_b, C_k, C_l, g_b, g_k, g_l, y_b, y_k, y_l,
    L, H, W, length, chunks,
    K: tl.constexpr, CH: tl.constexpr, N: tl.constexpr, R: tl.constexpr, BR: tl.constexpr,
    CROSS: tl.constexpr, SOFTPLUS: tl.constexpr, SHARE: tl.constexpr, ARRIVING: tl.constexpr, SUM: tl.constexpr,
    WIDE: tl.constexpr, MASK_N: tl.constexpr, MASK_D: tl.constexpr,
    VEC_N: tl.constexpr, VEC_D: tl.constexpr, VEC_S: tl.constexpr,
    BT: tl.constexpr, RN: tl.constexpr, RD: tl.constexpr, PD: tl.constexpr, PN: tl.constexpr,
):  # fmt: skip
    """Backward over chunks of `length` steps (a multiple of BT).

    arriving, leaving (tasks, CH, N): gradient of the state after and before the chunk. gx (B, K, L, CH), with SUM
    (B, L, CH); gdt (B, K, L, CH), with R (blocks, B, K, L, R); gB, gC, ggate (blocks, B, K, L, N); gA, gshared
    (tasks, CH, N); gD, gbias, grho (tasks, CH); gweight (tasks, CH, R). All in the order of memory, not of the path.
    """
    blocks = tl.cdiv(CH, RD * PD)
    program = tl.program_id(0)
    block, task = program % blocks, program // blocks
    chunk, b = task % chunks, (task // chunks).to(tl.int64)
    first, directions = 0, K
    if not SUM:
        first, b, directions = (b % K).to(tl.int32), b // K, 1
    samples = tl.num_programs(0) // (blocks * chunks)  # B
    if not SUM:
        samples = samples // K
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
        at_task = bk * chunks + chunk
        state = at_task * CH * N + dn
        x_row, dt_row, y_row = (
            x + b * (x_b * VEC_D) + k * (x_k * VEC_D) + d,
            dt + b * (s_b * VEC_S) + k * (s_k * VEC_S) + index,
            gy + b * (y_b * VEC_D) + k * (y_k * VEC_D) + d,
        )
        B_row, C_row = B + b * (B_b * VEC_N) + k * (B_k * VEC_N) + n, C + b * (C_b * VEC_N) + k * (C_k * VEC_N) + n
        # this program's part of each gradient, in the order of memory
        bkl = ((block * samples + b) * K + k) * L
        gB_row, gC_row = gB + bkl * N + n, gC + bkl * N + n
        gdt_row = gdt + bkl * R + r if R > 0 else gdt + bk * L * CH + d
        gx_row = gx + (b if SUM else bk) * L * CH + d
        if SHARE:
            gate_row, ggate_row = gate + b * (g_b * VEC_N) + k * (g_k * VEC_N) + n, ggate + bkl * N + n
            mixing = tl.load(shared + bk * CH * N + dn, mask=on_dn, other=0.0)
            by = tl.load(rho + row, mask=on_d, other=0.0)
            sum_shared = tl.zeros((RN, RD, PD, PN), tl.float32)
            sum_rho = tl.zeros((1, RD, PD, PN), tl.float32)
        g = tl.zeros((RN, RD, PD, PN), tl.float32)
        if ARRIVING:
            g = tl.load(arriving + state, mask=on_dn, other=0.0)
        sum_A = tl.zeros((RN, RD, PD, PN), tl.float32)
        sum_D = tl.zeros((1, RD, PD, PN), tl.float32)
        sum_bias = tl.zeros((1, RD, PD, PN), tl.float32)
        sum_rank = tl.zeros((BR, RD, PD, PN), tl.float32)
        rounds = tl.cdiv(end - begin, BT)
        for back in range(0, rounds):
            base = begin + (rounds - 1 - back) * BT
            at = (bk * tl.cdiv(L, BT) + base // BT) * CH * N
            h = tl.load(saved + at + dn, mask=on_dn, other=0.0).to(tl.float32)
            t, i, j = path_start(base, k, H, L, CROSS)
            home = path_pixel(t, i, j, k, W, CROSS, WIDE)
            states, values, steps, slopes, mixes, places = (h,), (), (), (), (), ()
            for s in tl.static_range(BT):
                on = base + s < end
                place = tl.where(on, path_pixel(t, i, j, k, W, CROSS, WIDE), home)  # past the end: anything that exists
                t, i, j = path_next(t, i, j, k, H, CROSS, False)
                value = load(x_row + place * (x_l * VEC_D), on_d, MASK_D)
                step, slope = step_size(
                    dt_row + place * (s_l * VEC_S), on_index, rank, shift, R, SOFTPLUS, MASK_D, R < BR
                )
                step, slope = tl.where(on, step, 0.0), tl.where(on, slope, 0.0)
                if SHARE:
                    mixed = over_n(mixing * load(gate_row + place * (g_l * VEC_N), on_n, MASK_N))
                    value += by * mixed
                    mixes = mixes + (mixed,)
                h = exp2(step * a) * h + (step * value) * load(B_row + place * (B_l * VEC_N), on_n, MASK_N)
                states, values, steps = states + (h,), values + (value,), steps + (step,)
                slopes, places = slopes + (slope,), places + (place,)
            for s in tl.static_range(BT - 1, -1, -1):
                on = base + s < end
                there = base + s < limit
                place, value, step = places[s], values[s], steps[s]
                Bt, Ct = (
                    load(B_row + place * (B_l * VEC_N), on_n, MASK_N),
                    load(C_row + place * (C_l * VEC_N), on_n, MASK_N),
                )
                out = tl.where(on, load(y_row + place * (y_l * VEC_D), on_d, MASK_D), 0.0)
                g += Ct * out
                to_x = over_n(g * Bt)
                to_B = over_d(g * (step * value))
                to_C = over_d(states[s + 1] * out)
                g = g * decay_again(step, a)
                through = g * states[s]
                sum_A += through * step
                to_raw = (over_n(through * a) * LN2 + to_x * value) * slopes[s]
                to_u = to_x * step + skip * out
                sum_D += out * value
                sum_bias += to_raw
                if R > 0:
                    sum_rank += to_raw * load(dt_row + place * (s_l * VEC_S), on_index, R < BR)
                    to_dt = tl.broadcast_to(gdt_row + place * R, (BR, 1, 1, PN))
                    tl.store(to_dt, over_d(to_raw * rank), mask=there & on_index)
                else:
                    tl.store(gdt_row + place * CH, to_raw.to(gdt.dtype.element_ty), mask=there & on_d)
                if SHARE:
                    sum_rho += to_u * mixes[s]
                    to_mixed = to_u * by
                    sum_shared += to_mixed * load(gate_row + place * (g_l * VEC_N), on_n, MASK_N)
                    tl.store(ggate_row + place * N, over_d(to_mixed * mixing), mask=there & on_n)
                tl.store(gB_row + place * N, to_B, mask=there & on_n)
                tl.store(gC_row + place * N, to_C, mask=there & on_n)
                if SUM:
                    to_u += tl.load(gx_row + place * CH, mask=there & on_d & later, other=0.0)
                tl.store(gx_row + place * CH, to_u.to(gx.dtype.element_ty), mask=there & on_d)
        tl.store(leaving + state, g, mask=on_dn)
        tl.store(gA + state, sum_A, mask=on_dn)
        tl.store(gD + at_task * CH + d, sum_D, mask=on_d)
        tl.store(gbias + at_task * CH + d, sum_bias, mask=on_d)
        if R > 0:
            tl.store(gweight + at_task * CH * R + dr, sum_rank, mask=on_d & (r < R))
        if SHARE:
            tl.store(gshared + state, sum_shared, mask=on_dn)
            tl.store(grho + at_task * CH + d, sum_rho, mask=on_d)
        if SUM:
            tl.debug_barrier()  # the next direction reads what this one wrote
