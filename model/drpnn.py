"""DRPNN: a deep chain of 7x7 convolutions whose residual is taken against the stacked input.

Paper: Y. Wei, Q. Yuan, H. Shen, L. Zhang, "Boosting the accuracy of multispectral image pansharpening by learning a
deep residual network", IEEE GRSL 14(10), 2017.
Shapes: ms (B, C, h, w) is not used, lms and sr (B, C, H, W), pan (B, P, H, W).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lemamba.model.convert import rename_modules
from lemamba.utils.registry import register_model

_PUBLISHED_DEPTH = 8


def _conv7(channels_in: int, channels_out: int) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels_out, 7, padding=3)


@register_model("DRPNN", ratios=(2, 4, 8, 16), paper="Wei et al., GRSL 14(10), 2017", published_weights="yes")
class DRPNN(nn.Module):
    """DRPNN. 433,465 parameters for 8 bands and 418,365 for 4 (P = 1), as published.

    Args:
        img_channel, condition_channel, out_channel, ratio: see `lemamba.model.build_model`.
        width: feature maps (32 in the published weights).
        depth: convolutions between the first and the last but one (8 in the published weights).
    """

    def __init__(
        self,
        img_channel: int,
        condition_channel: int,
        out_channel: int,
        *,
        ratio: int = 4,
        width: int = 32,
        depth: int = _PUBLISHED_DEPTH,
    ) -> None:
        super().__init__()
        stacked = img_channel + condition_channel
        self.head = _conv7(stacked, width)
        self.body = nn.ModuleList(_conv7(width, width) for _ in range(depth))
        self.residual = _conv7(width, stacked)
        self.tail = _conv7(stacked, out_channel)

    def forward(self, ms: Tensor, lms: Tensor, pan: Tensor) -> Tensor:
        """Fuse: lms (B, C, H, W) and pan (B, P, H, W) in [0, 1] -> sr (B, C, H, W), not clipped; ms is not used."""
        stacked = torch.cat([lms, pan], dim=1)
        x = F.relu(self.head(stacked))
        for conv in self.body:
            x = F.relu(conv(x))
        return self.tail(stacked + self.residual(x))

    @staticmethod
    def from_published(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rename a DLPan-Toolbox state dict."""
        names = {"conv1": "head", "conv2": "residual", "conv3": "tail"}
        names |= {f"backbone.{i}.conv2": f"body.{i}" for i in range(_PUBLISHED_DEPTH)}
        return rename_modules(state_dict, names, arch="DRPNN")
