/* The recurrence on one tile: at most T steps, V channels in the lanes, NB states at a time in registers.
 *
 *     h_t = 2^(step_t A2) h_{t-1} + x_t B_t          A2 = A log2(e), x_t = step_t u_t
 *     y_t += C_t . h_t
 *
 * A tile is laid out [t][lane]; A2, h and their gradients [n][lane]; B and C rows [t][n], `ld` floats apart.
 * Lanes are channels, so nothing is summed across lanes forward, and any N works without waste.
 * Backward recomputes the states of a tile from the one before it: one state per tile is kept.
 */
#ifndef LEMAMBA_TILE_H
#define LEMAMBA_TILE_H

#include "vector.h"

#define T 16 /* steps of a tile: what backward keeps of NB states for them fits the first cache */
#define NB 4 /* states per pass: the padding unit of N */

#define DEFINE_FORWARD(NAME, COUNT)                                                                                  \
    static void NAME(int steps, const float *step, const float *x, float *y, const float *B, const float *C, int ld, \
                     const float *A2, float *h) {                                                                    \
        vf a[COUNT], s[COUNT];                                                                                       \
        UNROLL                                                                                                       \
        for (int n = 0; n < COUNT; n++) a[n] = load(A2 + n * V), s[n] = load(h + n * V);                             \
        for (int t = 0; t < steps; t++) {                                                                            \
            vf d = load(step + t * V), in = load(x + t * V), even = load(y + t * V), odd = splat(0.0f);              \
            UNROLL                                                                                                   \
            for (int n = 0; n < COUNT; n += 2) {                                                                     \
                s[n] = decay_v(d, a[n]) * s[n] + in * splat(B[t * ld + n]);                                          \
                s[n + 1] = decay_v(d, a[n + 1]) * s[n + 1] + in * splat(B[t * ld + n + 1]);                          \
                even += s[n] * splat(C[t * ld + n]);                                                                 \
                odd += s[n + 1] * splat(C[t * ld + n + 1]);                                                          \
            }                                                                                                        \
            store(y + t * V, even + odd);                                                                            \
        }                                                                                                            \
        UNROLL                                                                                                       \
        for (int n = 0; n < COUNT; n++) store(h + n * V, s[n]);                                                      \
    }

DEFINE_FORWARD(forward_8, 8)
DEFINE_FORWARD(forward_4, 4)

/* States n .. n + 8 of one tile, 4 at the end of N, which is a multiple of 4. */
INLINE void forward_tile(int steps, int N, int ld, int n, const float *step, const float *x, float *y, const float *B,
                         const float *C, const float *A2, float *h) {
    if (n + 8 <= N) forward_8(steps, step, x, y, B + n, C + n, ld, A2 + n * V, h + n * V);
    else forward_4(steps, step, x, y, B + n, C + n, ld, A2 + n * V, h + n * V);
}

/* What backward keeps of NB states at one step: recomputed decays and states, and the sums over vectors of channels
 * that will be summed over lanes. One struct, not four arrays: a load waits for an older store whose address has the
 * same last twelve bits, as the same elements of page-sized arrays have. */
typedef struct {
    vf decay[NB], before[NB], B[NB], C[NB];
} Kept;
#define KEPT (int)(sizeof(Kept) / sizeof(vf)) /* vectors from one step to the next */

/* Backward of NB states of a tile.
 *
 * dy (steps, lanes). h: state before the tile. g: gradient of the state after the tile, in; before it, out.
 * Added to: gA (of A2), gx, gstep (of step through the decay, without ln 2), kept[t].B and kept[t].C, per lane; the
 * last two are set, not added to, when `first`.
 */
INLINE void backward_tile_(int steps, int ld, const float *step, const float *x, const float *dy, const float *B,
                           const float *C, const float *A2, const float *h, float *g, float *gA, float *gx,
                           float *gstep, Kept *kept, const int first) {
    vf a[NB], s[NB], grad[NB], grad_A[NB];
    UNROLL
    for (int n = 0; n < NB; n++) a[n] = load(A2 + n * V), s[n] = load(h + n * V);
    for (int t = 0; t < steps; t++) {
        vf d = load(step + t * V), in = load(x + t * V);
        UNROLL
        for (int n = 0; n < NB; n++) {
            vf decay = decay_v(d, a[n]);
            kept[t].before[n] = s[n];
            kept[t].decay[n] = decay;
            s[n] = decay * s[n] + in * splat(B[t * ld + n]);
        }
    }
    UNROLL
    for (int n = 0; n < NB; n++) grad[n] = load(g + n * V), grad_A[n] = load(gA + n * V);
    for (int t = steps - 1; t >= 0; t--) {
        vf d = load(step + t * V), in = load(x + t * V), out = load(dy + t * V);
        vf to_x = load(gx + t * V), to_step = load(gstep + t * V);
        Kept *k = kept + t;
        UNROLL
        for (int n = 0; n < NB; n++) {
            vf now = grad[n] + out * splat(C[t * ld + n]);
            k->C[n] = first ? s[n] * out : s[n] * out + k->C[n];
            k->B[n] = first ? now * in : now * in + k->B[n];
            to_x += now * splat(B[t * ld + n]);
            grad[n] = now * k->decay[n];
            s[n] = k->before[n];
            vf through = grad[n] * s[n];
            to_step += through * load(A2 + n * V);
            grad_A[n] += through * d;
        }
        store(gx + t * V, to_x), store(gstep + t * V, to_step);
    }
    UNROLL
    for (int n = 0; n < NB; n++) store(g + n * V, grad[n]), store(gA + n * V, grad_A[n]);
}

static void backward_tile(int steps, int ld, const float *step, const float *x, const float *dy, const float *B,
                          const float *C, const float *A2, const float *h, float *g, float *gA, float *gx, float *gstep,
                          Kept *kept, int first) {
    if (first) backward_tile_(steps, ld, step, x, dy, B, C, A2, h, g, gA, gx, gstep, kept, 1);
    else backward_tile_(steps, ld, step, x, dy, B, C, A2, h, g, gA, gx, gstep, kept, 0);
}

/* Sum NB vectors a step over their lanes into rows [t][n] that are `ld` floats apart; the vectors of a step are
 * `stride` vectors apart from those of the next. Steps beyond `steps` up to a multiple of 4 are read, not written. */
static void sum_lanes(int steps, const vf *sums, int stride, float *rows, int ld) {
    for (int t = 0; t < steps; t += 4) {
        v4 sum[4];
        sums_of_sixteen(sums + t * stride, stride, sum);
        for (int i = 0; i < 4 && t + i < steps; i++) store4(rows + (t + i) * ld, sum[i]);
    }
}

#endif
