"""CNMF: coupled non-negative matrix factorisation, endmembers from ms, their abundances from the guide.

Paper: N. Yokoya, T. Yairi, A. Iwasaki, "Coupled nonnegative matrix factorization unmixing for hyperspectral and
multispectral data fusion", IEEE TGRS 50(2), 2012.
Shapes: ms (B, C, h, w), lms and sr (B, C, H, W), pan (B, P, H, W); K endmembers.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lemamba.model.classical.base import Windows
from lemamba.model.classical.coupled import MARGIN, Coupled, Fitted, Images, extend, mix
from lemamba.operators.observation import Observation
from lemamba.utils.registry import register_model

_ROUNDS = 3  # of abundances from the guide and endmembers from ms
_UPDATES = 100  # multiplicative updates in each
_TINY = 1e-12


@register_model(
    "CNMF",
    tasks=("hmif",),
    ratios=(2, 3, 4, 5, 6, 7, 8, 16, 32),
    family="classical",
    tileable=False,
    paper="Yokoya et al., TGRS 50(2), 2012",
)
class CNMF(Coupled):
    """``X = W A`` with W (C, K) and A (K, H W) non-negative.

    Endmembers start as the pixels that successive projection picks. Abundances of the guide start from those of ms,
    interpolated; the sum-to-one constraint of the paper is left out, since brightness varies with the light.
    """

    components = 30

    def learn(self, windows: Windows, seen: Observation) -> Fitted:
        """Alternate between abundances at guide size and endmembers."""
        pixels = torch.cat([w.coarse(w.ms).double().cpu() for w in windows()], dim=1).clamp_min(0)
        W = purest(pixels, min(self.components, *pixels.shape))
        W, _ = _factorise(pixels, W, abundances(pixels, W, _uniform(W, pixels)))
        for _ in range(_ROUNDS):
            products, square = torch.zeros_like(W), W.new_zeros(W.shape[1], W.shape[1])
            for window in windows():
                images = extend(window, seen)
                small = images.blur.degrade(self.sharp_abundances(images, W))[:, MARGIN:-MARGIN, MARGIN:-MARGIN]
                A, X = window.coarse(small[None]).clamp_min(0), window.coarse(window.ms).double().clamp_min(0)
                products, square = products + X @ A.T, square + A @ A.T
            for _ in range(_UPDATES):
                W = W * products / (W @ square + _TINY)
        return Fitted(seen, W)

    def solve(self, images: Images, fitted: Fitted) -> Tensor:
        """Return sr (C, H, W)."""
        return mix(fitted.basis, self.sharp_abundances(images, fitted.basis))

    def sharp_abundances(self, images: Images, W: Tensor) -> Tensor:
        """Return abundances (K, H, W) at the guide's size that explain the guide."""
        low = abundances(images.ms.flatten(1).clamp_min(0), W, _uniform(W, images.ms.flatten(1)))
        start = torch.nn.functional.interpolate(
            low.view(1, -1, *images.ms.shape[-2:]), size=images.pan.shape[-2:], mode="bilinear"
        )[0]
        sharp = abundances(images.pan.flatten(1).clamp_min(0), images.response @ W, start.flatten(1).clamp_min(_TINY))
        return sharp.view(-1, *images.pan.shape[-2:])


def _uniform(W: Tensor, X: Tensor) -> Tensor:
    return W.new_full((W.shape[1], X.shape[1]), 1 / W.shape[1])


def abundances(X: Tensor, W: Tensor, A: Tensor) -> Tensor:
    """Multiplicative updates (Lee and Seung, 2001) of A (K, n) for ``X = W A`` with W fixed."""
    normal, right = W.T @ W, W.T @ X
    for _ in range(_UPDATES):
        A = A * right / (normal @ A + _TINY)
    return A


def _factorise(X: Tensor, W: Tensor, A: Tensor) -> tuple[Tensor, Tensor]:
    for _ in range(_UPDATES):
        A = A * (W.T @ X) / (W.T @ W @ A + _TINY)
        W = W * (X @ A.T) / (W @ (A @ A.T) + _TINY)
    return W, A


def purest(X: Tensor, count: int) -> Tensor:
    """Pick pixels (C, up to count) by successive projection: each is farthest from the span of those before.

    It ends where the rest is rounding.
    """
    rest, first = X.clone(), 0.0
    chosen: list[int] = []
    for _ in range(count):
        length = rest.square().sum(0)
        best = int(length.argmax())
        first = first or float(length[best])
        if chosen and float(length[best]) <= 1e-12 * first:
            break
        chosen.append(best)
        direction = rest[:, best] / length[best].sqrt().clamp_min(_TINY)
        rest = rest - torch.outer(direction, direction @ rest)
    return X[:, chosen].clamp_min(_TINY)
