/* y = x weight^T + bias over rows of channels, and its gradients.
 *
 * Shapes: x (rows, inner), weight (outer, inner), bias (outer), y (rows, outer), row-major; the rows of x and gy may
 * lie apart. Every sum has one order, whatever the number of threads.
 */
#include "product.h"

#define CHUNK 192 /* rows processed while they are in the second cache; a multiple of BLOCK_ROWS */

typedef struct {
    int64_t rows, inner, outer, threads, x_row, gy_row; /* x_row, gy_row: floats from row to row */
    int64_t add;                                        /* gx is added to */
    const float *x, *weight, *bias;                     /* bias may be NULL */
    float *y;
    const float *gy;
    float *gx, *gweight, *gbias; /* any may be NULL */
} Linear;

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
