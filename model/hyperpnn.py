"""HyperPNN: spectra are encoded and decoded pixel by pixel, space is treated in between, together with the PAN.

Paper: L. He, J. Zhu, J. Li, A. Plaza, J. Chanussot, B. Li, "HyperPNN: Hyperspectral pansharpening via spectrally
predictive convolutional neural networks", IEEE JSTARS 12(8), 2019.
Shapes: ms (B, C, h, w) is not used, lms and sr (B, C, H, W), pan (B, 1, H, W).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lemamba.model.convert import rename_modules
from lemamba.model.layers.guides import check_single_guide
from lemamba.utils.registry import register_model


def mirrored_conv(channels_in: int, channels_out: int) -> nn.Conv2d:
    """Return a convolution of 3 x 3; the border is mirrored, without repeating the edge."""
    return nn.Conv2d(channels_in, channels_out, 3, padding=1, padding_mode="reflect")


@register_model(
    "HyperPNN",
    tasks=("pansharpening",),
    ratios=(2, 3, 4, 5, 6, 7, 8, 16),
    paper="He et al., JSTARS 12(8), 2019",
    published_weights="names only",
)
class HyperPNN(nn.Module):
    """HyperPNN with its skip connection. 123,743 parameters for 31 bands, counted from the layers.

    Two layers of 1 x 1 encode the spectra, three of 3 x 3 see these features and PAN, the features are added, and two
    layers of 1 x 1 decode. Width, skip and mirrored border are those of the public toolbox for hyperspectral
    pansharpening (Ciotola et al., 2024); other public versions add lms to the output and no features.

    Args:
        img_channel, out_channel, ratio: see `lemamba.model.build_model`.
        condition_channel: 1.
        width: feature maps (64).
    """

    def __init__(
        self, img_channel: int, condition_channel: int, out_channel: int, *, ratio: int = 4, width: int = 64
    ) -> None:
        super().__init__()
        check_single_guide("HyperPNN", condition_channel)
        self.encode1 = nn.Conv2d(img_channel, width, 1)
        self.encode2 = nn.Conv2d(width, width, 1)
        self.spatial = nn.ModuleList(mirrored_conv(width + (i == 0), width) for i in range(3))
        self.decode1 = nn.Conv2d(width, width, 1)
        self.decode2 = nn.Conv2d(width, out_channel, 1)

    def forward(self, ms: Tensor, lms: Tensor, pan: Tensor) -> Tensor:
        """Fuse: lms (B, C, H, W) and pan (B, 1, H, W) in [0, 1] -> sr (B, C, H, W), not clipped; ms is not used."""
        spectra = F.relu(self.encode2(F.relu(self.encode1(lms))))
        x = torch.cat([pan, spectra], dim=1)
        for layer in self.spatial:
            x = F.relu(layer(x))
        return self.decode2(F.relu(self.decode1(x + spectra)))

    @staticmethod
    def from_published(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rename a state dict of the public toolbox for hyperspectral pansharpening."""
        names = {"conv1": "encode1", "conv2": "encode2", "conv6": "decode1", "conv7": "decode2"}
        names |= {f"conv{3 + i}": f"spatial.{i}" for i in range(3)}
        return rename_modules(state_dict, names, arch="HyperPNN")
