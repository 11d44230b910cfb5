"""Triton kernels of the selective scan: forward, the carry from chunk to chunk, and the ends of chunks backwards.

A program (see `parts.py`) walks BT steps at a time through one chunk of one sample, one group k and a
block of its channels, the recurrence in registers. Inputs have their channels side by side in memory; B and C are read
once for all channels of a block. With CROSS, step t of direction k reads and writes the pixel that this direction
visits: nothing is reordered in memory. With SUM the program takes all directions in turn and adds into y; no other
program writes these pixels and channels, so there are no atomics and the bits are the same every time.

A sequence cut into chunks takes three passes: the end of each chunk from a zero state (OUT off), `carry_kernel`, and
each chunk again from its true start. Backward: `backward.py`. Sizes: tasks are (b, k, chunk).
"""

from __future__ import annotations

from typing import no_type_check

import triton
import triton.language as tl

from lemamba.model.ops.triton.parts import (
    LOG2E,
    exp2,
    from_lane,
    load,
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
@no_type_check  # the language is Triton's: tuples grow
def forward_kernel(  # noqa: C901 - a kernel is one function: its registers are what it is about
    x, dt, Bt, Ct, A, D, dt_weight, dt_bias, shared_state, gate, rho, initial_state, y, last, saved, sums,
    x_b, x_k, x_l, s_b, s_k, s_l, B_b, B_k, B_l, C_b, C_k, C_l, g_b, g_k, g_l, y_b, y_k, y_l,
    L, H, W, length, chunks,
    K: tl.constexpr, CH: tl.constexpr, N: tl.constexpr, R: tl.constexpr,
    CROSS: tl.constexpr, SOFTPLUS: tl.constexpr, SHARE: tl.constexpr, INITIAL: tl.constexpr, SAVE: tl.constexpr,
    OUT: tl.constexpr, SUM: tl.constexpr,
    WIDE: tl.constexpr, MASK_N: tl.constexpr, MASK_D: tl.constexpr,
    VEC_N: tl.constexpr, VEC_D: tl.constexpr, VEC_S: tl.constexpr,
    BT: tl.constexpr, KEEP: tl.constexpr,
    RN: tl.constexpr, RD: tl.constexpr, PD: tl.constexpr, PN: tl.constexpr, PW: tl.constexpr,
):  # fmt: skip
    """Forward over chunks of `length` steps.

    y is written by its strides; initial_state (tasks, CH, N); last (B, K, CH, N), where OUT is off that of each chunk
    (tasks, CH, N); saved (B, K, cdiv(L, KEEP), CH, N): the state before every KEEP steps; sums (tasks, CH): a chunk's
    step sizes added up (written where OUT is off).
    """
    blocks = tl.cdiv(CH, RD * PD * PW)
    program = tl.program_id(0)
    block, task = program % blocks, program // blocks
    chunk, b = task % chunks, (task // chunks).to(tl.int64)
    first, directions = 0, K
    if not SUM:
        first, b, directions = (b % K).to(tl.int32), b // K, 1
    n, d, lane = tile(block, RN, RD, PD, PN, PW)
    # the lane's own steps of a tile are i, i + Q, ...; its channels' lanes begin at `home`
    Q: tl.constexpr = BT if BT < PN else PN
    i, home = lane % Q, lane // PN * PN
    dn = tl.max_contiguous(d * N + n, [RN, 1, 1, 2])
    on_n, on_d, on_dn, once = n < N, d < CH, (n < N) & (d < CH), lane % PN < Q
    begin = chunk * length
    end = tl.minimum(begin + length, L)
    for k in range(first, first + directions):
        row = k * CH + d
        a = tl.load(A + k * CH * N + dn, mask=on_dn, other=0.0) * LOG2E
        skip = tl.load(D + row, mask=on_d, other=0.0)
        shift = tl.load(dt_bias + row, mask=on_d, other=0.0)
        ranks = ()
        for r in tl.static_range(R):
            ranks = ranks + (tl.load(dt_weight + row * R + r, mask=on_d, other=0.0),)
        bk, kk = b * K + k, b * 0 + k  # in 64 bits
        state = (bk * chunks + chunk) * CH * N + dn
        x_row, y_row = x + (b * x_b + kk * x_k) * VEC_D + d, y + (b * y_b + kk * y_k) * VEC_D + d
        dt_row = dt + (b * s_b + kk * s_k) * VEC_S + (lane * 0 if R > 0 else d)
        B_row, C_row = Bt + (b * B_b + kk * B_k) * VEC_N + n, Ct + (b * C_b + kk * C_k) * VEC_N + n
        if SHARE:
            gate_row = gate + (b * g_b + kk * g_k) * VEC_N + n
            mixing = tl.load(shared_state + bk * CH * N + dn, mask=on_dn, other=0.0)
            mixing *= tl.load(rho + row, mask=on_d, other=0.0)
        h = tl.zeros((RN, RD, PW, PD * PN), tl.float32)
        if INITIAL:
            h = tl.load(initial_state + state, mask=on_dn, other=0.0)
        total = tl.zeros((1, RD, PW, PD * PN), tl.float32)
        place, down = path_start(begin + i, k, H, W, L, CROSS, False)
        stride = path_stride(k, H, W, L, Q, CROSS, False)
        for base in range(begin, end, BT):
            if SAVE:
                at = (bk * tl.cdiv(L, KEEP) + base // KEEP) * CH * N
                tl.store(saved + at + dn, h.to(saved.dtype.element_ty), mask=on_dn & (base % KEEP == 0))
            places, values, steps, mixes, outs = (), (), (), (), ()
            for q in tl.static_range(0, BT, Q):
                places = places + (tl.where(base + q + i < end, place, 0),)  # past the end: a pixel that exists
                place, down = path_next(place, down, stride, H, CROSS)
            if SHARE:
                for s in tl.static_range(BT):
                    there = wide(from_lane(places[s // Q], home + s % Q), WIDE)
                    mixed = tl.sum(mixing * load(gate_row + there * (g_l * VEC_N), on_n, MASK_N), 0, keep_dims=True)
                    mixes = push(mixes, mixed, lane, s, 1, Q, False)
            for q in tl.static_range(BT // Q):
                here = wide(places[q], WIDE)
                value = load(x_row + here * (x_l * VEC_D), on_d, MASK_D)
                step, _slope = step_size(dt_row + here * (s_l * VEC_S), on_d, ranks, shift, R, SOFTPLUS, MASK_D)
                step = tl.where(base + q * Q + i < end, step, 0.0)  # past the end a step leaves the state unchanged
                if SHARE:
                    value += plain_sum(mixes[q], lane, 1, Q, PN)
                values, steps = values + (value,), steps + (step,)
                total += step
            for s in tl.static_range(BT):
                there = wide(from_lane(places[s // Q], home + s % Q), WIDE)
                step = from_lane(steps[s // Q], home + s % Q)
                into = from_lane(steps[s // Q] * values[s // Q], home + s % Q)
                h = exp2(step * a) * h + into * load(B_row + there * (B_l * VEC_N), on_n, MASK_N)
                if OUT:
                    out = tl.sum(h * load(C_row + there * (C_l * VEC_N), on_n, MASK_N), 0, keep_dims=True)
                    outs = push(outs, out, lane, s, 1, Q, False)
            if OUT:  # after all loads: the compiler cannot move a load before a store
                for q in tl.static_range(BT // Q):
                    here, on = wide(places[q], WIDE), on_d & once & (base + q * Q + i < end)
                    out = plain_sum(outs[q], lane, 1, Q, PN) + skip * values[q]
                    if SUM:
                        out += tl.load(y_row + here * (y_l * VEC_D), mask=on & (lane * 0 + k > 0), other=0.0)
                    tl.store(y_row + here * (y_l * VEC_D), out.to(y.dtype.element_ty), mask=on)
        if OUT:
            tl.store(last + bk * CH * N + dn, h, mask=on_dn & (lane * 0 + chunk == chunks - 1))
        else:
            tl.store(last + state, h, mask=on_dn)
        if not OUT:
            total = plain_sum(total, lane, 1, 1, Q)
            tl.store(sums + (bk * chunks + chunk) * CH + d, total, mask=on_d & (lane % PN == 0))
        if SUM:
            tl.debug_barrier()  # the next direction reads what this one wrote


@triton.jit
@no_type_check  # the language is Triton's: tuples grow
def carry_kernel(
    A, first, sums, ends, chunks,
    K: tl.constexpr, CH: tl.constexpr, N: tl.constexpr, FIRST: tl.constexpr, BACK: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Carry the state from chunk to chunk: ends (B, K, chunks, CH, N) become each chunk's start, in place.

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
@no_type_check  # the language is Triton's: tuples grow
def reverse_kernel(
    x, dt, Bt, Ct, A, D, dt_weight, dt_bias, shared_state, gate, rho, gy, ends, sums,
    s_b, s_k, s_l, C_b, C_k, C_l, y_b, y_k, y_l, L, H, W, length, chunks,
    K: tl.constexpr, CH: tl.constexpr, N: tl.constexpr, R: tl.constexpr,
    CROSS: tl.constexpr, SOFTPLUS: tl.constexpr,
    WIDE: tl.constexpr, MASK_N: tl.constexpr, MASK_D: tl.constexpr,
    VEC_N: tl.constexpr, VEC_D: tl.constexpr, VEC_S: tl.constexpr,
    BT: tl.constexpr, KEEP: tl.constexpr,
    RN: tl.constexpr, RD: tl.constexpr, PD: tl.constexpr, PN: tl.constexpr, PW: tl.constexpr,
):  # fmt: skip
    """Gradient that leaves each chunk at its beginning where none enters at its end: ends (tasks, CH, N)."""
    blocks = tl.cdiv(CH, RD * PD * PW)
    program = tl.program_id(0)
    block, task = program % blocks, program // blocks
    chunk, b, k = task % chunks, (task // chunks // K).to(tl.int64), task // chunks % K
    n, d, lane = tile(block, RN, RD, PD, PN, PW)
    Q: tl.constexpr = BT if BT < PN else PN
    i, home = lane % Q, lane // PN * PN
    dn = tl.max_contiguous(d * N + n, [RN, 1, 1, 2])
    on_n, on_d, on_dn = n < N, d < CH, (n < N) & (d < CH)
    begin = chunk * length
    end = tl.minimum(begin + length, L)
    row = k * CH + d
    a = tl.load(A + k * CH * N + dn, mask=on_dn, other=0.0) * LOG2E
    shift = tl.load(dt_bias + row, mask=on_d, other=0.0)
    ranks = ()
    for r in tl.static_range(R):
        ranks = ranks + (tl.load(dt_weight + row * R + r, mask=on_d, other=0.0),)
    kk = b * 0 + k  # in 64 bits
    dt_row = dt + (b * s_b + kk * s_k) * VEC_S + (lane * 0 if R > 0 else d)
    y_row, C_row = gy + (b * y_b + kk * y_k) * VEC_D + d, Ct + (b * C_b + kk * C_k) * VEC_N + n
    g = tl.zeros((RN, RD, PW, PD * PN), tl.float32)
    total = tl.zeros((1, RD, PW, PD * PN), tl.float32)
    rounds = tl.cdiv(end - begin, BT)
    # the last of the lane's own steps; from there Q steps back at a time
    place, down = path_start(begin + rounds * BT - Q + i, k, H, W, L, CROSS, True)
    stride = path_stride(k, H, W, L, Q, CROSS, True)
    for back in range(0, rounds):
        base = begin + (rounds - 1 - back) * BT
        places, outs, steps = (), (), ()
        for q in tl.static_range(BT - Q, -1, -Q):
            on = base + q + i < end
            here = tl.where(on, place, 0)
            place, down = path_next(place, down, stride, H, CROSS)
            far = wide(here, WIDE)
            step, _slope = step_size(dt_row + far * (s_l * VEC_S), on_d, ranks, shift, R, SOFTPLUS, MASK_D)
            step = tl.where(on, step, 0.0)
            out = tl.where(on, load(y_row + far * (y_l * VEC_D), on_d, MASK_D), 0.0)
            places, outs, steps = (here,) + places, (out,) + outs, (step,) + steps
            total += step
        for s in tl.static_range(BT - 1, -1, -1):
            there = wide(from_lane(places[s // Q], home + s % Q), WIDE)
            step, out = from_lane(steps[s // Q], home + s % Q), from_lane(outs[s // Q], home + s % Q)
            g = exp2(step * a) * (g + load(C_row + there * (C_l * VEC_N), on_n, MASK_N) * out)
    at = (b * K + k) * chunks + chunk
    tl.store(ends + at * CH * N + dn, g, mask=on_dn)
    total = plain_sum(total, lane, 1, 1, Q)
    tl.store(sums + at * CH + d, total, mask=on_d & (lane % PN == 0))
