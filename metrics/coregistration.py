"""Where each band of MS lies under PAN, to a PAN pixel: the co-registration of Scarpa, Ciotola, Remote Sensing 2022.

PAN is low-passed by the MTF filter of the first band and sampled at each of the r x r places of a cell; a band lies
where its local correlation with these samples is largest on average. The correlation is that of the authors' tool
(fr-pansh-eval-tool, MATLAB): with sums over windows of 2w x 2w pixels of MS, w = r // 2, zeros outside the image, it is
S(x'y') / sqrt(S(x'x') S(y'y')), where x' = x - S(x) / 4w^2 is the deviation from the running mean.
Legend: B images, C bands, h w size of MS, H W size of PAN, r ratio.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from lemamba.metrics.full_inputs import check_pan, check_ratio
from lemamba.metrics.inputs import Image, as_image, as_mask, blank, check_images, mean_valid, windows_valid
from lemamba.metrics.qave import slide
from lemamba.operators import mtf_filter
from lemamba.utils.errors import UserError

_SMALLEST = 1e-20  # of a sum of squares, as in the tool
_EQUAL = 1e-12  # correlations that differ by less fit equally well


def coregistration(ms: Image, pan: Image, *, gain: float, ratio: int, mask: Image | None = None) -> Tensor:
    """Estimate the place of each band in the cells of PAN pixels.

    Args:
        ms: (B, C, h, w).
        pan: (B, 1, H, W), H = r h.
        gain: MTF gain of the first band at MS's Nyquist frequency.
        ratio: r, a whole number.
        mask: (B, 1, h, w), True where ms is valid; only positions that depend on no
            other pixel count.

    Returns:
        (B, C, 2) int64: row and column, 0 … r - 1, of the PAN pixel in its cell. r // 2, the toolboxes' convention,
        where no place fits better, and for a constant band or pan.
    """
    ratio = check_ratio(ratio, published=False)
    ms = as_image("ms", ms)
    mask = as_mask(mask, ms)
    ms = check_images(ms=blank(ms, mask))["ms"]
    B, _, h, w = ms.shape
    pan = check_pan(pan, ms.new_empty(B, 1, ratio * h, ratio * w), None)
    return places(ms, pan, gain, ratio, mask)


def places(ms: Tensor, pan: Tensor, gain: float, ratio: int, mask: Tensor | None) -> Tensor:
    """`coregistration` of checked images."""
    B, C = ms.shape[:2]
    if ratio == 1 or B == 0:
        return torch.zeros(B, C, 2, dtype=torch.int64)
    with torch.no_grad():
        low = [mtf_filter(one.double(), gain, ratio)[0, 0] for one in pan.split(1)]
        found = [
            _place(ms[i, c], low[i], ratio, None if mask is None else mask[i, 0]) if _varies(pan[i], None) else None
            for i in range(B)
            for c in range(C)
        ]
    usual = (ratio // 2, ratio // 2)
    return torch.tensor([place or usual for place in found]).view(B, C, 2)


def _varies(image: Tensor, mask: Tensor | None) -> bool:
    values = image if mask is None else image[mask]
    return values.numel() > 0 and bool(values.amin() < values.amax())


def _place(band: Tensor, low: Tensor, ratio: int, mask: Tensor | None) -> tuple[int, int] | None:
    """Place of one band (h, w) in the low-passed pan (H, W); None where none is better than the others."""
    if not _varies(band, mask):
        return None
    w = ratio // 2
    valid = None
    if mask is not None:  # what a position depends on; outside the image are zeros
        around = F.pad(mask[None, None].double(), (2 * w - 2, 2 * w, 2 * w - 2, 2 * w), value=1.0) == 1
        valid = windows_valid(around, 4 * w - 1)[0, 0]
    x, power_x = _deviations(band.double(), w)
    fit = []
    for i in range(ratio):
        for j in range(ratio):
            y, power_y = _deviations(low[i::ratio, j::ratio], w)
            correlation = _sums(x * y, w) / (power_x * power_y).sqrt()
            fit.append(float(mean_valid(correlation, valid, (0, 1))))
    best = max(range(len(fit)), key=fit.__getitem__)
    return divmod(best, ratio) if fit[best] > fit[w * (ratio + 1)] + _EQUAL else None


def _sums(x: Tensor, w: int) -> Tensor:
    """Sums over the windows from w - 1 pixels before to w after each pixel, zeros outside: (h, w) -> (h, w)."""
    return slide(F.pad(x, (w - 1, w, w - 1, w)), 2 * w)


def _deviations(x: Tensor, w: int) -> tuple[Tensor, Tensor]:
    """Deviations from the running mean, and the sums of their squares."""
    x = x - _sums(x, w) / (4 * w * w)
    return x, _sums(x * x, w).clamp_min(_SMALLEST)


def check_wanted(coregister: bool, measured: bool) -> None:
    """Raise a `UserError` where co-registration is asked for and no index uses it."""
    if coregister and not measured:
        raise UserError(
            "expected r_q2n, r_sam or r_ergas among the indices to co-register for, given none; name them with "
            "--indices (extra=), or leave --coregister out"
        )
