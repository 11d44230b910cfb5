"""PanNet: a residual network on high-pass parts, added to the interpolated MS image.

Paper: J. Yang, X. Fu, Y. Hu, Y. Huang, X. Ding, J. Paisley, "PanNet: A deep network architecture for
pan-sharpening", ICCV 2017, sections 3.1 (high-pass domain) and 3.2 (spectra mapping: ``sr = lms + out``).
Shapes: ms (B, C, h, w), lms and sr (B, C, H, W), pan (B, P, H, W), H = ratio * h.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lemamba.model.convert import rename_modules
from lemamba.model.layers.residual import ResidualBlock, he_initialise
from lemamba.utils.registry import register_model

_BOX = 5  # side of the mean filter that the high-pass part is taken against


def high_pass(x: Tensor) -> Tensor:
    """Subtract the 5x5 box mean, mirrored at the border without repeating the edge (replicated where too small)."""
    margin = _BOX // 2
    mode = "reflect" if min(x.shape[-2:]) > margin else "replicate"
    return x - F.avg_pool2d(F.pad(x, [margin] * 4, mode=mode), _BOX, stride=1)


@register_model("PanNet", ratios=(2, 4, 8, 16), paper="Yang et al., ICCV 2017", published_weights="yes")
class PanNet(nn.Module):
    """PanNet. 83,024 parameters for 8 bands and 77,640 for 4 (P = 1, ratio 4), as published.

    Args:
        img_channel, condition_channel, out_channel: see `lemamba.model.build_model`.
        ratio: H / h; the learned upsampling has kernel 2 * ratio, stride ratio.
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
        self.upsample = nn.ConvTranspose2d(img_channel, img_channel, 2 * ratio, stride=ratio, padding=ratio // 2)
        self.head = nn.Conv2d(img_channel + condition_channel, width, 3, padding=1)
        self.blocks = nn.Sequential(*(ResidualBlock(width) for _ in range(depth)))
        self.tail = nn.Conv2d(width, out_channel, 3, padding=1)
        he_initialise(self)

    def forward(self, ms: Tensor, lms: Tensor, pan: Tensor) -> Tensor:
        """Fuse: ms (B, C, h, w), lms (B, C, H, W), pan (B, P, H, W), all in [0, 1] -> sr (B, C, H, W), not clipped."""
        x = torch.cat([self.upsample(high_pass(ms)), high_pass(pan)], dim=1)
        x = self.blocks(F.relu(self.head(x)))
        return lms + self.tail(x)

    @staticmethod
    def from_published(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rename a DLPan-Toolbox state dict (residual blocks are stored twice there: ``resN`` and ``backbone.K``)."""
        return residual_names(state_dict, {"deconv": "upsample", "conv1": "head", "conv3": "tail"}, arch="PanNet")


def residual_names(state_dict: Mapping[str, Tensor], names: dict[str, str], *, arch: str) -> dict[str, Tensor]:
    """Rename a published state dict whose four residual blocks are ``res1..4`` and once more ``backbone.0..3``."""
    names, duplicates = dict(names), {}
    for block in range(4):
        for theirs, ours in (("conv20", "conv1"), ("conv21", "conv2")):
            names[f"res{block + 1}.{theirs}"] = f"blocks.{block}.{ours}"
            duplicates[f"backbone.{block}.{theirs}"] = f"res{block + 1}.{theirs}"
    return rename_modules(state_dict, names, arch=arch, duplicates=duplicates)
