"""MIMO-SST: guide and cube exchange feature maps at three sizes, then a small U turns them into a residual per size.

Paper: J. Fang, J. Yang, A. Khader, L. Xiao, "MIMO-SST: Multi-input multi-output spatial-spectral transformer for
hyperspectral and multispectral image fusion", IEEE TGRS 62, 2024. The class docstring lists what is left out.
Shapes: ms (B, C, h, w) is not used, lms and sr (B, C, H, W), pan (B, P, H, W); size s of the pyramid has sides H / 2^s.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from lemamba.model.layers.window import pad_to_multiple
from lemamba.utils.registry import register_model


def _normed(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    """Layer norm over the channels of x (B, c, H, W)."""
    return norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ExchangeBlock(nn.Module):
    """Each stream weighs the feature maps of the other by their correlation with its own; both share the weights.

    A map is one token: the attention matrix is (c / heads)^2, computed from all pixels.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = nn.Sequential(
            nn.Conv2d(width, 3 * width, 1, bias=False),
            nn.Conv2d(3 * width, 3 * width, 3, padding=1, groups=3 * width, bias=False),
        )
        self.guide_temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.cube_temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.project = nn.Conv2d(width, width, 1, bias=False)
        self.feed = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.GELU())

    def tokens(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return (query, key, value), each (B, heads, c / heads, H * W), query and key of unit length over pixels."""
        qkv = self.qkv(_normed(self.norm1, x))
        q, k, v = rearrange(qkv, "b (three heads c) h w -> three b heads c (h w)", three=3, heads=self.heads)
        return F.normalize(q, dim=-1), F.normalize(k, dim=-1), v

    def forward(self, guide: Tensor, cube: Tensor) -> tuple[Tensor, Tensor]:
        """Map guide and cube features, both (B, c, H, W), to the same after the exchange."""
        guide_q, guide_k, guide_v = self.tokens(guide)
        cube_q, cube_k, cube_v = self.tokens(cube)
        to_guide = (cube_q @ guide_k.transpose(-2, -1) * self.guide_temperature).softmax(dim=-1) @ cube_v
        to_cube = (guide_q @ cube_k.transpose(-2, -1) / self.cube_temperature).softmax(dim=-1) @ guide_v
        guide = guide + self.project(to_guide.reshape(guide.shape))
        cube = cube + to_cube.reshape(cube.shape)  # the released class projects one of the two only
        return guide + self.feed(_normed(self.norm2, guide)), cube + self.feed(_normed(self.norm2, cube))


def _down(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(width, width // 2, 3, padding=1, bias=False), nn.PixelUnshuffle(2))


def _up(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(width, 2 * width, 3, padding=1, bias=False), nn.PixelShuffle(2))


@register_model("MIMO-SST", ratios=(2, 4, 8, 16), paper="Fang et al., TGRS 62, 2024")
class MIMOSST(nn.Module):
    """MIMO-SST. 1,621,984 parameters for 31 bands, RGB and three outputs; published: 4.983 M.

    The published count is that of the authors' released class, 4,983,042, two thirds of which are layers that it makes
    and never uses: a fourth level (2,893,824), a convolution from 240 to 192 features (414,912), and in the block a
    second convolution of the feed-forward part (20,784), a whole attention (10,513) and the unused parts of three more
    (21,025). Without these 3,361,058 the counts are equal. The paper describes more than that class has (a gated
    feed-forward part with convolutions of several sizes, channel transformers in the encoder and the decoder); this is
    the released network.

    One set of weights embeds the images of all sizes, which are every second pixel of the size above. Residuals are
    added to lms, and sr is clamped at 0. Sides that are not multiples of 4 are padded by reflection and cropped. The
    attention covers all pixels: fuse large images in tiles of about the size of the training patches.

    Training: the released code adds, over the three sizes, L1 + 0.01 * mean |FFT(sr_s) - FFT(gt_s)|, gt_s being every
    2^s-th pixel of gt; the paper adds a loss on wavelet details. This project's losses see sr alone: with the default
    ``outputs=1`` the network has no head for the quarter size (53,599 parameters less at 31 bands), which such a loss
    would never train. ``outputs=3`` adds it, and `forward_scales` returns the images for a loss on all sizes.

    Args:
        img_channel, condition_channel, out_channel, ratio: see `lemamba.model.build_model`.
        width: features of a stream (48 in the paper).
        heads: heads of the exchange (1).
        outputs: number of sizes that `forward_scales` returns, 1 to 3.
    """

    def __init__(
        self,
        img_channel: int,
        condition_channel: int,
        out_channel: int,
        *,
        ratio: int = 4,
        width: int = 48,
        heads: int = 1,
        outputs: int = 1,
    ) -> None:
        super().__init__()
        self.outputs = outputs
        self.embed_guide = nn.Conv2d(condition_channel, width, 3, padding=1)
        self.embed_cube = nn.Conv2d(img_channel, width, 3, padding=1)
        self.exchange = ExchangeBlock(width, heads)
        stacked = 2 * width + condition_channel + img_channel
        self.embed_both = nn.Conv2d(stacked, width, 3, padding=1, bias=False)
        self.down1, self.down2 = _down(width), _down(2 * width)
        self.merge1 = nn.Conv2d(3 * width, 2 * width, 3, padding=1)
        self.merge2 = nn.Conv2d(5 * width, 4 * width, 3, padding=1)
        self.up2, self.up1 = _up(4 * width), _up(2 * width)
        self.reduce = nn.Conv2d(4 * width, 2 * width, 1, bias=False)
        self.tail = nn.Conv2d(2 * width, out_channel, 3, padding=1)  # of the full and the half size
        self.quarter_tail = nn.Conv2d(4 * width, out_channel, 3, padding=1) if outputs > 2 else None

    def _encode(self, lms: Tensor, pan: Tensor) -> Tensor:
        """Features (B, width, ., .) of one size."""
        guide, cube = self.exchange(self.embed_guide(pan), self.embed_cube(lms))
        return self.embed_both(torch.cat([guide, cube, pan, lms], dim=1))

    def forward_scales(self, ms: Tensor, lms: Tensor, pan: Tensor) -> list[Tensor]:
        """Fuse at `outputs` sizes, the largest first.

        Args:
            ms: (B, C, h, w), not used.
            lms: (B, C, H, W) in [0, 1].
            pan: (B, P, H, W) in [0, 1].

        Returns:
            [sr, sr / 2, sr / 4][:outputs]: (B, C, ceil(H / 2^s), ceil(W / 2^s)), to be compared with every 2^s-th pixel
            of gt. Only sr is clamped at 0.
        """
        H, W = lms.shape[-2:]
        lms, pan = pad_to_multiple(lms, 4), pad_to_multiple(pan, 4)
        cubes = [lms[..., ::step, ::step] for step in (1, 2, 4)]
        full, half, quarter = (self._encode(x, pan[..., ::s, ::s]) for x, s in zip(cubes, (1, 2, 4), strict=True))
        half = self.merge1(torch.cat([self.down1(full), half], dim=1))
        quarter = self.merge2(torch.cat([self.down2(half), quarter], dim=1))
        half = self.reduce(torch.cat([self.up2(quarter), half], dim=1))
        full = torch.cat([self.up1(half), full], dim=1)
        found = [F.relu(cubes[0] + self.tail(full))]
        if self.outputs > 1:
            found.append(cubes[1] + self.tail(half))
        if self.quarter_tail is not None:
            found.append(cubes[2] + self.quarter_tail(quarter))
        return [sr[..., : -(-H // 2**s), : -(-W // 2**s)] for s, sr in enumerate(found)]

    def forward(self, ms: Tensor, lms: Tensor, pan: Tensor) -> Tensor:
        """Fuse: lms (B, C, H, W) and pan (B, P, H, W) in [0, 1] -> sr (B, C, H, W) >= 0; ms is not used."""
        return self.forward_scales(ms, lms, pan)[0]
