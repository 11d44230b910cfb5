"""DiCNN (DiCNN1): three convolutions that learn the details to inject into the interpolated MS image.

Paper: L. He, Y. Rao, J. Li, J. Chanussot, A. Plaza, J. Zhu, B. Li, "Pansharpening via detail injection based
convolutional neural networks", IEEE JSTARS 12(4), 2019, the first of its two architectures.
Shapes: ms (B, C, h, w) is not used, lms and sr (B, C, H, W), pan (B, P, H, W).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lemamba.model.convert import rename_modules
from lemamba.utils.registry import register_model


@register_model("DiCNN", ratios=(2, 4, 8, 16), paper="He et al., JSTARS 12(4), 2019", published_weights="yes")
class DiCNN(nn.Module):
    """DiCNN1. 46,792 parameters for 8 bands and 42,180 for 4 (P = 1), as published.

    Args:
        img_channel, condition_channel, out_channel, ratio: see `lemamba.model.build_model`.
        width: feature maps (64 in the paper).
    """

    def __init__(
        self, img_channel: int, condition_channel: int, out_channel: int, *, ratio: int = 4, width: int = 64
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(img_channel + condition_channel, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.conv3 = nn.Conv2d(width, out_channel, 3, padding=1)

    def forward(self, ms: Tensor, lms: Tensor, pan: Tensor) -> Tensor:
        """Fuse: lms (B, C, H, W) and pan (B, P, H, W) in [0, 1] -> sr (B, C, H, W), not clipped; ms is not used."""
        x = F.relu(self.conv1(torch.cat([lms, pan], dim=1)))
        return lms + self.conv3(F.relu(self.conv2(x)))

    @staticmethod
    def from_published(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Check a DLPan-Toolbox state dict; the names are ours already."""
        return rename_modules(state_dict, {f"conv{i}": f"conv{i}" for i in (1, 2, 3)}, arch="DiCNN")
