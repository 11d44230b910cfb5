/* The selective scan, forward: scan_forward at the end gives each thread groups, or part of the channels of one;
 * forward_task walks its sequence span by span and tile by tile. See scan.h. */
#include "scan.h"

/* Floats that forward keeps for backward: the state before every tile but the first. */
int64_t scan_saved_floats(int64_t batch, int64_t K, int64_t D, int64_t N, int64_t length) {
    return batch * K * (ceil_div(length, T) - 1) * ceil_div(D, V) * V * padded(N);
}

/* One group of one sample, for the vectors of channels `from` .. `to`. */
static void forward_task(const Scan *s, const Packed *p, int64_t b, int64_t k, int64_t from, int64_t to, float *work) {
    int64_t L = s->length, N = s->N, wide = p->wide, task = b * s->K + k;
    float *B = take(&work, SPAN * wide), *C = take(&work, SPAN * wide), *h = take(&work, p->state);
    float *u = take(&work, SPAN * V), *step = take(&work, SPAN * V), *x = take(&work, SPAN * V);
    float *y = take(&work, SPAN * V);
    zero(h, p->state);
    if (s->initial_state) pack_state(s->initial_state + task * s->channels * N, s->channels, N, h);
    for (int64_t t0 = 0; t0 < L; t0 += SPAN) {
        int steps = min_i64(SPAN, L - t0);
        transpose(s->B + task * N * L + t0, L, (int)N, steps, B, wide);
        transpose(s->C + task * N * L + t0, L, (int)N, steps, C, wide);
        for (int64_t j = from; j < to; j++) {
            int lanes = min_i64(V, s->channels - j * V);
            int64_t first = (task * s->channels + from * V) * L, at = (task * s->channels + j * V) * L + t0;
            /* other channels, later steps, or the task that this thread is likely to do next */
            int64_t then = j + 1 < to      ? at + V * L
                           : t0 + SPAN < L ? first + t0 + SPAN
                                           : first + s->threads * s->channels * L;
            PreloadQueue next = {{s->u + then, s->delta + then, s->y + at}, L, 3, lanes, min_i64(SPAN, L)};
            preload_in(&next, ceil_div(steps, T) * ceil_div(wide, 8));
            const float *A2 = p->A2 + k * p->state + j * wide * V;
            float *state = h + j * wide * V;
            transpose(s->u + at, L, lanes, steps, u, V);
            transpose(s->delta + at, L, lanes, steps, step, V);
            activate(s, steps, p->delta_bias + (k * p->vectors + j) * V, u, step, step, x, NULL);
            vf skip = load(p->D + (k * p->vectors + j) * V);
            for (int t = 0; t < steps; t++) store(y + t * V, load(u + t * V) * skip);
            for (int t = 0; t < steps; t += T) {
                int64_t tile = (t0 + t) / T;
                if (s->saved && tile)
                    copy(s->saved + (task * (p->tiles - 1) + tile - 1) * p->state + j * wide * V, state, (int)wide * V);
                for (int n = 0; n < wide; n += 8) {
                    preload_step(&next);
                    forward_tile(min_i64(T, steps - t), (int)wide, (int)wide, n, step + t * V, x + t * V, y + t * V,
                                 B + t * wide, C + t * wide, A2, state);
                }
            }
            transpose(y, V, steps, lanes, s->y + at, L);
        }
    }
    unpack_state(h, from, to, s->channels, N, s->last + task * s->channels * N);
}

/* Returns 0, or 1 when there is no memory. */
int scan_forward(const Scan *s) {
    Packed p = pack_scan(s);
    int failed = !p.A2;
    int64_t tasks = s->batch * s->K, splits = min_i64(p.vectors, ceil_div(s->threads, tasks ? tasks : 1));
#pragma omp parallel num_threads((int)s->threads) if (s->threads > 1)
    {
        float *work = !p.A2 ? NULL : cleared(2 * SPAN * p.wide + p.state + 4 * SPAN * V);
        if (!work) {
#pragma omp atomic write
            failed = 1;
        }
#pragma omp for schedule(dynamic, 1)
        for (int64_t i = 0; i < tasks * splits; i++) {
            int64_t task = i / splits, part = i % splits;
            if (work)
                forward_task(s, &p, task / s->K, task % s->K, part * p.vectors / splits,
                             (part + 1) * p.vectors / splits, work);
        }
        free(work);
    }
    free(p.A2);
    return failed;
}
