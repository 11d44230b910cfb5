/* Vectors of floats in plain C: width, loads, 2^x, softplus, transposition.
 *
 * GNU vector extensions (gcc, clang), so the same source serves AVX-512, AVX2, SSE and NEON; a few operations that
 * the extensions lack have x86 forms below. V is the number of lanes. Everything is float32.
 */
#ifndef LEMAMBA_VECTOR_H
#define LEMAMBA_VECTOR_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#if defined(__SSE__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
#define V 16
#elif defined(__AVX2__) && defined(__FMA__)
#define V 8
#else
#define V 4
#endif

typedef float vf __attribute__((vector_size(4 * V)));
typedef int32_t vi __attribute__((vector_size(4 * V)));
typedef float v4 __attribute__((vector_size(16)));
#define INLINE static inline __attribute__((always_inline))

INLINE vf load(const float *p) { vf v; memcpy(&v, p, sizeof v); return v; }
INLINE void store(float *p, vf v) { memcpy(p, &v, sizeof v); }
INLINE v4 load4(const float *p) { v4 v; memcpy(&v, p, sizeof v); return v; }
INLINE void store4(float *p, v4 v) { memcpy(p, &v, sizeof v); }

/* The same number in every lane. */
INLINE vf all(float x) {
#if V == 16
    return (vf)_mm512_set1_ps(x);
#elif V == 8
    return (vf)_mm256_set1_ps(x);
#else
    return (vf){x, x, x, x};
#endif
}

/* The first n lanes of p, zero in the others; n <= V. */
INLINE vf load_part(const float *p, int n) {
    if (n == V) return load(p);
#if V == 16
    return (vf)_mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p);
#else
    vf v = all(0.0f);
    memcpy(&v, p, (size_t)n * 4);
    return v;
#endif
}

INLINE void store_part(float *p, vf v, int n) {
    if (n == V) return store(p, v);
#if V == 16
    _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), (__m512)v);
#else
    memcpy(p, &v, (size_t)n * 4);
#endif
}

/* Larger and smaller of x and a bound; a NaN in x stays NaN. */
INLINE vf at_least(vf x, vf low) {
#if V == 16
    return (vf)_mm512_max_ps((__m512)low, (__m512)x);
#elif V == 8
    return (vf)_mm256_max_ps((__m256)low, (__m256)x);
#else
    vi below = (vi)(x < low);
    return (vf)((below & (vi)low) | (~below & (vi)x));
#endif
}

INLINE vf at_most(vf x, vf high) {
#if V == 16
    return (vf)_mm512_min_ps((__m512)high, (__m512)x);
#elif V == 8
    return (vf)_mm256_min_ps((__m256)high, (__m256)x);
#else
    vi above = (vi)(x > high);
    return (vf)((above & (vi)high) | (~above & (vi)x));
#endif
}

/* 2^x. Degree 6 on [-1/2, 1/2], relative error 2e-9 before rounding. The constant term is exactly 1, so that 2^0 = 1
 * and, near 0, the error is relative to x: a decay close to 1 has no drift over long sequences.
 * Very negative x gives 0 (or 2^-125 without AVX-512), never an overflow; NaN stays NaN. */
INLINE vf exp2_v(vf x) {
#if V == 16 && defined(__AVX512DQ__)
    vf n = (vf)_mm512_roundscale_ps((__m512)x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    vf f = x - n;
#else
    x = at_most(at_least(x, all(-125.0f)), all(127.0f));
    const vf magic = all(12582912.0f); /* 1.5 * 2^23: adding it rounds to an integer in the low bits */
    vf shifted = x + magic;
    vf f = x - (shifted - magic);
#endif
    vf p = all(1.535336194e-04f);
    p = p * f + all(1.339887440e-03f);
    p = p * f + all(9.618437357e-03f);
    p = p * f + all(5.550332471e-02f);
    p = p * f + all(2.402264791e-01f);
    p = p * f + all(6.931472029e-01f);
    p = p * f + all(1.0f);
#if V == 16 && defined(__AVX512DQ__)
    return (vf)_mm512_scalef_ps((__m512)p, (__m512)n);
#else
    return (vf)((vi)p + ((vi)shifted << 23));
#endif
}

#define LOG2E 1.44269504088896341f
#define LN2 0.69314718055994531f

/* softplus(x) = max(x, 0) + log(1 + exp(-|x|)), and its derivative, the logistic function. */
INLINE vf softplus_v(vf x, vf *slope) {
    vf positive = at_least(x, all(0.0f));
    vf magnitude = positive + positive - x; /* |x| */
    vf z = exp2_v(magnitude * all(-LOG2E));
    vf s = z / (z + all(2.0f)); /* log(1 + z) = 2 artanh(s), s <= 1/3 */
    vf q = s * s;
    vf p = all(2.817834143e-01f);
    p = p * q + all(2.796060113e-01f);
    p = p * q + all(4.002491042e-01f);
    p = p * q + all(6.666631468e-01f);
    p = p * q + all(2.000000008e+00f);
    if (slope) {
        vf part = all(1.0f) / (z + all(1.0f));
        vi negative = (vi)(x < all(0.0f));
        *slope = (vf)((negative & (vi)(z * part)) | (~negative & (vi)part));
    }
    return positive + s * p;
}

/* Sum of the lanes of four vectors that lie one after the other in memory. */
INLINE v4 sums_of_four(const float *p) {
    v4 s[4];
    for (int i = 0; i < 4; i++) {
        const float *q = p + i * V;
#if V == 16
        __m256 half = _mm256_loadu_ps(q) + _mm256_loadu_ps(q + 8);
        s[i] = (v4)_mm256_castps256_ps128(half) + (v4)_mm256_extractf128_ps(half, 1);
#elif V == 8
        s[i] = load4(q) + load4(q + 4);
#else
        s[i] = load4(q);
#endif
    }
#if defined(__SSE3__)
    __m128 low = _mm_hadd_ps((__m128)s[0], (__m128)s[1]), high = _mm_hadd_ps((__m128)s[2], (__m128)s[3]);
    return (v4)_mm_hadd_ps(low, high);
#else
    v4 r;
    for (int i = 0; i < 4; i++) r[i] = (s[i][0] + s[i][1]) + (s[i][2] + s[i][3]);
    return r;
#endif
}

/* Transpose a 4 x 4 block: dst[c * dst_row + r] = src[r * src_row + c]. */
INLINE void transpose4(const float *src, int64_t src_row, float *dst, int64_t dst_row) {
    v4 a = load4(src), b = load4(src + src_row), c = load4(src + 2 * src_row), d = load4(src + 3 * src_row);
#if defined(__SSE__)
    __m128 w = (__m128)a, x = (__m128)b, y = (__m128)c, z = (__m128)d;
    _MM_TRANSPOSE4_PS(w, x, y, z);
    a = (v4)w, b = (v4)x, c = (v4)y, d = (v4)z;
    store4(dst, a), store4(dst + dst_row, b), store4(dst + 2 * dst_row, c), store4(dst + 3 * dst_row, d);
#else
    for (int i = 0; i < 4; i++) {
        dst[i * dst_row] = a[i], dst[i * dst_row + 1] = b[i];
        dst[i * dst_row + 2] = c[i], dst[i * dst_row + 3] = d[i];
    }
#endif
}

#if defined(__AVX__)
/* The same for 8 x 8. */
INLINE void transpose8(const float *src, int64_t src_row, float *dst, int64_t dst_row) {
    __m256 a[8], b[8];
    for (int i = 0; i < 4; i++) {
        const float *low = src + i * src_row, *high = low + 4 * src_row;
        a[i] = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(low)), _mm_loadu_ps(high), 1);
        a[i + 4] = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(low + 4)), _mm_loadu_ps(high + 4), 1);
    }
    for (int i = 0; i < 8; i += 4) {
        b[0] = _mm256_unpacklo_ps(a[i], a[i + 1]), b[1] = _mm256_unpackhi_ps(a[i], a[i + 1]);
        b[2] = _mm256_unpacklo_ps(a[i + 2], a[i + 3]), b[3] = _mm256_unpackhi_ps(a[i + 2], a[i + 3]);
        _mm256_storeu_ps(dst + (i + 0) * dst_row, _mm256_shuffle_ps(b[0], b[2], 0x44));
        _mm256_storeu_ps(dst + (i + 1) * dst_row, _mm256_shuffle_ps(b[0], b[2], 0xee));
        _mm256_storeu_ps(dst + (i + 2) * dst_row, _mm256_shuffle_ps(b[1], b[3], 0x44));
        _mm256_storeu_ps(dst + (i + 3) * dst_row, _mm256_shuffle_ps(b[1], b[3], 0xee));
    }
}
#define BLOCK 8
#define transpose_block transpose8
#else
#define BLOCK 4
#define transpose_block transpose4
#endif

/* Transpose rows x columns: dst[c * dst_row + r] = src[r * src_row + c]. */
static void transpose(const float *src, int64_t src_row, int rows, int columns, float *dst, int64_t dst_row) {
    int r = 0;
    for (; r + BLOCK <= rows; r += BLOCK) {
        int c = 0;
        for (; c + BLOCK <= columns; c += BLOCK)
            transpose_block(src + r * src_row + c, src_row, dst + c * dst_row + r, dst_row);
        for (; c < columns; c++)
            for (int i = r; i < r + BLOCK; i++) dst[c * dst_row + i] = src[i * src_row + c];
    }
    for (; r + 4 <= rows; r += 4) {
        int c = 0;
        for (; c + 4 <= columns; c += 4) transpose4(src + r * src_row + c, src_row, dst + c * dst_row + r, dst_row);
        for (; c < columns; c++)
            for (int i = r; i < r + 4; i++) dst[c * dst_row + i] = src[i * src_row + c];
    }
    for (; r < rows; r++)
        for (int c = 0; c < columns; c++) dst[c * dst_row + r] = src[r * src_row + c];
}

/* Ask for rows x columns floats that will be read soon: rows far apart defeat the hardware's own prefetcher
 * and, where their distance is a power of two, the first cache; hence into the second. */
INLINE void expect(const float *src, int64_t src_row, int rows, int columns) {
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < columns; c += 16) __builtin_prefetch(src + r * src_row + c, 0, 2);
}

/* The same for rows that will be written. */
INLINE void expect_write(const float *dst, int64_t dst_row, int rows, int columns) {
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < columns; c += 16) __builtin_prefetch(dst + r * dst_row + c, 1, 2);
}

#endif
