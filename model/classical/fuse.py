"""FUSE: Bayesian fusion with a Gaussian prior, solved in closed form as a Sylvester equation.

Paper: Q. Wei, N. Dobigeon, J.-Y. Tourneret, "Fast fusion of multi-band images based on solving a Sylvester equation",
IEEE TIP 24(11), 2015; the blur is inverted as in its successor R-FUSE (Wei et al., IEEE SPL 23(11), 2016).
Shapes: ms (B, C, h, w), lms and sr (B, C, H, W), pan (B, P, H, W); K components.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lemamba.model.classical.coupled import Coupled, Fitted, Images, mix
from lemamba.utils.registry import register_model

_LEAST_NOISE = 1e-5  # share of a signal's mean square: 50 dB


@register_model(
    "FUSE",
    tasks=("hmif",),
    ratios=(2, 3, 4, 5, 6, 7, 8, 16, 32),
    family="classical",
    tileable=False,
    paper="Wei et al., TIP 24(11), 2015",
)
class FUSE(Coupled):
    """The mean of the posterior of ``X = E U``.

    The prior of U is Gaussian around the interpolated image; its covariance is that of the details that interpolation
    misses (`prior_covariance`). Noise variances are those that the pair shows: what the subspace leaves of ms, and what
    the response leaves of the guide at MS size, at least 50 dB below the signal.
    """

    components = 20

    def solve(self, images: Images, fitted: Fitted) -> Tensor:
        """Return sr (C, H, W)."""
        E, RE = fitted.basis, images.response @ fitted.basis
        ms_energy, guide_energy = images.ms.square().mean(), images.pan.square().mean((1, 2))
        rest = images.ms - mix(E @ E.T, images.ms)
        ms_noise = torch.maximum(rest.square().mean(), _LEAST_NOISE * ms_energy)
        seen = mix(images.response, images.ms) - images.blur.degrade(images.pan)
        guide_noise = torch.maximum(seen.square().mean((1, 2)), _LEAST_NOISE * guide_energy)
        prior = mix(E.T, images.lms)
        precision = torch.linalg.inv(self.prior_covariance(images, E))
        # E' E = 1, so ms_noise (…) is the Sylvester equation's left factor
        left = ms_noise * ((RE.T / guide_noise) @ RE + precision)
        right = images.blur.spread(mix(E.T, images.ms))
        right = right + ms_noise * (mix(RE.T / guide_noise, images.pan) + mix(precision, prior))
        values, vectors = torch.linalg.eigh((left + left.T) / 2)
        return mix(E @ vectors, images.blur.solve(values.clamp_min(1e-14), mix(vectors.T, right)))

    def prior_covariance(self, images: Images, E: Tensor) -> Tensor:
        """Return the covariance (K, K) of what the interpolated image misses.

        Its shape is that of what a second blur takes from ms; its size follows from the guide, where what is missed is
        seen at both scales.
        """
        flat = mix(E.T, images.ms - images.blur.degrade(images.lms)).flatten(1)
        covariance = flat @ flat.T / flat.shape[1]
        R = images.response
        coarse = mix(R, images.ms - images.blur.degrade(images.lms)).square().mean((1, 2))
        fine = (images.pan - mix(R, images.lms)).square().mean((1, 2))
        covariance = covariance * (fine.sum() / coarse.sum().clamp_min(1e-300))
        return covariance + 1e-6 * covariance.diagonal().mean() * torch.eye(len(covariance), dtype=covariance.dtype)
