"""lambda-PNN: a residual network with channel and spatial attention that adapts to the image it fuses.

Paper: M. Ciotola, G. Poggi, G. Scarpa, "Unsupervised deep learning-based pansharpening with jointly enhanced spectral
and spatial fidelity", IEEE TGRS 61, 2023; the attention is CBAM (Woo et al., ECCV 2018).
Shapes: ms (B, C, h, w) is not used, lms and sr (B, C, H, W), pan (B, P, H, W).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lemamba.model.convert import rename_modules
from lemamba.utils.registry import register_model

_NAMES = {
    "conv_1": "head.0",
    "conv_2": "head.2",
    "CBAM_1.ChannelGate.mlp.1": "attention1.squeeze",
    "CBAM_1.ChannelGate.mlp.3": "attention1.excite",
    "CBAM_1.SpatialGate.spatial.conv_1": "attention1.spatial",
    "res_block_1.body.0": "blocks.0.conv1",
    "res_block_1.body.2": "blocks.0.conv2",
    "res_block_2.body.0": "blocks.1.conv1",
    "res_block_2.body.2": "blocks.1.conv2",
    "CBAM_2.ChannelGate.mlp.1": "attention2.squeeze",
    "CBAM_2.ChannelGate.mlp.3": "attention2.excite",
    "CBAM_2.SpatialGate.spatial.conv_1": "attention2.spatial",
    "conv_3": "tail",
}


def _conv(inputs: int, outputs: int, side: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, side, padding=side // 2, padding_mode="reflect")


class _Attention(nn.Module):
    """x times a gate per channel, from the mean and the maximum of the whole map, then a gate per pixel."""

    def __init__(self, width: int, reduction: int) -> None:
        super().__init__()
        self.squeeze = nn.Linear(width, width // reduction)
        self.excite = nn.Linear(width // reduction, width)
        self.spatial = _conv(2, 1, 7)

    def forward(self, x: Tensor) -> Tensor:
        pooled = (x.mean(dim=(-2, -1)), x.amax(dim=(-2, -1)))
        channel = torch.stack([self.excite(F.relu(self.squeeze(p))) for p in pooled]).sum(dim=0)
        x = x * channel.sigmoid()[:, :, None, None]
        pixel = self.spatial(torch.cat([x.amax(dim=1, keepdim=True), x.mean(dim=1, keepdim=True)], dim=1))
        return x * pixel.sigmoid()


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = _conv(width, width, 3), _conv(width, width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.gelu(self.conv1(x)))


@register_model(
    "lambda-PNN",
    tasks=("pansharpening",),
    ratios=(2, 3, 4, 5, 6, 8, 16),
    paper="Ciotola et al., TGRS 61, 2023",
    published_weights="yes",
    needs_weights=False,
    trained=False,
    adapts=True,
)
class LambdaPNN(nn.Module):
    """lambda-PNN. 207,150 parameters for 8 bands (P = 1), as published. `forward` fuses with the weights as they are.

    Args:
        img_channel, condition_channel, out_channel, ratio: see `lemamba.model.build_model`.
        width: feature maps (64 in the paper).
        reduction: of the channel attention (4 in the released code).
    """

    def __init__(
        self,
        img_channel: int,
        condition_channel: int,
        out_channel: int,
        *,
        ratio: int = 4,
        width: int = 64,
        reduction: int = 4,
    ) -> None:
        super().__init__()
        self.head = nn.Sequential(
            _conv(img_channel + condition_channel, width, 3), nn.ReLU(), _conv(width, width, 3), nn.ReLU()
        )
        self.attention1 = _Attention(width, reduction)
        self.blocks = nn.Sequential(_Block(width), _Block(width))
        self.attention2 = _Attention(width, reduction)
        self.tail = _conv(width, out_channel, 5)

    def forward(self, ms: Tensor, lms: Tensor, pan: Tensor) -> Tensor:
        """Fuse: lms (B, C, H, W) and pan (B, P, H, W) in [0, 1] -> sr (B, C, H, W), not clipped; ms is not used."""
        x = self.head(torch.cat([lms, pan], dim=1))
        x = self.blocks(x + self.attention1(x))
        return lms + self.tail(x + self.attention2(x))

    @staticmethod
    def from_published(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rename a state dict of the authors' repository (matciotola/Lambda-PNN)."""
        return rename_modules(state_dict, _NAMES, arch="lambda-PNN")
