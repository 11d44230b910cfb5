"""Fusformer: every pixel, with its spectrum and its guide, is a token; a transformer predicts the residual.

Paper: J.-F. Hu, T.-Z. Huang, L.-J. Deng, H.-X. Dou, D. Hong, G. Vivone, "Fusformer: A transformer-based fusion network
for hyperspectral image super-resolution", IEEE GRSL 19, 2022.
Shapes: ms (B, C, h, w) is not used, lms and sr (B, C, H, W), pan (B, P, H, W); tokens (B, L, c).
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


class SelfAttention(nn.Module):
    """Pre-norm multi-head self-attention over all tokens, with a residual."""

    def __init__(self, width: int, heads: int, head_width: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * heads * head_width, bias=False)
        self.project = nn.Linear(heads * head_width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, L, c) to (B, L, c)."""
        q, k, v = rearrange(
            self.qkv(self.norm(x)), "b l (three heads c) -> three b heads l c", three=3, heads=self.heads
        )
        y = F.scaled_dot_product_attention(q, k, v)
        return x + self.project(rearrange(y, "b heads l c -> b l (heads c)"))


class FeedForward(nn.Module):
    """Pre-norm MLP with one hidden layer, with a residual."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, hidden), nn.LeakyReLU(), nn.Linear(hidden, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, L, c) to (B, L, c)."""
        return x + self.net(x)


_DEPTH = 2


@register_model("Fusformer", ratios=(2, 4, 8, 16), paper="Hu et al., GRSL 19, 2022", published_weights="yes")
class Fusformer(nn.Module):
    """Fusformer. 111,247 parameters for 31 bands and RGB; published: 0.504 M.

    The published count holds two tables of 64 * 64 * 48 position embeddings (393,216 numbers) that the authors' code
    creates and never uses; without them the counts are equal. Attention is over all pixels, so time grows with the
    square of their number: images larger than `window` are cut into windows of that side for the attention, which is
    how the authors test on large images. The paper enlarges bicubically; here lms comes from the data, and is clamped
    to [0, 1] as in the released code, since interpolation overshoots.

    Args:
        img_channel, condition_channel, out_channel, ratio: see `lemamba.model.build_model`.
        width: token width (48 in the paper).
        heads: attention heads (3).
        depth: encoder layers and decoder layers (2 each).
        window: largest side over which attention is global.
    """

    def __init__(
        self,
        img_channel: int,
        condition_channel: int,
        out_channel: int,
        *,
        ratio: int = 4,
        width: int = 48,
        heads: int = 3,
        depth: int = _DEPTH,
        window: int = 64,
    ) -> None:
        super().__init__()
        self.window = window
        head_width = width // heads
        self.embed = nn.Linear(img_channel + condition_channel, width)
        layers: list[nn.Module] = []
        for attentions in [1] * depth + [2] * depth:  # a decoder layer attends twice
            layers += [SelfAttention(width, heads, head_width) for _ in range(attentions)]
            layers += [FeedForward(width, width)]
        self.layers = nn.Sequential(*layers)
        self.refine = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1), nn.LeakyReLU(), nn.Conv2d(width, out_channel, 3, padding=1)
        )

    def forward(self, ms: Tensor, lms: Tensor, pan: Tensor) -> Tensor:
        """Fuse: lms (B, C, H, W) and pan (B, P, H, W) in [0, 1] -> sr (B, C, H, W), not clipped; ms is not used."""
        H, W = lms.shape[-2:]
        lms = lms.clamp(0, 1)
        x = torch.cat([lms, pan], dim=1)
        if max(H, W) > self.window:
            x = pad_to_multiple(x, self.window)
        x = self.embed(x.permute(0, 2, 3, 1))
        size = x.shape[1:3]
        windows = window_partition(x, self.window) if max(size) > self.window else x
        tokens = self.layers(windows.flatten(1, 2)).view(windows.shape)
        x = window_merge(tokens, size) if max(size) > self.window else tokens
        return lms + self.refine(x.permute(0, 3, 1, 2))[..., :H, :W]

    @staticmethod
    def from_published(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rename a state dict of the authors or of Caoxuheng/HIFtool, without the tables of positions never used."""
        used = {k: v for k, v in state_dict.items() if not k.endswith(".pos_embedding")}
        return rename_modules(used, _published_names(), arch="Fusformer")


def _published_names() -> dict[str, str]:
    names = {"Embedding.0": "embed", "refine.0": "refine.0", "refine.2": "refine.2"}
    attention = {"norm": "norm", "fn.to_qkv": "qkv", "fn.to_out.0": "project"}
    feed = {"norm": "net.0", "fn.net.0": "net.1", "fn.net.3": "net.3"}
    ours = 0
    for part, attentions in (("T_E", 1), ("T_D", 2)):
        for layer in range(_DEPTH):
            for i in range(attentions + 1):
                block = attention if i < attentions else feed
                names |= {f"{part}.layers.{layer}.{i}.fn.{a}": f"layers.{ours}.{b}" for a, b in block.items()}
                ours += 1
    return names
