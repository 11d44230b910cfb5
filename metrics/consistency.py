"""Consistency of a hyperspectral and multispectral fusion that has no ground truth: does it explain what was observed?

The fused image, blurred and decimated, is compared with the hyperspectral image, and, weighted by the spectral
response, with the guide. Small errors are necessary, not sufficient: two different images can both agree with all that
was observed. In the tradition of Wald's first property and of the data terms of HySure (Simoes et al., TGRS 2015).
Legend: B images, C bands, h w size of ms, H W size of the guide, P bands of the guide, r ratio.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from lemamba.metrics.full_inputs import check_geometry, check_ratio, published_geometry
from lemamba.metrics.inputs import check_images, each_pair
from lemamba.metrics.reprojection import reproject
from lemamba.metrics.rmse import rmse
from lemamba.metrics.tiles import row_tiles
from lemamba.operators import sample
from lemamba.utils.errors import UserError
from lemamba.utils.geometry import Geometry


def consistency(
    sr: Tensor,
    ms: Tensor,
    guide: Tensor,
    *,
    ratio: int,
    response: Tensor,
    psf: Tensor | None = None,
    gains: float | Sequence[float] | None = None,
    geometry: Geometry | None = None,
) -> dict[str, Tensor]:
    """Errors of the two observations that a fused image implies.

    Args:
        sr: (B, C, H, W).
        ms: (B, C, h, w), h = H/r, the image of many bands, in the unit of sr.
        guide: (B, P, H, W), in the unit of sr.
        ratio: r, a whole number.
        response: (P, C), what each band contributes to each guide band; as used in the observation, usually rows of
            sum 1.
        psf: (k, l) blur of the camera, correlated as it is, its centre at [k // 2, l // 2]; edge pixels are repeated.
        gains: instead of psf: MTF gain at the Nyquist frequency of ms, one or one per band; filter of sum 1.
        geometry: where pixels of ms lie under those of sr; None = pixel r//2 of each cell.

    Returns:
        {"ms_rmse": (B,), "guide_rmse": (B,)} float64, in the unit of sr; 0 is best.

    Raises:
        UserError: shapes that do not match, NaN, neither or both of psf and gains.
    """
    ratio = check_ratio(ratio, published=False)
    check_geometry(geometry, ratio)
    images = check_images(sr=sr, ms=ms, guide=guide)
    sr, ms, guide = images["sr"], images["ms"], images["guide"]
    _check_sizes(sr, ms, guide, ratio, response)
    if (psf is None) == (gains is None):
        raise UserError("expected the blur as either psf or gains, given both or neither; name one")
    size = (ms.shape[-2], ms.shape[-1])
    if psf is None:
        per_band = [float(g) for g in torch.as_tensor(gains).expand(sr.shape[1])]
        low = reproject(sr, tuple(per_band), ratio, size, geometry)
    else:
        low = _blurred(sr, psf, size, geometry or published_geometry(ratio))
    weights = response.to(device=sr.device, dtype=torch.float64)
    return {
        "ms_rmse": rmse(low, ms),
        "guide_rmse": each_pair(lambda x, y, _: _guide_error(x, y, weights), sr, guide, None),
    }


def _check_sizes(sr: Tensor, ms: Tensor, guide: Tensor, ratio: int, response: Tensor) -> None:
    B, C, H, W = sr.shape
    P = guide.shape[1]
    for name, image, expected in (
        ("ms", ms, (B, C, H // ratio, W // ratio)),
        ("guide", guide, (B, P, H, W)),
        ("response", response, (P, C)),
    ):
        if tuple(image.shape) != expected:
            raise UserError(f"expected {name} {expected} for sr {(B, C, H, W)}, given {tuple(image.shape)}")
    if H % ratio or W % ratio:
        raise UserError(f"expected sides that are multiples of the ratio {ratio}, given {H} x {W}; crop the images")


def _blurred(sr: Tensor, psf: Tensor, size: tuple[int, int], geometry: Geometry) -> Tensor:
    """Blur by correlation and sample, band by band, (B, C, h, w) float64."""
    if psf.dim() != 2 or not bool(torch.isfinite(psf).all()):
        raise UserError(f"expected psf (k, l) with finite values, given shape {tuple(psf.shape)}")
    rows, columns = psf.shape
    around = (columns // 2, columns - 1 - columns // 2, rows // 2, rows - 1 - rows // 2)
    kernel = psf.to(device=sr.device, dtype=torch.float64)[None, None]
    bands = []
    for band in sr.split(1, dim=1):
        padded = F.pad(band.double(), around, mode="replicate")
        bands.append(sample(F.conv2d(padded, kernel), geometry, size).clone())
    return torch.cat(bands, dim=1)


def _guide_error(sr: Tensor, guide: Tensor, response: Tensor) -> Tensor:
    """RMSE of response * sr against the guide, (C, H, W) and (P, H, W)."""
    total = sr.new_zeros((), dtype=torch.float64)
    for rows in row_tiles(sr):
        error = response @ sr[:, rows].double().flatten(1) - guide[:, rows].double().flatten(1)
        total = total + error.square().sum()
    return (total / guide.numel()).sqrt()
