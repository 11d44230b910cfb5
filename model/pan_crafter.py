"""PAN-Crafter: a U-Net in which PAN and MS align each other by local attention, for pairs that are not registered.

Paper: J. Do, S. Kim, G. Youk, J. Lee, M. Kim, "PAN-Crafter: Learning modality-consistent alignment for
PAN-sharpening", ICCV 2025.
Shapes: ms (B, C, h, w), lms (not used), sr (B, C, H, W), pan (B, P, H, W); features (B, c, H, W), E the width of the
embedding of the mode, k = side^2 neighbours.
"""

from __future__ import annotations

from typing import Literal

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from lemamba.model.layers.window import pad_to_multiple
from lemamba.utils.registry import register_model

Mode = Literal["pan", "ms"]
_MODES: tuple[Mode, ...] = ("pan", "ms")
_START = (
    1e-3  # standard deviation of the layers that the published class starts from zero: as good, but with a gradient
)


def _small(layer: nn.Conv2d | nn.Linear) -> nn.Module:
    nn.init.normal_(layer.weight, std=_START)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


def _resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Interpolate x (B, c, ·, ·) to a size by bicubic interpolation, without a low-pass, as published."""
    return x if x.shape[-2:] == size else F.interpolate(x, size=size, mode="bicubic", align_corners=False)


class ResBlock(nn.Module):
    """Residual block whose second norm is scaled and shifted by the embedding of the mode."""

    def __init__(self, channels_in: int, channels_out: int, embedding: int, groups: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.modulate = _small(nn.Linear(embedding, 2 * channels_out))
        self.norm2 = nn.GroupNorm(groups, channels_out)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = _small(nn.Conv2d(channels_out, channels_out, 3, padding=1))
        same = channels_in == channels_out
        self.skip = nn.Identity() if same else nn.Conv2d(channels_in, channels_out, 1)

    def forward(self, x: Tensor, mode: Tensor) -> Tensor:
        """Map x (B, c, H, W) with the embedding (B, E) to (B, d, H, W)."""
        y = self.conv1(F.silu(self.norm1(x)))
        scale, shift = self.modulate(F.silu(mode))[:, :, None, None].chunk(2, dim=1)
        y = self.norm2(y) * (1 + scale) + shift
        return self.skip(x) + self.conv2(self.dropout(F.silu(y)))


class AlignmentAttention(nn.Module):
    """CM3A: every pixel looks for its match among its neighbours, in the PAN and in the MS features.

    The query is made from what is reconstructed (ms or PAN); each image gives keys and values. The neighbours are
    taken by a depth-wise convolution with k outputs a channel, which starts as a shift to each of them.

    Args:
        width: c.
        heads: attention heads.
        bands, guides: C, P.
        kernel: side of the convolutions that make query, key and value.
        side: side of the neighbourhood, odd.
    """

    def __init__(self, width: int, heads: int, bands: int, guides: int, kernel: int, side: int) -> None:
        super().__init__()
        self.heads, self.side = heads, side

        def embed(extra: int, out: int = width) -> nn.Conv2d:
            return nn.Conv2d(width + extra, out, kernel, padding=kernel // 2)

        self.query, self.key_pan, self.value_pan = embed(bands), embed(guides), embed(3 * guides)
        self.key_value_ms = embed(bands, 2 * width)
        head = width // heads
        self.neighbours = nn.Conv2d(head, side**2 * head, side, padding=side // 2, groups=head)
        with torch.no_grad():
            self.neighbours.weight.copy_(torch.eye(side**2).view(-1, 1, side, side).repeat(head, 1, 1, 1))
            assert self.neighbours.bias is not None
            self.neighbours.bias.zero_()
        self.project_pan, self.project_ms = (nn.Conv2d(width, width, 1) for _ in range(2))

    def _neighbours(self, x: Tensor) -> Tensor:
        """Map (B, c, H, W) to the neighbours of every pixel, (B, heads, d, k, H, W)."""
        x = self.neighbours(rearrange(x, "b (n d) h w -> (b n) d h w", n=self.heads))
        return rearrange(x, "(b n) (d k) h w -> b n d k h w", n=self.heads, k=self.side**2)

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attend from every pixel to its neighbours; query, key, value and the result are (B, c, H, W)."""
        q = rearrange(query, "b (n d) h w -> b n d 1 h w", n=self.heads)
        logits = (q * q.shape[2] ** -0.5 * self._neighbours(key)).sum(dim=2, keepdim=True)
        y = (logits.softmax(dim=3) * self._neighbours(value)).sum(dim=3)
        return rearrange(y, "b n d h w -> b (n d) h w")

    def forward(self, x: Tensor, wanted: Tensor, ms: Tensor, low: Tensor, pan: Tensor) -> tuple[Tensor, Tensor]:
        """Return what x (B, c, H, W) finds in the PAN and in the MS features.

        Args:
            x: features.
            wanted: what is reconstructed, ms or the low-resolution PAN repeated, (B, C, H, W).
            ms: (B, C, H, W).
            low: PAN at the resolution of ms, (B, P, H, W).
            pan: (B, P, H, W); all three at the size of x.
        """
        query = self.query(torch.cat([x, wanted], dim=1))
        key_pan = self.key_pan(torch.cat([x, low], dim=1))
        value_pan = self.value_pan(torch.cat([x, low, pan, pan - low], dim=1))
        key_ms, value_ms = self.key_value_ms(torch.cat([x, ms], dim=1)).chunk(2, dim=1)
        y_pan, y_ms = self.attend(query, key_pan, value_pan), self.attend(query, key_ms, value_ms)
        return self.project_pan(y_pan), self.project_ms(y_ms)


class AttentionBlock(nn.Module):
    """Alignment attention, its two results gated by the mode, then an MLP; norms without weights, residuals."""

    def __init__(self, width: int, embedding: int, mlp_ratio: int, **attention: int) -> None:
        super().__init__()
        self.attention = AlignmentAttention(width, **attention)
        self.gates = _small(nn.Linear(embedding, 2 * width))
        self.mlp = nn.Sequential(
            nn.Conv2d(width, mlp_ratio * width, 1), nn.GELU("tanh"), nn.Conv2d(mlp_ratio * width, width, 1)
        )

    def forward(self, x: Tensor, mode: Tensor, images: tuple[Tensor, ...]) -> Tensor:
        """Map x (B, c, H, W) with the embedding (B, E) and the images (wanted, ms, low, pan) to the same shape."""
        size = (x.shape[-2], x.shape[-1])
        found = self.attention(_norm(x), *(_resize(image, size) for image in images))
        gate_ms, gate_pan = self.gates(F.silu(mode))[:, :, None, None].chunk(2, dim=1)
        x = x + gate_pan * found[0] + gate_ms * found[1]
        return x + self.mlp(_norm(x))


def _norm(x: Tensor) -> Tensor:
    """Layer norm over the channels of x (B, c, H, W), without weights."""
    return F.layer_norm(x.permute(0, 2, 3, 1), (x.shape[1],), eps=1e-6).permute(0, 3, 1, 2)


@register_model("PAN-Crafter", ratios=(2, 4, 8, 16), paper="Do et al., ICCV 2025")
class PANCrafter(nn.Module):
    """PAN-Crafter: sr = bicubic(ms) + U-net. 9,968,808 parameters for 8 bands (P = 1), those of the published class.

    One network reconstructs the MS image or the PAN, as its mode says. Training of the authors asks for both, with L1
    against gt and against the PAN in each band; `forward_modes` gives both to a training loop of one's own, `forward`
    gives sr, so that the losses here train the mode "ms" alone.

    Two slips of the released class are not repeated: there, the keys of the PAN are replaced by those of the MS, whose
    own axes are mixed up. Layers that start from zero there start near zero here. The PAN at the resolution of ms comes
    with the authors' data; here it is made by bicubic interpolation with a low-pass. Group norms see the whole image:
    fuse large images in tiles of the size of the training patches. Sides that are no multiples of 8 are padded.

    Args:
        img_channel, condition_channel: see `lemamba.model.build_model`.
        out_channel: bands of sr; equal to C, since the enlarged ms is added.
        ratio: H / h.
        width: feature maps at every size, a multiple of `groups` (128).
        embedding: width of the embedding of the mode (128).
        depth: residual blocks at every size (2).
        heads: attention heads (8).
        side: side of the neighbourhood (3).
        mlp_ratio: hidden width of the MLPs over the width (4).
        groups: of the group norms (32).
        dropout: in the residual blocks (0.2).
    """

    def __init__(
        self,
        img_channel: int,
        condition_channel: int,
        out_channel: int,
        *,
        ratio: int = 4,
        width: int = 128,
        embedding: int = 128,
        depth: int = 2,
        heads: int = 8,
        side: int = 3,
        mlp_ratio: int = 4,
        groups: int = 32,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        self.ratio, self.multiple = ratio, max(8, ratio)
        bands, guides = img_channel, condition_channel

        def blocks(first: int = width) -> nn.ModuleList:
            widths = [first] + [width] * (depth - 1)
            return nn.ModuleList(ResBlock(c, width, embedding, groups, dropout) for c in widths)

        def attention(kernel: int) -> AttentionBlock:
            settings = {"heads": heads, "bands": bands, "guides": guides, "kernel": kernel, "side": side}
            return AttentionBlock(width, embedding, mlp_ratio, **settings)

        self.modes = nn.Parameter(nn.init.normal_(torch.empty(2, embedding), std=0.02))
        self.head = nn.Conv2d(3 * guides + bands, width, 3, padding=1)
        self.encoders = nn.ModuleList(blocks() for _ in range(3))
        self.downs = nn.ModuleList(nn.Conv2d(width, width, 3, stride=2, padding=1) for _ in range(3))
        self.middle, self.align_middle = blocks(), attention(1)
        self.ups = nn.ModuleList(nn.ConvTranspose2d(width, width, 2, stride=2) for _ in range(3))
        self.decoders = nn.ModuleList(blocks(2 * width) for _ in range(3))
        self.align_down = nn.ModuleList(attention(3) for _ in range(2))  # at half and quarter size
        self.align_up = nn.ModuleList(attention(3) for _ in range(2))  # at quarter and half size
        self.norm = nn.GroupNorm(groups, width)
        self.tail = _small(nn.Conv2d(width, out_channel, 3, padding=1))

    def forward(self, ms: Tensor, lms: Tensor, pan: Tensor) -> Tensor:
        """Fuse: ms (B, C, h, w) and pan (B, P, H, W) in [0, 1] -> sr (B, C, H, W), not clipped; lms is not used."""
        return self.reconstruct(ms, pan, "ms")

    def forward_modes(self, ms: Tensor, pan: Tensor) -> tuple[Tensor, Tensor]:
        """Return sr and the PAN reconstructed in every band, (B, C, H, W) each."""
        return self.reconstruct(ms, pan, "ms"), self.reconstruct(ms, pan, "pan")

    def reconstruct(self, ms: Tensor, pan: Tensor, mode: Mode) -> Tensor:
        """Reconstruct (B, C, H, W) from ms (B, C, h, w) and pan (B, P, H, W): the MS image or the mean PAN band."""
        H, W = pan.shape[-2:]
        ms = pad_to_multiple(2 * ms - 1, self.multiple // self.ratio)
        pan = pad_to_multiple(2 * pan - 1, self.multiple)
        low = F.interpolate(pan, size=ms.shape[-2:], mode="bicubic", align_corners=False, antialias=True)
        wanted = ms if mode == "ms" else low.mean(dim=1, keepdim=True).expand_as(ms)
        embedded = self.modes[_MODES.index(mode)].repeat(len(ms), 1)
        size = (pan.shape[-2], pan.shape[-1])
        low_full = _resize(low, size)
        x = self.head(torch.cat([pan, _resize(ms, size), low_full, pan - low_full], dim=1))
        x = self._unet(x, embedded, (wanted, ms, low, pan))
        sr = self.tail(F.silu(self.norm(x))) + _resize(wanted, size)
        return ((sr + 1) / 2)[..., :H, :W]

    def _unet(self, x: Tensor, mode: Tensor, images: tuple[Tensor, ...]) -> Tensor:
        skips = []
        for i, (blocks, down) in enumerate(zip(self.encoders, self.downs, strict=True)):
            x = _through(blocks, x, mode)
            if i:
                x = self.align_down[i - 1](x, mode, images)
            skips.append(x)
            x = down(x)
        x = self.align_middle(_through(self.middle, x, mode), mode, images)
        for i, (blocks, up) in enumerate(zip(self.decoders, self.ups, strict=True)):
            x = _through(blocks, torch.cat([up(x), skips.pop()], dim=1), mode)
            if i < 2:
                x = self.align_up[i](x, mode, images)
        return x


def _through(blocks: nn.Module, x: Tensor, mode: Tensor) -> Tensor:
    assert isinstance(blocks, nn.ModuleList)
    for block in blocks:
        x = block(x, mode)
    return x
