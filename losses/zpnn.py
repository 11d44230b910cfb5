"""The loss of Z-PNN: spectral consistency by L1, and structure against PAN where the data support it.

Paper: M. Ciotola, S. Vitale, A. Mazza, G. Poggi, G. Scarpa, "Pansharpening by convolutional neural networks in the full
resolution framework", IEEE TGRS 60, 2022.
Shapes: ms (B, C, h, w), sr, threshold (B, C, H, W), pan (B, 1, H, W), in [0, 1].
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from lemamba.losses.spectral import SpectralL1
from lemamba.losses.structural import Structural
from lemamba.utils.geometry import Geometry


class ZPNNLoss(nn.Module):
    """total = spectral + beta structural; range [0, inf).

    Args:
        gains: MTF gains at Nyquist, one per band or one for all.
        geometry: of the pair of images that it is given.
        beta: weight of the structure; 0.36 for WorldView-2 and 3, 0.25 for GeoEye-1 in the released code.
        border: pixels at each side that do not count: half the receptive field of the network.
    """

    def __init__(self, gains: Sequence[float], geometry: Geometry, *, beta: float = 0.36, border: int = 8) -> None:
        super().__init__()
        self.beta = beta
        self.spectral = SpectralL1(gains, geometry, border=border)
        self.structural = Structural(geometry, border=border)

    def forward(self, sr: Tensor, ms: Tensor, pan: Tensor, threshold: Tensor | None = None) -> dict[str, Tensor]:
        """Return {"total", "spectral", "structural"}, scalars; `threshold` as in `correlation_threshold`."""
        spectral = self.spectral(sr, ms)["total"]
        structural = self.structural(sr, pan, threshold)["total"]
        return {"total": spectral + self.beta * structural, "spectral": spectral, "structural": structural}
