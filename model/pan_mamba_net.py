"""Pan-Mamba: one-dimensional Mamba over all pixels of both images, with channels swapped and streams crossed.

Paper: X. He, K. Cao, J. Zhang, K. Yan, Y. Wang, R. Li, C. Xie, D. Hong, M. Zhou, "Pan-Mamba: Effective pan-sharpening
with state space model", Information Fusion 115, 2025 (arXiv 2402.12192). (`panMamba.py` is LE-Mamba.)
Shapes: ms (B, C, h, w) is not used, lms and sr (B, C, H, W), pan (B, P, H, W); tokens (B, L, c), L = H * W.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lemamba.model.layers.mamba import Mamba, TwoStreamMamba
from lemamba.utils.registry import register_model


class HalfInstanceBlock(nn.Module):
    """Residual block; one half of the channels is normalised over the image between its two convolutions."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.norm = nn.InstanceNorm2d(width // 2, affine=True)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, c, H, W) to (B, c, H, W)."""
        y = F.leaky_relu(self.conv1(x), 0.2)
        first, second = y.chunk(2, dim=1)
        y = torch.cat([self.norm(first), second], dim=1)
        return x + F.leaky_relu(self.conv2(y), 0.2)


class MambaBlock(nn.Module):
    """Add to the residual, normalise, scan: the residual is carried next to the features, as in Mamba's own blocks."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.scan = Mamba(width)

    def forward(self, x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        """Map (features, residual), both (B, L, c), to the next pair."""
        residual = x + residual
        return self.scan(self.norm(residual)), residual


class ChannelSwapBlock(nn.Module):
    """Exchange the first half of the channels between MS and PAN tokens, then scan each."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm_ms, self.norm_pan = nn.LayerNorm(width), nn.LayerNorm(width)
        self.scan_ms, self.scan_pan = Mamba(width), Mamba(width)

    def forward(self, ms: tuple[Tensor, Tensor], pan: tuple[Tensor, Tensor]) -> tuple[tuple, tuple]:
        """Map two pairs (features, residual) of (B, L, c) to the next two pairs."""
        residual_ms, residual_pan = sum(ms), sum(pan)
        x, y = self.norm_ms(residual_ms), self.norm_pan(residual_pan)
        half = x.shape[-1] // 2
        x, y = (
            torch.cat([y[..., :half], x[..., half:]], dim=-1),
            torch.cat([x[..., :half], y[..., half:]], dim=-1),
        )
        return (self.scan_ms(x), residual_ms), (self.scan_pan(y), residual_pan)


class CrossModalBlock(nn.Module):
    """Scan MS and PAN tokens together, then a depth-wise convolution with a residual."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm_ms, self.norm_pan = nn.LayerNorm(width), nn.LayerNorm(width)
        self.scan = TwoStreamMamba(width)
        self.conv = nn.Conv2d(width, width, 3, padding=1, groups=width)

    def forward(self, x: Tensor, residual: Tensor, pan: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Map (features, residual) and PAN tokens, all (B, L, c), to the next pair; `size` is (H, W)."""
        residual = x + residual
        # Each norm is applied twice in the published network; the second is not the identity, so it stays.
        x = self.norm_ms(self.norm_ms(residual))
        x = self.scan(x, self.norm_pan(self.norm_pan(pan)))
        image = x.transpose(1, 2).unflatten(-1, size)
        return _tokens(image + self.conv(image)), residual


class Refine(nn.Module):
    """Convolution, a residual block under channel attention, and the convolution to the bands of sr."""

    def __init__(self, width: int, out_channel: int) -> None:
        super().__init__()
        self.head = nn.Conv2d(width, width, 3, padding=1)
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1)
        )
        self.attention = nn.Sequential(
            nn.Conv2d(width, width // 4, 1), nn.ReLU(), nn.Conv2d(width // 4, width, 1), nn.Sigmoid()
        )
        self.tail = nn.Conv2d(width, out_channel, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, c, H, W) to (B, C, H, W)."""
        x = self.head(x)
        y = self.body(x)
        return self.tail(x + y * self.attention(y.mean(dim=(-2, -1), keepdim=True)))


def _tokens(x: Tensor) -> Tensor:
    return x.flatten(2).transpose(1, 2)


def _encoder(bands: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(bands, width, 3, padding=1), *(HalfInstanceBlock(width) for _ in range(3)))


@register_model("PanMamba", ratios=(2, 4, 8, 16), paper="He et al., Information Fusion 115, 2025")
class PanMamba(nn.Module):
    """Pan-Mamba. 474,352 parameters for 8 bands (P = 1); published: 0.48 M.

    The authors' code creates a 1x1 convolution in every residual block and a norm after each token layer and never uses
    them; they are left out. It enlarges ms by repetition; here lms comes from the data, and sr = lms + out.

    Args:
        img_channel, condition_channel, out_channel, ratio: see `lemamba.model.build_model`.
        width: feature maps and token width (32 in the paper).
        depth: Mamba blocks for each image (8), before 2 that swap channels.
        cross_depth: blocks that scan both images (5).
    """

    def __init__(
        self,
        img_channel: int,
        condition_channel: int,
        out_channel: int,
        *,
        ratio: int = 4,
        width: int = 32,
        depth: int = 8,
        cross_depth: int = 5,
    ) -> None:
        super().__init__()
        self.encode_ms, self.encode_pan = _encoder(img_channel, width), _encoder(condition_channel, width)
        self.embed_ms, self.embed_pan = nn.Conv2d(width, width, 1), nn.Conv2d(width, width, 1)
        self.blocks_ms = nn.ModuleList(MambaBlock(width) for _ in range(depth))
        self.blocks_pan = nn.ModuleList(MambaBlock(width) for _ in range(depth))
        self.swap = nn.ModuleList(ChannelSwapBlock(width) for _ in range(2))
        self.mix_ms = nn.Conv2d(2 * width, width, 3, padding=1)
        self.mix_pan = nn.Conv2d(2 * width, width, 3, padding=1)
        self.cross = nn.ModuleList(CrossModalBlock(width) for _ in range(cross_depth))
        self.refine = Refine(width, out_channel)

    def forward(self, ms: Tensor, lms: Tensor, pan: Tensor) -> Tensor:
        """Fuse: lms (B, C, H, W) and pan (B, P, H, W) in [0, 1] -> sr (B, C, H, W), not clipped; ms is not used."""
        size = lms.shape[-2:]
        x = _tokens(self.embed_ms(self.encode_ms(lms)))
        y = _tokens(self.embed_pan(self.encode_pan(pan)))
        x_pair, y_pair = (x, torch.zeros_like(x)), (y, torch.zeros_like(y))
        for block_x, block_y in zip(self.blocks_ms, self.blocks_pan, strict=True):
            x_pair, y_pair = block_x(*x_pair), block_y(*y_pair)
        for block in self.swap:
            x_pair, y_pair = block(x_pair, y_pair)
        x, y = (pair[0].transpose(1, 2).unflatten(-1, size) for pair in (x_pair, y_pair))
        x = x + self.mix_ms(torch.cat([x, y], dim=1))
        y = y + self.mix_pan(torch.cat([y, x], dim=1))
        x, y = _tokens(self.embed_ms(x)), _tokens(self.embed_pan(y))  # the same layers as at the start
        residual = torch.zeros_like(x)
        for block in self.cross:
            x, residual = block(x, residual, y, size)
        return lms + self.refine(x.transpose(1, 2).unflatten(-1, size))
