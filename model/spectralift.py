"""SpectraLift: a small network that turns the guide's values of a pixel into its spectrum, trained on the pair itself.

Paper: R. Shah, M. F. Duarte, "SpectraLift: Physics-guided spectral-inversion network for self-supervised hyperspectral
image super-resolution", arXiv 2507.13339, 2025. It is trained where both images are known at the pixels of ms: the
guide's response applied to ms is the input, ms the output. Neither the blur nor the ratio enters.
Shapes: ms (B, C, h, w) and lms (B, C, H, W) are not used, pan (B, P, H, W), sr (B, C, H, W).
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from lemamba.utils.registry import register_model

_SLOPE = 0.3  # of the leaky ReLU


@register_model(
    "SpectraLift",
    tasks=("hmif",),
    ratios=(2, 3, 4, 5, 6, 7, 8, 16, 32),
    paper="Shah and Duarte, arXiv 2507.13339, 2025",
    needs_weights=False,
    trained=False,
    adapts=True,
)
class SpectraLift(nn.Module):
    """SpectraLift. 23,071 parameters for 31 bands and RGB, counted from the layers of the authors' code.

    Six layers of `width`, with the sums x2 = f2(x1) + x1, x4 = f4(f3(x2)) + x2 and x6 = f6(f5(x4)) + x4, and a linear
    layer. `forward` fuses with the weights as they are.

    Args:
        img_channel: not used.
        condition_channel: P.
        out_channel: bands of sr.
        ratio: not used.
        width: of the hidden layers (64 in the paper).
    """

    def __init__(
        self, img_channel: int, condition_channel: int, out_channel: int, *, ratio: int = 4, width: int = 64
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(condition_channel if i == 0 else width, width) for i in range(6))
        self.tail = nn.Linear(width, out_channel)
        for layer in (*self.layers, self.tail):  # as released
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def spectra(self, guide: Tensor) -> Tensor:
        """Return the spectra (..., C) that belong to the guide's values (..., P)."""
        first, second, third, fourth, fifth, sixth = self.layers
        x = _active(first, guide)
        x = x + _active(second, x)
        x = x + _active(fourth, _active(third, x))
        x = x + _active(sixth, _active(fifth, x))
        return self.tail(x)

    def forward(self, ms: Tensor, lms: Tensor, pan: Tensor) -> Tensor:
        """Fuse: pan (B, P, H, W) in [0, 1] -> sr (B, C, H, W), not clipped; ms and lms are not used."""
        return self.spectra(pan.movedim(1, -1)).movedim(-1, 1)


def _active(layer: nn.Module, x: Tensor) -> Tensor:
    return F.leaky_relu(layer(x), _SLOPE)
