"""Q2n, the quality index of 2^n-band images (Garzelli, Nencini, GRSL 2009), as the pansharpening toolbox computes it.

Both images are rounded to uint16 (half away from zero, clipped), bands are filled with zeros up to a power of two, and
each 32x32 block is a set of hypercomplex numbers, one component per band. Per block and band both images are
normalised with the gt's mean and deviation, x = (x - a)/s + 1; the fused one is conjugated; the index is the modulus of
the hypercomplex correlation times the usual mean and contrast terms.

Speed: the product is bilinear, so the mean product needs only the covariances between the bands of the two images and
one table of signs. As the samples are integers below 2^16, these covariances are *exact* in float64 without centring.

Defect of the published index: data in [0, 1] become a 0/1 image by the rounding. Here such data (const <= 1) are
multiplied by 65535 first; `published=True` gives the published number.
No unit, range [0, 1], 1 is best. Legend: B images, C bands, K = 2^n components, N blocks, M = 1024 pixels of a block.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from lemamba.metrics.index import register_index
from lemamba.metrics.inputs import BLOCK, check_sides, cut_blocks, mean_valid, on_pairs, strips

_M = BLOCK * BLOCK
_UINT16 = 65535
_BELOW_HALF = 0.49999999999999994  # the double before 0.5: floor(x + this) rounds half up, 0.4999… down
_FLAT_DEVIATION = 2.2e-16


def product_signs(components: int) -> Tensor:
    """Signs S of the hypercomplex product: e_i * e_j = S[i, j] e_(i xor j), (K, K) int64.

    From (a, b)(c, d) = (a c - conj(d) b, d a + b conj(c)), halves split recursively, e_0 = 1.
    """
    signs = torch.ones(1, 1, dtype=torch.int64)
    while len(signs) < components:
        conjugate = torch.full((len(signs),), -1)
        conjugate[0] = 1
        upper = torch.cat([signs, signs.T], dim=1)  # a c | d a
        lower = torch.cat([signs * conjugate, -signs.T * conjugate], dim=1)  # b conj(c) | -conj(d) b
        signs = torch.cat([upper, lower])
    return signs


@lru_cache(maxsize=32)
@torch.inference_mode(False)
def _table(components: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Signs (K, K) of x_i * conj(y)_j and the index i xor k that makes component k from row i."""
    conjugate = torch.full((components,), -1)
    conjugate[0] = 1
    signs = product_signs(components) * conjugate
    i = torch.arange(components)
    return signs.double().to(device), (i[:, None] ^ i[None, :]).to(device)


def mirrored(x: Tensor) -> Tensor:
    """Extend (..., H, W) at the right, then the bottom, to multiples of 32, the edge sample repeated."""
    right, bottom = -x.shape[-1] % BLOCK, -x.shape[-2] % BLOCK
    if right:
        x = torch.cat([x, x[..., -right:].flip(-1)], dim=-1)
    if bottom:
        x = torch.cat([x, x[..., -bottom:, :].flip(-2)], dim=-2)
    return x


def round_to_uint16_(x: Tensor) -> Tensor:
    """Round in place, half away from zero, and clip to 0 … 65535; stays float64."""
    return x.clamp_(0, _UINT16).add_(_BELOW_HALF).floor_()


def _rounded_blocks(gt: Tensor, sr: Tensor, factor: float | Tensor) -> Tensor:
    """Rounded blocks (N, 2K + 1, M) of gt and sr, both (C, h, W): K components each (missing bands 0), and ones."""
    C = len(gt)
    K = 1 << (C - 1).bit_length()
    tiles = [cut_blocks(image) for image in (gt, sr)]
    rows, columns = tiles[0].shape[:2]
    z = gt.new_zeros(rows, columns, 2 * K + 1, BLOCK, BLOCK)
    z[:, :, :C], z[:, :, K : K + C] = tiles
    if not (isinstance(factor, float) and factor == 1):
        z *= factor
    round_to_uint16_(z)
    z[:, :, -1] = 1
    return z.flatten(-2).flatten(0, 1)


def gram_matrices(gt: Tensor, sr: Tensor, factor: float | Tensor = 1.0) -> Tensor:
    """Exact second moments of the rounded blocks of one image pair (C, H, W): (N, 2K + 1, 2K + 1)."""
    grams = []
    for rows in strips(gt.shape[-2], gt.device):
        z = _rounded_blocks(gt[:, rows], sr[:, rows], factor)
        grams.append(z @ z.transpose(-1, -2))
    return torch.cat(grams)


def block_scores(gram: Tensor) -> Tensor:
    """Modulus of Q2n per block, from `gram_matrices`: (N, 2K + 1, 2K + 1) -> (N,)."""
    K = gram.shape[-1] // 2
    sums = gram[:, -1, :-1]
    covariance = _M * gram[:, :-1, :-1] - sums[:, :, None] * sums[:, None, :]  # times M^2, exact
    powers = covariance.diagonal(dim1=-2, dim2=-1)
    sum_x, sum_y, power_x, power_y = sums[:, :K], sums[:, K:], powers[:, :K], powers[:, K:]
    cross = covariance[:, :K, K:]
    mean = sum_x / _M
    deviation = (power_x / (_M * (_M - 1))).sqrt()
    deviation = torch.where(deviation == 0, _FLAT_DEVIATION, deviation)
    deviation = torch.where(mean == 0, 1.0, deviation)  # a black band is shifted only
    # Means of the normalised images: 1 for gt, (mean_y - a)/s + 1 for the fused one.
    norm_x = float(K)
    norm_y = (((sum_y - sum_x) / _M / deviation + 1) ** 2).sum(dim=-1)
    luminance = 2 * (norm_x * norm_y).sqrt() / (norm_x + norm_y)
    unit = _M * (_M - 1)
    contrast = ((power_x + power_y) / deviation**2).sum(dim=-1) / unit
    signs, partner = _table(K, gram.device)
    scaled = cross / (deviation[..., :, None] * deviation[..., None, :]) * signs
    components = scaled.gather(-1, partner.expand_as(scaled)).sum(dim=-2) / unit
    modulus = components.square().sum(dim=-1).sqrt()
    textured = contrast != 0
    return torch.where(textured, modulus * luminance * 2 / torch.where(textured, contrast, 1.0), luminance)


def scale_of(const: float | Tensor, published: bool) -> float | Tensor:
    """Return the factor before rounding: 65535 for data in [0, 1] (const <= 1), else 1; always 1 as published."""
    if published:
        return 1.0
    if isinstance(const, Tensor):
        return torch.where(const <= 1, float(_UINT16), 1.0)
    return float(_UINT16) if const <= 1 else 1.0


@on_pairs
@register_index("qn", heading="Q2n", direction=+1, column=4)
def q2n(
    sr: Tensor, gt: Tensor, *, const: float | Tensor, published: bool = False, mask: Tensor | None = None
) -> Tensor:
    """Mean modulus of Q2n over 32x32 blocks.

    Args:
        sr: (B, C, H, W), sides of at least 32, values in [0, const]; negative ones count 0.
        gt: the same shape; its mean and deviation normalise.
        const: peak value, a number or (B,); see the defect above.
        published: keep the defect.
        mask: (B, 1, H, W), True where valid; only blocks without nodata count.

    Returns:
        (B,) float64. The rounding makes its gradient zero.
    """
    check_sides(sr, "qn")
    factor = scale_of(const, published)
    if isinstance(factor, Tensor):
        factor = factor.to(sr.device)[:, None, None, None]
    scores = []
    for i in range(len(sr)):
        f = factor[i] if isinstance(factor, Tensor) else factor
        scores.append(block_scores(gram_matrices(mirrored(gt[i].detach()), mirrored(sr[i].detach()), f)))
    valid = None
    if mask is not None:
        valid = torch.stack([cut_blocks(mirrored(m)).flatten(2).all(dim=-1).flatten() for m in mask])
    return mean_valid(torch.stack(scores), valid, 1)
