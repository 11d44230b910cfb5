"""Reduced-resolution protocol (Wald): all indices against a reference, in one call. Legend: B images, C bands, H W."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from metrics.ergas import ergas
from metrics.inputs import as_mask, blank, check_pair, check_sides
from metrics.parallel import run_all
from metrics.psnr import psnr
from metrics.q2n import q2n
from metrics.qave import qave
from metrics.sam import sam
from metrics.scc import scc
from metrics.ssim import ssim
from utils.errors import UserError

REDUCED_NAMES = ("sam", "ergas", "scc", "qn", "qave", "psnr", "ssim")


def reduced_resolution(
    sr: Tensor,
    gt: Tensor,
    *,
    ratio: float,
    const: float,
    published: bool = False,
    mask: Tensor | None = None,
) -> dict[str, Tensor]:
    """All indices with reference; no border is cut.

    Args:
        sr: (B, C, H, W), sides of at least 32, values in [0, const].
        gt: the same shape.
        ratio: resolution ratio r (enters ERGAS).
        const: peak value: 2047, 1023, 255, or 1 for data in [0, 1].
        published: reproduce the published scripts where ours mends a defect (qn of data in [0, 1]).
        mask: (B, 1, H, W), True where valid, for nodata.

    Returns:
        sam (degrees), ergas, scc, qn, qave, psnr (dB), ssim: each (B,) float64.

    Raises:
        UserError: shapes differ, NaN, a side under 32.
    """
    if not const > 0 or not ratio > 0:
        raise UserError(f"expected positive const and ratio, got {const} and {ratio}; const is the peak, e.g. 2047")
    mask = as_mask(mask, sr)
    sr, gt = check_pair(blank(sr, mask), blank(gt, mask))
    check_sides(sr, "reduced resolution")
    tasks = []
    for i in range(len(sr)):  # image by image: every index then works in the cache
        x, y, m = sr[i : i + 1], gt[i : i + 1], None if mask is None else mask[i : i + 1]
        tasks += [
            partial(sam, x, y, mask=m),
            partial(ergas, x, y, ratio=ratio, mask=m),
            partial(scc, x, y, mask=m),
            partial(q2n, x, y, const=const, published=published, mask=m),
            partial(qave, x, y, mask=m),
            partial(psnr, x, y, const=const, mask=m),
            partial(ssim, x, y, const=const, mask=m),
        ]
    values = run_all(tasks, sr, gt)
    columns = torch.cat(values).view(len(sr), -1).T if values else sr.new_zeros(len(REDUCED_NAMES), 0)
    return dict(zip(REDUCED_NAMES, columns, strict=True))
