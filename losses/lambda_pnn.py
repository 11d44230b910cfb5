"""The loss of lambda-PNN: spectral consistency by ERGAS and Khan's index, and structure against PAN.

Paper: M. Ciotola, G. Poggi, G. Scarpa, "Unsupervised deep learning-based pansharpening with jointly enhanced spectral
and spatial fidelity", IEEE TGRS 61, 2023; weights of the three terms as in the released code.
Shapes: ms (B, C, h, w), sr, threshold (B, C, H, W), pan (B, 1, H, W), in [0, 1].
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from lemamba.losses.khan import Khan
from lemamba.losses.spectral import ReprojectedErgas, downgrade
from lemamba.losses.structural import Structural
from lemamba.utils.geometry import Geometry


class LambdaPNNLoss(nn.Module):
    """total = alpha ergas + beta khan + gamma structural; range [0, inf).

    Args:
        gains: MTF gains at Nyquist, one per band or one for all.
        geometry: of the pair of images that it is given.
        alpha, beta, gamma: weights; 0.05, 1.25, 5 for WorldView-3, 0.05, 1, 6 for WorldView-2, 0.075, 1.5, 7 for
            GeoEye-1 in the released code.
        rounded: see `Khan`; True, as released, leaves the gradient to the other two terms.
    """

    def __init__(
        self,
        gains: Sequence[float],
        geometry: Geometry,
        *,
        alpha: float = 0.05,
        beta: float = 1.25,
        gamma: float = 5.0,
        rounded: bool = True,
    ) -> None:
        super().__init__()
        self.gains, self.geometry = tuple(gains), geometry
        self.weights = {"ergas": alpha, "khan": beta, "structural": gamma}
        self.ergas = ReprojectedErgas(gains, geometry)
        self.khan = Khan(rounded=rounded)
        self.structural = Structural(geometry)

    def forward(self, sr: Tensor, ms: Tensor, pan: Tensor, threshold: Tensor | None = None) -> dict[str, Tensor]:
        """Return {"total", "ergas", "khan", "structural"}, scalars; `threshold` as in `correlation_threshold`."""
        low = downgrade(sr, self.gains, self.geometry, ms.shape[-2:])
        parts = {
            "ergas": self.ergas.of(low, ms)["total"],
            "khan": self.khan(low, ms)["total"],
            "structural": self.structural(sr, pan, threshold)["total"],
        }
        total = self.weights["ergas"] * parts["ergas"]
        for name in ("khan", "structural"):
            total = total + self.weights[name] * parts[name]
        return {"total": total, **parts}
