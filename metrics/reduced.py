"""Reduced-resolution protocol (Wald): all indices against a reference, in one call. Legend: B images, C bands, H W."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from lemamba.metrics.index import registered
from lemamba.metrics.inputs import check_sides, prepared
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
) -> dict[str, Tensor]:
    """All indices with reference; no border is cut.

    Args:
        sr: (B, C, H, W), sides of at least 32, values in [0, const].
        gt: the same shape.
        ratio: resolution ratio r (enters ERGAS).
        const: peak value: 2047, 1023, 255, or 1 for data in [0, 1].
        published: reproduce the published scripts where ours corrects a defect (qn of data in [0, 1]).
        mask: (B, 1, H, W), True where valid, for nodata.

    Returns:
        {name: (B,) float64} for the names in `metrics.REDUCED_NAMES`; units are in `metrics.INDICES`.

    Raises:
        UserError: shapes differ, NaN, a side under 32.
    """
    if not const > 0 or not ratio > 0:
        raise UserError(f"expected positive const and ratio, given {const} and {ratio}; const is the peak, e.g. 2047")
    sr, gt, mask = prepared(sr, gt, mask)
    check_sides(sr, "reduced resolution")
    indices = registered("reduced")
    tasks = []
    for i in range(len(sr)):  # image by image: every index then works in the cache
        images = {"sr": sr[i : i + 1], "gt": gt[i : i + 1], "mask": None if mask is None else mask[i : i + 1]}
        known = images | {"ratio": ratio, "const": const, "published": published}
        tasks += [partial(index.measure, known) for index in indices.values()]
    values = run_all(tasks, sr, gt)
    columns = torch.cat(values).view(len(sr), -1).T if values else sr.new_zeros(len(indices), 0)
    return dict(zip(indices, columns, strict=True))
