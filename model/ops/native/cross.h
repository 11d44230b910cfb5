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

/* The pixels of a tile of sample b and direction k, in their order. */
typedef struct {
    int64_t b, k, at[T];
    int steps, asked; /* asked: of how many pixels what is read and written has been asked for */
} Path;

/* From step t0 on; none of a sample that does not exist. Directions: rows, columns, and both from the end. */
static Path path(const Cross *c, int64_t b, int64_t k, int64_t t0) {
    int64_t length = c->height * c->width;
    Path p = {.b = b, .k = k};
    if (b >= c->batch) return p;
    p.steps = smaller(T, length - t0);
    int64_t from = k >= 2 ? length - 1 - t0 : t0, by = k >= 2 ? -1 : 1;
    int64_t row = from % c->height, column = from / c->height;
    for (int t = 0; t < p.steps; t++) {
        p.at[t] = k % 2 ? row * c->width + column : from + by * t;
        row += by;
        if (row == c->height) row = 0, column++;
        if (row < 0) row = c->height - 1, column--;
    }
    return p;
}

INLINE void expect_row(Rows rows, int64_t b, int64_t k, int64_t at, int64_t count) {
    expect_near(rows.data + b * rows.batch + k * rows.k + at * rows.pixel, (int)count);
}

/* Ask for what the next `pixels` of a path read and write, `sum` (batch, pixel, channel) among it; see `Ahead`. Walking
 * down columns, every pixel lies in another page. */
INLINE void ask_path(const Cross *c, Path *p, int pixels, const float *sum, int backward) {
    int end = smaller(p->asked + pixels, p->steps);
    for (; p->asked < end; p->asked++) {
        int64_t b = p->b, at = p->at[p->asked], pixel = b * c->height * c->width + at;
        int64_t states = (pixel * c->K + p->k) * c->N;
        expect_row(c->x, b, 0, at, c->D);
        expect_row(c->dt, b, p->k, at, c->R);
        expect_row(c->B, b, p->k, at, c->N);
        expect_row(c->C, b, p->k, at, c->N);
        if (c->gate.data) expect_row(c->gate, b, p->k, at, c->N);
        expect_near(sum + pixel * c->D, (int)c->D);
        if (!backward) continue;
        expect_row(c->gy, b, 0, at, c->D);
        expect_near(c->gB + states, (int)c->N);
        expect_near(c->gC + states, (int)c->N);
        if (c->gate.data) expect_near(c->ggate + states, (int)c->N);
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
    Path path;
    float *B, *C, *dt, *gate;
    float *u, *step, *x, *y, *slope, *mix; /* mix: sum_n shared gate; slope and mix in backward only */
} Tile;

static int64_t tile_floats(const Plan *p) { return T * (3 * p->wide + p->rank + 6 * p->row); }

static Tile make_tile(const Plan *p, float **work) {
    Tile t = {.path = {.steps = 0}};
    t.B = take(work, T * p->wide), t.C = take(work, T * p->wide), t.gate = take(work, T * p->wide);
    t.dt = take(work, T * p->rank);
    t.u = take(work, T * p->row), t.step = take(work, T * p->row), t.x = take(work, T * p->row);
    t.y = take(work, T * p->row), t.slope = take(work, T * p->row), t.mix = take(work, T * p->row);
    return t;
}

/* sum_n shared_n gate_tn of one vector of channels. */
static void mix_states(const Plan *p, const Tile *tile, const float *shared, float *mix) {
    int steps = tile->path.steps;
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

/* Read the tile of a path and compute steps and inputs for vectors `from` .. `to`. */
static void fill_tile(const Cross *c, const Plan *p, Tile *tile, const Path *path, int64_t from, int64_t to,
                      const float *shared, int backward) {
    tile->path = *path;
    int64_t b = path->b, k = path->k;
    const int64_t *at = tile->path.at;
    int steps = path->steps;
    gather(c->B, b, k, at, steps, c->N, p->wide, tile->B);
    gather(c->C, b, k, at, steps, c->N, p->wide, tile->C);
    gather(c->dt, b, k, at, steps, c->R, p->rank, tile->dt);
    if (shared) gather(c->gate, b, k, at, steps, c->N, p->wide, tile->gate);
    const float *x = c->x.data + b * c->x.batch;
    for (int64_t j = from; j < to; j++) {
        int lanes = smaller(V, c->D - j * V);
        float *u = tile->u + j * T * V, *step = tile->step + j * T * V, *in = tile->x + j * T * V;
        float *mix = tile->mix + j * T * V;
        const float *W = p->W + k * p->rank * p->row + j * p->rank * V;
        vf bias = load(p->bias + k * p->row + j * V), rho = load(p->rho + k * p->row + j * V);
        if (shared) mix_states(p, tile, shared + j * p->wide * V, mix);
        for (int t = 0; t < steps; t += ABREAST) { /* rows past `steps` as in mix_states */
            vf d[ABREAST], slope[ABREAST];
            for (int i = 0; i < ABREAST; i++) {
                d[i] = bias;
                for (int64_t r = 0; r < c->R; r++) d[i] += load(W + r * V) * all(tile->dt[(t + i) * p->rank + r]);
            }
            softplus_v(d, backward ? slope : NULL);
            for (int i = 0; i < ABREAST && t + i < steps; i++) {
                vf value = load_part(x + at[t + i] * c->x.pixel + j * V, lanes);
                if (backward) store(tile->slope + (j * T + t + i) * V, slope[i]);
                if (shared) value += rho * load(mix + (t + i) * V);
                store(u + (t + i) * V, value);
                store(step + (t + i) * V, decay_step(d[i]));
                store(in + (t + i) * V, value * d[i]);
            }
        }
    }
}

#endif
