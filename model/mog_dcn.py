"""MoG-DCN: an unfolded fusion algorithm whose prior is a U-Net with dense connections between its calls.

Paper: W. Dong, C. Zhou, F. Wu, J. Wu, G. Shi, X. Li, "Model-guided deep hyperspectral image super-resolution", IEEE TIP
30, 2021.
Shapes: ms (B, C, h, w), lms and sr (B, C, H, W), pan (B, P, H, W).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lemamba.model.convert import rename_modules
from lemamba.model.layers.unfolding import FEATURES, Unfolding, enlarge_to, published_names, published_scalars
from lemamba.utils.registry import register_model

_WIDTH = 64
_DEEP = 512  # feature maps between the levels on the way up
_STAGES = 4
_LEVELS = 4  # at which the sides are halved


class Encoder(nn.Module):
    """Four convolutions; one PReLU for all. The last has none: its 128 maps go across."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(_WIDTH, _WIDTH, 3, padding=1) for _ in range(3))
        self.across = nn.Conv2d(_WIDTH, FEATURES, 3, padding=1)
        self.activation = nn.PReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 64, H, W) to (B, 128, H, W)."""
        for layer in self.layers:
            x = self.activation(layer(x))
        return self.across(x)


class DownEncoder(Encoder):
    """An encoder and a convolution of stride 2."""

    def __init__(self) -> None:
        super().__init__()
        self.halve = nn.Conv2d(FEATURES, _WIDTH, 3, stride=2, padding=1)

    def down(self, across: Tensor) -> Tensor:
        """Map (B, 128, H, W) to (B, 64, H/2, W/2), sides rounded up."""
        return self.activation(self.halve(across))


class Decoder(nn.Module):
    """Double the sides, append what comes across, three convolutions, and a last one of side `last`."""

    def __init__(self, channels_in: int, channels_out: int, last: int) -> None:
        super().__init__()
        self.enlarge = nn.ConvTranspose2d(channels_in, FEATURES, 3, stride=2, padding=1)
        self.layers = nn.ModuleList(
            nn.Conv2d(FEATURES * (2 if i == 0 else 1), FEATURES, 3, padding=1) for i in range(3)
        )
        self.tail = nn.Conv2d(FEATURES, channels_out, last, padding=last // 2)
        self.activation = nn.PReLU()

    def forward(self, x: Tensor, across: Tensor) -> Tensor:
        """Map (B, c, H/2, W/2) and (B, 128, H, W) to (B, d, H, W)."""
        x = torch.cat([enlarge_to(self.enlarge, x, across.shape[-2:]), across], dim=1)
        for layer in self.layers:
            x = self.activation(layer(x))
        return self.tail(x)


class UNet(nn.Module):
    """The prior: (B, 64, H, W) -> (B, C, H, W) and the first features that go across, (B, 128, H, W)."""

    def __init__(self, bands: int) -> None:
        super().__init__()
        self.down = nn.ModuleList(DownEncoder() for _ in range(_LEVELS))
        self.bottom = Encoder()
        ends = [(FEATURES, _DEEP, 1), (_DEEP, _DEEP, 1), (_DEEP, _DEEP, 1), (_DEEP, bands, 3)]
        self.up = nn.ModuleList(Decoder(*end) for end in ends)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the change of the cube and the features."""
        across = []
        for level in self.down:
            across.append(level(x))
            x = level.down(across[-1])  # type: ignore[operator]
        x = self.bottom(x)
        for level, skip in zip(self.up, reversed(across), strict=True):
            x = level(x, skip)
        return x, across[0]


@register_model(
    "MoG-DCN",
    tasks=("hmif",),
    ratios=(2, 3, 4, 5, 6, 7, 8, 16),
    paper="Dong et al., TIP 30, 2021",
    published_weights="names only",
)
class MoGDCN(Unfolding):
    """MoG-DCN. 6,840,184 parameters for 31 bands and RGB at ratio 4; the public class: 6,840,289.

    That class has 105 numbers more that it never uses: a fixed response of 31 x 3, ten of its fourteen step lengths and
    weights, two slopes. It starts from a bicubic enlargement of ms; here that is lms.

    Args:
        img_channel, condition_channel, ratio: see `lemamba.model.build_model`.
        out_channel: bands of sr; equal to C.
        stages: 4 in the released code.
    """

    def __init__(
        self, img_channel: int, condition_channel: int, out_channel: int, *, ratio: int = 4, stages: int = _STAGES
    ) -> None:
        super().__init__(out_channel, condition_channel, ratio, stages, UNet(out_channel))

    @staticmethod
    def from_published(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rename a state dict of the public class, dropping what it never uses."""
        scalars, rest = published_scalars(state_dict)
        names = published_names(_STAGES)
        for i in range(_LEVELS + 1):
            bottom = i == _LEVELS
            theirs = "spatial.Encoding_block_end" if bottom else f"spatial.Encoding_block{i + 1}"
            ours = "prior.bottom" if bottom else f"prior.down.{i}"
            names |= {f"{theirs}.conv{n + 1}": f"{ours}.layers.{n}" for n in range(3)}
            names |= {f"{theirs}.conv4": f"{ours}.across", f"{theirs}.act": f"{ours}.activation"}
            names |= {} if bottom else {f"{theirs}.conv5": f"{ours}.halve"}
        for i in range(_LEVELS):
            theirs = f"spatial.Decoding_block{'_End' if i == _LEVELS - 1 else i + 1}"
            names |= {f"{theirs}.conv{n}": f"prior.up.{i}.layers.{n}" for n in range(3)}
            names |= {f"{theirs}.conv3": f"prior.up.{i}.tail", f"{theirs}.up": f"prior.up.{i}.enlarge"}
            names |= {f"{theirs}.act": f"prior.up.{i}.activation"}
        return scalars | rename_modules(rest, names, arch="MoG-DCN")
