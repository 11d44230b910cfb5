"""A-PNN: PNN made residual, the "advanced" version that target-adaptive pansharpening starts from.

Paper: G. Scarpa, S. Vitale, D. Cozzolino, "Target-adaptive CNN-based pansharpening", IEEE TGRS 56(9), 2018,
section III (residual learning, L1 loss, no radiometric indices). A-PNN-FT fine-tunes it on the image that it fuses, at
reduced resolution (section IV); Z-PNN (model/zpnn.py) does so at full resolution.
Shapes: ms (B, C, h, w) is not used, lms and sr (B, C, H, W), pan (B, P, H, W).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lemamba.model.convert import rename_modules
from lemamba.utils.registry import register_model

_MARGIN = 8  # half of the border that 9x9, 5x5 and 5x5 remove together


def published_names(state_dict: Mapping[str, Tensor], arch: str) -> dict[str, Tensor]:
    """Check a published state dict of this network; the names are ours already."""
    return rename_modules(state_dict, {f"conv{i}": f"conv{i}" for i in (1, 2, 3)}, arch=arch)


@register_model("A-PNN", ratios=(2, 4, 8, 16), paper="Scarpa et al., TGRS 56(9), 2018", published_weights="yes")
class APNN(nn.Module):
    """A-PNN. 79,880 parameters for 8 bands and 61,124 for 4 (P = 1).

    Args:
        img_channel, condition_channel, out_channel, ratio: see `lemamba.model.build_model`.
        widths: feature maps after the first and the second convolution (48, 32 in the paper).
    """

    def __init__(
        self,
        img_channel: int,
        condition_channel: int,
        out_channel: int,
        *,
        ratio: int = 4,
        widths: tuple[int, int] = (48, 32),
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(img_channel + condition_channel, widths[0], 9)
        self.conv2 = nn.Conv2d(widths[0], widths[1], 5)
        self.conv3 = nn.Conv2d(widths[1], out_channel, 5)

    def forward(self, ms: Tensor, lms: Tensor, pan: Tensor) -> Tensor:
        """Fuse: lms (B, C, H, W) and pan (B, P, H, W) in [0, 1] -> sr (B, C, H, W), not clipped; ms is not used."""
        x = F.pad(torch.cat([lms, pan], dim=1), [_MARGIN] * 4, mode="replicate")
        return lms + self.conv3(F.relu(self.conv2(F.relu(self.conv1(x)))))

    @staticmethod
    def from_published(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Check a state dict of matciotola/Z-PNN or fast-z-pnn (A-PNN-TA-FR, L-PNN, ZL-PNN)."""
        return published_names(state_dict, "A-PNN")


@register_model(
    "A-PNN-FT",
    tasks=("pansharpening",),
    ratios=(2, 3, 4, 5, 6, 8, 16),
    paper="Scarpa et al., TGRS 56(9), 2018",
    published_weights="yes",
    needs_weights=False,
    trained=False,
    adapts=True,
)
class APNNFT(APNN):
    """A-PNN-FT. Parameters and arguments are those of A-PNN. `forward` fuses with the weights as they are."""

    @staticmethod
    def from_published(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See `APNN.from_published`."""
        return published_names(state_dict, "A-PNN-FT")
