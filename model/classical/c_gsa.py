"""C-GSA: adaptive Gram-Schmidt with injection gains of each segment of the scene.

Paper: R. Restaino, M. Dalla Mura, G. Vivone, J. Chanussot, "Context-adaptive pansharpening based on image
segmentation", IEEE TGRS 55(2), 2017; with k-means as the segmentation and five segments, as in the benchmark of G.
Vivone et al., IEEE GRSM 9(1), 2021.
Shapes: ms (B, C, h, w), lms and sr (B, C, H, W), pan (B, 1, H, W).
Legend: K segments.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import numpy as np
import torch
from scipy.cluster.vq import kmeans2
from torch import Tensor

from lemamba.model.classical.base import Classical, Windows, column
from lemamba.model.classical.filters import pyramid_margin, pyramid_sample
from lemamba.model.classical.statistics import gather, quotient, solve
from lemamba.operators.window import Window
from lemamba.utils.registry import register_model

SEGMENTS = 5
_STARTS = 6  # of k-means; the clustering of least distance is kept
_ROUNDS = 40
_SAMPLE = 2**14  # pixels that are grouped, evenly from all in sorted order


@dataclass(frozen=True)
class Segments:
    """K segments of a scene and what belongs to each.

    Attributes:
        top: (C,), what the bands are divided by before they are compared.
        centres: (K, C).
        low: what `Context.low_pass` needs, or None.
        gain: (K, C) injection gains.
    """

    top: Tensor
    centres: Tensor
    low: Tensor | None
    gain: Tensor

    def of(self, x: Tensor) -> Tensor:
        """Return the segment (...) of pixels (C, ...)."""
        scaled = (x.flatten(1).T / self.top).to(self.centres)
        return torch.cdist(scaled, self.centres).argmin(1).view(x.shape[1:])


def cluster(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Group pixels (C, n) by k-means, each band divided by its largest value; return those (C,), and centres (K, C).

    The order of the pixels does not matter. Fewer than K different pixels give fewer centres.
    """
    top = pixels.amax(1)
    top = torch.where(top == 0, 1.0, top)
    rows = (pixels.T / top).numpy()
    rows = rows[np.lexsort(rows.T)][:: math.ceil(len(rows) / _SAMPLE)]  # sorted: start values are drawn by position
    different = np.unique(rows, axis=0)
    if len(different) <= SEGMENTS:
        return top, torch.from_numpy(different)
    best, least = different[:SEGMENTS], np.inf
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # an empty cluster: that start is worse than others
        for seed in range(_STARTS):
            centres, labels = kmeans2(rows, SEGMENTS, iter=_ROUNDS, minit="++", seed=seed)
            distance = float(((rows - centres[labels]) ** 2).sum())
            if distance < least:
                best, least = centres, distance
    return top, torch.from_numpy(best)


class Context(Classical):
    """Base of C-GSA and C-GLP: ``M_b + g_b (P - low_b)``, where ``g_b = cov(M_b, low_b) / var(low_b)`` in each segment.

    Segments are made from the MS pixels. A subclass defines `prepare` and `low_pass`.
    """

    def prepare(self, windows: Windows) -> tuple[Tensor | None, Tensor]:
        """Return what `low_pass` needs, and the MS pixels (C, n) of the scene."""
        return None, torch.cat([w.coarse(w.ms) for w in windows()], dim=1)

    def low_pass(self, window: Window, low: Tensor | None) -> Tensor:
        """Return the low-resolution version of PAN that belongs to each band, (1, C, H, W)."""
        raise NotImplementedError

    def fit(self, windows: Windows) -> Segments:
        """Group the pixels, then learn the gains of every group."""
        low, pixels = self.prepare(windows)
        bands = len(self.gains)
        top, centres = cluster(pixels)
        found = Segments(top, centres, low, torch.zeros(len(centres), bands))

        def groups(w: Window) -> tuple[Tensor, ...]:
            features = w.fine(w.lms, self.low_pass(w, low))
            label = found.of(features[:bands])
            return tuple(features[:, label == k] for k in range(len(centres)))

        gains = []
        for moments in gather(groups, windows()):
            c = moments.covariance if moments.count > 1 else torch.zeros(2 * bands, 2 * bands)
            gains.append(quotient(c[:bands, bands:].diagonal(), c[bands:, bands:].diagonal()))
        return Segments(top, centres, low, torch.stack(gains))

    def inject(self, window: Window, fitted: Segments) -> Tensor:
        """Fuse a window."""
        gain = fitted.gain.to(window.lms)[fitted.of(window.lms[0])].movedim(-1, 0)[None]
        return torch.addcmul(window.lms, gain, window.pan - self.low_pass(window, fitted.low))


@register_model(
    "C-GSA",
    tasks=("pansharpening",),
    ratios=(2, 3, 4, 5, 6, 7, 8, 16),
    family="classical",
    tileable=False,
    paper="Restaino et al., TGRS 55(2), 2017",
)
class CGSA(Context):
    """The low-resolution PAN is GSA's intensity: the bands' combination that explains the low-pass PAN at MS size."""

    @property
    def margin(self) -> int:
        """PAN pixels around a window that its result depends on."""
        return pyramid_margin(self.ratio) + 2 * self.ratio

    def prepare(self, windows: Windows) -> tuple[Tensor, Tensor]:
        """Return the weights of the bands and a constant, (C + 1,), and the MS pixels."""
        kept = []

        def features(w: Window) -> tuple[Tensor]:
            kept.append(w.coarse(w.ms))
            return (w.coarse(w.ms, pyramid_sample(w, self.ratio)),)

        (low,) = gather(features, windows())
        bands = len(self.gains)
        weights = solve(low.covariance[:bands, :bands], low.covariance[:bands, bands:])[:, 0]
        constant = low.mean[bands] - weights @ low.mean[:bands]
        return torch.cat([weights, constant[None]]), torch.cat(kept, dim=1)

    def low_pass(self, window: Window, low: Tensor | None) -> Tensor:
        """Return the intensity for every band."""
        assert low is not None
        intensity = (window.lms * column(low[:-1], window.lms)).sum(1, keepdim=True) + low[-1]
        return intensity.expand_as(window.lms)
