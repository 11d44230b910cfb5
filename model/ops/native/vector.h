/* Vectors of floats in plain C: width, loads, 2^x, softplus, transposition, prefetching.
 *
 * GNU vector extensions (gcc, clang), so the same source serves AVX-512, AVX2, SSE and NEON; operations that the
 * extensions lack have x86 forms below. V is the number of lanes. Everything is float32.
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
#define UNROLL _Pragma("GCC unroll 8") /* completely, so that small arrays live in registers */
#define UNROLL_16 _Pragma("GCC unroll 16")

INLINE vf load(const float *p) {
    vf v;
    memcpy(&v, p, sizeof v);
    return v;
}
INLINE void store(float *p, vf v) { memcpy(p, &v, sizeof v); }
INLINE v4 load4(const float *p) {
    v4 v;
    memcpy(&v, p, sizeof v);
    return v;
}
INLINE void store4(float *p, v4 v) { memcpy(p, &v, sizeof v); }

/* The same number in every lane. */
INLINE vf splat(float x) {
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
    vf v = splat(0.0f);
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

/* Maximum and minimum of x and a bound; a NaN in x stays NaN. */
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

/* a where x < 0, else b. */
INLINE vf where_negative(vf x, vf a, vf b) {
#if V == 16
    return (vf)_mm512_mask_blend_ps(_mm512_cmp_ps_mask((__m512)x, _mm512_setzero_ps(), _CMP_LT_OQ), (__m512)b,
                                    (__m512)a);
#else
    vi negative = (vi)(x < splat(0.0f));
    return (vf)((negative & (vi)a) | (~negative & (vi)b));
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
    x = at_most(at_least(x, splat(-125.0f)), splat(127.0f));
    const vf magic = splat(12582912.0f); /* 1.5 * 2^23: adding it rounds to an integer in the low bits */
    vf shifted = x + magic;
    vf f = x - (shifted - magic);
#endif
    vf p = splat(1.535336194e-04f);
    p = p * f + splat(1.339887440e-03f);
    p = p * f + splat(9.618437357e-03f);
    p = p * f + splat(5.550332471e-02f);
    p = p * f + splat(2.402264791e-01f);
    p = p * f + splat(6.931472029e-01f);
    p = p * f + splat(1.0f);
#if V == 16 && defined(__AVX512DQ__)
    return (vf)_mm512_scalef_ps((__m512)p, (__m512)n);
#else
    return (vf)((vi)p + ((vi)shifted << 23));
#endif
}

#define LOG2E 1.44269504088896341f
#define LN2 0.69314718055994531f

#define MAX_STEP 0x1p40f
#define MAX_RATE 0x1p26f

/* AMD's processors with AVX-512 have units for additions apart from those for multiplications; others have not. */
#if defined(__znver3__) || defined(__znver4__) || defined(__znver5__) /* gcc 12 takes the fourth for the third */
#define ADDERS 1
#else
#define ADDERS 0
#endif

/* 2^(d a) for |d| up to MAX_STEP and |a| up to MAX_RATE: the rounding error of their product then has a finite cube,
 * and the result is 0 where it should be.
 *
 * With AVX-512 it is 2^k 2^(i/16) 2^f, |f| <= 1/32: the second factor from a table in one register, the third of degree
 * 3, relative error 2e-9 before rounding, its linear term exactly ln 2 for the same reason as the 1 in exp2_v. 10
 * instructions with the product d a, which is not rounded by itself; exp2_v takes 13. `rounded`: the product may be
 * rounded, an error of 4e-8 of the result's range [0, 1], where that is quicker. */
INLINE vf power_v(vf d, vf a, const int rounded) {
#if V == 16 && defined(__AVX512DQ__)
    const __m512 table = _mm512_setr_ps(1.0f, 1.04427373f, 1.09050775f, 1.13878858f, 1.18920708f, 1.24185777f,
                                        1.29683959f, 1.35425556f, 1.41421354f, 1.47682619f, 1.54221082f, 1.61049032f,
                                        1.68179286f, 1.75625217f, 1.8340081f, 1.91520655f);
    const vf magic = splat(786432.0f); /* 1.5 * 2^19: adding it rounds to sixteenths, i in the lowest four bits */
    vf shifted, n, f;
    if (rounded) {
        vf x = d * a;
        __asm__("" : "+v"(x)); /* not joined with the addition: the next two must round the same number */
        shifted = x + magic, n = shifted - magic;
        f = (vf)_mm512_reduce_ps((__m512)x, 0x40); /* x less its nearest sixteenth */
    } else {
        shifted = (vf)_mm512_fmadd_ps((__m512)d, (__m512)a, (__m512)magic), n = shifted - magic;
        f = (vf)_mm512_fmsub_ps((__m512)d, (__m512)a, (__m512)n);
    }
    vf p = splat(5.550428135e-02f) * f + splat(2.402342701e-01f);
    p = p * f + splat(LN2);
    p = p * f + splat(1.0f);
    p *= (vf)_mm512_permutexvar_ps((__m512i)shifted, table);
    return (vf)_mm512_scalef_ps((__m512)p, (__m512)n); /* rounds n down to k */
#else
    return exp2_v(d * a);
#endif
}

/* The decay of a state. */
INLINE vf decay_v(vf d, vf a) { return power_v(d, a, ADDERS); }

/* A step, clamped to the range of power_v. */
INLINE vf decay_step(vf d) { return at_most(at_least(d, splat(-MAX_STEP)), splat(MAX_STEP)); }

/* 1 / x for x of ordinary size. Division takes as long as 16 multiplications here; an approximation and one step of
 * Newton's method take 5. */
INLINE vf reciprocal_v(vf x) {
#if V == 16
    vf r = (vf)_mm512_rcp14_ps((__m512)x);
    return r * (splat(2.0f) - x * r);
#else
    return splat(1.0f) / x;
#endif
}

/* x / (1 + exp(-x)); the exponent is bounded so that the quotient is defined where the result is 0. */
INLINE vf silu_v(vf x) { return x * reciprocal_v(splat(1.0f) + exp2_v(at_most(x * splat(-LOG2E), splat(125.0f)))); }

/* Vectors that one call of softplus_v works on; without AVX-512 there are half as many registers. */
#define INTERLEAVE (V == 16 ? 8 : 4)

/* softplus(x) = max(x, 0) + log(1 + exp(-|x|)) in place and, unless `slope` is NULL, its derivative, the logistic
 * function.
 *
 * Each of about forty operations waits for the one before, and a processor does not look far enough ahead to overlap
 * several vectors; hence INTERLEAVE of them at once, in three shorter chains. */
INLINE void softplus_v(vf *x, vf *slope) {
    vf z[INTERLEAVE], more[INTERLEAVE], inverse[INTERLEAVE];
    UNROLL
    for (int i = 0; i < INTERLEAVE; i++) {
        vf positive = at_least(x[i], splat(0.0f)), magnitude = at_most(positive + positive - x[i], splat(126.0f));
        z[i] = power_v(magnitude, splat(-LOG2E), 0);
    }
    UNROLL
    for (int i = 0; i < INTERLEAVE; i++) {
        more[i] = z[i] + splat(1.0f);
        inverse[i] = reciprocal_v(more[i] * (more[i] + splat(1.0f))); /* one for both quotients */
    }
    UNROLL
    for (int i = 0; i < INTERLEAVE; i++) {
        vf s = z[i] * more[i] * inverse[i]; /* z / (z + 2): log(1 + z) = 2 artanh(s), s <= 1/3 */
        vf q = s * s;
        vf p = splat(2.817834143e-01f);
        p = p * q + splat(2.796060113e-01f);
        p = p * q + splat(4.002491042e-01f);
        p = p * q + splat(6.666631468e-01f);
        p = p * q + splat(2.000000008e+00f);
        if (slope) {
            vf part = (more[i] + splat(1.0f)) * inverse[i];
            slope[i] = where_negative(x[i], z[i] * part, part);
        }
        x[i] = at_least(x[i], splat(0.0f)) + s * p;
    }
}

#if V == 16
/* Add lanes of two vectors into one: `keep` leaves a lane of a (0) or b (1) in place, `swap` brings its partner there.
 */
INLINE __m512 fold(__m512 a, __m512 b, __mmask16 keep, __m512i swap) {
    return _mm512_add_ps(_mm512_mask_blend_ps(keep, a, b), _mm512_permutex2var_ps(a, swap, b));
}
#endif

/* Sums of the lanes of four vectors at p, of four at p + stride, … four times: sum[i][n] of p[i * stride + n]. */
INLINE void sums_of_sixteen(const vf *p, int stride, v4 *sum) {
#if V == 16
    const __m512i halves = _mm512_setr_epi32(8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23);
    const __m512i quarters = _mm512_setr_epi32(4, 5, 6, 7, 16, 17, 18, 19, 12, 13, 14, 15, 24, 25, 26, 27);
    const __m512i pairs = _mm512_setr_epi32(2, 3, 16, 17, 6, 7, 20, 21, 10, 11, 24, 25, 14, 15, 28, 29);
    const __m512i ones = _mm512_setr_epi32(1, 16, 3, 18, 5, 20, 7, 22, 9, 24, 11, 26, 13, 28, 15, 30);
    __m512 s[8];
    UNROLL
    for (int i = 0; i < 8; i++) {
        const vf *q = p + i / 4 * stride + i % 4;
        s[i] = fold((__m512)q[0], (__m512)q[2 * stride], 0xff00, halves);
    }
    UNROLL
    for (int i = 0; i < 4; i++) s[i] = fold(s[i], s[i + 4], 0xf0f0, quarters);
    UNROLL
    for (int i = 0; i < 2; i++) s[i] = fold(s[i], s[i + 2], 0xcccc, pairs);
    s[0] = fold(s[0], s[1], 0xaaaa, ones);
    memcpy(sum, &s[0], sizeof s[0]);
#else
    for (int i = 0; i < 4; i++, p += stride) {
        v4 part[4];
        for (int n = 0; n < 4; n++) {
#if V == 8
            part[n] = (v4)_mm256_castps256_ps128((__m256)p[n]) + (v4)_mm256_extractf128_ps((__m256)p[n], 1);
#else
            part[n] = p[n];
#endif
        }
#if defined(__SSE3__)
        __m128 low = _mm_hadd_ps((__m128)part[0], (__m128)part[1]),
               high = _mm_hadd_ps((__m128)part[2], (__m128)part[3]);
        sum[i] = (v4)_mm_hadd_ps(low, high);
#else
        v4 s = {0};
        for (int n = 0; n < 4; n++) s[n] = (part[n][0] + part[n][1]) + (part[n][2] + part[n][3]);
        sum[i] = s;
#endif
    }
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

#if V == 16
/* The same for 16 x 16: rows are loaded in quarters, so that no shuffle has to cross quarters. */
static void transpose16(const float *src, int64_t src_row, float *dst, int64_t dst_row) {
    __m512 a[4][4], b[4]; /* a[i][r]: columns 4i … 4i + 3 of the rows r, r + 4, r + 8, r + 12 */
    UNROLL
    for (int r = 0; r < 4; r++) UNROLL
    for (int i = 0; i < 4; i++) a[i][r] = _mm512_castps128_ps512(_mm_loadu_ps(src + r * src_row + 4 * i));
    UNROLL
    for (int r = 0; r < 4; r++) UNROLL
    for (int i = 0; i < 4; i++) a[i][r] = _mm512_insertf32x4(a[i][r], _mm_loadu_ps(src + (r + 4) * src_row + 4 * i), 1);
    UNROLL
    for (int r = 0; r < 4; r++) UNROLL
    for (int i = 0; i < 4; i++) a[i][r] = _mm512_insertf32x4(a[i][r], _mm_loadu_ps(src + (r + 8) * src_row + 4 * i), 2);
    UNROLL
    for (int r = 0; r < 4; r++) UNROLL
    for (int i = 0; i < 4; i++)
        a[i][r] = _mm512_insertf32x4(a[i][r], _mm_loadu_ps(src + (r + 12) * src_row + 4 * i), 3);
    UNROLL
    for (int i = 0; i < 4; i++, dst += 4 * dst_row) {
        b[0] = _mm512_unpacklo_ps(a[i][0], a[i][1]), b[1] = _mm512_unpackhi_ps(a[i][0], a[i][1]);
        b[2] = _mm512_unpacklo_ps(a[i][2], a[i][3]), b[3] = _mm512_unpackhi_ps(a[i][2], a[i][3]);
        _mm512_storeu_ps(dst, _mm512_shuffle_ps(b[0], b[2], 0x44));
        _mm512_storeu_ps(dst + dst_row, _mm512_shuffle_ps(b[0], b[2], 0xee));
        _mm512_storeu_ps(dst + 2 * dst_row, _mm512_shuffle_ps(b[1], b[3], 0x44));
        _mm512_storeu_ps(dst + 3 * dst_row, _mm512_shuffle_ps(b[1], b[3], 0xee));
    }
}
#define BLOCK 16
#define transpose_block transpose16
#elif V == 8
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
        for (; c + 4 <= columns; c += 4)
            for (int i = r; i < r + BLOCK; i += 4)
                transpose4(src + i * src_row + c, src_row, dst + c * dst_row + i, dst_row);
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

/* Copy a short row. */
INLINE void copy(float *dst, const float *src, int count) {
    for (int i = 0; i < count; i += V) {
        int n = count - i < V ? count - i : V;
        store_part(dst + i, load_part(src + i, n), n);
    }
}

/* Prefetch a row into the second cache, to be read or written soon: rows far apart defeat the hardware's prefetcher
 * and, where their distance is a power of two, the first cache. A function that only prefetches must be INLINE: gcc
 * removes calls without effect. */
INLINE void preload_l2(const float *src, int columns) {
    for (int c = 0; c < columns; c += 16) __builtin_prefetch(src + c, 0, 2);
}

/* Prefetch a row that is used next into the first cache. */
INLINE void preload_l1(const float *src, int columns) {
    for (int c = 0; c < columns; c += 16) __builtin_prefetch(src + c, 0, 3);
}

/* Rows of several arrays of one shape, to be prefetched a few at each call of preload_step: a processor has two or
 * three dozen loads in flight, and one more prefetch delays the loads that are needed now. */
typedef struct {
    const float *array[5];
    int64_t row; /* floats from row to row */
    int arrays, rows, columns;
    int per_call, a, r; /* rows per call; the next array and row */
} PreloadQueue;

/* Spread the queue over `calls` calls of preload_step. */
INLINE void preload_in(PreloadQueue *q, int64_t calls) {
    q->per_call = (int)((q->arrays * q->rows + calls - 1) / calls);
}

INLINE void preload_step(PreloadQueue *q) {
    for (int i = 0; i < q->per_call && q->a < q->arrays; i++) {
        preload_l2(q->array[q->a] + q->r * q->row, q->columns);
        if (++q->r == q->rows) q->r = 0, q->a++;
    }
}

#endif
