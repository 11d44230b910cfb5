"""Where the step sizes dt of a selective scan start (Gu and Dao, arXiv 2312.00752, section 3.6)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

DT_MIN, DT_MAX, DT_FLOOR = 1e-3, 0.1, 1e-4


def draw_dt_bias(*shape: int) -> Tensor:
    """Draw dt log-uniformly from [0.001, 0.1]; return the bias, its inverse softplus, that gives it."""
    span = math.log(DT_MAX) - math.log(DT_MIN)
    dt = torch.exp(torch.rand(shape) * span + math.log(DT_MIN)).clamp_min(DT_FLOOR)
    return dt + torch.log(-torch.expm1(-dt))
