"""Hyper-DSNet: edges of the PAN by classical filters, layers that narrow with depth, and attention over the bands.

Paper: Y.-W. Zhuo, T.-J. Zhang, J.-F. Hu, H.-X. Dou, T.-Z. Huang, L.-J. Deng, "A deep-shallow fusion network with
multidetail extractor and spectral attention for hyperspectral pansharpening", IEEE JSTARS 15, 2022.
Shapes: ms (B, C, h, w), lms and sr (B, C, H, W), pan (B, 1, H, W).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lemamba.model.convert import rename_modules
from lemamba.model.layers.guides import check_single_guide
from lemamba.utils.registry import register_model

_LEVELS = 255.0
_SMOOTH = ((1, 2, 1), (2, 4, 2), (1, 2, 1))  # over 16
_SOBEL = (((-1, 0, 1), (-2, 0, 2), (-1, 0, 1)), ((-1, -2, -1), (0, 0, 0), (1, 2, 1)))
_PREWITT = (((1, 1, 1), (0, 0, 0), (-1, -1, -1)), ((-1, 0, 1), (-1, 0, 1), (-1, 0, 1)))
_ROBERTS = (((-1, 0, 0), (0, 1, 0), (0, 0, 0)), ((0, -1, 0), (1, 0, 0), (0, 0, 0)))
_LAPLACE = (((2, 0, 2), (0, -8, 0), (2, 0, 2)),)
_WIDTHS = (32, 16, 8, 8)  # of the deep-shallow layers
_SHRINK = 4  # factor of the hidden layer of the spectral attention


def _filtered(x: Tensor, kernels: tuple[tuple[tuple[int, ...], ...], ...]) -> Tensor:
    """Correlate (B, 1, H, W) with K kernels of 3 x 3 -> (B, K, H, W); the border is mirrored."""
    weight = torch.tensor(kernels, dtype=x.dtype, device=x.device)[:, None]
    return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), weight)


def _strength(x: Tensor, kernels: tuple[tuple[tuple[int, ...], ...], ...]) -> Tensor:
    """Mean size of the responses to the kernels, rounded to 8 bits on the way: (B, 1, H, W), 0 to 255."""
    responses = _filtered(x, kernels).abs().clamp(max=_LEVELS).round()
    return responses.mean(dim=1, keepdim=True).round()


@torch.no_grad()
def edges(pan: Tensor) -> Tensor:
    """Return the six maps of details of a PAN: differences of rows and of columns, Roberts, Prewitt, Sobel, Laplace.

    As in the authors' code, which has them from OpenCV: the last four are taken from the smoothed image in 8 bits, 255
    being the largest value of the image, and are rounded to 8 bits themselves. They depend on the whole image through
    that value.

    Args:
        pan: (B, 1, H, W), not negative; H and W at least 2.

    Returns:
        (B, 6, H, W) in the units of pan; without gradient.
    """
    with torch.autocast(pan.device.type, enabled=False):
        pan = pan if pan.dtype == torch.float64 else pan.float()
        smooth = _filtered(pan, (_SMOOTH,)) / 16
        unit = smooth.amax(dim=(1, 2, 3), keepdim=True).clamp_min(1e-12) / _LEVELS
        fine = smooth / unit
        coarse = fine.clamp(0.0, _LEVELS).floor()  # 0 as an integer: torch 2.13 cannot export it
        sizes = [_strength(coarse, _ROBERTS), _strength(coarse, _PREWITT), _strength(fine, _SOBEL)]
        sizes.append(_strength(coarse, _LAPLACE))
        rows = F.pad(pan[:, :, 1:] - pan[:, :, :-1], (0, 0, 1, 0))
        columns = F.pad(pan[..., 1:] - pan[..., :-1], (1, 0))
        return torch.cat([rows, columns, torch.cat(sizes, dim=1) * unit], dim=1)


class SpectralAttention(nn.Module):
    """One factor in (0, 1) per band, from the means of the bands of ms."""

    def __init__(self, bands: int) -> None:
        super().__init__()
        hidden = max(1, bands // _SHRINK)
        self.layers = nn.Sequential(nn.Conv2d(bands, hidden, 1), nn.ReLU(), nn.Conv2d(hidden, bands, 1), nn.Sigmoid())

    def forward(self, ms: Tensor) -> Tensor:
        """Map (B, C, h, w) to (B, C, 1, 1)."""
        return self.layers(ms.mean(dim=(2, 3), keepdim=True))


@register_model(
    "Hyper-DSNet",
    tasks=("pansharpening",),
    ratios=(2, 3, 4, 5, 6, 7, 8, 16),
    paper="Zhuo et al., JSTARS 15, 2022",
    published_weights="names only",
)
class HyperDSNet(nn.Module):
    """Hyper-DSNet. 74,711 parameters for 31 bands, counted from the layers of the authors' code.

    The attention and the edges depend on the whole image: large images are best fused in tiles of the size of the
    training patches.

    Args:
        img_channel, ratio: see `lemamba.model.build_model`.
        condition_channel: 1.
        out_channel: bands of sr; equal to C.
        width: feature maps of each of the three convolutions that see the input (16).
    """

    def __init__(
        self, img_channel: int, condition_channel: int, out_channel: int, *, ratio: int = 4, width: int = 16
    ) -> None:
        super().__init__()
        check_single_guide("Hyper-DSNet", condition_channel)
        self.scales = nn.ModuleList(nn.Conv2d(img_channel + 7, width, k, padding=k // 2) for k in (3, 5, 7))
        widths = (3 * width, *_WIDTHS)
        self.deep = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in zip(widths, widths[1:], strict=False))
        self.tail = nn.Conv2d(sum(widths), out_channel, 1)
        self.attention = SpectralAttention(img_channel)
        for layer in (*self.scales, *self.deep, *self.attention.layers):
            if isinstance(layer, nn.Conv2d):  # as released: normal of variance 1 / fan-in, cut at two deviations
                deviation = 1 / (0.8796 * math.sqrt(layer.weight[0].numel()))
                nn.init.trunc_normal_(layer.weight, std=deviation, a=-2 * deviation, b=2 * deviation)
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)

    def forward(self, ms: Tensor, lms: Tensor, pan: Tensor) -> Tensor:
        """Fuse: ms, lms and pan (B, 1, H, W) in [0, 1] -> sr (B, C, H, W), not clipped."""
        x = torch.cat([pan, edges(pan).to(pan.dtype), lms], dim=1)
        x = torch.cat([F.relu(layer(x)) for layer in self.scales], dim=1)
        maps = [x]
        for layer in self.deep:
            maps.append(F.relu(layer(maps[-1])))
        return lms + self.tail(torch.cat(maps, dim=1)) * self.attention(ms)

    @staticmethod
    def from_published(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rename the authors' state dict."""
        names = {f"block2.conv{i + 1}.0": f"scales.{i}" for i in range(3)}
        names |= {f"block3.conv0{i + 1}": f"deep.{i}" for i in range(len(_WIDTHS))}
        names |= {f"CA.conv_du.{i}": f"attention.layers.{i}" for i in (0, 2)}
        return rename_modules(state_dict, {**names, "convlast": "tail"}, arch="Hyper-DSNet")
