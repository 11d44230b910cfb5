/* The yardsticks: how many float32 exponentials, or multiplications with additions, a second this machine computes
 * when nothing else limits it.
 *
 * Frozen, so that shares measured at different times compare: 2^x as a degree-6 polynomial with both ends clamped and
 * rounding by a magic constant, over an array that stays in the first cache. It uses no instruction set's own helpers.
 */
#include "vector.h"

#define RATE_FLOATS 2048

/* Compute 2^x of `repeats` * RATE_FLOATS numbers on every thread; returns their number on all threads. */
int64_t exp_rate(int64_t repeats, int64_t threads, float *out) {
#pragma omp parallel for num_threads((int)threads) schedule(static, 1)
    for (int64_t thread = 0; thread < threads; thread++) {
        float x[RATE_FLOATS], y[RATE_FLOATS];
        for (int i = 0; i < RATE_FLOATS; i++) x[i] = -20.0f * (float)i / RATE_FLOATS, y[i] = 0.0f;
        for (int64_t r = 0; r < repeats; r++) {
            for (int i = 0; i < RATE_FLOATS; i += V) {
                vf v = at_most(at_least(load(x + i), splat(-126.0f)), splat(127.0f));
                vf shifted = v + splat(12582912.0f), f = v - (shifted - splat(12582912.0f));
                vf p = splat(1.535336194e-04f);
                p = p * f + splat(1.339887440e-03f);
                p = p * f + splat(9.618437357e-03f);
                p = p * f + splat(5.550332471e-02f);
                p = p * f + splat(2.402264791e-01f);
                p = p * f + splat(6.931472029e-01f);
                p = p * f + splat(1.0f);
                store(y + i, (vf)((vi)p + ((vi)shifted << 23)));
            }
            __asm__ volatile("" : : "r"(y), "r"(x) : "memory"); /* keeps the compiler from dropping repeats */
        }
        out[thread] = y[RATE_FLOATS - 1];
    }
    return repeats * RATE_FLOATS * threads;
}

#define CHAINS 12 /* enough to hide the latency of an operation, few enough for 16 registers */

/* The same for multiplications with additions, s = s a + b, on numbers that stay in registers. */
int64_t fma_rate(int64_t repeats, int64_t threads, float *out) {
#pragma omp parallel for num_threads((int)threads) schedule(static, 1)
    for (int64_t thread = 0; thread < threads; thread++) {
        vf s[CHAINS], a = splat(0.999f), b = splat(0.001f);
        UNROLL_16
        for (int i = 0; i < CHAINS; i++) s[i] = splat((float)i);
        for (int64_t r = 0; r < repeats; r++) {
            UNROLL_16
            for (int i = 0; i < CHAINS; i++) s[i] = s[i] * a + b;
        }
        out[thread] = 0.0f;
        for (int i = 0; i < CHAINS; i++) out[thread] += s[i][0];
    }
    return repeats * CHAINS * V * threads;
}
