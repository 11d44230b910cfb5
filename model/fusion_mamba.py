"""FusionMamba: a U-Net for each image, joined at every level by scans whose dynamics come from the other image.

Paper: S. Peng, X. Zhu, H. Deng, L.-J. Deng, Z. Lei, "FusionMamba: Efficient remote sensing image fusion with state
space model", IEEE TGRS 62, 2024 (arXiv 2404.07932).
Shapes: ms (B, C, h, w), lms (B, C, H, W) is not used, pan (B, P, H, W), sr (B, C, H, W); blocks are channels last
(B, H, W, c); a scan has K directions, N states, rank R = ceil(c / 16) of dt, L = H * W steps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lemamba.model.convert import rename_modules
from lemamba.model.layers.mamba import draw_dt_bias
from lemamba.model.layers.window import pad_to_multiple
from lemamba.model.ops.causal_conv import causal_conv
from lemamba.model.ops.scan.selective import selective_scan
from lemamba.utils.registry import register_model

_KERNEL = 4  # taps of the causal convolution, as in Mamba
_STRIDE = 4  # of both U-Nets


class Direction(nn.Module):
    """Weights of the scan in one direction: causal convolution, projections to dt, B and C, decays A, skip D."""

    def __init__(self, width: int, d_state: int) -> None:
        super().__init__()
        rank = math.ceil(width / 16)
        self.conv = nn.Conv1d(width, width, _KERNEL, groups=width)
        self.x_proj = nn.Linear(width, rank + 2 * d_state, bias=False)
        self.dt_proj = nn.Linear(rank, width)
        self.A_log = nn.Parameter(torch.arange(1.0, d_state + 1).log().expand(width, -1).clone())
        self.D = nn.Parameter(torch.ones(width))
        for parameter in (self.A_log, self.D):
            parameter._no_weight_decay = True  # type: ignore[attr-defined]
        nn.init.uniform_(self.dt_proj.weight, -(rank**-0.5), rank**-0.5)
        with torch.no_grad():
            self.dt_proj.bias.copy_(draw_dt_bias(width))


def sequences(x: Tensor, directions: int) -> Tensor:
    """Read x (B, H, W, c) as K sequences (B, K, c, L): rows, rows backwards and, for K = 4, the same of columns."""
    x = x.permute(0, 3, 1, 2)
    ways = [x.flatten(2)] if directions == 2 else [x.flatten(2), x.transpose(2, 3).flatten(2)]
    return torch.stack([way for forth in ways for way in (forth, forth.flip(-1))], dim=1)


def image(y: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the mean over K sequences y (B, K, c, L), each put back in its place: (B, H, W, c), `size` = (H, W)."""
    H, W = size
    total = (y[:, 0] + y[:, 1].flip(-1)).unflatten(-1, (H, W))
    if y.shape[1] == 4:
        total = total + (y[:, 2] + y[:, 3].flip(-1)).unflatten(-1, (W, H)).transpose(2, 3)
    return total.permute(0, 2, 3, 1) / y.shape[1]


class DirectionalScan(nn.Module):
    """Gated selective scan in K directions, each with weights of its own; their mean is normalised and projected.

    Args:
        width: c.
        directions: K, 4 for images and 2 for sequences.
        guided: dt, B and C of a step come from a second input, which is not convolved; else from the first.
        d_state: N.
    """

    def __init__(self, width: int, *, directions: int = 4, guided: bool = False, d_state: int = 8) -> None:
        super().__init__()
        self.in_proj = nn.Linear(width, 2 * width, bias=False)
        self.guide_proj = nn.Linear(width, width, bias=False) if guided else None
        self.directions = nn.ModuleList(Direction(width, d_state) for _ in range(directions))
        self.norm = nn.LayerNorm(width)
        self.out_proj = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, guide: Tensor | None = None) -> Tensor:
        """Map x and perhaps a guide, (B, H, W, c) each, to (B, H, W, c)."""
        size = (x.shape[1], x.shape[2])
        x, gate = self.in_proj(x).chunk(2, dim=-1)
        y = self._scan(x, None if self.guide_proj is None else self.guide_proj(guide))
        return self.out_proj(self.norm(image(y, size) * F.silu(gate)))  # one gate: it does not depend on the direction

    def _scan(self, x: Tensor, guide: Tensor | None) -> Tensor:
        """Scan x (B, H, W, c) in all directions at once: (B, K, c, L)."""
        ways = cast(list[Direction], list(self.directions))
        K, N = len(ways), ways[0].A_log.shape[1]
        u = sequences(x, K).flatten(1, 2)
        u = causal_conv(u, torch.cat([w.conv.weight[:, 0] for w in ways]), torch.cat([_bias(w.conv) for w in ways]))
        source = u.unflatten(1, (K, -1)) if guide is None else sequences(guide, K)
        projected = torch.stack([w.x_proj.weight for w in ways]) @ source
        dt, B, C = projected.split((projected.shape[2] - 2 * N, N, N), dim=2)
        # the bias of dt is added inside the scan, in float32
        delta = (torch.stack([w.dt_proj.weight for w in ways]) @ dt).flatten(1, 2)
        A, D = -torch.exp(torch.cat([w.A_log for w in ways])), torch.cat([w.D for w in ways])
        bias = torch.cat([w.dt_proj.bias for w in ways])
        y = cast(Tensor, selective_scan(u, delta, A, B, C, D, delta_bias=bias, delta_softplus=True))
        return y.unflatten(1, (K, -1))


def _bias(conv: nn.Conv1d) -> Tensor:
    assert conv.bias is not None
    return conv.bias


class MambaBlock(nn.Module):
    """``x + scan(norm(x))``, with a guide ``x + scan(norm(x), norm_guide(guide))``; all (B, H, W, c)."""

    def __init__(self, width: int, *, guided: bool = False) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.norm_guide = nn.LayerNorm(width) if guided else None
        self.scan = DirectionalScan(width, guided=guided)

    def forward(self, x: Tensor, guide: Tensor | None = None) -> Tensor:
        """Map (B, H, W, c) to (B, H, W, c)."""
        return x + self.scan(self.norm(x), None if self.norm_guide is None else self.norm_guide(guide))


class FusionBlock(nn.Module):
    """Scan both images, then each guided by the other, and join the two: the paper's FusionMamba block."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.pan, self.ms = MambaBlock(width), MambaBlock(width)
        self.pan_guided, self.ms_guided = MambaBlock(width, guided=True), MambaBlock(width, guided=True)
        self.out_proj = nn.Linear(width, width)

    def forward(self, pan: Tensor, ms: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the scanned pan and ms and the map made of both, all (B, c, H, W) like the inputs."""
        pan, ms = self.pan(pan.permute(0, 2, 3, 1)), self.ms(ms.permute(0, 2, 3, 1))
        fused = self.out_proj((self.pan_guided(pan, ms) + self.ms_guided(ms, pan)) / 2)
        return pan.permute(0, 3, 1, 2), ms.permute(0, 3, 1, 2), fused.permute(0, 3, 1, 2)


class Up(nn.Module):
    """Double the sides, halve the width, add the skip, convolve channel by channel and across channels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(width, width // 2, 2, stride=2)
        self.depthwise = nn.Conv2d(width // 2, width // 2, 3, padding=1, groups=width // 2)
        self.pointwise = nn.Conv2d(width // 2, width // 2, 1)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Map (B, c, H, W) and a skip (B, c/2, 2H, 2W) to (B, c/2, 2H, 2W)."""
        return F.leaky_relu(self.pointwise(self.depthwise(F.leaky_relu(self.up(x)) + skip)))


class BandAttention(nn.Module):
    """A factor in (0, 1) for every band, from a scan over the bands' largest values in both directions."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embed = nn.Linear(1, width)
        self.norm = nn.LayerNorm(width)
        self.scan = DirectionalScan(width, directions=2)
        self.weigh = nn.Linear(width, 1)

    def forward(self, ms: Tensor) -> Tensor:
        """Map ms (B, C, h, w) to factors (B, C, 1, 1)."""
        x = self.norm(self.embed(ms.amax(dim=(2, 3))[..., None]))
        return torch.sigmoid(self.weigh(self.scan(x[:, None])[:, 0]))[..., None]


@register_model("FusionMamba", ratios=(2, 4, 8), paper="Peng et al., TGRS 62, 2024", published_weights="yes")
class FusionMamba(nn.Module):
    """FusionMamba. 735,401 parameters for 8 bands (P = 1, ratio 4), as published.

    Scans run over the whole map and the factors of the bands come from its largest values: a tile of an image is not
    fused as within the image. Sides that are no multiple of 4 are padded by reflection and cut back.

    Args:
        img_channel, condition_channel: see `lemamba.model.build_model`.
        out_channel: bands of sr; equal to C, since the enlarged ms is added.
        ratio: H / h.
        width: feature maps at full size (32 in the paper), doubled twice.
    """

    def __init__(
        self,
        img_channel: int,
        condition_channel: int,
        out_channel: int,
        *,
        ratio: int = 4,
        width: int = 32,
    ) -> None:
        super().__init__()
        self.upsample = nn.Sequential(
            nn.Conv2d(img_channel, out_channel * ratio * ratio, 3, padding=1, bias=False), nn.PixelShuffle(ratio)
        )
        self.head_ms = nn.Conv2d(out_channel, width, 3, padding=1)
        self.head_pan = nn.Conv2d(condition_channel, width, 3, padding=1)
        self.fuse = nn.ModuleList(FusionBlock(m * width) for m in (1, 2, 4, 2, 1))
        self.down = nn.ModuleList(nn.Conv2d(m * width, 2 * m * width, 2, stride=2) for m in (1, 2))
        self.up = nn.ModuleList([Up(4 * width), Up(2 * width)])
        self.attention = BandAttention(width)
        self.tail = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1), nn.LeakyReLU(), nn.Conv2d(width, out_channel, 3, padding=1)
        )

    def forward(self, ms: Tensor, lms: Tensor, pan: Tensor) -> Tensor:
        """Fuse: ms (B, C, h, w) and pan (B, P, H, W) in [0, 1] -> sr (B, C, H, W), not clipped; lms is not used."""
        H, W = pan.shape[-2:]
        enlarged = self.upsample(ms)
        x = F.leaky_relu(self.head_ms(pad_to_multiple(enlarged, _STRIDE)))
        y = F.leaky_relu(self.head_pan(pad_to_multiple(pan, _STRIDE)))
        skips = []
        for level in range(2):
            x, y = self._joined(level, x, y)
            skips.append((x, y))
            x, y = F.leaky_relu(self.down[level](x)), F.leaky_relu(self.down[level](y))
        for level in range(2):
            x, y = self._joined(2 + level, x, y)
            skip_x, skip_y = skips.pop()
            x, y = self.up[level](x, skip_x), self.up[level](y, skip_y)
        fused = self.fuse[4](y, x)[2]
        return self.tail(fused)[..., :H, :W] * self.attention(ms) + enlarged

    def _joined(self, block: int, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return features x of ms and y of pan, (B, c, H, W) each, averaged with the map made of both."""
        y, x, fused = self.fuse[block](y, x)
        return (x + fused) / 2, (y + fused) / 2

    @staticmethod
    def from_published(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rename the authors' state dict; they number the directions of a scan by letters."""
        return rename_modules(dict(map(_spelt_out, state_dict.items())), _published_names(), arch="FusionMamba")


_LETTERS = ("", "_b", "_c", "_d")  # of the four directions


def _spelt_out(item: tuple[str, Tensor]) -> tuple[str, Tensor]:
    """Turn "block.A_b_log", "block.D_b" into "block.scan_b.A_log", "block.scan_b.D": parameters of a module."""
    key, value = item
    module, _, parameter = key.rpartition(".")
    for letter in _LETTERS:
        if parameter in (f"A{letter}_log", f"D{letter}"):
            return f"{module}.scan{letter}.{parameter.replace(letter, '') if letter else parameter}", value
    return key, value


def _scan_names(theirs: str, ours: str, directions: int = 4, guided: bool = False) -> dict[str, str]:
    names = {f"{theirs}.{module}": f"{ours}.{module}" for module in ("in_proj", "norm", "out_proj")}
    if guided:
        names[f"{theirs}.in_proj_b"] = f"{ours}.guide_proj"
    for i, letter in enumerate(_LETTERS[:directions]):
        names[f"{theirs}.scan{letter}"] = f"{ours}.directions.{i}"
        for module, name in (("conv1d", "conv"), ("x_proj", "x_proj"), ("dt_proj", "dt_proj")):
            names[f"{theirs}.{module}{letter}"] = f"{ours}.directions.{i}.{name}"
    return names


def _published_names() -> dict[str, str]:
    names = {"upsample.upsamle.0": "upsample.0", "to_hrms.0": "tail.0", "to_hrms.2": "tail.2"}
    names |= {"raise_ms_dim.0": "head_ms", "raise_pan_dim.0": "head_pan"}
    for i in range(5):
        theirs, ours = (f"stage{i}.fm" if i < 4 else "stage4"), f"fuse.{i}"
        names[f"{theirs}.out_proj"] = f"{ours}.out_proj"
        for image_theirs, image_ours in (("spa", "pan"), ("spe", "ms")):
            single, cross = f"{theirs}.{image_theirs}_mamba_layers.0", f"{theirs}.{image_theirs}_cross_mamba"
            names |= {f"{single}.norm": f"{ours}.{image_ours}.norm"}
            names |= _scan_names(f"{single}.block", f"{ours}.{image_ours}.scan")
            guided = f"{ours}.{image_ours}_guided"
            names |= {f"{cross}.norm0": f"{guided}.norm", f"{cross}.norm1": f"{guided}.norm_guide"}
            names |= _scan_names(f"{cross}.block", f"{guided}.scan", guided=True)
    for i in range(2):
        names[f"stage{i}.sample.down.0"] = f"down.{i}"
        up = {"up.0": "up", "conv.0": "depthwise", "conv.1": "pointwise"}
        names |= {f"stage{2 + i}.sample.{a}": f"up.{i}.{b}" for a, b in up.items()}
    names |= {f"spe_attn.block.{i}": f"attention.{name}" for i, name in ((0, "embed"), (1, "norm"), (3, "weigh"))}
    return names | _scan_names("spe_attn.block.2", "attention.scan", directions=2)
