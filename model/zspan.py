"""ZS-Pan: FusionNet trained on the one pair of images that it fuses, in three stages.

Paper: Q. Cao, L.-J. Deng, W. Wang, J. Hou, G. Vivone, "Zero-shot semi-supervised learning for pansharpening",
Information Fusion 101, 2024. First a small network learns at low resolution what PAN sees of the bands
(`SpectralResponse`); then FusionNet is trained at low resolution, and last at full resolution, where the fused image
must give back MS and, through the response, PAN.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from lemamba.model.fusionnet import FusionNet
from lemamba.utils.registry import register_model

_CUT_DEVIATION = 0.8796  # deviation of a standard normal variable that is cut at two


@register_model(
    "ZS-Pan",
    tasks=("pansharpening",),
    ratios=(2, 3, 4, 5, 6, 8, 16),
    paper="Cao et al., Information Fusion 101, 2024",
    published_weights="yes",
    needs_weights=False,
    trained=False,
    adapts=True,
)
class ZSPan(FusionNet):
    """ZS-Pan. Parameters and arguments are those of FusionNet. `forward` fuses with the weights as they are.

    Weights are drawn as in the released code: normal of variance 1 / fan-in, cut at two deviations; no biases. They are
    smaller than FusionNet's, so that fewer steps suffice.
    """

    def __init__(
        self,
        img_channel: int,
        condition_channel: int,
        out_channel: int,
        *,
        ratio: int = 4,
        width: int = 32,
        depth: int = 4,
    ) -> None:
        super().__init__(img_channel, condition_channel, out_channel, ratio=ratio, width=width, depth=depth)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                fan_in = module.weight[0].numel()
                deviation = fan_in**-0.5 / _CUT_DEVIATION
                nn.init.trunc_normal_(module.weight, std=deviation, a=-2 * deviation, b=2 * deviation)

    @staticmethod
    def from_published(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rename a state dict of FusionNet (DLPan-Toolbox, coder-qicao/ZS-Pan)."""
        return FusionNet.from_published(state_dict)


class SpectralResponse(nn.Module):
    """What PAN sees of the bands, pixel by pixel: three linear layers with sigmoids; 1,377 parameters for 8 bands.

    Args:
        bands: C.
        width: of the two hidden layers (32 in the released code).
    """

    def __init__(self, bands: int, width: int = 32) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(bands, width, 1), nn.Sigmoid(), nn.Conv2d(width, width, 1), nn.Sigmoid(), nn.Conv2d(width, 1, 1)
        )

    def forward(self, bands: Tensor) -> Tensor:
        """(B, C, h, w) in [0, 1] -> (B, 1, h, w)."""
        return self.layers(bands)
