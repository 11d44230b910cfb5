"""The loss of the third stage of ZS-Pan: the fused image must give MS when downgraded, and PAN through its response.

Paper: Q. Cao, L.-J. Deng, W. Wang, J. Hou, G. Vivone, "Zero-shot semi-supervised learning for pansharpening",
Information Fusion 101, 2024; weights 8 and 1 as in the released code.
Shapes: ms (B, C, h, w), sr (B, C, H, W), pan (B, 1, H, W), in [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from lemamba.losses.spectral import downgrade
from lemamba.utils.geometry import Geometry


class ZSPanLoss(nn.Module):
    """total = spectral_weight spectral + structural, both mean squared errors; range [0, inf).

    Args:
        gains: MTF gains at Nyquist, one per band or one for all.
        geometry: of the pair of images that it is given.
        response: (B, C, h, w) -> (B, 1, h, w), what PAN sees of the bands, learnt beforehand at low resolution.
        spectral_weight: 8 in the released code.
    """

    def __init__(
        self,
        gains: Sequence[float],
        geometry: Geometry,
        response: Callable[[Tensor], Tensor],
        *,
        spectral_weight: float = 8.0,
    ) -> None:
        super().__init__()
        self.gains, self.geometry, self.response = tuple(gains), geometry, response
        self.spectral_weight = spectral_weight

    def forward(self, sr: Tensor, ms: Tensor, pan: Tensor) -> dict[str, Tensor]:
        """Return {"total", "spectral", "structural"}, scalars."""
        spectral = (downgrade(sr, self.gains, self.geometry, ms.shape[-2:]) - ms).square().mean()
        structural = (self.response(sr) - pan).square().mean()
        return {
            "total": self.spectral_weight * spectral + structural,
            "spectral": spectral,
            "structural": structural,
        }
