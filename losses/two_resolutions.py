"""The loss of an adaptation's last part: patches with ground truth next to patches at full resolution without one.

Spectral consistency and structure against PAN as in Z-PNN (`lemamba.losses.zpnn`); the patches with ground truth, by
Wald's protocol, keep the network from trading its fidelity for them.
Shapes: sr, lms, gt (B, C, H, W), ms (B, C, h, w), pan (B, 1, H, W), full (B,), in [0, 1].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from lemamba.losses.spectral import downgrade, inner_ms
from lemamba.losses.structural import Structural, correlation_threshold
from lemamba.utils.geometry import Geometry


class TwoResolutions(nn.Module):
    """total = l1 of the patches with ground truth + spectral + weight · structural of the others; range [0, inf).

    Args:
        gains: MTF gains at Nyquist, one per band or one for all.
        geometry: of the patches.
        weight: of the structure, whose numbers are about ten times as large as those of the other parts.
        border: pixels at each side of a patch that do not count: what the filter sees beyond it is not the scene.
    """

    takes_batch = True

    def __init__(self, gains: Sequence[float], geometry: Geometry, *, weight: float = 0.02, border: int = 8) -> None:
        super().__init__()
        self.gains, self.geometry, self.weight, self.border = tuple(gains), geometry, weight, border
        self.structural = Structural(geometry, border=border)

    def forward(self, sr: Tensor, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return {"total", "l1", "spectral", "structural"}, scalars; a part without patches is 0.

        Args:
            sr: of the batch.
            batch: gt; "full", 1 for patches without ground truth, absent where all have one; ms, lms, pan of these.
        """
        full = batch["full"] > 0 if "full" in batch else torch.zeros(len(sr), dtype=torch.bool, device=sr.device)
        nothing = 0 * sr.sum()
        l1 = (sr[~full] - batch["gt"][~full]).abs().mean() if not full.all() else nothing
        spectral = structural = nothing
        if full.any():
            fused, ms, lms, pan = (x[full] for x in (sr, batch["ms"], batch["lms"], batch["pan"]))
            low = downgrade(fused, self.gains, self.geometry, ms.shape[-2:])
            rows, columns = inner_ms(self.geometry, fused.shape[-2:], self.border)
            spectral = (low - ms)[..., rows, columns].abs().mean()
            threshold = correlation_threshold(lms, pan, self.gains[0], self.geometry)
            structural = self.structural(fused, pan, threshold)["total"].to(sr.dtype)
        total = l1 + spectral + self.weight * structural
        return {"total": total, "l1": l1, "spectral": spectral, "structural": structural}
