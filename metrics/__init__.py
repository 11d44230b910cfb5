"""Quality indices, the Python twin of the MATLAB package: one file per index, torch, batched, float64 inside.

`reduced_resolution` and `full_resolution` return all indices of a protocol as a dict of ``(B,)`` tensors; `Meter`
averages them over batches and processes. `INDICES` holds the facts about each index (heading, direction, unit, …),
`EXTRA` those of the indices that are measured on request only (``extra="rmse,cc"`` or ``"all"``); `chosen` reads names.
Definitions, units and corrected defects: docs/metrics.md.
"""

import importlib
import pkgutil

from lemamba.metrics.cc import cc
from lemamba.metrics.consistency import consistency
from lemamba.metrics.coregistration import coregistration
from lemamba.metrics.d_lambda import d_lambda
from lemamba.metrics.d_lambda_k import d_lambda_k
from lemamba.metrics.d_rho import d_rho
from lemamba.metrics.d_s import d_s
from lemamba.metrics.d_sr import d_sr
from lemamba.metrics.dd import dd
from lemamba.metrics.ergas import ergas
from lemamba.metrics.full import full_resolution
from lemamba.metrics.index import Index, chosen, registered
from lemamba.metrics.meter import Meter
from lemamba.metrics.psnr import psnr
from lemamba.metrics.psnr_cube import psnr_cube
from lemamba.metrics.q2n import q2n
from lemamba.metrics.qave import qave
from lemamba.metrics.rase import rase
from lemamba.metrics.reduced import reduced_resolution
from lemamba.metrics.rmse import rmse
from lemamba.metrics.sam import sam
from lemamba.metrics.scc import scc
from lemamba.metrics.sid import sid
from lemamba.metrics.ssim import ssim
from lemamba.metrics.uiqi import uiqi

# Importing a module registers its indices, so a new index needs no line here.
for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

REDUCED_NAMES = tuple(registered("reduced"))
"""The indices that need ground truth, in the order of the tables."""
FULL_NAMES = tuple(registered("full"))
"""The indices at full resolution, in the order of the tables."""
INDICES: dict[str, Index] = registered("reduced") | registered("full")
"""The record of each index that is always measured."""
EXTRA: dict[str, Index] = registered("reduced", extra=True) | registered("full", extra=True)
"""The record of each index that is measured on request."""

__all__ = [
    "EXTRA",
    "FULL_NAMES",
    "INDICES",
    "REDUCED_NAMES",
    "Index",
    "Meter",
    "cc",
    "chosen",
    "consistency",
    "coregistration",
    "d_lambda",
    "d_lambda_k",
    "d_rho",
    "d_s",
    "d_sr",
    "dd",
    "ergas",
    "full_resolution",
    "psnr",
    "psnr_cube",
    "q2n",
    "qave",
    "rase",
    "reduced_resolution",
    "rmse",
    "sam",
    "scc",
    "sid",
    "ssim",
    "uiqi",
]
