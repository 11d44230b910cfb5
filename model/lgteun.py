"""LGTEUN: proximal gradient descent unfolded into stages, each a data step and a local-global transformer.

Paper: M. Li, Y. Liu, T. Xiao, Y. Huang, G. Yang, "Local-global transformer enhanced unfolding network for
pan-sharpening", IJCAI 2023.
Shapes: ms (B, C, h, w), lms (not used), z and sr (B, C, H, W), pan (B, P, H, W); features channels last (B, H, W, c).
"""

from __future__ import annotations

import math

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from lemamba.model.layers.fourier import modulus, spectrum
from lemamba.model.layers.window import pad_to_multiple, window_merge, window_partition
from lemamba.utils.registry import register_model


class Resize(nn.Module):
    """Bicubic interpolation by a factor (half-pixel centres, no low-pass before it is made smaller, as published)."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, c, H, W) to (B, c, factor * H, factor * W)."""
        return F.interpolate(
            x, scale_factor=self.factor, mode="bicubic", align_corners=False, recompute_scale_factor=False
        )


def _halvings(bands: int, factor: float, count: int) -> nn.Sequential:
    steps: list[nn.Module] = []
    for _ in range(count):
        steps += [Resize(factor), nn.Conv2d(bands, bands, 3, padding=1, groups=bands)]
    return nn.Sequential(*steps)


class DataStep(nn.Module):
    """Gradient of both data terms, with learned operators: ``Dt(D z - ms) + Rt(R z - pan)``.

    D blurs and decimates, R is the spectral response; Dt and Rt, which the derivation has as their transposes, are
    layers of their own. All stages share them.

    Args:
        bands: C.
        guides: P.
        ratio: H / h, a power of two.
    """

    def __init__(self, bands: int, guides: int, ratio: int) -> None:
        super().__init__()
        halvings = ratio.bit_length() - 1
        self.D, self.Dt = _halvings(bands, 0.5, halvings), _halvings(bands, 2, halvings)
        self.R, self.Rt = nn.Conv2d(bands, guides, 1), nn.Conv2d(guides, bands, 1)

    def forward(self, z: Tensor, ms: Tensor, pan: Tensor) -> Tensor:
        """Map z (B, C, H, W) to the gradient there."""
        return self.Dt(self.D(z) - ms) + self.Rt(self.R(z) - pan)


class LocalMixer(nn.Module):
    """Attention within windows, with a learned bias for each pair of places in a window."""

    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        self.qkv = nn.Linear(width, 3 * width)
        self.position = nn.Parameter(torch.empty(1, heads, window**2, window**2))
        nn.init.trunc_normal_(self.position)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, c) to the same shape; H and W are multiples of the window."""
        windows = window_partition(self.qkv(x), self.window)
        q, k, v = rearrange(windows, "n h w (three heads c) -> three n heads (h w) c", three=3, heads=self.heads)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=self.position.to(q.dtype))
        y = rearrange(y, "n heads (h w) c -> n h w (heads c)", h=self.window)
        return window_merge(y, (x.shape[1], x.shape[2]))


class GlobalMixer(nn.Module):
    """Scale and shift amplitude and phase of the spectrum, channel by channel; the result is the modulus."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.amplitude, self.phase = (nn.Conv2d(width, width, 1, groups=width) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, c) to the same shape."""
        image = x.permute(0, 3, 1, 2)
        exact = image.float() if image.dtype in (torch.half, torch.bfloat16) else image
        amplitude, phase = spectrum(exact, half=True)
        amplitude = self.amplitude(amplitude.to(x.dtype)).to(exact.dtype)
        phase = self.phase(phase.to(x.dtype)).to(exact.dtype)
        return modulus(amplitude, phase, image.shape[-1]).to(x.dtype).permute(0, 2, 3, 1)


class LocalGlobalBlock(nn.Module):
    """Half of the channels through each mixer, then a feed-forward network; both after a norm and with a residual."""

    def __init__(self, width: int, heads: int, window: int, dropout: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.local, self.whole = LocalMixer(width // 2, heads, window), GlobalMixer(width // 2)
        self.project, self.dropout = nn.Linear(width, width), nn.Dropout(dropout)
        hidden = 4 * width
        self.feed = nn.Sequential(
            nn.Conv2d(width, hidden, 1),
            nn.GELU(),
            nn.Conv2d(hidden, hidden, 1),
            nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden),
            nn.GELU(),
            nn.Conv2d(hidden, width, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, c) to the same shape."""
        near, far = self.norm1(x).chunk(2, dim=3)
        x = x + self.dropout(self.project(torch.cat([self.local(near), self.whole(far)], dim=3)))
        return x + self.feed(self.norm2(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class Prior(nn.Module):
    """The local-global transformer: a U of two scales with blocks (2 above, 1 below, 2 above), and a residual."""

    def __init__(self, bands: int, width: int, heads: int, window: int, dropout: float) -> None:
        super().__init__()

        def blocks(count: int, c: int) -> nn.Sequential:
            return nn.Sequential(*(LocalGlobalBlock(c, heads, window, dropout) for _ in range(count)))

        self.embed = nn.Sequential(nn.Conv2d(bands, bands, 1, groups=bands), nn.Conv2d(bands, width, 1))
        self.norm = nn.LayerNorm(width)
        self.encoder, self.bottom, self.decoder = blocks(2, width), blocks(1, 2 * width), blocks(2, width)
        self.down = nn.Sequential(Resize(0.5), nn.Conv2d(width, 2 * width, 1))
        self.up = nn.Sequential(Resize(2), nn.Conv2d(2 * width, width, 1))
        self.join = nn.Conv2d(2 * width, width, 1)
        self.tail = nn.Conv2d(width, bands, 1)

    def forward(self, z: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, H, W); sides are multiples of twice the window."""
        x = self.encoder(self.norm(self.embed(z).permute(0, 2, 3, 1)))
        skip = x.permute(0, 3, 1, 2)
        y = self.bottom(self.down(skip).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        y = self.join(torch.cat([self.up(y), skip], dim=1))
        return z + self.tail(self.decoder(y.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))


@register_model("LGTEUN", ratios=(2, 4, 8, 16), paper="Li et al., IJCAI 2023")
class LGTEUN(nn.Module):
    """LGTEUN: ``z <- prior(z - eta gradient(z))``, two stages. 540,043 parameters for 8 bands (P = 1), 202,183 for 4.

    The released class computes the second stage from z before the first prior, so that its first prior is made and
    never used; here, as in the paper, every stage starts from the result of the one before.
    The spectrum is that of the whole image: fuse large images in tiles of the size of the training patches. Sides
    that are no multiples of 16 (and of the ratio) are padded by reflection and cut back.

    Args:
        img_channel, condition_channel: see `lemamba.model.build_model`.
        out_channel: bands of sr; equal to C, since the network refines the enlarged ms.
        ratio: H / h.
        stages: data steps, each with a prior (2).
        expansion: channels of the transformer over C (4).
        heads: attention heads (2).
        window: window side (8).
        dropout: after the mixers (0.1).
    """

    def __init__(
        self,
        img_channel: int,
        condition_channel: int,
        out_channel: int,
        *,
        ratio: int = 4,
        stages: int = 2,
        expansion: int = 4,
        heads: int = 2,
        window: int = 8,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.ratio, self.multiple = ratio, math.lcm(2 * window, ratio)
        self.gradient = DataStep(img_channel, condition_channel, ratio)
        self.eta = nn.Parameter(torch.full((stages,), 0.1))
        self.priors = nn.ModuleList(
            Prior(img_channel, expansion * img_channel, heads, window, dropout) for _ in range(stages)
        )

    def forward(self, ms: Tensor, lms: Tensor, pan: Tensor) -> Tensor:
        """Fuse: ms (B, C, h, w) and pan (B, P, H, W) in [0, 1] -> sr (B, C, H, W), not clipped; lms is not used."""
        H, W = pan.shape[-2:]
        ms, pan = pad_to_multiple(ms, self.multiple // self.ratio), pad_to_multiple(pan, self.multiple)
        z = F.interpolate(ms, scale_factor=self.ratio, mode="bicubic", align_corners=False)
        for eta, prior in zip(self.eta, self.priors, strict=True):
            z = prior(z - eta * self.gradient(z, ms, pan))
        return z[..., :H, :W]
