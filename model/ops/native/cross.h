/* The scan of an image in K directions, summed, with low-rank steps and state sharing: its arguments, its packed
 * parameters and its paths. The tiles of a path: cross_tile.h.
 *
 * Everything is read and written in pixel order with the channels side by side, (batch, pixel, channel): a direction is
 * an order of pixels. Per direction k and step t at pixel p:
 *
 *     step = softplus(dt_bias_k + dt_weight_k dt_p)
 *     u    = x_p + rho_k sum_n shared_state_n gate_np
 *     y_p += the output of the scan of u with step, A_k, Bt_p, Ct_p and D_k
 *
 * A task is one sample with all its directions one after the other, so that the sum over k has one order. Where there
 * are fewer samples than threads, forward splits the channels and backward gives each direction its own gx, summed in
 * the same order: the bits do not depend on the number of threads.
 */
#ifndef LEMAMBA_CROSS_H
#define LEMAMBA_CROSS_H

#include "common.h"

typedef struct {
    const float *data;
    int64_t batch, pixel, k; /* strides in floats; the innermost is 1 */
} Rows;

/* Names and order of the inputs: CrossInputs in scan/interface.py; of all fields: _structure in scan.py. */
typedef struct {
    int64_t batch, K, channels, N, R, height, width, threads;
    Rows x, dt, Bt, Ct;
    const float *A, *D, *dt_weight, *dt_bias; /* (K*channels, N) (K*channels) (K, channels, R) (K*channels) */
    const float *shared_state;                /* (batch, K*channels, N); NULL without sharing, gate and rho too */
    Rows gate;
    const float *rho; /* (K*channels) */
    float *y, *last,
        *saved; /* (batch, pixels, channels) (batch, K*channels, N), see scan_saved_floats; the last two may be NULL */
    Rows gy;    /* from here on: backward only */
    const float *glast;          /* may be NULL */
    float *gx, *gdt, *gBt, *gCt; /* (batch, pixels, channels), (batch, pixels, K, R or N) */
    float *gA, *gD, *gdt_weight, *gdt_bias;
    float *gshared_state, *ggate, *grho; /* NULL without sharing */
} Cross;

/* Parameters, or their gradients, packed for vectors of channels and zero padded: [K][vector][n or r][lane]. */
typedef struct {
    float *A2; /* A log2(e) */
    float *D, *dt_bias, *rho, *dt_weight;
} Tables;

typedef struct {
    int64_t vectors, row, wide, rank; /* vectors of channels, their floats, N padded, R padded */
    int64_t length, tiles, state;     /* pixels, tiles of them, floats of a state */
    int64_t table_floats;
    Tables tables;
} Plan;

static Tables tables_in(const Cross *c, const Plan *p, float *block) {
    Tables t = {.A2 = block};
    t.D = t.A2 + c->K * p->state;
    t.dt_bias = t.D + c->K * p->row;
    t.rho = t.dt_bias + c->K * p->row;
    t.dt_weight = t.rho + c->K * p->row;
    return t;
}

/* Sizes and packed parameters of a call; tables.A2 is NULL when there is no memory, and else to be freed. */
static Plan plan(const Cross *c) {
    int64_t K = c->K, D = c->channels;
    Plan p = {.vectors = ceil_div(D, V), .wide = padded(c->N), .rank = padded(c->R), .length = c->height * c->width};
    p.row = p.vectors * V;
    p.tiles = ceil_div(p.length, T);
    p.state = p.wide * p.row;
    p.table_floats = K * (p.state + (3 + p.rank) * p.row);
    float *block = floats(p.table_floats);
    if (!block) return p;
    p.tables = tables_in(c, &p, block);
    for (int64_t k = 0; k < K; k++) {
        pack_matrix(c->A + k * D * c->N, D, c->N, LOG2E, p.tables.A2 + k * p.state);
        pack_matrix(c->dt_weight + k * D * c->R, D, c->R, 1.0f, p.tables.dt_weight + k * p.rank * p.row);
    }
    pack_vector(c->D, K, D, p.tables.D);
    pack_vector(c->dt_bias, K, D, p.tables.dt_bias);
    pack_vector(c->rho, K, D, p.tables.rho);
    return p;
}

/* The pixels of a tile of sample b and direction k, in their order. */
typedef struct {
    int64_t b, k, at[T];
    int steps, preloaded; /* preloaded: of how many pixels the memory has been prefetched */
} Path;

/* From step t0 on; no pixel for a sample that does not exist. Directions: rows, columns, and both from the end. */
static Path path(const Cross *c, int64_t b, int64_t k, int64_t t0) {
    int64_t length = c->height * c->width;
    Path p = {.b = b, .k = k};
    if (b >= c->batch) return p;
    p.steps = min_i64(T, length - t0);
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

#endif
