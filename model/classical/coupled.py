"""What CNMF, HySure, FUSE, LTTR and NSSR share: the model of both images, its subspace, the blur as circulant operator.

``ms = X B S + noise`` and ``guide = R X + noise``: X (C, H W) is wanted, R the guide's spectral response, B the blur of
the point spread function, S the decimation. R and B are estimated from the pair (`lemamba.operators.observation`).
Images are extended by mirrored borders before they are transformed, so that the wrap-around of the circulant blur stays
outside. Scenes in windows differ from the whole by what lies beyond the margin.

Shapes: ms (1, C, h, w), lms and sr (1, C, H, W), pan (1, P, H, W). K is the number of endmembers or components.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lemamba.model.classical.base import Classical, Windows
from lemamba.model.classical.statistics import gather
from lemamba.operators.observation import Observation, estimate, start, whole_ratio
from lemamba.operators.window import Window, take

MARGIN = 6  # MS pixels around an image or a window


class Circulant:
    """Blur with a PSF, and decimation, on images that wrap around.

    Args:
        seen: PSF, ratio and position of MS pixels.
        size: (H, W) of the guide, multiples of the ratio.
    """

    def __init__(self, seen: Observation, size: tuple[int, int]) -> None:
        self.size, self.ratio = size, seen.ratio
        side = seen.psf.shape[0]
        kernel = torch.zeros(size, dtype=torch.float64)
        rows, columns = (
            torch.arange(side).sub(side // 2).add(base).neg() % n for base, n in zip(seen.base, size, strict=True)
        )
        # a PSF wider than the image wraps on to itself
        kernel.index_put_((rows[:, None], columns[None, :]), seen.psf, accumulate=True)
        self.spectrum = torch.fft.rfft2(kernel)
        delta = torch.zeros(1, size[0] // seen.ratio[0], size[1] // seen.ratio[1], dtype=torch.float64)
        delta[0, 0, 0] = 1
        self.gram = torch.fft.rfft2(self.degrade(self.spread(delta)))[0].real  # of degrade(spread(·))

    def filter(self, x: Tensor, spectrum: Tensor) -> Tensor:
        """Multiply the transform of (F, H, W) by a spectrum."""
        return torch.fft.irfft2(torch.fft.rfft2(x) * spectrum, s=self.size)

    def degrade(self, x: Tensor) -> Tensor:
        """Blur (F, H, W) and keep what lies under MS pixels, (F, h, w)."""
        return self.filter(x, self.spectrum)[..., :: self.ratio[0], :: self.ratio[1]]

    def spread(self, y: Tensor) -> Tensor:
        """The transpose of `degrade`: (F, h, w) to (F, H, W)."""
        x = y.new_zeros(y.shape[0], *self.size)
        x[:, :: self.ratio[0], :: self.ratio[1]] = y
        return self.filter(x, self.spectrum.conj())

    def solve(self, weight: Tensor, right: Tensor) -> Tensor:
        """Solve ``(weight_k + degrade' degrade) x_k = right_k`` for every image k, exactly.

        Args:
            weight: (K,), positive.
            right: (K, H, W).
        """
        low = torch.fft.rfft2(self.degrade(right)) / (weight[:, None, None] + self.gram)
        low_size = (self.size[0] // self.ratio[0], self.size[1] // self.ratio[1])
        return (right - self.spread(torch.fft.irfft2(low, s=low_size))) / weight[:, None, None]


@dataclass(frozen=True)
class Fitted:
    """What was learnt of the whole scene: how it is seen, and `basis` (C, K), the columns that its spectra mix.

    `learnt` is what a method adds.
    """

    seen: Observation
    basis: Tensor
    learnt: tuple[Tensor, ...] = ()


@dataclass(frozen=True)
class Images:
    """An extended window in float64: ms (C, h, w), lms (C, H, W), pan (P, H, W), the blur and R."""

    ms: Tensor
    lms: Tensor
    pan: Tensor
    blur: Circulant
    response: Tensor


class Coupled(Classical):
    """Base: a subclass defines `learn` and `solve`."""

    single_guide = False

    @property
    def margin(self) -> int:
        """PAN pixels around a window that are read."""
        return (MARGIN + 6) * self.ratio

    def fit(self, windows: Windows) -> Fitted:
        """Estimate response and PSF unless they are known, then learn the basis."""
        return self.learn(windows, self.observed or estimate(windows))

    observed: Observation | None = None  # how the data were observed, where they say so

    def learn(self, windows: Windows, seen: Observation) -> Fitted:
        """Learn the basis; by default the leading principal directions of ms, means not subtracted."""
        (moments,) = gather(lambda w: (w.coarse(w.ms),), windows())
        values, vectors = torch.linalg.eigh(moments.second())
        count = min(self.components, int((values > 1e-9 * values[-1]).sum()))
        return Fitted(seen, vectors.flip(1)[:, : max(count, 1)], (values.flip(0).clamp_min(0),))

    components = 10

    def inject(self, window: Window, fitted: Fitted) -> Tensor:
        """Fuse a window."""
        sr = self.solve(extend(window, fitted.seen), fitted)
        (r, q), (H, W) = whole_ratio(window.geometry), window.lms.shape[-2:]
        return sr[None, :, MARGIN * r : MARGIN * r + H, MARGIN * q : MARGIN * q + W].to(window.lms)

    def solve(self, images: Images, fitted: Fitted) -> Tensor:
        """Return sr (C, H, W) of an extended window."""
        raise NotImplementedError


def extend(window: Window, seen: Observation) -> Images:
    """Extend a window by `MARGIN` MS pixels on every side, mirrored."""
    (r, q), (h, w) = whole_ratio(window.geometry), window.ms.shape[-2:]
    rows, columns = (-MARGIN, h + MARGIN), (-MARGIN, w + MARGIN)
    fine = (-MARGIN * r, (h + MARGIN) * r), (-MARGIN * q, (w + MARGIN) * q)
    base = start(window.geometry, seen.response, 1.0).base
    return Images(
        take(window.ms, rows, columns)[0].double(),
        take(window.lms, *fine)[0].double(),
        take(window.pan, *fine)[0].double(),
        Circulant(replace(seen, base=base), ((h + 2 * MARGIN) * r, (w + 2 * MARGIN) * q)),
        seen.response,
    )


def in_units_of_ms(images: Images) -> tuple[Images, Tensor]:
    """Divide by the largest value of ms, and give the guide's bands the units of ms, whatever the response's are.

    Returns:
        the images, whose response has rows of sum 1, and the divisor.
    """
    scale = images.ms.abs().amax().clamp_min(1e-300)
    weight = images.response.sum(1, keepdim=True).clamp_min(1e-12)
    guide = images.pan / weight[:, :, None] / scale
    return Images(images.ms / scale, images.lms / scale, guide, images.blur, images.response / weight), scale


def mix(matrix: Tensor, x: Tensor) -> Tensor:
    """Apply a matrix (M, F) to the bands of (F, H, W)."""
    return torch.einsum("mf,fhw->mhw", matrix, x)
