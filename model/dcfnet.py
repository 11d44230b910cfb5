"""DCFNet: three branches of different resolution, crossed with learned weights, each new one fed with the MS image.

Paper: X. Wu, T.-Z. Huang, L.-J. Deng, T.-J. Zhang, "Dynamic cross feature fusion for remote sensing pansharpening",
ICCV 2021; the branches are those of HRNet (Wang et al., TPAMI 2021).
Shapes: ms (B, C, h, w), lms and sr (B, C, H, W), pan (B, P, H, W); branch k has sides H / 2^k, W / 2^k.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lemamba.model.layers.guides import check_one_guide_or_one_per_band
from lemamba.utils.registry import register_model

_WIDTHS = (32, 64, 128)  # of the branches
_STEM, _EXPANSION = 64, 4
_MOMENTUM = 0.01
_EPS = 1e-4


def _conv(channels_in: int, channels_out: int, size: int = 3, stride: int = 1, *, relu: bool = True) -> nn.Sequential:
    """Build a convolution without bias, batch norm and, if asked for, ReLU."""
    layers: list[nn.Module] = [
        nn.Conv2d(channels_in, channels_out, size, stride, padding=size // 2, bias=False),
        nn.BatchNorm2d(channels_out, momentum=_MOMENTUM),
    ]
    return nn.Sequential(*layers, *([nn.ReLU()] if relu else []))


def _bilinear(x: Tensor, size: Sequence[int]) -> Tensor:
    """Resize; the corners stay corners, as published."""
    return (
        x
        if tuple(x.shape[-2:]) == tuple(size)
        else F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=True)
    )


def _shares(weights: Tensor) -> Tensor:
    """Non-negative weights whose columns sum to (almost) one."""
    weights = F.relu(weights)
    return weights / (weights.sum(dim=0) + _EPS)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a residual and a ReLU after the sum."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(_conv(width, width), _conv(width, width, relu=False))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, c, H, W) to (B, c, H, W)."""
        return F.relu(x + self.body(x))


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 with four times the width outside, a residual and a ReLU after the sum."""

    def __init__(self, channels_in: int, width: int) -> None:
        super().__init__()
        wide = _EXPANSION * width
        self.body = nn.Sequential(_conv(channels_in, width, 1), _conv(width, width), _conv(width, wide, 1, relu=False))
        self.shortcut = nn.Identity() if channels_in == wide else _conv(channels_in, wide, 1, relu=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, channels_in, H, W) to (B, 4 * width, H, W)."""
        return F.relu(self.shortcut(x) + self.body(x))


class InjectMS(nn.Module):
    """Weighted sum of features and the MS image of the same size, then a basic block."""

    def __init__(self, bands: int, width: int) -> None:
        super().__init__()
        self.raise_ms = nn.Conv2d(bands, width, 3, padding=1, bias=False)
        self.weights = nn.Parameter(torch.ones(2))
        self.block = BasicBlock(width)

    def forward(self, x: Tensor, ms: Tensor) -> Tensor:
        """Map features (B, c, H, W) and MS (B, C, H, W) to (B, c, H, W)."""
        first, second = _shares(self.weights)
        return self.block(F.relu(first * x + second * self.raise_ms(ms)))


class ThirdBranch(nn.Module):
    """Make the branch at a quarter of the size from the first two and the MS image."""

    def __init__(self, bands: int) -> None:
        super().__init__()
        self.down0 = _conv(_WIDTHS[0], _WIDTHS[1], stride=2)
        self.down_sum = _conv(_WIDTHS[1], _WIDTHS[2], stride=2)
        self.down1 = _conv(_WIDTHS[1], _WIDTHS[2], stride=2)
        self.inject = InjectMS(bands, _WIDTHS[2])
        self.weights = nn.Parameter(torch.ones(2))

    def forward(self, x0: Tensor, x1: Tensor, ms: Tensor) -> Tensor:
        """Map branches (B, 32, H, W) and (B, 64, H/2, W/2) and ms (B, C, H/4, W/4) to (B, 128, H/4, W/4)."""
        first, second = _shares(self.weights)
        both = self.inject(self.down_sum(x1 + self.down0(x0)), ms)
        return first * self.down1(x1) + second * both


class Cross(nn.Module):
    """Every branch becomes a weighted sum of all, each brought to its size; the weights are learned and shared out."""

    def __init__(self, branches: int) -> None:
        super().__init__()
        self.paths = nn.ModuleList(
            nn.ModuleList(self._path(source, target) for source in range(branches)) for target in range(branches)
        )
        self.weights = nn.Parameter(torch.ones(branches + 1, branches + 1))

    @staticmethod
    def _path(source: int, target: int) -> nn.Module:
        if source == target:
            return nn.Identity()
        if source > target:  # enlarged after this convolution
            return _conv(_WIDTHS[source], _WIDTHS[target], 1, relu=False)
        halvings = [_conv(_WIDTHS[source], _WIDTHS[source], stride=2) for _ in range(target - source - 1)]
        return nn.Sequential(*halvings, _conv(_WIDTHS[source], _WIDTHS[target], stride=2, relu=False))

    def forward(self, branches: list[Tensor]) -> list[Tensor]:
        """Map the list of branches to a list of the same shapes."""
        shares = _shares(self.weights)
        crossed = []
        for target, paths in enumerate(self.paths):
            size = branches[target].shape[-2:]
            terms = (
                shares[target, source] * _bilinear(path(x), size)
                for source, (path, x) in enumerate(zip(cast(nn.ModuleList, paths), branches, strict=True))
            )
            crossed.append(F.relu(reduce(torch.add, terms)))
        return crossed


def _branches(count: int, depth: int) -> nn.ModuleList:
    return nn.ModuleList(nn.Sequential(*(BasicBlock(w) for _ in range(depth))) for w in _WIDTHS[:count])


@register_model("DCFNet", tasks=("pansharpening",), ratios=(4, 8), paper="Wu et al., ICCV 2021")
class DCFNet(nn.Module):
    """DCFNet. 2,767,495 parameters for 8 bands, as published (2.77 M), and 2,757,379 for 4.

    The MS image enters at half and at a quarter of the size of the PAN: enlarged bilinearly to them, at ratio 4 by 2
    and by 1 as in the paper.

    Args:
        img_channel, out_channel: see `lemamba.model.build_model`.
        condition_channel: P, 1 (or C): pan and lms are added.
        ratio: H / h.
        depth: basic blocks in each branch before the branches cross (3).
    """

    def __init__(
        self, img_channel: int, condition_channel: int, out_channel: int, *, ratio: int = 4, depth: int = 3
    ) -> None:
        super().__init__()
        check_one_guide_or_one_per_band("DCFNet", img_channel, condition_channel)
        wide = _EXPANSION * _STEM
        self.stem = nn.Sequential(
            _conv(img_channel, _STEM),
            _conv(_STEM, _STEM),
            Bottleneck(_STEM, _STEM),
            *(Bottleneck(wide, _STEM) for _ in range(3)),
        )
        self.first, self.second = _conv(wide, _WIDTHS[0]), _conv(wide, _WIDTHS[1], stride=2)
        self.inject = InjectMS(img_channel, _WIDTHS[1])
        self.stage2, self.cross2 = _branches(2, depth), Cross(2)
        self.third = ThirdBranch(img_channel)
        self.stage3, self.cross3 = _branches(3, depth), Cross(3)
        total = sum(_WIDTHS)
        self.tail = nn.Sequential(
            nn.Conv2d(total, total, 1),
            nn.BatchNorm2d(total, momentum=_MOMENTUM),
            nn.ReLU(),
            nn.Conv2d(total, out_channel, 1),
        )

    def forward(self, ms: Tensor, lms: Tensor, pan: Tensor) -> Tensor:
        """Fuse: ms (B, C, h, w), lms (B, C, H, W), pan (B, P, H, W) in [0, 1] -> sr (B, C, H, W), not clipped."""
        H, W = lms.shape[-2:]
        half, quarter = _bilinear(ms, (H // 2, W // 2)), _bilinear(ms, (H // 4, W // 4))
        x = self.stem(pan + lms)
        x = [self.first(x), self.inject(self.second(x), half)]
        x = [branch(t) for branch, t in zip(self.stage2, x, strict=True)]
        third = self.third(*x, quarter)  # made before the two cross
        x = [*self.cross2(x), third]
        x = self.cross3([branch(t) for branch, t in zip(self.stage3, x, strict=True)])
        return lms + self.tail(torch.cat([_bilinear(t, (H, W)) for t in x], dim=1))
