/* The selective scan, backward; see scan.h.
 *
 * scan_backward at the end gives each thread groups of a part of the batch; backward_task walks a sequence from its
 * last tile to its first and computes the states of a tile again from the state before it, which forward has kept.
 */
#include "scan.h"

typedef struct {
    float *A, *D, *delta_bias; /* gradients of one part of the batch, packed */
} Sums;

/* Scratch of a backward task, [vector][t][lane] or [t][n]. A span holds what is read and later the gradients to be
 * written; a tile fits the first cache. */
typedef struct {
    float *B, *C, *gB, *gC;               /* of the span */
    float *u, *delta, *dy;                /* of the span; u and delta are replaced by their gradients */
    float *step, *slope, *x, *gx, *gstep; /* of the tile */
    Kept *kept;
    float *g, *initial_state; /* states */
} ScanScratch;

static int64_t scan_scratch_floats(const Packed *p) {
    return 4 * SPAN * p->wide + p->vectors * V * (3 * SPAN + 5 * T) + T * (int64_t)sizeof(Kept) / 4 + 2 * p->state;
}

static ScanScratch scan_scratch(const Packed *p, float *work) {
    int64_t rows = SPAN * p->wide, span = p->vectors * SPAN * V, tile = p->vectors * T * V;
    ScanScratch w;
    w.B = take(&work, rows), w.C = take(&work, rows), w.gB = take(&work, rows), w.gC = take(&work, rows);
    w.u = take(&work, span), w.delta = take(&work, span), w.dy = take(&work, span);
    w.step = take(&work, tile), w.slope = take(&work, tile), w.x = take(&work, tile);
    w.gx = take(&work, tile), w.gstep = take(&work, tile);
    w.kept = (Kept *)take(&work, T * sizeof(Kept) / 4);
    w.g = take(&work, p->state), w.initial_state = take(&work, p->state);
    return w;
}

/* What the next span, the one before this in time, reads, and what this one writes. */
INLINE PreloadQueue preload_of_span(const Scan *s, int64_t task, int64_t t0, int64_t calls) {
    int64_t L = s->length, at = task * s->channels * L + t0;
    int64_t before =
        t0 ? at - SPAN : at + s->K * s->channels * L + (L - 1) / SPAN * SPAN; /* else the next sample's last */
    PreloadQueue next = {{s->u + before, s->delta + before, s->gy + before, s->gu + at, s->gdelta + at},
                         L,
                         5,
                         (int)s->channels,
                         min_i64(SPAN, L)};
    preload_in(&next, calls);
    return next;
}

static void read_span(const Scan *s, const Packed *p, int64_t task, int64_t t0, int steps, ScanScratch *w) {
    int64_t L = s->length, row = task * s->N * L + t0;
    transpose(s->B + row, L, (int)s->N, steps, w->B, p->wide);
    transpose(s->C + row, L, (int)s->N, steps, w->C, p->wide);
    for (int64_t j = 0; j < p->vectors; j++) {
        int lanes = min_i64(V, s->channels - j * V);
        int64_t at = (task * s->channels + j * V) * L + t0, o = j * SPAN * V;
        transpose(s->u + at, L, lanes, steps, w->u + o, V);
        transpose(s->delta + at, L, lanes, steps, w->delta + o, V);
        transpose(s->gy + at, L, lanes, steps, w->dy + o, V);
    }
}

static void write_span(const Scan *s, const Packed *p, int64_t task, int64_t t0, int steps, const ScanScratch *w) {
    int64_t L = s->length, row = task * s->N * L + t0;
    transpose(w->gB, p->wide, steps, (int)s->N, s->gB + row, L);
    transpose(w->gC, p->wide, steps, (int)s->N, s->gC + row, L);
    for (int64_t j = 0; j < p->vectors; j++) {
        int64_t at = (task * s->channels + j * V) * L + t0, o = j * SPAN * V;
        transpose(w->u + o, V, steps, min_i64(V, s->channels - j * V), s->gu + at, L);
        transpose(w->delta + o, V, steps, min_i64(V, s->channels - j * V), s->gdelta + at, L);
    }
}

/* From the gradients of x and step of a tile, which starts at step t of the span, to those of u and delta, which
 * replace them, and of D and delta_bias. */
static void finish_tile_of_scan(const Packed *p, int64_t k, int t, int steps, ScanScratch *w, Sums sums) {
    for (int64_t j = 0; j < p->vectors; j++) {
        vf skip = load(p->D + (k * p->vectors + j) * V);
        vf gD = load(sums.D + j * V), gdelta_bias = load(sums.delta_bias + j * V);
        float *u = w->u + (j * SPAN + t) * V, *delta = w->delta + (j * SPAN + t) * V, *dy = w->dy + (j * SPAN + t) * V;
        for (int64_t i = 0, o = j * T * V; i < steps * V; i += V, o += V) {
            vf in = load(u + i), out = load(dy + i), to_x = load(w->gx + o);
            vf gdelta = (load(w->gstep + o) * splat(LN2) + to_x * in) * load(w->slope + o);
            gD += out * in;
            gdelta_bias += gdelta;
            store(delta + i, gdelta);
            store(u + i, to_x * load(w->step + o) + out * skip);
        }
        store(sums.D + j * V, gD), store(sums.delta_bias + j * V, gdelta_bias);
    }
}

static void backward_task(const Scan *s, const Packed *p, int64_t b, int64_t k, Sums sums, ScanScratch *w) {
    int64_t L = s->length, N = s->N, wide = p->wide, task = b * s->K + k;
    zero(w->g, 2 * p->state);
    if (s->glast) pack_state(s->glast + task * s->channels * N, s->channels, N, w->g);
    if (s->initial_state) pack_state(s->initial_state + task * s->channels * N, s->channels, N, w->initial_state);
    for (int64_t t0 = (L - 1) / SPAN * SPAN; t0 >= 0; t0 -= SPAN) {
        int length = min_i64(SPAN, L - t0);
        PreloadQueue next = preload_of_span(s, task, t0, ceil_div(length, T) * (wide / NB) * p->vectors);
        read_span(s, p, task, t0, length, w);
        for (int t = (length - 1) / T * T; t >= 0; t -= T) {
            int64_t tile = (t0 + t) / T;
            int steps = min_i64(T, length - t);
            const float *h = tile ? s->saved + (task * (p->tiles - 1) + tile - 1) * p->state : w->initial_state;
            for (int64_t j = 0; j < p->vectors; j++) {
                int64_t o = j * T * V, at = (j * SPAN + t) * V;
                activate(s, steps, p->delta_bias + (k * p->vectors + j) * V, w->u + at, w->delta + at, w->step + o,
                         w->x + o, w->slope + o);
            }
            zero(w->gx, 2 * p->vectors * T * V);
            for (int64_t n = 0; n < wide; n += NB) {
                for (int64_t j = 0; j < p->vectors; j++) {
                    int64_t o = j * T * V, q = (j * wide + n) * V;
                    preload_step(&next);
                    if (tile) preload_l2(h + q - p->state, NB * V); /* of the next tile, the one before */
                    backward_tile(steps, (int)wide, w->step + o, w->x + o, w->dy + (j * SPAN + t) * V,
                                  w->B + t * wide + n, w->C + t * wide + n, p->A2 + k * p->state + q, h + q, w->g + q,
                                  sums.A + q, w->gx + o, w->gstep + o, w->kept, j == 0);
                }
                sum_lanes(steps, w->kept->B, KEPT, w->gB + t * wide + n, (int)wide);
                sum_lanes(steps, w->kept->C, KEPT, w->gC + t * wide + n, (int)wide);
            }
            finish_tile_of_scan(p, k, t, steps, w, sums);
        }
        write_span(s, p, task, t0, length, w);
    }
    if (s->ginitial_state)
        unpack_state(w->g, 0, p->vectors, s->channels, N, s->ginitial_state + task * s->channels * N);
}

/* Returns 0, or 1 when there is no memory. */
int scan_backward(const Scan *s) {
    Packed p = pack_scan(s);
    int64_t parts = min_i64(s->batch, MAX_PARTS), row = p.vectors * V, K = s->K;
    int64_t count = K * (p.state + 2 * row);
    float *sums = cleared((parts ? parts : 1) * count);
    int failed = !p.A2 || !sums;
#pragma omp parallel num_threads((int)s->threads) if (s->threads > 1)
    {
        float *work = p.A2 && sums ? cleared(scan_scratch_floats(&p)) : NULL;
        ScanScratch scratch;
        if (work) {
            scratch = scan_scratch(&p, work);
        } else {
#pragma omp atomic write
            failed = 1;
        }
#pragma omp for schedule(dynamic, 1)
        for (int64_t i = 0; i < parts * K; i++) {
            int64_t part = i / K, k = i % K;
            float *at = sums + part * count;
            Sums own = {at + k * p.state, at + K * p.state + k * row, at + K * (p.state + row) + k * row};
            for (int64_t b = part * s->batch / parts; work && b < (part + 1) * s->batch / parts; b++)
                backward_task(s, &p, b, k, own, &scratch);
        }
        free(work);
    }
    if (!failed) {
        sum_parts(sums, parts, count);
        for (int64_t k = 0; k < K; k++)
            unpack_state(sums + k * p.state, 0, p.vectors, s->channels, s->N, s->gA + k * s->channels * s->N);
        unpack_vector(sums + K * p.state, K, s->channels, s->gD);
        unpack_vector(sums + K * (p.state + row), K, s->channels, s->gdelta_bias);
    }
    free(sums);
    free(p.A2);
    return failed;
}
