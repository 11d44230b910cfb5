"""GSA: adaptive Gram-Schmidt, intensity regressed on the low-pass PAN.

Paper: B. Aiazzi, S. Baronti, M. Selva, "Improving component substitution pansharpening through multivariate
regression of MS+Pan data", IEEE TGRS 45(10), 2007.
Shapes: ms (B, C, h, w), lms and sr (B, C, H, W), pan (B, 1, H, W).
"""

from __future__ import annotations

from torch import Tensor

from lemamba.model.classical.base import Classical, Windows
from lemamba.model.classical.filters import pyramid_margin, pyramid_sample
from lemamba.model.classical.gs import Substitution, substitute, substitution
from lemamba.model.classical.statistics import gather, solve
from lemamba.operators.window import Spread, Window
from lemamba.utils.registry import register_model


@register_model(
    "GSA",
    tasks=("pansharpening",),
    ratios=(2, 3, 4, 5, 6, 7, 8, 16),
    family="classical",
    tileable=False,
    paper="Aiazzi et al., TGRS 45(10), 2007",
)
class GSA(Classical):
    """Adaptive Gram-Schmidt; the low-pass PAN is the published binomial's at ratio 4 (`pyramid_low_pass`)."""

    @property
    def margin(self) -> int:
        """PAN pixels around a window that its result depends on."""
        return pyramid_margin(self.ratio) + 2 * self.ratio

    def fit(self, windows: Windows) -> Substitution:
        """Regress the low-pass PAN on ms, then learn gains from the moments of lms and pan."""

        def features(w: Window) -> tuple[Tensor, Tensor | Spread]:
            return w.coarse(w.ms, pyramid_sample(w, self.ratio)), w.moments()

        low, fine = gather(map(features, windows()))
        bands = len(self.gains)
        weights = solve(low.covariance[:bands, :bands], low.covariance[:bands, bands:])[:, 0]
        return substitution(fine, weights, matched=False)

    def inject(self, window: Window, fitted: Substitution) -> Tensor:
        """Fuse a window."""
        return substitute(window, fitted)
