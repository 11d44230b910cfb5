"""The loss LE-Mamba was released with: L1 + 0.1·(1 − SSIM). sr, gt (B, C, H, W) in [0, 1].

SSIM (Wang et al., TIP 2004) with an 11×11 Gaussian of σ 1.5 and range 1.
"""

from __future__ import annotations

from torch import Tensor, nn

from lemamba.losses.l1 import L1
from lemamba.operators import ssim_map
from lemamba.utils.registry import register_loss


@register_loss("l1ssim")
class L1SSIM(nn.Module):
    """total = l1 + weight · ssim, where the part "ssim" is 1 − SSIM."""

    def __init__(self, weight: float = 0.1) -> None:
        super().__init__()
        self.weight = weight
        self.l1 = L1()

    def forward(self, sr: Tensor, gt: Tensor) -> dict[str, Tensor]:
        """Return {"total", "l1", "ssim"}, scalars."""
        l1 = self.l1(sr, gt)["total"]
        ssim = 1 - ssim_map(sr, gt).mean()
        return {"total": l1 + self.weight * ssim, "l1": l1, "ssim": ssim}
