"""L1 plus the spectral angle: keeps the direction of each pixel's spectrum. sr, gt (B, C, H, W)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lemamba.losses.l1 import L1
from lemamba.utils.registry import register_loss


def spectral_angle(sr: Tensor, gt: Tensor, eps: float = 1e-6) -> Tensor:
    """Mean angle in radians between the spectra of sr and gt, each (B, C, H, W); a black pixel counts as 0.

    The angle comes from atan2(|a - b|, |a + b|) of the unit vectors a, b (Kahan): unlike acos, its gradient stays
    finite at equal spectra. `eps` is added to both lengths under the root, so the angle of equal spectra is < eps.
    """
    sr_length, gt_length = (x.square().sum(1, keepdim=True) for x in (sr, gt))
    seen = (sr_length > eps**2) & (gt_length > eps**2)
    a = sr * torch.where(seen, sr_length, 1.0).rsqrt()
    b = gt * torch.where(seen, gt_length, 1.0).rsqrt()
    apart = ((a - b).square().sum(1, keepdim=True) + eps**2).sqrt()
    along = ((a + b).square().sum(1, keepdim=True) + eps**2).sqrt()
    angle = 2 * torch.atan2(apart, along)
    return torch.where(seen, angle, 0.0).mean()


@register_loss("l1sam")
class L1SAM(nn.Module):
    """total = l1 + weight · sam, sam in radians."""

    def __init__(self, weight: float = 0.1) -> None:
        super().__init__()
        self.weight = weight
        self.l1 = L1()

    def forward(self, sr: Tensor, gt: Tensor) -> dict[str, Tensor]:
        """Return {"total", "l1", "sam"}, scalars."""
        l1 = self.l1(sr, gt)["total"]
        sam = spectral_angle(sr, gt)
        return {"total": l1 + self.weight * sam, "l1": l1, "sam": sam}
