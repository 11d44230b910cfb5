"""HySure: subspace fusion regularised by the vector total variation of the components.

Paper: M. Simoes, J. Bioucas-Dias, L. B. Almeida, J. Chanussot, "A convex formulation for hyperspectral image
superresolution via subspace-based regularization", IEEE TGRS 53(6), 2015. Solved by ADMM (SALSA) as there.
Shapes: ms (B, C, h, w), lms and sr (B, C, H, W), pan (B, P, H, W); K components.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lemamba.model.classical.coupled import Coupled, Fitted, Images, in_units_of_ms, mix
from lemamba.utils.registry import register_model

_SMOOTH = 5e-4  # lambda_phi, weight of the total variation
_PENALTY = 5e-3  # mu of the augmented Lagrangian
_ITERATIONS = 200
_STOP = 1e-4  # relative change of the components


@register_model(
    "HySure",
    tasks=("hmif",),
    ratios=(2, 3, 4, 5, 6, 7, 8, 16, 32),
    family="classical",
    tileable=False,
    paper="Simoes et al., TGRS 53(6), 2015",
)
class HySure(Coupled):
    """``min |ms - E U B S|^2 / 2 + |guide - R E U|^2 / 2 + lambda VTV(U)``, data scaled to [0, 1] for the weights."""

    def solve(self, images: Images, fitted: Fitted) -> Tensor:
        """Return sr (C, H, W)."""
        images, scale = in_units_of_ms(images)
        E, blur = fitted.basis, images.blur
        RE = images.response @ E
        ms, U = mix(E.T, images.ms), mix(E.T, images.lms)
        rows, columns = self._differences(blur.size)
        inverse = 1 / (blur.spectrum.abs().square() + 1 + rows.abs().square() + columns.abs().square())
        operators = (blur.spectrum, torch.ones_like(rows), rows, columns)
        identity = torch.eye(E.shape[1], dtype=E.dtype)
        fit_guide = torch.linalg.inv(RE.T @ RE + _PENALTY * identity)
        from_guide = mix(RE.T, images.pan)
        splits = [blur.filter(U, s) for s in operators]
        duals = [torch.zeros_like(U) for _ in operators]
        r, q = blur.ratio
        for step in range(_ITERATIONS):
            before = U
            total = sum(torch.fft.rfft2(v + d) * s.conj() for v, d, s in zip(splits, duals, operators, strict=True))
            U = torch.fft.irfft2(total * inverse, s=blur.size)
            images_of = [blur.filter(U, s) for s in operators]
            targets = [x - d for x, d in zip(images_of, duals, strict=True)]
            blurred = targets[0].clone()
            blurred[:, ::r, ::q] = (ms + _PENALTY * targets[0][:, ::r, ::q]) / (1 + _PENALTY)
            sharp = mix(fit_guide, from_guide + _PENALTY * targets[1])
            size = (targets[2].square() + targets[3].square()).sum(0).sqrt()  # one length for all components
            shrink = (1 - _SMOOTH / _PENALTY / size.clamp_min(1e-300)).clamp_min(0)
            splits = [blurred, sharp, targets[2] * shrink, targets[3] * shrink]
            duals = [v - t for v, t in zip(splits, targets, strict=True)]
            if step and (U - before).norm() <= _STOP * before.norm():  # the first step starts from its own result
                break
        return mix(E, U) * scale

    @staticmethod
    def _differences(size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Spectra of the differences of neighbouring rows and columns."""
        spectra = []
        for dim in (0, 1):
            kernel = torch.zeros(size, dtype=torch.float64)
            kernel[0, 0] = -1
            kernel[(1, 0) if dim == 0 else (0, 1)] += 1
            spectra.append(torch.fft.rfft2(kernel))
        return spectra[0], spectra[1]
