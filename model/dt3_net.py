"""3DT-Net: an unfolded fusion algorithm whose prior is a Swin transformer followed by convolutions along the bands.

Paper: Q. Ma, J. Jiang, X. Liu, J. Ma, "Learning a 3D-CNN and transformer prior for hyperspectral image
super-resolution", Information Fusion 100, 2023.
Shapes: ms (B, C, h, w), lms and sr (B, C, H, W), pan (B, P, H, W); inside also channels-last (B, H, W, c).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from lemamba.model.convert import rename_modules
from lemamba.model.layers.drop_path import DropPath
from lemamba.model.layers.unfolding import FEATURES, Unfolding, published_names, published_scalars
from lemamba.model.layers.window import pad_to_multiple
from lemamba.model.ops.portable import is_portable
from lemamba.utils.registry import register_model

_STAGES = 3
_DEPTH = 6
_WINDOW = 8
_FAR = -100.0  # added to logits of pixels that are no neighbours, as released
_DROP = 0.1  # of the last transformer block; the first has none
_MAPS = 64  # of the convolutions along the bands
_PARAMETERS = {  # released spelling -> that of current torch, and ours
    ".relative_position_bias_table": ".bias",
    ".weight_g": ".parametrizations.weight.original0",
    ".weight_v": ".parametrizations.weight.original1",
}


class ShiftedAttention(nn.Module):
    """Attention within windows, with a learned bias for every distance; optionally windows shifted by half a side.

    Shifted windows are cut from the image rolled by half a window, and pixels that came from opposite borders do not
    attend to each other.

    Args:
        width: c.
        heads: attention heads.
        shifted: whether the windows are shifted.
    """

    distance: Tensor
    split: Tensor

    def __init__(self, width: int, heads: int, *, shifted: bool) -> None:
        super().__init__()
        self.heads, self.shift = heads, _WINDOW // 2 if shifted else 0
        self.qkv, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.bias = nn.Parameter(torch.empty((2 * _WINDOW - 1) ** 2, heads))
        nn.init.trunc_normal_(self.bias, std=0.02)
        line = torch.arange(_WINDOW)
        place = torch.stack(torch.meshgrid(line, line, indexing="ij")).flatten(1)
        apart = place[:, :, None] - place[:, None] + _WINDOW - 1
        self.register_buffer("distance", apart[0] * (2 * _WINDOW - 1) + apart[1], persistent=False)
        parts = (place >= _WINDOW - self.shift).long()  # which of its two halves a pixel of the last window is from
        split = parts[:, :, None] != parts[:, None]
        self.register_buffer("split", split, persistent=False)  # by rows and by columns, (2, n, n)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, c), sides multiples of the window, to (B, H, W, c)."""
        if self.shift:
            x = x.roll((-self.shift, -self.shift), dims=(1, 2))
        pattern = "b (nh i) (nw j) (three heads c) -> three b nh nw heads (i j) c"
        qkv = rearrange(self.qkv(x), pattern, three=3, heads=self.heads, i=_WINDOW, j=_WINDOW)
        bias = self.bias[self.distance.flatten()].view(*self.distance.shape, -1).permute(2, 0, 1)
        y = self._joined(qkv, bias) if self.shift else self._within(qkv, bias)
        x = self.project(rearrange(y, "b nh nw heads (i j) c -> b (nh i) (nw j) (heads c)", i=_WINDOW))
        return x.roll((self.shift, self.shift), dims=(1, 2)) if self.shift else x

    def _within(self, qkv: Tensor, bias: Tensor) -> Tensor:
        """Attention of qkv (3, B, nh, nw, heads, n, c) with a bias (heads, n, n)."""
        q, k, v = qkv.flatten(1, 3)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype))
        return y.view(qkv.shape[1:])

    def _joined(self, qkv: Tensor, bias: Tensor) -> Tensor:
        """The same where windows of the last row and of the last column hold two borders of the image.

        Only these have a mask of their own: one for every window would take more memory than all else.
        """
        if is_portable():
            return self._masked(qkv, bias)
        rows = []
        for last_row, row in ((False, slice(-1)), (True, slice(-1, None))):
            columns = []
            for last_column, column in ((False, slice(-1)), (True, slice(-1, None))):
                far = torch.zeros_like(self.split[0])
                if last_row:
                    far = far | self.split[0]
                if last_column:
                    far = far | self.split[1]
                columns.append(self._within(qkv[:, :, row, column], bias + _FAR * far))
            rows.append(torch.cat(columns, dim=2))
        return torch.cat(rows, dim=1)

    def _masked(self, qkv: Tensor, bias: Tensor) -> Tensor:
        """The same with one mask for every window: exporters take minutes for four parts of unknown size."""
        rows, columns = qkv.shape[2:4]
        down, right = (torch.arange(n, device=qkv.device) == n - 1 for n in (rows, columns))
        far = (down[:, None, None, None] & self.split[0]) | (right[:, None, None] & self.split[1])
        bias = bias + _FAR * far.flatten(0, 1)[:, None].to(bias.dtype)
        q, k, v = qkv.flatten(1, 3)
        bias = bias.expand(qkv.shape[1], *bias.shape).flatten(0, 1)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype)).view(qkv.shape[1:])


class SwinBlock(nn.Module):
    """Pre-norm attention and a pre-norm MLP, each with a residual that is dropped at times in training."""

    def __init__(self, width: int, heads: int, *, shifted: bool, drop: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = ShiftedAttention(width, heads, shifted=shifted)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.drop_path = DropPath(drop)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, c) to (B, H, W, c)."""
        x = self.drop_path.add(x, self.attention(self.norm1(x)))
        return self.drop_path.add(x, self.mlp(self.norm2(x)))


class TransformerPrior(nn.Module):
    """The prior: (B, 64, H, W) -> (B, C, H, W) and the features of its first convolution (B, 128, H, W).

    Sides that are no multiples of the window are mirrored and cut back.
    """

    def __init__(self, bands: int, width: int, heads: int, depth: int) -> None:
        super().__init__()
        self.head = nn.Conv2d(64, FEATURES, 3, padding=1)
        self.widen = nn.Conv2d(FEATURES, width, 3, padding=1)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        drops = torch.linspace(0, _DROP, depth).tolist()
        self.blocks = nn.Sequential(
            *(SwinBlock(width, heads, shifted=i % 2 == 1, drop=drop) for i, drop in enumerate(drops))
        )
        self.conv1, self.conv2 = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
        self.tail = nn.Conv2d(width, bands, 3, padding=1)
        self.space = weight_norm(nn.Conv3d(1, _MAPS, (1, 3, 3), padding=(0, 1, 1)))
        self.spectrum = weight_norm(nn.Conv3d(_MAPS, 1, (3, 1, 1), padding=(1, 0, 0)))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the change of the cube and the features."""
        features = self.head(x)
        H, W = x.shape[-2:]
        wide = self.widen(features)
        y = self.norm1(pad_to_multiple(wide, _WINDOW).permute(0, 2, 3, 1))
        z = y + self.conv1(self.blocks(y).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        z = self.conv2(self.norm2(z).permute(0, 3, 1, 2))[..., :H, :W] + wide
        cube = F.relu(self.tail(z))[:, None]
        return self.spectrum(F.relu(self.space(cube)))[:, 0], features


@register_model(
    "3DT-Net",
    tasks=("hmif",),
    ratios=(2, 3, 4, 5, 6, 7, 8, 16),
    paper="Ma et al., Information Fusion 100, 2023",
    published_weights="names only",
)
class DT3Net(Unfolding):
    """3DT-Net. 3,463,525 parameters for 31 bands and RGB at ratio 8; the authors' class: 3,463,536.

    That class has 11 numbers more that it never uses: ten of its fourteen step lengths and weights, a slope. It starts
    from a bicubic enlargement of ms; here that is lms.

    Args:
        img_channel, condition_channel, ratio: see `lemamba.model.build_model`.
        out_channel: bands of sr; equal to C.
        stages: 3 in the released code.
        width: feature maps of the transformer (180), a multiple of `heads`.
        heads: attention heads (6).
        depth: transformer blocks (6).
    """

    def __init__(
        self,
        img_channel: int,
        condition_channel: int,
        out_channel: int,
        *,
        ratio: int = 4,
        stages: int = _STAGES,
        width: int = 180,
        heads: int = 6,
        depth: int = _DEPTH,
    ) -> None:
        prior = TransformerPrior(out_channel, width, heads, depth)
        super().__init__(out_channel, condition_channel, ratio, stages, prior)

    @staticmethod
    def from_published(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rename the authors' state dict, dropping what it never uses and what is computed."""
        scalars, rest = published_scalars(state_dict)
        spelt = {}
        for key, value in rest.items():
            if not key.endswith((".relative_position_index", ".attn_mask")):
                for theirs, ours in _PARAMETERS.items():
                    key = key.replace(theirs, ours)
                spelt[key] = value
        body = "spatial.body.layers.0"
        names = published_names(_STAGES) | {"spatial.head": "prior.head", "spatial.feture": "prior.widen"}
        names |= {"spatial.tail": "prior.tail", "spatial.body.patch_embed.norm": "prior.norm1"}
        names |= {"spatial.body.norm": "prior.norm2", f"{body}.conv": "prior.conv1"}
        names |= {"spatial.body.conv_after_body": "prior.conv2"}
        for theirs, ours in (("conv3d1", "space"), ("conv3d2", "spectrum")):
            names |= {f"spatial.{theirs}{p}": f"prior.{ours}{p}" for p in ("", ".parametrizations.weight")}
        layers = {"norm1": "norm1", "norm2": "norm2", "attn": "attention", "attn.qkv": "attention.qkv"}
        layers |= {"attn.proj": "attention.project", "mlp.fc1": "mlp.0", "mlp.fc2": "mlp.2"}
        for i in range(_DEPTH):
            block = f"{body}.residual_group.blocks.{i}"
            names |= {f"{block}.{a}": f"prior.blocks.{i}.{b}" for a, b in layers.items()}
        return scalars | rename_modules(spelt, names, arch="3DT-Net")
