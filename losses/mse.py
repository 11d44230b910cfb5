"""MSE: mean squared error. sr, gt (B, C, H, W)."""

from __future__ import annotations

from torch import Tensor, nn

from lemamba.utils.registry import register_loss


@register_loss("mse")
class MSE(nn.Module):
    """total = mse = mean (sr - gt)²."""

    def forward(self, sr: Tensor, gt: Tensor) -> dict[str, Tensor]:
        """Return {"total", "mse"}, scalars."""
        mse = (sr - gt).square().mean()
        return {"total": mse, "mse": mse}
