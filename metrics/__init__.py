"""Quality indices, the Python twin of the MATLAB package: one file per index, torch, batched, float64 inside.

`reduced_resolution` and `full_resolution` give all indices of a protocol as a dict of ``(B,)`` tensors; `Meter`
averages them over batches and processes. Definitions, units and the defects mended: docs/metrics.md.
"""

from metrics.d_lambda import d_lambda
from metrics.d_lambda_k import d_lambda_k
from metrics.d_s import d_s
from metrics.ergas import ergas
from metrics.full import FULL_NAMES, full_resolution
from metrics.meter import Meter
from metrics.psnr import psnr
from metrics.q2n import q2n
from metrics.qave import qave
from metrics.reduced import REDUCED_NAMES, reduced_resolution
from metrics.sam import sam
from metrics.scc import scc
from metrics.ssim import ssim

__all__ = [
    "FULL_NAMES",
    "REDUCED_NAMES",
    "Meter",
    "d_lambda",
    "d_lambda_k",
    "d_s",
    "ergas",
    "full_resolution",
    "psnr",
    "q2n",
    "qave",
    "reduced_resolution",
    "sam",
    "scc",
    "ssim",
]
