"""WFANet: Haar wavelets of the PAN features, each of the four sub-bands attending to the fused features.

Paper: J. Huang, R. Huang, J. Xu, S. Peng, Y. Duan, L.-J. Deng, "Wavelet-assisted multi-frequency attention network for
pansharpening", AAAI 2025.
Shapes: ms (B, C, h, w), lms and sr (B, C, H, W), pan (B, P, H, W); features (B, c, H, W), halved from level to level.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from lemamba.model.convert import rename_modules
from lemamba.model.layers.window import pad_to_multiple, window_merge, window_partition
from lemamba.utils.errors import UserError
from lemamba.utils.registry import register_model

BANDS = ("ll", "lh", "hl", "hh")  # low or high along the columns, then along the rows


def haar(x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Split x (B, c, 2h, 2w) into the sub-bands ll, lh, hl and hh (B, c, h, w): means and half differences."""
    a, b, c, d = rearrange(x, "b c (h i) (w j) -> (i j) b c h w", i=2, j=2)
    return (a + b + c + d) / 4, (a + b - c - d) / 4, (a - b + c - d) / 4, (a - b - c + d) / 4


def inverse_haar(ll: Tensor, lh: Tensor, hl: Tensor, hh: Tensor) -> Tensor:
    """Join four sub-bands (B, c, h, w) to (B, c, 2h, 2w): the exact inverse of `haar`."""
    pixels = torch.stack([ll + lh + hl + hh, ll + lh - hl - hh, ll - lh + hl - hh, ll - lh - hl + hh])
    return rearrange(pixels, "(i j) b c h w -> b c (h i) (w j)", i=2, j=2)


class ResidualBlock(nn.Module):
    """``x + conv2(prelu(conv1(x)))``, 3x3."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.act = nn.PReLU(width, init=0.01)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, c, H, W) to (B, c, H, W)."""
        return x + self.conv2(self.act(self.conv1(x)))


class FeedForward(nn.Module):
    """Convolution to half the width, a residual 3x3 and 1x1 there, convolution back.

    Args:
        width: c.
        size: kernel side of the outer two convolutions; 3 dilates the first by 2, as published.
    """

    def __init__(self, width: int, size: int) -> None:
        super().__init__()
        half, dilation = width // 2, 2 if size == 3 else 1
        self.first = nn.Conv2d(width, half, size, padding=dilation * (size // 2), dilation=dilation)
        self.conv1 = nn.Conv2d(half, half, 3, padding=1)
        self.act = nn.PReLU(half, init=0.01)
        self.conv2 = nn.Conv2d(half, half, 1)
        self.last = nn.Conv2d(half, width, size, padding=size // 2)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, c, H, W) to (B, c, H, W)."""
        x = self.first(x)
        return self.last(x + self.conv2(self.act(self.conv1(x))))


class Combine(nn.Module):
    """Residual block of ``a x + b y + (1 - a - b) z`` with learned a and b."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.tensor(0.33)), nn.Parameter(torch.tensor(0.33))
        self.block = ResidualBlock(width)

    def forward(self, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        """Join three maps (B, c, H, W) to one."""
        return self.block(self.a * x + self.b * y + (1 - self.a - self.b) * z)


def _mlp(width: int, dropout: float) -> list[nn.Module]:
    return [nn.Linear(width, 2 * width), nn.LeakyReLU(0.01), nn.Linear(2 * width, width), nn.Dropout(dropout)]


class FrequencyAttention(nn.Module):
    """Attention with a frequency query, a spatial key and a fusion value; MLPs make each of them and the result."""

    def __init__(self, width: int, head_width: int, dropout: float) -> None:
        super().__init__()
        self.head_width = head_width
        self.query, self.key, self.value = (nn.Sequential(nn.LayerNorm(width), *_mlp(width, dropout)) for _ in range(3))
        self.mlp1, self.mlp2 = (nn.Sequential(*_mlp(width, dropout)) for _ in range(2))

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Map tokens q, k, v (B, L, c) to (B, L, c)."""
        value = self.value(v)
        heads = (rearrange(t, "b l (n d) -> b n l d", d=self.head_width) for t in (self.query(q), self.key(k), value))
        x = value + self.mlp1(rearrange(F.scaled_dot_product_attention(*heads), "b n l d -> b l (n d)"))
        return x + self.mlp2(x)


class Level(nn.Module):
    """One level of the wavelet pyramid: multi-frequency fusion attention next to spatial detail enhancement.

    Args:
        width: c.
        head_width: channels of an attention head.
        dropout: in the MLPs of the attention.
        window: side above which the attention is taken window by window.
    """

    def __init__(self, width: int, head_width: int, dropout: float, window: int) -> None:
        super().__init__()
        self.window = window
        self.back = FeedForward(width, 1)
        self.combine = Combine(width)
        self.value = ResidualBlock(width)
        self.attention = nn.ModuleList(FrequencyAttention(width, head_width, dropout) for _ in BANDS)
        self.gates = nn.ModuleList(nn.Conv2d(width, width, 1) for _ in BANDS)
        self.joined, self.detail = ResidualBlock(width), ResidualBlock(width)
        self.feed_joined, self.feed_detail = FeedForward(width, 3), FeedForward(width, 3)
        self.out = ResidualBlock(width)

    def forward(self, pan: Tensor, lms: Tensor, back: Tensor) -> Tensor:
        """Fuse features of the PAN (B, c, 2h, 2w) with those of lms and of the level below (B, c, h, w)."""
        bands = haar(pan)
        value = self.value(self.combine(bands[0], lms, self.back(back)))
        size = (value.shape[-2], value.shape[-1])
        key, fused = self._tokens(bands[0]), self._tokens(value)
        attended = []
        for attention, band in zip(self.attention, bands, strict=True):
            y = attention(self._tokens(band), key, fused)
            attended.append(self._image(y, size))
        gated = (torch.sigmoid(gate(band)) for gate, band in zip(self.gates, bands, strict=True))
        detail = self.detail(inverse_haar(*gated))
        return self.out(self.feed_detail(detail) + self.feed_joined(self.joined(inverse_haar(*attended))))

    def _windowed(self, size: tuple[int, int]) -> bool:
        return max(size) > self.window

    def _tokens(self, x: Tensor) -> Tensor:
        """Map (B, c, h, w) to tokens (B, h * w, c), or those of one window after the other."""
        x = x.permute(0, 2, 3, 1)
        if self._windowed((x.shape[1], x.shape[2])):
            x = window_partition(x, self.window)
        return x.flatten(1, 2)

    def _image(self, tokens: Tensor, size: tuple[int, int]) -> Tensor:
        """Undo `_tokens`."""
        if self._windowed(size):
            x = window_merge(tokens.unflatten(1, (self.window, self.window)), size)
        else:
            x = tokens.unflatten(1, size)
        return x.permute(0, 3, 1, 2)


def _head(bands: int, width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(bands, width, 5, padding=2), nn.PReLU(width, init=0.01), nn.Conv2d(width, width, 3, padding=1)
    )


@register_model("WFANet", ratios=(2, 4, 8, 16), paper="Huang et al., AAAI 2025", published_weights="names only")
class WFANet(nn.Module):
    """WFANet. 521,606 parameters for 8 bands (P = 1), those of the published class.

    The pyramid has log2(ratio) levels, so that the lowest one has the size of ms; two at the published ratio 4. The
    attention is over all pixels: where a side is larger than `window` it is taken within windows of half that side
    (and a quarter of it at the next level); the authors cut large images into tiles of 64.

    Args:
        img_channel, condition_channel: see `lemamba.model.build_model`.
        out_channel: bands of sr; equal to C, since lms is added.
        ratio: H / h.
        width: feature maps (32 in the paper).
        head_width: width of an attention head (8).
        dropout: in the MLPs of the attention (0.085).
        window: largest side of the image over which attention is global, a multiple of the ratio.
    """

    def __init__(
        self,
        img_channel: int,
        condition_channel: int,
        out_channel: int,
        *,
        ratio: int = 4,
        width: int = 32,
        head_width: int = 8,
        dropout: float = 0.085,
        window: int = 64,
    ) -> None:
        super().__init__()
        if window == 0 or window % ratio:
            raise UserError(f"WFANet: expected a window that is a multiple of the ratio {ratio}, given {window}")
        self.ratio, self.window = ratio, window
        levels = ratio.bit_length() - 1
        self.enlarge = nn.Sequential(
            nn.Conv2d(img_channel, out_channel * ratio**2, 3, padding=1), nn.PixelShuffle(ratio)
        )
        self.act_lms, self.act = nn.PReLU(out_channel, init=0.01), nn.PReLU(out_channel, init=0.01)
        self.head_pan, self.head_lms = _head(condition_channel, width), _head(out_channel, width)
        self.head_ms = _head(img_channel, width)
        self.levels = nn.ModuleList(  # from the size of ms upwards
            Level(width, head_width, dropout, window // 2**level) for level in range(levels, 0, -1)
        )
        self.back, self.combine, self.block = FeedForward(width, 1), Combine(width), ResidualBlock(width)
        self.tail = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1),
            nn.PReLU(width, init=0.01),
            nn.Conv2d(width, out_channel, 3, padding=1),
            nn.Conv2d(out_channel, out_channel, 3, padding=1),
        )

    def forward(self, ms: Tensor, lms: Tensor, pan: Tensor) -> Tensor:
        """Fuse: ms (B, C, h, w), lms (B, C, H, W) and pan (B, P, H, W) in [0, 1] -> sr (B, C, H, W), not clipped."""
        H, W = lms.shape[-2:]
        if max(H, W) > self.window:
            ms = pad_to_multiple(ms, self.window // self.ratio)
            lms, pan = pad_to_multiple(lms, self.window), pad_to_multiple(pan, self.window)
        lms = self.act_lms(self.enlarge(ms) + lms)
        y, z = self.head_pan(pan), self.head_lms(lms)
        back = self.head_ms(ms)
        for i, level in enumerate(self.levels):
            step = 2 ** (len(self.levels) - i)
            back = level(F.avg_pool2d(y, step // 2), F.avg_pool2d(z, step), back)
        x = self.block(self.combine(y, z, self.back(back)))
        return self.act(self.tail(x) + lms)[..., :H, :W]

    @staticmethod
    def from_published(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rename the authors' state dict, without its Haar filters (never checked against published weights)."""
        filters = ("w_ll", "w_lh", "w_hl", "w_hh", "filters")
        learned = {k: v for k, v in state_dict.items() if k.rpartition(".")[2] not in filters}
        renamed = rename_modules(learned, _published_names(), arch="WFANet")
        # Linear layers over the channels are 1x1 convolutions here.
        points = tuple(k for k in renamed if _is_point(k) and renamed[k].dim() == 2)
        return {k: v[:, :, None, None] if k in points else v for k, v in renamed.items()}


def _is_point(key: str) -> bool:
    return ".gates." in key or key.endswith(("back.first.weight", "back.last.weight"))


def _published_names() -> dict[str, str]:
    block = {"conv1": "conv1", "conv2": "conv2", "act": "act"}
    names = {"lms.0": "enlarge.0", "act_1": "act_lms", "act_2": "act"}
    for theirs, ours, layers in (
        ("pan_raise_channel.raise_conv", "head_pan", 3),
        ("lms_raise_channel.raise_conv", "head_lms", 3),
        ("ms_raise_channel.raise_conv", "head_ms", 3),
        ("reduce_channel.reduce_conv", "tail", 4),
    ):
        names |= {f"{theirs}.{i}": f"{ours}.{i}" for i in range(layers)}
    feed1 = {"linear_1": "first", "conv1": "conv1", "act": "act", "conv2": "conv2", "linear_2": "last"}
    feed3 = {"conv1": "first", "conv2": "conv1", "act": "act", "conv3": "conv2", "conv4": "last"}
    combine = {"": "", **{f".resblock.{k}": f".block.{v}" for k, v in block.items()}}
    level = {f"mlp.{k}": f"back.{v}" for k, v in feed1.items()}
    level |= {f"combine{k}": f"combine{v}" for k, v in combine.items()}
    for theirs, ours in (
        ("resblock", "value"),
        ("resblock_1", "out"),
        ("conv_idwt_pan.res_block", "detail"),
        ("conv_idwt_up.res_block", "joined"),
    ):
        level |= {f"{theirs}.{k}": f"{ours}.{v}" for k, v in block.items()}
    for theirs, ours in (("conv_x", "feed_detail"), ("conv_v", "feed_joined")):
        level |= {f"{theirs}.{k}": f"{ours}.{v}" for k, v in feed3.items()}
    for i, band in enumerate(BANDS):
        level[f"wd_{band}_conv.linear"] = f"gates.{i}"
        for theirs, ours in (("q", "query"), ("k", "key"), ("v", "value")):
            level |= {f"v_{band}_attn.{theirs}.{j}": f"attention.{i}.{ours}.{j}" for j in (0, 1, 3)}
        for j in (1, 2):
            level |= {f"v_{band}_attn.mlp_{j}.{m}": f"attention.{i}.mlp{j}.{m}" for m in (0, 2)}
    for theirs, ours in (("L_MWiT_block", "levels.0"), ("F_MWiT_block.s_mwit", "levels.1")):
        names |= {f"{theirs}.{k}": f"{ours}.{v}" for k, v in level.items()}
    top = "F_MWiT_block"
    names |= {f"{top}.mlp.{k}": f"back.{v}" for k, v in feed1.items()}
    names |= {f"{top}.combine{k}": f"combine{v}" for k, v in combine.items()}
    names |= {f"{top}.resblock.{k}": f"block.{v}" for k, v in block.items()}
    return names
