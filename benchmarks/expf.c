/* The second yardstick: exponentials a second of the C library, in the widest form that the compiler finds for expf. */
#include <math.h>
#include <stdint.h>

#define FLOATS 2048 /* as native/rate.c: they stay in the first cache */

__attribute__((noinline)) static void exponentials(const float *x, float *y) {
    for (int i = 0; i < FLOATS; i++) y[i] = expf(x[i]);
}

/* Compute e^x of `repeats` * FLOATS numbers on every thread; returns their number on all threads. */
int64_t exp_rate(int64_t repeats, int64_t threads, float *out) {
#pragma omp parallel for num_threads((int)threads) schedule(static, 1)
    for (int64_t thread = 0; thread < threads; thread++) {
        float x[FLOATS], y[FLOATS];
        for (int i = 0; i < FLOATS; i++) x[i] = -20.0f * (float)i / FLOATS;
        for (int64_t r = 0; r < repeats; r++) {
            exponentials(x, y);
            __asm__ volatile("" : : "r"(y), "r"(x) : "memory"); /* keeps the compiler from dropping repeats */
        }
        out[thread] = y[FLOATS - 1];
    }
    return repeats * FLOATS * threads;
}
