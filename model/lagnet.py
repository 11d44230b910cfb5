"""LAGNet: residual blocks of LAGConv, a convolution whose kernel adapts to every pixel, with a global bias.

Paper: Z.-R. Jin, T.-J. Zhang, T.-X. Jiang, G. Vivone, L.-J. Deng, "LAGConv: Local-context adaptive convolution
kernels with global harmonic bias for pansharpening", AAAI 2022, section 3.
Shapes: ms (B, C, h, w) is not used, lms and sr (B, C, H, W), pan (B, P, H, W).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lemamba.model.convert import rename_modules
from lemamba.utils.registry import register_model


class LAGConv(nn.Module):
    """Convolution with weights ``W * a(pixel)`` and a bias made from the mean of the whole map.

    ``a`` has one factor in (0, 1) per kernel position, made from the pixel's neighbourhood; all channels share it.

    Args:
        channels_in: c.
        channels_out: d.
        size: side k of the kernel.
        activation: between the layers that make ``a`` and the bias.
    """

    def __init__(
        self, channels_in: int, channels_out: int, size: int = 3, activation: type[nn.Module] = nn.ReLU
    ) -> None:
        super().__init__()
        self.size = size
        taps = size * size
        self.adapt = nn.Sequential(
            nn.Conv2d(channels_in, taps, size, padding=size // 2),
            activation(),
            nn.Conv2d(taps, taps, 1),
            activation(),
            nn.Conv2d(taps, taps, 1),
            nn.Sigmoid(),
        )
        self.harmonic = nn.Sequential(
            nn.Conv2d(channels_in, channels_out, 1), activation(), nn.Conv2d(channels_out, channels_out, 1)
        )
        self.weight = nn.Parameter(torch.empty(channels_out, channels_in, size, size))
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))  # PyTorch's own rule for convolutions

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, c, H, W) to (B, d, H, W)."""
        B, c, H, W = x.shape
        factors = self.adapt(x).view(B, 1, -1, H * W)
        patches = F.unfold(x, self.size, padding=self.size // 2).view(B, c, -1, H * W)
        y = self.weight.flatten(1) @ (patches * factors).flatten(1, 2)
        return y.view(B, -1, H, W) + self.harmonic(x.mean(dim=(-2, -1), keepdim=True))


class LAGBlock(nn.Module):
    """``x + conv2(relu(conv1(x)))`` with LAGConv."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = LAGConv(width, width)
        self.conv2 = LAGConv(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, width, H, W) to (B, width, H, W)."""
        return x + self.conv2(F.relu(self.conv1(x)))


_DEPTH = 5


@register_model("LAGNet", ratios=(2, 4, 8, 16), paper="Jin et al., AAAI 2022", published_weights="names only")
class LAGNet(nn.Module):
    """LAGNet. 151,397 parameters for 8 bands (P = 1); published: 0.15 M.

    The bias depends on the mean of its input: fuse large images in tiles of the size of the training patches.

    Args:
        img_channel, condition_channel, out_channel, ratio: see `lemamba.model.build_model`.
        width: feature maps (32 in the paper).
        depth: residual blocks (5 in the paper).
    """

    def __init__(
        self,
        img_channel: int,
        condition_channel: int,
        out_channel: int,
        *,
        ratio: int = 4,
        width: int = 32,
        depth: int = _DEPTH,
    ) -> None:
        super().__init__()
        self.head = LAGConv(condition_channel + img_channel, width)
        self.blocks = nn.Sequential(*(LAGBlock(width) for _ in range(depth)))
        self.tail = LAGConv(width, out_channel)

    def forward(self, ms: Tensor, lms: Tensor, pan: Tensor) -> Tensor:
        """Fuse: lms (B, C, H, W) and pan (B, P, H, W) in [0, 1] -> sr (B, C, H, W), not clipped; ms is not used."""
        x = F.relu(self.head(torch.cat([pan, lms], dim=1)))
        return lms + self.tail(self.blocks(x))

    @staticmethod
    def from_published(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rename a state dict of the authors' toolbox (never checked against published weights)."""
        places = {"head_conv.0": "head", "tail_conv": "tail"}
        places |= {f"RB{b + 1}.conv{i}": f"blocks.{b}.conv{i}" for b in range(_DEPTH) for i in (1, 2)}
        return rename_modules(state_dict, lagconv_names(places), arch="LAGNet")


def lagconv_names(places: Mapping[str, str]) -> dict[str, str]:
    """Return published module names -> ours of LAGConv layers at the given places, published path -> ours."""
    names = dict(places)
    for theirs, ours in places.items():
        names |= {f"{theirs}.attention1.{i}": f"{ours}.adapt.{i}" for i in (0, 2, 4)}
        names |= {f"{theirs}.attention3.{i}": f"{ours}.harmonic.{i - 1}" for i in (1, 3)}
    return names
