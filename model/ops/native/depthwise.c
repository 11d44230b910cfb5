/* Depth-wise convolution of a channels-last map with an odd square kernel, zero padded to the same size; its gradients.
 *
 * Shapes: x, y and their gradients (batch, height, width, channels), packed; weight (channels, kernel, kernel). Work is
 * cut into bands of rows of one vector of channels: a band is copied with its border of zeros into the second cache,
 * where every tap is a load. Sums have one order, whatever the number of threads.
 */
#include "common.h"

#define PIXELS 8         /* neighbouring results held in registers */
#define BAND (128 << 10) /* floats of a band: half of a second cache of a megabyte */

#define LARGEST 11 /* kernel sides that are compiled: 5, 7, 9, 11 */

typedef struct {
    int64_t batch, height, width, channels, kernel, threads;
    int64_t silu;                   /* forward: y = silu(convolution) */
    const float *x, *weight, *bias; /* bias may be NULL */
    float *y;
    const float *gy;
    float *gx, *gweight, *gbias;
} Depthwise;

typedef struct {
    int64_t vectors, taps, half, row, rows, bands; /* row: floats of a band's row; rows of a band */
} Layout;

static Layout layout(const Depthwise *c) {
    Layout l = {.vectors = ceil_div(c->channels, V), .taps = c->kernel * c->kernel, .half = c->kernel / 2};
    l.row = (ceil_div(c->width, PIXELS) * PIXELS + 2 * l.half) * V;
    int64_t fits = BAND / l.row - 2 * l.half;
    l.rows = fits < 8 ? 8 : min_i64(fits, c->height);
    l.bands = ceil_div(c->height, l.rows);
    return l;
}

static int64_t band_floats(const Layout *l) { return (l->rows + 2 * l->half) * l->row; }

/* Weights as [vector][tap][lane]; `flipped`: rotated by 180 degrees. */
static void pack_taps(const Depthwise *c, const Layout *l, int flipped, float *dst) {
    zero(dst, l->vectors * l->taps * V);
    for (int64_t d = 0; d < c->channels; d++)
        for (int64_t i = 0; i < l->taps; i++)
            dst[(d / V * l->taps + (flipped ? l->taps - 1 - i : i)) * V + d % V] = c->weight[d * l->taps + i];
}

/* Rows y0 - half to y0 + rows + half of vector j of a sample, zeros outside the map. */
static void fill_band(const Depthwise *c, const Layout *l, const float *sample, int64_t y0, int64_t rows, int64_t j,
                      float *band) {
    int lanes = min_i64(V, c->channels - j * V);
    for (int64_t y = -l->half; y < rows + l->half; y++, band += l->row) {
        zero(band, l->row);
        if (y0 + y < 0 || y0 + y >= c->height) continue;
        const float *src = sample + (y0 + y) * c->width * c->channels + j * V;
        float *dst = band + l->half * V;
        for (int64_t x = 0; x < c->width; x++) store(dst + x * V, load_part(src + x * c->channels, lanes));
    }
}

/* Convolve a band: `rows` rows of results, written to a sample. */
INLINE void convolve(const int kernel, const Depthwise *c, const Layout *l, const float *band, const float *weight,
                     vf start, int64_t y0, int64_t rows, int64_t j, float *sample) {
    int lanes = min_i64(V, c->channels - j * V);
    for (int64_t y = 0; y < rows; y++)
        for (int64_t x = 0; x < c->width; x += PIXELS) {
            vf sum[PIXELS];
            UNROLL
            for (int i = 0; i < PIXELS; i++) sum[i] = start;
            for (int dy = 0; dy < kernel; dy++) {
                const float *src = band + (y + dy) * l->row + x * V, *w = weight + dy * kernel * V;
                UNROLL_16
                for (int dx = 0; dx < kernel; dx++) {
                    vf tap = load(w + dx * V);
                    UNROLL
                    for (int i = 0; i < PIXELS; i++) sum[i] += tap * load(src + (dx + i) * V);
                }
            }
            float *dst = sample + ((y0 + y) * c->width + x) * c->channels + j * V;
            int count = min_i64(PIXELS, c->width - x);
            if (c->silu) {
                UNROLL
                for (int i = 0; i < PIXELS; i++) sum[i] = silu_v(sum[i]);
            }
            for (int i = 0; i < count; i++) store_part(dst + i * c->channels, sum[i], lanes);
        }
}

/* Add to the gradients of the taps of one vector: [tap][lane]. */
INLINE void correlate(const int kernel, const Depthwise *c, const Layout *l, const float *band, const float *gband,
                      int64_t rows, float *gweight) {
    for (int dy = 0; dy < kernel; dy++) {
        vf total[LARGEST];
        UNROLL_16
        for (int i = 0; i < kernel; i++) total[i] = load(gweight + (dy * kernel + i) * V);
        for (int64_t y = 0; y < rows; y++) {
            const float *src = band + (y + dy) * l->row, *g = gband + (y + kernel / 2) * l->row + kernel / 2 * V;
            for (int64_t x = 0; x < c->width; x++) {
                vf out = load(g + x * V);
                UNROLL_16
                for (int i = 0; i < kernel; i++) total[i] += out * load(src + (x + i) * V);
            }
        }
        UNROLL_16
        for (int i = 0; i < kernel; i++) store(gweight + (dy * kernel + i) * V, total[i]);
    }
}

static void convolve_any(const Depthwise *c, const Layout *l, const float *band, const float *weight, vf start,
                         int64_t y0, int64_t rows, int64_t j, float *sample) {
    if (c->kernel == 5) convolve(5, c, l, band, weight, start, y0, rows, j, sample);
    if (c->kernel == 7) convolve(7, c, l, band, weight, start, y0, rows, j, sample);
    if (c->kernel == 9) convolve(9, c, l, band, weight, start, y0, rows, j, sample);
    if (c->kernel == 11) convolve(11, c, l, band, weight, start, y0, rows, j, sample);
}

static void correlate_any(const Depthwise *c, const Layout *l, const float *band, const float *gband, int64_t rows,
                          float *gweight) {
    if (c->kernel == 5) correlate(5, c, l, band, gband, rows, gweight);
    if (c->kernel == 7) correlate(7, c, l, band, gband, rows, gweight);
    if (c->kernel == 9) correlate(9, c, l, band, gband, rows, gweight);
    if (c->kernel == 11) correlate(11, c, l, band, gband, rows, gweight);
}

/* Returns 0, or 1 when there is no memory. The kernel's side is 5, 7, 9 or 11. */
int depthwise_forward(const Depthwise *c) {
    Layout l = layout(c);
    int64_t image = c->height * c->width * c->channels, items = c->batch * l.bands;
    float *weight = floats(l.vectors * (l.taps + 1) * V), *bias = weight ? weight + l.vectors * l.taps * V : NULL;
    if (!weight) return 1;
    pack_taps(c, &l, 0, weight);
    pack_vector(c->bias, 1, c->channels, bias);
    int failed = 0;
#pragma omp parallel num_threads((int)c->threads) if (c->threads > 1)
    {
        float *band = floats(band_floats(&l));
        if (!band) {
#pragma omp atomic write
            failed = 1;
        }
#pragma omp for schedule(dynamic, 1)
        for (int64_t i = 0; i < items * l.vectors; i++) {
            int64_t b = i / l.vectors / l.bands, y0 = i / l.vectors % l.bands * l.rows, j = i % l.vectors;
            int64_t rows = min_i64(l.rows, c->height - y0);
            if (!band) continue;
            fill_band(c, &l, c->x + b * image, y0, rows, j, band);
            convolve_any(c, &l, band, weight + j * l.taps * V, load(bias + j * V), y0, rows, j, c->y + b * image);
        }
        free(band);
    }
    free(weight);
    return failed;
}

/* Gradients of band `item` of vector j; added to `sums`: [tap][lane], then the bias's. */
static void backward_band(const Depthwise *c, const Layout *l, int64_t item, int64_t j, const float *flipped,
                          float *band, float *gband, float *sums) {
    int64_t image = c->height * c->width * c->channels, b = item / l->bands, y0 = item % l->bands * l->rows;
    int64_t rows = min_i64(l->rows, c->height - y0);
    fill_band(c, l, c->x + b * image, y0, rows, j, band);
    fill_band(c, l, c->gy + b * image, y0, rows, j, gband);
    convolve_any(c, l, gband, flipped + j * l->taps * V, splat(0.0f), y0, rows, j, c->gx + b * image);
    correlate_any(c, l, band, gband, rows, sums);
    vf total = load(sums + l->taps * V);
    for (int64_t y = 0; y < rows; y++) {
        const float *g = gband + (y + l->half) * l->row + l->half * V;
        vf sum = splat(0.0f); /* by rows: fewer terms in one sum */
        for (int64_t x = 0; x < c->width; x++) sum += load(g + x * V);
        total += sum;
    }
    store(sums + l->taps * V, total);
}

/* Sum the parts in order and write them in the caller's shapes. */
static void write_taps(const Depthwise *c, const Layout *l, float *sums, int64_t parts) {
    sum_parts(sums, parts, l->vectors * (l->taps + 1) * V);
    for (int64_t d = 0; d < c->channels; d++) {
        const float *own = sums + d / V * (l->taps + 1) * V + d % V;
        for (int64_t i = 0; i < l->taps; i++) c->gweight[d * l->taps + i] = own[i * V];
        c->gbias[d] = own[l->taps * V];
    }
}

/* Returns 0, or 1 when there is no memory. */
int depthwise_backward(const Depthwise *c) {
    Layout l = layout(c);
    int64_t items = c->batch * l.bands, parts = min_i64(items, MAX_PARTS / 4), count = l.vectors * (l.taps + 1) * V;
    float *flipped = floats(l.vectors * l.taps * V), *sums = floats((parts ? parts : 1) * count);
    int failed = !flipped || !sums;
    if (!failed) {
        pack_taps(c, &l, 1, flipped);
        zero(sums, (parts ? parts : 1) * count);
#pragma omp parallel num_threads((int)c->threads) if (c->threads > 1)
        {
            float *band = floats(2 * band_floats(&l));
            if (!band) {
#pragma omp atomic write
                failed = 1;
            }
#pragma omp for schedule(dynamic, 1)
            for (int64_t i = 0; i < parts * l.vectors; i++) {
                int64_t part = i / l.vectors, j = i % l.vectors;
                float *own = sums + part * count + j * (l.taps + 1) * V;
                for (int64_t item = part * items / parts; band && item < (part + 1) * items / parts; item++)
                    backward_band(c, &l, item, j, flipped, band, band + band_floats(&l), own);
            }
            free(band);
        }
    }
    if (!failed) write_taps(c, &l, sums, parts);
    free(sums);
    free(flipped);
    return failed;
}
