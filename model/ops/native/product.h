/* Matrix products whose inner and outer sizes are small, on rows that are near.
 *
 * Math libraries choose their kernels by the vendor of a processor and leave wide vectors unused on some; these use
 * what the machine has. The second factor is packed into panels of columns. Every sum has one order.
 */
#ifndef LEMAMBA_PRODUCT_H
#define LEMAMBA_PRODUCT_H

#include "common.h"

#define PANEL (2 * V) /* columns of a panel */
#if V == 16
#define BLOCK_ROWS 12 /* rows of a block: 12 x 2 sums, two vectors of the panel and one of x fill the registers */
#else
#define BLOCK_ROWS 4
#endif

/* out[i][j] = (add ? out[i][j] : start[j] or 0) + sum_k a[i * row + k * step] * b[k * b_row + j]; `high` x `wide` of
 * them, `vectors` (1 or 2) to a row; that many can be read of b. */
INLINE void block(const int high, const int vectors, int64_t inner, const float *a, int64_t row, int64_t step,
                  const float *b, int64_t b_row, float *out, int64_t out_row, int wide, const float *start, int add) {
    vf sum[BLOCK_ROWS][2];
    int low = vectors == 2 ? V : wide, up = wide - V;
    UNROLL_16
    for (int i = 0; i < high; i++) {
        sum[i][0] = add ? load_part(out + i * out_row, low) : start ? load_part(start, low) : splat(0.0f);
        if (vectors == 2)
            sum[i][1] = add ? load_part(out + i * out_row + V, up) : start ? load_part(start + V, up) : splat(0.0f);
    }
    for (int64_t k = 0; k < inner; k++) {
        vf b0 = load(b + k * b_row), b1 = vectors == 2 ? load(b + k * b_row + V) : b0;
        UNROLL_16
        for (int i = 0; i < high; i++) {
            vf value = splat(a[i * row + k * step]);
            sum[i][0] += value * b0;
            if (vectors == 2) sum[i][1] += value * b1;
        }
    }
    UNROLL_16
    for (int i = 0; i < high; i++) {
        store_part(out + i * out_row, sum[i][0], low);
        if (vectors == 2) store_part(out + i * out_row + V, sum[i][1], up);
    }
}

/* `rows` rows of the `wide` columns of one panel. */
INLINE void panel_product(const int vectors, int64_t rows, int64_t inner, int wide, const float *a, int64_t row,
                          int64_t step, const float *b, int64_t b_row, float *out, int64_t out_row, const float *start,
                          int add) {
    int64_t i = 0;
    for (; i + BLOCK_ROWS <= rows; i += BLOCK_ROWS)
        block(BLOCK_ROWS, vectors, inner, a + i * row, row, step, b, b_row, out + i * out_row, out_row, wide, start,
              add);
    for (; BLOCK_ROWS > 8 && i + 8 <= rows; i += 8)
        block(8, vectors, inner, a + i * row, row, step, b, b_row, out + i * out_row, out_row, wide, start, add);
    for (; i + 4 <= rows; i += 4)
        block(4, vectors, inner, a + i * row, row, step, b, b_row, out + i * out_row, out_row, wide, start, add);
    for (; i < rows; i++)
        block(1, vectors, inner, a + i * row, row, step, b, b_row, out + i * out_row, out_row, wide, start, add);
}

/* `rows` rows of all columns; b: panels [panel][inner][PANEL], or, where b_row is given, rows of whole panels so far
 * apart. A last panel that is at most half full costs half. */
static void product(int64_t rows, int64_t inner, int64_t columns, const float *a, int64_t row, int64_t step,
                    const float *b, int64_t b_row, float *out, int64_t out_row, const float *start, int add) {
    int64_t next = b_row ? 1 : inner; /* floats between the starts of two panels, per column */
    if (!b_row) b_row = PANEL;
    for (int64_t j = 0; j < columns; j += PANEL) {
        const float *panel = b + j * next, *s = start ? start + j : NULL;
        int wide = min_i64(PANEL, columns - j);
        if (wide > V) panel_product(2, rows, inner, wide, a, row, step, panel, b_row, out + j, out_row, s, add);
        else panel_product(1, rows, inner, wide, a, row, step, panel, b_row, out + j, out_row, s, add);
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

#endif
