"""PNN: three convolutions from the stacked input to the fused image, the first network of the field.

Paper: G. Masi, D. Cozzolino, L. Verdoliva, G. Scarpa, "Pansharpening by convolutional neural networks", Remote
Sensing 8(7):594, 2016. A-PNN (model/apnn.py) is its residual successor.
Shapes: ms (B, C, h, w) is not used, lms and sr (B, C, H, W), pan (B, P, H, W).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lemamba.model.convert import rename_modules
from lemamba.utils.registry import register_model

_MARGIN = 8  # half of the receptive field of 9x9, 5x5, 5x5: (8 + 4 + 4) / 2


@register_model("PNN", ratios=(2, 4, 8, 16), paper="Masi et al., Remote Sensing 8(7), 2016", published_weights="yes")
class PNN(nn.Module):
    """PNN. 104,360 parameters for 8 bands and 80,420 for 4 (P = 1), as published.

    Args:
        img_channel, condition_channel, out_channel, ratio: see `lemamba.model.build_model`.
        widths: feature maps after the first and the second convolution (64, 32 in the paper).
    """

    def __init__(
        self,
        img_channel: int,
        condition_channel: int,
        out_channel: int,
        *,
        ratio: int = 4,
        widths: tuple[int, int] = (64, 32),
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(img_channel + condition_channel, widths[0], 9)
        self.conv2 = nn.Conv2d(widths[0], widths[1], 5)
        self.conv3 = nn.Conv2d(widths[1], out_channel, 5)

    def forward(self, ms: Tensor, lms: Tensor, pan: Tensor) -> Tensor:
        """Fuse: lms (B, C, H, W) and pan (B, P, H, W) in [0, 1] -> sr (B, C, H, W), not clipped; ms is not used."""
        x = F.pad(
            torch.cat([lms, pan], dim=1), [_MARGIN] * 4, mode="replicate"
        )  # padded once, as the convolutions shrink
        x = F.relu(self.conv2(F.relu(self.conv1(x))))
        return self.conv3(x)

    @staticmethod
    def from_published(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Check a DLPan-Toolbox state dict; the names are ours already."""
        return rename_modules(state_dict, {f"conv{i}": f"conv{i}" for i in (1, 2, 3)}, arch="PNN")
