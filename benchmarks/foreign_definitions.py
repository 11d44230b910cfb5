"""Quality indices as other implementations define them, written from their formulas in float64 NumPy.

They carry the names of the indices of this project and are something else; `benchmarks.foreign_metrics` compares them.
Each function names the definition and where it is used; none of their code was copied. What the toolbox DLPan computes
is in `plain_numpy_metrics`.
Images are (C, H, W) or (H, W), digital numbers; sr fused, gt reference, ms at its own size h x w, pan (H, W).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from scipy import ndimage

from benchmarks import plain_numpy_metrics as plain

Array = NDArray[np.float64]
BandQuality = Callable[[Array, Array], float]
BLOCK = 32


def cut_border(x: Array, cut: int) -> Array:
    """Return x without its border, as the demos of DLPan-Toolbox cut it: `x(cut:end-cut, cut:end-cut)` in MATLAB.

    MATLAB counts from 1: cut - 1 samples go at the top and the left, cut at the bottom and the right.
    """
    return x[..., cut - 1 : -cut, cut - 1 : -cut]


# PSNR, SCC


def psnr_cube(sr: Array, gt: Array, const: float) -> float:
    """PSNR of one MSE over all bands: torchmetrics, scikit-image, sewar, py_pansharpening."""
    return float(10 * np.log10(const**2 / np.mean((sr - gt) ** 2)))


def pearson(sr: Array, gt: Array) -> float:
    """Correlation of the images, mean over bands: what py_pansharpening and its copies call SCC; others call it CC."""
    return float(np.mean([np.corrcoef(x.ravel(), y.ravel())[0, 1] for x, y in zip(sr, gt, strict=True)]))


def windowed_edge_correlation(sr: Array, gt: Array, side: int = 8) -> float:
    """SCC of sewar and torchmetrics: centred correlation of a Laplacian, in windows of 8 x 8, mean over positions.

    Their own borders are not repeated here: only windows inside the image count.
    """
    laplacian = np.full((3, 3), -1.0)
    laplacian[1, 1] = 8

    def centred(x: Array, y: Array) -> Array:
        return window_mean(x * y, side) - window_mean(x, side) * window_mean(y, side)

    scores = []
    for x, y in zip(sr, gt, strict=True):
        ex, ey = (ndimage.correlate(band, laplacian)[1:-1, 1:-1] for band in (x, y))
        power = np.sqrt(np.clip(centred(ex, ex), 0, None) * np.clip(centred(ey, ey), 0, None))
        scores.append(np.mean(np.divide(centred(ex, ey), power, out=np.zeros_like(power), where=power > 0)))
    return float(np.mean(scores))


# Q, the universal quality index (Wang and Bovik, 2002), with other windows


def window_mean(x: Array, side: int) -> Array:
    """Mean over each `side` x `side` window inside the band (H, W): (H - side + 1, W - side + 1)."""
    rows = sliding_window_view(x, side, axis=0).mean(axis=-1)
    return sliding_window_view(rows, side, axis=1).mean(axis=-1)


def gaussian_mean(x: Array, sigma: float = 1.5, radius: int = 5) -> Array:
    """Mean under each 11 x 11 Gaussian window inside the band."""
    weights = np.exp(-(np.arange(-radius, radius + 1) ** 2) / (2 * sigma**2))
    weights /= weights.sum()
    rows = sliding_window_view(x, 2 * radius + 1, axis=0) @ weights
    return sliding_window_view(rows, 2 * radius + 1, axis=1) @ weights


def q_windows(x: Array, y: Array, mean: Callable[[Array], Array]) -> float:
    """Q of two bands from any window mean, averaged over the positions. A flat window counts as py_pansharpening does.

    `window_mean` of 8: py_pansharpening's default and Wang's own choice; of 32: its D_lambda and D_s; `gaussian_mean`:
    torchmetrics' universal_image_quality_index.
    """
    mx, my = mean(x), mean(y)
    covariance, variance = mean(x * y) - mx * my, mean(x * x) - mx**2 + mean(y * y) - my**2
    power = mx**2 + my**2
    textured, bright = variance > 1e-8, power > 1e-8
    contrast = np.divide(2 * covariance, variance, out=np.ones_like(mx), where=textured)
    luminance = np.divide(2 * mx * my, power, out=np.ones_like(mx), where=bright)
    return float(np.mean(contrast * luminance))


def q_box(side: int) -> BandQuality:
    """`q_windows` with a box of `side`."""
    return lambda x, y: q_windows(x, y, lambda band: window_mean(band, side))


def q_gaussian(x: Array, y: Array) -> float:
    """`q_windows` with the 11 x 11 Gaussian of torchmetrics."""
    return q_windows(x, y, gaussian_mean)


def q_whole(x: Array, y: Array) -> float:
    """Q of two bands as one window, the image: QIndex_torch of LGTEUN, for its D_lambda_torch and D_s_torch."""
    return q_windows(x, y, lambda band: np.array([band.mean()]))


def q_means_for_sums(x: Array, y: Array, side: int) -> float:
    """Q as sewar's uqi has it: the formula for sums over N pixels, given means over them, which makes Q close to 1.

    With the means m in place of the sums, N m(xy) - m(x) m(y) is dominated by N m(xy): correlation is hardly seen.
    """

    def mean(band: Array) -> Array:
        return window_mean(band, side)

    n, mx, my = side * side, mean(x), mean(y)
    power = mx**2 + my**2
    return float(
        np.mean(4 * (n * mean(x * y) - mx * my) * mx * my / ((n * (mean(x * x) + mean(y * y)) - power) * power))
    )


def q_naples(x: Array, y: Array) -> float:
    """Q of fr-pansh-eval-tool (NumPy): as ours, with one row and one column of windows more, over mirrored samples.

    It cuts 15 at each side of a 32 x 32 filtering with mirrored borders; inside are H - 31 positions, left are H - 30.
    """
    mirrored = [np.pad(band, ((0, 1), (0, 1)), mode="symmetric") for band in (x, y)]
    return q_windows(*mirrored, lambda band: window_mean(band, BLOCK))


def over_bands(quality: BandQuality, sr: Array, gt: Array) -> float:
    """Mean over bands of a band quality."""
    return float(np.mean([quality(x, y) for x, y in zip(sr, gt, strict=True)]))


# Q2n (Garzelli and Nencini, 2009) with other roundings and borders


def _q2n_blocks(sr: Array, gt: Array, rows: int, columns: int) -> float:
    """Mean |Q2n| over `rows` x `columns` blocks of 32; the last ones may be smaller."""
    missing = 2 ** int(np.ceil(np.log2(len(gt)))) - len(gt)
    sr, gt = (np.concatenate([x, np.zeros((missing, *x.shape[1:]))]) for x in (sr, gt))
    tiles = [
        (slice(None), slice(BLOCK * j, BLOCK * (j + 1)), slice(BLOCK * i, BLOCK * (i + 1)))
        for j in range(rows)
        for i in range(columns)
    ]
    return float(np.mean([plain.q2n_block(gt[t], sr[t]) for t in tiles]))


def q2n_unrounded(sr: Array, gt: Array, rounding: Callable[[Array], Array] = np.asarray) -> float:
    """Q2n of samples that another rule rounds, or none: sewar's q2n. Borders as DLPan: mirrored, edge repeated."""
    padding = ((0, 0), (0, -gt.shape[1] % BLOCK), (0, -gt.shape[2] % BLOCK))
    sr, gt = (np.pad(rounding(x), padding, mode="symmetric") for x in (sr, gt))
    return _q2n_blocks(sr, gt, sr.shape[1] // BLOCK, sr.shape[2] // BLOCK)


def q2n_naples(sr: Array, gt: Array) -> float:
    """Q2n of fr-pansh-eval-tool (NumPy).

    If both sides need padding: mirrored without repeating the edge, then the fraction cut off (int16). Otherwise the
    samples stay as they are; if one side needs it, its last blocks are smaller.
    """
    missing = (-gt.shape[1] % BLOCK, -gt.shape[2] % BLOCK)
    rows, columns = (-(-side // BLOCK) for side in gt.shape[1:])
    if all(missing):
        padding = ((0, 0), (0, missing[0]), (0, missing[1]))
        sr, gt = (np.trunc(np.pad(x, padding, mode="reflect")) for x in (sr, gt))
    return _q2n_blocks(sr, gt, rows, columns)


def q2n_hs(sr: Array, gt: Array) -> float:
    """Q2n of hyperspectral_pansharpening_toolbox: rounds half to even; pads the height by what the width lacks.

    The two amounts are exchanged (torchvision's Pad takes left, top, right, bottom), so blocks at the border are cut
    smaller, or lose rows, wherever they differ.
    """
    lacking = (-gt.shape[1] % BLOCK, -gt.shape[2] % BLOCK)
    rows, columns = (-(-side // BLOCK) for side in gt.shape[1:])
    padding = ((0, 0), (0, lacking[1]), (0, lacking[0]))
    sr, gt = (np.pad(np.round(x), padding, mode="symmetric") for x in (sr, gt))
    return _q2n_blocks(sr, gt, rows, columns)


# Full resolution


def spectral_distortion(quality: BandQuality, sr: Array, ms: Array) -> float:
    """D_lambda of QNR (Alparone et al., 2008) with any band quality: mean over pairs of | Q(ms) - Q(sr) |."""
    pairs = [(i, j) for i in range(len(sr)) for j in range(i + 1, len(sr))]
    return float(np.mean([abs(quality(ms[i], ms[j]) - quality(sr[i], sr[j])) for i, j in pairs]))


def spatial_distortion(quality: BandQuality, sr: Array, ms: Array, pan: Array, pan_low: Array) -> float:
    """D_s (the same paper) with any band quality: mean over bands of | Q(sr_b, pan) - Q(ms_b, pan_low) |."""
    return float(np.mean([abs(quality(s, pan) - quality(m, pan_low)) for s, m in zip(sr, ms, strict=True)]))


def pan_by_mtf(pan: Array, gain: float, ratio: int) -> Array:
    """PAN at the size of ms as py_pansharpening makes it: MTF filter of sum 1, then every r-th sample."""
    kernel = plain.mtf_kernel(gain, ratio)
    return ndimage.correlate(pan, kernel / kernel.sum(), mode="nearest")[::ratio, ::ratio]


def d_lambda_k_at_ms(sr: Array, ms: Array, ratio: int, gains: tuple[float, ...]) -> float:
    """1 - Q2n of the MTF-filtered sr, every r-th sample of it, against ms at its own size (D_lambda of Khan et al.).

    hyperspectral_pansharpening_toolbox; it starts at sample 3, which is r/2 at its ratio of 6. Here r/2 at any ratio.
    """
    low = np.stack([plain.mtf_direct(x, gain, ratio) for x, gain in zip(sr, gains, strict=True)])
    return 1 - q2n_hs(low[:, ratio // 2 :: ratio, ratio // 2 :: ratio], ms)


def d_s_regression(sr: Array, pan: Array) -> float:
    """D_sR of hyperspectral_pansharpening_toolbox: part of PAN's variance that no weighted sum of bands explains."""
    bands = sr.reshape(len(sr), -1).T
    weights = np.linalg.lstsq(bands, pan.ravel(), rcond=None)[0]
    return float(np.var(pan.ravel() - bands @ weights) / np.var(pan))
