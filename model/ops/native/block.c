/* What a VSS block does pixel by pixel, for inference: nothing is kept for a gradient.
 *
 *     block_before:  (u, z) = in_proj LN(x),  u = LN(u)
 *     block_after:   r = x + out_proj(LN(y) silu(z)),  r = r + fc2(a GELU(b)) with (a, b) = fc1 LN(r)
 *
 * A chunk of pixels passes through all steps while it is in the second cache: between the steps nothing goes through
 * memory, where the layers one after the other write and read up to eight times the width of the map.
 *
 * Shapes: x and out (batch, height, width, channels), y z u (rows, inner), all row-major, rows = batch height width.
 * With `window`, the rows of y, z and u are ordered window by window, and out = x + factor r.
 */
#include "common.h"

#define PIXELS_AT_ONCE 96 /* of a chunk: its widest row, of a hidden layer of 256, then takes 96 KiB */

typedef struct {
    const float *weight, *bias;
    double eps;
} Norm;

typedef struct {
    int64_t batch, height, width, window, channels, inner, hidden, threads; /* window 0: none */
    const float *x;
    Norm norm1, conv_norm;
    const float *in_proj; /* (2 inner, channels) */
    float *u, *z;
    const float *y; /* from here on block_after */
    Norm out_norm, norm2;
    const float *out_proj, *fc1, *fc1_bias, *fc2,
        *fc2_bias;       /* (channels, inner) (2 hidden, channels) (channels, hidden) */
    const float *factor; /* (channels), with a window */
    float *out;
} Block;

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
INLINE void norm_row(const Norm *n, const float *src, int64_t count, float *dst) {
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
    float scale = 1.0f / __builtin_sqrtf((lane_sum(square) + last) / (float)count + (float)n->eps);
    for (int64_t i = 0; i < count; i += V) {
        int lanes = min_i64(V, count - i);
        vf value = (load_part(src + i, lanes) - splat(mean)) * splat(scale);
        store_part(dst + i, value * load_part(n->weight + i, lanes) + load_part(n->bias + i, lanes), lanes);
    }
}

/* Where row r lies in a map: by windows, which lie row by row, where there is one. */
INLINE int64_t pixel_of(const Block *c, int64_t r) {
    int64_t w = c->window;
    if (!w) return r;
    int64_t box = r / (w * w), in = r % (w * w), across = c->width / w;
    return (box / across * w + in / w) * c->width + box % across * w + in % w; /* height is a multiple of w */
}

/* Panels of a weight (outer, inner) in fresh memory, NULL when there is none. */
static float *panels_of(const float *weight, int64_t outer, int64_t inner) {
    float *panels = floats(panel_floats(inner, outer));
    if (panels) pack_transposed(weight, outer, inner, panels);
    return panels;
}

/* Rows `from` to `from + rows` of block_before; panels: of the two halves of in_proj; work: rows of channels. */
static void before_rows(const Block *c, int64_t from, int64_t rows, float *const *panels, float *work) {
    int64_t width = c->channels, D = c->inner;
    float *u = c->u + from * D;
    for (int64_t r = 0; r < rows; r++)
        norm_row(&c->norm1, c->x + pixel_of(c, from + r) * width, width, work + r * width);
    product(rows, width, D, work, width, 1, panels[0], 0, u, D, NULL, 0);
    product(rows, width, D, work, width, 1, panels[1], 0, c->z + from * D, D, NULL, 0);
    for (int64_t r = 0; r < rows; r++) norm_row(&c->conv_norm, u + r * D, D, u + r * D);
}

/* Returns 0, or 1 when there is no memory. */
int block_before(const Block *c) {
    int64_t rows = c->batch * c->height * c->width, half = c->inner * c->channels;
    float *panels[2] = {panels_of(c->in_proj, c->inner, c->channels),
                        panels_of(c->in_proj + half, c->inner, c->channels)};
    int failed = !panels[0] || !panels[1];
#pragma omp parallel num_threads((int)c->threads) if (c->threads > 1)
    {
        float *work = failed ? NULL : floats(PIXELS_AT_ONCE * c->channels);
        if (!work) {
#pragma omp atomic write
            failed = 1;
        }
#pragma omp for schedule(dynamic, 4)
        for (int64_t i = 0; i < rows; i += PIXELS_AT_ONCE)
            if (work) before_rows(c, i, min_i64(PIXELS_AT_ONCE, rows - i), panels, work);
        free(work);
    }
    free(panels[0]);
    free(panels[1]);
    return failed;
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

static int64_t after_floats(const Block *c) {
    return PIXELS_AT_ONCE * (2 * c->channels + (c->inner > 2 * c->hidden ? c->inner : 2 * c->hidden));
}

/* Rows `from` to `from + rows` of block_after; panels: out_proj, the halves of fc1, fc2; work: after_floats. */
static void after_rows(const Block *c, int64_t from, int64_t rows, float *const *panels, float *work) {
    int64_t width = c->channels, D = c->inner, m = c->hidden;
    float *r = work, *normed = r + PIXELS_AT_ONCE * width, *a = normed + PIXELS_AT_ONCE * width, *b = a + rows * m;
    for (int64_t i = 0; i < rows; i++) {
        copy(r + i * width, c->x + pixel_of(c, from + i) * width, (int)width);
        norm_row(&c->out_norm, c->y + (from + i) * D, D, a + i * D);
    }
    silu_gate(a, c->z + from * D, rows * D);
    product(rows, D, width, a, D, 1, panels[0], 0, r, width, NULL, 1);
    for (int64_t i = 0; i < rows; i++) {
        norm_row(&c->norm2, r + i * width, width, normed + i * width);
        add_row(r + i * width, c->fc2_bias, width); /* `product` starts from a sum or from a bias */
    }
    product(rows, width, m, normed, width, 1, panels[1], 0, a, m, c->fc1_bias, 0);
    product(rows, width, m, normed, width, 1, panels[2], 0, b, m, c->fc1_bias + m, 0);
    gelu_of(a, b, rows * m);
    product(rows, m, width, a, m, 1, panels[3], 0, r, width, NULL, 1);
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

/* Returns 0, or 1 when there is no memory. */
int block_after(const Block *c) {
    int64_t rows = c->batch * c->height * c->width, width = c->channels, m = c->hidden;
    float *panels[4] = {panels_of(c->out_proj, width, c->inner), panels_of(c->fc1, m, width),
                        panels_of(c->fc1 + m * width, m, width), panels_of(c->fc2, width, m)};
    int failed = !panels[0] || !panels[1] || !panels[2] || !panels[3];
#pragma omp parallel num_threads((int)c->threads) if (c->threads > 1)
    {
        float *work = failed ? NULL : floats(after_floats(c));
        if (!work) {
#pragma omp atomic write
            failed = 1;
        }
#pragma omp for schedule(dynamic, 4)
        for (int64_t i = 0; i < rows; i += PIXELS_AT_ONCE)
            if (work) after_rows(c, i, min_i64(PIXELS_AT_ONCE, rows - i), panels, work);
        free(work);
    }
    for (int i = 0; i < 4; i++) free(panels[i]);
    return failed;
}
