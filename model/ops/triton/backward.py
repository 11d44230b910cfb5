"""Triton kernel of the selective scan, backward. Tile and path: `parts.py`, passes: `forward.py`.

From the end of a chunk to its beginning, KEEP steps at a time: from the state that forward kept, the states before
every BT steps are computed once more into `scratch`, of which a program reads only what it has written, soon after: it
stays in the cache. From each of these, the states and decays of BT steps are computed and stay in registers; then, with
g the gradient of the state, backwards in time

    g += C gy                                   the state's own output
    gC = sum_d h gy    gB = sum_d g step u      gu = step sum_n g B + D gy
    gstep = sum_n g decay A h_before + u sum_n g B
    g *= decay                                  to the step before

Sums over channels are added over the warps of a program. Sums over channel blocks, samples and chunks go to separate
buffers that are added afterwards: no atomics, the same bits every time.
"""

from __future__ import annotations

from typing import no_type_check

import triton
import triton.language as tl

from lemamba.model.ops.triton.parts import (
    LN2,
    LOG2E,
    all_over_warps,
    exp2,
    fresh,
    from_lane,
    load,
    over_warps,
    path_next,
    path_start,
    path_stride,
    plain_sum,
    push,
    step_size,
    tile,
    wide,
)


@triton.jit
def _task(program, blocks, chunks, K: tl.constexpr, SUM: tl.constexpr):
    """Return block of channels, task, chunk and sample of a program."""
    block, task = program % blocks, program // blocks
    chunk, b = task % chunks, (task // chunks).to(tl.int64)
    if not SUM:
        b = b // K
    return block, task, chunk, b


@triton.jit
@no_type_check  # the language is Triton's: tuples grow
def backward_kernel(  # noqa: C901 - a kernel is one function: its registers are what it is about
    x, dt, Bt, Ct, A, D, dt_weight, dt_bias, shared_state, gate, rho, saved, scratch, gy, arriving,
    gx, gdt, gBt, gCt, gA, gD, gdt_weight, gdt_bias, gshared_state, ggate, grho, leaving,
    x_b, x_k, x_l, s_b, s_k, s_l, B_b, B_k, B_l, C_b, C_k, C_l, g_b, g_k, g_l, y_b, y_k, y_l,
    to_s_o, to_s_b, to_s_k, to_s_l, to_n_o, to_n_b, to_n_k, to_n_l, to_t,
    L, H, W, length, chunks,
    K: tl.constexpr, CH: tl.constexpr, N: tl.constexpr, R: tl.constexpr,
    CROSS: tl.constexpr, SOFTPLUS: tl.constexpr, SHARE: tl.constexpr, ARRIVING: tl.constexpr, SUM: tl.constexpr,
    WIDE: tl.constexpr, MASK_N: tl.constexpr, MASK_D: tl.constexpr,
    VEC_N: tl.constexpr, VEC_D: tl.constexpr, VEC_S: tl.constexpr,
    BT: tl.constexpr, KEEP: tl.constexpr,
    RN: tl.constexpr, RD: tl.constexpr, PD: tl.constexpr, PN: tl.constexpr, PW: tl.constexpr,
):  # fmt: skip
    """Backward over chunks of `length` steps (a multiple of KEEP).

    scratch (programs, KEEP / BT, CH, N). arriving, leaving (tasks, CH, N): gradient of the state after and before the
    chunk. gx (B, K, L, CH), with SUM (B, L, CH); gdt (B, K, L, CH). Sums over the channels of a block are written by
    their strides between blocks, samples, directions and pixels: with R gdt (blocks, B, K, L, R) by to_s, gBt, gCt,
    ggate (blocks, B, K, L, N) by to_n in units of VEC_N. Summed afterwards over samples and chunks, to_t (in units of
    VEC_D) apart from one to the next: gA (K, CH, N), gD, gdt_bias, grho (K, CH), gdt_weight (K, CH, R). gshared_state
    (tasks, CH, N). All in the order of memory, not of the path.
    """
    blocks = tl.cdiv(CH, RD * PD * PW)
    program = tl.program_id(0)
    first, directions = 0, K
    if not SUM:
        first, directions = program // blocks // chunks % K, 1
    # the lane's own steps of a tile: for its channels i, i + Q, ..., for its state indices j, j + QD, ...
    Q: tl.constexpr = BT if BT < PN else PN
    QD: tl.constexpr = BT if BT < PD else PD
    FEW: tl.constexpr = R if R < 3 else 4
    QR: tl.constexpr = FEW if FEW < PD else PD  # ranks of dt that are summed together
    for k in range(first, first + directions):
        # fresh: nothing of another direction stays in registers
        block, task, chunk, b = _task(fresh(program), blocks, chunks, K, SUM)
        n, d, lane = tile(block, RN, RD, PD, PN, PW)
        i, j, rank, home = lane % Q, lane // PN % QD, lane // PN % (QR if QR > 0 else 1), lane // PN * PN
        dn = tl.max_contiguous(d * N + n, [RN, 1, 1, 2])
        on_n, on_d, on_dn = n < N, d < CH, (n < N) & (d < CH)
        # one of the lanes that have the same: gradients by channel; sums over channels by state and by rank
        one_warp = tl.arange(0, PW)[None, None, :, None] == 0
        once, once_n = on_d & (lane % PN < Q), on_n & (lane // PN < QD) & one_warp
        once_r = (lane % PN < Q) & (lane // PN < QR) & one_warp
        begin = chunk * length
        end = tl.minimum(begin + length, L)
        rounds = tl.cdiv(end - begin, BT)
        computed = scratch + task.to(tl.int64) * (KEEP // BT * CH * N) + dn
        row = k * CH + d
        a = tl.load(A + k * CH * N + dn, mask=on_dn, other=0.0) * LOG2E
        skip = tl.load(D + row, mask=on_d, other=0.0)
        shift = tl.load(dt_bias + row, mask=on_d, other=0.0)
        ranks, sum_ranks = (), ()
        for r in tl.static_range(R):  # tuples of Triton only add
            ranks = ranks + (tl.load(dt_weight + row * R + r, mask=on_d, other=0.0),)
            sum_ranks = sum_ranks + (tl.zeros((1, RD, PW, PD * PN), tl.float32),)
        bk, kk = b * K + k, b * 0 + k  # in 64 bits
        at_task = bk * chunks + chunk
        state = at_task * CH * N + dn
        x_row, y_row = x + (b * x_b + kk * x_k) * VEC_D + d, gy + (b * y_b + kk * y_k) * VEC_D + d
        dt_row = dt + (b * s_b + kk * s_k) * VEC_S + (lane * 0 if R > 0 else d)
        B_row, C_row = Bt + (b * B_b + kk * B_k) * VEC_N + n, Ct + (b * C_b + kk * C_k) * VEC_N + n
        # this program's part of each gradient, in the order of memory
        to_n = ((b * 0 + block) * to_n_o + b * to_n_b + kk * to_n_k) * VEC_N + n
        gB_row, gC_row = gBt + to_n, gCt + to_n
        gdt_row = gdt + bk * L * CH + d
        if R > 0:
            gdt_row = gdt + (b * 0 + block) * to_s_o + b * to_s_b + kk * to_s_k + lane * 0
        gx_row = gx + (b if SUM else bk) * L * CH + d
        if SHARE:
            gate_row, ggate_row = gate + (b * g_b + kk * g_k) * VEC_N + n, ggate + to_n
            mixing = tl.load(shared_state + bk * CH * N + dn, mask=on_dn, other=0.0)
            by = tl.load(rho + row, mask=on_d, other=0.0)
            sum_shared = tl.zeros((RN, RD, PW, PD * PN), tl.float32)
            sum_rho = tl.zeros((1, RD, PW, PD * PN), tl.float32)
        g = tl.zeros((RN, RD, PW, PD * PN), tl.float32)
        if ARRIVING:
            g = tl.load(arriving + state, mask=on_dn, other=0.0)
        sum_A = tl.zeros((RN, RD, PW, PD * PN), tl.float32)
        sum_D = tl.zeros((1, RD, PW, PD * PN), tl.float32)
        sum_bias = tl.zeros((1, RD, PW, PD * PN), tl.float32)
        # the last of the lane's own steps; from there Q (QD) steps back at a time
        stop = begin + rounds * BT
        place, down = path_start(stop - Q + i, k, H, W, L, CROSS, True)
        place_n, down_n = path_start(stop - QD + j, k, H, W, L, CROSS, True)
        stride, stride_n = path_stride(k, H, W, L, Q, CROSS, True), path_stride(k, H, W, L, QD, CROSS, True)
        forth = path_stride(k, H, W, L, Q, CROSS, False)
        for part in range(0, tl.cdiv(end - begin, KEEP)):
            kept_at = begin + (tl.cdiv(end - begin, KEEP) - 1 - part) * KEEP
            tiles = tl.cdiv(tl.minimum(end - kept_at, KEEP), BT)
            h = tl.load(saved + (bk * tl.cdiv(L, KEEP) + kept_at // KEEP) * CH * N + dn, mask=on_dn, other=0.0)
            tl.store(computed, h.to(scratch.dtype.element_ty), mask=on_dn)
            h = h.to(tl.float32)
            ahead, fallen = path_start(kept_at + i, k, H, W, L, CROSS, False)
            for t in range(1, tiles):  # all steps of these tiles exist
                places, values, steps, mixes = (), (), (), ()
                for _q in tl.static_range(0, BT, Q):
                    places = places + (ahead,)
                    ahead, fallen = path_next(ahead, fallen, forth, H, CROSS)
                if SHARE:
                    for s in tl.static_range(BT):
                        there = wide(from_lane(places[s // Q], home + s % Q), WIDE)
                        mixed = tl.sum(mixing * load(gate_row + there * (g_l * VEC_N), on_n, MASK_N), 0, keep_dims=True)
                        mixes = push(mixes, mixed, lane, s, 1, Q, False)
                for q in tl.static_range(BT // Q):
                    here = wide(places[q], WIDE)
                    value = load(x_row + here * (x_l * VEC_D), on_d, MASK_D)
                    step, _slope = step_size(dt_row + here * (s_l * VEC_S), on_d, ranks, shift, R, SOFTPLUS, MASK_D)
                    if SHARE:
                        value += by * plain_sum(mixes[q], lane, 1, Q, PN)
                    values, steps = values + (value,), steps + (step,)
                for s in tl.static_range(BT):
                    there = wide(from_lane(places[s // Q], home + s % Q), WIDE)
                    step = from_lane(steps[s // Q], home + s % Q)
                    into = from_lane(steps[s // Q] * values[s // Q], home + s % Q)
                    h = exp2(step * a) * h + into * load(B_row + there * (B_l * VEC_N), on_n, MASK_N)
                tl.store(computed + t * CH * N, h.to(scratch.dtype.element_ty), mask=on_dn)
            for back in range(0, tiles):
                base = kept_at + (tiles - 1 - back) * BT
                h = tl.load(computed + (tiles - 1 - back) * CH * N, mask=on_dn, other=0.0).to(tl.float32)
                states, places, values, steps, slopes, outs, mixes = (h,), (), (), (), (), (), ()
                for q in tl.static_range(BT - Q, -1, -Q):
                    places = (tl.where(base + q + i < end, place, 0),) + places  # past the end: a pixel that exists
                    place, down = path_next(place, down, stride, H, CROSS)
                if SHARE:
                    for s in tl.static_range(BT):
                        there = wide(from_lane(places[s // Q], home + s % Q), WIDE)
                        mixed = tl.sum(mixing * load(gate_row + there * (g_l * VEC_N), on_n, MASK_N), 0, keep_dims=True)
                        mixes = push(mixes, mixed, lane, s, 1, Q, False)
                for q in tl.static_range(BT // Q):
                    here, on = wide(places[q], WIDE), base + q * Q + i < end
                    value = load(x_row + here * (x_l * VEC_D), on_d, MASK_D)
                    step, slope = step_size(dt_row + here * (s_l * VEC_S), on_d, ranks, shift, R, SOFTPLUS, MASK_D)
                    out = load(y_row + here * (y_l * VEC_D), on_d, MASK_D)
                    if SHARE:
                        value += by * plain_sum(mixes[q], lane, 1, Q, PN)
                    steps, slopes = steps + (tl.where(on, step, 0.0),), slopes + (tl.where(on, slope, 0.0),)
                    values, outs = values + (value,), outs + (tl.where(on, out, 0.0),)
                decays, kept = (), ()
                for s in tl.static_range(BT):
                    there = wide(from_lane(places[s // Q], home + s % Q), WIDE)
                    step = from_lane(steps[s // Q], home + s % Q)
                    into = from_lane(steps[s // Q] * values[s // Q], home + s % Q)
                    decay = exp2(step * a)
                    h = decay * h + into * load(B_row + there * (B_l * VEC_N), on_n, MASK_N)
                    states, decays = states + (h,), decays + (decay,)
                    kept = kept + ((there, step, into),)
                to_x, to_a, to_B, to_C = (), (), (), ()
                for s in tl.static_range(BT - 1, -1, -1):
                    there, step, into = kept[s]
                    out = from_lane(outs[s // Q], home + s % Q)
                    g += load(C_row + there * (C_l * VEC_N), on_n, MASK_N) * out
                    weight_in = load(B_row + there * (B_l * VEC_N), on_n, MASK_N)
                    to_x = push(to_x, tl.sum(g * weight_in, 0, keep_dims=True), lane, BT - 1 - s, 1, Q, True)
                    to_B = push(to_B, tl.sum(g * into, 1, keep_dims=True), lane, BT - 1 - s, PN, QD, True)
                    to_C = push(to_C, tl.sum(states[s + 1] * out, 1, keep_dims=True), lane, BT - 1 - s, PN, QD, True)
                    g = g * decays[s]
                    through = g * states[s]
                    sum_A += through * step
                    to_a = push(to_a, tl.sum(through * a, 0, keep_dims=True), lane, BT - 1 - s, 1, Q, True)
                to_u = ()
                for q in tl.static_range(BT // Q):
                    into_x = plain_sum(to_x[BT // Q - 1 - q], lane, 1, Q, PN)  # pushed from the end
                    through_a = plain_sum(to_a[BT // Q - 1 - q], lane, 1, Q, PN)
                    here, on = wide(places[q], WIDE), once & (base + q * Q + i < end)
                    to_raw = (through_a * LN2 + into_x * values[q]) * slopes[q]
                    into_u = into_x * steps[q] + skip * outs[q]
                    sum_D += outs[q] * values[q]
                    sum_bias += to_raw
                    if R > 0:
                        sums = ()
                        for r in tl.static_range(R):
                            sums = sums + (
                                sum_ranks[r] + to_raw * load(dt_row + here * (s_l * VEC_S) + r, on_d, False),
                            )
                        sum_ranks = sums
                        for first_rank in tl.static_range(0, R, QR):
                            to_dt = ()
                            for r in tl.static_range(QR):  # beyond the last rank anything
                                weight = ranks[first_rank + r if first_rank + r < R else R - 1]
                                each = tl.sum(to_raw * weight, 1, keep_dims=True)
                                to_dt = push(to_dt, each, lane, r, PN, QR, False)
                            to_dt1 = over_warps(plain_sum(to_dt[0], lane, PN, QR, PD), PW).to(gdt.dtype.element_ty)
                            on_r = once_r & (base + q * Q + i < end) & (first_rank + rank < R)
                            tl.store(gdt_row + here * to_s_l + first_rank + rank, to_dt1, mask=on_r)
                    else:
                        tl.store(gdt_row + here * CH, to_raw.to(gdt.dtype.element_ty), mask=on)
                    if SHARE:
                        sum_rho += into_u * plain_sum(mixes[q], lane, 1, Q, PN)
                    to_u = to_u + (into_u,)
                gates = ()
                if SHARE:
                    for s in tl.static_range(BT - 1, -1, -1):
                        there = wide(from_lane(places[s // Q], home + s % Q), WIDE)
                        to_mixed = from_lane(to_u[s // Q] * by, home + s % Q)
                        sum_shared += to_mixed * load(gate_row + there * (g_l * VEC_N), on_n, MASK_N)
                        gates = push(
                            gates, tl.sum(to_mixed * mixing, 1, keep_dims=True), lane, BT - 1 - s, PN, QD, True
                        )
                for m in tl.static_range(BT // QD):
                    on = once_n & (base + BT - QD - m * QD + j < end)
                    here = wide(tl.where(base + BT - QD - m * QD + j < end, place_n, 0), WIDE) * (to_n_l * VEC_N)
                    place_n, down_n = path_next(place_n, down_n, stride_n, H, CROSS)
                    to_B1, to_C1 = plain_sum(to_B[m], lane, PN, QD, PD), plain_sum(to_C[m], lane, PN, QD, PD)
                    to_gate = to_C1
                    if SHARE:
                        to_gate = plain_sum(gates[m], lane, PN, QD, PD)
                    to_B1, to_C1, to_gate = all_over_warps(to_B1, to_C1, to_gate, SHARE, PW)
                    tl.store(gB_row + here, to_B1.to(gBt.dtype.element_ty), mask=on)
                    tl.store(gC_row + here, to_C1.to(gCt.dtype.element_ty), mask=on)
                    if SHARE:
                        tl.store(ggate_row + here, to_gate.to(ggate.dtype.element_ty), mask=on)
                for q in tl.static_range(BT // Q):
                    here, on, into_u = wide(places[q], WIDE), once & (base + q * Q + i < end), to_u[q]
                    if SUM:
                        into_u += tl.load(gx_row + here * CH, mask=on & (lane * 0 + k > 0), other=0.0)
                    tl.store(gx_row + here * CH, into_u.to(gx.dtype.element_ty), mask=on)
        # computed once more rather than kept through the loops
        block, task, chunk, b = _task(fresh(program), blocks, chunks, K, SUM)
        n, d, lane = tile(block, RN, RD, PD, PN, PW)
        dn = tl.max_contiguous(d * N + n, [RN, 1, 1, 2])
        on_d, on_dn = d < CH, (n < N) & (d < CH)
        row, state = k * CH + d, ((b * K + k) * chunks + chunk) * CH * N + dn
        tl.store(leaving + state, g, mask=on_dn)
        at_t = (b * chunks + chunk) * (to_t * VEC_D)
        tl.store(gA + at_t + k * CH * N + dn, sum_A, mask=on_dn)
        # the lanes of a channel have the sums of their own steps
        first_lane = on_d & (lane % PN == 0)
        tl.store(gD + at_t + row, plain_sum(sum_D, lane, 1, 1, Q), mask=first_lane)
        tl.store(gdt_bias + at_t + row, plain_sum(sum_bias, lane, 1, 1, Q), mask=first_lane)
        for r in tl.static_range(R):
            to_weight = gdt_weight + at_t + row * R + r
            tl.store(to_weight, plain_sum(sum_ranks[r], lane, 1, 1, Q), mask=first_lane)
        if SHARE:
            tl.store(gshared_state + state, sum_shared, mask=on_dn)
            tl.store(grho + at_t + row, plain_sum(sum_rho, lane, 1, 1, Q), mask=first_lane)
        if SUM:
            tl.debug_barrier()  # the next direction reads what this one wrote
