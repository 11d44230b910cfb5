"""D_s, the spatial distortion of QNR and HQNR (Alparone et al., 2008; Aiazzi et al., 2014), at full resolution.

mean over bands of | Q(sr_b, pan) - Q(lms_b, pan_lp) |, Q on distinct 32x32 blocks and averaged over them first;
pan_lp = pan after a bicubic antialiased resize by 1/ratio, interpolated to its size again (the 23-tap interpolator for
ratios that are powers of two). No unit, range [0, 2], 0 is best.
Legend: B images, C bands, H W size.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor

from lemamba.metrics.block_q import band_quality
from lemamba.metrics.full_inputs import check_full, check_geometry, check_pan, check_units, published_geometry
from lemamba.metrics.index import register_index
from lemamba.metrics.inputs import BLOCK
from lemamba.metrics.large import LargeImage
from lemamba.operators import imresize, interpolate, resample
from lemamba.operators.resample import MARGIN, mirrored
from lemamba.utils.geometry import Geometry

_REACH = MARGIN + 4  # MS pixels that reducing and enlarging look around
_CELLS = 256  # MS pixels of a part's side


def low_pass_pan(pan: Tensor, ratio: int, geometry: Geometry | None = None) -> Tensor:
    """Reduce the pan image to the resolution of the ms and enlarge it again, (B, 1, H, W) -> (B, 1, H, W) float64.

    Args:
        pan: sides multiples of the ratio.
        ratio: a whole number.
        geometry: where MS pixels lie. None = the toolboxes' convention: the reduced pixels, whose centres are those of
            cells of PAN, are enlarged as if they lay at r//2, for even r half a PAN pixel further (published so).
    """
    if isinstance(pan, LargeImage):
        return cast(Tensor, _low_pass_large(pan, ratio, geometry))
    H, W = pan.shape[-2:]
    return interpolate(_reduced(pan.double(), ratio, geometry), geometry or published_geometry(ratio), (H, W))


def _reduced(pan: Tensor, ratio: int, geometry: Geometry | None) -> Tensor:
    """Reduce pan to the size of the ms."""
    if geometry is None:
        return imresize(pan, 1 / ratio, "bicubic")
    # The centre of cell (0, 0) is brought under that of MS pixel (0, 0).
    sizes = zip(geometry.offset, pan.shape[-2:], strict=True)
    rows, columns = ((offset - (ratio - 1) / 2, 1.0, n) for offset, n in sizes)
    return imresize(resample(pan, rows, columns), 1 / ratio, "bicubic")


def _low_pass_large(pan: LargeImage, ratio: int, geometry: Geometry | None) -> LargeImage:
    """Do the same for an image in a file: the reduced one is held, the enlarged one is made part by part."""
    H, W = pan.shape[-2:]
    h, w = H // ratio, W // ratio
    placed = geometry or published_geometry(ratio)
    reach = _REACH + math.ceil(max(abs(o) for o in placed.offset) / ratio)
    small = torch.empty(1, 1, h, w, dtype=torch.float64)
    for top in range(0, h, _CELLS):
        for left in range(0, w, _CELLS):
            (a, b), (c, d) = ((max(0, at - reach), min(n, at + _CELLS + reach)) for at, n in ((top, h), (left, w)))
            around = pan[..., a * ratio : b * ratio, c * ratio : d * ratio].tensor().double()
            bottom, right = min(h, top + _CELLS), min(w, left + _CELLS)
            found = _reduced(around, ratio, geometry)[..., top - a : bottom - a, left - c : right - c]
            small[..., top:bottom, left:right] = found
    # `interpolate` wraps around where it is the published one, else it mirrors
    wraps = placed.doubles and all(int(o) == ratio // 2 for o in placed.offset)

    def part(rows: slice, columns: slice) -> Tensor:
        around, cuts, size = small, [], []
        for dim, span, n in ((-2, rows, h), (-1, columns, w)):
            low, high = span.start // ratio - reach, -(-span.stop // ratio) + reach
            index = torch.arange(low, high)
            around = around.index_select(dim, index % n if wraps else mirrored(index, n))
            cuts.append(slice(span.start - low * ratio, span.stop - low * ratio))
            size.append((high - low) * ratio)
        return interpolate(around, placed, size)[0][:, cuts[0], cuts[1]]

    return pan.made(part, (H, W), torch.float64)


@register_index("d_s", heading="D_s", direction=-1, protocol="full", column=2)
def d_s_from(q_sr: Tensor, q_lms: Tensor) -> Tensor:
    """D_s from `band_quality` of (sr, pan) and of (lms, pan_lp), both (B, C+1, C+1) with the pan last."""
    return (q_sr[:, :-1, -1] - q_lms[:, :-1, -1]).abs().mean(dim=1)


def d_s(
    sr: Tensor,
    lms: Tensor,
    pan: Tensor,
    *,
    ratio: int,
    published: bool = False,
    mask: Tensor | None = None,
    geometry: Geometry | None = None,
    block: int = BLOCK,
) -> Tensor:
    """Spatial distortion.

    Args:
        sr: (B, C, H, W), sides multiples of `block` and of the ratio.
        lms: the same shape.
        pan: (B, 1, H, W).
        ratio: resolution ratio, a whole number.
        published: NaN where a block is flat in both images (here: Q = 1).
        mask: (B, 1, H, W), True where valid; only blocks without nodata count.
        geometry: where MS pixels lie under PAN pixels; None = the toolboxes' convention, see `low_pass_pan`.
        block: side of a block.

    Returns:
        (B,) float64. Differentiable.
    """
    sr, lms, mask = check_full(sr, lms, ratio=ratio, published=published, mask=mask, block=block)
    pan = check_pan(pan, sr, mask)
    check_units(lms, pan)
    check_geometry(geometry, ratio)
    q_sr = band_quality(sr, pan, published=published, mask=mask, block=block)
    q_lms = band_quality(lms, low_pass_pan(pan, ratio, geometry), published=published, mask=mask, block=block)
    return d_s_from(q_sr, q_lms)
