"""ADKNet: every pixel and channel has its own kernel, the product of one from the guide and one from the MS features.

Paper: S. Peng, L.-J. Deng, J.-F. Hu, Y. Zhuo, "Source-adaptive discriminative kernels based network for remote sensing
pansharpening", IJCAI 2022.
Shapes: ms (B, C, h, w), lms (B, C, H, W) is not used, pan (B, P, H, W), sr (B, C, H, W).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lemamba.model.convert import rename_modules
from lemamba.utils.registry import register_model

_SIDE = 3  # of the kernels
_TAPS = _SIDE * _SIDE
_SPREAD = math.sqrt(2 / (1 + 0.01**2)) / _SIDE  # He's gain for a leaky ReLU; the authors' slope is 0.2, its gain 0.01's
_REDUCTION = 0.05  # of the width inside the spectral branch
_DEPTH = 7


def standardise(kernel: Tensor, dim: int) -> Tensor:
    """Give the values along `dim` mean 0 and standard deviation 1 (with n - 1)."""
    deviation, mean = torch.std_mean(kernel, dim=dim, keepdim=True)
    return (kernel - mean) / (deviation + 1e-10)


def _in_float64(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """Apply a 1x1 convolution to vectors (B, c) as a product, which also onnxruntime has in float64."""
    assert layer.bias is not None
    return F.linear(x, layer.weight.flatten(1).double(), layer.bias.double())


class AdaptiveKernels(nn.Module):
    """Filter features of the MS with kernels ``spatial(pixel) * spectral(channel)``, 3x3 each.

    The spatial kernels, one per pixel, are made from the guide's features, the spectral ones, one per channel, from the
    mean of the MS features over the whole map: the result depends on the map's size.

    Args:
        width: channels.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.spatial = nn.Sequential(
            nn.Conv2d(width, width, _SIDE, padding=1, groups=width),
            nn.Conv2d(width, _TAPS, 1),
            nn.Conv2d(_TAPS, _TAPS, _SIDE, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(_TAPS, _TAPS, _SIDE, padding=1),
        )
        inside = max(1, int(width * _REDUCTION))
        self.squeeze = nn.Conv2d(width, inside, 1)
        self.expand = nn.Conv2d(inside, width * _TAPS, 1)
        self.std = nn.Parameter(torch.randn(width * _TAPS) * _SPREAD)  # one deviation per channel and tap

    def spectral_kernels(self, x: Tensor) -> Tensor:
        """Make the kernels (B, c, 9) of the channels of x (B, c, H, W).

        In float64, which costs nothing on one vector per image: standardising amplifies rounding, all pixels share it,
        and layer follows layer. In float32 it is most of the error of the network.
        """
        mean = x.mean(dim=(-2, -1), dtype=torch.float64)
        inside = F.leaky_relu(_in_float64(self.squeeze, mean), 0.2)
        kernels = standardise(_in_float64(self.expand, inside).view(x.shape[0], -1, _TAPS), dim=2)
        return (kernels * self.std.view(-1, _TAPS)).to(x.dtype)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Filter features x of the MS by features y of the guide, both (B, c, H, W), to (B, c, H, W)."""
        H, W = x.shape[-2:]
        spatial = standardise(self.spatial(y), dim=1) * _SPREAD
        spectral = self.spectral_kernels(x)[..., None, None]
        padded = F.pad(x, [_SIDE // 2] * 4)
        filtered = torch.zeros_like(x)
        for tap in range(_TAPS):
            i, j = divmod(tap, _SIDE)
            filtered = filtered + padded[..., i : i + H, j : j + W] * (spectral[:, :, tap] * spatial[:, tap, None])
        return filtered


@register_model("ADKNet", ratios=(2, 4, 8, 16), paper="Peng et al., IJCAI 2022", published_weights="yes")
class ADKNet(nn.Module):
    """ADKNet. 64,713 parameters for 8 bands and a PAN, 229,518 for 31 bands and RGB, as published (ratio 4).

    Fuse large images in tiles of the size of the training patches: kernels depend on the mean of the whole input.

    Args:
        img_channel, condition_channel: see `lemamba.model.build_model`.
        out_channel: bands of sr; equal to C, since the enlarged ms is added.
        ratio: H / h; sets the size of both deconvolutions.
        width: feature maps (60 in the paper).
        depth: adaptive layers (7 in the paper).
    """

    def __init__(
        self,
        img_channel: int,
        condition_channel: int,
        out_channel: int,
        *,
        ratio: int = 4,
        width: int = 60,
        depth: int = _DEPTH,
    ) -> None:
        super().__init__()
        self.enlarge = nn.ConvTranspose2d(img_channel, img_channel, 2 * ratio, stride=ratio, padding=ratio // 2)
        self.skip = nn.ConvTranspose2d(img_channel, out_channel, 2 * ratio, stride=ratio, padding=ratio // 2)
        self.activation = nn.PReLU()  # one slope for its three uses, as published
        self.head_ms = nn.Conv2d(img_channel, width, 5, padding=2)
        self.head_pan = nn.Conv2d(condition_channel, width, 5, padding=2)
        self.layers = nn.ModuleList(AdaptiveKernels(width) for _ in range(depth))
        self.tail = nn.Conv2d(width, out_channel, 3, padding=1)

    def forward(self, ms: Tensor, lms: Tensor, pan: Tensor) -> Tensor:
        """Fuse: ms (B, C, h, w) and pan (B, P, H, W) in [0, 1] -> sr (B, C, H, W), not clipped; lms is not used."""
        x = self.activation(self.head_ms(self.activation(self.enlarge(ms))))
        y = self.activation(self.head_pan(pan))
        for layer in self.layers:
            x = layer(x, y)
        return self.skip(ms) + self.tail(x)

    @staticmethod
    def from_published(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rename a state dict of the authors' repository (liangjiandeng/ADKNet), either version."""
        names = {"deconv": "enlarge", "upsample": "skip", "relu": "activation"}
        names |= {"conv1": "head_ms", "conv2": "tail", "conv3": "head_pan"}
        for i in range(_DEPTH):
            theirs, ours = f"adk{i + 1}.ADKGenerator", f"layers.{i}"
            names |= {f"{theirs}.spatial_branch.{j}": f"{ours}.spatial.{j}" for j in (0, 1, 2, 4)}
            spectral = {"1": f"{ours}.squeeze", "3": f"{ours}.expand", "4": ours}
            names |= {f"{theirs}.spectral_branch.{place}": module for place, module in spectral.items()}
        return rename_modules(state_dict, names, arch="ADKNet")
