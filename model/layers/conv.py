"""Convolutions of channels-last maps. Shapes: x and the result (B, H, W, c)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from lemamba.model.ops.native.depthwise import depthwise_conv


class DepthwiseConv(nn.Conv2d):
    """`torch.nn.Conv2d` with one group per channel, an odd kernel and zero padding to the same size.

    Args:
        channels: c.
        kernel: side of the kernel, odd.
    """

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__(channels, channels, kernel, padding=kernel // 2, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve x (B, H, W, c)."""
        return depthwise_conv(x, self.weight, self.bias)


def conv_channels_last(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """Apply `conv` to x (B, H, W, c) in its memory layout: the permuted view already is `channels_last`."""
    # The bias is added separately, so that torch sums its gradient pairwise. With one thread the convolution's own
    # backward adds pixel after pixel and is off by 2e-5 on a map of 64 x 96.
    y = F.conv2d(x.permute(0, 3, 1, 2), conv.weight, None, conv.stride, conv.padding, conv.dilation, conv.groups)
    y = y.permute(0, 2, 3, 1)
    return y if conv.bias is None else y + conv.bias
