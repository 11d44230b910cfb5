"""Bicubic interpolation of the MS image: the other baseline of tables, next to EXP's 23 taps.

Paper: R. Keys, "Cubic convolution interpolation for digital image processing", IEEE TASSP 29(6), 1981, a = -1/2, the
kernel of MATLAB's ``imresize(…, 'bicubic')``.
Shapes: ms (B, C, h, w), lms and sr (B, C, H, W), pan (B, P, H, W).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lemamba.model.classical.base import Classical
from lemamba.operators.resample import mirrored
from lemamba.operators.window import Window
from lemamba.utils.registry import register_model

REACH = 2  # MS pixels on each side of a point


@register_model(
    "Bicubic",
    tasks=("hmif",),
    ratios=(2, 3, 4, 5, 6, 7, 8, 16, 32),
    family="classical",
    paper="Keys, TASSP 29(6), 1981",
)
class Bicubic(Classical):
    """Cubic convolution of ms at the places where PAN pixels lie; beyond the border ms is mirrored.

    The guide is ignored, so any number of its bands will do.
    """

    single_guide = False

    @property
    def margin(self) -> int:
        """PAN pixels around a window that its result depends on."""
        return math.ceil((REACH + 1) * max(self.geometry.ratio))

    def inject(self, window: Window, fitted: None) -> Tensor:
        """Return ms at the pixels of PAN."""
        x, geometry = window.ms, window.geometry
        for dim, offset, ratio in zip((-2, -1), geometry.offset, geometry.ratio, strict=True):
            x = _enlarged(x, dim, offset, ratio, window.lms.shape[dim])
        return x


def _enlarged(x: Tensor, dim: int, offset: float, ratio: float, count: int) -> Tensor:
    """Read an axis of x at ``(i - offset) / ratio`` for i = 0 … count - 1."""
    place = (torch.arange(count, dtype=torch.float64, device=x.device) - offset) / ratio
    below = place.floor()
    total = torch.zeros((), dtype=x.dtype, device=x.device)
    for tap in range(1 - REACH, 1 + REACH):
        weight = _keys((place - below - tap).abs()).to(x)
        index = mirrored(below.long() + tap, x.shape[dim])
        total = total + x.index_select(dim, index) * weight.view(-1, *[1] * (-1 - dim))
    return total


def _keys(distance: Tensor) -> Tensor:
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    return torch.where(distance <= 1, near, torch.where(distance < 2, far, 0.0))
