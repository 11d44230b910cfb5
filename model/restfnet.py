"""ResTFNet: two encoders, fusion at half and quarter size, a decoder with skips; residual blocks throughout.

Paper: X. Liu, Q. Liu, Y. Wang, "Remote sensing image fusion based on two-stream fusion network", Information Fusion
55, 2020 (ResTFNet is its residual variant).
Shapes: ms (B, C, h, w) is not used, lms and sr (B, C, H, W), pan (B, P, H, W).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lemamba.model.layers.window import pad_to_multiple
from lemamba.utils.registry import register_model


def _conv(channels_in: int, channels_out: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels_in, channels_out, 3, padding=1), nn.PReLU())


def _two(width: int) -> nn.Sequential:
    return nn.Sequential(_conv(width, width), _conv(width, width))


def _down(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(width, 2 * width, 2, stride=2), nn.PReLU())


def _up(width: int) -> nn.Sequential:
    return nn.Sequential(nn.ConvTranspose2d(width, width // 2, 2, stride=2), nn.PReLU())


class Encoder(nn.Module):
    """One stream: (B, bands, H, W) -> features (B, 32, H, W) for the skip and (B, 64, H/2, W/2) for the fusion."""

    def __init__(self, bands: int, width: int) -> None:
        super().__init__()
        self.head = _conv(bands, width)
        self.body = _two(width)
        self.down = _down(width)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return (skip, halved)."""
        x = self.head(x)
        skip = self.body(x)
        return skip, self.down(x + skip)


@register_model("ResTFNet", ratios=(2, 4, 8, 16), paper="Liu et al., Information Fusion 55, 2020")
class ResTFNet(nn.Module):
    """ResTFNet. 2,262,131 parameters for 31 bands and RGB; published in comparisons: 2.387 M.

    Built as the authors of SSR-Net describe it for fusion with hyperspectral data, with one PReLU slope per layer; the
    count is theirs. The 2.387 M of later comparisons is the count of the plain TFNet in the same repository, 2,386,801:
    without residuals it needs no 1x1 convolutions before them (-41,152), mixes by 3x3 (+368,832), and has one 3x3 less
    in each stream (-18,496) and in both decoder steps (-184,512), and two slopes less. Images whose sides are not
    multiples of 4 are padded by reflection and cropped.

    Args:
        img_channel, condition_channel, out_channel, ratio: see `lemamba.model.build_model`.
        width: feature maps of each stream at full size (32 in the paper).
    """

    def __init__(
        self, img_channel: int, condition_channel: int, out_channel: int, *, ratio: int = 4, width: int = 32
    ) -> None:
        super().__init__()
        self.encode_ms = Encoder(img_channel, width)
        self.encode_pan = Encoder(condition_channel, width)
        self.fuse = _two(4 * width)
        self.down = _down(4 * width)
        self.bottom = _two(8 * width)
        self.up1 = _up(8 * width)
        self.mix1 = nn.Conv2d(8 * width, 4 * width, 1)
        self.decode1 = _two(4 * width)
        self.up2 = _up(4 * width)
        self.mix2 = nn.Conv2d(4 * width, 2 * width, 1)
        self.decode2 = _two(2 * width)
        self.tail = _conv(2 * width, out_channel)

    def forward(self, ms: Tensor, lms: Tensor, pan: Tensor) -> Tensor:
        """Fuse: lms (B, C, H, W) and pan (B, P, H, W) in [0, 1] -> sr (B, C, H, W), not clipped; ms is not used."""
        H, W = lms.shape[-2:]
        skip_ms, low_ms = self.encode_ms(pad_to_multiple(lms, 4))
        skip_pan, low_pan = self.encode_pan(pad_to_multiple(pan, 4))
        x = torch.cat([low_pan, low_ms], dim=1)
        fused = x + self.fuse(x)
        x = self.down(fused)
        x = self.up1(x + self.bottom(x))
        x = self.mix1(torch.cat([fused, x], dim=1))
        x = self.up2(x + self.decode1(x))
        x = self.mix2(torch.cat([skip_ms, skip_pan, x], dim=1))
        return self.tail(x + self.decode2(x))[..., :H, :W]
