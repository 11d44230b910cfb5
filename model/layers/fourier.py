"""Spectra of images as amplitude and phase, (B, c, H, W) or, of half of the plane, (B, c, H, W // 2 + 1).

Inside `lemamba.model.ops.portable.portable` the transforms are products with matrices of cosines and sines, for any
size: exporters do not take complex numbers.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lemamba.model.ops.portable import is_portable


def spectrum(x: Tensor, *, half: bool = False) -> tuple[Tensor, Tensor]:
    """Return amplitude and phase, in (-pi, pi], of the Fourier transform of x (B, c, H, W), float32 or float64.

    Coefficients that are real, such as the mean, have phase 0 or pi. Computed from a rounded imaginary part, it would
    be pi or -pi by chance, by the size of the image and the library.

    Args:
        x: real.
        half: only the columns up to W // 2; the others follow from them.
    """
    height, width = x.shape[-2:]
    columns = width // 2 + 1 if half else width
    if is_portable():
        cosine, sine = (matrix[:, :columns] for matrix in _matrices(width, x))
        real, imaginary = _down(x @ cosine, -(x @ sine), inverse=False)
        amplitude = (real.square() + imaginary.square()).sqrt()
    else:
        values = torch.fft.rfft2(x) if half else torch.fft.fft2(x)
        amplitude, real, imaginary = values.abs(), values.real, values.imag
    is_real = _alone(height, x)[:, None] & _alone(width, x)[:columns]
    phase = torch.atan2(imaginary.masked_fill(is_real, 0.0), real)
    return amplitude, torch.where(is_real & (real < 0), math.pi, phase)  # not all runtimes have pi there


def modulus(amplitude: Tensor, phase: Tensor, width: int | None = None) -> Tensor:
    """Return the modulus of the inverse transform: (B, c, H, W).

    Args:
        amplitude, phase: of the whole plane, or of its half where `width` is given; an amplitude may be negative.
        width: W.
    """
    if not is_portable():
        values = torch.complex(amplitude * phase.cos(), amplitude * phase.sin())
        if width is None:
            return torch.fft.ifft2(values).abs()
        return torch.fft.irfft2(values, s=(values.shape[-2], width)).abs()
    real, imaginary = _down(amplitude * phase.cos(), amplitude * phase.sin(), inverse=True)
    size = amplitude.shape[-2] * (amplitude.shape[-1] if width is None else width)
    if width is None:
        cosine, sine = _matrices(amplitude.shape[-1], amplitude)
        x, y = real @ cosine - imaginary @ sine, real @ sine + imaginary @ cosine
        return (x.square() + y.square()).sqrt() / size
    columns = amplitude.shape[-1]
    cosine, sine = (matrix[:columns] for matrix in _matrices(width, amplitude))
    twice = torch.where(_alone(width, amplitude)[:columns], 1, 2).to(amplitude.dtype)  # for the columns left out
    return (((real * twice) @ cosine - (imaginary * twice) @ sine) / size).abs()


def _alone(n: int, like: Tensor) -> Tensor:
    """Return which of n frequencies are their own negative: 0 and, where n is even, n / 2."""
    place = torch.arange(n, device=like.device)
    return (place == 0) | (2 * place == n)


def _matrices(n: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return cos and sin of 2 pi j k / n, (n, n) each."""
    place = torch.arange(n, device=like.device)
    whole = torch.full((1,), n, device=like.device)  # a tensor: exporters divide by no size that is still unknown
    angle = (place[:, None] * place % whole).to(like.dtype) * (2 * math.pi / whole.to(like.dtype))
    return angle.cos(), angle.sin()


def _down(real: Tensor, imaginary: Tensor, *, inverse: bool) -> tuple[Tensor, Tensor]:
    """Transform the columns of a complex image, or transform them back without the factor 1 / H."""
    cosine, sine = _matrices(real.shape[-2], real)
    sine = -sine if inverse else sine
    return cosine @ real + sine @ imaginary, cosine @ imaginary - sine @ real
