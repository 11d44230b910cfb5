/* y = x weight^T + bias over rows of channels, and its gradients: matrix products whose inner and outer sizes are
 * small.
 *
 * Math libraries choose their kernels by the vendor of a processor and leave wide vectors unused on some; these use
 * what the machine has. Shapes: x (rows, inner), weight (outer, inner), bias (outer), y (rows, outer), row-major; the
 * rows of x and gy may lie apart. Every sum has one order, whatever the number of threads.
 */
#include "common.h"

#define PANEL (2 * V) /* columns of a panel */
#if V == 16
#define BLOCK_ROWS 12 /* rows of a block: 12 x 2 sums, two vectors of the panel and one of x fill the registers */
#else
#define BLOCK_ROWS 4
#endif
#define CHUNK 192 /* rows processed while they are in the second cache; a multiple of BLOCK_ROWS */

typedef struct {
    int64_t rows, inner, outer, threads, x_row, gy_row; /* x_row, gy_row: floats from row to row */
    int64_t add;                                        /* gx is added to */
    const float *x, *weight, *bias;                     /* bias may be NULL */
    float *y;
    const float *gy;
    float *gx, *gweight, *gbias; /* any may be NULL */
} Linear;

/* out[i][j] = (add ? out[i][j] : start[j] or 0) + sum_k a[i * row + k * step] * b[k * b_row + j]; `high` x `wide` of
 * them, PANEL columns of b can be read. */
INLINE void block(const int high, int64_t inner, const float *a, int64_t row, int64_t step, const float *b,
                  int64_t b_row, float *out, int64_t out_row, int wide, const float *start, int add) {
    vf sum[BLOCK_ROWS][2];
    int low = min_i64(V, wide), up = wide - low;
    UNROLL_16
    for (int i = 0; i < high; i++) {
        sum[i][0] = add ? load_part(out + i * out_row, low) : start ? load_part(start, low) : splat(0.0f);
        sum[i][1] = splat(0.0f);
        if (up && add) sum[i][1] = load_part(out + i * out_row + V, up);
        if (up && !add && start) sum[i][1] = load_part(start + V, up);
    }
    for (int64_t k = 0; k < inner; k++) {
        vf b0 = load(b + k * b_row), b1 = load(b + k * b_row + V);
        UNROLL_16
        for (int i = 0; i < high; i++) {
            vf value = splat(a[i * row + k * step]);
            sum[i][0] += value * b0;
            sum[i][1] += value * b1;
        }
    }
    UNROLL_16
    for (int i = 0; i < high; i++) {
        store_part(out + i * out_row, sum[i][0], low);
        if (up) store_part(out + i * out_row + V, sum[i][1], up);
    }
}

/* `rows` rows of all columns; b: panels [panel][inner][PANEL], or, where b_row is given, rows of whole panels so far
 * apart. */
static void product(int64_t rows, int64_t inner, int64_t columns, const float *a, int64_t row, int64_t step,
                    const float *b, int64_t b_row, float *out, int64_t out_row, const float *start, int add) {
    int64_t next = b_row ? 1 : inner; /* floats between the starts of two panels, per column */
    if (!b_row) b_row = PANEL;
    for (int64_t j = 0; j < columns; j += PANEL) {
        const float *panel = b + j * next, *s = start ? start + j : NULL;
        int wide = min_i64(PANEL, columns - j);
        int64_t i = 0;
        for (; i + BLOCK_ROWS <= rows; i += BLOCK_ROWS)
            block(BLOCK_ROWS, inner, a + i * row, row, step, panel, b_row, out + i * out_row + j, out_row, wide, s,
                  add);
        for (; BLOCK_ROWS > 8 && i + 8 <= rows; i += 8)
            block(8, inner, a + i * row, row, step, panel, b_row, out + i * out_row + j, out_row, wide, s, add);
        for (; i + 4 <= rows; i += 4)
            block(4, inner, a + i * row, row, step, panel, b_row, out + i * out_row + j, out_row, wide, s, add);
        for (; i < rows; i++)
            block(1, inner, a + i * row, row, step, panel, b_row, out + i * out_row + j, out_row, wide, s, add);
    }
}

static int64_t panel_floats(int64_t inner, int64_t columns) { return ceil_div(columns, PANEL) * PANEL * inner; }

/* Rows of `columns` floats -> panels [columns / PANEL][rows][PANEL], zero padded. */
static void pack_rows(const float *src, int64_t src_row, int64_t rows, int64_t columns, float *panels) {
    for (int64_t j = 0; j < columns; j += PANEL) {
        int wide = min_i64(PANEL, columns - j);
        float *dst = panels + j * rows;
        for (int64_t i = 0; i < rows; i++, dst += PANEL) {
            if (wide < PANEL) zero(dst, PANEL);
            memcpy(dst, src + i * src_row + j, (size_t)wide * 4);
        }
    }
}

/* The panels of weight^T: [outer / PANEL][inner][PANEL]. */
static void pack_transposed(const float *weight, int64_t outer, int64_t inner, float *panels) {
    for (int64_t j = 0; j < outer; j += PANEL) {
        int wide = min_i64(PANEL, outer - j);
        if (wide < PANEL) zero(panels + j * inner, inner * PANEL);
        transpose(weight + j * inner, inner, wide, (int)inner, panels + j * inner, PANEL);
    }
}

/* Returns 0, or 1 when there is no memory. */
int linear_forward(const Linear *c) {
    float *panels = floats(panel_floats(c->inner, c->outer));
    if (!panels) return 1;
    pack_transposed(c->weight, c->outer, c->inner, panels);
#pragma omp parallel for num_threads((int)c->threads) schedule(static) if (c->threads > 1)
    for (int64_t i = 0; i < c->rows; i += CHUNK)
        product(min_i64(CHUNK, c->rows - i), c->inner, c->outer, c->x + i * c->x_row, c->x_row, 1, panels, 0,
                c->y + i * c->outer, c->outer, c->bias, 0);
    free(panels);
    return 0;
}

/* Gradients of the rows from `from` to `to`; `sums` (outer, inner) then (outer) are added to. */
static void backward_rows(const Linear *c, int64_t from, int64_t to, const float *panels, float *sums, float *work) {
    for (int64_t i = from; i < to; i += CHUNK) {
        int64_t rows = min_i64(CHUNK, to - i);
        const float *g = c->gy + i * c->gy_row;
        if (c->gx)
            product(rows, c->outer, c->inner, g, c->gy_row, 1, panels, 0, c->gx + i * c->inner, c->inner, NULL,
                    (int)c->add);
        if (c->gweight) {
            const float *x = c->x + i * c->x_row;
            int whole = c->inner % PANEL == 0; /* x already consists of panels */
            if (!whole) pack_rows(x, c->x_row, rows, c->inner, work);
            product(c->outer, rows, c->inner, g, 1, c->gy_row, whole ? x : work, whole ? c->x_row : 0, sums, c->inner,
                    NULL, 1);
        }
        float *gbias = sums + c->outer * c->inner;
        for (int64_t r = 0; c->gbias && r < rows; r++)
            for (int64_t n = 0; n < c->outer; n++) gbias[n] += g[r * c->gy_row + n];
    }
}

/* Returns 0, or 1 when there is no memory. */
int linear_backward(const Linear *c) {
    int64_t parts = min_i64(MAX_PARTS / 4, ceil_div(c->rows, CHUNK)), count = c->outer * (c->inner + 1);
    float *panels = floats(panel_floats(c->outer, c->inner)), *sums = floats((parts ? parts : 1) * count);
    int failed = !panels || !sums;
    if (!failed) {
        zero(sums, (parts ? parts : 1) * count);
        if (c->gx) pack_rows(c->weight, c->inner, c->outer, c->inner, panels);
#pragma omp parallel num_threads((int)c->threads) if (c->threads > 1)
        {
            float *work = floats(panel_floats(CHUNK, c->inner));
            if (!work) {
#pragma omp atomic write
                failed = 1;
            }
#pragma omp for schedule(dynamic, 1)
            for (int64_t p = 0; p < parts; p++)
                if (work)
                    backward_rows(c, p * c->rows / parts, (p + 1) * c->rows / parts, panels, sums + p * count, work);
            free(work);
        }
    }
    if (!failed) {
        sum_parts(sums, parts, count);
        if (c->gweight) memcpy(c->gweight, sums, (size_t)(c->outer * c->inner) * 4);
        if (c->gbias) memcpy(c->gbias, sums + c->outer * c->inner, (size_t)c->outer * 4);
    }
    free(sums);
    free(panels);
    return failed;
}
