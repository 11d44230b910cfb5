"""BAM: residual blocks that keep the positive and the negative part of a feature map and filter each by itself.

Paper: Z.-R. Jin, L.-J. Deng, T.-J. Zhang, X.-X. Jin, "BAM: Bilateral activation mechanism for image fusion", ACM
International Conference on Multimedia, 2021 (the network is called BRResNet there).
Shapes: ms (B, C, h, w) is not used, lms and sr (B, C, H, W), pan (B, P, H, W).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lemamba.model.convert import rename_modules
from lemamba.utils.registry import register_model

_DEPTH = 5
_BLOCK_NAMES = ("BRRB", "DARB")  # in the authors' files, by version


class BilateralBlock(nn.Module):
    """``x + cat(positive(relu(y)), negative(relu(-y)))`` with ``y = conv(x)``; a single ReLU would lose half of y."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)
        self.positive = nn.Conv2d(width, width // 2, 3, padding=1)
        self.negative = nn.Conv2d(width, width - width // 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, width, H, W) to (B, width, H, W)."""
        y = self.conv(x)
        return x + torch.cat([self.positive(F.relu(y)), self.negative(F.relu(-y))], dim=1)


@register_model("BAM", ratios=(2, 4, 8, 16), paper="Jin et al., ACM MM 2021", published_weights="yes")
class BAM(nn.Module):
    """BAM. 95,108 parameters for 4 bands and a PAN, 406,815 for 31 bands and RGB, as published.

    For 31 bands the authors enlarge ms inside the network, bilinearly with the centres of the corner pixels on each
    other; here lms comes from the data, as with a PAN. Pass that lms to repeat their outputs.

    Args:
        img_channel, condition_channel, out_channel, ratio: see `lemamba.model.build_model`.
        width: feature maps; None for the published 32 with one guide band and 64 with several.
        depth: bilateral blocks (5 in the paper).
    """

    def __init__(
        self,
        img_channel: int,
        condition_channel: int,
        out_channel: int,
        *,
        ratio: int = 4,
        width: int | None = None,
        depth: int = _DEPTH,
    ) -> None:
        super().__init__()
        if width is None:
            width = 32 if condition_channel == 1 else 64
        self.head = nn.Conv2d(condition_channel + img_channel, width, 3, padding=1)
        self.blocks = nn.Sequential(*(BilateralBlock(width) for _ in range(depth)))
        self.tail = nn.Conv2d(width, out_channel, 3, padding=1)

    def forward(self, ms: Tensor, lms: Tensor, pan: Tensor) -> Tensor:
        """Fuse: lms (B, C, H, W) and pan (B, P, H, W) in [0, 1] -> sr (B, C, H, W), not clipped; ms is not used."""
        return lms + self.tail(self.blocks(self.head(torch.cat([pan, lms], dim=1))))

    @staticmethod
    def from_published(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rename a state dict of the authors' repository (liangjiandeng/BAM); both names of the blocks are known."""
        block = next((b for b in _BLOCK_NAMES if any(k.startswith(b) for k in state_dict)), _BLOCK_NAMES[0])
        names = {"head_conv": "head", "tail_conv": "tail"}
        for i in range(_DEPTH):
            parts = enumerate(("conv", "positive", "negative"), 1)
            names |= {f"{block}{i + 1}.conv{j}": f"blocks.{i}.{part}" for j, part in parts}
        return rename_modules(state_dict, names, arch="BAM")
