"""panRWKV: a U-shaped network of two-dimensional RWKV blocks, guided by the PAN in every block.

The files released with LE-Mamba mention a `panRWKV` without describing it; this one is the project's own. Its block is
that of Y. Duan et al., "Vision-RWKV: Efficient and scalable visual perception with RWKV-like architectures", ICLR 2025
(attention of linear cost in both directions, token shift to four sides, squared ReLU), run along the rows and along
the columns; its U-shape and the way in which the PAN enters are those of LE-Mamba (`lemamba.model.panMamba`).

Shapes: ms (B, C, h, w) is not used, lms and sr (B, C, H, W), pan (B, P, H, W); inside channels last, (B, H, W, c);
sequences (B, c, T) with T = H * W.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from lemamba.model.layers.conv import DepthwiseConv
from lemamba.model.layers.linear import Linear
from lemamba.model.layers.window import pad_to_multiple
from lemamba.model.ops.scan.selective import compute_dtype, selective_scan
from lemamba.operators.autocast import no_autocast
from lemamba.utils.errors import UserError
from lemamba.utils.registry import register_model

ORDERS = ("b h w c -> b c (h w)", "b h w c -> b c (w h)")  # along the rows, along the columns
_BACK = ("b c (h w) -> b h w c", "b c (w h) -> b h w c")
_LARGEST_DECAY = 60.0  # over the whole sequence: e^-60 is far from the smallest float32, so no sum of weights is zero


def wkv(decay: Tensor, bonus: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Average the values with weights that grow with the key and decay with the distance, in both directions.

    ::

        y_t = (sum_{i != t} exp(k_i - (|t - i| - 1) w / T) v_i + exp(u + k_t) v_t) / (the same sum without v)

    Both sums are recurrences with a constant decay, so the selective scan computes them: x_t <- x_{t-1} exp(-w/T) + ...

    Args:
        decay: w (c), not negative; larger ones than 60 count as 60.
        bonus: u (c), added to the key of the token itself.
        key, value: (B, c, T).

    Returns:
        (B, c, T) in the dtype of `value`, computed in float32 or float64: between the smallest and the largest value.
    """
    with no_autocast(value.device.type):
        dtype = compute_dtype(value.dtype)
        decay, bonus, key, values = (t.to(dtype) for t in (decay, bonus, key, value))
        batch, channels, length = key.shape
        weight = torch.exp(key - key.amax(dim=2, keepdim=True))  # a factor common to both sums
        terms = torch.cat([weight * values, weight], dim=1)
        A = -decay.clamp(max=_LARGEST_DECAY)[:, None].repeat(4, 1) / length
        one = terms.new_ones(1)
        sums = selective_scan(
            torch.cat([terms, terms.flip(2)], dim=1),
            one.expand(batch, 4 * channels, length),
            A,
            one.expand(batch, 1, 1, length),
            one.expand(batch, 1, 1, length),
        )
        assert isinstance(sums, Tensor)
        before, after = F.pad(sums, (1, -1)).chunk(2, dim=1)  # neighbours have the full weight: one step less
        total = before + after.flip(2) + terms * bonus.exp()[:, None].repeat(2, 1)
        y = total[:, :channels] / total[:, channels:]
    return y.to(value.dtype)


def shift(x: Tensor) -> Tensor:
    """Move a quarter of the channels of x (B, H, W, c) by one pixel to each of the four sides; zeros come in."""
    right, left, down, up, rest = x.split([x.shape[3] // 4] * 4 + [x.shape[3] % 4], dim=3)
    moved = (
        F.pad(right, (0, 0, 1, -1)),
        F.pad(left, (0, 0, -1, 1)),
        F.pad(down, (0, 0, 0, 0, 1, -1)),
        F.pad(up, (0, 0, 0, 0, -1, 1)),
    )
    return torch.cat([*moved, rest], dim=3)


def _mix(x: Tensor, moved: Tensor, share: Tensor) -> Tensor:
    return torch.lerp(moved, x, share.to(x.dtype))


def _ramp(channels: int, power: float) -> Tensor:
    """Return (i / c)^power over the channels: the first mix in their neighbours, the last keep what they have."""
    return (torch.arange(channels) / channels) ** power


class SpatialMix(nn.Module):
    """Attention of linear cost over all pixels: ``out(sigmoid(r) * wkv(k, v))``, mean over both orders of the pixels.

    Args:
        channels: c.
        depth: position of the block in the network, from 0 to 1; it sets the initial decays and shares, as in RWKV-4.
    """

    def __init__(self, channels: int, depth: float) -> None:
        super().__init__()
        self.key, self.value, self.receptance, self.out = (Linear(channels, channels, bias=False) for _ in range(4))
        place = torch.arange(channels) / max(channels - 1, 1)
        A_log = -5 + 8 * place ** (0.7 + 1.3 * depth)
        bonus = math.log(0.3) + 0.5 * ((torch.arange(channels) + 1) % 3 - 1)
        self.A_log = nn.Parameter(A_log.repeat(len(ORDERS), 1))
        self.bonus = nn.Parameter(bonus.repeat(len(ORDERS), 1))
        ramp = _ramp(channels, 1 - depth)
        self.shares = nn.Parameter(torch.stack([ramp, ramp + 0.3 * depth, _ramp(channels, 0.5 * (1 - depth))]))
        for parameter in (self.A_log, self.bonus, self.shares):
            parameter._no_weight_decay = True  # type: ignore[attr-defined]

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, c) to the same shape."""
        H, W = x.shape[1:3]
        moved = shift(x)
        layers = (self.key, self.value, self.receptance)
        k, v, r = (layer(_mix(x, moved, share)) for layer, share in zip(layers, self.shares, strict=True))
        mean = torch.zeros_like(v)
        for there, back, A_log, bonus in zip(ORDERS, _BACK, self.A_log, self.bonus, strict=True):
            y = wkv(A_log.exp(), bonus, rearrange(k, there), rearrange(v, there))
            mean = mean + rearrange(y, back, h=H, w=W) / len(ORDERS)
        return self.out(torch.sigmoid(r) * mean)


class ChannelMix(nn.Module):
    """``sigmoid(r) * value(relu(k)^2)`` for each pixel, after the shift to four sides."""

    def __init__(self, channels: int, depth: float, hidden_ratio: int) -> None:
        super().__init__()
        self.key = Linear(channels, hidden_ratio * channels, bias=False)
        self.value = Linear(hidden_ratio * channels, channels, bias=False)
        self.receptance = Linear(channels, channels, bias=False)
        self.shares = nn.Parameter(_ramp(channels, 1 - depth).repeat(2, 1))
        self.shares._no_weight_decay = True  # type: ignore[attr-defined]

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, c) to the same shape."""
        moved = shift(x)
        k = self.key(_mix(x, moved, self.shares[0]))
        return torch.sigmoid(self.receptance(_mix(x, moved, self.shares[1]))) * self.value(F.relu(k).square())


class RWKVBlock(nn.Module):
    """Add the guide, then spatial mix and channel mix, each after a layer norm and with a residual."""

    def __init__(self, channels: int, condition_channel: int, depth: float, hidden_ratio: int) -> None:
        super().__init__()
        self.guide_point = Linear(condition_channel, channels)
        self.guide_depth = DepthwiseConv(channels, 3)
        self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.spatial = SpatialMix(channels, depth)
        self.channel = ChannelMix(channels, depth, hidden_ratio)

    def forward(self, x: Tensor, guide: Tensor) -> Tensor:
        """Map x (B, H, W, c), guided by guide (B, H, W, P), to the same shape."""
        x = x + self.guide_depth(self.guide_point(guide))
        x = x + self.spatial(self.norm1(x))
        return x + self.channel(self.norm2(x))


class _Stage(nn.ModuleList):
    """Blocks one after the other, all guided by the same image."""

    def forward(self, x: Tensor, guide: Tensor) -> Tensor:
        for block in self:
            x = block(x, guide)
        return x


@register_model("panRWKV", ratios=(2, 4, 8, 16), paper="this project; blocks of Duan et al., Vision-RWKV, ICLR 2025")
class PanRWKV(nn.Module):
    """panRWKV: sr = lms + U-net(lms, pan). 708,168 parameters for 8 bands (P = 1), about as many as LE-Mamba.

    Images whose sides are no multiples of the halvings are padded by reflection and cut back. Decays are relative to
    the size of the image: fuse large images in tiles of about the size of the training patches.

    Args:
        img_channel, condition_channel, out_channel, ratio: see `lemamba.model.build_model`.
        width: channels of the first stage, doubled from stage to stage.
        enc_blk_nums, dec_blk_nums: blocks per stage, shallow first.
        middle_blk_nums: blocks between them.
        hidden_ratio: hidden width of the channel mix over its width.
    """

    def __init__(
        self,
        img_channel: int,
        condition_channel: int,
        out_channel: int,
        *,
        ratio: int = 4,
        width: int = 32,
        enc_blk_nums: Sequence[int] = (2, 2),
        middle_blk_nums: int = 3,
        dec_blk_nums: Sequence[int] = (2, 2),
        hidden_ratio: int = 2,
    ) -> None:
        super().__init__()
        stages = len(enc_blk_nums)
        if len(dec_blk_nums) != stages:
            raise UserError(f"panRWKV: expected {stages} dec_blk_nums like enc_blk_nums, given {len(dec_blk_nums)}")
        self.multiple = 2**stages
        counts = [*enc_blk_nums, middle_blk_nums, *reversed(dec_blk_nums)]
        widths = [width * 2 ** min(i, 2 * stages - i) for i in range(2 * stages + 1)]
        last, made = max(sum(counts) - 1, 1), 0
        blocks = []
        for count, c in zip(counts, widths, strict=True):
            depths = [(made + i) / last for i in range(count)]
            blocks.append(_Stage(RWKVBlock(c, condition_channel, depth, hidden_ratio) for depth in depths))
            made += count
        self.encoders = nn.ModuleList(blocks[:stages])
        self.middle = blocks[stages]
        self.decoders = nn.ModuleList(blocks[stages + 1 :])
        self.head = nn.Conv2d(img_channel, width, 1)
        self.downs = nn.ModuleList(nn.Conv2d(c, 2 * c, 2, stride=2) for c in widths[:stages])
        self.ups = nn.ModuleList(nn.Conv2d(2 * c, c, 1, bias=False) for c in widths[stages + 1 :])
        self.joins = nn.ModuleList(nn.Conv2d(2 * c, c, 1) for c in widths[stages + 1 :])
        self.tail = nn.Conv2d(width, out_channel, 1)

    def forward(self, ms: Tensor, lms: Tensor, pan: Tensor) -> Tensor:
        """Fuse: lms (B, C, H, W) and pan (B, P, H, W) in [0, 1] -> sr (B, C, H, W), not clipped; ms is not used."""
        H, W = lms.shape[-2:]
        x = self.head(pad_to_multiple(lms, self.multiple))
        guides = [pad_to_multiple(pan, self.multiple)]
        skips = []
        for encoder, down in zip(self.encoders, self.downs, strict=True):
            skips.append(_blocks(encoder, x, guides[-1]))
            x = down(skips[-1])
            guides.append(F.avg_pool2d(guides[-1], 2))
        x = _blocks(self.middle, x, guides.pop())
        for decoder, up, join in zip(self.decoders, self.ups, self.joins, strict=True):
            x = F.interpolate(up(x), scale_factor=2, mode="bilinear", align_corners=False)
            x = _blocks(decoder, join(torch.cat([x, skips.pop()], dim=1)), guides.pop())
        return lms + self.tail(x)[..., :H, :W]


def _blocks(stage: nn.Module, x: Tensor, guide: Tensor) -> Tensor:
    """Apply blocks, which are channels last, to x (B, c, H, W)."""
    return stage(x.permute(0, 2, 3, 1), guide.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
