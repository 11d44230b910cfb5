/* The selective scan over (batch, K*D, length) sequences: what both ways have in common.
 *
 * A task is one (sample, group): its B and C rows are turned once and serve all D channels. Sums over channels (gB, gC)
 * stay inside a task, sums over samples (gA, gD, gbias) are kept per part of the batch and added in order, so the
 * result has the same bits for any number of threads.
 *
 * Channels come as rows of time and are turned to [t][lane], a span of SPAN steps at a time: rows may lie pages apart,
 * and the further one goes along a row, the fewer addresses have to be looked up. What comes next is asked for in small
 * shares between two computations: a burst would keep waiting the loads that are needed now.
 */
#ifndef LEMAMBA_SCAN_H
#define LEMAMBA_SCAN_H

#include "common.h"

#define SPAN (8 * T)

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

/* One vector of channels, [t][lane]: the step and the recurrence's input x from u and delta; slope: of softplus. Rows
 * up to a multiple of ABREAST are read and written; those past `steps` hold old finite numbers or zeros. */
INLINE void activate(const Scan *s, int steps, const float *bias, const float *u, const float *delta, float *step,
                     float *x, float *slope) {
    vf b = load(bias);
    for (int t = 0; t < steps; t += ABREAST) {
        vf d[ABREAST], derivative[ABREAST];
        for (int i = 0; i < ABREAST; i++) d[i] = load(delta + (t + i) * V) + b, derivative[i] = all(1.0f);
        if (s->softplus) softplus_v(d, slope ? derivative : NULL);
        for (int i = 0; i < ABREAST; i++) {
            store(step + (t + i) * V, decay_step(d[i]));
            store(x + (t + i) * V, load(u + (t + i) * V) * d[i]);
            if (slope) store(slope + (t + i) * V, derivative[i]);
        }
    }
}

#endif
