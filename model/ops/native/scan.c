/* The selective scan over (batch, K*D, length) sequences, forward and backward.
 *
 * A task is one (sample, group): its B and C rows are turned once and serve all D channels. Sums over channels (gB, gC)
 * stay inside a task, sums over samples (gA, gD, gbias) are kept per part of the batch and added in order, so the
 * result has the same bits for any number of threads.
 */
#include "common.h"

typedef struct {
    int64_t batch, K, D, N, length, softplus, threads;
    const float *u, *delta, *A, *B, *C, *skip, *bias, *initial; /* skip, bias, initial may be NULL */
    float *y, *last, *saved;                                    /* saved may be NULL */
    const float *gy, *glast;                                    /* backward only; glast may be NULL */
    float *gu, *gdelta, *gA, *gB, *gC, *gskip, *gbias, *ginitial;
} Scan;

typedef struct {
    int64_t vectors, wide, tiles, state; /* vectors of channels, padded N, tiles of the length, floats of one state */
    float *A2, *skip, *bias;             /* packed tables */
} Packed;

static Packed pack_scan(const Scan *s) {
    Packed p = {ceil_div(s->D, V), padded(s->N), ceil_div(s->length, T), 0, 0, 0, 0};
    p.state = p.vectors * p.wide * V;
    int64_t row = p.vectors * V;
    p.A2 = floats(s->K * (p.state + 2 * row));
    if (!p.A2) return p;
    p.skip = p.A2 + s->K * p.state;
    p.bias = p.skip + s->K * row;
    for (int64_t k = 0; k < s->K; k++) pack_matrix(s->A + k * s->D * s->N, s->D, s->N, LOG2E, p.A2 + k * p.state);
    pack_vector(s->skip, s->K, s->D, p.skip);
    pack_vector(s->bias, s->K, s->D, p.bias);
    return p;
}

/* Floats that forward keeps for backward: the state before every tile but the first. */
int64_t scan_saved_floats(int64_t batch, int64_t K, int64_t D, int64_t N, int64_t length) {
    return batch * K * (ceil_div(length, T) - 1) * ceil_div(D, V) * V * padded(N);
}

/* step (t, lane) from delta, in place; slope is its derivative. */
static void activate(const Scan *s, int steps, const float *bias, float *step, float *slope) {
    vf b = load(bias);
    for (int t = 0; t < steps; t++) {
        vf d = load(step + t * V) + b, derivative = all(1.0f);
        if (s->softplus) d = softplus_v(d, slope ? &derivative : NULL);
        store(step + t * V, d);
        if (slope) store(slope + t * V, derivative);
    }
}

static void forward_task(const Scan *s, const Packed *p, int64_t b, int64_t k, int64_t from, int64_t to, float *work) {
    int64_t L = s->length, N = s->N, wide = p->wide, task = b * s->K + k;
    float *B = take(&work, T * wide), *C = take(&work, T * wide), *h = take(&work, p->state);
    float *u = take(&work, T * V), *step = take(&work, T * V), *x = take(&work, T * V), *y = take(&work, T * V);
    zero(B, 2 * T * wide);
    zero(u, 2 * T * V);
    zero(h, p->state);
    if (s->initial) pack_state(s->initial + task * s->D * N, s->D, N, h);
    for (int64_t tile = 0; tile < p->tiles; tile++) {
        int64_t t0 = tile * T;
        int steps = smaller(T, L - t0);
        transpose(s->B + task * N * L + t0, L, (int)N, steps, B, wide);
        transpose(s->C + task * N * L + t0, L, (int)N, steps, C, wide);
        if (s->saved && tile)
            memcpy(s->saved + (task * (p->tiles - 1) + tile - 1) * p->state + from * wide * V, h + from * wide * V,
                   (size_t)((to - from) * wide * V) * 4);
        for (int64_t j = from; j < to; j++) {
            int lanes = smaller(V, s->D - j * V);
            int64_t at = (task * s->D + j * V) * L + t0;
            int64_t next = j + 1 < to ? at + V * L : at - (j - from) * V * L + T;
            expect(s->u + next, L, V, T);
            expect(s->delta + next, L, V, T);
            expect_write(s->y + at, L, lanes, steps);
            transpose(s->u + at, L, lanes, steps, u, V);
            transpose(s->delta + at, L, lanes, steps, step, V);
            activate(s, steps, p->bias + (k * p->vectors + j) * V, step, NULL);
            vf skip = load(p->skip + (k * p->vectors + j) * V);
            for (int t = 0; t < steps; t++) {
                vf in = load(u + t * V);
                store(x + t * V, in * load(step + t * V));
                store(y + t * V, in * skip);
            }
            forward_tile(steps, (int)wide, step, x, y, B, C, p->A2 + k * p->state + j * wide * V, h + j * wide * V);
            transpose(y, V, steps, lanes, s->y + at, L);
        }
    }
    unpack_state(h, from, to, s->D, N, s->last + task * s->D * N);
}

/* Returns 0, or 1 when there is no memory. */
int scan_forward(const Scan *s) {
    Packed p = pack_scan(s);
    int failed = !p.A2;
    int64_t tasks = s->batch * s->K, splits = smaller(p.vectors, ceil_div(s->threads, tasks ? tasks : 1));
#pragma omp parallel num_threads((int)s->threads) if (s->threads > 1)
    {
        float *work = !p.A2 ? NULL : floats(2 * T * p.wide + p.state + 4 * T * V);
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

typedef struct {
    float *A, *skip, *bias; /* gradients of one part of the batch, packed */
} Sums;

#define FAR_APART 1024 /* steps from which rows lie a page and more apart */

/* Between two computations, ask for a share of what the next tile will read and of what this one will write: where
 * rows lie a page and more apart, asking just before they are needed is too late. */
INLINE void expect_share(const Scan *s, const Packed *p, int64_t task, int64_t t0, int64_t n, int64_t j) {
    int64_t low = V * n / p->wide, rows = V * (n + NB) / p->wide - low, at = (task * s->D + j * V + low) * s->length + t0;
    if (t0) {
        expect(s->u + at - T, s->length, (int)rows, T);
        expect(s->delta + at - T, s->length, (int)rows, T);
        expect(s->gy + at - T, s->length, (int)rows, T);
    }
    if (t0 && !j) {
        expect(s->B + (task * s->N + n) * s->length + t0 - T, s->length, NB, T);
        expect(s->C + (task * s->N + n) * s->length + t0 - T, s->length, NB, T);
    }
    expect_write(s->gu + at, s->length, (int)rows, T);
    expect_write(s->gdelta + at, s->length, (int)rows, T);
}

static void backward_task(const Scan *s, const Packed *p, int64_t b, int64_t k, Sums sums, float *work) {
    int64_t L = s->length, N = s->N, wide = p->wide, task = b * s->K + k, all_lanes = p->vectors * T * V;
    Recomputed *r = (Recomputed *)take(&work, sizeof(Recomputed) / 4);
    vf(*sum_B)[NB] = (vf(*)[NB])take(&work, T * NB * V), (*sum_C)[NB] = (vf(*)[NB])take(&work, T * NB * V);
    float *B = take(&work, T * wide), *C = take(&work, T * wide), *gB = take(&work, T * wide);
    float *gC = take(&work, T * wide), *g = take(&work, p->state), *first = take(&work, p->state);
    float *u = take(&work, all_lanes), *step = take(&work, all_lanes), *dy = take(&work, all_lanes);
    float *slope = take(&work, all_lanes), *x = take(&work, all_lanes), *gx = take(&work, all_lanes);
    float *gstep = take(&work, all_lanes);
    zero(B, 2 * T * wide);
    zero(u, 3 * all_lanes);
    zero(g, 2 * p->state);
    if (s->glast) pack_state(s->glast + task * s->D * N, s->D, N, g);
    if (s->initial) pack_state(s->initial + task * s->D * N, s->D, N, first);
    for (int64_t tile = p->tiles - 1; tile >= 0; tile--) {
        int64_t t0 = tile * T, row = task * N * L + t0;
        int steps = smaller(T, L - t0);
        const float *h = tile ? s->saved + (task * (p->tiles - 1) + tile - 1) * p->state : first;
        transpose(s->B + row, L, (int)N, steps, B, wide);
        transpose(s->C + row, L, (int)N, steps, C, wide);
        for (int64_t j = 0; j < p->vectors; j++) {
            int lanes = smaller(V, s->D - j * V);
            int64_t at = (task * s->D + j * V) * L + t0, o = j * T * V;
            if (L < FAR_APART) {
                int64_t next = j + 1 < p->vectors ? at + V * L : at - j * V * L - T;
                expect(s->u + next, L, V, T);
                expect(s->delta + next, L, V, T);
                expect(s->gy + next, L, V, T);
            }
            transpose(s->u + at, L, lanes, steps, u + o, V);
            transpose(s->delta + at, L, lanes, steps, step + o, V);
            transpose(s->gy + at, L, lanes, steps, dy + o, V);
            activate(s, steps, p->bias + (k * p->vectors + j) * V, step + o, slope + o);
            for (int t = 0; t < steps * V; t += V) store(x + o + t, load(u + o + t) * load(step + o + t));
        }
        zero(gx, 2 * all_lanes);
        for (int64_t n = 0; n < wide; n += NB) {
            for (int64_t j = 0; j < p->vectors; j++) {
                int64_t o = j * T * V, q = (j * wide + n) * V;
                if (L >= FAR_APART) expect_share(s, p, task, t0, n, j);
                backward_tile(steps, (int)wide, step + o, x + o, dy + o, B + n, C + n, p->A2 + k * p->state + q, h + q,
                              g + q, sums.A + q, gx + o, gstep + o, sum_B, sum_C, r, j == 0);
            }
            sum_lanes(steps, sum_B, gB + n, (int)wide);
            sum_lanes(steps, sum_C, gC + n, (int)wide);
        }
        transpose(gB, wide, steps, (int)N, s->gB + row, L);
        transpose(gC, wide, steps, (int)N, s->gC + row, L);
        for (int64_t j = 0; j < p->vectors; j++) {
            int64_t at = (task * s->D + j * V) * L + t0, o = j * T * V;
            vf skip = load(p->skip + (k * p->vectors + j) * V);
            if (L < FAR_APART) {
                expect_write(s->gu + at, L, smaller(V, s->D - j * V), steps);
                expect_write(s->gdelta + at, L, smaller(V, s->D - j * V), steps);
            }
            vf gskip = load(sums.skip + j * V), gbias = load(sums.bias + j * V);
            for (int64_t i = o; i < o + steps * V; i += V) {
                vf in = load(u + i), d = load(step + i), out = load(dy + i), to_x = load(gx + i);
                vf gdelta = (load(gstep + i) * all(LN2) + to_x * in) * load(slope + i);
                gskip += out * in;
                gbias += gdelta;
                store(gstep + i, gdelta);
                store(gx + i, to_x * d + out * skip);
            }
            store(sums.skip + j * V, gskip), store(sums.bias + j * V, gbias);
            transpose(gx + o, V, steps, smaller(V, s->D - j * V), s->gu + at, L);
            transpose(gstep + o, V, steps, smaller(V, s->D - j * V), s->gdelta + at, L);
        }
    }
    if (s->ginitial) unpack_state(g, 0, p->vectors, s->D, N, s->ginitial + task * s->D * N);
}

/* Returns 0, or 1 when there is no memory. */
int scan_backward(const Scan *s) {
    Packed p = pack_scan(s);
    int64_t parts = smaller(s->batch, MAX_PARTS), row = p.vectors * V, K = s->K;
    int64_t count = K * (p.state + 2 * row);
    float *sums = floats((parts ? parts : 1) * count);
    int failed = !p.A2 || !sums;
    if (sums) zero(sums, (parts ? parts : 1) * count);
#pragma omp parallel num_threads((int)s->threads) if (s->threads > 1)
    {
        int64_t size = (int64_t)sizeof(Recomputed) / 4 + 2 * T * NB * V + 4 * T * p.wide + 2 * p.state + 7 * T * row;
        float *work = p.A2 && sums ? floats(size) : NULL;
        if (!work) {
#pragma omp atomic write
            failed = 1;
        }
#pragma omp for schedule(dynamic, 1)
        for (int64_t i = 0; i < parts * K; i++) {
            int64_t part = i / K, k = i % K;
            float *at = sums + part * count;
            Sums own = {at + k * p.state, at + K * p.state + k * row, at + K * (p.state + row) + k * row};
            for (int64_t b = part * s->batch / parts; work && b < (part + 1) * s->batch / parts; b++)
                backward_task(s, &p, b, k, own, work);
        }
        free(work);
    }
    if (!failed) {
        sum_parts(sums, parts, count);
        for (int64_t k = 0; k < K; k++) unpack_state(sums + k * p.state, 0, p.vectors, s->D, s->N, s->gA + k * s->D * s->N);
        unpack_vector(sums + K * p.state, K, s->D, s->gskip);
        unpack_vector(sums + K * (p.state + row), K, s->D, s->gbias);
    }
    free(sums);
    free(p.A2);
    return failed;
}
