/* The selective scan over sequences (batch, K*channels, length): arguments, packed parameters, steps.
 *
 * A task is one (sample, group): its B and C rows are transposed once and serve all channels of the group. Sums over
 * channels (gB, gC) stay inside a task, sums over samples (gA, gD, gdelta_bias) are kept per part of the batch and
 * added in order, so the result has the same bits for any number of threads.
 *
 * Channels come as rows of time and are transposed to [t][lane], a span of SPAN steps at a time: rows may lie pages
 * apart, and the longer the piece of a row, the fewer addresses have to be looked up. What comes next is prefetched in
 * small shares between two computations: a burst would delay the loads that are needed now.
 */
#ifndef LEMAMBA_SCAN_H
#define LEMAMBA_SCAN_H

#include "common.h"

#define SPAN (8 * T)

/* Names and order of the inputs: ScanInputs in scan/interface.py; of all fields: _structure in scan.py. */
typedef struct {
    int64_t batch, K, channels, N, length, threads, delta_softplus; /* channels of a group */
    const float *u, *delta, *A, *B, *C;
    const float *D, *delta_bias, *initial_state; /* may be NULL */
    float *y, *last, *saved;                     /* saved may be NULL */
    const float *gy, *glast;                     /* from here on: backward only; glast may be NULL */
    float *gu, *gdelta, *gA, *gB, *gC, *gD, *gdelta_bias, *ginitial_state; /* the last three may be NULL */
} Scan;

typedef struct {
    int64_t vectors, wide, tiles, state; /* vectors of channels, padded N, tiles of the length, floats of one state */
    float *A2, *D, *delta_bias;          /* packed tables; A2 is A log2(e) */
} Packed;

static Packed pack_scan(const Scan *s) {
    Packed p = {ceil_div(s->channels, V), padded(s->N), ceil_div(s->length, T), 0, 0, 0, 0};
    p.state = p.vectors * p.wide * V;
    int64_t row = p.vectors * V;
    p.A2 = floats(s->K * (p.state + 2 * row));
    if (!p.A2) return p;
    p.D = p.A2 + s->K * p.state;
    p.delta_bias = p.D + s->K * row;
    for (int64_t k = 0; k < s->K; k++)
        pack_matrix(s->A + k * s->channels * s->N, s->channels, s->N, LOG2E, p.A2 + k * p.state);
    pack_vector(s->D, s->K, s->channels, p.D);
    pack_vector(s->delta_bias, s->K, s->channels, p.delta_bias);
    return p;
}

/* One vector of channels, [t][lane]: the step and the recurrence's input x from u and delta; slope: of softplus.
 * Rows up to a multiple of INTERLEAVE are read and written; those past `steps` hold old finite numbers or zeros. */
INLINE void activate(const Scan *s, int steps, const float *bias, const float *u, const float *delta, float *step,
                     float *x, float *slope) {
    vf b = load(bias);
    for (int t = 0; t < steps; t += INTERLEAVE) {
        vf d[INTERLEAVE], derivative[INTERLEAVE];
        for (int i = 0; i < INTERLEAVE; i++) d[i] = load(delta + (t + i) * V) + b, derivative[i] = splat(1.0f);
        if (s->delta_softplus) softplus_v(d, slope ? derivative : NULL);
        for (int i = 0; i < INTERLEAVE; i++) {
            store(step + (t + i) * V, decay_step(d[i]));
            store(x + (t + i) * V, load(u + (t + i) * V) * d[i]);
            if (slope) store(slope + (t + i) * V, derivative[i]);
        }
    }
}

#endif
