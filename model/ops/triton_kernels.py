"""Triton kernels of the selective scan, forward and backward; imported only where they run.

One program serves one sample, one group k and a block of its channels, and walks the sequence in chunks of BT steps.
Inside a chunk the recurrence is a parallel prefix over (decay, input) pairs; padding is (decay 1, input 0). B and C are
read once for all channels of a block. Backward recomputes a chunk's states from the one before it; sums over channel
blocks and samples go to separate buffers that are added afterwards, so there are no atomics and the result has the same
bits every time.

With CROSS, step t of group k reads and writes pixel `_position(t)` of an image (rows, columns, both reversed): the four
directions are index arithmetic. Legend: L steps, D channels of a group, N states; BT, BD, BN block sizes.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _compose(decay_1, input_1, decay_2, input_2):
    """Two steps as one: h -> decay_2 (decay_1 h + input_1) + input_2."""
    return decay_1 * decay_2, decay_2 * input_1 + input_2


@triton.jit
def _position(t, k, H, W, L, CROSS: tl.constexpr):
    """Where step t of direction k lies."""
    position = t
    if CROSS:
        t = tl.where(k >= 2, L - 1 - t, t)
        position = tl.where(k % 2 == 1, (t % H) * W + t // H, t)
    return position


@triton.jit
def _softplus(x):
    """Return log(1 + exp(x)); above 20 the difference to x is below float32's resolution."""
    small = tl.minimum(x, 20.0)
    z = tl.exp(small)
    # For small z, log(1 + z) in float32 loses z's digits; its series does not.
    return tl.where(x > 20.0, x, tl.where(z < 1e-2, z - z * z * (0.5 - z * (1.0 / 3.0 - z * 0.25)), tl.log(1.0 + z)))


@triton.jit
def _row(x, index: tl.constexpr, BT: tl.constexpr):
    """Row `index` of x (BT, BD, BN)."""
    return tl.sum(tl.where((tl.arange(0, BT) == index)[:, None, None], x, 0.0), 0)


@triton.jit
def _steps(delta, at, mask, bias, SOFTPLUS: tl.constexpr):
    """Step sizes at positions `at`, 0 where masked, and the value before the softplus."""
    raw = tl.load(delta + at, mask=mask, other=0.0).to(tl.float32) + bias
    step = raw
    if SOFTPLUS:
        step = _softplus(raw)
    return tl.where(mask, step, 0.0), raw


@triton.jit
def forward_kernel(
    u, delta, A, B, C, D, bias, initial, y, last, saved,
    u_b, u_k, u_d, u_l, s_b, s_k, s_d, s_l, B_b, B_k, B_n, B_l, C_b, C_k, C_n, C_l,
    K, CH, N, L, H, W,
    CROSS: tl.constexpr, SOFTPLUS: tl.constexpr, INITIAL: tl.constexpr, SAVE: tl.constexpr,
    BT: tl.constexpr, BD: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """Forward: y (B, K, CH, L), last (B, K, CH, N), saved (B, K, CH, chunks, N): the state before each chunk."""
    task = tl.program_id(0).to(tl.int64)
    b, k = task // K, task % K
    d = tl.program_id(1) * BD + tl.arange(0, BD)
    n, i = tl.arange(0, BN), tl.arange(0, BT)
    on_d, on_n = d < CH, n < N
    on_dn = on_d[:, None] & on_n[None, :]
    row, state = k * CH + d, (task * CH + d)[:, None] * N + n[None, :]
    a = tl.load(A + row[:, None] * N + n[None, :], mask=on_dn, other=0.0)
    skip = tl.load(D + row, mask=on_d, other=0.0)
    shift = tl.load(bias + row, mask=on_d, other=0.0)
    h = tl.zeros((BD, BN), tl.float32)
    if INITIAL:
        h = tl.load(initial + state, mask=on_dn, other=0.0)
    chunks = tl.cdiv(L, BT)
    for chunk in range(0, chunks):
        if SAVE:
            tl.store(saved + ((task * CH + d)[:, None] * chunks + chunk) * N + n[None, :], h, mask=on_dn)
        t = chunk * BT + i
        at = _position(t, k, H, W, L, CROSS)
        on_td, on_tn = (t < L)[:, None] & on_d[None, :], (t < L)[:, None] & on_n[None, :]
        value = tl.load(u + b * u_b + k * u_k + at[:, None] * u_l + d[None, :] * u_d, mask=on_td, other=0.0)
        value = value.to(tl.float32)
        where = b * s_b + k * s_k + at[:, None] * s_l + d[None, :] * s_d
        step, _raw = _steps(delta, where, on_td, shift[None, :], SOFTPLUS)
        Bt = tl.load(B + b * B_b + k * B_k + at[:, None] * B_l + n[None, :] * B_n, mask=on_tn, other=0.0)
        Ct = tl.load(C + b * C_b + k * C_k + at[:, None] * C_l + n[None, :] * C_n, mask=on_tn, other=0.0)
        decay = tl.exp(step[:, :, None] * a[None, :, :])
        inputs = (step * value)[:, :, None] * Bt.to(tl.float32)[:, None, :]
        product, sums = tl.associative_scan((decay, inputs), 0, _compose)
        states = product * h[None, :, :] + sums
        out = tl.sum(states * Ct.to(tl.float32)[:, None, :], 2) + skip[None, :] * value
        tl.store(y + (task * CH + d)[None, :] * L + at[:, None], out, mask=on_td)
        h = _row(states, BT - 1, BT)
    tl.store(last + state, h, mask=on_dn)


@triton.jit
def backward_kernel(
    u, delta, A, B, C, D, bias, saved, gy, glast, gu, gdelta, gA, gB, gC, gD, gbias, ginitial,
    u_b, u_k, u_d, u_l, s_b, s_k, s_d, s_l, B_b, B_k, B_n, B_l, C_b, C_k, C_n, C_l, y_b, y_k, y_d, y_l,
    K, CH, N, L, H, W,
    CROSS: tl.constexpr, SOFTPLUS: tl.constexpr, BT: tl.constexpr, BD: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """Backward: gu, gdelta (B, K, CH, L); gB, gC (blocks, B, K, L, N); gA, ginitial (B, K, CH, N); rest (B, K, CH)."""
    task, block = tl.program_id(0).to(tl.int64), tl.program_id(1)
    b, k = task // K, task % K
    d = block * BD + tl.arange(0, BD)
    n, i = tl.arange(0, BN), tl.arange(0, BT)
    on_d, on_n = d < CH, n < N
    on_dn = on_d[:, None] & on_n[None, :]
    row, state = k * CH + d, (task * CH + d)[:, None] * N + n[None, :]
    a = tl.load(A + row[:, None] * N + n[None, :], mask=on_dn, other=0.0)
    skip = tl.load(D + row, mask=on_d, other=0.0)
    shift = tl.load(bias + row, mask=on_d, other=0.0)
    arriving = tl.load(glast + state, mask=on_dn, other=0.0)  # gradient of the state after the chunk
    sum_A = tl.zeros((BD, BN), tl.float32)
    sum_D = tl.zeros((BD,), tl.float32)
    sum_bias = tl.zeros((BD,), tl.float32)
    chunks = tl.cdiv(L, BT)
    for back in range(0, chunks):
        chunk = chunks - 1 - back
        h = tl.load(saved + ((task * CH + d)[:, None] * chunks + chunk) * N + n[None, :], mask=on_dn, other=0.0)
        t = chunk * BT + i
        at, after = _position(t, k, H, W, L, CROSS), _position(t + 1, k, H, W, L, CROSS)
        on_td, on_tn = (t < L)[:, None] & on_d[None, :], (t < L)[:, None] & on_n[None, :]
        value = tl.load(u + b * u_b + k * u_k + at[:, None] * u_l + d[None, :] * u_d, mask=on_td, other=0.0)
        value = value.to(tl.float32)
        out = tl.load(gy + b * y_b + k * y_k + at[:, None] * y_l + d[None, :] * y_d, mask=on_td, other=0.0)
        out = out.to(tl.float32)
        base = b * s_b + k * s_k + d[None, :] * s_d
        step, raw = _steps(delta, base + at[:, None] * s_l, on_td, shift[None, :], SOFTPLUS)
        inside = ((t + 1 < L) & (i < BT - 1))[:, None] & on_d[None, :]
        step_after, _raw = _steps(delta, base + after[:, None] * s_l, inside, shift[None, :], SOFTPLUS)
        Bt = tl.load(B + b * B_b + k * B_k + at[:, None] * B_l + n[None, :] * B_n, mask=on_tn, other=0.0)
        Ct = tl.load(C + b * C_b + k * C_k + at[:, None] * C_l + n[None, :] * C_n, mask=on_tn, other=0.0)
        Bt, Ct = Bt.to(tl.float32), Ct.to(tl.float32)
        decay = tl.exp(step[:, :, None] * a[None, :, :])
        inputs = (step * value)[:, :, None] * Bt[:, None, :]
        product, sums = tl.associative_scan((decay, inputs), 0, _compose)
        states = product * h[None, :, :] + sums
        # g_t = C_t gy_t + decay_{t+1} g_{t+1}; the last step of the chunk takes what arrives as it is (decay 1).
        decay_after = tl.exp(step_after[:, :, None] * a[None, :, :])
        product, sums = tl.associative_scan((decay_after, out[:, :, None] * Ct[:, None, :]), 0, _compose, reverse=True)
        g = sums + product * arriving[None, :, :]
        through = g * (states - inputs)  # g decay h_{t-1}
        to_x = tl.sum(g * Bt[:, None, :], 2)
        to_step = tl.sum(through * a[None, :, :], 2) + to_x * value
        if SOFTPLUS:
            to_step = to_step / (1.0 + tl.exp(-raw))
        place = (task * CH + d)[None, :] * L + at[:, None]
        tl.store(gu + place, to_x * step + out * skip[None, :], mask=on_td)
        tl.store(gdelta + place, to_step, mask=on_td)
        rows = ((block * tl.num_programs(0) + task) * L + at[:, None]) * N + n[None, :]
        tl.store(gB + rows, tl.sum(g * (step * value)[:, :, None], 1), mask=on_tn)
        tl.store(gC + rows, tl.sum(states * out[:, :, None], 1), mask=on_tn)
        sum_A += tl.sum(through * step[:, :, None], 0)
        sum_D += tl.sum(out * value, 0)
        sum_bias += tl.sum(tl.where(on_td, to_step, 0.0), 0)
        arriving = _row(g * decay, 0, BT)
    tl.store(gA + state, sum_A, mask=on_dn)
    tl.store(ginitial + state, arriving, mask=on_dn)
    tl.store(gD + task * CH + d, sum_D, mask=on_d)
    tl.store(gbias + task * CH + d, sum_bias, mask=on_d)
