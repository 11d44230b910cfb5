"""MSDCNN: a deep branch with parallel kernels of three sizes and a shallow branch, summed.

Paper: Q. Yuan, Y. Wei, X. Meng, H. Shen, L. Zhang, "A multiscale and multidepth convolutional neural network for
remote sensing imagery pan-sharpening", IEEE JSTARS 11(3), 2018.
Shapes: ms (B, C, h, w) is not used, lms and sr (B, C, H, W), pan (B, P, H, W).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lemamba.model.convert import rename_modules
from lemamba.utils.registry import register_model

_SIZES = (3, 5, 7)


def _conv(channels_in: int, channels_out: int, size: int) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels_out, size, padding=size // 2)


class MultiscaleBlock(nn.Module):
    """``relu(x + [conv3(x), conv5(x), conv7(x)])``: each size computes a third of the channels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(_conv(width, width // len(_SIZES), size) for size in _SIZES)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, width, H, W) to (B, width, H, W); width is a multiple of 3."""
        return F.relu(x + torch.cat([conv(x) for conv in self.convs], dim=1))


@register_model("MSDCNN", ratios=(2, 4, 8, 16), paper="Yuan et al., JSTARS 11(3), 2018", published_weights="yes")
class MSDCNN(nn.Module):
    """MSDCNN. 228,556 parameters for 8 bands and 189,852 for 4 (P = 1), as published.

    Args:
        img_channel, condition_channel, out_channel, ratio: see `lemamba.model.build_model`.
    """

    def __init__(self, img_channel: int, condition_channel: int, out_channel: int, *, ratio: int = 4) -> None:
        super().__init__()
        stacked = img_channel + condition_channel
        self.deep_head = _conv(stacked, 60, 7)
        self.deep_block1 = MultiscaleBlock(60)
        self.deep_middle = _conv(60, 30, 3)
        self.deep_block2 = MultiscaleBlock(30)
        self.deep_tail = _conv(30, out_channel, 5)
        self.shallow1 = _conv(stacked, 64, 9)
        self.shallow2 = _conv(64, 32, 1)
        self.shallow3 = _conv(32, out_channel, 5)

    def forward(self, ms: Tensor, lms: Tensor, pan: Tensor) -> Tensor:
        """Fuse: lms (B, C, H, W) and pan (B, P, H, W) in [0, 1] -> sr (B, C, H, W) >= 0; ms is not used."""
        stacked = torch.cat([lms, pan], dim=1)
        deep = self.deep_block1(F.relu(self.deep_head(stacked)))
        deep = self.deep_block2(F.relu(self.deep_middle(deep)))
        shallow = F.relu(self.shallow2(F.relu(self.shallow1(stacked))))
        return F.relu(self.deep_tail(deep) + self.shallow3(shallow))

    @staticmethod
    def from_published(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rename a DLPan-Toolbox state dict."""
        names = {"conv1": "deep_head", "conv3": "deep_middle", "conv5": "deep_tail"}
        for theirs, ours in (("conv2", "deep_block1"), ("conv4", "deep_block2")):
            names |= {f"{theirs}_{i + 1}": f"{ours}.convs.{i}" for i in range(len(_SIZES))}
        names |= {f"shallow{i}": f"shallow{i}" for i in (1, 2, 3)}
        return rename_modules(state_dict, names, arch="MSDCNN")
