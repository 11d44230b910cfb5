"""Operators shared by networks, data simulation, classical methods and metrics: depends on torch only.

Images are ``(B, C, H, W)``; every operator keeps float64, runs on any device and is
differentiable. Each file names the definition it reproduces.
"""

from lemamba.operators.decimate import decimate
from lemamba.operators.imresize import imresize
from lemamba.operators.interp23 import interp23
from lemamba.operators.mtf import mtf_filter, mtf_kernel
from lemamba.operators.mtf_sample import mtf_sample
from lemamba.operators.resample import interpolate, resample, sample
from lemamba.operators.ssim import ssim_map

__all__ = [
    "decimate",
    "imresize",
    "interp23",
    "interpolate",
    "mtf_filter",
    "mtf_kernel",
    "mtf_sample",
    "resample",
    "sample",
    "ssim_map",
]
