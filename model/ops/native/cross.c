/* The scan of an image in K directions, summed, with low-rank steps and state sharing: forward and backward.
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

/* Pixels that direction k visits at steps t0 .. t0 + steps. */
static void pixels(const Cross *c, int64_t k, int64_t t0, int steps, int64_t *at) {
    int64_t length = c->height * c->width;
    for (int i = 0; i < steps; i++) {
        int64_t t = k >= 2 ? length - 1 - (t0 + i) : t0 + i;
        at[i] = k % 2 ? t % c->height * c->width + t / c->height : t;
    }
}

static void gather(Rows rows, int64_t b, int64_t k, const int64_t *at, int steps, int64_t count, int64_t wide,
                   float *dst) {
    const float *src = rows.data + b * rows.batch + k * rows.k;
    for (int t = 0; t < steps; t++) memcpy(dst + t * wide, src + at[t] * rows.pixel, (size_t)count * 4);
}

static void scatter(float *dst, int64_t b, int64_t k, int64_t K, int64_t length, const int64_t *at, int steps,
                    int64_t count, int64_t wide, const float *src) {
    for (int t = 0; t < steps; t++) memcpy(dst + ((b * length + at[t]) * K + k) * count, src + t * wide, (size_t)count * 4);
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
    zero(*work, tile_floats(p));
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
    pixels(c, k, t0, tile->steps, tile->at);
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
            store(step + t * V, d);
            store(in + t * V, value * d);
        }
    }
}

/* One direction of one sample for channel vectors `from` .. `to`. */
static void forward_direction(const Cross *c, const Plan *p, Tile *tile, int64_t b, int64_t k, int64_t from, int64_t to,
                              float *h, const float *shared) {
    int64_t task = b * c->K + k, offset = from * p->wide * V, size = (to - from) * p->wide * V;
    zero(h + offset, size);
    for (int64_t i = 0; i < p->tiles; i++) {
        fill_tile(c, p, tile, b, k, i * T, from, to, shared, 0);
        if (c->saved && i)
            memcpy(c->saved + (task * (p->tiles - 1) + i - 1) * p->state + offset, h + offset, (size_t)size * 4);
        for (int64_t j = from; j < to; j++) {
            int lanes = smaller(V, c->D - j * V);
            int64_t o = j * T * V;
            vf skip = load(p->skip + k * p->row + j * V);
            for (int t = 0; t < tile->steps; t++) store(tile->y + o + t * V, load(tile->u + o + t * V) * skip);
            forward_tile(tile->steps, (int)p->wide, tile->step + o, tile->x + o, tile->y + o, tile->B, tile->C,
                         p->A2 + k * p->state + j * p->wide * V, h + j * p->wide * V);
            for (int t = 0; t < tile->steps; t++) {
                float *y = c->y + (b * p->length + tile->at[t]) * c->D + j * V;
                vf value = load(tile->y + o + t * V);
                store_part(y, k ? value + load_part(y, lanes) : value, lanes);
            }
        }
    }
    unpack_state(h, from, to, c->D, c->N, c->last + task * c->D * c->N);
}

/* Returns 0, or 1 when there is no memory. */
int cross_forward(const Cross *c) {
    Plan p = plan(c);
    int failed = !p.A2;
    int64_t splits = smaller(p.vectors, ceil_div(c->threads, c->batch ? c->batch : 1));
#pragma omp parallel num_threads((int)c->threads) if (c->threads > 1)
    {
        float *block = p.A2 ? floats(2 * p.state + tile_floats(&p)) : NULL, *work = block;
        float *h = NULL, *shared = NULL;
        Tile tile;
        if (block) {
            h = take(&work, p.state), shared = take(&work, p.state);
            tile = make_tile(&p, &work);
        } else {
#pragma omp atomic write
            failed = 1;
        }
#pragma omp for schedule(dynamic, 1)
        for (int64_t i = 0; i < c->batch * splits; i++) {
            int64_t b = i / splits, from = i % splits * p.vectors / splits, to = (i % splits + 1) * p.vectors / splits;
            for (int64_t k = 0; block && k < c->K; k++) {
                if (c->shared) pack_state(c->shared + (b * c->K + k) * c->D * c->N, c->D, c->N, shared);
                forward_direction(c, &p, &tile, b, k, from, to, h, c->shared ? shared : NULL);
            }
        }
        free(block);
    }
    free(p.A2);
    return failed;
}

/* Scratch of a backward task beside the tile. */
typedef struct {
    Recomputed *recomputed;
    vf (*sum_B)[NB], (*sum_C)[NB], (*sum_dt)[NB]; /* [t][n]; sum_dt for all of the rank */
    float *rows_B, *rows_C, *rows_dt, *rows_gate; /* [t][n] gradients */
    float *g, *shared, *gshared, *none;           /* states; none: zeros */
    float *gx, *gstep;                            /* [vector][t][lane] */
} Scratch;

static int64_t scratch_floats(const Plan *p) {
    return (int64_t)sizeof(Recomputed) / 4 + T * V * (2 * NB + p->rank) + T * (3 * p->wide + p->rank) + 4 * p->state +
           2 * T * p->row;
}

static Scratch make_scratch(const Plan *p, float **work) {
    Scratch s;
    s.recomputed = (Recomputed *)take(work, sizeof(Recomputed) / 4);
    s.sum_B = (vf(*)[NB])take(work, T * NB * V), s.sum_C = (vf(*)[NB])take(work, T * NB * V);
    s.sum_dt = (vf(*)[NB])take(work, T * p->rank * V);
    s.gx = take(work, T * p->row), s.gstep = take(work, T * p->row);
    s.g = take(work, p->state), s.shared = take(work, p->state), s.gshared = take(work, p->state);
    s.none = take(work, p->state);
    s.rows_B = take(work, T * p->wide), s.rows_C = take(work, T * p->wide), s.rows_gate = take(work, T * p->wide);
    s.rows_dt = take(work, T * p->rank);
    zero(s.none, p->state);
    return s;
}

/* From the gradients of the scan's input and step to those of x, dt, skip, bias, W and rho; gx becomes that of u. */
static void finish_tile(const Cross *c, const Plan *p, const Tile *tile, Scratch *s, const Plan *sums, int64_t k,
                        int64_t j, float *gx, int add) {
    int64_t o = j * T * V, at = k * p->row + j * V, w = k * p->rank * p->row + j * p->rank * V;
    int lanes = smaller(V, c->D - j * V);
    vf skip = load(p->skip + at), gskip = load(sums->skip + at), gbias = load(sums->bias + at);
    vf grho = load(sums->rho + at);
    for (int t = 0; t < tile->steps; t++) {
        int64_t i = o + t * V;
        vf u = load(tile->u + i), out = load(tile->y + i), to_x = load(s->gx + i);
        vf gu = to_x * load(tile->step + i) + out * skip;
        vf gstep = (load(s->gstep + i) * all(LN2) + to_x * u) * load(tile->slope + i);
        gskip += out * u;
        gbias += gstep;
        if (c->shared) grho += gu * load(tile->mix + i);
        store(s->gx + i, gu);
        store(s->gstep + i, gstep);
        float *dst = gx + tile->at[t] * c->D + j * V;
        store_part(dst, add ? load_part(dst, lanes) + gu : gu, lanes);
    }
    store(sums->skip + at, gskip), store(sums->bias + at, gbias), store(sums->rho + at, grho);
    for (int64_t r = 0; r < p->rank; r++) {
        vf(*sum)[NB] = s->sum_dt + r / NB * T;
        vf weight = load(p->W + w + r * V), gweight = load(sums->W + w + r * V);
        for (int t = 0; t < tile->steps; t++) {
            vf gstep = load(s->gstep + o + t * V);
            gweight += gstep * all(tile->dt[t * p->rank + r]);
            sum[t][r % NB] = j ? gstep * weight + sum[t][r % NB] : gstep * weight;
        }
        store(sums->W + w + r * V, gweight);
    }
}

/* Gradients of the shared state and of its gate. */
static void backward_sharing(const Plan *p, const Tile *tile, Scratch *s, int64_t k) {
    for (int64_t n = 0; n < p->wide; n += NB) {
        for (int64_t j = 0; j < p->vectors; j++) {
            const float *state = s->shared + (j * p->wide + n) * V, *gate = tile->gate + n;
            float *gstate = s->gshared + (j * p->wide + n) * V;
            vf rho = load(p->rho + k * p->row + j * V), value[NB], gvalue[NB];
            for (int i = 0; i < NB; i++) value[i] = load(state + i * V), gvalue[i] = load(gstate + i * V);
            for (int t = 0; t < tile->steps; t++) {
                vf g = load(s->gx + (j * T + t) * V) * rho;
                for (int i = 0; i < NB; i++) {
                    gvalue[i] += g * all(gate[t * p->wide + i]);
                    s->sum_B[t][i] = j ? g * value[i] + s->sum_B[t][i] : g * value[i];
                }
            }
            for (int i = 0; i < NB; i++) store(gstate + i * V, gvalue[i]);
        }
        sum_lanes(tile->steps, s->sum_B, s->rows_gate + n, (int)p->wide);
    }
}

static void backward_tile_of(const Cross *c, const Plan *p, Tile *tile, Scratch *s, const Plan *sums, int64_t b,
                             int64_t k, const float *h, float *gx, int add) {
    int steps = tile->steps;
    const float *gy = c->gy.data + b * c->gy.batch;
    for (int64_t j = 0; j < p->vectors; j++)
        for (int t = 0; t < steps; t++)
            store(tile->y + (j * T + t) * V,
                  load_part(gy + tile->at[t] * c->gy.pixel + j * V, smaller(V, c->D - j * V)));
    zero(s->gx, 2 * T * p->row);
    for (int64_t n = 0; n < p->wide; n += NB) {
        for (int64_t j = 0; j < p->vectors; j++) {
            int64_t o = j * T * V, q = (j * p->wide + n) * V;
            backward_tile(steps, (int)p->wide, tile->step + o, tile->x + o, tile->y + o, tile->B + n, tile->C + n,
                          p->A2 + k * p->state + q, h + q, s->g + q, sums->A2 + k * p->state + q, s->gx + o,
                          s->gstep + o, s->sum_B, s->sum_C, s->recomputed, j == 0);
        }
        sum_lanes(steps, s->sum_B, s->rows_B + n, (int)p->wide);
        sum_lanes(steps, s->sum_C, s->rows_C + n, (int)p->wide);
    }
    for (int64_t j = 0; j < p->vectors; j++) finish_tile(c, p, tile, s, sums, k, j, gx, add);
    for (int64_t r = 0; r < p->rank; r += NB) sum_lanes(steps, s->sum_dt + r / NB * T, s->rows_dt + r, (int)p->rank);
    scatter(c->gB, b, k, c->K, p->length, tile->at, steps, c->N, p->wide, s->rows_B);
    scatter(c->gC, b, k, c->K, p->length, tile->at, steps, c->N, p->wide, s->rows_C);
    scatter(c->gdt, b, k, c->K, p->length, tile->at, steps, c->R, p->rank, s->rows_dt);
    if (c->shared) {
        backward_sharing(p, tile, s, k);
        scatter(c->ggate, b, k, c->K, p->length, tile->at, steps, c->N, p->wide, s->rows_gate);
    }
}

static void backward_direction(const Cross *c, const Plan *p, Tile *tile, Scratch *s, const Plan *sums, int64_t b,
                               int64_t k, float *gx, int add) {
    int64_t task = b * c->K + k, states = task * c->D * c->N;
    zero(s->g, p->state);
    if (c->glast) pack_state(c->glast + states, c->D, c->N, s->g);
    if (c->shared) {
        pack_state(c->shared + states, c->D, c->N, s->shared);
        zero(s->gshared, p->state);
    }
    for (int64_t i = p->tiles - 1; i >= 0; i--) {
        const float *h = i ? c->saved + (task * (p->tiles - 1) + i - 1) * p->state : s->none;
        fill_tile(c, p, tile, b, k, i * T, 0, p->vectors, c->shared ? s->shared : NULL, 1);
        backward_tile_of(c, p, tile, s, sums, b, k, h, gx, add);
    }
    if (c->shared) unpack_state(s->gshared, 0, p->vectors, c->D, c->N, c->gshared + states);
}

/* Sum the parts' gradients in order and write them in the caller's shapes. */
static void write_sums(const Cross *c, const Plan *p, float *sums, int64_t parts) {
    Plan total = *p;
    sum_parts(sums, parts, p->sum_floats);
    point(c, &total, sums);
    for (int64_t k = 0; k < c->K; k++) {
        unpack_state(total.A2 + k * p->state, 0, p->vectors, c->D, c->N, c->gA + k * c->D * c->N);
        for (int64_t d = 0; d < c->D; d++)
            for (int64_t r = 0; r < c->R; r++)
                c->gW[(k * c->D + d) * c->R + r] = total.W[k * p->rank * p->row + (d / V * p->rank + r) * V + d % V];
    }
    unpack_vector(total.skip, c->K, c->D, c->gskip);
    unpack_vector(total.bias, c->K, c->D, c->gbias);
    unpack_vector(total.rho, c->K, c->D, c->grho);
}

/* Returns 0, or 1 when there is no memory. */
int cross_backward(const Cross *c) {
    Plan p = plan(c);
    int64_t parts = smaller(c->batch, MAX_PARTS), image = c->batch * p.length * c->D;
    int apart = parts < c->threads && c->K > 1 && image; /* too few samples: each direction by itself, with its own gx */
    float *sums = floats((parts ? parts : 1) * p.sum_floats), *copies = apart ? floats((c->K - 1) * image) : NULL;
    int failed = !p.A2 || !sums;
    if (sums) zero(sums, (parts ? parts : 1) * p.sum_floats);
    if (apart && !copies) apart = 0; /* slower, same bits */
#pragma omp parallel num_threads((int)c->threads) if (c->threads > 1)
    {
        float *block = p.A2 && sums ? floats(tile_floats(&p) + scratch_floats(&p)) : NULL, *work = block;
        Tile tile;
        Scratch scratch;
        if (block) {
            tile = make_tile(&p, &work);
            scratch = make_scratch(&p, &work);
        } else {
#pragma omp atomic write
            failed = 1;
        }
        int64_t together = apart ? 1 : c->K;
#pragma omp for schedule(dynamic, 1)
        for (int64_t i = 0; i < parts * c->K / together; i++) {
            int64_t part = i * together / c->K, first = i * together % c->K;
            Plan own = p;
            point(c, &own, sums + part * p.sum_floats);
            for (int64_t b = part * c->batch / parts; block && b < (part + 1) * c->batch / parts; b++)
                for (int64_t k = first; k < first + together; k++) {
                    float *gx = apart && k ? copies + (k - 1) * image : c->gx;
                    backward_direction(c, &p, &tile, &scratch, &own, b, k, gx + b * p.length * c->D, k > first);
                }
        }
        free(block);
    }
    if (apart && !failed) {
#pragma omp parallel for num_threads((int)c->threads) schedule(static)
        for (int64_t i = 0; i < image; i++) {
            float sum = c->gx[i];
            for (int64_t k = 1; k < c->K; k++) sum += copies[(k - 1) * image + i];
            c->gx[i] = sum;
        }
    }
    if (!failed) write_sums(c, &p, sums, parts);
    free(copies);
    free(sums);
    free(p.A2);
    return failed;
}
