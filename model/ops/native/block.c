/* A VSS block for inference: nothing is kept for a gradient.
 *
 *     (u, z) = in_proj LN(x),  v = silu(conv LN(u)),  (dt, B, C, gate) = x_proj v,  y = scan(v, dt, B, C, gate)
 *     r = x + out_proj(LN(y) silu(z)),  r = r + fc2(a GELU(b)) with (a, b) = fc1 LN(r)
 *
 * With `window`, each window goes through all of it while it is in the second cache, and out = x + factor r. A whole
 * map goes through in four passes: to u and z; convolution; scan; from y on. In both, the rows of dt, B, C and gate,
 * which are up to six times as wide as the map, never go through memory: the scan of a map computes those of a tile of
 * its path. Directions are added in pairs, (0 + 1) + (2 + 3), which two threads take.
 *
 * Shapes: x and out (batch, height, width, channels), u, z, v, y (pixels, inner), row-major; pixels of a window lie row
 * by row.
 */
#include "common.h"

#define PIXELS_AT_ONCE 96 /* of a chunk: its widest row, of a hidden layer of 256, then takes 96 KiB */

typedef struct {
    int64_t batch, height, width, window, channels, inner, hidden, K, N, R, kernel, threads; /* window 0: none */
    double eps, inner_eps; /* of norm1 and norm2; of conv_norm and out_norm */
    const float *x, *shared_state;
    const float *norm1, *norm1_bias, *in_proj;                      /* (2 inner, channels) */
    const float *conv_norm, *conv_norm_bias, *conv, *conv_bias;     /* (inner, kernel, kernel), conv_bias or NULL */
    const float *x_proj, *gate, *A, *D, *dt_weight, *dt_bias, *rho; /* (K, R + 2 N, inner) (K N, inner), cross.h */
    const float *out_norm, *out_norm_bias, *out_proj, *norm2, *norm2_bias; /* (channels, inner) */
    const float *fc1, *fc1_bias, *fc2, *fc2_bias;                          /* (2 hidden, channels) (channels, hidden) */
    const float *factor;                                                   /* (channels), with a window */
    float *maps;       /* without a window: four maps (batch, height, width, inner) */
    float *out, *last; /* last: (batch or windows, K inner, N), or NULL */
} Block;

typedef struct {
    const float *weight, *bias;
    double eps;
} Norm;

INLINE float lane_sum(vf v) {
#if V == 16
    return _mm512_reduce_add_ps((__m512)v);
#else
    float sum = 0.0f;
    for (int i = 0; i < V; i++) sum += v[i];
    return sum;
#endif
}

/* Layer norm of a row; dst may be src. Mean first, then the squares of the differences, as torch does. */
INLINE void norm_row(Norm n, const float *src, int64_t count, float *dst) {
    vf sum = splat(0.0f), square = splat(0.0f);
    int64_t whole = count / V * V;
    int rest = (int)(count - whole);
    for (int64_t i = 0; i < whole; i += V) sum += load(src + i);
    if (rest) sum += load_part(src + whole, rest);
    float mean = lane_sum(sum) / (float)count;
    for (int64_t i = 0; i < whole; i += V) {
        vf d = load(src + i) - splat(mean);
        square += d * d;
    }
    float last = 0.0f;
    for (int64_t i = whole; i < count; i++) last += (src[i] - mean) * (src[i] - mean);
    float scale = 1.0f / __builtin_sqrtf((lane_sum(square) + last) / (float)count + (float)n.eps);
    for (int64_t i = 0; i < count; i += V) {
        int lanes = min_i64(V, count - i);
        vf value = (load_part(src + i, lanes) - splat(mean)) * splat(scale);
        store_part(dst + i, value * load_part(n.weight + i, lanes) + load_part(n.bias + i, lanes), lanes);
    }
}

/* Weights packed for a call. */
typedef struct {
    float *in_proj[2], *rows, *out_proj, *fc1[2], *fc2; /* panels; rows: of `row_weights` */
    float *taps, *conv_bias;
    Depthwise conv;
    Layout layout;
    Cross cross;
    Plan plan;
    int64_t row; /* columns of `rows` of a direction */
    float *memory;
} Prepared;

/* Where row r lies in a map: by windows, which lie row by row, where there is one. */
INLINE int64_t pixel_of(const Block *c, int64_t r) {
    int64_t w = c->window;
    if (!w) return r;
    int64_t box = r / (w * w), in = r % (w * w), across = c->width / w;
    return (box / across * w + in / w) * c->width + box % across * w + in % w; /* height is a multiple of w */
}

/* The weights of a direction's rows B, C, gate and dt, padded as `fill_rows` expects: (row, inner). */
static void row_weights(const Block *c, const Prepared *p, int64_t k, float *dst) {
    int64_t D = c->inner, N = c->N, R = c->R, wide = p->plan.wide;
    const float *src = c->x_proj + k * (R + 2 * N) * D;
    zero(dst, p->row * D);
    memcpy(dst, src + R * D, (size_t)(N * D) * 4);
    memcpy(dst + wide * D, src + (R + N) * D, (size_t)(N * D) * 4);
    if (c->shared_state) memcpy(dst + 2 * wide * D, c->gate + k * N * D, (size_t)(N * D) * 4);
    memcpy(dst + (p->row - R) * D, src, (size_t)(R * D) * 4);
}

static float *packed_product(const float *weight, int64_t outer, int64_t inner, float **memory) {
    float *panels = take(memory, panel_floats(inner, outer));
    pack_transposed(weight, outer, inner, panels);
    return panels;
}

/* Returns whether there was memory; `memory` and `plan.tables.A2` are to be freed. */
static int pack(const Block *c, Prepared *p) {
    int64_t D = c->inner, width = c->channels, m = c->hidden, side = c->window;
    int64_t height = side ? side : c->height, across = side ? side : c->width;
    p->cross = (Cross){.batch = side ? 1 : c->batch,
                       .K = c->K,
                       .channels = D,
                       .N = c->N,
                       .R = c->R,
                       .height = height,
                       .width = across,
                       .threads = c->threads,
                       .A = c->A,
                       .D = c->D,
                       .dt_weight = c->dt_weight,
                       .dt_bias = c->dt_bias,
                       .shared_state = c->shared_state,
                       .rho = c->rho,
                       .last = c->last};
    p->conv = (Depthwise){.batch = p->cross.batch,
                          .height = height,
                          .width = across,
                          .channels = D,
                          .kernel = c->kernel,
                          .threads = c->threads,
                          .silu = 1,
                          .weight = c->conv,
                          .bias = c->conv_bias};
    p->plan = plan(&p->cross);
    p->layout = layout(&p->conv);
    p->row = computed_row(&p->cross, &p->plan);
    int64_t rows = c->K * panel_floats(D, p->row), tap_floats = p->layout.vectors * (p->layout.taps + 1) * V;
    int64_t products =
        2 * panel_floats(width, D) + panel_floats(D, width) + 2 * panel_floats(width, m) + panel_floats(m, width);
    float *memory = p->memory = floats(products + rows + tap_floats + c->K * p->row * D);
    if (!memory || !p->plan.tables.A2) return 0;
    for (int i = 0; i < 2; i++) {
        p->in_proj[i] = packed_product(c->in_proj + i * D * width, D, width, &memory);
        p->fc1[i] = packed_product(c->fc1 + i * m * width, m, width, &memory);
    }
    p->out_proj = packed_product(c->out_proj, width, D, &memory);
    p->fc2 = packed_product(c->fc2, width, m, &memory);
    p->taps = take(&memory, tap_floats), p->conv_bias = p->taps + p->layout.vectors * p->layout.taps * V;
    pack_taps(&p->conv, &p->layout, 0, p->taps);
    pack_vector(c->conv_bias, 1, D, p->conv_bias);
    float *weights = memory + rows;
    for (int64_t k = 0; k < c->K; k++) row_weights(c, p, k, weights + k * p->row * D);
    p->rows = memory; /* of a window: one product for all directions */
    for (int64_t k = 0; k < c->K && !side; k++) packed_product(weights + k * p->row * D, p->row, D, &memory);
    if (side) packed_product(weights, c->K * p->row, D, &memory);
    return 1;
}

static void unpack(Prepared *p) {
    free(p->memory);
    free(p->plan.tables.A2);
}

/* Rows `from` to `from + rows` to u and z; work: rows of channels. */
static void before_rows(const Block *c, const Prepared *p, int64_t from, int64_t rows, float *u, float *z,
                        float *work) {
    int64_t width = c->channels, D = c->inner;
    Norm first = {c->norm1, c->norm1_bias, c->eps}, second = {c->conv_norm, c->conv_norm_bias, c->inner_eps};
    for (int64_t r = 0; r < rows; r++) norm_row(first, c->x + pixel_of(c, from + r) * width, width, work + r * width);
    product(rows, width, D, work, width, 1, p->in_proj[0], 0, u, D, NULL, 0);
    product(rows, width, D, work, width, 1, p->in_proj[1], 0, z, D, NULL, 0);
    for (int64_t r = 0; r < rows; r++) norm_row(second, u + r * D, D, u + r * D);
}

/* dst = dst silu(z), or dst GELU(z), of `count` numbers. */
static void silu_gate(float *dst, const float *z, int64_t count) {
    for (int64_t i = 0; i < count; i += V) {
        int lanes = min_i64(V, count - i);
        store_part(dst + i, load_part(dst + i, lanes) * silu_v(load_part(z + i, lanes)), lanes);
    }
}

static void gelu_of(float *dst, const float *b, int64_t count) {
    for (int64_t i = 0; i < count; i += V) {
        int lanes = min_i64(V, count - i);
        vf x = load_part(b + i, lanes), density;
        store_part(dst + i, load_part(dst + i, lanes) * (x * normal(x, &density)), lanes);
    }
}

static void add_row(float *dst, const float *src, int64_t count) {
    for (int64_t i = 0; i < count; i += V) {
        int lanes = min_i64(V, count - i);
        store_part(dst + i, load_part(dst + i, lanes) + load_part(src + i, lanes), lanes);
    }
}

static int64_t work_floats(const Block *c) {
    return PIXELS_AT_ONCE * (2 * c->channels + (c->inner > 2 * c->hidden ? c->inner : 2 * c->hidden));
}

/* Rows `from` to `from + rows` of the result, from y (and `more`, unless NULL, which is added to it) and z. */
static void after_rows(const Block *c, const Prepared *p, int64_t from, int64_t rows, const float *y, const float *more,
                       const float *z, float *work) {
    int64_t width = c->channels, D = c->inner, m = c->hidden;
    Norm first = {c->out_norm, c->out_norm_bias, c->inner_eps}, second = {c->norm2, c->norm2_bias, c->eps};
    float *r = work, *normed = r + PIXELS_AT_ONCE * width, *a = normed + PIXELS_AT_ONCE * width, *b = a + rows * m;
    for (int64_t i = 0; i < rows; i++) {
        copy(r + i * width, c->x + pixel_of(c, from + i) * width, (int)width);
        copy(a + i * D, y + i * D, (int)D);
        if (more) add_row(a + i * D, more + i * D, D);
        norm_row(first, a + i * D, D, a + i * D);
    }
    silu_gate(a, z, rows * D);
    product(rows, D, width, a, D, 1, p->out_proj, 0, r, width, NULL, 1);
    for (int64_t i = 0; i < rows; i++) {
        norm_row(second, r + i * width, width, normed + i * width);
        add_row(r + i * width, c->fc2_bias, width); /* `product` starts from a sum or from a bias */
    }
    product(rows, width, m, normed, width, 1, p->fc1[0], 0, a, m, c->fc1_bias, 0);
    product(rows, width, m, normed, width, 1, p->fc1[1], 0, b, m, c->fc1_bias + m, 0);
    gelu_of(a, b, rows * m);
    product(rows, m, width, a, m, 1, p->fc2, 0, r, width, NULL, 1);
    for (int64_t i = 0; i < rows; i++) {
        float *dst = c->out + pixel_of(c, from + i) * width;
        const float *x = c->x + pixel_of(c, from + i) * width;
        for (int64_t j = 0; j < width; j += V) {
            int lanes = min_i64(V, width - j);
            vf value = load_part(r + i * width + j, lanes);
            if (c->factor) value = value * load_part(c->factor + j, lanes) + load_part(x + j, lanes);
            store_part(dst + j, value, lanes);
        }
    }
}

/* A thread's memory for the scan. */
typedef struct {
    float *h, *shared;
    Tile tile;
} Scanner;

static int64_t scanner_floats(const Prepared *p) {
    return 2 * p->plan.state + tile_floats(&p->plan) + computed_floats(&p->cross, &p->plan);
}

static Scanner make_scanner(const Prepared *p, float **work) {
    Scanner s;
    s.h = take(work, p->plan.state), s.shared = take(work, p->plan.state);
    s.tile = make_tile(&p->plan, work);
    return s;
}

/* Directions `first` to `end` of sample b for the vectors `from` to `to`, added up in y. */
static void scan_directions(const Cross *c, const Plan *p, Scanner *s, int64_t b, int64_t first, int64_t end,
                            int64_t from, int64_t to) {
    int64_t size = c->channels * c->N;
    for (int64_t k = first; k < end; k++) {
        if (c->shared_state) pack_state(c->shared_state + (b * c->K + k) * size, c->channels, c->N, s->shared);
        forward_direction(c, p, &s->tile, b, k, from, to, s->h, c->shared_state ? s->shared : NULL, k > first);
    }
}

static Rows rows_at(const float *data, const Prepared *p) {
    return (Rows){.data = data, .pixel = p->cross.K * p->row, .k = p->row};
}

/* What a window takes between its passes. */
static int64_t window_floats(const Block *c, const Prepared *p) {
    int64_t pixels = c->window * c->window;
    return pixels * (4 * c->inner + c->K * p->row) + (6 + 1) * V + band_floats(&p->layout) + scanner_floats(p) +
           work_floats(c);
}

static void window_block(const Block *c, const Prepared *p, int64_t i, float *memory, Scanner *s) {
    int64_t D = c->inner, side = c->window, pixels = side * side, from = i * pixels, map = ceil_div(pixels * D, V) * V;
    float *u = take(&memory, map), *z = take(&memory, map), *v = take(&memory, map), *y = take(&memory, map);
    float *rows = take(&memory, ceil_div(pixels * c->K * p->row, V) * V),
          *band = take(&memory, band_floats(&p->layout));
    for (int64_t r = 0; r < pixels; r += PIXELS_AT_ONCE)
        before_rows(c, p, from + r, min_i64(PIXELS_AT_ONCE, pixels - r), u + r * D, z + r * D, memory);
    for (int64_t j = 0; j < p->layout.vectors; j++)
        for (int64_t band_from = 0; band_from < side; band_from += p->layout.rows) {
            int64_t high = min_i64(p->layout.rows, side - band_from);
            fill_band(&p->conv, &p->layout, u, band_from, high, j, band);
            convolve_any(&p->conv, &p->layout, band, p->taps + j * p->layout.taps * V, load(p->conv_bias + j * V),
                         band_from, high, j, v);
        }
    product(pixels, D, c->K * p->row, v, D, 1, p->rows, 0, rows, c->K * p->row, NULL, 0);
    Cross cross = p->cross;
    cross.x = (Rows){.data = v, .pixel = D};
    cross.Bt = rows_at(rows, p), cross.Ct = rows_at(rows + p->plan.wide, p);
    cross.gate = rows_at(c->shared_state ? rows + 2 * p->plan.wide : NULL, p);
    cross.dt = rows_at(rows + p->row - c->R, p);
    cross.y = y;
    if (c->shared_state) cross.shared_state = c->shared_state + i * c->K * D * c->N;
    if (c->last) cross.last = c->last + i * c->K * D * c->N;
    scan_directions(&cross, &p->plan, s, 0, 0, c->K, 0, p->plan.vectors);
    for (int64_t r = 0; r < pixels; r += PIXELS_AT_ONCE)
        after_rows(c, p, from + r, min_i64(PIXELS_AT_ONCE, pixels - r), y + r * D, NULL, z + r * D, memory);
}

static int block_by_windows(const Block *c, const Prepared *p) {
    int64_t count = c->batch * (c->height / c->window) * (c->width / c->window);
    int failed = 0;
#pragma omp parallel num_threads((int)c->threads) if (c->threads > 1)
    {
        float *memory = cleared(window_floats(c, p)), *work = memory;
        Scanner s;
        if (memory) {
            s = make_scanner(p, &work);
        } else {
#pragma omp atomic write
            failed = 1;
        }
#pragma omp for schedule(dynamic, 4)
        for (int64_t i = 0; i < count; i++)
            if (memory) window_block(c, p, i, work, &s);
        free(memory);
    }
    return failed;
}

/* The scan of maps: y and `more` get the sums over the first and the second pair of directions. */
static int scan_maps(const Block *c, const Prepared *p, const float *v, float *y, float *more) {
    int64_t pairs = ceil_div(c->K, 2), tasks = c->batch * pairs;
    int64_t splits = tasks ? min_i64(p->plan.vectors, c->threads / tasks) : 1; /* each computes all rows */
    if (splits < 1) splits = 1;
    int failed = 0;
#pragma omp parallel num_threads((int)c->threads) if (c->threads > 1)
    {
        float *memory = cleared(scanner_floats(p)), *work = memory;
        Cross cross = p->cross;
        cross.x = (Rows){.data = v, .batch = c->height * c->width * c->inner, .pixel = c->inner};
        Scanner s;
        if (memory) {
            s = make_scanner(p, &work);
            compute_rows(&cross, &p->plan, &s.tile, p->rows, &work);
        } else {
#pragma omp atomic write
            failed = 1;
        }
#pragma omp for schedule(dynamic, 1)
        for (int64_t i = 0; i < tasks * splits; i++) {
            int64_t pair = i / splits % pairs, from = i % splits * p->plan.vectors / splits;
            cross.y = pair ? more : y;
            if (memory)
                scan_directions(&cross, &p->plan, &s, i / splits / pairs, 2 * pair, min_i64(2 * pair + 2, c->K), from,
                                (i % splits + 1) * p->plan.vectors / splits);
        }
        free(memory);
    }
    return failed;
}

/* What is done pixel by pixel on maps: up to u and z, or, with y, from y on. */
static int map_rows(const Block *c, const Prepared *p, float *u, float *z, const float *y, const float *more) {
    int64_t pixels = c->batch * c->height * c->width, D = c->inner;
    int failed = 0;
#pragma omp parallel num_threads((int)c->threads) if (c->threads > 1)
    {
        float *work = floats(work_floats(c));
        if (!work) {
#pragma omp atomic write
            failed = 1;
        }
#pragma omp for schedule(dynamic, 4)
        for (int64_t i = 0; i < pixels; i += PIXELS_AT_ONCE) {
            int64_t rows = min_i64(PIXELS_AT_ONCE, pixels - i);
            if (work && y) after_rows(c, p, i, rows, y + i * D, more ? more + i * D : NULL, z + i * D, work);
            if (work && !y) before_rows(c, p, i, rows, u + i * D, z + i * D, work);
        }
        free(work);
    }
    return failed;
}

static int block_of_maps(const Block *c, Prepared *p) {
    int64_t map = c->batch * c->height * c->width * c->inner;
    float *u = c->maps, *z = u + map, *v = z + map, *more = c->K > 2 ? v + map : NULL;
    p->conv.x = u, p->conv.y = v;
    return map_rows(c, p, u, z, NULL, NULL) || depthwise_forward(&p->conv) || scan_maps(c, p, v, u, more) ||
           map_rows(c, p, u, z, u, more); /* y takes the place of u */
}

/* Returns 0, or 1 when there is no memory. */
int block_forward(const Block *c) {
    Prepared p;
    int failed = !pack(c, &p);
    if (!failed) failed = c->window ? block_by_windows(c, &p) : block_of_maps(c, &p);
    unpack(&p);
    return failed;
}
