/* What the kernels share: sizes with their padding, scratch memory, packing of per-channel tables, ordered sums. */
#ifndef LEMAMBA_COMMON_H
#define LEMAMBA_COMMON_H

#include "tile.h"

#define MAX_PARTS 64 /* the batch is cut into at most this many parts whose parameter gradients are summed in order */

static inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
static inline int64_t padded(int64_t n) { return ceil_div(n, NB) * NB; }
static inline int64_t min_i64(int64_t a, int64_t b) { return a < b ? a : b; }

/* Floats aligned for vectors; NULL when there is no memory. */
static float *floats(int64_t count) { return aligned_alloc(64, (size_t)ceil_div(count * 4 + 64, 64) * 64); }

static inline void zero(float *p, int64_t count) { memset(p, 0, (size_t)count * 4); }

/* The same, zero: padding of lanes, states and steps is read, though no result depends on it. */
static float *cleared(int64_t count) {
    float *p = floats(count);
    if (p) zero(p, count);
    return p;
}

/* Take `count` floats (a multiple of V) from a scratch block. */
static inline float *take(float **scratch, int64_t count) {
    float *p = *scratch;
    *scratch += count;
    return p;
}

/* (K*channels) -> [K][vectors * V], zero padded. NULL gives zeros. */
static void pack_vector(const float *src, int64_t K, int64_t channels, float *dst) {
    int64_t row = ceil_div(channels, V) * V;
    zero(dst, K * row);
    if (src)
        for (int64_t k = 0; k < K; k++) memcpy(dst + k * row, src + k * channels, (size_t)channels * 4);
}

/* (channels, N) -> [vectors][padded N][V], times `scale`, within MAX_RATE, zero padded. */
static void pack_matrix(const float *src, int64_t channels, int64_t N, float scale, float *dst) {
    int64_t wide = padded(N);
    zero(dst, ceil_div(channels, V) * wide * V);
    for (int64_t d = 0; d < channels; d++)
        for (int64_t n = 0; n < N; n++) {
            float x = src[d * N + n] * scale;
            dst[(d / V * wide + n) * V + d % V] = x > MAX_RATE ? MAX_RATE : x < -MAX_RATE ? -MAX_RATE : x;
        }
}

/* The same, for states: no scale, transposed in blocks. */
static void pack_state(const float *src, int64_t channels, int64_t N, float *dst) {
    int64_t wide = padded(N);
    zero(dst, ceil_div(channels, V) * wide * V);
    for (int64_t j = 0; j * V < channels; j++)
        transpose(src + j * V * N, N, min_i64(V, channels - j * V), (int)N, dst + j * wide * V, V);
}

static void unpack_state(const float *src, int64_t first, int64_t last, int64_t channels, int64_t N, float *dst) {
    int64_t wide = padded(N);
    for (int64_t j = first; j < last; j++)
        transpose(src + j * wide * V, V, (int)N, min_i64(V, channels - j * V), dst + j * V * N, N);
}

/* Sum `parts` blocks of `count` floats into the first, always in the same order. */
static void sum_parts(float *blocks, int64_t parts, int64_t count) {
    for (int64_t p = 1; p < parts; p++)
        for (int64_t i = 0; i < count; i++) blocks[i] += blocks[p * count + i];
}

static void unpack_vector(const float *src, int64_t K, int64_t channels, float *dst) {
    int64_t row = ceil_div(channels, V) * V;
    for (int64_t k = 0; dst && k < K; k++) memcpy(dst + k * channels, src + k * row, (size_t)channels * 4);
}

#endif
