/* The scan of an image in K directions, backward; see cross.h.
 *
 * cross_backward at the end gives each thread a part of the batch, or one direction of it. backward_direction walks a
 * direction from its last tile to its first and computes the states of a tile again from the state before it, which
 * forward has kept; backward_tile_of turns the gradients of the recurrence into those of the inputs. Gradients of the
 * parameters are summed per part of the batch.
 */
#include "cross_tile.h"

/* Scratch of a backward task, in addition to its tile. */
typedef struct {
    Kept *kept;                                   /* [t] */
    vf (*sum_dt)[NB];                             /* [rank / NB][t][n] */
    float *rows_B, *rows_C, *rows_dt, *rows_gate; /* [t][n] gradients */
    float *g, *shared, *gshared, *none;           /* states; none: zeros, before the first tile */
    float *gx, *gstep;                            /* [vector][t][lane] */
} Scratch;

static int64_t scratch_floats(const Plan *p) {
    return (int64_t)sizeof(Kept) / 4 * T + T * V * p->rank + T * (3 * p->wide + p->rank) + 4 * p->state +
           2 * T * p->row;
}

static Scratch make_scratch(const Plan *p, float **work) {
    Scratch s;
    s.kept = (Kept *)take(work, T * sizeof(Kept) / 4);
    s.sum_dt = (vf(*)[NB])take(work, T * p->rank * V);
    s.gx = take(work, T * p->row), s.gstep = take(work, T * p->row);
    s.g = take(work, p->state), s.shared = take(work, p->state), s.gshared = take(work, p->state);
    s.none = take(work, p->state);
    s.rows_B = take(work, T * p->wide), s.rows_C = take(work, T * p->wide), s.rows_gate = take(work, T * p->wide);
    s.rows_dt = take(work, T * p->rank);
    return s;
}

/* From the gradients of the scan's input and step to those of x, dt and the parameters; s->gx becomes that of u. */
static void finish_tile(const Cross *c, const Plan *p, const Tile *tile, Scratch *s, const Tables *sums, int64_t k,
                        int64_t j, float *gx, int add) {
    int64_t o = j * T * V, at = k * p->row + j * V, w = k * p->rank * p->row + j * p->rank * V;
    int lanes = min_i64(V, c->channels - j * V);
    vf skip = load(p->tables.D + at), gD = load(sums->D + at), gbias = load(sums->dt_bias + at);
    vf grho = load(sums->rho + at);
    for (int t = 0; t < tile->path.steps; t++) {
        int64_t i = o + t * V;
        vf u = load(tile->u + i), out = load(tile->y + i), to_x = load(s->gx + i);
        vf gu = to_x * load(tile->step + i) + out * skip;
        vf gstep = (load(s->gstep + i) * splat(LN2) + to_x * u) * load(tile->slope + i);
        gD += out * u;
        gbias += gstep;
        if (c->shared_state) grho += gu * load(tile->mix + i);
        store(s->gx + i, gu);
        store(s->gstep + i, gstep);
        float *dst = gx + (tile->path.b * p->length + tile->path.at[t]) * c->channels + j * V;
        store_part(dst, add ? load_part(dst, lanes) + gu : gu, lanes);
    }
    store(sums->D + at, gD), store(sums->dt_bias + at, gbias), store(sums->rho + at, grho);
    for (int64_t r = 0; r < c->R; r++) {
        vf(*sum)[NB] = s->sum_dt + r / NB * T;
        vf weight = load(p->tables.dt_weight + w + r * V), gweight = load(sums->dt_weight + w + r * V);
        for (int t = 0; t < tile->path.steps; t++) {
            vf gstep = load(s->gstep + o + t * V);
            gweight += gstep * splat(tile->dt[t * p->rank + r]);
            sum[t][r % NB] = j ? gstep * weight + sum[t][r % NB] : gstep * weight;
        }
        store(sums->dt_weight + w + r * V, gweight);
    }
}

/* Gradient of the gate, sum_d gu_td rho_d shared_dn, a product of matrices with states in the lanes, so that nothing is
 * summed over lanes. shared: (channels, N), as the caller stores it. Rows up to a multiple of INTERLEAVE are written.
 */
static void gate_gradient(const Cross *c, const Plan *p, int steps, const Scratch *s, const float *shared,
                          const float *rho) {
    for (int64_t n = 0; n < c->N; n += V) {
        int lanes = min_i64(V, c->N - n);
        for (int t = 0; t < steps; t += INTERLEAVE) {
            vf sum[INTERLEAVE];
            for (int i = 0; i < INTERLEAVE; i++) sum[i] = splat(0.0f);
            for (int64_t d = 0; d < c->channels; d++) {
                vf row = load_part(shared + d * c->N + n, lanes) * splat(rho[d]);
                const float *g = s->gx + (d / V * T + t) * V + d % V;
                UNROLL
                for (int i = 0; i < INTERLEAVE; i++) sum[i] += row * splat(g[i * V]);
            }
            for (int i = 0; i < INTERLEAVE; i++) store_part(s->rows_gate + (t + i) * p->wide + n, sum[i], lanes);
        }
    }
}

/* Gradient of `count` shared states of one vector of channels, sum_t gu_t rho gate_t. */
INLINE void shared_gradient(int steps, const int count, vf rho, const float *gu, const float *gate, int64_t wide,
                            float *gshared) {
    vf sum[8];
    UNROLL
    for (int n = 0; n < count; n++) sum[n] = load(gshared + n * V);
    for (int t = 0; t < steps; t++) {
        vf g = load(gu + t * V) * rho;
        UNROLL
        for (int n = 0; n < count; n++) sum[n] += g * splat(gate[t * wide + n]);
    }
    UNROLL
    for (int n = 0; n < count; n++) store(gshared + n * V, sum[n]);
}

static void backward_sharing(const Cross *c, const Plan *p, const Tile *tile, const Scratch *s) {
    int64_t k = tile->path.k, wide = p->wide;
    int steps = tile->path.steps;
    const float *rho = p->tables.rho + k * p->row;
    gate_gradient(c, p, steps, s, c->shared_state + (tile->path.b * c->K + k) * c->channels * c->N, rho);
    for (int64_t j = 0; j < p->vectors; j++) {
        const float *gu = s->gx + j * T * V;
        float *gshared = s->gshared + j * wide * V;
        int64_t n = 0;
        for (; n + 8 <= wide; n += 8)
            shared_gradient(steps, 8, load(rho + j * V), gu, tile->gate + n, wide, gshared + n * V);
        if (n < wide) shared_gradient(steps, 4, load(rho + j * V), gu, tile->gate + n, wide, gshared + n * V);
    }
}

/* Write rows of a tile, `count` floats each, to their pixels in dst (batch, pixels, K, count). */
static void scatter(const Cross *c, const Tile *tile, const float *rows, int64_t wide, int64_t count, float *dst) {
    const Path *path = &tile->path;
    dst += (path->b * c->height * c->width * c->K + path->k) * count;
    for (int t = 0; t < path->steps; t++) copy(dst + path->at[t] * c->K * count, rows + t * wide, (int)count);
}

static void backward_tile_of(const Cross *c, const Plan *p, Tile *tile, Scratch *s, const Tables *sums, Path *next,
                             const float *h, float *gx, int add) {
    int steps = tile->path.steps, pixels = (int)ceil_div(T, p->wide / NB * p->vectors); /* preloaded at a time */
    int64_t b = tile->path.b, k = tile->path.k;
    const float *gy = c->gy.data + b * c->gy.batch;
    for (int64_t j = 0; j < p->vectors; j++)
        for (int t = 0; t < steps; t++)
            store(tile->y + (j * T + t) * V,
                  load_part(gy + tile->path.at[t] * c->gy.pixel + j * V, min_i64(V, c->channels - j * V)));
    zero(s->gx, 2 * T * p->row);
    for (int64_t n = 0; n < p->wide; n += NB) {
        for (int64_t j = 0; j < p->vectors; j++) {
            int64_t o = j * T * V, q = (j * p->wide + n) * V;
            preload_path(c, next, pixels, gx, 1);
            if (h != s->none) preload_l1(h + q - p->state, NB * V);
            backward_tile(steps, (int)p->wide, tile->step + o, tile->x + o, tile->y + o, tile->B + n, tile->C + n,
                          p->tables.A2 + k * p->state + q, h + q, s->g + q, sums->A2 + k * p->state + q, s->gx + o,
                          s->gstep + o, s->kept, j == 0);
        }
        sum_lanes(steps, s->kept->B, KEPT, s->rows_B + n, (int)p->wide);
        sum_lanes(steps, s->kept->C, KEPT, s->rows_C + n, (int)p->wide);
    }
    for (int64_t j = 0; j < p->vectors; j++) finish_tile(c, p, tile, s, sums, k, j, gx, add);
    for (int64_t r = 0; r < p->rank; r += NB) sum_lanes(steps, s->sum_dt[r / NB * T], NB, s->rows_dt + r, (int)p->rank);
    scatter(c, tile, s->rows_B, p->wide, c->N, c->gBt);
    scatter(c, tile, s->rows_C, p->wide, c->N, c->gCt);
    scatter(c, tile, s->rows_dt, p->rank, c->R, c->gdt);
    if (c->shared_state) {
        backward_sharing(c, p, tile, s);
        scatter(c, tile, s->rows_gate, p->wide, c->N, c->ggate);
    }
}

static void backward_direction(const Cross *c, const Plan *p, Tile *tile, Scratch *s, const Tables *sums, int64_t b,
                               int64_t k, float *gx, int add) {
    int64_t task = b * c->K + k, states = task * c->channels * c->N;
    zero(s->g, p->state);
    if (c->glast) pack_state(c->glast + states, c->channels, c->N, s->g);
    if (c->shared_state) {
        pack_state(c->shared_state + states, c->channels, c->N, s->shared);
        zero(s->gshared, p->state);
    }
    Path next = path(c, b, k, (p->tiles - 1) * T);
    for (int64_t i = p->tiles - 1; i >= 0; i--) {
        const float *h = i ? c->saved + (task * (p->tiles - 1) + i - 1) * p->state : s->none;
        fill_tile(c, p, tile, &next, 0, p->vectors, c->shared_state ? s->shared : NULL, 1);
        if (i) next = path(c, b, k, (i - 1) * T);
        else if (k + 1 < c->K) next = path(c, b, k + 1, (p->tiles - 1) * T);
        else next = path(c, b + 1, 0, (p->tiles - 1) * T);
        backward_tile_of(c, p, tile, s, sums, &next, h, gx, add);
    }
    if (c->shared_state) unpack_state(s->gshared, 0, p->vectors, c->channels, c->N, c->gshared_state + states);
}

/* Sum the parts' gradients in order and write them in the caller's shapes. */
static void write_sums(const Cross *c, const Plan *p, float *sums, int64_t parts) {
    sum_parts(sums, parts, p->table_floats);
    Tables total = tables_in(c, p, sums);
    for (int64_t k = 0; k < c->K; k++) {
        unpack_state(total.A2 + k * p->state, 0, p->vectors, c->channels, c->N, c->gA + k * c->channels * c->N);
        for (int64_t d = 0; d < c->channels; d++)
            for (int64_t r = 0; r < c->R; r++)
                c->gdt_weight[(k * c->channels + d) * c->R + r] =
                    total.dt_weight[k * p->rank * p->row + (d / V * p->rank + r) * V + d % V];
    }
    unpack_vector(total.D, c->K, c->channels, c->gD);
    unpack_vector(total.dt_bias, c->K, c->channels, c->gdt_bias);
    unpack_vector(total.rho, c->K, c->channels, c->grho);
}

/* Returns 0, or 1 when there is no memory. */
int cross_backward(const Cross *c) {
    Plan p = plan(c);
    int64_t parts = min_i64(c->batch, MAX_PARTS), image = c->batch * p.length * c->channels;
    /* few samples: each direction by itself, with its own gx */
    int apart = parts < c->threads && c->K > 1 && image;
    float *sums = cleared((parts ? parts : 1) * p.table_floats), *copies = apart ? floats((c->K - 1) * image) : NULL;
    int failed = !p.tables.A2 || !sums;
    if (apart && !copies) apart = 0; /* slower, same bits */
#pragma omp parallel num_threads((int)c->threads) if (c->threads > 1)
    {
        float *block = p.tables.A2 && sums ? cleared(tile_floats(&p) + scratch_floats(&p)) : NULL, *work = block;
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
            Tables own = tables_in(c, &p, sums + part * p.table_floats);
            for (int64_t b = part * c->batch / parts; block && b < (part + 1) * c->batch / parts; b++)
                for (int64_t k = first; k < first + together; k++) {
                    float *gx = apart && k ? copies + (k - 1) * image : c->gx;
                    backward_direction(c, &p, &tile, &scratch, &own, b, k, gx, k > first);
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
    free(p.tables.A2);
    return failed;
}
