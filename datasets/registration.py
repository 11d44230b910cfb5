"""The shift between an MS and a PAN image, estimated from the data.

PAN is degraded to MS: filtered with a Gaussian of the generic MTF gain and sampled where MS pixels lie. Its shift
against the intensity (the combination of MS bands that fits it best) is found by phase correlation of both images,
high-passed, in windows (Guizar-Sicairos, Thurman and Fienup, Optics Letters 2008; scikit-image). The estimate is
repeated with the shift applied until it stays, so that aliasing, which is alike in both images only where they agree,
does not bias it.
Legend: C bands, h w size of MS, H W of PAN, r ratio. Shifts are (rows, columns) in PAN pixels.
"""

from __future__ import annotations

import math

import numpy as np

from lemamba.datasets.nodata import fill
from lemamba.datasets.raster import Raster
from lemamba.utils.errors import UserError
from lemamba.utils.geometry import Geometry

WARN = 0.3  # PAN pixels: from here on a shift is visible
GAIN = 0.3  # of MS at its Nyquist frequency, where no sensor is known
WINDOW = 128  # side in MS pixels
_SMALL = 32  # the same in a small image
SMALLEST, ALONE = 0.05, 0.25  # PAN pixels of error that are reported at least, and where one window is all there is
_LARGEST = 4.0  # MS pixels; beyond, the images are not of one ground, or hold nothing to compare
_ROUNDS = 5
ENOUGH, FEWEST = 0.9, 0.5  # share of a window with data in both images; the lesser one where no window has more


class NoShiftError(UserError):
    """The shift is unknown though both images are sound: nothing that both show, or no scikit-image."""


def estimate_shift(
    ms: np.ndarray,
    pan: np.ndarray,
    geometry: Geometry,
    ms_valid: np.ndarray | None = None,
    pan_valid: np.ndarray | None = None,
) -> tuple[float, float, float]:
    """Estimate by how much MS is shifted against where `geometry` puts it.

    Args:
        ms: (C, h, w), finite.
        pan: (H, W), finite.
        geometry: where the MS pixels should lie under those of PAN.
        ms_valid: (h, w) bool, which MS pixels have data; None = all. What stands in the others is not compared.
        pan_valid: (H, W), the same of PAN.

    Returns:
        rows, columns: `geometry.shifted(rows, columns)` is where they do lie.
        error: standard error, from how much the windows differ; at least `SMALLEST`.

    Raises:
        NoShiftError: no scikit-image, or images without structure that both show.
    """
    side, starts = _windows(ms.shape[1:])
    total, shifts = np.zeros(2), np.zeros((1, 2))
    for _ in range(_ROUNDS):
        low, inside = _degrade(pan, geometry.shifted(*total), ms.shape[1:], pan_valid)
        if ms_valid is not None:
            inside &= ms_valid
        used = [np.s_[r : r + side, c : c + side] for r, c in starts]
        shares = [float(inside[w].mean()) for w in used]
        used = [w for w, share in zip(used, shares, strict=True) if share >= max(FEWEST, min(ENOUGH, max(shares)))]
        shifts = np.array([s for w in used if (s := _phase(ms[(slice(None), *w)], low[w], inside[w])) is not None])
        if not len(shifts) or np.abs(np.median(shifts, 0)).max() > _LARGEST:
            raise NoShiftError("the shift between MS and PAN cannot be estimated: no structure that both show")
        step = np.median(shifts, 0) * geometry.ratio
        total += step
        if np.abs(step).max() < 0.005:
            break
    if len(shifts) == 1:
        return float(total[0]), float(total[1]), ALONE
    spread = 1.4826 * np.median(np.abs(shifts - np.median(shifts, 0)), 0) * geometry.ratio  # as a standard deviation
    error = max(SMALLEST, float(spread.max()) / math.sqrt(len(shifts)))
    return float(total[0]), float(total[1]), error


def _windows(size: tuple[int, ...]) -> tuple[int, list[tuple[int, int]]]:
    """Return the side of windows and their first pixels, three along each axis; they overlap in a small image."""
    side = min(WINDOW, max(_SMALL, 2 * min(size) // 3))
    rows, columns = (sorted({round(k * max(0, n - side) / 2) for k in range(3)}) for n in size)
    return side, [(r, c) for r in rows for c in columns]


def _degrade(
    pan: np.ndarray, geometry: Geometry, size: tuple[int, ...], valid: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return PAN at MS's resolution (h, w) and where MS pixels lie on PAN pixels with data."""
    from scipy.ndimage import gaussian_filter, map_coordinates

    sigma = [r * math.sqrt(-2 * math.log(GAIN)) / math.pi for r in geometry.ratio]
    smooth = gaussian_filter(pan.astype(np.float64), sigma)
    axes = [o + np.arange(n) * r for o, r, n in zip(geometry.offset, geometry.ratio, size, strict=True)]
    low = map_coordinates(smooth, np.meshgrid(*axes, indexing="ij"), order=3, mode="nearest")
    rows, columns = ((a >= -0.5) & (a <= n - 0.5) for a, n in zip(axes, pan.shape, strict=True))
    inside = rows[:, None] & columns[None]
    if valid is not None:
        places = [np.rint(a).astype(int).clip(0, n - 1) for a, n in zip(axes, pan.shape, strict=True)]
        inside &= valid[np.ix_(*places)]
    return low, inside


def _phase(ms: np.ndarray, low: np.ndarray, inside: np.ndarray) -> np.ndarray | None:
    """Return by how many MS pixels a window of MS is shifted against PAN; None where one is flat."""
    try:
        from skimage.registration import phase_cross_correlation
    except ImportError:
        raise NoShiftError("estimating a shift needs scikit-image; install it with: pip install scikit-image") from None
    from scipy.ndimage import gaussian_filter

    flat = np.stack([*(band[inside] for band in ms), np.ones(inside.sum())], 1).astype(np.float64)
    weights = np.linalg.lstsq(flat, low[inside], rcond=None)[0]
    intensity = np.tensordot(weights[:-1], ms.astype(np.float64), 1) + weights[-1]
    taper = np.outer(np.hanning(ms.shape[1] + 2)[1:-1], np.hanning(ms.shape[2] + 2)[1:-1])
    sharp = [(image - gaussian_filter(image, 3.0)) * taper for image in (low, intensity)]
    if min(float(image.std()) for image in sharp) <= 1e-6 * max(1e-12, float(np.abs(low).max())):
        return None
    # The shift that brings MS's content onto PAN's: MS pixels show what lies further on by it.
    moved, _, _ = phase_cross_correlation(sharp[0], sharp[1], upsample_factor=400, normalization=None)
    return np.asarray(moved, dtype=np.float64)


def pair_geometry(ms: Raster, pan: Raster) -> Geometry:
    """Return where MS pixels lie under PAN pixels by the transforms of two open north-up images."""
    if not (pan.transform.a and pan.transform.e):
        raise UserError(f"{pan.path}: expected a pixel size above 0; correct its geotransform")
    ratio, offset = [], []
    for begin, step, pan_begin, pan_step in (
        (ms.transform.f, ms.transform.e, pan.transform.f, pan.transform.e),
        (ms.transform.c, ms.transform.a, pan.transform.c, pan.transform.a),
    ):
        ratio.append(step / pan_step)
        offset.append((begin + step / 2 - pan_begin) / pan_step - 0.5)
    return Geometry((ratio[0], ratio[1]), (offset[0], offset[1]))


def measure_pair(ms: Raster, pan: Raster, nodata: float | None = None) -> tuple[float, float, float]:
    """Estimate the shift of two open images from up to nine windows spread over their common ground.

    Args:
        ms, pan: the images.
        nodata: pixels of an image with this value in all bands are missing.

    Returns:
        See `estimate_shift`.
    """
    geometry = pair_geometry(ms, pan)
    found = []
    side = min(3 * WINDOW, *ms.shape)  # read in blocks, so that memory does not grow with the scene
    blocks = [(0, 0)] if max(ms.shape) <= 3 * WINDOW else _spread(ms.shape, side)
    last: NoShiftError | None = None
    for row, column in blocks:
        window = ((row, min(ms.shape[0], row + side)), (column, min(ms.shape[1], column + side)))
        fine = _under(window, geometry, pan.shape)
        if fine is None:
            continue
        coarse, valid = ms.read(window)
        image, also = pan.read(fine)
        if nodata is not None:
            valid, also = valid & ~(coarse == nodata).all(0), also & ~(image == nodata).all(0)
        if not valid.any() or not also.any():
            continue
        local = geometry.window((window[0][0], window[1][0]), (fine[0][0], fine[1][0]))
        try:
            filled = _filled(coarse, valid), _filled(image, also).mean(0)
            found.append(estimate_shift(*filled, local, valid, also))
        except NoShiftError as error:
            last = error
    if not found:
        raise last or NoShiftError("the shift between MS and PAN cannot be estimated: they share no ground with data")
    values = np.array(found)
    rows, columns = np.median(values[:, :2], 0)
    spread = 1.4826 * np.median(np.abs(values[:, :2] - (rows, columns)), 0).max() / math.sqrt(len(values))
    return float(rows), float(columns), float(max(spread, np.median(values[:, 2]) / math.sqrt(len(values)), SMALLEST))


def _spread(shape: tuple[int, int], side: int) -> list[tuple[int, int]]:
    rows, columns = ((0, (n - side) // 2, n - side) if n > side else (0,) for n in shape)
    return [(r, c) for r in rows for c in columns]


def _under(
    window: tuple[tuple[int, int], tuple[int, int]], geometry: Geometry, shape: tuple[int, int]
) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """Return the window of PAN under a window of MS, with a margin, as far as PAN goes; None where it does not."""
    spans = []
    for (first, last), offset, ratio, size in zip(window, geometry.offset, geometry.ratio, shape, strict=True):
        margin = 6 * ratio  # two sides of the filter and of the shift
        begin = max(0, math.floor(offset + first * ratio - margin))
        end = min(size, math.ceil(offset + last * ratio + margin))
        if end - begin < 16 * ratio:
            return None
        spans.append((begin, end))
    return spans[0], spans[1]


def _filled(image: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Return the image as float64, gaps filled from their rims: an edge there would be taken for structure."""
    values = image.astype(np.float64)
    return values if valid.all() else fill(values, valid, values[:, valid].mean(1))


def register_pair(ms: Raster, pan: Raster, nodata: float | None = None) -> str:
    """Move MS (its transform) by the estimated shift, see `measure_pair`; return what was done, in words."""
    from affine import Affine

    rows, columns, error = measure_pair(ms, pan, nodata)
    t = pan.transform
    ms.transform = Affine.translation(columns * t.a, rows * t.e) * ms.transform
    return f"MS is moved by {rows:+.2f} rows and {columns:+.2f} columns of PAN (standard error {error:.2f})"
