"""Low-pass filters matched to a sensor's modulation transfer function (MTF).

The filter is the 41x41 FIR design of the pansharpening toolbox (Aiazzi et al., 2006; Vivone et al., GRSM 2015): a
Gaussian that takes the value `gain` at the Nyquist frequency of the low-resolution image is sampled in the frequency
plane, transformed, and windowed by a Kaiser window rotated around the centre (Huang's method, linear between integer
radii). It is deliberately *not* normalised: its taps sum to 0.991-0.999.
Legend: B images, C bands, H W size, r ratio, N = 41 taps per side.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

TAPS = 41
REACH = TAPS // 2
KAISER_BETA = 0.5
_TILE = 256  # side of the windows that are transformed at once: with margins they stay in the cache


@lru_cache(maxsize=256)
@torch.inference_mode(False)  # a cached inference tensor could not be used in training later
def _kernel(gain: float, ratio: float, span: int, unit: bool) -> Tensor:
    k = torch.arange(-REACH, REACH + 1, dtype=torch.float64)
    # Frequency sampling: D(k) is separable, so its centred inverse DFT is the outer product of a 1-D one.
    variance = (span / (2 * ratio)) ** 2 / (-2 * math.log(gain))
    response = torch.exp(-(k**2) / (2 * variance))
    profile = (torch.cos(2 * math.pi / TAPS * torch.outer(k, k)) @ response) / TAPS
    if unit:
        kernel = (torch.outer(profile, profile) * _kaiser(k.abs())).clamp(min=0)
        return kernel / kernel.sum()
    radius = torch.hypot(k[:, None], k[None, :])
    return torch.outer(profile, profile) * _rotated_kaiser(radius)


def _kaiser(n: Tensor) -> Tensor:
    """Kaiser(41, 0.5) window at the distances n <= 20 from its centre."""
    beta = torch.tensor(KAISER_BETA, dtype=torch.float64)
    return torch.special.i0(beta * torch.sqrt(1 - (n / REACH) ** 2)) / torch.special.i0(beta)


def _rotated_kaiser(radius: Tensor) -> Tensor:
    """Kaiser(41, 0.5) window as a function of the radius: linear between integers, 0 beyond 20."""
    window = _kaiser(torch.arange(REACH + 1, dtype=torch.float64))
    window = torch.cat([window, window.new_zeros(1)])
    inside = radius <= REACH
    low = torch.where(inside, radius, 0.0).floor().long()
    fraction = torch.where(inside, radius, 0.0) - low
    value = window[low] * (1 - fraction) + window[low + 1] * fraction
    return torch.where(inside, value, 0.0)


def mtf_kernel(gain: float, ratio: float, *, span: int = TAPS - 1, unit: bool = False) -> Tensor:
    """Return the 41x41 filter matched to the gain at Nyquist.

    Args:
        gain: MTF at the Nyquist frequency of the low-resolution image, in (0, 1).
        ratio: resolution ratio r >= 1 (the cut is at 1/r).
        span: the length that stands for the whole frequency axis: 40 for MTF filters; 41 for the "ideal" low-pass of
            the classical methods (gain 0.3).
        unit: the variant of Z-PNN, lambda-PNN and ZS-Pan: the Kaiser window along the columns only, negative taps set
            to 0, the taps divided by their sum.

    Returns:
        (41, 41) float64 on the CPU, its own mirror image in each axis, not normalised unless `unit`.
    """
    if not 0 < gain < 1:
        raise ValueError(f"mtf_kernel: gain must lie in (0, 1), given {gain}")
    if ratio < 1:
        raise ValueError(f"mtf_kernel: ratio must be at least 1, given {ratio}")
    return _kernel(float(gain), float(ratio), span, unit).clone()


def _fast_length(n: int) -> int:
    """Smallest even length >= n whose prime factors are 2, 3, 5, 7: such transforms are fast."""
    n += n % 2
    while True:
        rest = n
        for p in (2, 3, 5, 7):
            while rest % p == 0:
                rest //= p
        if rest == 1:
            return n
        n += 2


@lru_cache(maxsize=32)
@torch.inference_mode(False)  # a cached inference tensor could not be used in training later
def _spectrum(
    gains: tuple[float, ...],
    ratio: float,
    span: int,
    unit: bool,
    size: tuple[int, int],
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    """Real transform (C, S, T) of the kernels: they equal their own mirror image, so up to a shift it is real."""
    kernels = torch.stack([_kernel(g, ratio, span, unit) for g in gains])
    padded = F.pad(kernels, (0, size[1] - TAPS, 0, size[0] - TAPS))
    spectrum = torch.fft.rfft2(padded.roll((-REACH, -REACH), dims=(-2, -1))).real
    return spectrum.to(dtype=dtype, device=device)


def mtf_filter(
    x: Tensor, gains: float | Sequence[float], ratio: float, *, span: int = TAPS - 1, unit: bool = False
) -> Tensor:
    """Filter every band with its MTF kernel; border samples are repeated outside the image.

    Computed by FFT (the kernel is not separable); agrees with the direct sum to rounding.

    Args:
        x: (B, C, H, W), floating point. Half types are filtered in float32.
        gains: one gain for all bands, or C gains.
        ratio: resolution ratio r.
        span, unit: see `mtf_kernel`.

    Returns:
        (B, C, H, W), dtype of `x`.

    Raises:
        ValueError: the number of gains is neither 1 nor C.
    """
    gains = _checked(gains, x.shape[1])
    H, W = x.shape[-2:]
    work = x if x.dtype in (torch.float32, torch.float64) else x.float()
    if work.device.type == "cpu" and H * W > _TILE * _TILE and not (torch.is_grad_enabled() and x.requires_grad):
        return _by_tiles(work, gains, ratio, span, unit).to(x.dtype)
    spectrum = _spectrum(gains, float(ratio), span, unit, _padded_size(H, W), work.dtype, work.device)
    return _convolve(work, spectrum, slice(0, H), slice(0, W)).to(x.dtype)


def mtf_window(
    x: Tensor, gains: float | Sequence[float], ratio: float, rows: slice, columns: slice, *, span: int = TAPS - 1
) -> Tensor:
    """Return ``mtf_filter(x, …)[..., rows, columns]`` in float64, computing no more than that.

    Args:
        x: (..., C, H, W), any real type; what is returned depends on 20 pixels around the window.
        gains, ratio, span: see `mtf_filter`.
        rows, columns: ranges inside the image, with start and stop.

    Returns:
        (..., C, h, w) float64.
    """
    gains = _checked(gains, x.shape[-3])
    size = _padded_size(rows.stop - rows.start, columns.stop - columns.start)
    return _convolve(x, _spectrum(gains, float(ratio), span, False, size, torch.float64, x.device), rows, columns)


def _checked(gains: float | Sequence[float], bands: int) -> tuple[float, ...]:
    gains = (float(gains),) if isinstance(gains, (int, float)) else tuple(float(g) for g in gains)
    if len(gains) not in (1, bands):
        raise ValueError(f"mtf_filter: {len(gains)} gains for {bands} bands")
    for gain in gains:
        if not 0 < gain < 1:
            raise ValueError(f"mtf_filter: gains must lie in (0, 1), given {gain}")
    return gains


def _padded_size(h: int, w: int) -> tuple[int, int]:
    return _fast_length(h + 2 * REACH), _fast_length(w + 2 * REACH)


def _by_tiles(x: Tensor, gains: tuple[float, ...], ratio: float, span: int, unit: bool) -> Tensor:
    """Filter (B, C, H, W) tile by tile, so that transforms stay in the cache and need no memory of the image's size."""
    H, W = x.shape[-2:]
    filtered = torch.empty_like(x)
    for rows in _ranges(H):
        for columns in _ranges(W):
            size = _padded_size(rows.stop - rows.start, columns.stop - columns.start)
            spectrum = _spectrum(gains, float(ratio), span, unit, size, x.dtype, x.device)
            filtered[..., rows, columns] = _convolve(x, spectrum, rows, columns)
    return filtered


def _ranges(n: int) -> Iterator[slice]:
    """Equal parts of 0 … n of at most `_TILE`; equal, because each length has its own spectra."""
    step = -(-n // -(-n // _TILE))
    for start in range(0, n, step):
        yield slice(start, min(start + step, n))


def _convolve(x: Tensor, spectrum: Tensor, rows: slice, columns: slice) -> Tensor:
    """Filter a window of (..., H, W) by kernels given as their real spectra; the border is repeated."""
    size = (spectrum.shape[-2], 2 * spectrum.shape[-1] - 2)
    indices = []
    for dim, part in ((-2, rows), (-1, columns)):
        n = x.shape[dim]
        first, end = max(part.start - REACH, 0), min(part.stop + REACH, n)
        x = x.narrow(dim, first, end - first)
        indices.append(torch.arange(part.start - REACH, part.stop + REACH, device=x.device).clamp(0, n - 1) - first)
    padded = x.index_select(-2, indices[0]).index_select(-1, indices[1]).to(spectrum.dtype)
    filtered = torch.fft.irfft2(torch.fft.rfft2(padded, s=size) * spectrum, s=size)
    h, w = rows.stop - rows.start, columns.stop - columns.start
    return filtered[..., REACH : REACH + h, REACH : REACH + w]
