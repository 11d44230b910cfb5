/* The scan of an image in K directions, summed, with low-rank steps and state sharing: what both ways have in common.
 *
 * Everything is read and written in pixel order with the channels side by side, (batch, pixel, channel): a direction is
 * nothing but an order of pixels. Per direction k and step t at pixel p:
 *
 *     step = softplus(bias_k + W_k dt_p),  u = x_p + rho_k sum_n shared_n gate_np,  then the scan, y_p += its output
 *
 * A task is one sample with all its directions one after the other, so that the sum over k has one order. Where there
 * are fewer samples than threads, forward cuts the channels and backward gives each direction its own gx, summed in
 * the same order: the bits do not depend on the number of threads.
 */
#ifndef LEMAMBA_CROSS_H
#define LEMAMBA_CROSS_H

#include "common.h"

typedef struct {
    const float *data;
    int64_t batch, pixel, k; /* strides in floats; the innermost is 1 */
} Rows;

typedef struct {
    int64_t batch, K, D, N, R, height, width, threads;
    Rows x, dt, B, C, gate;                          /* gate.data is NULL without a shared state */
    const float *A, *skip, *W, *bias, *shared, *rho; /* (K*D, N) (K*D) (K, D, R) (K*D) (batch, K*D, N) (K*D) */
    float *y, *last, *saved;                         /* (batch, L, D) (batch, K*D, N), see scan_saved_floats */
    const float *glast;                              /* may be NULL */
    Rows gy;
    float *gx, *gdt, *gB, *gC, *ggate;               /* (batch, L, D), (batch, L, K, R or N) */
    float *gA, *gskip, *gW, *gbias, *gshared, *grho; /* shapes of what they belong to */
} Cross;

typedef struct {
    int64_t vectors, row, wide, rank, tiles, length, state; /* rank: R, padded */
    float *A2, *skip, *bias, *rho, *W;                      /* [K] packed tables */
    float *sums;                                            /* backward: gradients of a part of the batch */
    int64_t sum_floats;
} Plan;

static int64_t table_floats(const Cross *c, const Plan *p) { return c->K * (p->state + (3 + p->rank) * p->row); }

/* Point at A2, skip, bias, rho, W inside one block. */
static void point(const Cross *c, Plan *p, float *block) {
    p->A2 = block;
    p->skip = p->A2 + c->K * p->state;
    p->bias = p->skip + c->K * p->row;
    p->rho = p->bias + c->K * p->row;
    p->W = p->rho + c->K * p->row;
}

static Plan plan(const Cross *c) {
    Plan p = {.vectors = ceil_div(c->D, V), .wide = padded(c->N), .rank = padded(c->R), .length = c->height * c->width};
    p.row = p.vectors * V;
    p.tiles = ceil_div(p.length, T);
    p.state = p.wide * p.row;
    p.sum_floats = table_floats(c, &p);
    float *block = floats(p.sum_floats);
    point(c, &p, block);
    if (!block) return p;
    for (int64_t k = 0; k < c->K; k++) {
        pack_matrix(c->A + k * c->D * c->N, c->D, c->N, LOG2E, p.A2 + k * p.state);
        pack_matrix(c->W + k * c->D * c->R, c->D, c->R, 1.0f, p.W + k * p.rank * p.row);
    }
    pack_vector(c->skip, c->K, c->D, p.skip);
    pack_vector(c->bias, c->K, c->D, p.bias);
    pack_vector(c->rho, c->K, c->D, p.rho);
    return p;
}

/* The pixel that direction k visits at step t. */
INLINE int64_t pixel(const Cross *c, int64_t k, int64_t t) {
    if (k >= 2) t = c->height * c->width - 1 - t;
    return k % 2 ? t % c->height * c->width + t / c->height : t;
}

INLINE void expect_row(Rows rows, int64_t b, int64_t k, int64_t at, int64_t count) {
    expect(rows.data + b * rows.batch + k * rows.k + at * rows.pixel, 0, 1, (int)count);
}

/* Ask for a share of what the tile of steps `from` … reads and writes, `sum` (pixel, channel) among it. A tile before
 * the first or after the last is the next direction's. A few pixels at a time, while there is something to compute:
 * walking down columns, every pixel lies in another page. */
INLINE void expect_tile(const Cross *c, int64_t b, int64_t k, int64_t from, int64_t share, int64_t shares,
                        const float *sum, int backward) {
    int64_t length = c->height * c->width, whole = ceil_div(length, T) * T;
    if (from < 0 || from >= whole) from += from < 0 ? whole : -whole, k++;
    if (k == c->K) return;
    for (int64_t t = from + T * share / shares; t < from + T * (share + 1) / shares && t < length; t++) {
        int64_t at = pixel(c, k, t), states = ((b * length + at) * c->K + k) * c->N;
        expect_row(c->x, b, 0, at, c->D);
        expect_row(c->dt, b, k, at, c->R);
        expect_row(c->B, b, k, at, c->N);
        expect_row(c->C, b, k, at, c->N);
        if (c->gate.data) expect_row(c->gate, b, k, at, c->N);
        expect(sum + at * c->D, 0, 1, (int)c->D);
        if (!backward) continue;
        expect_row(c->gy, b, 0, at, c->D);
        expect(c->gB + states, 0, 1, (int)c->N);
        expect(c->gC + states, 0, 1, (int)c->N);
        if (c->gate.data) expect(c->ggate + states, 0, 1, (int)c->N);
    }
}

static void gather(Rows rows, int64_t b, int64_t k, const int64_t *at, int steps, int64_t count, int64_t wide,
                   float *dst) {
    const float *src = rows.data + b * rows.batch + k * rows.k;
    for (int t = 0; t < steps; t++) copy(dst + t * wide, src + at[t] * rows.pixel, (int)count);
}

static void scatter(float *dst, int64_t b, int64_t k, int64_t K, int64_t length, const int64_t *at, int steps,
                    int64_t count, int64_t wide, const float *src) {
    for (int t = 0; t < steps; t++) copy(dst + ((b * length + at[t]) * K + k) * count, src + t * wide, (int)count);
}

/* One tile of a direction, for all vectors of channels: rows [t][n], the others [vector][t][lane]. */
typedef struct {
    int64_t at[T];
    int steps;
    float *B, *C, *dt, *gate;
    float *u, *step, *x, *y, *slope, *mix; /* mix: sum_n shared gate; slope and mix in backward only */
} Tile;

static int64_t tile_floats(const Plan *p) { return T * (3 * p->wide + p->rank + 6 * p->row); }

static Tile make_tile(const Plan *p, float **work) {
    Tile t = {.steps = 0};
    t.B = take(work, T * p->wide), t.C = take(work, T * p->wide), t.gate = take(work, T * p->wide);
    t.dt = take(work, T * p->rank);
    t.u = take(work, T * p->row), t.step = take(work, T * p->row), t.x = take(work, T * p->row);
    t.y = take(work, T * p->row), t.slope = take(work, T * p->row), t.mix = take(work, T * p->row);
    return t;
}

/* sum_n shared_n gate_tn of one vector of channels. */
static void mix_states(const Plan *p, const Tile *tile, const float *shared, float *mix) {
    int steps = tile->steps;
    for (int t = 0; t < steps; t += 4) {
        vf sum[4] = {all(0.0f), all(0.0f), all(0.0f), all(0.0f)};
        const float *gate = tile->gate + t * p->wide; /* rows past `steps` hold old finite numbers or zeros */
        for (int64_t n = 0; n < p->wide; n++) {
            vf s = load(shared + n * V);
            for (int i = 0; i < 4; i++) sum[i] += s * all(gate[i * p->wide + n]);
        }
        for (int i = 0; i < 4; i++) store(mix + (t + i) * V, sum[i]);
    }
}

/* Read a tile and compute steps and inputs for vectors `from` .. `to`. */
static void fill_tile(const Cross *c, const Plan *p, Tile *tile, int64_t b, int64_t k, int64_t t0, int64_t from,
                      int64_t to, const float *shared, int backward) {
    tile->steps = smaller(T, p->length - t0);
    for (int t = 0; t < tile->steps; t++) tile->at[t] = pixel(c, k, t0 + t);
    gather(c->B, b, k, tile->at, tile->steps, c->N, p->wide, tile->B);
    gather(c->C, b, k, tile->at, tile->steps, c->N, p->wide, tile->C);
    gather(c->dt, b, k, tile->at, tile->steps, c->R, p->rank, tile->dt);
    if (shared) gather(c->gate, b, k, tile->at, tile->steps, c->N, p->wide, tile->gate);
    const float *x = c->x.data + b * c->x.batch;
    for (int64_t j = from; j < to; j++) {
        int lanes = smaller(V, c->D - j * V);
        float *u = tile->u + j * T * V, *step = tile->step + j * T * V, *in = tile->x + j * T * V;
        float *mix = tile->mix + j * T * V;
        const float *W = p->W + k * p->rank * p->row + j * p->rank * V;
        vf bias = load(p->bias + k * p->row + j * V), rho = load(p->rho + k * p->row + j * V);
        if (shared) mix_states(p, tile, shared + j * p->wide * V, mix);
        for (int t = 0; t < tile->steps; t++) {
            vf value = load_part(x + tile->at[t] * c->x.pixel + j * V, lanes), d = bias, slope;
            for (int64_t r = 0; r < c->R; r++) d += load(W + r * V) * all(tile->dt[t * p->rank + r]);
            d = softplus_v(d, backward ? &slope : NULL);
            if (backward) store(tile->slope + (j * T + t) * V, slope);
            if (shared) value += rho * load(mix + t * V);
            store(u + t * V, value);
            store(step + t * V, decay_step(d));
            store(in + t * V, value * d);
        }
    }
}

#endif
