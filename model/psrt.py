"""PSRT: window attention in a pyramid of window sizes, with windows shuffled and restored in between.

Paper: S.-Q. Deng, L.-J. Deng, X. Wu, R. Ran, D. Hong, G. Vivone, "PSRT: Pyramid shuffle-and-reshuffle transformer for
multispectral and hyperspectral image fusion", IEEE TGRS 61, 2023.
Shapes: ms (B, C, h, w) is not used, lms and sr (B, C, H, W), pan (B, P, H, W); inside channels-last (B, H, W, c).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from lemamba.model.convert import rename_modules
from lemamba.model.layers.window import pad_to_multiple, window_merge, window_partition
from lemamba.utils.registry import register_model

_WINDOWS = (8, 4, 2)
_DEPTH = 2
_SCALE = 4.0  # factor on the logits in the authors' code, where others have head_width ** -0.5


def shuffle(x: Tensor, window: int) -> Tensor:
    """Gather distant pixels into one window: even and odd half-windows go to the two halves of each axis.

    Args:
        x: (B, H, W, c), sides are multiples of `window`.
        window: even side; squares of half this side are moved.
    """
    d = window // 2
    return rearrange(x, "b (nh i dh) (nw j dw) c -> b (i nh dh) (j nw dw) c", i=2, j=2, dh=d, dw=d)


def reshuffle(x: Tensor, window: int) -> Tensor:
    """Undo `shuffle`."""
    d = window // 2
    return rearrange(x, "b (i nh dh) (j nw dw) c -> b (nh i dh) (nw j dw) c", i=2, j=2, dh=d, dw=d)


class WindowBlock(nn.Module):
    """Pre-norm attention within windows, then a pre-norm MLP, each with a residual."""

    def __init__(self, width: int, heads: int, window: int, mlp_ratio: int = 4) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, mlp_ratio * width), nn.GELU(), nn.Linear(mlp_ratio * width, width))

    def attend(self, x: Tensor) -> Tensor:
        """Attention within the windows of x (B, H, W, c)."""
        windows = window_partition(x, self.window)
        qkv = self.qkv(windows)
        q, k, v = rearrange(qkv, "n h w (three heads c) -> three n heads (h w) c", three=3, heads=self.heads)
        y = F.scaled_dot_product_attention(q, k, v, scale=_SCALE)
        y = self.project(rearrange(y, "n heads (h w) c -> n h w (heads c)", h=self.window))
        return window_merge(y, (x.shape[1], x.shape[2]))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, c) to (B, H, W, c)."""
        x = x + self.attend(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class ShuffleBlock(nn.Module):
    """Attention in windows, in shuffled windows, and in the old windows again, with a residual over all three."""

    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__()
        self.window = window
        self.first, self.second, self.third = (WindowBlock(width, heads, window) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, c) to (B, H, W, c)."""
        y = shuffle(self.first(x), self.window)
        y = reshuffle(self.second(y), self.window)
        return x + self.third(y)


@register_model("PSRT", ratios=(2, 4, 8, 16), paper="Deng et al., TGRS 61, 2023", published_weights="yes")
class PSRT(nn.Module):
    """PSRT. 247,455 parameters for 31 bands and RGB, as published (0.247 M).

    At the start of training, every block nearly returns its input and adds it to itself: the features double from block
    to block, and after six blocks they are 64 times those of the first convolution. As released, training therefore
    starts from an output tens of times further from gt than lms. Here the features are divided by that known gain,
    which is the same network with a rescaled last convolution (`from_published` rescales that of released weights).
    Biases of both convolutions start at zero, as released.

    Images whose sides are no multiples of the largest window are padded by reflection and cut back.

    Args:
        img_channel, condition_channel, out_channel, ratio: see `lemamba.model.build_model`.
        width: feature maps (32 in the paper).
        heads: attention heads (8).
        windows: window sides of one pyramid (8, 4, 2).
        depth: pyramids (2).
    """

    def __init__(
        self,
        img_channel: int,
        condition_channel: int,
        out_channel: int,
        *,
        ratio: int = 4,
        width: int = 32,
        heads: int = 8,
        windows: tuple[int, ...] = _WINDOWS,
        depth: int = _DEPTH,
    ) -> None:
        super().__init__()
        self.multiple = max(windows)
        self.head = nn.Conv2d(img_channel + condition_channel, width, 3, padding=1)
        self.blocks = nn.Sequential(*(ShuffleBlock(width, heads, w) for _ in range(depth) for w in windows))
        self.tail = nn.Conv2d(width, out_channel, 3, padding=1)
        self.gain = 2.0 ** -len(self.blocks)  # a power of two: exact in every floating type
        for convolution in (self.head, self.tail):
            assert convolution.bias is not None
            nn.init.zeros_(convolution.bias)
        for layer in self.blocks.modules():
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=0.01)  # as published: attention starts almost uniform

    def forward(self, ms: Tensor, lms: Tensor, pan: Tensor) -> Tensor:
        """Fuse: lms (B, C, H, W) and pan (B, P, H, W) in [0, 1] -> sr (B, C, H, W), not clipped; ms is not used."""
        H, W = lms.shape[-2:]
        x = self.head(pad_to_multiple(torch.cat([lms, pan], dim=1), self.multiple))
        x = self.blocks(x.permute(0, 2, 3, 1).contiguous()).permute(0, 3, 1, 2)
        return lms + F.leaky_relu(self.tail(x * self.gain), 0.2)[..., :H, :W]

    @staticmethod
    def from_published(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rename a state dict of shangqideng/PSRT or Caoxuheng/HIFtool, and multiply the last weights by 2**blocks.

        That factor is the one by which `forward` divides the features; it is a power of two, so nothing is rounded.
        """
        renamed = rename_modules(state_dict, _published_names(), arch="PSRT")
        gain = 2.0 ** (_DEPTH * len(_WINDOWS))
        return {k: v * gain if k == "tail.weight" else v for k, v in renamed.items()}


def _published_names() -> dict[str, str]:
    names = {"w.conv": "head", "conv.0": "tail"}
    parts = {part: part for part in ("norm1", "norm2")} | {"attn.qkv": "qkv", "attn.proj": "project"}
    parts |= {"mlp.fc1": "mlp.0", "mlp.fc2": "mlp.2"}
    for block in range(_DEPTH * len(_WINDOWS)):
        pyramid, level = divmod(block, len(_WINDOWS))
        for i, ours in enumerate(("first", "second", "third"), 1):
            theirs = f"w.layers.{pyramid}.layers.{level}.WA{i}"
            names |= {f"{theirs}.{a}": f"blocks.{block}.{ours}.{b}" for a, b in parts.items()}
    return names
