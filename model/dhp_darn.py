"""DHP-DARN: residual blocks with attention over feature maps and over pixels sharpen an enlarged hyperspectral image.

Paper: Y. Zheng, J. Li, Y. Li, J. Guo, X. Wu, J. Chanussot, "Hyperspectral pansharpening using deep prior and dual
attention residual network", IEEE TGRS 58(11), 2020.
Shapes: ms (B, C, h, w) is not used, lms and sr (B, C, H, W), pan (B, 1, H, W).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lemamba.model.convert import rename_modules
from lemamba.model.layers.guides import check_single_guide
from lemamba.utils.registry import register_model

_DEPTH = 4
_SHRINK = 16  # factor of the hidden layer of the channel attention


class DualAttention(nn.Module):
    """Two convolutions to u, then ``x + u a + u b``: a one factor per feature map, b one per pixel, both in (0, 1)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)
        self.squeeze, self.excite = nn.Conv2d(width, width // _SHRINK, 1), nn.Conv2d(width // _SHRINK, width, 1)
        self.place = nn.Conv2d(width, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, width, H, W) to (B, width, H, W)."""
        u = self.conv2(F.relu(self.conv1(x)))
        maps = self.excite(F.relu(self.squeeze(u.mean(dim=(2, 3), keepdim=True)))).sigmoid()
        return x + u * maps + u * self.place(u).sigmoid()


@register_model(
    "DHP-DARN",
    tasks=("pansharpening",),
    ratios=(2, 3, 4, 5, 6, 7, 8, 16),
    paper="Zheng et al., TGRS 58(11), 2020",
    published_weights="names only",
)
class DHPDARN(nn.Module):
    """The sharpening network of DHP-DARN, DARN. 334,387 parameters for 31 bands, counted from the layers.

    The paper enlarges ms by a deep prior (DHP), a network without training data that is fitted to every image for
    thousands of steps; here the network sees lms in its place, as in public comparisons without it. The attention over
    feature maps depends on the whole image: large images are best fused in tiles of the size of the training patches.

    Args:
        img_channel, ratio: see `lemamba.model.build_model`.
        condition_channel: 1.
        out_channel: bands of sr; equal to C.
        width: feature maps (64), a multiple of 16.
        depth: blocks (4).
    """

    def __init__(
        self,
        img_channel: int,
        condition_channel: int,
        out_channel: int,
        *,
        ratio: int = 4,
        width: int = 64,
        depth: int = _DEPTH,
    ) -> None:
        super().__init__()
        check_single_guide("DHP-DARN", condition_channel)
        self.head = nn.Conv2d(img_channel + 1, width, 3, padding=1)
        self.blocks = nn.Sequential(*(DualAttention(width) for _ in range(depth)))
        self.tail = nn.Conv2d(width, out_channel, 3, padding=1)

    def forward(self, ms: Tensor, lms: Tensor, pan: Tensor) -> Tensor:
        """Fuse: lms (B, C, H, W) and pan (B, 1, H, W) in [0, 1] -> sr (B, C, H, W), not clipped; ms is not used."""
        return lms + self.tail(self.blocks(self.head(torch.cat([lms, pan], dim=1))))

    @staticmethod
    def from_published(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rename a state dict of DARN as public code has it."""
        layers = ("conv1", "conv2", "squeeze", "excite", "place")
        names = {"FEN": "head", "RRN": "tail"}
        names |= {f"CSA{b + 1}.conv{i + 1}": f"blocks.{b}.{n}" for b in range(_DEPTH) for i, n in enumerate(layers)}
        return rename_modules(state_dict, names, arch="DHP-DARN")
