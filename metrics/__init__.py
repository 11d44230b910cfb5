"""Quality indices, the Python twin of the MATLAB package: one file per index, torch, batched, float64 inside.

`reduced_resolution` and `full_resolution` give all indices of a protocol as a dict of ``(B,)`` tensors; `Meter`
averages them over batches and processes. Definitions, units and the defects mended: docs/metrics.md.
"""

from lemamba.metrics.d_lambda import d_lambda
from lemamba.metrics.d_lambda_k import d_lambda_k
from lemamba.metrics.d_s import d_s
from lemamba.metrics.ergas import ergas
from lemamba.metrics.full import FULL_NAMES, full_resolution
from lemamba.metrics.meter import Meter
from lemamba.metrics.psnr import psnr
from lemamba.metrics.q2n import q2n
from lemamba.metrics.qave import qave
from lemamba.metrics.reduced import REDUCED_NAMES, reduced_resolution
from lemamba.metrics.sam import sam
from lemamba.metrics.scc import scc
from lemamba.metrics.ssim import ssim

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
