"""BDT: dilated window attention on the way down from the guide's size, grouped spectral attention on the way up to it.

Paper: S.-Q. Deng, L.-J. Deng, X. Wu, R. Ran, R. Wen, "Bidirectional dilation transformer for multispectral and
hyperspectral image fusion", IJCAI 2023: D-Spa, G-Spe and the bidirectional hierarchy.
Shapes: ms (B, C, h, w), lms and sr (B, C, H, W), pan (B, P, H, W); inside also channels-last (B, H, W, c).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from lemamba.model.convert import rename_modules
from lemamba.model.layers.window import pad_to_multiple
from lemamba.model.psrt import WindowBlock
from lemamba.utils.registry import register_model

_HEADS = 8
_WINDOW = 8
_EXPANSION = 2.66  # of the gated feed-forward layer
_MERGE = {"norm": "norm", "reduction": "mix"}
_WIDEST = 4  # times `width`, however many levels there are


def dilate(x: Tensor, window: int) -> Tensor:
    """Bring every second pixel together: squares of 2 x window pixels a side become four windows of one parity each.

    Args:
        x: (B, H, W, c), sides are multiples of 2 x window.
        window: side of the windows.
    """
    return rearrange(x, "b (nh h i) (nw w j) c -> b (nh i h) (nw j w) c", h=window, w=window, i=2, j=2)


def contract(x: Tensor, window: int) -> Tensor:
    """Undo `dilate`."""
    return rearrange(x, "b (nh i h) (nw j w) c -> b (nh h i) (nw w j) c", h=window, w=window, i=2, j=2)


class DilatedSpatial(nn.Module):
    """D-Spa: attention within windows, within windows of every second pixel, and within windows again."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second, self.third = (WindowBlock(width, _HEADS, _WINDOW) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, c, H, W) to (B, c, H, W); sides that are no multiples of two windows are mirrored and cut back."""
        H, W = x.shape[-2:]
        y = self.first(pad_to_multiple(x, 2 * _WINDOW).permute(0, 2, 3, 1))
        y = contract(self.second(dilate(y, _WINDOW)), _WINDOW)
        return self.third(y).permute(0, 3, 1, 2)[..., :H, :W]


class Merge(nn.Module):
    """Halve the sides: four pixels become one, normed and mixed linearly."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * channels_in)
        self.mix = nn.Linear(4 * channels_in, channels_out, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, c, H, W), even sides, to (B, d, H/2, W/2)."""
        # order of the four as released: down a column first
        x = rearrange(x, "b c (h i) (w j) -> b h w (j i c)", i=2, j=2)
        return self.mix(self.norm(x)).permute(0, 3, 1, 2)


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the feature maps of (B, c, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, c, H, W) to (B, c, H, W)."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class GroupedAttention(nn.Module):
    """G-Spe: within windows, feature maps attend to each other by the cosine of their pixels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.ones(_HEADS, 1, 1))
        self.qkv = nn.Conv2d(width, 3 * width, 1, bias=False)
        self.spread = nn.Conv2d(3 * width, 3 * width, 3, padding=1, groups=3 * width, bias=False)
        self.project = nn.Conv2d(width, width, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, c, h, w) to (B, c, h, w)."""
        h, w = x.shape[-2:]
        qkv = pad_to_multiple(self.spread(self.qkv(x)), _WINDOW)
        pattern = "b (three heads c) (nh i) (nw j) -> three (b nh nw) heads c (i j)"
        q, k, v = rearrange(qkv, pattern, three=3, heads=_HEADS, i=_WINDOW, j=_WINDOW)
        q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
        shares = (q @ k.transpose(-2, -1) * self.temperature).softmax(dim=-1)
        pattern = "(b nh nw) heads c (i j) -> b (heads c) (nh i) (nw j)"
        y = rearrange(shares @ v, pattern, b=x.shape[0], nh=qkv.shape[-2] // _WINDOW, i=_WINDOW)
        return self.project(y[..., :h, :w])


class GatedForward(nn.Module):
    """Feed-forward layer of two parts, each seeing the neighbours, of which one gates the other."""

    def __init__(self, width: int) -> None:
        super().__init__()
        hidden = 2 * int(width * _EXPANSION)
        self.expand = nn.Conv2d(width, hidden, 1, bias=False)
        self.spread = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden, bias=False)
        self.project = nn.Conv2d(hidden // 2, width, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, c, H, W) to (B, c, H, W)."""
        gate, y = self.spread(self.expand(x)).chunk(2, dim=1)
        return self.project(F.gelu(gate) * y)


class GroupedSpectral(nn.Module):
    """Pre-norm grouped attention and gated feed-forward layer, each with a residual."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = ChannelNorm(width), ChannelNorm(width)
        self.attention, self.feed_forward = GroupedAttention(width), GatedForward(width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, c, H, W) to (B, c, H, W)."""
        x = x + self.attention(self.norm1(x))
        return x + self.feed_forward(self.norm2(x))


def _doubling(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(width, 4 * width, 3, padding=1, bias=False), nn.PixelShuffle(2))


@register_model(
    "BDT", tasks=("hmif",), ratios=(2, 4, 8, 16), paper="Deng et al., IJCAI 2023", published_weights="names only"
)
class BDT(nn.Module):
    """BDT. 2,668,027 parameters for 31 bands and RGB at ratio 4, as the authors' class.

    There are as many levels as sizes between ms and pan. Images that do not fit the windows are mirrored within each
    level, not as a whole. The features of the third and further levels keep four times the width, as released.

    Args:
        img_channel, condition_channel: see `lemamba.model.build_model`.
        out_channel: bands of sr; equal to C.
        ratio: H / h, a power of two.
        width: feature maps at full size on the way down (48 in the released code), a multiple of 8.
        spectral_width: feature maps on the way up, a multiple of 8; None = 48 up to ratio 4, 32 above, as released.
    """

    def __init__(
        self,
        img_channel: int,
        condition_channel: int,
        out_channel: int,
        *,
        ratio: int = 4,
        width: int = 48,
        spectral_width: int | None = None,
    ) -> None:
        super().__init__()
        levels = ratio.bit_length()
        dim = spectral_width or (48 if ratio <= 4 else 32)
        widths = [width * min(2**i, _WIDEST) for i in range(levels)]
        self.head_guide = nn.Conv2d(img_channel + condition_channel, width, 3, padding=1)
        self.spatial = nn.ModuleList(DilatedSpatial(c) for c in widths)
        self.down = nn.ModuleList(Merge(a, b) for a, b in zip(widths, widths[1:], strict=False))
        self.head_ms = nn.Conv2d(img_channel, dim, 3, padding=1, bias=False)
        self.spectral = nn.ModuleList(GroupedSpectral(dim) for _ in range(levels))
        self.up = nn.ModuleList(_doubling(dim) for _ in range(levels - 1))
        self.join = nn.ModuleList()
        active = min(levels - 1, max(2, levels - 2))  # as released: not in the largest size, at ratio 8 not in the next
        for i, c in enumerate(reversed(widths)):
            end = out_channel if i == levels - 1 else dim
            layers = [
                nn.Conv2d(c + dim * (1 if i == 0 else 2), end, 3, padding=1, bias=False),
                nn.Conv2d(end, end, 5, padding=2, bias=False),
            ]
            self.join.append(nn.Sequential(*layers, *([nn.LeakyReLU(0.2)] if i < active else [])))
        self.up_joined = nn.ModuleList(_doubling(dim) for _ in range(levels - 1))
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=0.01)
            elif isinstance(layer, nn.Conv2d) and layer.bias is not None:
                nn.init.zeros_(layer.bias)

    def forward(self, ms: Tensor, lms: Tensor, pan: Tensor) -> Tensor:
        """Fuse: ms, lms and pan (B, P, H, W) in [0, 1] -> sr (B, C, H, W), not clipped."""
        x = self.head_guide(torch.cat([lms, pan], dim=1))
        fine: list[Tensor] = []
        for i, block in enumerate(self.spatial):
            fine.append(block(x if i == 0 else self.down[i - 1](fine[-1])))
        y, joined = self.head_ms(ms), torch.zeros(0)
        for i, block in enumerate(self.spectral):
            y = block(y if i == 0 else self.up[i - 1](y))
            parts = [fine[-1 - i], y]
            if i:
                parts.append(self.up_joined[i - 1](joined))
            joined = self.join[i](torch.cat(parts, dim=1))
        return lms + joined

    @staticmethod
    def from_published(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rename the authors' state dict, of ratio 4 or 8."""
        levels = 4 if any(key.startswith("t.direction1.stage4.") for key in state_dict) else 3
        return rename_modules(state_dict, published_names(levels), arch="BDT")


def published_names(levels: int) -> dict[str, str]:
    """Return the modules' names in the authors' class -> ours."""
    names = {"t.direction1.conv": "head_guide", "t.direction2.patch_embed.proj": "head_ms"}
    parts = {"norm1.body": "norm1", "norm2.body": "norm2", "attn": "attention", "attn.qkv": "attention.qkv"}
    parts |= {"attn.qkv_dwconv": "attention.spread", "attn.project_out": "attention.project"}
    parts |= {"ffn.project_in": "feed_forward.expand", "ffn.dwconv": "feed_forward.spread"}
    parts |= {"ffn.project_out": "feed_forward.project"}
    for i in range(levels):
        theirs, ours = f"t.direction1.stage{i + 1}", f"spatial.{i}"
        for n, block in enumerate(("first", "second", "third")):
            attention = {f"attn{n + 1}.qkv": "qkv", f"attn{n + 1}.proj": "project"}
            norms = {f"norm{2 * n + j}": f"norm{j}" for j in (1, 2)}
            mlp = {f"mlp{n + 1}.fc1": "mlp.0", f"mlp{n + 1}.fc2": "mlp.2"}
            names |= {f"{theirs}.{a}": f"{ours}.{block}.{b}" for a, b in (attention | norms | mlp).items()}
        names |= {f"t.direction2.stage{i + 1}.{a}": f"spectral.{i}.{b}" for a, b in parts.items()}
        names |= {f"t.merge{i + 1}.{j}": f"join.{i}.{j}" for j in (0, 1)}
        if i < levels - 1:
            names |= {f"t.direction1.downsample{i + 1}.{a}": f"down.{i}.{b}" for a, b in _MERGE.items()}
            names |= {f"t.direction2.up{i + 1}_{i + 2}.body.0": f"up.{i}.0", f"t.up{i + 1}.body.0": f"up_joined.{i}.0"}
    return names
