/* The scan of an image in K directions, forward: cross_forward at the end gives each thread samples, or part of the
 * channels of one; forward_direction walks a direction tile by tile. See cross.h. */
#include "cross_tile.h"

/* One direction of one sample for channel vectors `from` .. `to`; `add`: to what y holds. */
static void forward_direction(const Cross *c, const Plan *p, Tile *tile, int64_t b, int64_t k, int64_t from, int64_t to,
                              float *h, const float *shared, int add) {
    int64_t task = b * c->K + k, offset = from * p->wide * V, size = (to - from) * p->wide * V;
    zero(h + offset, size);
    Path next = path(c, b, k, 0);
    int pixels = (int)ceil_div(T, (to - from) * ceil_div(p->wide, 8)); /* preloaded at a time */
    for (int64_t i = 0; i < p->tiles; i++) {
        fill_tile(c, p, tile, &next, from, to, shared, 0);
        int steps = next.steps;
        const int64_t *at = tile->path.at;
        if (i + 1 < p->tiles) next = path(c, b, k, (i + 1) * T);
        else if (k + 1 < c->K) next = path(c, b, k + 1, 0);
        else next = path(c, b + c->threads, 0, 0); /* what this thread is likely to do next */
        if (c->saved && i)
            memcpy(c->saved + (task * (p->tiles - 1) + i - 1) * p->state + offset, h + offset, (size_t)size * 4);
        for (int64_t j = from; j < to; j++) {
            int lanes = min_i64(V, c->channels - j * V);
            int64_t o = j * T * V;
            vf skip = load(p->tables.D + k * p->row + j * V);
            for (int t = 0; t < steps; t++) store(tile->y + o + t * V, load(tile->u + o + t * V) * skip);
            for (int n = 0; n < p->wide; n += 8) {
                preload_path(c, &next, pixels, c->y, 0);
                forward_tile(steps, (int)p->wide, (int)tile->row, n, tile->step + o, tile->x + o, tile->y + o, tile->B,
                             tile->C, p->tables.A2 + k * p->state + j * p->wide * V, h + j * p->wide * V);
            }
            for (int t = 0; t < steps; t++) {
                float *y = c->y + (b * p->length + at[t]) * c->channels + j * V;
                vf value = load(tile->y + o + t * V);
                store_part(y, add ? value + load_part(y, lanes) : value, lanes);
            }
        }
    }
    if (c->last) unpack_state(h, from, to, c->channels, c->N, c->last + task * c->channels * c->N);
}

/* Returns 0, or 1 when there is no memory. */
int cross_forward(const Cross *c) {
    Plan p = plan(c);
    int failed = !p.tables.A2;
    int64_t splits = min_i64(p.vectors, ceil_div(c->threads, c->batch ? c->batch : 1));
#pragma omp parallel num_threads((int)c->threads) if (c->threads > 1)
    {
        float *block = p.tables.A2 ? cleared(2 * p.state + tile_floats(&p)) : NULL, *work = block;
        float *h = NULL, *shared = NULL;
        Tile tile;
        if (block) {
            h = take(&work, p.state), shared = take(&work, p.state);
            tile = make_tile(&p, &work);
        } else {
#pragma omp atomic write
            failed = 1;
        }
#pragma omp for schedule(dynamic, 1)
        for (int64_t i = 0; i < c->batch * splits; i++) {
            int64_t b = i / splits, from = i % splits * p.vectors / splits, to = (i % splits + 1) * p.vectors / splits;
            for (int64_t k = 0; block && k < c->K; k++) {
                if (c->shared_state)
                    pack_state(c->shared_state + (b * c->K + k) * c->channels * c->N, c->channels, c->N, shared);
                forward_direction(c, &p, &tile, b, k, from, to, h, c->shared_state ? shared : NULL, k > 0);
            }
        }
        free(block);
    }
    free(p.tables.A2);
    return failed;
}
