"""FusionNet: a residual network on the difference between the repeated PAN and the interpolated MS image.

Paper: L.-J. Deng, G. Vivone, C. Jin, J. Chanussot, "Detail injection-based deep convolutional neural networks for
pansharpening", IEEE TGRS 59(8), 2021, section III.
Shapes: ms (B, C, h, w) is not used, lms and sr (B, C, H, W), pan (B, P, H, W) with P = 1 or P = C.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn import functional as F

from lemamba.model.layers.guides import check_one_guide_or_one_per_band
from lemamba.model.layers.residual import ResidualBlock, he_initialise
from lemamba.model.pannet import residual_names
from lemamba.utils.registry import register_model


@register_model(
    "FusionNet",
    tasks=("pansharpening",),
    ratios=(2, 4, 8, 16),
    paper="Deng et al., TGRS 59(8), 2021",
    published_weights="yes",
)
class FusionNet(nn.Module):
    """FusionNet. 78,632 parameters for 8 bands and 76,324 for 4, as published.

    Args:
        img_channel, out_channel, ratio: see `lemamba.model.build_model`.
        condition_channel: P, 1 (or C: one guide band per MS band); the difference pan - lms is undefined otherwise.
        width: feature maps (32 in the paper).
        depth: residual blocks (4 in the paper).
    """

    def __init__(
        self,
        img_channel: int,
        condition_channel: int,
        out_channel: int,
        *,
        ratio: int = 4,
        width: int = 32,
        depth: int = 4,
    ) -> None:
        super().__init__()
        check_one_guide_or_one_per_band("FusionNet", img_channel, condition_channel)
        self.head = nn.Conv2d(img_channel, width, 3, padding=1)
        self.blocks = nn.Sequential(*(ResidualBlock(width) for _ in range(depth)))
        self.tail = nn.Conv2d(width, out_channel, 3, padding=1)
        he_initialise(self)

    def forward(self, ms: Tensor, lms: Tensor, pan: Tensor) -> Tensor:
        """Fuse: lms (B, C, H, W) and pan (B, P, H, W) in [0, 1] -> sr (B, C, H, W), not clipped; ms is not used."""
        x = F.relu(self.head(pan - lms))  # broadcasting repeats the single PAN band C times
        return lms + self.tail(self.blocks(x))

    @staticmethod
    def from_published(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rename a DLPan-Toolbox state dict (residual blocks are stored twice there)."""
        return residual_names(state_dict, {"conv1": "head", "conv3": "tail"}, arch="FusionNet")
