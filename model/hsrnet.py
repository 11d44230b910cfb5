"""HSRNet: features at both sizes of the guide, pixel shuffle, residual blocks, channel and spatial attention.

Paper: J.-F. Hu, T.-Z. Huang, L.-J. Deng, T.-X. Jiang, G. Vivone, J. Chanussot, "Hyperspectral image super-resolution
via deep spatiospectral attention convolutional neural networks", IEEE TNNLS 33(12), 2022.
Shapes: ms (B, C, h, w), lms and sr (B, C, H, W) (lms is not used), pan (B, P, H, W), H = ratio * h.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lemamba.model.layers.residual import ResidualBlock
from lemamba.utils.registry import register_model


@register_model("HSRNet", ratios=(2, 4, 8), paper="Hu et al., TNNLS 33(12), 2022")
class HSRNet(nn.Module):
    """HSRNet. 1,090,206 parameters for 31 bands, RGB and ratio 8 (published: 1.09 M); 633,390 at ratio 4.

    The paper interleaves the bands of the guide with those of the image; a learned convolution does not depend on the
    order of its input channels, so here they are simply stacked.

    Args:
        img_channel, condition_channel: see `lemamba.model.build_model`.
        out_channel: bands of sr; equal to C, since the channel attention is made from ms.
        ratio: H / h.
        width: feature maps of the residual blocks (64 in the paper).
        depth: residual blocks (6 in the paper).
    """

    def __init__(
        self,
        img_channel: int,
        condition_channel: int,
        out_channel: int,
        *,
        ratio: int = 4,
        width: int = 64,
        depth: int = 6,
    ) -> None:
        super().__init__()
        stacked = img_channel + condition_channel
        self.channel_attention = nn.Sequential(nn.Conv2d(img_channel, 1, 1), nn.Conv2d(1, out_channel, 1))
        self.spatial_attention = nn.Conv2d(1, 1, 5, padding=2)
        self.shrink_guide = nn.Conv2d(condition_channel, condition_channel, 6, stride=ratio, padding=2)
        self.enlarge = nn.Sequential(
            nn.Conv2d(stacked, img_channel * ratio * ratio, 3, padding=1), nn.PixelShuffle(ratio)
        )
        self.head = nn.Conv2d(stacked, width, 3, padding=1)
        self.blocks = nn.Sequential(*(ResidualBlock(width) for _ in range(depth)))
        self.tail = nn.Conv2d(width, out_channel, 3, padding=1)

    def forward(self, ms: Tensor, lms: Tensor, pan: Tensor) -> Tensor:
        """Fuse: ms (B, C, h, w) and pan (B, P, H, W) in [0, 1] -> sr (B, C, H, W), not clipped; lms is not used."""
        by_channel = self.channel_attention(ms.mean(dim=(-2, -1), keepdim=True))
        by_pixel = self.spatial_attention(pan.mean(dim=1, keepdim=True))
        x = self.enlarge(torch.cat([ms, self.shrink_guide(pan)], dim=1))
        x = self.blocks(self.head(torch.cat([x, pan], dim=1)))
        return by_channel * self.tail(by_pixel * x)
