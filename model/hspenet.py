"""HSpeNet: details of the PAN and features of the spectra pass densely connected layers that add up the details.

Paper: L. He, J. Zhu, J. Li, D. Meng, J. Chanussot, A. Plaza, "Spectral-fidelity convolutional neural networks for
hyperspectral pansharpening", IEEE JSTARS 13, 2020.
Shapes: ms (B, C, h, w) is not used, lms and sr (B, C, H, W), pan (B, 1, H, W).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lemamba.model.convert import rename_modules
from lemamba.model.hyperpnn import mirrored_conv
from lemamba.model.layers.guides import check_single_guide
from lemamba.utils.registry import register_model

_DEPTH = 5


@register_model(
    "HSpeNet",
    tasks=("pansharpening",),
    ratios=(2, 3, 4, 5, 6, 7, 8, 16),
    paper="He et al., JSTARS 13, 2020",
    published_weights="names only",
)
class HSpeNet(nn.Module):
    """HSpeNet. 94,399 parameters for 31 bands, counted from the layers.

    The details of the PAN are what is left of it after two convolutions. Sizes and mirrored border are those of the
    public toolbox for hyperspectral pansharpening (Ciotola et al., 2024). The paper has two versions, HSpeNet1 and
    HSpeNet2; the toolbox has this one, and does not say which it is. The paper's loss is 0.9 mean squared error plus
    0.1 (1 - cosine of the spectral angle).

    Args:
        img_channel, out_channel, ratio: see `lemamba.model.build_model`.
        condition_channel: 1.
        width: feature maps of the spectra (64).
        growth: feature maps of the PAN, and those that every dense layer adds (16).
        depth: dense layers (5).
    """

    def __init__(
        self,
        img_channel: int,
        condition_channel: int,
        out_channel: int,
        *,
        ratio: int = 4,
        width: int = 64,
        growth: int = 16,
        depth: int = _DEPTH,
    ) -> None:
        super().__init__()
        check_single_guide("HSpeNet", condition_channel)
        self.smooth1 = mirrored_conv(1, growth)
        self.smooth2 = mirrored_conv(growth, growth)
        self.encode1 = nn.Conv2d(img_channel, width, 1)
        self.encode2 = nn.Conv2d(width, width, 1)
        self.dense = nn.ModuleList(mirrored_conv(width + (i + 1) * growth, growth) for i in range(depth))
        self.tail = nn.Conv2d(width + (depth + 1) * growth, out_channel, 1)

    def forward(self, ms: Tensor, lms: Tensor, pan: Tensor) -> Tensor:
        """Fuse: lms (B, C, H, W) and pan (B, 1, H, W) in [0, 1] -> sr (B, C, H, W), not clipped; ms is not used."""
        details = pan - F.relu(self.smooth2(F.relu(self.smooth1(pan))))
        x = torch.cat([details, F.relu(self.encode2(F.relu(self.encode1(lms))))], dim=1)
        for layer in self.dense:
            x = torch.cat([x, F.relu(layer(x))], dim=1)
        return lms + self.tail(x)

    @staticmethod
    def from_published(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rename a state dict of the public toolbox for hyperspectral pansharpening."""
        names = {"conv1_2": "smooth1", "conv2_2": "smooth2", "conv1_1": "encode1", "conv2_1": "encode2"}
        names |= {f"conv{3 + i}": f"dense.{i}" for i in range(_DEPTH)}
        return rename_modules(state_dict, {**names, f"conv{3 + _DEPTH}": "tail"}, arch="HSpeNet")
