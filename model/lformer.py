"""LFormer: the attention map of one window transformer is evolved from stage to stage instead of recomputed.

Paper: J. Hou, Z. Cao, N. Zheng, X. Li, X. Chen, X. Liu, X. Cong, D. Hong, M. Zhou, "Linearly-evolved transformer for
pan-sharpening", ACM MM 2024.
Shapes: ms (B, C, h, w) is not used, lms and sr (B, C, H, W), pan (B, P, H, W); windows (B * nw, heads, n, c / heads),
attention (B * nw, heads, n, n) with n = 64 pixels of a window.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from lemamba.model.layers.residual import ResidualBlock
from lemamba.model.layers.window import pad_to_multiple
from lemamba.utils.registry import register_model


class ChannelNorm(nn.Module):
    """Layer norm over the channels of (B, c, H, W) with a scale and no shift."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1, width, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, c, H, W) to (B, c, H, W)."""
        x = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        variance, mean = torch.var_mean(x, dim=1, correction=0, keepdim=True)
        return (x - mean) * torch.rsqrt(variance + 1e-5) * self.scale


class Windows:
    """Cut images into windows of tokens per head, and back. Plain arithmetic on shapes, no parameters."""

    def __init__(self, heads: int, side: int) -> None:
        self.heads, self.side = heads, side

    def cut(self, x: Tensor) -> Tensor:
        """(B, c, H, W) -> (B * nw, heads, n, c / heads)."""
        sizes = {"heads": self.heads, "i": self.side, "j": self.side}
        return rearrange(x, "b (heads c) (nh i) (nw j) -> (b nh nw) heads (i j) c", **sizes)

    def join(self, tokens: Tensor, size: Sequence[int]) -> Tensor:
        """(B * nw, heads, n, c / heads) -> (B, c, H, W) with `size` = (H, W)."""
        nh, nw = (n // self.side for n in size)
        sizes = {"nh": nh, "nw": nw, "i": self.side, "j": self.side}
        return rearrange(tokens, "(b nh nw) heads (i j) c -> b (heads c) (nh i) (nw j)", **sizes)


def _projection(channels_in: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels_in, width, 1), nn.Conv2d(width, width, 3, padding=1, groups=width))


class FirstAttention(nn.Module):
    """Window attention with queries from the PAN, keys and values from the MS; returns its map too."""

    def __init__(self, bands: int, guides: int, width: int, windows: Windows, dropout: float) -> None:
        super().__init__()
        self.windows = windows
        self.norm_ms = ChannelNorm(bands)
        # Over a single channel a layer norm is zero everywhere, and the queries would not see the PAN at all
        self.norm_pan = ChannelNorm(guides) if guides > 1 else nn.Identity()
        self.query = _projection(guides, width)
        self.key, self.value = _projection(bands, width), _projection(bands, width)
        self.dropout = nn.Dropout(dropout)
        self.project = nn.Conv2d(width, width, 1)

    def forward(self, lms: Tensor, pan: Tensor) -> tuple[Tensor, Tensor]:
        """Return (attention (B * nw, heads, n, n), features (B, c, H, W))."""
        lms, pan = self.norm_ms(lms), self.norm_pan(pan)
        q, k, v = (self.windows.cut(t) for t in (self.query(pan), self.key(lms), self.value(lms)))
        attention = self.dropout(q @ k.transpose(-2, -1)).softmax(dim=-1)  # unscaled, as published
        return attention, self.project(self.windows.join(attention @ v, lms.shape[-2:]))


class Evolve(nn.Module):
    """One linear step of the attention map: along the keys, across the heads, then a softmax."""

    def __init__(self, heads: int, size: int = 3) -> None:
        super().__init__()
        self.along = nn.Conv2d(heads, heads, (1, size), padding=(0, size // 2), bias=False)
        self.across = nn.Conv2d(heads, heads, 1)
        nn.init.constant_(self.along.weight, 1 / size**2)
        nn.init.ones_(self.across.weight)
        assert self.across.bias is not None
        nn.init.zeros_(self.across.bias)

    def forward(self, attention: Tensor) -> Tensor:
        """Map (B * nw, heads, n, n) to (B * nw, heads, n, n)."""
        return F.relu(self.across(self.along(attention))).softmax(dim=-1)


class Stage(nn.Module):
    """Evolve the attention, apply it to the features, and let the high-pass branch modulate them."""

    def __init__(self, width: int, detail_width: int, windows: Windows, *, first: bool) -> None:
        super().__init__()
        self.windows = windows
        self.evolve = None if first else Evolve(windows.heads)
        self.value = None if first else nn.Conv2d(width, width, 1)
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, groups=width), nn.ReLU(), nn.Conv2d(width, width, 1)
        )
        self.fuse = nn.Conv2d(width + detail_width, width, 3, padding=1)

    def forward(self, attention: Tensor, x: Tensor, detail: Tensor) -> tuple[Tensor, Tensor]:
        """Map attention, features (B, c, H, W) and details (B, d, H, W) to (attention, features)."""
        if self.evolve is not None and self.value is not None:
            attention = self.evolve(attention)
            x = self.windows.join(attention @ self.windows.cut(self.value(x)), x.shape[-2:])
        return attention, x * self.fuse(torch.cat([x + self.body(x), detail], dim=1))


class DetailHead(nn.Module):
    """High-pass features of both images: a depth-wise convolution that starts as a Laplacian, then residual blocks."""

    def __init__(self, bands: int, guides: int, width: int) -> None:
        super().__init__()
        self.ms, self.pan = (
            nn.Sequential(nn.Conv2d(n, n, 3, padding=1, groups=n), nn.Conv2d(n, width, 1)) for n in (bands, guides)
        )
        self.mix = nn.Conv2d(2 * width, width, 1)
        self.body = nn.Sequential(*(ResidualBlock(width) for _ in range(4)))
        laplacian = torch.tensor([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]])
        with torch.no_grad():
            for branch in (self.ms, self.pan):
                for name, value in branch[0].named_parameters():
                    value.copy_(laplacian if name == "weight" else torch.zeros(()))

    def forward(self, lms: Tensor, pan: Tensor) -> Tensor:
        """Map lms (B, C, H, W) and pan (B, P, H, W) to (B, d, H, W)."""
        return self.body(self.mix(torch.cat([self.pan(pan), self.ms(lms)], dim=1)))


class DetailStage(nn.Module):
    """Join attention features and first details to details (B, d, H, W)."""

    def __init__(self, width: int, detail_width: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(width, detail_width, 1)
        self.mix = nn.Conv2d(2 * detail_width, detail_width, 1)
        self.body = nn.Sequential(ResidualBlock(detail_width), ResidualBlock(detail_width))

    def forward(self, x: Tensor, detail: Tensor) -> Tensor:
        """Map features (B, c, H, W) and details (B, d, H, W) to (B, d, H, W)."""
        return self.body(self.mix(torch.cat([self.reduce(x), detail], dim=1)))


@register_model("LFormer", ratios=(2, 4, 8, 16), paper="Hou et al., ACM MM 2024")
class LFormer(nn.Module):
    """LFormer. 2,274,634 parameters for 8 bands (P = 1), 5 stages as in the released configuration.

    The published class also normalises a PAN of one band over its channels, which makes it zero: its queries then do
    not depend on the PAN. Here a single band is not normalised. Images whose sides are not multiples of the window are
    padded by reflection and cropped.

    Args:
        img_channel, condition_channel, out_channel, ratio: see `lemamba.model.build_model`.
        width: attention features (64).
        detail_width: features of the high-pass branch (64).
        depth: stages (5); the first uses the attention map unchanged.
        heads: attention heads (8).
        window: side of a window (8).
        dropout: on the logits of the attention, in training (0.2).
    """

    def __init__(
        self,
        img_channel: int,
        condition_channel: int,
        out_channel: int,
        *,
        ratio: int = 4,
        width: int = 64,
        detail_width: int = 64,
        depth: int = 5,
        heads: int = 8,
        window: int = 8,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        self.multiple = window
        windows = Windows(heads, window)
        self.attention = FirstAttention(img_channel, condition_channel, width, windows, dropout)
        self.detail_head = DetailHead(img_channel, condition_channel, detail_width)
        self.stages = nn.ModuleList(Stage(width, detail_width, windows, first=i == 0) for i in range(depth))
        self.details = nn.ModuleList(DetailStage(width, detail_width) for _ in range(depth + 1))
        both = width + detail_width
        self.tail = nn.Sequential(ResidualBlock(both), ResidualBlock(both), nn.Conv2d(both, out_channel, 1))

    def forward(self, ms: Tensor, lms: Tensor, pan: Tensor) -> Tensor:
        """Fuse: lms (B, C, H, W) and pan (B, P, H, W) in [0, 1] -> sr (B, C, H, W), not clipped; ms is not used."""
        H, W = lms.shape[-2:]
        low, guide = pad_to_multiple(lms, self.multiple), pad_to_multiple(pan, self.multiple)
        attention, x = self.attention(low, guide)
        first_detail = self.detail_head(low, guide)
        for stage, detail in zip(self.stages, self.details, strict=False):
            attention, x = stage(attention, x, detail(x, first_detail))
        detail = self.details[-1](x, first_detail)
        return lms + self.tail(torch.cat([detail, x], dim=1))[..., :H, :W]
