"""How a hyperspectral image and a guide of a few bands see one ground, estimated from the two images alone.

The guide's spectral response R and the point spread function (PSF) with which the hyperspectral image was taken are
found as in HySure: both are least-squares problems with a smoothness penalty, the response on images blurred so much
that the PSF does not matter, the PSF on the hyperspectral image seen through the response.
Paper: M. Simoes, J. Bioucas-Dias, L. B. Almeida, J. Chanussot, "A convex formulation for hyperspectral image
superresolution via subspace-based regularization", IEEE TGRS 53(6), 2015, section IV.
Legend: C bands, P guide bands, h w size of ms, H W of the guide, r ratio, S side of the PSF.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from lemamba.operators.least_squares import non_negative_least_squares, square_root
from lemamba.operators.resample import mirrored
from lemamba.operators.window import Window
from lemamba.utils.errors import UserError
from lemamba.utils.geometry import Geometry

_STRONG_BLUR = 2.0  # sigma in MS pixels of what both images are blurred with before the response is estimated
_ASSUMED_WIDTH = 0.45  # sigma in MS pixels of the PSF before it is known
_ROUNDS = 2
_SMOOTH_RESPONSE = 3e-4  # weight of squared differences of neighbouring bands, share of the mean energy of a band
_WIDTHS = tuple(0.05 * i for i in range(2, 21))  # sigma of the Gaussian PSF in MS pixels: gains 0.99 to 0.007
_FULL_UP_TO = 16  # ratio; above, a PSF of (2r + 1)^2 free values asks for more pixels than images have
_PENALTIES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
_LARGEST_SAMPLE = 20_000  # equations of the PSF, taken evenly over the image


@dataclass(frozen=True)
class Observation:
    """``ms_i = sum_j psf_j x[base + r i + j - S // 2]`` of every band, and ``guide = response @ x``.

    Attributes:
        response: (P, C) float64, non-negative, in the units of the data.
        psf: (S, S) float64, S odd, non-negative, sum 1.
        ratio: r along rows and columns, whole.
        base: guide pixel nearest to the centre of MS pixel (0, 0), rows and columns.
    """

    response: Tensor
    psf: Tensor
    ratio: tuple[int, int]
    base: tuple[int, int]

    def shifted(self, rows: int, columns: int) -> Observation:
        """Return the observation of images that begin so many guide pixels earlier."""
        return replace(self, base=(self.base[0] + rows, self.base[1] + columns))

    def degrade(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """Blur (1, F, H, W) with the PSF and keep what lies under MS pixels, (1, F, h, w); the border is mirrored."""
        side = self.psf.shape[0]
        for dim, (n, base, r, count) in enumerate(zip(x.shape[-2:], self.base, self.ratio, size, strict=True)):
            first = base - side // 2
            index = torch.arange(first, first + r * (count - 1) + side, device=x.device)
            x = x.index_select(dim - 2, mirrored(index, n))
        kernel = self.psf.to(x)[None, None].expand(x.shape[1], 1, -1, -1)
        return F.conv2d(x, kernel, stride=self.ratio, groups=x.shape[1])


def whole_ratio(geometry: Geometry) -> tuple[int, int]:
    """Return the ratio as whole numbers.

    Raises:
        UserError: it is not whole, so no single PSF holds for all pixels.
    """
    if not all(float(r).is_integer() for r in geometry.ratio):
        raise UserError(
            f"expected a whole ratio of guide and hyperspectral image, given {geometry}; resample the guide"
        )
    return int(geometry.ratio[0]), int(geometry.ratio[1])


def gaussian_psf(sigma: float, geometry: Geometry) -> Tensor:
    """Return a Gaussian PSF (S, S), S = 2 r + 1, centred where MS pixels lie.

    Args:
        sigma: in MS pixels.
        geometry: of the pair; a centre between guide pixels gives a kernel that is not symmetric.
    """
    side = 2 * max(whole_ratio(geometry)) + 1
    profiles = []
    for ratio, offset in zip(geometry.ratio, geometry.offset, strict=True):
        place = torch.arange(side, dtype=torch.float64) - side // 2 - (offset - math.floor(offset + 0.5))
        profiles.append(torch.exp(-(place**2) / (2 * (sigma * ratio) ** 2)))
    kernel = torch.outer(*profiles)
    return kernel / kernel.sum()


def start(geometry: Geometry, response: Tensor, sigma: float) -> Observation:
    """Return an observation with a Gaussian PSF."""
    base = (math.floor(geometry.offset[0] + 0.5), math.floor(geometry.offset[1] + 0.5))
    return Observation(response, gaussian_psf(sigma, geometry), whole_ratio(geometry), base)


def estimate(windows: Callable[[], Iterable[Window]]) -> Observation:
    """Estimate response and PSF.

    Args:
        windows: gives all windows of the pair (`lemamba.operators.window`), as often as it is called; margins of two
            MS pixels or more. Valid pixels only enter.

    Raises:
        UserError: a ratio that is not whole, or a pair without valid pixels.
    """
    found = estimate_psf(windows, estimate_response(windows))
    for _ in range(_ROUNDS):  # with the PSF known, fine detail tells more of the response
        found = estimate_psf(windows, estimate_response(windows, found.psf, blur=0.0))
    return found


def _blurred(x: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of (1, F, h, w), the border mirrored."""
    reach = math.ceil(3 * sigma)
    taps = torch.exp(-(torch.arange(-reach, reach + 1, dtype=x.dtype) ** 2) / (2 * sigma**2))
    taps = (taps / taps.sum()).to(x)
    for dim in (-2, -1):
        n = x.shape[dim]
        x = x.index_select(dim, mirrored(torch.arange(-reach, n + reach, device=x.device), n))
        shape = (1, 1, -1, 1) if dim == -2 else (1, 1, 1, -1)
        x = F.conv2d(x.transpose(0, 1), taps.view(shape)).transpose(0, 1)
    return x


def estimate_response(
    windows: Callable[[], Iterable[Window]], psf: Tensor | None = None, *, blur: float = _STRONG_BLUR
) -> Tensor:
    """Estimate the spectral response: non-negative, smooth over the bands.

    Args:
        windows: see `estimate`.
        psf: (S, S); None = a Gaussian, whose width hardly matters under a strong blur.
        blur: sigma in MS pixels of the blur of both images.

    Returns:
        (P, C) float64: ``guide = response @ bands``.
    """
    products: Tensor | None = None
    bands = 0
    for w in windows():
        bands = w.ms.shape[1]
        seen = start(w.geometry, torch.zeros(0), _ASSUMED_WIDTH)
        seen = seen if psf is None else replace(seen, psf=psf)
        guide = seen.degrade(w.pan.double(), (w.ms.shape[-2], w.ms.shape[-1]))
        both = torch.cat([w.ms.double(), guide], dim=1)
        both = w.coarse(_blurred(both, blur) if blur else both).double().cpu()
        products = both @ both.T if products is None else products + both @ both.T
    if products is None or not float(products.diagonal().sum()) > 0:
        raise UserError("no pixel has data in both images: no response can be estimated; check --nodata")
    normal, right = products[:bands, :bands], products[:bands, bands:]
    energy = normal.diagonal().mean()
    steps = torch.diff(torch.eye(bands, dtype=torch.float64), dim=0)
    normal = normal + _SMOOTH_RESPONSE * energy * (steps.T @ steps)
    A, b = square_root(normal, right)
    return torch.stack([non_negative_least_squares(A, b[:, p]) for p in range(b.shape[1])])


def _equations(window: Window, response: Tensor, side: int, every: int) -> tuple[Tensor, Tensor]:
    """Return the patches (n, S * S) of the guide under MS pixels and what MS shows of them (n,), over guide bands."""
    (r, q), (h, w) = whole_ratio(window.geometry), window.ms.shape[-2:]
    base = [math.floor(o + 0.5) for o in window.geometry.offset]
    seen = torch.einsum("pc,bchw->bphw", response.to(window.ms.double()), window.ms.double())
    guide = window.pan.double()
    scale = guide.flatten(2).std(dim=2)[..., None, None].clamp_min(1e-12)
    guide, seen = guide / scale, seen / scale
    for dim, (first, step, count) in enumerate(((base[0], r, h), (base[1], q, w))):
        index = torch.arange(first - side // 2, first - side // 2 + step * (count - 1) + side)
        guide = guide.index_select(dim - 2, mirrored(index, guide.shape[dim - 2]))
    patches = guide.unfold(2, side, r).unfold(3, side, q)  # (1, P, h, w, S, S), a view
    keep = torch.zeros(h, w, dtype=torch.bool)
    keep[window.inner_ms[0], window.inner_ms[1]] = True if window.valid_ms is None else window.valid_ms
    chosen = keep.flatten().nonzero()[::every, 0]
    rows, columns = chosen // w, chosen % w
    return patches[0][:, rows, columns].flatten(2).flatten(0, 1), seen[0][:, rows, columns].flatten()


def estimate_psf(windows: Callable[[], Iterable[Window]], response: Tensor) -> Observation:
    """Estimate the PSF.

    First the Gaussian that fits best; then, up to ratio 16, free values with a penalty on the slope of their difference
    from it. The penalty is the one that predicts left-out pixels best, and the Gaussian stays where none does better.

    Args:
        windows: see `estimate`.
        response: (P, C).
    """
    sums: dict[bool, list[Tensor]] = {}
    geometry, side, count = None, 1, 0
    for w in windows():
        geometry = w.geometry
        side = 2 * max(whole_ratio(geometry)) + 1
        pixels = w.ms.shape[-2] * w.ms.shape[-1]
        every = max(1, pixels * w.pan.shape[1] // _LARGEST_SAMPLE)
        patches, seen = _equations(w, response, side, every)
        for half in (False, True):
            A, b = patches[half::2], seen[half::2]
            parts = [A.T @ A, A.T @ b, b @ b]
            sums[half] = [x + y for x, y in zip(sums[half], parts, strict=True)] if half in sums else parts
        count += len(seen)
    if geometry is None or count == 0:
        raise UserError("no pixel has data in both images: no PSF can be estimated; check --nodata")
    normal, right, square = (x + y for x, y in zip(sums[False], sums[True], strict=True))

    def misfit(kernel: Tensor, of: list[Tensor]) -> float:
        k = kernel.flatten()
        return float(k @ of[0] @ k - 2 * k @ of[1] + of[2])

    gaussians = {sigma: gaussian_psf(sigma, geometry) for sigma in _WIDTHS}
    sigma = min(gaussians, key=lambda s: misfit(gaussians[s], [normal, right, square]))
    gaussian, found = gaussians[sigma], start(geometry, response, sigma)
    if max(found.ratio) > _FULL_UP_TO:
        return found
    eye = torch.eye(side, dtype=torch.float64)
    steps = torch.diff(eye, dim=0)
    slope = torch.kron(steps.T @ steps, eye) + torch.kron(eye, steps.T @ steps)

    def free(A: Tensor, b: Tensor, penalty: float) -> Tensor:
        weight = penalty * A.diagonal().mean()
        change = torch.linalg.solve(
            A + weight * (slope + 0.01 * torch.eye(len(A), dtype=A.dtype)), b - A @ gaussian.flatten()
        )
        kernel = (gaussian.flatten() + change).clamp_min(0)
        return (kernel / kernel.sum()).view(side, side)

    def left_out(penalty: float) -> float:
        halves = (sums[False], sums[True])
        return sum(misfit(free(a[0], a[1], penalty), b) for a, b in (halves, halves[::-1]))

    scores = {penalty: left_out(penalty) for penalty in _PENALTIES}
    best = min(scores, key=scores.__getitem__)
    if scores[best] < misfit(gaussian, [normal, right, square]):
        found = replace(found, psf=free(normal, right, best))
    return found
