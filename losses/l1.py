"""L1: mean absolute error. sr, gt (B, C, H, W)."""

from __future__ import annotations

from torch import Tensor, nn

from lemamba.utils.registry import register_loss


@register_loss("l1")
class L1(nn.Module):
    """total = l1 = mean |sr - gt|."""

    def forward(self, sr: Tensor, gt: Tensor) -> dict[str, Tensor]:
        """Return {"total", "l1"}, scalars."""
        l1 = (sr - gt).abs().mean()
        return {"total": l1, "l1": l1}
