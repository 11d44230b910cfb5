"""Low-pass filters matched to a sensor's modulation transfer function (MTF).

The filter is the 41x41 FIR design of the pansharpening toolbox (Aiazzi et al., 2006; Vivone et al., GRSM 2015): a
Gaussian that takes the value `gain` at the Nyquist frequency of the low-resolution image is sampled in the frequency
plane, transformed, and windowed by a Kaiser window rotated around the centre (Huang's method, linear between integer
radii). It is deliberately *not* normalised: its taps sum to 0.991-0.999.
Legend: B images, C bands, H W size, r ratio, N = 41 taps per side.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

TAPS = 41
REACH = TAPS // 2
KAISER_BETA = 0.5
_CACHED_PIXELS = 2**16


@lru_cache(maxsize=256)
@torch.inference_mode(False)  # a cached inference tensor could not be used in training later
def _kernel(gain: float, ratio: float, span: int) -> Tensor:
    k = torch.arange(-REACH, REACH + 1, dtype=torch.float64)
    # Frequency sampling: D(k) is separable, so its centred inverse DFT is the outer product of a 1-D one.
    variance = (span / (2 * ratio)) ** 2 / (-2 * math.log(gain))
    response = torch.exp(-(k**2) / (2 * variance))
    profile = (torch.cos(2 * math.pi / TAPS * torch.outer(k, k)) @ response) / TAPS
    radius = torch.hypot(k[:, None], k[None, :])
    return torch.outer(profile, profile) * _rotated_kaiser(radius)


def _rotated_kaiser(radius: Tensor) -> Tensor:
    """Kaiser(41, 0.5) window as a function of the radius: linear between integers, 0 beyond 20."""
    n = torch.arange(REACH + 1, dtype=torch.float64)
    beta = torch.tensor(KAISER_BETA, dtype=torch.float64)
    window = torch.special.i0(beta * torch.sqrt(1 - (n / REACH) ** 2)) / torch.special.i0(beta)
    window = torch.cat([window, window.new_zeros(1)])
    inside = radius <= REACH
    low = torch.where(inside, radius, 0.0).floor().long()
    fraction = torch.where(inside, radius, 0.0) - low
    value = window[low] * (1 - fraction) + window[low + 1] * fraction
    return torch.where(inside, value, 0.0)


def mtf_kernel(gain: float, ratio: float, *, span: int = TAPS - 1) -> Tensor:
    """Return the 41x41 filter matched to the gain at Nyquist.

    Args:
        gain: MTF at the Nyquist frequency of the low-resolution image, in (0, 1).
        ratio: resolution ratio r >= 1 (the cut is at 1/r).
        span: the length that stands for the whole frequency axis: 40 for MTF filters; 41 for the "ideal" low-pass of
            the classical methods (gain 0.3).

    Returns:
        (41, 41) float64 on the CPU, symmetric, not normalised.
    """
    if not 0 < gain < 1:
        raise ValueError(f"mtf_kernel: gain must lie in (0, 1), given {gain}")
    if ratio < 1:
        raise ValueError(f"mtf_kernel: ratio must be at least 1, given {ratio}")
    return _kernel(float(gain), float(ratio), span).clone()


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
    gains: tuple[float, ...], ratio: float, span: int, size: tuple[int, int], dtype: torch.dtype, device: torch.device
) -> Tensor:
    """Real transform (C, S, T) of the kernels: they equal their own mirror image, so up to a shift it is real."""
    kernels = torch.stack([_kernel(g, ratio, span) for g in gains])
    padded = F.pad(kernels, (0, size[1] - TAPS, 0, size[0] - TAPS))
    spectrum = torch.fft.rfft2(padded.roll((-REACH, -REACH), dims=(-2, -1))).real
    return spectrum.to(dtype=dtype, device=device)


def mtf_filter(x: Tensor, gains: float | Sequence[float], ratio: float, *, span: int = TAPS - 1) -> Tensor:
    """Filter every band with its MTF kernel; border samples are repeated outside the image.

    Computed by FFT (the kernel is not separable); agrees with the direct sum to rounding.

    Args:
        x: (B, C, H, W), floating point. Half types are filtered in float32.
        gains: one gain for all bands, or C gains.
        ratio: resolution ratio r.
        span: see `mtf_kernel`.

    Returns:
        (B, C, H, W), dtype of `x`.

    Raises:
        ValueError: the number of gains is neither 1 nor C.
    """
    gains = (float(gains),) if isinstance(gains, (int, float)) else tuple(float(g) for g in gains)
    H, W = x.shape[-2:]
    if len(gains) not in (1, x.shape[1]):
        raise ValueError(f"mtf_filter: {len(gains)} gains for {x.shape[1]} bands")
    for gain in gains:
        if not 0 < gain < 1:
            raise ValueError(f"mtf_filter: gains must lie in (0, 1), given {gain}")
    work = x if x.dtype in (torch.float32, torch.float64) else x.float()
    size = (_fast_length(H + 2 * REACH), _fast_length(W + 2 * REACH))
    spectrum = _spectrum(gains, float(ratio), span, size, work.dtype, work.device)
    if work.device.type == "cpu" and H * W > _CACHED_PIXELS:  # band by band, so that a transform stays in the cache
        spectra = spectrum.expand(x.shape[1], -1, -1)
        filtered = torch.stack([torch.stack([_convolve(*b) for b in zip(i, spectra, strict=True)]) for i in work])
    else:
        filtered = _convolve(work, spectrum)
    return filtered.to(x.dtype)


def _convolve(x: Tensor, spectrum: Tensor) -> Tensor:
    """Filter (..., H, W) by a kernel given as its real spectrum; the border is repeated."""
    H, W = x.shape[-2:]
    size = (spectrum.shape[-2], 2 * spectrum.shape[-1] - 2)
    rows, columns = (torch.arange(-REACH, n + REACH, device=x.device).clamp(0, n - 1) for n in (H, W))
    padded = x.index_select(-2, rows).index_select(-1, columns)
    filtered = torch.fft.irfft2(torch.fft.rfft2(padded, s=size) * spectrum, s=size)
    return filtered[..., REACH : REACH + H, REACH : REACH + W]
