/* The recurrence on one tile: at most T steps, V channels side by side, NB states at a time in registers.
 *
 *     h_t = 2^(step_t A2) h_{t-1} + x_t B_t          A2 = A log2(e), x_t = step_t u_t
 *     y_t += C_t . h_t
 *
 * A tile is laid out [t][lane]; A2, h and their gradients [n][lane]; B and C rows [t][n], `ld` floats apart.
 * Lanes are channels, so nothing is summed across lanes forward, and any N works without waste.
 * Backward recomputes the tile's states from the one before it: no state is kept but one per tile.
 */
#ifndef LEMAMBA_TILE_H
#define LEMAMBA_TILE_H

#include "vector.h"

#define T 32  /* steps of a tile: decays and states of NB of them stay in the first cache */
#define NB 4  /* states per pass: the padding unit of N */
#define UNROLL _Pragma("GCC unroll 8") /* at once, so that small arrays live in registers */

#define DEFINE_FORWARD(NAME, COUNT)                                                                                  \
    static void NAME(int steps, const float *step, const float *x, float *y, const float *B, const float *C, int ld, \
                     const float *A2, float *h) {                                                                    \
        vf a[COUNT], s[COUNT];                                                                                       \
        UNROLL for (int n = 0; n < COUNT; n++) a[n] = load(A2 + n * V), s[n] = load(h + n * V);                             \
        for (int t = 0; t < steps; t++) {                                                                            \
            vf d = load(step + t * V), in = load(x + t * V), even = load(y + t * V), odd = all(0.0f);                \
            UNROLL for (int n = 0; n < COUNT; n += 2) {                                             \
                s[n] = exp2_v(d * a[n]) * s[n] + in * all(B[t * ld + n]);                                            \
                s[n + 1] = exp2_v(d * a[n + 1]) * s[n + 1] + in * all(B[t * ld + n + 1]);                            \
                even += s[n] * all(C[t * ld + n]);                                                                   \
                odd += s[n + 1] * all(C[t * ld + n + 1]);                                                            \
            }                                                                                                        \
            store(y + t * V, even + odd);                                                                            \
        }                                                                                                            \
        UNROLL for (int n = 0; n < COUNT; n++) store(h + n * V, s[n]);                                                      \
    }

DEFINE_FORWARD(forward_8, 8)
DEFINE_FORWARD(forward_4, 4)

/* All N states (a multiple of 4) of one tile. */
INLINE void forward_tile(int steps, int N, const float *step, const float *x, float *y, const float *B, const float *C,
                         const float *A2, float *h) {
    int n = 0;
    for (; n + 8 <= N; n += 8) forward_8(steps, step, x, y, B + n, C + n, N, A2 + n * V, h + n * V);
    if (n < N) forward_4(steps, step, x, y, B + n, C + n, N, A2 + n * V, h + n * V);
}

/* Decays and states that backward recomputes for NB states of a tile. */
typedef struct {
    vf decay[T][NB], before[T][NB];
} Recomputed;

/* Backward of NB states of a tile.
 *
 * dy (steps, lanes). h: state before the tile. g: gradient of the state after the tile, in; before it, out.
 * Adds to gx = sum_n g B and gstep = sum_n g h decay A2 (steps, lanes), and to gA (in units of A).
 * sum_B, sum_C [t][n][lane]: what is to be summed over channels; set by the first tile of a group, added to by others. */
INLINE void backward_tile_(int steps, int ld, const float *step, const float *x, const float *dy, const float *B,
                           const float *C, const float *A2, const float *h, float *g, float *gA, float *gx,
                           float *gstep, vf (*sum_B)[NB], vf (*sum_C)[NB], Recomputed *r, const int first) {
    vf a[NB], s[NB], grad[NB], grad_A[NB];
    UNROLL for (int n = 0; n < NB; n++) a[n] = load(A2 + n * V), s[n] = load(h + n * V);
    for (int t = 0; t < steps; t++) {
        vf d = load(step + t * V), in = load(x + t * V);
        UNROLL for (int n = 0; n < NB; n++) {
            vf decay = exp2_v(d * a[n]);
            r->before[t][n] = s[n];
            r->decay[t][n] = decay;
            s[n] = decay * s[n] + in * all(B[t * ld + n]);
        }
    }
    UNROLL for (int n = 0; n < NB; n++) grad[n] = load(g + n * V), grad_A[n] = load(gA + n * V);
    for (int t = steps - 1; t >= 0; t--) {
        vf d = load(step + t * V), in = load(x + t * V), out = load(dy + t * V);
        vf to_x = load(gx + t * V), to_step = load(gstep + t * V);
        UNROLL for (int n = 0; n < NB; n++) {
            vf now = grad[n] + out * all(C[t * ld + n]);
            sum_C[t][n] = first ? s[n] * out : s[n] * out + sum_C[t][n];
            sum_B[t][n] = first ? now * in : now * in + sum_B[t][n];
            to_x += now * all(B[t * ld + n]);
            grad[n] = now * r->decay[t][n];
            s[n] = r->before[t][n];
            vf through = grad[n] * s[n];
            to_step += through * load(A2 + n * V);
            grad_A[n] += through * d;
        }
        store(gx + t * V, to_x), store(gstep + t * V, to_step);
    }
    UNROLL for (int n = 0; n < NB; n++) store(g + n * V, grad[n]), store(gA + n * V, grad_A[n]);
}

static void backward_tile(int steps, int ld, const float *step, const float *x, const float *dy, const float *B,
                          const float *C, const float *A2, const float *h, float *g, float *gA, float *gx,
                          float *gstep, vf (*sum_B)[NB], vf (*sum_C)[NB], Recomputed *r, int first) {
    if (first)
        backward_tile_(steps, ld, step, x, dy, B, C, A2, h, g, gA, gx, gstep, sum_B, sum_C, r, 1);
    else
        backward_tile_(steps, ld, step, x, dy, B, C, A2, h, g, gA, gx, gstep, sum_B, sum_C, r, 0);
}

/* Sum [t][n][lane] over lanes into rows [t][n] that are `ld` floats apart. */
INLINE void sum_lanes(int steps, vf (*sums)[NB], float *rows, int ld) {
    for (int t = 0; t < steps; t++) store4(rows + t * ld, sums_of_four((const float *)sums[t]));
}

#endif
