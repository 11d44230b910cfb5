"""Reduced-resolution protocol (Wald): all indices against a reference, in one call. Legend: B images, C bands, H W."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from lemamba.metrics.index import chosen
from lemamba.metrics.inputs import BLOCK, check_sides, cut_border, prepared
from lemamba.metrics.parallel import run_all
from lemamba.utils.errors import UserError


def reduced_resolution(
    sr: Tensor,
    gt: Tensor,
    *,
    ratio: float,
    const: float,
    published: bool = False,
    mask: Tensor | None = None,
    extra: str | Sequence[str] = (),
    cut: int = 0,
    block: int = BLOCK,
) -> dict[str, Tensor]:
    """All indices with reference.

    Args:
        sr: (B, C, H, W), sides of at least 32 (`block`), values in [0, const].
        gt: the same shape.
        ratio: resolution ratio r (enters ERGAS).
        const: peak value: 2047, 1023, 255, or 1 for data in [0, 1].
        published: reproduce the published scripts where this package corrects a defect (qn of data in [0, 1]).
        mask: (B, 1, H, W), True where valid, for nodata.
        extra: names of further indices (`metrics.EXTRA`) or "all".
        cut: border that is cut off first, see `cut_border`; 0 for none, as published. Papers use 21 and 30.
        block: side of the blocks of Q2n and of the box of Q.

    Returns:
        {name: (B,) float64} for the names in `metrics.REDUCED_NAMES` and the extra ones; units are in
        `metrics.INDICES` and `metrics.EXTRA`.

    Raises:
        UserError: shapes differ, NaN, a side under 32.
    """
    if not const > 0 or not ratio > 0:
        raise UserError(f"expected positive const and ratio, given {const} and {ratio}; const is the peak, e.g. 2047")
    indices = chosen("reduced", extra)
    sr, gt, mask = prepared(sr, gt, mask)
    sr, gt = (cut_border(image, cut) for image in (sr, gt))
    mask = None if mask is None else cut_border(mask, cut)
    check_sides(sr, "reduced resolution", block)
    tasks = []
    for i in range(len(sr)):  # image by image: every index then works in the cache
        images = {"sr": sr[i : i + 1], "gt": gt[i : i + 1], "mask": None if mask is None else mask[i : i + 1]}
        known = images | {"ratio": ratio, "const": const, "published": published, "block": block}
        tasks += [partial(index.measure, known) for index in indices.values()]
    values = run_all(tasks, sr, gt)
    columns = torch.cat(values).view(len(sr), -1).T if values else sr.new_zeros(len(indices), 0, dtype=torch.float64)
    return dict(zip(indices, columns, strict=True))
