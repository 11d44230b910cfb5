"""Charbonnier: the smooth L1 of Lai et al. (LapSRN, CVPR 2017). sr, gt (B, C, H, W)."""

from __future__ import annotations

from torch import Tensor, nn

from lemamba.utils.registry import register_loss


@register_loss("charbonnier")
class Charbonnier(nn.Module):
    """total = charbonnier = mean sqrt((sr - gt)² + eps²); eps is where it turns from quadratic to linear."""

    def __init__(self, eps: float = 1e-3) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, sr: Tensor, gt: Tensor) -> dict[str, Tensor]:
        """Return {"total", "charbonnier"}, scalars; eps, not 0, where sr equals gt."""
        value = ((sr - gt).square() + self.eps**2).sqrt().mean()
        return {"total": value, "charbonnier": value}
