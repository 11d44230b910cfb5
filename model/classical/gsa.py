"""GSA: adaptive Gram-Schmidt, intensity regressed on the low-pass PAN.

Paper: B. Aiazzi, S. Baronti, M. Selva, "Improving component substitution pansharpening through multivariate
regression of MS+Pan data", IEEE TGRS 45(10), 2007.
Shapes: ms (B, C, h, w), lms and sr (B, C, H, W), pan (B, 1, H, W).
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from lemamba.model.classical.base import Classical, Windows
from lemamba.model.classical.filters import pyramid_margin, pyramid_sample
from lemamba.model.classical.gs import Substitution, substitute, substitution
from lemamba.model.classical.statistics import gather, solve
from lemamba.model.classical.unseen import SHARE, cell_means, smooth_of, smooth_share
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

    light = True

    @property
    def margin(self) -> int:
        """PAN pixels around a window that its result depends on."""
        return pyramid_margin(self.ratio) + 2 * self.ratio

    def fit(self, windows: Windows) -> Substitution:
        """Regress the low-pass PAN on ms, then learn gains from the moments of lms and pan.

        In a scene with a PAN that sees light which no band sees, that is left out (`lemamba.model.classical.unseen`).
        """

        def features(w: Window) -> tuple[Tensor | Spread, ...]:
            low = pyramid_sample(w, self.ratio)
            groups = w.coarse(w.ms, low), w.moments()
            return groups if w.given is not None else (*groups, _of_cells(w, low))

        low, fine, *cells = gather(features, windows())
        bands = len(self.gains)
        weights = solve(low.covariance[:bands, :bands], low.covariance[:bands, bands:])[:, 0]
        found = substitution(fine, weights, matched=False)
        if not cells or smooth_share(low, cells[0], weights) < SHARE:
            return found
        level = float(low.mean[bands] - weights @ low.mean[:bands])

        def rest(w: Window) -> Tensor:
            return pyramid_sample(w, self.ratio) - torch.einsum("b,nbhw->nhw", weights.to(w.ms), w.ms)[:, None] - level

        return replace(found, unseen=smooth_of(windows, rest))

    def inject(self, window: Window, fitted: Substitution) -> Tensor:
        """Fuse a window."""
        return substitute(window, fitted)


def _of_cells(window: Window, low: Tensor) -> Tensor:
    means, seen, _ = cell_means(window, torch.cat((window.ms, low), dim=1))
    return means[:, seen > 0]
