/* The scan and its gradients against the definition and the adjoint recurrence in double; see test_vector_widths.py.
 *
 * Prints the largest differences; exit status 1 where one is beyond its tolerance.
 */
#include "scan.h"

#include <math.h>
#include <stdio.h>

int scan_forward(const Scan *);
int scan_backward(const Scan *);
int64_t scan_saved_floats(int64_t, int64_t, int64_t, int64_t, int64_t);
int64_t vector_lanes(void);

enum { BATCH = 2, K = 2, D = 19, KD = K * D, L = 150, N = 6 }; /* nothing is a multiple of a vector or a tile */

/* `count` numbers between low and high, the same on every machine. */
static float *numbers(int64_t count, float low, float high) {
    static uint32_t state = 1;
    float *p = floats(count);
    for (int64_t i = 0; i < count; i++) {
        state = state * 1664525u + 1013904223u;
        p[i] = low + (high - low) * (float)(state >> 8) / 16777216.0f;
    }
    return p;
}

static double worst(double most, double a, double b) { return fmax(most, fabs(a - b)); }

int main(void) {
    Scan s = {.batch = BATCH, .K = K, .channels = D, .N = N, .length = L, .delta_softplus = 1, .threads = 1};
    s.u = numbers(BATCH * KD * L, -1, 1), s.delta = numbers(BATCH * KD * L, -3, 1), s.A = numbers(KD * N, -1.5f, -0.5f);
    s.B = numbers(BATCH * K * N * L, -1, 1), s.C = numbers(BATCH * K * N * L, -1, 1);
    s.D = numbers(KD, -1, 1), s.delta_bias = numbers(KD, -1, 1), s.gy = numbers(BATCH * KD * L, -1, 1);
    s.y = floats(BATCH * KD * L), s.last = floats(BATCH * KD * N),
    s.saved = floats(scan_saved_floats(BATCH, K, D, N, L));
    s.gu = floats(BATCH * KD * L), s.gdelta = floats(BATCH * KD * L), s.gA = floats(KD * N);
    s.gB = floats(BATCH * K * N * L), s.gC = floats(BATCH * K * N * L), s.gD = floats(KD), s.gdelta_bias = floats(KD);
    if (scan_forward(&s) || scan_backward(&s)) return 1;

    static double gA[KD][N], gB[BATCH * K * N * L], gC[BATCH * K * N * L], h[L + 1][N], decay[L][N];
    double y_off = 0, last_off = 0, gu_off = 0, gdelta_off = 0, gA_off = 0, gB_off = 0, gC_off = 0;
    for (int64_t c = 0; c < BATCH * KD; c++) {
        int64_t d = c % KD, row = c * L, group = (c / KD * K + d / D) * N * L;
        double step[L], slope[L], g[N] = {0};
        for (int64_t t = 0; t < L; t++) {
            double raw = (double)s.delta[row + t] + s.delta_bias[d], y = (double)s.D[d] * s.u[row + t];
            step[t] = log1p(exp(raw)), slope[t] = 1 / (1 + exp(-raw));
            for (int64_t n = 0; n < N; n++) {
                decay[t][n] = exp(step[t] * s.A[d * N + n]);
                h[t + 1][n] = decay[t][n] * h[t][n] + step[t] * s.u[row + t] * s.B[group + n * L + t];
                y += s.C[group + n * L + t] * h[t + 1][n];
            }
            y_off = worst(y_off, y, s.y[row + t]);
        }
        for (int64_t n = 0; n < N; n++) last_off = worst(last_off, h[L][n], s.last[c * N + n]);
        for (int64_t t = L - 1; t >= 0; t--) {
            double gx = 0, gstep = 0, out = s.gy[row + t];
            for (int64_t n = 0; n < N; n++) {
                int64_t at = group + n * L + t;
                g[n] += out * s.C[at];
                gC[at] += out * h[t + 1][n];
                gB[at] += g[n] * step[t] * s.u[row + t];
                gx += g[n] * s.B[at];
                g[n] *= decay[t][n];
                gstep += g[n] * h[t][n] * s.A[d * N + n];
                gA[d][n] += g[n] * h[t][n] * step[t];
            }
            gu_off = worst(gu_off, gx * step[t] + out * s.D[d], s.gu[row + t]);
            gdelta_off = worst(gdelta_off, (gstep + gx * s.u[row + t]) * slope[t], s.gdelta[row + t]);
        }
    }
    for (int64_t i = 0; i < KD * N; i++) gA_off = worst(gA_off, gA[i / N][i % N], s.gA[i]);
    for (int64_t i = 0; i < BATCH * K * N * L; i++) {
        gB_off = worst(gB_off, gB[i], s.gB[i]);
        gC_off = worst(gC_off, gC[i], s.gC[i]);
    }
    printf("%d lanes: y %.1e last %.1e gu %.1e gdelta %.1e gA %.1e gB %.1e gC %.1e\n", (int)vector_lanes(), y_off,
           last_off, gu_off, gdelta_off, gA_off, gB_off, gC_off);
    return !(fmax(fmax(y_off, last_off), fmax(gu_off, fmax(gdelta_off, fmax(gB_off, gC_off)))) < 1e-5 && gA_off < 1e-4);
}
