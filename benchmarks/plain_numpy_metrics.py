"""The quality indices written straight from their definitions in float64 NumPy: slow, readable, one image at a time.

It serves twice: as the second implementation that tests hold against `metrics/`, and as the yardstick of
`bench_metrics.py`. It shares no code with `metrics/` or `operators/`, and takes ways a reader would take first: direct
sums over filter taps (scipy's `correlate`, as MATLAB's `imfilter`), products of whole images, separable box sums.
Images here are (C, H, W) or (H, W), digital numbers. Legend: C bands, H W size, r ratio.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, signal

Array = NDArray[np.float64]
TAPS = 41
HALF_TAPS = (0.5, 0.305334091185, 0.0, -0.072698593239, 0.0, 0.021809577942, 0.0, -0.005192756653, 0.0)
HALF_TAPS = (*HALF_TAPS, 0.000807762146, 0.0, -0.000060081482)


# Operators


def mtf_kernel(gain: float, ratio: float) -> Array:
    """41x41 filter: inverse transform of a sampled Gaussian, under a rotated Kaiser window."""
    k = np.arange(TAPS) - TAPS // 2
    alpha = np.sqrt(((TAPS - 1) / (2 * ratio)) ** 2 / (-2 * np.log(gain)))
    response = np.exp(-(k[:, None] ** 2 + k[None, :] ** 2) / (2 * alpha**2))
    h = np.real(np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(response))))
    radius = np.hypot(k[:, None], k[None, :])
    return h * np.interp(radius, np.arange(21), np.kaiser(TAPS, 0.5)[20:], right=0.0)


def mtf_direct(x: Array, gain: float, ratio: float) -> Array:
    """Filter one band by a direct sum, edge samples repeated."""
    return ndimage.correlate(x, mtf_kernel(gain, ratio), mode="nearest")


def mtf_fft(x: Array, gain: float, ratio: float) -> Array:
    """Filter one band by FFT: the kinder yardstick."""
    return signal.fftconvolve(np.pad(x, TAPS // 2, mode="edge"), mtf_kernel(gain, ratio), mode="valid")


def interp23(x: Array, ratio: int) -> Array:
    """Insert zeros and filter both axes with 23 taps of sum 2, circular; one band."""
    taps = 2 * np.array([*HALF_TAPS[:0:-1], *HALF_TAPS])
    for level in range(int(np.log2(ratio))):
        offset = 1 if level == 0 else 0
        y = np.zeros((2 * x.shape[0], 2 * x.shape[1]))
        y[offset::2, offset::2] = x
        x = ndimage.correlate1d(ndimage.correlate1d(y, taps, axis=0, mode="wrap"), taps, axis=1, mode="wrap")
    return x


def shrink(x: Array, ratio: int) -> Array:
    """Bicubic antialiased resize of one band by 1/ratio, as MATLAB's imresize."""
    for axis in (0, 1):
        n = x.shape[axis]
        out = []
        for i in range(n // ratio):
            centre = (i + 0.5) * ratio - 0.5
            p = np.arange(np.floor(centre - 2 * ratio), np.ceil(centre + 2 * ratio) + 1)
            t = np.abs(centre - p) / ratio
            w = np.where(t <= 1, 1.5 * t**3 - 2.5 * t**2 + 1, -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2) * (t < 2)
            q = p.astype(int) % (2 * n)
            out.append(np.tensordot(w / w.sum(), x.take(np.where(q < n, q, 2 * n - 1 - q), axis=axis), (0, axis)))
        x = np.stack(out, axis=axis)
    return x


# Reduced resolution


def sam(sr: Array, gt: Array) -> float:
    norm = np.sqrt((sr * sr).sum(0) * (gt * gt).sum(0))
    seen = norm != 0
    if not seen.any():
        return np.nan
    cosine = np.clip((sr * gt).sum(0)[seen] / norm[seen], -1, 1)
    return float(np.rad2deg(np.arccos(cosine)).mean())


def ergas(sr: Array, gt: Array, ratio: float) -> float:
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = ((sr - gt) ** 2).mean((1, 2)) / gt.mean((1, 2)) ** 2
    return float(100 / ratio * np.sqrt(relative.mean()))


def scc(sr: Array, gt: Array) -> float:
    def edges(x: Array) -> Array:
        x = x[1:-1, 1:-1]
        return np.hypot(ndimage.sobel(x, 0, mode="constant"), ndimage.sobel(x, 1, mode="constant"))

    a, b = np.stack([edges(x) for x in sr]), np.stack([edges(x) for x in gt])
    with np.errstate(invalid="ignore"):
        return float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))


def psnr(sr: Array, gt: Array, const: float) -> float:
    with np.errstate(divide="ignore"):
        return float(np.mean(10 * np.log10(1 / ((sr / const - gt / const) ** 2).mean((1, 2)))))


def ssim(sr: Array, gt: Array, const: float) -> float:
    k = np.arange(-5, 6)
    w = np.exp(-(k**2) / (2 * 1.5**2))
    w /= w.sum()

    def smooth(x: Array) -> Array:
        return ndimage.correlate1d(ndimage.correlate1d(x, w, axis=0), w, axis=1)[5:-5, 5:-5]

    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    scores = []
    for x, y in zip(sr / const * 255, gt / const * 255, strict=True):
        mx, my = smooth(x), smooth(y)
        vx, vy, vxy = smooth(x * x) - mx * mx, smooth(y * y) - my * my, smooth(x * y) - mx * my
        scores.append(((2 * mx * my + c1) * (2 * vxy + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))).mean())
    return float(np.mean(scores))


def qave(sr: Array, gt: Array) -> float:
    n = 32

    def box(x: Array) -> Array:
        h, w = x.shape[0] - n + 1, x.shape[1] - n + 1
        rows = sum(x[i : i + h] for i in range(n))
        return sum(rows[:, i : i + w] for i in range(n))

    def flat(x: Array) -> Array:
        filters = (ndimage.maximum_filter(x, n), ndimage.minimum_filter(x, n))
        high, low = (f[n // 2 : f.shape[0] - n // 2 + 1, n // 2 : f.shape[1] - n // 2 + 1] for f in filters)
        return high == low

    scores = []
    for x, y in zip(sr, gt, strict=True):
        sx, sy, sxx, syy, sxy = box(x), box(y), box(x * x), box(y * y), box(x * y)
        den1 = n * n * (sxx + syy) - (sx**2 + sy**2)
        den2 = sx**2 + sy**2
        still = flat(x) & flat(y) if (den1 <= 1e-9 * (sxx + syy)).any() else np.zeros(den1.shape, bool)
        q = np.ones_like(den1)
        usual = ~still & (den1 * den2 != 0)
        q[usual] = (4 * (n * n * sxy - sx * sy) * sx * sy)[usual] / (den1 * den2)[usual]
        level = still & (den2 != 0)
        q[level] = (2 * sx * sy)[level] / den2[level]
        scores.append(q.mean())
    return float(np.mean(scores))


def conjugate(x: Array) -> Array:
    return np.concatenate([x[:1], -x[1:]])


def product(x: Array, y: Array) -> Array:
    """Hypercomplex product of (K, …) arrays, halves split recursively."""
    if len(x) == 1:
        return x * y
    h = len(x) // 2
    a, b, c, d = x[:h], x[h:], y[:h], y[h:]
    first = product(a, c) - product(conjugate(d), b)
    return np.concatenate([first, product(d, a) + product(b, conjugate(c))])


def q2n_block(x: Array, y: Array) -> float:
    """|Q2n| of one block, gt x and fused y, (K, 32, 32) already rounded."""
    a = x.mean((1, 2), keepdims=True)
    s = x.std((1, 2), ddof=1, keepdims=True)
    s = np.where(x.max((1, 2), keepdims=True) == x.min((1, 2), keepdims=True), 2.2e-16, s)
    s = np.where(a == 0, 1.0, s)
    x, y = (x - a) / s + 1, conjugate((y - a) / s + 1)
    mx, my = x.mean((1, 2)), y.mean((1, 2))
    unbiased = 1024 / 1023
    cross = unbiased * (product(x, y).mean((1, 2)) - product(mx, my))
    power_x, power_y = (mx**2).sum(), (my**2).sum()
    mean_term = 2 * np.sqrt(power_x * power_y) / (power_x + power_y)
    variance = unbiased * ((x**2).sum(0).mean() + (y**2).sum(0).mean() - power_x - power_y)
    if np.ptp(x, (1, 2)).max() == 0 and np.ptp(y, (1, 2)).max() == 0:
        return float(mean_term)
    return float(np.sqrt((cross**2).sum()) * mean_term * 2 / variance)


def q2n(sr: Array, gt: Array, const: float) -> float:
    scale = 65535 if const <= 1 else 43690 if const <= 1.5 else 1
    pad = (-gt.shape[1] % 32, -gt.shape[2] % 32)
    images = []
    for x in (gt, sr):
        x = np.pad(x * scale, ((0, 0), (0, pad[0]), (0, pad[1])), mode="symmetric")
        x = np.clip(np.sign(x) * np.floor(np.abs(x) + 0.5), 0, 65535)
        missing = 2 ** int(np.ceil(np.log2(len(x)))) - len(x)
        images.append(np.concatenate([x, np.zeros((missing, *x.shape[1:]))]))
    x, y = images
    tiles = [(slice(None), slice(i, i + 32), slice(j, j + 32)) for i, j in _corners(x)]
    return float(np.mean([q2n_block(x[t], y[t]) for t in tiles]))


def _corners(x: Array) -> list[tuple[int, int]]:
    return [(i, j) for i in range(0, x.shape[-2], 32) for j in range(0, x.shape[-1], 32)]


def reduced_resolution(sr: Array, gt: Array, ratio: float, const: float) -> dict[str, float]:
    """All seven indices of one image (C, H, W)."""
    return {
        "sam": sam(sr, gt),
        "ergas": ergas(sr, gt, ratio),
        "scc": scc(sr, gt),
        "qn": q2n(sr, gt, const),
        "qave": qave(sr, gt),
        "psnr": psnr(sr, gt, const),
        "ssim": ssim(sr, gt, const),
    }


# Full resolution


def q_blocks(x: Array, y: Array) -> float:
    """Mean Q of two bands over distinct 32x32 blocks; a block flat in both counts 1."""
    scores = []
    for i, j in _corners(x):
        a, b = x[i : i + 32, j : j + 32], y[i : i + 32, j : j + 32]
        if np.ptp(a) == 0 and np.ptp(b) == 0:
            scores.append(1.0)
            continue
        ma, mb = a.mean(), b.mean()
        cov = ((a - ma) * (b - mb)).sum() / 1023
        var = a.var(ddof=1) + b.var(ddof=1)
        scores.append(4 * cov * ma * mb / (var * (ma**2 + mb**2)))
    return float(np.mean(scores))


def full_resolution(
    sr: Array,
    lms: Array,
    pan: Array,
    ratio: int,
    gains: tuple[float, ...],
    const: float | None = None,
    mtf: Callable[[Array, float, float], Array] = mtf_direct,
) -> dict[str, float]:
    """All five indices of one image: sr, lms (C, H, W), pan (H, W)."""
    const = const or float(lms.max())
    low = np.stack([mtf(x, g, ratio) for x, g in zip(sr, gains, strict=True)])
    spectral = 1 - q2n(low, lms, const)
    pan_low = interp23(shrink(pan, ratio), ratio)
    spatial = float(np.mean([abs(q_blocks(s, pan) - q_blocks(m, pan_low)) for s, m in zip(sr, lms, strict=True)]))
    pairs = [(i, j) for i in range(len(sr)) for j in range(i + 1, len(sr))]
    older = [abs(q_blocks(lms[i], lms[j]) - q_blocks(sr[i], sr[j])) for i, j in pairs]
    d_lambda = float(np.mean(older)) if older else np.nan
    return {
        "d_lambda_k": spectral,
        "d_s": spatial,
        "hqnr": (1 - spectral) * (1 - spatial),
        "d_lambda": d_lambda,
        "qnr": (1 - d_lambda) * (1 - spatial),
    }
