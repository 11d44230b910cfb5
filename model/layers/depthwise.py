"""A depth-wise convolution of channels-last maps. Shapes: x and the result (B, H, W, c)."""

from __future__ import annotations

import torch
from torch import nn

from model.ops.depthwise import depthwise_conv


class DepthwiseConv(nn.Conv2d):
    """`torch.nn.Conv2d` with one group per channel, an odd kernel and zero padding to the same size.

    Args:
        channels: c.
        kernel: side of the kernel, odd.
    """

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__(channels, channels, kernel, padding=kernel // 2, groups=channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Convolve x (B, H, W, c)."""
        return depthwise_conv(x, self.weight, self.bias)
