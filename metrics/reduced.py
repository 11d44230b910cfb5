"""Reduced-resolution protocol (Wald): all indices against a reference, in one call. Legend: B images, C bands, H W."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from lemamba.metrics.ergas import ergas_of
from lemamba.metrics.inputs import check_sides, prepared
from lemamba.metrics.parallel import run_all
from lemamba.metrics.psnr import psnr_of
from lemamba.metrics.q2n import q2n_of
from lemamba.metrics.qave import qave_of
from lemamba.metrics.sam import sam_of
from lemamba.metrics.scc import scc_of
from lemamba.metrics.ssim import ssim_of
from lemamba.utils.errors import UserError

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
        raise UserError(f"expected positive const and ratio, given {const} and {ratio}; const is the peak, e.g. 2047")
    sr, gt, mask = prepared(sr, gt, mask)
    check_sides(sr, "reduced resolution")
    tasks = []
    for i in range(len(sr)):  # image by image: every index then works in the cache
        x, y, m = sr[i : i + 1], gt[i : i + 1], None if mask is None else mask[i : i + 1]
        tasks += [
            partial(sam_of, x, y, m),
            partial(ergas_of, x, y, m, ratio=ratio),
            partial(scc_of, x, y, m),
            partial(q2n_of, x, y, m, const=const, published=published),
            partial(qave_of, x, y, m),
            partial(psnr_of, x, y, m, const=const),
            partial(ssim_of, x, y, m, const=const),
        ]
    values = run_all(tasks, sr, gt)
    columns = torch.cat(values).view(len(sr), -1).T if values else sr.new_zeros(len(REDUCED_NAMES), 0)
    return dict(zip(REDUCED_NAMES, columns, strict=True))
