"""Q2n, the quality index of 2^n-band images (Garzelli, Nencini, GRSL 2009), as the pansharpening toolbox computes it.

Both images are rounded to uint16 (half away from zero, clipped), bands are filled with zeros up to a power of two, and
each 32x32 block is a set of hypercomplex numbers, one component per band. Per block and band both images are
normalised with the gt's mean and deviation, x = (x - a)/s + 1; the fused one is conjugated; the index is the modulus of
the hypercomplex correlation times the usual mean and contrast terms.

Speed: the product is bilinear, so the mean product needs only the covariances between the bands of the two images and
one table of signs. As the samples are integers below 2^16, these covariances are *exact* in float64 without centring.
Cost grows with the square of the bands: every band of one image meets every band of the other, once; the signs rule out
the Walsh-Hadamard transform, which would make such a product C log C.

Defect of the published index: data in [0, 1] become a 0/1 image by the rounding. Here such data (const <= 1.5, as some
reflectances are above 1) are brought to 16 bits first; `published=True` gives the published number.
No unit, range [0, 1], 1 is best. Legend: B images, C bands, K = 2^n components, N blocks, M pixels of a block (1024).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from lemamba.metrics.index import register_index
from lemamba.metrics.inputs import BLOCK, PEAK_MARGIN, check_sides, cut_blocks, on_pairs
from lemamba.metrics.moments import dot
from lemamba.metrics.tiles import add_valid, block_tiles
from lemamba.operators.hypercomplex import conjugate_table

_UINT16 = 65535
_BELOW_HALF = 0.49999999999999994  # the double before 0.5: floor(x + this) rounds half up, 0.4999… down
_FLAT_DEVIATION = 2.2e-16
_GROUP = 2**17  # samples of the blocks that are multiplied at once
Moments = tuple[Tensor, Tensor]


def mirrored_tile(x: Tensor, rows: slice, columns: slice) -> Tensor:
    """Cut a tile out of (..., H, W), mirrored beyond the right and the bottom with the edge sample repeated."""
    indices = []
    for dim, part in ((-2, rows), (-1, columns)):
        n = x.shape[dim]
        index = torch.arange(part.start, part.stop, device=x.device)
        first = min(part.start, 2 * n - part.stop)
        indices.append(torch.where(index < n, index, 2 * n - 1 - index) - first if part.stop > n else None)
        x = x.narrow(dim, first, min(part.stop, n) - first)
    for dim, taken in zip((-2, -1), indices, strict=True):
        x = x if taken is None else x.index_select(dim, taken)
    return x


def round_to_uint16_(x: Tensor) -> Tensor:
    """Round in place, half away from zero, and clip to 0 … 65535; stays float64."""
    return x.clamp_(0, _UINT16).add_(_BELOW_HALF).floor_()


def _rounded_blocks(gt: Tensor, sr: Tensor, factor: float, block: int) -> Tensor:
    """Rounded blocks (N, 2C + 1, M) of two tiles (C, h, w): the bands of gt, ones, the bands of sr."""
    C = len(gt)
    tiles = [cut_blocks(image, block) for image in (gt, sr)]
    rows, columns = tiles[0].shape[:2]
    z = gt.new_empty(rows, columns, 2 * C + 1, block, block, dtype=torch.float64)
    z[:, :, :C], z[:, :, C + 1 :] = tiles
    z[:, :, C] = 1
    if factor != 1:
        z *= factor
    round_to_uint16_(z)
    if factor != 1:
        z[:, :, C] = 1
    return z.flatten(-2).flatten(0, 1)


def block_moments(gt: Tensor, sr: Tensor, factor: float, block: int) -> Iterator[Moments]:
    """Exact second moments of the rounded blocks of two tiles (C, h, w), a few blocks at a time.

    Yields:
        Products of (gt, 1) with (1, sr), (N, C + 1, C + 1), and sums of squares of gt, 1 and sr, (N, 2C + 1).
    """
    C, h, w = gt.shape
    across = max(1, _GROUP // ((2 * C + 1) * block * block)) * block if gt.device.type == "cpu" else w
    down = block if gt.device.type == "cpu" else h
    for top in range(0, h, down):
        for left in range(0, w, across):
            part = (slice(None), slice(top, top + down), slice(left, left + across))
            z = _rounded_blocks(gt[part], sr[part], factor, block)
            squares = dot(z.flatten(0, 1), z.flatten(0, 1)).view(len(z), -1)
            yield z[:, : C + 1] @ z[:, C:].transpose(-1, -2), squares


def block_scores(products: Tensor, squares: Tensor, block: int) -> Tensor:
    """Modulus of Q2n per block, from `block_moments` -> (N,)."""
    C = products.shape[-1] - 1
    K = 1 << (C - 1).bit_length()
    M = block * block
    sum_x, sum_y = products[:, :C, 0], products[:, C, 1:]
    cross = M * products[:, :C, 1:] - sum_x[:, :, None] * sum_y[:, None, :]  # times M^2, exact
    power_x = M * squares[:, :C] - sum_x.square()
    power_y = M * squares[:, C + 1 :] - sum_y.square()
    mean = sum_x / M
    deviation = (power_x / (M * (M - 1))).sqrt()
    deviation = torch.where(deviation == 0, _FLAT_DEVIATION, deviation)
    deviation = torch.where(mean == 0, 1.0, deviation)  # a black band is shifted only
    # Means of the normalised images: 1 for gt, (mean_y - a)/s + 1 for the fused one; 1 for bands filled up to K.
    norm_x = float(K)
    norm_y = (((sum_y - sum_x) / M / deviation + 1) ** 2).sum(dim=-1) + (K - C)
    luminance = 2 * (norm_x * norm_y).sqrt() / (norm_x + norm_y)
    unit = M * (M - 1)
    contrast = ((power_x + power_y) / deviation**2).sum(dim=-1) / unit
    signs, partner = conjugate_table(K, products.device)
    scaled = F.pad(cross / (deviation[..., :, None] * deviation[..., None, :]), (0, K - C, 0, K - C)) * signs
    components = scaled.gather(-1, partner.expand_as(scaled)).sum(dim=-2) / unit
    modulus = components.square().sum(dim=-1).sqrt()
    textured = contrast != 0
    return torch.where(textured, modulus * luminance * 2 / torch.where(textured, contrast, 1.0), luminance)


def mean_score(tiles: Iterable[tuple[Tensor, Tensor, Tensor | None]], factor: float, block: int) -> Tensor:
    """Mean modulus over the valid blocks of all tiles.

    Args:
        tiles: gt and fused image, (C, h, w) with sides that are multiples of `block`, and the mask, (h, w) or None.
        factor: see `scale_of`.
        block: side of a block.

    Returns:
        () float64; NaN where no block is valid.
    """
    sums, counts = [], []
    for gt, sr, mask in tiles:
        products, squares = zip(*block_moments(gt, sr, factor, block), strict=True)
        scores = block_scores(torch.cat(products), torch.cat(squares), block)
        valid = None if mask is None else cut_blocks(mask[None], block).flatten(2).all(dim=-1).view(1, -1)
        total, number = add_valid(scores[None], valid)
        sums.append(total)
        counts.append(number)
    return torch.stack(sums).sum() / torch.stack(counts).sum()


def scale_of(const: float | Tensor, published: bool) -> float | Tensor:
    """Return the factor before rounding: 65535 for const <= 1, 65535 / 1.5 up to 1.5, else 1; always 1 as published."""
    if published:
        return 1.0
    if isinstance(const, Tensor):
        above = torch.where(const <= PEAK_MARGIN, _UINT16 / PEAK_MARGIN, 1.0)
        return torch.where(const <= 1, float(_UINT16), above)
    return float(_UINT16) if const <= 1 else _UINT16 / PEAK_MARGIN if const <= PEAK_MARGIN else 1.0


@on_pairs
@register_index("qn", heading="Q2n", direction=+1, column=4)
def q2n(
    sr: Tensor,
    gt: Tensor,
    *,
    const: float | Tensor,
    published: bool = False,
    mask: Tensor | None = None,
    block: int = BLOCK,
) -> Tensor:
    """Mean modulus of Q2n over 32x32 blocks.

    Args:
        sr: (B, C, H, W), sides of at least `block`, values in [0, const]; negative ones count 0.
        gt: the same shape; its mean and deviation normalise.
        const: peak value, a number or (B,); see the defect above.
        published: keep the defect.
        mask: (B, 1, H, W), True where valid; only blocks without nodata count.
        block: side of a block.

    Returns:
        (B,) float64. The rounding makes its gradient zero.
    """
    check_sides(sr, "qn", block)
    factors = torch.as_tensor(scale_of(const, published)).expand(len(sr)).tolist()
    scores = []
    for i, factor in enumerate(factors):
        pair = _tiles(gt[i].detach(), sr[i].detach(), None if mask is None else mask[i, 0], block)
        scores.append(mean_score(pair, factor, block))
    return torch.stack(scores) if scores else sr.new_zeros(0, dtype=torch.float64)


def _tiles(gt: Tensor, sr: Tensor, mask: Tensor | None, block: int) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
    for tile in block_tiles(gt, block):
        yield mirrored_tile(gt, *tile), mirrored_tile(sr, *tile), None if mask is None else mirrored_tile(mask, *tile)
