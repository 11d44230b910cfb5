/* One tile of a path through an image: prefetch its memory, read its inputs, compute steps and scan inputs. */
#ifndef LEMAMBA_CROSS_TILE_H
#define LEMAMBA_CROSS_TILE_H

#include "cross.h"
#include "product.h"

/* For all vectors of channels: rows [t][n], the others [vector][t][lane]. With `panels`, rows are not read but computed
 * from the pixels where they are needed: `row` numbers B, C, gate (with a shared state), dt of every direction. */
typedef struct {
    Path path;
    int64_t row, dt_row; /* floats from one step to the next of B, C and gate, and of dt */
    float *B, *C, *dt, *gate;
    float *u, *step, *x, *y; /* x: step u, what enters the state */
    float *slope, *mix;      /* backward only: of softplus; sum_n shared_state gate */
    const float *panels;     /* of the weights (row, channels) of every direction one after the other, or NULL */
    float *pixels;           /* with panels: [t][channel] */
} Tile;

static int64_t tile_floats(const Plan *p) { return T * (3 * p->wide + p->rank + 6 * p->row); }

static Tile make_tile(const Plan *p, float **work) {
    Tile t = {.path = {.steps = 0}, .row = p->wide, .dt_row = p->rank};
    t.B = take(work, T * p->wide), t.C = take(work, T * p->wide), t.gate = take(work, T * p->wide);
    t.dt = take(work, T * p->rank);
    t.u = take(work, T * p->row), t.step = take(work, T * p->row), t.x = take(work, T * p->row);
    t.y = take(work, T * p->row), t.slope = take(work, T * p->row), t.mix = take(work, T * p->row);
    return t;
}

/* Floats of a row that is computed: padded B and C, perhaps the gate, dt. */
static int64_t computed_row(const Cross *c, const Plan *p) { return (c->shared_state ? 3 : 2) * p->wide + c->R; }

/* What a tile needs besides `make_tile` for rows that are computed. */
static int64_t computed_floats(const Cross *c, const Plan *p) {
    return T * (ceil_div(computed_row(c, p), V) * V + p->row);
}

static void compute_rows(const Cross *c, const Plan *p, Tile *t, const float *panels, float **work) {
    t->panels = panels;
    t->row = t->dt_row = computed_row(c, p);
    t->B = take(work, T * ceil_div(t->row, V) * V), t->C = t->B + p->wide, t->gate = t->B + 2 * p->wide;
    t->dt = t->B + t->row - c->R;
    t->pixels = take(work, T * p->row);
}

INLINE void preload_row(Rows rows, int64_t b, int64_t k, int64_t at, int64_t count) {
    preload_l1(rows.data + b * rows.batch + k * rows.k + at * rows.pixel, (int)count);
}

/* Prefetch what the next `pixels` of a path read and write; `sum` (batch, pixel, channel) is y forward and gx backward.
 * Walking down columns, every pixel lies in another page. Few at a time: see PreloadQueue. */
INLINE void preload_path(const Cross *c, Path *p, int pixels, const float *sum, int backward) {
    int end = min_i64(p->preloaded + pixels, p->steps);
    for (; p->preloaded < end; p->preloaded++) {
        int64_t b = p->b, at = p->at[p->preloaded], pixel = b * c->height * c->width + at;
        int64_t states = (pixel * c->K + p->k) * c->N;
        preload_row(c->x, b, 0, at, c->channels);
        if (c->dt.data) {
            preload_row(c->dt, b, p->k, at, c->R);
            preload_row(c->Bt, b, p->k, at, c->N);
            preload_row(c->Ct, b, p->k, at, c->N);
        }
        if (c->gate.data) preload_row(c->gate, b, p->k, at, c->N);
        preload_l1(sum + pixel * c->channels, (int)c->channels);
        if (!backward) continue;
        preload_row(c->gy, b, 0, at, c->channels);
        preload_l1(c->gBt + states, (int)c->N);
        preload_l1(c->gCt + states, (int)c->N);
        if (c->gate.data) preload_l1(c->ggate + states, (int)c->N);
    }
}

static void gather(Rows rows, const Path *path, int64_t count, int64_t wide, float *dst) {
    const float *src = rows.data + path->b * rows.batch + path->k * rows.k;
    for (int t = 0; t < path->steps; t++) copy(dst + t * wide, src + path->at[t] * rows.pixel, (int)count);
}

/* B, C, gate and dt of the steps of a tile. */
static void fill_rows(const Cross *c, const Plan *p, Tile *tile) {
    const Path *path = &tile->path;
    if (!tile->panels) {
        gather(c->Bt, path, c->N, p->wide, tile->B);
        gather(c->Ct, path, c->N, p->wide, tile->C);
        gather(c->dt, path, c->R, p->rank, tile->dt);
        if (c->shared_state) gather(c->gate, path, c->N, p->wide, tile->gate);
        return;
    }
    gather(c->x, path, c->channels, c->channels, tile->pixels);
    product(path->steps, c->channels, tile->row, tile->pixels, c->channels, 1,
            tile->panels + path->k * panel_floats(c->channels, tile->row), 0, tile->B, tile->row, NULL, 0);
}

/* sum_n shared_n gate_tn of one vector of channels. */
static void mix_states(const Plan *p, const Tile *tile, const float *shared, float *mix) {
    int steps = tile->path.steps;
    for (int t = 0; t < steps; t += 4) {
        vf sum[4] = {splat(0.0f), splat(0.0f), splat(0.0f), splat(0.0f)};
        const float *gate = tile->gate + t * tile->row; /* rows past `steps` hold old finite numbers or zeros */
        for (int64_t n = 0; n < p->wide; n++) {
            vf s = load(shared + n * V);
            for (int i = 0; i < 4; i++) sum[i] += s * splat(gate[i * tile->row + n]);
        }
        for (int i = 0; i < 4; i++) store(mix + (t + i) * V, sum[i]);
    }
}

/* Read the tile of a path and compute steps and inputs of the scan for the vectors `from` .. `to`; `shared`: the packed
 * shared state or NULL. */
static void fill_tile(const Cross *c, const Plan *p, Tile *tile, const Path *path, int64_t from, int64_t to,
                      const float *shared, int backward) {
    tile->path = *path;
    int64_t b = path->b, k = path->k;
    const int64_t *at = tile->path.at;
    int steps = path->steps;
    fill_rows(c, p, tile);
    const float *x = c->x.data + b * c->x.batch;
    for (int64_t j = from; j < to; j++) {
        int lanes = min_i64(V, c->channels - j * V);
        float *u = tile->u + j * T * V, *step = tile->step + j * T * V, *in = tile->x + j * T * V;
        float *mix = tile->mix + j * T * V;
        const float *weight = p->tables.dt_weight + k * p->rank * p->row + j * p->rank * V;
        vf bias = load(p->tables.dt_bias + k * p->row + j * V), rho = load(p->tables.rho + k * p->row + j * V);
        if (shared) mix_states(p, tile, shared + j * p->wide * V, mix);
        for (int t = 0; t < steps; t += INTERLEAVE) { /* rows past `steps` as in mix_states */
            vf d[INTERLEAVE], slope[INTERLEAVE];
            for (int i = 0; i < INTERLEAVE; i++) {
                d[i] = bias;
                for (int64_t r = 0; r < c->R; r++)
                    d[i] += load(weight + r * V) * splat(tile->dt[(t + i) * tile->dt_row + r]);
            }
            softplus_v(d, backward ? slope : NULL);
            for (int i = 0; i < INTERLEAVE && t + i < steps; i++) {
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
